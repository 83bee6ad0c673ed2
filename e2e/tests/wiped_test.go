package tests

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// never looks again and again, for as long as d, that something does not happen.
func never(t *testing.T, d time.Duration, check func() error) {
	t.Helper()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		if err := check(); err != nil {
			t.Fatal(err)
		}
	}
}

// electionTime is long enough for any number of elections.
const electionTime = 5 * time.Second

// A write is acknowledged by A and B; B comes back with a new disk at its old
// address, A is gone. An empty log grants any vote: C, which never saw the
// write, would lead without it.
func TestWipedVoterElectsNobody(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, 90*time.Second)
	a, others := followers(t, c)
	b, lagging := others[0], others[1]
	before, err := b.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := lagging.Process().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ok(t, b.Tctl(ctx, "users", "add", "witness")) // acknowledged by A and B
	b.Kill()
	if err := b.Wipe(); err != nil {
		t.Fatal(err)
	}
	a.Kill()
	if err := lagging.Process().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 10*time.Second, "the wiped replica's socket", func() error { _, err := b.Status(ctx); return err })
	never(t, electionTime, func() error {
		for _, r := range []*sallyport.Replica{b, lagging} {
			s, err := r.Status(ctx)
			if err == nil && (s.State == "leader" || r == b && s.Ready) {
				return fmt.Errorf("%s, without the write: %+v", r.Name, s)
			}
		}
		return nil
	})
	refused(t, lagging.Tctl(ctx, "users", "add", "other"), "the cluster has no leader")

	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, c)
	waitVoters(t, c, 3)
	for _, r := range c.Replicas {
		ok(t, r.Tctl(ctx, "get", "user/witness"))
	}
	after, err := b.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after.ServerID == before.ServerID || after.ClusterID != before.ClusterID {
		t.Errorf("B came back as %s in cluster %s, it was %s in %s", after.ServerID, after.ClusterID, before.ServerID, before.ClusterID)
	}
}

// waitVoters waits until every replica names so many voters, at their own addresses.
func waitVoters(t *testing.T, c *sallyport.Cluster, n int) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	testbed.Wait(t, 25*time.Second, fmt.Sprintf("%d voters", n), func() error {
		for _, r := range c.Replicas {
			s, err := r.Status(ctx)
			if err != nil {
				return err
			}
			var addrs []string
			for _, srv := range s.Servers {
				if srv.Voter && srv.Alive {
					addrs = append(addrs, srv.Addr)
				}
			}
			slices.Sort(addrs)
			if len(s.Servers) != n || len(slices.Compact(addrs)) != n {
				return fmt.Errorf("%s: %+v", r.Name, s.Servers)
			}
		}
		return nil
	})
}

// The volume of the first replica is lost: it joins, and founds nothing.
func TestWipedFirstReplicaJoins(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, time.Minute)
	r := c.Replicas[0]
	alice := newUser(t, c, c.Replicas[1], "alice", "--k8s-groups=system:masters")
	before, err := c.Replicas[1].Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.Kill()
	if err := r.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	waitVoters(t, c, 3)
	after, err := r.Status(ctx)
	if err != nil || after.ClusterID != before.ClusterID {
		t.Errorf("cluster %s, it was %s (%v)", after.ClusterID, before.ClusterID, err)
	}
	ok(t, alice.KubectlAt(ctx, r, "get", "ns"))
}
