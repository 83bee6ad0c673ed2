package tunnel

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

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
	t.mu.Lock()
	surplus := t.peers.arrived(from.ID, sess)
	t.mu.Unlock()
	if surplus != nil {
		_ = surplus.Close() // its peer has restarted since
	}
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.peers.left(from.ID, sess)
	}()
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
			t.log.Debug("a peer's link ended", "peer", from.ID, "error", err)
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

// serveStream joins one stream of a peer to what its header names.
func (t *Tunnels) serveStream(c wire.Stream) {
	_ = c.SetReadDeadline(time.Now().Add(headerTimeout)) // a stream of a live session takes deadlines
	var h header
	err := wire.ReadJSON(c, maxHeader, &h)
	if err == nil {
		err = h.validate()
	}
	if err != nil {
		if t.complaints.Allow() {
			t.log.Warn("a peer's stream is refused", "error", err)
		}
		answer(c, answerRefused)
		return
	}
	_ = c.SetReadDeadline(time.Time{}) // the same
	if h.Splice {
		if t.opts.Splice == nil {
			answer(c, answerRefused)
			return
		}
		if !answer(c, answerOK) {
			return
		}
		t.opts.Splice(newSplicedConn(c, h.Addr))
		return
	}
	tun, to, err := t.openTo(h.Agent)
	switch {
	case full(err):
		answer(c, answerFull)
		return
	case err != nil:
		answer(c, answerNotHere)
		return
	}
	if !answer(c, answerOK) {
		abort(to)
		return
	}
	tun.join(c, to)
}

// openTo opens a stream to an agent that has tunnels here, if one of them takes it.
func (t *Tunnels) openTo(agentID string) (*tunnel, wire.Stream, error) {
	err := errNotHere
	for _, tun := range t.ownTunnels(agentID) {
		to, why := tun.open(t.ctx)
		if why == nil {
			return tun, to, nil
		}
		if full(why) {
			err = why
		} // else it is about to be found dead
	}
	return nil, nil, err
}

// answer says what becomes of a stream; if nothing, the stream is over.
func answer(c wire.Stream, what byte) bool {
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
	l := t.peers.links[serverID]
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
