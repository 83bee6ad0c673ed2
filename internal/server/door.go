package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/wire"
	"github.com/sallyport-dev/sallyport/proxy/tunnel"
)

// agentTunnels is what the door asks of them; a *tunnel.Tunnels.
type agentTunnels interface {
	AdmitHandshake(network netip.Prefix) bool
	ServeAgent(ctx context.Context, conn net.Conn, id tunnel.Identity) error
	SpliceTo(ctx context.Context, serverID string, conn net.Conn, head []byte) error
}

// doorOptions make an agentDoor; all are needed.
type doorOptions struct {
	clusterName, serverID string
	tunnels               agentTunnels
	agents                func() (*x509.CertPool, error) // the agent CAs
	verify                func([]*x509.Certificate) (pki.AgentIdentity, error)
	members               func() []tunnel.Member
	log                   *slog.Logger
}

// agentDoor is where agents come in on the public port: by the tunnel names, with a
// certificate of the agent CA, with wire.Protocol, and with nothing else. Who asks
// for another replica by its name is handed there unread.
type agentDoor struct {
	doorOptions

	ctx    context.Context // ends with the door
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // connections on their way to other replicas
	here   int            // tunnels that are served
	empty  chan struct{}  // closed when there is none any more; nil: nobody waits
}

func newAgentDoor(o doorOptions) *agentDoor {
	d := &agentDoor{doorOptions: o}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// close cuts what is on its way to other replicas, and waits for it.
func (d *agentDoor) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.work.Wait()
}

// awaitEmpty waits until all agents have left, or ctx ends. They do so by themselves
// when they were told to move, have a tunnel elsewhere and nothing under way here.
func (d *agentDoor) awaitEmpty(ctx context.Context) error {
	d.mu.Lock()
	if d.here == 0 {
		d.mu.Unlock()
		return nil
	}
	if d.empty == nil {
		d.empty = make(chan struct{})
	}
	empty := d.empty
	d.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// count counts tunnels.
func (d *agentDoor) count(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.here += n; d.here == 0 && d.empty != nil {
		close(d.empty)
		d.empty = nil
	}
}

// admit is asked with the ClientHello of a tunnel name, for the replica id or for
// any, before anything costly is done for it. It says whether the handshake goes on
// here.
func (d *agentDoor) admit(nc net.Conn, id string) error {
	hc, _ := nc.(*helloConn)
	if id != "" && id != d.serverID {
		return d.sendOn(hc, id)
	}
	// The address is the agent's, also of one that another replica sent here.
	if !d.tunnels.AdmitHandshake(auth.NetworkOf(clientAddr(nc.RemoteAddr()))) {
		return errors.New("too many agents come at once: this one may come again")
	}
	if hc != nil {
		hc.pass()
	}
	return nil
}

// secure makes the TLS configuration that agents meet.
func (d *agentDoor) secure(cfg *tls.Config) error {
	pool, err := d.agents()
	if err != nil {
		return err
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.ClientCAs = pool
	cfg.NextProtos = []string{wire.Protocol}
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != wire.Protocol { // whoever offers none would get HTTP
			return fmt.Errorf("a tunnel name without %s", wire.Protocol)
		}
		return nil
	}
	return nil
}

// errSplicedTwice is what two replicas that send each other a connection for ever
// would come to.
var errSplicedTwice = errors.New("another replica sent this connection here, and it is for yet another")

// sendOn takes a connection over from TLS, which has read its ClientHello and
// answered nothing, and sends it to the replica it asks for: TLS ends there. The
// error it returns is for a handshake that is of no more concern.
func (d *agentDoor) sendOn(hc *helloConn, id string) error {
	switch {
	case hc == nil:
		return errors.New("agents' tunnels are not taken on this port")
	case hc.spliced:
		return errSplicedTwice
	case !slices.ContainsFunc(d.members(), func(m tunnel.Member) bool { return m.ID == id }):
		return fmt.Errorf("there is no replica %q", id)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	nc, head, ok := hc.take()
	if !ok {
		return errors.New("the ClientHello is too long to be sent to another replica")
	}
	d.work.Go(func() { d.splice(nc, head, id) })
	return errTaken
}

// strangeFor is how long a connection on its way to another replica counts as a
// stranger's here. By then its handshake there has succeeded, or it is closed.
const strangeFor = handshakeTime + 5*time.Second

func (d *agentDoor) splice(nc net.Conn, head []byte, id string) {
	known := time.AfterFunc(strangeFor, func() { noStranger(nc) })
	defer known.Stop()
	defer nc.Close()
	err := nc.SetDeadline(time.Time{}) // http.Server's, for a handshake
	if err == nil {
		err = d.tunnels.SpliceTo(d.ctx, id, nc, head)
	}
	d.log.Debug("an agent's connection to another replica has ended", "peer", id, "remote", nc.RemoteAddr(), "error", err)
}

// serve is an http.Server's TLSNextProto: it has a connection with a verified
// certificate of the agent CA.
func (d *agentDoor) serve(_ *http.Server, nc *tls.Conn, _ http.Handler) {
	state := nc.ConnectionState()
	if to, id := api.ParseServerName(state.ServerName, d.clusterName); to != api.AudienceTunnel || id != "" && id != d.serverID {
		_ = nc.Close() // no configuration of ours lets this protocol in by another name
		return
	}
	d.count(1)
	defer d.count(-1)
	id, err := d.verify(state.PeerCertificates)
	var sum string
	if len(state.PeerCertificates) > 0 {
		sum = pki.KeySum(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
	}
	// A certificate alone makes nobody known: its agent may be locked.
	err = d.tunnels.ServeAgent(auth.WithConn(d.ctx, nc.RemoteAddr(), nc.LocalAddr()), nc, tunnel.Identity{
		AgentID: id.ID, Generation: id.Generation, KeySum: sum, NotAfter: id.NotAfter, Err: err,
		Admitted: func() { noStranger(nc) },
	})
	d.log.Debug("a tunnel has ended", "agent", id.ID, "remote", nc.RemoteAddr(), "error", err)
}

// handedListener accepts connections that are handed to it: those which other
// replicas send here.
type handedListener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// handedQueue is how many may wait for the server to take them, which it does at once.
const handedQueue = 128

func newHandedListener(addr net.Addr) *handedListener {
	return &handedListener{addr: addr, conns: make(chan net.Conn, handedQueue), done: make(chan struct{})}
}

// hand gives a connection; it does not block, and closes what it can't give.
func (l *handedListener) hand(c net.Conn) {
	select {
	case <-l.done:
		_ = c.Close()
		return
	default:
	}
	select {
	case l.conns <- c:
	default:
		_ = c.Close()
	}
}

func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; what has not been accepted is closed.
func (l *handedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	for {
		select {
		case c := <-l.conns:
			_ = c.Close()
		default:
			return nil
		}
	}
}

func (l *handedListener) Addr() net.Addr { return l.addr }
