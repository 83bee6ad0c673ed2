package audit

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// How the Emitter batches. Each batch is an entry of Raft's log, for which state
// writes wait: few large ones are in their way less often than many small ones
// (docs/adr/052). What has piled up goes in larger pieces, still far below an
// entry's bound.
const (
	batchDelay   = 100 * time.Millisecond
	batchBytes   = 192 << 10
	backlogBytes = 256 << 10
	memoryBytes  = 1 << 20 // encoded lines in memory before they go to the spool
	maxLines     = 1 << 16 // of a batch; its bytes are bounded much lower as a rule

	sendTimeout = 15 * time.Second // above the 5 s for which a proposal waits for a leader
	backoffMin  = 100 * time.Millisecond
	backoffMax  = 10 * time.Second
	spillRetry  = time.Second // after the spool could not take lines
	spillTell   = time.Minute // between two complaints of that
	spoolSync   = time.Second // how often the spool is synced while lines are added to it
	closeGrace  = 2 * time.Second
	warnEvery   = 10 * time.Second

	unreadableFor   = time.Minute // until a part of the spool that the disk does not give counts as lost
	unreadableTries = 10
	refusedBytes    = 16 << 20 // of events that the cluster will never take, in a file of their own

	commitPatience = time.Second     // with the cluster, before Commit turns to the spool
	hungAfter      = 3 * time.Second // without an answer, a send counts as failed for Admit

	defaultQueue      = 16 << 10
	defaultSpoolBytes = 256 << 20
)

// EmitterOptions say where events go. Send alone is required.
type EmitterOptions struct {
	// Send brings the events of a batch, without its origin, to the cluster and
	// returns once they are committed. It honours its context. An error may mean
	// that they were committed all the same (api.CodeAmbiguous): they are sent
	// again, and their numbers tell the repeat. Errors with api.CodeInvalid or
	// api.CodeTooLarge mean "never": once the event that is meant has been found, it
	// is kept in a file beside the spool.
	Send func(ctx context.Context, b Batch) error

	Source     Source       // completes events that lack a time, an id, a cluster name
	SpoolPath  string       // where lines wait while Send fails; "": in memory alone
	SpoolBytes int64        // bound of what waits there; 0: 256 MiB
	Queue      int          // events waiting to be encoded; 0: 16384
	Strict     bool         // Admit refuses while events cannot reach the cluster, and Commit does not settle for the spool
	Logger     *slog.Logger // nil: slog.Default
	Rand       io.Reader    // of the epoch; nil: crypto/rand

	openSpool func(path string) (spoolFile, error) // nil: openPrivate
}

// EmitterStats count events since start, and what waits now.
type EmitterStats struct {
	Recorded uint64 // taken by Record and Commit
	Sent     uint64 // committed
	Retries  uint64 // sends that failed and are tried again
	Lost     uint64 // could be kept nowhere
	Refused  uint64 // the cluster will never take
	Queued   int64  // in memory

	SpoolBytes  int64 // in the spool file, not yet sent
	SpoolEvents int64
	SpoolLimit  int64 // of SpoolBytes; 0: there is no spool

	FailingSince time.Time // no event has reached the cluster since; zero: all is well
	LastError    string    // of the last send; "" unless failing

	RefusedPath string // file with refused events, of this run or an earlier one; "": there is none
}

// Emitter takes the events of requests off the request's path: it encodes,
// numbers, batches (100 ms or 192 KiB) and sends them from one goroutine, which
// alone owns everything below but the counters.
//
// Events are sent strictly in the order of their numbers, one batch at a time,
// and none before the one ahead has been committed or refused for good: the
// cluster remembers one number per epoch and drops what is not above it, so an
// event that was overtaken would be lost.
//
// While sending fails, lines go to the spool file and follow when it works
// again. What is in the spool is always ahead of what is in memory: lines of a
// batch under way are written before the others, and the batch is then one from
// the spool. When the spool is full or its disk fails too, memory fills, then the
// queue, and then Record counts an event as lost, which the log of the replica
// says at once and the audit log as soon as it can: a hole in it is never
// silent.
type Emitter struct {
	opts    EmitterOptions
	epoch   uint64
	queue   chan api.Event
	commits chan commit   // unbuffered: who has given one is answered
	done    chan struct{} // closed when run has returned

	// closing guards queue against a send after its close.
	closing  sync.RWMutex
	closed   bool
	stop     chan struct{}   // closed with queue
	closeCtx context.Context //nolint:containedctx // Close hands it to run, which ends within it
	closeErr error

	recorded, sent, retries, lost, refused atomic.Uint64
	queued, spooled, spoolEvents           atomic.Int64
	warned                                 atomic.Int64 // unix ns of the last warning of Record
	sending                                atomic.Int64 // unix ns of the start of the send under way; 0: none
	trouble                                atomic.Pointer[trouble]

	// Owned by run.
	duties       []duty
	number       uint64     // of the last event taken
	pending      []numbered // encoded, oldest first
	pendingBytes int
	oldest       time.Time // when pending last began to wait
	urgent       bool      // pending waits for no batch
	waiters      []waiter  // calls of Commit, oldest first
	spool        *spool    // nil: none
	spillAt      time.Time // not before, after the spool failed
	spillErr     error     // why it failed; nil: it did not
	spillTold    time.Time // when that was logged last
	syncs        syncState
	flight       flight
	busy         bool
	results      chan error
	maxLines     int // of a send; lowered to find the line that is refused
	failing      bool
	backoff      time.Duration
	retryAt      time.Time
	lostTold     uint64 // of lost and refused, how many an event has told of
	refusals     refusals
	unreadable   int // tries to read the front of the spool that failed, and since when
	unreadableAt time.Time
}

// trouble says why events don't reach the cluster.
type trouble struct {
	since time.Time
	err   error
}

// commit is a call of Commit.
type commit struct {
	event api.Event
	done  chan error // has room
}

// waiter is a commit whose event has a number.
type waiter struct {
	number uint64
	since  time.Time
	done   chan error
}

// flight is what a send in progress carries.
type flight struct {
	lines   []numbered
	spooled bool  // they also stand at the spool's front
	end     int64 // spool offset behind the lines
	bad     int   // lines left out because the disk had harmed them
	began   time.Time
	cancel  context.CancelFunc
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
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	var refused refusals
	if opts.openSpool == nil {
		opts.openSpool = func(path string) (spoolFile, error) { return openPrivate(path, 0) }
		if opts.SpoolPath != "" {
			refused.path = opts.SpoolPath + ".refused"
		}
	}
	epoch, err := newEpoch(opts.Rand)
	if err != nil {
		return nil, fmt.Errorf("start audit emitter: %w", err)
	}
	e := &Emitter{
		opts:     opts,
		epoch:    epoch,
		queue:    make(chan api.Event, opts.Queue),
		commits:  make(chan commit),
		done:     make(chan struct{}),
		stop:     make(chan struct{}),
		results:  make(chan error, 1),
		maxLines: maxLines,
		refusals: refused,
		syncs:    syncState{results: make(chan error, 1)},
	}
	e.duties = e.newDuties()
	if opts.SpoolPath != "" {
		if err := e.open(); err != nil {
			return nil, fmt.Errorf("open audit spool %s: %w", opts.SpoolPath, err)
		}
	}
	go e.run()
	return e, nil
}

// newEpoch draws what tells the numbers of this run from those of all others. It
// is not the last epoch plus one: that could stand on a disk that was set back.
func newEpoch(random io.Reader) (uint64, error) {
	for range 8 {
		var b [8]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("no randomness: %w", err)
		}
		if n := binary.BigEndian.Uint64(b[:]) >> 1; n != 0 {
			return n, nil
		}
	}
	return 0, errors.New("the source of randomness gives zeros alone")
}

// open opens the spool. What is none, or can't be read, is kept beside: a replica
// starts without what is in it rather than not at all.
func (e *Emitter) open() error {
	path := e.opts.SpoolPath
	for tries := 0; ; tries++ {
		file, err := e.opts.openSpool(path)
		if err != nil {
			return err
		}
		if e.spool, err = openSpool(file, e.opts.SpoolBytes); err == nil {
			break
		}
		if tries > 0 {
			return err
		}
		aside := path + ".old-" + strconv.FormatUint(e.epoch, 16)
		e.opts.Logger.Error("the audit spool cannot be read: its events stay in a file of their own and are not sent",
			"error", err, "file", aside)
		if err := os.Rename(path, aside); err != nil {
			return err
		}
	}
	if !e.spool.empty() { // what the run before had no time to sync
		e.syncs.dirty, e.syncs.due = true, time.Now()
	}
	e.noteSpool()
	return nil
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
// which it turns to if sending fails or takes longer than a second. It does not
// wait for a batch to fill, nor longer than ctx.
//
// An error has api.CodeUnavailable and says why. The event may come into the log
// all the same.
func (e *Emitter) Commit(ctx context.Context, ev api.Event) error {
	if ev.Time.IsZero() {
		ev.Time = e.opts.Source.now()
	}
	c := commit{event: ev, done: make(chan error, 1)}
	select {
	case <-e.stop: // rather than by chance below
		return errStopping()
	default:
	}
	select {
	case e.commits <- c:
	case <-e.stop:
		return errStopping()
	case <-ctx.Done():
		return e.errLate(ctx)
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-c.done:
		return err
	default:
		return e.errLate(ctx)
	}
}

func errStopping() error {
	return api.Errorf(api.CodeUnavailable, "this replica is stopping and takes no more audit events: try again")
}

func (e *Emitter) errLate(ctx context.Context) error {
	err := context.Cause(ctx)
	if t := e.troubled(time.Now()); t != nil {
		err = t.err
	}
	return api.Errorf(api.CodeUnavailable, "the audit event of this request could not be made durable in time, so the request was not begun: try again: %w", err)
}

// Admit says whether a new request may begin: its error, with
// api.CodeUnavailable, says why not. It is nil unless Strict.
func (e *Emitter) Admit() error {
	if !e.opts.Strict {
		return nil
	}
	const policy = "and the audit policy \"strict\" refuses new requests until they do; try again shortly, and if this lasts, an administrator should look at `tctl status`"
	if t := e.troubled(time.Now()); t != nil {
		return api.Errorf(api.CodeUnavailable, "audit events have not reached the cluster since %s (%w), %s",
			t.since.UTC().Format(time.RFC3339), t.err, policy)
	}
	if n := e.spoolEvents.Load(); n > 0 {
		return api.Errorf(api.CodeUnavailable, "%d audit events of earlier requests still have to reach the cluster, %s", n, policy)
	}
	return nil
}

// troubled says why events don't reach the cluster; nil: they do, as far as known.
func (e *Emitter) troubled(now time.Time) *trouble {
	if t := e.trouble.Load(); t != nil {
		return t
	}
	if ns := e.sending.Load(); ns != 0 && now.Sub(time.Unix(0, ns)) >= hungAfter {
		return &trouble{time.Unix(0, ns), errors.New("the cluster does not answer")}
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
	s := EmitterStats{
		Recorded: e.recorded.Load(), Sent: e.sent.Load(), Retries: e.retries.Load(),
		Lost: e.lost.Load(), Refused: e.refused.Load(),
		Queued: e.queued.Load() + int64(len(e.queue)), SpoolBytes: e.spooled.Load(), SpoolEvents: e.spoolEvents.Load(),
	}
	if e.opts.SpoolPath != "" {
		s.SpoolLimit = e.opts.SpoolBytes
	}
	s.RefusedPath = e.refusals.exists()
	if t := e.troubled(time.Now()); t != nil {
		s.FailingSince, s.LastError = t.since, t.err.Error()
	}
	return s
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
