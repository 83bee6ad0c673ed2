package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
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

// joinUnderLock is how many bytes of pending.log may be read while Write waits.
const joinUnderLock = 1 << 20

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

// putBack makes events.log anew from the open file, whose name is gone. mu and
// syncing are held.
func (j *Journal) putBack() error {
	info, err := j.log.file.Stat()
	if err != nil {
		return err
	}
	j.logger.Warn("events.log was deleted or replaced while it is being written: putting it back", "path", j.log.path)
	file, err := j.copyToName(j.log.file, 0, info.Size())
	if err != nil {
		return err
	}
	_ = j.log.file.Close()
	// What memory holds for it, a seal above all, is as it was.
	j.log.file, j.log.seen, j.dirty = file, lookup{}, true
	return j.settle()
}

// takePlace goes on with the part of a file from an offset on as events.log. mu and
// syncing are held.
func (j *Journal) takePlace(file logFile, size, off int64, begin uint64) error {
	placed, err := j.copyToName(file, off, size-off)
	if err != nil {
		return err
	}
	j.replace(placed, begin, j.first)
	return j.settle()
}

// copyToName gives n bytes of a file from an offset on, synced, the name events.log. The
// folder is for the caller to settle.
func (j *Journal) copyToName(file logFile, off, n int64) (logFile, error) {
	d, err := j.newDraft()
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(struct{ io.Writer }{d.file}, io.NewSectionReader(file, off, n))
	if err == nil {
		err = d.file.Sync()
	}
	if err == nil {
		err = j.fs.Rename(d.path, j.log.path)
	}
	if err != nil {
		d.giveUp()
		return nil, err
	}
	return d.file, nil
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

// place gives a fetched segment its name.
func (k *keeper) place(s Segment, d *draft) error {
	j := k.j
	if err := d.file.Sync(); err != nil {
		return err
	}
	return j.exclusively(func() error {
		if err := j.fs.Rename(d.path, filepath.Join(j.dir, sealedName(s.First))); err != nil {
			return err
		}
		j.dirty = true
		j.addSealed(sealedFile{first: s.First, last: s.Last, hash: s.Hash, size: d.size})
		return j.settleApart()
	})
}

// finishSealed puts a fetched segment in the place of what events.log had of it,
// and begins the next one.
func (k *keeper) finishSealed(m Manifest, p piece, d *draft, base bool) error {
	j := k.j
	if d.check.next != p.sealed.Last+1 {
		return errAgain // pending.log was replaced
	}
	if err := d.file.Sync(); err != nil {
		return err
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	var next logFile
	var begin uint64
	err := j.unlocked(func() (err error) {
		next, begin, err = j.nextFile(d.file, d.size, p.sealed.Last)
		return err
	})
	if err != nil {
		return err
	}
	if err = j.retire(m, p, base); err == nil {
		err = j.fs.Rename(d.path, filepath.Join(j.dir, sealedName(p.first)))
	}
	if err == nil {
		j.addSealed(sealedFile{first: p.first, last: p.sealed.Last, hash: p.sealed.Hash, size: d.size})
		err = j.fs.Rename(filepath.Join(j.dir, nextName), j.log.path)
	}
	if err != nil {
		return errors.Join(err, next.Close())
	}
	j.replace(next, begin, p.sealed.Last+1)
	j.last, j.hash = p.sealed.Last, p.sealed.Hash
	if g := j.gap; g != nil {
		g.have = 0
		clear(g.lacking)
	}
	j.announce()
	return j.settle()
}

// replace goes on with another events.log, which is on the disk. What memory held
// for the one before is in it, or is no longer kept. mu and syncing are held.
func (j *Journal) replace(file logFile, begin, first uint64) {
	_ = j.log.file.Close()
	a := &j.log
	a.attach(file)
	a.proven, a.pending, a.seals, a.unsynced, a.doubtful = 0, nil, nil, nil, 0
	a.writeErr, a.syncErr, a.failed, a.skip = nil, nil, 0, 0
	j.begin, j.first, j.dirty = begin, first, true
}

// retire takes events.log away where a file that is not made of it comes next;
// mu and syncing are held.
func (j *Journal) retire(m Manifest, p piece, base bool) error {
	switch {
	case base:
		return nil
	case j.begin == 0 || j.first > 0 && j.last < j.first: // nothing, or copies
		return j.remove(activeName)
	case j.last < m.Floor.First:
		err := j.setAside(m.Floor.First, activeName, activeName)
		if errors.Is(err, os.ErrNotExist) { // taken away before something else failed
			return nil
		}
		return err
	case j.first == p.first && j.last >= p.from: // see errBase
		return j.moveAside(activeName, otherHistory)
	case j.first > 0 && j.first != p.first:
		// Of a segment that is no longer kept. Under its name Keep removes it, like
		// any other, even after a crash.
		err := j.fs.Rename(j.log.path, filepath.Join(j.dir, sealedName(j.first)))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return j.moveAside(activeName, "another file takes its place")
}

// join ends the gap: what was fetched, with what came meanwhile, is events.log.
func (k *keeper) join(ctx context.Context, m Manifest, p piece, d *draft, base bool) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		done, err := k.tryJoin(m, p, d, base)
		if done || err != nil {
			return err
		}
		if err := k.joinPending(m, d, 0); err != nil {
			return err
		}
		if err := d.file.Sync(); err != nil { // not while Write waits
			return err
		}
	}
}

func (k *keeper) tryJoin(m Manifest, p piece, d *draft, base bool) (done bool, err error) {
	j := k.j
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	g, head := j.gap, j.latest(m)
	if g == nil || head.First != p.first || d.check.next <= g.to {
		return false, errAgain
	}
	size, err := g.readable()
	if err != nil {
		return false, err
	}
	if size-d.pendingAt > joinUnderLock {
		return false, nil
	}
	if err := d.addPending(g.log.file, size, 0); err != nil {
		return false, k.badPending(m, err)
	}
	if head.Number < g.last {
		return false, errAgain
	}
	if d.check.next != g.last+1 || head.Number == g.last && head.Hash != d.check.prev {
		return false, k.badPending(m, errors.New("pending.log does not end as it should"))
	}
	synced := d.size
	if err := j.unlocked(d.file.Sync); err != nil {
		return false, err
	}
	// What Write has added meanwhile comes with it, and is on the disk by the next Sync:
	// to sync that first would have no end while lines come.
	if head = j.latest(m); head.First != p.first {
		return false, errAgain
	}
	if size, err = g.readable(); err != nil {
		return false, err
	}
	if size-d.pendingAt > joinUnderLock {
		return false, nil
	}
	if err := d.addPending(g.log.file, size, 0); err != nil {
		return false, k.badPending(m, err)
	}
	if d.check.next != g.last+1 || head.Number == g.last && head.Hash != d.check.prev {
		return false, k.badPending(m, errors.New("pending.log does not end as it should"))
	}
	rest := make([]byte, d.size-synced)
	if _, err := d.file.ReadAt(rest, synced); err != nil {
		return false, err
	}
	if err := j.retire(m, p, base); err != nil {
		return false, err
	}
	if err := j.fs.Rename(d.path, j.log.path); err != nil {
		return false, err
	}
	j.replace(d.file, d.begin, p.first)
	j.log.unsynced = rest
	j.last, j.hash = g.last, d.check.prev
	d.file = nil // it is the journal's now
	if g.log.file != nil {
		_ = g.log.file.Close()
	}
	j.gap = nil
	j.announce()
	j.logger.Info("the audit log has no gap any more", "path", j.log.path, "last", j.last)
	return true, errors.Join(j.remove(pendingName), j.settle())
}

// readable is how much of pending.log can be read: all of it, or an error; mu
// and syncing are held.
func (g *gap) readable() (int64, error) {
	if !g.log.idle() {
		if err := g.log.write(); err != nil {
			return 0, err
		}
	}
	if g.log.file == nil {
		return 0, nil
	}
	info, err := g.log.file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// badPending gives up pending.log, which somebody has touched: its lines are
// fetched like the others. mu and syncing are held.
func (k *keeper) badPending(m Manifest, err error) error {
	j := k.j
	j.logger.Error("pending.log does not fit the audit log: fetching its lines anew", "error", err)
	head := j.latest(m)
	if head.Number < j.gap.last {
		return err
	}
	j.openGap(head.Number, &head.Hash)
	return errAgain
}

// joinPending adds lines of pending.log to a draft: up to a number, or all (0).
func (k *keeper) joinPending(m Manifest, d *draft, to uint64) error {
	j := k.j
	if to > 0 && d.check.next > to {
		return nil
	}
	j.syncing.Lock()
	j.mu.Lock()
	g := j.gap
	if g == nil || d.check.next <= g.to {
		j.mu.Unlock()
		j.syncing.Unlock()
		return errAgain
	}
	size, err := g.readable()
	j.mu.Unlock()
	j.syncing.Unlock()
	if err != nil {
		return err
	}
	// By a file of our own: Write may replace the gap's.
	file, err := j.fs.Open(filepath.Join(j.dir, pendingName), os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return errAgain
	}
	if err != nil {
		return err
	}
	defer file.Close()
	err = d.addPending(file, size, to)
	if err == nil || !errors.Is(err, errChain) {
		return err
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.gap != g {
		return errAgain
	}
	return k.badPending(m, err)
}
