package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	defaultLatency = 500 * time.Microsecond // one way
	silence        = time.Second            // until a dial into a partition gives up
	raftTimeout    = 500 * time.Millisecond // of one Raft RPC
)

// Network carries calls and Raft RPCs between links in memory. It checks
// server and cluster ids as the peer port does.
type Network struct {
	latency time.Duration // one way

	mu    sync.Mutex
	links map[string]*link // by address: who is there now
	group map[string]int   // by address: partitions; only equal groups reach each other
}

// NewNetwork returns a network without anybody. latency is one way; 0: half a millisecond.
func NewNetwork(latency time.Duration) *Network {
	if latency == 0 {
		latency = defaultLatency
	}
	return &Network{latency: latency, links: make(map[string]*link), group: make(map[string]int)}
}

// link is one server's end: a cluster.Link.
type link struct {
	net      *Network
	id, addr string
	handlers map[string]handler
	lostFn   func(serverID string)
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	// Guarded by net.mu.
	cluster string
	up      bool
	fenced  bool
	crashed bool
	trans   *raft.InmemTransport
	// heartbeat is Raft's handler.
	heartbeat func(raft.RPC)
}

type handler struct {
	access peer.Access
	fn     peer.Handler
}

// Link makes the end of a server at an address. The one before must be down.
func (n *Network) Link(id, addr string) *link { //nolint:revive // used through cluster.Link
	ctx, cancel := context.WithCancel(context.Background())
	return &link{net: n, id: id, addr: addr, handlers: make(map[string]handler), ctx: ctx, cancel: cancel}
}

// Partition cuts the network into groups of addresses. Whoever is not named is in the
// first.
func (n *Network) Partition(groups ...[]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.group = make(map[string]int)
	for i, g := range groups {
		for _, addr := range g {
			n.group[addr] = i
		}
	}
	n.wireLocked()
}

// Heal undoes Partition.
func (n *Network) Heal() { n.Partition() }

// Down takes whoever is at an address off the network, as a crash does.
func (n *Network) Down(addr string) {
	n.mu.Lock()
	var tell []func(string)
	l := n.links[addr]
	if l != nil {
		l.crashed = true
		l.cancel()
		for _, other := range n.links {
			if n.reachLocked(l, other) && other != l && other.lostFn != nil {
				tell = append(tell, other.lostFn)
			}
		}
		l.leaveLocked()
	}
	n.mu.Unlock()
	for _, fn := range tell { // the kernel closes a dead process's connections
		fn(l.id)
	}
}

func (l *link) OnRaftLost(fn func(serverID string)) { l.lostFn = fn }

// leaveLocked takes a link off the network for good.
func (l *link) leaveLocked() {
	l.up = false
	if l.net.links[l.addr] == l {
		delete(l.net.links, l.addr)
	}
	l.cutLocked()
}

// cutLocked closes all Raft connections of a link.
func (l *link) cutLocked() {
	if l.trans == nil {
		return
	}
	l.trans.DisconnectAll()
	for _, other := range l.net.links {
		if other != l && other.trans != nil {
			other.trans.Disconnect(l.raftAddr())
		}
	}
}

func (n *Network) reachLocked(a, b *link) bool {
	return a.up && b.up && n.group[a.addr] == n.group[b.addr]
}

func (l *link) raftAddr() raft.ServerAddress {
	return raft.ServerAddress(peer.Address(l.id, l.addr))
}

// raftLocked reports whether Raft at a reaches Raft at b.
func (n *Network) raftLocked(a, b *link) bool {
	return n.reachLocked(a, b) && !a.fenced && !b.fenced && a.cluster != "" && a.cluster == b.cluster
}

// wireLocked connects the Raft transports that should reach each other.
func (n *Network) wireLocked() {
	for _, a := range n.links {
		if a.trans == nil {
			continue
		}
		for _, b := range n.links {
			if a == b || b.trans == nil {
				continue
			}
			if n.raftLocked(a, b) {
				a.trans.Connect(b.raftAddr(), b.trans)
			} else {
				a.trans.Disconnect(b.raftAddr())
			}
		}
	}
}

func (l *link) ServerID() string  { return l.id }
func (l *link) Advertise() string { return l.addr }

func (l *link) SetCluster(id string) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.cluster = id
	l.net.wireLocked()
}

func (l *link) Handle(path string, access peer.Access, h peer.Handler) {
	l.handlers[path] = handler{access, h}
}

func (l *link) RaftTransport(hclog.Logger) (raft.Transport, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	_, l.trans = raft.NewInmemTransportWithTimeout(l.raftAddr(), raftTimeout)
	l.net.wireLocked()
	if !l.up {
		return nil, errors.New("crashed")
	}
	return &slowTransport{InmemTransport: l.trans, l: l}, nil
}

// slowTransport gives Raft's RPCs the network's latency, and loses answers
// that a partition has overtaken.
type slowTransport struct {
	*raft.InmemTransport
	l *link
}

func (s *slowTransport) carry(target raft.ServerAddress, rpc func() error) error {
	_ = wait(s.l.ctx, s.l.net.latency) // a crash ends it, and what it carries
	err := rpc()
	_ = wait(s.l.ctx, s.l.net.latency) // likewise
	if err != nil {
		return err
	}
	_, addr, _ := peer.SplitAddress(string(target))
	if _, ok := s.l.to(addr); !ok {
		return errors.New("the answer is lost")
	}
	return nil
}

func (s *slowTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// SetHeartbeatHandler takes the short cut that real transports have: heartbeats
// do not wait for the disk behind other RPCs.
func (s *slowTransport) SetHeartbeatHandler(fn func(raft.RPC)) {
	s.l.net.mu.Lock()
	defer s.l.net.mu.Unlock()
	s.l.heartbeat = fn
}

func (s *slowTransport) heartbeat(to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	n := s.l.net
	id, addr, _ := peer.SplitAddress(string(to))
	n.mu.Lock()
	dst := n.links[addr]
	var fn func(raft.RPC)
	if dst != nil && dst.id == id && n.raftLocked(s.l, dst) {
		fn = dst.heartbeat
	}
	n.mu.Unlock()
	if fn == nil {
		return fmt.Errorf("no connection to %s", to)
	}
	answer := make(chan raft.RPCResponse, 1)
	fn(raft.RPC{Command: args, RespChan: answer})
	select {
	case r := <-answer:
		got, ok := r.Response.(*raft.AppendEntriesResponse)
		if r.Error != nil || !ok {
			return fmt.Errorf("heartbeat to %s: %w", to, r.Error)
		}
		*resp = *got
		return nil
	default: // it is shutting down
		return fmt.Errorf("no answer from %s", to)
	}
}

func (s *slowTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0 {
		return s.carry(to, func() error { return s.heartbeat(to, args, resp) })
	}
	return s.carry(to, func() error { return s.InmemTransport.AppendEntries(id, to, args, resp) })
}

func (s *slowTransport) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return s.carry(to, func() error { return s.InmemTransport.RequestVote(id, to, args, resp) })
}

func (s *slowTransport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return s.carry(to, func() error { return s.InmemTransport.RequestPreVote(id, to, args, resp) })
}

func (l *link) fence(v bool) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.fenced = v
	if v {
		l.cutLocked()
	}
	l.net.wireLocked()
}

func (l *link) Fence(string) { l.fence(true) }
func (l *link) Unfence()     { l.fence(false) }

func (l *link) Start() {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.ctx.Err() != nil {
		return // crashed before it started
	}
	l.up = true
	l.net.links[l.addr] = l
	l.net.wireLocked()
}

func (l *link) Close() error {
	l.net.mu.Lock()
	l.leaveLocked()
	l.net.mu.Unlock()
	// As the peer port does: calls under way get a moment to answer.
	moment := time.AfterFunc(time.Second, l.cancel)
	defer moment.Stop()
	l.wg.Wait()
	l.cancel()
	return nil
}

// to finds the link at an address, if it can be reached.
func (l *link) to(addr string) (dst *link, reached bool) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	dst = l.net.links[addr]
	return dst, dst != nil && l.net.reachLocked(l, dst)
}

// lost reports whether an answer from dst does not arrive. One that a server sent
// before it closed does.
func (l *link) lost(dst *link) bool {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	return l.crashed || dst.crashed || l.net.group[l.addr] != l.net.group[dst.addr]
}

// admit is the preface's check. If it passes, the call counts as under way at dst.
func (l *link) admit(dst *link, t peer.Target, path string) (handler, peer.Peer, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	from := peer.Peer{ID: l.id}
	if !t.Guest && t.ID != "" {
		from.ClusterID = l.cluster
	}
	h, ok := dst.handlers[path]
	switch {
	case t.ID != "" && t.ID != dst.id:
		return h, from, fmt.Errorf("the server at %s is %s, not %s", t.Addr, dst.id, t.ID)
	case !t.Guest && (l.cluster == "" || t.ID == ""):
		return h, from, errors.New("no cluster yet, or nobody expected")
	case !t.Guest && l.cluster != dst.cluster:
		return h, from, fmt.Errorf("server %s is not of cluster %s", dst.id, l.cluster)
	case !ok || (h.access == peer.Members && !from.Member()):
		return h, from, fmt.Errorf("no call %s for this peer", path)
	case !dst.up:
		return h, from, errors.New("connection refused")
	}
	dst.wg.Add(1) // the call's
	return h, from, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (l *link) Call(ctx context.Context, t peer.Target, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode call: %w", err)
	}
	unavailable := func(err error) error {
		return api.Errorf(api.CodeUnavailable, "cannot reach server %s: %w", t, err)
	}
	if err := wait(ctx, l.net.latency); err != nil {
		return unavailable(err)
	}
	dst, ok := l.to(t.Addr)
	if !ok {
		if dst == nil {
			return unavailable(errors.New("connection refused"))
		}
		if err := wait(ctx, silence); err != nil {
			return unavailable(err)
		}
		return unavailable(errors.New("timeout"))
	}
	h, from, err := l.admit(dst, t, path)
	if err != nil {
		return unavailable(err)
	}
	type result struct {
		body []byte
		err  error
	}
	ch := make(chan result, 1)
	hctx, cancel := context.WithCancel(dst.ctx)
	defer cancel()
	go func() { // owned by dst.wg
		defer dst.wg.Done()
		v, err := h.fn(hctx, from, body)
		if err != nil {
			if _, ok := errors.AsType[*api.Error](err); !ok {
				err = api.Errorf(api.CodeInternal, "internal error")
			}
			ch <- result{err: err}
			return
		}
		b, err := json.Marshal(v)
		ch <- result{b, err}
	}()
	ambiguous := func(err error) error {
		return api.Errorf(api.CodeAmbiguous, "server %s did not answer: %w", t, err)
	}
	var res result
	select {
	case res = <-ch:
	case <-ctx.Done():
		return ambiguous(ctx.Err())
	case <-dst.ctx.Done():
		return ambiguous(errors.New("connection reset"))
	}
	if err := wait(ctx, l.net.latency); err != nil {
		return ambiguous(err)
	}
	if l.lost(dst) {
		if err := wait(ctx, silence); err != nil {
			return ambiguous(err)
		}
		return ambiguous(errors.New("timeout"))
	}
	if res.err != nil {
		var e *api.Error
		if errors.As(res.err, &e) { // the wire carries code and message, no cause
			return &api.Error{Code: e.Code, Message: e.Message}
		}
		return res.err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(res.body, out); err != nil {
		return ambiguous(err)
	}
	return nil
}
