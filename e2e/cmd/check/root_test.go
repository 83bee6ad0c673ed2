package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Of every package of the root module, make test runs the tests exactly once.
func TestEveryPackageIsInUnitOrRace(t *testing.T) {
	c := ofThisTree(t)
	all, err := c.packagesOf(t.Context(), "{{.ImportPath}}")
	if err != nil {
		t.Fatal(err)
	}
	race, plain, err := split(all, raced)
	if err != nil {
		t.Fatal(err)
	}
	both := slices.Concat(race, plain)
	slices.Sort(both)
	slices.Sort(all)
	if !slices.Equal(both, all) {
		t.Errorf("race and unit run\n%q, but there are\n%q", both, all)
	}
	for _, pkg := range []string{"internal/server", "cluster/peer", "sso/saml"} {
		if !slices.Contains(race, module+pkg) {
			t.Errorf("%s is not run under the race detector", pkg)
		}
	}
	if race[0] != module+raced[0] {
		t.Errorf("%s is first in line", race[0])
	}
}

func TestSplitTakesWholeNames(t *testing.T) {
	race, plain, err := split([]string{module + "sso", module + "sso/oidc", module + "ssoold", module + "fsm"}, []string{"sso"})
	if want := []string{module + "sso", module + "sso/oidc"}; err != nil || !slices.Equal(race, want) {
		t.Errorf("race: %q, %v", race, err)
	}
	if want := []string{module + "ssoold", module + "fsm"}; !slices.Equal(plain, want) {
		t.Errorf("unit: %q", plain)
	}
	if _, _, err := split([]string{module + "fsm"}, []string{"fsm", "gone"}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a directory that was renamed: %v", err)
	}
}

func TestCorporaThatWereReplayedAreNotAgain(t *testing.T) {
	c := ofThisTree(t)
	targets, err := c.fuzzTargets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(targets, module+"internal/wire FuzzReadMessage") {
		t.Errorf("targets: %q", targets)
	}
	for _, target := range targets {
		c.replayed[target] = 2
	}
	if err := c.corpora(t.Context()); err != nil || strings.Contains(c.w.(*bytes.Buffer).String(), "ok ") {
		t.Errorf("%v, it said\n%s", err, c.w)
	}
	c.replayed[module+"internal/wire FuzzReadMessage"] = 0
	if err := c.corpora(t.Context()); err != nil || c.replayed[module+"internal/wire FuzzReadMessage"] == 0 {
		t.Errorf("%v, it said\n%s", err, c.w)
	}
}

func ofThisTree(t *testing.T) *check {
	t.Helper()
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	return newCheck(root, new(bytes.Buffer), false, times{})
}
