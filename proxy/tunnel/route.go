package tunnel

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	openTimeout    = 5 * time.Second
	probeAfter     = 2 * time.Second // of silence while somebody waits
	probeTimeout   = 3 * time.Second
	idleStream     = time.Minute
	maxIdleStreams = 32
	maxHeaderBytes = 256 << 10 // of an answer: an agent may be hostile

	holdFor    = time.Second     // how long a request waits for a cluster that has just gone
	holdWithin = 5 * time.Second // what "just" is

	maxKubes = 16 << 10 // names remembered, of clusters that are gone too
)

// route is one way to an agent: its tunnel to this replica, or a link to a
// replica that has one.
type route struct {
	t     *Tunnels
	agent string
	own   *tunnel // or
	link  *link
	since time.Time

	// Guarded by Tunnels.mu:
	clusters map[string]clusterStatus // replaced, never changed
	gone     bool

	active  atomic.Int64 // requests and upgraded streams under way
	plain   lazyTransport
	upgrade lazyTransport
}

// lazyTransport speaks HTTP/1.1 over streams of a route. Most of thousands of
// agents are idle, and need none.
type lazyTransport struct {
	once sync.Once
	ptr  atomic.Pointer[http.Transport]
}

func (r *route) transport(upgrade bool) *http.Transport {
	lazy := &r.plain
	if upgrade {
		lazy = &r.upgrade
	}
	lazy.once.Do(func() {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		lazy.ptr.Store(&http.Transport{
			Proxy:                  nil, // a tunnel leads to one place
			DialContext:            r.dial,
			Protocols:              protocols,
			DisableCompression:     true, // what the client accepts is passed on, and so is the answer
			DisableKeepAlives:      upgrade,
			MaxIdleConnsPerHost:    maxIdleStreams,
			IdleConnTimeout:        idleStream,
			MaxResponseHeaderBytes: maxHeaderBytes,
			ExpectContinueTimeout:  time.Second,
		})
	})
	return lazy.ptr.Load()
}

// openError marks a stream that could not be opened: nothing was sent on it.
type openError struct{ err error }

func (e *openError) Error() string { return "open a stream: " + e.err.Error() }
func (e *openError) Unwrap() error { return e.err }

// dial is what the transports call; the address is for HTTP's sake.
func (r *route) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var c wire.Stream
	var err error
	if r.own != nil {
		c, err = r.own.open(ctx)
	} else {
		c, err = r.link.open(ctx, header{Agent: r.agent})
	}
	if err != nil {
		return nil, &openError{err}
	}
	return newStreamConn(c, &r.t.metrics.streams), nil
}

// close lets go of streams that carry nothing. Those in use end by themselves.
func (r *route) close() {
	for _, lazy := range []*lazyTransport{&r.plain, &r.upgrade} {
		if tr := lazy.ptr.Load(); tr != nil {
			tr.CloseIdleConnections()
		}
	}
}

// doubtful reports whether another way is better if there is one: the agent or
// the replica is about to go, nothing was heard for two pings, or the agent may
// have come by mistake. Under Tunnels.mu.
func (r *route) doubtful(now time.Time) bool {
	if r.own != nil {
		return r.own.onProbation(now) || now.Sub(r.own.sess.LastHeard()) > 2*agentPingEvery+time.Second
	}
	return r.link.moving || now.Sub(r.link.sess.LastHeard()) > 2*heartbeat+heartbeat/2
}

// kube is a Kubernetes cluster that has, or had, agents. Guarded by Tunnels.mu.
type kube struct {
	routes   []*route
	upstream upstream.Upstream
	gone     time.Time // since when there is no route; zero: there is one
}

// setClustersLocked makes a route one to these clusters and no others.
func (t *Tunnels) setClustersLocked(r *route, statuses []clusterStatus) {
	now := make(map[string]clusterStatus, len(statuses))
	for _, s := range statuses {
		now[s.Name] = s
	}
	for name := range r.clusters {
		if _, still := now[name]; !still {
			t.removeLocked(name, r)
		}
	}
	before := r.clusters
	r.clusters = now
	for name := range now {
		if _, known := before[name]; known {
			continue
		}
		k := t.kubes[name]
		if k == nil {
			t.forgetLocked()
			k = &kube{upstream: newUpstream(t, name)}
			t.kubes[name] = k
		}
		k.routes = append(k.routes, r)
		k.gone = time.Time{}
	}
}

func (t *Tunnels) removeLocked(name string, r *route) {
	k := t.kubes[name]
	k.routes = slices.DeleteFunc(k.routes, func(other *route) bool { return other == r })
	if len(k.routes) == 0 {
		k.gone = t.clock()
	}
}

// dropRouteLocked takes a route out of every cluster, for good.
func (t *Tunnels) dropRouteLocked(r *route) {
	r.gone = true
	for name := range r.clusters {
		t.removeLocked(name, r)
	}
}

// forgetLocked keeps the memory of clusters that are gone bounded.
func (t *Tunnels) forgetLocked() {
	if len(t.kubes) < maxKubes {
		return
	}
	for name, k := range t.kubes {
		if len(k.routes) == 0 {
			delete(t.kubes, name)
		}
	}
}

// pick chooses a way to a cluster that is not among tried: own tunnels before
// peers', sound ones before doubtful ones, then the least used, then by lot.
func (t *Tunnels) pick(name string, tried []*route) *route {
	now := time.Now()
	t.mu.RLock()
	defer t.mu.RUnlock()
	k := t.kubes[name]
	if k == nil {
		return nil
	}
	if len(k.routes) == 1 { // the usual case
		if r := k.routes[0]; !slices.Contains(tried, r) {
			return r
		}
		return nil
	}
	var best *route
	var rank, alike int
	var load int64
	for _, r := range k.routes {
		if slices.Contains(tried, r) {
			continue
		}
		class, active := 0, r.active.Load()
		if r.own == nil {
			class++
		}
		if r.doubtful(now) {
			class += 2
		}
		switch {
		case best == nil || class < rank || class == rank && active < load:
			best, rank, load, alike = r, class, active, 1
		case class == rank && active == load:
			if alike++; t.opts.Rand()*float64(alike) < 1 {
				best = r
			}
		}
	}
	return best
}

// holdLocked is how long a request for a cluster without a route may wait: an
// agent that has just gone is coming back, most likely, and a replica that has just
// started does not know yet what its peers have.
func (t *Tunnels) holdLocked(k *kube) time.Duration {
	now := t.clock()
	if k != nil && !k.gone.IsZero() {
		if left := k.gone.Add(holdWithin).Sub(now); left > 0 {
			return min(left, holdFor)
		}
	}
	if t.started.IsZero() || len(t.links) >= len(t.members)-1 {
		return 0
	}
	if left := t.started.Add(holdWithin).Sub(now); left > 0 {
		return min(left, holdFor)
	}
	return 0
}

// noAgentLocked says that, and since when, nobody serves a cluster.
func (t *Tunnels) noAgentLocked(name string) *api.Error {
	var seen time.Time
	if k := t.kubes[name]; k != nil {
		seen = k.gone
	}
	if seen.IsZero() && t.opts.LastSeen != nil {
		seen = t.opts.LastSeen(name)
	}
	when := ""
	if !seen.IsZero() {
		when = fmt.Sprintf(" (last seen %s ago)", ago(t.clock().Sub(seen)))
	}
	return api.Errorf(api.CodeUnavailable, "no agent of Kubernetes cluster %q is connected%s; look at its pods' logs", name, when)
}

// ago is a span of time as people say it.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
