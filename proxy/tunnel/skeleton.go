package tunnel

import (
	"context"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

var errNotYet = api.Errorf(api.CodeUnavailable, "tunnels are not served yet")

// Run keeps links to all other members until ctx ends.
func (t *Tunnels) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// AdmitHandshake reports whether an agent's TLS handshake may begin now.
func (t *Tunnels) AdmitHandshake() bool { return true }

// ServeAgent serves one tunnel, over an agent's TLS connection whose handshake is
// done, until it ends. It closes conn.
func (t *Tunnels) ServeAgent(_ context.Context, conn net.Conn, _ Identity) error {
	_ = conn.Close()
	return errNotYet
}

// ServePeer serves one link that another replica dialled, until it ends. It is
// for peer.Port's HandleTunnels.
func (t *Tunnels) ServePeer(conn net.Conn, _ peer.Peer) { _ = conn.Close() }

// Target is the way to a Kubernetes cluster behind tunnels.
func (t *Tunnels) Target(string) (upstream.Upstream, error) { return upstream.Upstream{}, errNotYet }

// Statuses are the clusters that have a tunnel to any replica, by name.
func (t *Tunnels) Statuses() map[string]api.KubeStatus { return nil }

// Replicas are the ids of the servers that each agent has tunnels to, by the agent's id.
func (t *Tunnels) Replicas() map[string][]string { return nil }

// SpliceTo carries an agent's connection, of which head has been read already, to
// the public port of another replica, unread. It blocks until either end is done,
// and closes conn.
func (t *Tunnels) SpliceTo(_ context.Context, _ string, conn net.Conn, _ []byte) error {
	_ = conn.Close()
	return errNotYet
}

// Move tells all agents to go elsewhere, and refuses new ones from now on.
func (t *Tunnels) Move(context.Context) {}

// Close ends all tunnels and links, and waits for them.
func (t *Tunnels) Close() error { return nil }

// Changed is closed at the next change of what Statuses or Replicas say.
func (t *Tunnels) Changed() <-chan struct{} { return make(chan struct{}) }

// Collector gives the metrics.
func (t *Tunnels) Collector() prometheus.Collector { return prometheus.NewRegistry() }
