package tests

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/rogue"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Threats, agent re-issue: somebody copies an agent's disk and renews its
// certificate. When the owner shows the one before, nobody is believed any more,
// until an administrator has looked.
func TestStolenIdentityIsLocked(t *testing.T) {
	e := agents(t)
	ctx := within(t, time.Minute)
	r := e.cluster.Replicas[0]
	a := e.startAgent(t, sallyport.AgentOptions{Kube: "robbed"})
	owner, err := joined(ctx, r, "robbed")
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := rogue.Steal(a.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}

	// What it may not say, whoever it is.
	for what, kube := range map[string]string{"another's cluster": cookie, "the replicas' own cluster": clusterName} {
		_, err := stolen.Connect(ctx, r.ListenAddr(), kube)
		var no *rogue.Refusal
		if !errors.As(err, &no) || no.Code != "forbidden" {
			t.Errorf("%s: %v", what, err)
		}
	}
	first, err := stolen.Connect(ctx, r.ListenAddr(), "robbed")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	next, err := first.Renew()
	if err != nil {
		t.Fatal(err)
	}
	second, err := next.Connect(ctx, e.cluster.Replicas[1].ListenAddr(), "robbed") // its first use: it counts from now on
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Welcome.Generation != owner.Generation+1 {
		t.Errorf("generation %d, before %d", second.Welcome.Generation, owner.Generation)
	}

	since := time.Now()
	if err := a.Start(); err != nil { // with the certificate of before
		t.Fatal(err)
	}
	for _, tunnel := range []*rogue.Tunnel{second, first} {
		select {
		case <-tunnel.Done():
		case <-time.After(testbed.Patience):
			t.Error("the thief's tunnel goes on")
		}
	}
	if took := time.Since(since); took > patient(t, 5*time.Second) { // with the start of a process and its first dial
		t.Errorf("tunnels were cut %v after the owner came", took)
	}
	for _, at := range e.cluster.Replicas { // whichever the owner came to
		waitEvent(t, at, "the lock", func(e event) bool { return e.text("event") == "instance.lock" && e.text("host_id") == owner.ID })
	}
	if _, err := next.Connect(ctx, e.cluster.Replicas[2].ListenAddr(), "robbed"); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("the thief comes again: %v", err)
	}
	testbed.Wait(t, 10*time.Second, "the owner's log to say so", func() error {
		if said := a.Tail(30); !strings.Contains(said, "locked") {
			return fmt.Errorf("it said %s", said)
		}
		return nil
	})
	for _, at := range e.cluster.Replicas {
		if got := ok(t, at.Tctl(ctx, "nodes", "ls")).Stdout; !strings.Contains(strings.ToLower(got), "locked") || !strings.Contains(got, owner.ID) {
			t.Errorf("tctl nodes ls at %s:\n%s", at.Name, got)
		}
	}
	// An administrator has looked: the owner joins anew, the thief does not.
	a.Kill()
	ok(t, r.Tctl(ctx, "nodes", "rm", owner.ID))
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 20*time.Second, "the owner with a new identity", func() error {
		now, err := joined(ctx, r, "robbed")
		if err != nil || now.ID == owner.ID || len(now.Replicas) == 0 {
			return fmt.Errorf("%+v, %w", now, err)
		}
		return nil
	})
	for _, id := range []*rogue.Identity{stolen, next} {
		if _, err := id.Connect(ctx, r.ListenAddr(), "robbed"); err == nil {
			t.Error("an identity that was removed is let in")
		}
	}
}

// Threats, SSRF and compromised agents: a tunnel is no way into a replica.
func TestAgentsReachNothing(t *testing.T) {
	e := agents(t)
	ctx := within(t, 30*time.Second)
	r := e.cluster.Replicas[0]
	a := e.startAgent(t, sallyport.AgentOptions{Kube: "nosy"})
	id, err := rogue.Steal(a.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	a.Kill()
	tunnel, err := id.Connect(ctx, r.ListenAddr(), "nosy")
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	conn, err := tunnel.Reach(ctx)
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: sallyport\r\n\r\n")
		if b, _ := io.ReadAll(conn); len(b) > 0 {
			t.Errorf("a stream of the agent's was answered: %q", b)
		}
	}
	select {
	case <-tunnel.Done():
	case <-time.After(testbed.Patience):
		t.Error("the tunnel of an agent that opens streams goes on")
	}
}
