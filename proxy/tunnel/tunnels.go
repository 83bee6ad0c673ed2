package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// Identity is who an agent is, as its verified certificate says.
type Identity struct {
	AgentID    string
	Generation uint64
	KeySum     string    // SHA-256 of the certificate's SPKI, hex
	NotAfter   time.Time // of the certificate
	// Err, if any, is why the certificate is worth nothing. The agent is told when it
	// says hello: it can't see why a connection ends.
	Err error
	// Admitted, if set, is called once when the agent has shown that it may have a
	// tunnel: until then it is a stranger with a certificate.
	Admitted func()
}

// Grant is the right to hold a tunnel.
type Grant interface {
	KubeClusters() []string // the only clusters that may be served through it
	Generation() uint64     // that counts from now on
	// Watch blocks until the right is lost, and says why (an *api.Error, see
	// wire.Refused), or until ctx ends.
	Watch(ctx context.Context) error
}

// Gate decides about agents. Its errors go to the agent if they are *api.Error.
type Gate interface {
	Admit(ctx context.Context, id Identity, hello wire.Hello, addr netip.Addr) (Grant, error)
	Renew(ctx context.Context, id Identity, publicKey []byte, addr netip.Addr) (wire.Renewed, error)
}

// Links reach other replicas; *peer.Port does.
type Links interface {
	DialTunnel(ctx context.Context, t peer.Target) (net.Conn, error)
}

// Member is a replica of this cluster.
type Member struct{ ID, Addr string }

// Options configure Tunnels. ServerID, Gate, Port and Members are needed.
type Options struct {
	ServerID string
	Gate     Gate
	Port     Links
	// Members are all replicas, this one among them, by Raft's configuration. It is
	// asked every second.
	Members func() []Member
	// Splice takes the far end of what a peer's SpliceTo sent: an agent's connection
	// to this very replica, TLS and all. It must not block. Nil: refused.
	Splice func(net.Conn)
	// LastSeen says when an agent of a cluster was last known to be connected, by
	// what outlives this process; the zero time if never. Nil: nothing does.
	LastSeen func(kube string) time.Time

	// HelloRate is how many handshakes and hellos per second are taken, 0: 150 for
	// each CPU; bursts are of a second.
	HelloRate float64

	Clock  func() time.Time // nil: time.Now
	Rand   func() float64   // in [0,1), for jitter and lots; nil: math/rand/v2
	Logger *slog.Logger     // nil: discard
}

// tunnelMemory bounds, in bytes, what waits to be read on all tunnels together.
const tunnelMemory = 256 << 20

// errClosed is what becomes of tunnels and requests after Close.
var errClosed = api.Errorf(api.CodeUnavailable, "this replica is stopping: try again")

// Tunnels are the agents' tunnels of this replica and what it knows of its
// peers'. Methods may be called from any goroutine.
type Tunnels struct {
	opts       Options
	clock      func() time.Time
	log        *slog.Logger
	complaints *rate.Limiter // of log lines that others can cause
	metrics    *metrics
	handshakes *handshakes
	hellos     *admission
	newcomers  *newcomers
	memory     *wire.Budget

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // of what serves agents and peers

	moving atomic.Bool

	mu         sync.RWMutex
	closed     bool
	own        map[string]*ownAgent // by agent id
	peers      peers
	routes     routes
	version    uint64        // of own; each change has its number
	removals   uint64        // how many agents left own
	changed    chan struct{} // closed and replaced at every change
	ownChanged chan struct{} // the same, of own and moving alone
	welcomed   []string      // the members that agents were told last
}

// New makes Tunnels. Run makes them known to peers.
func New(opts Options) (*Tunnels, error) {
	if opts.Gate == nil || opts.Port == nil || opts.Members == nil || opts.ServerID == "" {
		return nil, errors.New("tunnels need a server id, a gate, a port and members")
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.HelloRate <= 0 {
		opts.HelloRate = 150 * float64(runtime.GOMAXPROCS(0))
	}
	if opts.Rand == nil {
		opts.Rand = rand.Float64
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &Tunnels{
		opts:       opts,
		clock:      opts.Clock,
		log:        opts.Logger,
		complaints: rate.NewLimiter(2, 20),
		handshakes: newHandshakes(opts.HelloRate),
		hellos:     newAdmission(opts.HelloRate, opts.Rand),
		newcomers:  newNewcomers(),
		memory:     wire.NewBudget(tunnelMemory),
		ctx:        ctx,
		cancel:     cancel,
		own:        make(map[string]*ownAgent),
		peers:      peers{links: make(map[string]*link), inbound: make(map[string][]*wire.Session)},
		changed:    make(chan struct{}),
		ownChanged: make(chan struct{}),
	}
	t.routes = routes{
		clock: opts.Clock, random: opts.Rand, lastSeen: opts.LastSeen, kubes: make(map[string]*kube), untold: make(map[string]struct{}),
		upstream: func(kube string) upstream.Upstream { return newUpstream(t, kube) },
	}
	t.metrics = newMetrics(t)
	return t, nil
}

// enter begins something that Close waits for, under a context that Close ends.
// The caller calls leave at its end.
func (t *Tunnels) enter(parent context.Context) (ctx context.Context, cancel context.CancelCauseFunc, leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, nil, errClosed
	}
	t.wg.Add(1)
	ctx, cancel = context.WithCancelCause(parent)
	stop := context.AfterFunc(t.ctx, func() { cancel(errClosed) })
	return ctx, cancel, func() {
		stop()
		cancel(nil)
		t.wg.Done()
	}, nil
}

// Close ends all tunnels and links, and waits for them. Run ends too.
func (t *Tunnels) Close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
	return nil
}

// Move tells all agents to go elsewhere, makes peers prefer other replicas, and
// refuses new tunnels from now on. It returns when the agents are told, not when
// they are gone.
func (t *Tunnels) Move(ctx context.Context) {
	if t.moving.Swap(true) {
		return
	}
	t.mu.Lock()
	t.version++
	t.notifyOwnLocked()
	tunnels := t.ownTunnelsLocked()
	t.mu.Unlock()
	// The others take so many in a second; those that wait are served here meanwhile.
	within := min(max(2*time.Second, time.Duration(float64(len(tunnels))/t.opts.HelloRate*float64(time.Second))), 10*time.Second)
	told := make(chan struct{})
	t.fanOut(tunnels, wire.Message{Move: &wire.Move{Within: within}}, func() { close(told) })
	select {
	case <-told:
	case <-ctx.Done():
	}
}

// fanOut sends a message to many agents, some of which may not read, and calls
// done at the end. Close waits for it.
func (t *Tunnels) fanOut(tunnels []*tunnel, m wire.Message, done func()) {
	_, _, leave, err := t.enter(t.ctx)
	if err != nil {
		done()
		return
	}
	go func() { // leave tells Close of its end
		defer leave()
		defer done()
		var wg sync.WaitGroup
		defer wg.Wait()
		for _, tun := range tunnels {
			wg.Go(func() { _ = tun.send(m, sendTimeout) }) // one that can't be told is about to be found dead
		}
	}()
}

func (t *Tunnels) ownTunnelsLocked() []*tunnel {
	var all []*tunnel
	for _, agent := range t.own {
		all = append(all, agent.tunnels...)
	}
	return all
}

// Changed is closed at the next change of what Statuses or Replicas say.
func (t *Tunnels) Changed() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.changed
}

func (t *Tunnels) notifyLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *Tunnels) notifyOwnLocked() {
	close(t.ownChanged)
	t.ownChanged = make(chan struct{})
	t.notifyLocked()
}

// Target is the way to a Kubernetes cluster behind tunnels: wherever its agents
// are by the time a request is made.
func (t *Tunnels) Target(name string) (upstream.Upstream, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if up, ok := t.routes.target(name); ok {
		return up, nil
	}
	if t.holdLocked(name) > 0 {
		return newUpstream(t, name), nil // it may be back in a moment: RoundTrip waits
	}
	return upstream.Upstream{}, t.routes.noAgent(name)
}

// holdLocked is how long a request for a cluster without a route may wait: it may be
// back soon, or this replica has just started and does not know yet what its peers have.
func (t *Tunnels) holdLocked(name string) time.Duration {
	if hold := t.routes.backSoon(name); hold > 0 {
		return hold
	}
	return t.peers.settling(t.clock())
}

// Statuses are the clusters that have a tunnel to any replica, by name.
func (t *Tunnels) Statuses() map[string]api.KubeStatus {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.routes.statuses()
}

// Status is how one cluster does, nil if it has no tunnel to any replica.
func (t *Tunnels) Status(name string) *api.KubeStatus {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.routes.status(name)
}

// Replicas are the ids of the servers that each agent has tunnels to, in order, by
// the agent's id.
func (t *Tunnels) Replicas() map[string][]string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make(map[string][]string)
	for id := range t.own {
		all[id] = append(all[id], t.opts.ServerID)
	}
	for server, l := range t.peers.links {
		for id := range l.agents {
			all[id] = append(all[id], server)
		}
	}
	for _, servers := range all {
		slices.Sort(servers)
	}
	return all
}

// AdmitHandshake reports whether an agent's TLS handshake may begin now, of a client
// in that network (the zero Prefix: nobody knows). It is for the callback that sees
// the client's first message, before the costly part: when a replica dies, thousands
// of agents come to the others, and requests go on.
func (t *Tunnels) AdmitHandshake(network netip.Prefix) bool {
	if t.handshakes.allow(network, time.Now()) {
		return true
	}
	t.metrics.refused.WithLabelValues("handshakes").Inc()
	return false
}

// Collector gives the metrics.
func (t *Tunnels) Collector() prometheus.Collector { return t.metrics }
