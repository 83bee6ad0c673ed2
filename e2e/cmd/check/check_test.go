package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
		c := &check{w: new(bytes.Buffer), ci: ci, times: times{}}
		r := c.run(context.Background(), part{"x", 0, func(context.Context) error { return fmt.Errorf("x: %w", skipError("no gcc")) }})
		if want := map[bool]state{false: skipped, true: failed}[ci]; r.state != want || !strings.Contains(r.note, "no gcc") {
			t.Errorf("CI %v: %+v, want %s", ci, r, want)
		}
	}
	c := &check{w: new(bytes.Buffer), times: times{}}
	r := c.run(context.Background(), part{"x", 0, func(context.Context) error { return errors.New("one\ntwo") }})
	if r.state != failed || r.note != "one ..." {
		t.Errorf("got %+v", r)
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
