// Command mutants takes checks out of single sign-on, one at a time, and demands that
// tests of the package fail without each: a test that passes either way shows nothing.
//
//	mutants [NAME...]
//
// The sources stay as they are: `go test -overlay` compiles others in their place. A
// check that was moved or rewritten since, so that its text is not there exactly once,
// fails the run, and so does a mutant that does not compile. It ends with a table.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// mutant is a package with one check less.
type mutant struct {
	name  string
	pkg   string // its folder
	edits []edit
}

// edit is text of a file, there exactly once, and what stands in its place.
type edit struct{ file, old, with string }

// result is what tests said to a mutant.
type result struct {
	mutant
	by   string // the first test that failed; "": none did
	took time.Duration
	err  error
}

func run(ctx context.Context, only []string, w io.Writer) error {
	root, err := testbed.Root()
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(mutants(), func(m mutant) bool { return len(only) > 0 && !slices.Contains(only, m.name) })
	if len(chosen) == 0 || len(only) > len(chosen) {
		return fmt.Errorf("no such mutant: %s", strings.Join(only, ", "))
	}
	if err := whole(ctx, root, chosen); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var results []result
	for _, m := range chosen {
		r := m.try(ctx, root, dir)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		results = append(results, r)
	}
	return report(w, results)
}

// whole tests the packages as they are: tests that fail anyway would kill every mutant.
func whole(ctx context.Context, root string, chosen []mutant) error {
	var pkgs []string
	for _, m := range chosen {
		if pkg := "./" + m.pkg; !slices.Contains(pkgs, pkg) {
			pkgs = append(pkgs, pkg)
		}
	}
	r := testbed.Run(ctx, testbed.Command{Args: append([]string{"go", "test", "-timeout=2m"}, pkgs...), Dir: root})
	if r.Err != nil {
		return fmt.Errorf("the tests fail with all checks in place\n%s%s", r.Stdout, r.Stderr)
	}
	return nil
}

// try runs the tests of the package without the check.
func (m mutant) try(ctx context.Context, root, dir string) result {
	r := result{mutant: m}
	overlay, err := m.overlay(root, dir)
	if err != nil {
		r.err = err
		return r
	}
	start := time.Now()
	// Compiled by itself, so that what does not compile is not taken for a test that failed.
	built := testbed.Run(ctx, testbed.Command{Args: []string{"go", "build", "-overlay=" + overlay, "./" + m.pkg}, Dir: root})
	if built.Err != nil {
		r.err = fmt.Errorf("does not compile: %s", strings.TrimSpace(built.Stderr))
		return r
	}
	tested := testbed.Run(ctx, testbed.Command{Args: []string{"go", "test", "-overlay=" + overlay, "-vet=off", "-failfast", "-timeout=2m", "./" + m.pkg}, Dir: root})
	r.took = time.Since(start)
	if tested.Err != nil {
		r.by = firstFailure(tested.Stdout)
		if r.by == "" {
			r.err = fmt.Errorf("no test failed, go test did: %s%s", tested.Stdout, tested.Stderr)
		}
	}
	return r
}

// overlay writes the changed sources, and the file by which go finds them.
func (m mutant) overlay(root, dir string) (string, error) {
	sources := map[string]string{}
	for _, e := range m.edits {
		path := filepath.Join(root, filepath.FromSlash(m.pkg), e.file)
		if _, ok := sources[path]; !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			sources[path] = string(b)
		}
		if n := strings.Count(sources[path], e.old); n != 1 {
			return "", fmt.Errorf("%s has %q %d times, not once: mend the list of mutants", e.file, e.old, n)
		}
		sources[path] = strings.Replace(sources[path], e.old, e.with, 1)
	}
	replace := map[string]string{}
	for path, text := range sources {
		f, err := os.CreateTemp(dir, "*.go")
		if err != nil {
			return "", err
		}
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", err
		}
		replace[path] = f.Name()
	}
	b, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "*.json")
	if err != nil {
		return "", err
	}
	_, err = f.Write(b)
	return f.Name(), errors.Join(err, f.Close())
}

var failure = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)

// firstFailure is the most exact name of the first test that failed.
func firstFailure(out string) string {
	first := ""
	for _, m := range failure.FindAllStringSubmatch(out, -1) {
		if first != "" && !strings.HasPrefix(m[1], first+"/") {
			break
		}
		first = m[1]
	}
	return first
}

// nameWidth is a column of the table.
const nameWidth = 34

func report(w io.Writer, results []result) error {
	var errs []error
	fmt.Fprintf(w, "%-10s %-*s %-8s %7s  %s\n", "package", nameWidth, "without the check of", "result", "seconds", "by")
	for _, r := range results {
		state, note := "killed", r.by
		switch {
		case r.err != nil:
			state, note = "broken", r.err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", r.name, r.err))
		case r.by == "":
			state, note = "ALIVE", "every test passes without it"
			errs = append(errs, fmt.Errorf("%s: every test of %s passes without it", r.name, r.pkg))
		}
		fmt.Fprintf(w, "%-10s %-*s %-8s %7.1f  %s\n", r.pkg, nameWidth, r.name, state, r.took.Seconds(), note)
	}
	fmt.Fprintf(w, "\n%d mutants, %d killed\n", len(results), len(results)-len(errs))
	return errors.Join(errs...)
}
