package audit

import (
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
	first uint64     // by its name
	last  uint64     // by its last line
	hash  chain.Hash // of that line
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

// openPrivate opens or creates a file that nobody else may read, in a folder that is
// made if need be, and makes its name durable.
func openPrivate(path string, flag int) (*os.File, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := openRegular(path, os.O_RDWR|os.O_CREATE|flag)
	if err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
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
