package audit

import (
	"bytes"
	"errors"
	"io"
	"math"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

const (
	readChunk = 32 << 10
	maxCut    = 2 << 10       // of a line that is too long to be one
	toEnd     = math.MaxInt64 // for newScanner: as far as the file goes
)

// scanner gives the lines of a file between two offsets, as chain.Scanner does.
type scanner struct {
	chain.Scanner
	r        io.ReaderAt
	from, to int64
}

func newScanner(r io.ReaderAt, from, to int64) *scanner {
	s := &scanner{r: r, to: to}
	s.seek(from)
	return s
}

// seek goes on at another offset.
func (s *scanner) seek(at int64) {
	s.from = at
	s.Reset(io.NewSectionReader(s.r, at, max(0, s.to-at)))
}

// at is where the next line begins.
func (s *scanner) at() int64 { return s.from + s.Offset() }

// backScanner gives the lines of a file backwards, down to an offset at which one
// begins.
type backScanner struct {
	r   io.ReaderAt
	low int64
	at  int64  // end of buf: what is behind it was given
	buf []byte // what stands before at: the end of mem
	mem []byte
	err error
}

// newBackScanner begins at an offset; an incomplete line before it is left out.
func newBackScanner(r io.ReaderAt, low, at int64) *backScanner {
	s := &backScanner{r: r, low: low, at: at}
	for s.err == nil {
		if i := bytes.LastIndexByte(s.buf, '\n'); i >= 0 {
			s.at -= int64(len(s.buf) - i - 1)
			s.buf = s.buf[:i+1]
			break
		}
		s.at -= int64(len(s.buf))
		s.buf = s.buf[:0]
		if s.at <= low {
			break
		}
		s.fill()
	}
	return s
}

// prev gives the line before, without its line feed, valid until the next call; nil
// at the beginning, or when err says why not.
func (s *backScanner) prev() []byte {
	for s.err == nil {
		if n := len(s.buf); n > 0 {
			i := bytes.LastIndexByte(s.buf[:n-1], '\n')
			if i >= 0 || s.at-int64(n) <= s.low {
				line := s.buf[i+1 : n-1]
				s.buf = s.buf[:i+1]
				s.at -= int64(len(line)) + 1
				return line
			}
			if n > chain.MaxLine+1 {
				return s.tooLong()
			}
		} else if s.at <= s.low {
			return nil
		}
		s.fill()
	}
	return nil
}

// fill reads more before what is left.
func (s *backScanner) fill() {
	left := len(s.buf)
	end := s.at - int64(left)
	chunk := int(min(readChunk, end-s.low))
	if len(s.mem) < left+chunk {
		s.mem = make([]byte, max(readChunk, 2*left+chunk))
	}
	buf := s.mem[len(s.mem)-left-chunk:]
	copy(buf[chunk:], s.buf)
	n, err := s.r.ReadAt(buf[:chunk], end-int64(chunk))
	if n < chunk { // the file has become shorter
		s.err = errors.Join(io.ErrUnexpectedEOF, err)
		return
	}
	s.buf = buf
}

func (s *backScanner) tooLong() []byte {
	var line []byte
	for s.err == nil {
		i := bytes.LastIndexByte(s.buf[:max(0, len(s.buf)-1)], '\n')
		begin := s.at - int64(len(s.buf))
		if i >= 0 || begin <= s.low {
			line = append(bytes.Clone(s.buf[i+1:min(len(s.buf), i+1+maxCut)]), 0)
			s.at = begin + int64(i) + 1
			s.buf = s.buf[:i+1]
			return line
		}
		s.buf, s.at = s.buf[:1], begin+1 // one byte stays, as if it were the line feed
		s.fill()
	}
	return nil
}

// spot is a place in a file.
type spot struct {
	end    int64  // of the lines with numbers below the one that was looked for
	begin  int64  // of those from it on, or where the last line ends; between the two stand only lines that were harmed
	number uint64 // of the line at begin; 0: there is none
}

// locate finds a place in a file whose numbers rise: where lines begin whose number is
// at least the given one. It reads a few blocks, however long the file is. A line
// that says a number above bound was harmed.
func locate(r io.ReaderAt, size int64, number, bound uint64) (spot, error) {
	lo, hi := int64(0), size
	s := newScanner(r, 0, size)
	for hi-lo > 2*chain.MaxLine {
		mid := lo + (hi-lo)/2
		s.seek(mid)
		s.Next() // the rest of a line
		at, n := probe(s, hi)
		if err := s.Err(); err != nil {
			return spot{}, err
		}
		if n == 0 || n >= number {
			hi = mid
		} else {
			lo = at
		}
	}
	s.seek(lo)
	for p := (spot{end: lo}); ; {
		p.begin = s.at()
		line := s.Next()
		if line == nil {
			return p, s.Err()
		}
		if t, ok := chain.ParseTrailer(line); ok && t.Number <= bound {
			if t.Number >= number {
				p.number = t.Number
				return p, nil
			}
			p.end = s.at()
		}
	}
}

// probe finds a line before an offset, and its number, which the line after it must
// bear out: one that lies would lead the search astray. 0: there is none.
func probe(s *scanner, before int64) (at int64, number uint64) {
	for {
		here := s.at()
		line := s.Next()
		if line == nil || here >= before {
			return 0, 0
		}
		t, ok := chain.ParseTrailer(line)
		if ok && number > 0 && t.Number == number+1 {
			return at, number
		}
		if at, number = here, 0; ok {
			number = t.Number
		}
	}
}

// firstNumber is the number of the first line of ours in a file, 0 if there is none.
func firstNumber(r io.ReaderAt, size int64) (uint64, error) {
	s := newScanner(r, 0, size)
	for line := s.Next(); line != nil; line = s.Next() {
		if t, ok := chain.ParseTrailer(line); ok {
			return t.Number, nil
		}
	}
	return 0, s.Err()
}
