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

// founding is a node's part in making a cluster. Guarded by formation.mu.
type founding struct {
	busy   bool      // founding or joining: grants nothing
	holder string    // to whom our grant was given
	until  time.Time // when it lapses
	seen   time.Time // when a server with state was seen last
}

// formation is how a node comes to be of a cluster and stays of it: who it is to
// others, founding, joining, letting others in, finding its way back. What it
// knows of its cluster beside Raft's state is cluster.json.
type formation struct {
	node *Node

	mu     sync.Mutex
	meta   meta
	birth  founding
	hasLog bool
}

// record is what cluster.json holds.
func (f *formation) record() meta {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.meta
}

// opened notes whether there is data in the stores.
func (f *formation) opened(st *opened) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hasLog = st.hasLog
}

// saveMeta makes m durable, then true.
func (f *formation) saveMeta(m meta) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	if err := f.node.store.SaveMeta(b); err != nil {
		return err
	}
	f.mu.Lock()
	f.meta = m
	f.mu.Unlock()
	return nil
}

func (f *formation) identity() identity {
	in := f.node.inst.Load()
	f.mu.Lock()
	defer f.mu.Unlock()
	who := identity{
		ID: string(f.node.id), Addr: f.node.link.Advertise(), ClusterID: f.meta.ClusterID,
		HasState: f.hasLog, Expect: f.meta.Expect, Version: f.node.opts.Version,
	}
	if in != nil {
		who.HasState = who.HasState || in.hasState()
		if _, id := in.raft.LeaderWithID(); id != "" {
			who.LeaderID = string(id)
		}
	}
	return who
}

func (f *formation) serveIdentify(context.Context, peer.Peer, struct{}) (identity, error) {
	return f.identity(), nil
}

type grantCall struct {
	Expect int `json:"expect"`
}

// serveGrant promises a founder that this node neither founds nor helps
// another to found for a while.
func (f *formation) serveGrant(_ context.Context, from peer.Peer, in grantCall) (struct{}, error) {
	who := f.identity()
	f.mu.Lock()
	defer f.mu.Unlock()
	refuse := func(format string, args ...any) (struct{}, error) {
		return struct{}{}, api.Errorf(api.CodeConflict, "server %s: %s", f.node.id, fmt.Sprintf(format, args...))
	}
	switch {
	case who.HasState || who.ClusterID != "":
		return refuse("is of a cluster already")
	case in.Expect != who.Expect:
		return refuse("expects %d servers, not %d", who.Expect, in.Expect)
	case time.Since(f.birth.seen) < rememberState:
		return refuse("sees a cluster that exists already")
	case f.birth.busy:
		return refuse("founds or joins a cluster itself")
	case f.birth.holder != "" && f.birth.holder != from.ID && time.Now().Before(f.birth.until):
		return refuse("has promised itself to %s", f.birth.holder)
	case from.ID >= string(f.node.id):
		return refuse("the lowest id founds, and %s is not lower", from.ID)
	}
	f.birth.holder, f.birth.until = from.ID, time.Now().Add(grantLifetime)
	return struct{}{}, nil
}

// tryBusy claims the right to found or join, unless our grant is given away: its
// holder may be founding with us at this moment.
func (f *formation) tryBusy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.birth.holder != "" && time.Now().Before(f.birth.until) {
		return false
	}
	f.birth.busy = true
	return true
}

func (f *formation) notBusy() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.birth.busy = false
}

// addresses are where other servers may be, beside those in Raft's configuration.
func (f *formation) addresses() []string {
	set := make(map[string]struct{})
	for _, a := range f.node.opts.Join {
		set[a] = struct{}{}
	}
	for _, a := range f.node.fleet.addresses() {
		set[a] = struct{}{}
	}
	delete(set, f.node.link.Advertise())
	return slices.Sorted(maps.Keys(set))
}

// lookAround asks everyone it can find who they are.
func (f *formation) lookAround(ctx context.Context) []identity {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var mu sync.Mutex
	found := make(map[string]identity)
	var wg sync.WaitGroup
	for _, addr := range f.addresses() {
		wg.Go(func() {
			var who identity
			if err := f.node.link.Call(ctx, peer.Target{Addr: addr, Guest: true}, pathIdentify, struct{}{}, &who); err != nil {
				f.node.log.Debug("nobody there", "address", addr, "error", err)
				return
			}
			if who.ID == string(f.node.id) || who.ID == "" {
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
func (f *formation) form(ctx context.Context, st *opened) error {
	for f.record().ClusterID == "" {
		seen := f.lookAround(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		done, err := f.formOnce(ctx, st, seen)
		if err != nil {
			return err
		}
		if !done {
			pause(ctx, jitter(lookEvery))
		}
	}
	return nil
}

func (f *formation) formOnce(ctx context.Context, st *opened, seen []identity) (bool, error) {
	var stateful, fresh []identity
	expect := f.identity().Expect
	for _, who := range seen {
		switch {
		case who.HasState:
			stateful = append(stateful, who)
		case who.ClusterID != "": // adopted: its founder has the state
		case who.Expect != expect:
			if f.node.told.changed("expect "+who.ID, fmt.Sprint(who.Expect)) {
				f.node.log.Warn("a server expects another number of founders: set bootstrap-expect alike everywhere",
					"peer", who.ID, "theirs", who.Expect, "ours", expect)
			}
		default:
			fresh = append(fresh, who)
		}
	}
	if len(stateful) > 0 {
		// There is a cluster: never found another, however long it takes to get in.
		f.mu.Lock()
		f.birth.seen = time.Now()
		for _, who := range stateful {
			if who.ID == f.birth.holder { // it has founded: our grant has served its purpose
				f.birth.holder = ""
			}
		}
		f.mu.Unlock()
		f.node.say("joining the cluster")
		return f.joinAny(ctx, stateful)
	}
	if expect == 0 {
		f.node.say("looking for a cluster to join")
		if f.node.told.changed("founding", "join only") {
			f.node.log.Info("looking for a cluster to join")
		}
		return false, nil
	}
	waiting := fmt.Sprintf("waiting for %d servers to found a cluster, %d of them are here", expect, len(fresh)+1)
	f.node.say(waiting)
	if f.node.told.changed("founding", waiting) {
		f.node.log.Info("waiting to found a cluster", "expect", expect, "here", len(fresh)+1)
	}
	f.mu.Lock()
	lately := time.Since(f.birth.seen) < rememberState
	f.mu.Unlock()
	if len(fresh)+1 < expect || lately {
		return false, nil
	}
	others := fresh[:0:0]
	for _, who := range fresh { // sorted by id
		if who.ID < string(f.node.id) {
			return false, nil // that one founds
		}
		if len(others) < expect-1 {
			others = append(others, who)
		}
	}
	return f.found(ctx, st, others)
}

func (f *formation) joinAny(ctx context.Context, stateful []identity) (bool, error) {
	if !f.tryBusy() {
		return false, nil
	}
	defer f.notBusy()
	for _, who := range stateful {
		cluster, err := f.askJoin(ctx, who.target())
		if err != nil {
			if f.node.told.changed("join "+who.ID, err.Error()) {
				f.node.log.Info("could not join yet", "asked", who.ID, "error", err)
			}
			f.node.say(fmt.Sprintf("joining the cluster: %v", err))
			continue
		}
		m := f.record()
		// Durable before the first Raft byte: from here on only this cluster's servers are heard.
		m.ClusterID = cluster
		if err := f.saveMeta(m); err != nil {
			return false, err
		}
		f.node.log.Info("joined", "cluster", cluster)
		return true, nil
	}
	return false, nil
}

// found makes a cluster of this node and the others, if each of them grants it.
func (f *formation) found(ctx context.Context, st *opened, others []identity) (bool, error) {
	if !f.tryBusy() {
		return false, nil
	}
	defer f.notBusy()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, foundWithin)
	defer cancel()
	config := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: f.node.id, Address: f.node.addr}}}
	for _, who := range others {
		t := who.target()
		t.Guest = true
		if err := f.node.link.Call(ctx, t, pathGrant, grantCall{Expect: len(others) + 1}, nil); err != nil {
			f.node.log.Debug("cannot found a cluster yet", "asked", who.ID, "error", err)
			return false, nil
		}
		// The address it advertises is the one that lasts; that it is there is checked here and now.
		var again identity
		if err := f.node.link.Call(ctx, t, pathIdentify, struct{}{}, &again); err != nil || again.ID != who.ID {
			return false, nil
		}
		config.Servers = append(config.Servers, raft.Server{
			Suffrage: raft.Voter, ID: raft.ServerID(who.ID), Address: raft.ServerAddress(peer.Address(who.ID, again.Addr)),
		})
	}
	if time.Since(begun) > foundWithin {
		return false, nil // the first grants may lapse: do not rely on them
	}
	m := f.record()
	m.ClusterID = randomID(16)
	if err := f.saveMeta(m); err != nil {
		return false, err
	}
	c := f.node.raftConfig(nil)
	if err := raft.BootstrapCluster(c, st.logs, st.stable, st.snaps, nil, config); err != nil {
		return false, fmt.Errorf("found a cluster: %w", err)
	}
	st.hasLog = true
	f.mu.Lock()
	f.hasLog = true
	f.mu.Unlock()
	f.node.log.Info("founded a cluster", "cluster", m.ClusterID, "servers", len(config.Servers))
	return true, nil
}
