package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// How the Emitter batches. One Raft entry carries 64 KiB well (docs/adr/001); what
// has piled up goes in larger pieces, still far below an entry's bound.
const (
	batchDelay   = 50 * time.Millisecond
	batchBytes   = 64 << 10
	backlogBytes = 256 << 10
	memoryBytes  = 1 << 20 // encoded lines in memory before they go to the spool

	sendTimeout = 15 * time.Second // above the 5 s for which a proposal waits for a leader
	backoffMin  = 100 * time.Millisecond
	backoffMax  = 10 * time.Second
	spillRetry  = time.Second // after the spool could not take lines
	warnEvery   = 10 * time.Second

	defaultQueue      = 16 << 10
	defaultSpoolBytes = 256 << 20
)

// EmitterOptions say where events go. Send alone is required.
type EmitterOptions struct {
	// Send brings the events of a batch, without its origin, to the cluster and
	// returns once they are committed. It honours its context. An error may mean that they were committed all the
	// same (api.CodeAmbiguous): they are sent again, and their uid tells the
	// repeat. Errors with api.CodeInvalid or api.CodeTooLarge mean "never".
	Send func(ctx context.Context, b Batch) error

	Source     Source       // completes events that lack a time, an id, a cluster name
	SpoolPath  string       // where lines wait while Send fails; "": in memory alone
	SpoolBytes int64        // bound of that file; 0: 256 MiB
	Queue      int          // events waiting to be encoded; 0: 16384
	Strict     bool         // Admit refuses while events cannot reach the cluster, and Commit does not settle for the spool
	Logger     *slog.Logger // nil: slog.Default
	Rand       io.Reader    // of the epoch; nil: crypto/rand; must never fail
}

// EmitterStats count events since start, and what waits now.
type EmitterStats struct {
	Recorded   uint64 // taken by Record
	Sent       uint64 // committed
	Retries    uint64 // sends that failed and are tried again
	Lost       uint64 // could be kept nowhere
	Refused    uint64 // the cluster will never take
	Queued     int64  // in memory

	SpoolBytes  int64 // in the spool file, not yet sent
	SpoolEvents int64
	SpoolLimit  int64 // 0: there is no spool

	FailingSince time.Time // no event has reached the cluster since; zero: all is well
	LastError    string    // of the last send; "" unless failing
}

// Emitter takes the events of requests off the request's path: it encodes,
// batches (50 ms or 64 KiB) and sends them from one goroutine, which alone owns
// everything below but the counters.
//
// While sending fails, lines go to the spool file and follow when it works
// again. They keep their order as a rule; a batch that fails while others
// already stand in the spool, or that a stop found in memory, comes after them.
// When the spool is
// full or its disk fails too, memory fills, then the queue, and then Record
// counts an event as lost, which the log of the replica says at once and the
// audit log as soon as it can: a hole in it is never silent.
type Emitter struct {
	opts  EmitterOptions
	queue chan api.Event
	done  chan struct{} // closed when run has returned

	// closing guards queue against a send after its close.
	closing  sync.RWMutex
	closed   bool
	stop     chan struct{}   // closed with queue
	closeCtx context.Context //nolint:containedctx // Close hands it to run, which ends within it
	closeErr error

	recorded, sent, retries, lost, refused atomic.Uint64
	queued, spooled                        atomic.Int64
	warned                                 atomic.Int64 // unix ns of the last warning of Record

	// Owned by run.
	pending      [][]byte // encoded, oldest first
	pendingBytes int
	oldest       time.Time // when pending last began to wait
	spool        *spool    // nil: none
	spillAt      time.Time // not before, after the spool failed
	flight       flight
	busy         bool
	results      chan error
	maxLines     int // of a send; lowered to find the line that is refused
	failing      bool
	backoff      time.Duration
	retryAt      time.Time
	lostTold     uint64 // of lost and refused, how many an event has told of
}

// flight is what a send in progress carries.
type flight struct {
	lines     [][]byte
	fromSpool bool
	end       int64 // spool offset behind the lines
	bad       int   // lines left out because the disk had harmed them
	cancel    context.CancelFunc
}

// NewEmitter opens the spool, whose lines of an earlier run are sent first, and
// starts. Close ends it.
func NewEmitter(opts EmitterOptions) (*Emitter, error) {
	if opts.Send == nil {
		return nil, errors.New("start audit emitter: no Send given")
	}
	if opts.Queue == 0 {
		opts.Queue = defaultQueue
	}
	if opts.SpoolBytes == 0 {
		opts.SpoolBytes = defaultSpoolBytes
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	e := &Emitter{
		opts:     opts,
		queue:    make(chan api.Event, opts.Queue),
		done:     make(chan struct{}),
		stop:     make(chan struct{}),
		results:  make(chan error, 1),
		maxLines: maxLines,
	}
	if opts.SpoolPath != "" {
		s, err := openSpool(opts.SpoolPath, opts.SpoolBytes)
		if err != nil {
			return nil, err
		}
		e.spool = s
		e.spooled.Store(s.bytes())
	}
	go e.run()
	return e, nil
}

// Record takes an event, whose Fields are the Emitter's from then on. It never
// blocks and encodes nothing.
func (e *Emitter) Record(ev api.Event) {
	if ev.Time.IsZero() {
		ev.Time = e.opts.Source.now()
	}
	e.closing.RLock()
	defer e.closing.RUnlock()
	if !e.closed {
		select {
		case e.queue <- ev:
			e.recorded.Add(1)
			return
		default:
		}
	}
	e.lose(1, "the queue is full or closed")
}

// Commit takes an event as Record does and returns when it is durable: when the
// cluster has committed it or, unless Strict, when it is in the spool for good,
// if the cluster does not take it soon. It waits for no batch, and no longer
// than ctx. An error has api.CodeUnavailable: the event may come into the log
// all the same.
func (e *Emitter) Commit(ctx context.Context, ev api.Event) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	line, err := Encode(e.opts.Source.complete(ev))
	if err != nil {
		return err
	}
	if err := e.opts.Send(ctx, Batch{Events: [][]byte{line}}); err != nil {
		return api.Errorf(api.CodeUnavailable, "the event of this request cannot be made durable: %w", err)
	}
	e.recorded.Add(1)
	e.sent.Add(1)
	return nil
}

// Admit says whether a new request may begin: its error says why not. It is nil
// unless Strict.
func (e *Emitter) Admit() error {
	if e.opts.Strict && e.spooled.Load() > 0 {
		return api.Errorf(api.CodeUnavailable, "audit events cannot reach the cluster")
	}
	return nil
}

// lose counts events as lost and says so, at most once in ten seconds.
func (e *Emitter) lose(n int, reason string) {
	total := e.lost.Add(uint64(n)) //nolint:gosec // never negative
	now, last := time.Now().UnixNano(), e.warned.Load()
	if now-last >= int64(warnEvery) && e.warned.CompareAndSwap(last, now) {
		e.opts.Logger.Error("audit events are being lost", "reason", reason, "lost", total,
			"queued", e.queued.Load(), "spool_bytes", e.spooled.Load())
	}
}

// Stats may be called at any time.
func (e *Emitter) Stats() EmitterStats {
	return EmitterStats{
		Recorded: e.recorded.Load(), Sent: e.sent.Load(), Retries: e.retries.Load(),
		Lost: e.lost.Load(), Refused: e.refused.Load(),
		Queued: e.queued.Load() + int64(len(e.queue)), SpoolBytes: e.spooled.Load(),
	}
}

// Close takes no more events and sends what it has, until ctx ends; the rest is
// left in the spool for the next start. It returns an error if events are lost.
func (e *Emitter) Close(ctx context.Context) error {
	e.closing.Lock()
	if !e.closed {
		e.closed, e.closeCtx = true, ctx
		close(e.queue)
		close(e.stop)
	}
	e.closing.Unlock()
	<-e.done
	return e.closeErr
}

// maxLines bounds a send in lines; its bytes are bounded much lower as a rule.
const maxLines = 1 << 16

func (e *Emitter) run() {
	defer close(e.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		e.dispatch(time.Now())
		timer.Reset(e.wait(time.Now()))
		queue, stop := e.queue, (chan struct{})(nil)
		if e.pendingBytes >= 2*memoryBytes {
			queue, stop = nil, e.stop // neither the cluster nor the spool takes anything: let the queue fill
		}
		select {
		case <-stop:
			e.closeErr = e.finish()
			return
		case ev, open := <-queue:
			if !open {
				e.closeErr = e.finish()
				return
			}
			e.take(ev)
		case err := <-e.results:
			e.settle(err, time.Now())
		case <-timer.C:
		}
		e.queued.Store(int64(len(e.pending)))
	}
}

// take encodes one event and what else stands in the queue, up to a batch.
func (e *Emitter) take(ev api.Event) {
	for {
		e.add(ev)
		if e.pendingBytes >= batchBytes {
			return
		}
		select {
		case next, open := <-e.queue:
			if !open {
				return // run meets the closed queue next
			}
			ev = next
		default:
			return
		}
	}
}

func (e *Emitter) add(ev api.Event) {
	line, err := Encode(e.opts.Source.complete(ev))
	if err != nil {
		e.refused.Add(1)
		e.opts.Logger.Error("audit event cannot be encoded", "error", err)
		return
	}
	if len(e.pending) == 0 {
		e.oldest = time.Now()
	}
	e.pending = append(e.pending, line)
	e.pendingBytes += len(line)
}

// dispatch does what is due: a send, if none is under way, or a spill. Lines
// never overtake those in the spool.
func (e *Emitter) dispatch(now time.Time) {
	due := e.pendingBytes >= batchBytes || len(e.pending) > 0 && now.Sub(e.oldest) >= batchDelay
	spooling := e.failing || e.spool != nil && !e.spool.empty()
	switch {
	case spooling && due, e.pendingBytes >= memoryBytes && e.busy:
		e.spill(now)
	}
	if e.busy || e.failing && now.Before(e.retryAt) {
		return
	}
	switch {
	case e.spool != nil && !e.spool.empty():
		e.sendSpooled(now)
	case due:
		lines := e.cut()
		e.send(flight{lines: lines})
	}
}

// wait is how long dispatch has nothing to do unless something happens.
func (e *Emitter) wait(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	earlier := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if len(e.pending) > 0 && !e.busy {
		earlier(e.oldest.Add(batchDelay))
	}
	if e.failing && !e.busy {
		earlier(e.retryAt)
	}
	if !e.failing && !e.busy && e.spool != nil && !e.spool.empty() {
		earlier(now) // lines were left out as harmed; the next ones wait
	}
	// Lines that should be in the spool and could not be.
	if len(e.pending) > 0 && e.failing {
		earlier(maxTime(e.oldest.Add(batchDelay), e.spillAt))
	}
	return max(next.Sub(now), time.Millisecond)
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// cut takes the lines of one send off the front of pending.
func (e *Emitter) cut() [][]byte {
	n, size := 0, 0
	for n < len(e.pending) && n < e.maxLines && (n == 0 || size+len(e.pending[n]) <= backlogBytes) {
		size += len(e.pending[n])
		n++
	}
	lines := e.pending[:n:n]
	e.pending = e.pending[n:]
	if len(e.pending) == 0 {
		e.pending = nil // the lines on their way still use its array
	}
	e.pendingBytes -= size
	return lines
}

func (e *Emitter) sendSpooled(now time.Time) {
	lines, end, bad, err := e.spool.next(e.maxLines, backlogBytes)
	if err != nil {
		e.fail(now, err)
		return
	}
	if len(lines) == 0 {
		e.dropBad(bad)
		e.advance(end)
		return
	}
	e.send(flight{lines: lines, fromSpool: true, end: end, bad: bad})
}

// send starts a send; its outcome arrives in results.
func (e *Emitter) send(f flight) {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	f.cancel = cancel
	e.flight, e.busy = f, true
	go func() { e.results <- e.opts.Send(ctx, Batch{Events: f.lines}) }() // received by run or finish, always
}

// settle takes in the outcome of the send under way.
func (e *Emitter) settle(err error, now time.Time) {
	f := e.flight
	f.cancel()
	e.flight, e.busy = flight{}, false
	refused := api.IsCode(err, api.CodeInvalid) || api.IsCode(err, api.CodeTooLarge)
	switch {
	case err == nil:
		e.sent.Add(uint64(len(f.lines)))
		e.maxLines = maxLines
	case refused && len(f.lines) == 1:
		// One line that nobody takes must not hold up the others for ever.
		e.refused.Add(1)
		e.opts.Logger.Error("an audit event was refused and is left out", "error", err, "bytes", len(f.lines[0]))
		e.maxLines = maxLines
	case refused:
		e.maxLines = len(f.lines) / 2
		e.putBack(f, now)
		return
	default:
		e.putBack(f, now)
		e.fail(now, err)
		return
	}
	if f.fromSpool {
		e.dropBad(f.bad)
		e.advance(f.end)
	}
	if e.failing {
		e.opts.Logger.Info("audit events reach the cluster again", "spool_bytes", e.spooled.Load())
	}
	e.failing, e.backoff = false, 0
	e.tellLost()
}

// putBack returns the lines of a failed send to the front, due at once.
func (e *Emitter) putBack(f flight, now time.Time) {
	if f.fromSpool {
		return // they still are there
	}
	e.pending = append(f.lines, e.pending...)
	for _, l := range f.lines {
		e.pendingBytes += len(l)
	}
	e.oldest = now.Add(-batchDelay)
}

// fail notes that events cannot be sent now. Backing off needs no jitter: there
// is one Emitter a replica.
func (e *Emitter) fail(now time.Time, err error) {
	e.retries.Add(1)
	if !e.failing {
		e.opts.Logger.Warn("audit events cannot reach the cluster: keeping them on this replica", "error", err)
	}
	e.failing = true
	e.backoff = min(max(2*e.backoff, backoffMin), backoffMax)
	e.retryAt = now.Add(e.backoff)
}

// spill moves pending to the spool. If that fails they stay in memory.
func (e *Emitter) spill(now time.Time) {
	if e.spool == nil || now.Before(e.spillAt) {
		return
	}
	if err := e.spool.add(e.pending); err != nil {
		e.opts.Logger.Error("audit events cannot be spooled: they wait in memory", "error", err,
			"events", len(e.pending), "spool_bytes", e.spool.bytes())
		// The same complaint would come with every event.
		e.spillAt = now.Add(spillRetry)
		return
	}
	e.pending, e.pendingBytes = nil, 0
	e.spooled.Store(e.spool.bytes())
}

func (e *Emitter) advance(end int64) {
	if err := e.spool.advance(end); err != nil {
		e.opts.Logger.Warn("audit spool: its lines will be sent again after a restart", "error", err)
	}
	e.spooled.Store(e.spool.bytes())
}

func (e *Emitter) dropBad(n int) {
	if n > 0 {
		e.lose(n, "lines of the spool were harmed on the disk")
	}
}

// tellLost puts into the audit log itself how many events it lacks.
func (e *Emitter) tellLost() {
	missing := e.lost.Load() + e.refused.Load()
	if missing == e.lostTold {
		return
	}
	n := missing - e.lostTold
	e.lostTold = missing
	e.add(api.Event{Event: api.EventLost, Code: api.EventCodeLost, Fields: map[string]any{"count": n}})
}

// finish sends or spools what is in memory, within the context given to Close.
func (e *Emitter) finish() error {
	ctx := e.closeCtx
	for ev := range e.queue { // what the bound on memory held back
		e.add(ev)
	}
	for e.busy || len(e.pending) > 0 && !e.failing && ctx.Err() == nil {
		if !e.busy {
			e.send(flight{lines: e.cut()})
		}
		select {
		case err := <-e.results:
			e.settle(err, time.Now())
		case <-ctx.Done():
			e.flight.cancel()
			e.settle(<-e.results, time.Now())
		}
	}
	left := len(e.pending)
	e.spillAt = time.Time{}
	if left > 0 {
		e.spill(time.Now())
	}
	var err error
	if n := len(e.pending); n > 0 {
		e.lose(n, "they could neither be sent nor spooled before the stop")
		err = fmt.Errorf("close audit emitter: %d events are lost", n)
		e.pending = nil
	}
	e.queued.Store(0)
	if e.spool != nil {
		err = errors.Join(err, e.spool.close())
	}
	return err
}
