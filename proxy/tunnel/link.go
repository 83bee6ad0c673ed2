package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	linkPingEvery   = time.Second
	linkPingTimeout = 3 * time.Second
	linkDialTimeout = 3 * time.Second
	tableTimeout    = 5 * time.Second // for a link's first frame
	headerTimeout   = 5 * time.Second // for a stream's header, and for its answer
	linkBackoffBase = 100 * time.Millisecond
	linkBackoffCap  = 2 * time.Second
	linkStreams     = 1 << 16   // that a peer may have open: all its requests for agents here
	linkMemory      = 256 << 20 // of what waits on all of them
	maxInbound      = 3         // links of one peer: it has one, and those before may not be known dead yet
)

// errNotHere is a peer's answer for an agent that has no tunnel to it.
var errNotHere = errors.New("that replica does not hold the agent any more")

// link is a session that this replica dialled to another, and all that is known
// from it.
type link struct {
	member Member
	sess   *wire.Session

	// Guarded by Tunnels.mu:
	agents map[string]*route
	moving bool // the peer is about to stop
	gone   bool
}

// Run keeps links to all other members, tells agents of members, and looks after
// tunnels that do not answer, until ctx ends or Close is called.
func (t *Tunnels) Run(ctx context.Context) error {
	ctx, _, leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	t.mu.Lock()
	t.started = t.clock()
	t.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	running := make(map[Member]context.CancelFunc)
	defer func() {
		for _, cancel := range running {
			cancel()
		}
	}()
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		members := t.opts.Members()
		t.reconcile(ctx, members, running, &wg)
		t.tellMembers(members)
		t.probeSilent(&wg)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reconcile keeps one link to each other member.
func (t *Tunnels) reconcile(ctx context.Context, members []Member, running map[Member]context.CancelFunc, wg *sync.WaitGroup) {
	for m, cancel := range running {
		if !slices.Contains(members, m) { // removed, or moved to another address
			cancel()
			delete(running, m)
		}
	}
	for _, m := range members {
		if m.ID == t.opts.ServerID || running[m] != nil {
			continue
		}
		linkCtx, cancel := context.WithCancel(ctx)
		running[m] = cancel
		wg.Go(func() { t.keepLink(linkCtx, m) })
	}
}

// takers are the servers that agents may go to, in order.
func (t *Tunnels) takers() []string {
	members := t.opts.Members()
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.takersLocked(members)
}

func (t *Tunnels) takersLocked(members []Member) []string {
	ids := make([]string, 0, len(members))
	for _, m := range members {
		if l := t.links[m.ID]; l != nil && l.moving || m.ID == t.opts.ServerID && t.moving.Load() {
			continue
		}
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// tellMembers tells all agents when the replicas they can go to are others.
func (t *Tunnels) tellMembers(members []Member) {
	t.mu.Lock()
	t.members = members
	ids := t.takersLocked(members)
	same := slices.Equal(ids, t.welcomed)
	t.welcomed = ids
	var tunnels []*tunnel
	if !same {
		tunnels = t.ownTunnelsLocked()
	}
	t.mu.Unlock()
	if len(tunnels) > 0 {
		t.fanOut(tunnels, wire.Message{Members: &wire.Members{Members: ids}}, func() {})
	}
}

// probeSilent asks agents that somebody waits for, and that have been silent.
func (t *Tunnels) probeSilent(wg *sync.WaitGroup) {
	now := time.Now()
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, agent := range t.own {
		for _, tun := range agent.tunnels {
			if tun.waiting.Load() > 0 && now.Sub(tun.sess.LastHeard()) >= probeAfter && tun.probing.CompareAndSwap(false, true) {
				wg.Go(tun.probe)
			}
		}
	}
}

// keepLink dials a member again and again.
func (t *Tunnels) keepLink(ctx context.Context, m Member) {
	failures := 0
	for {
		begun := time.Now()
		up, err := t.runLink(ctx, m)
		if ctx.Err() != nil {
			return
		}
		if up && time.Since(begun) > linkBackoffCap {
			failures = 0
		}
		if failures == 0 || up {
			t.complain(fmt.Errorf("the link to server %s at %s is down: %w", m.ID, m.Addr, err))
		}
		wait := min(linkBackoffBase<<min(failures, 8), linkBackoffCap)
		failures++
		timer := time.NewTimer(wait/2 + time.Duration(t.opts.Rand()*float64(wait)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// runLink is the life of one link. It reports whether there was one.
func (t *Tunnels) runLink(ctx context.Context, m Member) (up bool, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, linkDialTimeout)
	conn, err := t.opts.Port.DialTunnel(dialCtx, peer.Target{ID: m.ID, Addr: m.Addr})
	cancel()
	if err != nil {
		return false, err
	}
	sess, err := wire.Client(conn, wire.Options{PingEvery: linkPingEvery, PingTimeout: linkPingTimeout, MaxStreams: linkStreams, Memory: linkMemory})
	if err != nil {
		_ = conn.Close() // the error is what matters
		return false, err
	}
	l := &link{member: m, sess: sess, agents: make(map[string]*route)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer sess.Close()
	stop := context.AfterFunc(ctx, func() { _ = sess.Close() }) // wakes whoever reads
	defer stop()

	late := time.AfterFunc(tableTimeout, func() { _ = sess.Close() })
	table, err := sess.Accept()
	late.Stop()
	if err != nil {
		return false, fmt.Errorf("wait for the table: %w", err)
	}
	wg.Go(func() {
		if _, err := sess.Accept(); err == nil {
			_ = sess.Close() // an acceptor opens one stream
		}
	})
	defer t.dropLink(l)
	return t.readTable(l, table)
}

// readTable takes a peer's frames until the link ends. What is malformed, too
// large or too late ends it: its entries could be of use to nobody.
func (t *Tunnels) readTable(l *link, table wire.Stream) (up bool, err error) {
	for snapshot := true; ; {
		_ = table.SetReadDeadline(time.Now().Add(tableSilence)) // a stream of a live session takes deadlines
		var f tableFrame
		if err := wire.ReadJSON(table, maxFrame, &f); err != nil {
			return up, fmt.Errorf("table of server %s: %w", l.member.ID, err)
		}
		if !up && f.Server != l.member.ID {
			return false, fmt.Errorf("the table is of server %.64q, not %s", f.Server, l.member.ID)
		}
		agents, err := f.parse(t.clock())
		if err != nil {
			return up, fmt.Errorf("table of server %s: %w", l.member.ID, err)
		}
		up = true
		if err := t.apply(l, f, agents, snapshot); err != nil {
			return up, err
		}
		snapshot = snapshot && f.More
	}
}

// apply takes a frame over into what requests see.
func (t *Tunnels) apply(l *link, f tableFrame, agents []tableAgent, snapshot bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.gone {
		return errors.New("the link is gone")
	}
	news := len(agents)+len(f.Gone) > 0 || l.moving != f.Moving
	l.moving = f.Moving
	for _, id := range f.Gone {
		if r := l.agents[id]; r != nil {
			t.dropRouteLocked(r)
			delete(l.agents, id)
			r.close()
		}
	}
	for _, a := range agents {
		r := l.agents[a.ID]
		if r == nil {
			if len(l.agents) >= maxAgents {
				return fmt.Errorf("table of server %s: more than %d agents", l.member.ID, maxAgents)
			}
			r = &route{t: t, agent: a.ID, link: l}
			l.agents[a.ID] = r
		}
		r.since = a.Since
		t.setClustersLocked(r, a.Clusters)
	}
	if !(snapshot && f.More) && t.links[l.member.ID] != l {
		t.links[l.member.ID] = l // the newest counts
		news = true
	}
	if news {
		t.notifyLocked()
	}
	return nil
}

// dropLink forgets all that was known from a link.
func (t *Tunnels) dropLink(l *link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.gone = true
	for _, r := range l.agents {
		t.dropRouteLocked(r)
		r.close()
	}
	if t.links[l.member.ID] == l {
		delete(t.links, l.member.ID)
	}
	t.notifyLocked()
}

// open opens a stream over the link and waits for the peer's word that it leads
// where it should.
func (l *link) open(ctx context.Context, h header) (wire.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, headerTimeout)
	defer cancel()
	c, err := l.sess.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("link to server %s: %w", l.member.ID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // wakes the reader below
	err = wire.WriteJSON(c, maxHeader, h)
	var answer [1]byte
	if err == nil {
		_, err = io.ReadFull(c, answer[:])
	}
	if !stop() && err == nil {
		err = ctx.Err() // aborted by now, or about to be
	}
	switch {
	case err != nil:
	case answer[0] == answerNotHere:
		err = errNotHere
	case answer[0] != answerOK:
		err = errors.New("refused")
	default:
		return c, nil
	}
	abort(c)
	return nil, fmt.Errorf("stream to server %s: %w", l.member.ID, err)
}

// inbound is a link that a peer dialled.
type inbound struct{ sess *wire.Session }

// ServePeer serves one link that another replica dialled, until it ends: it tells
// the peer of the tunnels here, and joins the peer's streams to them. It closes
// conn. It is for peer.Port's HandleTunnels.
func (t *Tunnels) ServePeer(conn net.Conn, from peer.Peer) {
	ctx, cancel, leave, err := t.enter(context.Background())
	if err != nil {
		_ = conn.Close() // stopping
		return
	}
	defer leave()
	sess, err := wire.Server(conn, wire.Options{PingEvery: linkPingEvery, PingTimeout: linkPingTimeout, MaxStreams: linkStreams, Memory: linkMemory})
	if err != nil {
		_ = conn.Close() // the peer sees that
		return
	}
	in := &inbound{sess: sess}
	t.addInbound(from.ID, in)
	defer t.removeInbound(from.ID, in)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer sess.Close()
	stop := context.AfterFunc(ctx, func() { _ = sess.Close() }) // wakes whoever accepts
	defer stop()
	wg.Go(func() {
		defer cancel(nil) // a peer without the table has no use for the link
		table, err := sess.Open(ctx)
		if err == nil {
			err = (&tableSender{t: t, sent: make(map[string]struct{})}).run(ctx, table)
		}
		if ctx.Err() == nil {
			t.log.Debug("a peer's link ended", "server", from.ID, "error", err)
		}
	})
	for {
		c, err := sess.Accept()
		if err != nil {
			cancel(nil)
			return
		}
		wg.Go(func() { t.serveStream(c) })
	}
}

func (t *Tunnels) addInbound(id string, in *inbound) {
	t.mu.Lock()
	all := append(t.peers[id], in)
	var old *inbound
	if len(all) > maxInbound {
		old, all = all[0], all[1:]
	}
	t.peers[id] = all
	t.mu.Unlock()
	if old != nil {
		_ = old.sess.Close() // its peer has restarted since
	}
}

func (t *Tunnels) removeInbound(id string, in *inbound) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peers[id] = slices.DeleteFunc(t.peers[id], func(other *inbound) bool { return other == in })
	if len(t.peers[id]) == 0 {
		delete(t.peers, id)
	}
}

// serveStream joins one stream of a peer to what its header names.
func (t *Tunnels) serveStream(c wire.Stream) {
	_ = c.SetReadDeadline(time.Now().Add(headerTimeout)) // a stream of a live session takes deadlines
	var h header
	err := wire.ReadJSON(c, maxHeader, &h)
	if err == nil {
		err = h.validate()
	}
	if err != nil {
		t.complain(fmt.Errorf("a peer's stream is refused: %w", err))
		t.answer(c, answerRefused)
		return
	}
	_ = c.SetReadDeadline(time.Time{}) // the same
	if h.Splice {
		if t.opts.Splice == nil {
			t.answer(c, answerRefused)
			return
		}
		if !t.answer(c, answerOK) {
			return
		}
		t.opts.Splice(newSplicedConn(c, h.Addr))
		return
	}
	tun, to := t.openTo(h.Agent)
	if tun == nil {
		t.answer(c, answerNotHere)
		return
	}
	if !t.answer(c, answerOK) {
		abort(to)
		return
	}
	tun.join(c, to)
}

// openTo opens a stream to an agent that has tunnels here; nil: none of them takes one.
func (t *Tunnels) openTo(agentID string) (*tunnel, wire.Stream) {
	for _, tun := range t.ownTunnels(agentID) {
		if to, err := tun.open(t.ctx); err == nil {
			return tun, to
		} // else it is about to be found dead
	}
	return nil, nil
}

// answer says what becomes of a stream; if nothing, the stream is over.
func (t *Tunnels) answer(c wire.Stream, what byte) bool {
	_ = c.SetWriteDeadline(time.Now().Add(headerTimeout)) // a stream of a live session takes deadlines
	if _, err := c.Write([]byte{what}); err != nil {
		abort(c)
		return false
	}
	_ = c.SetWriteDeadline(time.Time{}) // the same
	if what != answerOK {
		_ = c.Close() // what was written still arrives
	}
	return what == answerOK
}

// join splices a peer's stream to the agent's. Who sent last is noted: a peer that
// waits for the agent can't see whether the tunnel here is dead.
func (tun *tunnel) join(c, to wire.Stream) {
	tun.t.metrics.spliced.Add(1)
	defer tun.t.metrics.spliced.Add(-1)
	var waiting atomic.Bool
	join(tun.t.metrics.buffers, c, to, func(fromPeer bool) {
		if waiting.Swap(fromPeer) != fromPeer {
			if fromPeer {
				tun.waiting.Add(1)
			} else {
				tun.waiting.Add(-1)
			}
		}
	})
	if waiting.Load() {
		tun.waiting.Add(-1)
	}
}

// SpliceTo carries an agent's connection, of which head has been read already, to
// the public port of another replica, unread. It blocks until both ends are done,
// or ctx ends, and closes conn.
func (t *Tunnels) SpliceTo(ctx context.Context, serverID string, conn net.Conn, head []byte) error {
	ctx, _, leave, err := t.enter(ctx)
	if err != nil {
		_ = conn.Close() // stopping
		return err
	}
	defer leave()
	t.mu.RLock()
	l := t.links[serverID]
	t.mu.RUnlock()
	if l == nil {
		_ = conn.Close() // the agent comes again
		return api.Errorf(api.CodeUnavailable, "this replica has no link to server %.64q", serverID)
	}
	c, err := l.open(ctx, header{Splice: true, Addr: conn.RemoteAddr().String()})
	if err == nil {
		if _, err = c.Write(head); err != nil {
			abort(c)
		}
	}
	if err != nil {
		_ = conn.Close() // the agent comes again
		return api.Errorf(api.CodeUnavailable, "agent's connection to server %s: %w", serverID, err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = c.Close()    // over
		_ = conn.Close() // over
	})
	defer stop()
	join(t.metrics.buffers, conn, c, func(bool) {})
	return nil
}
