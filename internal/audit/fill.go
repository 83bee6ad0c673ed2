package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// How long Keep waits: between two rounds at least, for a file that somebody may
// have deleted at most, and after rounds that failed.
const (
	roundEvery   = 100 * time.Millisecond
	lookEvery    = 15 * time.Second
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 10 * time.Second
	tellEvery    = 10 * time.Second // progress
)

// KeepOptions of Keep.
type KeepOptions struct {
	Peers           func() []string // whom to ask
	Fetch           func(ctx context.Context, peer string, r FetchRequest) (FetchAnswer, error)
	ManifestChanged func() <-chan struct{} // closed when segments or floor change; nil: Keep looks now and then
}

var (
	errNone  = errors.New("has none of the lines")
	errAgain = errors.New("the manifest has changed meanwhile") // not a failure
	errWait  = errors.New("the state is not as far as the journal yet")
)

// Keep makes the files what the manifest says, until the context ends: it
// fetches what is missing (a gap, and segments whose files are gone) from peers,
// and removes what is no longer kept.
//
// Nothing that a peer says is believed. Lines are written to a file of their own,
// each must follow the one before by the chain, and the last must have the hash that the
// replicated store gives: only then does the file get its name. One peer is asked
// for all of a segment: if the hash is wrong in the end, it is known whose fault
// that is.
//
// The gap is closed segment by segment, oldest first. A crash in between loses
// the fetched part of one segment at most.
func (j *Journal) Keep(ctx context.Context, opts KeepOptions) {
	k := &keeper{j: j, opts: opts}
	backoff := firstBackoff
	for {
		var changed <-chan struct{}
		if opts.ManifestChanged != nil {
			changed = opts.ManifestChanged() // before the manifest is read
		}
		err := k.round(ctx)
		j.writeAgain()
		j.mu.Lock()
		if j.keepErr = err; errors.Is(err, errWait) {
			j.keepErr = nil
		}
		j.mu.Unlock()
		pause, patience := roundEvery, lookEvery
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			backoff = firstBackoff
		case errors.Is(err, errWait):
			patience = firstBackoff
		default:
			k.complain(err)
			pause = backoff/2 + rand.N(backoff) //nolint:gosec // jitter
			patience, changed = pause, nil
			backoff = min(2*backoff, maxBackoff)
		}
		if !sleep(ctx, pause, nil, nil) || !sleep(ctx, patience-pause, changed, j.wake) {
			return
		}
	}
}

// writeAgain tries what a disk has not taken: there may be room again long before
// anybody writes the next line.
func (j *Journal) writeAgain() {
	j.mu.Lock()
	bad := j.log.err() != nil || j.gap != nil && j.gap.log.err() != nil
	j.mu.Unlock()
	if bad {
		_ = j.Sync() // logged, and kept for State
	}
}

// sleep ends early when one of the channels says so; false: the context has ended.
func sleep(ctx context.Context, d time.Duration, a, b <-chan struct{}) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-a:
	case <-b:
	}
	return true
}

// keeper is the state of Keep, used by its goroutine alone.
type keeper struct {
	j     *Journal
	opts  KeepOptions
	said  string    // what was last complained of
	asked int       // whom to ask first
	noted time.Time // when progress was last told; zero: nothing is being fetched

	floored uint64 // up to where lines below the floor have been removed
}

func (k *keeper) complain(err error) {
	if text := err.Error(); text != k.said {
		k.said = text
		k.j.logger.Warn("the audit log is not complete yet: trying again", "path", k.j.log.path, "error", err)
	}
}

// round does all that can be done now.
func (k *keeper) round(ctx context.Context) error {
	if k.j.manifest == nil {
		return nil
	}
	for {
		m, err := k.j.manifest()
		if err != nil {
			return fmt.Errorf("read the audit log's manifest: %w", err)
		}
		if err := k.look(m); err != nil {
			return err
		}
		if err := errors.Join(k.drop(m), k.trim(m)); err != nil {
			return fmt.Errorf("remove old parts of the audit log: %w", err)
		}
		more, err := k.advance(ctx, m)
		switch {
		case errors.Is(err, errAgain):
			sleep(ctx, 10*time.Millisecond, nil, nil) // the entry that changed it is about to be published
		case err != nil:
			return errors.Join(err, k.holes(ctx, m))
		case !more:
			if err := k.holes(ctx, m); err != nil {
				return err
			}
			k.finished()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (k *keeper) finished() {
	k.said = ""
	if !k.noted.IsZero() {
		k.noted = time.Time{}
		k.j.logger.Info("the audit log is complete again", "path", k.j.log.path, "last", k.j.State().Last)
	}
}

// look sees which files there are, and corrects what Open has inferred.
func (k *keeper) look(m Manifest) error {
	j := k.j
	j.syncing.Lock() // or a seal could come between reading the folder and saying what is there
	defer j.syncing.Unlock()
	j.mu.Lock()
	known := slices.Clone(j.sealed)
	j.mu.Unlock()
	sealed, err := j.scan(known)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.believe(m, known, sealed); err != nil {
		return err
	}
	if len(j.log.seals) > 0 || j.half {
		return nil
	}
	switch s, ok := m.segmentOf(j.last); {
	case m.Head.Number < j.last, j.gap == nil && m.Head.Number != j.last: // Write tells
	case j.first == j.last+1: // sealed, and the state may not know it yet
	case m.Head.Number > 0 && j.last >= m.Head.First:
		j.first = m.Head.First
	case ok && j.last == s.Last && j.begin == copyStart(s.Last+1) && j.begin != copyStart(s.First):
		j.first = j.last + 1
	case ok:
		j.first = s.First
	}
	return nil
}

// piece is a segment to be made.
type piece struct {
	first  uint64   // of the segment
	start  uint64   // first line of its file: a copy, or where the log begins
	from   uint64   // first own line of its file: first, or the floor
	sealed *Segment // nil: the one that is being written
	points map[uint64]chain.Hash
}

func (m Manifest) piece(s *Segment) piece {
	p := piece{first: m.Head.First, sealed: s, points: map[uint64]chain.Hash{m.Head.First - 1: m.Head.Prev}}
	if s != nil {
		p.first = s.First
		p.points = map[uint64]chain.Hash{s.First - 1: s.Prev, s.Last: s.Hash}
	}
	p.start, p.from = max(copyStart(p.first), m.Floor.First), max(p.first, m.Floor.First)
	if m.Floor.First > 0 {
		p.points[m.Floor.First-1] = m.Floor.Prev
	}
	return p
}

// next is the segment with which an open gap becomes smaller; first and last are
// those of events.log.
func (m Manifest) next(first, last uint64) piece {
	// One that is complete, but not sealed here, comes before the one behind it.
	if s, ok := m.segmentOf(first); ok && s.First == first && last >= first && last <= s.Last && s.Last >= m.Floor.First {
		return m.piece(&s)
	}
	if s, ok := m.segmentOf(max(last+1, m.oldest())); ok {
		return m.piece(&s)
	}
	return m.piece(nil)
}

// advance makes the next segment of an open gap; more says that there is another.
func (k *keeper) advance(ctx context.Context, m Manifest) (more bool, err error) {
	j := k.j
	j.mu.Lock()
	g, idle := j.gap, j.log.idle()
	j.mu.Unlock()
	if g == nil {
		return false, nil
	}
	if !idle { // what was to be written before the gap comes first
		if err := j.Sync(); err != nil {
			return false, err
		}
	}
	j.mu.Lock()
	g = j.gap
	to, last, known := g.to, g.last, j.latest(m).Number
	first, begin, have := j.first, j.begin, j.last
	j.mu.Unlock()
	if m.Head.Number < to || known < last {
		return false, errWait // while Raft's entries are given again after a start
	}
	p := m.next(first, have)
	base := first == p.first && have+1 >= p.from && (begin == 0 || begin >= m.Floor.First)
	d, err := k.build(ctx, p, base, to)
	if base && errors.Is(err, errBase) {
		// Whose fault that is the end tells: it has the hash that the cluster knows, or not.
		base = false
		if d, err = k.build(ctx, p, base, to); err == nil {
			j.logger.Error("the last line of the audit log is not the one that the cluster goes on from: its segment was fetched anew",
				"path", j.log.path, "number", have)
		}
	}
	if err != nil {
		return false, err
	}
	defer d.discard()
	if p.sealed == nil {
		return false, k.join(ctx, m, p, d, base)
	}
	if err := k.joinPending(m, d, p.sealed.Last); err != nil {
		return false, err
	}
	return true, k.finishSealed(m, p, d, base)
}

// holes fetches segments whose files are gone: a disk was cleaned by hand.
func (k *keeper) holes(ctx context.Context, m Manifest) error {
	var errs []error
	for i := range m.Segments {
		s := m.Segments[i]
		k.j.mu.Lock()
		_, there := k.j.sealedIndex(s.First)
		// Only what is before events.log: what is in it or behind it is not ours to make here.
		missing := !there && k.j.first > s.Last && s.Last >= m.Floor.First
		k.j.mu.Unlock()
		if !missing || ctx.Err() != nil {
			continue
		}
		d, err := k.build(ctx, m.piece(&s), false, s.Last)
		if err == nil {
			err = k.place(s, d)
			d.discard()
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
