package sallyport

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// AgentOptions of a `sallyport agent`. Token, Kube and Kubeconfig are needed; the rest has defaults.
type AgentOptions struct {
	Name       string   // of its directory and log; "": Kube
	Proxy      string   // --proxy; "": the first replica's public address
	Token      string   // --token
	CAPin      string   // --ca-pin; "": the cluster's, as tctl status says it
	Kube       string   // --kube-cluster-name
	Kubeconfig string   // of the account that may act as others
	Args       []string // more flags
	Env        []string // more environment (KEY=value)
}

// Agent is one `sallyport agent`. Start, Stop and Kill are its owner's, one at a time.
type Agent struct {
	Name string

	o       AgentOptions
	cluster *Cluster
	ports   *testbed.Ports
	process *testbed.Process
}

// NewAgent lays out an agent's directory and port, and starts nothing.
func (c *Cluster) NewAgent(ctx context.Context, o AgentOptions) (*Agent, error) {
	if o.Name == "" {
		o.Name = o.Kube
	}
	if o.Proxy == "" {
		o.Proxy = c.Replicas[0].WebAddr()
	}
	if o.CAPin == "" {
		var err error
		if o.CAPin, err = c.CAPin(ctx); err != nil {
			return nil, err
		}
	}
	a := &Agent{Name: o.Name, o: o, cluster: c}
	if err := os.MkdirAll(a.Home(), 0o700); err != nil {
		return nil, err
	}
	var err error
	a.ports, err = testbed.ReservePorts()
	return a, err
}

// StartAgent lays out an agent, starts it and waits until it has a tunnel.
func (c *Cluster) StartAgent(ctx context.Context, o AgentOptions) (*Agent, error) {
	a, err := c.NewAgent(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := a.Start(); err != nil {
		a.Remove()
		return nil, err
	}
	if err := a.WaitReady(ctx); err != nil {
		err = fmt.Errorf("%w\n%s", err, a.Tail(20))
		a.Remove()
		return nil, err
	}
	return a, nil
}

var pin = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// CAPin is the pin of the host CA, as tctl status says it at any replica that runs.
func (c *Cluster) CAPin(ctx context.Context) (string, error) {
	for _, r := range c.Replicas {
		if !r.Running() {
			continue
		}
		out := r.Tctl(ctx, "status")
		if out.Err != nil {
			return "", out.Err
		}
		if found := pin.FindString(out.Stdout); found != "" {
			return found, nil
		}
		return "", fmt.Errorf("tctl status shows no CA pin: %s", out.Stdout)
	}
	return "", fmt.Errorf("no replica runs")
}

// JoinToken is the guide's command for a token: tctl nodes add at r, with more arguments such as --max-uses=1.
func (c *Cluster) JoinToken(ctx context.Context, r *Replica, args ...string) (string, error) {
	out := r.Tctl(ctx, append([]string{"nodes", "add", "--roles=kube", "--ttl=10000h", "--format=json"}, args...)...)
	if out.Err != nil {
		return "", out.Err
	}
	var tokens []string
	if err := json.Unmarshal([]byte(out.Stdout), &tokens); err != nil || len(tokens) == 0 || tokens[0] == "" {
		return "", fmt.Errorf("tctl nodes add: want an array with the token first: %q, %w", out.Stdout, err)
	}
	return tokens[0], nil
}

// Kube is the name of the Kubernetes cluster that it serves.
func (a *Agent) Kube() string { return a.o.Kube }

// Home is the agent's own directory.
func (a *Agent) Home() string { return filepath.Join(a.cluster.Dir, "agent-"+a.Name) }

// DataDir holds the agent's identity.
func (a *Agent) DataDir() string { return filepath.Join(a.Home(), "data") }

// LogFile is what the agent writes to stdout and stderr.
func (a *Agent) LogFile() string { return filepath.Join(a.Home(), "agent.log") }

// DiagAddr serves /healthz, /readyz and /metrics.
func (a *Agent) DiagAddr() string { return a.ports.Addr(0) }

// Args is the agent's command line.
func (a *Agent) Args() []string {
	return append([]string{
		a.cluster.Bin.Path("sallyport"), "agent",
		"--proxy=" + a.o.Proxy,
		"--token=" + a.o.Token,
		"--ca-pin=" + a.o.CAPin,
		"--kube-cluster-name=" + a.o.Kube,
		"--kubeconfig=" + a.o.Kubeconfig,
		"--data-dir=" + a.DataDir(),
		"--diag-addr=" + a.DiagAddr(),
	}, a.o.Args...)
}

// Start starts the agent, for the first time or again. More arguments are for this run alone.
func (a *Agent) Start(args ...string) error {
	if a.Running() {
		return fmt.Errorf("agent %s runs", a.Name)
	}
	p, err := testbed.StartProcess(testbed.Command{
		Name: "agent " + a.Name,
		Args: append(a.Args(), args...),
		Env:  append(cleanEnv(a.Home()), a.o.Env...),
		Dir:  a.Home(),
		Log:  a.LogFile(),
	})
	if err == nil {
		a.process = p
	}
	return err
}

// Running reports whether the process lives.
func (a *Agent) Running() bool { return a.process != nil && a.process.Running() }

// Process is the agent's process; nil before the first Start.
func (a *Agent) Process() *testbed.Process { return a.process }

// Stop asks the agent to end (SIGTERM) and waits; when ctx ends it is killed and that is an error.
func (a *Agent) Stop(ctx context.Context) error {
	if !a.Running() {
		return nil
	}
	return a.process.Stop(ctx)
}

// Kill is a power cut (kill -9).
func (a *Agent) Kill() {
	if a.Running() {
		_ = a.process.Signal(syscall.SIGCONT)
		a.process.Kill()
	}
}

// Remove kills the agent and gives its port back; its directory goes with the cluster's.
func (a *Agent) Remove() {
	a.Kill()
	a.ports.Release()
}

// Tail is the end of its log.
func (a *Agent) Tail(lines int) string {
	if a.process == nil {
		return "it was never started"
	}
	return a.process.Tail(lines)
}

// Diag asks the diagnostic port and copies the answer's body to w, if given.
func (a *Agent) Diag(ctx context.Context, path string, w io.Writer) error {
	return get(ctx, http.DefaultClient, "http://"+a.DiagAddr()+path, func(body io.Reader) error {
		if w == nil {
			return nil
		}
		_, err := io.Copy(w, body)
		return err
	})
}

// WaitReady waits for /readyz, which says that a tunnel is up, and not for a process that has ended.
func (a *Agent) WaitReady(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	return testbed.Until(ctx, "agent "+a.Name+" ready", func() error {
		if !a.Running() {
			err := fmt.Errorf("agent %s has ended: %w\n%s", a.Name, a.process.Err(), a.Tail(20))
			stop(err)
			return err
		}
		return a.Diag(ctx, "/readyz", nil)
	})
}

// Joined is an agent as the replicas know it (GET /v1/agents).
type Joined struct {
	ID           string   `json:"id"`
	Name         string   `json:"name"`
	KubeClusters []string `json:"kubernetes_clusters"`
	Generation   uint64   `json:"generation"`
	LockReason   string   `json:"lock_reason"`
	Replicas     []string `json:"replicas"` // server ids
}

// Agents are those that have joined, as r knows them.
func (r *Replica) Agents(ctx context.Context) ([]Joined, error) {
	var all struct {
		Agents []Joined `json:"agents"`
	}
	client := r.SocketClient()
	defer client.CloseIdleConnections()
	err := get(ctx, client, "http://sallyport/v1/agents", func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&all)
	})
	return all.Agents, err
}
