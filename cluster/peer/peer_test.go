package peer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func seed(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func newPort(t *testing.T, id string, seeds ...[]byte) *Port {
	t.Helper()
	if len(seeds) == 0 {
		seeds = [][]byte{seed(1)}
	}
	p, err := New(Options{ServerID: id, Seeds: seeds, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p.Handle("/member", Members, JSON(func(_ context.Context, from Peer, in string) (string, error) {
		return from.ID + ":" + in, nil
	}))
	p.Handle("/guest", Guests, JSON(func(_ context.Context, from Peer, _ struct{}) (bool, error) {
		return from.Member(), nil
	}))
	p.Handle("/refuse", Members, JSON(func(context.Context, Peer, struct{}) (struct{}, error) {
		return struct{}{}, api.Errorf(api.CodeConflict, "somebody was first")
	}))
	p.Start()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *Port) target() Target { return Target{ID: p.ServerID(), Addr: p.Addr().String()} }

func pair(t *testing.T) (a, b *Port) {
	t.Helper()
	a, b = newPort(t, "a"), newPort(t, "b")
	a.SetCluster("c1")
	b.SetCluster("c1")
	return a, b
}

func TestTheSameSeedGivesTheSameAuthority(t *testing.T) {
	x, err := newAuthority(seed(7))
	if err != nil {
		t.Fatal(err)
	}
	y, err := newAuthority(seed(7))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(x.cert.Raw, y.cert.Raw); diff != "" {
		t.Errorf("certificates differ: %s", diff)
	}
}

func TestCallsCarryErrorsUnchanged(t *testing.T) {
	a, b := pair(t)
	ctx := context.Background()
	var out string
	if err := a.Call(ctx, b.target(), "/member", "hello", &out); err != nil || out != "a:hello" {
		t.Errorf("Call = %q, %v", out, err)
	}
	err := a.Call(ctx, b.target(), "/refuse", struct{}{}, nil)
	if !api.IsCode(err, api.CodeConflict) || err.Error() != "somebody was first" {
		t.Errorf("refused call: %v", err)
	}
	err = a.Call(ctx, Target{ID: "b", Addr: "127.0.0.1:1"}, "/member", "x", nil)
	if !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("call to nobody: %v, want unavailable", err)
	}
}

func TestGuestsReachOnlyWhatIsForGuests(t *testing.T) {
	a, b := newPort(t, "a"), newPort(t, "b")
	b.SetCluster("c1")
	ctx := context.Background()
	for _, target := range []Target{{Addr: b.Addr().String(), Guest: true}, {ID: "b", Addr: b.Addr().String(), Guest: true}} {
		var member bool
		if err := a.Call(ctx, target, "/guest", struct{}{}, &member); err != nil || member {
			t.Errorf("guest call to %v: member=%v, %v", target, member, err)
		}
		if err := a.Call(ctx, target, "/member", "x", nil); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("guest at a member's call: %v, want forbidden", err)
		}
	}
	if err := a.Call(ctx, b.target(), "/member", "x", nil); !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("member call without a cluster: %v", err)
	}
}

func TestWrongIDsAreRefused(t *testing.T) {
	a, b := pair(t)
	other := newPort(t, "a2")
	other.SetCluster("c2")
	ctx := context.Background()
	for _, tc := range []struct {
		name   string
		from   *Port
		target Target
	}{
		{"another server answers", a, Target{ID: "c", Addr: b.Addr().String()}},
		{"another cluster", other, b.target()},
		{"another server answers a guest", a, Target{ID: "c", Addr: b.Addr().String(), Guest: true}},
	} {
		if err := tc.from.Call(ctx, tc.target, "/guest", struct{}{}, nil); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("%s: %v, want unavailable", tc.name, err)
		}
	}
}

func TestChangingTheClusterDropsConnections(t *testing.T) {
	a, b := pair(t)
	if err := a.Call(context.Background(), b.target(), "/member", "x", nil); err != nil {
		t.Fatal(err)
	}
	b.SetCluster("c2")
	if err := a.Call(context.Background(), b.target(), "/member", "x", nil); err == nil {
		t.Error("a pooled connection of the old cluster still works")
	}
}

func TestASecondSeedIsTrustedWhileTheSecretRotates(t *testing.T) {
	a, b := newPort(t, "a", seed(1)), newPort(t, "b", seed(2), seed(1))
	a2 := newPort(t, "a2", seed(1), seed(2))
	for _, p := range []*Port{a, b, a2} {
		p.SetCluster("c1")
	}
	if err := a2.Call(context.Background(), b.target(), "/member", "x", nil); err != nil {
		t.Error(err)
	}
	if err := a.Call(context.Background(), b.target(), "/member", "x", nil); err == nil {
		t.Error("a, which does not trust seed 2, accepted it")
	}
}

// raftPeek opens b's Raft layer and reports whether a byte arrives there.
func raftPeek(t *testing.T, b *Port) <-chan string {
	t.Helper()
	layer, err := b.RaftLayer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = layer.Close() })
	got := make(chan string, 1)
	go func() {
		c, err := layer.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 5)
		n, _ := io.ReadFull(c, buf)
		got <- string(buf[:n])
	}()
	return got
}

func TestNoRaftByteBeforeTheIDsAreChecked(t *testing.T) {
	b := newPort(t, "b")
	b.SetCluster("c1")
	got := raftPeek(t, b)
	addr := b.Addr().String()

	userCA := selfSigned(t, "Sallyport peer CA", nil)
	userCert := selfSigned(t, "alice", userCA)
	rightCA, err := newCredentials("x", [][]byte{seed(1)}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	wrongCA, err := newCredentials("x", [][]byte{seed(9)}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	pool := rightCA.pool
	for _, tc := range []struct {
		name string
		dial func() (net.Conn, error)
	}{
		{"plain TCP", func() (net.Conn, error) { return net.Dial("tcp", addr) }},
		{"no client certificate", func() (net.Conn, error) {
			return tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, ServerName: "b" + nameSuffix, NextProtos: []string{protoRaft}, MinVersion: tls.VersionTLS13})
		}},
		{"certificate of a user CA", func() (net.Conn, error) {
			return tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, ServerName: "b" + nameSuffix, NextProtos: []string{protoRaft}, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*userCert}})
		}},
		{"peer CA of another secret", func() (net.Conn, error) {
			cfg := wrongCA.clientConfig("b"+nameSuffix, protoRaft)
			cfg.RootCAs = pool
			return tls.Dial("tcp", addr, cfg)
		}},
		{"right CA, another id in the preface", func() (net.Conn, error) {
			return dialPreface(addr, rightCA, preface{Cluster: "c1", From: "y", To: "b"})
		}},
		{"right CA, another target", func() (net.Conn, error) {
			return dialPreface(addr, rightCA, preface{Cluster: "c1", From: "x", To: "c"})
		}},
		{"right CA, another cluster", func() (net.Conn, error) {
			return dialPreface(addr, rightCA, preface{Cluster: "c2", From: "x", To: "b"})
		}},
		{"right CA, a guest", func() (net.Conn, error) {
			return dialPreface(addr, rightCA, preface{From: "x"})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := tc.dial()
			if err != nil {
				return // refused in the handshake
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = c.Write([]byte("\x00raft"))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the connection stays open: %v", err)
			}
		})
	}
	a := newPort(t, "a")
	a.SetCluster("c1")
	layer, err := a.RaftLayer()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = layer.Close() }()
	if _, err := layer.Dial("127.0.0.1:1", time.Second); err == nil {
		t.Error("dialled an address without an id")
	}
	c, err := layer.Dial(raft.ServerAddress(Address("b", addr)), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "hello" {
		t.Errorf("the first bytes that Raft saw are %q, want the member's", s)
	}
}

func dialPreface(addr string, creds *credentials, pre preface) (net.Conn, error) {
	c, err := tls.Dial("tcp", addr, creds.clientConfig("b"+nameSuffix, protoRaft))
	if err != nil {
		return nil, err
	}
	if err := writeFrame(c, pre); err != nil {
		return nil, err
	}
	return c, nil
}

func selfSigned(t *testing.T, cn string, parent *tls.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"x" + nameSuffix}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IsCA: parent == nil, BasicConstraintsValid: true,
	}
	issuer, signer := tmpl, any(key)
	if parent != nil {
		issuer, signer = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestAFenceCutsRaftBothWaysAndRPCGoesOn(t *testing.T) {
	a, b := pair(t)
	la, err := a.RaftLayer()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = la.Close() }()
	lb, err := b.RaftLayer()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lb.Close() }()
	to := raft.ServerAddress(Address("b", b.Addr().String()))
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := lb.Accept(); err == nil {
			accepted <- c
		}
	}()
	c, err := la.Dial(to, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	in := <-accepted
	b.Fence("the disk is stuck")
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the dialer's end survived the fence")
	}
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("the fenced end survived the fence")
	}
	if _, err := la.Dial(to, time.Second); err == nil || !strings.Contains(err.Error(), "the disk is stuck") {
		t.Errorf("dialled into the fence: %v, want its reason", err)
	}
	if _, err := lb.Dial(raft.ServerAddress(Address("a", a.Addr().String())), time.Second); err == nil {
		t.Error("dialled out of the fence")
	}
	if err := a.Call(context.Background(), b.target(), "/member", "x", nil); err != nil {
		t.Errorf("rpc during the fence: %v", err)
	}
	b.Unfence()
	go func() {
		if c, err := lb.Accept(); err == nil {
			accepted <- c
		}
	}()
	if _, err := la.Dial(to, 5*time.Second); err != nil {
		t.Errorf("after the fence: %v", err)
	}
	<-accepted
}

func TestOneAddressCannotTakeAllHandshakes(t *testing.T) {
	b := newPort(t, "b")
	for range maxHandshakesIP {
		if b.admitHandshake("192.0.2.1") == nil {
			t.Fatal("refused below the limit")
		}
	}
	if b.admitHandshake("192.0.2.1") != nil {
		t.Error("one address has more than its share")
	}
	a := newPort(t, "a")
	if err := a.Call(context.Background(), Target{Addr: b.Addr().String(), Guest: true}, "/guest", struct{}{}, nil); err != nil {
		t.Errorf("another address is kept out: %v", err)
	}
}

func TestStrangersCannotTakeTheHandshakesOfPeers(t *testing.T) {
	a, b := newPort(t, "a"), newPort(t, "b")
	call := func(from, to *Port) error {
		from.pool.reset() // a new connection
		return from.Call(context.Background(), Target{Addr: to.Addr().String(), Guest: true}, "/guest", struct{}{}, nil)
	}
	if err := call(b, a); err != nil { // b, just started, dials: by that it knows a's address
		t.Fatal(err)
	}
	var ends []func()
	for i := range maxHandshakes {
		end := b.admitHandshake(fmt.Sprintf("192.0.2.%d", i/maxHandshakesIP))
		if end == nil {
			t.Fatal("refused below the limit")
		}
		ends = append(ends, end)
	}
	if b.admitHandshake("198.51.100.1") != nil {
		t.Error("strangers are without bound")
	}
	if err := call(a, b); err != nil {
		t.Errorf("a peer is kept out: %v", err)
	}
	for _, end := range ends {
		end()
	}
	if b.admitHandshake("198.51.100.1") == nil {
		t.Error("handshakes that ended still count")
	}
}

func TestOversizedBodiesAreRefused(t *testing.T) {
	a, b := pair(t)
	err := a.Call(context.Background(), b.target(), "/member", strings.Repeat("x", maxBody+1), nil)
	if !api.IsCode(err, api.CodeTooLarge) && !api.IsCode(err, api.CodeAmbiguous) {
		t.Errorf("%v, want too_large", err)
	}
}

func TestStreamsShareThePort(t *testing.T) {
	a := newPort(t, "a")
	b, err := New(Options{ServerID: "b", Seeds: [][]byte{seed(1)}, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.HandleHTTP("GET /stream", Members, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := PeerFrom(r.Context())
		_, _ = io.WriteString(w, "hello "+from.ID)
	}))
	b.Start()
	defer func() { _ = b.Close() }()
	a.SetCluster("c1")
	b.SetCluster("c1")
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://peer/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.RoundTripper(b.target()).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "hello a" {
		t.Errorf("got %q", body)
	}
}

func FuzzPreface(f *testing.F) {
	add := func(v any) {
		b, _ := json.Marshal(v)
		f.Add(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	}
	add(preface{Cluster: "c1", From: "a", To: "b"})
	add(preface{From: "a"})
	add(map[string]any{"from": "a", "more": 1})
	f.Add([]byte{0xff, 0xff})
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p preface
		r := bytes.NewReader(append(b, "rest"...))
		if err := readFrame(r, &p); err != nil {
			return
		}
		if used := len(b) + 4 - r.Len(); used > 2+maxPreface {
			t.Errorf("consumed %d bytes", used)
		}
		for _, proto := range []string{protoRaft, protoRPC, protoTunnel} {
			peer, err := p.admit(proto, "a", "b", "c1")
			if err != nil {
				continue
			}
			if p.From != "a" || (p.To != "" && p.To != "b") || (p.Cluster != "" && p.Cluster != "c1") {
				t.Errorf("admitted %+v", p)
			}
			if proto != protoRPC && !peer.Member() {
				t.Errorf("a guest may speak %s: %+v", proto, p)
			}
		}
	})
}

func FuzzCallBody(f *testing.F) {
	f.Add([]byte(`"x"`))
	f.Add([]byte(`{"a":`))
	f.Add([]byte(`"x" trailing`))
	h := JSON(func(_ context.Context, _ Peer, in struct{ Item []byte }) (int, error) { return len(in.Item), nil })
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := h(context.Background(), Peer{}, b); err != nil && !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%v", err)
		}
	})
}
