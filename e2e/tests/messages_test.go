package tests

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func TestWrongPasswordAndLock(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	lucy := newUser(t, c, c.Replicas[0], "lucy", "--k8s-groups=dev")
	right := lucy.Password
	lucy.Password = "not the password"
	ok(t, lucy.Tsh(ctx, "logout"))
	for i := range 5 { // counted in the store, so at whatever replica
		r := lucy.Login(ctx, c.Replicas[i%3])
		refused(t, r, "ERROR: invalid user name or password\n")
		if r.Code != 3 {
			t.Errorf("exit code %d", r.Code)
		}
	}
	lucy.Password = right
	for _, replica := range c.Replicas {
		r := lucy.Login(ctx, replica)
		refused(t, r, "too many failed logins from your network: try again in 20 minutes")
		if r.Code != 7 {
			t.Errorf("exit code %d", r.Code)
		}
	}
	stranger, err := c.NewUser(ctx, c.Replicas[0], "stranger") // a home, but no such user
	if err != nil {
		t.Fatal(err)
	}
	stranger.Password = "whatever it may be"
	refused(t, stranger.Login(ctx, c.Replicas[0]), "ERROR: invalid user name or password\n")
}

func TestUnknownClusterAndWrongName(t *testing.T) {
	c, alice := shared(t)
	ctx := within(t, time.Minute)
	refused(t, alice.Tsh(ctx, "kube", "login", "tele.exampel.com"),
		`kubernetes cluster "tele.exampel.com" not found, check 'tsh kube ls' for a list of known clusters; did you mean "tele.example.com"?`)
	refused(t, alice.Kubectl(ctx, "--tls-server-name=cookie.kube."+clusterName, "get", "--raw", "/api/v1"),
		`kubernetes cluster "cookie" not found, check 'tsh kube ls'`)
	// A name that is not ours: kubectl sees a certificate for others.
	refused(t, alice.Kubectl(ctx, "--tls-server-name=kube.example.org", "get", "ns"), "x509: certificate is valid for localhost, not kube.example.org")
	// The web name asks for no certificate and is no API server.
	refused(t, alice.Kubectl(ctx, "--tls-server-name=localhost", "get", "ns"), "the server could not find the requested resource")
	// By path, to a cluster that is not there; port 3026 wants a certificate whatever the name.
	refused(t, alice.Kubectl(ctx, "--server=https://"+c.Replicas[0].KubeAddr()+"/k8s/cookie", "get", "--raw", "/api/v1"),
		`kubernetes cluster "cookie" not found`)
}

func TestSessionThatHasExpired(t *testing.T) {
	c, _ := shared(t)
	t.Parallel()
	brief := fixture.briefUser
	ctx := within(t, 3*time.Minute)
	end := fixture.since.Add(2 * time.Minute) // at the earliest: the login began a little later
	select {
	case <-fixture.briefWatch.Exited():
	case <-time.After(max(time.Second, time.Until(fixture.briefOver.Add(testbed.Patience)))): // of two that are past, select would take either
		t.Error("a watch goes on after its session")
	}
	if over := time.Since(end); over < -3*time.Second {
		t.Errorf("the watch ended %v before its session: %s", -over, fixture.briefWatch.Tail(5))
	}
	wait := time.NewTimer(time.Until(fixture.briefOver.Add(time.Second))) // it may have ended a little early
	defer wait.Stop()
	<-wait.C
	again := "your session at " + c.Replicas[0].WebAddr() + " has expired: run 'tsh login --proxy=" + c.Replicas[0].WebAddr() + " --user=brief'"
	refused(t, brief.Tsh(ctx, "kube", "ls"), again)
	refused(t, brief.Tsh(ctx, "status"), "has expired")
	refused(t, brief.Kubectl(ctx, "get", "pods"), again)
}

// No quorum: writes fail and say why, kubectl goes on.
func TestWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, 90*time.Second)
	last := c.Replicas[2]
	u := newUser(t, c, last, "alice", "--k8s-groups=system:masters")
	s := startStream(t, "watch", kubectl(u, nil, "get", "configmaps", "-w", "-o=name"))
	s.waitFor(t, "configmap/")
	c.Replicas[0].Kill()
	c.Replicas[1].Kill()
	testbed.Wait(t, 10*time.Second, "the end of leadership", func() error {
		st, err := last.Status(ctx)
		if err != nil || st.LeaderID != "" {
			return fmt.Errorf("%+v, %w", st, err)
		}
		return nil
	})
	r := last.Tctl(ctx, "users", "add", "bob")
	refused(t, r, "the cluster has no leader to write to", "2 of its 3 voting replicas must be up and reach each other")
	if r.Code != 7 || r.Took < 4*time.Second || r.Took > 20*time.Second {
		t.Errorf("exit code %d after %v: a write is held for 5 s", r.Code, r.Took)
	}
	r = u.Login(ctx, last, "--ttl=1h") // lives still: asks nothing of the server but clusters
	ok(t, r)
	other, err := c.NewUser(ctx, last, "alice2")
	if err != nil {
		t.Fatal(err)
	}
	other.Name, other.Password = "alice", u.Password
	refused(t, other.Login(ctx, last), "the cluster has no leader")
	ok(t, u.Kubectl(ctx, "get", "ns"))
	ok(t, fixture.kube.Kubectl(ctx, "create", "configmap", "without-quorum"))
	s.waitFor(t, "configmap/without-quorum")
	if err := last.Diag(ctx, "/readyz", nil); err != nil {
		t.Errorf("not ready without quorum, long before --max-stale: %v", err)
	}
	got := ok(t, last.Tctl(ctx, "status")).Stdout
	if !strings.HasPrefix(got, "Fault       no leader for ") { // R3-3: all else looks as it did before
		t.Errorf("status: %s", got)
	}
	for _, want := range []string{"Leader      none; last contact", "Meanwhile   nobody can log in through this replica", `go on for another 1[0-4]m \(--max-stale=15m\)`} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("status: no %q in %s", want, got)
		}
	}
	// It heals by itself.
	if err := c.Replicas[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Replicas[0].WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	ok(t, last.Tctl(ctx, "users", "add", "bob"))
	if !s.Running() {
		t.Errorf("the watch ended: %s", s.said())
	}
}

// With --max-stale=2s a replica that hears from no leader lets nobody in and cuts streams.
func TestMaxStale(t *testing.T) {
	c := ownCluster(t, sallyport.Options{Args: []string{"--max-stale=2s"}})
	ctx := within(t, time.Minute)
	leader, others := followers(t, c)
	u := newUser(t, c, others[0], "alice", "--k8s-groups=system:masters")
	s := startStream(t, "watch", kubectl(u, nil, "get", "pods", "-w"))
	s.waitFor(t, pod)
	for _, r := range []*sallyport.Replica{leader, others[1]} {
		if err := r.Process().Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	if took := s.waitEnd(t, 10*time.Second).Sub(start); took > 15*time.Second {
		t.Errorf("the watch ended after %v", took)
	}
	refused(t, u.Kubectl(ctx, "get", "ns"), "has heard from no leader for", "--max-stale=2s", "try another replica")
	if err := others[0].Diag(ctx, "/readyz", nil); err == nil || !strings.Contains(err.Error(), "no contact with a leader") {
		t.Errorf("readyz: %v", err)
	}
	for _, r := range []*sallyport.Replica{leader, others[1]} {
		if err := r.Process().Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	testbed.Wait(t, 15*time.Second, "kubectl after the others came back", func() error { return u.Kubectl(ctx, "get", "ns").Err })
}
