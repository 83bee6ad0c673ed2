package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/api"
)

type countingRecorder struct{ n atomic.Int64 }

func (r *countingRecorder) Record(api.Event) { r.n.Add(1) }

func (r *countingRecorder) Commit(context.Context, api.Event) error { r.n.Add(1); return nil }

// indexRight is stale when the index of what it read has moved, as a record's
// revision does: unrelated writes move another one.
type indexRight struct {
	mine *atomic.Uint64
	seen uint64
}

func (r *indexRight) Stale() bool { return r.mine.Load() != r.seen }

func (r *indexRight) Watch(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// BenchmarkGrant is the decision of a request on a session in use, alone and
// while 100 unrelated records a second are written.
func BenchmarkGrant(b *testing.B) {
	for _, writes := range []int{0, 100} {
		b.Run(fmt.Sprintf("writes=%d", writes), func(b *testing.B) {
			var mine, unrelated atomic.Uint64
			auth := &fakeAuth{decide: func(id Identity, _, _ string, _ []string) (Decision, error) {
				return Decision{ImpersonateUser: id.User, ImpersonateGroups: []string{"devs"}, Right: &indexRight{&mine, mine.Load()}}, nil
			}}
			gs := newGrants(auth, time.Now)
			defer gs.close()
			ctx, cancel := context.WithCancel(b.Context())
			var writer sync.WaitGroup
			if writes > 0 {
				writer.Go(func() {
					tick := time.NewTicker(time.Second / time.Duration(writes))
					defer tick.Stop()
					for {
						select {
						case <-tick.C:
							unrelated.Add(1)
						case <-ctx.Done():
							return
						}
					}
				})
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var f flight
				for pb.Next() {
					g, err := gs.get(ctx, alice, "prod", "", nil)
					if err != nil {
						b.Error(err)
						return
					}
					if err := g.begin(&f, time.Now()); err != nil {
						b.Error(err)
						return
					}
					g.finish(&f)
				}
			})
			b.StopTimer()
			cancel()
			writer.Wait()
			if auth.calls > 2 {
				b.Errorf("%d decisions were made: unrelated writes drop them", auth.calls)
			}
		})
	}
}

// BenchmarkProxy compares, in one run and over the same two TLS HTTP/2 hops: no
// proxy at all, httputil.ReverseProxy that only sets impersonation, and Handler
// with decision, audit and metrics.
func BenchmarkProxy(b *testing.B) {
	for _, size := range []int{3700, 200 << 10} {
		payload := strings.Repeat("x", size)
		back := newBackend(b, nil)
		back.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, payload)
		})
		up := back.upstream(b)
		recorder := &countingRecorder{}
		h, err := New(Options{Authorizer: &fakeAuth{}, Targets: StaticTargets{"prod": up}, Recorder: recorder, ClusterName: "c"})
		if err != nil {
			b.Fatal(err)
		}
		plain := &httputil.ReverseProxy{
			Transport: up.Plain,
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(up.URL)
				r.Out.Header.Set("Impersonate-User", "alice")
				r.Out.Header["Impersonate-Group"] = []string{"devs", "system:authenticated"}
			},
		}
		info := &ConnInfo{Identity: alice, Kube: "prod"}
		servers := []struct {
			name   string
			server *httptest.Server
		}{
			{"direct", back.Server},
			{"reverseproxy", serveTLS(b, plain, func() *ConnInfo { return info })},
			{"sallyport", serveTLS(b, h, func() *ConnInfo { return info })},
		}
		for _, s := range servers {
			for _, workers := range []int{1, 64} {
				b.Run(fmt.Sprintf("%dB/workers=%d/%s", size, workers, s.name), func(b *testing.B) {
					load(b, s.server, workers)
				})
			}
		}
		_ = h.Close()
	}
}

// BenchmarkIdleWatch is the memory of a watch on which nothing happens, 100 to a
// connection, of client, proxy and server together: the proxy's share is the
// difference to direct.
func BenchmarkIdleWatch(b *testing.B) {
	back := newBackend(b, nil)
	back.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "{}\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	up := back.upstream(b)
	h, err := New(Options{Authorizer: &fakeAuth{}, Targets: StaticTargets{"prod": up}, Recorder: &countingRecorder{}, ClusterName: "c"})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	plain := &httputil.ReverseProxy{Transport: up.Plain, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(up.URL) }}
	for _, s := range []struct {
		name   string
		server *httptest.Server
	}{
		{"direct", back.Server},
		{"reverseproxy", serveTLS(b, plain, func() *ConnInfo { return nil })},
		{"sallyport", serveTLS(b, h, func() *ConnInfo { return &ConnInfo{Identity: alice, Kube: "prod"} })},
	} {
		b.Run(s.name, func(b *testing.B) {
			const watches = 1000
			before := memory()
			var transports []*http.Transport
			var bodies []io.Closer
			for i := range watches {
				if i%100 == 0 {
					transports = append(transports, s.server.Client().Transport.(*http.Transport).Clone())
				}
				res, err := transports[len(transports)-1].RoundTrip(newRequest(b, http.MethodGet, s.server.URL+"/api/v1/pods?watch=1", nil))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(res.Body, make([]byte, 3)); err != nil {
					b.Fatal(err)
				}
				bodies = append(bodies, res.Body)
			}
			b.ReportMetric(float64(memory()-before)/watches/1024, "KiB/watch")
			b.ReportMetric(0, "ns/op")
			for _, c := range bodies {
				_ = c.Close()
			}
			for _, t := range transports {
				t.CloseIdleConnections()
			}
		})
	}
}

func memory() int64 {
	runtime.GC()
	runtime.GC() // the second empties what sync.Pools kept from the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func load(b *testing.B, s *httptest.Server, workers int) {
	u, err := url.Parse(s.URL + "/api/v1/namespaces/default/pods?limit=500")
	if err != nil {
		b.Fatal(err)
	}
	transport := s.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	defer transport.CloseIdleConnections()
	var left atomic.Int64
	left.Store(int64(b.N))
	var mu sync.Mutex
	var times []time.Duration
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime(b)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var mine []time.Duration
			for left.Add(-1) >= 0 {
				began := time.Now()
				res, err := transport.RoundTrip(&http.Request{
					Method: http.MethodGet, URL: u, Host: u.Host,
					Header: http.Header{"Accept": {"application/json"}, "User-Agent": {"kubectl/v1.34"}, "Kubectl-Command": {"kubectl get"}},
				})
				if err != nil {
					b.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
					b.Errorf("HTTP %s, %v", res.Status, err)
				}
				_ = res.Body.Close()
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
		})
	}
	wg.Wait()
	b.StopTimer()
	// Of client, proxy and server together; steadier than the time on a shared machine.
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
