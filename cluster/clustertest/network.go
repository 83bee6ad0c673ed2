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
	latency     = 500 * time.Microsecond // one way
	silence     = time.Second            // until a dial into a partition gives up
	raftTimeout = 500 * time.Millisecond // of one Raft RPC
)

// Network carries calls and Raft RPCs between links in memory. It checks
// server and cluster ids as the peer port does.
type Network struct {
	mu    sync.Mutex
	links map[string]*link // by address: who is there now
	group map[string]int   // by address: partitions; only equal groups reach each other
}

// NewNetwork returns a network without anybody.
func NewNetwork() *Network {
	return &Network{links: make(map[string]*link), group: make(map[string]int)}
}

// link is one server's end: a cluster.Link.
type link struct {
	net      *Network
	id, addr string
	handlers map[string]handler
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	// Guarded by net.mu.
	cluster string
	up      bool
	fenced  bool
	trans   *raft.InmemTransport
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
	defer n.mu.Unlock()
	if l := n.links[addr]; l != nil {
		l.cancel()
		l.leaveLocked()
	}
}

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
			if n.reachLocked(a, b) && !a.fenced && !b.fenced && a.cluster != "" && a.cluster == b.cluster {
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
	return l.trans, nil
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

func (l *link) Fence()   { l.fence(true) }
func (l *link) Unfence() { l.fence(false) }

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
	l.cancel()
	l.wg.Wait()
	return nil
}

// to finds the link at an address, if it can be reached.
func (l *link) to(addr string) (dst *link, reached bool) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	dst = l.net.links[addr]
	return dst, dst != nil && l.net.reachLocked(l, dst)
}

// admit is the preface's check.
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
	}
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
	if err := wait(ctx, latency); err != nil {
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
	dst.wg.Go(func() {
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
	})
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
	if err := wait(ctx, latency); err != nil {
		return ambiguous(err)
	}
	if _, ok := l.to(t.Addr); !ok { // the answer is lost
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
