package audit

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// brokenFile fails as told, after taking part of a write.
type brokenFile struct {
	logFile
	takes    int // bytes of a write that is going to fail
	writeErr error
	truncErr error
	syncErr  error
	syncs    int
}

func (f *brokenFile) Write(p []byte) (int, error) {
	if f.writeErr == nil {
		return f.logFile.Write(p)
	}
	n, err := f.logFile.Write(p[:min(f.takes, len(p))])
	return n, errors.Join(err, f.writeErr)
}

func (f *brokenFile) Truncate(size int64) error {
	if f.truncErr != nil {
		return f.truncErr
	}
	return f.logFile.Truncate(size)
}

func (f *brokenFile) Sync() error { f.syncs++; return f.syncErr }

var errFull = errors.New("no space left on device")

func broken(j *Journal) *brokenFile {
	f := &brokenFile{logFile: j.log.file}
	j.log.file = f
	return f
}

func TestJournal_fullDiskDelaysLinesAndForbidsSnapshots(t *testing.T) {
	for _, truncErr := range []error{nil, errors.New("read-only")} {
		h := grown(0, 30)
		dir := t.TempDir()
		j := h.open(t, dir)
		f := broken(j)
		f.writeErr, f.takes, f.truncErr = errFull, 25, truncErr
		half := len(h.adds) / 2
		for _, add := range h.adds[:half] {
			if err := j.Write(add); err != nil {
				t.Fatal(err)
			}
		}
		if got := content(t, filepath.Join(dir, activeName)); truncErr == nil && got != "" {
			t.Errorf("the file holds %q", got)
		}
		if err := j.Sync(); !errors.Is(err, errFull) {
			t.Errorf("Sync says %v with lines unwritten", err)
		}
		if j.Pending() == 0 || j.State().Err == nil {
			t.Error("nothing pending")
		}
		f.writeErr = nil
		h.give(t, j, half)
		if diff := cmp.Diff(h.text(), content(t, filepath.Join(dir, activeName))); diff != "" {
			t.Error(diff)
		}
		if err := j.Sync(); err != nil {
			t.Error(err)
		}
		wantState(t, j, 1, 30)
	}
}

// outOfSpace fails what needs space, in the way of a full disk: files can be
// renamed and removed, and even created, but not filled.
type outOfSpace struct {
	osFiles
	mu   sync.Mutex
	full bool
	late bool // only a Sync tells
}

type spaceFile struct {
	logFile
	disk *outOfSpace
}

func (d *outOfSpace) Open(path string, flag int) (logFile, error) {
	f, err := d.osFiles.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return &spaceFile{f, d}, nil
}

func (d *outOfSpace) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func (f *spaceFile) full() (at, late bool) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.disk.full && !f.disk.late, f.disk.full && f.disk.late
}

func (f *spaceFile) Sync() error {
	if _, late := f.full(); late {
		return errFull
	}
	return f.logFile.Sync()
}

func (f *spaceFile) Write(b []byte) (int, error) {
	if full, _ := f.full(); full {
		n, _ := f.logFile.Write(b[:len(b)/2])
		return n, errFull
	}
	return f.logFile.Write(b)
}

func TestJournal_sealsThatAreDueWhileTheDiskIsFullComeLater(t *testing.T) {
	h := grown(3000, 200)
	disk := &outOfSpace{}
	dir := t.TempDir()
	j := h.openOn(t, dir, disk)
	for i, add := range h.adds {
		disk.set(i%20 >= 5 && i%20 < 15)
		if err := j.Write(add); err != nil {
			t.Fatal(err)
		}
		if i%20 == 10 && (j.Sync() == nil || j.Pending() == 0) {
			t.Error("all is well on a full disk")
		}
	}
	disk.set(false)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	wantFolder(t, folder(t, dir), folder(t, h.reference(t)))
	wantState(t, j, 1, 200)
}

func TestJournal_refusesWhatItCannotKeep(t *testing.T) {
	h := newHistory(4 << 20) // several seals wait, too
	dir := t.TempDir()
	disk := &outOfSpace{full: true}
	j := h.openOn(t, dir, disk)
	var refused *Addition
	for refused == nil {
		add := h.entry(large(1 << 20)...)
		if err := j.Write(add); errors.Is(err, errFull) {
			refused = add
		} else if err != nil {
			t.Fatal(err)
		}
		if h.index > 100 {
			t.Fatal("memory is not bounded")
		}
	}
	if err := j.Write(refused); !errors.Is(err, errFull) {
		t.Errorf("the same call again: %v", err)
	}
	disk.set(false)
	if err := j.Write(refused); err != nil {
		t.Fatal(err)
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	wantFolder(t, folder(t, dir), folder(t, h.reference(t)))
}

func TestJournal_writesAgainWhatAFailedSyncLeftInDoubt(t *testing.T) {
	eio := errors.New("input/output error")
	for name, truncErr := range map[string]error{"tail cut": nil, "tail stays": errors.New("read-only")} {
		t.Run(name, func(t *testing.T) {
			h := grown(0, 30)
			dir := t.TempDir()
			path := filepath.Join(dir, activeName)
			j := h.open(t, dir)
			f := broken(j)
			if err := j.Write(h.adds[0]); err != nil {
				t.Fatal(err)
			}
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
			h.give(t, j, 1)
			f.syncErr, f.truncErr = eio, truncErr
			for range 2 {
				if err := j.Sync(); err == nil {
					t.Error("Sync succeeded on a disk that does not")
				}
				if j.Pending() == 0 {
					t.Error("what may be lost is not kept")
				}
			}
			if truncErr == nil { // what is in doubt must not be skipped by a restart
				if diff := cmp.Diff(string(h.adds[0].Lines), content(t, path)); diff != "" {
					t.Error(diff)
				}
			}
			f.syncErr, f.truncErr = nil, nil
			if err := j.Sync(); err != nil || j.Pending() != 0 {
				t.Errorf("Sync: %v, pending %d", err, j.Pending())
			}
			if diff := cmp.Diff(h.text(), content(t, path)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJournal_aSealWhoseSyncFailsComesLater(t *testing.T) {
	h := grown(3000, 100)
	dir := t.TempDir()
	j := h.open(t, dir)
	f := broken(j)
	f.syncErr = errors.New("input/output error")
	h.give(t, j, 0)
	if s := j.State(); s.Files != 1 || s.Err == nil {
		t.Errorf("sealed what the disk did not take: %+v", s)
	}
	f.syncErr = nil
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	wantFolder(t, folder(t, dir), folder(t, h.reference(t)))
}

func TestJournal_hearsOfADiskThatSyncsAgainByWriteAlone(t *testing.T) {
	h := newHistory(0)
	j := h.open(t, t.TempDir())
	f := broken(j)
	f.syncErr = errors.New("input/output error")
	h.entry(`{"event":"e"}`)
	h.give(t, j, 0)
	_ = j.Sync() // fails
	write := func(n int) {
		for range n {
			if err := j.Write(h.entry(`{"event":"e"}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(3000)
	if f.syncs > 20 {
		t.Errorf("%d attempts, each of which writes everything again", f.syncs)
	}
	f.syncErr = nil
	write(3000)
	wantState(t, j, 1, 6001)
}

func TestJournal_syncsOnlyWhatIsNew(t *testing.T) {
	h := grown(0, 20)
	j := h.open(t, t.TempDir())
	f := broken(j)
	h.give(t, j, 0)
	for range 3 {
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if f.syncs != 1 {
		t.Errorf("%d fsyncs", f.syncs)
	}
}

// Entries are applied one after another, and state writes among them wait: an
// fsync of much that was logged must not stand in their way, unless the disk
// does not keep pace.
func TestJournal_syncsBesideTheWritesUntilTooMuchWaits(t *testing.T) {
	h := newHistory(0)
	j := h.open(t, t.TempDir())
	f := &slowFile{logFile: j.log.file, begun: make(chan struct{}), end: make(chan error)}
	j.log.file = f
	write := func() {
		if err := j.Write(h.entry(large(syncAhead / 2)...)); err != nil {
			t.Error(err)
		}
	}
	write()
	write()
	<-f.begun
	for range 2 * (syncEvery - syncAhead) / syncAhead {
		write() // none waits for the fsync
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		write()
	}()
	select {
	case <-wrote:
		t.Error("8 MiB are not on the disk, and more is written")
	case <-f.begun:
		t.Error("two fsyncs at a time")
	case <-time.After(50 * time.Millisecond):
	}
	f.end <- nil
	<-f.begun // what came meanwhile
	f.end <- errFull
	<-wrote
	j.ahead.Wait()
	if err := j.State().Err; !errors.Is(err, errFull) {
		t.Errorf("told of the fsync that failed: %v", err)
	}
	go func() {
		for range f.begun {
			f.end <- nil
		}
	}()
	if err := j.Sync(); err != nil {
		t.Error(err)
	}
	write()
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	close(f.begun)
	wantFolder(t, folder(t, filepath.Dir(j.log.path)), map[string]string{activeName: h.text()})
}

// slowFile ends an fsync when the test says so.
type slowFile struct {
	logFile
	begun chan struct{}
	end   chan error
}

func (f *slowFile) Sync() error {
	f.begun <- struct{}{}
	return <-f.end
}

// noNext has no room for the next segment's file.
type noNext struct {
	osFiles
	full bool
}

func (n *noNext) Open(path string, flag int) (logFile, error) {
	if n.full && filepath.Base(path) == nextName {
		return nil, syscall.ENOSPC
	}
	return n.osFiles.Open(path, flag)
}

// Who deletes the largest file of a full disk must not stop the replica, whose seal is due.
func TestJournal_itsFileIsDeletedWhileASealWaitsForRoom(t *testing.T) {
	h := grown(9000, 220)
	r := newReplica(t, h)
	sealed := slices.IndexFunc(h.adds, func(add *Addition) bool { return add.Sealed != nil })
	for _, add := range h.adds[:sealed] {
		if err := r.j.Write(add); err != nil {
			t.Fatal(err)
		}
	}
	disk := &noNext{full: true}
	r.j.fs = disk
	_ = r.j.Write(h.adds[sealed])
	if err := r.j.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("sync without room: %v", err)
	}
	if err := os.Remove(filepath.Join(r.dir, activeName)); err != nil {
		t.Fatal(err)
	}
	disk.full = false
	for _, add := range h.adds[sealed+1:] {
		if err := r.j.Write(add); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.j.Sync(); err != nil {
		t.Fatal(err)
	}
	d := h.donor(t)
	for _, name := range []string{activeName, sealedName(1)} {
		if content(t, filepath.Join(d.dir, name)) != content(t, filepath.Join(r.dir, name)) {
			t.Errorf("%s differs", name)
		}
	}
}

// What a full disk took of a file that can't be finished is room that others wait for,
// Raft above all.
func TestJournal_aFileThatFindsNoRoomKeepsNone(t *testing.T) {
	h := grown(9000, 220)
	sealed := slices.IndexFunc(h.adds, func(add *Addition) bool { return add.Sealed != nil })
	empty := func(t *testing.T, r *replica, name string) {
		t.Helper()
		if info, err := os.Stat(filepath.Join(r.dir, name)); err == nil && info.Size() > 0 {
			t.Errorf("%s keeps %d bytes", name, info.Size())
		}
	}
	t.Run("the next segment's", func(t *testing.T) {
		r := newReplica(t, h)
		r.apply(sealed)
		disk := &outOfSpace{}
		r.j.fs = disk
		disk.set(true)
		r.apply(1)
		if err := r.j.Sync(); !errors.Is(err, errFull) {
			t.Fatalf("sync without room: %v", err)
		}
		empty(t, r, nextName)
	})
	for name, late := range map[string]bool{"one that is fetched": false, "one that is fetched, as its sync tells": true} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t, h)
			r.peers["a"] = h.donor(t).j.Serve
			r.restore(len(h.adds))
			disk := &outOfSpace{late: late}
			r.j.fs = disk
			disk.set(true)
			if err := r.round(); !errors.Is(err, errFull) {
				t.Fatalf("a round without room: %v", err)
			}
			empty(t, r, fetchName)
			disk.set(false)
			r.mustRound()
			r.wantEqual(folder(t, h.donor(t).dir))
		})
	}
}
