package tests

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Where nobody but a proxy speaks TLS at port 443, HTTP-01 is what works. Then the
// authority asks for a renewal ahead of time (ARI), under traffic.
func TestACMEByHTTPAndRenewed(t *testing.T) {
	t.Parallel()
	a := startACME(t, testbed.PebbleOptions{RenewalEvery: 5 * time.Second}, true)
	a.resolve(t, here, clusterName)
	for _, relay := range a.alpn {
		relay.Pin("127.0.0.1:1") // nobody is there
	}
	// The first try is TLS-ALPN-01. Its failure is one at the authority: all stay away.
	if s := a.shows(t, a.users[0].Addr(), clusterName); s.public {
		t.Fatal("a certificate though no challenge could be answered")
	}
	st := a.status(t, func(c api.WebCertificate) bool { return c.State == api.CertificateFailing })
	if valid, invalid := a.pebble.Validations(); st.Failures != 1 || valid != 0 || invalid != 1 || len(a.orders("")) != 1 || !strings.Contains(st.LastError, "the authority says") {
		t.Errorf("%d and %d challenges, %+v", valid, invalid, st)
	}
	t.Logf("after TLS-ALPN-01 failed: %s; the next try is %v later", st.LastError, st.NextTry.Sub(st.LastErrorAt))
	a.resolve(t, there, clusterName) // a change: it is tried at once, and the other way
	s := a.shows(t, a.users[0].Addr(), clusterName)
	if valid, invalid := a.pebble.Validations(); !s.public || valid != 1 || invalid != 1 || len(a.orders("")) != 2 {
		t.Fatalf("%d and %d challenges, a certificate by %v", valid, invalid, s.leaf.Issuer)
	}
	var at [3]int
	for i, r := range a.Replicas {
		at[i] = a.plain[1].Served(r.ACMEHTTPAddr())
	}
	t.Logf("by HTTP-01 after %v, with %v connections to the three replicas", s.took, at)
	a.redirects(t)
	for _, relay := range a.alpn {
		relay.Pin("")
	}
	a.isRenewed(t, s)
}

// redirects looks at what port 80 says besides.
func (a *acmeCluster) redirects(t *testing.T) {
	t.Helper()
	public := net.JoinHostPort(publicName, a.port)
	for _, tc := range []struct {
		host, path string
		status     int
		to         string
	}{
		{clusterName, "/", http.StatusPermanentRedirect, "https://" + public + "/"},
		{publicName, "/web/login?x=1", http.StatusPermanentRedirect, "https://" + public + "/web/login?x=1"},
		{clusterName, "/.well-known/acme-challenge/unknown", http.StatusNotFound, ""},
		{clusterName, "/.well-known/acme-challenge/", http.StatusNotFound, ""},
		{"x." + clusterName, "/", http.StatusNotFound, ""},
		{"random.example", "/.well-known/acme-challenge/unknown", http.StatusNotFound, ""},
	} {
		for _, r := range a.Replicas {
			req, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodGet, "http://"+r.ACMEHTTPAddr()+tc.path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = tc.host
			tr := &http.Transport{DisableKeepAlives: true}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tc.status || resp.Header.Get("Location") != tc.to {
				t.Errorf("http://%s%s: %s, to %q", tc.host, tc.path, resp.Status, resp.Header.Get("Location"))
			}
		}
	}
}

// isRenewed has the authority say that it wants a certificate replaced now.
func (a *acmeCluster) isRenewed(t *testing.T, old shown) {
	t.Helper()
	before := len(a.orders(""))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var handshakes atomic.Int64
	var traffic sync.WaitGroup
	for range 3 {
		traffic.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				if s, err := a.handshake(t.Context(), a.users[0].Addr(), clusterName); err != nil || !s.public {
					t.Errorf("while it is renewed: %+v, %v", s, err)
					return
				}
				handshakes.Add(1)
				<-tick.C
			}
		})
	}
	defer traffic.Wait()
	defer stop()
	start := time.Now()
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: old.leaf.Raw})
	if err := a.pebble.SetRenewal(chain, start.Add(-20*time.Minute), start.Add(-10*time.Minute)); err != nil {
		t.Fatal(err)
	}
	var serial string
	testbed.Wait(t, 40*time.Second, "the new certificate at all replicas", func() error {
		serial = ""
		for _, r := range a.Replicas {
			s, err := a.handshake(t.Context(), r.ListenAddr(), clusterName)
			if err != nil {
				return err
			}
			if s.serial() == old.serial() || serial != "" && s.serial() != serial {
				return errNotRenewed(r.Name)
			}
			serial = s.serial()
		}
		return nil
	})
	took := time.Since(start)
	stop()
	traffic.Wait()
	orders := a.orders("")
	t.Logf("renewed as the authority asked after %v, %d order for it; %d handshakes meanwhile, none failed", took, len(orders)-before, handshakes.Load())
	if len(orders)-before != 1 || orders[len(orders)-1].Replaces == "" {
		t.Errorf("orders: %+v", orders)
	}
}

type errNotRenewed string

func (e errNotRenewed) Error() string { return string(e) + " does not show what the others do" }
