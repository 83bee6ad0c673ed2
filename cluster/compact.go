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

func boltOptions() *bbolt.Options {
	return &bbolt.Options{
		Timeout: 5 * time.Second, // another process holds the file
		// The freelist is rebuilt at start instead of written with every
		// commit; as a map it stays fast when much of the file is free.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	}
}

// compact makes raft.db smaller if more than half of it is free. The copy is
// durable before it takes the file's place, and until then the file is
// untouched: a crash at any point leaves one or the other. There must be a file.
func (s *diskStores) compact() (err error) {
	path, beside := filepath.Join(s.dir, raftFile), filepath.Join(s.dir, compactFile)
	if err := removeIfThere(beside); err != nil { // of a start that was interrupted
		return err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < s.compactAbove {
		return nil
	}
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	// Opened to be written, though it is not: the lock must keep every other process out.
	src, err := bbolt.Open(path, 0o600, boltOptions())
	if err != nil {
		return fmt.Errorf("compact %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if !mostlyFree(src, info.Size()) {
		return nil
	}
	start := time.Now()
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
	if err := syncDir(s.dir); err != nil {
		return err
	}
	s.log.Info("made the log's file smaller", "file", path, "from", info.Size(), "to", now.Size(), "took", time.Since(start))
	return nil
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
