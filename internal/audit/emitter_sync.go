package audit

import (
	"errors"
	"time"
)

// syncState is about making the spool's lines durable. A sync runs beside the
// Emitter's loop: a disk may take seconds for it, or never come back.
//
// Numbers are of this run's events; lines of earlier ones were synced by them,
// or nobody waits for them any more.
type syncState struct {
	written   uint64 // the last one in the file
	untrusted uint64 // up to it, a sync has failed: a later success says nothing about these
	dirty     bool   // lines were added since the last sync began
	due       time.Time
	held      time.Time // not before, after a failure
	busy      bool
	upTo      uint64     // what the one under way covers
	results   chan error // has room
}

// wrote notes lines that were added.
func (s *syncState) wrote(lines []numbered, now time.Time) {
	if len(lines) == 0 {
		return
	}
	s.written = lines[len(lines)-1].number
	if !s.dirty {
		s.dirty, s.due = true, now.Add(spoolSync)
	}
}

// syncDue is when the spool is to be synced next: at once if somebody waits.
func (e *Emitter) syncDue() (time.Time, bool) {
	s := &e.syncs
	if e.spool == nil || !s.dirty || s.busy {
		return time.Time{}, false
	}
	if !e.opts.Strict && len(e.waiters) > 0 {
		if n := e.waiters[len(e.waiters)-1].number; n > s.untrusted && e.waiters[0].number <= s.written {
			return s.held, true
		}
	}
	return later(s.due, s.held), true
}

func (e *Emitter) startSync() {
	s := &e.syncs
	s.busy, s.dirty, s.upTo = true, false, s.written
	file := e.spool.file
	go func() { s.results <- file.Sync() }() // received by run or closeSpool, unless the disk hangs for good
}

// synced takes in the outcome of a sync.
func (e *Emitter) synced(err error, now time.Time) {
	s := &e.syncs
	s.busy = false
	if err != nil {
		// The kernel may have dropped what it could not write, and would call the
		// next sync a success.
		s.untrusted = s.written
		s.dirty, s.due, s.held = true, now.Add(spoolSync), now.Add(spoolSync)
		e.opts.Logger.Error("the audit spool cannot be synced: a power cut now would take events", "error", err)
	} else {
		e.answerSynced()
	}
	e.tidy()
	e.noteSpool()
}

// answerSynced ends the commits whose lines a sync has covered.
func (e *Emitter) answerSynced() {
	if s := &e.syncs; !e.opts.Strict {
		e.answer(nil, func(w waiter) bool { return w.number > s.untrusted && w.number <= s.upTo })
	}
}

// closeSpool syncs and closes the file: an orderly stop is the moment when the
// machine may go down too. It does not wait for a disk that hangs.
func (e *Emitter) closeSpool() error {
	s := &e.syncs
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	hangs := errors.New("close audit spool: its disk does not answer")
	if s.busy {
		select {
		case err := <-s.results:
			e.synced(err, time.Now())
		case <-timer.C:
			return hangs
		}
	}
	e.tidy()
	s.upTo = s.written
	file, closed := e.spool.file, make(chan error, 1)
	go func() { closed <- errors.Join(file.Sync(), file.Close()) }()
	select {
	case err := <-closed:
		if err == nil {
			e.answerSynced()
		}
		return err
	case <-timer.C:
		return hangs
	}
}
