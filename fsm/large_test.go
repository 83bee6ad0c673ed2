package fsm

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"
)

// `make soak` sets this to 1024.
var snapshotMiB = flag.Int("snapshot-mib", 96, "size of the state in tests of large snapshots")

// Reliability, row 12: a new server takes over a large state, and needs little
// more memory than the state itself.
func TestRestoringALargeStateNeedsLittleMoreThanItsSize(t *testing.T) {
	const each = 16 << 10
	records := *snapshotMiB << 20 / each
	path := filepath.Join(t.TempDir(), "snapshot")
	writeLarge(t, path, records, each)

	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	peak := watchHeap(t)
	s := newStore(Options{})
	if err := s.Restore(f); err != nil {
		t.Fatal(err)
	}
	size := records * each
	t.Logf("a state of %d MiB took %d MiB to restore", size>>20, peak()>>20)
	if most := peak(); most > size+size/2 {
		t.Errorf("%d MiB of memory for a state of %d MiB", most>>20, size>>20)
	}
	if n := s.Snapshot().Len(); n != records {
		t.Errorf("%d records, want %d", n, records)
	}
}

// writeLarge makes a snapshot of that many records.
func writeLarge(t *testing.T, path string, records, each int) {
	t.Helper()
	s := newStore(Options{})
	random := rand.NewChaCha8([32]byte{7})
	for i := range records {
		value := make([]byte, each)
		_, _ = random.Read(value)
		apply(t, s, at(0), ops(Put(fmt.Sprintf("bulk/%08d", i), value)))
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	if _, err := s.Snapshot().WriteTo(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// watchHeap gives the largest growth of the heap, dead objects included, that a
// look every few milliseconds has seen.
func watchHeap(t *testing.T) (peak func() int) {
	t.Helper()
	read := func() int {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return int(s[0].Value.Uint64()) //nolint:gosec // of this machine
	}
	runtime.GC()
	base := read()
	var mu sync.Mutex
	most := 0
	look := func() int {
		mu.Lock()
		defer mu.Unlock()
		most = max(most, read()-base)
		return most
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				look()
			case <-quit:
				return
			}
		}
	})
	t.Cleanup(func() { close(quit); wg.Wait() })
	return look
}
