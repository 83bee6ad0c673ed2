package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

var sessionStart = api.Event{Event: api.EventSessionStart, Code: api.EventCodeSessionStart, User: "session"}

// tryCommit gives how long Commit took, and what it said.
func tryCommit(t *testing.T, e *Emitter, patience time.Duration) (time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	err := e.Commit(ctx, sessionStart)
	return time.Since(began), err
}

func TestCommit_isDurableWhenItReturns(t *testing.T) {
	for name, c := range map[string]struct {
		strict  bool
		far     error // of sends
		silent  bool  // the cluster is
		write   error // of the disk
		sync    error // of the disk
		noSpool bool
		before  time.Duration // for which there was trouble already
		hang    bool          // of the disk
		want    string        // durable in: cluster, spool; or part of the error
		within  time.Duration
	}{
		"in the cluster, without waiting for a batch": {want: "cluster"},
		"in the cluster, strict":                      {strict: true, want: "cluster"},
		"in the spool at once when sending fails":     {far: errNoLeader, want: "spool"},
		"in the spool at once, known to fail":         {far: errNoLeader, before: time.Minute, want: "spool"},
		"in the spool after a second of silence":      {silent: true, want: "spool", within: time.Second},
		"in the spool, long after silence began":      {silent: true, before: 5 * time.Second, want: "spool", within: time.Second},

		"strict: not in the spool":             {strict: true, far: errNoLeader, want: "no leader", within: time.Second},
		"strict: known to fail":                {strict: true, far: errNoLeader, before: time.Minute, want: "no leader"},
		"strict: silence, until ctx ends":      {strict: true, silent: true, want: "deadline", within: 2 * time.Second},
		"strict: silence, known":               {strict: true, silent: true, before: 5 * time.Second, want: "does not answer", within: 2 * time.Second},
		"no spool":                             {noSpool: true, far: errNoLeader, want: "no leader", within: time.Second},
		"no spool, known to fail":              {noSpool: true, far: errNoLeader, before: time.Minute, want: "no leader"},
		"a full disk":                          {far: errNoLeader, write: syscall.ENOSPC, want: "no space left", within: time.Second},
		"a disk that fails to sync":            {far: errNoLeader, sync: errors.New("i/o error"), want: "no leader", within: time.Second},
		"a disk that hangs, until ctx ends":    {far: errNoLeader, hang: true, want: "no leader", within: 2 * time.Second},
		"a disk that hangs, but no need of it": {hang: true, want: "cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, far := &disk{}, &cluster{err: c.far, hang: c.silent}
				opts := EmitterOptions{Strict: c.strict, SpoolPath: "spool", openSpool: d.open}
				if c.noSpool {
					opts.SpoolPath = ""
				}
				e := start(t, far, opts) // which writes and syncs, too
				d.set(func(d *disk) {
					if d.write, d.sync = c.write, c.sync; c.hang {
						d.hang = make(chan struct{})
					}
				})
				if c.before > 0 {
					record(e, 0, 5)
					pass(c.before)
				}
				took, err := tryCommit(t, e, 2*time.Second)
				if took != c.within {
					t.Errorf("it took %v, not %v", took, c.within)
				}
				inCluster, inSpool := slices.Contains(far.users(t), "session"), d.isDurable("session")
				switch c.want {
				case "cluster":
					if err != nil || !inCluster {
						t.Errorf("%v, in the cluster: %v", err, inCluster)
					}
				case "spool":
					if err != nil || inCluster || !inSpool {
						t.Errorf("%v, in the spool: %v", err, inSpool)
					}
				default:
					if !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), c.want) {
						t.Errorf("%v, wanted %q", err, c.want)
					}
				}
				d.set(mend)
				far.mu.Lock()
				far.err, far.hang = nil, false
				far.mu.Unlock()
				pass(time.Minute)
				closeNow(t, e)
				if n := strings.Count(strings.Join(far.lines, " "), `"session"`); err == nil && n != 1 {
					t.Errorf("came %d times in the end", n)
				}
			})
		})
	}
}

func TestCommit_ofARefusedEventSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &cluster{err: api.Errorf(api.CodeTooLarge, "no such size")}
		e := start(t, far, EmitterOptions{})
		if _, err := tryCommit(t, e, time.Minute); !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "no such size") {
			t.Error(err)
		}
		if err := e.Commit(t.Context(), api.Event{}); err == nil {
			t.Error("an event without a name is durable")
		}
		far.set(nil)
		closeNow(t, e)
		if _, err := tryCommit(t, e, time.Minute); !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "stopping") {
			t.Error(err)
		}
	})
}

func TestCommit_comesAfterWhatItsCallerRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &cluster{}
		e := start(t, far, EmitterOptions{})
		record(e, 0, 20)
		if took, err := tryCommit(t, e, time.Minute); err != nil || took != 0 {
			t.Error(took, err)
		}
		if diff := cmp.Diff(append(numbers(0, 20), "session"), far.users(t)); diff != "" {
			t.Error(diff)
		}
		closeNow(t, e)
	})
}

func TestAdmit_refusesOnlyWhenStrictAndInTrouble(t *testing.T) {
	for _, strict := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			far, d := &cluster{}, &disk{}
			e := start(t, far, EmitterOptions{Strict: strict, SpoolPath: "spool", openSpool: d.open})
			admits := func(when string, parts ...string) {
				t.Helper()
				err := e.Admit()
				if !strict || len(parts) == 0 {
					if err != nil {
						t.Errorf("%s: %v", when, err)
					}
					return
				}
				if !api.IsCode(err, api.CodeUnavailable) {
					t.Fatalf("%s: %v", when, err)
				}
				for _, p := range append(parts, "strict", "try again", "tctl status") {
					if !strings.Contains(err.Error(), p) {
						t.Errorf("%s: %q lacks %q", when, err, p)
					}
				}
			}
			record(e, 0, 10)
			pass(time.Second)
			admits("all is well")

			far.set(errNoLeader)
			record(e, 10, 20)
			pass(batchDelay)
			since := time.Now()
			pass(time.Minute)
			admits("sending fails", "no leader", since.UTC().Format(time.RFC3339), "have not reached the cluster")
			if s := e.Stats(); !s.FailingSince.Equal(since) || s.LastError != "no leader" || s.SpoolEvents != 10 || s.SpoolLimit != defaultSpoolBytes {
				t.Errorf("%+v, failing since %v", s, since)
			}
			far.set(nil)
			pass(time.Minute)
			admits("it works again")

			far.mu.Lock()
			far.hang = true
			far.mu.Unlock()
			record(e, 20, 30)
			pass(batchDelay + 2*time.Second)
			admits("two seconds without an answer")
			pass(time.Second)
			admits("three seconds without an answer", "does not answer")
			if s := e.Stats(); s.FailingSince.IsZero() || s.LastError == "" {
				t.Errorf("%+v", s)
			}
			far.mu.Lock()
			far.hang = false
			far.mu.Unlock()
			pass(time.Minute)
			admits("it answers again")
			if s := e.Stats(); !s.FailingSince.IsZero() || s.LastError != "" || s.SpoolEvents != 0 {
				t.Errorf("%+v", s)
			}
			closeNow(t, e)

			d = &disk{data: []byte(spoolHeader(int(spoolHeaderLen), 0, 0) + spoolText(inSpool(3, 1, 4)))}
			e = start(t, &cluster{hang: true}, EmitterOptions{Strict: strict, SpoolPath: "spool", openSpool: d.open})
			admits("the last run left events", "3 audit events of earlier requests")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := e.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEmitter_aDiskThatHangsStopsNothing is about an fsync that does not return:
// Record, sending, and in the end Close go on without it.
func TestEmitter_aDiskThatHangsStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, d := &cluster{err: errNoLeader}, &disk{}
		e := start(t, far, EmitterOptions{SpoolPath: "spool", openSpool: d.open})
		d.set(func(d *disk) { d.hang = make(chan struct{}) })
		record(e, 0, 100)
		pass(10 * time.Second)
		if d.begun() < 2 { // the first was that of opening
			t.Error("no sync is under way")
		}
		far.set(nil)
		pass(20 * time.Second)
		record(e, 100, 200)
		pass(time.Second)
		if diff := cmp.Diff(numbers(0, 200), far.users(t)); diff != "" {
			t.Error(diff)
		}
		began := time.Now()
		if err := e.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "disk") {
			t.Error(err)
		}
		if took := time.Since(began); took > closeGrace {
			t.Errorf("Close took %v", took)
		}
		d.set(mend)
	})
}

func TestEmitter_syncsTheSpoolOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		e := start(t, &cluster{err: errNoLeader}, EmitterOptions{SpoolPath: "spool", openSpool: d.open})
		at := d.begun()
		for i := range 100 { // 10 s
			record(e, i, i+1)
			pass(100 * time.Millisecond)
		}
		if n := d.begun() - at; n < 8 || n > 11 {
			t.Errorf("%d syncs in 10 s", n)
		}
		pass(2 * time.Second)
		if !d.isDurable("") {
			t.Error("the last lines were not synced")
		}
		at = d.begun()
		pass(time.Minute)
		if n := d.begun() - at; n != 0 {
			t.Errorf("%d syncs of nothing", n)
		}
		closeNow(t, e)
	})
}

// TestEmitter_aFullDiskIsOvercome: events wait in memory while there is no space,
// and none is missing afterwards.
func TestEmitter_aFullDiskIsOvercome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		far, d := &cluster{err: errNoLeader}, &disk{}
		e := start(t, far, EmitterOptions{SpoolPath: "spool", openSpool: d.open, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		record(e, 0, 100)
		pass(time.Second)
		d.set(func(d *disk) { d.write = syscall.ENOSPC })
		record(e, 100, 200)
		pass(time.Minute)
		if s := e.Stats(); s.SpoolEvents != 100 || s.Queued != 100 || s.Lost != 0 {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(logged.String(), "no space left"); n < 1 || n > 2 { // the log may be on that disk, too
			t.Errorf("%d complaints in a minute:\n%s", n, &logged)
		}
		d.set(mend)
		pass(2 * time.Second)
		if s := e.Stats(); s.SpoolEvents != 200 || s.Queued != 0 {
			t.Errorf("with space again: %+v", s)
		}
		far.set(nil)
		pass(time.Minute)
		if diff := cmp.Diff(numbers(0, 200), far.users(t)); diff != "" {
			t.Error(diff)
		}
		closeNow(t, e)
	})
}

func TestEmitter_keepsNumbersOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		down := start(t, &cluster{err: errNoLeader}, EmitterOptions{SpoolPath: "spool", openSpool: d.open, Rand: strings.NewReader("\xff2345678")})
		record(down, 0, 10)
		pass(time.Second)
		closeNow(t, down)
		far := &cluster{}
		up := start(t, far, EmitterOptions{SpoolPath: "spool", openSpool: d.open, Rand: strings.NewReader("00000000abcdefgh"[8:])})
		record(up, 10, 20)
		pass(time.Second)
		closeNow(t, up)
		type batch struct {
			Epoch, First uint64
			Events       int
		}
		var got []batch
		for _, b := range far.batches {
			got = append(got, batch{b.Epoch, b.First, len(b.Events)})
		}
		want := []batch{{0xff32333435363738 >> 1, 1, 10}, {0x6162636465666768 >> 1, 1, 10}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNewEmitter_needsAnEpoch(t *testing.T) {
	for name, random := range map[string]io.Reader{"nothing": strings.NewReader(""), "zeros": bytes.NewReader(make([]byte, 1000))} {
		if _, err := NewEmitter(EmitterOptions{Send: (&cluster{}).send, Rand: random}); err == nil {
			t.Errorf("started with %s for an epoch", name)
		}
	}
	e := start(t, &cluster{}, EmitterOptions{Rand: io.MultiReader(bytes.NewReader(make([]byte, 8)), strings.NewReader("12345678"))})
	if e.epoch == 0 || e.epoch>>63 != 0 {
		t.Errorf("epoch %x", e.epoch)
	}
	closeNow(t, e)
}

// BenchmarkRecord_whileSendHangs is reliability row 28: beside BenchmarkRecord it
// shows that a cluster that does not answer costs requests nothing.
func BenchmarkRecord_whileSendHangs(b *testing.B) {
	e, err := NewEmitter(EmitterOptions{Queue: 1 << 20, SpoolPath: "spool", openSpool: (&disk{}).open, Logger: quiet, Send: func(ctx context.Context, _ Batch) error {
		<-ctx.Done()
		return ctx.Err()
	}})
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
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	_ = e.Close(ctx) // the spool's bound is met at some N
}

// TestEmitter_row28aHungSendCostsNothing: while the cluster does not answer,
// requests go on at once and their events wait, within bounds; none is lost.
func TestEmitter_row28aHungSendCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, d := &cluster{hang: true}, &disk{}
		e := start(t, far, EmitterOptions{SpoolPath: "spool", openSpool: d.open})
		blocked := time.Duration(0)
		for i := range 600 { // a minute
			began := time.Now()
			record(e, 20*i, 20*i+20)
			blocked += time.Since(began)
			pass(100 * time.Millisecond)
			if s := e.Stats(); s.Queued > 2*memoryBytes/100 {
				t.Fatalf("after %d events: %+v", 20*i, s)
			}
		}
		if blocked != 0 {
			t.Errorf("Record took %v", blocked)
		}
		far.mu.Lock()
		far.hang = false
		far.mu.Unlock()
		pass(time.Minute)
		if diff := cmp.Diff(numbers(0, 12000), far.users(t)); diff != "" {
			t.Error(diff)
		}
		closeNow(t, e)
		if s := e.Stats(); s.Lost != 0 || s.SpoolBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}
