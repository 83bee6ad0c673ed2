package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/testport"
)

// A replica that is told to stop goes on until load balancers know, and loses no request
// then: rolling upgrades rest on it. It serves with ACME, which has a port of its own.
func TestAReplicaLingersBeforeItStops(t *testing.T) {
	t.Parallel()
	asked, over := make(chan time.Duration, 1), make(chan time.Time)
	plain := fmt.Sprintf("127.0.0.1:%d", testport.Reserve(t, 1)[0])
	f := &fakeACME{keyTokens: "token.key"}
	loaded := make(chan bool, 1) // whether the front was open then
	r := startReplicas(t, 1, func(_ int, o *Options) {
		f.load = func() {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", o.ListenAddr)
			if err == nil {
				_ = c.Close()
			}
			loaded <- err == nil
		}
		o.ACME, o.ACMEHTTPAddr, o.public = true, plain, f
		o.ShutdownDelay = 7 * time.Second
		o.after = func(d time.Duration) <-chan time.Time { asked <- d; return over }
	})
	if <-loaded {
		t.Error("a handshake could come before the certificate was there") // R1
	}
	public := r.opts[0].ListenAddr
	goOn := sync.OnceFunc(func() { close(over) })
	t.Cleanup(goOn)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.hostCAs())
	client := func(protocols ...string) *http.Client {
		p := new(http.Protocols)
		p.SetHTTP1(len(protocols) == 0)
		p.SetHTTP2(len(protocols) > 0)
		tr := &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: patience}
	}
	ping := func(c *http.Client) (closes bool, err error) {
		resp, err := c.Get("https://" + public + api.PathPing) //nolint:noctx // bounded by the client
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return false, fmt.Errorf("%s %s %w", resp.Status, b, err)
		}
		return resp.Close, nil
	}
	one, two := client(), client("h2")
	for _, c := range []*http.Client{one, two} {
		if closes, err := ping(c); err != nil || closes {
			t.Fatalf("closes: %v, %v", closes, err)
		}
	}

	r.run[0].cancel()
	if d := <-asked; d != r.opts[0].ShutdownDelay {
		t.Errorf("it waits %s", d)
	}
	if status, reason := r.readiness(0); status != http.StatusServiceUnavailable || !strings.Contains(reason, "shutting down") {
		t.Errorf("ready: %d %s", status, reason)
	}
	if closes, err := ping(one); err != nil || !closes {
		t.Errorf("a kept connection of HTTP/1.1: closes: %v, %v", closes, err)
	}
	if _, err := ping(two); err != nil {
		t.Errorf("a kept connection of HTTP/2: %v", err)
	}
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(), "HTTP/2": client("h2")} {
		if _, err := ping(c); err != nil {
			t.Errorf("a new connection of %s: %v", name, err)
		}
	}
	resp, err := http.Get("http://" + plain + "/.well-known/acme-challenge/token") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != f.keyTokens {
		t.Errorf("HTTP-01: %s %v", b, err)
	}
	_ = resp.Body.Close()

	// Now nothing new is taken, and who is there is told.
	conn, err := tls.Dial("tcp", public, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, ServerName: "127.0.0.1"}) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Begun before the drain, and ended within it.
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", api.PathLogin, public); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = answers.ReadString('\n')
	goOn()
	eventually(t, patience, "the port is closed", func() error {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", public)
		if err != nil {
			return nil //nolint:nilerr // as it should be
		}
		return fmt.Errorf("open; closed again: %w", c.Close())
	})
	if _, err := io.WriteString(conn, "{}"); err != nil {
		t.Fatal(err)
	}
	last, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatalf("a request that was under way is lost: %v", err)
	}
	_ = last.Body.Close()
	if last.StatusCode >= http.StatusInternalServerError || !last.Close {
		t.Errorf("%s, closes: %v", last.Status, last.Close)
	}
	r.stop(0, r.run[0])
}

// Reliability row 25. What an authority has issued is stored before there is no cluster to take it.
func TestAReplicaThatStopsWaitsForItsOrder(t *testing.T) {
	t.Parallel()
	f := &fakeACME{}
	r := startReplicas(t, 1, func(_ int, o *Options) {
		o.ACME, o.ACMEHTTPAddr, o.public = true, fmt.Sprintf("127.0.0.1:%d", testport.Reserve(t, 1)[0]), f
	})
	stored := make(chan error, 1)
	f.end = func() {
		over, tick := time.After(time.Second), time.NewTicker(20*time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				stored <- nil
				return
			case <-tick.C:
			}
			if err := r.run[0].srv.node.Linearize(context.WithoutCancel(t.Context())); err != nil {
				stored <- err
				return
			}
		}
	}
	r.stop(0, r.run[0])
	if err := <-stored; err != nil {
		t.Errorf("Raft ended first: %v", err)
	}
}

// Nobody was ever sent to a replica that is not ready yet.
func TestAReplicaThatNeverServedDoesNotLinger(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		delay  time.Duration
		served bool
		want   bool
	}{
		"served":       {time.Hour, true, true},
		"never served": {time.Hour, false, false},
		"no delay":     {0, true, false},
	} {
		waited := false
		s := &Server{log: testLogger(t, 0), opts: Options{ShutdownDelay: c.delay, after: func(time.Duration) <-chan time.Time {
			waited = true
			over := make(chan time.Time)
			close(over)
			return over
		}}}
		s.linger(context.Background(), c.served)
		if waited != c.want {
			t.Errorf("%s: %v", name, waited)
		}
	}
}
