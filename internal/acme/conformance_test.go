package acme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// prunedFiles is CertMagic's FileStorage without an accident of file systems: that a
// directory outlives its files. By certmagic.Storage directories are only implicit.
type prunedFiles struct{ *certmagic.FileStorage }

func (p prunedFiles) Delete(ctx context.Context, key string) error {
	err := p.FileStorage.Delete(ctx, key)
	for dir := filepath.Dir(p.Filename(key)); len(dir) > len(p.Path); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil { // it isn't empty
			break
		}
	}
	return err
}

// Store also takes away the file that FileStorage leaves behind where it can't store.
func (p prunedFiles) Store(ctx context.Context, key string, value []byte) error {
	err := p.FileStorage.Store(ctx, key, value)
	if err != nil {
		left, _ := filepath.Glob(filepath.Join(filepath.Dir(p.Filename(key)), ".*"))
		for _, name := range left {
			_ = os.Remove(name)
		}
	}
	return err
}

// underFile reports that a path leads through a file. FileStorage then passes on what
// the operating system says, ENOTDIR, which is not fs.ErrNotExist, so that Exists says
// yes: an accident, see TestPathThatLeadsThroughAFileDoesNotExist.
func (p prunedFiles) underFile(key string) bool {
	for dir := path.Dir(path.Clean("/" + key)); dir != "/"; dir = path.Dir(dir) {
		if info, err := os.Stat(p.Filename(dir)); err == nil && !info.IsDir() {
			return true
		}
	}
	return false
}

// step is one call of a storage, answer what it says.
type step struct {
	op, key, value string
	recursive      bool
}

type answer struct {
	Value    string
	Keys     []string
	Terminal bool
	Size     int64
	Dated    bool
	Missing  bool // errors.Is(err, fs.ErrNotExist)
	Failed   bool
}

func (s step) String() string {
	return fmt.Sprintf("%s(%q, %q, %v)", s.op, s.key, s.value, s.recursive)
}

func (s step) ask(ctx context.Context, st certmagic.Storage) answer {
	var a answer
	var err error
	switch s.op {
	case "store":
		err = st.Store(ctx, s.key, []byte(s.value))
	case "load":
		var b []byte
		b, err = st.Load(ctx, s.key)
		a.Value = string(b)
	case "delete":
		err = st.Delete(ctx, s.key)
	case "exists":
		a.Terminal = st.Exists(ctx, s.key)
	case "list":
		a.Keys, err = st.List(ctx, s.key, s.recursive)
	case "stat":
		var info certmagic.KeyInfo
		info, err = st.Stat(ctx, s.key)
		a.Value, a.Terminal, a.Dated = info.Key, info.IsTerminal, !info.Modified.IsZero()
		if info.IsTerminal { // a directory's is the file system's
			a.Size = info.Size
		} else if path.Clean("/"+s.key) == "/" { // an empty root has no newest file
			a.Dated = false
		}
	}
	a.Missing, a.Failed = errors.Is(err, fs.ErrNotExist), err != nil
	return a
}

// compare asks both and demands equal answers.
func compare(t rapid.TB, files prunedFiles, ours *Storage, s step) {
	t.Helper()
	if files.underFile(s.key) && s.op != "store" {
		return
	}
	want, got := s.ask(context.Background(), files), s.ask(context.Background(), ours)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s: -FileStorage +ours:\n%s", s, diff)
	}
}

// Reliability row 23.
func TestStorageAnswersLikeFileStorage(t *testing.T) {
	for name, steps := range map[string][]step{
		"nothing": {
			{op: "load", key: "a"}, {op: "delete", key: "a"}, {op: "exists", key: "a"}, {op: "stat", key: "a"},
			{op: "list", key: "a"}, {op: "list", key: "a", recursive: true}, {op: "list", key: "a/b"},
		},
		"the empty root": {
			{op: "list"}, {op: "list", recursive: true}, {op: "stat"}, {op: "exists"}, {op: "load"}, {op: "store", value: "x"},
		},
		"a file": {
			{op: "store", key: "a", value: "x"}, {op: "load", key: "a"}, {op: "exists", key: "a"}, {op: "stat", key: "a"},
			{op: "list", key: "a"}, {op: "list", key: "a", recursive: true}, {op: "list"},
			{op: "store", key: "a", value: "yy"}, {op: "load", key: "a"}, {op: "stat", key: "a"},
			{op: "delete", key: "a"}, {op: "load", key: "a"}, {op: "exists", key: "a"}, {op: "stat", key: "a"}, {op: "delete", key: "a"},
		},
		"an empty file": {
			{op: "store", key: "a"}, {op: "load", key: "a"}, {op: "stat", key: "a"}, {op: "exists", key: "a"},
		},
		"a directory": {
			{op: "store", key: "d/e/f", value: "x"}, {op: "store", key: "d/g", value: "y"}, {op: "store", key: "dd/h", value: "z"},
			{op: "load", key: "d"}, {op: "exists", key: "d"}, {op: "stat", key: "d"}, {op: "exists", key: "d/e"}, {op: "stat", key: "d/e"},
			{op: "list", key: "d"}, {op: "list", key: "d", recursive: true}, {op: "list"}, {op: "list", recursive: true},
			{op: "store", key: "d", value: "not a file"}, {op: "list", recursive: true},
			{op: "delete", key: "d"}, {op: "list", recursive: true}, {op: "load", key: "d/e/f"}, {op: "load", key: "dd/h"},
		},
		"a file is no directory": {
			{op: "store", key: "a", value: "x"}, {op: "store", key: "a/b", value: "y"}, {op: "load", key: "a"}, {op: "list", recursive: true},
		},
		"the order of a walk": {
			{op: "store", key: "a/x"}, {op: "store", key: "a-b"}, {op: "store", key: "a.b"}, {op: "store", key: "a0"}, {op: "store", key: "a/b/c"},
			{op: "list", recursive: true}, {op: "list"},
		},
		"other spellings": {
			{op: "store", key: "/a//b/./c/", value: "x"}, {op: "load", key: "a/b/c"}, {op: "load", key: "./a/b/c"},
			{op: "list", key: "a//b"}, {op: "list", key: "/a"}, {op: "list", key: "."}, {op: "stat", key: "a//b/"}, {op: "exists", key: "a/b/"},
			{op: "delete", key: "a/b/"}, {op: "list", recursive: true},
		},
		"a prefix is one of whole elements": {
			{op: "store", key: "ab/c"}, {op: "exists", key: "a"}, {op: "list", key: "a"}, {op: "delete", key: "a"}, {op: "load", key: "ab/c"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := prunedFiles{&certmagic.FileStorage{Path: t.TempDir()}}
			ours := newTestStorage(t, newTestDB(t))
			for _, s := range steps {
				compare(t, files, ours, s)
			}
		})
	}
}

// Reliability row 23, on paths that nobody chose.
func TestStorageAnswersLikeFileStorageAtRandom(t *testing.T) {
	dir := t.TempDir()
	part := rapid.SampledFrom([]string{"a", "b", "a-b", "a.b", "ab"})
	spell := rapid.SampledFrom([]func(string) string{
		func(s string) string { return s }, func(s string) string { return s },
		func(s string) string { return s + "/" }, func(s string) string { return strings.ReplaceAll(s, "/", "//") },
	})
	steps := rapid.Custom(func(t *rapid.T) step {
		key := path.Join(rapid.SliceOfN(part, 1, 4).Draw(t, "key")...)
		return step{
			op:        rapid.SampledFrom([]string{"store", "store", "store", "load", "delete", "exists", "list", "stat"}).Draw(t, "op"),
			key:       spell.Draw(t, "spelling")(key),
			value:     rapid.StringN(0, 8, 64).Draw(t, "value"),
			recursive: rapid.Bool().Draw(t, "recursive"),
		}
	})
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		files := prunedFiles{&certmagic.FileStorage{Path: filepath.Join(dir, fmt.Sprint(n))}}
		if err := os.Mkdir(files.Path, 0o700); err != nil {
			rt.Fatal(err)
		}
		ours := newTestStorage(t, newTestDB(t))
		for _, s := range rapid.SliceOfN(steps, 1, 40).Draw(rt, "steps") {
			compare(rt, files, ours, s)
			compare(rt, files, ours, step{op: "list", recursive: true})
		}
		if err := os.RemoveAll(files.Path); err != nil {
			rt.Fatal(err)
		}
	})
}

// FileStorage says of such a path that it exists, can't be read and can't be deleted.
// By certmagic.Storage a key without a value that leads to no other doesn't exist.
func TestPathThatLeadsThroughAFileDoesNotExist(t *testing.T) {
	ours := newTestStorage(t, newTestDB(t))
	store(t, ours, "a", "x")
	for _, s := range []step{{op: "load", key: "a/b"}, {op: "stat", key: "a/b"}, {op: "list", key: "a/b"}} {
		if got := s.ask(t.Context(), ours); !got.Missing {
			t.Errorf("%s: %+v", s, got)
		}
	}
	if ours.Exists(t.Context(), "a/b") {
		t.Error("exists")
	}
	if err := ours.Delete(t.Context(), "a/b"); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// FileStorage would read and delete outside of its root, or all that it has.
func TestKeysThatLeadUpwardsOrToEverythingAreRefused(t *testing.T) {
	ours := newTestStorage(t, newTestDB(t))
	store(t, ours, "a/b", "x")
	for _, key := range []string{"..", "../x", "a/../b", "a/..", "/..", "a\x00b", "\xff", strings.Repeat("k", 2000)} {
		for _, op := range []string{"store", "load", "delete", "list", "stat"} {
			s := step{op: op, key: key}
			if got := s.ask(t.Context(), ours); !got.Failed || got.Missing {
				t.Errorf("%s: %+v", s, got)
			}
		}
		if ours.Exists(t.Context(), key) {
			t.Errorf("%q exists", key)
		}
	}
	for _, key := range []string{"", ".", "/", "//"} {
		if err := ours.Delete(t.Context(), key); err == nil {
			t.Errorf("delete %q: everything", key)
		}
	}
	if got := load(t, ours, "a/b"); got != "x" {
		t.Errorf("got %q", got)
	}
}

// Reliability row 23: locks.
func TestLocksAnswerLikeFileStorage(t *testing.T) {
	type outcome struct {
		Got                   bool
		Cancelled, Missing, E bool
	}
	type call struct{ op, name string }
	calls := []call{
		{"unlock", "a"},
		{"lock", "a"}, {"try", "a"}, {"lock in vain", "a"}, {"try", "b"}, {"unlock", "b"}, {"unlock", "b"},
		{"try", "A"}, {"try", "a/"}, {"unlock", "a"}, // A is a, for FileStorage
		{"try", "a"}, {"unlock", "A"}, {"lock", "a"}, {"unlock", "a"}, {"unlock", "a"},
	}
	run := func(t *testing.T, st interface {
		certmagic.Storage
		certmagic.TryLocker
	}) []string {
		var out []string
		for _, c := range calls {
			var o outcome
			var err error
			ctx, cancel := context.WithCancel(t.Context())
			switch c.op {
			case "lock":
				err = st.Lock(ctx, c.name)
			case "lock in vain":
				go func() {
					synctest.Wait()
					cancel()
				}()
				err = st.Lock(ctx, c.name)
			case "try":
				o.Got, err = st.TryLock(ctx, c.name)
			case "unlock":
				err = st.Unlock(ctx, c.name)
			}
			cancel()
			o.Cancelled, o.Missing, o.E = errors.Is(err, context.Canceled), errors.Is(err, fs.ErrNotExist), err != nil
			out = append(out, fmt.Sprintf("%s %s: %+v", c.op, c.name, o))
		}
		return out
	}
	synctest.Test(t, func(t *testing.T) {
		want := run(t, &certmagic.FileStorage{Path: t.TempDir()})
		got := run(t, newTestStorage(t, newTestDB(t)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-FileStorage +ours:\n%s", diff)
		}
		<-time.After(time.Minute) // FileStorage's goroutines look now and then whether they may end
	})
}
