package testbed

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Who waits for a build of another process can be interrupted, and has the lock when it is free.
func TestLockWaitsNoLongerThanItsContext(t *testing.T) {
	t.Setenv("TESTBED_HOME", filepath.Join(t.TempDir(), "home"))
	path := filepath.Join(Home(), "build.lock")
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	if err := Build(ctx, new(bytes.Buffer), Lint); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), path) {
		t.Errorf("interrupted: %v", err)
	}

	next := make(chan error, 1)
	go func() {
		unlock, err := Lock(t.Context(), path)
		if err == nil {
			unlock()
		}
		next <- err
	}()
	unlock()
	select {
	case err := <-next:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(Patience):
		t.Error("the lock is free, and nobody has it")
	}
}

// A build beside something that is measured leaves the processors to it.
func TestBuildLazily(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bash"), []byte("#!/bin/sh\nexec nice\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	t.Setenv("TESTBED_HOME", filepath.Join(dir, "home"))
	niceness := func(build func(context.Context, *bytes.Buffer) error) int {
		t.Helper()
		var out bytes.Buffer
		if err := build(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(out.String()))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	usual := niceness(func(ctx context.Context, w *bytes.Buffer) error { return Build(ctx, w, Lint) })
	lazy := niceness(func(ctx context.Context, w *bytes.Buffer) error { return BuildLazily(ctx, w, Lint) })
	if want := min(usual+10, 19); lazy != want {
		t.Errorf("niceness %d, want %d", lazy, want)
	}
}
