package tests

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// cookie is the Kubernetes cluster of the guide that replicas reach through its agent alone.
const cookie = "cookie"

// agentsEnvironment is what tests of agents share: a Kubernetes of its own for
// cookie, three replicas beside the other one, a load balancer before them, the
// guide's agent, and alice, who is logged in and may do everything. Whoever
// harms a part mends it before the test ends.
type agentsEnvironment struct {
	once sync.Once
	err  error

	cookie    *testbed.ControlPlane
	account   string // kubeconfig of a service account that may act as others, and no more
	powerless string // of one that may do nothing
	cluster   *sallyport.Cluster
	ports     *testbed.Ports
	relay     *testbed.Relay
	agent     *sallyport.Agent
	alice     *sallyport.User
	aliceTLS  *tls.Config // what her kubectl shows
}

func (e *agentsEnvironment) stop() {
	if e.agent != nil {
		e.agent.Remove()
	}
	if e.relay != nil {
		e.relay.Stop()
		e.ports.Release()
	}
	if e.cluster != nil {
		e.cluster.Stop()
	}
	if e.cookie != nil {
		e.cookie.Stop()
	}
}

func (e *agentsEnvironment) start(tele *testbed.ControlPlane) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	kubernetes := make(chan error, 1)
	go func() { kubernetes <- e.startCookie(ctx) }()
	err := e.startReplicas(ctx, tele)
	if kubernetesErr := <-kubernetes; err == nil {
		err = kubernetesErr
	}
	if err != nil {
		return err
	}
	token, err := e.cluster.JoinToken(ctx, e.cluster.Replicas[0])
	if err != nil {
		return err
	}
	e.agent, err = e.cluster.StartAgent(ctx, sallyport.AgentOptions{
		Kube: cookie, Kubeconfig: e.account, Token: token, Proxy: e.proxy(), Args: []string{"--labels=env=dev"},
	})
	if err != nil {
		return err
	}
	return e.alice.Tsh(ctx, "kube", "login", cookie).Err
}

func (e *agentsEnvironment) startCookie(ctx context.Context) (err error) {
	if e.cookie, err = testbed.Start(ctx, testbed.Options{Minimal: true}); err != nil {
		return err
	}
	if err := e.cookie.StartKwok(ctx); err != nil {
		return err
	}
	if err := e.cookie.AddNode(ctx, "n1"); err != nil {
		return err
	}
	if err := e.cookie.AddPod(ctx, "default", "crumb"); err != nil {
		return err
	}
	if e.account, err = e.cookie.ServiceAccount(ctx, "agent", testbed.AgentRules()...); err != nil {
		return err
	}
	e.powerless, err = e.cookie.ServiceAccount(ctx, "powerless")
	return err
}

func (e *agentsEnvironment) startReplicas(ctx context.Context, tele *testbed.ControlPlane) (err error) {
	// A name, because HTTPS_PROXY is not for addresses of loopback.
	e.cluster, err = sallyport.Start(ctx, sallyport.Options{Bin: fixture.bin, Name: clusterName, PublicHost: "localhost", Kubeconfig: tele.Kubeconfig})
	if err != nil {
		return err
	}
	if e.ports, err = testbed.ReservePorts(); err != nil {
		return err
	}
	var backends []string
	for _, r := range e.cluster.Replicas {
		backends = append(backends, r.ListenAddr())
	}
	if e.relay, err = testbed.NewRelay(e.ports.Addr(0), backends...); err != nil {
		return err
	}
	r := e.cluster.Replicas[0]
	if e.alice, err = e.cluster.AddUser(ctx, r, "alice", "--k8s-groups=system:masters"); err != nil {
		return err
	}
	return e.alice.Login(ctx, r).Err
}

// proxy is what agents are given as --proxy: the load balancer.
func (e *agentsEnvironment) proxy() string { return "localhost:" + strconv.Itoa(e.ports.Port(0)) }

// agents is the environment, with all replicas up and two tunnels of the guide's agent.
func agents(t *testing.T) *agentsEnvironment {
	t.Helper()
	tele := kubernetes(t)
	e := &fixture.agents
	e.once.Do(func() { e.err = e.start(tele) })
	if e.err != nil {
		t.Fatal(e.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\n%s\n--- agent\n%s", e.relay, e.cluster.Logs(15), e.agent.Tail(25))
		}
	})
	ctx := within(t, time.Minute)
	if err := e.cluster.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	e.tunnels(t, e.agent, 20*time.Second)
	return e
}

// joined finds an agent among those that r knows, by what it serves.
func joined(ctx context.Context, r *sallyport.Replica, kube string) (sallyport.Joined, error) {
	all, err := r.Agents(ctx)
	if err != nil {
		return sallyport.Joined{}, err
	}
	for _, a := range all {
		if slices.Contains(a.KubeClusters, kube) {
			return a, nil
		}
	}
	return sallyport.Joined{}, fmt.Errorf("no agent of %s at %s: %+v", kube, r.Name, all)
}

// holders are the running replicas that hold a tunnel of the agent of kube, and
// those that hold none, as the replica at says.
func (e *agentsEnvironment) holders(ctx context.Context, at *sallyport.Replica, kube string) (with, without []*sallyport.Replica, err error) {
	a, err := joined(ctx, at, kube)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range e.cluster.Replicas {
		if !r.Running() {
			continue
		}
		s, err := r.Status(ctx)
		switch {
		case err != nil:
			return nil, nil, err
		case slices.Contains(a.Replicas, s.ServerID):
			with = append(with, r)
		default:
			without = append(without, r)
		}
	}
	return with, without, nil
}

// tunnels waits until every running replica knows that two of them hold a tunnel of the agent, and returns those.
func (e *agentsEnvironment) tunnels(t *testing.T, a *sallyport.Agent, limit time.Duration) (with, without []*sallyport.Replica) {
	t.Helper()
	ctx := within(t, limit+10*time.Second)
	testbed.Wait(t, limit, "tunnels of "+a.Name+" on two replicas", func() error {
		if !a.Running() {
			return fmt.Errorf("the agent has ended: %w\n%s", a.Process().Err(), a.Tail(10))
		}
		for _, r := range e.cluster.Replicas {
			if !r.Running() {
				continue
			}
			var err error
			if with, without, err = e.holders(ctx, r, a.Kube()); err != nil {
				return err
			}
			if len(with) < 2 {
				return fmt.Errorf("%s knows of %d", r.Name, len(with))
			}
		}
		return nil
	})
	return with, without
}

// startAgent starts another agent than the guide's, until the test ends.
func (e *agentsEnvironment) startAgent(t *testing.T, o sallyport.AgentOptions) *sallyport.Agent {
	t.Helper()
	a := e.newAgent(t, o)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if err := a.WaitReady(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	return a
}

// newAgent lays out another agent than the guide's, with a token of its own unless it has one.
func (e *agentsEnvironment) newAgent(t *testing.T, o sallyport.AgentOptions) *sallyport.Agent {
	t.Helper()
	ctx := within(t, 30*time.Second)
	if o.Token == "" {
		token, err := e.cluster.JoinToken(ctx, e.cluster.Replicas[0])
		if err != nil {
			t.Fatal(err)
		}
		o.Token = token
	}
	if o.Proxy == "" {
		o.Proxy = e.proxy()
	}
	if o.Kubeconfig == "" {
		o.Kubeconfig = e.account
	}
	a, err := e.cluster.NewAgent(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a.Remove(); t.Failed() {
			t.Logf("--- agent %s\n%s", a.Name, a.Tail(25))
		}
		e.forget(t, o.Kube)
	})
	return a
}

// forget removes what a test's agents have left, so that others find cookie alone.
func (e *agentsEnvironment) forget(t *testing.T, kube string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // the test's own has ended
	defer cancel()
	r := e.cluster.Replicas[0]
	all, err := r.Agents(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, a := range all {
		if slices.Contains(a.KubeClusters, kube) {
			if err := r.Tctl(ctx, "nodes", "rm", a.ID).Err; err != nil {
				t.Error(err)
			}
		}
	}
	if err := r.Tctl(ctx, "get", "kube_cluster/"+kube).Err; err != nil {
		return // it never joined
	}
	if err := r.Tctl(ctx, "kube", "rm", "--force", kube).Err; err != nil {
		t.Error(err)
	}
}

// through is a client of kubectl's kind for one Kubernetes cluster at one replica.
type through struct {
	url    string
	tls    *tls.Config
	client *http.Client
}

// through makes a client with connections of its own; alpn is h2 or http/1.1.
func (e *agentsEnvironment) through(t *testing.T, r *sallyport.Replica, alpn string) *through {
	t.Helper()
	if e.aliceTLS == nil { // asking tsh takes time, which some measure
		e.aliceTLS = kubeTLS(t, e.alice, alpn)
		e.aliceTLS.ServerName = cookie + ".kube." + clusterName
	}
	config := e.aliceTLS.Clone()
	config.NextProtos = []string{alpn}
	c := &through{url: r.URL(), tls: config, client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: alpn == "h2", MaxIdleConnsPerHost: 8}, Timeout: 30 * time.Second,
	}}
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

// get reads an answer of 200 to its end.
func (c *through) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.300s", path, resp.Status, b)
	}
	return string(b), err
}

// pods is a GET that only cookie answers rightly.
func (c *through) pods(ctx context.Context) error {
	b, err := c.get(ctx, "/api/v1/namespaces/default/pods/crumb")
	if err == nil && !strings.Contains(b, `"crumb"`) {
		err = fmt.Errorf("not cookie's: %.300s", b)
	}
	return err
}

// dial opens a connection of its own.
func (c *through) dial(ctx context.Context) (*tls.Conn, error) {
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: c.tls}).DialContext(ctx, "tcp", strings.TrimPrefix(c.url, "https://"))
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// audited are the lines of cookie's own audit log that match.
func (e *agentsEnvironment) audited(t *testing.T, match func(auditLine) bool) (found []auditLine) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(e.cookie.Dir, "log", "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var a auditLine
		if json.Unmarshal([]byte(line), &a) == nil && match(a) {
			found = append(found, a)
		}
	}
	return found
}
