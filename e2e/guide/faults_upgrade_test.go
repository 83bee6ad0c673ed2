package guide

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// session is a shell in a pod that says something ten times a second.
type session struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu        sync.Mutex
	lines     int
	last      time.Time // when it said something
	silence   time.Duration
	ended     time.Time
	err       error
	complaint bytes.Buffer // of kubectl; read after done
}

func (p *typist) startSession(t *testing.T) *session {
	t.Helper()
	c := p.command(cookieKube, "kubectl", "exec", "-n", agents, agents+"-0", "--", "sh", "-c", "while sleep 0.1; do date; done")
	s := &session{cmd: exec.CommandContext(t.Context(), c.Args[0], c.Args[1:]...), done: make(chan struct{})}
	s.cmd.Env, s.cmd.Stderr = c.Env, &s.complaint
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			s.said()
		}
		err := s.cmd.Wait()
		s.mu.Lock()
		s.ended, s.err = time.Now(), err
		s.mu.Unlock()
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.done
	})
	testbed.Wait(t, 0, "the session", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lines < 3 {
			return fmt.Errorf("%d lines", s.lines)
		}
		return nil
	})
	return s
}

func (s *session) said() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.lines++; s.lines > 1 {
		s.silence = max(s.silence, now.Sub(s.last))
	}
	s.last = now
}

// What the chart's defaults give those who are on a replica that is told to stop.
const (
	shutdownDelay = 5 * time.Second
	drainTimeout  = 45 * time.Second
)

// Reliability 18: a rolling upgrade under load. No request on a kept connection fails, and
// nothing is repeated but what a GOAWAY says was not taken; a session goes on through the
// grace period; pods are replaced in order, one at a time.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	w := guided(t)
	p := newTypist(t, w)
	before := w.whole(t)
	ctx := within(t, 15*time.Minute)
	var loops, fresh []*loop
	var kept []*client
	for _, kube := range []string{teleKube, cookieKube} {
		clients := p.clients(t, kube, 4, true)
		kept = append(kept, clients...)
		for _, c := range clients {
			loops = append(loops, startLoop(t, loopOptions{what: "a kept connection to " + kube, every: 20 * time.Millisecond, limit: testbed.Patience, do: c.get}))
		}
		c := p.clients(t, kube, 1, false)[0]
		fresh = append(fresh, startLoop(t, loopOptions{what: "new connections to " + kube, every: 50 * time.Millisecond, limit: testbed.Patience, do: c.get}))
	}
	loops = append(loops,
		startLoop(t, loopOptions{what: "kubectl get pods, cookie", every: 2 * time.Second, limit: time.Minute, do: p.cookieCommand}),
		startLoop(t, loopOptions{what: "tsh login", every: 2 * time.Second, limit: time.Minute, do: p.loginCommand}))
	for _, l := range slices.Concat(loops, fresh) {
		l.more(t, 3)
	}
	s := p.startSession(t)
	watch := w.watchPods(t)

	since := time.Now()
	ok(t, w.helm(ctx, "upgrade", namespace, w.chart(), "--reset-then-reuse-values", "--set-string", fmt.Sprintf("annotations.pod.upgraded=%d", since.Unix())))
	ok(t, w.tele.Kubectl(ctx, "rollout", "status", "-n", namespace, "statefulset/"+namespace, "--timeout=10m"))
	w.took("rolling upgrade of three replicas, with a session open", since)
	after := w.whole(t)
	for _, l := range slices.Concat(loops, fresh) {
		l.more(t, 3)
	}
	rolled := watch.stop(t)
	none(t, w, since, slices.Concat(loops, fresh)...)
	for _, c := range kept {
		if anew := int(c.dials.Load()) - 1; anew > len(rolled) {
			t.Errorf("a kept connection was made anew %d times, in an upgrade of %d pods", anew, len(rolled))
		}
	}
	inOrder(t, w, rolled, since)
	s.judge(t, w, rolled)
	if !slices.Equal(ids(after), ids(before)) || after[0].ClusterID != before[0].ClusterID {
		t.Errorf("they were %v, and are %v", ids(before), ids(after))
	}
}

// inOrder wants one pod replaced after the other, the last first.
func inOrder(t *testing.T, w *world, rolled []replacement, since time.Time) {
	t.Helper()
	var names []string
	var free time.Time
	for _, r := range rolled {
		names = append(names, r.name)
		w.clock.logf("          %s: told to stop at %.1f s, in its place another that is ready at %.1f s", r.name, r.told.Sub(since).Seconds(), r.ready.Sub(since).Seconds())
		if r.told.Before(free) {
			t.Errorf("%s was told to stop before the one before it was ready again", r.name)
		}
		free = r.ready
	}
	if want := []string{replica(2), replica(1), replica(0)}; !slices.Equal(names, want) {
		t.Errorf("replaced: %v, want %v", names, want)
	}
}

// judge wants the session to have lasted until the end of what a replica gives it, and
// kubectl to have said that it was cut.
func (s *session) judge(t *testing.T, w *world, rolled []replacement) {
	t.Helper()
	select {
	case <-s.done:
	default:
		t.Error("the session goes on, though all replicas were replaced")
		return
	}
	through := slices.IndexFunc(rolled, func(r replacement) bool {
		return r.told.Before(s.ended) && (r.ready.IsZero() || r.ready.After(s.ended))
	})
	if through < 0 {
		t.Fatalf("the session ended at %s, when no replica did: %v, %s", s.ended, rolled, s.complaint.String())
	}
	lasted := s.ended.Sub(rolled[through].told)
	w.clock.logf("          the session was cut %.1f s after %s had been told to stop; %d lines, the longest silence %.1f s; kubectl: %v, %s",
		lasted.Seconds(), rolled[through].name, s.lines, s.silence.Seconds(), s.err, strings.TrimSpace(s.complaint.String()))
	if least := shutdownDelay + drainTimeout - time.Second; lasted < least {
		t.Errorf("the session lasted %s from when its replica was told to stop, want %s", lasted, least)
	}
	if s.err == nil {
		t.Error("kubectl exec took being cut for the shell's own end")
	}
}
