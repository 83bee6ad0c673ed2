package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
)

// ackTransport notes, for every peer, the latest round of AppendEntries that it
// accepted, by when the call *began*.
//
// raft.VerifyLeader alone is too generous for a read index: it counts the answer
// of a heartbeat that was already under way when the verification began (think
// of a leader whose machine was paused meanwhile), and it counts non-voters. So
// a read index is good only once a majority of voters accepted a call that
// began after its own start.
//
// It also lets this server hand its own Raft a message of the leader's: see nudge.
type ackTransport struct {
	raft.Transport
	round  atomic.Uint64
	rpcs   chan raft.RPC // what Raft consumes
	nudges chan raft.RPC
	done   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup

	mu    sync.Mutex
	acked map[raft.ServerID]ack
	// source makes messages for push; nil until Raft runs.
	source   func(term, last uint64) (*raft.AppendEntriesRequest, bool)
	resumes  map[raft.ServerID]resume
	contacts map[raft.ServerID]contact
	// onContact is told when a server stops answering or answers again; nil until Raft runs.
	onContact func(id raft.ServerID, ok bool, after time.Duration)
}

type ack struct {
	term, round uint64
	at          time.Time
}

func newAckTransport(t raft.Transport) *ackTransport {
	a := &ackTransport{
		Transport: t, acked: make(map[raft.ServerID]ack), resumes: make(map[raft.ServerID]resume), contacts: make(map[raft.ServerID]contact),
		rpcs: make(chan raft.RPC), nudges: make(chan raft.RPC), done: make(chan struct{}),
	}
	a.wg.Go(a.merge)
	return a
}

// Consumer is what Raft reads RPCs from: the network's, and nudges.
func (t *ackTransport) Consumer() <-chan raft.RPC { return t.rpcs }

func (t *ackTransport) merge() {
	network := t.Transport.Consumer()
	for {
		var rpc raft.RPC
		select {
		case rpc = <-network:
		case rpc = <-t.nudges:
		case <-t.done:
			return
		}
		select {
		case t.rpcs <- rpc:
		case <-t.done:
			return
		}
	}
}

// nudge tells this server's Raft that the entry at index is committed, in the
// words that the leader of term would use: an empty AppendEntries whose
// previous entry is that one. The leader has told us so in an answer; in
// Raft's own time it says it only with the next entry, or 50 to 100 ms later,
// which is how long a write through a follower would take.
func (t *ackTransport) nudge(ctx context.Context, leader peer.Target, term, index uint64) {
	address := t.DecodePeer([]byte(leader.String()))
	rpc := raft.RPC{
		RespChan: make(chan raft.RPCResponse, 1), // nobody needs the answer
		Command: &raft.AppendEntriesRequest{
			RPCHeader:         raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.ID), Addr: []byte(address)},
			Term:              term,
			PrevLogEntry:      index,
			PrevLogTerm:       term,
			LeaderCommitIndex: index,
		},
	}
	select {
	case t.nudges <- rpc:
	case <-ctx.Done():
	case <-t.done:
	}
}

func (t *ackTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	a := ack{term: args.Term, round: t.round.Load()}
	err := t.Transport.AppendEntries(id, target, args, resp)
	ok := err == nil && resp.Success && resp.Term == args.Term
	t.mu.Lock()
	defer t.mu.Unlock()
	if ok {
		if old := t.acked[id]; a.term < old.term || (a.term == old.term && a.round < old.round) {
			a = old // an answer that overtook: it still was one
		}
		a.at = time.Now()
		t.acked[id] = a
	}
	t.noteContactLocked(id, args.Term, err)
	if t.noteLocked(id, args, ok) {
		select {
		case <-t.done:
		default:
			hb, last := *args, resp.LastLog
			t.wg.Go(func() { t.push(id, target, &hb, last) })
		}
	}
	return err //nolint:wrapcheck // Raft's own
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
	t.mu.Lock()
	t.once.Do(func() { close(t.done) })
	t.mu.Unlock()
	t.wg.Wait()
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
