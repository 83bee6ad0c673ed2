package main

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// failover is metric 10: the leader goes, by kill -9 or SIGTERM; how long until
// a write through a survivor succeeds, and do GETs through survivors fail
// meanwhile? Each time the old leader comes back before the next round.
func (b *bench) failover(ctx context.Context) error {
	reference, err := startEtcd(ctx, filepath.Join(b.dir, "failover"))
	if err != nil {
		return err
	}
	defer reference.stop()
	rounds := b.n(20)
	for _, graceful := range []bool{false, true} {
		var ours, theirs []time.Duration
		gets, failures := int64(0), int64(0)
		for range rounds {
			took, n, failed, err := b.loseLeader(ctx, graceful)
			if err != nil {
				return err
			}
			ours, gets, failures = append(ours, took), gets+n, failures+failed
			if took, err = reference.loseLeader(ctx, graceful); err != nil {
				return fmt.Errorf("etcd: %w", err)
			}
			theirs = append(theirs, took)
		}
		how, limit := "killed", time.Second
		if graceful {
			how, limit = "stopped (SIGTERM)", 100*time.Millisecond
		}
		worst, middle := slices.Max(ours), percentile(ours, 0.5)
		theirWorst, theirMiddle := slices.Max(theirs), percentile(theirs, 0.5)
		both := func(middle, worst time.Duration) string { return fmt.Sprintf("%s (%s)", millis(middle), millis(worst)) }
		quotient := ratio(float64(middle), float64(theirMiddle))
		b.rows = append(b.rows,
			row{10, fmt.Sprintf("leader %s: first write on a survivor after, median (worst) of %d / etcd", how, rounds),
				both(middle, worst), both(theirMiddle, theirWorst), quotient, fmt.Sprintf("worst ≤ %v", limit), verdict(worst <= limit, quotient)},
			row{10, fmt.Sprintf("leader %s: GETs through survivors that failed", how),
				fmt.Sprintf("%d of %d", failures, gets), "–", math.NaN(), "0", verdict(failures == 0, 0)})
	}
	return nil
}

// loseLeader ends our leader and returns the time to a write, the GETs tried meanwhile and how many failed.
func (b *bench) loseLeader(ctx context.Context, graceful bool) (took time.Duration, gets, failed int64, err error) {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	leader, err := b.cluster.Leader(limit)
	if err != nil {
		return 0, 0, 0, err
	}
	var survivors []*sallyport.Replica
	for _, r := range b.cluster.Replicas {
		if r != leader {
			survivors = append(survivors, r)
		}
	}
	// Readers go on from before the leader is lost until after the write.
	reading, stop := context.WithCancel(limit)
	var readers sync.WaitGroup
	var n, bad atomic.Int64
	for _, r := range survivors {
		t := *b.ours
		t.url = r.URL()
		client := t.client()
		if err := get(limit, client, t.url+smallGET); err != nil {
			stop()
			readers.Wait()
			return 0, 0, 0, err
		}
		readers.Go(func() {
			defer client.CloseIdleConnections()
			for reading.Err() == nil {
				err := get(reading, client, t.url+smallGET)
				switch {
				case reading.Err() != nil:
					return
				case err != nil:
					bad.Add(1)
				}
				n.Add(1)
			}
		})
	}
	writer := socketClient(survivors[0], 32)
	defer writer.CloseIdleConnections()
	took, err = until(limit, func() {
		if graceful {
			go func() { _ = leader.Stop(limit) }()
		} else {
			leader.Kill()
		}
	}, leader.Process().Exited(), graceful, func(ctx context.Context) error { return putRole(ctx, writer, "bench-failover") })
	stop()
	readers.Wait()
	if err != nil {
		return 0, 0, 0, err
	}
	<-leader.Process().Exited()
	if err := leader.Start(); err != nil {
		return 0, 0, 0, err
	}
	return took, n.Load(), bad.Load(), b.cluster.WaitReady(limit)
}

func (e *etcd) loseLeader(ctx context.Context, graceful bool) (time.Duration, error) {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	leader, err := e.leader(limit)
	if err != nil {
		return 0, err
	}
	survivor := e.members[0]
	if survivor == leader {
		survivor = e.members[1]
	}
	took, err := until(limit, func() {
		if graceful {
			go func() { _ = leader.process.Stop(limit) }()
		} else {
			leader.process.Kill()
		}
	}, leader.process.Exited(), graceful, func(ctx context.Context) error {
		return survivor.put(ctx, "bench-failover", "x")
	})
	if err != nil {
		return 0, err
	}
	<-leader.process.Exited()
	if err := leader.start(); err != nil {
		return 0, err
	}
	return took, testbed.Until(limit, "etcd member back", func() error { return leader.put(limit, "back", "x") })
}

// pace is how often a write is tried. Tries overlap: one that hangs on a dead
// leader must not hide that another would succeed.
const pace = 10 * time.Millisecond

// until tries writes from the moment the leader is lost. After a kill it is the
// time to the first success. A graceful leader hands over while it still
// answers, so there it is the longest gap between successes until it has gone.
func until(ctx context.Context, lose func(), gone <-chan struct{}, graceful bool, write func(context.Context) error) (time.Duration, error) {
	if err := write(ctx); err != nil { // connections are warm
		return 0, err
	}
	trying, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	lose()
	start := time.Now()
	success := make(chan time.Time)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	try := func() {
		all.Go(func() {
			if write(trying) == nil {
				select {
				case success <- time.Now():
				case <-trying.Done():
				}
			}
		})
	}
	try()
	last, longest := start, time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no write: %w", ctx.Err())
		case <-tick.C:
			try()
		case at := <-success:
			if !graceful {
				return at.Sub(start), nil
			}
			longest, last = max(longest, at.Sub(last)), at
			select {
			case <-gone:
				return longest, nil
			default:
			}
		}
	}
}
