package audit

import (
	"path/filepath"
	"testing"
)

// busyDisk lets others write while it syncs a file.
type busyDisk struct {
	osFiles
	meanwhile func()
}

func (b *busyDisk) Open(path string, flag int) (logFile, error) {
	f, err := b.osFiles.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return &busyFile{f, b}, nil
}

type busyFile struct {
	logFile
	disk *busyDisk
}

func (f *busyFile) Sync() error {
	if f.disk.meanwhile != nil {
		f.disk.meanwhile()
	}
	return f.logFile.Sync()
}

// The gap must end although lines come faster than the disk syncs.
func TestKeep_closesAGapWhileLinesCome(t *testing.T) {
	h := grown(64<<20, 400)
	d := h.donor(t)
	r := newReplica(t, h)
	disk := &busyDisk{}
	if err := r.j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.open(disk); err != nil {
		t.Fatal(err)
	}
	r.peers["a"] = d.j.Serve
	r.restore(100)
	applied, syncs := 100, 0
	disk.meanwhile = func() {
		if !r.j.mu.TryLock() {
			return // somebody syncs under the lock, and nobody could write
		}
		r.j.mu.Unlock()
		syncs++
		if applied == len(h.adds) || r.j.needsSyncing(h.adds[applied]) {
			return
		}
		if err := r.j.Write(h.adds[applied]); err != nil {
			t.Error(err)
		}
		applied++
	}
	if err := r.j.Write(h.adds[applied]); err != nil { // what stands behind the gap
		t.Fatal(err)
	}
	applied++
	r.j.manifest = func() (Manifest, error) { return h.heads[applied-1], nil }
	if err := r.k.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := r.j.State(); st.Gap != nil || applied == len(h.adds) || applied < 102 {
		t.Errorf("after %d fsyncs and %d entries: %+v", syncs, applied, st)
	}
	disk.meanwhile = nil
	for ; applied < len(h.adds); applied++ {
		if err := r.j.Write(h.adds[applied]); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.j.Sync(); err != nil {
		t.Fatal(err)
	}
	if content(t, filepath.Join(d.dir, activeName)) != content(t, filepath.Join(r.dir, activeName)) {
		t.Error("the files differ")
	}
}
