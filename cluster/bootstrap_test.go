package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/clustertest"
)

// let lets virtual time pass.
func let(d time.Duration) { <-time.After(d) }

func clusters(c *clustertest.Cluster, nodes ...int) []string {
	var ids []string
	for _, i := range nodes {
		if id := c.Node(i).ClusterID(); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

func TestHalfTheExpectedServersFoundNothing(t *testing.T) {
	for _, expect := range []int{3, 4} {
		t.Run(fmt.Sprintf("expect %d", expect), func(t *testing.T) {
			bubble(t, clustertest.Options{Nodes: 4, Expect: expect, Idle: true}, func(t *testing.T, c *clustertest.Cluster) {
				c.Partition([]int{0, 1}, []int{2, 3})
				for i := range 4 {
					c.Start(i)
				}
				let(5 * time.Minute)
				if ids := clusters(c, 0, 1, 2, 3); len(ids) != 0 {
					t.Fatalf("clusters %q were founded by halves", ids)
				}
				c.Heal()
				c.Ready(time.Minute)
				if ids := clusters(c, 0, 1, 2, 3); len(ids) != 1 {
					t.Errorf("clusters %q, want one", ids)
				}
			})
		})
	}
}

func TestServersThatExpectAnotherNumberAreNotCounted(t *testing.T) {
	bubble(t, clustertest.Options{Configure: func(i int, o *cluster.Options, _ *cluster.MemoryStores) {
		if i == 2 {
			o.BootstrapExpect = 5
		}
	}}, func(t *testing.T, c *clustertest.Cluster) {
		let(time.Minute)
		if ids := clusters(c, 0, 1, 2); len(ids) != 0 {
			t.Errorf("clusters %q were founded in disagreement", ids)
		}
	})
}

func TestExpectIsRecordedAtBirth(t *testing.T) {
	expect := 3
	bubble(t, clustertest.Options{Configure: func(_ int, o *cluster.Options, _ *cluster.MemoryStores) {
		o.BootstrapExpect = expect
	}}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		id := c.Node(0).ClusterID()
		c.Crash(0)
		expect = 1 // somebody edits the flag: it must not make node 0 lead alone
		c.Partition(nil, []int{0})
		c.Start(0)
		let(time.Minute)
		if c.Node(0).ClusterID() != id || c.Node(0).Status().State == "leader" {
			t.Errorf("node 0 leads alone, cluster %q", c.Node(0).ClusterID())
		}
	})
}

func TestAWipedServerJoinsUnderANewIDAndNeverFounds(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		id := c.Node(0).ClusterID()
		propose(t, c, 1, "kept")
		old := c.Node(0).ID()
		c.Crash(0)
		c.Wipe(0)
		c.Partition(nil, []int{0}) // the others are slow to answer
		c.Start(0)
		let(2 * time.Minute)
		if got := c.Node(0).ClusterID(); got != "" {
			t.Fatalf("the wiped server is of cluster %q by itself", got)
		}
		c.Heal()
		c.Ready(time.Minute)
		if got := c.Node(0).ClusterID(); got != id {
			t.Errorf("it joined cluster %q, want %q", got, id)
		}
		if err := c.Node(0).Linearize(context.Background()); err != nil || !c.Machine(0).Has("kept") {
			t.Errorf("it lacks the data (%v)", err)
		}
		st := c.Node(1).Status()
		if len(st.Servers) != 3 {
			t.Errorf("members %+v, want three", st.Servers)
		}
		for _, s := range st.Servers {
			if s.ID == old || !s.Voter {
				t.Errorf("member %+v", s)
			}
		}
	})
}

func TestTwoWipedServersDoNotOutvoteTheOneWithState(t *testing.T) {
	bubble(t, clustertest.Options{Expect: 2}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(30 * time.Second)
		id := c.Node(2).ClusterID()
		for i := range 2 {
			c.Crash(i)
			c.Wipe(i)
		}
		for i := range 2 {
			c.Start(i)
		}
		let(2 * time.Minute) // they see two stateless servers, as many as expected, and one with state
		if ids := clusters(c, 0, 1, 2); !slices.Equal(ids, []string{id}) {
			t.Errorf("clusters %q, want only %q", ids, id)
		}
		for i := range 3 {
			if c.Node(i).Status().State == "leader" {
				t.Errorf("node %d leads without the quorum that is lost", i)
			}
		}
	})
}

func TestRestartsNeverChangeMembership(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		members := func() []string {
			var ids []string
			for _, s := range c.Node(c.Leader(10 * time.Second)).Status().Servers {
				ids = append(ids, fmt.Sprint(s.ID, s.Addr, s.Voter))
			}
			slices.Sort(ids)
			return ids
		}
		before := members()
		for round := range 10 {
			for i := range 3 {
				if round%2 == 0 {
					if err := c.Stop(i); err != nil {
						t.Fatal(err)
					}
				} else {
					c.Crash(i)
				}
				c.Start(i)
				c.Ready(30*time.Second, i)
			}
			propose(t, c, round%3, fmt.Sprintf("round-%d", round))
		}
		if after := members(); !slices.Equal(before, after) {
			t.Errorf("members were %q, are %q", before, after)
		}
	})
}

func TestAFourthServerJoinsAndGetsItsVote(t *testing.T) {
	bubble(t, clustertest.Options{Nodes: 4, Expect: 3, Idle: true}, func(t *testing.T, c *clustertest.Cluster) {
		for i := range 3 {
			c.Start(i)
		}
		c.Ready(20*time.Second, 0, 1, 2)
		propose(t, c, 0, "early")
		c.Start(3)
		if ok, why := c.Node(3).Ready(); ok {
			t.Errorf("ready before it joined (%q)", why)
		}
		c.Ready(30*time.Second, 3)
		if !c.Machine(3).Has("early") {
			t.Error("ready without having caught up")
		}
	})
}

func TestAFounderThatDiesRightAfterBirthIsReplaced(t *testing.T) {
	bubble(t, clustertest.Options{Idle: true}, func(t *testing.T, c *clustertest.Cluster) {
		for i := range 3 {
			c.Start(i)
		}
		c.Eventually(30*time.Second, "somebody founded", func() bool { return len(clusters(c, 0, 1, 2)) > 0 })
		if c.Node(0).ClusterID() == "" {
			t.Fatal("the lowest id did not found")
		}
		c.Crash(0)
		c.Wipe(0)
		c.Start(0)
		c.Ready(2 * time.Minute)
		if ids := clusters(c, 0, 1, 2); len(ids) != 1 {
			t.Errorf("clusters %q, want one", ids)
		}
	})
}

func TestAutopilotRemovesTheLongDeadButNeverBelowThree(t *testing.T) {
	bubble(t, clustertest.Options{Nodes: 5, Expect: 5, Configure: func(_ int, o *cluster.Options, _ *cluster.MemoryStores) {
		o.Autopilot.DeadAfter = time.Minute
	}}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(30 * time.Second)
		c.Crash(4)
		let(30 * time.Second)
		if got := len(c.Node(c.Leader(5 * time.Second)).Status().Servers); got != 5 {
			t.Errorf("%d members half a minute after the crash, want 5", got)
		}
		c.Crash(3)
		let(5 * time.Minute)
		if got := len(c.Node(c.Leader(5 * time.Second)).Status().Servers); got != 3 {
			t.Errorf("%d members after five minutes, want 3", got)
		}
		var alive []int
		for i := range 3 {
			alive = append(alive, i)
		}
		gone := alive[0]
		c.Crash(gone)
		let(5 * time.Minute)
		if got := len(c.Node(c.Leader(5*time.Second, 1, 2)).Status().Servers); got != 3 {
			t.Errorf("%d members, autopilot went below MinQuorum", got)
		}
		c.Start(4) // it was removed, and finds its way back
		c.Ready(time.Minute, 4)
	})
}

func TestThreeNewServersReplaceThreeOld(t *testing.T) {
	bubble(t, clustertest.Options{Nodes: 6, Expect: 3, Idle: true, Configure: func(_ int, o *cluster.Options, _ *cluster.MemoryStores) {
		o.Autopilot.DeadAfter = time.Minute
	}}, func(t *testing.T, c *clustertest.Cluster) {
		for i := range 3 {
			c.Start(i)
		}
		c.Ready(20*time.Second, 0, 1, 2)
		propose(t, c, 0, "old")
		for i := 3; i < 6; i++ {
			c.Start(i)
			c.Ready(30*time.Second, i)
		}
		for i := range 3 {
			c.Crash(i)
			let(2 * time.Minute)
			propose(t, c, 3+i, fmt.Sprintf("without %d", i))
		}
		if got := len(c.Node(c.Leader(5*time.Second, 3, 4, 5)).Status().Servers); got != 3 {
			t.Errorf("%d members, want the three new ones", got)
		}
	})
}
