package cluster_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/clustertest"
	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// clocks are the nodes' wall clocks: virtual time plus an error each.
type clocks struct {
	mu  sync.Mutex
	off map[int]time.Duration
}

func (k *clocks) now(i int) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Add(k.off[i])
}

func (k *clocks) set(i int, off time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.off[i] = off
}

func TestALeaderWhoseClockIsADayOffShiftsNothingAndHandsOver(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 24 * time.Hour, "behind": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			k := &clocks{off: make(map[int]time.Duration)}
			bubble(t, clustertest.Options{Clock: k.now}, func(t *testing.T, c *clustertest.Cluster) {
				c.Ready(20 * time.Second)
				lead := c.Leader(time.Second)
				propose(t, c, lead, "before")
				k.set(lead, off)
				propose(t, c, lead, "after") // through the replica itself: it waits for its successor
				if now := c.Leader(5 * time.Second); now == lead {
					t.Error("the replica with the wrong clock still leads")
				}
				let(time.Minute)
				propose(t, c, lead, "later")
				for i := range 3 {
					if err := c.Node(i).Linearize(context.Background()); err != nil {
						t.Fatal(err)
					}
					if d := time.Until(c.Machine(i).StateTime()); d.Abs() > 5*time.Second {
						t.Errorf("node %d: state time is off by %s", i, d)
					}
				}
				let(10 * time.Second)
				if d := c.Node(lead).ClockOffset() - off; d.Abs() > time.Second {
					t.Errorf("its clock offset is reported as %s", c.Node(lead).ClockOffset())
				}
			})
		})
	}
}

// lateClocks is a Link on which all servers but one are slow to tell the time.
type lateClocks struct {
	cluster.Link
	quick *atomic.Pointer[string] // its address
}

func (l lateClocks) Call(ctx context.Context, t peer.Target, path string, in, out any) error {
	if quick := l.quick.Load(); path == "/cluster/clock" && quick != nil && t.Addr != *quick {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return l.Link.Call(ctx, t, path, in, out)
}

// Of two clocks that differ nobody can tell which is wrong. A new leader that went by the
// first answer, if that was the wrong clock's, gave leadership back to it.
func TestANewLeaderHearsOutThoseWhoAgreeWithIt(t *testing.T) {
	k := &clocks{off: make(map[int]time.Duration)}
	var quick atomic.Pointer[string]
	bubble(t, clustertest.Options{Clock: k.now, Configure: func(_ int, o *cluster.Options, _ *cluster.MemoryStores) {
		o.Link = lateClocks{o.Link, &quick}
	}}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		addr := clustertest.Addr(lead)
		quick.Store(&addr)
		k.set(lead, -24*time.Hour)
		propose(t, c, lead, "after") // it waits for its successor
		for range 100 {
			if c.Node(lead).Status().State == "leader" {
				t.Fatal("the replica with the wrong clock leads again")
			}
			let(10 * time.Millisecond)
		}
	})
}

func TestAReplicaStartedWithAWrongClockNeverStamps(t *testing.T) {
	k := &clocks{off: map[int]time.Duration{0: 24 * time.Hour}}
	bubble(t, clustertest.Options{Clock: k.now}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(time.Minute)
		for i := range 3 {
			propose(t, c, i, "x")
		}
		if d := time.Until(c.Machine(1).StateTime()); d.Abs() > 5*time.Second {
			t.Errorf("state time is off by %s", d)
		}
	})
}

func TestALongOutageNeedsAMajorityOfClocksThatAgree(t *testing.T) {
	k := &clocks{off: make(map[int]time.Duration)}
	bubble(t, clustertest.Options{Clock: k.now}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		propose(t, c, 0, "before")
		for i := range 3 {
			c.Crash(i)
		}
		let(48 * time.Hour)
		for i := range 3 {
			c.Start(i)
		}
		c.Ready(time.Minute)
		propose(t, c, 1, "after")

		for i := range 3 {
			c.Crash(i)
		}
		let(48 * time.Hour)
		k.set(0, time.Hour)
		k.set(1, 2*time.Hour)
		for i := range 2 { // two up, and they disagree: nobody knows the time
			c.Start(i)
		}
		lead := c.Leader(time.Minute, 0, 1)
		let(time.Minute)
		_, err := c.Node(lead).Propose(context.Background(), []byte("guess"))
		if !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "clock") {
			t.Errorf("Propose: %v, want unavailable, naming the clock", err)
		}
		k.set(1, 0)
		c.Start(2)
		let(time.Minute)
		propose(t, c, 2, "sure")
	})
}

// Reliability: a wrong clock is told before it leads, and of two nobody knows which it is.
func TestAWrongClockIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		alive int
		split time.Duration
		says  string // in the log of whose clock is off
	}{
		"of three replicas": {3, 0, "is 24h0m0s ahead of the other replicas'"},
		"of two":            {2, 24 * time.Hour, "differ by 24h0m0s, and nobody can tell which are wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &clocks{off: make(map[int]time.Duration)}
			var said lines
			bubble(t, clustertest.Options{Clock: k.now, Logger: slog.New(slog.NewTextHandler(&said, nil))}, func(t *testing.T, cl *clustertest.Cluster) {
				cl.Ready(20 * time.Second)
				lead := cl.Leader(time.Second)
				off := others(lead)[0]
				if c.alive == 2 {
					cl.Crash(others(lead)[1])
				}
				k.set(off, 24*time.Hour)
				let(25 * time.Minute)
				if n := saying(said.take(), c.says); n < 3 || n > 8 { // two replicas say so every ten minutes, and a leader's words
					t.Errorf("the log says %d times that it %s", n, c.says)
				}
				if got := time.Duration(cl.Node(off).Status().ClockSplit).Round(time.Minute); got != c.split {
					t.Errorf("split %s, want %s", got, c.split)
				}
				if c.alive == 2 {
					_, err := cl.Node(lead).Propose(context.Background(), []byte("x"))
					if !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), c.says) {
						t.Errorf("Propose: %v, want that they %s", err, c.says)
					}
				}
				k.set(off, 0)
				let(time.Minute)
				propose(t, cl, lead, "x")
				if saying(said.take(), "agrees with the others' again") == 0 {
					t.Error("nobody says that it is right again")
				}
			})
		})
	}
}

// saying counts lines about clocks that are wrong, or right again.
func saying(logged []string, text string) (n int) {
	for _, line := range logged {
		if (strings.Contains(line, "set the clocks") || strings.Contains(line, "level=INFO")) && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func TestASoleReplicaGoesByItsOwnClock(t *testing.T) {
	k := &clocks{off: make(map[int]time.Duration)}
	bubble(t, clustertest.Options{Nodes: 1, Clock: k.now}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		propose(t, c, 0, "before")
		k.set(0, 12*time.Hour) // a laptop that slept
		propose(t, c, 0, "after")
	})
}
