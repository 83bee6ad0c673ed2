package forward

import (
	"context"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// How a sender goes on after failures.
const (
	retryMin, retryMax = 2 * time.Second, time.Minute // of which half is jitter
	slowMin, slowMax   = 10 * time.Second, 5 * time.Minute
	splitRest          = time.Second // before the half of a batch is tried
	maxRetryAfter      = 5 * time.Minute

	giveUpTries = 10 // before a line may be given up that the receiver refuses
	giveUpAfter = 10 * time.Minute
	// While a line that was given up shows that the receiver judges lines, those that it
	// refuses alike are tried so often.
	likeTries = 3
	likeFor   = time.Hour
	minPiece  = 16 << 10 // bytes of a batch, however little the receiver takes
)

// trouble is what a sender knows of how its receiver fails.
type trouble struct {
	fast, slow int // failures in a row, of either sort
	events     int // that a batch may have until some are taken; 0: all
	bytes      int // that a batch may have for a receiver that takes no more; 0: batchBytes

	line   uint64 // that is refused, sent alone
	tries  int    // of that line
	since  time.Time
	probe  int // with which line after it the search for one that is taken begins
	logged time.Time

	// A line that was given up after all its tries: how it was refused, when, and the line
	// that was taken then.
	status int
	proven time.Time
	other  uint64
}

// portion is how many events the next request may have.
func (s *sender) portion() int {
	n := len(s.pending)
	if s.trouble.events > 0 {
		n = min(n, s.trouble.events)
	}
	if s.trouble.bytes > 0 {
		size := 0
		for i, ev := range s.pending[:n] {
			if size += len(ev.text) + 1; i > 0 && size > s.trouble.bytes {
				return i
			}
		}
	}
	return n
}

// deliver sends the batch, or a part of it, once; after a failure it rests.
func (s *sender) deliver(ctx context.Context) error {
	batch := s.pending[:s.portion()]
	answer, failure := s.receiver.send(ctx, batch)
	if failure == nil {
		s.taken(batch, answer)
		return s.saveIfDue(ctx)
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was broken off, and says nothing of the receiver
	}
	s.failed(failure)
	rest := s.backoff(failure)
	switch {
	case failure.sort == ofContent && len(batch) > 1:
		// Which line is it, or are they too many?
		s.trouble.events, s.trouble.slow = len(batch)/2, 0
		if failure.tooLarge {
			size := 0
			for _, ev := range batch {
				size += len(ev.text) + 1
			}
			s.trouble.bytes = max(size/2, minPiece)
		}
		rest = max(splitRest, failure.retryAfter)
	case failure.sort == ofContent:
		skipped, err := s.refused(ctx, failure)
		if err != nil || skipped {
			return err
		}
	}
	return s.rest(ctx, rest)
}

// taken notes that the receiver has a batch.
func (s *sender) taken(batch []event, answer answer) {
	if answer.rejected > 0 {
		s.partly(batch, answer)
	}
	s.trouble.fast, s.trouble.slow, s.trouble.line, s.trouble.tries = 0, 0, 0, 0
	if s.trouble.events > 0 {
		if s.trouble.events *= 2; s.trouble.events >= batchEvents {
			s.trouble.events = 0
		}
	}
	if !s.cursor.Failing.IsZero() {
		s.log.Info("an audit forwarder's receiver takes events again", "failing_since", s.cursor.Failing)
		s.cursor.Failing, s.cursor.Error, s.dirty = time.Time{}, "", true
		s.trouble.logged = time.Time{}
	}
	s.drop(len(batch))
}

// partly notes what a receiver says it dropped of a batch that it took: it may not be
// sent again (OTLP, "Partial Success"). The event about it is not written for each
// batch, and never about batches of such events alone, which would have no end.
func (s *sender) partly(batch []event, a answer) {
	count := min(a.rejected, uint64(len(batch)))
	about := true
	for _, ev := range batch {
		if name, _ := identify(ev.text); name != api.EventForwardSkipped {
			about = false
		}
	}
	s.log.Warn("an audit forwarder's receiver dropped events", "count", count, "reason", a.message)
	if about {
		s.cursor.Skipped, s.dirty = s.cursor.Skipped+count, true
		return
	}
	if s.rejected.Count == 0 {
		s.rejected.From = batch[0].number
	}
	s.rejected.To, s.rejected.Count = batch[len(batch)-1].number, s.rejected.Count+count
	s.rejected.Reason = "the receiver took the batch and dropped some of it"
	if a.message != "" {
		s.rejected.Reason += ": " + a.message
	}
}

// failed notes that the receiver took nothing.
func (s *sender) failed(f *failure) {
	if s.cursor.Failing.IsZero() {
		s.cursor.Failing, s.dirty = s.now(), true
	}
	if s.cursor.Error != f.text {
		s.cursor.Error, s.dirty = f.text, true
	}
	if now := s.o.Clock(); s.trouble.logged.IsZero() || now.Sub(s.trouble.logged) >= warnEvery {
		s.trouble.logged = now
		s.log.Warn("an audit forwarder's receiver takes no events; they wait in the log, and it is tried again", "error", f.text)
	}
}

// backoff is how long to leave the receiver in peace. Who refuses us will hardly think
// better of it within a second.
func (s *sender) backoff(f *failure) time.Duration {
	failures, least, most := &s.trouble.fast, retryMin, retryMax
	if f.sort != ofPassing {
		failures, least, most = &s.trouble.slow, slowMin, slowMax
	}
	d := most
	if *failures < 10 {
		d = min(most, least<<*failures)
	}
	*failures++
	d = d/2 + time.Duration(s.o.Rand()*float64(d/2))
	return max(d, f.retryAfter)
}

// rest waits before the next try, and saves meanwhile.
func (s *sender) rest(ctx context.Context, d time.Duration) error {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		if err := s.saveIfDue(ctx); err != nil {
			return err
		}
		var again <-chan time.Time
		if s.dirty {
			again = time.After(saveEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-over.C:
			return nil
		case <-again:
		}
	}
}

// refused judges a line that the receiver refuses though it is alone. It is given up
// when it was tried often and long enough and the receiver takes another line: one that
// takes none is not well, and the line not to blame. The other line is sent again in
// its place.
//
// Whoever can get one odd line into the log can get a thousand in. So those that follow
// are tried less, for a while, and told of together.
func (s *sender) refused(ctx context.Context, f *failure) (skipped bool, err error) {
	t, now := &s.trouble, s.o.Clock()
	number := s.pending[0].number
	alike := f.status != 0 && f.status == t.status && now.Sub(t.proven) < likeFor
	if t.line != number {
		t.line, t.tries, t.since, t.probe = number, 0, now, 0
	}
	t.tries++
	if alike && t.tries < likeTries || !alike && (t.tries < giveUpTries || now.Sub(t.since) < giveUpAfter) {
		return false, nil
	}
	if len(s.pending) == 1 {
		if _, err := s.read(ctx); err != nil {
			return false, err
		}
	}
	if !s.takesAnother(ctx) {
		return false, nil // the receiver may be at fault: all wait
	}
	name, _ := identify(s.pending[0].text)
	s.log.Warn("an audit forwarder gives up a line that its receiver refuses", "number", number, "error", f.text)
	gone := api.ForwarderSkip{
		From: number, To: number, Count: 1, Reason: "the receiver refuses it and takes others: " + f.text,
		Quiet: name == api.EventForwardSkipped,
	}
	if alike {
		s.refusedAlike(gone)
	} else {
		if err := s.giveUp(ctx, number, gone); err != nil {
			return false, err
		}
		t.status, t.proven = f.status, now
	}
	t.slow, t.line, t.tries = 0, 0, 0
	s.drop(1)
	return true, s.saveIfDue(ctx)
}

// takesAnother says whether the receiver takes any of the lines that wait after a refused
// one. The one that it took before comes first, and then ones further and further away, as
// odd lines come in crowds; the next time it begins one line later.
func (s *sender) takesAnother(ctx context.Context) bool {
	t, n := &s.trouble, len(s.pending)-1
	first := max(0, slices.IndexFunc(s.pending, func(ev event) bool { return ev.number == t.other })-1) + t.probe
	t.probe++
	for step := 1; step <= n; step *= 2 {
		other := s.pending[1+(first+step-1)%n]
		_, failure := s.receiver.send(ctx, []event{other})
		if failure == nil {
			t.other = other.number
			return true
		}
		if failure.sort != ofContent {
			return false
		}
	}
	return false
}

// refusedAlike notes a line that is given up, to be told with others. Until then the
// cursor stays before it.
func (s *sender) refusedAlike(gone api.ForwarderSkip) {
	if gone.Quiet {
		s.cursor.Skipped, s.dirty = s.cursor.Skipped+1, true
		return
	}
	if s.refusals.Count == 0 {
		s.refusals.From = gone.From
	}
	s.refusals.To, s.refusals.Count = gone.To, s.refusals.Count+1
	s.refusals.Reason = "the receiver refuses them and takes others: " + s.cursor.Error
}
