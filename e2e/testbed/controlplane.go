package testbed

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed/pki"
)

// Options of a control plane. The zero value is one on loopback with free
// ports and a temporary directory that Stop removes.
type Options struct {
	Dir           string     // "": temporary
	Host          net.IP     // nil: 127.0.0.1
	Port          int        // the API server's, the next five are used too; 0: free ones
	Services      string     // first two bytes of the services' addresses; "": 10.96
	Nodes         []pki.Node // kubelets to make certificates for; nil: n1 (what kwok serves as)
	Minimal       bool       // etcd and API server alone: no controllers, no scheduler, no default service accounts
	Grace         time.Duration
	APIServerArgs []string
	NetNS         string // network namespace to run in (cluster.sh)
	Detached      bool   // the processes outlive this one; PID files in Dir/pid (cp.sh, cluster.sh)
}

// ControlPlane is a running Kubernetes API.
type ControlPlane struct {
	Dir        string // pki/, log/, etcd/
	URL        string // https://127.0.0.1:PORT
	Kubeconfig string // of an admin in system:masters, keys inside
	Client     *http.Client

	o        Options
	host     string
	port     int
	ports    *Ports // nil: given by the caller
	temp     bool
	children map[string]*Process // by name; empty when detached
}

// StartControlPlane builds what is missing, starts a control plane and ends it
// with the test. It is ready: pods can be made in the namespace default.
func StartControlPlane(tb TB, o ...Options) *ControlPlane {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute) // an empty cache is filled first
	defer cancel()
	if err := Build(ctx, logWriter{tb}, Hyper, Etcd); err != nil {
		tb.Fatalf("%v", err)
	}
	var options Options
	if len(o) > 0 {
		options = o[0]
	}
	cp, err := Start(ctx, options)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s", cp.Logs(15))
		}
		cp.Stop()
	})
	return cp
}

// logWriter sends a build's progress to the test's log.
type logWriter struct{ tb TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.tb.Logf("%s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}

// Start starts a control plane from what Build has made, and returns when it is
// ready. After a failure nothing of it is left but a directory the caller gave.
func Start(ctx context.Context, o Options) (_ *ControlPlane, err error) {
	for _, b := range []string{"hyper", "etcd"} {
		if _, err := os.Stat(Bin(b)); err != nil {
			return nil, fmt.Errorf("%s is not built: run e2e/testbed/build.sh hyper etcd", b)
		}
	}
	cp := &ControlPlane{o: o, Dir: o.Dir, host: "127.0.0.1", port: o.Port, children: map[string]*Process{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, cp.Logs(15))
			cp.Stop()
		}
	}()
	if o.Host != nil {
		cp.host = o.Host.String()
	}
	if cp.Dir == "" {
		// Not a test's TempDir: its long names would not leave room for a unix socket's path.
		cp.Dir, err = os.MkdirTemp("", "testbed-")
		if err != nil {
			return nil, err
		}
		cp.temp = true
	}
	switch {
	case cp.port == 0:
		if cp.ports, err = ReservePorts(); err != nil {
			return nil, err
		}
		cp.port = cp.ports.Port(0)
	case o.NetNS == "":
		if err := checkFree(cp.port, 6); err != nil {
			return nil, err
		}
	}
	if cp.o.Services == "" {
		cp.o.Services = "10.96"
	}
	if cp.o.Nodes == nil {
		cp.o.Nodes = []pki.Node{{Name: "n1", IP: net.IPv4(127, 0, 0, 1)}}
	}
	cp.URL = fmt.Sprintf("https://%s:%d", cp.host, cp.port)
	cp.Kubeconfig = cp.pki("admin.kubeconfig")

	if err := cp.certificates(); err != nil {
		return nil, err
	}
	// etcd first and not waited for: the API server retries.
	if err := cp.launch("etcd", cp.etcdArgs()); err != nil {
		return nil, err
	}
	if err := cp.launch("kube-apiserver", cp.apiServerArgs()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	if err := cp.WaitReady(ctx); err != nil {
		return nil, err
	}
	if o.Minimal {
		return cp, nil
	}
	if err := cp.launch("kube-controller-manager", cp.controllerManagerArgs()); err != nil {
		return nil, err
	}
	if err := cp.launch("kube-scheduler", cp.schedulerArgs()); err != nil {
		return nil, err
	}
	// Before that no pod can be made.
	return cp, Until(ctx, "default service account", func() error {
		return cp.do(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
	})
}

func (cp *ControlPlane) pki(name string) string { return filepath.Join(cp.Dir, "pki", name) }

func (cp *ControlPlane) certificates() error {
	if _, err := os.Stat(cp.pki("ca.crt")); errors.Is(err, os.ErrNotExist) {
		err := pki.Write(cp.pki(""), pki.Spec{
			Server: cp.URL,
			IPs:    []net.IP{net.ParseIP(cp.host), net.ParseIP(cp.o.Services + ".0.1")},
			Nodes:  cp.o.Nodes,
		})
		if err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
	}
	ca, err := os.ReadFile(cp.pki("ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	admin, err := tls.LoadX509KeyPair(cp.pki("admin.crt"), cp.pki("admin.key"))
	if err != nil {
		return err
	}
	cp.Client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{admin}},
		ForceAttemptHTTP2: true,
	}}
	return nil
}

// launch starts bin/NAME as one of ours.
func (cp *ControlPlane) launch(name string, args []string) error {
	c := Command{Name: name, Args: append([]string{Bin(name)}, args...), Log: filepath.Join(cp.Dir, "log", name+".log"), NetNS: cp.o.NetNS}
	if cp.o.Detached {
		return startDetached(c, filepath.Join(cp.Dir, "pid", name))
	}
	p, err := StartProcess(c)
	if err == nil {
		cp.children[name] = p
	}
	return err
}

// Process returns a part of the control plane by its name, to pause or kill it.
func (cp *ControlPlane) Process(name string) *Process { return cp.children[name] }

// Restart starts a part again that was killed, with its arguments of before.
func (cp *ControlPlane) Restart(name string) error {
	p := cp.children[name]
	if p == nil || p.Running() {
		return fmt.Errorf("%s was not killed", name)
	}
	again, err := StartProcess(p.c)
	if err == nil {
		cp.children[name] = again
	}
	return err
}

// WaitReady waits for /readyz and says at once when a process has ended.
func (cp *ControlPlane) WaitReady(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	return Until(ctx, "API server", func() error {
		for name, p := range cp.children {
			if !p.Running() {
				err := fmt.Errorf("%s ended: %w", name, p.Err())
				stop(err)
				return err
			}
		}
		return cp.do(ctx, http.MethodGet, "/readyz", nil, nil)
	})
}

// Stop ends the processes and removes the directory, unless the caller gave it.
func (cp *ControlPlane) Stop() {
	if cp.o.Detached {
		files, _ := filepath.Glob(filepath.Join(cp.Dir, "pid", "*"))
		StopDetached(time.Second, files...)
	}
	// The data goes too, and a graceful end of the API server takes 10 s.
	for _, p := range cp.children {
		if p.Running() {
			_ = p.Signal(syscall.SIGCONT) // a paused one would be killed too, but its group's others wait for nobody
		}
		p.Kill()
	}
	if cp.Client != nil {
		cp.Client.CloseIdleConnections()
	}
	if cp.ports != nil {
		cp.ports.Release()
	}
	if cp.temp {
		os.RemoveAll(cp.Dir)
	}
}

// Logs returns the last lines of every process's log.
func (cp *ControlPlane) Logs(lines int) string {
	files, _ := filepath.Glob(filepath.Join(cp.Dir, "log", "*.log"))
	var b strings.Builder
	for _, f := range files {
		if filepath.Base(f) != "audit.log" {
			fmt.Fprintf(&b, "--- %s\n%s\n", f, tail(f, lines))
		}
	}
	return b.String()
}

// AuditLog is the API server's own audit log (JSON lines, level Metadata): what really reached it.
func (cp *ControlPlane) AuditLog() string { return filepath.Join(cp.Dir, "log", "audit.log") }

// Kubectl runs kubectl as the admin.
func (cp *ControlPlane) Kubectl(ctx context.Context, args ...string) Result {
	return Run(ctx, Command{Name: "kubectl", Args: append([]string{Bin("kubectl"), "--kubeconfig", cp.Kubeconfig}, args...), Dir: cp.Dir})
}

// do is a request as the admin; in and out are JSON or nil.
func (cp *ControlPlane) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, cp.URL+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := cp.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, b)
	}
	if out != nil {
		return json.Unmarshal(b, out)
	}
	return nil
}
