package server

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/proxy/tunnel"
)

// labelKeeper has the leader write the labels of Kubernetes clusters: those that the
// agents which are connected, to whichever replica, say now. Roles are given by
// labels, so nobody's word outlives him, and one writer decides between several.
type labelKeeper struct {
	log   *slog.Logger
	clock func() time.Time

	tunnels labelSource
	store   labelStore
}

// labelSource are what agents say; a *tunnel.Tunnels.
type labelSource interface {
	Labels() map[string]tunnel.Labels
	Changed() <-chan struct{}
}

// labelStore is what roles go by; an *auth.KubeClusters.
type labelStore interface {
	AllLabels() map[string]map[string]string // by cluster
	SetLabels(ctx context.Context, agentID, name string, labels map[string]string) error
}

const (
	labelPause  = 250 * time.Millisecond // for many agents that come at once
	labelWrites = 8                      // at once: Raft puts them into one batch
)

// keep is the leader's duty, until ctx ends.
func (l *labelKeeper) keep(ctx context.Context) error {
	d := labelDuty{labelKeeper: l, since: l.clock(), heard: map[string]*heardLabels{}}
	for ctx.Err() == nil {
		changed := l.tunnels.Changed()
		next := d.write(ctx)
		if !waitFor(ctx, changed, next) || !pauseFor(ctx, labelPause) {
			return nil
		}
	}
	return nil
}

// waitFor waits for a change, at most so long; false if ctx ended first.
func waitFor(ctx context.Context, changed <-chan struct{}, atMost time.Duration) bool {
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	case <-t.C:
	}
	return true
}

// labelDuty is one leadership's.
type labelDuty struct {
	*labelKeeper
	since time.Time               // of the leadership
	heard map[string]*heardLabels // by cluster
}

// heardLabels are what a cluster's agents say.
type heardLabels struct {
	said   tunnel.Labels // of the agent whose word counts
	gone   time.Time     // since when that agent is missing; zero: it is not
	differ bool          // the log was told so
	failed string        // what the log was told
}

// write gives clusters the labels that their agents say, and returns when to look again.
func (d *labelDuty) write(ctx context.Context) (next time.Duration) {
	now, said := d.clock(), d.tunnels.Labels()
	next = lookEvery
	for name, h := range d.heard {
		if _, ok := said[name]; ok {
			continue
		}
		if h.gone.IsZero() {
			h.gone = now
		} else if now.Sub(h.gone) >= goneAfter {
			delete(d.heard, name)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, labelWrites)
	for name, stored := range d.store.AllLabels() {
		is, ok := said[name]
		if !ok {
			continue // the last ones stay
		}
		same := maps.Equal(stored, is.Labels)
		h := d.heard[name]
		if h == nil {
			// Not all replicas may have told a new leader yet who is there.
			if wait := goneAfter - now.Sub(d.since); wait > 0 && !same && len(stored) > 0 {
				next = min(next, wait)
				continue
			}
			h = &heardLabels{said: is}
			d.heard[name] = h
		}
		d.tellDiffer(name, h, is)
		if wait := h.listen(is, now); wait > 0 {
			next = min(next, wait)
			continue
		}
		if same {
			continue
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			err := d.store.SetLabels(ctx, is.Agent, name, is.Labels)
			if ctx.Err() == nil {
				d.tellFailed(name, h, is.Agent, err)
			}
		})
	}
	return next
}

// listen takes over what is said now, unless that is because somebody whose word goes
// over it has just gone: most likely he comes back, and who may come in must not hang
// on a hiccup of a network. It returns how long to wait yet.
func (h *heardLabels) listen(is tunnel.Labels, now time.Time) time.Duration {
	if cmp.Or(is.Started.Compare(h.said.Started), strings.Compare(h.said.Agent, is.Agent)) < 0 {
		if h.gone.IsZero() {
			h.gone = now
		}
		if wait := goneAfter - now.Sub(h.gone); wait > 0 {
			return wait
		}
	}
	h.said, h.gone = is, time.Time{}
	return 0
}

func (d *labelDuty) tellDiffer(name string, h *heardLabels, is tunnel.Labels) {
	differ := len(is.Others) > 0
	if differ && !h.differ {
		d.log.Warn("the agents of a Kubernetes cluster say different labels: those of the agent that started last count",
			"kube_cluster", name, "agent", is.Agent, "others", is.Others)
	}
	h.differ = differ
}

func (d *labelDuty) tellFailed(name string, h *heardLabels, agent string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != h.failed {
		d.log.Warn("the labels of a Kubernetes cluster could not be written; trying again", "kube_cluster", name, "agent", agent, "error", err)
	}
	h.failed = text
}
