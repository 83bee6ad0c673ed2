package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	lookEvery     = 400 * time.Millisecond
	lookTimeout   = 2 * time.Second
	grantLifetime = 15 * time.Second
	foundWithin   = grantLifetime / 3 // a founder that takes longer than that gives up
	rememberState = time.Minute       // a cluster that was seen is not forgotten sooner
)

// identity is what a server tells whoever asks.
type identity struct {
	ID        string `json:"id"`
	Addr      string `json:"addr"` // host:port it advertises
	ClusterID string `json:"cluster_id,omitempty"`
	HasState  bool   `json:"has_state"`
	Expect    int    `json:"expect"`
	Version   string `json:"version,omitempty"`
	LeaderID  string `json:"leader_id,omitempty"` // of whom it had contact lately
}

func (i identity) target() peer.Target { return peer.Target{ID: i.ID, Addr: i.Addr} }

// founding is a node's part in making a cluster. Guarded by Node.mu.
type founding struct {
	busy   bool      // founding or joining: grants nothing
	holder string    // to whom our grant was given
	until  time.Time // when it lapses
	seen   time.Time // when a server with state was seen last
}

func (n *Node) identity() identity {
	in := n.inst.Load()
	n.mu.Lock()
	defer n.mu.Unlock()
	who := identity{
		ID: string(n.id), Addr: n.link.Advertise(), ClusterID: n.meta.ClusterID,
		HasState: n.hasLog, Expect: n.meta.Expect, Version: n.opts.Version,
	}
	if in != nil {
		who.HasState = who.HasState || in.hasState()
		if _, id := in.raft.LeaderWithID(); id != "" {
			who.LeaderID = string(id)
		}
	}
	return who
}

func (n *Node) serveIdentify(context.Context, peer.Peer, struct{}) (identity, error) {
	return n.identity(), nil
}

type grantCall struct {
	Expect int `json:"expect"`
}

// serveGrant promises a founder that this node neither founds nor helps
// another to found for a while.
func (n *Node) serveGrant(_ context.Context, from peer.Peer, in grantCall) (struct{}, error) {
	who := n.identity()
	n.mu.Lock()
	defer n.mu.Unlock()
	refuse := func(format string, args ...any) (struct{}, error) {
		return struct{}{}, api.Errorf(api.CodeConflict, "server %s: %s", n.id, fmt.Sprintf(format, args...))
	}
	switch {
	case who.HasState || who.ClusterID != "":
		return refuse("is of a cluster already")
	case in.Expect != who.Expect:
		return refuse("expects %d servers, not %d", who.Expect, in.Expect)
	case time.Since(n.birth.seen) < rememberState:
		return refuse("sees a cluster that exists already")
	case n.birth.busy:
		return refuse("founds or joins a cluster itself")
	case n.birth.holder != "" && n.birth.holder != from.ID && time.Now().Before(n.birth.until):
		return refuse("has promised itself to %s", n.birth.holder)
	case from.ID >= string(n.id):
		return refuse("the lowest id founds, and %s is not lower", from.ID)
	}
	n.birth.holder, n.birth.until = from.ID, time.Now().Add(grantLifetime)
	return struct{}{}, nil
}

// tryBusy claims the right to found or join, unless our grant is given away: its
// holder may be founding with us at this moment.
func (n *Node) tryBusy() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.birth.holder != "" && time.Now().Before(n.birth.until) {
		return false
	}
	n.birth.busy = true
	return true
}

func (n *Node) notBusy() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.birth.busy = false
}

// addresses are where other servers may be, beside those in Raft's configuration.
func (n *Node) addresses() []string {
	set := make(map[string]struct{})
	for _, a := range n.opts.Join {
		set[a] = struct{}{}
	}
	for _, a := range n.fleet.addresses() {
		set[a] = struct{}{}
	}
	delete(set, n.link.Advertise())
	return slices.Sorted(maps.Keys(set))
}

// lookAround asks everyone it can find who they are.
func (n *Node) lookAround(ctx context.Context) []identity {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var mu sync.Mutex
	found := make(map[string]identity)
	var wg sync.WaitGroup
	for _, addr := range n.addresses() {
		wg.Go(func() {
			var who identity
			if err := n.link.Call(ctx, peer.Target{Addr: addr, Guest: true}, pathIdentify, struct{}{}, &who); err != nil {
				n.log.Debug("nobody there", "address", addr, "error", err)
				return
			}
			if who.ID == string(n.id) || who.ID == "" {
				return // ourselves under another name
			}
			mu.Lock()
			defer mu.Unlock()
			if _, dup := found[who.ID]; !dup {
				who.Addr = addr // where it answered; what it advertises may not be reachable from here
				found[who.ID] = who
			}
		})
	}
	wg.Wait()
	out := slices.Collect(maps.Values(found))
	slices.SortFunc(out, func(a, b identity) int { return compareStrings(a.ID, b.ID) })
	return out
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

// form returns once this node knows its cluster: at once if it has state or
// was adopted, else when it has joined or founded one.
func (n *Node) form(ctx context.Context, st *opened) error {
	for n.ClusterID() == "" {
		seen := n.lookAround(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		done, err := n.formOnce(ctx, st, seen)
		if err != nil {
			return err
		}
		if !done {
			pause(ctx, jitter(lookEvery))
		}
	}
	return nil
}

func (n *Node) formOnce(ctx context.Context, st *opened, seen []identity) (bool, error) {
	var stateful, fresh []identity
	expect := n.identity().Expect
	for _, who := range seen {
		switch {
		case who.HasState:
			stateful = append(stateful, who)
		case who.ClusterID != "": // adopted: its founder has the state
		case who.Expect != expect:
			if n.told.changed("expect "+who.ID, fmt.Sprint(who.Expect)) {
				n.log.Warn("a server expects another number of founders: set bootstrap-expect alike everywhere",
					"peer", who.ID, "theirs", who.Expect, "ours", expect)
			}
		default:
			fresh = append(fresh, who)
		}
	}
	if len(stateful) > 0 {
		// There is a cluster: never found another, however long it takes to get in.
		n.mu.Lock()
		n.birth.seen = time.Now()
		for _, who := range stateful {
			if who.ID == n.birth.holder { // it has founded: our grant has served its purpose
				n.birth.holder = ""
			}
		}
		n.mu.Unlock()
		n.say("joining the cluster")
		return n.joinAny(ctx, stateful)
	}
	if expect == 0 {
		n.say("looking for a cluster to join")
		if n.told.changed("founding", "join only") {
			n.log.Info("looking for a cluster to join")
		}
		return false, nil
	}
	waiting := fmt.Sprintf("waiting for %d servers to found a cluster, %d of them are here", expect, len(fresh)+1)
	n.say(waiting)
	if n.told.changed("founding", waiting) {
		n.log.Info("waiting to found a cluster", "expect", expect, "here", len(fresh)+1)
	}
	n.mu.Lock()
	lately := time.Since(n.birth.seen) < rememberState
	n.mu.Unlock()
	if len(fresh)+1 < expect || lately {
		return false, nil
	}
	others := fresh[:0:0]
	for _, who := range fresh { // sorted by id
		if who.ID < string(n.id) {
			return false, nil // that one founds
		}
		if len(others) < expect-1 {
			others = append(others, who)
		}
	}
	return n.found(ctx, st, others)
}

func (n *Node) joinAny(ctx context.Context, stateful []identity) (bool, error) {
	if !n.tryBusy() {
		return false, nil
	}
	defer n.notBusy()
	for _, who := range stateful {
		cluster, err := n.askJoin(ctx, who.target())
		if err != nil {
			if n.told.changed("join "+who.ID, err.Error()) {
				n.log.Info("could not join yet", "asked", who.ID, "error", err)
			}
			n.say(fmt.Sprintf("joining the cluster: %v", err))
			continue
		}
		n.mu.Lock()
		m := n.meta
		n.mu.Unlock()
		// Durable before the first Raft byte: from here on only this cluster's servers are heard.
		m.ClusterID = cluster
		if err := n.saveMeta(m); err != nil {
			return false, err
		}
		n.log.Info("joined", "cluster", cluster)
		return true, nil
	}
	return false, nil
}

// found makes a cluster of this node and the others, if each of them grants it.
func (n *Node) found(ctx context.Context, st *opened, others []identity) (bool, error) {
	if !n.tryBusy() {
		return false, nil
	}
	defer n.notBusy()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, foundWithin)
	defer cancel()
	config := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: n.id, Address: n.addr}}}
	for _, who := range others {
		t := who.target()
		t.Guest = true
		if err := n.link.Call(ctx, t, pathGrant, grantCall{Expect: len(others) + 1}, nil); err != nil {
			n.log.Debug("cannot found a cluster yet", "asked", who.ID, "error", err)
			return false, nil
		}
		// The address it advertises is the one that lasts; that it is there is checked here and now.
		var again identity
		if err := n.link.Call(ctx, t, pathIdentify, struct{}{}, &again); err != nil || again.ID != who.ID {
			return false, nil
		}
		config.Servers = append(config.Servers, raft.Server{
			Suffrage: raft.Voter, ID: raft.ServerID(who.ID), Address: raft.ServerAddress(peer.Address(who.ID, again.Addr)),
		})
	}
	if time.Since(begun) > foundWithin {
		return false, nil // the first grants may lapse: do not rely on them
	}
	n.mu.Lock()
	m := n.meta
	n.mu.Unlock()
	m.ClusterID = randomID(16)
	if err := n.saveMeta(m); err != nil {
		return false, err
	}
	c := n.raftConfig(nil)
	if err := raft.BootstrapCluster(c, st.logs, st.stable, st.snaps, nil, config); err != nil {
		return false, fmt.Errorf("found a cluster: %w", err)
	}
	st.hasLog = true
	n.mu.Lock()
	n.hasLog = true
	n.mu.Unlock()
	n.log.Info("founded a cluster", "cluster", m.ClusterID, "servers", len(config.Servers))
	return true, nil
}
