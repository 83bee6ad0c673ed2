package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Each test of the root module runs once: under the race detector (race) what is
// concurrent, without it (unit) the rest, which is plain functions and would only take
// longer. What takes longest is first in line, so that the rest runs beside it.
var raced = []string{
	"internal/server", "cluster", "internal/audit", "proxy", "internal/auth", "agent", "fsm", "sso",
	"internal/acme", "internal/client", "internal/wire", "internal/upstream", "internal/seal",
}

const module = "github.com/sallyport-dev/sallyport/"

// split divides packages into those that run under the race detector, in the order of
// dirs, and the rest. A directory without a package is a mistake in dirs.
func split(packages, dirs []string) (race, plain []string, err error) {
	plain = slices.Clone(packages)
	for _, dir := range dirs {
		before := len(plain)
		plain = slices.DeleteFunc(plain, func(pkg string) bool {
			in := pkg == module+dir || strings.HasPrefix(pkg, module+dir+"/")
			if in {
				race = append(race, pkg)
			}
			return in
		})
		if len(plain) == before {
			return nil, nil, fmt.Errorf("no package is in %s, which the race detector is to look at", dir)
		}
	}
	return race, plain, nil
}

// packagesOf lists packages of the root module by what a template of `go list` says of each.
func (c *check) packagesOf(ctx context.Context, template string) ([]string, error) {
	r := testbed.Run(ctx, testbed.Command{Args: []string{"go", "list", "-f", template, "./..."}, Dir: c.root})
	if r.Err != nil {
		return nil, r.Err
	}
	return strings.FieldsFunc(r.Stdout, func(r rune) bool { return r == '\n' }), nil
}

// canRace says whether the race detector can be linked.
func canRace() bool {
	_, err := exec.LookPath("gcc")
	return err == nil
}

// unit runs what race does not, and all where race can't.
func (c *check) unit(ctx context.Context) error {
	all, err := c.packagesOf(ctx, "{{.ImportPath}}")
	if err != nil {
		return err
	}
	_, plain, err := split(all, raced)
	if err != nil {
		return err
	}
	if !canRace() {
		plain = all
	}
	return c.goTest(ctx, c.root, append([]string{"-timeout=10m"}, plain...)...)
}

func (c *check) race(ctx context.Context) error {
	if !canRace() {
		return skipError("the race detector needs gcc (Debian: gcc libc6-dev)")
	}
	all, err := c.packagesOf(ctx, "{{.ImportPath}}")
	if err != nil {
		return err
	}
	race, _, err := split(all, raced)
	if err != nil {
		return err
	}
	// The first two mostly wait for elections: the rest has a core meanwhile.
	return c.goTest(ctx, c.root, append([]string{"-race", "-p=3", "-timeout=15m"}, race...)...)
}

// corpora sees to it that every fuzz target of the root module has been given a corpus. Those that
// no part before has run (they were not asked for, or ended early) it runs.
func (c *check) corpora(ctx context.Context) error {
	targets, err := c.fuzzTargets(ctx)
	if err != nil {
		return err
	}
	missing := func() []string { // by package
		var pkgs []string
		for _, t := range targets {
			if c.replayed[t] == 0 {
				pkg, _, _ := strings.Cut(t, " ")
				pkgs = append(pkgs, pkg)
			}
		}
		return slices.Compact(pkgs)
	}
	if pkgs := missing(); len(pkgs) > 0 {
		if err := c.goTest(ctx, c.root, append([]string{"-run=^Fuzz"}, pkgs...)...); err != nil {
			return err
		}
	}
	if pkgs := missing(); len(pkgs) > 0 {
		return fmt.Errorf("fuzz targets without a seed corpus are in %s", strings.Join(pkgs, ", "))
	}
	inputs := 0
	for _, t := range targets {
		inputs += c.replayed[t]
	}
	c.printf("    %d inputs of %d targets\n", inputs, len(targets))
	return nil
}

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// fuzzTargets are "package name" of each in the sources: to ask test binaries, all had to be linked.
func (c *check) fuzzTargets(ctx context.Context) ([]string, error) {
	files, err := c.packagesOf(ctx, "{{range .TestGoFiles}}{{$.ImportPath}}\t{{$.Dir}}\t{{.}}\n{{end}}{{range .XTestGoFiles}}{{$.ImportPath}}\t{{$.Dir}}\t{{.}}\n{{end}}")
	if err != nil {
		return nil, err
	}
	var targets []string
	for _, line := range files {
		f := strings.Split(line, "\t")
		src, err := os.ReadFile(filepath.Join(f[1], f[2]))
		if err != nil {
			return nil, err
		}
		for _, m := range fuzzFunc.FindAllSubmatch(src, -1) {
			targets = append(targets, f[0]+" "+string(m[1]))
		}
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("no fuzz target found")
	}
	return targets, nil
}
