package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestReportEndsWithTheCount(t *testing.T) {
	var out bytes.Buffer
	ok := report(&out, []result{{"vet", passed, 1.25, ""}, {"race", skipped, 0, "no gcc"}, {"e2e", failed, 61, "failed: e2e.TestX"}}, 62*time.Second)
	if ok {
		t.Error("a failure counts as success")
	}
	want := `
part        result    seconds  why
vet         passed        1.2
race        skipped       0.0  no gcc
e2e         failed       61.0  failed: e2e.TestX
all                      62.0

1 passed, 1 failed, 1 skipped
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", &out, want)
	}
}

func TestSkippedPartsFailInCI(t *testing.T) {
	for _, ci := range []bool{false, true} {
		c := newCheck("", new(bytes.Buffer), ci, times{})
		r := c.run(context.Background(), part{name: "x", run: func(*check, context.Context) error { return fmt.Errorf("x: %w", skipError("no gcc")) }})
		if want := map[bool]state{false: skipped, true: failed}[ci]; r.state != want || !strings.Contains(r.note, "no gcc") {
			t.Errorf("CI %v: %+v, want %s", ci, r, want)
		}
	}
	c := newCheck("", new(bytes.Buffer), false, times{})
	r := c.run(context.Background(), part{name: "x", run: func(*check, context.Context) error { return errors.New("one\ntwo") }})
	if r.state != failed || r.note != "one ..." {
		t.Errorf("got %+v", r)
	}
}

// What computes runs while the part that waits does, one after another; all are in the table.
func TestPartsBesideOneThatWaits(t *testing.T) {
	var out bytes.Buffer
	c := newCheck("", &out, false, times{})
	begun, computed := make(chan bool), make(chan bool)
	var running atomic.Int32
	computes := func(c *check, _ context.Context) error {
		if !c.lazy || running.Add(1) > 1 {
			t.Errorf("lazy: %v; it is not alone beside the one that waits", c.lazy)
		}
		<-begun
		c.printf("two\nlines\n")
		running.Add(-1)
		return nil
	}
	results := c.all(t.Context(), []part{
		{name: "alone", run: func(c *check, _ context.Context) error { return nil }},
		{name: "waits", run: func(c *check, _ context.Context) error {
			begun <- true
			begun <- true
			<-computed
			return nil
		}},
		{name: "a", beside: "waits", run: computes},
		{name: "b", beside: "waits", run: computes},
		{name: "c", beside: "waits", run: func(*check, context.Context) error { close(computed); return errors.New("wrong") }},
		{name: "last", run: func(c *check, _ context.Context) error {
			if c.lazy || c.label != "" {
				t.Error("what runs alone is lazy, or labelled")
			}
			return nil
		}},
	})
	// How long it took beside something says nothing of how long it takes alone.
	if got, want := slices.Sorted(maps.Keys(c.times)), []string{"alone", "last", "waits"}; !slices.Equal(got, want) {
		t.Errorf("times of %q are kept, want those of %q", got, want)
	}
	var got []string
	for _, r := range results {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.name, r.state, r.note)))
	}
	want := []string{"alone passed", "waits passed", "a passed beside waits", "b passed beside waits", "c failed wrong", "last passed"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, line := range []string{"[a] two\n[a] lines\n", "[waits] === waits", "\n=== last"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("%q is not in:\n%s", line, &out)
		}
	}
}

// Who asks for some parts gets those, and each as if it were alone.
func TestAPartWithoutTheOneItIsBeside(t *testing.T) {
	c := newCheck("", new(bytes.Buffer), false, times{})
	results := c.all(t.Context(), []part{{name: "lint", beside: "waits", run: func(c *check, _ context.Context) error {
		if c.lazy || len(c.priority("go")) != 1 {
			t.Error("it is lazy")
		}
		return nil
	}}})
	if len(results) != 1 || results[0].state != passed || results[0].note != "" {
		t.Errorf("%+v", results)
	}
}

// `make test` has all that there is to check, and what runs beside something comes right
// after it: else it would run alone.
func TestPartsOfMakeTest(t *testing.T) {
	parts, err := newCheck("", new(bytes.Buffer), false, times{}).parts("test")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	leader := ""
	for _, p := range parts {
		names = append(names, p.name)
		if p.beside == "" {
			leader = p.name
		} else if p.beside != leader {
			t.Errorf("%s is beside %s, and comes after %s", p.name, p.beside, leader)
		}
	}
	want := []string{"packages", "build", "scripts", "imports", "testbed", "e2e-cluster", "vet", "lint", "unit", "race", "fuzz", "e2e"}
	if !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

func TestTheLongestPackageIsFirstInLine(t *testing.T) {
	const m = "github.com/sallyport-dev/sallyport/e2e"
	got := inLine([]string{m, m + "/browser", m + guide, m + longest, m + "/testbed"})
	if want := []string{m + longest, m, m + "/browser", m + "/testbed"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What one part's tests are told is not told to those of another.
func TestEnvironmentOfATest(t *testing.T) {
	dir := t.TempDir()
	script := `#!/bin/sh
echo '{"Action":"pass","Package":"p","Test":"TestA"}'
printf '{"Action":"skip","Package":"p","Test":"TestB %s %s"}\n' "$GUIDE_TIMES" "$INHERITED"
`
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	t.Setenv("INHERITED", "ours")
	t.Setenv("GUIDE_TIMES", "") // whoever runs this may have one
	for _, tt := range []struct {
		env  []string
		want string
	}{{[]string{"GUIDE_TIMES=file"}, "TestB file ours"}, {nil, "TestB  ours"}} {
		var out bytes.Buffer
		if err := newCheck("", &out, false, times{}).goTestWith(t.Context(), tt.env, dir); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), tt.want) {
			t.Errorf("with %q: %q is not in:\n%s", tt.env, tt.want, &out)
		}
	}
}

func TestDigestTellsFailuresAndSkips(t *testing.T) {
	const p = `"Package":"github.com/sallyport-dev/sallyport/fsm"`
	stream := `{"Action":"start",` + p + `}
{"Action":"output",` + p + `,"Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output",` + p + `,"Test":"TestA","Output":"    a_test.go:5: wrong\n"}
{"Action":"fail",` + p + `,"Test":"TestA","Elapsed":1.5}
{"Action":"output",` + p + `,"Test":"TestB","Output":"    b_test.go:7: needs\n        a moon\n"}
{"Action":"output",` + p + `,"Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip",` + p + `,"Test":"TestB"}
{"Action":"output",` + p + `,"Test":"TestC","Output":"panic: oh\n"}
not JSON
{"Action":"pass",` + p + `,"Test":"FuzzA/seed#0"}
{"Action":"fail",` + p + `,"Test":"FuzzA/seed#1"}
{"Action":"pass",` + p + `,"Test":"FuzzB"}
{"Action":"fail",` + p + `,"Elapsed":2}
{"Action":"skip","Package":"x/no-test-files"}
`
	var out bytes.Buffer
	d := newDigest(func(f string, a ...any) { fmt.Fprintf(&out, f, a...) })
	if err := d.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"FAIL fsm.TestA (1.5 s)\n            a_test.go:5: wrong\n", "panic: oh", "not JSON"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "=== RUN") {
		t.Error("boring lines are shown")
	}
	if got, want := d.inputs, map[string]int{"github.com/sallyport-dev/sallyport/fsm FuzzA": 1}; !maps.Equal(got, want) {
		t.Errorf("inputs %v, want %v", got, want)
	}
	if want := []string{"fsm.TestA", "fsm.FuzzA/seed#1"}; !slices.Equal(d.failed, want) {
		t.Errorf("failed: %q", d.failed)
	}
	if len(d.skipped) != 1 || d.skipped[0] != "fsm.TestB: b_test.go:7: needs a moon" || !countsInCI(d.skipped[0]) {
		t.Errorf("skipped: %q", d.skipped)
	}
	if countsInCI("proxy.TestDarwin: x_test.go:1: not on Linux: reads the keychain") {
		t.Error("what can't run on Linux counts")
	}
}

func TestDigestNamesTheTestThatHangs(t *testing.T) {
	d := newDigest(func(string, ...any) {})
	stream := `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
`
	if err := d.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if got := d.slowest(); !strings.HasPrefix(got, "; p.TestB runs for ") {
		t.Errorf("got %q", got)
	}
}
