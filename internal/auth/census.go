package auth

import (
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// census counts records once a second: counting at each of many joins would take
// longer the more there are. What was let in since counts too, and what is under way,
// so that this replica keeps the bounds. What others let in within the same second is
// not known: with N replicas a bound may be passed by what N-1 let in until then, which
// is N times the bound at most.
type census struct {
	mu      sync.Mutex
	at      time.Time
	all     int
	each    map[string]int
	heldAll int
	held    map[string]int // by those that are under way
}

// take takes room for one of a key, unless there are so many already, and gives how
// many there are; records calls back for every record. What was taken must be settled.
func (c *census) take(now time.Time, key string, most, mostOfKey int, records func(count func(key string))) (all, same int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.each == nil || now.Sub(c.at) >= time.Second || now.Before(c.at) {
		c.at, c.all, c.each = now, 0, map[string]int{}
		records(func(key string) {
			c.all++
			c.each[key]++
		})
	}
	all, same = c.all+c.heldAll, c.each[key]+c.held[key]
	if all >= most || same >= mostOfKey {
		return all, same, false
	}
	if c.held == nil {
		c.held = map[string]int{}
	}
	c.heldAll++
	c.held[key]++
	return all, same, true
}

// settle ends what take began, for so many of a key.
func (c *census) settle(key string, n int, done bool) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heldAll -= n
	if c.held[key] -= n; c.held[key] == 0 {
		delete(c.held, key)
	}
	if done { // counted twice, perhaps, until the next count
		c.all += n
		c.each[key] += n
	}
}

// held is the room that a join or a hello has taken until its outcome is known.
type held struct {
	token            string
	agents, clusters int
}

func (h *held) settle(a *Agents, done bool) {
	a.agentCount.settle(h.token, h.agents, done)
	a.clusterCount.settle(h.token, h.clusters, done)
	*h = held{}
}

// committed says whether a transaction with this outcome may be in the store.
func committed(err error) bool { return err == nil || api.IsCode(err, api.CodeAmbiguous) }

// agentRoom bounds what holders of tokens leave in the store.
func (a *Agents) agentRoom(v fsm.View, token string, h *held) error {
	all, same, ok := a.agentCount.take(v.Now(), token, a.maxAgents, a.maxTokenAgents, func(count func(key string)) {
		for _, rec := range agents.List(v) {
			of := ""
			if rec != nil {
				of = rec.Token
			}
			count(of)
		}
	})
	if !ok {
		return api.Errorf(api.CodeRateLimited, "there are %d agents, %d of them by this token, and no more are let in: remove those that are gone (tctl nodes rm)", all, same)
	}
	h.token = token
	h.agents++
	return nil
}

// clusterRoom is room for a name of a Kubernetes cluster, which a token's agents own.
func (a *Agents) clusterRoom(v fsm.View, owner string, h *held) error {
	all, same, ok := a.clusterCount.take(v.Now(), owner, a.maxClusters, a.maxTokenClusters, func(count func(key string)) {
		for _, cluster := range kubeClusters.List(v) {
			of := ""
			if cluster != nil {
				of = cluster.Owner
			}
			count(of)
		}
	})
	if !ok {
		return api.Errorf(api.CodeRateLimited, "there are %d Kubernetes clusters, %d of agents of this token, and no more are let in (%d, and %d by one token): remove those that are gone (tctl kube rm), or use another token",
			all, same, a.maxClusters, a.maxTokenClusters)
	}
	h.token = owner
	h.clusters++
	return nil
}
