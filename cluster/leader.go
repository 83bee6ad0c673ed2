package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// leadership is one term's worth of leading.
type leadership struct {
	in     *instance
	ctx    context.Context
	cancel context.CancelFunc
	term   uint64
	ready  chan struct{} // closed when this term's barrier is through
	queue  chan *proposal
	reads  *shared
	wg     sync.WaitGroup
}

// watchLeadership turns Raft's notices into leaderships, one at a time: the
// next begins when the duties of the one before have returned.
func (in *instance) watchLeadership(ctx context.Context) {
	var cur *leadership
	end := func() {
		if cur == nil {
			return
		}
		in.lead.Store(nil)
		in.node.leads.fire()
		cur.cancel()
		cur.wg.Wait()
		cur = nil
	}
	defer end()
	for {
		select {
		case up := <-in.notify:
			end()
			if up {
				cur = in.beginLeading(ctx)
			}
		case <-in.gone:
			return
		}
	}
}

func (in *instance) beginLeading(ctx context.Context) *leadership {
	// Not a child of Run's ctx: a graceful stop hands leadership over first,
	// and duties go on until it is handed over.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &leadership{
		in: in, ctx: ctx, cancel: cancel, term: in.raft.CurrentTerm(),
		ready: make(chan struct{}), queue: make(chan *proposal, 1024),
	}
	l.reads = newShared(l.readIndex)
	in.lead.Store(l)
	in.node.leads.fire()
	in.node.meter.elections.Add(1)
	l.wg.Go(l.run)
	return l
}

func (l *leadership) run() {
	defer l.drain()
	if !l.barrier() {
		return
	}
	l.in.node.log.Info("leading", "term", l.term)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(l.batch)
	for _, d := range append([]duty{{"autopilot", l.autopilot}, {"own address", l.ownAddress}}, l.in.node.duties...) {
		wg.Go(func() { l.perform(d) })
	}
}

// barrier commits an empty entry of this term and waits until it is applied:
// from then on the commit index and the state are at least as new as all that
// any leader before acknowledged.
func (l *leadership) barrier() bool {
	early := l.in.node.opts.Faults.NoBarrier
	if early {
		close(l.ready)
	}
	for l.ctx.Err() == nil {
		_, err := l.in.await(l.ctx, func() raft.Future { return l.in.raft.Apply(nil, 0) })
		if err == nil && l.in.raft.CurrentTerm() == l.term {
			l.in.node.clock.refresh(l.ctx, l.in)
			if !early {
				close(l.ready)
			}
			return true
		}
		if err != nil && l.ctx.Err() == nil {
			l.in.node.log.Debug("barrier failed", "error", err)
		}
		pause(l.ctx, 20*time.Millisecond)
	}
	return false
}

// perform runs one duty for as long as we lead.
func (l *leadership) perform(d duty) {
	backoff := 100 * time.Millisecond
	for l.ctx.Err() == nil {
		err := d.fn(l.ctx)
		if err == nil || l.ctx.Err() != nil {
			return
		}
		l.in.node.log.Warn("duty of the leader failed, will be tried again", "duty", d.name, "error", err, "in", backoff.String())
		pause(l.ctx, backoff)
		backoff = min(2*backoff, 30*time.Second)
	}
}

// ownAddress corrects our address in the configuration: nobody else can while we lead.
func (l *leadership) ownAddress(ctx context.Context) error {
	for _, s := range l.in.servers() {
		if s.ID == l.in.node.id && s.Address != l.in.node.addr {
			if _, err := l.in.await(ctx, func() raft.Future {
				return l.in.raft.AddVoter(s.ID, l.in.node.addr, 0, 0)
			}); err != nil {
				return fmt.Errorf("change own address to %s: %w", l.in.node.addr, err)
			}
		}
	}
	return nil
}

// leader says who leads: ourselves (the leadership), another (its target), or nobody.
func (n *Node) leader() (*instance, *leadership, peer.Target, bool) {
	in := n.inst.Load()
	if in == nil {
		return nil, nil, peer.Target{}, false
	}
	if l := in.lead.Load(); l != nil {
		return in, l, peer.Target{}, true
	}
	address, id := in.raft.LeaderWithID()
	if id == "" || id == n.id { // ours, but Raft has not told us yet
		return in, nil, peer.Target{}, false
	}
	_, host, ok := peer.SplitAddress(string(address))
	if !ok {
		return in, nil, peer.Target{}, false
	}
	return in, nil, peer.Target{ID: string(id), Addr: host}, true
}

// TransferLeadership hands leadership to the best other voter. On a replica
// that does not lead it does nothing.
func (n *Node) TransferLeadership(ctx context.Context) error {
	in := n.inst.Load()
	if in == nil || in.raft.State() != raft.Leader {
		return nil
	}
	return n.transfer(ctx, in, "")
}

// transfer hands leadership over to a server, "" for Raft's choice.
func (n *Node) transfer(ctx context.Context, in *instance, to raft.ServerID) error {
	_, err := in.await(ctx, func() raft.Future {
		for _, s := range in.servers() {
			if s.ID == to {
				return in.raft.LeadershipTransferToServer(s.ID, s.Address)
			}
		}
		return in.raft.LeadershipTransfer()
	})
	if err != nil {
		return api.Errorf(api.CodeUnavailable, "could not transfer leadership: %w", err)
	}
	return nil
}

// pause waits, but not past ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// jitter is between half of d and d: replicas that wait for the same thing should not all come at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2) //nolint:gosec // no secret
}

// hurry shortens the wait for a leader whose connections have just broken: a
// process that is killed can't send a heartbeat, but its kernel closes its
// connections at once. Pre-vote keeps this harmless when the leader lives.
func (n *Node) hurry(ctx context.Context, in *instance) {
	set := func(d time.Duration) {
		if err := in.reload(func(rc *raft.ReloadableConfig) {
			rc.HeartbeatTimeout, rc.ElectionTimeout = d, d
		}); err != nil { // never: both values are valid
			n.log.Error("could not change the election timeout", "error", err)
		}
	}
	for {
		select {
		case id := <-n.lost:
			if _, leader := in.raft.LeaderWithID(); string(leader) != id || in.raft.State() != raft.Follower {
				continue
			}
			n.log.Debug("the leader's connections broke: looking for another soon", "leader", id)
			set(n.paced(hurriedTimeout))
			pause(ctx, hurryFor)
			set(n.paced(heartbeatTimeout))
		case <-ctx.Done():
			return
		}
	}
}
