// Command check is `make test`: it runs everything that must pass, one part
// after another, and ends with a table of what ran, what was skipped and why,
// and a last line "N passed, N failed, N skipped". It goes on after a failure,
// so that one run shows all there is to mend. Parts that only compute run beside
// one that mostly waits, at a low priority; the table says so.
//
//	check test|lint|soak [PART...]
//
// With CI set (.ci/run), something skipped is something failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, w io.Writer) (bool, error) {
	if len(args) == 0 {
		return false, errors.New("usage: check test|lint|soak [PART...]")
	}
	root, err := testbed.Root()
	if err != nil {
		return false, err
	}
	c := newCheck(root, w, os.Getenv("CI") != "", loadTimes())
	parts, err := c.parts(args[0])
	if err != nil {
		return false, err
	}
	if only := args[1:]; len(only) > 0 {
		for _, name := range only {
			if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
				return false, fmt.Errorf("no part %q", name)
			}
		}
		parts = slices.DeleteFunc(parts, func(p part) bool { return !slices.Contains(only, p.name) })
	}
	start := time.Now()
	results := c.all(ctx, parts)
	c.times.save()
	return report(w, results, time.Since(start)), nil
}

// all runs parts in their order, and those that are to run beside one while it runs.
func (c *check) all(ctx context.Context, parts []part) (results []result) {
	one := func(c *check, p part) result {
		if ctx.Err() != nil {
			return result{name: p.name, state: failed, note: "not reached: interrupted"}
		}
		return c.run(ctx, p)
	}
	for len(parts) > 0 {
		p := parts[0]
		n := 1
		for n < len(parts) && parts[n].beside == p.name {
			n++
		}
		beside := parts[1:n]
		parts = parts[n:]
		if len(beside) == 0 {
			results = append(results, one(c, p))
			continue
		}
		var waits result
		var done sync.WaitGroup
		done.Go(func() { waits = one(c.as(p.name, false), p) })
		var others []result
		for _, b := range beside {
			r := one(c.as(b.name, true), b)
			if r.note == "" {
				r.note = "beside " + p.name
			}
			others = append(others, r)
		}
		done.Wait()
		results = append(append(results, waits), others...)
	}
	return results
}

// part is one row of the table.
type part struct {
	name     string
	expected time.Duration // with warm caches on 2 cores, until a run has measured it
	run      func(*check, context.Context) error
	beside   string // the part before, which mostly waits: this one computes meanwhile
}

type state string

const (
	passed  state = "passed"
	failed  state = "failed"
	skipped state = "skipped"
)

type result struct {
	name    string
	state   state
	seconds float64
	note    string
}

// skipError is why a part could not run.
type skipError string

func (e skipError) Error() string { return string(e) }

// check is the run, as one part of it sees it.
type check struct {
	*shared

	label string // before each line, where parts run side by side
	lazy  bool   // its commands leave the processors to others

	testing atomic.Pointer[digest] // of the `go test` that runs
}

// shared is what all parts have.
type shared struct {
	root string
	ci   bool

	mu       sync.Mutex // of what follows: parts write lines, and clocks too
	w        io.Writer
	times    times
	replayed map[string]int // inputs of corpora that passed, by "package target" of fuzzing
}

func newCheck(root string, w io.Writer, ci bool, t times) *check {
	return &check{shared: &shared{root: root, w: w, ci: ci, times: t, replayed: map[string]int{}}}
}

// as is c for a part that runs at the same time as another.
func (c *check) as(name string, lazy bool) *check {
	return &check{shared: c.shared, label: name, lazy: lazy}
}

func (c *check) printf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if c.label != "" {
		var b strings.Builder
		for line := range strings.Lines(text) {
			fmt.Fprintf(&b, "[%s] %s", c.label, line)
		}
		text = b.String()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = io.WriteString(c.w, text)
}

// priority is a command line with which the program leaves the processors to others, if this part is to.
func (c *check) priority(args ...string) []string {
	if !c.lazy {
		return args
	}
	return testbed.Lazily(args...)
}

// run runs a part, saying how long it should take, and every half minute how long it has.
func (c *check) run(ctx context.Context, p part) result {
	c.mu.Lock()
	expected := c.times.of(p.name, p.expected)
	c.mu.Unlock()
	c.printf("=== %s (about %s)\n", p.name, round(expected))
	start := time.Now()
	quit := make(chan struct{})
	var clock sync.WaitGroup
	clock.Go(func() {
		tick := time.NewTicker(30 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				slowest := ""
				if d := c.testing.Load(); d != nil {
					slowest = d.slowest()
				}
				c.printf("    %s: %s of about %s%s\n", p.name, round(time.Since(start)), round(expected), slowest)
			}
		}
	})
	err := p.run(c, ctx)
	close(quit)
	clock.Wait()

	took := time.Since(start)
	r := result{name: p.name, state: passed, seconds: took.Seconds()}
	var skip skipError
	switch {
	case errors.As(err, &skip) && !c.ci:
		r.state, r.note = skipped, skip.Error()
	case errors.As(err, &skip):
		r.state, r.note = failed, "skipped, which CI does not allow: "+skip.Error()
	case err != nil:
		r.state, r.note = failed, firstLine(err.Error())
		c.printf("%s\n", err)
	case !c.lazy: // beside another part it takes longer
		c.mu.Lock()
		c.times.set(p.name, took)
		c.mu.Unlock()
	}
	c.printf("--- %s %s in %s\n", p.name, r.state, round(took))
	return r
}

// report prints the table and says whether nothing failed.
func report(w io.Writer, results []result, took time.Duration) bool {
	count := map[state]int{}
	fmt.Fprintf(w, "\n%-11s %-8s %8s  %s\n", "part", "result", "seconds", "why")
	for _, r := range results {
		count[r.state]++
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-11s %-8s %8.1f  %s", r.name, r.state, r.seconds, r.note), " "))
	}
	fmt.Fprintf(w, "%-11s %-8s %8.1f\n\n", "all", "", took.Seconds())
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", count[passed], count[failed], count[skipped])
	return count[failed] == 0
}

// noteWidth keeps a row of the table on one line; all of it was shown above.
const noteWidth = 100

func firstLine(s string) string {
	s, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if len(s) > noteWidth {
		return s[:noteWidth] + "..."
	}
	if more {
		return s + " ..."
	}
	return s
}

func round(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
