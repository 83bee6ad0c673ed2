package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client/callback"
)

// event is what one of the two ways says, and when.
type event struct {
	after time.Duration // never: not before the wait is over
	code  string
	err   error
}

const never = time.Duration(-1)

func (e event) wait(ctx context.Context) (string, error) {
	if e.after == never {
		<-ctx.Done()
		return "", ctx.Err()
	}
	select {
	case <-time.After(e.after):
		return e.code, e.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// TestFirstToTellEndsTheWait: the browser and the servers, in both orders and at once.
func TestFirstToTellEndsTheWait(t *testing.T) {
	failed := api.Errorf(api.CodeForbidden, "no team")
	denied := api.Errorf(api.CodeForbidden, "refused")
	said := api.Errorf(api.CodeForbidden, callback.Refused)
	gone := api.Errorf(api.CodeNotFound, "not known")
	const s = time.Second
	for name, test := range map[string]struct {
		callback, outcome event
		code              string
		err               error
		took              time.Duration
		late              int32
	}{
		"the code, and nobody else says anything":    {event{after: 5 * s, code: "c"}, event{after: never}, "c", nil, 5 * s, 0},
		"the code before the approval is heard of":   {event{after: 5 * s, code: "c"}, event{after: 6 * s}, "c", nil, 5 * s, 0},
		"the approval before the code":               {event{after: 6 * s, code: "c"}, event{after: 5 * s}, "c", nil, 6 * s, 0},
		"the code long after the approval":           {event{after: 60 * s, code: "c"}, event{after: 5 * s}, "c", nil, 60 * s, 1},
		"no code after the approval":                 {event{after: never}, event{after: 5 * s}, "", errLost(), 5*s + lostAfter, 1},
		"a failure, and the browser stays there":     {event{after: never}, event{after: 5 * s, err: failed}, "", failed, 5 * s, 0},
		"a refusal that the browser brings":          {event{after: 5 * s, err: denied}, event{after: never}, "", denied, 5 * s, 0},
		"a refusal, first from the servers":          {event{after: 6 * s, err: denied}, event{after: 5 * s, err: failed}, "", failed, 5 * s, 0},
		"she said no, and the browser is on its way": {event{after: 5*s + s/2, err: said}, event{after: 5 * s, err: said}, "", said, 5*s + s/2, 0},
		"she said no, and the browser never comes":   {event{after: never}, event{after: 5 * s, err: said}, "", said, 5*s + codeGrace, 0},
		"the code, and then the login is gone":       {event{after: 5 * s, code: "c"}, event{after: 6 * s, err: gone}, "c", nil, 5 * s, 0},
		"gone, and the browser brings why":           {event{after: 5*s + s/2, err: denied}, event{after: 5 * s, err: gone}, "", denied, 5*s + s/2, 0},
		"gone, and the browser never comes":          {event{after: never}, event{after: 5 * s, err: gone}, "", gone, 5*s + codeGrace, 0},
		"nothing":                                    {event{after: never}, event{after: never}, "", context.DeadlineExceeded, 10 * time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				var late atomic.Int32
				begin := time.Now()
				w := awaiting{
					callback: test.callback.wait,
					outcome:  func(ctx context.Context) error { _, err := test.outcome.wait(ctx); return err },
					late:     func() { late.Add(1) },
				}
				code, err := w.run(ctx)
				if code != test.code || (err == nil) != (test.err == nil) || err != nil && err.Error() != test.err.Error() || api.CodeOf(err) != api.CodeOf(test.err) {
					t.Errorf("%q, %v; want %q, %v", code, err, test.code, test.err)
				}
				if took := time.Since(begin); took != test.took || late.Load() != test.late {
					t.Errorf("took %s, want %s; told %d times that it is late", took, test.took, late.Load())
				}
			})
		})
	}
}

// TestCodeAndFailureAtOnce: which of them is seen first is chance; either ends it.
func TestCodeAndFailureAtOnce(t *testing.T) {
	failed := api.Errorf(api.CodeForbidden, "no team")
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := awaiting{
				callback: event{after: time.Second, code: "c"}.wait,
				outcome: func(ctx context.Context) error {
					_, err := event{after: time.Second, err: failed}.wait(ctx)
					return err
				},
				late: func() { t.Error("late") },
			}
			code, err := w.run(t.Context())
			if !(code == "c" && err == nil) && !(code == "" && errors.Is(err, failed)) {
				t.Errorf("%q, %v", code, err)
			}
		})
	}
}

// TestHeadlessWaitsForTheServersAlone, and for the end of the time it has.
func TestHeadlessWaitsForTheServersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := api.Errorf(api.CodeForbidden, "refused")
		for _, want := range []error{nil, failed} {
			w := awaiting{outcome: func(ctx context.Context) error {
				_, err := event{after: time.Minute, err: want}.wait(ctx)
				return err
			}}
			if code, err := w.run(t.Context()); code != "" || !errors.Is(err, want) {
				t.Errorf("%q, %v; want %v", code, err, want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w := awaiting{outcome: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		_, err := w.run(ctx)
		if err = overdue(t.Context(), err); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error(err)
		}
		if err := overdue(ctx, context.DeadlineExceeded); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestNothingRunsAfterTheWait: whoever lost is over, too, before run returns.
func TestNothingRunsAfterTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int32
		lingering := func(ctx context.Context) error {
			running.Add(1)
			defer running.Add(-1)
			<-ctx.Done()
			<-time.After(time.Second) // a last page that the browser reads
			return ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w := awaiting{callback: func(ctx context.Context) (string, error) { return "", lingering(ctx) }, outcome: lingering}
		if _, err := w.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if n := running.Load(); n != 0 {
			t.Errorf("%d still run", n)
		}
	})
}

func TestDevice(t *testing.T) {
	for host, want := range map[string]string{
		"laptop": "laptop (tsh login --headless)", "": "tsh login --headless",
	} {
		if got := deviceText(host, "tsh login --headless"); got != want {
			t.Errorf("%q: %q", host, got)
		}
	}
	if got := deviceText(strings.Repeat("x", 255), "tsh login --headless"); len(got) > 64 || !strings.HasSuffix(got, "(tsh login --headless)") {
		t.Errorf("%q", got)
	}
	if got := deviceText("a\x1b[2J\nb", "tsh login"); strings.ContainsAny(got, "\x1b\n") {
		t.Errorf("%q", got)
	}
}
