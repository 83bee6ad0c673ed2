package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// keepEvery is how often a node looks whether it still is what it should be.
const keepEvery = 2 * time.Second

// joinCall asks to be a member under an address.
type joinCall struct {
	ID        string `json:"id"`
	Addr      string `json:"addr"`                 // host:port
	ClusterID string `json:"cluster_id,omitempty"` // "": none yet
	Hop       bool   `json:"hop,omitempty"`        // a member passed it on
}

type joinAnswer struct {
	ClusterID string `json:"cluster_id"`
}

// askJoin asks one server to let us in.
func (f *formation) askJoin(ctx context.Context, t peer.Target) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*f.node.opts.Hold)
	defer cancel()
	var out joinAnswer
	t.Guest = true
	err := f.node.link.Call(ctx, t, pathJoin, joinCall{ID: string(f.node.id), Addr: f.node.link.Advertise(), ClusterID: f.record().ClusterID}, &out)
	if err != nil {
		return "", fmt.Errorf("ask %s to join: %w", t, err)
	}
	if out.ClusterID == "" {
		return "", fmt.Errorf("ask %s to join: it named no cluster", t)
	}
	return out.ClusterID, nil
}

// serveJoin lets a server in, or passes the request to the leader, once.
func (f *formation) serveJoin(ctx context.Context, from peer.Peer, in joinCall) (joinAnswer, error) {
	if in.ID != from.ID && !(in.Hop && from.Member()) {
		return joinAnswer{}, api.Errorf(api.CodeForbidden, "server %s can't join for %q", from.ID, in.ID)
	}
	if _, _, ok := peer.SplitAddress(peer.Address(in.ID, in.Addr)); !ok || len(in.Addr) > 255 {
		return joinAnswer{}, api.Errorf(api.CodeInvalid, "%q at %q is no server", in.ID, in.Addr)
	}
	own := f.record().ClusterID
	if in.ClusterID != "" && in.ClusterID != own {
		return joinAnswer{}, api.Errorf(api.CodeForbidden, "server %s is of cluster %s, this is cluster %q: empty its data directory to let it join", in.ID, in.ClusterID, own)
	}
	inst, l, target, ok := f.node.leader()
	switch {
	case inst == nil || own == "":
		return joinAnswer{}, api.Errorf(api.CodeUnavailable, "server %s has no cluster yet", f.node.id)
	case l != nil:
		if err := l.admit(ctx, in); err != nil {
			return joinAnswer{}, err
		}
	case ok && !in.Hop:
		in.Hop = true
		var out joinAnswer
		if err := f.node.link.Call(ctx, target, pathJoin, in, &out); err != nil {
			return joinAnswer{}, err
		}
		return out, nil
	default:
		// Without a leader we can still tell a founding member, which has no log yet, what
		// cluster it was made a member of: it may take its vote for there to be a leader.
		address := raft.ServerAddress(peer.Address(in.ID, in.Addr))
		for _, s := range inst.servers() {
			if s.ID == raft.ServerID(in.ID) && s.Address == address {
				return joinAnswer{ClusterID: own}, nil
			}
		}
		return joinAnswer{}, api.Errorf(api.CodeUnavailable, "the cluster has no leader to let server %s in", in.ID)
	}
	return joinAnswer{ClusterID: own}, nil
}

// admit makes a server a member: a non-voter that autopilot promotes once it
// has caught up.
func (l *leadership) admit(ctx context.Context, in joinCall) error {
	n := l.in.node
	select {
	case <-l.ready:
	case <-l.ctx.Done():
		return api.Errorf(api.CodeUnavailable, "server %s lost leadership", n.id)
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "server %s: %w", n.id, ctx.Err())
	}
	select { // one at a time
	case n.changes <- struct{}{}:
		defer func() { <-n.changes }()
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "server %s: %w", n.id, ctx.Err())
	}
	id, address := raft.ServerID(in.ID), raft.ServerAddress(peer.Address(in.ID, in.Addr))
	servers := l.in.servers()
	for _, s := range servers {
		if s.ID == id && s.Address == address {
			return nil
		}
	}
	// Whoever asks, what counts is who answers at that address: only then does the
	// server that had it before go.
	var who identity
	err := n.link.Call(ctx, peer.Target{ID: in.ID, Addr: in.Addr, Guest: true}, pathIdentify, struct{}{}, &who)
	if err != nil {
		return api.Errorf(api.CodeUnavailable, "server %s does not answer at %s, where it says it is: %w", in.ID, in.Addr, err)
	}
	if who.ID != in.ID || (who.HasState && who.ClusterID != n.ClusterID()) {
		return api.Errorf(api.CodeForbidden, "server %s holds data of cluster %q: empty its data directory to let it join this one", in.ID, who.ClusterID)
	}
	return l.replace(ctx, servers, id, address, in.Addr)
}

func (l *leadership) replace(ctx context.Context, servers []raft.Server, id raft.ServerID, address raft.ServerAddress, host string) error {
	n := l.in.node
	change := func(what string, start func() raft.Future) error {
		ctx, cancel := context.WithTimeout(ctx, 2*n.opts.Hold)
		defer cancel()
		if _, err := l.in.await(ctx, start); err != nil {
			return api.Errorf(api.CodeUnavailable, "%s: %w", what, err)
		}
		n.log.Info("membership changed", "change", what)
		return nil
	}
	for _, s := range servers {
		_, at, _ := peer.SplitAddress(string(s.Address))
		switch {
		case s.ID == id && s.Suffrage == raft.Voter: // it moved
			return change(fmt.Sprintf("voter %s moves to %s", id, host), func() raft.Future {
				return l.in.raft.AddVoter(id, address, 0, 0)
			})
		case s.ID != id && at == host:
			if s.ID == n.id {
				return api.Errorf(api.CodeForbidden, "%s is this server's own address", host)
			}
			if err := change(fmt.Sprintf("server %s leaves: %s answers at %s", s.ID, id, host), func() raft.Future {
				return l.in.raft.RemoveServer(s.ID, 0, 0)
			}); err != nil {
				return err
			}
		}
	}
	return change(fmt.Sprintf("server %s at %s joins, without a vote for now", id, host), func() raft.Future {
		return l.in.raft.AddNonvoter(id, address, 0, 0)
	})
}

// keepMembership makes a node that fell out of the configuration, moved to
// another address or was adopted by a founder that is gone find its way back.
func (f *formation) keepMembership(ctx context.Context, in *instance) {
	orphaned := 0
	for ctx.Err() == nil {
		pause(ctx, jitter(keepEvery))
		if ctx.Err() != nil {
			return
		}
		if !in.hasState() {
			if f.orphan(ctx, &orphaned) {
				return
			}
			continue
		}
		if f.node.Staleness() < 2*keepEvery && f.inConfig(in) {
			continue
		}
		for _, t := range f.known(in) {
			if _, err := f.askJoin(ctx, t); err == nil {
				break
			}
		}
	}
}

func (f *formation) inConfig(in *instance) bool {
	for _, s := range in.servers() {
		if s.ID == f.node.id {
			return s.Address == f.node.addr
		}
	}
	return false
}

// known are the servers of the configuration and whoever else may be there.
func (f *formation) known(in *instance) []peer.Target {
	var out []peer.Target
	for _, s := range in.servers() {
		if id, addr, ok := peer.SplitAddress(string(s.Address)); ok && s.ID != f.node.id {
			out = append(out, peer.Target{ID: id, Addr: addr})
		}
	}
	for _, addr := range f.addresses() {
		out = append(out, peer.Target{Addr: addr})
	}
	return out
}

// orphan looks after a node that was adopted but has got nothing yet. While
// somebody of its cluster has state it (re)joins there. If nobody has for a
// while, the founder is lost with a disk that held the only copy of nothing:
// the node is free to be adopted elsewhere. It reports whether Raft is to be restarted.
func (f *formation) orphan(ctx context.Context, strikes *int) bool {
	own := f.record().ClusterID
	mine, others, stateless := 0, 0, 0
	for _, who := range f.lookAround(ctx) {
		switch {
		case who.HasState && who.ClusterID == own:
			mine++
			if _, err := f.askJoin(ctx, who.target()); err == nil {
				*strikes = 0
				return false
			}
		case who.HasState:
			others++
		default:
			stateless++
		}
	}
	f.mu.Lock()
	expect := f.meta.Expect
	f.mu.Unlock()
	if mine > 0 || (others == 0 && stateless+1 < max(expect, 1)) {
		*strikes = 0
		return false
	}
	if *strikes++; *strikes < 5 {
		return false
	}
	f.node.log.Warn("nobody of this server's cluster has any data: looking for another", "cluster", own)
	select {
	case f.node.restarts <- newRestart(func(in *instance) error { return f.disown(in.st) }):
		return true
	case <-ctx.Done():
		return true
	}
}

// disown forgets a cluster of which there is no data here.
func (f *formation) disown(st *opened) error {
	if has, err := hasLog(st.logs, st.snaps); err != nil || has {
		return err // data came after all: it stays
	}
	if err := f.node.store.Reset(); err != nil {
		return err
	}
	var err error
	if st.logs, st.stable, st.snaps, err = f.node.store.Open(); err != nil {
		return err
	}
	st.hasLog = false
	f.node.heard.Store(nil)
	m := f.record()
	m.ClusterID = ""
	return f.saveMeta(m)
}
