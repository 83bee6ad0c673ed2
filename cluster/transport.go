package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// ackTransport notes, for every peer, the latest round of AppendEntries that it
// accepted, by when the call *began*.
//
// raft.VerifyLeader alone is too generous for a read index: it counts the answer
// of a heartbeat that was already under way when the verification began (think
// of a leader whose machine was paused meanwhile), and it counts non-voters. So
// a read index is good only once a majority of voters accepted a call that
// began after its own start.
type ackTransport struct {
	raft.Transport
	round atomic.Uint64

	mu    sync.Mutex
	acked map[raft.ServerID]ack
}

type ack struct {
	term, round uint64
	at          time.Time
}

func newAckTransport(t raft.Transport) *ackTransport {
	return &ackTransport{Transport: t, acked: make(map[raft.ServerID]ack)}
}

func (t *ackTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	a := ack{term: args.Term, round: t.round.Load()}
	if err := t.Transport.AppendEntries(id, target, args, resp); err != nil {
		return err //nolint:wrapcheck // Raft's own
	}
	if !resp.Success || resp.Term != args.Term {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.acked[id]; a.term < old.term || (a.term == old.term && a.round < old.round) {
		a = old // an answer that overtook: it still was one
	}
	a.at = time.Now()
	t.acked[id] = a
	return nil
}

// begin starts a round: what begins from now on counts for it.
func (t *ackTransport) begin() uint64 { return t.round.Add(1) }

// confirmed reports whether a majority of voters, self included, accepted the
// term's leader in a call that began at or after round.
func (t *ackTransport) confirmed(term, round uint64, self raft.ServerID, servers []raft.Server) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	voters, got := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if a := t.acked[s.ID]; s.ID == self || (a.term == term && a.round >= round) {
			got++
		}
	}
	return got > voters/2
}

// RequestPreVote keeps pre-vote on: an embedded interface would hide it.
func (t *ackTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	pv, ok := t.Transport.(raft.WithPreVote)
	if !ok {
		return fmt.Errorf("transport %T has no pre-vote", t.Transport)
	}
	return pv.RequestPreVote(id, target, args, resp) //nolint:wrapcheck // Raft's own
}

// Close is how raft.Shutdown closes a transport.
func (t *ackTransport) Close() error {
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close() //nolint:wrapcheck // Raft's own
	}
	return nil
}

// lastSeen is when a peer last accepted a call of ours, which is only while we lead.
func (t *ackTransport) lastSeen(id raft.ServerID) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, ok := t.acked[id]
	return a.at, ok
}
