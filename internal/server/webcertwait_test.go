package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// neverOrdered waits for as long as it may.
func neverOrdered(ctx context.Context, _ string) (*tls.Certificate, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Who has gone keeps nobody else from waiting.
func TestAClientThatHasGoneDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		certs, web := acmeCertificates(t, &fakeACME{order: neverOrdered}, t.Context())
		web.slots.perNetwork = 3
		l := pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		stop := serveFront(certs, false, l)
		defer stop()
		for range 2 {
			var clients []net.Conn
			var wg sync.WaitGroup
			for range 3 {
				client, server := net.Pipe()
				clients = append(clients, client)
				l.conns <- server
				wg.Go(func() {
					c := tls.Client(client, &tls.Config{ServerName: testCluster, InsecureSkipVerify: true}) //nolint:gosec // not about trust
					if err := c.HandshakeContext(t.Context()); err == nil {
						t.Error("a handshake after the client has gone")
					}
				})
			}
			synctest.Wait()
			if web.slots.all != 3 {
				t.Errorf("%d wait", web.slots.all)
			}
			for _, c := range clients {
				_ = c.Close()
			}
			wg.Wait()
			synctest.Wait()
			if web.slots.all != 0 {
				t.Errorf("%d still count", web.slots.all)
			}
		}
	})
}

// chatty says more than its ClientHello before it is answered: what TLS 1.3 means for
// middleboxes (RFC 8446 appendix D.4), which servers ignore.
type chatty struct {
	net.Conn
	once sync.Once
	more sync.WaitGroup // a pipe takes nothing that nobody reads
}

func (c *chatty) Write(p []byte) (n int, err error) {
	c.more.Wait()
	n, err = c.Conn.Write(p)
	c.once.Do(func() {
		c.more.Go(func() { _, _ = c.Conn.Write([]byte{20, 3, 3, 0, 1, 1}) })
	})
	return n, err
}

// Nothing is lost of what a client says while it waits.
func TestAClientMaySpeakWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		public := selfSigned(t)
		certs, _ := acmeCertificates(t, &fakeACME{order: func(context.Context, string) (*tls.Certificate, error) {
			<-time.After(20 * time.Second)
			return &public, nil
		}}, t.Context())
		l := pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		stop := serveFront(certs, false, l)
		defer stop()
		client, server := net.Pipe()
		defer client.Close()
		l.conns <- server
		c := tls.Client(&chatty{Conn: client}, &tls.Config{ServerName: testCluster, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS13}) //nolint:gosec // not about trust
		if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", testCluster); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := c.ConnectionState().PeerCertificates[0].Issuer.CommonName; got != "alice" || resp.StatusCode != http.StatusOK {
			t.Errorf("a certificate by %q, %s", got, resp.Status)
		}
	})
}

// Whichever of the names has a certificate, one by a public authority is better than
// the host CA's for who says no name.
func TestWhoSaysNoNameSeesAnyValidCertificate(t *testing.T) {
	t.Parallel()
	public := selfSigned(t) // of alice
	for _, name := range []string{testCluster, "web." + testCluster} {
		f := &fakeACME{of: name}
		f.current.Store(&public)
		_, web := acmeCertificates(t, f, t.Context())
		for _, asked := range []string{"", "other.example.net"} {
			cert, err := web.show(&tls.ClientHelloInfo{ServerName: asked})
			if err != nil || cert != &public {
				t.Errorf("with one for %s, %q sees %v, %v", name, asked, cert, err)
			}
		}
	}
}

// R1: a crowd of would-be authorities costs the store little.
func TestFewChallengesAtATime(t *testing.T) {
	t.Parallel()
	proof := selfSigned(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	f := &fakeACME{proof: &proof, proving: func() { asked <- struct{}{}; <-answer }}
	certs, web := acmeCertificates(t, f, t.Context())
	web.challenges.perNetwork = 2
	hello := func() *tls.ClientHelloInfo {
		_, conn := net.Pipe()
		return &tls.ClientHelloInfo{ServerName: testCluster, Conn: conn, SupportedProtos: []string{acmeTLS}}
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := certs.challenge(hello()); err != nil {
				t.Error(err)
			}
		})
	}
	<-asked
	<-asked
	if _, err := certs.challenge(hello()); !errors.Is(err, errChallenges) {
		t.Errorf("one too many: %v", err)
	}
	close(answer)
	wg.Wait()
	if web.challenges.all != 0 {
		t.Errorf("%d still count", web.challenges.all)
	}
	if _, err := certs.challenge(&tls.ClientHelloInfo{ServerName: strings.ToUpper("other." + testCluster)}); !errors.Is(err, errNoChallenge) {
		t.Errorf("another name: %v", err)
	}
}

// R1: whoever has a proxy in front knows better than the preflight.
func TestAnOperatorOverrulesThePreflight(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]bool{"": true, acmePreflightOn: true, ACMEPreflightOff: false} {
		s := &Server{opts: Options{ACMEPreflight: mode}}
		if got := s.preflight() != nil; got != want {
			t.Errorf("%q: %v", mode, got)
		}
	}
}

// R1: --acme comes to replicas one by one, and the authority asks any of them.
func TestReplicasWithoutACMEAnswerChallenges(t *testing.T) {
	t.Parallel()
	proof := selfSigned(t)
	certs, web := acmeCertificates(t, &fakeACME{proof: &proof}, t.Context())
	web.acme = nil
	_, conn := net.Pipe()
	cfg, err := certs.challenge(&tls.ClientHelloInfo{ServerName: testCluster, Conn: conn, SupportedProtos: []string{acmeTLS}})
	if err != nil || len(cfg.Certificates) != 1 || !slices.Equal(cfg.Certificates[0].Certificate[0], proof.Certificate[0]) {
		t.Errorf("%v, %v", cfg, err)
	}
}
