package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/internal/acme"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

func pemOf(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }

// One replica serves the tests of the front: what each connection gets depends
// on the name it asks for and the certificate it shows.
func TestFront(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	r.addUser(0, "alice", "devs")
	alice := r.login(0, "alice")
	pair, err := tls.X509KeyPair(alice.CertPEM, alice.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	kube := api.KubeServerName(testCluster, testCluster)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.hostCAs())
	dial := func(addr, name string, certs ...tls.Certificate) (*tls.Conn, error) {
		c, err := tls.Dial("tcp", addr, &tls.Config{ //nolint:noctx // loopback
			ServerName: name, RootCAs: roots, Certificates: certs, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		})
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = c.Close() })
		return c, nil
	}
	get := func(c *tls.Conn, host, path string) (int, string, error) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+path, nil)
		if err := req.Write(c); err != nil {
			return 0, "", err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	public, kubeOnly := r.opts[0].ListenAddr, r.opts[0].KubeListenAddr

	t.Run("browsers are asked for no certificate", func(t *testing.T) {
		asked := false
		c, err := tls.Dial("tcp", public, &tls.Config{ //nolint:noctx // loopback
			ServerName: testCluster, RootCAs: roots, MinVersion: tls.VersionTLS12,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				return &tls.Certificate{}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		status, body, err := get(c, testCluster, "/webapi/ping")
		if err != nil || status != http.StatusOK || !strings.Contains(body, `"server_version"`) || asked {
			t.Fatal(status, body, err, asked)
		}
	})
	t.Run("a name below the cluster's that nothing is served under says so", func(t *testing.T) {
		for _, path := range []string{"/", "/webapi/ping", "/web/login", "/v1/webapi/saml/acs"} {
			for _, name := range []struct{ server, host string }{{"app." + testCluster, "app." + testCluster}, {testCluster, "app." + testCluster + ":443"}, {"a.b." + testCluster, public}} {
				c, err := tls.Dial("tcp", public, &tls.Config{ServerName: name.server, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec,noctx // no certificate is good for it
				if err != nil {
					t.Fatal(err)
				}
				status, body, err := get(c, name.host, path)
				_ = c.Close()
				if err != nil || status != http.StatusNotFound || !strings.HasPrefix(body, "nothing is served under this name: this is a Sallyport cluster, which is at https://"+public+"/") {
					t.Errorf("%s%s by %s: %d %s %v", name.host, path, name.server, status, body, err)
				}
			}
		}
		for _, host := range []string{testCluster, public, "localhost:3080", "replica-0.example.net"} {
			c, err := dial(public, testCluster)
			if err != nil {
				t.Fatal(err)
			}
			if status, body, err := get(c, host, "/webapi/ping"); err != nil || status != http.StatusOK {
				t.Errorf("%s: %d %s %v", host, status, body, err)
			}
		}
	})
	t.Run("kubectl reaches its cluster as alice", func(t *testing.T) {
		for _, addr := range []string{public, kubeOnly} {
			c, err := dial(addr, kube, pair)
			if err != nil {
				t.Fatal(err)
			}
			status, body, err := get(c, public, "/api/v1/namespaces")
			if err != nil || status != http.StatusOK {
				t.Fatal(status, body, err)
			}
			var seen struct{ User, Groups []string }
			if err := json.Unmarshal([]byte(body), &seen); err != nil {
				t.Fatal(err)
			}
			want := struct{ User, Groups []string }{[]string{"alice"}, []string{"devs", "system:authenticated"}}
			if d := cmp.Diff(want, seen); d != "" {
				t.Error(d)
			}
		}
	})
	t.Run("the path names the cluster on the kube port alone", func(t *testing.T) {
		c, err := dial(kubeOnly, "127.0.0.1", pair)
		if err != nil {
			t.Fatal(err)
		}
		if status, body, err := get(c, kubeOnly, "/k8s/"+testCluster+"/api"); err != nil || status != http.StatusOK {
			t.Fatal(status, body, err)
		}
		if c, err = dial(public, testCluster, pair); err != nil {
			t.Fatal(err)
		}
		if status, _, err := get(c, testCluster, "/k8s/"+testCluster+"/api"); err != nil || status != http.StatusNotFound {
			t.Fatal(status, err)
		}
	})
	t.Run("an unknown cluster is named in words kubectl prints", func(t *testing.T) {
		c, err := dial(public, "cooky.kube."+testCluster, pair)
		if err != nil {
			t.Fatal(err)
		}
		status, body, err := get(c, public, "/api")
		if err != nil || status != http.StatusForbidden || !strings.Contains(body, "cooky") {
			t.Fatal(status, body, err)
		}
	})
	t.Run("a session is not resumed", func(t *testing.T) {
		// A ticket would outlive the user CA, and pass from one name to another (CVE-2025-68121).
		cache := tls.NewLRUClientSessionCache(8)
		for i := range 6 {
			c, err := tls.Dial("tcp", public, &tls.Config{ //nolint:noctx // loopback
				ServerName: []string{kube, api.JoinServerName(testCluster)}[i/3], RootCAs: roots, Certificates: []tls.Certificate{pair}, ClientSessionCache: cache, MinVersion: tls.VersionTLS12,
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := get(c, public, "/api"); err != nil {
				t.Fatal(err)
			}
			if c.ConnectionState().DidResume {
				t.Fatalf("connection %d was resumed", i)
			}
			_ = c.Close()
		}
	})
	t.Run("who shows no certificate of the user CA gets nowhere", func(t *testing.T) {
		srv := r.run[0].srv
		hostCert, err := srv.auth.Authorities.HostCertificate(testCluster)
		if err != nil {
			t.Fatal(err)
		}
		for what, certs := range map[string][]tls.Certificate{
			"none": nil, "a self-signed one": {selfSigned(t)}, "a host certificate": {*hostCert},
			"alice's, with another in front of it": {{Certificate: [][]byte{selfSigned(t).Certificate[0], pair.Certificate[0]}, PrivateKey: pair.PrivateKey}},
		} {
			for _, to := range []struct{ addr, name string }{{public, kube}, {public, api.APIServerName(testCluster)}, {kubeOnly, testCluster}, {kubeOnly, kube}} {
				c, err := dial(to.addr, to.name, certs...)
				if err != nil {
					continue
				}
				// With TLS 1.3 the client learns of the refusal when it reads.
				if status, body, err := get(c, to.name, "/v1/session"); err == nil {
					t.Errorf("%s at %s as %s: answered %d %s", what, to.addr, to.name, status, body)
				}
			}
		}
	})
	// threats.md, join tokens: agents know this name's authority, whatever the web name shows.
	t.Run("agents join by a name of their own, and do nothing else by it", func(t *testing.T) {
		join, asked := api.JoinServerName(testCluster), false
		for _, call := range []struct {
			method, path string
			want         int
			says         string
		}{
			{http.MethodPost, api.PathJoin, http.StatusUnauthorized, "token"},
			{http.MethodPost, "/v1" + api.PathJoin, http.StatusUnauthorized, "token"},
			{http.MethodGet, api.PathJoin, http.StatusNotFound, "this name is for agents to join"},
			{http.MethodPost, api.PathJoin + "/", http.StatusNotFound, "this name is for agents to join"},
			{http.MethodPost, "/webapi/../" + api.PathJoin[1:], http.StatusNotFound, "this name is for agents to join"},
			{http.MethodGet, api.PathPing, http.StatusNotFound, "this name is for agents to join"},
			{http.MethodPost, api.PathLogin, http.StatusNotFound, "this name is for agents to join"},
			{http.MethodGet, "/", http.StatusNotFound, "this name is for agents to join"},
			{http.MethodGet, "/v1/session", http.StatusNotFound, "this name is for agents to join"},
			{http.MethodGet, "/k8s/" + testCluster + "/api", http.StatusNotFound, "this name is for agents to join"},
		} {
			c, err := tls.Dial("tcp", public, &tls.Config{ //nolint:noctx // loopback
				ServerName: join, RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { asked = true; return &pair, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			if chain := c.ConnectionState().PeerCertificates; len(chain) != 2 || !roots.Equal(poolOf(chain[1:])) {
				t.Errorf("%d certificates are shown, want the host CA's too", len(chain))
			}
			fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 13\r\n\r\n{\"token\":\"x\"}", call.method, call.path, public)
			answer, _ := io.ReadAll(c)
			if got := string(answer); !strings.HasPrefix(got, fmt.Sprint("HTTP/1.1 ", call.want)) || !strings.Contains(got, call.says) {
				t.Errorf("%s %s: %s", call.method, call.path, got)
			}
			_ = c.Close()
		}
		if asked {
			t.Error("a certificate is asked for")
		}
		if c, err := dial(kubeOnly, join, pair); err == nil {
			status, body, err := get(c, public, "/api")
			t.Errorf("agents join on the port for kubectl: %d %s %v", status, body, err)
		}
	})
	t.Run("a token's pin is good behind a public certificate", func(t *testing.T) {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "c"), filepath.Join(dir, "k")
		certPEM, keyPEM := certPair(t)
		if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := r.run[0].srv.Reload(Reload{CertFile: cert, KeyFile: key}); err != nil {
			t.Fatal(err)
		}
		if c, err := dial(public, testCluster); err == nil {
			t.Errorf("the web name shows a certificate of %v", c.ConnectionState().PeerCertificates[0].Issuer)
		}
		r.startAgent("behind", r.pinned(0), func(o *agent.Options) { // on a machine that trusts it
			o.Roots = x509.NewCertPool()
			o.Roots.AppendCertsFromPEM(certPEM)
		}).stop()
		r.showsCertificate(api.CertificateFile, selfSignedUntil(t, certPEM))
		if err := r.run[0].srv.Reload(Reload{}); err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(r.hostCAs())
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		r.showsCertificate(api.CertificateHostCA, ca.NotAfter)
	})
	// R1: --acme comes to replicas one by one, and the authority asks any of them.
	t.Run("a challenge is answered without ACME", func(t *testing.T) {
		srv := r.run[0].srv
		storage := acme.NewStorage(acme.StorageOptions{DB: srv.store, Sealer: srv.auth.Sealer(), Owner: "another replica"})
		challenge := `{"type":"tls-alpn-01","token":"t","keyAuthorization":"t.k","identifier":{"type":"dns","value":"` + testCluster + `"}}`
		if err := storage.Store(t.Context(), "challenges/"+testCluster+".json", []byte(challenge)); err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", public, &tls.Config{ServerName: testCluster, NextProtos: []string{acmeTLS}, InsecureSkipVerify: true}) //nolint:gosec,noctx // the authority looks at the extension alone
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if state := conn.ConnectionState(); state.NegotiatedProtocol != acmeTLS || !slices.ContainsFunc(state.PeerCertificates[0].Extensions, func(e pkix.Extension) bool {
			return e.Id.String() == "1.3.6.1.5.5.7.1.31" // id-pe-acmeIdentifier (RFC 8737 section 3)
		}) {
			t.Errorf("%q with a certificate of %s", state.NegotiatedProtocol, state.PeerCertificates[0].Issuer)
		}
	})
	t.Run("the API knows whose certificate it is", func(t *testing.T) {
		c, err := client.NewAPI(public, client.APIOptions{CertPEM: alice.CertPEM, KeyPEM: alice.KeyPEM, HostCAs: alice.HostCAs, ClusterName: testCluster, Agent: "test"})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Session(t.Context())
		if err != nil || s.User != "alice" {
			t.Fatal(s, err)
		}
		if _, err := c.Status(t.Context()); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("status for alice: %v", err)
		}
		if _, err := c.Backup(t.Context(), io.Discard); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("backup for alice: %v", err)
		}
		if _, err := c.RetryACME(t.Context(), ""); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("an order for alice: %v", err)
		}
		if _, err := c.Recover(t.Context(), "x"); !api.IsCode(err, api.CodeNotFound) {
			t.Errorf("recovery over the network: %v", err)
		}
		if err := c.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Session(t.Context()); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("after logout: %v", err)
		}
	})
}

func selfSignedUntil(t *testing.T, certPEM []byte) time.Time {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.NotAfter
}

// showsCertificate wants status and metrics of replica 0 to tell of a certificate.
func (r *replicas) showsCertificate(source string, until time.Time) {
	r.t.Helper()
	st, err := r.admin(0).Status(r.t.Context())
	if err != nil || st.Certificate == nil || st.Certificate.Source != source || st.Certificate.State != api.CertificateValid || !st.Certificate.NotAfter.Equal(until) {
		r.t.Errorf("%+v, %v; want one by %s until %s", st.Certificate, err, source, until)
	}
	resp, err := http.Get("http://" + r.opts[0].DiagAddr + "/metrics") //nolint:noctx // loopback
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	_, value, ok := strings.Cut(string(b), fmt.Sprintf("\nsallyport_certificate_expiry_timestamp_seconds{source=%q} ", source))
	value, _, _ = strings.Cut(value, "\n")
	if seconds, err := strconv.ParseFloat(value, 64); !ok || err != nil || int64(seconds) != until.Unix() {
		r.t.Errorf("metric %q, %v; want %d", value, err, until.Unix())
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "alice"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// testCertificates are a front's, of an authority of their own that no client has a
// certificate of.
func testCertificates(t *testing.T) certificates {
	t.Helper()
	ca, err := pki.NewAuthority(pki.HostCA, testCluster, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host := pki.NewHostCertificates(pki.HostOptions{
		Authority: func() (*pki.Authority, error) { return ca, nil }, Allowed: func(string) bool { return true },
	})
	return certificates{
		web: byName(host.Certificate), host: host.Certificate, now: time.Now,
		clients: func() (*x509.CertPool, error) { return x509.NewCertPool(), nil },
	}
}

// byName shows a certificate by the server name alone.
func byName(certificate func(string) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(hello.ServerName) }
}

// pipes is a listener whose connections are in memory, so that time is virtual.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.done); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// traefik CVE-2026-25949, teleport#67158: connections that never speak, or stop
// in the middle of their headers.
func TestSilentConnectionsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		certs := testCertificates(t)
		front := frontHandler{ids: identities{clusterName: testCluster}, web: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				_, _ = io.Copy(io.Discard, r.Body)
			}
		})}
		srv := httpServer(front, tlsConfig(testCluster, certs, false, nil), slog.New(slog.DiscardHandler))
		l := pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- srv.ServeTLS(l, "", "") }()

		begin := time.Now()
		cases := []struct {
			sent   string // "": not even a handshake
			within time.Duration
		}{
			{"", 15 * time.Second},
			{"GET / HTTP/1.1\r\nHost: x\r\n", 15 * time.Second},
			{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n1", bodyTime + time.Second},
			{"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", bodyTime + time.Second},
		}
		ended := make(chan error, len(cases))
		for _, c := range cases {
			client, server := net.Pipe()
			l.conns <- server
			go func() {
				if err := holdOn(client, c.sent); err != nil {
					ended <- fmt.Errorf("%q: %w", c.sent, err)
					return
				}
				if d := time.Since(begin); d > c.within {
					ended <- fmt.Errorf("%q: dropped after %s", c.sent, d)
					return
				}
				ended <- nil
			}()
		}
		for range cases {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		_ = srv.Close()
		<-served
	})
}

// holdOn sends what it is told and then waits for the end.
func holdOn(c net.Conn, send string) error {
	if send == "" {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return err
		}
		return nil
	}
	t := tls.Client(c, &tls.Config{ServerName: testCluster, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // not about trust
	if err := t.HandshakeContext(context.Background()); err != nil {
		return err
	}
	if _, err := io.WriteString(t, send); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, t); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func TestStrangersAreCountedByNetwork(t *testing.T) {
	t.Parallel()
	a := newAdmission()
	a.perNetwork, a.inAll = 2, 3
	inner := pipes{conns: make(chan net.Conn, 8), done: make(chan struct{})}
	l := a.listener(inner)
	accept := func(ip string) (net.Conn, bool) {
		c, far := net.Pipe()
		inner.conns <- addressed{c, ip}
		got := make(chan net.Conn, 1)
		go func() {
			if c, err := l.Accept(); err == nil {
				got <- c
			}
		}()
		refused := make(chan struct{})
		go func() {
			if _, err := far.Read(make([]byte, 1)); err != nil {
				close(refused)
			}
		}()
		select {
		case c := <-got:
			return c, true
		case <-refused:
			// That Accept goes on waiting: give it the next one.
			return nil, false
		}
	}
	one, ok := accept("10.0.0.1")
	if !ok {
		t.Fatal("the first is refused")
	}
	if _, ok := accept("10.0.0.2"); !ok {
		t.Fatal("the second is refused")
	}
	if a.enter(auth.NetworkOf(netip.MustParseAddr("10.0.0.3"))) {
		t.Error("a third of one network is let in")
	}
	noStranger(one) // has shown a certificate
	if !a.enter(auth.NetworkOf(netip.MustParseAddr("10.0.0.3"))) {
		t.Error("one left, and nobody may come in its place")
	}
	_ = one.Close() // does not count twice
	if a.all != 2 || a.networks[auth.NetworkOf(netip.MustParseAddr("10.0.0.9"))] != 2 {
		t.Errorf("%d in all, %v", a.all, a.networks)
	}
	if !a.enter(auth.NetworkOf(netip.MustParseAddr("10.9.0.1"))) || a.enter(auth.NetworkOf(netip.MustParseAddr("10.8.0.1"))) {
		t.Error("the bound of all networks does not hold")
	}
	_ = inner.Close()
}

// addressed is a connection from somewhere.
type addressed struct {
	net.Conn
	ip string
}

func (a addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(a.ip), Port: 1} }
