package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	helloTimeout    = 10 * time.Second
	admitTimeout    = 10 * time.Second // for the Gate, which may have to write
	sendTimeout     = 2 * time.Second  // for a message to an agent
	farewell        = 300 * time.Millisecond
	agentPingEvery  = 5 * time.Second
	maxOfAgent      = 4 // tunnels of one agent to this replica
	messageRate     = 10
	messageBurst    = 100
	renewEvery      = 10 * time.Second
	renewBurst      = 3
	maxPublicKeyLen = 1 << 10
)

var (
	errSecondStream = api.Errorf(api.CodeInvalid, "the agent opened a second stream: it may open one, for messages")
	errFlood        = api.Errorf(api.CodeRateLimited, "the agent floods with messages")
	errReplaced     = api.Errorf(api.CodeUnavailable, "the agent has newer tunnels to this replica")
)

// ownAgent is an agent that has tunnels to this replica. Guarded by Tunnels.mu.
type ownAgent struct {
	tunnels []*tunnel // oldest first
	version uint64    // of Tunnels.version, at the last change
}

// tunnel is one session that an agent dialled.
type tunnel struct {
	t      *Tunnels
	id     Identity
	addr   netip.Addr
	conn   net.Conn
	sess   *wire.Session
	grant  Grant
	route  *route    // once it is published
	second time.Time // when that was, if the agent had another here; else zero

	instance string    // of the agent's process, and when it started; see wire.Hello
	started  time.Time // not later than its hello

	settled func() // no newcomer any more

	sending sync.Mutex // of messages
	control net.Conn

	waiting atomic.Int64 // requests without an answer yet, of ours and of peers
	probing atomic.Bool
}

// ServeAgent serves one tunnel, over an agent's TLS connection whose handshake is
// done, until it ends: because the agent went away, lost its right, did what it
// must not, or ctx ended. It closes conn. The error says why, for the log.
func (t *Tunnels) ServeAgent(ctx context.Context, conn net.Conn, id Identity) error {
	ctx, cancel, leave, err := t.enter(ctx)
	if err != nil {
		_ = conn.Close() // refused
		return err
	}
	defer leave()
	if id.Err == nil && !api.ValidAgentID(id.AgentID) { // peers would not believe a table that names it
		_ = conn.Close() // the error is what matters
		return fmt.Errorf("%.40q is no agent's id", id.AgentID)
	}
	if !t.newcomers.enter(id.KeySum) {
		_ = conn.Close() // an agent dials one after the other
		t.metrics.refuse("crowded")
		return fmt.Errorf("agent %s has %d sessions without a tunnel", id.AgentID, maxOfAgentNew)
	}
	settled := sync.OnceFunc(func() { t.newcomers.leave(id.KeySum) })
	defer settled()
	sess, err := wire.Server(conn, wire.Options{PingEvery: agentPingEvery, PingTimeout: 2 * agentPingEvery, Shared: t.memory})
	if err != nil {
		_ = conn.Close() // the error is what matters
		return err
	}
	tun := &tunnel{t: t, id: id, conn: conn, sess: sess, settled: settled}
	if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		tun.addr = ap.Addr().Unmap()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer tun.cut()
	stop := context.AfterFunc(ctx, tun.cut)
	defer stop()

	first := make(chan net.Conn, 1)
	live, dead := context.WithCancel(ctx) // ends with the session, too: nobody asks the Gate for one that is gone
	defer dead()
	wg.Go(func() {
		defer dead()
		tun.accept(first, cancel)
	})
	err = tun.serve(live, first, cancel, &wg)
	tun.withdraw()
	dead()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	return err
}

// accept takes the one stream that an agent may open.
func (tun *tunnel) accept(first chan<- net.Conn, cancel context.CancelCauseFunc) {
	for n := 0; ; n++ {
		c, err := tun.sess.Accept()
		if err != nil {
			close(first)
			return
		}
		if n > 0 {
			cancel(errSecondStream)
			_ = c.Close() // the session ends
			continue
		}
		first <- c
	}
}

// serve does what a tunnel's life is: hello, welcome, messages.
func (tun *tunnel) serve(ctx context.Context, first <-chan net.Conn, cancel context.CancelCauseFunc, wg *sync.WaitGroup) error {
	deadline := time.Now().Add(helloTimeout)
	late := time.NewTimer(helloTimeout)
	defer late.Stop()
	select {
	case c, ok := <-first:
		if !ok {
			return errors.New("the agent went away before it said anything")
		}
		tun.control = c
	case <-late.C:
		tun.t.metrics.refuse("silent")
		return errors.New("the agent says nothing")
	case <-ctx.Done():
		return errors.New("the agent went away before it said anything")
	}
	_ = tun.control.SetReadDeadline(deadline) // a stream of a live session takes deadlines
	m, err := wire.ReadMessage(tun.control)
	if err != nil || m.Hello == nil {
		tun.t.metrics.refuse("malformed")
		return fmt.Errorf("the agent's first message is no hello: %w", err)
	}
	_ = tun.control.SetReadDeadline(time.Time{}) // the same
	statuses, err := tun.admit(ctx, *m.Hello)
	if err != nil {
		tun.refuse(err)
		return err
	}
	if err := tun.send(wire.Message{Welcome: &wire.Welcome{
		ServerID: tun.t.opts.ServerID, Members: tun.t.takers(), Generation: tun.grant.Generation(),
	}}, sendTimeout); err != nil {
		return err
	}
	if tun.publish(statuses); tun.t.moving.Load() { // since the hello was admitted
		_ = tun.send(wire.Message{Move: &wire.Move{Within: 2 * time.Second}}, sendTimeout) // or it finds out by the end
	}
	wg.Go(func() { tun.watch(ctx, cancel) })
	return tun.listen(ctx)
}

// admit judges a hello. The error is for the agent.
func (tun *tunnel) admit(ctx context.Context, hello wire.Hello) ([]clusterStatus, error) {
	if tun.t.moving.Load() {
		tun.t.metrics.refuse("moving")
		return nil, &refusal{api.Errorf(api.CodeUnavailable, "this replica is stopping: go to another"), time.Second}
	}
	hello.Name, hello.Version = api.CleanText(hello.Name, maxText), api.CleanText(hello.Version, maxText)
	tun.instance, tun.started = api.CleanText(hello.Instance, maxText), hello.Started.UTC()
	if now := tun.t.clock().UTC(); tun.started.After(now) { // or its labels would be right for ever
		tun.started = now
	}
	statuses, err := tun.cleanClusters(hello.Clusters)
	if err != nil {
		tun.t.metrics.refuse("malformed")
		return nil, err
	}
	if !tun.t.newcomers.hello(tun.id.newcomer(), time.Now()) {
		tun.t.metrics.refuse("often")
		return nil, &refusal{api.Errorf(api.CodeUnavailable, "this agent comes too often"), hellosOfAgentIn}
	}
	end, retryAfter := tun.t.hellos.begin(time.Now())
	if end == nil {
		tun.t.metrics.refuse("busy")
		return nil, &refusal{api.Errorf(api.CodeUnavailable, "many agents are coming back at once"), retryAfter}
	}
	defer end()
	if tun.id.Err != nil {
		tun.t.metrics.refuse(string(api.CodeOf(tun.id.Err)))
		return nil, tun.id.Err
	}
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	grant, err := tun.t.opts.Gate.Admit(ctx, tun.id, hello, tun.addr)
	if err != nil {
		tun.t.metrics.refuse(string(api.CodeOf(err)))
		return nil, err
	}
	tun.grant = grant
	if err := tun.allowed(statuses); err != nil {
		tun.t.metrics.refuse(string(api.CodeForbidden))
		return nil, err
	}
	tun.settled()
	if tun.id.Admitted != nil {
		tun.id.Admitted()
	}
	return statuses, nil
}

// allowed holds what an agent announces against what it may serve.
func (tun *tunnel) allowed(statuses []clusterStatus) error {
	may := tun.grant.KubeClusters()
	for _, s := range statuses {
		if !slices.Contains(may, s.Name) {
			return api.Errorf(api.CodeForbidden, "this agent did not join for the Kubernetes cluster %q", s.Name)
		}
	}
	return nil
}

// watch ends the tunnel when its right is lost: no request takes it from then on,
// the agent gets a moment to learn why, then everything is cut.
func (tun *tunnel) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	err := tun.grant.Watch(ctx)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		err = api.Errorf(api.CodeForbidden, "this agent may hold tunnels no more")
	}
	tun.withdraw()
	tun.refuse(err)
	cancel(err)
}

// listen takes the agent's messages until the session ends.
func (tun *tunnel) listen(ctx context.Context) error {
	messages := rate.NewLimiter(messageRate, messageBurst)
	renewals := rate.NewLimiter(rate.Every(renewEvery), renewBurst)
	for {
		m, err := wire.ReadMessage(tun.control)
		if err != nil {
			return fmt.Errorf("the tunnel ended: %w", err)
		}
		if !messages.Allow() {
			tun.refuse(errFlood)
			return errFlood
		}
		switch {
		case m.Status != nil:
			if err := tun.status(m.Status.Clusters); err != nil {
				tun.refuse(err)
				return err
			}
		case m.Renew != nil:
			renewed := tun.renew(ctx, *m.Renew, renewals.Allow())
			if err := tun.send(wire.Message{Renewed: &renewed}, sendTimeout); err != nil {
				return err
			}
		case m.Hello != nil || m.Welcome != nil || m.Refused != nil || m.Members != nil || m.Move != nil:
			err := api.Errorf(api.CodeInvalid, "the agent says what is not an agent's to say")
			tun.refuse(err)
			return err
		} // a kind that this version does not know
	}
}

func (tun *tunnel) status(clusters []wire.Cluster) error {
	statuses, err := tun.cleanClusters(clusters)
	if err != nil {
		return err
	}
	if err := tun.allowed(statuses); err != nil {
		return err
	}
	tun.publish(statuses)
	return nil
}

// cleanClusters checks what the agent announces. Labels that cannot be are a mistake
// to be seen in the log; the tunnel is good without them.
func (tun *tunnel) cleanClusters(clusters []wire.Cluster) ([]clusterStatus, error) {
	statuses, err := cleanClusters(clusters, tun.t.clock())
	for _, s := range statuses {
		if s.Mute {
			if tun.t.complaints.Allow() {
				tun.t.log.Warn("labels of a Kubernetes cluster are passed over: they are malformed, or too many", "kube_cluster", s.Name, "agent", tun.id.AgentID)
			}
		}
	}
	return statuses, err
}

func (tun *tunnel) renew(ctx context.Context, r wire.Renew, allowed bool) wire.Renewed {
	if !allowed {
		return wire.Renewed{Refused: &wire.Refused{Code: api.CodeRateLimited, Message: "a certificate was asked for a moment ago", RetryAfter: renewEvery}}
	}
	if n := len(r.PublicKey); n == 0 || n > maxPublicKeyLen {
		return wire.Renewed{Refused: &wire.Refused{Code: api.CodeInvalid, Message: "no public key, or too large a one"}}
	}
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	renewed, err := tun.t.opts.Gate.Renew(ctx, tun.id, r.PublicKey, tun.addr)
	if err != nil {
		return wire.Renewed{Refused: refusedOf(err)}
	}
	return renewed
}

// refusal is an error that also says when to come again.
type refusal struct {
	err        *api.Error
	retryAfter time.Duration
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// refusedOf puts an error in words for an agent.
func refusedOf(err error) *wire.Refused {
	r := &wire.Refused{Code: api.CodeUnavailable, Message: "the replica can't tell: see its log", RetryAfter: minRetryAfter}
	if e, ok := errors.AsType[*api.Error](err); ok {
		r.Code, r.Message, r.RetryAfter = e.Code, e.Message, 0
		if e.Code == api.CodeUnavailable || e.Code == api.CodeRateLimited {
			r.RetryAfter = minRetryAfter
		}
	}
	if e, ok := errors.AsType[*refusal](err); ok {
		r.RetryAfter = e.retryAfter
	}
	return r
}

// refuse tells the agent why this is the end, and gives it a moment to hang up
// itself: what is still in the session's queue when it closes is lost.
func (tun *tunnel) refuse(err error) {
	late := time.AfterFunc(2*farewell, tun.cut) // one that takes nothing off its connection
	defer late.Stop()
	if tun.send(wire.Message{Refused: refusedOf(err)}, farewell) != nil {
		return
	}
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-tun.sess.Done():
	case <-timer.C:
	}
}

// send says something to the agent. One that does not read in time gets no more.
func (tun *tunnel) send(m wire.Message, timeout time.Duration) error {
	tun.sending.Lock()
	defer tun.sending.Unlock()
	if err := tun.control.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if err := wire.WriteMessage(tun.control, m); err != nil {
		tun.cut() // half a message may be out: nothing can follow it
		return err
	}
	return nil
}

// cut ends the session and every stream of it. TLS' good-bye could wait for an
// agent that does not read, so the connection beneath goes first.
func (tun *tunnel) cut() {
	c := tun.conn
	if overTLS, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = overTLS.NetConn()
	}
	_ = c.Close() // the tunnel is over, whatever this says
	_ = tun.sess.Close()
}

// publish makes the tunnel known, or known anew: to requests here and to peers.
func (tun *tunnel) publish(statuses []clusterStatus) {
	t := tun.t
	var surplus *tunnel
	t.mu.Lock()
	agent := t.own[tun.id.AgentID]
	switch {
	case tun.route == nil:
		tun.route = &route{t: t, agent: tun.id.AgentID, own: tun, instance: tun.instance, started: tun.started}
		tun.route.since = t.cameLocked(tun.id.AgentID, tun.instance)
		if agent == nil {
			agent = &ownAgent{}
			t.own[tun.id.AgentID] = agent
		} else {
			tun.second = time.Now()
		}
		agent.tunnels = append(agent.tunnels, tun)
		if len(agent.tunnels) > maxOfAgent {
			surplus = agent.tunnels[0]
		}
	case tun.route.gone:
		t.mu.Unlock()
		return // cut meanwhile
	}
	t.routes.set(tun.route, statuses)
	t.version++
	agent.version = t.version
	t.notifyOwnLocked()
	t.mu.Unlock()
	if surplus != nil {
		surplus.withdraw()
		surplus.refuse(errReplaced)
		surplus.cut()
	}
}

// withdraw takes the tunnel out of what requests and peers know. Streams that are
// open go on.
func (tun *tunnel) withdraw() {
	t := tun.t
	t.mu.Lock()
	if tun.route == nil || tun.route.gone {
		t.mu.Unlock()
		return
	}
	t.routes.drop(tun.route)
	agent := t.own[tun.id.AgentID]
	agent.tunnels = slices.DeleteFunc(agent.tunnels, func(other *tunnel) bool { return other == tun })
	t.version++
	if agent.version = t.version; len(agent.tunnels) == 0 {
		delete(t.own, tun.id.AgentID)
		t.removals++
	}
	t.notifyOwnLocked()
	t.mu.Unlock()
	tun.route.close()
}

// probation is for how long an agent's second tunnel is used only where there is no
// other. An agent that a load balancer has led to a replica where it has a tunnel
// already closes the one that came later, at once: what was sent over it would be lost.
const probation = time.Second

// onProbation reports whether the tunnel may be closed like that.
func (tun *tunnel) onProbation(now time.Time) bool { return now.Sub(tun.second) < probation }

// ownTunnels are those over which a peer reaches an agent here, the best first: the
// newest, if the agent moves from one to the next; those on probation last, newest last.
func (t *Tunnels) ownTunnels(agentID string) []*tunnel {
	now := time.Now()
	t.mu.RLock()
	defer t.mu.RUnlock()
	agent := t.own[agentID]
	if agent == nil {
		return nil
	}
	var settled, onProbation []*tunnel
	for _, tun := range agent.tunnels {
		if tun.onProbation(now) {
			onProbation = append(onProbation, tun)
		} else {
			settled = append(settled, tun)
		}
	}
	slices.Reverse(settled)
	return append(settled, onProbation...)
}

// open opens a stream to the agent, without waiting for it.
func (tun *tunnel) open(ctx context.Context) (wire.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout) // a session that is stuck takes no more
	defer cancel()
	return tun.sess.Open(ctx)
}

// probe asks a silent agent for a sign of life, because somebody waits for it, and
// cuts the tunnel if there is none: the pings of the session would find out later.
func (tun *tunnel) probe() {
	defer tun.probing.Store(false)
	asked := time.Now()
	ctx, cancel := context.WithTimeout(tun.t.ctx, probeTimeout)
	defer cancel()
	_, _ = tun.sess.Ping(ctx) // whatever it says meanwhile is a sign of life, too
	if !tun.sess.LastHeard().Before(asked) || tun.t.ctx.Err() != nil {
		return
	}
	if tun.t.complaints.Allow() {
		tun.t.log.Warn("a tunnel has been silent and is given up", "agent", tun.id.AgentID, "for", time.Since(tun.sess.LastHeard()).Round(time.Millisecond))
	}
	tun.withdraw()
	tun.cut()
}
