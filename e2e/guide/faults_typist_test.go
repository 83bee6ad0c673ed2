package guide

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// typist is alice at another machine, who types the guide's commands while things break.
type typist struct {
	w     *world
	place *testbed.Process // has the machine's mounts: the names of the LAN, and the tools
	home  string
}

// The Kubernetes clusters, as tsh names them. Each has a kubeconfig of its own here.
const (
	teleKube   = clusterName
	cookieKube = "cookie"
)

// newTypist is logged in, to both clusters.
func newTypist(t *testing.T, w *world) *typist {
	t.Helper()
	ctx := within(t, patience)
	p := &typist{w: w, home: t.TempDir()}
	programs := filepath.Join(w.dir, "programs")
	if err := os.MkdirAll(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(w.release.Out, w.release.ArchiveName("linux", runtime.GOARCH))
	ok(t, testbed.Run(ctx, testbed.Command{Args: []string{"tar", "-C", programs, "--strip-components=1", "-xzf", archive}}))
	ready := filepath.Join(p.home, "ready")
	machine := w.lan.Host("bash", "-c", `mount -t tmpfs tmpfs /usr/local/bin && cp -P "$0"/* "$1"/tsh "$1"/tctl /usr/local/bin/ && touch "$2" && exec sleep infinity`, filepath.Join(w.dir, "tools"), programs, ready)
	machine.Dir, machine.Log = p.home, filepath.Join(p.home, "machine.log")
	var err error
	if p.place, err = testbed.StartProcess(machine); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.place.Kill)
	testbed.Wait(t, 0, "the typist's machine", func() error { _, err := os.Stat(ready); return err })
	ok(t, p.login(ctx, teleKube))
	b, err := os.ReadFile(p.kubeconfig(teleKube))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.kubeconfig(cookieKube), b, 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, p.run(ctx, cookieKube, "tsh", "kube", "login", cookieKube))
	// After a test in which all replicas were gone for long, cookie's agent asks once a minute.
	testbed.Wait(t, patience, "kubectl to cookie", func() error { return p.cookieCommand(ctx) })
	return p
}

func (p *typist) kubeconfig(kube string) string { return filepath.Join(p.home, kube+".yaml") }

// command runs at the typist's machine, with the kubeconfig of a cluster.
func (p *typist) command(kube string, args ...string) testbed.Command {
	return testbed.Command{
		Name: args[0],
		Args: append([]string{"nsenter", "--mount", "--wd", "--target=" + strconv.Itoa(p.place.PID())}, args...),
		Env: []string{
			"HOME=" + p.home, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8",
			"SSL_CERT_FILE=" + p.w.caFile, "SALLYPORT_BROWSER=none", "KUBECONFIG=" + p.kubeconfig(kube),
		},
	}
}

func (p *typist) run(ctx context.Context, kube string, args ...string) testbed.Result {
	return testbed.Run(ctx, p.command(kube, args...))
}

// login is a new one, which the cluster writes down.
func (p *typist) login(ctx context.Context, kube string) testbed.Result {
	c := p.command(kube, "tsh", "login", "--proxy="+clusterName+":443", "--user=alice")
	c.Stdin = strings.NewReader(password + "\n")
	return testbed.Run(ctx, c)
}

// The guide's commands, each with what it must say.
func (p *typist) teleCommand(ctx context.Context) error {
	return says(p.run(ctx, teleKube, "kubectl", "get", "-n", namespace, "pods"), namespace+"-0")
}

func (p *typist) cookieCommand(ctx context.Context) error {
	return says(p.run(ctx, cookieKube, "kubectl", "get", "pods", "-n", agents), agents+"-0")
}

func (p *typist) execCommand(ctx context.Context) error {
	const hello = "hello from cookie"
	return says(p.run(ctx, cookieKube, "kubectl", "exec", "-n", agents, agents+"-0", "--", "echo", hello), hello)
}

func (p *typist) lsCommand(ctx context.Context) error {
	return says(p.run(ctx, cookieKube, "tsh", "kube", "ls"), cookieKube)
}

func (p *typist) loginCommand(ctx context.Context) error { return p.login(ctx, "logins").Err }

func says(r testbed.Result, want string) error {
	if r.Err != nil {
		return r.Err
	}
	if !strings.Contains(r.Stdout, want) {
		return fmt.Errorf("%q is not in %q", want, r.Stdout)
	}
	return nil
}

// client is one of HTTP, with connections of its own, by what kubectl would find in the
// kubeconfig: its URL is that of the cluster's API.
type client struct {
	http.Client
	url   string
	dials atomic.Int32
}

func (c *client) get(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/api/v1/namespaces/default/serviceaccounts/default", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ Kind, Message string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK || answer.Kind != "ServiceAccount" {
		return fmt.Errorf("%s: %+v", resp.Status, answer)
	}
	return nil
}

// clients makes those of a cluster; kept: they keep their connections, by HTTP/2.
func (p *typist) clients(t *testing.T, kube string, n int, kept bool) []*client {
	t.Helper()
	ctx := within(t, testbed.Patience)
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string
				Name   string `json:"tls-server-name"`
				CA     []byte `json:"certificate-authority-data"`
			}
		}
	}
	decode(t, ok(t, p.run(ctx, kube, "kubectl", "config", "view", "--minify", "--raw", "-o", "json")).Stdout, &config)
	var credential struct {
		Status struct{ ClientCertificateData, ClientKeyData string }
	}
	decode(t, ok(t, p.run(ctx, kube, "tsh", "kube", "credentials", "--kube-cluster="+kube)).Stdout, &credential)
	pair, err := tls.X509KeyPair([]byte(credential.Status.ClientCertificateData), []byte(credential.Status.ClientKeyData))
	if err != nil {
		t.Fatal(err)
	}
	cluster := config.Clusters[0].Cluster
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cluster.CA)
	var all []*client
	for range n {
		c := &client{url: cluster.Server}
		protocols := new(http.Protocols)
		protocols.SetHTTP2(true)
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: cluster.Name, MinVersion: tls.VersionTLS12},
			Protocols:       protocols, DisableKeepAlives: !kept,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c.dials.Add(1)
				_, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(p.w.ip, port))
			},
		}
		c.Client = http.Client{Transport: transport, Timeout: testbed.Patience}
		t.Cleanup(transport.CloseIdleConnections)
		all = append(all, c)
	}
	return all
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

func ok(t *testing.T, r testbed.Result) testbed.Result {
	t.Helper()
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r
}

// within ends with the test, or after limit.
func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
