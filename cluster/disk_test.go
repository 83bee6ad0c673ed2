package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/clustertest"
	"github.com/sallyport-dev/sallyport/internal/api"
)

func others(i int) []int { return []int{(i + 1) % 3, (i + 2) % 3} }

func TestALeaderWhoseDiskHangsIsReplacedWithinTenSeconds(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		c.Stall(lead)
		start := time.Now()
		_, err := c.Node(lead).Propose(context.Background(), []byte("stuck"))
		if !api.IsCode(err, api.CodeAmbiguous) {
			t.Errorf("a pending proposal: %v, want ambiguous", err)
		}
		o := others(lead)
		propose(t, c, o[0], "after")
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("first write after %s", d)
		}
		st := c.Node(lead).Status()
		if st.State != "fenced" || !strings.Contains(st.Reason, "disk") {
			t.Errorf("status %q (%q), want fenced, naming the disk", st.State, st.Reason)
		}
		if _, err := c.Node(lead).Propose(context.Background(), []byte("x")); !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "disk") {
			t.Errorf("a new proposal there: %v, want unavailable, naming the disk", err)
		}
		c.MendDisk(lead)
		c.Eventually(20*time.Second, "the fence falls", func() bool { return c.Node(lead).Status().State == "follower" })
		c.Eventually(20*time.Second, "it catches up", func() bool { return c.Machine(lead).Has("after") })
		propose(t, c, lead, "again")
	})
}

func TestAFullDiskFencesAndRecovers(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EIO} {
		t.Run(errno.Error(), func(t *testing.T) {
			bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
				c.Ready(20 * time.Second)
				lead := c.Leader(time.Second)
				c.FailDisk(lead, errno)
				_, err := c.Node(lead).Propose(context.Background(), []byte("full"))
				if !api.IsCode(err, api.CodeAmbiguous) {
					t.Errorf("proposal on a full disk: %v, want ambiguous", err)
				}
				o := others(lead)
				propose(t, c, o[1], "after")
				if st := c.Node(lead).Status(); st.State != "fenced" || !strings.Contains(st.Reason, errno.Error()) {
					t.Errorf("status %q (%q)", st.State, st.Reason)
				}
				if ok, why := c.Node(lead).Ready(); !ok || why != "no writes: its disk fails: "+errno.Error() {
					t.Errorf("ready %v, %q", ok, why)
				}
				_, err = c.Node(lead).Propose(context.Background(), []byte("x"))
				where := strings.Fields(c.Node(lead).Status().Reason)[3] // the disk at …
				if want := "this replica takes no writes: its disk fails: " + errno.Error() + "; ask another replica"; err == nil || err.Error() != want || strings.Contains(want, where) {
					t.Errorf("a proposal while fenced: %v, want %s", err, want)
				}
				let(time.Minute) // votes and terms meet the full disk too: no panic
				c.MendDisk(lead)
				c.Eventually(20*time.Second, "it catches up", func() bool { return c.Machine(lead).Has("after") })
			})
		})
	}
}

func TestAFollowersFullDiskStopsNobodyElse(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		bad := others(lead)[0]
		c.FailDisk(bad, syscall.ENOSPC)
		for range 20 {
			propose(t, c, lead, "x")
		}
		let(30 * time.Second)
		propose(t, c, others(lead)[1], "y")
		if got := c.Leader(time.Second); got != lead {
			t.Errorf("leadership moved from %d to %d", lead, got)
		}
		c.MendDisk(bad)
		c.Eventually(20*time.Second, "it catches up", func() bool { return c.Machine(bad).Has("y") })
	})
}

func TestAFollowersHungDiskMovesNoLeadership(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		bad := others(lead)[0]
		c.Stall(bad)
		for range 20 {
			propose(t, c, lead, "x")
		}
		c.Eventually(20*time.Second, "the fence", func() bool { return c.Node(bad).Status().State == "fenced" })
		propose(t, c, lead, "y")
		c.MendDisk(bad)
		c.Eventually(20*time.Second, "it catches up", func() bool { return c.Machine(bad).Has("y") })
		if got := c.Leader(time.Second); got != lead {
			t.Errorf("leadership moved from %d to %d", lead, got)
		}
	})
}

// diskError is what fsm.JournalError is to this package.
type diskError struct{ error }

func (diskError) Temporary() bool { return true }

func TestAJournalThatTakesNothingFencesAndRecovers(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		c.Machine(lead).Fail(fmt.Errorf("entry: %w", diskError{syscall.ENOSPC}))
		if _, err := c.Node(lead).Propose(context.Background(), []byte("full")); !api.IsCode(err, api.CodeAmbiguous) {
			t.Errorf("proposal on a full disk: %v, want ambiguous", err)
		}
		propose(t, c, others(lead)[0], "after")
		let(time.Minute)
		select {
		case <-c.Done(lead):
			t.Fatalf("the node ended: %v", c.Err(lead))
		default:
		}
		st := c.Node(lead).Status()
		if st.State != "fenced" || !strings.Contains(st.Reason, syscall.ENOSPC.Error()) || strings.Contains(st.Reason, "newer version") {
			t.Errorf("status %q (%q)", st.State, st.Reason)
		}
		c.Machine(lead).Fail(nil)
		c.Eventually(20*time.Second, "it catches up", func() bool { return c.Machine(lead).Has("after") })
		c.Eventually(20*time.Second, "the fence falls", func() bool { return c.Node(lead).Status().State == "follower" })
		if got := c.Machine(lead).Items(); !slices.Equal(got, []string{"full", "after"}) {
			t.Errorf("items %q", got)
		}
		// One that stops while it waits applies nothing out of order, and all at its next start.
		lead = c.Leader(10 * time.Second)
		odd := others(lead)[0]
		c.Machine(odd).Fail(diskError{syscall.EIO})
		propose(t, c, lead, "one")
		propose(t, c, lead, "two")
		c.Eventually(20*time.Second, "the fence rises", func() bool { return c.Node(odd).Status().State == "fenced" })
		if err := c.Stop(odd); err != nil {
			t.Errorf("Run returned %v", err)
		}
		c.Start(odd)
		c.Ready(30*time.Second, odd)
		if got := c.Machine(odd).Items(); !slices.Equal(got, []string{"full", "after", "one", "two"}) {
			t.Errorf("items %q", got)
		}
	})
}

func TestAnEntryThatCannotBeAppliedStopsTheNode(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		odd := others(lead)[0]
		propose(t, c, lead, "fine")
		c.Machine(odd).FailOnce(errors.New("from the future"))
		propose(t, c, lead, "odd")
		propose(t, c, lead, "next") // whatever comes next must not be applied either
		select {
		case <-c.Done(odd):
		case <-time.After(20 * time.Second): // the bubble's clock would run for ever
			t.Fatalf("still runs, with %q", c.Machine(odd).Items())
		}
		if err := c.Err(odd); err == nil || !strings.Contains(err.Error(), "from the future") {
			t.Errorf("Run returned %v", err)
		}
		if m := c.Machine(odd); m.Has("odd") || m.Has("next") {
			t.Errorf("applied %q after the entry that it could not apply", m.Items())
		}
	})
}

func TestABadItemHurtsNobodyElse(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		var wg sync.WaitGroup
		for _, item := range []string{"a", "bad", "b", "c"} {
			wg.Go(func() {
				_, err := c.Node(lead).Propose(context.Background(), []byte(item))
				if (err != nil) != (item == "bad") {
					t.Errorf("%s: %v", item, err)
				}
			})
		}
		wg.Wait()
	})
}
