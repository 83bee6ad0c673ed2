package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	dialTimeout  = 10 * time.Second       // until Welcome
	writeTimeout = 10 * time.Second       // of a message
	drainTimeout = 15 * time.Minute       // of a tunnel that was replaced
	drainIdle    = 2 * time.Second        // without a request, and a tunnel that was replaced is closed
	surplusIdle  = 200 * time.Millisecond // one that nobody needs, hardly any came to
	drainPoll    = 100 * time.Millisecond
)

// tunnel is a session with one replica.
type tunnel struct {
	agent    *Agent
	cred     *credentials // that it was opened with
	sess     *wire.Session
	control  net.Conn
	serverID string
	since    time.Time
	states   uint64        // Agent.states at Hello
	idle     time.Duration // without a request, before it is closed when it drains
	move     *time.Timer   // to when the replica asked us to move; guarded by Agent.mu

	leaving  atomic.Bool // the replica asked us to move
	draining atomic.Bool // another has taken its place
	active   atomic.Int64
	lastUsed atomic.Int64 // Unix nanoseconds

	wake  chan struct{} // something to say, or to drain
	mu    sync.Mutex
	renew *wire.Renew // to be sent
	stale bool        // the clusters' state is to be sent
	end   error
}

// refusedError is a replica's Refused.
type refusedError struct{ wire.Refused }

func (e *refusedError) Error() string { return e.Message }

// unansweredError is a Hello of which nobody knows whether it arrived.
type unansweredError struct{ error }

func (e *unansweredError) Unwrap() error { return e.error }

// dialTunnel opens a tunnel: to the replica with the id, or with "" to any.
func (a *Agent) dialTunnel(ctx context.Context, cred *credentials, id string) (*tunnel, *wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := a.dialer.dialProxied(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("reach Sallyport at %s: %w", a.opts.Proxy, err)
	}
	t, welcome, err := a.greet(ctx, raw, cred, id)
	if err != nil {
		_ = raw.Close() // the error says more
		return nil, nil, err
	}
	return t, welcome, nil
}

// dontLinger keeps the kernel from sending what is not sent yet once the connection
// is closed: a Hello must not arrive long after we gave up.
func dontLinger(raw net.Conn) {
	if secure, ok := raw.(*tls.Conn); ok { // to a proxy
		raw = secure.NetConn()
	}
	if tcp, ok := raw.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
}

func (a *Agent) greet(ctx context.Context, raw net.Conn, cred *credentials, id string) (*tunnel, *wire.Welcome, error) {
	conn := tls.Client(raw, &tls.Config{
		ServerName: api.TunnelServerName(id, cred.ClusterName), RootCAs: cred.roots, Certificates: []tls.Certificate{cred.cert},
		NextProtos: []string{wire.Protocol}, MinVersion: tls.VersionTLS13, Time: a.opts.Clock,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		if id != "" { // the replica in between may only be unable to reach that one
			return nil, nil, a.explain(err)
		}
		return nil, nil, &handshakeError{a.explain(err)}
	}
	if conn.ConnectionState().NegotiatedProtocol != wire.Protocol {
		return nil, nil, fmt.Errorf("%s does not speak %s: the load balancer there must pass TLS through, not end it", a.opts.Proxy, wire.Protocol)
	}
	stop := deadline(ctx, raw)
	defer stop()
	sess, err := wire.Client(conn, a.opts.Wire)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*tunnel, *wire.Welcome, error) {
		dontLinger(raw)
		_ = sess.Close() // the error says more
		return nil, nil, err
	}
	control, err := sess.Open(ctx)
	if err != nil {
		return fail(a.unanswered(err))
	}
	if end, ok := ctx.Deadline(); ok {
		_ = control.SetDeadline(end)
	}
	states := a.states.Load()
	hello := wire.Hello{Version: a.opts.Version, Name: a.opts.Name, Clusters: a.clusterStates(), Instance: a.instance, Started: a.started}
	if err := wire.WriteMessage(control, wire.Message{Hello: &hello}); err != nil {
		return fail(a.unanswered(err))
	}
	for {
		m, err := wire.ReadMessage(control)
		switch {
		case err != nil:
			return fail(a.unanswered(err))
		case m.Refused != nil:
			return fail(&refusedError{*m.Refused})
		case m.Welcome != nil:
			_ = control.SetDeadline(time.Time{})
			now := a.opts.Clock()
			t := &tunnel{agent: a, cred: cred, sess: sess, control: control, serverID: m.Welcome.ServerID, since: now, states: states, idle: drainIdle, wake: make(chan struct{}, 1)}
			t.lastUsed.Store(now.UnixNano())
			return t, m.Welcome, nil
		}
	}
}

// unanswered is what a connection that ends after Hello means. A certificate is
// refused so late because TLS 1.3 lets the client finish first; the replica has
// proved who it is by then, so its word counts as a Refused.
func (a *Agent) unanswered(err error) error {
	if alert := certificateAlert(err); alert != "" {
		return &refusedError{wire.Refused{Code: api.CodeUnauthenticated, Message: "the agent's certificate is not accepted any more: " + alert}}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the connection was closed")
	}
	return &unansweredError{fmt.Errorf("%s does not answer the agent's greeting: %w", a.opts.Proxy, err)}
}

// certificateAlert is what crypto/tls makes of the other end's alert about our
// certificate; "": it is none. It has no type for them outside of QUIC.
func certificateAlert(err error) string {
	_, alert, ok := strings.Cut(err.Error(), "remote error: tls: ")
	if !ok {
		return ""
	}
	for _, text := range []string{
		"bad certificate", "unsupported certificate", "revoked certificate", "expired certificate", "unknown certificate", // and "… authority"
		"certificate required", "access denied",
	} {
		if strings.HasPrefix(alert, text) {
			return text
		}
	}
	return ""
}

// explain says of an error of TLS what to do.
func (a *Agent) explain(err error) error {
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%s is not the Sallyport that this agent joined: %w. If it was set up anew, remove the agent's identity (%s), and it joins with its token", a.opts.Proxy, v.Err, a.opts.Store)
	}
	return fmt.Errorf("%s: %w", a.opts.Proxy, err)
}

// turnedAway says whether a replica broke off the handshake before it had looked at
// our certificate: there are too many at its door. It may say so by the alert
// internal_error (RFC 8446, section 6.2), or by nothing at all.
func turnedAway(err error) bool {
	failed, ok := errors.AsType[*handshakeError](err)
	if !ok {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](failed.error); ok && op.Op == "remote error" {
		return op.Err.Error() == alertInternalError.Error()
	}
	return errors.Is(failed, io.EOF) || errors.Is(failed, syscall.ECONNRESET)
}

const alertInternalError tls.AlertError = 80

// handshakeError is a TLS handshake that did not end well.
type handshakeError struct{ error }

func (e *handshakeError) Unwrap() error { return e.error }

// run serves the tunnel until it ends, and says why it did.
func (t *tunnel) run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(t.accept)
	wg.Go(t.read)
	t.write(ctx)
	_ = t.sess.Close() // whatever ended it
	wg.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.end
}

// close ends the tunnel; the first reason is kept.
func (t *tunnel) close(reason error) {
	t.mu.Lock()
	if t.end == nil {
		t.end = reason
	}
	t.mu.Unlock()
	_ = t.sess.Close() // it has ended then, one way or the other
}

// accept hands the streams that the replica opens to the HTTP server.
func (t *tunnel) accept() {
	for {
		conn, err := t.sess.Accept()
		if err != nil {
			t.close(errors.New("the connection ended"))
			return
		}
		if !t.agent.streams.push(&stream{Stream: conn, tunnel: t}) {
			_ = conn.Close()
		}
	}
}

// read hears what the replica says.
func (t *tunnel) read() {
	for {
		m, err := wire.ReadMessage(t.control)
		if err != nil {
			t.close(fmt.Errorf("the replica went away: %w", err))
			return
		}
		switch {
		case m.Members != nil:
			t.agent.setMembers(m.Members.Members)
		case m.Move != nil:
			t.agent.moveAway(t, m.Move.Within)
		case m.Renewed != nil:
			t.agent.renewed(t, m.Renewed)
		case m.Refused != nil:
			t.close(&refusedError{*m.Refused})
			return
		}
	}
}

// write says what there is to say, and closes the tunnel once it is drained.
func (t *tunnel) write(ctx context.Context) {
	poll := time.NewTicker(drainPoll)
	poll.Stop()
	defer poll.Stop()
	var drainUntil time.Time
	for {
		if t.draining.Load() && drainUntil.IsZero() {
			drainUntil = t.agent.opts.Clock().Add(drainTimeout)
			poll.Reset(drainPoll)
		}
		if !drainUntil.IsZero() && t.drained(drainUntil) {
			t.close(nil)
		}
		if err := t.say(); err != nil {
			t.close(fmt.Errorf("the replica does not listen: %w", err))
		}
		select {
		case <-t.wake:
		case <-poll.C:
		case <-t.sess.Done():
			return
		case <-ctx.Done():
			t.close(nil)
			return
		}
	}
}

// drained says whether a tunnel that was replaced may go: when nobody has used it
// for a moment, or all too long after.
func (t *tunnel) drained(until time.Time) bool {
	now := t.agent.opts.Clock()
	return now.After(until) || t.active.Load() == 0 && now.Sub(time.Unix(0, t.lastUsed.Load())) >= t.idle && now.Sub(until.Add(-drainTimeout)) >= t.idle
}

// say sends what waits to be sent.
func (t *tunnel) say() error {
	t.mu.Lock()
	renew, stale := t.renew, t.stale
	t.renew, t.stale = nil, false
	t.mu.Unlock()
	var messages []wire.Message
	if stale {
		status := &wire.Status{Clusters: []wire.Cluster{}} // so that no request takes it any more
		if !t.draining.Load() {
			status.Clusters = t.agent.clusterStates()
		}
		messages = append(messages, wire.Message{Status: status})
	}
	if renew != nil {
		messages = append(messages, wire.Message{Renew: renew})
	}
	for _, m := range messages {
		_ = t.control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := wire.WriteMessage(t.control, m); err != nil {
			return err
		}
	}
	return nil
}

// tell has the clusters' state sent.
func (t *tunnel) tell() {
	t.mu.Lock()
	t.stale = true
	t.mu.Unlock()
	t.poke()
}

// ask has a request to renew sent.
func (t *tunnel) ask(public []byte) {
	t.mu.Lock()
	t.renew = &wire.Renew{PublicKey: public}
	t.mu.Unlock()
	t.poke()
}

func (t *tunnel) drain() {
	if !t.draining.Swap(true) {
		t.tell()
	}
}

func (t *tunnel) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// begin and done count a request.
func (t *tunnel) begin() { t.active.Add(1) }

func (t *tunnel) done() {
	t.lastUsed.Store(t.agent.opts.Clock().UnixNano())
	t.active.Add(-1)
}

// stream is one that the replica opened.
type stream struct {
	wire.Stream
	tunnel *tunnel
}

// streams is the net.Listener of the HTTP server: the streams of all tunnels.
type streams struct {
	ch     chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newStreams() *streams {
	return &streams{ch: make(chan net.Conn), closed: make(chan struct{})}
}

func (s *streams) push(c net.Conn) bool {
	select {
	case s.ch <- c:
		return true
	case <-s.closed:
		return false
	}
}

// Accept implements net.Listener.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case c := <-s.ch:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *streams) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr implements net.Listener.
func (s *streams) Addr() net.Addr { return &net.UnixAddr{Name: "tunnel", Net: "tunnel"} }
