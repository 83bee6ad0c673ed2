package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// environment is everything that runs during the measurements.
type environment struct {
	dir     string
	cp      *testbed.ControlPlane
	cluster *sallyport.Cluster
	leader  *sallyport.Replica
	user    *sallyport.User

	direct, haproxy, nginx, ours *target
	ca, cert, key                []byte // PEM: what kubectl would trust and show

	undo []func()
}

// target is a way to the API server: direct or through a proxy.
type target struct {
	name string
	url  string
	tls  *tls.Config
	pids func() []int // of the proxy
}

// client has one HTTP/2 connection of its own.
func (t *target) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: t.tls.Clone(), ForceAttemptHTTP2: true}}
}

const smallObjects = 8 // in the list that throughput asks for: about 3.7 KB

func newEnvironment(ctx context.Context) (_ *environment, err error) {
	e := &environment{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	// Beside the cache, not in TMPDIR: that may be memory, and disks are compared here.
	if e.dir, err = os.MkdirTemp(testbed.Home(), "b"); err != nil {
		return nil, err
	}
	e.undo = append(e.undo, func() { os.RemoveAll(e.dir) })
	if e.cp, err = testbed.Start(ctx, testbed.Options{Dir: filepath.Join(e.dir, "kubernetes")}); err != nil {
		return nil, err
	}
	e.undo = append(e.undo, e.cp.Stop)
	if err := e.objects(ctx); err != nil {
		return nil, err
	}
	if err := e.references(ctx); err != nil {
		return nil, err
	}
	if err := e.replicas(ctx); err != nil {
		return nil, err
	}
	for _, t := range []*target{e.direct, e.haproxy, e.nginx, e.ours} {
		if err := testbed.Until(ctx, t.name, func() error { return get(ctx, t.client(), t.url+smallGET) }); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (e *environment) close() {
	for i := len(e.undo) - 1; i >= 0; i-- {
		e.undo[i]()
	}
}

const (
	smallGET = "/api/v1/namespaces/default/configmaps/small0"
	listGET  = "/api/v1/namespaces/default/configmaps?labelSelector=bench"
	watchGET = "/api/v1/namespaces/kube-public/secrets?watch=1"
)

// objects fills the namespace default with what is asked for.
func (e *environment) objects(ctx context.Context) error {
	var b strings.Builder
	for i := range smallObjects {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: small%d, namespace: default, labels: {bench: \"yes\"}}\ndata: {text: %q}\n",
			i, strings.Repeat("x", 60))
	}
	file := filepath.Join(e.dir, "objects.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return e.cp.Kubectl(ctx, "apply", "-f", file).Err
}

// references are the API server itself, haproxy and nginx. Both proxies ask for
// a client certificate, drop the client's Impersonate-User and set their own,
// and speak to the API server as its admin over connections they keep.
func (e *environment) references(ctx context.Context) error {
	pki := filepath.Join(e.cp.Dir, "pki")
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	admin, err := tls.LoadX509KeyPair(filepath.Join(pki, "admin.crt"), filepath.Join(pki, "admin.key"))
	if err != nil {
		return err
	}
	config := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{admin}}
	e.direct = &target{name: "direct", url: e.cp.URL, tls: config, pids: func() []int { return nil }}

	ports, err := testbed.ReservePorts()
	if err != nil {
		return err
	}
	e.undo = append(e.undo, ports.Release)
	upstream := strings.TrimPrefix(e.cp.URL, "https://")
	for _, p := range []struct {
		at     **target
		name   string
		config string
		args   []string
	}{
		{&e.haproxy, "haproxy", haproxyConfig, []string{"-db", "-f"}},
		{&e.nginx, "nginx", nginxConfig, []string{"-e", "stderr", "-c"}},
	} {
		path, err := lookSbin(p.name)
		if err != nil {
			return err
		}
		for _, name := range []string{"apiserver", "admin"} { // haproxy wants certificate and key in one file
			var both []byte
			for _, ext := range []string{".crt", ".key"} {
				b, err := os.ReadFile(filepath.Join(pki, name+ext))
				if err != nil {
					return err
				}
				both = append(both, b...)
			}
			if err := os.WriteFile(filepath.Join(pki, name+".both"), both, 0o600); err != nil {
				return err
			}
		}
		addr := ports.Addr(0)
		if p.name == "nginx" {
			addr = ports.Addr(1)
		}
		replace := strings.NewReplacer("@ADDR@", addr, "@UPSTREAM@", upstream, "@PKI@", pki, "@DIR@", e.dir)
		file := filepath.Join(e.dir, p.name+".conf")
		if err := os.WriteFile(file, []byte(replace.Replace(p.config)), 0o600); err != nil {
			return err
		}
		process, err := testbed.StartProcess(testbed.Command{
			Name: p.name, Args: append(append([]string{path}, p.args...), file), Log: filepath.Join(e.dir, p.name+".log"),
		})
		if err != nil {
			return err
		}
		e.undo = append(e.undo, process.Kill)
		t := &target{name: p.name, url: "https://" + addr, tls: config, pids: func() []int { return family(process.PID()) }}
		*p.at = t
		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		err = testbed.Until(limit, p.name, func() error { return get(limit, t.client(), t.url+smallGET) })
		cancel()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, process.Tail(10))
		}
	}
	return nil
}

func lookSbin(name string) (string, error) {
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: e2e/testbed/build.sh bench-packages", name)
}

const haproxyConfig = `global
  maxconn 8192
  tune.h2.max-concurrent-streams 250
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend f
  bind @ADDR@ ssl crt @PKI@/apiserver.both ca-file @PKI@/ca.crt verify required alpn h2,http/1.1
  http-request set-header Impersonate-User %[ssl_c_s_dn(cn)]
  http-request set-header Impersonate-Group system:masters
  default_backend b
backend b
  http-reuse always
  server s @UPSTREAM@ ssl verify required ca-file @PKI@/ca.crt crt @PKI@/admin.both
`

const nginxConfig = `daemon off;
user root;
worker_processes auto;
worker_rlimit_nofile 16384;
pid @DIR@/nginx.pid;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path @DIR@/nginx-body;
  proxy_temp_path @DIR@/nginx-proxy;
  fastcgi_temp_path @DIR@/nginx-fastcgi;
  uwsgi_temp_path @DIR@/nginx-uwsgi;
  scgi_temp_path @DIR@/nginx-scgi;
  keepalive_requests 100000000;
  http2_max_concurrent_streams 250;
  map $ssl_client_s_dn $user { ~CN=(?<cn>[^,]+) $cn; }
  upstream api { server @UPSTREAM@; keepalive 256; keepalive_requests 100000000; }
  server {
    listen @ADDR@ ssl http2;
    ssl_certificate @PKI@/apiserver.crt;
    ssl_certificate_key @PKI@/apiserver.key;
    ssl_client_certificate @PKI@/ca.crt;
    ssl_verify_client on;
    location / {
      proxy_pass https://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Impersonate-User $user;
      proxy_set_header Impersonate-Group system:masters;
      proxy_ssl_certificate @PKI@/admin.crt;
      proxy_ssl_certificate_key @PKI@/admin.key;
      proxy_ssl_trusted_certificate @PKI@/ca.crt;
      proxy_ssl_verify on;
      proxy_ssl_name localhost; # this nginx compares names alone, not addresses
      proxy_buffering off;
      proxy_read_timeout 1h;
    }
  }
}
`

// replicas are ours: three, with a user in system:masters who is logged in at the first.
func (e *environment) replicas(ctx context.Context) error {
	bin, err := sallyport.Build(ctx)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	e.cluster, err = sallyport.Start(limit, sallyport.Options{Bin: bin, Dir: filepath.Join(e.dir, "s"), Kubeconfig: e.cp.Kubeconfig})
	if err != nil {
		return err
	}
	e.undo = append(e.undo, e.cluster.Stop)
	if e.leader, err = e.cluster.Leader(limit); err != nil {
		return err
	}
	if e.user, err = e.cluster.AddUser(limit, e.leader, "alice", "--k8s-groups=system:masters"); err != nil {
		return err
	}
	if r := e.user.Login(limit, e.leader); r.Err != nil {
		return r.Err
	}
	e.ours, err = e.sallyportTarget(limit, e.leader)
	return err
}

// clientConfig is what of the user's kubeconfig kubectl would use.
type clientConfig struct {
	Clusters []struct {
		Cluster struct {
			CA         []byte `json:"certificate-authority-data"`
			ServerName string `json:"tls-server-name"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		User struct {
			Exec struct {
				Command string   `json:"command"`
				Args    []string `json:"args"`
			} `json:"exec"`
		} `json:"user"`
	} `json:"users"`
}

func (e *environment) sallyportTarget(ctx context.Context, r *sallyport.Replica) (*target, error) {
	view := e.user.Kubectl(ctx, "config", "view", "--raw", "--minify", "--flatten", "-o", "json")
	if view.Err != nil {
		return nil, view.Err
	}
	var config clientConfig
	if err := json.Unmarshal([]byte(view.Stdout), &config); err != nil {
		return nil, fmt.Errorf("kubeconfig of %s: %w", e.user.Name, err)
	}
	if len(config.Clusters) != 1 || len(config.Users) != 1 {
		return nil, fmt.Errorf("kubeconfig of %s: want one cluster and one user: %s", e.user.Name, view.Stdout)
	}
	exec := config.Users[0].User.Exec
	plugin := testbed.Run(ctx, testbed.Command{Args: append([]string{exec.Command}, exec.Args...), Env: e.user.Env(), Dir: e.user.Home})
	if plugin.Err != nil {
		return nil, plugin.Err
	}
	var credential struct {
		Status struct {
			Cert string `json:"clientCertificateData"`
			Key  string `json:"clientKeyData"`
		} `json:"status"`
	}
	if err := json.Unmarshal([]byte(plugin.Stdout), &credential); err != nil {
		return nil, fmt.Errorf("%s: %w", exec.Command, err)
	}
	e.cert, e.key = []byte(credential.Status.Cert), []byte(credential.Status.Key)
	pair, err := tls.X509KeyPair(e.cert, e.key)
	if err != nil {
		return nil, err
	}
	cluster := config.Clusters[0].Cluster
	e.ca = cluster.CA
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cluster.CA)
	return &target{
		name: "sallyport", url: r.URL(),
		tls:  &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: cluster.ServerName},
		pids: func() []int { return []int{r.Process().PID()} },
	}, nil
}

// family is a process and its children (nginx's workers).
func family(pid int) []int {
	pids := []int{pid}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return pids
	}
	for word := range strings.FieldsSeq(string(b)) {
		if child, err := strconv.Atoi(word); err == nil {
			pids = append(pids, family(child)...)
		}
	}
	return pids
}

// memory is the proportional set size of processes, in KiB.
func memory(pids []int) (kib float64, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		for line := range bytes.Lines(b) {
			if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
				n, err := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
				if err != nil {
					return 0, err
				}
				kib += n
			}
		}
	}
	return kib, nil
}

// cpuTime is what processes have used so far.
func cpuTime(pids []int) (time.Duration, error) {
	var ticks int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		for _, i := range []int{11, 12} { // utime, stime
			n, err := strconv.ParseInt(string(fields[i]), 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // USER_HZ is 100 wherever Go runs
}
