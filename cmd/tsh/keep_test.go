package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

func aLogin(session string) *profile.Profile {
	return &profile.Profile{
		Proxy: "tele.example.com:443", ClusterName: "tele.example.com", User: "alice", SessionID: session, Cert: "cert of " + session,
		NotAfter: time.Now().Add(time.Hour),
	}
}

// keeping gives what keep came to, and which sessions it ended.
func keeping(t *testing.T, store *profile.Store, p *profile.Profile) (ended []string, err error) {
	t.Helper()
	err = keep(t.Context(), &cliapp.Call{Stdout: io.Discard, Stderr: io.Discard}, store, p, func(_ context.Context, p *profile.Profile) error {
		ended = append(ended, p.SessionID)
		return nil
	})
	return ended, err
}

func TestLoginEndsTheSessionThatItReplaces(t *testing.T) {
	store := profile.Open(filepath.Join(t.TempDir(), "home"))
	for _, step := range []struct {
		session string
		ended   []string
	}{{"one", nil}, {"two", []string{"one"}}, {"three", []string{"two"}}} {
		p := aLogin(step.session)
		ended, err := keeping(t, store, p)
		if diff := cmp.Diff(step.ended, ended); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", step.session, err, diff)
		}
		if !stands(store, p) {
			t.Errorf("%s was not kept", step.session)
		}
	}
}

func TestLoginThatCannotBeKeptIsEnded(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tele.example.com"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store := profile.Open(dir)
	ended, err := keeping(t, store, aLogin("one"))
	if diff := cmp.Diff([]string{"one"}, ended); diff != "" || err == nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if current, err := store.Current(); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Errorf("%q is in use, %v", current, err)
	}
	err = keep(t.Context(), &cliapp.Call{Stdout: io.Discard, Stderr: io.Discard}, store, aLogin("two"), func(context.Context, *profile.Profile) error {
		return errors.New("unreachable")
	})
	if err == nil {
		t.Error("no error")
	} else if want := "lives until"; !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say %q", err, want)
	}
}
