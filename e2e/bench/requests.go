package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// get is a request whose answer must be 200 and is read to its end.
func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("%s: %s: %s", url, resp.Status, b)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// latency is metric 1: small GETs one after another, in short turns so that a
// busy minute of the machine falls on everyone.
func (b *bench) latency(ctx context.Context) error {
	targets := []*target{b.direct, b.haproxy, b.nginx, b.ours}
	samples := map[*target][]time.Duration{}
	clients := map[*target]*http.Client{}
	for _, t := range targets {
		clients[t] = t.client()
		defer clients[t].CloseIdleConnections()
	}
	for turn := range b.n(100) + 2 {
		for _, t := range targets {
			for range 50 {
				start := time.Now()
				if err := get(ctx, clients[t], t.url+smallGET); err != nil {
					return err
				}
				if turn >= 2 { // the first turns warm up
					samples[t] = append(samples[t], time.Since(start))
				}
			}
		}
	}
	for _, p := range []struct {
		name  string
		p     float64
		limit float64
	}{{"p50", 0.5, 1.0}, {"p99", 0.99, 1.3}} {
		base := percentile(samples[b.direct], p.p)
		ours, haproxy, nginx := percentile(samples[b.ours], p.p)-base, percentile(samples[b.haproxy], p.p)-base, percentile(samples[b.nginx], p.p)-base
		b.rows = append(b.rows,
			atMost(1, fmt.Sprintf("added %s of a small GET (direct: %s) / haproxy's", p.name, micros(base)), micros(ours), micros(haproxy), ratio(float64(ours), float64(haproxy)), p.limit),
			plain(1, fmt.Sprintf("the same / nginx's added %s", p.name), micros(ours), micros(nginx), ratio(float64(ours), float64(nginx))))
	}
	return nil
}

// connections that a number of workers shares.
const connections = 4

// throughput is metrics 2 and 3: a list of 3.7 KB, 1, 16 and 64 in flight.
func (b *bench) throughput(ctx context.Context) error {
	targets := []*target{b.direct, b.haproxy, b.nginx, b.ours}
	second := time.Duration(b.n(2000)) * time.Millisecond
	for _, workers := range []int{1, 16, 64} {
		rates := map[*target][]float64{}
		cpu := map[*target][]float64{}
		for turn := range 4 {
			for _, t := range targets {
				before, err := cpuTime(t.pids())
				if err != nil {
					return err
				}
				requests, took, err := hammer(ctx, t, workers, second)
				if err != nil {
					return fmt.Errorf("%s, %d in flight: %w", t.name, workers, err)
				}
				after, err := cpuTime(t.pids())
				if err != nil {
					return err
				}
				if turn > 0 {
					rates[t] = append(rates[t], float64(requests)/took.Seconds())
					cpu[t] = append(cpu[t], float64((after-before).Microseconds())/float64(requests))
				}
			}
		}
		ours := median(rates[b.ours])
		for _, other := range []struct {
			t     *target
			goals map[int]float64
		}{
			{b.haproxy, map[int]float64{64: 0.7}},
			{b.nginx, map[int]float64{64: 0.9}},
			{b.direct, map[int]float64{1: 0.85, 16: 0.92, 64: 0.90}},
		} {
			theirs := median(rates[other.t])
			metric := fmt.Sprintf("requests/s of a list of 3.7 KB, %d in flight / %s", workers, other.t.name)
			r := plain(2, metric, perSecond(ours), perSecond(theirs), ours/theirs)
			if limit, ok := other.goals[workers]; ok {
				r = atLeast(2, metric, perSecond(ours), perSecond(theirs), ours/theirs, limit)
			}
			b.rows = append(b.rows, r)
		}
		if workers == 64 {
			ours, theirs := median(cpu[b.ours]), median(cpu[b.haproxy])
			b.rows = append(b.rows, atMost(3, "proxy CPU per request, 64 in flight / haproxy",
				fmt.Sprintf("%.0f µs", ours), fmt.Sprintf("%.0f µs", theirs), ours/theirs, 1.8))
		}
	}
	return nil
}

// hammer sends requests over a few connections for a while.
func hammer(ctx context.Context, t *target, workers int, d time.Duration) (int64, time.Duration, error) {
	clients := make([]*http.Client, min(workers, connections))
	for i := range clients {
		clients[i] = t.client()
		defer clients[i].CloseIdleConnections()
		if err := get(ctx, clients[i], t.url+listGET); err != nil { // the handshake is not what is measured
			return 0, 0, err
		}
	}
	var (
		done   atomic.Int64
		failed atomic.Pointer[error]
		all    sync.WaitGroup
	)
	start := time.Now()
	for i := range workers {
		all.Go(func() {
			for time.Since(start) < d && failed.Load() == nil {
				if err := get(ctx, clients[i%len(clients)], t.url+listGET); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	return done.Load(), time.Since(start), nil
}

// watches is metric 5: what a proxy's memory grows by per idle watch.
func (b *bench) watches(ctx context.Context) error {
	const perConnection = 100
	n := b.n(1000)
	grown := map[*target]float64{}
	ours, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	for _, t := range []*target{b.nginx, b.haproxy, ours} {
		before, err := memory(t.pids())
		if err != nil {
			return err
		}
		watching, cancel := context.WithCancel(ctx)
		var open sync.WaitGroup
		var failed atomic.Pointer[error]
		var client *http.Client
		for i := range n {
			if i%perConnection == 0 {
				client = t.client()
				if err := get(ctx, client, t.url+smallGET); err != nil {
					cancel()
					return err
				}
			}
			mine := client
			open.Go(func() {
				if err := watch(watching, mine, t.url+watchGET, func() {}); err != nil {
					failed.Store(&err)
				}
			})
		}
		after, err := settle(ctx, t)
		cancel()
		open.Wait()
		if err != nil {
			return err
		}
		if err := failed.Load(); err != nil {
			return fmt.Errorf("%s: %w", t.name, *err)
		}
		grown[t] = (after - before) / float64(n)
	}
	kib := func(t *target) string { return fmt.Sprintf("%.1f KiB", grown[t]) }
	b.rows = append(b.rows,
		atMost(5, fmt.Sprintf("memory per idle watch, %d of them, %d per connection / nginx", n, perConnection), kib(ours), kib(b.nginx), ratio(grown[ours], grown[b.nginx]), 0.4),
		plain(5, "the same / haproxy", kib(ours), kib(b.haproxy), ratio(grown[ours], grown[b.haproxy])))
	return nil
}

// fresh restarts a follower: after the load before, the heap of ours would have
// room for many watches, and none would seem to cost a thing.
func (b *bench) fresh(ctx context.Context) (*target, error) {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := b.cluster.Follower(limit)
	if err != nil {
		return nil, err
	}
	if err := r.Stop(limit); err != nil {
		return nil, err
	}
	if err := r.Start(); err != nil {
		return nil, err
	}
	t := *b.ours
	t.url = r.URL()
	t.pids = func() []int { return []int{r.Process().PID()} }
	if err := r.WaitReady(limit); err != nil {
		return nil, err
	}
	// The first requests make what is made once: connections upstream, caches.
	_, _, err = hammer(ctx, &t, connections, 200*time.Millisecond)
	return &t, err
}

// watch reads until ctx ends, which is no failure.
func watch(ctx context.Context, client *http.Client, url string, event func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("%s: %s: %s", url, resp.Status, b)
	}
	buffer := make([]byte, 4096)
	for {
		n, err := resp.Body.Read(buffer)
		if n > 0 {
			event()
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("a watch ended: %w", err)
		}
	}
}

// settle waits until memory stands still, for two seconds at least, and returns it.
func settle(ctx context.Context, t *target) (float64, error) {
	last, err := memory(t.pids())
	if err != nil {
		return 0, err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for still := 0; still < 4; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		now, err := memory(t.pids())
		if err != nil {
			return 0, err
		}
		if now > last*1.01 {
			still = 0
		} else {
			still++
		}
		last = now
	}
	return last, nil
}
