package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"
)

var discard = slog.New(slog.DiscardHandler)

// counting is a StateMachine that remembers which entries it was given.
type counting struct {
	seen     []uint64
	restored int
}

func (c *counting) Apply(index uint64, _ []byte) ([][]byte, error) {
	if n := len(c.seen); n > 0 && index <= c.seen[n-1] {
		return nil, fmt.Errorf("entry %d after %d", index, c.seen[n-1])
	}
	c.seen = append(c.seen, index)
	return nil, nil
}

func (c *counting) Snapshot() io.WriterTo { return &countingSnapshot{c.seen} }

func (c *counting) Restore(r io.Reader) error {
	c.restored++
	return json.NewDecoder(r).Decode(&c.seen)
}

func (c *counting) StateTime() time.Time { return time.Time{} }

type countingSnapshot struct{ seen []uint64 }

func (s countingSnapshot) WriteTo(w io.Writer) (int64, error) {
	return 0, json.NewEncoder(w).Encode(s.seen)
}

// A disk that fails again while the fence falls must find it up afterwards.
func TestAFenceRaisedWhileAnotherFallsStands(t *testing.T) {
	t.Parallel()
	var (
		mu    sync.Mutex
		up    bool
		w     *watchdog
		again sync.WaitGroup
		first = true
	)
	raised := make(chan struct{}, 8)
	fence := func() {
		mu.Lock()
		defer mu.Unlock()
		up = true
		raised <- struct{}{}
	}
	lifted := make(chan struct{}, 8)
	lift := func() {
		if first {
			first = false
			<-raised
			again.Go(func() { w.raise("its disk fails", "the next one") })
			select {
			case <-raised: // between the verdict and this call
			case <-time.After(50 * time.Millisecond):
			}
		}
		mu.Lock()
		defer mu.Unlock()
		up = false
		lifted <- struct{}{}
	}
	w = newWatchdog("memory", discard, fence, lift)
	w.probe = func() error { return nil }
	w.begin()
	w.raise("its disk fails", "the first one")
	w.settle()
	<-lifted
	again.Wait()
	w.close()
	mu.Lock()
	defer mu.Unlock()
	if _, reason := w.fenced(); up != (reason != "") {
		t.Errorf("fence up: %v, reason %q", up, reason)
	}
}
