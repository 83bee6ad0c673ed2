package cluster_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/clustertest"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// logger is silent unless a test is being hunted down with SALLYPORT_TEST_LOG=1.
func logger() *slog.Logger {
	if os.Getenv("SALLYPORT_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// bubble runs a test with a cluster in virtual time.
func bubble(t *testing.T, opts clustertest.Options, test func(t *testing.T, c *clustertest.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if opts.Logger == nil {
			opts.Logger = logger()
		}
		c := clustertest.New(t, opts)
		defer c.Close()
		test(t, c)
	})
}

func propose(t *testing.T, c *clustertest.Cluster, i int, item string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.Node(i).Propose(ctx, []byte(item)); err != nil {
		t.Fatalf("propose %q on node %d: %v", item, i, err)
	}
	if !c.Machine(i).Has(item) {
		t.Fatalf("node %d has not applied %q although Propose returned", i, item)
	}
}

func TestWritesOnAnyReplicaAreReadThereAtOnceAndElsewhereAfterLinearize(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		for i := range 3 {
			item := fmt.Sprintf("item-%d", i)
			propose(t, c, i, item)
			for j := range 3 {
				if err := c.Node(j).Linearize(context.Background()); err != nil {
					t.Fatal(err)
				}
				if !c.Machine(j).Has(item) {
					t.Errorf("node %d misses %q after Linearize", j, item)
				}
			}
		}
	})
}

func TestConcurrentProposalsShareEntries(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		var wg sync.WaitGroup
		errs := make(chan error, 200)
		for k := range 200 {
			wg.Go(func() {
				_, err := c.Node(k%3).Propose(context.Background(), fmt.Appendf(nil, "item-%d", k))
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		if got := len(c.Machine(c.Leader(time.Second)).Items()); got != 200 {
			t.Errorf("%d items applied, want 200", got)
		}
	})
}

func TestALeaderThatDiesIsReplacedWithinASecond(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		other := (lead + 1) % 3
		c.Crash(lead)
		start := time.Now()
		propose(t, c, other, "after")
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("first write %s after the leader died", d)
		} else {
			t.Logf("first write %s after the leader died", d)
		}
		c.Start(lead)
		c.Ready(20*time.Second, lead)
		if !c.Machine(lead).Has("after") {
			t.Error("the restarted node misses the write")
		}
	})
}

func TestAGracefulStopHandsLeadershipOverWithinATenthOfASecond(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		start := time.Now()
		stopped := make(chan error, 1)
		go func() { stopped <- c.Stop(lead) }()
		propose(t, c, (lead+1)%3, "during")
		if d := time.Since(start); d > 200*time.Millisecond {
			t.Errorf("a write during the handover took %s", d)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestWithoutQuorumCallsFailAfterTheHoldAndSayWhy(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		c.Crash(1)
		c.Crash(2)
		c.Eventually(5*time.Second, "node 0 without a leader", func() bool { return c.Node(0).Status().LeaderID == "" })
		start := time.Now()
		_, err := c.Node(0).Propose(context.Background(), []byte("x"))
		if !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("Propose: %v, want unavailable", err)
		}
		if d := time.Since(start); d < 4*time.Second || d > 8*time.Second {
			t.Errorf("Propose held for %s", d)
		}
		if err := c.Node(0).Linearize(context.Background()); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("Linearize: %v, want unavailable", err)
		}
	})
}

func TestAWriteThroughAFollowerWaitsForNoTimer(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		for k := range 10 {
			let(time.Second) // the leader is idle: its next word would come in 50 to 100 ms
			start := time.Now()
			propose(t, c, others(lead)[k%2], fmt.Sprintf("item-%d", k))
			if d := time.Since(start); d > 15*time.Millisecond {
				t.Errorf("a write through a follower took %s at half a millisecond of latency", d)
			}
			start = time.Now()
			if err := c.Node(others(lead)[(k+1)%2]).Linearize(context.Background()); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 15*time.Millisecond {
				t.Errorf("a linearizable read on a follower took %s", d)
			}
		}
	})
}

func TestTickMovesStateTimeOnTheLeaderOnly(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		let(time.Minute)
		if err := c.Node(lead).Tick(context.Background()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(c.Machine(lead).StateTime()); d > time.Second {
			t.Errorf("state time is %s old", d)
		}
		if err := c.Node(others(lead)[0]).Tick(context.Background()); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("Tick on a follower: %v, want unavailable", err)
		}
	})
}

func TestARestartDoesNotMakeACutOffReplicaLookFresh(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		propose(t, c, 0, "x")
		for i := range 3 {
			if d := c.Node(i).Staleness(); d > time.Second {
				t.Errorf("node %d is %s stale in a healthy cluster", i, d)
			}
		}
		c.Isolate(0)
		let(10 * time.Minute)
		if ok, why := c.Node(0).Ready(); !ok {
			t.Errorf("not ready within MaxStale: %s", why)
		}
		if d := c.Node(0).Staleness(); d < 9*time.Minute {
			t.Errorf("staleness %s after ten minutes alone", d)
		}
		let(6 * time.Minute)
		if ok, _ := c.Node(0).Ready(); ok {
			t.Error("ready beyond MaxStale")
		}
		c.Crash(0)
		c.Start(0)
		let(time.Second)
		if ok, _ := c.Node(0).Ready(); ok {
			t.Error("ready after a restart without having met a leader")
		}
	})
}

func TestAReplicaThatWasCutOffForLongCatchesUpWithinASecond(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		for round := range 5 {
			lead := c.Leader(time.Second)
			cut := others(lead)[0]
			c.Isolate(cut)
			for k := range 20 {
				let(time.Duration(20+round) * time.Second)
				propose(t, c, lead, fmt.Sprintf("%d-%d", round, k))
			}
			c.Heal()
			start := time.Now()
			c.Eventually(time.Minute, "it hears of a leader", func() bool { return c.Node(cut).Staleness() < 200*time.Millisecond })
			c.Eventually(time.Minute, "it catches up", func() bool { return c.Machine(cut).Has(fmt.Sprintf("%d-19", round)) })
			if d := time.Since(start); d > time.Second {
				t.Errorf("caught up %s after the network healed", d)
			}
		}
	})
}

// R6-N5: strict means a second, within which a follower hears from its leader.
func TestStatusSaysMaxStaleAsItWasGiven(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{0: cluster.DefaultMaxStale, -1: 0, time.Minute: time.Minute} {
		opts := clustertest.Options{Nodes: 1, Configure: func(_ int, o *cluster.Options, _ *cluster.MemoryStores) { o.MaxStale = given }}
		bubble(t, opts, func(t *testing.T, c *clustertest.Cluster) {
			if got := c.Node(0).Status().MaxStale; time.Duration(got) != want {
				t.Errorf("given %s: %v, want %s", given, got, want)
			}
		})
	}
}
