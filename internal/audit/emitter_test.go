package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// cluster is a Send that keeps what it is given.
type cluster struct {
	mu    sync.Mutex
	err   error // of the next sends
	hang  bool  // until the context ends
	sends []int // lines of each send that succeeded
	lines []string
	tries int

	batches []Batch // that succeeded
}

func (c *cluster) send(ctx context.Context, b Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	if c.hang {
		c.mu.Unlock()
		<-ctx.Done()
		c.mu.Lock()
		return ctx.Err()
	}
	if c.err != nil {
		return c.err
	}
	c.sends = append(c.sends, len(b.Events))
	c.batches = append(c.batches, b)
	for _, e := range b.Events {
		c.lines = append(c.lines, string(e))
	}
	return nil
}

func (c *cluster) set(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// users are the users of the events that arrived, in order.
func (c *cluster) users(t *testing.T) []string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, l := range c.lines {
		var ev api.Event
		if err := json.Unmarshal([]byte(l), &ev); err != nil {
			t.Fatal(err)
		}
		if ev.Event == api.EventLost {
			out = append(out, fmt.Sprintf("lost %v", ev.Fields["count"]))
		} else {
			out = append(out, ev.User)
		}
	}
	return out
}

func start(t *testing.T, c *cluster, opts EmitterOptions) *Emitter {
	t.Helper()
	opts.Send = c.send
	if opts.Logger == nil {
		opts.Logger = quiet
	}
	e, err := NewEmitter(opts)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func record(e *Emitter, from, to int) {
	for i := from; i < to; i++ {
		e.Record(api.Event{Event: api.EventKubeRequest, Code: api.EventCodeKubeRequest, User: fmt.Sprint(i)})
	}
}

func numbers(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func closeNow(t *testing.T, e *Emitter) {
	t.Helper()
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

var errNoLeader = api.Errorf(api.CodeUnavailable, "no leader")

func TestEmitter_sendsABatchAfterItsDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		e := start(t, c, EmitterOptions{Source: Source{ClusterName: "prod"}})
		record(e, 0, 10)
		pass(batchDelay - time.Millisecond)
		synctest.Wait()
		if n := len(c.users(t)); n != 0 {
			t.Errorf("%d lines were sent too early", n)
		}
		pass(2 * time.Millisecond)
		synctest.Wait()
		if diff := cmp.Diff(numbers(0, 10), c.users(t)); diff != "" {
			t.Error(diff)
		}
		closeNow(t, e)
		if diff := cmp.Diff([]int{10}, c.sends); diff != "" {
			t.Error(diff)
		}
		var ev api.Event
		if err := json.Unmarshal([]byte(c.lines[0]), &ev); err != nil {
			t.Fatal(err)
		}
		if ev.UID == "" || ev.ClusterName != "prod" || ev.Time.IsZero() {
			t.Errorf("incomplete: %+v", ev)
		}
		if got := e.Stats(); got != (EmitterStats{Recorded: 10, Sent: 10}) {
			t.Errorf("%+v", got)
		}
	})
}

func TestEmitter_sendsAtOnceWhenABatchIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		e := start(t, c, EmitterOptions{})
		const n = batchBytes/MaxString + 4
		for range n {
			e.Record(api.Event{Event: "e", Code: "c", Fields: map[string]any{"p": strings.Repeat("x", MaxString)}})
		}
		synctest.Wait() // no time passes
		if len(c.users(t)) == 0 {
			t.Error("more than a batch waits")
		}
		closeNow(t, e)
		if len(c.lines) != n {
			t.Errorf("%d lines", len(c.lines))
		}
	})
}

func TestEmitter_closeFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		e := start(t, c, EmitterOptions{})
		record(e, 0, 100)
		closeNow(t, e)
		if diff := cmp.Diff(numbers(0, 100), c.users(t)); diff != "" {
			t.Error(diff)
		}
		closeNow(t, e) // twice is harmless
		record(e, 0, 1)
		if got := e.Stats().Lost; got != 1 {
			t.Errorf("an event after Close: lost %d", got)
		}
	})
}

func TestEmitter_outageLosesNothingAndKeepsOrder(t *testing.T) {
	for _, spooled := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := &cluster{err: errNoLeader}
			opts := EmitterOptions{}
			if spooled {
				opts.SpoolPath = filepath.Join(t.TempDir(), "log", "spool")
			}
			e := start(t, c, opts)
			for i := range 300 { // 30 s
				record(e, 5*i, 5*i+5)
				pass(100 * time.Millisecond)
			}
			if s := e.Stats(); spooled && (s.SpoolBytes == 0 || s.Queued > 10) {
				t.Errorf("events are not in the spool: %+v", s)
			}
			if c.tries > 20 {
				t.Errorf("%d tries in 30 s: no backoff", c.tries)
			}
			c.set(nil)
			pass(backoffMax + time.Second)
			record(e, 1500, 1510)
			pass(time.Second)
			synctest.Wait()
			if diff := cmp.Diff(numbers(0, 1510), c.users(t)); diff != "" {
				t.Error(diff)
			}
			closeNow(t, e)
			if s := e.Stats(); s.SpoolBytes != 0 || s.Lost != 0 || s.Sent != 1510 || s.Queued != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestEmitter_restartSendsWhatTheLastRunSpooled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log", "spool")
		down := &cluster{err: errNoLeader}
		e := start(t, down, EmitterOptions{SpoolPath: path})
		record(e, 0, 1000)
		pass(time.Second)
		record(e, 1000, 1010)
		closeNow(t, e)
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("spool: %v %v", info.Mode(), err)
		}
		up := &cluster{}
		e = start(t, up, EmitterOptions{SpoolPath: path})
		record(e, 1010, 1020)
		pass(time.Second)
		synctest.Wait()
		if diff := cmp.Diff(numbers(0, 1020), up.users(t)); diff != "" {
			t.Error(diff)
		}
		closeNow(t, e)
		if b, err := os.ReadFile(path); err != nil || int64(len(b)) != spoolHeaderLen {
			t.Errorf("the spool still holds %d bytes, %v", len(b), err)
		}
	})
}

func TestEmitter_closeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{hang: true}
		path := filepath.Join(t.TempDir(), "spool")
		e := start(t, c, EmitterOptions{SpoolPath: path})
		record(e, 0, 10)
		pass(time.Second) // a send is under way
		record(e, 10, 20)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begin := time.Now()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("Close took %v", took)
		}
		up := &cluster{}
		e = start(t, up, EmitterOptions{SpoolPath: path})
		pass(time.Second)
		closeNow(t, e)
		if diff := cmp.Diff(numbers(0, 20), up.users(t)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEmitter_whatNoPlaceHoldsIsCountedLoggedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		c := &cluster{err: errNoLeader}
		e := start(t, c, EmitterOptions{
			SpoolPath: filepath.Join(t.TempDir(), "spool"), SpoolBytes: 200_000, Queue: 100,
			Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		})
		const total = 1000
		for i := range total {
			e.Record(api.Event{Event: "e", Code: "c", User: fmt.Sprint(i), Fields: map[string]any{"p": strings.Repeat("x", MaxString)}})
			if i%50 == 0 {
				pass(60 * time.Millisecond)
				synctest.Wait()
			}
		}
		s := e.Stats()
		if s.Lost == 0 || s.SpoolBytes > 200_000 || s.Queued*MaxString > 3<<20 {
			t.Errorf("not bounded: %+v", s)
		}
		c.set(nil)
		pass(time.Minute)
		synctest.Wait()
		closeNow(t, e)
		told, got := 0, 0
		for _, u := range c.users(t) {
			var n int
			if _, err := fmt.Sscanf(u, "lost %d", &n); err == nil {
				told += n
			} else {
				got++
			}
		}
		if uint64(told) != e.Stats().Lost || got+told != total {
			t.Errorf("%d arrived and the log tells of %d lost, of %d; %+v", got, told, total, e.Stats())
		}
		if n := strings.Count(logged.String(), "audit events are being lost"); n != 1 {
			t.Errorf("%d warnings:\n%s", n, logged.String())
		}
	})
}

func TestEmitter_aRefusedEventHoldsUpNoOther(t *testing.T) {
	for _, spooled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := &cluster{}
			var down atomic.Bool
			down.Store(spooled)
			send := func(ctx context.Context, b Batch) error {
				if down.Load() {
					return errNoLeader
				}
				for _, e := range b.Events {
					if bytes.Contains(e, []byte(`"user":"66"`)) {
						return api.Errorf(api.CodeTooLarge, "no")
					}
				}
				return c.send(ctx, b)
			}
			opts := EmitterOptions{Send: send, Logger: quiet}
			if spooled {
				opts.SpoolPath = filepath.Join(t.TempDir(), "spool")
			}
			e, err := NewEmitter(opts)
			if err != nil {
				t.Fatal(err)
			}
			record(e, 0, 100)
			pass(time.Second)
			synctest.Wait()
			down.Store(false)
			pass(time.Minute)
			closeNow(t, e)
			want := append(numbers(0, 66), numbers(67, 100)...)
			got := c.users(t)
			lost := 0
			var kept []string
			for _, u := range got {
				if u == "lost 1" {
					lost++
				} else {
					kept = append(kept, u)
				}
			}
			if diff := cmp.Diff(want, kept); diff != "" {
				t.Error(diff)
			}
			if lost != 1 || e.Stats().Refused != 1 {
				t.Errorf("told %d times, %+v", lost, e.Stats())
			}
			if !spooled {
				return
			}
			path := opts.SpoolPath + ".refused"
			if text, err := os.ReadFile(path); err != nil || e.Stats().RefusedPath != path || bytes.Count(text, []byte("\n")) != 1 || //nolint:gosec // the test's own
				!bytes.Contains(text, []byte(`"error":"no"`)) || !bytes.Contains(text, []byte(`"user":"66"`)) || !json.Valid(text) {
				t.Errorf("%q keeps %s, %v", e.Stats().RefusedPath, text, err)
			}
		})
	}
}

func TestEmitter_recordNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{hang: true}
		e := start(t, c, EmitterOptions{Queue: 10})
		begin := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { record(e, 0, 20000) })
		}
		wg.Wait()
		if took := time.Since(begin); took != 0 {
			t.Errorf("160000 events took %v of waiting", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.Close(ctx); err == nil {
			t.Error("Close hides that events are lost")
		}
		if s := e.Stats(); s.Lost != 160000 {
			t.Errorf("%+v", s)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	e, err := NewEmitter(EmitterOptions{Queue: 1 << 20, Send: func(context.Context, Batch) error { return nil }, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	ev := api.Event{Event: api.EventKubeRequest, Code: api.EventCodeKubeRequest, User: "alice", Fields: map[string]any{"verb": "get"}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e.Record(ev)
		}
	})
	b.StopTimer()
	if err := e.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// pass lets time go by in a synctest bubble, and what it sets off happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
