package audit

import (
	"bytes"
	"errors"
	"io"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

const (
	readChunk = 256 << 10

	// maxRead bounds what is held of a line. Raft takes no entry of more than 1 MiB,
	// so a longer one is none of ours.
	maxRead = 4 << 20
)

// scanner gives the lines of a file from an offset on.
type scanner struct {
	r   io.ReaderAt
	at  int64 // offset of what is left in buf
	buf []byte
	mem []byte // the whole of it
	eof bool
	err error
}

func newScanner(r io.ReaderAt, at int64) *scanner { return &scanner{r: r, at: at} }

// next gives the next line without its line feed, valid until the next call; nil
// at the end of the file, where err may say why. Of a line that is too long to
// be one of ours it gives the beginning, and a NUL so that it has no trailer.
func (s *scanner) next() []byte {
	seen := 0
	for {
		if i := bytes.IndexByte(s.buf[seen:], '\n'); i >= 0 {
			line := s.buf[:seen+i]
			s.buf = s.buf[seen+i+1:]
			s.at += int64(len(line)) + 1
			return line
		}
		if s.eof || s.err != nil {
			return nil
		}
		if seen = len(s.buf); seen >= maxRead {
			return s.tooLong()
		}
		s.fill()
	}
}

// fill reads more behind what is left.
func (s *scanner) fill() {
	left := len(s.buf)
	if len(s.mem) < left+readChunk {
		s.mem = append(make([]byte, 0, 2*left+readChunk), s.buf...)
		s.mem = s.mem[:cap(s.mem)]
	} else {
		copy(s.mem, s.buf)
	}
	n, err := s.r.ReadAt(s.mem[left:], s.at+int64(left))
	s.buf = s.mem[:left+n]
	if errors.Is(err, io.EOF) {
		s.eof = true
	} else {
		s.err = err
	}
}

func (s *scanner) tooLong() []byte {
	line := append(bytes.Clone(s.buf[:readChunk]), 0)
	for {
		if i := bytes.IndexByte(s.buf, '\n'); i >= 0 {
			s.at += int64(i) + 1
			s.buf = s.buf[i+1:]
			return line
		}
		s.at += int64(len(s.buf))
		s.buf = nil
		if s.eof || s.err != nil {
			return nil // without its end it is no line
		}
		s.fill()
	}
}

// backScanner gives the lines of a file backwards, down to an offset at which one
// begins.
type backScanner struct {
	r   io.ReaderAt
	low int64
	at  int64  // end of buf: what is behind it was given
	buf []byte // what stands before at
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
			if n >= maxRead {
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
	end := s.at - int64(len(s.buf))
	chunk := min(int64(max(readChunk, len(s.buf))), end-s.low)
	grown := make([]byte, chunk+int64(len(s.buf)))
	copy(grown[chunk:], s.buf)
	n, err := s.r.ReadAt(grown[:chunk], end-chunk)
	if int64(n) < chunk { // the file has become shorter
		s.err = errors.Join(io.ErrUnexpectedEOF, err)
		return
	}
	s.buf = grown
}

func (s *backScanner) tooLong() []byte {
	var line []byte
	for s.err == nil {
		i := bytes.LastIndexByte(s.buf[:max(0, len(s.buf)-1)], '\n')
		begin := s.at - int64(len(s.buf))
		if i >= 0 || begin <= s.low {
			line = append(bytes.Clone(s.buf[i+1:min(len(s.buf), i+1+readChunk)]), 0)
			s.at = begin + int64(i) + 1
			s.buf = s.buf[:i+1]
			return line
		}
		s.buf, s.at = s.buf[:1], begin+1 // one byte stays, as if it were the line feed
		s.fill()
	}
	return nil
}

// locate finds a place in a file: the end of the lines with numbers below the given
// one, and the beginning of those from it on. Between the two stand only lines that
// were harmed and don't say their number, or say one above bound.
func locate(r io.ReaderAt, size int64, number, bound uint64) (end, begin int64, err error) {
	lo, hi := int64(0), size
	for hi-lo > readChunk {
		mid := lo + (hi-lo)/2
		s := newScanner(r, mid)
		s.next() // the rest of a line
		at, n := probe(s, hi)
		if s.err != nil {
			return 0, 0, s.err
		}
		if n == 0 || n >= number {
			hi = mid
		} else {
			lo = at
		}
	}
	s := newScanner(r, lo)
	end = lo
	for {
		begin = s.at
		line := s.next()
		if line == nil {
			return end, begin, s.err
		}
		if t, ok := chain.ParseTrailer(line); ok && t.Number <= bound {
			if t.Number >= number {
				return end, begin, nil
			}
			end = s.at
		}
	}
}

// probe finds a line before an offset, and its number, which the line after it must
// bear out: one that lies would lead the search astray. 0: there is none.
func probe(s *scanner, before int64) (at int64, number uint64) {
	for {
		here := s.at
		line := s.next()
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
