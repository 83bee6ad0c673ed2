package main

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"time"
)

func TestTableTellsWhatWasMet(t *testing.T) {
	var out bytes.Buffer
	err := writeTable(&out, []row{
		atLeast(2, "rate", "90/s", "100/s", 0.9, 0.95),
		atMost(1, "cost", "1 ms", "2 ms", 0.5, 1),
		atMost(1, "lost in noise", "1 ms", "-2 ms", ratio(1, -2), 1),
		plain(3, "no goal", "1", "2", 0.5),
	})
	want := `| # | metric | ours | reference | ours / reference | goal | |
|---|---|---|---|---|---|---|
| 1 | cost | 1 ms | 2 ms | 0.50 | ≤ 1 | met |
| 1 | lost in noise | 1 ms | -2 ms | – | ≤ 1 |  |
| 2 | rate | 90/s | 100/s | 0.90 | ≥ 0.95 | missed |
| 3 | no goal | 1 | 2 | 0.50 | – |  |
`
	if err != nil || out.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, &out, want)
	}
}

func TestPercentileAndMedian(t *testing.T) {
	samples := []time.Duration{5, 1, 3, 2, 4}
	if got := percentile(samples, 0.5); got != 3 {
		t.Errorf("p50 %d", got)
	}
	if got := percentile(samples, 0.99); got != 5 {
		t.Errorf("p99 %d", got)
	}
	if percentile(nil, 0.5) != 0 || median(nil) != 0 || median([]float64{3, 1, 2}) != 2 || !math.IsNaN(ratio(1, 0)) {
		t.Error("edges")
	}
}

// A write that hangs on the lost leader must not hide that the next succeeds.
func TestUntilOverlapsItsTries(t *testing.T) {
	var calls atomic.Int32
	write := func(ctx context.Context) error {
		switch calls.Add(1) {
		case 1: // before the loss
			return nil
		case 2: // hangs
			<-ctx.Done()
			return ctx.Err()
		case 3:
			return errors.New("no leader")
		}
		return nil
	}
	took, err := until(t.Context(), func() {}, nil, false, write)
	if err != nil || took < 2*pace || took > 50*pace {
		t.Errorf("took %v, %v", took, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*pace)
	defer cancel()
	first := true
	_, err = until(ctx, func() {}, nil, false, func(context.Context) error {
		if first {
			first = false
			return nil
		}
		return errors.New("never")
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
