package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http/httpproxy"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// Threats row "join tokens": a mismatch ends it before the token is sent. Whom neither
// the pin nor the machine vouches for is not even asked who it is.
func TestNoTokenIsSentToWhoIsNotTrusted(t *testing.T) {
	public := func(t *testing.T, f *fake, o *Options) {
		f.webCA = newAuthority(t, "public")
		o.Roots = f.webCA.pool()
	}
	elsewhere := func(o *Options) {
		dial := o.Dial
		o.Proxy = "other.example.com:443"
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) { return dial(ctx, network, testAddr) }
	}
	const (
		nothing  = ""
		question = "web " + api.PathPing
		there    = question + ", web " + api.PathJoin
		behind   = question + ", join " + api.PathJoin
	)
	for _, test := range []struct {
		name  string
		setup func(t *testing.T, f *fake, o *Options)
		want  string // in the error; "": it joins
		asks  string // what is served
	}{
		{"the pinned authority", func(*testing.T, *fake, *Options) {}, "", there},
		{"the pinned authority, behind a public certificate", public, "", behind},
		{"the pinned authority, behind a certificate of nobody knows whom", func(t *testing.T, f *fake, o *Options) {
			public(t, f, o)
			f.webCA = newAuthority(t, "?")
		}, "have this machine trust it (SSL_CERT_FILE) beside the pin, in the chart by tls.existingCASecretName beside caPin", nothing},
		{"the pinned authority, at another address", func(_ *testing.T, _ *fake, o *Options) { elsewhere(o) }, "", behind},
		{"one of several pins, as people copy it", func(_ *testing.T, f *fake, o *Options) {
			o.CAPins = []string{"sha256:" + strings.Repeat("0", 64), " " + strings.ToUpper(api.Pin(f.hostCA.cert)) + "\n"}
		}, "", there},
		{"another pin", func(_ *testing.T, _ *fake, o *Options) { o.CAPins = []string{"sha256:" + strings.Repeat("0", 64)} }, "is not who --ca-pin names: no token was sent to it; pinned: [sha256:0000000000000000000000000000000000000000000000000000000000000000], seen: ", nothing},
		{"another pin, behind a public certificate", func(t *testing.T, f *fake, o *Options) {
			public(t, f, o)
			o.CAPins = []string{"sha256:" + strings.Repeat("0", 64)}
		}, "is not who --ca-pin names: no token was sent to it", question},
		{"the pinned authority beside another's certificate", func(t *testing.T, f *fake, _ *Options) {
			f.webCA, f.webShown = newAuthority(t, "evil"), f.hostCA
		}, "the pinned authority did not sign it", nothing},
		{"the pinned authority beside another's certificate, behind a public one", func(t *testing.T, f *fake, o *Options) {
			public(t, f, o)
			f.joinCA, f.shown = newAuthority(t, "evil"), f.hostCA
		}, "the pinned authority did not sign it", question},
		{"another that says it is another cluster", func(t *testing.T, f *fake, _ *Options) {
			f.webCA, f.ping = newAuthority(t, "evil"), pings("evil.example.com")
		}, "is not who --ca-pin names", nothing},
		{"another with a public certificate that says it is another cluster", func(t *testing.T, f *fake, o *Options) {
			public(t, f, o)
			f.ping = pings("evil.example.com")
		}, "Something on the way ends TLS", question},
		{"an older replica", func(_ *testing.T, f *fake, _ *Options) { f.older = true }, "", there},
		{"an older replica at another address", func(_ *testing.T, f *fake, o *Options) {
			elsewhere(o)
			f.older = true
		}, "Its version is older than this agent's: upgrade it", question},
		{"an older replica with a public certificate", func(t *testing.T, f *fake, o *Options) {
			public(t, f, o)
			f.older = true
		}, "or leave --ca-pin out", question},
		{"a public certificate for another name", func(t *testing.T, f *fake, o *Options) {
			public(t, f, o)
			elsewhere(o)
		}, "is not who --ca-pin names", nothing},
		{"no pin, and a public certificate", func(t *testing.T, f *fake, o *Options) {
			public(t, f, o)
			o.CAPins = nil
		}, "", there},
		{"no pin, and an authority nobody knows", func(t *testing.T, _ *fake, o *Options) {
			o.CAPins, o.Roots = nil, newAuthority(t, "public").pool()
		}, "name its CA: --ca-pin=PIN, as 'tctl status' prints it (caPin in the chart); if its certificate is of an authority of your own, as by a private ACME server, have this machine trust that, too (SSL_CERT_FILE; tls.existingCASecretName in the chart); seen: sha256:", nothing},
		{"no pin, and another name", func(t *testing.T, f *fake, o *Options) {
			public(t, f, o)
			elsewhere(o)
			o.CAPins = nil
		}, "is not good for it", nothing},
		{"a clock a year ahead", func(_ *testing.T, _ *fake, o *Options) {
			o.Clock = func() time.Time { return time.Now().Add(400 * 24 * time.Hour) }
		}, "by this machine's clock, which says 2001-02-04T", nothing},
		{"insecure", func(t *testing.T, f *fake, o *Options) {
			f.webCA, o.CAPins, o.Insecure = newAuthority(t, "?"), nil, true
		}, "", there},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1")
				o := options(f)
				// A service account's token is a secret too, and not even asked for.
				asked := false
				o.JoinMethod, o.JWT = api.JoinMethodKubernetes, func(context.Context, string) (string, error) { asked = true; return "a.b.c", nil }
				test.setup(t, f, &o)
				a := start(t, o)
				pass(10 * time.Second)
				if test.want == "" {
					if ok, why := a.Ready(); !ok {
						t.Error(why)
					}
					if insecure := len(a.log.lines("INSECURE")) > 0; insecure != o.Insecure {
						t.Error("insecure, and not a word")
					}
					a.end(t)
				} else {
					select {
					case err := <-a.done:
						if err == nil || !strings.Contains(err.Error(), test.want) || api.CodeOf(err) != api.CodeUnauthenticated {
							t.Errorf("%v", err)
						}
						if strings.Contains(test.want, "seen") && !strings.Contains(err.Error(), api.Pin(f.hostCA.cert)) {
							t.Errorf("the pin seen is not in: %v", err)
						}
					default:
						t.Error("it goes on")
						a.stop()
						<-a.done
					}
					if told, _ := f.heard(); strings.Contains(told, testToken) || strings.Contains(told, "cookie") || asked || f.joined() > 0 {
						t.Errorf("a token was asked for: %v; told: %q", asked, told)
					}
				}
				told, served := f.heard()
				if d := cmp.Diff(test.asks, strings.Join(served, ", ")); d != "" || test.asks == nothing && told != "" {
					t.Errorf("told %q: %s", told, d)
				}
				f.close()
			})
		})
	}
}

// pings are answered by a cluster's name, or by what is none.
func pings(name string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { json.NewEncoder(w).Encode(api.Ping{ClusterName: name}) }
}

// What an address says of itself before the pin has verified it names a certificate,
// or nothing: none of it gets into the log or a name.
func TestIntroductionsThatAreNone(t *testing.T) {
	answer := func(code int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code); io.WriteString(w, body) }
	}
	type introduction struct {
		ping func(http.ResponseWriter)
		want string
	}
	tests := map[string]introduction{
		"no name":          {pings(""), "does not answer as Sallyport does: is the address right?"},
		"no DNS name":      {pings("evil\x1b[2J/"), "does not answer as Sallyport does: is the address right?"},
		"a long name":      {pings(strings.Repeat("a.", 90) + "evil"), "does not answer as Sallyport does: is the address right?"},
		"no JSON":          {answer(http.StatusOK, "<evil>"), "does not answer as Sallyport does: is the address right?"},
		"JSON without end": {answer(http.StatusOK, `{"x":"`+strings.Repeat("evil", api.MaxRequestBody/4)), "does not answer as Sallyport does: is the address right?"},
		"a refusal":        {answer(http.StatusUnauthorized, `{"error":{"code":"unauthenticated","message":"evil"}}`), "answers 401 Unauthorized and not as Sallyport does"},
		"a way to elsewhere": {func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://evil.example.com/")
			w.WriteHeader(http.StatusFound)
		}, "answers 302 Found and not as Sallyport does"},
		"a long header":          {func(w http.ResponseWriter) { w.Header().Set("X", strings.Repeat("evil", maxJoinHeader/4)) }, "reach Sallyport at " + testAddr},
		"replicas that are down": {answer(http.StatusBadGateway, "<evil>"), "answers 502 Bad Gateway and not as Sallyport does: if it is a load balancer, are the replicas behind it up?"},
	}
	try := func(what string, test introduction, pins bool) {
		t.Run(fmt.Sprintf("%s, pins: %v", what, pins), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1")
				f.ping, f.webCA = test.ping, newAuthority(t, "public")
				o := options(f)
				if o.Roots = f.webCA.pool(); !pins {
					o.CAPins = nil
				}
				a := start(t, o)
				pass(10 * time.Second)
				if ok, why := a.Ready(); ok || !strings.Contains(why, test.want) {
					t.Error(ok, why)
				}
				if strings.Contains(a.log.String(), "evil") {
					t.Error("a stranger's words are in the log")
				}
				f.mu.Lock()
				if strings.Contains(string(f.told), testToken) {
					t.Error("the token was sent")
				}
				f.ping = nil
				f.mu.Unlock()
				pass(2 * time.Minute) // it was an accident
				if ok, why := a.Ready(); !ok {
					t.Error(why)
				}
				a.end(t)
				f.close()
			})
		})
	}
	for what, test := range tests {
		try(what, test, true)
		try(what, test, false)
	}
}

// Another port of Sallyport's, or something else: people are told what to look at, and
// nobody is told the token.
func TestWhatIsAtTheAddressInstead(t *testing.T) {
	f := newFake(t, "r1")
	speaks := func(cfg *tls.Config) func(net.Conn) {
		cfg.Certificates = []tls.Certificate{f.cert(f.hostCA, testName)}
		return func(conn net.Conn) {
			secure := tls.Server(conn, cfg)
			if secure.Handshake() == nil {
				io.Copy(io.Discard, secure)
			}
		}
	}
	for what, test := range map[string]struct {
		serve func(net.Conn)
		want  string
	}{
		"the port for kubectl": {speaks(&tls.Config{ClientAuth: tls.RequireAnyClientCert}), "it asks for a client's certificate, as Sallyport's port for kubectl does (3026): give the address that users type in 'tsh login --proxy'"},
		"the port of replicas": {speaks(&tls.Config{NextProtos: []string{"sallyport-peer/1"}}), "it speaks TLS, but no HTTP, as the port of Sallyport's replicas does (7443): give the address that users type in 'tsh login --proxy'"},
		"HTTP without TLS": {func(conn net.Conn) {
			conn.Read(make([]byte, 4096))
			io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
		}, "it speaks no TLS: give the address that users type in 'tsh login --proxy'"},
		"one that hangs up":     {func(net.Conn) {}, "it closes the connection: if it is a load balancer, are the replicas behind it up?"},
		"one that says nothing": {func(conn net.Conn) { io.Copy(io.Discard, conn) }, "it does not answer in time: is it Sallyport, and does no firewall hold back what is sent?"},
	} {
		for name, pins := range map[string][]string{"a pin": {api.Pin(f.hostCA.cert)}, "none": nil} {
			t.Run(what+", "+name, func(t *testing.T) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				var wg sync.WaitGroup
				wg.Go(func() {
					if conn, err := l.Accept(); err == nil {
						defer conn.Close()
						test.serve(conn)
					}
				})
				o := Options{
					Proxy: testAddr, Token: testToken, CAPins: pins, Roots: f.hostCA.pool(), Clusters: []Cluster{{Name: "c", Handler: http.NotFoundHandler()}},
					ProxyFunc: func(*url.URL) (*url.URL, error) { return nil, nil },
					Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
						return (&net.Dialer{}).DialContext(ctx, network, l.Addr().String())
					},
				}
				a, err := New(o)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				key, err := newKey()
				if err != nil {
					t.Fatal(err)
				}
				_, err = a.dialer.join(ctx, key)
				if err == nil || err.Error() != "reach Sallyport at "+testAddr+": "+test.want && !strings.HasPrefix(err.Error(), "reach Sallyport at "+testAddr+": "+test.want+" (") {
					t.Errorf("%v\nwant %s", err, test.want)
				}
				wg.Wait()
			})
		}
	}
	f.close()
}

// Reliability row 15.
func TestClocksThatAreOff(t *testing.T) {
	for off, want := range map[time.Duration]string{
		4 * time.Minute: "", -4 * time.Minute: "",
		30 * time.Minute:  "this machine's clock is 30m0s ahead of Sallyport's: set it",
		-30 * time.Minute: "this machine's clock is 30m0s behind Sallyport's: set it",
	} {
		t.Run(off.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1")
				o := options(f)
				o.Clock = func() time.Time { return time.Now().Add(off) }
				a := start(t, o)
				pass(10 * time.Second)
				if ok, why := a.Ready(); ok != (want == "") || !strings.Contains(why, want) {
					t.Error(ok, why)
				}
				if want != "" && f.joined() > 0 {
					t.Error("a use of the token was spent")
				}
				a.end(t)
				f.close()
			})
		})
	}
}

func TestJoinsThatAreRefusedAreTriedAgainSlowly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		f.uses = 0
		a := start(t, options(f))
		pass(10 * time.Minute)
		if n := f.joined(); n < 2 || n > 10 {
			t.Errorf("%d joins in ten minutes", n)
		}
		if ok, why := a.Ready(); ok || !strings.Contains(why, "it can't join: the token is unknown") {
			t.Error(ok, why)
		}
		f.mu.Lock()
		f.uses = 1
		f.mu.Unlock()
		pass(6 * time.Minute)
		if ok, why := a.Ready(); !ok {
			t.Error(why)
		}
		if strings.Contains(a.log.String(), testToken) {
			t.Error("the token is in the log")
		}
		a.end(t)
		f.close()
	})
}

func TestNoTokenAndNoIdentityEndsIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		o := options(f)
		o.Token = ""
		a := start(t, o)
		if err := <-a.done; err == nil || !strings.Contains(err.Error(), "no token to join with: give --token ('tctl nodes add --roles=kube --kube-clusters=cookie' makes one)") {
			t.Error(err)
		}
		f.close()
	})
}

// httpProxy is a proxy that knows CONNECT.
type httpProxy struct {
	t     *testing.T
	f     *fake
	tls   *tls.Config // nil: http
	want  string      // Proxy-Authorization
	mu    sync.Mutex
	asked []string
	wg    sync.WaitGroup
}

func (p *httpProxy) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if addr == testAddr {
		return p.f.dial(ctx, network, addr)
	}
	if addr != "proxy.example:3128" {
		return nil, fmt.Errorf("dialled %s", addr)
	}
	client, server := net.Pipe()
	p.wg.Go(func() {
		defer server.Close()
		var conn net.Conn = server
		if p.tls != nil {
			conn = tls.Server(server, p.tls)
		}
		p.serve(conn)
	})
	return client, nil
}

func (p *httpProxy) serve(conn net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, req.Method+" "+req.RequestURI)
	p.mu.Unlock()
	if got := req.Header.Get("Proxy-Authorization"); got != p.want {
		io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	}
	to, err := p.f.dial(context.Background(), "tcp", req.RequestURI)
	if err != nil {
		io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(to, conn); to.Close() })
	io.Copy(conn, to)
	conn.Close()
	wg.Wait()
}

func TestProxies(t *testing.T) {
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:s3cr3t"))
	for _, test := range []struct {
		name, env, no, want string
		secure              bool
		asked               bool
		problem             string
	}{
		{name: "http", env: "http://proxy.example:3128", asked: true},
		{name: "http with a password", env: "http://ann:s3cr3t@proxy.example:3128", want: basic, asked: true},
		{name: "https with a password", env: "https://ann:s3cr3t@proxy.example:3128", want: basic, secure: true, asked: true},
		{name: "named in NO_PROXY", env: "http://proxy.example:3128", no: "example.com"},
		{name: "a wrong password", env: "http://ann:wr0ng@proxy.example:3128", want: basic, asked: true, problem: "it wants a name and a password"},
		{name: "another kind", env: "socks5://proxy.example:3128", problem: "a socks5 proxy is not supported"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1", "r2")
				p := &httpProxy{t: t, f: f, want: test.want}
				o := options(f)
				if test.secure {
					ca := newAuthority(t, "proxy's CA")
					o.Roots = ca.pool()
					p.tls = &tls.Config{Certificates: []tls.Certificate{ca.host(t, "proxy.example")}}
				}
				o.Dial = p.dial
				o.ProxyFunc = (&httpproxy.Config{HTTPSProxy: test.env, NoProxy: test.no}).ProxyFunc()
				a := start(t, o)
				pass(10 * time.Second)
				if ok, why := a.Ready(); ok != (test.problem == "") || !strings.Contains(why, test.problem) {
					t.Error(ok, why)
				}
				if test.asked != (len(p.asked) > 0) {
					t.Errorf("the proxy was asked: %v", p.asked)
				}
				for _, line := range p.asked {
					if line != "CONNECT "+testAddr {
						t.Error(line)
					}
				}
				if log := a.log.String(); strings.Contains(log, "s3cr3t") || strings.Contains(log, "wr0ng") {
					t.Error("the proxy's password is in the log")
				}
				if test.problem == "" && len(f.up()) != 2 {
					t.Error(f.up())
				}
				a.end(t)
				f.close()
				p.wg.Wait()
			})
		})
	}
}

// A proxy that sends more than an answer must not have it taken for the other end's.
func TestAProxyThatSpeaksFirst(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 200 OK\r\n\r\nmore":                         "it speaks before it is spoken to",
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n": "it answers 403 Forbidden to CONNECT",
		"SSH-2.0-x\r\n": "it does not answer CONNECT",
		"":              "it does not answer CONNECT",
	} {
		o := Options{
			Proxy: testAddr, Clusters: []Cluster{{Name: "c", Handler: http.NotFoundHandler()}},
			ProxyFunc: func(*url.URL) (*url.URL, error) { return url.Parse("http://proxy.example") },
			Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
				if addr != "proxy.example:80" {
					t.Error(addr)
				}
				client, server := net.Pipe()
				go func() {
					defer server.Close()
					if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
						io.WriteString(server, answer)
					}
				}()
				return client, nil
			},
		}
		a, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.dialer.dialProxied(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

func TestTheAddressIsDialledOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := spreadDialer{}.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := (spreadDialer{}).DialContext(ctx, "tcp", l.Addr().String()); err == nil {
		t.Error("nobody listens")
	}
	if _, err := (spreadDialer{}).DialContext(ctx, "tcp", "no-port"); err == nil {
		t.Error("no port")
	}
}

func TestJoinsWithAServiceAccount(t *testing.T) {
	projected := filepath.Join(t.TempDir(), "sallyport")
	if err := os.WriteFile(projected, []byte("the.projected.jwt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := func(_ context.Context, audience string) (string, error) { return "asked.for." + audience, nil }
	for _, test := range []struct {
		name, file string
		ask        func(context.Context, string) (string, error)
		want, bad  string
	}{
		{"projected", projected, asked, "the.projected.jwt", ""},
		{"asked for", projected + "-none", asked, "asked.for." + testName, ""},
		{"neither", projected + "-none", nil, "", "no such file"},
		{"nobody to ask", "", nil, "", "there is no service account here to join by"},
		{"a refusal", "", func(context.Context, string) (string, error) { return "", errors.New("refused") }, "", "refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1")
				o := options(f)
				o.JoinMethod, o.JWTFile, o.JWT = api.JoinMethodKubernetes, test.file, test.ask
				a := start(t, o)
				pass(5 * time.Second)
				if ok, why := a.Ready(); ok != (test.bad == "") || !strings.Contains(why, test.bad) {
					t.Error(ok, why)
				}
				if test.want != "" && (f.joined() != 1 || f.joinedAs()[0].JWT != test.want) {
					t.Errorf("%+v", f.joinedAs())
				}
				a.end(t)
				f.close()
			})
		})
	}
}

func TestATokenIsAskedOfTheAPIServer(t *testing.T) {
	own := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"system:serviceaccount:agents:sallyport"}`)) + ".x"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Spec struct{ Audiences []string } }
		json.NewDecoder(r.Body).Decode(&in)
		if r.Method+" "+r.URL.Path != "POST /api/v1/namespaces/agents/serviceaccounts/sallyport/token" || len(in.Spec.Audiences) != 1 || in.Spec.Audiences[0] != testName {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"message":"not that"}`)
			return
		}
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"status":{"token":"a.b.c"}}`)
	}))
	defer srv.Close()
	u, _ := url.Parse(srv.URL)
	up := upstream.Upstream{URL: u, Plain: srv.Client().Transport}
	if got, err := requestJWT(t.Context(), up, own, testName); got != "a.b.c" || err != nil {
		t.Error(got, err)
	}
	if _, err := requestJWT(t.Context(), up, own, "other"); err == nil || !strings.Contains(err.Error(), "allow create on serviceaccounts/token") {
		t.Error(err)
	}
	for _, bad := range []string{"", "a.b", "a.b.c", "a.e30.c"} {
		if _, err := requestJWT(t.Context(), up, bad, testName); err == nil {
			t.Errorf("%q", bad)
		}
	}
}

// A token that came after a refusal is tried at once, and once.
func TestAnotherTokenInTheFileIsTriedAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	put := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("one that has expired")
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		o := options(f)
		o.Token, o.TokenFile = "", file
		a := start(t, o)
		pass(10 * time.Second)
		put("another of these")
		pass(20 * time.Second)
		if n := f.joined(); n != 2 {
			t.Errorf("%d joins, want one with each token", n)
		}
		put(testToken)
		pass(10 * time.Second)
		if ok, why := a.Ready(); !ok {
			t.Error(why)
		}
		a.end(t)
		f.close()
	})
}

func TestTokensFromFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		o := options(f)
		o.Token, o.TokenFile = "", file
		a := start(t, o)
		pass(5 * time.Minute)
		if ok, why := a.Ready(); ok || !strings.Contains(why, "no such file") {
			t.Error(ok, why)
		}
		if err := os.WriteFile(file, []byte(testToken+"\n"), 0o600); err != nil { // it is put there later
			t.Fatal(err)
		}
		pass(time.Minute)
		if ok, why := a.Ready(); !ok {
			t.Error(why)
		}
		a.end(t)
		f.close()
	})
}
