package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// fill writes n entries of 4 KiB and deletes all but the last ones.
func fill(t *testing.T, s *diskStores, n, kept uint64) {
	t.Helper()
	logs, stable, _, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	const batch = 512
	for from := uint64(1); from <= n; from += batch {
		var entries []*raft.Log
		for i := from; i < min(from+batch, n+1); i++ {
			entries = append(entries, &raft.Log{Index: i, Term: 7, Type: raft.LogCommand, Data: data(i)})
		}
		if err := logs.StoreLogs(entries); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(logs.DeleteRange(1, n-kept), stable.SetUint64([]byte("CurrentTerm"), 7), stable.Set([]byte("LastVoteCand"), []byte("me")), s.Close()); err != nil {
		t.Fatal(err)
	}
}

func data(i uint64) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
	return bytes.Repeat(sum[:], 128)
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", path, info.Mode())
	}
	return info.Size()
}

// intact fails unless the stores hold what fill left.
func intact(t *testing.T, s *diskStores, n, kept uint64) {
	t.Helper()
	logs, stable, _, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	first, err1 := logs.FirstIndex()
	last, err2 := logs.LastIndex()
	if first != n-kept+1 || last != n || err1 != nil || err2 != nil {
		t.Errorf("entries %d to %d (%v, %v), want %d to %d", first, last, err1, err2, n-kept+1, n)
	}
	for i := first; i <= last; i++ {
		var got raft.Log
		if err := logs.GetLog(i, &got); err != nil || got.Term != 7 || !bytes.Equal(got.Data, data(i)) {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	term, err1 := stable.GetUint64([]byte("CurrentTerm"))
	vote, err2 := stable.Get([]byte("LastVoteCand"))
	if term != 7 || string(vote) != "me" || err1 != nil || err2 != nil {
		t.Errorf("term %d, vote %q (%v, %v)", term, vote, err1, err2)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, compactFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy is left: %v", err)
	}
}

// Reliability, row 11: a bbolt file never shrinks.
func TestALogThatIsMostlyFreeIsCompactedAtStart(t *testing.T) {
	t.Parallel()
	const n, kept = 12_000, 1000
	s := newDiskStores(t.TempDir(), slog.New(slog.DiscardHandler))
	path := filepath.Join(s.dir, raftFile)
	fill(t, s, n, kept)
	before := size(t, path)
	if before < compactAbove {
		t.Fatalf("only %d bytes: the test does not show anything", before)
	}
	// What a start that was interrupted has left does not stand in the way.
	if err := os.WriteFile(filepath.Join(s.dir, compactFile), []byte("half a copy"), 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	intact(t, s, n, kept)
	after := size(t, path)
	t.Logf("%d MiB became %d MiB in %v", before>>20, after>>20, time.Since(start))
	if after > before/4 {
		t.Errorf("%d bytes of %d are left", after, before)
	}
	intact(t, s, n, kept) // and once more: nothing to do
	if again := size(t, path); again != after {
		t.Errorf("%d bytes after another start, were %d", again, after)
	}
}

func TestALogInUseOrSmallIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		n, kept uint64
		above   int64
	}{
		"in use": {600, 500, 1 << 20},
		"small":  {600, 10, 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newDiskStores(t.TempDir(), slog.New(slog.DiscardHandler))
			s.compactAbove = tt.above
			fill(t, s, tt.n, tt.kept)
			path := filepath.Join(s.dir, raftFile)
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			intact(t, s, tt.n, tt.kept)
			if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("the file was replaced (%v)", err)
			}
		})
	}
}

// A disk without room for the copy must not keep a replica from starting.
func TestALogThatCantBeCompactedIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	s := newDiskStores(t.TempDir(), slog.New(slog.NewTextHandler(&said, nil)))
	s.compactAbove = 1 << 20
	fill(t, s, 600, 10)
	before := size(t, filepath.Join(s.dir, raftFile))
	// A directory in the copy's place, with something in it, can't be removed.
	inTheWay := filepath.Join(s.dir, compactFile)
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := s.Open(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if after := size(t, filepath.Join(s.dir, raftFile)); after != before || !strings.Contains(said.String(), "stays as large as it is") {
		t.Errorf("%d bytes, were %d; the log says %q", after, before, &said)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	intact(t, s, 600, 10)
}

// Two starts on one data directory at once: the one that waits while the other
// makes the file smaller must not put a copy of the old file in the new one's place.
func TestWhoWaitedWhileTheLogWasCompactedDoesNotReplaceIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := newDiskStores(dir, slog.New(slog.DiscardHandler)), newDiskStores(dir, slog.New(slog.DiscardHandler))
	a.compactAbove, b.compactAbove = 1<<20, 1<<20
	b.lockWait = 2 * time.Second // passes once: a holds the new file to the end
	fill(t, a, 4096, 100)
	path, beside := filepath.Join(dir, raftFile), filepath.Join(dir, compactFile)
	src, err := bbolt.Open(path, 0o600, boltOptions()) // as a's compact does
	if err != nil {
		t.Fatal(err)
	}
	// b opens the old file and waits for its lock.
	waits := make(chan struct{})
	var once sync.Once
	b.openFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		defer once.Do(func() { close(waits) })
		return os.OpenFile(name, flag, mode) //nolint:gosec // the test's own
	}
	opened := make(chan error, 1)
	if err := copyInto(beside, src); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _, _, err := b.Open()
		opened <- err
	}()
	<-waits
	if _, err := os.Stat(beside); err != nil {
		t.Errorf("who has no lock yet took the other's copy away: %v", err)
	}
	if err := errors.Join(os.Rename(beside, path), syncDir(dir)); err != nil {
		t.Fatal(err)
	}
	// a locks the new file before it lets go of the old one here, to be the first in any case.
	logs, err := a.openLog()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(src.Close(), logs.StoreLogs([]*raft.Log{{Index: 4097, Term: 8, Data: []byte("acknowledged")}})); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("the second start: %v", err)
	}
	if err := errors.Join(logs.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	after, _, _, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	if last, err := after.LastIndex(); last != 4097 || err != nil {
		t.Errorf("the log ends with entry %d (%v): one that was acknowledged is gone", last, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

// Once the smaller file is in place, writing to it is safe only if its name is
// durable: else a power failure brings back the old one.
func TestAReplacedLogWhoseNameIsNotDurableStopsTheStart(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	s := newDiskStores(t.TempDir(), slog.New(slog.NewTextHandler(&said, nil)))
	s.compactAbove = 1 << 20
	fill(t, s, 600, 10)
	broken := errors.New("input/output error")
	failures := 0
	s.syncDir = func(string) error {
		failures++
		if !strings.Contains(said.String(), "making the log's file smaller") {
			t.Errorf("nothing was said before it began: %s", &said)
		}
		return broken
	}
	for i := range 2 { // and the next start, which finds nothing to make smaller
		if _, _, _, err := s.Open(); !errors.Is(err, broken) {
			t.Fatalf("start %d with a disk that does not take the name: %v", i+1, err)
		}
	}
	if failures != 2 {
		t.Errorf("%d tries", failures)
	}
	s.syncDir = syncDir
	intact(t, s, 600, 10)
}

// Whoever waits for the lock of a file that is being replaced gets the new one.
func TestTheLockOfAReplacedLogIsNotTheLock(t *testing.T) {
	t.Parallel()
	s := newDiskStores(t.TempDir(), slog.New(slog.DiscardHandler))
	s.lockWait = time.Minute // the disk may be slow
	fill(t, s, 10, 5)
	path := filepath.Join(s.dir, raftFile)
	old, err := bbolt.Open(path, 0o600, boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		_, _, _, err := s.Open() // waits for old's lock
		opened <- err
	}()
	if err := errors.Join(copyInto(path+".new", old), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	now, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(old.Close(), <-opened); err != nil {
		t.Fatal(err)
	}
	if _, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Millisecond}); !errors.Is(err, bbolt.ErrTimeout) { //nolint:staticcheck // alias
		t.Errorf("the file in place is not locked: %v", err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(now, after) {
		t.Errorf("the file was replaced again (%v)", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestALogThatAnotherProcessHoldsIsSaidToBeInUse(t *testing.T) {
	t.Parallel()
	s := newDiskStores(t.TempDir(), slog.New(slog.DiscardHandler))
	fill(t, s, 10, 5)
	s.lockWait = 50 * time.Millisecond
	other, err := bbolt.Open(filepath.Join(s.dir, raftFile), 0o600, boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, above := range []int64{0, 1 << 30} { // to be compacted, or not
		s.compactAbove = above
		if _, _, _, err := s.Open(); err == nil || !strings.Contains(err.Error(), "is in use: does another sallyport run") {
			t.Errorf("Open: %v", err)
		}
	}
}
