package tunnel

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// What people are told of a cluster whose agents are not of one mind.
const (
	reasonSplit  = "its agents reach different API servers: only those that joined first are used; give the others another --kube-cluster-name"
	reasonLabels = "its agents say different labels"
)

// verdict is about the routes of a cluster together.
type verdict struct {
	usable []*route // that lead to one and the same cluster
	split  bool     // others don't
	differ bool     // what their agents say of its labels
}

// changed has the routes of a cluster judged anew before they are used next: once, not
// for each of thousands that come in one frame, nor for each request. Under Tunnels.mu.
func (rs *routes) changed(name string) {
	rs.kubes[name].judged.Store(nil)
	rs.untold[name] = struct{}{}
}

// verdict judges the routes of a cluster, if that has not been done since they changed.
// Under Tunnels.mu, for reading at least: who judges at the same time finds the same.
func (k *kube) verdict(name string) *verdict {
	if v := k.judged.Load(); v != nil {
		return v
	}
	v := &verdict{usable: k.routes}
	if len(k.routes) > 1 {
		if first := k.first(name); first != nil {
			known := first.clusters[name].CAs
			other := func(r *route) bool { return !sameCluster(known, r.clusters[name].CAs) }
			if slices.ContainsFunc(k.routes, other) {
				v.usable, v.split = slices.DeleteFunc(slices.Clone(k.routes), other), true
			}
		}
		best := v.speaker(name)
		v.differ = best != nil && slices.ContainsFunc(v.usable, func(r *route) bool { return r.contradicts(best, name) })
	}
	k.judged.Store(v)
	return v
}

// first is the route to the agent that came first, of those whose cluster can be told:
// every replica finds the same. Nil: there is none.
func (k *kube) first(name string) *route {
	var first *route
	for _, r := range k.routes {
		if len(r.clusters[name].CAs) == 0 {
			continue
		}
		if first == nil || cmp.Or(r.since.Compare(first.since), strings.Compare(r.agent, first.agent), strings.Compare(r.instance, first.instance)) < 0 {
			first = r
		}
	}
	return first
}

// sameCluster holds the CAs of two API servers against each other. They share one even
// while it is being replaced; of one without nothing is known, and nothing is assumed.
func sameCluster(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(sum string) bool { return slices.Contains(b, sum) })
}

// speaker is the route to the agent whose labels count: the process that started last,
// so that new labels can be rolled out. Nil: nobody says any.
func (v *verdict) speaker(name string) *route {
	var best *route
	for _, r := range v.usable {
		if r.clusters[name].Mute {
			continue
		}
		if best == nil || cmp.Or(best.started.Compare(r.started), strings.Compare(r.agent, best.agent), strings.Compare(r.instance, best.instance)) < 0 {
			best = r
		}
	}
	return best
}

// contradicts reports whether another agent than the speaker says other labels. One
// that has just changed its mind may not have told it through all its tunnels.
func (r *route) contradicts(speaker *route, name string) bool {
	said := r.clusters[name]
	return !said.Mute && (r.agent != speaker.agent || r.instance != speaker.instance) && !maps.Equal(said.Labels, speaker.clusters[name].Labels)
}

// Labels are those of a cluster, as its agents say.
type Labels struct {
	Agent   string    // whose word counts
	Started time.Time // when its process did
	Labels  map[string]string
	Others  []string // the agents that say others, in order
}

// Labels are those of all clusters that agents serve through any replica, by name.
// Nobody changes them.
func (t *Tunnels) Labels() map[string]Labels {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make(map[string]Labels, len(t.routes.kubes))
	for name, k := range t.routes.kubes {
		v := k.verdict(name)
		best := v.speaker(name)
		if best == nil {
			continue
		}
		said := Labels{Agent: best.agent, Started: best.started, Labels: best.clusters[name].Labels}
		if v.differ {
			for _, r := range v.usable {
				if r.contradicts(best, name) {
					said.Others = append(said.Others, r.agent)
				}
			}
			slices.Sort(said.Others)
			said.Others = slices.Compact(said.Others)
		}
		all[name] = said
	}
	return all
}

// addProcess adds one, or that it came earlier.
func addProcess(all []process, p process) []process {
	for i := range all {
		if all[i].Instance == p.Instance {
			if p.Since.Before(all[i].Since) {
				all[i].Since = p.Since
			}
			return all
		}
	}
	return append(all, p)
}

// processesLocked are those of an agent that have tunnels to any replica.
func (t *Tunnels) processesLocked(agentID string) []process {
	var all []process
	if own := t.own[agentID]; own != nil {
		all = own.processes()
	}
	for _, l := range t.peers.links {
		if r := l.agents[agentID]; r != nil {
			all = addProcess(all, process{r.instance, r.since})
			for _, p := range r.others {
				all = addProcess(all, p)
			}
		}
	}
	return all
}

// cameLocked is since when a process of an agent has had a tunnel to some replica
// without a gap. An agent that opens a new one before it closes the old is not the
// last to come: which cluster a name stands for must not hang on who renews when.
func (t *Tunnels) cameLocked(agentID, instance string) time.Time {
	came := t.clock().UTC().Round(0) // as peers read it
	for _, p := range t.processesLocked(agentID) {
		if p.Instance == instance && p.Since.Before(came) {
			came = p.Since
		}
	}
	return came
}

// duplicateAfter is for how long two processes of one identity are not worth a word:
// one may have taken the other's place.
const duplicateAfter = time.Minute

// Duplicates are the agents whose identity two processes use at this moment, in order.
func (t *Tunnels) Duplicates() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	now := t.clock()
	seen := make(map[string]string, len(t.own)) // agent: a process
	found := map[string]bool{}
	look := func(agent, instance string, others int) {
		if known, ok := seen[agent]; others > 0 || ok && known != instance {
			found[agent] = true
		}
		seen[agent] = instance
	}
	for id, own := range t.own {
		for _, tun := range own.tunnels {
			look(id, tun.route.instance, 0)
		}
	}
	for _, l := range t.peers.links {
		for id, r := range l.agents {
			look(id, r.instance, len(r.others))
		}
	}
	var ids []string
	for id := range found { // hardly any
		settled := 0
		for _, p := range t.processesLocked(id) {
			if p.Instance != "" && now.Sub(p.Since) > duplicateAfter {
				settled++
			}
		}
		if settled > 1 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// oddities are what the log has been told of agents, once each.
type oddities struct {
	split      map[string]bool // by cluster
	looked     time.Time
	duplicates []string
}

// oddityEvery is how often all agents are looked at.
const oddityEvery = 10 * time.Second

// tell writes what is new to the log.
func (o *oddities) tell(t *Tunnels) {
	o.tellSplits(t)
	now := time.Now()
	if now.Sub(o.looked) < oddityEvery {
		return
	}
	o.looked = now
	duplicates := t.Duplicates()
	for _, id := range duplicates {
		if !slices.Contains(o.duplicates, id) {
			t.log.Warn("two processes use one agent's identity: stop one, remove its data directory (or Secret), and let it join anew; at the next renewal the identity is locked", "agent", id)
		}
	}
	o.duplicates = duplicates
}

func (o *oddities) tellSplits(t *Tunnels) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.routes.untold {
		k := t.routes.kubes[name]
		split := k != nil && k.verdict(name).split
		if split && !o.split[name] {
			if !t.complaints.Allow() {
				continue // until the next time
			}
			var used, unused []string
			for _, r := range k.routes {
				if slices.Contains(k.verdict(name).usable, r) {
					used = append(used, r.agent)
				} else {
					unused = append(unused, r.agent)
				}
			}
			slices.Sort(used)
			slices.Sort(unused)
			t.log.Warn("agents of one Kubernetes cluster's name reach different API servers: only those that joined first are used; give the others another --kube-cluster-name",
				"kube_cluster", name, "used", slices.Compact(used), "unused", slices.Compact(unused))
		}
		if delete(t.routes.untold, name); !split {
			delete(o.split, name)
			continue
		}
		if o.split == nil {
			o.split = map[string]bool{}
		}
		o.split[name] = true
	}
}
