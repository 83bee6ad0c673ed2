package chain

import (
	"bytes"
	"errors"
	"io"
)

const (
	scanBuffer = 32 << 10 // as much as hundreds of lines take; it grows if one needs more
	maxText    = 2 << 10  // of a line in a Problem, and of one that is too long
)

// Scanner gives the lines of a log one after another. There is one for all who read
// logs, because they must agree on what a line is.
type Scanner struct {
	r       io.Reader
	mem     []byte
	lo, hi  int    // what of mem was read and not given
	off     int64  // where the next line begins
	over    []byte // the beginning of a line that is too long, see Next; nil: it is not
	dropped int64  // how much of it is not in mem any more
	err     error
}

// NewScanner begins where a reader stands.
func NewScanner(r io.Reader) *Scanner { return &Scanner{r: r} }

// Reset begins again with another reader, and takes the memory along.
func (s *Scanner) Reset(r io.Reader) { *s = Scanner{r: r, mem: s.mem} }

// Next gives the next line without its line feed, valid until the next call; nil at
// the end, where Err may say why. It may be called again where the reader may
// have more by now. Of a line over MaxLine it gives the first 2 KiB, and a NUL so
// that nobody takes them for a line.
func (s *Scanner) Next() []byte {
	for seen := s.lo; ; {
		if i := bytes.IndexByte(s.mem[seen:s.hi], '\n'); i >= 0 {
			line := s.mem[s.lo : seen+i]
			s.off += s.dropped + int64(len(line)) + 1
			s.lo = seen + i + 1
			switch {
			case s.over != nil:
				line = s.over
			case len(line) > MaxLine:
				line = beginning(line)
			}
			s.over, s.dropped = nil, 0
			return line
		}
		if s.hi-s.lo > MaxLine {
			if s.over == nil {
				s.over = beginning(s.mem[s.lo:s.hi])
			}
			s.dropped += int64(s.hi - s.lo)
			s.lo, s.hi = 0, 0
		}
		n := s.hi - s.lo
		if !s.fill() {
			return nil
		}
		seen = s.lo + n
	}
}

func beginning(line []byte) []byte { return append(bytes.Clone(line[:maxText]), 0) }

// fill reads more behind what is left.
func (s *Scanner) fill() bool {
	if s.err != nil {
		return false
	}
	if s.lo > 0 {
		s.hi = copy(s.mem, s.mem[s.lo:s.hi])
		s.lo = 0
	}
	if s.hi == len(s.mem) {
		s.mem = append(make([]byte, 0, max(scanBuffer, 2*s.hi)), s.mem...)
		s.mem = s.mem[:cap(s.mem)]
	}
	for range 100 {
		n, err := s.r.Read(s.mem[s.hi:])
		s.hi += n
		switch {
		case n > 0:
			return true // an error comes again
		case errors.Is(err, io.EOF):
			return false
		case err != nil:
			s.err = err
			return false
		}
	}
	s.err = io.ErrNoProgress
	return false
}

// Rest is what follows the last line feed when Next has given nil.
func (s *Scanner) Rest() []byte {
	if s.over != nil {
		return s.over
	}
	return s.mem[s.lo:s.hi]
}

// Offset is where the next line begins, counted from where the Scanner began.
func (s *Scanner) Offset() int64 { return s.off }

// Err is why nothing more could be read; nil at the end of what there is.
func (s *Scanner) Err() error { return s.err }
