package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

var (
	errChain = errors.New("the lines do not fit the chain")
	errPeer  = errors.New("it did not answer")
	errBase  = errors.New("the first line does not follow our last one")
)

// checker proves that lines follow each other by the chain, and that the known
// ones of them have the hashes that they should.
type checker struct {
	next   uint64
	prev   chain.Hash
	linked bool // prev is known
	points map[uint64]chain.Hash
}

func (c *checker) line(line []byte, t chain.Trailer, ok bool) error {
	switch {
	case !ok:
		return fmt.Errorf("%w: where number %d should be is no line of the log", errChain, c.next)
	case t.Number != c.next:
		return fmt.Errorf("%w: number %d comes where %d should be", errChain, t.Number, c.next)
	case c.linked && chain.Link(c.prev, line[:t.Body]) != t.Hash:
		return fmt.Errorf("%w: line %d was changed, or does not follow the one before", errChain, t.Number)
	}
	if want, ok := c.points[t.Number]; ok && want != t.Hash {
		return fmt.Errorf("%w: line %d does not have the hash that the cluster knows", errChain, t.Number)
	}
	c.next, c.prev, c.linked = t.Number+1, t.Hash, true
	return nil
}

// lines checks an answer as far as number to, and returns what of it is good to
// be written.
func (c *checker) lines(b []byte, to uint64) (good []byte, err error) {
	rest := b
	for len(rest) > 0 && c.next <= to {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			return nil, fmt.Errorf("%w: it ends in the middle of a line", errChain)
		}
		t, ok := chain.ParseTrailer(rest[:end])
		if err := c.line(rest[:end], t, ok); err != nil {
			return nil, err
		}
		rest = rest[end+1:]
	}
	return b[:len(b)-len(rest)], nil
}

// draft is a file of the journal that is not proven yet.
type draft struct {
	file      logFile // nil: it has become the journal's
	named     bool    // it is a sealed file
	path      string
	size      int64
	begin     uint64 // number of its first line
	check     checker
	pendingAt int64 // how far pending.log is in it
}

func (j *Journal) newDraft() (*draft, error) {
	file, err := j.create(fetchName)
	if err != nil {
		return nil, err
	}
	return &draft{file: file, path: filepath.Join(j.dir, fetchName)}, nil
}

// discard closes the file unless it was taken, and empties it unless it has got a name:
// if it had no room, what it took is missed where the next byte is to go, in Raft's log,
// which others wait for. The next draft is made anew in any case.
func (d *draft) discard() {
	if d.file == nil {
		return
	}
	if !d.named {
		_ = d.file.Truncate(0)
	}
	_ = d.file.Close()
}

func (d *draft) write(b []byte) error {
	n, err := d.file.Write(b)
	d.size += int64(n)
	return err
}

// addPending adds lines of pending.log from where the draft is: up to a number, or
// all (0).
func (d *draft) addPending(file logFile, size int64, to uint64) error {
	if size == 0 || file == nil {
		return nil
	}
	off := d.pendingAt
	if off == 0 {
		start, err := locate(file, size, d.check.next, math.MaxUint64)
		if err != nil {
			return err
		}
		off = start.begin
	}
	w := bufio.NewWriterSize(writerFunc(d.write), 256<<10)
	for s := newScanner(file, off, size); to == 0 || d.check.next <= to; {
		line := s.Next()
		if line == nil {
			if err := s.Err(); err != nil {
				return err
			}
			break
		}
		t, ok := chain.ParseTrailer(line)
		if err := d.check.line(line, t, ok); err != nil {
			return err
		}
		if d.begin == 0 {
			d.begin = t.Number
		}
		d.pendingAt = s.at()
		_, _ = w.Write(line)
		if err := w.WriteByte('\n'); err != nil { // which keeps its first error
			return err
		}
	}
	return w.Flush()
}

type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) {
	if err := f(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// build makes the file of a segment: with base from what events.log has of it,
// else from the copies on, and then by what peers have, up to number to or the segment's end.
func (k *keeper) build(ctx context.Context, p piece, base bool, to uint64) (*draft, error) {
	j := k.j
	if p.sealed != nil {
		to = min(to, p.sealed.Last)
	}
	d, err := k.j.newDraft()
	if err != nil {
		return nil, err
	}
	d.check.points = p.points
	j.mu.Lock()
	g := j.gap
	if g != nil && g.hash != nil && !(p.sealed != nil && p.sealed.Last < g.to) {
		d.check.points[g.to] = *g.hash
	}
	j.mu.Unlock()
	if base {
		err = k.copyBase(d)
		if want, ok := d.check.points[d.check.next-1]; err == nil && ok && want != d.check.prev {
			err = errBase // it is all here, and its end is another one
		}
	} else {
		fromCopies(d, p)
	}
	if err == nil && d.check.next <= to {
		err = k.ask(ctx, d, to, base)
	}
	if err != nil {
		d.discard()
		return nil, err
	}
	return d, nil
}

// fromCopies has a draft begin with the lines before the segment.
func fromCopies(d *draft, p piece) {
	d.check.next = p.start
	d.check.prev, d.check.linked = p.points[p.start-1]
	if p.start == 1 {
		d.check.linked = true
	}
}

// copyBase begins a draft with all of events.log. Nothing is added to that while
// there is a gap, once it is on the disk.
func (k *keeper) copyBase(d *draft) error {
	j := k.j
	if err := j.Sync(); err != nil {
		return err
	}
	j.mu.Lock()
	file := j.log.file // replaced by Keep alone while there is a gap
	d.begin = j.begin
	d.check.next, d.check.prev, d.check.linked = j.last+1, j.hash, true
	j.mu.Unlock()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	d.size, err = io.Copy(struct{ io.Writer }{d.file}, io.NewSectionReader(file, 0, info.Size()))
	return err
}

// ask fetches lines up to a number from the first peer that has them all, or else
// from several that have parts.
func (k *keeper) ask(ctx context.Context, d *draft, to uint64, base bool) error {
	if k.opts.Peers == nil || k.opts.Fetch == nil {
		return errors.New("no peer can be asked for missing lines")
	}
	k.start(d.check.next, to)
	peers := slices.Sorted(slices.Values(k.opts.Peers()))
	if len(peers) == 0 {
		return fmt.Errorf("fetch lines %d to %d of the audit log: there is no other replica to ask", d.check.next, to)
	}
	k.asked++
	var errs []error
	unlinked, parts := false, false
	mark := *d
	restart := func() error {
		d.size, d.begin, d.check, d.pendingAt = mark.size, mark.begin, mark.check, 0
		return d.file.Truncate(mark.size)
	}
	for i := range peers {
		peer := peers[(i+k.asked)%len(peers)]
		if err := restart(); err != nil {
			return err
		}
		err := k.from(ctx, peer, d, to, base)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		unlinked = unlinked || errors.Is(err, errBase)
		parts = parts || d.size > mark.size
		if !errors.Is(err, errNone) && !errors.Is(err, errBase) {
			k.j.logger.Warn("a replica could not give lines of the audit log", "peer", peer, "error", err)
		}
		errs = append(errs, fmt.Errorf("%s: %w", peer, err))
	}
	if parts && len(peers) > 1 {
		if err := restart(); err != nil {
			return err
		}
		if k.together(ctx, peers, d, to) {
			return nil
		}
	}
	err := fmt.Errorf("fetch lines %d to %d of the audit log: %w", mark.check.next, to, errors.Join(errs...))
	if unlinked {
		return fmt.Errorf("%w: %w", errBase, err)
	}
	return err
}

// together takes from each peer what comes next, as far as it has it. Whose fault it is
// if the end is wrong is then unknown, and the next round begins with another one.
func (k *keeper) together(ctx context.Context, peers []string, d *draft, to uint64) bool {
	for more := true; more; {
		more = false
		for i := range peers {
			begin := d.check.next
			err := k.from(ctx, peers[(i+k.asked)%len(peers)], d, to, false)
			if err == nil {
				return true
			}
			if !errors.Is(err, errNone) && !errors.Is(err, errPeer) {
				return false
			}
			more = more || d.check.next > begin
		}
	}
	return false
}

// from fetches lines up to a number from one peer.
func (k *keeper) from(ctx context.Context, peer string, d *draft, to uint64, base bool) error {
	first := d.check.next
	if !d.check.linked {
		// The first copy's text hangs on the hash of the line before. The peer may say
		// what it likes: no other hash than the true one fits a text to that of the copy,
		// which the lines behind it confirm. Nobody has that line where retention
		// has taken it. Then the copy, which is no own line of a kept segment, is as given.
		a, err := k.opts.Fetch(ctx, peer, FetchRequest{From: first - 1, Max: 1})
		if err != nil {
			return fmt.Errorf("%w: %w", errPeer, err)
		}
		if line, _, ok := bytes.Cut(a.Lines, []byte("\n")); ok {
			if t, ok := chain.ParseTrailer(line); ok && t.Number == first-1 {
				d.check.prev, d.check.linked = t.Hash, true
			}
		}
	}
	for d.check.next <= to {
		a, err := k.opts.Fetch(ctx, peer, FetchRequest{From: d.check.next, Max: maxFetch})
		if err != nil {
			return fmt.Errorf("%w: %w", errPeer, err)
		}
		if len(a.Lines) == 0 {
			k.lacks(peer, d.check.next)
			return errNone
		}
		if len(a.Lines) > maxFetch {
			return fmt.Errorf("%w: %d bytes are more than an answer may have", errChain, len(a.Lines))
		}
		good, err := d.check.lines(a.Lines, to)
		if err != nil {
			if base && first > 1 && d.check.next == first {
				if t, ok := firstTrailer(a.Lines); ok && t.Number == first {
					return fmt.Errorf("%w: %w", errBase, err)
				}
			}
			return err
		}
		if d.begin == 0 {
			d.begin = first
		}
		if err := d.write(good); err != nil {
			return err
		}
		k.progress(peer, d.check.next-1, to)
	}
	return k.meetsPending(d)
}

func firstTrailer(lines []byte) (chain.Trailer, bool) {
	line, _, _ := bytes.Cut(lines, []byte("\n"))
	return chain.ParseTrailer(line)
}

// meetsPending checks that what was fetched ends where the first pending line begins.
func (k *keeper) meetsPending(d *draft) error {
	j := k.j
	j.mu.Lock()
	defer j.mu.Unlock()
	g := j.gap
	if g == nil || g.begin == 0 || g.log.file == nil || d.check.next != g.begin {
		return nil
	}
	info, err := g.log.file.Stat()
	if err != nil {
		return err
	}
	start, err := locate(g.log.file, info.Size(), g.begin, math.MaxUint64)
	if err != nil {
		return err
	}
	s := newScanner(g.log.file, start.begin, info.Size())
	line := s.Next()
	if line == nil {
		return s.Err() // or in memory still
	}
	if t, ok := chain.ParseTrailer(line); ok && chain.Link(d.check.prev, line[:t.Body]) != t.Hash {
		return fmt.Errorf("%w: the end does not meet what came after the gap", errChain)
	}
	return nil
}

// lacks notes that a peer can't give all of the next segment.
func (k *keeper) lacks(peer string, number uint64) {
	k.j.mu.Lock()
	defer k.j.mu.Unlock()
	if g := k.j.gap; g != nil && number > k.j.last {
		g.lacking[peer] = true
	}
}

func (k *keeper) start(from, to uint64) {
	if k.noted.IsZero() {
		k.noted = time.Now()
		k.j.logger.Info("fetching lines of the audit log from the other replicas", "from", from, "to", to)
	}
}

func (k *keeper) progress(peer string, have, to uint64) {
	k.j.mu.Lock()
	if g := k.j.gap; g != nil && have > k.j.last {
		g.have = have - k.j.last
	}
	k.j.mu.Unlock()
	if now := time.Now(); now.Sub(k.noted) >= tellEvery {
		k.noted = now
		k.j.logger.Info("fetching lines of the audit log", "peer", peer, "have", have, "to", to)
	}
}
