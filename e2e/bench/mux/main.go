// Command mux measures what could carry a tunnel's streams, beside each other in
// one run, each against raw TLS connections over the same link. Its figures are in
// docs/adr/040-tunnel-mux.md and docs/benchmarks.md. To repeat them:
//
//	cd e2e/bench/mux && go run . [-rounds 5] [-only wire,smux,…] [-parts wide,narrow,requests,never,memory]
//
// It is a Go module of its own, so that the candidates that lost stay out of the
// product's go.mod, and imports internal/wire alone of the product.
//
// All of it is used as tunnels are: an agent dials a replica with TLS 1.3, and
// the replica sends HTTP/1.1 requests over streams that it opens (the last candidate:
// HTTP/2 requests over that connection). Two links stand for the network, both in
// this process, both of 50 ms round trip: a wide one only delays; a narrow one also
// lets through 50 MB/s, like a WAN, and queues in the sender's socket, as TCP does.
// Requests per second and memory are measured without a link. Candidates take turns
// in each round. Printed are the median of rounds and, in parentheses, the best round:
// what else the machine does makes figures worse, never better. Ratios are of the
// medians, and of the bests.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const rtt = 50 * time.Millisecond

func main() {
	rounds := flag.Int("rounds", 5, "how often each candidate has its turn")
	only := flag.String("only", "", "comma-separated `candidates`")
	idle := flag.Int("sessions", 500, "idle sessions whose memory is measured")
	agents := flag.String("agents", "", "internal: be the agents of that many sessions, dialled to this `address`")
	replica := flag.Bool("replica", false, "internal: be the replica whose memory is measured")
	which := flag.String("parts", "", "comma-separated `parts`: wide, narrow, requests, never, memory")
	flag.Parse()
	var err error
	switch {
	case *agents != "":
		err = beAgents(*agents, *only, *idle)
	case *replica:
		err = beReplica(*only, *idle)
	default:
		err = run(*rounds, *only, *which, *idle)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mux:", err)
		os.Exit(1)
	}
}

// figures of a candidate, by name, one value per round.
type figures map[string][]float64

func (f figures) add(name string, v float64) { f[name] = append(f[name], v) }

func median(v []float64) float64 {
	if len(v) == 0 {
		return -1
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func run(rounds int, only, which string, idle int) error {
	var chosen []candidate
	for _, c := range candidates() {
		if only == "" || c.name == "raw" || slices.Contains(strings.Split(only, ","), c.name) {
			chosen = append(chosen, c)
		}
	}
	all := map[string]figures{}
	for _, c := range chosen {
		all[c.name] = figures{}
	}
	for round := range rounds {
		order := rand.Perm(len(chosen))
		for _, part := range parts {
			if which != "" && !slices.Contains(strings.Split(which, ","), part.name) || part.name == "memory" && round > 2 {
				continue // memory varies little
			}
			for _, i := range order {
				fmt.Fprintf(os.Stderr, "round %d of %d: %s, %s\n", round+1, rounds, part.name, chosen[i].name)
				if err := part.run(chosen[i], all[chosen[i].name], idle); err != nil {
					return fmt.Errorf("%s, %s: %w", part.name, chosen[i].name, err)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "so far:\n")
		table(os.Stderr, chosen, all)
	}
	table(os.Stdout, chosen, all)
	return nil
}

type part struct {
	name string
	run  func(c candidate, f figures, idle int) error
}

var parts = []part{
	{"wide", func(c candidate, f figures, _ int) error { return bulk(c, f, "wide", 0) }},
	{"narrow", func(c candidate, f figures, _ int) error { return bulk(c, f, "narrow", 50e6) }},
	{"requests", func(c candidate, f figures, _ int) error { return requests(c, f) }},
	{"never", func(c candidate, f figures, _ int) error { return neverRead(c, f) }},
	{"memory", memory},
}

// handler is the agent's. GET /N answers with N bytes.
type handler struct{ written atomic.Int64 }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	n, err := strconv.Atoi(r.URL.Path[1:])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	block := make([]byte, min(n, 32<<10))
	for n > 0 {
		m, err := w.Write(block[:min(n, len(block))])
		h.written.Add(int64(m))
		if n -= m; err != nil {
			return
		}
	}
}

func get(ctx context.Context, rt http.RoundTripper, n int) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://agent/%d", n), bytes.NewReader(nil))
	if err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return resp.Body, nil
}

func fetch(ctx context.Context, rt http.RoundTripper, n int) error {
	body, err := get(ctx, rt, n)
	if err != nil {
		return err
	}
	defer body.Close()
	m, err := io.Copy(io.Discard, body)
	if err == nil && m != int64(n) {
		err = fmt.Errorf("%d bytes instead of %d", m, n)
	}
	return err
}

// bulk measures one large response, and small requests and pings beside it.
func bulk(c candidate, f figures, name string, rate float64) error {
	t, err := newTunnel(c, rtt, rate)
	if err != nil {
		return err
	}
	// The tunnel ends first: with some candidates a stream that is closed goes on.
	var wg sync.WaitGroup
	defer wg.Wait()
	defer t.close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 3 { // connections and streams are there, windows are as they begin
		if err := fetch(ctx, t, 1<<10); err != nil {
			return err
		}
	}
	body, err := get(ctx, t, 4<<30)
	if err != nil {
		return err
	}
	var got atomic.Int64
	wg.Go(func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := body.Read(buf)
			got.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	time.Sleep(time.Second) // for windows to grow
	from, start := got.Load(), time.Now()
	time.Sleep(1200 * time.Millisecond)
	f.add(name+" MB/s", float64(got.Load()-from)/1e6/time.Since(start).Seconds())

	var small, pings []float64
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		begin := time.Now()
		if err := fetch(ctx, t, 1<<10); err != nil {
			return err
		}
		small = append(small, ms(time.Since(begin)-rtt))
		if t.ping != nil {
			begin := time.Now()
			if err := t.ping(); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
			pings = append(pings, ms(time.Since(begin)-rtt))
		}
	}
	f.add(name+" p50", quantile(small, 0.5))
	f.add(name+" p99", quantile(small, 0.99))
	if len(pings) > 0 {
		f.add(name+" ping p50", quantile(pings, 0.5))
		f.add(name+" ping p99", quantile(pings, 0.99))
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

func quantile(v []float64, q float64) float64 {
	slices.Sort(v)
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

// requests measures small requests without a link.
func requests(c candidate, f figures) error {
	t, err := newTunnel(c, 0, 0)
	if err != nil {
		return err
	}
	defer t.close()
	for _, inFlight := range []int{1, 64} {
		if _, err := perSecond(t, inFlight, 300*time.Millisecond); err != nil {
			return err
		}
		n, err := perSecond(t, inFlight, time.Second)
		if err != nil {
			return err
		}
		f.add(fmt.Sprintf("%d in flight", inFlight), n)
	}
	return nil
}

func perSecond(t *tunnel, inFlight int, d time.Duration) (float64, error) {
	var n atomic.Int64
	var failed atomic.Value
	var wg sync.WaitGroup
	start := time.Now()
	for range inFlight {
		wg.Go(func() {
			for time.Since(start) < d {
				if err := fetch(context.Background(), t, 1<<10); err != nil {
					failed.Store(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	err, _ := failed.Load().(error)
	return float64(n.Load()) / time.Since(start).Seconds(), err
}

// neverRead measures bulk beside a response that nobody reads, and how much of it
// somebody holds.
func neverRead(c candidate, f figures) error {
	t, err := newTunnel(c, 0, 0)
	if err != nil {
		return err
	}
	defer t.close()
	speed := func() (float64, error) {
		const n = 48 << 20
		start := time.Now()
		err := fetch(context.Background(), t, n)
		return n / 1e6 / time.Since(start).Seconds(), err
	}
	if _, err := speed(); err != nil {
		return err
	}
	before, err := speed()
	if err != nil {
		return err
	}
	t.handler.written.Store(0)
	if _, err := get(context.Background(), t, 4<<30); err != nil {
		return err
	}
	time.Sleep(700 * time.Millisecond)
	f.add("held KiB", float64(t.handler.written.Load())/1024)
	after, err := speed()
	if err != nil {
		return err
	}
	f.add("beside never read", after/before)
	return nil
}

func table(w io.Writer, chosen []candidate, all map[string]figures) {
	fmt.Fprintf(w, "Measured %s on %d cores (%s/%s, %s).\n\n| |", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	for _, c := range chosen {
		fmt.Fprintf(w, " %s |", c.title)
	}
	fmt.Fprintf(w, "\n|---%s|\n", strings.Repeat("|---", len(chosen)))
	row := func(title, name, format string, ratio bool) {
		if !slices.ContainsFunc(chosen, func(c candidate) bool { return len(all[c.name][name]) > 0 }) {
			return
		}
		fmt.Fprintf(w, "| %s |", title)
		raw := all["raw"][name]
		for _, c := range chosen {
			v := all[c.name][name]
			switch {
			case len(v) == 0:
				fmt.Fprint(w, " – |")
			case ratio && c.name != "raw":
				fmt.Fprintf(w, " %.2f (%.2f) |", median(v)/median(raw), slices.Max(v)/slices.Max(raw))
			case ratio:
				fmt.Fprintf(w, " "+format+" ("+format+") |", median(v), slices.Max(v))
			default:
				fmt.Fprintf(w, " "+format+" ("+format+") |", median(v), slices.Min(v))
			}
		}
		fmt.Fprintln(w)
	}
	for _, link := range []string{"wide", "narrow"} {
		row(link+" link: bulk / raw", link+" MB/s", "%.0f MB/s", true)
		row(link+" link, in bulk: small request p50 − RTT, ms", link+" p50", "%.1f", false)
		row(link+" link, in bulk: small request p99 − RTT, ms", link+" p99", "%.1f", false)
		row(link+" link, in bulk: ping p50 − RTT, ms", link+" ping p50", "%.1f", false)
		row(link+" link, in bulk: ping p99 − RTT, ms", link+" ping p99", "%.1f", false)
	}
	row("requests/s of 1 KB, 1 in flight / raw", "1 in flight", "%.0f/s", true)
	row("requests/s of 1 KB, 64 in flight / raw", "64 in flight", "%.0f/s", true)
	row("bulk beside a response that is never read / without", "beside never read", "%.2f", false)
	row("held of what is never read, KiB", "held KiB", "%.0f", false)
	row("idle session at the replica: heap and stacks, KiB", "heap KiB", "%.1f", false)
	row("idle session at the replica: resident, KiB", "rss KiB", "%.1f", false)
}

// listen is a listener on loopback.
func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
