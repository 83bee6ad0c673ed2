package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
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

// errFull is a peer's answer for an agent whose tunnels carry all they can.
var errFull = errors.New("the agent's tunnels to that replica have no room for another stream")

// errNotHere is a peer's answer for an agent that has no tunnel to it.
var errNotHere = errors.New("that replica does not hold the agent any more")

// link is a session that this replica dialled to another, and all that is known
// from it.
type link struct {
	t      *Tunnels
	member Member
	sess   *wire.Session

	// Guarded by Tunnels.mu:
	agents map[string]*route
	moving bool // the peer is about to stop
	gone   bool
}

// peers are the links to and from other replicas. Guarded by Tunnels.mu.
type peers struct {
	started time.Time                  // of Run
	members []Member                   // as of the last second
	links   map[string]*link           // by server id, those that are up
	inbound map[string][]*wire.Session // by server id, those that they dialled
}

// takers are the servers that agents may go to, in order. A replica that moves is
// none; moving says whether self does.
func (p *peers) takers(members []Member, self string, moving bool) []string {
	ids := make([]string, 0, len(members))
	for _, m := range members {
		if l := p.links[m.ID]; l != nil && l.moving || m.ID == self && moving {
			continue
		}
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// settling is how long to wait for a replica that has just started to know what its
// peers have.
func (p *peers) settling(now time.Time) time.Duration {
	if p.started.IsZero() || len(p.links) >= len(p.members)-1 {
		return 0
	}
	return holdUntil(p.started, now)
}

// arrived notes a link that a peer dialled, and gives the one that is too many, if any.
func (p *peers) arrived(id string, sess *wire.Session) (surplus *wire.Session) {
	all := append(p.inbound[id], sess)
	if len(all) > maxInbound {
		surplus, all = all[0], all[1:]
	}
	p.inbound[id] = all
	return surplus
}

// left forgets it.
func (p *peers) left(id string, sess *wire.Session) {
	p.inbound[id] = slices.DeleteFunc(p.inbound[id], func(other *wire.Session) bool { return other == sess })
	if len(p.inbound[id]) == 0 {
		delete(p.inbound, id)
	}
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
	t.peers.started = t.clock()
	t.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	d := &dialler{t: t, running: make(map[Member]context.CancelFunc)}
	defer d.stop()
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	var oddities oddities
	for {
		members := t.opts.Members()
		d.reconcile(ctx, members)
		t.tellMembers(members)
		t.probeSilent(&wg)
		oddities.tell(t)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// dialler keeps links to other members.
type dialler struct {
	t       *Tunnels
	running map[Member]context.CancelFunc
	wg      sync.WaitGroup
}

// stop ends all links and waits for them.
func (d *dialler) stop() {
	for _, cancel := range d.running {
		cancel()
	}
	d.wg.Wait()
}

// reconcile keeps one link to each other member.
func (d *dialler) reconcile(ctx context.Context, members []Member) {
	for m, cancel := range d.running {
		if !slices.Contains(members, m) { // removed, or moved to another address
			cancel()
			delete(d.running, m)
		}
	}
	for _, m := range members {
		if m.ID == d.t.opts.ServerID || d.running[m] != nil {
			continue
		}
		linkCtx, cancel := context.WithCancel(ctx)
		d.running[m] = cancel
		d.wg.Go(func() { d.keep(linkCtx, m) })
	}
}

// takers are the servers that agents may go to, in order.
func (t *Tunnels) takers() []string {
	members := t.opts.Members()
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers.takers(members, t.opts.ServerID, t.moving.Load())
}

// tellMembers tells all agents when the replicas they can go to are others.
func (t *Tunnels) tellMembers(members []Member) {
	t.mu.Lock()
	t.peers.members = members
	ids := t.peers.takers(members, t.opts.ServerID, t.moving.Load())
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

// keep dials a member again and again.
func (d *dialler) keep(ctx context.Context, m Member) {
	failures := 0
	for {
		begun := time.Now()
		up, err := d.dial(ctx, m)
		if ctx.Err() != nil {
			return
		}
		if up && time.Since(begun) > linkBackoffCap {
			failures = 0
		}
		if failures == 0 || up {
			if d.t.complaints.Allow() {
				d.t.log.Warn("the link to another replica is down", "peer", m.ID, "addr", m.Addr, "error", err)
			}
		}
		wait := min(linkBackoffBase<<min(failures, 8), linkBackoffCap)
		failures++
		timer := time.NewTimer(wait/2 + time.Duration(d.t.opts.Rand()*float64(wait)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// dial is the life of one link. It reports whether there was one.
func (d *dialler) dial(ctx context.Context, m Member) (up bool, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, linkDialTimeout)
	conn, err := d.t.opts.Port.DialTunnel(dialCtx, peer.Target{ID: m.ID, Addr: m.Addr})
	cancel()
	if err != nil {
		return false, err
	}
	sess, err := wire.Client(conn, wire.Options{PingEvery: linkPingEvery, PingTimeout: linkPingTimeout, MaxStreams: linkStreams, Memory: linkMemory})
	if err != nil {
		_ = conn.Close() // the error is what matters
		return false, err
	}
	l := &link{t: d.t, member: m, sess: sess, agents: make(map[string]*route)}
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
	defer l.drop()
	return l.read(table)
}

// read takes a peer's frames until the link ends. What is malformed, too
// large or too late ends it: its entries could be of use to nobody.
func (l *link) read(table wire.Stream) (up bool, err error) {
	for snapshot := true; ; {
		_ = table.SetReadDeadline(time.Now().Add(tableSilence)) // a stream of a live session takes deadlines
		var f tableFrame
		if err := wire.ReadJSON(table, maxFrame, &f); err != nil {
			return up, fmt.Errorf("table of server %s: %w", l.member.ID, err)
		}
		if !up && f.Server != l.member.ID {
			return false, fmt.Errorf("the table is of server %.64q, not %s", f.Server, l.member.ID)
		}
		agents, err := f.parse(l.t.clock())
		if err != nil {
			return up, fmt.Errorf("table of server %s: %w", l.member.ID, err)
		}
		up = true
		if err := l.apply(f, agents, snapshot); err != nil {
			return up, err
		}
		snapshot = snapshot && f.More
	}
}

// apply takes a frame over into what requests see.
func (l *link) apply(f tableFrame, agents []tableAgent, snapshot bool) error {
	t := l.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.gone {
		return errors.New("the link is gone")
	}
	news := len(agents)+len(f.Gone) > 0 || l.moving != f.Moving
	l.moving = f.Moving
	for _, id := range f.Gone {
		if r := l.agents[id]; r != nil {
			t.routes.drop(r)
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
		r.since, r.instance, r.started, r.others = a.Since, a.Instance, a.Started, a.Others
		t.routes.set(r, a.Clusters)
	}
	if !(snapshot && f.More) && t.peers.links[l.member.ID] != l {
		t.peers.links[l.member.ID] = l // the newest counts
		news = true
	}
	if news {
		t.notifyLocked()
	}
	return nil
}

// drop forgets all that was known from the link.
func (l *link) drop() {
	t := l.t
	t.mu.Lock()
	defer t.mu.Unlock()
	l.gone = true
	for _, r := range l.agents {
		t.routes.drop(r)
		r.close()
	}
	if t.peers.links[l.member.ID] == l {
		delete(t.peers.links, l.member.ID)
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
	case answer[0] == answerFull:
		err = errFull
	case answer[0] != answerOK:
		err = errors.New("refused")
	default:
		return c, nil
	}
	abort(c)
	return nil, fmt.Errorf("stream to server %s: %w", l.member.ID, err)
}
