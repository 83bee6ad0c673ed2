package release

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// gitRepository is one of a commit.
func gitRepository(t *testing.T, root string) {
	t.Helper()
	for _, run := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "-m", "x", "--date=2001-02-03T04:05:06Z"}} {
		cmd := testbed.Command{Args: append([]string{"git", "-C", root}, run...), Env: append(os.Environ(), "GIT_COMMITTER_DATE=2001-02-03T04:05:06Z")}
		if res := testbed.Run(t.Context(), cmd); res.Err != nil {
			t.Fatal(res.Err, res.Stderr)
		}
	}
}

// Neither what git says of the tree nor the user's own settings of Go are in a binary.
func TestTheSameSourcesGiveTheSameBinaries(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "go.mod"), "module example.com/programs\n")
	for _, p := range programs {
		write(t, filepath.Join(root, "cmd", p, "main.go"), "package main\n\nvar version = \"0.1.0-dev\"\n\nfunc main() { print(version) }\n")
	}
	gitRepository(t, root)
	build := func(settings string) map[string]string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "env") // as go env -w writes it
		write(t, file, settings)
		t.Setenv("GOENV", file)
		t.Setenv("GOFLAGS", "")
		r, err := New(t.Context(), Options{Out: t.TempDir(), Root: root, Cache: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		binaries, err := r.readBinaries(t.Context(), "linux", runtime.GOARCH)
		if err != nil {
			t.Fatal(err)
		}
		sums := map[string]string{}
		for name, b := range binaries {
			sums[name] = fmt.Sprintf("%x", sha256.Sum256(b))
			info, err := buildInfo(b)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range info.Settings {
				if strings.HasPrefix(s.Key, "vcs") {
					t.Errorf("%s: %s=%s", name, s.Key, s.Value)
				}
			}
		}
		return sums
	}
	clean := build("")
	if got := slices.Sorted(maps.Keys(clean)); !cmp.Equal(got, programs) {
		t.Errorf("built %v", got)
	}
	if diff := cmp.Diff(clean, build("GOFLAGS=-ldflags=-X=main.version=mine\nGOAMD64=v3\n")); diff != "" {
		t.Errorf("with settings of the user's (-without +with):\n%s", diff)
	}
	write(t, filepath.Join(root, "notes.txt"), "of no program\n")
	if diff := cmp.Diff(clean, build("")); diff != "" {
		t.Errorf("in a tree with changes (-without +with):\n%s", diff)
	}
}

// A release of changed sources doesn't bear the name of the commit.
func TestChangedSourcesAreNotTheCommit(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "cmd/sallyport/main.go"), "package main\n\nvar version = \"0.1.0-dev\"\n")
	gitRepository(t, root)
	revision := func() (string, string) {
		var said []string
		r, err := New(t.Context(), Options{Out: t.TempDir(), Root: root, Log: func(line string) { said = append(said, line) }})
		if err != nil {
			t.Fatal(err)
		}
		return r.Revision, strings.Join(said, "\n")
	}
	commit, said := revision()
	if len(commit) != 40 || said != "" {
		t.Errorf("%q, and %q is said", commit, said)
	}
	write(t, filepath.Join(root, "cmd/sallyport/new.go"), "package main\n")
	if got, said := revision(); got != commit+"-dirty" || !strings.Contains(said, "warning: ") {
		t.Errorf("%q, and %q is said", got, said)
	}
}

// One that takes the binaries of another machine for its own is caught, not shipped.
func TestBinariesOfAnotherMachineAreNotShipped(t *testing.T) {
	targets := []struct{ system, arch string }{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"}}
	for _, is := range targets {
		b, err := os.ReadFile(program(t, is.system, is.arch))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range targets {
			if err := checkMachine(b, want.system, want.arch); (err == nil) != (is == want) {
				t.Errorf("a binary for %v as one for %v: %v", is, want, err)
			}
		}
	}
	if err := checkMachine([]byte("#!/bin/sh\n"), "linux", "amd64"); err == nil {
		t.Error("a script for a binary")
	}
	r := stub(t, func(o *Options) {
		o.Arches = []string{"amd64", "arm64"}
		amd64 := o.binaries
		o.binaries = func(ctx context.Context, system, _ string) (string, error) { return amd64(ctx, system, "amd64") }
	})
	for name, step := range map[string]func(context.Context) error{"image": r.Image, "archives": r.Archives} {
		if err := step(t.Context()); err == nil || !strings.Contains(err.Error(), "is for amd64, not arm64") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
