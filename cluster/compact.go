package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// A bbolt file never shrinks: pages of entries that were deleted are used again,
	// but stay. After a burst (a follower away for long, a large transaction) most of
	// the file is free, and every start reads all of it to find out what is. So it is
	// copied once at start, where nobody waits for it, if more than half is free.
	compactAbove = 32 << 20 // smaller files are not worth it
	compactFile  = raftFile + ".compact"
	compactTxn   = 4 << 20 // of the copy, which bounds its memory
)

// lockWait is how long a start waits for a file that another process holds.
const lockWait = 5 * time.Second

func boltOptions() *bbolt.Options {
	return &bbolt.Options{
		Timeout: lockWait,
		// The freelist is rebuilt at start instead of written with every
		// commit; as a map it stays fast when much of the file is free.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	}
}

// errReplaced is for what went wrong when the smaller file was in place already:
// a power failure might bring the old one back, without what is written from now on.
var errReplaced = errors.New("the log's file was replaced, but the disk may not have noted it: start again when the disk is well")

// compact makes raft.db smaller if more than half of it is free. The copy is
// durable before it takes the file's place, and until then the file is
// untouched: a crash at any point leaves one or the other. There must be a file.
func (s *diskStores) compact() (err error) {
	path, beside := filepath.Join(s.dir, raftFile), filepath.Join(s.dir, compactFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < s.compactAbove {
		return nil
	}
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	// Opened to be written, though it is not: the lock must keep every other process out.
	opts, file := s.logOptions()
	src, err := bbolt.Open(path, 0o600, opts)
	if err != nil {
		return fmt.Errorf("compact %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	// Whoever waited for the lock while another process did this has got the file
	// that was replaced: a copy of that would undo what the other has written since.
	if same, err := inPlace(*file, path); err != nil || !same {
		return err
	}
	if err := removeIfThere(beside); err != nil { // of a start that was interrupted
		return err
	}
	if !mostlyFree(src, info.Size()) {
		return nil
	}
	start := time.Now()
	s.log.Info("making the log's file smaller: most of it is free", "file", path, "size", info.Size())
	if err := copyInto(beside, src); err != nil {
		return errors.Join(fmt.Errorf("compact %s: %w", path, err), removeIfThere(beside))
	}
	now, err := os.Stat(beside)
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	if err := os.Rename(beside, path); err != nil {
		return errors.Join(fmt.Errorf("compact: %w", err), removeIfThere(beside))
	}
	if err := s.syncDir(s.dir); err != nil {
		return fmt.Errorf("%w: %w", errReplaced, err)
	}
	s.log.Info("made the log's file smaller", "file", path, "from", info.Size(), "to", now.Size(), "took", time.Since(start))
	return nil
}

// logOptions are those to open raft.db with, and where they leave the open file.
func (s *diskStores) logOptions() (*bbolt.Options, **os.File) {
	var file *os.File
	o := boltOptions()
	o.Timeout = s.lockWait
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := s.openFile(name, flag, mode)
		if file == nil { // what bbolt opens besides is not the file it locks
			file = f
		}
		return f, err
	}
	return o, &file
}

// inPlace says whether an open file is what a path leads to. A file that is open
// lends its inode to no other.
func inPlace(f *os.File, path string) (bool, error) {
	held, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("look at the open file: %w", err)
	}
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(held, now), err //nolint:wrapcheck // names the file
}

// mostlyFree reads what opening the file has found out.
func mostlyFree(db *bbolt.DB, size int64) bool {
	st := db.Stats()
	return int64(st.FreePageN+st.PendingPageN)*int64(db.Info().PageSize) > size/2
}

// copyInto writes a durable copy of what is in use.
func copyInto(path string, src *bbolt.DB) (err error) {
	o := boltOptions()
	o.NoSync = true // once, at the end
	o.PageSize = src.Info().PageSize
	dst, err := bbolt.Open(path, 0o600, o)
	if err != nil {
		return err //nolint:wrapcheck // by the caller
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := bbolt.Compact(dst, src, compactTxn); err != nil {
		return err //nolint:wrapcheck // by the caller
	}
	return dst.Sync() //nolint:wrapcheck // by the caller
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an old copy: %w", err)
	}
	return nil
}
