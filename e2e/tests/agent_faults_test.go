package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// asked is a loop of GETs of cookie's through one replica, and how long they took.
type asked struct {
	*loop
	mu      sync.Mutex
	slowest time.Duration
	last    time.Time // of a good answer
	gap     time.Duration
}

// askCookie begins a loop of GETs through a replica.
func (e *agentsEnvironment) askCookie(t *testing.T, r *sallyport.Replica) *asked {
	t.Helper()
	c := e.through(t, r, "h2")
	a := &asked{last: time.Now()}
	a.loop = startLoop(t, func(ctx context.Context) error {
		start := time.Now()
		err := c.pods(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.slowest = max(a.slowest, time.Since(start))
		if err == nil {
			a.gap, a.last = max(a.gap, time.Since(a.last)), time.Now()
		}
		// As fast as it goes would measure this machine, not what is asked.
		return errors.Join(err, pause(ctx, 5*time.Millisecond))
	})
	a.more(t, 5)
	return a
}

// patient is how long something may take here: as long as promised, and longer while
// there is more to do on this machine than it has cores for. What was measured
// is logged.
func patient(t *testing.T, promised time.Duration) time.Duration {
	t.Helper()
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	var load float64
	if _, err := fmt.Sscan(string(b), &load); err != nil {
		t.Fatal(err)
	}
	return time.Duration(float64(promised) * max(1, 2*load/float64(runtime.NumCPU())))
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Reliability 16: the replica that carries a tunnel dies. Those who ask another wait a second at most.
func TestCarrierOfATunnelKilled(t *testing.T) {
	e := agents(t)
	ctx := within(t, time.Minute)
	with, without := e.tunnels(t, e.agent, 10*time.Second)
	killed, stays, bare := with[0], with[1], without[0]
	pid := e.agent.Process().PID()
	var watches []*stream
	for range 4 { // some of them by the tunnel that dies
		s := startStream(t, "watch at "+bare.Name, kubectl(e.alice, nil, at(t, e.alice, bare), "get", "pods", "-w"))
		s.waitFor(t, "crumb")
		watches = append(watches, s)
	}
	loops := map[*sallyport.Replica]*asked{stays: e.askCookie(t, stays), bare: e.askCookie(t, bare)}

	killed.Kill()
	at := time.Now()
	// By a connection of its own, as a new kubectl would.
	for _, r := range []*sallyport.Replica{bare, stays} {
		testbed.Wait(t, 10*time.Second, "an answer through "+r.Name, func() error { return e.through(t, r, "http/1.1").pods(ctx) })
		if took := time.Since(at); took > patient(t, time.Second) {
			t.Errorf("a new request through %s worked only %v after kill -9", r.Name, took)
		}
	}
	answered := time.Since(at)
	now, _ := e.tunnels(t, e.agent, 15*time.Second)
	back := time.Since(at)
	if back > patient(t, 5*time.Second) {
		t.Errorf("the agent was back on two replicas only after %v", back)
	}
	if slices.Contains(now, killed) || e.agent.Process().PID() != pid {
		t.Errorf("tunnels at %v, PID %d, before %d", now, e.agent.Process().PID(), pid)
	}
	for r, l := range loops {
		l.more(t, 20)
		n, errs := l.stop()
		t.Logf("%s: %d requests, %d failed, longest gap between answers %d ms", r.Name, n, len(errs), l.gap.Milliseconds())
		if l.gap > patient(t, time.Second) {
			t.Errorf("%s: nothing was answered for %v: %v", r.Name, l.gap, errors.Join(errs...))
		}
		if tooMany(errs) { // GETs that find a dead tunnel try another
			t.Errorf("%s: %d of %d failed: %v", r.Name, len(errs), n, errors.Join(errs...))
		}
	}
	cut := 0
	for _, w := range watches {
		if !w.Running() {
			cut++
		}
	}
	t.Logf("kill -9 of %s: answers after %d ms, the agent back on two after %d ms, %d of %d watches cut", killed.Name, answered.Milliseconds(), back.Milliseconds(), cut, len(watches))
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	if err := killed.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 5*time.Second, "an answer through the replica that is back", func() error { return e.through(t, killed, "h2").pods(ctx) })
}

// forgetful is for how long the balancer of behindPinningBalancer remembers a
// connection that says nothing: more than two pings, so that a busy machine may
// miss one.
const forgetful = 12 * time.Second

// behindPinningBalancer starts an agent behind a balancer that sends it to one
// replica for ever, and forgets connections that say nothing (reliability 16 and
// 19), and an exec at each replica that is silent for longer. What it returns waits
// for their end.
func (e *agentsEnvironment) behindPinningBalancer(t *testing.T) (waitEnd func()) {
	t.Helper()
	pinned := e.cluster.Replicas[0]
	relay := testbed.StartRelay(t, pinned.ListenAddr())
	relay.DropIdle(forgetful)
	a := e.startAgent(t, sallyport.AgentOptions{Kube: "pinned", Proxy: "localhost:" + port(t, relay.Addr())})
	with, without := e.tunnels(t, a, 20*time.Second)
	t.Logf("pinned to %s: tunnels at %s and %s, none at %s", pinned.Name, with[0].Name, with[1].Name, without[0].Name)
	if !slices.Contains(with, pinned) {
		t.Errorf("no tunnel at %s", pinned.Name)
	}
	// All that it says goes by the one replica it can reach.
	if n := relay.Conns(pinned.ListenAddr()); n < 2 {
		t.Errorf("%d connections through the balancer", n)
	}
	ctx := within(t, 30*time.Second)
	ok(t, e.alice.Tsh(ctx, "kube", "login", "pinned"))
	defer func() { ok(t, e.alice.Tsh(ctx, "kube", "login", cookie)) }()
	var execs []*stream
	for _, r := range e.cluster.Replicas {
		s := startStream(t, "exec at "+r.Name, kubectl(e.alice, nil, at(t, e.alice, r),
			"exec", "crumb", "--", "sh", "-c", fmt.Sprintf("echo begun; sleep %d; echo done", int(forgetful.Seconds())+1)))
		s.waitFor(t, "begun")
		execs = append(execs, s)
	}
	return func() {
		t.Helper()
		for _, s := range execs {
			s.waitFor(t, "done")
			s.waitEnd(t, testbed.Patience)
			if err := s.Err(); err != nil {
				t.Errorf("%s: %v: %s", s.what, err, s.said())
			}
		}
	}
}

// Reliability 17: packets of one tunnel go nowhere, and nobody says so. Beside it
// another agent has a balancer of the worse kind.
func TestBlackholeBeforeOneReplica(t *testing.T) {
	e := agents(t)
	ctx := within(t, 90*time.Second)
	idleEnds := e.behindPinningBalancer(t) // which takes its time
	with, _ := e.tunnels(t, e.agent, 10*time.Second)
	hole := with[0]
	pid := e.agent.Process().PID()
	loops := map[*sallyport.Replica]*asked{}
	for _, r := range e.cluster.Replicas {
		loops[r] = e.askCookie(t, r)
	}
	e.relay.Blackhole(hole.ListenAddr())
	t.Cleanup(func() { e.relay.Heal(hole.ListenAddr()) })
	start := time.Now()
	testbed.Wait(t, 30*time.Second, "the dead tunnel to be found", func() error {
		for _, r := range e.cluster.Replicas {
			now, _, err := e.holders(ctx, r, cookie)
			if err != nil || slices.Contains(now, hole) {
				return fmt.Errorf("%s believes in it, %w", r.Name, err)
			}
		}
		return nil
	})
	found := time.Since(start)
	if found > patient(t, 20*time.Second) {
		t.Errorf("it was found only after %v", found)
	}
	for _, l := range loops {
		l.more(t, 10)
	}
	e.relay.Heal(hole.ListenAddr())
	healed := time.Now()
	e.tunnels(t, e.agent, 30*time.Second)
	t.Logf("the blackhole was found after %.1f s; two tunnels %.1f s after its end", found.Seconds(), time.Since(healed).Seconds())
	if e.agent.Process().PID() != pid {
		t.Error("the agent was restarted")
	}
	for r, l := range loops {
		n, errs := l.stop()
		t.Logf("%s: %d requests, %d failed, slowest %.1f s: %v", r.Name, n, len(errs), l.slowest.Seconds(), errors.Join(errs...))
		if tooMany(errs) {
			t.Errorf("%s: %d of %d failed: %v", r.Name, len(errs), n, errors.Join(errs...))
		}
		if l.slowest > patient(t, 20*time.Second) {
			t.Errorf("%s: a request took %v", r.Name, l.slowest)
		}
	}
	idleEnds()
}

// tooMany says whether one client saw more than the one failure that nobody can
// spare it: the answer that had begun when its tunnel died. What was passed on of it
// can't be taken back, so it is broken off.
func tooMany(errs []error) bool {
	if len(errs) == 0 {
		return false
	}
	text := errs[0].Error()
	brokenOff := strings.Contains(text, "INTERNAL_ERROR; received from peer") || strings.Contains(text, "unexpected EOF")
	return len(errs) > 1 || !brokenOff
}

// Reliability 18: replicas are restarted one after another, as an update does.
// Nobody who asks those that stay notices.
func TestRollingRestartUnderRequests(t *testing.T) {
	e := agents(t)
	ctx := within(t, 2*time.Minute)
	var open sync.Map // replicas that are not being restarted
	clients := map[*sallyport.Replica]*through{}
	for _, r := range e.cluster.Replicas {
		open.Store(r, true)
		clients[r] = e.through(t, r, "h2")
	}
	var turn atomic.Int64
	next := func() *sallyport.Replica {
		for {
			r := e.cluster.Replicas[int(turn.Add(1))%len(e.cluster.Replicas)]
			if ok, _ := open.Load(r); ok == true {
				return r
			}
		}
	}
	one := func(ctx context.Context, r *sallyport.Replica) error {
		if err := clients[r].pods(ctx); err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
		return pause(ctx, 2*time.Millisecond)
	}
	loops := []*loop{
		startLoop(t, func(ctx context.Context) error { return one(ctx, next()) }),
		startLoop(t, func(ctx context.Context) error { return one(ctx, next()) }),
		startLoop(t, func(ctx context.Context) error { return e.alice.KubectlAt(ctx, next(), "get", "pods").Err }),
	}
	for _, l := range loops {
		l.more(t, 3)
	}
	for i, r := range e.cluster.Replicas {
		other := e.cluster.Replicas[(i+1)%3]
		exec := startStream(t, "exec at "+other.Name, kubectl(e.alice, nil, at(t, e.alice, other), "exec", "crumb", "--", "sh", "-c", "echo begun; sleep 2; echo done"))
		exec.waitFor(t, "begun")
		open.Store(r, false) // the balancer's part: nobody new comes
		for _, l := range loops {
			l.more(t, 2)
		}
		start := time.Now()
		if err := r.Stop(within(t, 30*time.Second)); err != nil {
			t.Error(err)
		}
		stopped := time.Since(start)
		exec.waitFor(t, "done")
		exec.waitEnd(t, 10*time.Second)
		if err := exec.Err(); err != nil {
			t.Errorf("exec through %s while %s stopped: %v: %s", other.Name, r.Name, err, exec.said())
		}
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		e.tunnels(t, e.agent, 20*time.Second)
		t.Logf("%s stopped in %.1f s and was back with all after %.1f s", r.Name, stopped.Seconds(), time.Since(start).Seconds())
		open.Store(r, true)
		for _, l := range loops {
			l.more(t, 2)
		}
	}
	for i, l := range loops {
		n, errs := l.stop()
		t.Logf("loop %d: %d requests", i, n)
		if len(errs) > 0 {
			t.Errorf("%d of %d failed: %v", len(errs), n, errors.Join(errs...))
		}
	}
	if strings.Contains(e.agent.Tail(2000), "panic") {
		t.Error("the agent panicked")
	}
}
