package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/hclogslog"
)

// snapshotsKept is one to start from and one in case it is damaged.
const snapshotsKept = 2

// Stores are where a node keeps what must outlive it. Under test they are in
// memory.
type Stores interface {
	// Open returns Raft's stores. It is called again after Close or Reset.
	Open() (raft.LogStore, raft.StableStore, raft.SnapshotStore, error)
	Close() error
	// Reset removes Raft's state, of which there is no log yet.
	Reset() error
	LoadMeta() ([]byte, error) // nil: none
	SaveMeta([]byte) error     // durable when it returns
	// Where names the disk for people ("/var/lib/sallyport").
	Where() string
}

// diskStores keep everything in one directory: raft.db (bbolt), raft/snapshots,
// cluster.json.
type diskStores struct {
	dir string
	log *slog.Logger
	db  *raftboltdb.BoltStore

	compactAbove int64         // bytes: see compact
	lockWait     time.Duration // see there
	openFile     func(name string, flag int, mode os.FileMode) (*os.File, error)
	syncDir      func(dir string) error
}

func newDiskStores(dir string, log *slog.Logger) *diskStores {
	return &diskStores{dir: dir, log: log, compactAbove: compactAbove, lockWait: lockWait, openFile: os.OpenFile, syncDir: syncDir}
}

func (s *diskStores) Open() (raft.LogStore, raft.StableStore, raft.SnapshotStore, error) {
	if err := os.MkdirAll(filepath.Join(s.dir, snapshotDir), 0o700); err != nil {
		return nil, nil, nil, fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(s.dir, raftFile)
	db, err := (*raftboltdb.BoltStore)(nil), s.compact()
	if errors.Is(err, errReplaced) {
		return nil, nil, nil, err
	}
	if !errors.Is(err, bbolt.ErrTimeout) { //nolint:staticcheck // alias of bbolt/errors
		if err != nil { // a full disk, say: it works as well
			s.log.Warn("the log's file stays as large as it is", "error", err)
		}
		db, err = s.openLog()
	}
	if errors.Is(err, bbolt.ErrTimeout) { //nolint:staticcheck // likewise
		return nil, nil, nil, fmt.Errorf("%s is in use: does another sallyport run on this data directory?", path)
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(filepath.Join(s.dir, snapshotDir), snapshotsKept, hclogslog.New(s.log.With("logger", "raft"), hclogslog.Options{Level: raftLevel}))
	if err != nil {
		_ = db.Close() // the error is what matters
		return nil, nil, nil, fmt.Errorf("open snapshots: %w", err)
	}
	s.db = db
	return db, db, snaps, nil
}

// openLog opens raft.db. Whoever waited for its lock while another process made
// it smaller has got the old file, which is of no use, and opens the new one.
func (s *diskStores) openLog() (*raftboltdb.BoltStore, error) {
	path := filepath.Join(s.dir, raftFile)
	for {
		opts, file := s.logOptions()
		db, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: opts, MsgpackUseNewTimeFormat: true})
		if err != nil {
			return nil, err //nolint:wrapcheck // by the caller
		}
		same, err := inPlace(*file, path)
		if err == nil && same {
			// Whoever made or replaced the file may have died before its name was durable.
			err = s.syncDir(s.dir)
		}
		if err == nil && same {
			return db, nil
		}
		if err := errors.Join(err, db.Close()); err != nil {
			return nil, err
		}
	}
}

func (s *diskStores) Close() error {
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	if err := db.Close(); err != nil {
		return fmt.Errorf("close %s: %w", raftFile, err)
	}
	return nil
}

func (s *diskStores) Reset() error {
	// Removed before it is let go of: who waits for its lock then sees that it is gone.
	if err := os.Remove(filepath.Join(s.dir, raftFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("remove empty Raft state: %w", err), s.Close())
	}
	return s.Close()
}

func (s *diskStores) LoadMeta() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", metaFile, err)
	}
	return b, nil
}

func (s *diskStores) SaveMeta(b []byte) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	return atomicfile.Write(filepath.Join(s.dir, metaFile), b, 0o600)
}

func (s *diskStores) Where() string { return s.dir }

// MemoryStores live as long as the process: for tests. The zero value is not
// usable; see NewMemoryStores.
type MemoryStores struct {
	mu    sync.Mutex
	store *raft.InmemStore
	snaps *raft.InmemSnapshotStore
	meta  []byte
	// WrapLog, if set, wraps the log store at every Open: disks that hang or fill up.
	WrapLog func(raft.LogStore) raft.LogStore
	// WrapStable likewise.
	WrapStable func(raft.StableStore) raft.StableStore
}

// NewMemoryStores returns empty stores.
func NewMemoryStores() *MemoryStores {
	return &MemoryStores{store: raft.NewInmemStore(), snaps: raft.NewInmemSnapshotStore()}
}

// Open implements Stores.
func (s *MemoryStores) Open() (raft.LogStore, raft.StableStore, raft.SnapshotStore, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var logs raft.LogStore = s.store
	var stable raft.StableStore = s.store
	if s.WrapLog != nil {
		logs = s.WrapLog(logs)
	}
	if s.WrapStable != nil {
		stable = s.WrapStable(stable)
	}
	return logs, stable, s.snaps, nil
}

// Close implements Stores. The contents stay: it is what a crash leaves.
func (s *MemoryStores) Close() error { return nil }

// Reset implements Stores.
func (s *MemoryStores) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store, s.snaps = raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	return nil
}

// LoadMeta implements Stores.
func (s *MemoryStores) LoadMeta() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta, nil
}

// SaveMeta implements Stores.
func (s *MemoryStores) SaveMeta(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meta = b
	return nil
}

// Where implements Stores.
func (s *MemoryStores) Where() string { return "memory" }

// hasLog reports whether Raft's state holds anything of the cluster's data. A
// term or a vote alone is not data: whoever only voted may still be adopted elsewhere.
func hasLog(logs raft.LogStore, snaps raft.SnapshotStore) (bool, error) {
	last, err := logs.LastIndex()
	if err != nil {
		return false, fmt.Errorf("read the log: %w", err)
	}
	if last > 0 {
		return true, nil
	}
	list, err := snaps.List()
	if err != nil {
		return false, fmt.Errorf("list snapshots: %w", err)
	}
	return len(list) > 0, nil
}
