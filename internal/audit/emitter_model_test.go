package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// weather is how the cluster of a model takes batches.
type weather int

const (
	fine      weather = iota
	slow              // up to two seconds
	down              // refuses at once
	ambiguous         // fails, and may have committed, or commits later
	stalled           // says nothing until the context ends, and may commit later
	narrow            // takes no more than twenty events at once
	mixed             // any of these
)

// farEnd is the cluster of a model: it takes events by the rule of Extend.
type farEnd struct {
	t       *testing.T
	mu      sync.Mutex
	rng     *rand.Rand
	weather weather
	store   map[string][]byte
	order   map[uint64][]int // serials taken, by epoch
	has     map[int]int      // how often
	late    sync.WaitGroup   // commits that nobody waits for
}

func (f *farEnd) apply(b Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	events, seen, err := unseen(b, nil, func(key string) []byte { return f.store[key] })
	if err != nil || seen == nil {
		f.t.Error("batch without an epoch:", err)
		return
	}
	f.store[seen.Key] = seen.Value
	for _, line := range events {
		var ev api.Event
		if err := json.Unmarshal(line, &ev); err != nil {
			f.t.Error(err)
		}
		if n, err := strconv.Atoi(ev.User); err == nil { // else it tells of lost ones
			f.order[b.Epoch] = append(f.order[b.Epoch], n)
			f.has[n]++
		}
	}
}

func (f *farEnd) intn(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.IntN(n)
}

func (f *farEnd) set(w weather) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.weather = w
}

func (f *farEnd) now() weather {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.weather == mixed {
		return weather(f.rng.IntN(int(mixed)))
	}
	return f.weather
}

// applyLater commits a batch whose sender was told otherwise, perhaps.
func (f *farEnd) applyLater(b Batch) {
	switch f.intn(3) {
	case 0:
		f.apply(b)
	case 1:
		after := time.Duration(f.intn(8000)) * time.Millisecond
		f.late.Go(func() {
			<-time.After(after)
			f.apply(b)
		})
	}
}

func (f *farEnd) send(ctx context.Context, b Batch) error {
	w := f.now()
	if w == down {
		return errNoLeader
	}
	for _, line := range b.Events {
		if bytes.Contains(line, []byte(`"poison"`)) {
			return api.Errorf(api.CodeInvalid, "poison")
		}
	}
	switch w {
	case narrow:
		if len(b.Events) > 20 {
			return api.Errorf(api.CodeTooLarge, "too many")
		}
	case slow:
		select {
		case <-time.After(time.Duration(f.intn(2000)) * time.Millisecond):
		case <-ctx.Done():
			f.applyLater(b)
			return ctx.Err()
		}
	case ambiguous:
		f.applyLater(b)
		return api.Errorf(api.CodeAmbiguous, "who knows")
	case stalled:
		<-ctx.Done()
		f.applyLater(b)
		return ctx.Err()
	}
	f.apply(b)
	return nil
}

// modelRun is one life of an emitter in a model.
type modelRun struct {
	e    *Emitter
	disk *disk

	mu       sync.Mutex
	dead     bool
	recorded []int
	commits  sync.WaitGroup
}

// model drives emitters through random trouble and keeps what must arrive.
type model struct {
	t      *testing.T
	rng    *rand.Rand
	far    *farEnd
	run    *modelRun
	strict bool
	serial int

	mu     sync.Mutex
	must   map[int]string // serial: why
	mayNot map[int]bool   // poison
}

func (m *model) start(d *disk) {
	r := &modelRun{disk: d}
	e, err := NewEmitter(EmitterOptions{
		SpoolPath: "spool", openSpool: d.open, Strict: m.strict, Logger: quiet, SpoolBytes: 1 << 20,
		Send: func(ctx context.Context, b Batch) error {
			r.mu.Lock()
			dead := r.dead
			r.mu.Unlock()
			if dead {
				return errNoLeader
			}
			return m.far.send(ctx, b)
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	r.e, m.run = e, r
}

func (m *model) event() (int, api.Event) {
	m.serial++
	ev := api.Event{Event: "e", Code: "c", User: strconv.Itoa(m.serial), Fields: map[string]any{}}
	switch {
	case m.rng.IntN(200) == 0:
		ev.Fields["poison"] = true
		m.mayNot[m.serial] = true
	case m.rng.IntN(40) == 0:
		ev.Fields["pad"] = string(bytes.Repeat([]byte("x"), MaxString))
	}
	return m.serial, ev
}

func (m *model) commit() {
	r := m.run
	n, ev := m.event()
	poison := m.mayNot[n]
	patience := time.Duration(m.rng.IntN(8000)) * time.Millisecond
	r.commits.Go(func() {
		ctx, cancel := context.WithTimeout(m.t.Context(), patience)
		defer cancel()
		began := time.Now()
		err := r.e.Commit(ctx, ev)
		if took := time.Since(began); took > patience {
			m.t.Errorf("Commit took %v, its context %v", took, patience)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		switch {
		case err != nil && !api.IsCode(err, api.CodeUnavailable):
			m.t.Errorf("Commit: %v", err)
		case err == nil && !r.dead:
			m.acked(r, n, poison)
		}
	})
}

// acked checks that an event is durable now.
func (m *model) acked(r *modelRun, n int, poison bool) {
	m.far.mu.Lock()
	there := m.far.has[n] > 0
	m.far.mu.Unlock()
	if !there && (m.strict || !r.disk.isDurable(fmt.Sprintf(`"user":"%d"`, n))) {
		m.t.Errorf("event %d is not durable when Commit returns", n)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !poison {
		m.must[n] = "committed"
	}
}

// need notes what must arrive from now on.
func (m *model) need(why string, serials ...int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range serials {
		if !m.mayNot[n] {
			m.must[n] = why
		}
	}
}

// kill ends a run without any farewell: what it had in memory is gone.
func (m *model) kill(powerCut bool) {
	r := m.run
	r.mu.Lock()
	r.dead = true
	left := r.disk.copyOf(powerCut)
	r.mu.Unlock()
	s, err := openSpool(left.copyOf(false), 1<<20)
	if err != nil {
		m.t.Fatal(err)
	}
	flights, bad := replay(m.t, s)
	if bad > 0 {
		m.t.Errorf("%d harmed lines", bad)
	}
	for _, f := range flights {
		for _, l := range f {
			var ev api.Event
			if err := json.Unmarshal(l.line, &ev); err != nil {
				m.t.Fatal(err)
			}
			if n, err := strconv.Atoi(ev.User); err == nil {
				m.need("in the spool at a kill", n)
			}
		}
	}
	m.bury(r)
	m.start(left)
}

// bury ends the goroutines of a run that was killed.
func (m *model) bury(r *modelRun) {
	ctx, cancel := context.WithCancel(m.t.Context())
	cancel()
	_ = r.e.Close(ctx)
	r.disk.set(mend)
	r.commits.Wait()
}

func mend(d *disk) {
	if d.hang != nil {
		close(d.hang)
	}
	d.hang, d.write, d.sync = nil, nil, nil
}

// stop ends a run in order.
func (m *model) stop(patience time.Duration) *disk {
	r := m.run
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	err := r.e.Close(ctx)
	if lost := r.e.Stats().Lost; lost == 0 {
		m.need("taken before an orderly stop", r.recorded...)
	} else if err == nil {
		m.t.Errorf("Close says nothing of %d lost events", lost)
	}
	left := r.disk.copyOf(false)
	r.disk.set(mend)
	r.commits.Wait()
	return left
}

func (m *model) step() {
	switch k := m.rng.IntN(100); {
	case k < 40:
		for range m.rng.IntN(60) {
			n, ev := m.event()
			m.run.e.Record(ev)
			m.run.recorded = append(m.run.recorded, n)
		}
	case k < 55:
		m.commit()
	case k < 60:
		m.run.e.Stats()
		if err := m.run.e.Admit(); err != nil && (!m.strict || !api.IsCode(err, api.CodeUnavailable)) {
			m.t.Error(err)
		}
	case k < 75:
		m.far.set([]weather{fine, slow, down, ambiguous, stalled, narrow, mixed, mixed}[m.rng.IntN(8)])
	case k < 78:
		m.run.disk.set(func(d *disk) { d.write = syscall.ENOSPC })
	case k < 80:
		m.run.disk.set(func(d *disk) { d.sync = errors.New("input/output error") })
	case k < 82:
		m.run.disk.set(func(d *disk) {
			if d.hang == nil {
				d.hang = make(chan struct{})
			}
		})
	case k < 90:
		m.run.disk.set(mend)
	case k < 93:
		m.start(m.stop(time.Duration(m.rng.IntN(4000)) * time.Millisecond))
	case k < 95:
		m.kill(m.rng.IntN(2) == 0)
	}
	// Often nothing at all: what was done meets the very same state.
	if m.rng.IntN(3) > 0 {
		<-time.After(time.Duration(m.rng.IntN(1+1<<m.rng.IntN(12))) * time.Millisecond)
	}
}

func (m *model) check() {
	m.run.disk.set(mend)
	m.far.set(fine)
	<-time.After(30 * time.Second)
	s := m.run.e.Stats()
	if s.SpoolBytes != 0 || s.SpoolEvents != 0 || s.Queued != 0 || !s.FailingSince.IsZero() || s.LastError != "" {
		m.t.Errorf("after the trouble: %+v", s)
	}
	if err := m.run.e.Admit(); err != nil {
		m.t.Error(err)
	}
	if s.Lost == 0 {
		m.need("taken", m.run.recorded...)
	}
	m.stop(10 * time.Second)
	m.far.late.Wait()
	for n, why := range m.must {
		if m.far.has[n] == 0 {
			m.t.Errorf("event %d is missing, though %s", n, why)
		}
	}
	for n, times := range m.far.has {
		if times > 1 {
			m.t.Errorf("event %d came %d times", n, times)
		}
		if m.mayNot[n] {
			m.t.Errorf("event %d came, which was refused", n)
		}
	}
}

// inOrder checks that what was recorded arrived in its order; commits come from
// goroutines of their own and have none.
func (m *model) inOrder(recorded map[int]bool) {
	for epoch, serials := range m.far.order {
		last := 0
		for _, n := range serials {
			if !recorded[n] {
				continue
			}
			if n <= last {
				m.t.Errorf("epoch %x: event %d came after %d", epoch, n, last)
			}
			last = n
		}
	}
}

// TestEmitter_model compares the Emitter under random trouble with what it
// promises (reliability row 28): what was taken arrives, once, in order; what
// Commit has acknowledged is durable, whatever comes.
func TestEmitter_model(t *testing.T) {
	const seeds = 40
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's dice
				m := &model{
					t: t, rng: rng, strict: seed%4 == 3, must: map[int]string{}, mayNot: map[int]bool{},
					far: &farEnd{
						t: t, rng: rand.New(rand.NewPCG(seed, 2)), //nolint:gosec // a test's dice
						store: map[string][]byte{}, order: map[uint64][]int{}, has: map[int]int{},
					},
				}
				recorded := map[int]bool{}
				m.start(&disk{})
				for range 80 {
					before := m.run
					n := len(before.recorded)
					m.step()
					for _, serial := range before.recorded[n:] {
						recorded[serial] = true
					}
				}
				m.check()
				m.inOrder(recorded)
			})
		})
	}
}
