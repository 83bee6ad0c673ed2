package server

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	headerV1 = "PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n"
	local1   = "PROXY UNKNOWN\r\n"
)

func headerV2(t testing.TB, from string) string {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("[2001:db8::1]:443")))
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTrustedProxiesAreNetworks(t *testing.T) {
	got, err := parseTrustedProxies([]string{"10.1.2.3/8", "192.0.2.1", "2001:db8::/32", "::1", "::ffff:192.0.2.2"})
	want := []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("192.0.2.2/32"),
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, bad := range []string{"10.0.0.0/33", "lb.example.com", "10.0.0", "fe80::1%eth0", "::ffff:10.0.0.0/104", ""} {
		if _, err := parseTrustedProxies([]string{bad}); !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), "--trusted-proxies") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// proxied is a listener on loopback that trusts the given networks.
func proxied(t *testing.T, require bool, trust ...string) (*proxiedListener, *trustedProxies) {
	t.Helper()
	return proxiedTo(t, newProxyTrace(slog.New(slog.DiscardHandler), time.Now), require, trust...)
}

func proxiedTo(t *testing.T, trace *proxyTrace, require bool, trust ...string) (*proxiedListener, *trustedProxies) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		t.Fatal(err)
	}
	trusted := &trustedProxies{}
	networks, err := parseTrustedProxies(trust)
	if err != nil {
		t.Fatal(err)
	}
	trusted.set(networks)
	l := newProxiedListener(inner, trusted, require, trace)
	t.Cleanup(func() { _ = l.Close() })
	return l, trusted
}

// send opens a connection that says text and waits.
func send(t *testing.T, l net.Listener, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String()) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestProxyHeaders(t *testing.T) {
	const trusted, untrusted = "127.0.0.0/8", "10.0.0.0/8"
	for _, test := range []struct {
		name, trust string
		require     bool
		sent        string
		want        string // address seen; "": closed; "own"
		rest        string // what the server then reads
	}{
		{"version 1", trusted, false, headerV1 + "hello", "203.0.113.7:4711", "hello"},
		{"version 2", trusted, true, headerV2(t, "[2001:db8::7]:99") + "hello", "[2001:db8::7]:99", "hello"},
		{"a health check's", trusted, true, local1 + "hello", "own", "hello"},
		{"none, where it may be missing", trusted, false, "hello", "own", "hello"},
		{"none, where it may not", trusted, true, "hello", "", ""},
		{"broken", trusted, false, "PROXY TCP4 x y 1 2\r\n", "", ""},
		{"too long", trusted, false, "PROXY " + strings.Repeat("x", 200), "", ""},
		{"cut off", trusted, false, "PROXY TCP4", "", ""},
		{"of a unix socket", trusted, false, "\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + strings.Repeat("a", 216), "", ""},
		{"of a datagram", trusted, false, "\r\n\r\n\x00\r\nQUIT\n\x21\x12\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02", "", ""},
		{"larger than any", trusted, false, "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + strings.Repeat("a", 300), "", ""},
		{"of a stranger, is not understood", untrusted, false, headerV1, "own", headerV1},
		{"of a stranger, is not understood either", untrusted, true, headerV1, "own", headerV1},
		{"none, of a stranger", untrusted, true, "hello", "own", "hello"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, _ := proxied(t, test.require, test.trust)
			client := send(t, l, test.sent)
			if test.want == "" {
				_ = client.SetReadDeadline(time.Now().Add(proxyHeaderTime * 4 / 5)) // less than the header's time
				if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("not closed: %v", err)
				}
				return
			}
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			want := test.want
			if want == "own" {
				want = client.LocalAddr().String()
			}
			if got := c.RemoteAddr().String(); got != want {
				t.Errorf("seen as %s, want %s", got, want)
			}
			rest := make([]byte, len(test.rest))
			if _, err := io.ReadFull(c, rest); string(rest) != test.rest || err != nil {
				t.Errorf("read %q, %v, want %q", rest, err, test.rest)
			}
		})
	}
}

func TestSilentPeersHoldUpNobody(t *testing.T) {
	l, _ := proxied(t, false, "127.0.0.1")
	for range 20 {
		send(t, l, "") // trusted, and still to say something
	}
	send(t, l, headerV1)
	c, err := l.Accept()
	if err != nil || c.RemoteAddr().String() != "203.0.113.7:4711" {
		t.Fatal(c, err)
	}
	_ = c.Close()
	if err := l.Close(); err != nil { // does not wait for the silent ones
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if len(l.reading) != 0 || len(l.slots) != 0 {
		t.Error("left behind:", len(l.reading), len(l.slots))
	}
}

func TestSilentPeersAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]proxyOutcome{
			"": proxySlow, "PROXY": proxyBroken /* it has to come in one piece */, "\r\n\r\n": proxySlow,
			"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c": proxySlow,
		} {
			client, server := net.Pipe()
			go func() { _, _ = io.WriteString(client, text) }()
			start := time.Now()
			c, outcome, err := readProxyHeader(server, false)
			if took := time.Since(start); err == nil || took > proxyHeaderTime || outcome != want {
				t.Errorf("%q: %v, %s, %v after %s", text, c, outcome, err, took)
			}
			_ = client.Close()
		}
	})
}

// What is refused looks like a broken network to everybody else, so the log and
// the metrics tell of it; a peer that goes on like that does not fill the log.
func TestRefusedProxyHeadersLeaveATrace(t *testing.T) {
	for _, test := range []struct {
		name    string
		require bool
		sent    string
		gone    bool // the peer says no more, and goes
		outcome proxyOutcome
		want    string // in the log; "": nothing
	}{
		{"broken", false, "PROXY TCP4 x y 1 2\r\n", false, proxyBroken, "level=WARN .* proxy=127.0.0.1 .*header is broken"},
		{"of a unix socket", true, "\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + strings.Repeat("a", 216), false, proxyBroken, "header is broken"},
		{"missing", true, "hello", false, proxyMissing, "level=WARN .* proxy=127.0.0.1 .*sent no PROXY header"},
		{"none", false, "hello", false, proxyNone, "level=INFO .* proxy=127.0.0.1"},
		{"a health check by TCP alone", true, "", true, proxyGone, ""},
		{"a health check, where it may be missing", false, "", true, proxyGone, ""},
		{"taken", true, headerV1, false, proxyHeader, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log testWriter
			var clock atomic.Int64
			trace := newProxyTrace(slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return time.Unix(clock.Load(), 0) })
			l, _ := proxiedTo(t, trace, test.require, "127.0.0.1")
			go func() {
				for c, err := l.Accept(); err == nil; c, err = l.Accept() {
					_ = c.Close()
				}
			}()
			seen := 0.0
			again := func() {
				t.Helper()
				c := send(t, l, test.sent)
				if test.gone {
					_ = c.Close()
				}
				seen++
				eventually(t, patience, "the outcome in the metrics", func() error {
					if got := counted(t, trace.outcomes, string(test.outcome)); got != seen {
						return fmt.Errorf("%s: %v, want %v", test.outcome, got, seen)
					}
					return nil
				})
			}
			lines := func(want int) {
				t.Helper()
				eventually(t, patience, "the line", func() error { // it follows the count
					if got := strings.Count(log.text(), "\n"); got != want {
						return fmt.Errorf("%d lines, want %d: %s", got, want, log.text())
					}
					return nil
				})
			}
			each := min(1, len(test.want))
			again()
			lines(each)
			if !regexp.MustCompile(test.want).MatchString(log.text()) {
				t.Errorf("%q does not say %q", log.text(), test.want)
			}
			again()
			again()
			clock.Add(int64(proxyQuiet / time.Second))
			again()
			lines(2 * each)
		})
	}
}

// counted is the value of a counter's only label in a scrape.
func counted(t *testing.T, c prometheus.Collector, label string) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestTracesOfManyProxiesAreBounded(t *testing.T) {
	var log testWriter
	now := time.Unix(0, 0)
	trace := newProxyTrace(slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now })
	addr := netip.MustParseAddr("10.0.0.1")
	for range 2 * proxyPeersTold {
		trace.note(addr, proxyMissing, nil)
		addr = addr.Next()
	}
	if n := strings.Count(log.text(), "\n"); n != proxyPeersTold || len(trace.told) != n {
		t.Errorf("%d lines, %d remembered", n, len(trace.told))
	}
	now = now.Add(proxyQuiet)
	trace.note(addr, proxyMissing, nil)
	if n := strings.Count(log.text(), "\n"); n != proxyPeersTold+1 || len(trace.told) != 1 {
		t.Errorf("a minute later: %d lines, %d remembered", n, len(trace.told))
	}
}

func TestTrustChangesForNewConnections(t *testing.T) {
	l, trusted := proxied(t, true, "10.0.0.0/8")
	send(t, l, headerV1)
	c, err := l.Accept()
	if err != nil || strings.HasPrefix(c.RemoteAddr().String(), "203.") {
		t.Fatal(c.RemoteAddr(), err)
	}
	trusted.set([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	send(t, l, headerV1)
	c, err = l.Accept()
	if err != nil || c.RemoteAddr().String() != "203.0.113.7:4711" {
		t.Fatal(c.RemoteAddr(), err)
	}
}

// TestFrontBehindALoadBalancer is a whole replica: the log of audit events, the
// count of strangers and the limits of logins all begin with the address of a
// request, and that is the client's.
func TestFrontBehindALoadBalancer(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c"), filepath.Join(dir, "k")
	certPEM, keyPEM := certPair(t)
	if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	r := startReplicas(t, 1, func(_ int, o *Options) {
		o.ProxyProtocol, o.TrustedProxies = ProxyProtocolOn, []string{"127.0.0.1"}
	})
	srv := r.run[0].srv
	ask := func(header string) error {
		raw := send(t, fixed(r.opts[0].ListenAddr), header)
		c := tls.Client(raw, &tls.Config{ServerName: testCluster, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // who answers is not the question
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err := fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	for _, header := range []string{headerV1, headerV2(t, "203.0.113.7:1"), "", local1} {
		if err := ask(header); err != nil {
			t.Errorf("%q: %v", header, err)
		}
	}
	t.Run("the address of a login is the client's", func(t *testing.T) {
		r.addUser(0, "alice", "dev")
		raw := send(t, fixed(r.opts[0].ListenAddr), headerV1)
		c := tls.Client(raw, &tls.Config{ServerName: testCluster, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // as above
		leaf, err := x509.ParseCertificate(selfSigned(t).Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(api.LoginRequest{User: "alice", Password: "wrong", TLSPubKey: leaf.RawSubjectPublicKeyInfo})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", api.PathLogin, len(body), body)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		eventually(t, patience, "the failed login in the log", func() error {
			b, err := os.ReadFile(filepath.Join(r.opts[0].DataDir, "log", "events.log"))
			ends := fmt.Sprintf(`"addr.local":%q,"addr.remote":"203.0.113.7:4711"`, raw.RemoteAddr())
			if err == nil && !bytes.Contains(b, []byte(ends)) {
				err = fmt.Errorf("no %s in %s", ends, b)
			}
			return err
		})
	})
	t.Run("a broken reload changes nothing", func(t *testing.T) {
		for _, bad := range []Reload{
			{TrustedProxies: []string{"nonsense"}}, {TrustedProxies: []string{"::1"}, CertFile: cert}, {},
			{TrustedProxies: []string{"::1"}, CertFile: cert, KeyFile: filepath.Join(dir, "none")},
		} {
			if err := srv.Reload(bad); !api.IsCode(err, api.CodeInvalid) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		if err := ask(headerV1); err != nil {
			t.Error(err)
		}
	})
	t.Run("a reload trusts others, and shows another certificate", func(t *testing.T) {
		if err := srv.Reload(Reload{TrustedProxies: []string{"::1"}, CertFile: cert, KeyFile: key}); err != nil {
			t.Fatal(err)
		}
		if err := ask(headerV1); err == nil {
			t.Error("a header of one who is no longer trusted passed")
		}
		shown, err := srv.certificates().web(&tls.ClientHelloInfo{ServerName: testCluster})
		if err != nil || len(shown.Certificate) != 1 {
			t.Error(shown, err)
		}
		if err := srv.Reload(Reload{TrustedProxies: []string{"127.0.0.1"}}); err != nil {
			t.Fatal(err)
		}
		if shown, err = srv.certificates().web(&tls.ClientHelloInfo{ServerName: testCluster}); err != nil || len(shown.Certificate) != 2 {
			t.Error(shown, err)
		}
	})
}

func TestAHeaderIsNotUnderstoodWhereItIsOff(t *testing.T) {
	r := startReplicas(t, 1, nil)
	c := send(t, fixed(r.opts[0].ListenAddr), headerV1)
	if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}).HandshakeContext(t.Context()); err == nil { //nolint:gosec // must fail
		t.Error("a handshake behind a header that nobody reads")
	}
}

// fixed is an address as something to send to.
type fixed string

func (f fixed) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (f fixed) Close() error              { return nil }
func (f fixed) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(string(f)))
}

// FuzzProxyHeader: whatever a trusted peer sends, the connection is refused or has
// an address, and nothing of what follows the header is lost.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte(headerV1 + "rest"))
	f.Add([]byte(headerV2(f, "[2001:db8::7]:99") + "rest"))
	f.Add([]byte(local1))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		for _, require := range []bool{false, true} {
			c, _, err := readProxyHeader(&scripted{Reader: bytes.NewReader(sent)}, require)
			if err != nil {
				continue
			}
			if !clientAddr(c.RemoteAddr()).IsValid() {
				t.Fatalf("%q: no address: %v", sent, c.RemoteAddr())
			}
			rest, err := io.ReadAll(c)
			if err != nil || !bytes.HasSuffix(sent, rest) {
				t.Fatalf("%q: read %q: %v", sent, rest, err)
			}
			if clientAddr(c.RemoteAddr()) == netip.MustParseAddr("192.0.2.9") && !require && len(rest) != len(sent) &&
				!bytes.HasPrefix(sent, []byte("PROXY")) && !bytes.HasPrefix(sent, []byte("\r\n\r\n\x00\r\nQUIT\n")) {
				t.Fatalf("%q: lost what was no header: %q", sent, rest)
			}
		}
	})
}

// scripted is a connection from 192.0.2.9 that reads what it was given.
type scripted struct {
	net.Conn
	io.Reader
}

func (s *scripted) Read(p []byte) (int, error)      { return s.Reader.Read(p) }
func (s *scripted) SetReadDeadline(time.Time) error { return nil }
func (s *scripted) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 1}
}

// TestStrangersAreCountedByTheirOwnAddress: one load balancer is not one stranger.
func TestStrangersAreCountedByTheirOwnAddress(t *testing.T) {
	inner, _ := proxied(t, false, "127.0.0.1")
	strangers := newAdmission()
	strangers.perNetwork = 1
	l := strangers.listener(inner)
	for _, from := range []string{"203.0.113.7:1", "198.51.100.7:1"} {
		send(t, inner, headerV2(t, from))
		c, err := l.Accept()
		if err != nil || c.RemoteAddr().String() != from {
			t.Fatal(c, err)
		}
	}
	// Accept closes who is one too many and goes on to the next. Headers are read in
	// goroutines of their own, so which of the two comes first is open: accept both.
	accepted := make(chan string)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			accepted <- c.RemoteAddr().String()
		}
	}()
	again := send(t, inner, headerV2(t, "203.0.113.7:2"))
	send(t, inner, headerV2(t, "192.0.2.7:1"))
	if addr := <-accepted; addr != "192.0.2.7:1" {
		t.Fatalf("%q was accepted", addr)
	}
	_ = again.SetReadDeadline(time.Now().Add(patience))
	if _, err := again.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a second stranger of one network was not closed: %v", err)
	}
}
