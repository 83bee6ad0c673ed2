package forward

import (
	"context"
	"encoding/json"
	"iter"
	"log/slog"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// How a sender reads and saves.
const (
	batchEvents = 500
	batchBytes  = 1 << 20
	batchDelay  = 200 * time.Millisecond // from the first line that waits

	lookAtOnce = 4096        // lines that a filter passes over before the cursor may be saved
	lookAgain  = time.Second // for lines that the cluster has and this replica lacks
	saveEvery  = time.Second // what a cursor may be written at most
	saveWithin = 10 * time.Second
	lastSave   = time.Second // what the end of the duty may take
	warnEvery  = 10 * time.Minute
	skipEvery  = time.Minute // events about lines that a receiver dropped, or refuses alike
)

// event is a line that is to be sent.
type event struct {
	number uint64
	text   []byte
}

// sender sends the lines of one forwarder, in order, one batch at a time. It belongs
// to one goroutine.
type sender struct {
	o        Options
	name     string
	log      *slog.Logger
	patterns []api.Pattern // nil: all lines
	receiver *receiver

	cursor api.ForwarderCursor
	dirty  bool      // the cursor is not saved
	saved  time.Time // when it was tried last
	warned time.Time

	next    uint64 // number of the first line that was not looked at yet
	pull    func() (audit.Line, error, bool)
	stop    func()
	held    *event  // read, and too large for the batch before it
	pending []event // the batch: the receiver has not taken these
	bytes   int     // of pending

	trouble trouble
	// not told yet: what the receiver said it dropped, and what it refuses alike
	rejected, refusals api.ForwarderSkip
	told               time.Time // when it was told last
}

func newSender(o Options, doc api.AuditForwarder, cursor api.ForwarderCursor, log *slog.Logger) (*sender, error) {
	s := &sender{o: o, name: doc.Metadata.Name, log: log, cursor: cursor, next: cursor.Number + 1}
	for _, text := range doc.Spec.Types {
		p, err := api.CompilePattern(text)
		if err != nil {
			return nil, err
		}
		s.patterns = append(s.patterns, p)
	}
	var err error
	s.receiver, err = newReceiver(doc, o)
	return s, err
}

// run sends until ctx ends. Any other end is an error: the cursor is not this
// sender's any more.
func (s *sender) run(ctx context.Context) (err error) {
	defer func() {
		s.rewind()
		s.receiver.close()
		if (s.dirty || s.untold()) && !api.IsCode(err, api.CodeNotFound) {
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSave)
			defer cancel()
			_ = s.tell(last) // the next leader repeats what this save would have spared it
			_ = s.save(last)
		}
	}()
	for ctx.Err() == nil {
		if err := s.fill(ctx); err != nil {
			return err
		}
		for len(s.pending) > 0 && ctx.Err() == nil {
			if err := s.deliver(ctx); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// fill waits for a batch: a full one, or what there is batchDelay after its first
// line.
func (s *sender) fill(ctx context.Context) error {
	waited := false
	for ctx.Err() == nil {
		changed := s.o.Source.Changed()
		got, err := s.read(ctx)
		if err != nil {
			return err
		}
		if len(s.pending) > 0 {
			if got == full || got == end && waited {
				return nil
			}
			if got == end {
				waited = true
				s.wait(ctx, batchDelay, nil)
			}
			continue
		}
		s.passed()
		if err := s.saveIfDue(ctx); err != nil {
			return err
		}
		if got == more {
			continue
		}
		patience := time.Hour
		if s.dirty {
			patience = saveEvery
		}
		if s.untold() {
			patience = min(patience, skipEvery)
		}
		if s.next <= s.o.Last() { // Changed says nothing of what another part of the journal fills
			patience = min(patience, lookAgain)
		}
		if waited = s.wait(ctx, patience, changed); waited { // more will follow: not one look for each
			s.wait(ctx, batchDelay, nil)
		}
	}
	return nil
}

// wait waits until something has changed, or for so long; it says whether it changed.
func (s *sender) wait(ctx context.Context, d time.Duration, changed <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-changed:
		return true
	}
	return false
}

// What came of read.
const (
	end  = iota // of the lines that there are now
	full        // the batch is
	more        // there are more lines: it was asked for no more at once
)

// read reads on into the batch.
func (s *sender) read(ctx context.Context) (int, error) {
	if s.held != nil {
		s.add(*s.held)
		s.held = nil
	}
	if first := s.o.First(); first > s.next {
		s.rewind()
		if len(s.pending) > 0 {
			return full, nil // these first: lines are given up in their turn
		}
		if err := s.lost(ctx, first-1); err != nil {
			return end, err
		}
	}
	if s.pull == nil {
		s.pull, s.stop = iter.Pull2(s.o.Source.Lines(s.next))
	}
	for range lookAtOnce {
		if len(s.pending) >= batchEvents {
			return full, nil
		}
		line, err, ok := s.pull()
		switch {
		case !ok, err == nil && line.Number > s.next: // the line is not here yet, or gone
			s.rewind()
			return end, nil
		case err != nil:
			s.rewind()
			s.warn("the audit log can be read", err)
			return end, nil
		case line.Number < s.next:
			continue
		}
		s.next++
		if !s.matches(line.Text) {
			continue
		}
		ev := event{line.Number, append([]byte(nil), line.Text...)}
		if len(s.pending) > 0 && s.bytes+len(ev.text) > batchBytes {
			s.held = &ev
			return full, nil
		}
		s.add(ev)
	}
	return more, nil
}

func (s *sender) add(ev event) {
	s.pending = append(s.pending, ev)
	s.bytes += len(ev.text) + 1
}

// rewind lets the journal go; it is opened again at the next line.
func (s *sender) rewind() {
	if s.stop != nil {
		s.stop()
	}
	s.pull, s.stop = nil, nil
}

// matches says whether a line is one of those that the forwarder sends.
func (s *sender) matches(line []byte) bool {
	if s.patterns == nil {
		return true
	}
	name, code := identify(line)
	for _, p := range s.patterns {
		if p.Match(name) || p.Match(code) {
			return true
		}
	}
	return false
}

// identify reads an event's name and code, by exactly these names: encoding/json
// would take an "Event" for an "event".
func identify(line []byte) (name, code string) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(line, &fields) == nil {
		_ = json.Unmarshal(fields["event"], &name)
		_ = json.Unmarshal(fields["code"], &code)
	}
	return name, code
}

// passed moves the cursor over what was looked at, as far as nothing waits, to be sent or
// to be told as given up.
func (s *sender) passed() {
	to := s.reached()
	if s.refusals.Count > 0 {
		to = min(to, s.refusals.From-1)
	}
	if to > s.cursor.Number {
		s.cursor.Number, s.dirty = to, true
	}
}

// reached is the last line that need not be looked at again.
func (s *sender) reached() uint64 {
	to := s.next - 1
	if s.held != nil {
		to = s.held.number - 1
	}
	if len(s.pending) > 0 {
		to = s.pending[0].number - 1
	}
	return to
}

// drop takes events from the front of the batch.
func (s *sender) drop(n int) {
	for _, ev := range s.pending[:n] {
		s.bytes -= len(ev.text) + 1
	}
	s.pending = s.pending[n:]
	if len(s.pending) == 0 {
		s.pending = nil // and the array with it
	}
	s.passed()
}

// lost gives up the lines that retention took, up to one.
func (s *sender) lost(ctx context.Context, to uint64) error {
	from := s.next
	s.log.Warn("retention took lines of the audit log before they were forwarded", "from", from, "to", to)
	if err := s.giveUp(ctx, to, api.ForwarderSkip{From: from, To: to, Count: to - from + 1, Reason: "retention took them before they were sent"}); err != nil {
		return err
	}
	s.next = to + 1
	return nil
}

// giveUp is skip, after what is to be told before it.
func (s *sender) giveUp(ctx context.Context, to uint64, skipped api.ForwarderSkip) error {
	if err := s.tell(ctx); err != nil {
		return err
	}
	s.told = s.o.Clock()
	return s.skip(ctx, to, skipped)
}

// skip moves the cursor over lines that are given up, and does not go on before the
// cluster has the event about them.
func (s *sender) skip(ctx context.Context, to uint64, skipped api.ForwarderSkip) error {
	for {
		c := s.cursor
		c.Number, c.Skipped = max(c.Number, to), c.Skipped+skipped.Count
		c.Updated = s.now()
		err := s.within(ctx, func(ctx context.Context) error { return s.o.Cursors.Skip(ctx, s.name, c, skipped) })
		if err == nil {
			s.cursor, s.dirty, s.saved = c, false, s.o.Clock()
			return nil
		}
		if ctx.Err() != nil || notOurs(err) {
			return err
		}
		s.warn("the cluster takes its cursor", err)
		s.wait(ctx, saveEvery, nil)
	}
}

// notOurs: somebody else sends for the forwarder now, or nobody does.
func notOurs(err error) bool {
	return api.IsCode(err, api.CodeNotFound) || api.IsCode(err, api.CodeConflict)
}

func (s *sender) within(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, saveWithin)
	defer cancel()
	return fn(ctx)
}

// saveIfDue saves the cursor, unless that was a moment ago.
func (s *sender) saveIfDue(ctx context.Context) error {
	if s.untold() && s.o.Clock().Sub(s.told) >= skipEvery {
		if err := s.tell(ctx); err != nil {
			return err
		}
	}
	if !s.dirty || s.o.Clock().Sub(s.saved) < saveEvery {
		return nil
	}
	return s.save(ctx)
}

// save saves the cursor. An error that is not for the next time says that the sender
// is done.
func (s *sender) save(ctx context.Context) error {
	if !s.dirty {
		return nil
	}
	c := s.cursor
	c.Updated, s.saved = s.now(), s.o.Clock()
	err := s.within(ctx, func(ctx context.Context) error { return s.o.Cursors.Save(ctx, s.name, c) })
	switch {
	case err == nil:
		s.cursor, s.dirty = c, false
	case notOurs(err):
		return err
	case ctx.Err() == nil:
		s.warn("the cluster takes its cursor", err)
	}
	return nil
}

func (s *sender) untold() bool { return s.rejected.Count > 0 || s.refusals.Count > 0 }

// tell writes the events about what the receiver dropped, or refuses alike.
func (s *sender) tell(ctx context.Context) error {
	for _, of := range []*api.ForwarderSkip{&s.refusals, &s.rejected} {
		if of.Count == 0 {
			continue
		}
		if err := s.skip(ctx, s.reached(), *of); err != nil {
			return err
		}
		*of, s.told = api.ForwarderSkip{}, s.o.Clock()
	}
	return nil
}

// now is the time as it is stored. What counts how long something took asks the Clock
// itself, which a step of the wall clock does not lead astray.
func (s *sender) now() time.Time { return s.o.Clock().UTC().Round(0) }

// warn logs now and then what a forwarder waits for.
func (s *sender) warn(until string, err error) {
	if now := s.o.Clock(); s.warned.IsZero() || now.Sub(s.warned) >= time.Minute {
		s.warned = now
		s.log.Warn("an audit forwarder waits", "until", until, "error", err)
	}
}
