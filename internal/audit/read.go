package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"os"
	"sort"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// Line is a line of the journal.
//
// One that was harmed and does not say which it is has the number of the line that
// was given before it, and no hash: readers show it, Verify names it.
type Line struct {
	Number uint64
	Hash   chain.Hash // as the line says; Verify checks it
	Text   []byte     // without the line feed; valid until the next line is asked for

	segment uint64 // first number of the file it stands in
	sealed  bool
}

// gapError says that lines are not on this replica, though some before and after
// them are: they are being fetched from another one.
type gapError struct{ From, To uint64 }

func (e *gapError) Error() string {
	return fmt.Sprintf("lines %d to %d of the audit log are not on this replica (yet): try again later, or ask another replica", e.From, e.To)
}

// reader reads the files of a journal, which go on growing, are renamed at a seal
// and removed by retention meanwhile. It goes by numbers, not by files: a line and
// its copies are the same bytes.
type reader struct {
	files   func() []fileInfo
	state   func() JournalState
	changed func() <-chan struct{}
	clock   func() time.Time
	spans   *spanCache
	current func() (Manifest, error) // nil: not known
}

func (j *Journal) reader() reader {
	return reader{files: j.files, state: j.State, changed: j.Changed, clock: time.Now, spans: &j.spans, current: j.manifest}
}

// Lines gives the journal's lines from a number on, oldest first, each once, up to
// its end as it is when it gets there. It begins later if retention has removed
// that line. Where lines are missing it gives a gapError; whoever goes on gets
// those behind the gap.
func (j *Journal) Lines(from uint64) iter.Seq2[Line, error] { return j.reader().forward(from, nil) }

// Export writes the lines from one number to another, both inclusive, as they
// are; to 0 means to the end as it is now. It returns how many it wrote.
func (j *Journal) Export(ctx context.Context, w io.Writer, from, to uint64) (uint64, error) {
	if to == 0 {
		to = j.State().Last
	}
	out := bufio.NewWriterSize(w, readChunk)
	var n uint64
	for line, err := range j.Lines(from) {
		if err != nil {
			return n, fmt.Errorf("export the audit log: %w", err)
		}
		if line.Number > to {
			break
		}
		if n%1024 == 0 && ctx.Err() != nil {
			return n, ctx.Err()
		}
		_, _ = out.Write(line.Text)
		if err := out.WriteByte('\n'); err != nil { // which keeps its first error
			return n, err
		}
		n++
	}
	return n, out.Flush()
}

// skipper says that a sealed segment, from its first to its last line, need not be
// read.
type skipper func(first, last uint64) bool

// part is a file, and the numbers that its own lines may have.
type part struct {
	fileInfo
	last uint64 // MaxUint64: more may come
}

// holding finds the file that has a line, or the first one behind it.
func (r reader) holding(number uint64) (part, bool) {
	files := r.files()
	if len(files) == 0 {
		return part{}, false
	}
	i := max(0, sort.Search(len(files), func(i int) bool { return files[i].first > number })-1)
	p := part{fileInfo: files[i], last: math.MaxUint64}
	if i+1 < len(files) {
		p.last = files[i+1].first - 1
	}
	return p, true
}

// open opens a file and makes sure that it is the one that was meant: events.log
// may have become another one meanwhile.
func (r reader) open(p part) (*os.File, int64, error) {
	file, err := openRegular(p.path, os.O_RDONLY)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && p.active {
		if now, ok := r.holding(p.first); !ok || now.fileInfo != p.fileInfo {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		_ = file.Close() // the first error is the one to read
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// openTries is how often a file may be away between two looks at the list: it was
// renamed or removed, which the next list knows.
const openTries = 16

func (r reader) forward(from uint64, skip skipper) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for next, tries := max(from, 1), 0; ; {
			p, ok := r.holding(next)
			if !ok {
				return
			}
			next = max(next, p.first)
			if p.last != math.MaxUint64 && skip != nil && skip(next, p.last) {
				next = p.last + 1
				continue
			}
			file, size, err := r.open(p)
			if errors.Is(err, fs.ErrNotExist) {
				if tries++; tries < openTries {
					continue
				}
				if p.last == math.MaxUint64 {
					yield(Line{}, fmt.Errorf("the audit log's file is gone: %w", err))
					return
				}
				if !yield(Line{}, &gapError{next, p.last}) {
					return
				}
				next, tries = p.last+1, 0
				continue
			}
			if err != nil {
				yield(Line{}, err)
				return
			}
			tries = 0
			reached, more := r.forwardFile(file, size, p, next, yield)
			_ = file.Close() // only read
			if !more {
				return
			}
			next = reached + 1
			if p.last != math.MaxUint64 {
				next = p.last + 1
			} else if now, ok := r.holding(p.first); !ok || now.active && now.first == p.first || now.path == p.path {
				return
			}
		}
	}
}

// forwardFile gives the lines of one file. It returns the last number that was
// given, or next-1, and whether more are wanted.
func (r reader) forwardFile(file io.ReaderAt, size int64, p part, next uint64, yield func(Line, error) bool) (uint64, bool) {
	from, err := locate(file, size, next, r.bound(p))
	if err != nil {
		return 0, yield(Line{}, err) && false
	}
	s := newScanner(file, from.end, toEnd)
	last, stray := next-1, uint64(0)
	for text := s.Next(); text != nil; text = s.Next() {
		line := Line{Number: last, Text: text, segment: p.first, sealed: p.last != math.MaxUint64}
		if t, ok := chain.ParseTrailer(text); ok && t.Number > last && (t.Number == last+1 || t.Number <= r.bound(p)) {
			line.Number, line.Hash = t.Number, t.Hash
			last = t.Number
		} else {
			stray++
		}
		if !yield(line, nil) {
			return last, false
		}
	}
	if err := s.Err(); err != nil {
		return last, yield(Line{}, err) && false
	}
	// Lines that were harmed stand for those that seem to be missing.
	if p.last != math.MaxUint64 && last < p.last && p.last-last > stray {
		return last, yield(Line{}, &gapError{last + 1, p.last})
	}
	return last, true
}

// bound is the highest number that a line of a file can have. Without it, one line
// that lies about its number would hide those behind it.
func (r reader) bound(p part) uint64 {
	if p.last != math.MaxUint64 {
		return p.last
	}
	return r.state().Last
}

// backward gives the lines with numbers below before, newest first; 0 means from the
// end. It passes over gaps.
func (r reader) backward(before uint64, skip skipper) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		next := before
		if before == 0 {
			next = math.MaxUint64
		}
		for tries := 0; next > 1; {
			p, ok := r.holding(next - 1)
			if !ok || p.first >= next {
				return
			}
			if p.last != math.MaxUint64 && skip != nil && skip(p.first, min(p.last, next-1)) {
				next = p.first
				continue
			}
			file, size, err := r.open(p)
			if errors.Is(err, fs.ErrNotExist) {
				if tries++; tries >= openTries {
					next, tries = p.first, 0
				}
				continue
			}
			if err != nil {
				yield(Line{}, err)
				return
			}
			tries = 0
			more := r.backwardFile(file, size, p, next, yield)
			_ = file.Close() // only read
			if !more {
				return
			}
			next = p.first
		}
	}
}

// backwardFile gives the own lines of one file that are before a number.
func (r reader) backwardFile(file io.ReaderAt, size int64, p part, before uint64, yield func(Line, error) bool) bool {
	low, err := locate(file, size, p.first, r.bound(p))
	high := spot{begin: size}
	if err == nil && before <= p.last && before != math.MaxUint64 {
		high, err = locate(file, size, before, r.bound(p))
	}
	if err != nil {
		return yield(Line{}, err) && false
	}
	s := newBackScanner(file, low.end, high.begin)
	last := before
	if bound := r.bound(p); last > bound {
		last = bound + 1
	}
	for {
		text := s.prev()
		if text == nil {
			return s.err == nil || yield(Line{}, s.err) && false
		}
		line := Line{Number: last, Text: text, segment: p.first, sealed: p.last != math.MaxUint64}
		if t, ok := chain.ParseTrailer(text); ok && t.Number < last && t.Number >= p.first {
			line.Number, line.Hash = t.Number, t.Hash
			last = t.Number
		}
		if !yield(line, nil) {
			return false
		}
	}
}
