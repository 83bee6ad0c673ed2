package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// aliveWithin is how lately a server must have been heard of to count as alive.
const aliveWithin = 10 * time.Second

// Staleness is how long ago this replica last heard from a leader: the age
// that its state has at most. 0 on a leader that holds its lease.
func (n *Node) Staleness() time.Duration {
	in := n.inst.Load()
	if in == nil {
		return n.sinceHeard(time.Since(n.started))
	}
	since := n.watch.fencedSince()
	if in.raft.State() == raft.Leader {
		if !since.IsZero() { // it hears nobody and can't even step down
			return time.Since(since)
		}
		return 0
	}
	if last := in.raft.LastContact(); last.After(n.started) {
		return time.Since(last)
	}
	// No contact in this process: the state is at least as old as its last entry.
	// A restart must not make a replica that is cut off look fresh.
	age := time.Since(n.started)
	if st := n.opts.SM.StateTime(); !st.IsZero() {
		age = max(age, n.opts.Clock().Sub(st))
	}
	return n.sinceHeard(age)
}

// sinceHeard is age, or the time since the last contact of the instance of Raft before
// this one, whichever is less: what it has applied is still here.
func (n *Node) sinceHeard(age time.Duration) time.Duration {
	if heard := n.heard.Load(); heard != nil {
		return min(age, time.Since(*heard))
	}
	return age
}

// Stale reports whether that is longer than Options.MaxStale allows, and both
// durations. Strict means a second: a follower in touch hears from its leader
// every 50 ms or so, never at this very moment.
func (n *Node) Stale() (age, limit time.Duration, stale bool) {
	age, limit = n.Staleness(), max(n.opts.MaxStale, time.Second)
	return age, limit, age > limit
}

// Ready reports whether this replica may serve. It becomes ready once it is a
// voter that has applied the leader's commit index of that moment, so that a
// rolling update does not outrun catching up, and stays ready until it has
// heard from no leader for MaxStale. If not, the string says why; if it is, what is wrong all the same.
func (n *Node) Ready() (bool, string) {
	if n.stopping.Load() {
		return false, "shutting down"
	}
	if !n.ready.Load() {
		return false, *n.reason.Load()
	}
	if age, _, stale := n.Stale(); stale {
		return false, fmt.Sprintf("no contact with a leader for %s", age.Round(time.Second))
	}
	if why := n.watch.forStrangers(); why != "" {
		return true, "no writes: " + why // requests to clusters go on
	}
	return true, ""
}

// becomeReady waits for the first moment at which this replica has caught up.
func (n *Node) becomeReady(ctx context.Context, in *instance) {
	for ctx.Err() == nil && !n.ready.Load() {
		voter := false
		for _, s := range in.servers() {
			voter = voter || (s.ID == n.id && s.Suffrage == raft.Voter)
		}
		rctx, cancel := context.WithTimeout(ctx, n.opts.Hold)
		err := n.Linearize(rctx)
		cancel()
		switch {
		case err != nil:
			n.say(err.Error())
		case !voter:
			n.say("catching up, before it gets a vote")
		default:
			n.say("")
			n.ready.Store(true)
			n.log.Info("ready", "applied", n.app.get())
			return
		}
		pause(ctx, jitter(300*time.Millisecond))
	}
}

// Status is what this node knows. ClusterName and CAs are the caller's to fill in.
func (n *Node) Status() api.Status {
	off, split := n.Clocks()
	s := api.Status{
		ClusterID:   n.ClusterID(),
		Version:     n.opts.Version,
		ServerID:    string(n.id),
		State:       "starting",
		AppliedIdx:  n.app.get(),
		Staleness:   api.Duration(n.Staleness()),
		ClockOffset: api.Duration(off),
		ClockSplit:  api.Duration(split),
	}
	s.Ready, s.Reason = n.Ready()
	s.MaxStale = api.Duration(max(n.opts.MaxStale, 0))
	_, fenced := n.watch.fenced()
	if fenced != "" {
		s.State, s.Reason = "fenced", fenced
	}
	in := n.inst.Load()
	if in == nil {
		return s
	}
	_, leader := in.raft.LeaderWithID()
	s.LeaderID, s.Term, s.CommitIndex = string(leader), in.raft.CurrentTerm(), in.raft.CommitIndex()
	switch in.raft.State() {
	case raft.Leader:
		s.State = "leader"
	case raft.Candidate:
		s.State = "candidate"
	case raft.Follower, raft.Shutdown:
		s.State = "follower"
	}
	if fenced != "" {
		s.State, s.LeaderID = "fenced", ""
	}
	for _, m := range in.servers() {
		id, addr, ok := peer.SplitAddress(string(m.Address))
		if !ok {
			id, addr = string(m.ID), string(m.Address)
		}
		srv := api.Server{ID: id, Addr: addr, Voter: m.Suffrage == raft.Voter, Leader: m.ID == leader}
		srv.Alive, srv.Version = n.alive(in, m.ID, leader)
		s.Servers = append(s.Servers, srv)
	}
	return s
}

// alive says what gossip, or Raft, has heard of a server lately.
func (n *Node) alive(in *instance, id, leader raft.ServerID) (bool, string) {
	if id == n.id {
		return true, n.opts.Version
	}
	if m, ok := n.fleet.member(string(id)); ok {
		return true, m.Version
	}
	if id == leader && n.Staleness() < aliveWithin {
		return true, ""
	}
	if seen, ok := in.trans.lastSeen(id); ok {
		return time.Since(seen) < aliveWithin, ""
	}
	return false, ""
}
