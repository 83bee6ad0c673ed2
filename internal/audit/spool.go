package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// The spool file begins with a header of fixed length that says how far its
// lines have been sent, so that a restart in the middle of a long replay does
// not begin from the front. It stands in the file itself because a second file
// could survive the first.
const (
	spoolMagic     = "sallyport-spool-1 "
	spoolHeaderLen = int64(len(spoolMagic) + 20 + 1)
)

var errSpoolFull = errors.New("the spool file has reached its bound")

// spool is a queue of lines in a file: appended at the end, read at the front.
// It belongs to one goroutine.
//
// It is not synced line by line: a crash of the process loses nothing of it, a
// power cut the last seconds that the kernel had not written back, which an
// event in memory would not have survived either.
type spool struct {
	file  *os.File
	front int64 // offset of the first line not yet sent
	end   int64 // file size
	limit int64
}

// openSpool opens or creates the file, cuts a half-written last line, and
// begins again from the front where the header makes no sense: a repeat can be
// told by its uid, a loss cannot.
func openSpool(path string, limit int64) (*spool, error) {
	file, err := openPrivate(path, 0)
	if err != nil {
		return nil, fmt.Errorf("open audit spool: %w", err)
	}
	s := &spool{file: file, limit: limit}
	if err := s.recover(); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("open audit spool %s: %w", path, err)
	}
	return s, nil
}

func (s *spool) recover() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	s.front, s.end = spoolHeaderLen, info.Size()
	if s.end < spoolHeaderLen {
		return s.reset()
	}
	head := make([]byte, spoolHeaderLen)
	if _, err := s.file.ReadAt(head, 0); err != nil {
		return err
	}
	if !bytes.HasPrefix(head, []byte(spoolMagic)) {
		return errors.New("this is no spool file; move it away and start again")
	}
	if err := s.cutTornLine(); err != nil {
		return err
	}
	digits := bytes.TrimSuffix(head[len(spoolMagic):], []byte{'\n'})
	if at, err := strconv.ParseInt(string(digits), 10, 64); err == nil && s.isLineStart(at) {
		s.front = at
	}
	if s.empty() {
		return s.reset()
	}
	return nil
}

// cutTornLine looks back from the end, a block at a time, for a line's end.
func (s *spool) cutTornLine() error {
	block := make([]byte, 64<<10)
	for at := s.end; at > spoolHeaderLen; {
		n := min(int64(len(block)), at-spoolHeaderLen)
		if _, err := s.file.ReadAt(block[:n], at-n); err != nil {
			return err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			s.end = at - n + int64(i) + 1
			return s.file.Truncate(s.end)
		}
		at -= n
	}
	s.end = spoolHeaderLen
	return s.file.Truncate(s.end)
}

func (s *spool) isLineStart(at int64) bool {
	if at < spoolHeaderLen || at > s.end {
		return false
	}
	var b [1]byte
	_, err := s.file.ReadAt(b[:], at-1)
	return err == nil && b[0] == '\n'
}

func (s *spool) empty() bool  { return s.front >= s.end }
func (s *spool) bytes() int64 { return s.end - s.front }

// add appends lines, all or none.
func (s *spool) add(lines [][]byte) error {
	var buf []byte
	for _, l := range lines {
		buf = append(append(buf, l...), '\n')
	}
	if s.end+int64(len(buf)) > s.limit {
		return errSpoolFull
	}
	if _, err := s.file.WriteAt(buf, s.end); err != nil {
		// What was written of it lies behind the end and is overwritten next.
		return errors.Join(err, s.file.Truncate(s.end))
	}
	s.end += int64(len(buf))
	return nil
}

// next reads up to count lines and about size bytes from the front, and the
// offset behind them for advance. A line that is no JSON was harmed on the disk
// and is left out; bad counts these.
func (s *spool) next(count int, size int64) (lines [][]byte, end int64, bad int, err error) {
	buf := make([]byte, min(size+MaxLine+1, s.end-s.front))
	if _, err := io.ReadFull(io.NewSectionReader(s.file, s.front, int64(len(buf))), buf); err != nil {
		return nil, 0, 0, fmt.Errorf("read audit spool: %w", err)
	}
	end = s.front
	for len(lines) < count && end-s.front < size {
		line, rest, found := bytes.Cut(buf, []byte{'\n'})
		if !found {
			break
		}
		buf = rest
		end += int64(len(line)) + 1
		if json.Valid(line) {
			lines = append(lines, line)
		} else {
			bad++
		}
	}
	if end == s.front { // no line's end in more than a line's length
		end = s.front + min(size+MaxLine+1, s.end-s.front)
		bad++
	}
	return lines, end, bad, nil
}

// advance notes that the lines before end are done with.
func (s *spool) advance(end int64) error {
	s.front = end
	if s.empty() {
		return s.reset()
	}
	return s.writeHeader(s.front)
}

// reset empties the file. The header is on the disk before the lines are gone:
// an old offset in a file that has grown anew would skip what was never sent.
func (s *spool) reset() error {
	if err := s.writeHeader(spoolHeaderLen); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	if err := s.file.Truncate(spoolHeaderLen); err != nil {
		return err
	}
	s.front, s.end = spoolHeaderLen, spoolHeaderLen
	return nil
}

func (s *spool) writeHeader(front int64) error {
	_, err := s.file.WriteAt(fmt.Appendf(nil, "%s%020d\n", spoolMagic, front), 0)
	return err
}

// close syncs: an orderly stop is the moment when the machine may go down too.
func (s *spool) close() error {
	return errors.Join(s.file.Sync(), s.file.Close())
}
