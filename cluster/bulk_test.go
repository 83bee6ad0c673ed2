package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/clustertest"
)

// `make soak` sets this to 1024.
var snapshotMiB = flag.Int64("snapshot-mib", 96, "size of the state in tests of large snapshots")

// bulk is a Machine whose snapshot is as large as one likes, though it needs no memory.
type bulk struct {
	clustertest.Machine
	size     int64
	restored chan error // when a snapshot came and was found whole
}

type bulkSnapshot struct {
	size int64
	more io.WriterTo
}

// body is what fills a snapshot: the same bytes every time.
func body(size int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }

func (s bulkSnapshot) WriteTo(w io.Writer) (int64, error) {
	head := binary.BigEndian.AppendUint64(nil, uint64(s.size)) //nolint:gosec // positive
	a, err := io.Copy(w, io.MultiReader(bytes.NewReader(head), body(s.size)))
	if err != nil {
		return a, err
	}
	b, err := s.more.WriteTo(w)
	return a + b, err
}

func (b *bulk) Snapshot() io.WriterTo { return bulkSnapshot{b.size, b.Machine.Snapshot()} }

func (b *bulk) Restore(r io.Reader) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := int64(binary.BigEndian.Uint64(head[:])) //nolint:gosec // of our own
	got, want := sha256.New(), sha256.New()
	if n, err := io.CopyN(got, r, size); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, size, err)
	}
	_, _ = io.Copy(want, body(size))
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return errors.New("the snapshot came damaged")
	}
	err := b.Machine.Restore(r)
	b.restored <- err
	return err
}

// Reliability, row 12: a state that is large. A new server gets it while the
// leader goes on writing: in a stream, without an election.
func TestALargeSnapshotReachesANewServerUnderLoad(t *testing.T) {
	size := *snapshotMiB << 20
	dir := t.TempDir()
	peak, late := watchHeap(t)
	if _, _, err := cluster.Seed(dir, snapshotOf(size), cluster.SeedOptions{Index: 4711, Advertise: allNames[0], Logger: logger()}); err != nil {
		t.Fatal(err)
	}
	r := &names{m: make(map[string]string)}
	start := func(name, dir string) (*real, *bulk) {
		sm := &bulk{size: size, restored: make(chan error, 2)}
		return startReal(t, r, name, dir, func(o *cluster.Options) { o.SM = sm }), sm
	}
	a, smA := start(allNames[0], dir)
	patiently(t, "the first server has its state", func() bool { return len(smA.restored) > 0 })
	ready(t, a)
	names := allNames[1:2]
	if *snapshotMiB >= 1024 { // the third meets a leader that could lose its second
		names = allNames[1:]
	}
	for _, name := range names {
		term := a.node.Status().Term
		ctx, cancel := context.WithCancel(t.Context())
		var load sync.WaitGroup
		var slowest time.Duration
		writes := 0
		load.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				if _, err := a.node.Propose(ctx, []byte("load")); err != nil {
					if ctx.Err() == nil && !late() {
						t.Errorf("write %d: %v", writes, err)
					}
					return
				}
				slowest = max(slowest, time.Since(begun))
				writes++
				pauseOrEnd(ctx, 5*time.Millisecond)
			}
		})
		begun := time.Now()
		b, smB := start(name, t.TempDir())
		patiently(t, "the new server has the state", func() bool { return len(smB.restored) > 0 })
		took := time.Since(begun)
		cancel()
		load.Wait()
		// Later there may be one for a reason of its own: a vote more, on a busy machine.
		if st := a.node.Status(); (st.State != "leader" || st.Term != term) && !late() {
			t.Errorf("the first server is %s in term %d, led in term %d: there was an election", st.State, st.Term, term)
		}
		patiently(t, "it is a voter", func() bool {
			for _, s := range a.node.Status().Servers {
				if s.ID == b.id && s.Voter {
					return true
				}
			}
			return false
		})
		ready(t, a, b)
		until(t, "the new server has every write", func() bool { return len(smB.Items()) >= writes })
		until(t, "the first one leads", func() bool {
			if b.node.Status().State == "leader" {
				_ = b.node.TransferLeadership(t.Context()) // asked again if it did not work
			}
			return a.node.Status().State == "leader"
		})
		t.Logf("%d MiB to %s in %v, %d writes meanwhile, the slowest %v; heap at most %d MiB", size>>20, name, took, writes, slowest, peak()>>20)
	}
	if peak() > 64<<20 {
		t.Errorf("the heap grew to %d MiB: the snapshot is not streamed", peak()>>20)
	}
}

func pauseOrEnd(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func snapshotOf(size int64) io.Reader {
	r, w := io.Pipe()
	go func() { // ends with the reader
		_, err := bulkSnapshot{size, (&clustertest.Machine{}).Snapshot()}.WriteTo(w)
		w.CloseWithError(err)
	}()
	return r
}

// patiently is until for what takes as long as the disk lets it.
func patiently(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute + time.Duration(*snapshotMiB)*time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// watchHeap looks at the size of live and dead objects until the test ends, and
// gives the largest growth seen. It also tells whether a look was ever so late that the
// machine must have been too busy for Raft's heartbeats, whatever this process did.
func watchHeap(t *testing.T) (peak func() uint64, late func() bool) {
	t.Helper()
	const name = "/memory/classes/heap/objects:bytes"
	var mu sync.Mutex
	read := func() uint64 {
		s := []metrics.Sample{{Name: name}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	base, most := read(), uint64(0)
	look := func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		if now := read(); now > base {
			most = max(most, now-base)
		}
		return most
	}
	const tooLate = 100 * time.Millisecond // a leader's lease is 250
	var latest atomic.Int64
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-tick.C:
				look()
				now := time.Now()
				latest.Store(max(latest.Load(), int64(now.Sub(last))))
				last = now
			case <-quit:
				return
			}
		}
	})
	t.Cleanup(func() { close(quit); wg.Wait() })
	return look, func() bool {
		d := time.Duration(latest.Load())
		if d > tooLate {
			t.Logf("the machine is too busy to tell whose fault an election was: a goroutine got its turn %v late", d)
		}
		return d > tooLate
	}
}
