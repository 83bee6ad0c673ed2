package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/wire"
	"github.com/sallyport-dev/sallyport/proxy/tunnel"
)

// testAgent is a real agent in this process. Its cluster is a handler that says whom
// it was told to impersonate, and echoes what is upgraded.
type testAgent struct {
	*agent.Agent
	store *agent.MemoryStore
	stop  func()
}

// startAgent starts an agent that reaches replicas as dial says, and waits until it
// is ready.
func (r *replicas) startAgent(kube string, dial func(context.Context) (net.Conn, error), edit func(*agent.Options)) *testAgent {
	r.t.Helper()
	a := r.newAgent(kube, dial, edit)
	eventually(r.t, patience, "the agent of "+kube+" is ready", func() error {
		if ok, why := a.Ready(); !ok {
			return errors.New(why)
		}
		return nil
	})
	return a
}

func (r *replicas) newAgent(kube string, dial func(context.Context) (net.Conn, error), edit func(*agent.Options)) *testAgent {
	r.t.Helper()
	var token *api.AddTokenResponse
	eventually(r.t, patience, "a token", func() (err error) {
		token, err = r.admin(0).AddToken(r.t.Context(), &api.AddTokenRequest{Roles: []string{api.TokenRoleKube}})
		return err
	})
	a := &testAgent{store: &agent.MemoryStore{}}
	o := agent.Options{
		Proxy: r.opts[0].PublicAddr, Token: token.Token, CAPins: token.CAPins, Name: "agent-of-" + kube, Store: a.store,
		Clusters: []agent.Cluster{{Name: kube, Handler: http.HandlerFunc(serveKube)}}, Labels: map[string]string{"env": "test"},
		Dial:   func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		Logger: testLogger(r.t, len(r.run)),
	}
	if edit != nil {
		edit(&o)
	}
	var err error
	if a.Agent, err = agent.New(o); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			r.t.Errorf("agent of %s: %v", kube, err)
		}
	}()
	a.stop = func() { cancel(); <-done }
	r.t.Cleanup(a.stop)
	return a
}

func serveKube(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		nc, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer nc.Close()
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		_, _ = io.Copy(nc, buf)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"user": r.Header.Values("Impersonate-User"), "groups": r.Header.Values("Impersonate-Group")})
	if r.URL.Query().Get("watch") != "" {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// identity is the agent's, as it keeps it.
func (a *testAgent) identity(t *testing.T) *agent.Identity {
	t.Helper()
	s, err := a.store.Load(t.Context())
	if err != nil || s.Current == nil {
		t.Fatalf("%+v %v", s, err)
	}
	return s.Current
}

func (a *testAgent) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	id := a.identity(t)
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// tryTLS says what comes back for a certificate by a name.
func (r *replicas) tryTLS(addr, name, proto string, pair tls.Certificate) (string, error) {
	r.t.Helper()
	d := tls.Dialer{Config: &tls.Config{ServerName: name, Certificates: []tls.Certificate{pair}, NextProtos: []string{proto}, InsecureSkipVerify: true}} //nolint:gosec // not about trust
	nc, err := d.DialContext(r.t.Context(), "tcp", addr)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	return says(nc, "GET /api HTTP/1.1\r\nHost: x\r\n\r\n")
}

// hello opens a tunnel by hand, and says how it was refused.
func (r *replicas) hello(t *testing.T, pair tls.Certificate, clusters ...string) *wire.Refused {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.hostCAs())
	d := tls.Dialer{Config: &tls.Config{ServerName: api.TunnelServerName("", testCluster), RootCAs: roots, Certificates: []tls.Certificate{pair}, NextProtos: []string{wire.Protocol}, MinVersion: tls.VersionTLS13}}
	nc, err := d.DialContext(t.Context(), "tcp", r.opts[0].ListenAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sess, err := wire.Client(nc, wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	control, err := sess.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = control.SetDeadline(time.Now().Add(patience))
	var hello wire.Hello
	for _, name := range clusters {
		hello.Clusters = append(hello.Clusters, wire.Cluster{Name: name, Health: api.HealthHealthy})
	}
	if err := wire.WriteMessage(control, wire.Message{Hello: &hello}); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := wire.ReadMessage(control)
		switch {
		case err != nil:
			t.Fatal(err)
		case m.Welcome != nil, m.Refused != nil:
			return m.Refused
		}
	}
}

// pinned is a load balancer that sends everybody to one replica.
func (r *replicas) pinned(i int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", r.opts[i].ListenAddr)
	}
}

// balanced is one that takes the replicas in turn, and passes over those that refuse.
func (r *replicas) balanced() func(context.Context) (net.Conn, error) {
	var turn atomic.Int64
	return func(ctx context.Context) (nc net.Conn, err error) {
		for range r.opts {
			o := r.opts[int(turn.Add(1))%len(r.opts)]
			if nc, err = (&net.Dialer{}).DialContext(ctx, "tcp", o.ListenAddr); err == nil {
				return nc, nil
			}
		}
		return nil, err
	}
}

// kubectl speaks to one cluster behind the replicas.
type kubectl struct {
	*replicas
	cfg  *tls.Config
	http *http.Client
}

func (r *replicas) kubectl(creds *client.Credentials, kube string) *kubectl {
	r.t.Helper()
	pair, err := tls.X509KeyPair(creds.CertPEM, creds.KeyPEM)
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(creds.HostCAs)
	cfg := &tls.Config{ServerName: api.KubeServerName(kube, testCluster), RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: cfg}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &kubectl{replicas: r, cfg: cfg, http: &http.Client{Transport: tr, Timeout: 20 * time.Second}}
}

func (k *kubectl) get(i int) (int, string) { return k.replicas.get(k.http, i, "/api/v1/namespaces") }

// answers waits until all of the replicas lead to the cluster.
func (k *kubectl) answers(through ...int) {
	k.t.Helper()
	for _, i := range through {
		eventually(k.t, patience, fmt.Sprintf("an answer through replica %d", i), func() error {
			if status, body := k.get(i); status != http.StatusOK || !strings.Contains(body, `"alice"`) {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
	}
}

// shell is an upgraded stream, whose other end echoes.
type shell struct {
	net.Conn
	buf *bufio.Reader
}

func (k *kubectl) exec(i int) *shell {
	k.t.Helper()
	cfg := k.cfg.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	nc, err := (&tls.Dialer{Config: cfg}).DialContext(k.t.Context(), "tcp", k.opts[i].ListenAddr)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	e := &shell{nc, bufio.NewReader(nc)}
	fmt.Fprintf(nc, "POST /api/v1/namespaces/n/pods/p/exec?command=sh HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", k.opts[i].PublicAddr)
	resp, err := http.ReadResponse(e.buf, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		k.t.Fatalf("exec through replica %d: %v %v", i, resp, err)
	}
	return e
}

func (e *shell) echoes(line string) error {
	if _, err := io.WriteString(e, line+"\n"); err != nil {
		return err
	}
	got, err := e.buf.ReadString('\n')
	if err == nil && got != line+"\n" {
		err = fmt.Errorf("%q came back as %q", line, got)
	}
	return err
}

// atOnce is within a second on a machine that is not busy. The end-to-end tests
// measure it.
const atOnce = 5 * time.Second

// carriers are the replicas that hold tunnels of an agent, once there are two.
func (r *replicas) carriers(a *testAgent) []int {
	r.t.Helper()
	var out []int
	eventually(r.t, patience, "tunnels to two replicas", func() error {
		out = nil
		id := a.identity(r.t).AgentID
		for i, run := range r.run {
			if slices.Contains(run.srv.tunnels.Replicas()[id], run.srv.node.ID()) {
				out = append(out, i)
			}
		}
		if len(out) != 2 {
			return fmt.Errorf("to %v", out)
		}
		return nil
	})
	return out
}

func TestAgents_throughOneReplica(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	cookie := r.startAgent("cookie", r.pinned(0), nil)
	k := r.kubectl(creds, "cookie")
	k.answers(0)
	e := k.exec(0)
	if err := e.echoes("hello"); err != nil {
		t.Error(err)
	}
	_ = e.Close() // an agent that stops would wait for it

	t.Run("users see how it does", func(t *testing.T) {
		c, err := client.NewAPI(r.opts[0].PublicAddr, client.APIOptions{CertPEM: creds.CertPEM, KeyPEM: creds.KeyPEM, HostCAs: creds.HostCAs, ClusterName: testCluster, Agent: "test"})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "both clusters are healthy", func() error {
			list, err := c.KubeClusters(t.Context())
			if err != nil {
				return err
			}
			for i := range list {
				if st := list[i].Status; st != nil {
					st.LastSeen, st.Checked, st.Reason = time.Time{}, time.Time{}, strings.TrimSpace(st.Reason)
				}
			}
			want := []api.KubeCluster{
				{Name: "cookie", Labels: map[string]string{"env": "test"}, Status: &api.KubeStatus{Health: api.HealthHealthy, Agents: 1}},
				{Name: testCluster, Status: &api.KubeStatus{Health: api.HealthHealthy, Version: "v1.34.1", Own: true}},
			}
			if d := cmp.Diff(want, list); d != "" {
				return errors.New(d)
			}
			return nil
		})
		agents, err := r.admin(0).Agents(t.Context())
		if err != nil || len(agents) != 1 || !slices.Equal(agents[0].Replicas, []string{r.run[0].srv.node.ID()}) {
			t.Errorf("%+v %v", agents, err)
		}
		resp, err := http.Get("http://" + r.opts[0].DiagAddr + "/metrics") //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if want := `sallyport_kube_cluster_health{health="healthy",kube_cluster="cookie"} 1`; !strings.Contains(string(body), want) {
			t.Error("no metric ", want)
		}
	})

	// threats.md, CVE-2025-49825 and compromised agents: an agent is neither a user nor a
	// replica nor another agent.
	t.Run("an agent is nobody else", func(t *testing.T) {
		other := r.startAgent("other", r.pinned(0), nil)
		defer other.stop()
		pair := cookie.certificate(t)
		for _, name := range []string{api.KubeServerName(testCluster, testCluster), api.KubeServerName("cookie", testCluster), api.APIServerName(testCluster)} {
			for _, addr := range []string{r.opts[0].ListenAddr, r.opts[0].KubeListenAddr} {
				if got, err := r.tryTLS(addr, name, "http/1.1", pair); err == nil {
					t.Errorf("%s at %s: %q", name, addr, got)
				}
			}
		}
		tun := api.TunnelServerName("", testCluster)
		if got, err := r.tryTLS(r.opts[0].KubeListenAddr, tun, wire.Protocol, pair); err == nil {
			t.Errorf("a tunnel at the port for kubectl: %q", got)
		}
		if got, err := r.tryTLS(r.opts[0].PeerAddr, "anybody", wire.Protocol, pair); err == nil {
			t.Errorf("a tunnel at the peers' port: %q", got)
		}
		alice, err := tls.X509KeyPair(creds.CertPEM, creds.KeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.tryTLS(r.opts[0].ListenAddr, tun, wire.Protocol, alice); err == nil {
			t.Errorf("a tunnel of a user: %q", got)
		}
		for _, names := range [][]string{{"other"}, {"cookie", "other"}, {testCluster}, {"unheard-of"}} {
			if refused := r.hello(t, pair, names...); refused == nil || refused.Code != api.CodeForbidden {
				t.Errorf("a tunnel for %s: %+v", names, refused)
			}
		}
		if status, body := r.kubectl(creds, "unheard-of").get(0); status != http.StatusNotFound {
			t.Errorf("%d %s", status, body)
		}
		if refused := r.hello(t, pair, "cookie"); refused != nil {
			t.Errorf("a tunnel of its own: %+v", refused)
		}
	})

	// threats.md, SSRF and own clusters: an agent serves what it joined for, and the
	// replicas' own name is not to be had.
	t.Run("the replicas' own name is not an agent's", func(t *testing.T) {
		a := r.newAgent(testCluster, r.pinned(0), func(o *agent.Options) { o.Logger = testLogger(t, 9) })
		eventually(t, patience, "the agent is told", func() error {
			if _, why := a.Ready(); !strings.Contains(why, "the replicas serve themselves") {
				return errors.New(why)
			}
			return nil
		})
		a.stop()
		own := r.kubectl(creds, testCluster)
		if status, body := own.get(0); status != http.StatusOK {
			t.Errorf("%d %s", status, body)
		}
	})

	t.Run("removing its cluster cuts its tunnels, and it brings it back", func(t *testing.T) {
		e := k.exec(0)
		if err := e.echoes("before"); err != nil {
			t.Fatal(err)
		}
		if err := r.admin(0).Delete(t.Context(), api.KindKubeCluster, "cookie", false); !api.IsCode(err, api.CodeConflict) {
			t.Error(err)
		}
		id := cookie.identity(t).AgentID
		if err := r.admin(0).Delete(t.Context(), api.KindKubeCluster, "cookie", true); err != nil {
			t.Fatal(err)
		}
		for begin := time.Now(); e.echoes("after") == nil; {
			if time.Since(begin) > patience {
				t.Fatal("the stream goes on")
			}
		}
		k.answers(0)
		if now := cookie.identity(t).AgentID; now != id {
			t.Errorf("it joined anew: %s, before %s", now, id)
		}
	})

	// threats.md, long-lived streams and agent re-issue: whoever is removed is out at
	// once, with all that goes through it.
	t.Run("removing an agent cuts its tunnels", func(t *testing.T) {
		e := k.exec(0)
		if err := e.echoes("before"); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := r.admin(0).RemoveAgent(t.Context(), cookie.identity(t).AgentID); err != nil {
			t.Fatal(err)
		}
		for e.echoes("after") == nil {
			if time.Since(begin) > patience {
				t.Fatal("the stream goes on")
			}
		}
		if took := time.Since(begin); took > atOnce {
			t.Errorf("cut after %s", took)
		}
		k.answers(0) // it has joined anew
	})

	// threats.md, agent re-issue: a second certificate of the same generation, and the
	// identity is locked, with what is live of it.
	t.Run("locking an agent cuts its tunnels", func(t *testing.T) {
		e := k.exec(0)
		if err := e.echoes("before"); err != nil {
			t.Fatal(err)
		}
		id := pki.AgentIdentity{ID: cookie.identity(t).AgentID, Generation: cookie.identity(t).Generation, ClusterName: testCluster, NotAfter: time.Now().Add(time.Hour)}
		begin := time.Now()
		if _, err := r.run[0].srv.auth.Agents.Admit(t.Context(), id, strings.Repeat("0", 64), []string{"cookie"}, loopback); !api.IsCode(err, api.CodeForbidden) {
			t.Fatal(err)
		}
		for e.echoes("after") == nil {
			if time.Since(begin) > patience {
				t.Fatal("the stream goes on")
			}
		}
		if took := time.Since(begin); took > atOnce {
			t.Errorf("cut after %s", took)
		}
		if refused := r.hello(t, cookie.certificate(t), "cookie"); refused == nil || refused.Code != api.CodeForbidden || !strings.Contains(refused.Message, "locked") {
			t.Errorf("%+v", refused)
		}
		eventually(t, patience, "the agent is not ready", func() error {
			if ok, _ := cookie.Ready(); ok {
				return errors.New("it is")
			}
			return nil
		})
	})

	t.Run("nobody is connected", func(t *testing.T) {
		cookie.stop()
		eventually(t, patience, "an answer that says so", func() error {
			status, body := k.get(0)
			if status != http.StatusServiceUnavailable || !strings.Contains(body, "no agent of Kubernetes cluster") || !strings.Contains(body, "last seen") {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
		if status, body := r.kubectl(creds, "cooki").get(0); status != http.StatusNotFound || !strings.Contains(body, `did you mean \"cookie\"`) {
			t.Errorf("%d %s", status, body)
		}
	})
}

// reliability.md rows 16 and 18: whichever replica a tunnel or a request lands on, and
// whichever goes.
func TestAgents_throughThreeReplicas(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, nil)
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	k := r.kubectl(creds, "cookie")
	a := r.startAgent("cookie", r.balanced(), nil)
	r.carriers(a)
	k.answers(0, 1, 2)
	for i := range 3 {
		e := k.exec(i)
		if err := e.echoes("hello"); err != nil {
			t.Errorf("exec through replica %d: %v", i, err)
		}
		_ = e.Close() // a replica that stops would wait for it
	}

	t.Run("a replica that carries tunnels stops", func(t *testing.T) {
		stopped := r.carriers(a)[0]
		var others []int
		for i := range 3 {
			if i != stopped {
				others = append(others, i)
			}
		}
		streams := []*shell{k.exec(others[0]), k.exec(others[1])}
		var failed atomic.Int64
		var wg sync.WaitGroup
		over := make(chan struct{})
		for _, i := range others {
			c := r.kubectl(creds, "cookie")
			wg.Go(func() {
				for {
					select {
					case <-over:
						return
					default:
					}
					if status, body := c.get(i); status != http.StatusOK {
						failed.Add(1)
						t.Errorf("through replica %d: %d %s", i, status, body)
					}
				}
			})
		}
		begin := time.Now()
		done := make(chan struct{})
		go func() { r.stop(stopped, r.run[stopped]); close(done) }()
		// Streams of users at other replicas that go through the one that stops hold it up
		// until they end.
		for range 20 {
			for n, e := range streams {
				if err := e.echoes("still here"); err != nil {
					t.Errorf("stream %d: %v", n, err)
				}
			}
		}
		for _, e := range streams {
			_ = e.Close()
		}
		<-done
		if took := time.Since(begin); took > drainFor {
			t.Errorf("it stopped after %s", took)
		}
		close(over)
		wg.Wait()
		r.start(stopped)
		r.awaitReady(stopped)
		r.carriers(a)
		k.answers(stopped)
	})

	// What is removed is removed on every replica before the answer comes.
	t.Run("removals settle", func(t *testing.T) {
		each := func(what string, ok func(*Server) bool) {
			t.Helper()
			for i, run := range r.run {
				if !ok(run.srv) {
					t.Errorf("%s, and replica %d does not know it", what, i)
				}
			}
		}
		var token *api.AddTokenResponse
		r.change("add a token", func() (err error) {
			token, err = r.admin(1).AddToken(t.Context(), &api.AddTokenRequest{Roles: []string{api.TokenRoleKube}})
			return err
		})
		each("a token was made", func(s *Server) bool { _, err := s.auth.Tokens.Get(token.ID); return err == nil })
		r.change("remove a token", func() error { return r.admin(2).Delete(t.Context(), api.KindToken, token.ID, false) })
		each("a token was removed", func(s *Server) bool { _, err := s.auth.Tokens.Get(token.ID); return err != nil })
		short := r.startAgent("short-lived", r.pinned(0), nil)
		id := short.identity(t).AgentID
		short.stop()
		r.change("remove an agent", func() error { return r.admin(1).RemoveAgent(t.Context(), id) })
		each("an agent was removed", func(s *Server) bool {
			return !slices.ContainsFunc(s.auth.Agents.List(), func(a api.Agent) bool { return a.ID == id })
		})
		r.change("remove a cluster", func() error { return r.admin(2).Delete(t.Context(), api.KindKubeCluster, "short-lived", true) })
		each("a cluster was removed", func(s *Server) bool { _, err := s.auth.KubeClusters.Get("short-lived"); return err != nil })
	})

	// The nearest to kill -9 within a process: links and tunnels go without a word.
	t.Run("a replica that carries tunnels dies", func(t *testing.T) {
		dead := r.carriers(a)[0]
		other := (dead + 1) % 3
		k.answers(other)
		_ = r.run[dead].srv.port.Close()
		_ = r.run[dead].srv.tunnels.Close()
		begin := time.Now()
		if status, body := k.get(other); status != http.StatusOK {
			t.Errorf("%d %s", status, body)
		}
		if took := time.Since(begin); took > atOnce {
			t.Errorf("the next request took %s", took)
		}
	})
	a.stop()
}

// Behind a load balancer that pins, the second tunnel goes through the first
// replica to another, unread.
func TestAgents_behindABalancerThatPins(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 2, nil)
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	a := r.startAgent("cookie", r.pinned(0), func(o *agent.Options) { o.Rand = func() float64 { return 0.01 } })
	r.carriers(a)
	r.kubectl(creds, "cookie").answers(0, 1)

	// Both stop: nobody waits for an agent that has nowhere to go.
	begin := time.Now()
	for _, run := range r.run {
		run.cancel()
	}
	for i, run := range r.run {
		r.stop(i, run)
	}
	if took := time.Since(begin); took > drainFor {
		t.Errorf("they stopped after %s", took)
	}
	a.stop()
}

// A replica that can't know answers so, and never that an agent is worth nothing: it
// would throw its identity away.
func TestGate_doesNotBlameTheAgent(t *testing.T) {
	t.Parallel()
	id := tunnel.Identity{AgentID: agentID, Generation: 1, NotAfter: time.Now().Add(time.Hour)}
	behind := api.Errorf(api.CodeUnavailable, "this replica has heard from no leader")
	stale := &gate{stale: func() error { return behind }}
	if _, err := stale.Admit(t.Context(), id, wire.Hello{}, loopback); !errors.Is(err, behind) {
		t.Errorf("a hello: %v", err)
	}
	if _, err := stale.Renew(t.Context(), id, nil, loopback); !errors.Is(err, behind) {
		t.Errorf("a renewal: %v", err)
	}
	r := startReplicas(t, 1, nil)
	srv := r.run[0].srv
	g := &gate{
		agents: srv.auth.Agents, clusterName: testCluster, stale: srv.stale,
		blame: func(err error) error {
			if api.IsCode(err, api.CodeUnauthenticated) {
				return behind
			}
			return err
		},
	}
	hello := wire.Hello{Clusters: []wire.Cluster{{Name: "cookie"}}}
	if _, err := g.Admit(t.Context(), id, hello, loopback); !errors.Is(err, behind) {
		t.Errorf("where the clock is wrong: %v", err)
	}
	if _, err := g.Renew(t.Context(), id, nil, loopback); err == nil {
		t.Error("renewed for nobody")
	}
	g.blame = srv.blameClock
	if _, err := g.Admit(t.Context(), id, hello, loopback); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Errorf("where it is right: %v", err)
	}
}
