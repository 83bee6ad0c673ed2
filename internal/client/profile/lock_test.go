package profile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func save(t *testing.T, store *Store, p *Profile) {
	t.Helper()
	if err := store.Change(t.Context(), func() error { return store.Save(p) }); err != nil {
		t.Fatal(err)
	}
}

func TestUpdatesAtOnceLoseNothing(t *testing.T) {
	dir := t.TempDir()
	save(t, Open(dir), sample("p:443"))
	const many = 20
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			store := Open(dir)
			p, err := store.Load("p:443")
			if err != nil {
				t.Error(err)
				return
			}
			err = store.Update(t.Context(), p, func(now *Profile) error {
				now.Kubeconfigs = append(now.Kubeconfigs, fmt.Sprint(i))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p, err := Open(dir).Load("p:443")
	if err != nil || len(p.Kubeconfigs) != many {
		t.Errorf("%v, %v", p, err)
	}
}

func TestUpdateBringsNothingBack(t *testing.T) {
	store := Open(t.TempDir())
	old := sample("p:443")
	save(t, store, old)
	must := func(what string, p *Profile) {
		t.Helper()
		err := store.Update(t.Context(), p, func(*Profile) error {
			t.Errorf("%s: was changed", what)
			return nil
		})
		if !api.IsCode(err, api.CodeConflict) {
			t.Errorf("%s: %v", what, err)
		}
	}
	next := sample("p:443")
	next.SessionID = "next"
	save(t, store, next)
	must("replaced", old)
	if err := store.Change(t.Context(), func() error { return store.Remove("p:443") }); err != nil {
		t.Fatal(err)
	}
	must("gone", next)
	if _, err := store.Load("p:443"); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
}

func TestFailedUpdateWritesNothing(t *testing.T) {
	store := Open(t.TempDir())
	p := sample("p:443")
	save(t, store, p)
	broken := errors.New("broken")
	if err := store.Update(t.Context(), p, func(now *Profile) error {
		now.User = "mallory"
		return broken
	}); !errors.Is(err, broken) || p.User != "alice" {
		t.Error(err, p.User)
	}
	if now, err := store.Load("p:443"); err != nil || now.User != "alice" {
		t.Error(now, err)
	}
}

func TestWaitForTheLockIsBoundedAndCanBeEnded(t *testing.T) {
	store := Open(t.TempDir())
	unlock, err := tryLock(filepath.Join(store.dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	change := func(ctx context.Context) error {
		return store.Change(ctx, func() error {
			t.Error("ran beside another")
			return nil
		})
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if err := change(t.Context()); !api.IsCode(err, api.CodeUnavailable) || time.Since(begin) != lockPatience {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		time.AfterFunc(time.Second, cancel)
		if err := change(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestCheckFindsWhatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Open(file).Check(t.Context(), "p:443"); err == nil {
		t.Error("a file is taken for a directory")
	}
	store := Open(filepath.Join(dir, "store"))
	if err := store.Check(t.Context(), "p:443"); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(store.dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != lockName {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(store.dir, "p"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.Check(t.Context(), "p:443"); err == nil {
		t.Error("a file is taken for the proxy's directory")
	}
}

func TestAuthorityOutlivesTheLogin(t *testing.T) {
	pin := "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	store := Open(t.TempDir())
	if a, err := store.Authority("p:443"); !a.Nobody() || err != nil {
		t.Error(a, err)
	}
	p := sample("p:443") // as an older tsh wrote it
	p.CAPin = pin
	save(t, store, p)
	want := Authority{Version: version, CAPin: pin}
	for _, step := range []func() error{
		func() error { return nil },
		func() error { return store.Remove("p:443") },
		func() error { return store.Save(sample("p:443")) },
		func() error { return store.Remove("p:443") },
	} {
		if err := store.Change(t.Context(), step); err != nil {
			t.Fatal(err)
		}
		if got, err := store.Authority("p:443"); err != nil || got != want {
			t.Errorf("%s, %v", cmp.Diff(want, got), err)
		}
	}
	if proxies, err := store.Trusting(); err != nil || !cmp.Equal(proxies, []string{"p:443"}) {
		t.Error(proxies, err)
	}
	if profiles, damaged, err := store.List(); len(profiles)+len(damaged) > 0 || err != nil {
		t.Error(profiles, damaged, err)
	}
	for _, want := range []bool{true, false} {
		if known, err := store.Distrust("p:443"); known != want || err != nil {
			t.Error(known, err)
		}
	}
	if a, err := store.Authority("p:443"); !a.Nobody() || err != nil {
		t.Error(a, err)
	}
}

func TestDamagedAuthorityIsNotTakenForNone(t *testing.T) {
	store := Open(t.TempDir())
	for _, content := range []string{"", "{", "{}", `{"version":1}`, `{"version":2,"ca_pin":"x"}`, `{"version":1,"ca_pin":"x"}`} {
		path, err := store.authorityPath("p:443")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Authority("p:443"); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestCurrentThatIsGarbageIsNone(t *testing.T) {
	store := Open(t.TempDir())
	for _, content := range []string{"", "\n", "../x", "\x00\x01", "a b"} {
		if err := os.WriteFile(filepath.Join(store.dir, currentName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Current(); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("%q: %v", content, err)
		}
	}
	for range 2 {
		if err := store.UnsetCurrent(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseAuthority(f *testing.F) {
	f.Add([]byte(`{"version":1,"ca_pin":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}`))
	f.Add([]byte(`{"version":1,"web_cas":"pem"}`))
	f.Add([]byte(`{"version":1,"ca_pin":7}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAuthority(b)
		if err == nil && a.Nobody() {
			t.Errorf("%q says nothing", b)
		}
	})
}
