package tests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// loop runs a step again and again until stop is called, which returns how
// often it ran and the errors.
type loop struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	n      atomic.Int64
	mu     sync.Mutex
	errs   []error
}

func startLoop(t *testing.T, step func(context.Context) error) *loop {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &loop{cancel: cancel}
	l.wg.Go(func() {
		for ctx.Err() == nil {
			err := step(context.WithoutCancel(ctx)) // what has begun is judged too
			l.n.Add(1)
			if err != nil {
				l.mu.Lock()
				l.errs = append(l.errs, fmt.Errorf("%s: %w", time.Now().Format("15:04:05.000"), err))
				l.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { cancel(); l.wg.Wait() })
	return l
}

// more waits for n more rounds.
func (l *loop) more(t *testing.T, n int64) {
	t.Helper()
	goal := l.n.Load() + n
	testbed.Wait(t, 30*time.Second, fmt.Sprintf("%d more rounds", n), func() error {
		if l.n.Load() < goal {
			return errors.New("too few")
		}
		return nil
	})
}

func (l *loop) stop() (int64, []error) {
	l.cancel()
	l.wg.Wait()
	return l.n.Load(), l.errs
}

func TestLeaderKilledUnderKubectl(t *testing.T) {
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, time.Minute)
	leader, others := followers(t, c)
	alice := newUser(t, c, leader, "alice", "--k8s-groups=system:masters")
	bob, err := c.AddUser(ctx, others[0], "bob", "--k8s-groups=dev")
	if err != nil {
		t.Fatal(err)
	}
	watch := startStream(t, "watch", kubectl(alice, nil, at(t, alice, others[0]), "get", "pods", "-w"))
	watch.waitFor(t, pod)
	var loops []*loop
	for _, r := range others {
		loops = append(loops, startLoop(t, func(ctx context.Context) error { return alice.KubectlAt(ctx, r, "get", "ns").Err }))
	}
	for _, l := range loops {
		l.more(t, 3)
	}
	leader.Kill()
	killed := time.Now()
	ok(t, bob.Login(ctx, others[1]))
	// It is held until there is a leader, for 5 s at most: that it succeeds says that one was
	// elected by then. An election takes half a second, two when votes are split.
	if took := time.Since(killed); took > 10*time.Second {
		t.Errorf("a new login took %v after kill -9 of the leader", took)
	} else {
		t.Logf("login %d ms after kill -9 of the leader", took.Milliseconds())
	}
	for _, l := range loops {
		l.more(t, 5)
		n, errs := l.stop()
		t.Logf("%d times kubectl", n)
		if len(errs) > 0 {
			t.Errorf("%d of %d failed: %v", len(errs), n, errors.Join(errs...))
		}
	}
	if !watch.Running() {
		t.Errorf("a watch through a survivor ended: %s", watch.said())
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	if err := leader.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	ok(t, alice.KubectlAt(ctx, leader, "get", "ns"))
}

func TestLeaderStopsGracefully(t *testing.T) {
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, time.Minute)
	leader, others := followers(t, c)
	alice := newUser(t, c, leader, "alice", "--k8s-groups=system:masters")
	watch := startStream(t, "watch through the leader", kubectl(alice, nil, "get", "pods", "-w"))
	watch.waitFor(t, pod)
	var writes []*loop
	for i, r := range others {
		doc := roleYAML(fmt.Sprintf("loop%d", i), "dev", "")
		writes = append(writes, startLoop(t, func(ctx context.Context) error { return r.TctlStdin(ctx, doc, "create", "-f").Err }))
	}
	for _, l := range writes {
		l.more(t, 5)
	}
	stop := within(t, 25*time.Second)
	start := time.Now()
	var stopped sync.WaitGroup
	stopped.Go(func() {
		if err := leader.Stop(stop); err != nil {
			t.Errorf("stop: %v", err)
		}
		t.Logf("the leader stopped in %v", time.Since(start))
	})
	id := ""
	testbed.Wait(t, 5*time.Second, "another leader", func() error {
		s, err := others[0].Status(ctx)
		if err != nil || s.LeaderID == "" || id == s.LeaderID {
			return fmt.Errorf("%q, %w", s.LeaderID, err)
		}
		for _, srv := range s.Servers {
			if srv.ID == s.LeaderID && srv.Addr == leader.PeerAddr() {
				return errors.New("the old one leads")
			}
		}
		return nil
	})
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("another led only after %v", took)
	}
	for _, l := range writes {
		l.more(t, 5)
		n, errs := l.stop()
		t.Logf("%d writes", n)
		if len(errs) > 0 {
			t.Errorf("%d of %d writes failed: %v", len(errs), n, errors.Join(errs...))
		}
	}
	ok(t, alice.KubectlAt(ctx, others[0], "get", "ns"))
	watch.waitEnd(t, 10*time.Second)
	stopped.Wait()
}

func TestRestartsKeepEverything(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, 90*time.Second)
	alice := newUser(t, c, c.Replicas[0], "alice", "--k8s-groups=system:masters")
	ok(t, c.Replicas[1].TctlStdin(ctx, roleYAML("kept", "dev", ""), "create"))
	members := func(r *sallyport.Replica) (ids []string) {
		s, err := r.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, srv := range s.Servers {
			ids = append(ids, srv.ID)
		}
		slices.Sort(ids)
		return append(ids, s.ClusterID)
	}
	before := members(c.Replicas[0])
	again := func(end func(*sallyport.Replica)) {
		t.Helper()
		var all sync.WaitGroup
		for _, r := range c.Replicas {
			all.Go(func() { end(r) })
		}
		all.Wait()
		for _, r := range c.Replicas {
			if err := r.Start(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		leaderOf(t, c)
		for _, r := range c.Replicas {
			if now := members(r); !slices.Equal(now, before) {
				t.Errorf("%s: members %v, before %v", r.Name, now, before)
			}
			ok(t, r.Tctl(ctx, "get", "role/kept"))
			ok(t, alice.KubectlAt(ctx, r, "get", "ns")) // with the certificate of before
		}
	}
	again(func(r *sallyport.Replica) {
		if err := r.Stop(within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
	})
	again((*sallyport.Replica).Kill)
	// One after another, a rolling update: nobody's kubectl fails at those that stay.
	for i, r := range c.Replicas {
		if err := r.Stop(within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
		ok(t, alice.KubectlAt(ctx, c.Replicas[(i+1)%3], "get", "ns"))
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if now := members(c.Replicas[0]); !slices.Equal(now, before) {
		t.Errorf("members %v, before %v", now, before)
	}
}

// A replica that was down while a user was removed lets nobody of that user in,
// from its first accepted connection on.
func TestRestartedReplicaKnowsWhoIsGone(t *testing.T) {
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, time.Minute)
	_, others := followers(t, c)
	r := others[0]
	bob := newUser(t, c, r, "bob", "--k8s-groups=system:masters")
	ok(t, bob.Kubectl(ctx, "get", "ns"))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: kubeTLS(t, bob, "http/1.1"), DisableKeepAlives: true}, Timeout: testbed.Patience}
	r.Kill()
	ok(t, others[1].Tctl(ctx, "users", "rm", "bob"))

	answers := map[string]int{}
	knock := startLoop(t, func(context.Context) error {
		resp, err := client.Get(r.URL() + "/api/v1/namespaces")
		if err != nil {
			return nil //nolint:nilerr // it is not up, or does not know bob's name yet: both keep him out
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answers[resp.Status]++
		if resp.StatusCode != http.StatusUnauthorized {
			return fmt.Errorf("%s: %.200s, %w", resp.Status, b, err)
		}
		return nil
	})
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	knock.more(t, 20)
	n, errs := knock.stop()
	t.Logf("%d connections: %v", n, answers)
	if len(errs) > 0 {
		t.Errorf("bob was let in: %v", errors.Join(errs...))
	}
	if answers["401 Unauthorized"] == 0 {
		t.Error("bob was never told")
	}
}

// Who asks a load balancer's question is told at once; streams have time to end.
func TestStoppingReplicaDrains(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, time.Minute)
	leader, _ := followers(t, c)
	alice := newUser(t, c, leader, "alice", "--k8s-groups=system:masters")
	exec := startStream(t, "exec", kubectl(alice, nil, "exec", pod, "--", "sh", "-c", "echo begun; sleep 3; echo done"))
	exec.waitFor(t, "begun")
	stopped := make(chan error, 1)
	stop := within(t, 25*time.Second)
	go func() { stopped <- leader.Stop(stop) }()
	testbed.Wait(t, 2*time.Second, "not ready", func() error {
		if err := leader.Diag(ctx, "/readyz", nil); err == nil || !strings.Contains(err.Error(), "shutting down") {
			return fmt.Errorf("readyz: %w", errors.Join(err, errors.New("it should say that it shuts down")))
		}
		return nil
	})
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	exec.waitFor(t, "done")
	exec.waitEnd(t, 5*time.Second)
	if err := exec.Err(); err != nil {
		t.Errorf("exec: %v: %s", err, exec.said())
	}
}
