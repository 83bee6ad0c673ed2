package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkTunnelHop compares, in turns, a small GET to one and the same handler
// over TLS on loopback: directly; through a reverse proxy (what any hop costs); over
// the replica's own tunnel; and over one hop to the replica that has the tunnel.
// What it reports are medians, and what each way adds to the direct one.
func BenchmarkTunnelHop(b *testing.B) {
	payload := strings.Repeat("x", 3700)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, payload)
	})
	direct := httptest.NewTLSServer(handler)
	defer direct.Close()
	back, err := url.Parse(direct.URL)
	if err != nil {
		b.Fatal(err)
	}
	between := httptest.NewTLSServer(&httputil.ReverseProxy{
		Transport: transportTo(direct.Certificate()),
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(back) },
	})
	defer between.Close()

	all := startReplicas(b, "a", "b")
	ag := all[0].connectTLS(b, agentID(1), direct.TLS.Certificates[0], direct.Certificate())
	ag.handler = handler
	ag.hello(b, "cookie")
	ag.hear(b, "welcome", isWelcome)
	ag.serve(b)
	all[1].knows(b, agentID(1), "a")

	ways := []struct {
		name string
		rt   http.RoundTripper
		url  string
		took []time.Duration
	}{
		{name: "direct", rt: transportTo(direct.Certificate()), url: direct.URL},
		{name: "proxy", rt: transportTo(between.Certificate()), url: between.URL},
		{name: "own"},
		{name: "hop"},
	}
	for i, r := range all {
		up, err := r.Target("cookie")
		if err != nil {
			b.Fatal(err)
		}
		ways[2+i].rt, ways[2+i].url = up.Plain, up.URL.String()
	}
	ask := func(rt http.RoundTripper, to string) time.Duration {
		start := time.Now()
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, to+"/api/v1/namespaces", nil)
		if err != nil {
			b.Fatal(err)
		}
		res, err := rt.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); err != nil || n != int64(len(payload)) {
			b.Fatal(n, err)
		}
		_ = res.Body.Close()
		return time.Since(start)
	}
	for i := range ways {
		for range 50 {
			ask(ways[i].rt, ways[i].url)
		}
	}
	for b.Loop() {
		for i := range ways {
			ways[i].took = append(ways[i].took, ask(ways[i].rt, ways[i].url))
		}
	}
	p50 := make(map[string]float64)
	for _, w := range ways {
		slices.Sort(w.took)
		p50[w.name] = float64(w.took[len(w.took)/2].Nanoseconds()) / 1e3
		b.ReportMetric(p50[w.name], w.name+"-p50-µs")
	}
	added := p50["proxy"] - p50["direct"]
	b.ReportMetric((p50["own"]-p50["direct"])/added, "own-added/proxy-added")
	b.ReportMetric((p50["hop"]-p50["direct"])/added, "hop-added/proxy-added")
	b.ReportMetric(p50["own"]/p50["direct"], "own/direct")
	b.ReportMetric(p50["hop"]/p50["direct"], "hop/direct")
}

func transportTo(cert *x509.Certificate) *http.Transport {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, DisableCompression: true}
}

// connectTLS is connect over TLS.
func (r *replica) connectTLS(b *testing.B, id string, cert tls.Certificate, ca *x509.Certificate) *agent {
	b.Helper()
	near, far := tcpPair(b)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	client := tls.Client(near, &tls.Config{RootCAs: pool, ServerName: "example.com", MinVersion: tls.VersionTLS13})
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	shaken := make(chan error, 1)
	go func() { shaken <- server.HandshakeContext(b.Context()) }()
	if err := client.HandshakeContext(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := <-shaken; err != nil {
		b.Fatal(err)
	}
	return r.begin(b, id, client, server)
}

// BenchmarkPick is the choice among three agents of a cluster.
func BenchmarkPick(b *testing.B) {
	r := startPiped(b, "a")[0]
	for i := range 3 {
		r.dial(b, agentID(i), "cookie")
	}
	b.ReportAllocs()
	for b.Loop() {
		if r.pick("cookie", nil) == nil {
			b.Fatal("no way")
		}
	}
}
