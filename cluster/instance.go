package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/internal/hclogslog"
)

// instance is one run of Raft over the stores.
type instance struct {
	node   *Node
	raft   *raft.Raft
	trans  *ackTransport
	st     *opened
	config *raft.Config
	fsm    *machine

	notify chan bool // Raft's changes of leadership
	lead   atomic.Pointer[leadership]
	gone   chan struct{} // closed when the instance stops
	loop   sync.WaitGroup

	reconf  sync.Mutex // one reload at a time: they read, change and write
	mu      sync.Mutex
	closing bool
	futures sync.WaitGroup // futures that somebody waits for
}

func (n *Node) raftConfig(notify chan bool) *raft.Config {
	c := raft.DefaultConfig()
	c.ProtocolVersion = 3
	c.LocalID = n.id
	c.HeartbeatTimeout = n.paced(heartbeatTimeout)
	c.ElectionTimeout = n.paced(electionTimeout)
	c.LeaderLeaseTimeout = n.paced(leaseTimeout)
	c.CommitTimeout = 50 * time.Millisecond
	c.MaxAppendEntries = 512
	c.ShutdownOnRemove = false // a removed server asks to come back; see keepMembership
	c.TrailingLogs = maxTrailing
	c.SnapshotInterval = 24 * time.Hour // we decide; see keepSnapshots
	c.SnapshotThreshold = 1 << 62
	c.NoLegacyTelemetry = true
	c.NotifyCh = notify
	c.Logger = hclogslog.New(n.log.With("logger", "raft"), hclogslog.Options{Level: raftLevel})
	return c
}

func (n *Node) startInstance(ctx context.Context, st *opened) (*instance, error) {
	in := &instance{node: n, st: st, notify: make(chan bool, 64), gone: make(chan struct{})}
	in.config = n.raftConfig(in.notify)
	in.fsm = &machine{sm: n.opts.SM, applied: n.app, watch: n.watch, onFail: n.fail, onApply: n.meter.applied}
	in.fsm.onRestore = func() error {
		if n.inst.Load() != in {
			return nil // not from a leader: it was here
		}
		return n.formed.markSeeded()
	}
	if st.hasLog {
		if err := n.formed.markSeeded(); err != nil { // the first append will not do without
			n.log.Warn("cannot note that there is data here", "error", err)
		}
	}
	n.link.SetCluster(n.ClusterID())
	t, err := n.link.RaftTransport(in.config.Logger)
	if err != nil {
		return nil, err
	}
	in.trans = newAckTransport(t)
	logs, stable := n.watch.guard(st.logs, st.stable)
	if in.raft, err = raft.NewRaft(in.config, in.fsm, logs, stable, st.snaps, in.trans); err != nil {
		return nil, errors.Join(fmt.Errorf("start Raft: %w", err), in.trans.Close())
	}
	in.trans.mu.Lock()
	in.trans.source, in.trans.onContact = in.entriesAfter, in.tellContact
	in.trans.mu.Unlock()
	n.inst.Store(in)
	in.loop.Go(func() { in.watchLeadership(ctx) })
	return in, nil
}

// await waits for a future. Raft forgets to answer some when it shuts down, so
// close waits for those that are out, and no new one starts once it is closing.
// The error of ctx, or errGone, means that the outcome is unknown.
func (in *instance) await(ctx context.Context, start func() raft.Future) (raft.Future, error) {
	in.mu.Lock()
	if in.closing {
		in.mu.Unlock()
		return nil, raft.ErrNotLeader
	}
	in.futures.Add(1)
	in.mu.Unlock()
	type answered struct {
		f   raft.Future
		err error
	}
	ch := make(chan answered, 1)
	go func() { // owned by in.futures
		defer in.futures.Done()
		f := start()
		ch <- answered{f, f.Error()}
	}()
	select {
	case a := <-ch:
		return a.f, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-in.gone:
		return nil, errGone
	}
}

var errGone = errors.New("this server stopped Raft")

// stopsWithin is how long Raft takes to stop, if nothing is in its way.
const stopsWithin = 3 * time.Second

// close stops Raft, in an order in which every future is answered: cut off
// from the others a leader steps down within its lease and says so to all
// who wait; alone it has answered everything already. It reports whether Raft has
// stopped, for which it waits until ctx ends, and stopsWithin at least. If not, Raft
// still uses the stores and the peer port: all that is left is to end the process.
func (in *instance) close(ctx context.Context) (stopped bool) {
	n := in.node
	n.link.Fence("this server stops Raft")
	defer n.watch.liftUnlessFenced()
	in.mu.Lock()
	in.closing = true
	in.mu.Unlock()
	n.inst.CompareAndSwap(in, nil)
	if l := in.lead.Load(); l != nil {
		l.cancel()
	}
	answered := make(chan struct{})
	go func() { in.futures.Wait(); close(answered) }() // ends with the futures; bounded below
	select {
	case <-answered:
	case <-time.After(5 * time.Second):
		n.log.Warn("Raft does not answer: stopping it anyway")
	}
	close(in.gone)
	defer in.loop.Wait()
	done := make(chan error, 1)
	go func() { done <- in.raft.Shutdown().Error() }() // bounded below: a stuck disk holds Raft's threads for ever
	hurry, giveUp := time.After(stopsWithin), (<-chan struct{})(nil)
	for {
		select {
		case err := <-done:
			if err != nil {
				n.log.Warn("stopping Raft", "error", err)
			}
			return true
		case <-hurry:
			if _, reason := n.watch.fenced(); reason != "" {
				n.log.Error("Raft does not stop", "reason", reason)
			} else {
				n.log.Warn("Raft has not stopped yet", "after", stopsWithin)
			}
			giveUp = ctx.Done()
		case <-giveUp:
			return false
		}
	}
}

// reload changes what Raft lets one change while it runs.
func (in *instance) reload(change func(*raft.ReloadableConfig)) error {
	in.reconf.Lock()
	defer in.reconf.Unlock()
	rc := in.raft.ReloadableConfig()
	change(&rc)
	if err := in.raft.ReloadConfig(rc); err != nil {
		return fmt.Errorf("reconfigure Raft: %w", err)
	}
	return nil
}

// servers is the latest configuration, maybe not committed.
func (in *instance) servers() []raft.Server {
	f := in.raft.GetConfiguration()
	if f.Error() != nil { // never: it reads a copy
		return nil
	}
	return f.Configuration().Servers
}

func (n *Node) voters(in *instance) int {
	v := 0
	for _, s := range in.servers() {
		if s.Suffrage == raft.Voter {
			v++
		}
	}
	return v
}

// hasState reports whether there is data of the cluster here.
func (in *instance) hasState() bool { return in.raft.LastIndex() > 0 }
