package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkPropose writes 256-byte items through three replicas over real TLS and
// real disks. Compare with etcd on the same disk (docs/benchmarks.md).
func BenchmarkPropose(b *testing.B) {
	r := &names{m: make(map[string]string)}
	var reps []*real
	for _, name := range allNames {
		reps = append(reps, startReal(b, r, name, b.TempDir()))
	}
	ready(b, reps...)
	item := bytes.Repeat([]byte("x"), 256)
	for _, on := range []string{"leader", "follower"} {
		for _, writers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/writers=%d", on, writers), func(b *testing.B) {
				rep := reps[0]
				for _, x := range reps {
					if (x.node.Status().State == "leader") == (on == "leader") {
						rep = x
					}
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				start := time.Now()
				for range writers {
					wg.Go(func() {
						for next.Add(1) <= int64(b.N) {
							if _, err := rep.node.Propose(context.Background(), item); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "writes/s")
			})
		}
	}
}
