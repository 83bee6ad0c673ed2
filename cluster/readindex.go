package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Linearize returns when this replica's state is at least as new as everything
// that was acknowledged anywhere before the call. Read after it.
func (n *Node) Linearize(ctx context.Context) error {
	hold := time.NewTimer(n.opts.Hold)
	defer hold.Stop()
	for {
		moved := n.leads.next()
		at, err := n.readIndex(ctx)
		if err == nil {
			if err := n.catchUp(ctx, at); err != nil {
				return api.Errorf(api.CodeUnavailable, "this replica has not caught up with index %d yet (%w): ask another", at.index, err)
			}
			return nil
		}
		var again errRetry
		if !errors.As(err, &again) {
			return err
		}
		select {
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "gave up the read: %w; last: %v", ctx.Err(), again.error)
		case <-hold.C:
			return n.unavailable(again.error)
		case <-moved: // who leads is known, maybe
		case <-time.After(jitter(40 * time.Millisecond)):
		}
	}
}

// point is a committed entry that a replica must have applied.
type point struct {
	index, term uint64
	leader      peer.Target // who said so; zero: this node itself
}

// catchUp waits until this replica has applied a committed entry. As soon as it
// holds the entry it need not wait for the leader to repeat that it is committed.
func (n *Node) catchUp(ctx context.Context, at point) error {
	ctx, cancel := context.WithTimeout(ctx, max(n.opts.Hold, time.Second))
	defer cancel()
	for step := time.Millisecond; ; step = min(2*step, 50*time.Millisecond) {
		if n.app.get() >= at.index {
			return nil
		}
		if in := n.inst.Load(); in != nil && at.leader.ID != "" && in.raft.LastIndex() >= at.index {
			in.trans.nudge(ctx, at.leader, at.term, at.index)
		}
		wctx, done := context.WithTimeout(ctx, step)
		err := n.app.wait(wctx, at.index)
		done()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

type readIndexAnswer struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"` // of the entry and of the leader
}

// readIndex gets a read index from whoever leads at the moment.
func (n *Node) readIndex(ctx context.Context) (point, error) {
	if err := n.mayServe(); err != nil {
		return point{}, err
	}
	_, l, _, ok := n.leader()
	switch {
	case !ok:
		return point{}, retry("no leader is known")
	case l != nil:
		return l.reads.get(ctx)
	}
	return n.reads.get(ctx)
}

// askReadIndex is a follower's question to the leader, shared by its reads.
func (n *Node) askReadIndex(ctx context.Context, noted func()) (point, error) {
	noted()
	_, l, target, ok := n.leader()
	if !ok || l != nil {
		return point{}, retry("the leader changed")
	}
	var out readIndexAnswer
	if err := n.link.Call(ctx, target, pathReadIndex, struct{}{}, &out); err != nil {
		// A read has no effect: whatever happened to it, it may be tried again.
		return point{}, errRetry{api.Errorf(api.CodeUnavailable, "ask the leader: %w", err)}
	}
	return point{index: out.Index, term: out.Term, leader: target}, nil
}

// serveReadIndex is the leader's end.
func (n *Node) serveReadIndex(ctx context.Context, _ peer.Peer, _ struct{}) (readIndexAnswer, error) {
	if err := n.mayServe(); err != nil {
		return readIndexAnswer{}, err
	}
	_, l, _, ok := n.leader()
	if !ok || l == nil {
		return readIndexAnswer{}, api.Errorf(api.CodeUnavailable, "server %s does not lead", n.id)
	}
	at, err := l.reads.get(ctx)
	if err != nil {
		return readIndexAnswer{}, api.Errorf(api.CodeUnavailable, "server %s: %w", n.id, err)
	}
	return readIndexAnswer{Index: at.index, Term: at.term}, nil
}

// readIndex is the leader's answer: the index that a read must have applied.
//
// Three things make it safe, and each has its test:
//   - The term's barrier is through, so the commit index covers what earlier
//     leaders acknowledged.
//   - The commit index is noted before leadership is verified. The other way
//     round, a read that joins in between would get an index of a leader that
//     was deposed after its verification.
//   - The verification counts only what voters said to calls that began after
//     it (ackTransport says why Raft's own is not enough).
func (l *leadership) readIndex(ctx context.Context, noted func()) (point, error) {
	select {
	case <-l.ready:
	case <-l.ctx.Done():
		return point{}, retry("leadership was lost")
	case <-ctx.Done():
		return point{}, errRetry{ctx.Err()}
	}
	faults := l.in.node.opts.Faults
	between := func() {
		if faults.Pause != nil {
			faults.Pause(ctx)
		}
	}
	if faults.VerifyFirst {
		if err := l.verify(ctx); err != nil {
			return point{}, err
		}
		between()
		noted()
		return point{index: l.in.raft.CommitIndex(), term: l.term}, nil
	}
	if l.in.raft.CurrentTerm() != l.term {
		return point{}, retry("leadership was lost")
	}
	noted()
	index := l.in.raft.CommitIndex()
	between()
	if err := l.verify(ctx); err != nil {
		return point{}, err
	}
	// Lost and regained in between means that others may have led: the index is theirs to give.
	if !faults.NoBarrier && l.in.raft.CurrentTerm() != l.term {
		return point{}, retry("leadership was lost")
	}
	// What is committed after this term's barrier is of this term.
	return point{index: index, term: l.term}, nil
}

// verify returns when a majority of voters took this server for their leader
// after the call began.
func (l *leadership) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.in.node.opts.Hold)
	defer cancel()
	fenced, _ := l.in.node.watch.fenced()
	ctx, stop := orDone(ctx, fenced)
	defer stop()
	round := l.in.trans.begin()
	for {
		if _, err := l.in.await(ctx, l.verifyFuture); err != nil {
			return errRetry{err}
		}
		if l.in.trans.confirmed(l.term, round, l.in.node.id, l.in.servers()) {
			return nil
		}
		if l.ctx.Err() != nil {
			return retry("leadership was lost")
		}
	}
}

func (l *leadership) verifyFuture() raft.Future { return l.in.raft.VerifyLeader() }

// shared lets concurrent callers share one run of fn. A caller joins a run only
// until fn calls noted, the moment at which the run's answer is taken from the
// world: what was acknowledged later is not in it.
type shared struct {
	fn func(ctx context.Context, noted func()) (point, error)

	mu   sync.Mutex
	busy bool
	next *run // the run that callers may join
}

type run struct {
	done chan struct{}
	at   point
	err  error
}

// sharedTimeout bounds a run, which belongs to no caller.
const sharedTimeout = 5 * time.Second

func newShared(fn func(ctx context.Context, noted func()) (point, error)) *shared {
	return &shared{fn: fn}
}

func (s *shared) get(ctx context.Context) (point, error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = &run{done: make(chan struct{})}
	}
	r := s.next
	if !s.busy {
		s.busy = true
		go s.loop() // ends when nobody waits; each run is bounded
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.at, r.err
	case <-ctx.Done():
		return point{}, errRetry{ctx.Err()}
	}
}

func (s *shared) loop() {
	for {
		s.mu.Lock()
		r := s.next
		if r == nil {
			s.busy = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		noted := func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.next == r {
				s.next = nil
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), sharedTimeout)
		r.at, r.err = s.fn(ctx, noted)
		cancel()
		noted() // a run that failed early
		close(r.done)
	}
}
