package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/clustertest"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// TestAcknowledgedWritesSurviveAndReadsSeeThem writes and reads on all nodes while
// nodes crash, disks hang or fill up and the network splits. An acknowledged
// item is there in the end, once; a refused one is not; and a read sees what was
// acknowledged anywhere before it began.
func TestAcknowledgedWritesSurviveAndReadsSeeThem(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			bubble(t, clustertest.Options{DiskLatency: 2 * time.Millisecond}, func(t *testing.T, c *clustertest.Cluster) {
				c.Ready(20 * time.Second)
				h := &history{t: t, c: c}
				ctx, cancel := context.WithCancel(context.Background())
				var wg sync.WaitGroup
				for w := range 6 {
					wg.Go(func() { h.client(ctx, w) })
				}
				h.nemesis(rand.New(rand.NewPCG(seed, 1)))
				cancel()
				wg.Wait()
				h.check()
			})
		})
	}
}

type history struct {
	t  *testing.T
	c  *clustertest.Cluster
	mu sync.Mutex

	acked, refused []string
}

// client writes and reads on one node, whichever process that is at the moment.
func (h *history) client(ctx context.Context, w int) {
	i := w % 3
	for k := 0; ctx.Err() == nil; k++ {
		node, machine := h.c.Node(i), h.c.Machine(i)
		item := fmt.Sprintf("%d-%d", w, k)
		cctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		if w < 3 {
			_, err := node.Propose(cctx, []byte(item))
			h.mu.Lock()
			switch {
			case err == nil:
				h.acked = append(h.acked, item)
			case api.IsCode(err, api.CodeUnavailable):
				h.refused = append(h.refused, item)
			case !api.IsCode(err, api.CodeAmbiguous):
				h.t.Errorf("propose: %v", err)
			}
			h.mu.Unlock()
		} else {
			h.mu.Lock()
			before := slices.Clone(h.acked)
			h.mu.Unlock()
			if node.Linearize(cctx) == nil {
				seen := make(map[string]bool)
				for _, it := range machine.Items() {
					seen[it] = true
				}
				for _, it := range before {
					if !seen[it] {
						h.t.Errorf("a read on node %d misses %s, acknowledged before it", i, it)
					}
				}
			}
		}
		cancel()
		let(25 * time.Millisecond)
	}
}

func (h *history) nemesis(r *rand.Rand) {
	for range 12 {
		i := r.IntN(3)
		pause := time.Duration(1+r.IntN(8)) * time.Second
		switch r.IntN(6) {
		case 0:
			h.c.Isolate(i)
			let(pause)
			h.c.Heal()
		case 1:
			h.c.Crash(i)
			let(pause)
			h.c.Start(i)
		case 2:
			h.c.Stall(i)
			let(pause)
			h.c.MendDisk(i)
		case 3:
			h.c.FailDisk(i, syscall.ENOSPC)
			let(pause)
			h.c.MendDisk(i)
		case 4:
			h.c.Stall(i)
			h.c.Isolate(i)
			let(pause)
			h.c.MendDisk(i)
			h.c.Heal()
		default:
			ctx, cancel := context.WithTimeout(context.Background(), pause)
			_ = h.c.Node(i).TransferLeadership(ctx) // it may not lead, or not be able to
			cancel()
		}
		let(time.Duration(r.IntN(2000)) * time.Millisecond)
	}
}

func (h *history) check() {
	h.c.Ready(time.Minute)
	var first []string
	for i := range 3 {
		h.c.Eventually(time.Minute, "the last read", func() bool {
			return h.c.Node(i).Linearize(context.Background()) == nil
		})
		items := h.c.Machine(i).Items()
		if i == 0 {
			first = items
		} else if !slices.Equal(first, items) {
			h.t.Errorf("nodes 0 and %d differ", i)
		}
	}
	count := make(map[string]int)
	for _, it := range first {
		count[it]++
	}
	for _, it := range h.acked {
		if count[it] != 1 {
			h.t.Errorf("acknowledged item %s is there %d times", it, count[it])
		}
	}
	for _, it := range h.refused {
		if count[it] != 0 {
			h.t.Errorf("refused item %s is there", it)
		}
	}
	h.t.Logf("%d acknowledged, %d refused, %d in the log", len(h.acked), len(h.refused), len(first))
}
