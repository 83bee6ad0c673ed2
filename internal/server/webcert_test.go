package server

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/acme"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// fakeACME is an acme.Certificates whose certificates are the test's.
type fakeACME struct {
	order     func(ctx context.Context, name string) (*tls.Certificate, error) // nil: fails
	proof     *tls.Certificate                                                 // of a challenge
	proving   func()                                                           // is called before; nil: not
	current   atomic.Pointer[tls.Certificate]
	of        string       // the one name that current is for; "": all
	asked     atomic.Int32 // for orders
	keyTokens string       // what HTTP-01 answers
	load      func()       // nil: nothing
	end       func()       // nil: nothing
	retry     func(ctx context.Context, name string) (bool, error)
}

func (f *fakeACME) Load(context.Context) {
	if f.load != nil {
		f.load()
	}
}

func (f *fakeACME) Run(ctx context.Context) error {
	<-ctx.Done()
	if f.end != nil {
		f.end()
	}
	return nil
}

func (f *fakeACME) Certificate(ctx context.Context, name string) (*tls.Certificate, error) {
	f.asked.Add(1)
	if f.order == nil {
		return nil, errors.New("nobody certifies this")
	}
	return f.order(ctx, name)
}

func (f *fakeACME) Retry(ctx context.Context, name string) (bool, error) {
	if f.retry == nil {
		return false, nil
	}
	return f.retry(ctx, name)
}

func (f *fakeACME) Current(name string) *tls.Certificate {
	if f.of != "" && f.of != name {
		return nil
	}
	return f.current.Load()
}

func (f *fakeACME) Challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if f.proving != nil {
		f.proving()
	}
	if f.proof == nil {
		return nil, fmt.Errorf("no challenge for %s", hello.ServerName)
	}
	return f.proof, nil
}

func (f *fakeACME) HTTPHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/.well-known/acme-challenge/") {
			_, _ = io.WriteString(w, f.keyTokens)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (f *fakeACME) Collector() prometheus.Collector {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_acme_fake"})
}

func (f *fakeACME) Statuses() []api.WebCertificate {
	return []api.WebCertificate{{Source: api.CertificateACME, State: api.CertificateNone, Names: []string{testCluster}}}
}

// acmeCertificates are a front's, with ACME and a host CA of their own.
func acmeCertificates(t *testing.T, f *fakeACME, until context.Context) (certificates, *webCertificates) { //nolint:revive // it is kept
	t.Helper()
	certs := testCertificates(t)
	host := func(name string) (*tls.Certificate, error) { return certs.host(cmp.Or(name, testCluster)) }
	web := newWebCertificates(Options{ClusterName: testCluster, PublicAddr: "web." + testCluster + ":443"}, host, until, slog.New(slog.DiscardHandler))
	web.acme, web.proofs = f, f
	certs.web, certs.challenge = web.show, web.challenge
	return certs, web
}

// front serves certificates on a listener until the test ends.
func serveFront(certs certificates, kubeOnly bool, l net.Listener) (stop func()) {
	front := frontHandler{
		ids: identities{clusterName: testCluster}, names: []string{testCluster, "web." + testCluster}, publicAddr: testCluster + ":443",
		web: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the web") }),
	}
	srv := httpServer(front, tlsConfig(testCluster, certs, kubeOnly, nil), slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(hellos{Listener: l}, "", "") }()
	return func() { _ = srv.Close(); <-served }
}

// RFC 8737: the certificate of a challenge is for who offers acme-tls/1 and nothing else.
func TestOnlyAnAuthorityMeetsTheChallenge(t *testing.T) {
	t.Parallel()
	proof, public := selfSigned(t), selfSigned(t)
	f := &fakeACME{proof: &proof}
	f.current.Store(&public)
	certs, _ := acmeCertificates(t, f, t.Context())
	for name, c := range map[string]struct {
		server   string
		protos   []string
		kubeOnly bool
		want     string // negotiated; "-": refused
	}{
		"an authority":                    {testCluster, []string{acmeTLS}, false, acmeTLS},
		"in capitals":                     {strings.ToUpper(testCluster), []string{acmeTLS}, false, acmeTLS},
		"for the public address":          {"web." + testCluster, []string{acmeTLS}, false, acmeTLS},
		"for a name not configured":       {"app." + testCluster, []string{acmeTLS}, false, "-"},
		"for agents' name":                {api.JoinServerName(testCluster), []string{acmeTLS}, false, "-"},
		"for no name":                     {"", []string{acmeTLS}, false, "-"},
		"on the port for kubectl":         {testCluster, []string{acmeTLS}, true, "-"},
		"beside another protocol":         {testCluster, []string{acmeTLS, "http/1.1"}, false, "http/1.1"},
		"beside another protocol, behind": {testCluster, []string{"h2", acmeTLS}, false, "h2"},
		"a browser":                       {testCluster, []string{"http/1.1"}, false, "http/1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
			if err != nil {
				t.Fatal(err)
			}
			defer serveFront(certs, c.kubeOnly, l)()
			conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: c.server, NextProtos: c.protos, InsecureSkipVerify: true}) //nolint:gosec,noctx // whom to trust is not the question
			if c.want == "-" {
				if err == nil {
					_ = conn.Close()
					t.Error("the handshake succeeded")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			state := conn.ConnectionState()
			shown := proof
			if c.want != acmeTLS {
				shown = public
			}
			if state.NegotiatedProtocol != c.want || !slices.Equal(state.PeerCertificates[0].Raw, shown.Certificate[0]) {
				t.Errorf("%s with the certificate of %s", state.NegotiatedProtocol, state.PeerCertificates[0].Subject)
			}
			if c.want == acmeTLS {
				_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", testCluster)
				if b, _ := io.ReadAll(conn); len(b) > 0 {
					t.Errorf("a challenge reaches HTTP: %q", b)
				}
			}
		})
	}
	if n := f.asked.Load(); n > 0 {
		t.Errorf("%d orders", n)
	}
}

// Each handshake of another name is answered without an order, whatever it is.
func TestOnlyConfiguredNamesAreOrdered(t *testing.T) {
	t.Parallel()
	f := &fakeACME{}
	certs, _ := acmeCertificates(t, f, t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer serveFront(certs, false, l)()
	for name, orders := range map[string]int32{
		"": 0, "app." + testCluster: 0, "a.b." + testCluster: 0, "other.example.net": 0, "api." + testCluster + ".": 0,
		api.JoinServerName(testCluster): 0, testCluster: 1, strings.ToUpper(testCluster): 1, "web." + testCluster: 1,
	} {
		before := f.asked.Load()
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true}) //nolint:gosec,noctx // whom to trust is not the question
		if err != nil {
			t.Errorf("%q: %v; want the host CA's certificate", name, err)
			continue
		}
		_ = conn.Close()
		if n := f.asked.Load() - before; n != orders {
			t.Errorf("%q: %d orders, want %d", name, n, orders)
		}
	}
}

// pipeTo is a TLS connection in memory to what accepts from l; how long the handshake
// took, and whose certificate was shown.
func pipeTo(l pipes, name string) (issuer string, took time.Duration, err error) {
	client, server := net.Pipe()
	begin := time.Now()
	l.conns <- server
	c := tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // not about trust
	defer client.Close()
	if err := c.HandshakeContext(context.Background()); err != nil {
		return "", time.Since(begin), err
	}
	// A server's handshake is over when it has read what ends the client's.
	req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+name+"/", nil)
	if err := req.Write(c); err != nil {
		return "", time.Since(begin), err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return "", time.Since(begin), err
	}
	_ = resp.Body.Close()
	return c.ConnectionState().PeerCertificates[0].Issuer.CommonName, time.Since(begin), nil
}

func TestTheFirstHandshakeWaitsForTheOrder(t *testing.T) {
	public := selfSigned(t) // of alice
	for name, c := range map[string]struct {
		takes time.Duration // the order; 0: for ever
		fails bool
		want  time.Duration // the handshake
	}{
		"quick":                  {takes: time.Second, want: time.Second},
		"longer than handshakes": {takes: 45 * time.Second, want: 45 * time.Second},
		"refused":                {takes: 30 * time.Second, fails: true, want: 30 * time.Second},
		"never":                  {want: acme.HandshakeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeACME{order: func(ctx context.Context, _ string) (*tls.Certificate, error) {
					var done <-chan time.Time
					if c.takes > 0 {
						done = time.After(c.takes)
					}
					select {
					case <-done:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if c.fails {
						return nil, errors.New("refused")
					}
					return &public, nil
				}}
				certs, _ := acmeCertificates(t, f, t.Context())
				l := pipes{conns: make(chan net.Conn), done: make(chan struct{})}
				stop := serveFront(certs, false, l)
				var wg sync.WaitGroup
				wg.Go(func() {
					issuer, took, err := pipeTo(l, testCluster)
					if err != nil || took != c.want || (issuer == "alice") != (c.takes > 0 && !c.fails) {
						t.Errorf("a certificate by %q after %s, %v", issuer, took, err)
					}
				})
				wg.Go(func() { // others are served meanwhile
					if _, took, err := pipeTo(l, "app."+testCluster); err != nil || took > time.Second {
						t.Errorf("another name: %s, %v", took, err)
					}
				})
				wg.Wait()
				stop()
			})
		})
	}
}

// A client that falls silent behind an order has no more time than others.
func TestAfterAnOrderAHandshakeHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		public := selfSigned(t)
		f := &fakeACME{order: func(context.Context, string) (*tls.Certificate, error) {
			<-time.After(40 * time.Second)
			return &public, nil
		}}
		certs, _ := acmeCertificates(t, f, t.Context())
		l := pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		stop := serveFront(certs, false, l)
		client, server := net.Pipe()
		begin := time.Now()
		l.conns <- server
		// All that the client says is its ClientHello.
		quiet := &firstWrite{Conn: client}
		c := tls.Client(quiet, &tls.Config{ServerName: testCluster, InsecureSkipVerify: true}) //nolint:gosec // not about trust
		err := c.HandshakeContext(t.Context())
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if took := time.Since(begin); err == nil || took < 50*time.Second || took > 51*time.Second {
			t.Errorf("dropped after %s, %v", took, err)
		}
		stop()
	})
}

// firstWrite drops what is written after the first time.
type firstWrite struct {
	net.Conn
	once sync.Once
}

func (f *firstWrite) Write(p []byte) (n int, err error) {
	n = len(p)
	f.once.Do(func() { n, err = f.Conn.Write(p) })
	return n, err
}

// threats.md, ACME: a crowd that waits for a certificate starves nobody.
func TestFewHandshakesWaitForAnOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeACME{order: func(ctx context.Context, _ string) (*tls.Certificate, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		until, stopped := context.WithCancel(t.Context())
		defer stopped()
		certs, web := acmeCertificates(t, f, until)
		web.slots.perNetwork = 3
		l := pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		stop := serveFront(certs, false, l)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				// It is no news of the certificate: whoever comes again finds another replica.
				if issuer, took, err := pipeTo(l, testCluster); err == nil || took != 20*time.Second {
					t.Errorf("when the replica stopped after 20 s a handshake got a certificate by %q after %s", issuer, took)
				}
			})
		}
		synctest.Wait()
		if _, took, err := pipeTo(l, testCluster); err != nil || took != 0 {
			t.Errorf("one too many waited for %s, %v", took, err)
		}
		<-time.After(20 * time.Second)
		stopped() // nobody holds up a replica that stops
		wg.Wait()
		if web.slots.all != 0 {
			t.Errorf("%d still count", web.slots.all)
		}
		stop()
	})
}

func TestALookWhetherANameLeadsHere(t *testing.T) {
	t.Parallel()
	authority := func() (*pki.Authority, *x509.CertPool) {
		ca, err := pki.NewAuthority(pki.HostCA, testCluster, time.Now(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return ca, poolOf([]*x509.Certificate{ca.Cert})
	}
	ours, roots := authority()
	others, _ := authority()
	server := func(ca *pki.Authority) func(net.Conn) {
		host := pki.NewHostCertificates(pki.HostOptions{Authority: func() (*pki.Authority, error) { return ca, nil }, Allowed: func(string) bool { return true }})
		return func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return host.Certificate(h.ServerName) }}).
				HandshakeContext(t.Context())
		}
	}
	join := api.JoinServerName(testCluster)
	for name, c := range map[string]struct {
		answer func(net.Conn) // nil: nobody listens
		want   bool
		fails  bool
	}{
		"a replica":                    {answer: server(ours), want: true},
		"another cluster of that name": {answer: server(others)},
		"a refusal": {answer: func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12}).HandshakeContext(t.Context()) // unrecognized_name
		}},
		// A replica does so when it can't answer at the moment.
		"a server with a fault": {fails: true, answer: func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return nil, errors.New("the state doesn't open")
			}}).HandshakeContext(t.Context())
		}},
		"a server without TLS":          {answer: func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }},
		"nobody":                        {fails: true},
		"somebody who hangs up":         {answer: func(net.Conn) {}, fails: true},
		"somebody who says nothing":     {answer: func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, fails: true},
		"somebody who stops in between": {answer: func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 3}) }, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			if c.answer == nil {
				_ = l.Close()
			} else {
				wg.Go(func() {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					c.answer(conn)
					_ = conn.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, conn) // what is not read would be a reset, not an end
					_ = conn.Close()
				})
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if name == "somebody who says nothing" {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			}
			defer cancel()
			got, err := leadsTo(ctx, l.Addr().String(), join, roots)
			if got != c.want || (err != nil) != c.fails {
				t.Errorf("%v, %v", got, err)
			}
			_ = l.Close()
			wg.Wait()
		})
	}
}

func TestPlainHTTPLeadsToHTTPS(t *testing.T) {
	t.Parallel()
	f := &fakeACME{keyTokens: "token.key"}
	h := f.HTTPHandler(redirectHandler([]string{testCluster}, testCluster+":443"))
	for name, c := range map[string]struct {
		method, target, host string
		want                 int
		says                 string // Location, or what the body begins with
	}{
		"a browser":                  {"GET", "/web/login?next=%2Fx", testCluster, 308, "https://tele.example.com/web/login?next=%2Fx"},
		"with a port, in capitals":   {"HEAD", "/", "TELE.example.com:80", 308, "https://tele.example.com/"},
		"two slashes stay a path":    {"GET", "//evil.example.net/x", testCluster, 308, "https://tele.example.com//evil.example.net/x"},
		"a host in the request line": {"GET", "http://tele.example.com/a", testCluster, 308, "https://tele.example.com/a"},
		"a form":                     {"POST", "/v1/webapi/login", testCluster, 405, "this is plain HTTP: use https://tele.example.com/"},
		"another name":               {"GET", "/", "app.tele.example.com", 404, "nothing is served under this name: this is a Sallyport cluster, which is at https://tele.example.com/"},
		"an address":                 {"GET", "/", "127.0.0.1:3081", 404, "nothing is served under this name"},
		"somebody else's name":       {"GET", "/", "evil.example.net", 404, "nothing is served under this name"},
		"an authority":               {"GET", "/.well-known/acme-challenge/token", testCluster, 200, "token.key"},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := net.Pipe()
			l := pipes{conns: make(chan net.Conn, 1), done: make(chan struct{})}
			srv := plainServer(h, slog.New(slog.DiscardHandler))
			served := make(chan error, 1)
			go func() { served <- srv.Serve(l) }()
			defer func() { _ = srv.Close(); <-served }()
			l.conns <- server
			_, _ = fmt.Fprintf(client, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.method, c.target, c.host)
			resp, err := http.ReadResponse(bufio.NewReader(client), &http.Request{Method: c.method})
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			said := string(body)
			if resp.StatusCode == http.StatusPermanentRedirect {
				said = resp.Header.Get("Location")
				if said != c.says {
					t.Errorf("to %s", said)
				}
			}
			if resp.StatusCode != c.want || !strings.HasPrefix(said, c.says) {
				t.Errorf("%d %s", resp.StatusCode, said)
			}
		})
	}
}

func TestOtherNamesAreThoseBelowTheClusters(t *testing.T) {
	t.Parallel()
	names := []string{testCluster, "web." + testCluster}
	for host, want := range map[string]bool{
		"": false, testCluster: false, testCluster + ":443": false, testCluster + ".": false, strings.ToUpper(testCluster): false,
		"web." + testCluster + ":3080": false, "127.0.0.1:3080": false, "[::1]:3080": false, "localhost": false,
		"replica-0.example.net": false, "notele.example.com": false, "example.com": false, "tele.example.com.evil.net": false,
		"app." + testCluster: true, "App." + testCluster + ":443": true, "a.b." + testCluster + ".": true, "api." + testCluster: true,
	} {
		if got := otherName(host, testCluster, names); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}
