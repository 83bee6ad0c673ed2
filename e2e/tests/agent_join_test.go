package tests

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Threats, join tokens: fifty come at once with a token for one.
func TestTokenForOneRacedByFifty(t *testing.T) {
	e := agents(t)
	ctx := within(t, time.Minute)
	token, err := e.cluster.JoinToken(ctx, e.cluster.Replicas[1], "--max-uses=1")
	if err != nil {
		t.Fatal(err)
	}
	keys := make([][]byte, 50) // one that comes again with the same key is not another
	for i := range keys {
		keys[i] = publicKey(t)
	}
	var mu sync.Mutex
	answers := map[int]int{}
	words := map[string]int{}
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			r := e.cluster.Replicas[i%3]
			status, body, err := join(ctx, e.alice, r, net.IPv4(127, 50, byte(i), 1), token, "raced", keys[i])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("join %d: %v", i, err)
			}
			answers[status]++
			if status != http.StatusOK {
				words[strings.TrimSpace(body)]++
			}
		})
	}
	wg.Wait()
	t.Logf("%v: %v", answers, words)
	if answers[http.StatusOK] != 1 || answers[http.StatusUnauthorized]+answers[http.StatusForbidden] != 49 {
		t.Errorf("answers %v, want exactly one 200 and nothing but refusals beside it", answers)
	}
	defer e.forget(t, "raced")
	n := 0
	all, err := e.cluster.Replicas[2].Agents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if strings.Join(a.KubeClusters, ",") == "raced" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d agents joined", n)
	}
	for text := range words {
		if strings.Contains(text, token) {
			t.Errorf("a refusal says the token: %s", text)
		}
	}
}

// join asks a replica for an agent's certificate, from an address of loopback.
func join(ctx context.Context, u *sallyport.User, r *sallyport.Replica, from net.IP, token, kube string, pub []byte) (status int, answer string, err error) {
	client, err := u.Client()
	if err != nil {
		return 0, "", err
	}
	// Its address is that of loopback's version 4, as from is.
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).DialContext(ctx, "tcp", r.ListenAddr())
	}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(map[string]any{"token": token, "public_key": pub, "kubernetes_clusters": []string{kube}})
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL()+"/webapi/host/credentials", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// impostor answers TLS for anybody, passes for the cluster, and notes what it is told.
type impostor struct {
	addr string
	mu   sync.Mutex
	told bytes.Buffer // after the handshake
	met  int          // handshakes begun
}

func startImpostor(t *testing.T) *impostor {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ports, err := testbed.ReservePorts()
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", ports.Addr(0))
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{addr: ports.Addr(0)}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { i.listen(tls.Server(conn, config)) })
		}
	})
	t.Cleanup(func() { l.Close(); ports.Release(); wg.Wait() })
	return i
}

func (i *impostor) listen(conn *tls.Conn) {
	defer conn.Close()
	i.mu.Lock()
	i.met++
	i.mu.Unlock()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 64<<10)
	for {
		n, err := conn.Read(b) // fails when the other end breaks the handshake off
		i.mu.Lock()
		i.told.Write(b[:n])
		i.mu.Unlock()
		if err != nil {
			return
		}
		const answer = `{"cluster_name":"localhost"}`
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
	}
}

// Threats, join tokens: whoever answers at the address without the key that the
// pin names, or a certificate that the machine trusts, is told nothing at all.
func TestWrongPinStopsTheAgentBeforeItSpeaks(t *testing.T) {
	e := agents(t)
	i := startImpostor(t)
	const token = "a-token-that-nobody-may-see"
	for name, pin := range map[string]string{"another authority's pin": "sha256:" + strings.Repeat("0", 64), "the cluster's own pin": ""} {
		a := e.newAgent(t, sallyport.AgentOptions{Name: strings.ReplaceAll(name, " ", "-"), Kube: "pinless", Proxy: "localhost:" + port(t, i.addr), Token: token, CAPin: pin})
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		testbed.Wait(t, 15*time.Second, "the agent's complaint about "+name, func() error {
			if said := a.Tail(50); !strings.Contains(said, "is not who --ca-pin names") {
				return fmt.Errorf("it said %q", said)
			}
			return nil
		})
		if err := a.Diag(t.Context(), "/readyz", nil); a.Running() && err == nil {
			t.Errorf("%s: it is ready", name)
		}
		a.Kill()
		if said := a.Tail(1000); strings.Contains(said, token) {
			t.Errorf("%s: the token is in its log: %s", name, said)
		}
	}
	// The real address with a wrong pin: no token is sent either, which its log tells.
	a := e.newAgent(t, sallyport.AgentOptions{Name: "mistyped-pin", Kube: "pinless", CAPin: "sha256:" + strings.Repeat("1", 64)})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 15*time.Second, "the agent's complaint about a mistyped pin", func() error {
		if said := a.Tail(50); !strings.Contains(said, "is not who --ca-pin names") {
			return fmt.Errorf("it said %q", said)
		}
		return nil
	})
	a.Kill()
	if _, err := joined(t.Context(), e.cluster.Replicas[0], "pinless"); err == nil {
		t.Error("it joined")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.met < 2 || i.told.Len() > 0 {
		t.Errorf("%d connections; the impostor was told %q", i.met, i.told.String())
	}
}

// An agent that is let out through a proxy alone joins and serves through it. What
// it does not need it for is its API server. (NO_PROXY has its tests in agent: by
// Go's rules no address of loopback is ever proxied.)
func TestAgentBehindAProxy(t *testing.T) {
	e := agents(t)
	p := testbed.StartConnectProxy(t)
	// With a final dot it is another name of this machine, which those rules don't know.
	address := strings.Replace(e.proxy(), "localhost:", "localhost.:", 1)
	a := e.startAgent(t, sallyport.AgentOptions{Kube: "walled", Proxy: address, Env: []string{"HTTPS_PROXY=" + p.URL()}})
	e.tunnels(t, a, 20*time.Second)
	for _, r := range e.cluster.Replicas {
		c := e.through(t, r, "h2")
		c.tls.ServerName = a.Kube() + ".kube." + clusterName
		if err := c.pods(within(t, 20*time.Second)); err != nil {
			t.Errorf("through %s: %v", r.Name, err)
		}
	}
	asked := p.Asked()
	if len(asked) < 3 || p.Open() < 2 { // to join, and for each tunnel
		t.Errorf("the proxy was asked for %v and has %d connections", asked, p.Open())
	}
	for _, addr := range asked {
		if addr != address {
			t.Errorf("the proxy was asked for %s", addr)
		}
	}
}

// A token that is not one, or for other names, is refused in words; a name has one owner.
func TestNamesHaveOneOwner(t *testing.T) {
	e := agents(t)
	ctx := within(t, time.Minute)
	r := e.cluster.Replicas[0]
	pub := publicKey(t)
	try := func(token, kube string, want int, words ...string) {
		t.Helper()
		status, body, err := join(ctx, e.alice, r, net.IPv4(127, 51, 0, 1), token, kube, pub)
		if err != nil || status != want {
			t.Errorf("join as %s: %d %s, %v, want %d", kube, status, body, err, want)
		}
		for _, w := range words {
			if !strings.Contains(body, w) {
				t.Errorf("%q is not in %s", w, body)
			}
		}
	}
	other, err := e.cluster.JoinToken(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	try("0123456789abcdef0123456789abcdef", "fresh", http.StatusUnauthorized)
	try(other, cookie, http.StatusForbidden, "--kube-clusters="+cookie, "tctl kube rm "+cookie)
	try(other, clusterName, http.StatusForbidden)
	listed, err := e.cluster.JoinToken(ctx, r, "--kube-clusters="+cookie)
	if err != nil {
		t.Fatal(err)
	}
	try(listed, cookie, http.StatusOK)
	try(listed, "fresh", http.StatusForbidden)
	all, err := r.Agents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all { // the one that joined beside the guide's
		if len(a.Replicas) == 0 && strings.Join(a.KubeClusters, ",") == cookie {
			ok(t, r.Tctl(ctx, "nodes", "rm", a.ID))
		}
	}
	if err := e.through(t, r, "h2").pods(ctx); err != nil {
		t.Error(err)
	}
}
