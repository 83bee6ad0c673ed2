package proxy

import (
	"context"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// Identity is what a verified client certificate says.
type Identity struct {
	User      string
	SessionID string
}

// Right is the continuing part of a Decision.
type Right interface {
	// Stale reports whether anything that the decision was derived from has
	// changed since, so that new requests need a new decision. It is asked for
	// every request: it must neither block nor allocate.
	Stale() bool

	// Watch blocks until the right is lost (the session is gone, locked, or may
	// no longer be what was decided) and returns why, or until ctx ends. A change
	// that happened between the decision and the call must be noticed too. A
	// decision may be stale and the right yet intact: a role was edited, but the
	// outcome is the same.
	Watch(ctx context.Context) error
}

// Decision is an Authorizer's yes: what a session is on one Kubernetes cluster.
type Decision struct {
	ImpersonateUser   string            // never empty
	ImpersonateGroups []string          // never empty
	KubeLabels        map[string]string // of the cluster, for the event; may be nil
	Expires           time.Time         // end of the session; zero: none
	Right             Right
}

// Authorizer says who may do what. Errors are *api.Error: unauthenticated (the
// session is gone), forbidden, not_found (no such cluster, or none that this
// user may know of), unavailable.
type Authorizer interface {
	// Kube decides on requests of a session to a Kubernetes cluster. asUser and
	// asGroups are what the client asked to be (kubectl --as, --as-group): empty
	// if it didn't.
	Kube(ctx context.Context, id Identity, kube, asUser string, asGroups []string) (Decision, error)
}

// Recorder takes events and adds time, id and cluster name to them.
type Recorder interface {
	// Record must not block: requests wait for it.
	Record(event api.Event)
	// Commit returns once the event will outlive this replica's process: the cluster
	// has it, or this replica's disk where that counts as enough. An error says why
	// it may be lost.
	Commit(ctx context.Context, event api.Event) error
}

// Targets knows the Kubernetes clusters.
type Targets interface {
	// Target finds the way to a cluster. Errors are *api.Error: not_found, or
	// unavailable (its agent is not connected, say).
	Target(kube string) (upstream.Upstream, error)
}

// ConnInfo is what is known of a connection once its TLS handshake is done.
type ConnInfo struct {
	Identity Identity
	// Refused says why there is no Identity, if the certificate was looked at and
	// found wanting.
	Refused error
	// Kube is the cluster that the SNI named (its label, if it stands for none);
	// "" on the fallback port, where the path names it.
	Kube string
	// Addr and LocalAddr are host:port, the former of the client itself where a
	// load balancer tells it by PROXY protocol.
	Addr, LocalAddr string
}

type connKey struct{}

// WithConn gives the requests of a connection their ConnInfo: the server calls
// it once per connection, in http.Server.ConnContext. That is before the TLS
// handshake: it completes info before it hands the first request over, and leaves
// it alone then. A request without one is refused as unauthenticated.
func WithConn(ctx context.Context, info *ConnInfo) context.Context {
	return context.WithValue(ctx, connKey{}, info)
}

// connInfo is nil for a request whose connection nobody has described.
func connInfo(ctx context.Context) *ConnInfo {
	info, _ := ctx.Value(connKey{}).(*ConnInfo)
	return info
}
