// Command check is `make test`: it runs everything that must pass, one part
// after another, and ends with a table of what ran, what was skipped and why,
// and a last line "N passed, N failed, N skipped". It goes on after a failure,
// so that one run shows all there is to mend.
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
	c := &check{root: root, w: w, ci: os.Getenv("CI") != "", times: loadTimes(), replayed: map[string]int{}}
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
	var results []result
	for _, p := range parts {
		if ctx.Err() != nil {
			results = append(results, result{name: p.name, state: failed, note: "not reached: interrupted"})
			continue
		}
		results = append(results, c.run(ctx, p))
	}
	c.times.save()
	return report(w, results, time.Since(start)), nil
}

// part is one row of the table.
type part struct {
	name     string
	expected time.Duration // with warm caches on 2 cores, until a run has measured it
	run      func(context.Context) error
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

type check struct {
	root  string
	w     io.Writer
	ci    bool
	times times
	mu    sync.Mutex // of w: parts write lines, the clock too

	testing atomic.Pointer[digest] // of the `go test` that runs

	replayed map[string]int // inputs of corpora that passed, by "package target" of fuzzing
}

func (c *check) printf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.w, format, args...)
}

// run runs a part, saying how long it should take, and every half minute how long it has.
func (c *check) run(ctx context.Context, p part) result {
	expected := c.times.of(p.name, p.expected)
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
	err := p.run(ctx)
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
	default:
		c.times.set(p.name, took)
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
