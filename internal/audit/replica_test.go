package audit

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var errDead = errors.New("killed")

// dying is a folder of a process that is killed at its n-th step: what it has done
// by then stays, and nothing comes after. A write is cut in two.
type dying struct {
	osFiles
	mu   sync.Mutex
	left int
	dead bool
}

type dyingFile struct {
	logFile
	d *dying
}

func (d *dying) step() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left--; d.left < 0 {
		d.dead = true
		return errDead
	}
	return nil
}

func (d *dying) Open(path string, flag int) (logFile, error) {
	if flag&os.O_CREATE != 0 {
		if err := d.step(); err != nil {
			return nil, err
		}
	}
	f, err := d.osFiles.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return &dyingFile{f, d}, nil
}

func (d *dying) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.osFiles.Rename(from, to)
}

func (d *dying) Remove(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.osFiles.Remove(path)
}

func (d *dying) SyncDir(dir string) error {
	return d.step() // a killed process takes no disk with it
}

func (f *dyingFile) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	was := f.d.dead
	f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		if !was {
			_, _ = f.logFile.Write(b[:len(b)/2])
		}
		return 0, err
	}
	return f.logFile.Write(b)
}

func (f *dyingFile) Truncate(size int64) error {
	if err := f.d.step(); err != nil {
		return err
	}
	return f.logFile.Truncate(size)
}

func (f *dyingFile) Sync() error { return f.d.step() }

// replica is a journal of a history that has come so far in it.
type replica struct {
	t       testing.TB
	h       *history
	dir     string
	j       *Journal
	k       *keeper
	applied int
	change  func(Manifest) Manifest // what the store says otherwise; nil: nothing
	peers   map[string]func(FetchRequest) (FetchAnswer, error)
}

func newReplica(t testing.TB, h *history) *replica {
	r := &replica{t: t, h: h, dir: t.TempDir(), peers: make(map[string]func(FetchRequest) (FetchAnswer, error))}
	if err := r.open(hasty{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.j.Close() })
	return r
}

func (r *replica) manifest() (Manifest, error) {
	m := Manifest{Head: Head{First: 1}}
	if r.applied > 0 {
		m = r.h.heads[r.applied-1]
	}
	if r.change != nil {
		m = r.change(m)
	}
	return m, nil
}

func (r *replica) open(files fileSystem) (err error) {
	r.j, err = openJournal(r.dir, JournalOptions{Logger: quiet, Manifest: r.manifest}, files)
	r.k = &keeper{j: r.j, opts: KeepOptions{
		Peers: func() []string { return slices.Sorted(maps.Keys(r.peers)) },
		Fetch: func(_ context.Context, peer string, q FetchRequest) (FetchAnswer, error) { return r.peers[peer](q) },
	}}
	return err
}

// reopen is a start after a kill: Raft restores its snapshot and gives the rest.
func (r *replica) reopen(snapshot int) {
	r.t.Helper()
	if r.j != nil {
		_ = r.j.closeFiles() // of the one that was killed
	}
	if err := r.open(hasty{}); err != nil {
		r.t.Fatal(err)
	}
	to := r.applied
	r.restore(snapshot)
	r.apply(to - snapshot)
}

func (r *replica) restore(snapshot int) {
	if r.applied = snapshot; snapshot > 0 {
		r.j.Expect(r.h.heads[snapshot-1].Head)
	}
}

func (r *replica) apply(n int) {
	r.t.Helper()
	for range n {
		if err := r.j.Write(r.h.adds[r.applied]); err != nil {
			r.t.Fatal(err)
		}
		r.applied++
	}
}

func (r *replica) round() error { return r.k.round(r.t.Context()) }

func (r *replica) mustRound() {
	r.t.Helper()
	if err := r.round(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) wantEqual(want map[string]string) {
	r.t.Helper()
	if err := r.j.Sync(); err != nil {
		r.t.Fatal(err)
	}
	if s := r.j.State(); s.Gap != nil || s.Err != nil {
		r.t.Fatalf("%+v %+v", s, s.Gap)
	}
	wantFolder(r.t, folder(r.t, r.dir), want)
}

// donor is a replica to which nothing happened.
func (h *history) donor(t testing.TB) *replica {
	d := newReplica(t, h)
	d.apply(len(h.adds))
	return d
}

// retained leaves out segments before a number.
func retained(first uint64) func(Manifest) Manifest {
	return func(m Manifest) Manifest {
		m.Segments = slices.DeleteFunc(slices.Clone(m.Segments), func(s Segment) bool { return s.First < first })
		return m
	}
}

// tamper ends the journal and has somebody change one of its files, who is given what
// is in it. It gives what is in it then.
func (r *replica) tamper(name string, change func(text []byte) []byte) []byte {
	r.t.Helper()
	if err := r.j.Close(); err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.dir, name)
	text := change([]byte(content(r.t, path)))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return text
}

// adds is a change: lines more.
func adds(lines ...[]byte) func([]byte) []byte {
	return func(text []byte) []byte { return append(text, bytes.Join(lines, nil)...) }
}

// asideText is what was moved aside from a file, in all.
func asideText(t testing.TB, dir, name string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, name+".o*-*"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(content(t, name))
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}
