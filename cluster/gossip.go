package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sallyport-dev/sallyport/internal/hclogslog"
)

// Gossip configures memberlist, which finds members and spots failures. It is
// never trusted for more than an address to dial.
type Gossip struct {
	Keys      [][]byte             // of 16, 24 or 32 bytes: the first encrypts, all decrypt. None: no gossip
	Listen    string               // host:port, tcp and udp; default :7946
	Advertise string               // IP[:port] by which members reach it; default: found out
	Join      []string             // host:port of some members; default: the hosts of Options.Join on our gossip port
	Transport memberlist.Transport // instead of the network: for tests
}

const (
	defaultGossipPort = 7946
	rejoinEvery       = 15 * time.Second
)

// member is what a server tells of itself: 512 bytes at most, so no more than that.
type member struct {
	ID      string `json:"id"`
	Version string `json:"v,omitempty"`
	Addr    string `json:"a"` // host:port of the peer port
}

// gossip runs memberlist for a node. Without keys it does nothing.
type gossip struct {
	n    *Node
	log  *slog.Logger
	opts Gossip
	port int
	meta []byte

	wg     sync.WaitGroup
	cancel context.CancelFunc
	mu     sync.Mutex
	list   *memberlist.Memberlist
}

func newGossip(n *Node) *gossip {
	return &gossip{n: n, log: n.log.With("logger", "gossip"), opts: n.opts.Gossip}
}

// start joins in the background: a name that does not resolve yet, or a port that is
// taken, must not keep a replica down that Raft can reach.
func (g *gossip) start(ctx context.Context) {
	if len(g.opts.Keys) == 0 {
		return
	}
	ctx, g.cancel = context.WithCancel(ctx)
	g.wg.Go(func() {
		for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, rejoinEvery) {
			if err := g.create(); err != nil {
				if g.n.told.changed("gossip", err.Error()) {
					g.log.Warn("gossip does not start, will be tried again", "error", err)
				}
				pause(ctx, jitter(wait))
				continue
			}
			g.keep(ctx)
		}
	})
}

func (g *gossip) create() error {
	c := memberlist.DefaultLANConfig()
	// A name fresh per process: a restarted name that comes from a new address would
	// be refused for a while, as a possible impostor.
	c.Name = string(g.n.id) + "." + randomID(4)
	c.Label = "sallyport"
	c.Logger = hclogslog.Standard(g.log, hclogslog.Options{Level: quiet})
	c.Delegate = g
	c.ProbeTimeout = 500 * time.Millisecond
	c.DeadNodeReclaimTime = 10 * time.Second
	c.GossipToTheDeadTime = 15 * time.Second
	c.Transport = g.opts.Transport
	ring, err := memberlist.NewKeyring(g.opts.Keys, g.opts.Keys[0])
	if err != nil {
		return fmt.Errorf("gossip keys: %w", err)
	}
	c.Keyring = ring
	listen := g.opts.Listen
	if listen == "" {
		listen = ":" + strconv.Itoa(defaultGossipPort)
	}
	if c.BindAddr, c.BindPort, err = splitHostPort(listen, defaultGossipPort); err != nil {
		return fmt.Errorf("gossip listen address: %w", err)
	}
	if c.BindAddr == "" {
		c.BindAddr = "0.0.0.0"
	}
	c.AdvertisePort = c.BindPort
	if g.opts.Advertise != "" {
		if c.AdvertiseAddr, c.AdvertisePort, err = splitHostPort(g.opts.Advertise, c.BindPort); err != nil {
			return fmt.Errorf("gossip advertise address: %w", err)
		}
	}
	meta, err := json.Marshal(member{ID: string(g.n.id), Version: g.n.opts.Version, Addr: g.n.link.Advertise()})
	if err != nil {
		return fmt.Errorf("encode gossip metadata: %w", err)
	}
	if len(meta) > memberlist.MetaMaxSize {
		return fmt.Errorf("gossip metadata has %d bytes, at most %d", len(meta), memberlist.MetaMaxSize)
	}
	g.meta, g.port = meta, c.AdvertisePort
	list, err := memberlist.Create(c)
	if err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	g.mu.Lock()
	g.list = list
	g.mu.Unlock()
	return nil
}

// keep joins, and joins again: two halves that lost each other do not find
// together by themselves.
func (g *gossip) keep(ctx context.Context) {
	for ctx.Err() == nil {
		targets := g.opts.Join
		if len(targets) == 0 {
			for _, a := range g.n.opts.Join {
				if host, _, err := net.SplitHostPort(a); err == nil {
					targets = append(targets, net.JoinHostPort(host, strconv.Itoa(g.port)))
				}
			}
		}
		if len(targets) > 0 {
			if _, err := g.list.Join(targets); err != nil {
				g.log.Debug("gossip join", "error", err)
			}
		}
		every := rejoinEvery
		if g.list.NumMembers() < 2 {
			every = time.Second
		}
		pause(ctx, jitter(every))
	}
	if err := g.list.Leave(500 * time.Millisecond); err != nil {
		g.log.Debug("gossip leave", "error", err)
	}
	if err := g.list.Shutdown(); err != nil {
		g.log.Debug("gossip shutdown", "error", err)
	}
}

func (g *gossip) stop() {
	if g.cancel != nil {
		g.cancel()
	}
	g.wg.Wait()
}

// members are the others that gossip holds for alive.
func (g *gossip) members() []member {
	g.mu.Lock()
	list := g.list
	g.mu.Unlock()
	if list == nil {
		return nil
	}
	var out []member
	for _, node := range list.Members() {
		if m, ok := readMember(node); ok && m.ID != string(g.n.id) {
			out = append(out, m)
		}
	}
	return out
}

// readMember takes what a member says of itself if we could have said it. More
// than that proves nothing: whoever has the gossip key may say anything.
func readMember(node *memberlist.Node) (m member, ok bool) {
	if json.Unmarshal(node.Meta, &m) != nil || m.ID == "" || !strings.HasPrefix(node.Name, m.ID+".") {
		return m, false
	}
	for _, s := range []string{m.ID, m.Version, m.Addr} {
		if len(s) > 255 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return m, false
		}
	}
	return m, true
}

func (g *gossip) member(id string) (member, bool) {
	for _, m := range g.members() {
		if m.ID == id {
			return m, true
		}
	}
	return member{}, false
}

// maxAddresses bounds whom a node dials because gossip says so. A cluster has 3 to 7 servers.
const maxAddresses = 32

func (g *gossip) addresses() []string {
	var out []string
	for _, m := range g.members() {
		if len(out) == maxAddresses {
			break
		}
		if _, _, err := net.SplitHostPort(m.Addr); err == nil {
			out = append(out, m.Addr)
		}
	}
	return out
}

// NodeMeta and the rest make gossip a memberlist.Delegate that says who it is
// and listens to nothing.
func (g *gossip) NodeMeta(int) []byte { return g.meta }

// NotifyMsg ignores messages: nothing of ours is gossiped.
func (g *gossip) NotifyMsg([]byte) {}

// GetBroadcasts has none.
func (g *gossip) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState is empty.
func (g *gossip) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores what the other end says.
func (g *gossip) MergeRemoteState([]byte, bool) {}

func splitHostPort(s string, port int) (string, int, error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		if net.ParseIP(s) != nil {
			return s, port, nil
		}
		return "", 0, err //nolint:wrapcheck // names the address
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		return "", 0, fmt.Errorf("port of %q: %w", s, err)
	}
	return host, n, nil
}
