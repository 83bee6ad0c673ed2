package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/clustertest"
)

// staleAfterTakeover counts reads that miss an acknowledged write right after a
// leader died: the new leader holds the entry but not the news that it was
// committed, and heartbeats confirm it sooner than disks do.
func staleAfterTakeover(t *testing.T, faults clustertest.Faults) int {
	stale := 0
	bubble(t, clustertest.Options{Faults: faults, DiskLatency: 50 * time.Millisecond}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		for round := range 5 {
			lead := c.Leader(20 * time.Second)
			item := fmt.Sprintf("round-%d", round)
			if _, err := c.Node(lead).Propose(context.Background(), []byte(item)); err != nil {
				t.Fatal(err)
			}
			c.Crash(lead)
			var mu sync.Mutex
			var wg sync.WaitGroup
			for _, i := range others(lead) {
				wg.Go(func() {
					for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
						if c.Node(i).Status().State != "leader" {
							let(time.Millisecond)
							continue
						}
						if c.Node(i).Linearize(context.Background()) == nil && !c.Machine(i).Has(item) {
							mu.Lock()
							stale++
							mu.Unlock()
						}
						let(time.Millisecond)
					}
				})
			}
			wg.Wait()
			c.Start(lead)
			c.Ready(time.Minute)
		}
	})
	return stale
}

func TestReadsWaitForTheTermsBarrier(t *testing.T) {
	if n := staleAfterTakeover(t, clustertest.Faults{}); n != 0 {
		t.Errorf("%d stale reads", n)
	}
	if n := staleAfterTakeover(t, clustertest.Faults{NoBarrier: true}); n == 0 {
		t.Error("without the barrier no read was stale: this test proves nothing")
	}
}

// staleAfterIsolation counts reads on a cut-off leader that miss a write its
// successor acknowledged before they began, while an older read is under way.
func staleAfterIsolation(t *testing.T, faults clustertest.Faults) int {
	stale := 0
	faults.Pause = func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-time.After(4 * time.Second):
		}
	}
	bubble(t, clustertest.Options{Faults: faults}, func(t *testing.T, c *clustertest.Cluster) {
		c.Eventually(20*time.Second, "a leader", func() bool {
			for i := range 3 {
				if c.Node(i).Status().State == "leader" {
					return true
				}
			}
			return false
		})
		lead := -1
		for i := range 3 {
			if c.Node(i).Status().State == "leader" {
				lead = i
			}
		}
		propose(t, c, lead, "first")
		early := make(chan struct{})
		go func() {
			defer close(early)
			_ = c.Node(lead).Linearize(context.Background())
		}()
		let(100 * time.Millisecond) // the older read has got past its first step
		// A leader that is cut off and whose main thread waits for the disk does not know
		// that its lease is over.
		c.Stall(lead)
		c.Isolate(lead)
		stuck := make(chan struct{})
		go func() {
			defer close(stuck)
			_, _ = c.Node(lead).Propose(context.Background(), []byte("stuck"))
		}()
		o := others(lead)
		propose(t, c, o[0], "second")
		if c.Node(lead).Linearize(context.Background()) == nil && !c.Machine(lead).Has("second") {
			stale++
		}
		c.MendDisk(lead)
		<-early
		<-stuck
	})
	return stale
}

func TestReadsNoteTheIndexBeforeTheyVerify(t *testing.T) {
	if n := staleAfterIsolation(t, clustertest.Faults{}); n != 0 {
		t.Errorf("%d stale reads", n)
	}
	if n := staleAfterIsolation(t, clustertest.Faults{VerifyFirst: true}); n == 0 {
		t.Error("with the order swapped no read was stale: this test proves nothing")
	}
}

func TestDutiesRunOnOneLeaderAtATime(t *testing.T) {
	var mu sync.Mutex
	running, most, runs := 0, 0, 0
	bubble(t, clustertest.Options{Register: registerDuty(func(ctx context.Context) error {
		mu.Lock()
		running++
		runs++
		most = max(most, running)
		fail := runs == 1
		mu.Unlock()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			running--
		}()
		if fail {
			return fmt.Errorf("the first time it fails")
		}
		<-ctx.Done()
		return nil
	})}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		for range 3 {
			lead := c.Leader(10 * time.Second)
			if err := c.Node(lead).TransferLeadership(context.Background()); err != nil {
				t.Error(err)
			}
			let(3 * time.Second)
			mu.Lock()
			if running != 1 {
				t.Errorf("%d duties run", running)
			}
			mu.Unlock()
		}
	})
	if most != 1 {
		t.Errorf("up to %d duties ran at once", most)
	}
	if runs < 4 {
		t.Errorf("%d runs, want a retry and one per leadership", runs)
	}
}
