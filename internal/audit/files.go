package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// Names in the journal's folder. Any other file there is somebody else's.
const (
	activeName  = "events.log"       // the segment that is being written
	nextName    = "events.log.new"   // the next one, while a segment is sealed
	fetchName   = "events.log.fetch" // what comes from a peer, until it is proven
	pendingName = "pending.log"      // lines after a gap
)

// sealedName is the name of a sealed segment's file.
func sealedName(first uint64) string { return fmt.Sprintf("events-%020d.log", first) }

// parseSealedName is strict: one name for each segment.
func parseSealedName(name string) (first uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, "events-")
	if !ok {
		return 0, false
	}
	if digits, ok = strings.CutSuffix(digits, ".log"); !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0 && sealedName(first) == name
}

// fileInfo is one file of the journal. Lines with smaller numbers than first are
// copies of an earlier file's.
type fileInfo struct {
	path   string
	first  uint64 // number of the file's first own line
	active bool   // events.log: more lines may come
}

// files are those of the journal, oldest first.
//
// Whoever reads them opens them by path, and a path may mean another file by
// then: a seal renames events.log, and retention removes. Nothing is lost to a
// reader who goes by numbers. A file that is open stays what it was, whatever it
// is called. A path that does not exist (any more) means: ask for files again. And
// events.log that was opened after a seal begins with copies of the last lines, so
// its first line is beyond the one that is wanted only if more than copiedLines
// lines have come since: that, too, means to ask again.
func (j *Journal) files() []fileInfo {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]fileInfo, 0, len(j.sealed)+1)
	for _, f := range j.sealed {
		out = append(out, fileInfo{path: filepath.Join(j.dir, sealedName(f.first)), first: f.first})
	}
	return append(out, fileInfo{path: j.log.path, first: j.firstOwn(), active: true})
}

// firstOwn is the number of the first own line of events.log, as far as known; j.mu is held.
func (j *Journal) firstOwn() uint64 {
	if j.first > 0 {
		return j.first
	}
	if s := j.newest(); s != nil {
		return max(j.begin, s.last+1)
	}
	return max(1, j.begin)
}

// sealedFile is a file that does not change any more.
type sealedFile struct {
	first uint64 // by its name
	last  uint64 // by its last line; 0: it has none
	size  int64
}

// logFile is what a Journal needs of its *os.File; tests give it one that fails.
type logFile interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
	Sync() error
}

// fileSystem is what a Journal does to its folder; tests have one that fails or
// stops at any step. The zero value of osFiles is the real one.
type fileSystem interface {
	Open(path string, flag int) (logFile, error) // O_NOFOLLOW; mode 0600
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(dir string) error
}

// openPrivate opens or creates a file that nobody else may read. A symbolic
// link at its place is refused: whoever may write the folder could have us
// write to any file of ours.
func openPrivate(path string, flag int) (*os.File, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|flag, 0o600) //nolint:gosec // the replica's own data directory
	if err != nil {
		return nil, err
	}
	err = file.Chmod(0o600)
	if err == nil {
		err = syncDir(dir) // or a power cut could take the file's name
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the replica's own data directory
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// create makes an empty file of ours in place of what is there.
func (j *Journal) create(name string) (logFile, error) {
	path := filepath.Join(j.dir, name)
	if err := j.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return j.fs.Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND)
}

// maxLineBytes bounds what is taken for a line, with its line feed. Extend makes
// none that comes near it.
const maxLineBytes = 256 << 10

// lineReader walks the lines of a file without holding more than one of them.
type lineReader struct {
	r   *bufio.Reader
	off int64 // where the next line begins
}

// readLines reads the part of a file from one offset to another.
func readLines(r io.ReaderAt, from, to int64) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(io.NewSectionReader(r, from, max(0, to-from)), maxLineBytes), off: from}
}

// next returns a whole line with its line feed, valid until the following call,
// and what it says of itself; ok is false if it is no line of ours. A last line
// without its end counts as absent.
func (l *lineReader) next() (line []byte, t chain.Trailer, ok bool, err error) {
	line, err = l.r.ReadSlice('\n')
	l.off += int64(len(line))
	for errors.Is(err, bufio.ErrBufferFull) { // no line of ours
		var n int
		line, err = l.r.ReadSlice('\n')
		n, line = len(line), nil
		l.off += int64(n)
	}
	if err != nil {
		return nil, t, false, err
	}
	if len(line) > 0 {
		t, ok = chain.ParseTrailer(line[:len(line)-1])
	}
	return line, t, ok, nil
}

// seekLine finds the first line whose number is at least the given one, in a file
// whose numbers rise: where it begins, and its number; the end and 0 if there is
// none. It reads a few blocks, however long the file is.
func seekLine(r io.ReaderAt, size int64, number uint64) (off int64, found uint64, err error) {
	lo, hi := int64(0), size // the line is not before lo
	for hi-lo > maxLineBytes {
		mid := lo + (hi-lo)/2
		l := readLines(r, mid, hi)
		_, _, _, err := l.next() // the rest of a line
		at, n := int64(-1), uint64(0)
		for err == nil && at < 0 {
			begin := l.off
			var t chain.Trailer
			var good bool
			if _, t, good, err = l.next(); err == nil && good {
				at, n = begin, t.Number
			}
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return 0, 0, err
		case at < 0 || n > number:
			hi = mid
		default:
			lo = at
		}
	}
	for l := readLines(r, lo, size); ; {
		begin := l.off
		_, t, good, err := l.next()
		switch {
		case errors.Is(err, io.EOF):
			return size, 0, nil
		case err != nil:
			return 0, 0, err
		case good && t.Number >= number:
			return begin, t.Number, nil
		}
	}
}

// firstNumber is the number of the first line of ours in a file, 0 if there is none.
func firstNumber(r io.ReaderAt, size int64) (uint64, error) {
	l := readLines(r, 0, size)
	for {
		_, t, ok, err := l.next()
		if errors.Is(err, io.EOF) {
			return 0, nil
		}
		if err != nil || ok {
			return t.Number, err
		}
	}
}

// sameBeginning reports whether a file is the beginning of a longer one.
func sameBeginning(short, long io.ReaderAt, size int64) (bool, error) {
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for off := int64(0); off < size; {
		n := int(min(int64(len(a)), size-off))
		if _, err := io.ReadFull(io.NewSectionReader(short, off, int64(n)), a[:n]); err != nil {
			return false, err
		}
		if m, err := long.ReadAt(b[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		} else if m < n || !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
		off += int64(n)
	}
	return true, nil
}

// sealedIndex is where a sealed file stands in the list; j.mu is held.
func (j *Journal) sealedIndex(first uint64) (int, bool) {
	return slices.BinarySearchFunc(j.sealed, first, func(f sealedFile, first uint64) int {
		switch {
		case f.first < first:
			return -1
		case f.first > first:
			return 1
		}
		return 0
	})
}

// addSealed puts a file into the list; j.mu is held. Readers hold no slice of ours.
func (j *Journal) addSealed(f sealedFile) {
	if i, ok := j.sealedIndex(f.first); ok {
		j.sealed[i] = f
	} else {
		j.sealed = slices.Insert(j.sealed, i, f)
	}
}
