package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// parts of `make test`, `make lint` and `make soak`, cheap ones first: what is
// wrong at a glance is told before the long ones begin.
func (c *check) parts(of string) ([]part, error) {
	e2e := filepath.Join(c.root, "e2e")
	vet := part{name: "vet", expected: 30 * time.Second, run: (*check).vet}
	packages := part{name: "packages", expected: 2 * time.Second, run: (*check).packages}
	lint := part{name: "lint", expected: 30 * time.Second, run: (*check).lint}
	imports := part{name: "imports", expected: 5 * time.Second, run: func(c *check, ctx context.Context) error {
		return c.goTest(ctx, c.root, "./internal/arch")
	}}
	scripts := part{name: "scripts", expected: 5 * time.Second, run: (*check).scripts}
	switch of {
	case "lint":
		return []part{vet, lint, imports, scripts}, nil
	case "soak":
		return []part{{name: "build", expected: 10 * time.Second, run: (*check).build}, packages, {name: "testbed", expected: time.Second, run: (*check).testbed}, {name: "fuzz", expected: soakTime(), run: (*check).fuzz},
			// Checks of single sign-on are taken out, one at a time: tests must fail.
			{name: "mutants", expected: 3 * time.Minute, run: (*check).mutants},
			// Of `make test` too, with a tenth of the size: a state of 1 GiB goes to a new server.
			{name: "large", expected: 30 * time.Second, run: func(c *check, ctx context.Context) error {
				return c.goTest(ctx, c.root, "-p=1", "-count=1", "-timeout=30m", "-run=Large", "./fsm", "./cluster", "-args", "-snapshot-mib=1024")
			}},
			// Of `make test` too: with 200 agents, and 400 port-forwards.
			{name: "agents", expected: 10 * time.Minute, run: func(c *check, ctx context.Context) error {
				return errors.Join(
					c.goTest(ctx, e2e, "-p=1", "-count=1", "-timeout=1h", "./load", "-args", "-agents=5000"),
					c.goTest(ctx, e2e, "-p=1", "-count=1", "-timeout=1h", "-run=TestManyPortForwards", "./tests", "-args", "-upgrades=10000"))
			}},
			// Of `make test` too: with 6,000 requests, and 8 s without a quorum.
			{name: "audit", expected: 10 * time.Minute, run: func(c *check, ctx context.Context) error {
				return c.goTest(ctx, e2e, "-p=1", "-count=1", "-timeout=1h", "-run=^(TestOneAuditLog|TestAuditWithoutQuorum)$", "./tests", "-args", "-events=100000", "-outage=60s")
			}},
			// Of `make test` too: with 20 challenges, and 5 s without DNS.
			{name: "acme", expected: 15 * time.Minute, run: func(c *check, ctx context.Context) error {
				return c.goTest(ctx, e2e, "-p=1", "-count=1", "-timeout=1h", "-run=^TestACME", "./tests", "-args", "-challenges=100", "-without-dns=10m")
			}},
			// Of `make test` too, without the longest.
			{name: "e2e-cluster", expected: 10 * time.Minute, run: func(c *check, ctx context.Context) error { return c.cluster(ctx) }},
			{name: "e2e", expected: soakTime(), run: func(c *check, ctx context.Context) error {
				var errs []error
				for range 3 { // not -count=3: the tests of a process share a cluster, in which names are taken once
					errs = append(errs, c.endToEnd(ctx, "-timeout=1h"))
				}
				return errors.Join(errs...)
			}}}, nil
	case "test":
		const waits = "e2e-cluster" // for Kubernetes, more than half of the time
		unit := part{name: "unit", expected: 80 * time.Second, run: (*check).unit}
		race := part{name: "race", expected: 5 * time.Minute, run: (*check).race}
		vet.beside, lint.beside, unit.beside, race.beside = waits, waits, waits, waits
		return []part{
			packages, // first: with a C compiler Go compiles other variants
			{name: "build", expected: 10 * time.Second, run: (*check).build},
			scripts,
			imports,
			{name: "testbed", expected: time.Second, run: (*check).testbed},
			{name: waits, expected: 6 * time.Minute, run: func(c *check, ctx context.Context) error {
				c.printf("    %s are left to make soak: each takes minutes\n", strings.Join(longOnClusters, " and "))
				return c.cluster(ctx, "-skip=^("+strings.Join(longOnClusters, "|")+")$")
			}},
			vet,
			lint,
			unit,
			race,
			// Also part of unit and race; a row of its own shows that the corpora were there to replay.
			{name: "fuzz", expected: time.Second, run: (*check).corpora},
			{name: "e2e", expected: 6 * time.Minute, run: func(c *check, ctx context.Context) error {
				return c.endToEnd(ctx, "-timeout=20m")
			}},
		}, nil
	}
	return nil, fmt.Errorf("check %s: test, lint or soak", of)
}

// longOnClusters are tests that `make test` leaves out: a page with a recovery and a restore
// (docs/ha.md), and a release of five replicas. Their pieces are tested on loopback, too.
var longOnClusters = []string{"TestHighAvailabilityPage", "TestDistrolessReleaseGrows"}

// guide is the package that runs docs/guide.md on real clusters, as a part of its own.
const guide = "/e2e/guide"

// longest is the package that takes most of the time of all others together.
const longest = "/e2e/tests"

// endToEnd runs the tests of the end-to-end module but those on real clusters. The longest
// package waits for a third of its time (elections, leases, time-outs), and the others run
// beside it, one at a time: all of them start Kubernetes.
func (c *check) endToEnd(ctx context.Context, args ...string) error {
	e2e := filepath.Join(c.root, "e2e")
	list := testbed.Run(ctx, testbed.Command{Args: []string{"go", "list", "./..."}, Dir: e2e})
	if list.Err != nil {
		return list.Err
	}
	args = append([]string{"-p=2", "-parallel=3", "-count=1"}, args...)
	return c.goTest(ctx, e2e, append(args, inLine(strings.Fields(list.Stdout))...)...)
}

// inLine are the packages without guide, the longest first.
func inLine(packages []string) []string {
	var first, rest []string
	for _, pkg := range packages {
		switch {
		case strings.HasSuffix(pkg, guide):
		case strings.HasSuffix(pkg, longest):
			first = append(first, pkg)
		default:
			rest = append(rest, pkg)
		}
	}
	return append(first, rest...)
}

// cluster runs the guide on real clusters, and shows how long each of its steps took.
func (c *check) cluster(ctx context.Context, args ...string) error {
	if err := testbed.RealClusters(); err != nil {
		return skipError(err.Error())
	}
	if err := testbed.BuildLAN(ctx, lineWriter{c}); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "guide-times-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "times")
	err = c.goTestWith(ctx, []string{"GUIDE_TIMES=" + file}, filepath.Join(c.root, "e2e"), append([]string{"-count=1", "-timeout=30m", "." + strings.TrimPrefix(guide, "/e2e")}, args...)...)
	b, readErr := os.ReadFile(file)
	if readErr != nil && err == nil {
		err = fmt.Errorf("the guide was not run: %w", readErr)
	}
	for line := range strings.Lines(string(b)) {
		c.printf("    %s", line)
	}
	return err
}

// command runs a program and shows what it says.
func (c *check) command(ctx context.Context, dir string, args ...string) error {
	r := testbed.Run(ctx, testbed.Command{Args: c.priority(args...), Dir: dir})
	if r.Err != nil {
		return fmt.Errorf("%s in %s failed\n%s%s", strings.Join(args, " "), c.rel(dir), r.Stdout, r.Stderr)
	}
	return nil
}

func (c *check) rel(path string) string {
	if rel, err := filepath.Rel(c.root, path); err == nil {
		return rel
	}
	return path
}

// lineWriter shows a build's progress between our own lines.
type lineWriter struct{ c *check }

func (w lineWriter) Write(b []byte) (int, error) {
	w.c.printf("%s", b)
	return len(b), nil
}

// make has parts of the test bed made, at this part's priority.
func (c *check) make(ctx context.Context, parts ...string) error {
	if c.lazy {
		return testbed.BuildLazily(ctx, lineWriter{c}, parts...)
	}
	return testbed.Build(ctx, lineWriter{c}, parts...)
}

func (c *check) vet(ctx context.Context) error {
	return errors.Join(c.command(ctx, c.root, "go", "vet", "./..."), c.command(ctx, filepath.Join(c.root, "e2e"), "go", "vet", "./..."))
}

func (c *check) build(ctx context.Context) error {
	return c.command(ctx, c.root, "make", "build")
}

func (c *check) testbed(ctx context.Context) error {
	if runtime.GOOS != "linux" {
		return skipError("Kubernetes is built for Linux alone")
	}
	return c.make(ctx, testbed.Axe, testbed.OIDCProvider, testbed.Dex, testbed.Etcd, testbed.Kwok, testbed.Hyper)
}

// packages installs what the tests use from Debian: a browser, a linker for -race, a load balancer, a SAML identity provider, shellcheck.
func (c *check) packages(ctx context.Context) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return skipError("no apt-get here: tests that need chromium, haproxy or simplesamlphp, and the race detector's gcc, use what is installed")
	}
	return c.make(ctx, testbed.TestPackages)
}

func (c *check) lint(ctx context.Context) error {
	if err := c.make(ctx, testbed.Lint); err != nil {
		return err
	}
	run := []string{testbed.Bin("golangci-lint"), "run", "--config=" + filepath.Join(c.root, ".golangci.yml"), "./..."}
	return errors.Join(c.command(ctx, c.root, run...), c.command(ctx, filepath.Join(c.root, "e2e"), run...))
}

// scripts asks shellcheck about every shell script that git knows of or would.
func (c *check) scripts(ctx context.Context) error {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		return skipError("shellcheck is not installed")
	}
	r := testbed.Run(ctx, testbed.Command{Args: []string{"git", "ls-files", "-co", "--exclude-standard"}, Dir: c.root})
	if r.Err != nil {
		return r.Err
	}
	args := []string{"shellcheck", "-x", "-P", "SCRIPTDIR:SCRIPTDIR/.."}
	for file := range strings.Lines(r.Stdout) {
		file = strings.TrimSpace(file)
		if isShell(filepath.Join(c.root, file)) {
			args = append(args, file)
		}
	}
	return c.command(ctx, c.root, args...)
}

var shebang = regexp.MustCompile(`^#!.*\b(sh|bash)\b|^# shellcheck shell=`)

func isShell(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false // deleted, not yet committed
	}
	defer f.Close()
	head := make([]byte, 64)
	n, _ := io.ReadFull(f, head)
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	return shebang.Match(line)
}

// soakTime is how long `make soak` fuzzes in all.
func soakTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("SOAK")); err == nil {
		return d
	}
	return 10 * time.Minute
}

// mutants shows its table whether it passes or not.
func (c *check) mutants(ctx context.Context) error {
	e2e := filepath.Join(c.root, "e2e")
	r := testbed.Run(ctx, testbed.Command{Args: []string{"go", "run", "./cmd/mutants"}, Dir: e2e})
	c.printf("%s", r.Stdout)
	if r.Err != nil {
		return fmt.Errorf("mutants: %s", r.Stderr)
	}
	return nil
}

// minimizeTime bounds how long Go shortens an input that is interesting: with documents
// of 10 KiB the default, 60 s, leaves no time to fuzz.
const minimizeTime = "100x"

var fuzzTarget = regexp.MustCompile(`^Fuzz\w+$`)

// fuzz gives every fuzz target the same share of the soak time.
func (c *check) fuzz(ctx context.Context) error {
	type target struct{ pkg, name string }
	var targets []target
	r := testbed.Run(ctx, testbed.Command{Args: []string{"go", "list", "./..."}, Dir: c.root})
	if r.Err != nil {
		return r.Err
	}
	for pkg := range strings.FieldsSeq(r.Stdout) {
		list := testbed.Run(ctx, testbed.Command{Args: []string{"go", "test", "-list=^Fuzz", pkg}, Dir: c.root})
		if list.Err != nil {
			return list.Err
		}
		for line := range strings.Lines(list.Stdout) {
			if name := strings.TrimSpace(line); fuzzTarget.MatchString(name) {
				targets = append(targets, target{pkg, name})
			}
		}
	}
	if len(targets) == 0 {
		return errors.New("no fuzz target found")
	}
	share := soakTime() / time.Duration(len(targets))
	var errs []error
	for _, t := range targets {
		c.printf("    %s in %s for %s\n", t.name, t.pkg, round(share))
		errs = append(errs, c.command(ctx, c.root, "go", "test", "-run=^$", "-fuzz=^"+t.name+"$", "-fuzztime="+share.String(), "-fuzzminimizetime="+minimizeTime, t.pkg))
	}
	return errors.Join(errs...)
}
