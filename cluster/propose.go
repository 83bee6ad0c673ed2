package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	groupBytes = 64 << 10      // grouping stops here; a larger item is an entry of its own
	maxItem    = 1<<20 + 4<<10 // the state machine refuses above 1 MiB, with a better message
	maxEntries = 8             // entries in flight at once
)

// Receipt is what became of a proposed item.
type Receipt struct {
	Index  uint64 // of its entry
	Result []byte // the state machine's
}

const (
	queued    int32 = iota // nobody has touched it: can be taken back
	taken                  // may be in the log
	abandoned              // taken back
)

// proposal is an item on its way into an entry.
type proposal struct {
	item  []byte
	state atomic.Int32
	done  chan proposed // holds one
}

type proposed struct {
	Receipt
	err error
}

// errRetry marks failures where nothing was done and another try, or another
// leader, may do better.
type errRetry struct{ error }

func (e errRetry) Unwrap() error { return e.error }

func retry(format string, args ...any) error { return errRetry{fmt.Errorf(format, args...)} }

// Propose puts an item into the log and returns when this replica has applied
// it: whoever reads here afterwards sees it. On a follower the item takes one
// hop to the leader. Without a leader it waits for up to Options.Hold.
//
// Errors are *api.Error: "unavailable" when nothing was done, "ambiguous" when
// that is unknown. What the state machine thought of the item is in
// Receipt.Result.
func (n *Node) Propose(ctx context.Context, item []byte) (Receipt, error) {
	if len(item) == 0 || len(item) > maxItem {
		return Receipt{}, api.Errorf(api.CodeTooLarge, "an item has 1 to %d bytes, this one %d", maxItem, len(item))
	}
	n.inflight.Add(1)
	defer n.inflight.Add(-1)
	hold := time.NewTimer(n.opts.Hold)
	defer hold.Stop()
	for {
		moved := n.leads.next()
		r, err := n.proposeOnce(ctx, item)
		var again errRetry
		if err == nil || !errors.As(err, &again) {
			n.meter.proposal(err)
			return r, err
		}
		select {
		case <-ctx.Done():
			err := api.Errorf(api.CodeUnavailable, "gave up before anything was written: %w; last: %v", ctx.Err(), again.error)
			n.meter.proposal(err)
			return Receipt{}, err
		case <-hold.C:
			err := n.unavailable(again.error)
			n.meter.proposal(err)
			return Receipt{}, err
		case <-moved: // who leads is known, maybe
		case <-time.After(jitter(40 * time.Millisecond)):
		}
	}
}

// proposeOnce tries whoever leads at the moment.
func (n *Node) proposeOnce(ctx context.Context, item []byte) (Receipt, error) {
	if err := n.mayServe(); err != nil {
		return Receipt{}, err
	}
	_, l, target, ok := n.leader()
	switch {
	case !ok:
		return Receipt{}, retry("no leader is known")
	case l != nil:
		return l.propose(ctx, item)
	}
	r, term, err := n.forward(ctx, target, item)
	if err != nil {
		return Receipt{}, err
	}
	if err := n.catchUp(ctx, point{index: r.Index, term: term, leader: target}); err != nil {
		return Receipt{}, api.Errorf(api.CodeAmbiguous, "it was written, but this replica has not caught up with it yet: %w", err)
	}
	return r, nil
}

// mayServe refuses what this replica can't do whoever leads.
func (n *Node) mayServe() error {
	if n.stopping.Load() {
		return api.Errorf(api.CodeUnavailable, "this replica is shutting down: ask another")
	}
	if why := n.watch.forStrangers(); why != "" {
		return api.Errorf(api.CodeUnavailable, "this replica takes no writes: %s; ask another replica", why)
	}
	return nil
}

// unavailable explains why there was no leader to take a call.
func (n *Node) unavailable(cause error) error {
	in := n.inst.Load()
	if in == nil {
		return api.Errorf(api.CodeUnavailable, "this replica has no cluster yet (%s)", *n.reason.Load())
	}
	if e, ok := errors.AsType[*api.Error](cause); ok && e.Code == api.CodeUnavailable {
		return e
	}
	v := n.voters(in)
	return api.Errorf(api.CodeUnavailable, "the cluster has no leader to write to, last contact %s ago (%v): %d of its %d voting replicas must be up and reach each other",
		n.Staleness().Round(100*time.Millisecond), cause, v/2+1, v)
}

// Tick commits an entry without items: it only moves state time, by which the
// state machine expires what is due. For duties of the leader; elsewhere it is "unavailable".
func (n *Node) Tick(ctx context.Context) error {
	if err := n.mayServe(); err != nil {
		return err
	}
	_, l, _, _ := n.leader()
	if l == nil {
		return api.Errorf(api.CodeUnavailable, "server %s does not lead", n.id)
	}
	now, err := n.clock.stamp(l)
	if err != nil {
		return err
	}
	entry, err := n.opts.EncodeEntry(now, nil)
	if err != nil {
		return api.Errorf(api.CodeInternal, "encode an empty entry: %w", err)
	}
	if _, err := l.in.await(ctx, func() raft.Future { return l.in.raft.Apply(entry, 0) }); err != nil {
		return api.Errorf(api.CodeUnavailable, "move state time: %w", err) // once more does no harm
	}
	return nil
}

type proposeCall struct {
	Item []byte `json:"item"`
}

type proposeAnswer struct {
	Index  uint64 `json:"index"`
	Term   uint64 `json:"term"` // of the entry and of the leader
	Result []byte `json:"result"`
}

// forward hands an item to the leader. The leader never forwards again: one
// that has lost its office says so, and we look for the next.
func (n *Node) forward(ctx context.Context, t peer.Target, item []byte) (Receipt, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*n.opts.Hold)
	defer cancel()
	fenced, _ := n.watch.fenced()
	ctx, stop := orDone(ctx, fenced)
	defer stop()
	var out proposeAnswer
	if err := n.link.Call(ctx, t, pathPropose, proposeCall{Item: item}, &out); err != nil {
		if api.IsCode(err, api.CodeUnavailable) {
			return Receipt{}, 0, errRetry{err}
		}
		return Receipt{}, 0, err
	}
	return Receipt{Index: out.Index, Result: out.Result}, out.Term, nil
}

// orDone ends with ctx or when ch closes.
func orDone(ctx context.Context, ch <-chan struct{}) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	quit := make(chan struct{})
	exited := make(chan struct{})
	go func() { // owned by the returned function
		defer close(exited)
		select {
		case <-ch:
			cancel()
		case <-quit:
		}
	}()
	return ctx, func() {
		close(quit)
		<-exited
		cancel()
	}
}

// servePropose is the leader's end of forward.
func (n *Node) servePropose(ctx context.Context, _ peer.Peer, in proposeCall) (proposeAnswer, error) {
	if len(in.Item) == 0 || len(in.Item) > maxItem {
		return proposeAnswer{}, api.Errorf(api.CodeTooLarge, "an item has 1 to %d bytes, this one %d", maxItem, len(in.Item))
	}
	if err := n.mayServe(); err != nil {
		return proposeAnswer{}, err
	}
	n.inflight.Add(1)
	defer n.inflight.Add(-1)
	_, l, _, ok := n.leader()
	if !ok || l == nil {
		return proposeAnswer{}, api.Errorf(api.CodeUnavailable, "server %s does not lead", n.id)
	}
	r, err := l.propose(ctx, in.Item)
	var again errRetry
	if errors.As(err, &again) {
		return proposeAnswer{}, api.Errorf(api.CodeUnavailable, "server %s: %w", n.id, again.error)
	}
	if err != nil {
		return proposeAnswer{}, err
	}
	return proposeAnswer{Index: r.Index, Term: l.term, Result: r.Result}, nil
}

// propose queues an item for the next entry and waits until it is applied.
func (l *leadership) propose(ctx context.Context, item []byte) (Receipt, error) {
	p := &proposal{item: item, done: make(chan proposed, 1)}
	fenced, _ := l.in.node.watch.fenced()
	select {
	case l.queue <- p:
	case <-l.ctx.Done():
		return Receipt{}, retry("leadership was lost")
	case <-fenced:
		return Receipt{}, errRetry{l.in.node.mayServe()}
	case <-ctx.Done():
		return Receipt{}, errRetry{ctx.Err()}
	}
	var why error
	select {
	case d := <-p.done:
		return d.Receipt, d.err
	case <-ctx.Done():
		why = ctx.Err()
	case <-fenced:
		why = errors.New(l.in.node.watch.forStrangers())
	case <-l.in.gone:
		why = errGone
	case <-l.ctx.Done():
		if p.state.CompareAndSwap(queued, abandoned) {
			return Receipt{}, retry("leadership was lost")
		}
		// An answer is on its way: what was in the log gets one when Raft steps down.
		select {
		case d := <-p.done:
			return d.Receipt, d.err
		case <-time.After(2 * time.Second):
			why = errors.New("leadership was lost")
		case <-ctx.Done():
			why = ctx.Err()
		case <-fenced:
			why = errors.New("the disk is stuck")
		}
	}
	if p.state.CompareAndSwap(queued, abandoned) {
		return Receipt{}, retry("nothing was written: %w", why)
	}
	select { // both at once: the answer is better
	case d := <-p.done:
		return d.Receipt, d.err
	default:
	}
	return Receipt{}, api.Errorf(api.CodeAmbiguous, "it is not known whether this was written (%w): look before you try again", why)
}

// batch groups what waits into entries until leadership ends. While Raft
// writes one entry to disk the next group gathers by itself.
func (l *leadership) batch() {
	slots := make(chan struct{}, maxEntries)
	var held *proposal // did not fit into the group before
	for {
		select { // before anything is taken: while all slots are busy items can still be taken back
		case slots <- struct{}{}:
		case <-l.ctx.Done():
			held.fail(retry("leadership was lost"))
			return
		}
		var group []*proposal
		group, held = l.gather(held)
		if group == nil {
			held.fail(retry("leadership was lost"))
			return
		}
		l.wg.Go(func() {
			l.commit(group)
			<-slots
		})
	}
}

// gather waits for one item and takes along what else is there, up to groupBytes.
func (l *leadership) gather(first *proposal) (group []*proposal, held *proposal) {
	for first == nil || !first.state.CompareAndSwap(queued, taken) {
		select {
		case first = <-l.queue:
		case <-l.ctx.Done():
			return nil, nil
		}
	}
	group = append(group, first)
	size := len(first.item)
	for size < groupBytes {
		select {
		case p := <-l.queue:
			if size+len(p.item) > groupBytes {
				return group, p // still queued
			}
			if p.state.CompareAndSwap(queued, taken) {
				group, size = append(group, p), size+len(p.item)
			}
		default:
			return group, nil
		}
	}
	return group, nil
}

// commit makes an entry of a group, commits it and hands out the results.
func (l *leadership) commit(group []*proposal) {
	n := l.in.node
	now, err := n.clock.stamp(l)
	if err != nil {
		failAll(group, errRetry{err})
		return
	}
	group, entry := l.encode(now, group)
	if len(group) == 0 {
		return
	}
	f, err := l.in.await(context.Background(), func() raft.Future { return l.in.raft.Apply(entry, 0) })
	if err != nil {
		failAll(group, applyError(err))
		return
	}
	af, ok := f.(raft.ApplyFuture)
	if !ok {
		failAll(group, fmt.Errorf("the answer of Raft is a %T", f))
		return
	}
	out, _ := af.Response().(outcome)
	if out.err == nil && len(out.results) != len(group) {
		out.err = fmt.Errorf("the state machine gave %d results for %d items", len(out.results), len(group))
	}
	if out.err != nil {
		failAll(group, api.Errorf(api.CodeAmbiguous, "written, but not applied here (%w): it takes effect once a replica applies it, look before you try again", out.err))
		return
	}
	n.meter.group(len(group), len(entry))
	for i, p := range group {
		p.done <- proposed{Receipt: Receipt{Index: af.Index(), Result: out.results[i]}}
	}
}

// encode makes an entry of a group. What can't be written gets its answer and
// is left out of the group that comes back: the others shall not suffer for it.
func (l *leadership) encode(now time.Time, group []*proposal) ([]*proposal, []byte) {
	for len(group) > 0 {
		items := make([][]byte, len(group))
		for i, p := range group {
			items[i] = p.item
		}
		entry, err := l.in.node.opts.EncodeEntry(now, items)
		if err == nil && len(entry) == 0 {
			err = errors.New("it is empty")
		}
		if err == nil {
			return group, entry
		}
		var one interface{ Item() int } // fsm.ItemError, which this package doesn't know
		if !errors.As(err, &one) || one.Item() < 0 || one.Item() >= len(group) {
			// The entry as such: its time, say. It is no item's fault, and "invalid" would
			// have the audit log give up one event after another.
			failAll(group, errRetry{api.Errorf(api.CodeUnavailable, "the leader can't write to the log: %w", err)})
			return nil, nil
		}
		i := one.Item()
		failAll(group[i:i+1], api.Errorf(api.CodeInvalid, "this can't be written to the log: %w", err))
		group = slices.Concat(group[:i], group[i+1:])
	}
	return nil, nil
}

// applyError says whether an entry may be in the log.
func applyError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return errRetry{err}
	default:
		return api.Errorf(api.CodeAmbiguous, "it is not known whether this was written (%w): look before you try again", err)
	}
}

func (p *proposal) fail(err error) {
	if p != nil && p.state.Load() != abandoned {
		p.done <- proposed{err: err}
	}
}

func failAll(group []*proposal, err error) {
	for _, p := range group {
		p.done <- proposed{err: err}
	}
}

// drain answers what still waits in the queue of a leadership that is over.
func (l *leadership) drain() {
	for {
		select {
		case p := <-l.queue:
			if p.state.CompareAndSwap(queued, abandoned) {
				p.done <- proposed{err: retry("leadership was lost")}
			}
		default:
			return
		}
	}
}
