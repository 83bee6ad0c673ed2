package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkHandover is how long a writer on a survivor waits when the leader is
// stopped, over real TLS and real disks.
func BenchmarkHandover(b *testing.B) {
	r := &names{m: make(map[string]string)}
	var reps []*real
	for i := range 3 {
		reps = append(reps, startReal(b, r, allNames[i], b.TempDir()))
	}
	ready(b, reps...)
	var took []time.Duration
	for k := 0; b.Loop(); k++ {
		lead := -1
		until(b, "a leader", func() bool {
			lead = slices.IndexFunc(reps, func(x *real) bool { return x.node.Status().State == "leader" })
			return lead >= 0
		})
		// The write begins with the stop.
		done := make(chan error, 1)
		old, other := reps[lead], reps[(lead+1)%3]
		start := time.Now()
		go func() { done <- old.stop() }()
		if _, err := other.node.Propose(context.Background(), fmt.Appendf(nil, "item-%d", k)); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		reps[lead] = startReal(b, r, old.name, old.dir)
		ready(b, reps...)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-worst")
}
