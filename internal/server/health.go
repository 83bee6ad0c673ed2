package server

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// kubeHealth knows how Kubernetes clusters do: the replica's own by asking it, the
// others by what their agents say to any replica. What it saw last outlives a
// cluster's agents here as long as the process, and in the store as long as anybody
// may ask: there it is coarse, because it must not cost a write for every hiccup.
type kubeHealth struct {
	own   string             // name of the replica's own cluster
	up    *upstream.Upstream // the way to it; nil: none
	log   *slog.Logger
	clock func() time.Time
	// notServed, if set, says why the own cluster is not served; "": it is.
	notServed func() string

	tunnels liveTunnels
	store   kubeStatusStore
	changed chan struct{} // a token when the own cluster's health has changed

	mu     sync.Mutex
	probed api.KubeStatus // of the own cluster
	view   map[string]api.KubeStatus
	made   time.Time       // of view
	stale  <-chan struct{} // closed when view is no longer what tunnels say
	seen   map[string]api.KubeStatus
	kept   map[string]api.KubeStatus // what the store had
	read   time.Time                 // when it was asked
}

// liveTunnels are what is known of tunnels at this moment; a *tunnel.Tunnels.
type liveTunnels interface {
	Statuses() map[string]api.KubeStatus
	Changed() <-chan struct{}
}

// kubeStatusStore is what the store keeps of clusters; an *auth.KubeClusters.
type kubeStatusStore interface {
	List() []api.KubeCluster
	Statuses() map[string]api.KubeStatus
	SaveStatus(ctx context.Context, statuses map[string]api.KubeStatus) error
}

func newKubeHealth(own string, up *upstream.Upstream, log *slog.Logger, clock func() time.Time) *kubeHealth {
	return &kubeHealth{
		own: own, up: up, log: log, clock: clock, changed: make(chan struct{}, 1), seen: map[string]api.KubeStatus{},
		probed: api.KubeStatus{Health: api.HealthUnknown, Own: true},
	}
}

// follow says where to look. It is called once, before anything else.
func (h *kubeHealth) follow(t liveTunnels, s kubeStatusStore) { h.tunnels, h.store = t, s }

const (
	viewFor   = time.Second      // what tunnels said is good for so long: LastSeen moves on
	keptFor   = 5 * time.Second  // and what the store said, to requests for clusters that are gone
	lookEvery = 5 * time.Second  // after changes that nobody announces
	goneAfter = 10 * time.Second // an agent that comes back sooner was never away
)

// statuses are those of all clusters that can be reached now. Nobody changes it.
func (h *kubeHealth) statuses() map[string]api.KubeStatus {
	now := h.clock()
	h.mu.Lock()
	select {
	case <-h.stale:
		h.view = nil
	default:
	}
	view := h.view
	if now.Sub(h.made).Abs() >= viewFor {
		view = nil
	}
	probed := h.probed
	h.mu.Unlock()
	if view != nil {
		return view
	}
	// Not under the lock: tunnels ask when a cluster was last seen.
	stale := h.tunnels.Changed() // before Statuses: a change in between counts
	live := h.tunnels.Statuses()
	view = make(map[string]api.KubeStatus, len(live)+1)
	for name, st := range live {
		if st.LastSeen.IsZero() {
			st.LastSeen = now.UTC()
		}
		view[name] = st
	}
	if h.up != nil && h.whyNotServed() == "" {
		view[h.own] = probed
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.view, h.made, h.stale = view, now, stale
	for name, st := range view {
		st.Version = cmp.Or(st.Version, h.seen[name].Version)
		h.seen[name] = st
	}
	return view
}

func (h *kubeHealth) whyNotServed() string {
	if h.notServed == nil {
		return ""
	}
	return h.notServed()
}

// status of a cluster, by its name; nil if this process never knew one. Of a name that
// is not the replica's own cluster's, although it has one, it says so.
func (h *kubeHealth) status(name string) *api.KubeStatus {
	st := h.statusOf(name)
	if name != h.own {
		return st
	}
	why := h.whyNotServed()
	switch {
	case why == "":
	case st == nil:
		st = &api.KubeStatus{Health: api.HealthOffline, Reason: why}
	case st.Reason == "":
		st.Reason = why
	default:
		st.Reason += "; " + why
	}
	return st
}

func (h *kubeHealth) statusOf(name string) *api.KubeStatus {
	if st, ok := h.statuses()[name]; ok {
		return &st
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	st, ok := h.seen[name]
	if !ok || st.Own {
		return nil
	}
	st = offline(st)
	return &st
}

// offline is what is left of a cluster's status when its last agent has gone.
func offline(st api.KubeStatus) api.KubeStatus {
	out := api.Offline(st.LastSeen)
	out.Version = st.Version
	return out
}

// lastSeen says when a cluster could last be reached, as far as anybody knows.
func (h *kubeHealth) lastSeen(name string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if st, ok := h.seen[name]; ok {
		return st.LastSeen
	}
	if now := h.clock(); h.kept == nil || now.Sub(h.read).Abs() >= keptFor {
		h.kept, h.read = h.store.Statuses(), now
	}
	return h.kept[name].LastSeen
}

// probe asks the own cluster how it does until ctx ends.
func (h *kubeHealth) probe(ctx context.Context) {
	if h.up == nil {
		h.log.Info("no Kubernetes cluster of its own: give --kubeconfig, or run in a pod, to serve one")
		return
	}
	var judged upstream.Thresholds
	for {
		r := h.up.Probe(ctx)
		if ctx.Err() != nil {
			return
		}
		now := h.clock().UTC()
		said := judged.Add(r)
		st := api.KubeStatus{Health: said.Health, Reason: said.Reason, Version: said.Version, Own: true, Checked: now}
		h.mu.Lock()
		old := h.probed
		if st.LastSeen = old.LastSeen; r.Health != api.HealthUnhealthy { // it answers, if not all that was asked
			st.LastSeen = now
		}
		h.probed, h.view = st, nil
		h.mu.Unlock()
		if old.Health != st.Health || old.Reason != st.Reason {
			select {
			case h.changed <- struct{}{}:
			default: // somebody will look already
			}
		}
		// Replicas that start together need not ask together.
		if !pauseFor(ctx, upstream.ProbeEvery-time.Duration(rand.Int64N(int64(upstream.ProbeEvery/10)))) { //nolint:gosec // no secret
			return
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// wait returns when something may have changed; false if ctx ended first.
func (h *kubeHealth) wait(ctx context.Context, tunnels <-chan struct{}, atMost time.Duration) bool {
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-tunnels:
	case <-h.changed:
	case <-t.C:
	}
	return true
}

// watch says in the log what becomes of clusters, once for each change, until ctx
// ends.
func (h *kubeHealth) watch(ctx context.Context) {
	told := map[string]api.KubeStatus{}
	missing := map[string]time.Time{}
	for ctx.Err() == nil {
		changed := h.tunnels.Changed()
		now, live := h.clock(), h.statuses()
		for _, name := range slices.Sorted(maps.Keys(live)) {
			delete(missing, name)
			old, known := told[name]
			told[name] = live[name]
			h.tell(name, old, known, live[name])
		}
		for name := range told {
			if _, ok := live[name]; ok {
				continue
			}
			since, ok := missing[name]
			if !ok {
				missing[name] = now
			} else if now.Sub(since) >= goneAfter {
				h.log.Warn("a Kubernetes cluster is gone: no agent of it is connected", "kube_cluster", name)
				delete(told, name)
				delete(missing, name)
			}
		}
		h.forget(live)
		// Not for every change of many.
		if !h.wait(ctx, changed, lookEvery) || !pauseFor(ctx, 200*time.Millisecond) {
			return
		}
	}
}

func (h *kubeHealth) tell(name string, old api.KubeStatus, known bool, now api.KubeStatus) {
	who := []any{"kube_cluster", name, "health", now.Health}
	if now.Version != "" {
		who = append(who, "version", now.Version)
	}
	switch {
	case now.Health == api.HealthUnhealthy && (old.Health != now.Health || old.Reason != now.Reason):
		h.log.Warn("a Kubernetes cluster is unhealthy", append(who, "reason", now.Reason)...)
	case now.Health == api.HealthUnknown && now.Asked() && (old.Health != now.Health || old.Reason != now.Reason):
		h.log.Warn("it is not known how a Kubernetes cluster does", append(who, "reason", now.Reason)...)
	case !known && !now.Own:
		h.log.Info("a Kubernetes cluster is connected", who...)
	case now.Health == api.HealthHealthy && (known || now.Own) && old.Health != now.Health:
		h.log.Info("a Kubernetes cluster is healthy", who...)
	}
}

// forget drops what was seen of clusters that are no more.
func (h *kubeHealth) forget(live map[string]api.KubeStatus) {
	known := map[string]bool{}
	for _, k := range h.store.List() {
		known[k.Name] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.seen {
		if _, ok := live[name]; !ok && !known[name] {
			delete(h.seen, name)
		}
	}
}

// How often the leader writes what is known of a cluster: when it changed, at most
// once a minute; and now and then as long as it lives, so that a whole cluster that
// was down knows when it saw it last.
const (
	saveEvery = time.Minute
	seenEvery = time.Hour
)

// save is the leader's duty: it writes what changed, until ctx ends.
func (h *kubeHealth) save(ctx context.Context) error {
	d := statusDuty{health: h, since: h.clock(), saved: map[string]time.Time{}}
	for {
		changed := h.tunnels.Changed()
		if err := d.write(ctx); err != nil && ctx.Err() == nil {
			h.log.Warn("the health of Kubernetes clusters could not be written; trying again", "error", err)
		}
		if !h.wait(ctx, changed, lookEvery) || !pauseFor(ctx, time.Second) {
			return nil
		}
	}
}

// statusDuty is one leadership's.
type statusDuty struct {
	health *kubeHealth
	since  time.Time            // of the leadership
	saved  map[string]time.Time // when a cluster's was written last
}

func (d *statusDuty) write(ctx context.Context) error {
	due := d.due(d.health.clock())
	if len(due) == 0 {
		return nil
	}
	if err := d.health.store.SaveStatus(ctx, due); err != nil {
		return err
	}
	for name := range due {
		d.saved[name] = d.health.clock()
	}
	return nil
}

// due are the clusters of which the store does not say what is so.
func (d *statusDuty) due(now time.Time) map[string]api.KubeStatus {
	h := d.health
	live, kept := h.statuses(), h.store.Statuses()
	out := map[string]api.KubeStatus{}
	known := map[string]bool{}
	for _, k := range h.store.List() {
		known[k.Name] = true
		if at, ok := d.saved[k.Name]; ok && now.Sub(at).Abs() < saveEvery {
			continue
		}
		last, stored := kept[k.Name]
		is, here := live[k.Name]
		switch {
		case here && !is.Asked(): // what the store has says more
		case here:
			is = api.KubeStatus{Health: is.Health, Reason: is.Reason, Version: cmp.Or(is.Version, last.Version), LastSeen: is.LastSeen}
			same := is.Health == last.Health && is.Reason == last.Reason && is.Version == last.Version
			if !stored || !same || is.LastSeen.Sub(last.LastSeen) >= seenEvery {
				out[k.Name] = is
			}
		case stored && last.Health == api.HealthOffline:
		case k.Status != nil && k.Status.Own: // the replicas that have it say how it does
		case now.Sub(d.since) < goneAfter: // its agents' replicas may not have told this leader yet
		default:
			h.mu.Lock()
			seen, ok := h.seen[k.Name]
			h.mu.Unlock()
			if ok {
				last = seen
			}
			if (ok || stored) && now.Sub(last.LastSeen) >= goneAfter {
				out[k.Name] = offline(last)
			}
		}
	}
	for name := range d.saved {
		if !known[name] {
			delete(d.saved, name)
		}
	}
	return out
}

// healthCollector shows how clusters do, for so many clusters: each is four series.
type healthCollector struct {
	health *kubeHealth
	desc   *prometheus.Desc
}

const healthSeries = 500

func (h *kubeHealth) collector() prometheus.Collector {
	return &healthCollector{h, prometheus.NewDesc("sallyport_kube_cluster_health",
		"1 for the health that a Kubernetes cluster has, as this replica knows it. The first 500 clusters by name.", []string{"kube_cluster", "health"}, nil)}
}

func (c *healthCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *healthCollector) Collect(ch chan<- prometheus.Metric) {
	live := c.health.statuses()
	for i, k := range c.health.store.List() {
		if i == healthSeries {
			return
		}
		is := api.HealthOffline
		if st, ok := live[k.Name]; ok {
			is = st.Health
		}
		for _, each := range []api.Health{api.HealthHealthy, api.HealthUnhealthy, api.HealthUnknown, api.HealthOffline} {
			value := 0.0
			if each == is {
				value = 1
			}
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, value, k.Name, string(each))
		}
	}
}
