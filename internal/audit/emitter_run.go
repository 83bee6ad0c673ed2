package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func (e *Emitter) run() {
	defer close(e.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		e.dispatch(now)
		e.queued.Store(int64(len(e.pending)))
		timer.Reset(e.wait(now))
		queue, stop := e.queue, (chan struct{})(nil)
		if e.full() {
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
		case c := <-e.commits:
			e.takeCommit(c, time.Now())
		case err := <-e.results:
			e.settle(err, time.Now())
		case err := <-e.syncs.results:
			e.synced(err, time.Now())
		case <-timer.C:
		}
	}
}

func (e *Emitter) full() bool { return e.pendingBytes >= 2*memoryBytes }

// take encodes one event and what else stands in the queue, up to a batch.
func (e *Emitter) take(ev api.Event) {
	_ = e.add(ev)
	e.drain()
}

func (e *Emitter) drain() {
	for e.pendingBytes < batchBytes {
		select {
		case ev, open := <-e.queue:
			if !open {
				return // run meets the closed queue next
			}
			_ = e.add(ev)
		default:
			return
		}
	}
}

// takeCommit gives a commit's event its place, unless it is known that it could
// be made durable nowhere.
func (e *Emitter) takeCommit(c commit, now time.Time) {
	if e.full() || e.failing && (e.opts.Strict || e.spool == nil) {
		c.done <- e.errNowhere()
		return
	}
	e.drain() // what its caller recorded before stands before it
	if err := e.add(c.event); err != nil {
		c.done <- err
		return
	}
	e.recorded.Add(1)
	e.urgent = true
	e.waiters = append(e.waiters, waiter{e.number, now, c.done})
}

func (e *Emitter) errNowhere() error {
	err := errors.New("the cluster does not take events fast enough")
	if t := e.troubled(time.Now()); t != nil {
		err = fmt.Errorf("the cluster does not take it: %w", t.err)
	}
	if e.spillErr != nil && !e.opts.Strict {
		err = fmt.Errorf("%w; nor does the spool on this replica's disk: %w", err, e.spillErr)
	}
	return api.Errorf(api.CodeUnavailable, "the audit event of this request cannot be made durable, so the request was not begun: try again: %w", err)
}

// add encodes an event and numbers it.
func (e *Emitter) add(ev api.Event) error {
	line, err := Encode(e.opts.Source.complete(ev))
	if err != nil {
		e.refused.Add(1)
		e.opts.Logger.Error("audit event cannot be encoded", "error", err)
		return err
	}
	if len(e.pending) == 0 {
		e.oldest = time.Now()
	}
	e.number++
	e.pending = append(e.pending, numbered{e.epoch, e.number, line})
	e.pendingBytes += len(line)
	return nil
}

// duty is something that the Emitter does by itself. When it is due depends on the
// Emitter's state alone, which whatever is done changes: it is then no longer due,
// or later.
type duty struct {
	due func() (time.Time, bool) // false: not unless something happens
	do  func(now time.Time)
}

// newDuties are in the order in which they are done: what belongs into the spool is
// there before something is sent from it.
func (e *Emitter) newDuties() []duty {
	return []duty{
		{e.spillDue, e.spill},
		{e.syncDue, func(time.Time) { e.startSync() }},
		{e.giveUpDue, e.giveUp},
		{e.sendDue, e.sendNext},
	}
}

// dispatch does what is due.
func (e *Emitter) dispatch(now time.Time) {
	for _, d := range e.duties {
		if at, ok := d.due(); ok && !now.Before(at) {
			d.do(now)
		}
	}
}

// wait is how long dispatch has nothing to do unless something happens.
func (e *Emitter) wait(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	for _, d := range e.duties {
		if at, ok := d.due(); ok && at.Before(next) {
			next = at
		}
	}
	return max(next.Sub(now), time.Millisecond)
}

func (e *Emitter) spoolHolds() bool { return e.spool != nil && !e.spool.empty() }
func (e *Emitter) holds() bool      { return len(e.pending) > 0 || e.spoolHolds() }

// batchDue is when what is in memory is to be sent.
func (e *Emitter) batchDue() (time.Time, bool) {
	switch {
	case len(e.pending) == 0:
		return time.Time{}, false
	case e.urgent || e.pendingBytes >= batchBytes:
		return time.Time{}, true
	}
	return e.oldest.Add(batchDelay), true
}

// spillDue is when what is in memory belongs on the disk.
func (e *Emitter) spillDue() (time.Time, bool) {
	if e.spool == nil {
		return time.Time{}, false
	}
	at, ok := e.patience()
	if e.failing || e.spoolHolds() {
		if batch, is := e.batchDue(); is && (!ok || batch.Before(at)) {
			at, ok = batch, true
		}
	}
	if e.busy && e.pendingBytes >= memoryBytes {
		at, ok = time.Time{}, true
	}
	return later(at, e.spillAt), ok
}

// sendDue is when a send is to begin, or it is to be found that nothing is left that
// could fail.
func (e *Emitter) sendDue() (time.Time, bool) {
	switch {
	case e.busy:
		return time.Time{}, false
	case e.failing:
		return e.retryAt, true
	case e.spoolHolds():
		return time.Time{}, true
	}
	return e.batchDue()
}

// patience is when the oldest commit that is not in the spool yet gives up on
// the cluster alone.
func (e *Emitter) patience() (time.Time, bool) {
	if e.opts.Strict || e.spool == nil {
		return time.Time{}, false
	}
	for _, w := range e.waiters {
		if w.number > e.syncs.written {
			return w.since.Add(commitPatience), true
		}
	}
	return time.Time{}, false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sendNext sends what comes first. Lines never overtake those in the spool.
func (e *Emitter) sendNext(now time.Time) {
	if !e.holds() {
		e.recovered()
		return
	}
	if !e.spoolHolds() {
		e.send(flight{lines: e.cut(), began: now})
		return
	}
	lines, end, bad, err := e.spool.next(e.spool.front, e.maxLines, backlogBytes)
	if err != nil && !e.passOver(now, err) {
		e.fail(now, now, err)
		return
	}
	if err != nil {
		end, bad = e.spool.unreadable()
	}
	e.unreadable = 0
	f := flight{lines: lines, spooled: true, end: end, bad: bad, began: now}
	if len(lines) == 0 {
		e.advance(f)
		return
	}
	e.send(f)
}

// passOver says whether to give up what the disk does not give at the front of the
// spool: all events wait behind it.
func (e *Emitter) passOver(now time.Time, err error) bool {
	if e.unreadable++; e.unreadable == 1 {
		e.unreadableAt = now
	}
	if e.unreadable < unreadableTries || now.Sub(e.unreadableAt) < unreadableFor {
		return false
	}
	e.opts.Logger.Error("a part of the audit spool cannot be read and is passed over: its events are lost", "error", err, "file", e.opts.SpoolPath)
	return true
}

// cut takes the lines of one send off the front of pending.
func (e *Emitter) cut() []numbered {
	n, size := 0, 0
	for n < len(e.pending) && n < e.maxLines && (n == 0 || size+len(e.pending[n].line) <= backlogBytes) {
		if n > 0 && e.pending[n].number != e.pending[n-1].number+1 {
			break // one between them was refused
		}
		size += len(e.pending[n].line)
		n++
	}
	lines := e.pending[:n:n]
	e.pending = e.pending[n:]
	e.pendingBytes -= size
	if len(e.pending) == 0 {
		e.pending, e.urgent = nil, false // the lines on their way still use its array
	}
	return lines
}

// send starts a send; its outcome arrives in results.
func (e *Emitter) send(f flight) {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	f.cancel = cancel
	e.flight, e.busy = f, true
	e.sending.Store(f.began.UnixNano())
	b := Batch{Epoch: f.lines[0].epoch, First: f.lines[0].number, Events: make([][]byte, len(f.lines))}
	for i, l := range f.lines {
		b.Events[i] = l.line
	}
	go func() { e.results <- e.opts.Send(ctx, b) }() // received by run or finish, always
}

// settle takes in the outcome of the send under way.
func (e *Emitter) settle(err error, now time.Time) {
	f := e.flight
	f.cancel()
	e.flight, e.busy = flight{}, false
	last := f.lines[len(f.lines)-1]
	refused := api.IsCode(err, api.CodeInvalid) || api.IsCode(err, api.CodeTooLarge)
	switch {
	case err == nil:
		e.sent.Add(uint64(len(f.lines)))
		e.maxLines = maxLines
	case refused && len(f.lines) == 1:
		// One line that nobody takes must not hold up the others for ever. Its
		// number stays empty.
		e.refuse(last.line, err, now)
		e.maxLines = maxLines
		err = api.Errorf(api.CodeUnavailable, "the cluster refuses the audit event of this request, so the request was not begun: %w", err)
	case refused:
		e.sending.Store(0)
		e.maxLines = len(f.lines) / 2
		e.putBack(f, now)
		return
	default:
		e.fail(now, f.began, err) // before sending is 0: there is trouble throughout
		e.sending.Store(0)
		e.putBack(f, now)
		return
	}
	if f.spooled {
		e.advance(f)
	}
	e.recovered()
	e.sending.Store(0)
	if last.epoch == e.epoch {
		// All before it are settled already.
		e.answer(err, func(w waiter) bool { return w.number <= last.number })
	}
	e.tellLost()
}

// refuse notes an event that the cluster will never take.
func (e *Emitter) refuse(line []byte, why error, now time.Time) {
	e.refused.Add(1)
	kept := e.refusals.path
	if err := e.refusals.add(line, why, now); err != nil {
		kept = "not kept: " + err.Error()
	}
	e.opts.Logger.Error("an audit event was refused and is left out of the audit log", "error", why, "bytes", len(line), "file", kept)
}

// putBack returns the lines of a failed send to the front, due at once.
func (e *Emitter) putBack(f flight, now time.Time) {
	if f.spooled {
		return // they still are there
	}
	e.pending = slices.Concat(f.lines, e.pending)
	for _, l := range f.lines {
		e.pendingBytes += len(l.line)
	}
	e.oldest = now.Add(-batchDelay)
}

// fail notes that events cannot be sent now. Backing off needs no jitter: there
// is one Emitter a replica.
func (e *Emitter) fail(now, since time.Time, err error) {
	e.retries.Add(1)
	if !e.failing {
		e.opts.Logger.Warn("audit events cannot reach the cluster: keeping them on this replica",
			"error", err, "requests_refused", e.opts.Strict)
	}
	if t := e.trouble.Load(); t != nil {
		since = t.since
	}
	e.trouble.Store(&trouble{since, err})
	e.failing = true
	e.backoff = min(max(2*e.backoff, backoffMin), backoffMax)
	e.retryAt = now.Add(e.backoff)
}

func (e *Emitter) recovered() {
	if e.failing {
		e.opts.Logger.Info("audit events reach the cluster again", "spool_bytes", e.spooled.Load())
	}
	e.failing, e.backoff = false, 0
	e.trouble.Store(nil)
}

// answer ends the commits that are concerned.
func (e *Emitter) answer(err error, concerned func(waiter) bool) {
	e.waiters = slices.DeleteFunc(e.waiters, func(w waiter) bool {
		if !concerned(w) {
			return false
		}
		w.done <- err
		return true
	})
}

// giveUpDue is when the first commit ends that can be made durable nowhere for now: the
// cluster fails, and the disk does not help.
func (e *Emitter) giveUpDue() (time.Time, bool) {
	if i := slices.IndexFunc(e.waiters, e.nowhere); e.failing && i >= 0 {
		return e.waiters[i].since.Add(commitPatience), true
	}
	return time.Time{}, false
}

func (e *Emitter) giveUp(now time.Time) {
	e.answer(e.errNowhere(), func(w waiter) bool { return e.nowhere(w) && now.Sub(w.since) >= commitPatience })
}

// nowhere says that a commit can't count on the disk.
func (e *Emitter) nowhere(w waiter) bool {
	onDisk := e.spool != nil && !e.opts.Strict &&
		(w.number > e.syncs.untrusted && w.number <= e.syncs.written || w.number > e.syncs.written && e.spillErr == nil)
	return !onDisk
}

// spill moves what is in memory to the spool. Lines on their way go first, so
// that they stay ahead should they have to be sent again. What the spool does
// not take stays in memory.
func (e *Emitter) spill(now time.Time) {
	if e.spool == nil {
		return
	}
	err := error(nil)
	if e.busy && !e.flight.spooled {
		if _, err = e.spool.add(e.flight.lines, len(e.flight.lines)); err == nil {
			e.flight.spooled, e.flight.end = true, e.spool.end
			e.syncs.wrote(e.flight.lines, now)
		}
	}
	if err == nil && len(e.pending) > 0 {
		var n int
		n, err = e.spool.add(e.pending, 0)
		e.syncs.wrote(e.pending[:n], now)
		for _, l := range e.pending[:n] {
			e.pendingBytes -= len(l.line)
		}
		if e.pending = e.pending[n:]; len(e.pending) == 0 {
			e.pending, e.urgent = nil, false
		}
	}
	e.noteSpool()
	if e.spillErr = err; err != nil {
		if now.Sub(e.spillTold) >= spillTell { // a disk may be full for days, and what is said of it be on that disk
			e.spillTold = now
			e.opts.Logger.Error("audit events cannot be spooled: they wait in memory, and are lost if this replica ends before there is room", "error", err,
				"events", len(e.pending), "spool_bytes", e.spool.bytes())
		}
		e.spillAt = now.Add(spillRetry)
	}
}

// advance takes the lines of a flight off the spool.
func (e *Emitter) advance(f flight) {
	e.dropBad(f.bad)
	var last numbered
	if n := len(f.lines); n > 0 {
		last = f.lines[n-1]
	}
	err := e.spool.advance(f.end, len(f.lines)+f.bad, last)
	if err != nil {
		e.opts.Logger.Warn("audit spool: its lines will be sent again after a restart", "error", err)
	}
	e.tidy()
	e.noteSpool()
}

// tidy empties the file when it can; while a sync is under way, that could block.
func (e *Emitter) tidy() {
	if e.syncs.busy {
		return
	}
	if err := e.spool.tidy(); err != nil {
		e.opts.Logger.Warn("audit spool: the file cannot be emptied", "error", err)
	}
}

func (e *Emitter) noteSpool() {
	e.spooled.Store(e.spool.bytes())
	e.spoolEvents.Store(e.spool.events)
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
	_ = e.add(api.Event{Event: api.EventLost, Code: api.EventCodeLost, Fields: map[string]any{"count": n}})
}

// finish sends or spools what is in memory, within the context given to Close.
func (e *Emitter) finish() error {
	ctx := e.closeCtx
	for ev := range e.queue { // what the bound on memory held back
		_ = e.add(ev)
	}
	e.spillAt = time.Time{}
	if e.failing || e.spoolHolds() {
		e.spill(time.Now())
	}
	for ctx.Err() == nil && (e.busy || e.holds() && !e.failing) {
		if !e.busy {
			e.sendNext(time.Now())
			continue
		}
		select {
		case err := <-e.results:
			e.settle(err, time.Now())
		case <-ctx.Done():
		}
	}
	e.spillAt = time.Time{}
	if e.busy {
		e.spill(time.Now()) // before the wait: it may be a kill that comes next
		e.flight.cancel()
		e.settle(<-e.results, time.Now())
	}
	e.spillAt = time.Time{}
	if len(e.pending) > 0 {
		e.spill(time.Now())
	}
	var err error
	if n := len(e.pending); n > 0 {
		e.lose(n, "they could neither be sent nor spooled before the stop")
		err = fmt.Errorf("close audit emitter: %d events are lost", n)
		e.pending, e.pendingBytes = nil, 0
	}
	e.queued.Store(0)
	if e.spool != nil {
		err = errors.Join(err, e.closeSpool())
	}
	e.answer(errStopping(), func(waiter) bool { return true })
	return err
}
