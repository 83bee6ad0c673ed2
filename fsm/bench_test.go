package fsm

import (
	"fmt"
	"io"
	"testing"
	"time"
)

// filled is a store of n users, some hundred bytes each.
func filled(b *testing.B, n int) *Store {
	s := newStore(Options{})
	for i := 0; i < n; i += 1000 {
		var txn Txn
		for j := i; j < min(i+1000, n); j++ {
			txn.Ops = append(txn.Ops, PutTTL(fmt.Sprintf("users/%08d", j), fmt.Appendf(nil,
				`{"name":"%08d","email":"%d@example.com","spec":{"roles":["access","auditor","editor"]}}`, j, j), 1000*time.Hour))
		}
		apply(b, s, at(0), txn)
	}
	return s
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		s := filled(b, n)
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, ok := s.View().Get("users/00000042"); !ok {
						b.Error("gone")
					}
				}
			})
		})
		b.Run(fmt.Sprintf("typed/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, _, err := users.Get(s.View(), "00000042"); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkApply is what a follower does: entries of one or 64 transactions with
// a check and a write each, on a store of 100,000 records.
func BenchmarkApply(b *testing.B) {
	for _, group := range []int{1, 64} {
		b.Run(fmt.Sprintf("group/%d", group), func(b *testing.B) {
			s := filled(b, 100_000)
			encoded := groupOf(b, s, group)
			index := s.Applied()
			b.ReportAllocs()
			for b.Loop() {
				index++
				if _, err := s.Apply(index, encoded); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(group)/b.Elapsed().Seconds(), "txn/s")
		})
	}
}

func groupOf(b *testing.B, s *Store, n int) []byte {
	txns := make([]Txn, n)
	for i := range txns {
		txns[i] = groupTxn(i)
	}
	return entry(b, s.Time(), txns...)
}

func groupTxn(i int) Txn {
	return Txn{
		Checks: []Check{{Key: "absent"}},
		Ops:    []Op{Put(fmt.Sprintf("users/%08d", i*997), []byte(`{"name":"x","spec":{"roles":["access"]}}`))},
		Events: [][]byte{[]byte(`{"event":"user.update","user":"x","time":"2030-01-02T03:04:05Z"}`)},
	}
}

// BenchmarkCommit is the whole way of a group but for Raft: encode the items,
// encode the entry, apply it.
func BenchmarkCommit(b *testing.B) {
	for _, group := range []int{1, 64} {
		b.Run(fmt.Sprintf("group/%d", group), func(b *testing.B) {
			s := filled(b, 100_000)
			index := s.Applied()
			b.ReportAllocs()
			for b.Loop() {
				index++
				if _, err := s.Apply(index, groupOf(b, s, group)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(group)/b.Elapsed().Seconds(), "txn/s")
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	s := filled(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		n, err := s.Snapshot().WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}
