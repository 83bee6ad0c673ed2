package tests

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// make soak gives these: 100 challenges, ten minutes without DNS.
var (
	acmeChallenges = flag.Int("challenges", 20, "ACME challenges to answer by replicas at random")
	acmeWithoutDNS = flag.Duration("without-dns", 5*time.Second, "how long a new cluster's name does not resolve")
)

// The addresses of the load balancer before a cluster with ACME: two, so that the
// names' can change.
const (
	here  = "127.0.0.1"
	there = "127.0.0.2"
)

// publicName is the host of --public-addr, the second name that is ordered.
const publicName = "proxy.example.com"

// acmeCluster is three replicas that order their certificate from an authority, with
// load balancers that send each connection to a replica by chance. Both ask one DNS, in
// which no name resolves until the test says so.
type acmeCluster struct {
	*sallyport.Cluster
	pebble   *testbed.Pebble
	ready    int              // requests of ours, until it answered
	port     string           // of the public address
	users    []*testbed.Relay // at here and there
	alpn     []*testbed.Relay // by which the authority alone comes, for TLS-ALPN-01
	plain    []*testbed.Relay // for HTTP-01
	hostCA   *x509.CertPool
	issuedBy *x509.CertPool
}

// startACME starts the authority and the replicas. With http they answer HTTP-01 too.
func startACME(t *testing.T, o testbed.PebbleOptions, http bool) *acmeCluster {
	t.Helper()
	if os.Geteuid() != 0 || testbed.Run(t.Context(), testbed.Command{Args: []string{"unshare", "--mount", "true"}}).Err != nil {
		t.Skip("a DNS of the replicas' own needs root: to listen at port 53, and for an /etc/resolv.conf that nobody else sees")
	}
	ctx := within(t, 2*time.Minute)
	ports, err := testbed.ReservePorts()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ports.Release)
	o.Port53, o.TLSPort, o.HTTPPort = true, ports.Port(1), ports.Port(2)
	a := &acmeCluster{pebble: testbed.StartPebble(t, o), port: strconv.Itoa(ports.Port(0))}
	a.ready = len(a.pebble.Requests())
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+a.pebble.Nameserver+"\nsearch .\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bin, err := sallyport.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a.Cluster = sallyport.StartCluster(t, sallyport.Options{
		Bin: bin, Name: clusterName, ResolvConf: resolv,
		ACME: &sallyport.ACME{Directory: a.pebble.URL, CAFile: a.pebble.CAFile, HTTP: http},
		Args: []string{"--public-addr=" + net.JoinHostPort(publicName, a.port), "--acme-email=ops@example.com", "--log-level=debug"},
	})
	a.balance(t, ports)
	root, err := a.pebble.Root()
	if err != nil {
		t.Fatal(err)
	}
	exported := ok(t, a.Replicas[0].Tctl(ctx, "auth", "export", "--type=host"))
	a.issuedBy, a.hostCA = x509.NewCertPool(), x509.NewCertPool()
	a.issuedBy.AppendCertsFromPEM(root)
	a.hostCA.AppendCertsFromPEM([]byte(exported.Stdout))
	return a
}

func (a *acmeCluster) balance(t *testing.T, ports *testbed.Ports) {
	t.Helper()
	var web, plain []string
	for _, r := range a.Replicas {
		web, plain = append(web, r.ListenAddr()), append(plain, r.ACMEHTTPAddr())
	}
	for i, b := range []struct {
		relays   *[]*testbed.Relay
		backends []string
	}{{&a.users, web}, {&a.alpn, web}, {&a.plain, plain}} {
		for _, ip := range []string{here, there} {
			relay, err := testbed.NewRelay(net.JoinHostPort(ip, strconv.Itoa(ports.Port(i))), b.backends...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(relay.Stop)
			relay.Shuffle()
			*b.relays = append(*b.relays, relay)
		}
	}
}

// resolve lets names lead to the balancer at ip.
func (a *acmeCluster) resolve(t *testing.T, ip string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := a.pebble.SetDNS(name, ip); err != nil {
			t.Fatal(err)
		}
	}
}

// shown is the certificate that a handshake got.
type shown struct {
	leaf   *x509.Certificate
	public bool // the authority's, else the host CA's
	took   time.Duration
}

func (s shown) serial() string { return s.leaf.SerialNumber.String() }

// patientDialer waits as browsers and curl do: longer than a replica for an order.
func patientDialer() *net.Dialer { return &net.Dialer{Timeout: 90 * time.Second} }

// handshake asks for a name at an address, and refuses certificates that are neither's.
func (a *acmeCluster) handshake(ctx context.Context, addr, name string) (shown, error) {
	start := time.Now()
	d := tls.Dialer{NetDialer: patientDialer(), Config: &tls.Config{
		ServerName: name, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, //nolint:gosec // which of two it is is looked at below
	}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return shown{}, fmt.Errorf("%s at %s after %v: %w", name, addr, time.Since(start), err)
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	s := shown{leaf: chain[0], took: time.Since(start)}
	o := x509.VerifyOptions{DNSName: name, Roots: a.issuedBy, Intermediates: x509.NewCertPool(), CurrentTime: start} // short-lived ones may end meanwhile
	if o.CurrentTime.Before(s.leaf.NotBefore) {
		o.CurrentTime = s.leaf.NotBefore
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err = s.leaf.Verify(o)
	s.public = err == nil
	if s.public {
		return s, nil
	}
	o.Roots = a.hostCA
	if _, other := s.leaf.Verify(o); other != nil {
		return s, errors.Join(err, other)
	}
	return s, nil
}

// shows is handshake for who can't go on without.
func (a *acmeCluster) shows(t *testing.T, addr, name string) shown {
	t.Helper()
	s, err := a.handshake(within(t, 90*time.Second), addr, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// curl gets a page by the public address as `curl --cacert` with the authority's root does.
func (a *acmeCluster) curl(ctx context.Context, name, path string) (string, error) {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.issuedBy, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 90 * time.Second,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return patientDialer().DialContext(ctx, "tcp", a.users[0].Addr())
		}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(name, a.port)+path, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// orders are those for a name that the authority took, all with "".
func (a *acmeCluster) orders(name string) (taken []testbed.PebbleOrder) {
	for _, o := range a.pebble.Orders() {
		if o.Status == http.StatusCreated && (name == "" || len(o.Names) == 1 && o.Names[0] == name) {
			taken = append(taken, o)
		}
	}
	return taken
}

// status waits until all three replicas say the same of the certificate, and that is as wanted.
func (a *acmeCluster) status(t *testing.T, want func(api.WebCertificate) bool) api.WebCertificate {
	t.Helper()
	ctx := within(t, time.Minute)
	var said [3]api.WebCertificate
	testbed.Wait(t, testbed.Patience, "tctl status of all replicas", func() error {
		for i, r := range a.Replicas {
			var status struct{ Certificates []api.WebCertificate }
			out := r.Tctl(ctx, "status", "--format=json")
			if out.Err != nil {
				return out.Err
			}
			if err := json.Unmarshal([]byte(out.Stdout), &status); err != nil {
				return err
			}
			of := func(c api.WebCertificate) bool { return slices.Contains(c.Names, clusterName) }
			at := slices.IndexFunc(status.Certificates, of)
			if at < 0 {
				return fmt.Errorf("%s says nothing of %s", r.Name, clusterName)
			}
			said[i] = status.Certificates[at]
			if diff := cmp.Diff(said[0], said[i]); diff != "" {
				return fmt.Errorf("%s says something else than %s: %s", r.Name, a.Replicas[0].Name, diff)
			}
		}
		if !want(said[0]) {
			return fmt.Errorf("%+v", said[0])
		}
		return nil
	})
	return said[0]
}

// atOnce does something n times at the same time, and waits for all.
func atOnce(n int, do func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}
