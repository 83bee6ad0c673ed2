package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/wire"
	"github.com/sallyport-dev/sallyport/proxy/tunnel"
)

const (
	doorA   = "server-a"
	doorB   = "server-b"
	agentID = "0123456789abcdef0123456789abcdef"
)

// doors are two replicas as far as agents see them: the public ports, with the CAs
// of one cluster.
type doors struct {
	t                 *testing.T
	host, user, agent *pki.Authority
	roots             *x509.CertPool
	a, b              *doorFront
}

// doorFront is the public port of one. Its tunnels echo.
type doorFront struct {
	*doors
	id     string
	addr   string
	door   *agentDoor
	handed *handedListener
	hosts  *pki.HostCertificates
	count  *admission
	closed bool // too many handshakes
	locked bool // its agents get no tunnel

	mu     sync.Mutex
	served []tunnel.Identity
	from   []string
	minted []string

	networks []netip.Prefix // that handshakes came from
}

func openDoors(t *testing.T) *doors {
	t.Helper()
	d := &doors{t: t, roots: x509.NewCertPool()}
	for typ, ca := range map[pki.CAType]**pki.Authority{pki.HostCA: &d.host, pki.UserCA: &d.user, pki.AgentCA: &d.agent} {
		*ca = newAuthority(t, typ, testCluster)
	}
	d.roots.AddCert(d.host.Cert)
	d.a, d.b = d.open(doorA), d.open(doorB)
	return d
}

func newAuthority(t *testing.T, typ pki.CAType, cluster string) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority(typ, cluster, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func (d *doors) open(id string) *doorFront {
	d.t.Helper()
	f := &doorFront{doors: d, id: id, count: newAdmission()}
	f.hosts = pki.NewHostCertificates(pki.HostOptions{
		Authority: func() (*pki.Authority, error) { return d.host, nil }, Clock: time.Now, Allowed: func(string) bool { return true },
	})
	f.door = newAgentDoor(doorOptions{
		clusterName: testCluster, serverID: id, tunnels: f, log: slog.New(slog.DiscardHandler),
		agents: func() (*x509.CertPool, error) { return poolOf([]*x509.Certificate{d.agent.Cert}), nil },
		verify: func(peer []*x509.Certificate) (pki.AgentIdentity, error) {
			return pki.VerifyAgent(peer, []*x509.Certificate{d.agent.Cert}, testCluster, time.Now())
		},
		members: func() []tunnel.Member { return []tunnel.Member{{ID: doorA}, {ID: doorB}, {ID: "server-dead"}} },
	})
	certs := certificates{
		web: byName(f.hosts.Certificate), now: time.Now,
		host: func(name string) (*tls.Certificate, error) {
			f.mu.Lock()
			f.minted = append(f.minted, name)
			f.mu.Unlock()
			return f.hosts.Certificate(name)
		},
		clients: func() (*x509.CertPool, error) { return poolOf([]*x509.Certificate{d.user.Cert}), nil },
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "HTTP for ", r.TLS.ServerName) })
	front := frontHandler{
		ids: identities{clusterName: testCluster, kube: func(label string) (string, error) { return label, nil }, verify: func(peer []*x509.Certificate) (pki.UserIdentity, error) {
			return pki.VerifyUser(peer, []*x509.Certificate{d.user.Cert}, testCluster, time.Now())
		}},
		web: hello, api: hello, kube: hello, stale: func() error { return nil },
	}
	srv := httpServer(front, tlsConfig(testCluster, certs, false, f.door), slog.New(slog.DiscardHandler))
	srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){wire.Protocol: f.door.serve}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		d.t.Fatal(err)
	}
	f.addr = l.Addr().String()
	f.handed = newHandedListener(l.Addr())
	var work sync.WaitGroup
	for _, l := range []net.Listener{hellos{Listener: f.count.listener(l)}, hellos{Listener: f.count.listener(f.handed), spliced: true}} {
		work.Go(func() {
			if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
				d.t.Error(err)
			}
		})
	}
	d.t.Cleanup(func() {
		_ = srv.Close()
		f.door.close()
		work.Wait()
	})
	return f
}

func (f *doorFront) AdmitHandshake(network netip.Prefix) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.networks = append(f.networks, network)
	return !f.closed
}

func (f *doorFront) ServeAgent(ctx context.Context, conn net.Conn, id tunnel.Identity) error {
	defer conn.Close()
	if id.Err != nil {
		return id.Err
	}
	if !f.locked {
		id.Admitted()
	}
	f.mu.Lock()
	f.served = append(f.served, id)
	f.from = append(f.from, conn.RemoteAddr().String())
	f.mu.Unlock()
	if _, err := io.WriteString(conn, "tunnel of "+f.id+"\n"); err != nil {
		return err
	}
	_, err := io.Copy(conn, conn)
	return err
}

// SpliceTo is the link between the two.
func (f *doorFront) SpliceTo(ctx context.Context, serverID string, conn net.Conn, head []byte) error {
	defer conn.Close()
	to := map[string]*doorFront{doorA: f.a, doorB: f.b}[serverID]
	if to == nil {
		return errors.New("it is dead")
	}
	near, far := net.Pipe()
	defer near.Close()
	stop := context.AfterFunc(ctx, func() { _ = near.Close() })
	defer stop()
	to.handed.hand(farAway{far, conn.RemoteAddr()})
	go func() {
		_, _ = io.Copy(near, io.MultiReader(bytes.NewReader(head), conn))
		_ = near.Close()
	}()
	_, err := io.Copy(conn, near)
	return err
}

// farAway is a connection that says where it came from.
type farAway struct {
	net.Conn
	remote net.Addr
}

func (c farAway) RemoteAddr() net.Addr { return c.remote }
func (c farAway) LocalAddr() net.Addr  { return c.remote }

// certificate of a CA, for an agent, a user or a server by its kind.
func (d *doors) certificate(ca *pki.Authority) tls.Certificate {
	d.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	var der []byte
	from, to := time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	switch ca.Type {
	case pki.AgentCA:
		der, err = ca.SignAgent(key.Public(), pki.AgentIdentity{ID: agentID, Generation: 3, ClusterName: ca.ClusterName}, from, to)
	case pki.UserCA:
		der, err = ca.SignUser(key.Public(), pki.UserIdentity{User: "alice", SessionID: strings.Repeat("0", 32), ClusterName: ca.ClusterName}, from, to)
	case pki.HostCA:
		der, err = ca.SignHost(key.Public(), []string{"web." + ca.ClusterName}, nil, from, to)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// itself is a CA's own certificate.
func itself(t *testing.T, ca *pki.Authority) tls.Certificate {
	t.Helper()
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(ca.CertPEM(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// handshake does what an agent does, over a connection.
func (d *doors) handshake(raw net.Conn, name string, protos []string, certs ...tls.Certificate) (*tls.Conn, error) {
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	c := tls.Client(raw, &tls.Config{ServerName: name, RootCAs: d.roots, Certificates: certs, NextProtos: protos, MinVersion: tls.VersionTLS12})
	d.t.Cleanup(func() { _ = c.Close() })
	return c, c.HandshakeContext(d.t.Context())
}

func (d *doors) dial(addr string) net.Conn {
	d.t.Helper()
	raw, err := net.Dial("tcp", addr) //nolint:noctx // loopback
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = raw.Close() })
	return raw
}

// says what the other end answers to a line.
func says(c net.Conn, line string) (string, error) {
	if _, err := io.WriteString(c, line); err != nil {
		return "", err
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// CVE-2025-49825: who a certificate is for is said by the CA that verified it, and
// which CAs are asked by the name. No certificate is worth anything by another name,
// and no protocol either.
func TestDoor_eachNameHasItsCertificatesAndItsProtocol(t *testing.T) {
	t.Parallel()
	d := openDoors(t)
	agent, user := d.certificate(d.agent), d.certificate(d.user)
	kube := api.KubeServerName("cookie", testCluster)
	tun, toA := api.TunnelServerName("", testCluster), api.TunnelServerName(doorA, testCluster)
	tunnels, web, none := []string{wire.Protocol}, []string{"http/1.1"}, []string(nil)
	const http11 = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, c := range []struct {
		what, name string
		protos     []string
		certs      []tls.Certificate
		want       string // in the answer; "": refused
	}{
		{"an agent", tun, tunnels, []tls.Certificate{agent}, "tunnel of server-a\n"},
		{"an agent, to this replica", toA, tunnels, []tls.Certificate{agent}, "tunnel of server-a\n"},
		{"an agent that also speaks HTTP", tun, []string{"h2", "http/1.1", wire.Protocol}, []tls.Certificate{agent}, "tunnel of server-a\n"},
		{"an agent without a certificate", tun, tunnels, nil, ""},
		{"an agent that speaks HTTP alone", tun, web, []tls.Certificate{agent}, ""},
		{"an agent that says no protocol", tun, none, []tls.Certificate{agent}, ""},
		{"an agent's certificate for kubectl", kube, web, []tls.Certificate{agent}, ""},
		{"an agent's certificate for the API", api.APIServerName(testCluster), web, []tls.Certificate{agent}, ""},
		{"a tunnel by kubectl's name", kube, tunnels, []tls.Certificate{user}, ""},
		{"a tunnel by the API's name", api.APIServerName(testCluster), tunnels, []tls.Certificate{user}, ""},
		{"a tunnel by the web name", testCluster, tunnels, []tls.Certificate{agent}, ""},
		{"a tunnel by the name to join by", api.JoinServerName(testCluster), tunnels, []tls.Certificate{agent}, ""},
		{"an agent's certificate to join with", api.JoinServerName(testCluster), web, []tls.Certificate{agent}, "404 Not Found"},
		{"an agent's certificate for the web", testCluster, web, []tls.Certificate{agent}, "HTTP for " + testCluster},
		{"a user's certificate for a tunnel", tun, tunnels, []tls.Certificate{user}, ""},
		{"a server's certificate for a tunnel", tun, tunnels, []tls.Certificate{d.certificate(d.host)}, ""},
		{"another cluster's agent", tun, tunnels, []tls.Certificate{d.certificate(newAuthority(t, pki.AgentCA, "other.example.com"))}, ""},
		{"an agent of another CA", tun, tunnels, []tls.Certificate{d.certificate(newAuthority(t, pki.AgentCA, testCluster))}, ""},
		{"the agent CA itself", tun, tunnels, []tls.Certificate{itself(t, d.agent)}, ""},
		{"a user, kubectl by HTTP/2", kube, []string{"h2"}, []tls.Certificate{user}, "\x00\x00"}, // a frame of SETTINGS
		{"a user, kubectl", kube, web, []tls.Certificate{user}, "HTTP for " + kube},
	} {
		t.Run(c.what, func(t *testing.T) {
			got := ""
			nc, err := d.handshake(d.dial(d.a.addr), c.name, c.protos, c.certs...)
			if err == nil {
				line := http11
				switch {
				case nc.ConnectionState().NegotiatedProtocol == "h2":
					line = http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // empty SETTINGS
				case c.want == "" && len(c.protos) > 0 && c.protos[0] == wire.Protocol:
					line = ""
				}
				got, err = says(nc, line) // TLS 1.3 tells a client of a refusal with the first answer
			}
			if c.want == "" && err == nil {
				t.Fatalf("answered %q", got)
			}
			if c.want != "" && (err != nil || !strings.Contains(got, c.want)) {
				t.Fatalf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
	d.a.mu.Lock()
	defer d.a.mu.Unlock()
	for _, id := range d.a.served {
		if id.AgentID != agentID || id.Generation != 3 || len(id.KeySum) != 64 {
			t.Errorf("a tunnel of %+v", id)
		}
	}
	if len(d.a.served) != 3 {
		t.Errorf("%d tunnels, want 3", len(d.a.served))
	}
}

// An agent behind a balancer that pins it to one replica asks for another by its
// name: TLS ends there.
func TestDoor_sendsOnUnread(t *testing.T) {
	t.Parallel()
	d := openDoors(t)
	agent := d.certificate(d.agent)
	toB := api.TunnelServerName(doorB, testCluster)
	for _, c := range []struct {
		what string
		wrap func(net.Conn) net.Conn
	}{
		{"in one piece", func(c net.Conn) net.Conn { return c }},
		{"byte by byte", func(c net.Conn) net.Conn { return &inPieces{Conn: c} }},
		{"in many records", func(c net.Conn) net.Conn { return &inRecords{Conn: c} }},
	} {
		t.Run(c.what, func(t *testing.T) {
			raw := d.dial(d.a.addr)
			nc, err := d.handshake(c.wrap(raw), toB, []string{wire.Protocol}, agent)
			if err != nil {
				t.Fatal(err)
			}
			want, err := d.b.hosts.Certificate(toB)
			if err != nil {
				t.Fatal(err)
			}
			if got := nc.ConnectionState().PeerCertificates[0]; !bytes.Equal(got.Raw, want.Certificate[0]) {
				t.Fatal("the certificate is not that of the replica asked for")
			}
			if got, err := says(nc, ""); err != nil || got != "tunnel of server-b\n" {
				t.Fatal(got, err)
			}
			bulk := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
			sent := make(chan error, 1)
			go func() { _, err := nc.Write(bulk); sent <- err }()
			got := make([]byte, len(bulk))
			if _, err := io.ReadFull(nc, got); err != nil || !bytes.Equal(got, bulk) {
				t.Fatal("not what was sent", err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			d.b.mu.Lock()
			from := d.b.from[len(d.b.from)-1]
			d.b.mu.Unlock()
			if from != raw.LocalAddr().String() {
				t.Errorf("it seems to come from %s, not from %s", from, raw.LocalAddr())
			}
			_ = nc.Close()
		})
	}
	d.a.mu.Lock()
	defer d.a.mu.Unlock()
	if len(d.a.served) != 0 || len(d.a.minted) != 0 {
		t.Errorf("the replica in between served %v and made certificates for %v", d.a.served, d.a.minted)
	}
	for _, f := range []*doorFront{d.a, d.b} {
		eventually(t, 10*time.Second, "nobody counts as a stranger", func() error {
			f.count.mu.Lock()
			defer f.count.mu.Unlock()
			if f.count.all != 0 {
				return fmt.Errorf("%s: %d", f.id, f.count.all)
			}
			return nil
		})
	}
}

// One locked agent with a good certificate must not open more connections than any
// stranger; and a flood of handshakes is told by where it comes from, also through
// another replica.
func TestDoor_anAgentIsAStrangerUntilItIsAdmitted(t *testing.T) {
	t.Parallel()
	d := openDoors(t)
	d.b.locked = true
	name, pair := api.TunnelServerName(doorB, testCluster), d.certificate(d.agent)
	raw := d.dial(d.a.addr)
	nc, err := d.handshake(raw, name, []string{wire.Protocol}, pair)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := says(nc, ""); err != nil || got != "tunnel of server-b\n" {
		t.Fatal(got, err)
	}
	d.b.count.mu.Lock()
	if d.b.count.all != 1 {
		t.Errorf("%d strangers", d.b.count.all)
	}
	d.b.count.mu.Unlock()
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	if want := netip.MustParsePrefix("127.0.0.0/24"); len(d.b.networks) != 1 || d.b.networks[0] != want {
		t.Errorf("handshakes from %v, want %v", d.b.networks, want)
	}
}

// inPieces sends the ClientHello byte by byte.
type inPieces struct {
	net.Conn
	after bool
}

func (c *inPieces) Write(p []byte) (int, error) {
	if c.after {
		return c.Conn.Write(p)
	}
	c.after = true
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// inRecords sends the ClientHello in TLS records of 100 bytes.
type inRecords struct {
	net.Conn
	after bool
}

func (c *inRecords) Write(p []byte) (int, error) {
	if c.after {
		return c.Conn.Write(p)
	}
	c.after = true
	for body := p[5:]; len(body) > 0; {
		n := min(100, len(body))
		record := binary.BigEndian.AppendUint16(append([]byte(nil), p[:3]...), uint16(n)) //nolint:gosec // at most 100
		if _, err := c.Conn.Write(append(record, body[:n]...)); err != nil {
			return 0, err
		}
		body = body[n:]
	}
	return len(p), nil
}

// Nobody waits for a replica that is not there, nor is anybody sent in circles.
func TestDoor_refusesWhatItCantSendOn(t *testing.T) {
	t.Parallel()
	d := openDoors(t)
	agent := d.certificate(d.agent)
	refused := func(t *testing.T, raw net.Conn, name string, protos []string, certs ...tls.Certificate) {
		t.Helper()
		begin := time.Now()
		nc, err := d.handshake(raw, name, protos, certs...)
		if err == nil {
			_, err = says(nc, "")
		}
		if err == nil {
			t.Error("it was let in")
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("after %s", took)
		}
	}
	tunnels := []string{wire.Protocol}
	for _, id := range []string{"server-unknown", "server-dead"} {
		t.Run(id, func(t *testing.T) {
			refused(t, d.dial(d.a.addr), api.TunnelServerName(id, testCluster), tunnels, agent)
		})
	}
	t.Run("sent here by a peer for yet another", func(t *testing.T) {
		near, far := net.Pipe()
		d.b.handed.hand(farAway{far, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}})
		refused(t, near, api.TunnelServerName(doorA, testCluster), tunnels, agent)
	})
	for what, name := range map[string]string{"for the web": testCluster, "to join": api.JoinServerName(testCluster)} {
		t.Run("sent here by a peer "+what, func(t *testing.T) {
			near, far := net.Pipe()
			d.b.handed.hand(farAway{far, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}})
			refused(t, near, name, []string{"http/1.1"})
		})
	}
	t.Run("a hello that is too long to keep", func(t *testing.T) {
		protos := append([]string(nil), tunnels...)
		for i := range 100 {
			protos = append(protos, fmt.Sprint(i, strings.Repeat("x", 200)))
		}
		refused(t, d.dial(d.a.addr), api.TunnelServerName(doorB, testCluster), protos, agent)
		nc, err := d.handshake(d.dial(d.a.addr), api.TunnelServerName("", testCluster), protos, agent)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := says(nc, ""); err != nil || got != "tunnel of server-a\n" {
			t.Error("refused where it need not be kept:", got, err)
		}
	})
	t.Run("too many handshakes", func(t *testing.T) {
		d := openDoors(t)
		d.a.closed = true
		refused(t, d.dial(d.a.addr), api.TunnelServerName("", testCluster), tunnels, d.certificate(d.agent))
		d.a.mu.Lock()
		defer d.a.mu.Unlock()
		if len(d.a.minted) != 0 {
			t.Errorf("certificates were made for %v", d.a.minted)
		}
	})
}

// A door that closes cuts what goes through it to other replicas.
func TestDoor_closing(t *testing.T) {
	t.Parallel()
	d := openDoors(t)
	nc, err := d.handshake(d.dial(d.a.addr), api.TunnelServerName(doorB, testCluster), []string{wire.Protocol}, d.certificate(d.agent))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := says(nc, ""); err != nil || got != "tunnel of server-b\n" {
		t.Fatal(got, err)
	}
	d.a.door.close()
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("still there")
	}
	if nc, err := d.handshake(d.dial(d.a.addr), api.TunnelServerName(doorB, testCluster), []string{wire.Protocol}, d.certificate(d.agent)); err == nil {
		_ = nc
		t.Error("let in by a door that is closed")
	}
}

// The PROXY header comes before the ClientHello, and is not part of it.
func TestDoor_sendsOnBehindABalancer(t *testing.T) {
	t.Parallel()
	d := openDoors(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	var trusted trustedProxies
	trusted.set([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	l := hellos{Listener: d.a.count.listener(newProxiedListener(inner, &trusted, true, newProxyTrace(slog.New(slog.DiscardHandler), time.Now)))}
	base := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) { //nolint:gosec // no handshake is finished
		_, id := api.ParseServerName(hello.ServerName, testCluster)
		return nil, d.a.door.admit(hello.Conn, id)
	}}
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		tc := tls.Server(c, base)
		if err := tc.Handshake(); !errors.Is(err, errTaken) { //nolint:noctx // a test's
			t.Errorf("the handshake ended with %v", err)
		}
		_ = tc.Close()
	}()
	defer func() { _ = l.Close(); <-served }()
	raw := d.dial(inner.Addr().String())
	if _, err := io.WriteString(raw, "PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n"); err != nil {
		t.Fatal(err)
	}
	nc, err := d.handshake(raw, api.TunnelServerName(doorB, testCluster), []string{wire.Protocol}, d.certificate(d.agent))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := says(nc, ""); err != nil || got != "tunnel of server-b\n" {
		t.Fatal(got, err)
	}
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	if d.b.from[0] != "198.51.100.7:4711" {
		t.Errorf("it seems to come from %s", d.b.from[0])
	}
}
