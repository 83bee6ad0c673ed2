package tunnel

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// patience is how long a test waits for what should be there at once.
const patience = 20 * time.Second

// eventually polls: there is no event for what is waited for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("after %v: %s", patience, what)
		}
	}
}

// agentID makes an id that looks like one.
func agentID(n int) string { return fmt.Sprintf("%032x", n) }

type fakeGrant struct {
	kubes []string
	lost  chan error
}

func (g *fakeGrant) KubeClusters() []string { return g.kubes }
func (g *fakeGrant) Generation() uint64     { return 7 }

func (g *fakeGrant) Watch(ctx context.Context) error {
	select {
	case err := <-g.lost:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fakeGate admits every agent for the clusters cookie, cake and "Big Tea", once
// refuse is nil.
type fakeGate struct {
	refuse func(Identity) error
	wait   func(context.Context)

	mu     sync.Mutex
	grants map[string]*fakeGrant // the last of each agent
	hellos []wire.Hello
	renews int
}

func (g *fakeGate) Admit(ctx context.Context, id Identity, hello wire.Hello, _ netip.Addr) (Grant, error) {
	if g.wait != nil {
		g.wait(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hellos = append(g.hellos, hello)
	if g.refuse != nil {
		if err := g.refuse(id); err != nil {
			return nil, err
		}
	}
	grant := &fakeGrant{kubes: []string{"cookie", "cake", "Big.Tea"}, lost: make(chan error, 1)}
	if g.grants == nil {
		g.grants = make(map[string]*fakeGrant)
	}
	g.grants[id.AgentID] = grant
	return grant, nil
}

func (g *fakeGate) grant(id string) *fakeGrant {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.grants[id]
}

func (g *fakeGate) Renew(_ context.Context, _ Identity, key []byte, _ netip.Addr) (wire.Renewed, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renews++
	if string(key) == "bad" {
		return wire.Renewed{}, api.Errorf(api.CodeForbidden, "no")
	}
	return wire.Renewed{Cert: []byte("cert of " + string(key)), Generation: 8}, nil
}

// replica is one process's Tunnels.
type replica struct {
	*Tunnels
	id   string
	gate *fakeGate
	port *peer.Port // of clusters on loopback

	verified error  // what is wrong with agents' certificates
	keySum   string // of agents' certificates, "": one for each
	admitted func()
	all      *cluster

	cancel context.CancelFunc
	runs   sync.WaitGroup
}

// cluster is some replicas that know of each other.
type cluster struct {
	mu      sync.Mutex
	members []Member
	byID    map[string]*replica
	pipes   bool
}

func (c *cluster) list() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.members)
}

// pipeLinks join replicas of one process without a network.
type pipeLinks struct {
	from string
	all  *cluster
}

func (p *pipeLinks) DialTunnel(_ context.Context, t peer.Target) (net.Conn, error) {
	p.all.mu.Lock()
	r := p.all.byID[t.ID]
	p.all.mu.Unlock()
	if r == nil {
		return nil, errors.New("nobody listens there")
	}
	near, far := net.Pipe()
	go r.ServePeer(far, peer.Peer{ID: p.from, ClusterID: "c"}) // ends with either replica
	return near, nil
}

// startReplicas starts some, joined by real peer ports on loopback.
func startReplicas(t testing.TB, ids ...string) []*replica { return startCluster(t, false, ids...) }

// startPiped starts some, joined by pipes: for tests under a false clock.
func startPiped(t testing.TB, ids ...string) []*replica { return startCluster(t, true, ids...) }

func startCluster(t testing.TB, pipes bool, ids ...string) []*replica {
	t.Helper()
	c := &cluster{byID: make(map[string]*replica), pipes: pipes}
	all := make([]*replica, 0, len(ids))
	for _, id := range ids {
		all = append(all, c.add(t, id, nil))
	}
	for _, r := range all { // who runs knows of all: it would look again in a second
		r.run(t)
	}
	eventually(t, "the links between the replicas are up", func() bool {
		for _, r := range all {
			if r.linked() != len(ids)-1 {
				return false
			}
		}
		return true
	})
	return all
}

// start adds a replica that runs, or replaces one that was stopped.
func (c *cluster) start(t testing.TB, id string, change func(*Options)) *replica {
	t.Helper()
	r := c.add(t, id, change)
	r.run(t)
	return r
}

func (r *replica) run(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.runs.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(r.stop)
}

// add makes a replica that the others know of, and that does not run yet.
func (c *cluster) add(t testing.TB, id string, change func(*Options)) *replica {
	t.Helper()
	r := &replica{id: id, gate: &fakeGate{}, all: c}
	opts := Options{ServerID: id, Gate: r.gate, Members: c.list}
	addr := id
	if c.pipes {
		opts.Port = &pipeLinks{from: id, all: c}
	} else {
		seed := [32]byte{1}
		port, err := peer.New(peer.Options{ServerID: id, Seeds: [][]byte{seed[:]}, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		r.port, opts.Port, addr = port, port, port.Addr().String()
	}
	if change != nil {
		change(&opts)
	}
	var err error
	if r.Tunnels, err = New(opts); err != nil {
		t.Fatal(err)
	}
	if r.port != nil {
		r.port.HandleTunnels(r.ServePeer)
		r.port.SetCluster("c")
		r.port.Start()
	}
	c.mu.Lock()
	c.members = append(slices.DeleteFunc(c.members, func(m Member) bool { return m.ID == id }), Member{ID: id, Addr: addr})
	c.byID[id] = r
	c.mu.Unlock()
	return r
}

// stop ends a replica; a second time is no harm.
func (r *replica) stop() {
	r.all.mu.Lock()
	if r.all.byID[r.id] == r {
		delete(r.all.byID, r.id)
	}
	r.all.mu.Unlock()
	r.cancel()
	if r.port != nil {
		_ = r.port.Close()
	}
	_ = r.Close()
	r.runs.Wait()
}

func (r *replica) linked() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.peers.links)
}

// request sends one through a replica.
func (r *replica) request(ctx context.Context, method, kube, target string, body io.Reader) (*http.Response, error) {
	up, err := r.Target(kube)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, up.URL.String()+target, body)
	if err != nil {
		return nil, err
	}
	req.GetBody = nil // a client's body can't be had twice
	return up.Plain.RoundTrip(req)
}

func (r *replica) get(t testing.TB, kube, target string) string {
	t.Helper()
	text, err := r.tryGet(kube, target)
	if err != nil {
		t.Fatalf("GET %s of %s through %s: %v", target, kube, r.id, err)
	}
	return text
}

func (r *replica) tryGet(kube, target string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := r.request(ctx, http.MethodGet, kube, target, nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

// upgrade opens an upgraded stream through a replica.
func (r *replica) upgrade(ctx context.Context, kube string) (io.ReadWriteCloser, error) {
	up, err := r.Target(kube)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, up.URL.String()+"/upgrade", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	res, err := up.Upgrade.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		_ = res.Body.Close()
		return nil, errors.New(res.Status)
	}
	return res.Body.(io.ReadWriteCloser), nil
}

// agent is a simulated one, with one tunnel.
type agent struct {
	id       string
	sess     *wire.Session
	control  net.Conn
	hole     *hole
	messages chan wire.Message
	served   chan error // what ServeAgent returned
	requests atomic.Int64
	handler  http.Handler // nil: answer below
	wg       sync.WaitGroup
}

// hole is a connection that can become a black one: what goes in is lost, nothing
// comes out, and nobody is told.
type hole struct {
	net.Conn
	black   chan struct{}
	once    sync.Once
	stalled atomic.Bool
	closed  chan struct{}
	closing sync.Once
}

// stall has nothing taken off the connection any more.
func (h *hole) stall() { h.stalled.Store(true) }

func (h *hole) Close() error {
	h.closing.Do(func() { close(h.closed) })
	return h.Conn.Close()
}

func (h *hole) Write(p []byte) (int, error) {
	select {
	case <-h.black:
		return len(p), nil
	default:
		return h.Conn.Write(p)
	}
}

func (h *hole) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if h.stalled.Load() {
		<-h.closed
		return 0, net.ErrClosed
	}
	select {
	case <-h.black:
		for err == nil { // until the connection is closed
			_, err = h.Conn.Read(p)
		}
		return 0, err
	default:
		return n, err
	}
}

func (h *hole) swallow() { h.once.Do(func() { close(h.black) }) }

// connect opens a tunnel's connection to a replica, and no more.
func (r *replica) connect(t testing.TB, id string) *agent {
	t.Helper()
	near, far := net.Pipe()
	if !r.all.pipes {
		near, far = tcpPair(t)
	}
	return r.begin(t, id, near, far)
}

func (r *replica) begin(t testing.TB, id string, near, far net.Conn) *agent {
	t.Helper()
	a := &agent{id: id, messages: make(chan wire.Message, 64), served: make(chan error, 1)}
	a.hole = &hole{Conn: near, black: make(chan struct{}), closed: make(chan struct{})}
	sess, err := wire.Client(a.hole, wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a.sess = sess
	sum := cmp.Or(r.keySum, "k"+id)
	a.wg.Go(func() {
		a.served <- r.ServeAgent(context.Background(), far, Identity{AgentID: id, Generation: 7, KeySum: sum, Err: r.verified, Admitted: r.admitted})
	})
	t.Cleanup(a.close)
	return a
}

func tcpPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// hello opens the control stream and says hello.
func (a *agent) hello(t testing.TB, clusters ...string) {
	t.Helper()
	var err error
	if a.control, err = a.sess.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	h := wire.Hello{Version: "1.2.3", Name: "pod-0"}
	for _, name := range clusters {
		h.Clusters = append(h.Clusters, wire.Cluster{Name: name, Health: api.HealthHealthy, Version: "v1.34.1"})
	}
	a.say(t, wire.Message{Hello: &h})
}

func (a *agent) say(t testing.TB, m wire.Message) {
	t.Helper()
	if err := wire.WriteMessage(a.control, m); err != nil {
		t.Fatal(err)
	}
}

// hear waits for a message of a kind, and passes over others.
func (a *agent) hear(t testing.TB, what string, is func(wire.Message) bool) wire.Message {
	t.Helper()
	for {
		if err := a.control.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		m, err := wire.ReadMessage(a.control)
		if err != nil {
			t.Fatalf("wait for %s: %v", what, err)
		}
		if is(m) {
			return m
		}
	}
}

func isWelcome(m wire.Message) bool { return m.Welcome != nil }
func isRefused(m wire.Message) bool { return m.Refused != nil }

// dial is a whole agent's tunnel: hello, welcome, and its HTTP server.
func (r *replica) dial(t testing.TB, id string, clusters ...string) *agent {
	t.Helper()
	a := r.connect(t, id)
	a.hello(t, clusters...)
	a.hear(t, "welcome", isWelcome)
	a.serve(t)
	eventually(t, "the tunnel is known", func() bool { return r.holds(id) })
	return a
}

func (r *replica) holds(id string) bool { return slices.Contains(r.Replicas()[id], r.id) }

// knows waits until a replica has heard that another holds an agent.
func (r *replica) knows(t testing.TB, id, holder string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s knows that %s holds agent %s", r.id, holder, id), func() bool {
		return slices.Contains(r.Replicas()[id], holder)
	})
}

// listener is a session as an http.Server wants one.
type listener struct{ *wire.Session }

func (l listener) Accept() (net.Conn, error) { return l.Session.Accept() }
func (l listener) Addr() net.Addr            { return &net.UnixAddr{Name: "tunnel", Net: "tunnel"} }

func (a *agent) serve(t testing.TB) {
	t.Helper()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		if a.handler != nil {
			a.handler.ServeHTTP(w, r)
			return
		}
		a.answer(w, r)
	}), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	a.wg.Go(func() { _ = srv.Serve(listener{a.sess}) })
	t.Cleanup(func() { _ = srv.Close() })
}

// answer says who answers what, and echoes on upgraded streams.
func (a *agent) answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s %s", strings.TrimLeft(a.id, "0"), r.Host, r.RequestURI, body)
		return
	}
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	echo(c, buffered.Reader)
}

func echo(c net.Conn, from *bufio.Reader) {
	if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"); err != nil {
		return
	}
	if _, err := io.Copy(c, from); err == nil {
		_, _ = io.WriteString(c, " bye") // after the other end's end: half-close works
	}
}

func (a *agent) close() {
	_ = a.hole.Close()
	_ = a.sess.Close()
	a.wg.Wait()
}
