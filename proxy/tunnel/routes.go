package tunnel

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

const (
	holdFor    = time.Second     // how long a request waits for a cluster that has just gone
	holdWithin = 5 * time.Second // what "just" is

	maxKubes = 16 << 10 // names remembered, of clusters that are gone too
)

// routes are the ways to all Kubernetes clusters that have, or had, agents. Guarded by
// Tunnels.mu.
type routes struct {
	clock    func() time.Time
	random   func() float64
	lastSeen func(kube string) time.Time // see Options
	upstream func(kube string) upstream.Upstream
	kubes    map[string]*kube    // by name
	untold   map[string]struct{} // names whose routes changed, until the log was told what is odd
}

// kube is a Kubernetes cluster that has, or had, agents.
type kube struct {
	routes   []*route
	judged   atomic.Pointer[verdict] // routes; nil: not since they changed
	upstream upstream.Upstream
	gone     time.Time // since when there is no route; zero: there is one
}

// set makes a route one to these clusters and no others.
func (rs *routes) set(r *route, statuses []clusterStatus) {
	now := make(map[string]clusterStatus, len(statuses))
	for _, s := range statuses {
		now[s.Name] = s
	}
	for name := range r.clusters {
		if _, still := now[name]; !still {
			rs.remove(name, r)
		}
	}
	before := r.clusters
	r.clusters = now
	for name := range now {
		if _, known := before[name]; !known {
			k := rs.kubes[name]
			if k == nil {
				rs.forget()
				k = &kube{upstream: rs.upstream(name)}
				rs.kubes[name] = k
			}
			k.routes = append(k.routes, r)
			k.gone = time.Time{}
		}
		rs.changed(name)
	}
}

func (rs *routes) remove(name string, r *route) {
	k := rs.kubes[name]
	k.routes = slices.DeleteFunc(k.routes, func(other *route) bool { return other == r })
	rs.changed(name)
	if len(k.routes) == 0 {
		k.gone = rs.clock()
	}
}

// drop takes a route out of every cluster, for good.
func (rs *routes) drop(r *route) {
	r.gone = true
	for name := range r.clusters {
		rs.remove(name, r)
	}
}

// forget keeps the memory of clusters that are gone bounded.
func (rs *routes) forget() {
	if len(rs.kubes) < maxKubes {
		return
	}
	for name, k := range rs.kubes {
		if len(k.routes) == 0 {
			delete(rs.kubes, name)
		}
	}
}

// pick chooses a way to a cluster that is not among tried: own tunnels before
// peers', sound ones before doubtful ones, then the least used, then by lot.
func (rs *routes) pick(name string, tried []*route) *route {
	now := time.Now()
	k := rs.kubes[name]
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
	for _, r := range k.verdict(name).usable {
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
			if alike++; rs.random()*float64(alike) < 1 {
				best = r
			}
		}
	}
	return best
}

// backSoon is how long a request for a cluster that has just lost its last route may
// wait: an agent that has just gone is coming back, most likely.
func (rs *routes) backSoon(name string) time.Duration {
	if k := rs.kubes[name]; k != nil && !k.gone.IsZero() {
		return holdUntil(k.gone, rs.clock())
	}
	return 0
}

// holdUntil is how long to wait for what began to be missing then.
func holdUntil(since, now time.Time) time.Duration {
	return max(0, min(since.Add(holdWithin).Sub(now), holdFor))
}

// noAgent says that, and since when, nobody serves a cluster.
func (rs *routes) noAgent(name string) *api.Error {
	var seen time.Time
	if k := rs.kubes[name]; k != nil {
		seen = k.gone
	}
	if seen.IsZero() && rs.lastSeen != nil {
		seen = rs.lastSeen(name)
	}
	when := ""
	if !seen.IsZero() {
		when = fmt.Sprintf(" (last seen %s ago)", ago(rs.clock().Sub(seen)))
	}
	return api.Errorf(api.CodeUnavailable, "no agent of Kubernetes cluster %q is connected%s; look at its pods' logs", name, when)
}

// target is the way to a cluster, if there is one.
func (rs *routes) target(name string) (upstream.Upstream, bool) {
	if k := rs.kubes[name]; k != nil && len(k.routes) > 0 {
		return k.upstream, true
	}
	return upstream.Upstream{}, false
}

// status is how a cluster does, nil if there is no route to it.
func (rs *routes) status(name string) *api.KubeStatus {
	k := rs.kubes[name]
	if k == nil || len(k.routes) == 0 {
		return nil
	}
	status := k.status(name, rs.clock())
	return &status
}

// statuses are those of all clusters that have a route.
func (rs *routes) statuses() map[string]api.KubeStatus {
	all := make(map[string]api.KubeStatus, len(rs.kubes))
	for name, k := range rs.kubes {
		if len(k.routes) > 0 {
			all[name] = k.status(name, rs.clock())
		}
	}
	return all
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
