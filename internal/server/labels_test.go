package server

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/proxy/tunnel"
)

// saidLabels are what agents say and what is stored, in memory.
type saidLabels struct {
	mu      sync.Mutex
	said    map[string]tunnel.Labels
	stored  map[string]map[string]string
	writes  int
	err     error
	changed chan struct{}
}

func (s *saidLabels) say(name string, l *tunnel.Labels) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said = maps.Clone(s.said); l == nil {
		delete(s.said, name)
	} else {
		s.said[name] = *l
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *saidLabels) Labels() map[string]tunnel.Labels {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

func (s *saidLabels) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *saidLabels) AllLabels() map[string]map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.stored)
}

func (s *saidLabels) SetLabels(_ context.Context, _, name string, labels map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.err == nil {
		s.stored[name] = labels
	}
	return s.err
}

// Labels decide who gets in: the leader writes those of the agent that started last, of
// those that are there, whatever came before.
func TestLabelKeeper_writesWhatTheAgentsThatAreThereSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s := &saidLabels{said: map[string]tunnel.Labels{}, changed: make(chan struct{}), stored: map[string]map[string]string{
			"cookie": nil, "cake": {"env": "prod"}, "gone": {"env": "prod"},
		}}
		l := &labelKeeper{log: slog.New(slog.NewTextHandler(&log, nil)), clock: time.Now, tunnels: s, store: s}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.keep(ctx) }()
		prod, dev := map[string]string{"env": "prod"}, map[string]string{"env": "dev"}
		begun := time.Now()
		first := &tunnel.Labels{Agent: "1", Started: begun, Labels: prod}
		last := &tunnel.Labels{Agent: "2", Started: begun.Add(time.Second), Labels: dev}
		expect := func(what, name string, after time.Duration, want map[string]string) {
			t.Helper()
			<-time.After(after)
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			if d := cmp.Diff(want, s.stored[name]); d != "" {
				t.Errorf("%s: %s", what, d)
			}
		}
		s.say("cookie", first)
		expect("those of a new cluster are there at once", "cookie", time.Second, prod)
		s.say("cake", last)
		expect("a new leader has not heard of all agents", "cake", goneAfter/2, prod)
		expect("it has", "cake", goneAfter, dev)
		s.say("cookie", last)
		expect("another that started later", "cookie", time.Second, dev)
		s.say("cookie", first)
		expect("it has just gone", "cookie", goneAfter/2, dev)
		s.say("cookie", last)
		expect("and is back", "cookie", 2*goneAfter, dev)
		s.say("cookie", nil)
		expect("nobody is there", "cookie", time.Second, dev)
		s.say("cookie", first)
		expect("the other is back before it", "cookie", goneAfter/2, dev)
		expect("it is gone for good, and its labels", "cookie", goneAfter, prod)
		s.say("cookie", nil)
		expect("the last ones stay", "cookie", time.Hour, prod)
		s.say("cookie", &tunnel.Labels{Agent: "1", Started: begun, Labels: nil})
		expect("an agent that comes back without", "cookie", time.Second, nil)
		if d := cmp.Diff(prod, s.stored["gone"]); d != "" {
			t.Error(d)
		}
		if n := s.writes; n != 5 {
			t.Errorf("%d writes", n)
		}
		if log.Len() > 0 {
			t.Errorf("%s", &log)
		}

		both := *last
		both.Others = []string{"1"}
		s.say("cookie", &both)
		s.err = api.Errorf(api.CodeForbidden, "no")
		s.say("cake", &tunnel.Labels{Agent: "3", Started: time.Now()})
		<-time.After(time.Minute)
		both.Others = append(both.Others, "4")
		s.say("cookie", &both)
		<-time.After(time.Minute)
		synctest.Wait()
		if got := log.String(); strings.Count(got, "different labels") != 1 || !strings.Contains(got, "others=[1]") || strings.Count(got, "could not be written") != 2 {
			t.Errorf("%s", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
