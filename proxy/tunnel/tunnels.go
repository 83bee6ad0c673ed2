package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// Identity is who an agent is, as its verified certificate says.
type Identity struct {
	AgentID    string
	Generation uint64
	KeySum     string // SHA-256 of the certificate's SPKI, hex
}

// Grant is the right to hold a tunnel.
type Grant interface {
	KubeClusters() []string // the only clusters that may be served through it
	Generation() uint64     // that counts from now on
	// Watch blocks until the right is lost, and says why (an *api.Error, see
	// wire.Refused), or until ctx ends.
	Watch(ctx context.Context) error
}

// Gate decides about agents. Its errors go to the agent if they are *api.Error.
type Gate interface {
	Admit(ctx context.Context, id Identity, hello wire.Hello, addr netip.Addr) (Grant, error)
	Renew(ctx context.Context, id Identity, publicKey []byte, addr netip.Addr) (wire.Renewed, error)
	Labels(ctx context.Context, id Identity, c wire.Cluster)
}

// Links reach other replicas; *peer.Port does.
type Links interface {
	DialTunnel(ctx context.Context, t peer.Target) (net.Conn, error)
}

// Member is a replica of this cluster.
type Member struct{ ID, Addr string }

// Options configure Tunnels. ServerID, Gate, Port and Members are needed.
type Options struct {
	ServerID    string
	ClusterName string
	Gate        Gate
	Port        Links
	// Members are all replicas, this one among them, by Raft's configuration. It is
	// asked every second.
	Members func() []Member
	// Splice takes the far end of what a peer's SpliceTo sent: an agent's connection
	// to this very replica, TLS and all. It must not block. Nil: refused.
	Splice func(net.Conn)
	// LastSeen says when an agent of a cluster was last known to be connected, by
	// what outlives this process; the zero time if never. Nil: nothing does.
	LastSeen func(kube string) time.Time

	// HelloRate is how many handshakes and hellos per second are taken, 0: 150 for
	// each CPU; bursts are of a second.
	HelloRate float64

	Clock  func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: discard
}

// Tunnels are the agents' tunnels of this replica and what it knows of its
// peers'. Methods may be called from any goroutine.
type Tunnels struct{ opts Options }

// New makes Tunnels. Run makes them known to peers.
func New(opts Options) (*Tunnels, error) {
	if opts.Gate == nil || opts.Port == nil || opts.Members == nil || opts.ServerID == "" {
		return nil, errors.New("tunnels need a server id, a gate, a port and members")
	}
	return &Tunnels{opts: opts}, nil
}
