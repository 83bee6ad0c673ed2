package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
)

// The spool file begins with a header of fixed length that says how far its
// lines are done with, so that a restart in the middle of a long replay does not
// begin from the front: the offset behind the last such line, and its epoch and
// number. The offset counts only if that very line ends there. So a header that
// a power cut has left behind newer content can't skip what was never sent, and
// nothing needs to be synced in a certain order.
const (
	spoolMagic     = "sallyport-spool-2 "
	spoolHeaderLen = int64(len(spoolMagic) + 20 + 1 + 16 + 1 + 20 + 1)

	// A line is a checksum (CRC-32C, hex), epoch (hex), number and event. The
	// checksum covers the rest: a number that the disk has harmed would, taken
	// for a high one, make the cluster drop all that follow.
	spoolLineOverhead = 8 + 1 + 16 + 1 + 20 + 1 + 1
)

// diskBlock is how much of a file becomes unreadable at a time, at least.
const diskBlock = 4 << 10

var errSpoolFull = errors.New("the spool has reached its bound")

// numbered is an event as one line of JSON, with its place in the order of
// sending.
type numbered struct {
	epoch, number uint64
	line          []byte
}

// spoolFile is what the spool needs of an *os.File.
type spoolFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (os.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// spool is a queue of lines in a file: appended at the end, read at the front.
// It belongs to one goroutine, but for file.Sync.
type spool struct {
	file   spoolFile
	front  int64    // offset of the first line not yet done with
	end    int64    // of the file
	limit  int64    // of what is between them
	events int64    // between them
	last   numbered // of what is done with, without the line; zero: not known
}

// openSpool opens or creates the file and cuts a half-written last line. It
// begins again from the front where the header makes no sense: repeats are
// dropped by their numbers.
func openSpool(file spoolFile, limit int64) (*spool, error) {
	s := &spool{file: file, limit: limit}
	if err := s.recover(); err != nil {
		_ = file.Close()
		return nil, err
	}
	return s, nil
}

func (s *spool) recover() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, min(spoolHeaderLen, info.Size()))
	if _, err := s.file.ReadAt(head, 0); err != nil && len(head) > 0 {
		return err
	}
	n := min(len(head), len(spoolMagic))
	if string(head[:n]) != spoolMagic[:n] && len(bytes.Trim(head, "\x00")) > 0 {
		return errors.New("it is no spool file of this version")
	}
	s.front, s.end = spoolHeaderLen, info.Size()
	if s.end < spoolHeaderLen { // new, or cut off while it was
		return s.create()
	}
	if err := s.cutTornLine(); err != nil {
		return err
	}
	if at, ok := s.parseHeader(head); ok {
		s.front = at
	}
	if s.empty() {
		return s.tidy()
	}
	s.events = s.count(s.front)
	return nil
}

func (s *spool) create() error {
	s.end = spoolHeaderLen
	if err := s.file.Truncate(0); err != nil {
		return err
	}
	if err := s.writeHeader(spoolHeaderLen, 0, 0); err != nil {
		return err
	}
	return s.file.Sync()
}

// cutTornLine looks back from the end, a block at a time, for a line's end.
func (s *spool) cutTornLine() error {
	block := make([]byte, diskBlock)
	for at := s.end; at > spoolHeaderLen; {
		n := min(int64(len(block)), at-spoolHeaderLen)
		if _, err := s.file.ReadAt(block[:n], at-n); err != nil {
			return err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return s.cut(at - n + int64(i) + 1)
		}
		at -= n
	}
	return s.cut(spoolHeaderLen)
}

func (s *spool) cut(end int64) error {
	if end == s.end {
		return nil
	}
	s.end = end
	return s.file.Truncate(end)
}

// parseHeader gives the header's offset if the line ends there that the header
// names.
func (s *spool) parseHeader(head []byte) (int64, bool) {
	fields := bytes.Fields(head[len(spoolMagic):])
	if len(fields) != 3 {
		return 0, false
	}
	at, err1 := strconv.ParseInt(string(fields[0]), 10, 64)
	epoch, err2 := strconv.ParseUint(string(fields[1]), 16, 64)
	number, err3 := strconv.ParseUint(string(fields[2]), 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || at <= spoolHeaderLen || at > s.end {
		return 0, false
	}
	buf := make([]byte, min(MaxLine+spoolLineOverhead+1, at-spoolHeaderLen))
	if _, err := s.file.ReadAt(buf, at-int64(len(buf))); err != nil || buf[len(buf)-1] != '\n' {
		return 0, false
	}
	buf = buf[:len(buf)-1]
	l, ok := parseSpoolLine(buf[bytes.LastIndexByte(buf, '\n')+1:])
	if !ok || l.epoch != epoch || l.number != number {
		return 0, false
	}
	s.last = numbered{epoch: epoch, number: number}
	return at, true
}

// count counts the lines from an offset on, as far as the disk gives them.
func (s *spool) count(from int64) (events int64) {
	block := make([]byte, 256<<10)
	for at := from; at < s.end; {
		n, err := s.file.ReadAt(block[:min(int64(len(block)), s.end-at)], at)
		events += int64(bytes.Count(block[:n], []byte{'\n'}))
		if at += int64(n); err != nil {
			at += diskBlock - at%diskBlock
		}
	}
	return events
}

func (s *spool) empty() bool  { return s.front >= s.end }
func (s *spool) bytes() int64 { return s.end - s.front }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendSpoolLine(buf []byte, l numbered) []byte {
	start := len(buf)
	buf = append(buf, "00000000 "...)
	buf = strconv.AppendUint(buf, l.epoch, 16)
	buf = append(buf, ' ')
	buf = strconv.AppendUint(buf, l.number, 10)
	buf = append(buf, ' ')
	buf = append(buf, l.line...)
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.Checksum(buf[start+9:], castagnoli))
	hex.Encode(buf[start:], sum[:])
	return append(buf, '\n')
}

// parseSpoolLine takes a line without its line feed; false means that it is not
// as it was written.
func parseSpoolLine(b []byte) (numbered, bool) {
	first, rest, ok := bytes.Cut(b, []byte{' '})
	sum, err := strconv.ParseUint(string(first), 16, 32)
	if !ok || len(first) != 8 || err != nil || uint64(crc32.Checksum(rest, castagnoli)) != sum {
		return numbered{}, false
	}
	second, rest, _ := bytes.Cut(rest, []byte{' '})
	third, line, _ := bytes.Cut(rest, []byte{' '})
	epoch, err1 := strconv.ParseUint(string(second), 16, 64)
	number, err2 := strconv.ParseUint(string(third), 10, 64)
	if err1 != nil || err2 != nil || epoch == 0 || number == 0 || len(line) == 0 {
		return numbered{}, false
	}
	return numbered{epoch, number, line}, true
}

// add appends lines, as many as fit: fewer than all only with an error, and then
// at least least or none.
//
// The bound is of what waits. The file may grow to twice as much while its front
// is being sent and new lines come: refusing these then would lose events after
// the trouble is over.
func (s *spool) add(lines []numbered, least int) (int, error) {
	var buf []byte
	n, full := 0, error(nil)
	for _, l := range lines {
		size := len(buf)
		buf = appendSpoolLine(buf, l)
		if s.bytes()+int64(len(buf)) > s.limit || s.end+int64(len(buf)) > 2*s.limit+spoolHeaderLen {
			buf, full = buf[:size], errSpoolFull
			break
		}
		n++
	}
	if n < least || n == 0 {
		return 0, full
	}
	if _, err := s.file.WriteAt(buf, s.end); err != nil {
		// What was written of it lies behind the end and is overwritten next.
		return 0, errors.Join(err, s.file.Truncate(s.end))
	}
	s.end += int64(len(buf))
	s.events += int64(n)
	return n, full
}

// next reads from an offset, the front as a rule, what one batch can carry: up to count lines and
// about size bytes, of one epoch and numbered without a hole. It gives the offset
// behind them for advance. Lines that the disk has harmed are left out; bad
// counts these.
func (s *spool) next(from int64, count int, size int64) (lines []numbered, end int64, bad int, err error) {
	buf := make([]byte, min(size+MaxLine+spoolLineOverhead, s.end-from))
	n, err := s.file.ReadAt(buf, from)
	if n < len(buf) {
		err = fmt.Errorf("read audit spool: %w", err)
		if n = bytes.LastIndexByte(buf[:n], '\n') + 1; n == 0 {
			return nil, 0, 0, err
		}
		buf = buf[:n] // what comes before the place that can't be read
	}
	whole := int64(len(buf))
	end = from
	for len(lines) < count && end-from < size {
		b, rest, found := bytes.Cut(buf, []byte{'\n'})
		if !found {
			break
		}
		l, ok := parseSpoolLine(b)
		if n := len(lines); ok && n > 0 && (l.epoch != lines[n-1].epoch || l.number != lines[n-1].number+1) {
			break
		}
		buf = rest
		end += int64(len(b)) + 1
		if ok {
			lines = append(lines, l)
		} else {
			bad++
		}
	}
	if end == from { // no line's end in more than a line's length
		end = from + whole
		bad++
	}
	return lines, end, bad, nil
}

// unreadable finds where the first line begins that can be read again behind a front
// that the disk does not give, and how many lines are before it, as far as can be told.
func (s *spool) unreadable() (end int64, lost int) {
	block := make([]byte, diskBlock)
	for at := s.front - s.front%diskBlock; at < s.end; at += diskBlock {
		n, err := s.file.ReadAt(block[:min(diskBlock, s.end-at)], at)
		if err != nil || at <= s.front {
			continue // before it, and what it begins with, there is no line's end
		}
		if i := bytes.IndexByte(block[:n], '\n'); i >= 0 {
			end = at + int64(i) + 1
			lost := max(1, s.events-s.count(end))
			if next, _, _, err := s.next(end, 1, 1); err == nil && len(next) == 1 && next[0].epoch == s.last.epoch {
				lost = max(lost, int64(next[0].number-s.last.number-1)) //nolint:gosec // there are not so many
			}
			return end, int(lost)
		}
	}
	return s.end, int(max(1, s.events))
}

// advance notes that the lines before end, n of them, are done with; last is the
// last good one.
func (s *spool) advance(end int64, n int, last numbered) error {
	s.front = end
	if last.number > 0 {
		s.last = last
		s.last.line = nil
	}
	s.events = max(s.events-int64(n), 0)
	return s.writeHeader(s.front, last.epoch, last.number)
}

// tidy empties a file whose lines are all done with.
func (s *spool) tidy() error {
	if !s.empty() || s.end == spoolHeaderLen {
		return nil
	}
	if err := s.file.Truncate(spoolHeaderLen); err != nil {
		return err
	}
	s.front, s.end, s.events = spoolHeaderLen, spoolHeaderLen, 0
	return nil
}

func (s *spool) writeHeader(front int64, epoch, number uint64) error {
	_, err := s.file.WriteAt(fmt.Appendf(nil, "%s%020d %016x %020d\n", spoolMagic, front, epoch, number), 0)
	return err
}
