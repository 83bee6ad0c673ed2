package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// goTest runs `go test` and shows a line per package, all that a failed test
// said, and why a test was skipped. Skipped tests fail the part in CI, unless
// they say that they can't run on Linux. Vet is a part of its own.
func (c *check) goTest(ctx context.Context, dir string, args ...string) error {
	return c.goTestWith(ctx, nil, dir, args...)
}

// goTestWith is goTest with env beside our own environment.
func (c *check) goTestWith(ctx context.Context, env []string, dir string, args ...string) error {
	line := c.priority(append([]string{"go", "test", "-json", "-vet=off"}, args...)...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	d := newDigest(c.printf)
	c.testing.Store(d)
	defer c.testing.Store(nil)
	if err := d.read(out); err != nil {
		_ = cmd.Cancel()
		_ = cmd.Wait()
		return err
	}
	err = cmd.Wait()
	c.mu.Lock()
	for target, inputs := range d.inputs {
		c.replayed[target] += inputs
	}
	c.mu.Unlock()
	for _, s := range d.skipped {
		c.printf("    skipped: %s\n", s)
	}
	switch {
	case err != nil && len(d.failed) > 0:
		return fmt.Errorf("failed: %s", strings.Join(d.failed, ", "))
	case err != nil:
		return fmt.Errorf("go test %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	case d.ran == 0:
		return fmt.Errorf("go test %s ran no test", strings.Join(args, " "))
	case c.ci && slices.ContainsFunc(d.skipped, countsInCI):
		return fmt.Errorf("%d skipped, which CI does not allow: %s", len(d.skipped), strings.Join(d.skipped, "; "))
	}
	return nil
}

// notHere is how a test says that Linux is not its place.
const notHere = "not on Linux"

func countsInCI(skip string) bool { return !strings.Contains(skip, notHere) }

// event is a line of `go test -json` (cmd/test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

type digest struct {
	show    func(string, ...any)
	said    map[string][]string // output by test, or by package for what no test said
	ran     int
	failed  []string
	skipped []string
	inputs  map[string]int // that passed, by "package target"

	mu      sync.Mutex
	running map[string]time.Time // tests; the clock looks at it
}

func newDigest(show func(string, ...any)) *digest {
	return &digest{show: show, said: map[string][]string{}, inputs: map[string]int{}, running: map[string]time.Time{}}
}

// slowest names the test that has run longest, so that a hanging one is seen long before its timeout.
func (d *digest) slowest() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	name, since := "", time.Time{}
	for n, t := range d.running {
		if name == "" || t.Before(since) {
			name, since = n, t
		}
	}
	if name == "" {
		return ""
	}
	return fmt.Sprintf("; %s runs for %s", name, round(time.Since(since)))
}

// track keeps the list of what runs.
func (d *digest) track(e event) {
	name := short(e.Package)
	if e.Test != "" {
		name += "." + e.Test
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e.Action {
	case "run", "cont":
		d.running[name] = time.Now()
	case "pass", "fail", "skip", "pause":
		delete(d.running, name)
	}
}

var boring = regexp.MustCompile(`^\s*(=== (RUN|PAUSE|CONT|NAME)|--- (PASS|SKIP)|PASS$|ok  |\?   )`)

func (d *digest) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				d.show("    %s", line) // not every complaint of `go test` is JSON
			} else {
				d.add(e)
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (d *digest) add(e event) {
	d.track(e)
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output":
		if !boring.MatchString(e.Output) {
			d.said[key] = append(d.said[key], e.Output)
		}
	case "build-output":
		d.show("    %s", e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			d.endPackage(e)
		} else {
			d.endTest(e, key)
		}
		delete(d.said, key)
	}
}

func (d *digest) endTest(e event, key string) {
	d.ran++
	switch e.Action {
	case "pass":
		if target, _, is := strings.Cut(e.Test, "/"); is && strings.HasPrefix(target, "Fuzz") {
			d.inputs[e.Package+" "+target]++
		}
	case "fail":
		d.failed = append(d.failed, short(e.Package)+"."+e.Test)
		d.show("    FAIL %s.%s (%.1f s)\n", short(e.Package), e.Test, e.Elapsed)
		for _, line := range d.said[key] {
			d.show("        %s", line)
		}
	case "skip":
		reason := strings.Join(strings.Fields(strings.Join(d.said[key], " ")), " ")
		d.skipped = append(d.skipped, fmt.Sprintf("%s.%s: %s", short(e.Package), e.Test, reason))
	}
}

func (d *digest) endPackage(e event) {
	switch e.Action {
	case "pass":
		d.show("    ok   %-40s %6.1f s\n", short(e.Package), e.Elapsed)
	case "fail":
		d.show("    FAIL %-40s %6.1f s\n", short(e.Package), e.Elapsed)
		if !slices.ContainsFunc(d.failed, func(f string) bool { return strings.HasPrefix(f, short(e.Package)+".") }) {
			d.failed = append(d.failed, short(e.Package))
		}
		// What no finished test said: a panic, a timeout, a test that never ended.
		var unfinished []string
		for key := range d.said {
			if strings.HasPrefix(key, e.Package+"\x00") {
				unfinished = append(unfinished, key)
			}
		}
		slices.Sort(unfinished)
		for _, key := range unfinished {
			for _, line := range d.said[key] {
				d.show("        %s", line)
			}
			delete(d.said, key)
		}
	}
}

func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/sallyport-dev/sallyport/")
}
