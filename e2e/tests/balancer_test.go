package tests

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// haproxyAddr is where haproxy's connections come from: not where anybody else's do.
var haproxyAddr = net.IPv4(127, 77, 0, 1)

// Ports of haproxy's block: one for each version of the header, and one for kubectl alone.
const (
	balancerV1 = iota
	balancerV2
	balancerKube
)

// startBalancer has haproxy share out connections among the replicas.
func startBalancer(t *testing.T, ports *testbed.Ports, c *sallyport.Cluster) {
	t.Helper()
	program := "/usr/sbin/haproxy" // which is not in everybody's PATH
	if found, err := exec.LookPath("haproxy"); err == nil {
		program = found
	}
	var b strings.Builder
	b.WriteString("defaults\n  mode tcp\n  balance roundrobin\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n")
	for port, how := range []struct {
		send string
		addr func(*sallyport.Replica) string
	}{
		balancerV1:   {"send-proxy", (*sallyport.Replica).ListenAddr},
		balancerV2:   {"send-proxy-v2", (*sallyport.Replica).ListenAddr},
		balancerKube: {"send-proxy-v2", (*sallyport.Replica).KubeListenAddr},
	} {
		fmt.Fprintf(&b, "listen p%d\n  bind %s\n", port, ports.Addr(port))
		for _, r := range c.Replicas {
			fmt.Fprintf(&b, "  server %s %s source %s %s check check-send-proxy inter 500ms\n", r.Name, how.addr(r), haproxyAddr, how.send)
		}
	}
	config := filepath.Join(t.TempDir(), "haproxy.conf")
	if err := os.WriteFile(config, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := testbed.StartProcess(testbed.Command{Name: "haproxy", Args: []string{program, "-db", "-f", config}, Log: config + ".log"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	testbed.Wait(t, 10*time.Second, "haproxy", func() error {
		for port := range 3 {
			conn, err := net.Dial("tcp", ports.Addr(port))
			if err != nil {
				return fmt.Errorf("%w\n%s", err, p.Tail(5))
			}
			conn.Close()
		}
		return nil
	})
}

// Behind a load balancer that sends PROXY headers everybody is known by their
// own address, and nobody can do without the header or make one up.
func TestBehindALoadBalancer(t *testing.T) {
	ports, err := testbed.ReservePorts()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ports.Release)
	at := func(port int) string { return fmt.Sprintf("localhost:%d", ports.Port(port)) }
	settings := filepath.Join(t.TempDir(), "sallyport.yaml")
	trust := func(network string) {
		t.Helper()
		if err := os.WriteFile(settings, []byte("proxy_protocol: require\ntrusted_proxies: ["+network+"]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust(haproxyAddr.String() + "/32")
	c := ownCluster(t, sallyport.Options{Args: []string{
		"--public-addr=" + at(balancerV1), "--public-kube-addr=" + at(balancerKube), "--config=" + settings,
	}})
	startBalancer(t, ports, c)
	ctx := within(t, time.Minute)
	anna, err := c.AddUser(ctx, c.Replicas[0], "anna", "--roles=admin", "--k8s-groups=system:masters")
	if err != nil {
		t.Fatal(err)
	}
	for port, version := range []string{balancerV1: "version 1", balancerV2: "version 2"} {
		ok(t, anna.TshStdin(ctx, anna.Password+"\n", "login", "--proxy="+at(port), "--user=anna", "--ca-file="+anna.CAFile))
		for range 3 { // once at each replica
			if got := ok(t, anna.Tctl(ctx, "--proxy="+at(port), "users", "ls")).Stdout; !strings.Contains(got, "anna") {
				t.Errorf("%s: users ls: %s", version, got)
			}
			ok(t, anna.Kubectl(ctx, "get", "ns"))
		}
		ok(t, anna.Kubectl(ctx, "exec", pod, "--", "echo", version))
	}
	t.Run("addresses are the clients' own", func(t *testing.T) { locksByAddress(t, c, anna, "https://"+at(balancerV1), "https://"+at(balancerV2)) })
	t.Run("nobody comes without", func(t *testing.T) { comesDirectly(t, c.Replicas[1], anna, trust) })

	// Not a word of haproxy's own address, nor of those that were made up.
	seen := map[string]int{}
	for _, e := range events(t, c.Replicas[0], func(e event) bool { return e.text("addr.remote") != "" }) {
		seen[client(e)]++
	}
	t.Logf("addresses in events.log: %v", seen)
	for addr := range seen {
		if !slices.Contains([]string{"127.0.0.1", "127.9.0.9", "127.9.0.200", "127.9.1.9", "127.9.2.2"}, addr) {
			t.Errorf("%d events are of %s", seen[addr], addr)
		}
	}
	for _, r := range c.Replicas {
		is, err := r.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		waitEvent(t, c.Replicas[0], "a request of kubectl's that "+r.Name+" took", func(e event) bool {
			return e.text("event") == "kube.request" && client(e) == "127.0.0.1" && e.text("replica") == is.ServerID
		})
	}
}

// client is the address of whom an event is about, without its port.
func client(e event) string {
	if host, _, err := net.SplitHostPort(e.text("addr.remote")); err == nil {
		return host
	}
	return e.text("addr.remote")
}

// locksByAddress guesses anna's password from one network.
func locksByAddress(t *testing.T, c *sallyport.Cluster, anna *sallyport.User, urls ...string) {
	pub := publicKey(t)
	login := func(url, from, password string) int {
		t.Helper()
		status, answer, err := tryLoginFrom(within(t, 20*time.Second), anna, url, net.ParseIP(from), "anna", password, pub)
		if err != nil {
			t.Fatal(err)
		}
		if status != http.StatusOK {
			t.Logf("from %s: %d %s", from, status, answer)
		}
		return status
	}
	for i := range 5 {
		if got := login(urls[i%2], "127.9.0.9", "a wrong password"); got != http.StatusUnauthorized {
			t.Errorf("wrong password %d: %d", i, got)
		}
	}
	for _, url := range urls {
		if got := login(url, "127.9.0.9", anna.Password); got != http.StatusTooManyRequests {
			t.Errorf("the right one after five wrong: %d", got)
		}
		if got := login(url, "127.9.0.200", anna.Password); got != http.StatusTooManyRequests {
			t.Errorf("from the same network: %d", got)
		}
		if got := login(url, "127.9.1.9", anna.Password); got != http.StatusOK {
			t.Errorf("from another network: %d", got)
		}
	}
	testbed.Wait(t, 5*time.Second, "the events", func() error {
		for _, r := range c.Replicas {
			failed := len(events(t, r, func(e event) bool { return e.text("code") == "T1000W" && client(e) == "127.9.0.9" }))
			succeeded := len(events(t, r, func(e event) bool { return e.text("code") == "T1000I" && client(e) == "127.9.1.9" }))
			if failed < 5 || succeeded != 2 {
				return fmt.Errorf("%s: %d failures and %d logins", r.Name, failed, succeeded)
			}
		}
		return nil
	})
}

// comesDirectly tries a replica's own port: as haproxy's machine without a
// header, as somebody else with one, and as anybody in the network behind.
func comesDirectly(t *testing.T, r *sallyport.Replica, anna *sallyport.User, trust func(network string)) {
	https, err := anna.Client()
	if err != nil {
		t.Fatal(err)
	}
	config := https.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "localhost"
	shake := func(from net.IP, header string) error {
		t.Helper()
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).Dial("tcp", r.ListenAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(testbed.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, header); err != nil {
			return err
		}
		return tls.Client(conn, config).HandshakeContext(t.Context())
	}
	forged := "PROXY TCP4 127.66.6.6 127.0.0.1 1234 443\r\n"
	neighbour := net.IPv4(127, 77, 0, 2)
	start := time.Now()
	for what, err := range map[string]error{
		"a balancer's without a header":      shake(haproxyAddr, ""),
		"a balancer's with a broken one":     shake(haproxyAddr, "PROXY TCP4 127.66.6.6\r\n"),
		"a stranger's with a header":         shake(net.IPv4(127, 9, 2, 2), forged),
		"a neighbour's of haproxy, with one": shake(neighbour, forged),
	} {
		var timeout net.Error
		if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s was not closed: %v", what, err)
		}
	}
	if took := time.Since(start); took > testbed.Patience/2 {
		t.Errorf("they were closed after %v", took)
	}
	if err := shake(haproxyAddr, forged); err != nil { // its word counts
		t.Errorf("a balancer's with a header: %v", err)
	}
	// Another balancer takes over, which needs no restart.
	trust(neighbour.String())
	if err := r.Process().Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 5*time.Second, "the other balancer's word to count", func() error { return shake(neighbour, forged) })
	if err := shake(haproxyAddr, forged); err == nil {
		t.Error("the word of the balancer before counts still")
	}
	// Whoever comes past the balancer is who they are.
	status, answer, err := tryLoginFrom(within(t, 20*time.Second), anna, "https://localhost:"+port(t, r.ListenAddr()), net.IPv4(127, 9, 2, 2), "anna", anna.Password, publicKey(t))
	if err != nil || status != http.StatusOK {
		t.Errorf("a login past the balancer: %d %s, %v", status, answer, err)
	}
	waitEvent(t, r, "the login", func(e event) bool { return e.text("code") == "T1000I" && client(e) == "127.9.2.2" })
}

func port(t *testing.T, addr string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
