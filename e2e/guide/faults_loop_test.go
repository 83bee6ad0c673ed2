package guide

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// loop does the same again and again while things break.
type loop struct {
	o      loopOptions
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	turns []turn
}

type loopOptions struct {
	what  string
	every time.Duration // at most so often
	limit time.Duration // how long one may take; who types gives up then
	many  int           // how many at once at most: a new one begins although others hang; 0: one
	do    func(context.Context) error
}

// turn is one of a loop.
type turn struct {
	begun time.Time
	took  time.Duration
	err   error
}

func startLoop(t *testing.T, o loopOptions) *loop {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &loop{o: o, cancel: cancel}
	for range max(1, o.many) {
		l.wg.Go(func() { l.run(ctx) })
	}
	t.Cleanup(func() { cancel(); l.wg.Wait() })
	return l
}

func (l *loop) run(ctx context.Context) {
	tick := time.NewTicker(l.o.every)
	defer tick.Stop()
	for ctx.Err() == nil {
		// What has begun is judged, too.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.o.limit)
		begun := time.Now()
		err := l.o.do(limited)
		cancel()
		l.mu.Lock()
		l.turns = append(l.turns, turn{begun, time.Since(begun), err})
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// more waits for n good turns that begin after now.
func (l *loop) more(t *testing.T, n int) {
	t.Helper()
	since := time.Now()
	testbed.Wait(t, time.Minute, fmt.Sprintf("%s: %d more good ones", l.o.what, n), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		good, last := 0, error(nil)
		for _, turn := range l.turns {
			if turn.begun.After(since) && turn.err == nil {
				good++
			} else if turn.err != nil {
				last = turn.err
			}
		}
		if good < n {
			return fmt.Errorf("%d so far; the last that failed: %w", good, errors.Join(last))
		}
		return nil
	})
}

// result is what a loop has been through.
type result struct {
	what   string
	n      int
	failed []turn
	worst  time.Duration // of those that were good
}

// stop ends it, after what is under way.
func (l *loop) stop() result {
	l.cancel()
	l.wg.Wait()
	r := result{what: l.o.what, n: len(l.turns)}
	slices.SortFunc(l.turns, func(a, b turn) int { return a.begun.Compare(b.begun) })
	for _, turn := range l.turns {
		if turn.err != nil {
			r.failed = append(r.failed, turn)
		} else {
			r.worst = max(r.worst, turn.took)
		}
	}
	return r
}

func (r result) String() string {
	return fmt.Sprintf("%s: %d of %d failed, the slowest took %.1f s", r.what, len(r.failed), r.n, r.worst.Seconds())
}

// show tells of the first failures, as seconds after since.
func (r result) show(since time.Time) string {
	text := r.String()
	for i, turn := range r.failed {
		if i == 6 {
			text += "\n  …"
			break
		}
		text += fmt.Sprintf("\n  begun %+.2f s, after %.2f s: %v", turn.begun.Sub(since).Seconds(), turn.took.Seconds(), turn.err)
	}
	return text
}

// none wants no failures of these loops, which it ends.
func none(t *testing.T, w *world, since time.Time, loops ...*loop) {
	t.Helper()
	for _, l := range loops {
		r := l.stop()
		w.clock.logf("          %s", r)
		if len(r.failed) > 0 {
			t.Errorf("%s", r.show(since))
		}
	}
}
