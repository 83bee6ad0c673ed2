package testbed

import (
	"context"
	"fmt"
	"time"
)

// TB is what this package needs of *testing.T and *testing.B.
type TB interface {
	Helper()
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
}

// poll is the pause between two looks at a condition. Conditions here cross
// process borders, so there is nothing to be notified by.
const poll = 20 * time.Millisecond

// Until calls check until it returns nil or ctx ends; then the error names
// what was waited for, how long, and what check said last.
func Until(ctx context.Context, what string, check func() error) error {
	start := time.Now()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %.1f s: %w", what, time.Since(start).Seconds(), err)
		case <-tick.C:
		}
	}
}

// Patience is the least that a test waits for what must happen: a busy machine
// takes many times as long as an idle one, and only what never happens makes
// anybody wait so long. How long something may take is for the test to measure.
const Patience = 30 * time.Second

// Wait is Until for tests: it fails the test after limit, or after Patience if
// that is longer.
func Wait(tb TB, limit time.Duration, what string, check func() error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), max(limit, Patience))
	defer cancel()
	if err := Until(ctx, what, check); err != nil {
		tb.Fatalf("%v", err)
	}
}
