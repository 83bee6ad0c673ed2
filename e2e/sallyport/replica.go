package sallyport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Replica is one `sallyport start`. Start, Stop and Kill are its owner's, one at a time.
type Replica struct {
	Name string

	cluster *Cluster
	ports   *testbed.Ports
	process *testbed.Process
}

// The ports of a replica's block.
const (
	webPort = iota
	kubePort
	peerPort
	gossipPort
	diagPort
	acmePort
)

// WebAddr is what users type (443 in the world); also tsh's --proxy.
func (r *Replica) WebAddr() string { return r.public(webPort) }

// KubeAddr is the port for kubectl alone (3026).
func (r *Replica) KubeAddr() string { return r.public(kubePort) }

// public is a port as the world calls it; the listeners are on loopback.
func (r *Replica) public(port int) string {
	if host := r.cluster.o.PublicHost; host != "" {
		return net.JoinHostPort(host, strconv.Itoa(r.ports.Port(port)))
	}
	return r.ports.Addr(port)
}

// ListenAddr is where the web port listens, whatever the world calls it.
func (r *Replica) ListenAddr() string { return r.ports.Addr(webPort) }

// KubeListenAddr is where the port for kubectl alone listens.
func (r *Replica) KubeListenAddr() string { return r.ports.Addr(kubePort) }

// PeerAddr is where other replicas reach this one.
func (r *Replica) PeerAddr() string { return r.ports.Addr(peerPort) }

// GossipAddr is what others --join.
func (r *Replica) GossipAddr() string { return r.ports.Addr(gossipPort) }

// DiagAddr serves /healthz, /readyz and /metrics.
func (r *Replica) DiagAddr() string { return r.ports.Addr(diagPort) }

// ACMEHTTPAddr answers an ACME authority, if that was configured (80 in the world).
func (r *Replica) ACMEHTTPAddr() string { return r.ports.Addr(acmePort) }

// URL of the web pages and the API.
func (r *Replica) URL() string { return "https://" + r.WebAddr() }

// DataDir holds the replica's state.
func (r *Replica) DataDir() string { return filepath.Join(r.cluster.Dir, r.Name) }

// Socket is tctl's way in.
func (r *Replica) Socket() string { return filepath.Join(r.DataDir(), "admin.sock") }

// LogFile is what the replica writes to stdout and stderr.
func (r *Replica) LogFile() string { return filepath.Join(r.cluster.Dir, r.Name+".log") }

// EventsLog is the replica's audit log.
func (r *Replica) EventsLog() string { return filepath.Join(r.LogDir(), "events.log") }

// LogDir holds the files of the replica's audit log.
func (r *Replica) LogDir() string { return filepath.Join(r.DataDir(), "log") }

// Args is the replica's command line.
func (r *Replica) Args() []string {
	c := r.cluster
	var join []string
	for _, other := range c.Replicas {
		if other != r {
			join = append(join, other.GossipAddr())
		}
	}
	args := []string{
		c.Bin.Path("sallyport"), "start",
		"--data-dir=" + r.DataDir(),
		"--cluster-name=" + c.Name,
		"--public-addr=" + r.WebAddr(),
		"--listen-addr=" + r.ports.Addr(webPort),
		"--kube-listen-addr=" + r.ports.Addr(kubePort),
		"--public-kube-addr=" + r.KubeAddr(),
		"--peer-addr=" + r.PeerAddr(),
		"--peer-advertise=" + r.PeerAddr(),
		"--gossip-addr=" + r.GossipAddr(),
		"--diag-addr=" + r.DiagAddr(),
		"--cluster-secret=" + c.SecretFile(),
		"--bootstrap-expect=" + strconv.Itoa(len(c.Replicas)),
	}
	if len(join) > 0 {
		args = append(args, "--join="+strings.Join(join, ","))
	}
	if c.o.Kubeconfig != "" {
		args = append(args, "--kubeconfig="+c.o.Kubeconfig)
	}
	if a := c.o.ACME; a != nil {
		at := "off"
		if a.HTTP {
			at = r.ACMEHTTPAddr()
		}
		args = append(args, "--acme", "--acme-uri="+a.Directory, "--acme-ca-file="+a.CAFile, "--acme-http-addr="+at)
	}
	return append(args, c.o.Args...)
}

// Start starts the replica, for the first time or again. More arguments are for this run alone.
func (r *Replica) Start(args ...string) error {
	if r.Running() {
		return fmt.Errorf("%s runs", r.Name)
	}
	if err := os.MkdirAll(r.DataDir(), 0o700); err != nil {
		return err
	}
	p, err := testbed.StartProcess(testbed.Command{
		Name: r.Name,
		Args: append(r.Args(), args...),
		Env:  append(cleanEnv(r.cluster.Dir), r.cluster.o.Env...),
		Dir:  r.cluster.Dir,
		Log:  r.LogFile(),

		ResolvConf: r.cluster.o.ResolvConf,
	})
	if err == nil {
		r.process = p
	}
	return err
}

// Running reports whether the process lives.
func (r *Replica) Running() bool { return r.process != nil && r.process.Running() }

// Process is the replica's process, to pause it or read its PID; nil before the first Start.
func (r *Replica) Process() *testbed.Process { return r.process }

// Stop asks the replica to end (SIGTERM) and waits; when ctx ends it is killed and that is an error.
func (r *Replica) Stop(ctx context.Context) error {
	if !r.Running() {
		return nil
	}
	return r.process.Stop(ctx)
}

// Kill is a power cut (kill -9).
func (r *Replica) Kill() {
	if r.Running() {
		_ = r.process.Signal(syscall.SIGCONT)
		r.process.Kill()
	}
}

// Wipe removes the data of a replica that does not run: a new disk.
func (r *Replica) Wipe() error {
	if r.Running() {
		return fmt.Errorf("%s runs", r.Name)
	}
	return os.RemoveAll(r.DataDir())
}

// WaitReady waits for /readyz, and not for a process that has ended.
func (r *Replica) WaitReady(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	return testbed.Until(ctx, r.Name+" ready", func() error {
		if !r.Running() {
			err := fmt.Errorf("%s has ended: %w\n%s", r.Name, r.exit(), r.process.Tail(20))
			stop(err)
			return err
		}
		return r.Diag(ctx, "/readyz", nil)
	})
}

func (r *Replica) exit() error {
	if err := r.process.Err(); err != nil {
		return err
	}
	return errors.New("status 0")
}

// Diag asks the diagnostic port and copies the answer's body to w, if given.
func (r *Replica) Diag(ctx context.Context, path string, w io.Writer) error {
	return get(ctx, http.DefaultClient, "http://"+r.DiagAddr()+path, func(body io.Reader) error {
		if w == nil {
			return nil
		}
		_, err := io.Copy(w, body)
		return err
	})
}

// Status is what a replica says of itself and the cluster (GET /v1/status).
type Status struct {
	ClusterName string `json:"cluster_name"`
	ClusterID   string `json:"cluster_id"`
	ServerID    string `json:"server_id"`
	State       string `json:"state"`
	LeaderID    string `json:"leader_id"`
	Ready       bool   `json:"ready"`
	Reason      string `json:"reason"`
	Term        uint64 `json:"term"`
	CommitIndex uint64 `json:"commit_index"`
	AppliedIdx  uint64 `json:"applied_index"`
	Servers     []struct {
		ID     string `json:"id"`
		Addr   string `json:"addr"`
		Voter  bool   `json:"voter"`
		Leader bool   `json:"leader"`
		Alive  bool   `json:"alive"`
	} `json:"servers"`
	Audit *api.AuditStatus `json:"audit"`
}

// Status asks the replica over its socket.
func (r *Replica) Status(ctx context.Context) (Status, error) {
	var s Status
	client := r.SocketClient()
	defer client.CloseIdleConnections()
	err := get(ctx, client, "http://sallyport/v1/status", func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&s)
	})
	return s, err
}

// SocketClient speaks HTTP to the replica's unix socket, as the machine's admin.
func (r *Replica) SocketClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", r.Socket())
		},
	}}
}

func get(ctx context.Context, client *http.Client, url string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("%s: %s: %s", url, resp.Status, strings.TrimSpace(string(b)))
	}
	return read(resp.Body)
}

// Tctl runs tctl at this replica's socket.
func (r *Replica) Tctl(ctx context.Context, args ...string) testbed.Result {
	return r.TctlStdin(ctx, "", args...)
}

// TctlStdin is Tctl with something to read.
func (r *Replica) TctlStdin(ctx context.Context, stdin string, args ...string) testbed.Result {
	return testbed.Run(ctx, testbed.Command{
		Args:  append([]string{r.cluster.Bin.Path("tctl"), "--socket=" + r.Socket()}, args...),
		Env:   cleanEnv(r.cluster.Dir),
		Dir:   r.cluster.Dir,
		Stdin: strings.NewReader(stdin),
	})
}

// cleanEnv is an environment in which nothing of the person who runs the test is found.
func cleanEnv(home string) []string {
	env := []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "NO_COLOR=1"}
	for _, keep := range []string{"GOCOVERDIR", "GORACE", "LANG"} {
		if v, ok := os.LookupEnv(keep); ok {
			env = append(env, keep+"="+v)
		}
	}
	return env
}
