package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// ALPN names of what the port speaks.
const (
	protoRaft = "sallyport-raft/1"
	protoRPC  = "sallyport-rpc/1"
)

const (
	handshakeTimeout = 10 * time.Second       // from accept to the end of the preface
	alertTimeout     = 250 * time.Millisecond // for a connection's last words
	maxHandshakes    = 256                    // under way at once, of peers' addresses and of others each
	maxHandshakesIP  = 32                     // of one address
	maxPeerIPs       = 256                    // remembered as peers' addresses
)

// ErrClosed is returned by what is asked of a closed port.
var ErrClosed = errors.New("peer port is closed")

// Options make a Port.
type Options struct {
	ServerID  string           // this server, one DNS label
	Seeds     [][]byte         // 32-byte seeds of the peer CA; the first signs, all are trusted
	Listen    string           // host:port; default :7443
	Listener  net.Listener     // instead of Listen; the port owns it
	Advertise string           // host:port by which peers reach this server; default: the listener's address
	Logger    *slog.Logger     // default: slog.Default
	Clock     func() time.Time // default: time.Now
	// Dial opens TCP connections; it must resolve names anew at every call
	// (addresses of replicas change). Default: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Peer is who is at the other end of a connection, verified.
type Peer struct {
	ID        string // server id
	ClusterID string // "" for a guest: one that named no cluster or no target
}

// Member reports whether the peer named our cluster and our id.
func (p Peer) Member() bool { return p.ClusterID != "" }

// Port is the peer port of one server. Handlers are registered before Start.
type Port struct {
	opts     Options
	creds    *credentials
	listener net.Listener
	log      *slog.Logger

	raft *raftLayer
	rpc  *rpcServer
	pool *rpcPool

	raftLost func(serverID string)
	tunnels  func(net.Conn, Peer)
	refusals *rate.Limiter // of log lines

	ctx     context.Context // ends when the port closes
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	closing sync.Once

	mu        sync.Mutex
	clusterID string
	fence     error           // why Raft is fenced off; nil: it is not
	unfenced  context.Context // ends with a fence; Raft's dials have it
	cutDials  context.CancelCauseFunc
	closed    bool
	conns     map[*conn]struct{} // every connection past its preface
	pending   int                // handshakes under way
	peersOn   int                // of handshakes under way, how many from peers' addresses
	pendingIP map[string]int
	peerIPs   map[string]struct{} // where a holder of the secret was met, dialled or dialling
	told      map[string]string   // by address, the refusal that was logged last
}

// New binds the port. Nothing is accepted before Start.
func New(opts Options) (*Port, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Dial == nil {
		opts.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	creds, err := newCredentials(opts.ServerID, opts.Seeds, opts.Clock)
	if err != nil {
		return nil, err
	}
	l := opts.Listener
	if l == nil {
		addr := opts.Listen
		if addr == "" {
			addr = ":7443"
		}
		if l, err = net.Listen("tcp", addr); err != nil { //nolint:noctx // listening is immediate
			return nil, fmt.Errorf("listen for peers: %w", err)
		}
	}
	if opts.Advertise == "" {
		opts.Advertise = l.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Port{
		opts:      opts,
		creds:     creds,
		listener:  l,
		log:       opts.Logger,
		ctx:       ctx,
		cancel:    cancel,
		conns:     make(map[*conn]struct{}),
		pendingIP: make(map[string]int),
		peerIPs:   make(map[string]struct{}),
		told:      make(map[string]string),
		refusals:  rate.NewLimiter(2, 20),
	}
	p.unfenced, p.cutDials = context.WithCancelCause(ctx)
	p.raft = newRaftLayer(p)
	p.rpc = newRPCServer(p)
	p.pool = newRPCPool(p)
	return p, nil
}

// ServerID is this server's id.
func (p *Port) ServerID() string { return p.opts.ServerID }

// Advertise is the address by which peers reach this server.
func (p *Port) Advertise() string { return p.opts.Advertise }

// Addr is where the port listens.
func (p *Port) Addr() net.Addr { return p.listener.Addr() }

// SetCluster says to which cluster this server belongs from now on.
// Connections made under another id are closed.
func (p *Port) SetCluster(id string) {
	p.mu.Lock()
	changed := p.clusterID != id
	p.clusterID = id
	var stale []*conn
	if changed {
		for c := range p.conns {
			stale = append(stale, c)
		}
	}
	p.mu.Unlock()
	closeAll(stale) // made under ids that hold no more
	if changed {
		p.pool.reset()
	}
}

// ClusterID is what SetCluster said last.
func (p *Port) ClusterID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clusterID
}

// Start accepts connections until Close.
func (p *Port) Start() {
	p.wg.Go(func() { p.rpc.serve() })
	p.wg.Go(p.accept)
}

// Close closes the listener and every connection, and waits for what served them.
func (p *Port) Close() error {
	p.closing.Do(func() {
		p.mu.Lock()
		p.closed = true
		conns := make([]*conn, 0, len(p.conns))
		for c := range p.conns {
			conns = append(conns, c)
		}
		p.mu.Unlock()
		_ = p.listener.Close() // nobody waits for it but accept
		p.rpc.close()
		p.cancel()
		closeAll(conns)
		p.pool.reset()
	})
	p.wg.Wait()
	return nil
}

func (p *Port) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			p.log.Warn("cannot accept a peer connection", "error", err)
			select { // out of file descriptors, most likely: give others time to close some
			case <-p.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		end := p.admitHandshake(hostOf(c.RemoteAddr()))
		if end == nil {
			_ = c.Close() // too many strangers: this one may come again
			continue
		}
		p.wg.Go(func() {
			err := p.handshake(c)
			end()
			if err != nil {
				_ = c.Close() // the error is what matters
				p.tellRefused(c.RemoteAddr(), err)
			}
		})
	}
}

// passing marks a refusal that is no more than a moment in the life of a server:
// it starts, stops or is fenced off, which it says elsewhere. Peers come again
// and again meanwhile.
type passing struct{ error }

func (e passing) Unwrap() error { return e.error }

// stranger marks a failure before the other end was known.
type stranger struct{ error }

func (e stranger) Unwrap() error { return e.error }

// maxTold bounds what is remembered of refusals.
const maxTold = 64

// tellRefused logs a refusal once per sender and reason, and not faster than
// strangers may fill a log.
func (p *Port) tellRefused(remote net.Addr, err error) {
	level := slog.LevelInfo
	var momentary passing
	var unknown stranger
	switch {
	case p.ctx.Err() != nil:
		return
	case errors.As(err, &momentary):
		level = slog.LevelDebug
	case errors.As(err, &unknown) && wentAway(err):
		level = slog.LevelDebug // a probe, or a peer that was killed
	default:
		ip, what := hostOf(remote), err.Error()
		p.mu.Lock()
		if p.told[ip] == what {
			level = slog.LevelDebug
		} else if p.told[ip] = what; len(p.told) > maxTold {
			clear(p.told)
		}
		p.mu.Unlock()
	}
	if level == slog.LevelDebug || p.refusals.Allow() {
		p.log.Log(p.ctx, level, "peer connection refused", "remote", remote.String(), "error", err)
	}
}

// wentAway reports whether the other end broke off or fell silent, as opposed to
// being told no, or saying it.
func wentAway(err error) bool {
	var timeout net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.As(err, &timeout) && timeout.Timeout()
}

// admitHandshake returns what to call when the handshake is over, or nil if
// there are too many. Addresses at which peers were met have places of their
// own, or silent strangers at a few addresses could keep the peers out. A replica that
// has just started meets them by dialling.
func (p *Port) admitHandshake(ip string) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := &p.pending
	if _, known := p.peerIPs[ip]; known {
		count = &p.peersOn
	}
	if *count >= maxHandshakes || p.pendingIP[ip] >= maxHandshakesIP {
		return nil
	}
	*count++
	p.pendingIP[ip]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		*count--
		if p.pendingIP[ip]--; p.pendingIP[ip] == 0 {
			delete(p.pendingIP, ip)
		}
	}
}

// metLocked remembers the address of whoever holds the secret.
func (p *Port) metLocked(ip string) {
	if _, known := p.peerIPs[ip]; !known && len(p.peerIPs) >= maxPeerIPs {
		for old := range p.peerIPs { // any: one that is still in use will be met again
			delete(p.peerIPs, old)
			break
		}
	}
	p.peerIPs[ip] = struct{}{}
}

// handshake does TLS and the preface, then hands the connection on.
func (p *Port) handshake(raw net.Conn) error {
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTimeout)
	defer cancel()
	if err := raw.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	tc := tls.Server(raw, p.creds.serverConfig())
	if err := tc.HandshakeContext(ctx); err != nil {
		return stranger{fmt.Errorf("TLS handshake: %w", err)}
	}
	state := tc.ConnectionState()
	certID, err := serverIDOf(state)
	if err != nil {
		return err
	}
	var pre preface
	if err := readFrame(tc, &pre); err != nil {
		return stranger{err} // a client knows only now whether its certificate will do
	}
	proto := state.NegotiatedProtocol
	c, err := p.admit(tc, proto, certID, pre)
	if err != nil {
		_ = writeFrame(tc, answer{Error: err.Error()}) // best effort: a reason for the other end's log
		return err
	}
	if err := writeFrame(tc, answer{}); err != nil {
		_ = c.Close() // takes it off the books
		return err
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		_ = c.Close() // takes it off the books
		return fmt.Errorf("clear deadline: %w", err)
	}
	switch proto {
	case protoRaft:
		return p.raft.offer(c)
	case protoRPC:
		return p.rpc.offer(c)
	case protoTunnel:
		return p.offerTunnel(c)
	default:
		_ = c.Close() // takes it off the books
		return fmt.Errorf("no protocol %q here", proto)
	}
}

// admit judges the preface and registers the connection in one step: a
// SetCluster or Fence that comes later finds it among conns.
func (p *Port) admit(tc *tls.Conn, proto, certID string, pre preface) (*conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peer, err := pre.admit(proto, certID, p.opts.ServerID, p.clusterID)
	if err != nil {
		return nil, err
	}
	return p.registerLocked(tc, proto, peer, true)
}

func (p *Port) registerLocked(nc *tls.Conn, proto string, peer Peer, inbound bool) (*conn, error) {
	switch {
	case p.closed:
		return nil, passing{ErrClosed}
	case proto == protoRaft && p.fence != nil:
		return nil, p.fence
	}
	c := &conn{Conn: nc, raw: nc.NetConn(), port: p, proto: proto, peer: peer, inbound: inbound}
	p.conns[c] = struct{}{}
	p.metLocked(hostOf(nc.RemoteAddr()))
	return c, nil
}

// conn is a connection past its preface. It hides *tls.Conn: net/http would
// look for its own protocols in ALPN.
type conn struct {
	net.Conn
	raw     net.Conn // below TLS
	port    *Port
	proto   string
	peer    Peer
	inbound bool
}

func (c *conn) Close() error {
	p := c.port
	p.mu.Lock()
	_, known := p.conns[c]
	delete(p.conns, c)
	var lost func(string)
	if known && c.inbound && c.proto == protoRaft && p.fence == nil && !p.closed && !p.inboundRaftLocked(c.peer.ID) {
		lost = p.raftLost
	}
	p.mu.Unlock()
	if lost != nil {
		lost(c.peer.ID)
	}
	// TLS would wait 5 s for its alert to leave.
	cut := time.AfterFunc(alertTimeout, func() { _ = c.raw.Close() })
	defer cut.Stop()
	return c.Conn.Close()
}

func (p *Port) inboundRaftLocked(id string) bool {
	for c := range p.conns {
		if c.inbound && c.proto == protoRaft && c.peer.ID == id {
			return true
		}
	}
	return false
}

// OnRaftLost sets what is called, without waiting, when the last Raft connection
// that a server opened to us is gone: its process has died, most likely. Before Start.
func (p *Port) OnRaftLost(fn func(serverID string)) { p.raftLost = fn }

// queue is a net.Listener that is fed by hand.
type queue struct {
	addr net.Addr
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, ch: make(chan net.Conn), done: make(chan struct{})}
}

func (q *queue) offer(c net.Conn) error {
	select {
	case q.ch <- c:
		return nil
	case <-q.done:
		_ = c.Close() // takes it off the books
		return passing{net.ErrClosed}
	case <-time.After(handshakeTimeout): // nobody accepts: Raft is not running yet
		_ = c.Close() // takes it off the books
		return passing{errors.New("nobody takes the connection here yet")}
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.ch:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

type peerKey struct{}

// PeerFrom is the peer whose request has the context ctx.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}
