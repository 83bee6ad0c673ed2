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
	over    map[string]int // of each, those that can make room; "": of all
	heldAll int
	held    map[string]int // by those that are under way
}

// take takes room for one of a key, unless there are so many already, and gives how
// many there are; records calls back for every record, and says of each whether it can make
// room. Without room it gives how many of those would help. What was taken must be settled.
func (c *census) take(now time.Time, key string, most, mostOfKey int, records func(count func(key string, over bool))) (all, same, over int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.each == nil || now.Sub(c.at) >= time.Second || now.Before(c.at) {
		c.at, c.all, c.each, c.over = now, 0, map[string]int{}, map[string]int{}
		records(func(key string, over bool) {
			c.all++
			c.each[key]++
			if over {
				c.over[""]++
				c.over[key]++
			}
		})
	}
	all, same = c.all+c.heldAll, c.each[key]+c.held[key]
	if same >= mostOfKey {
		return all, same, c.over[key], false
	}
	if all >= most {
		return all, same, c.over[""], false
	}
	if c.held == nil {
		c.held = map[string]int{}
	}
	c.heldAll++
	c.held[key]++
	return all, same, 0, true
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

// agentRoom bounds what holders of tokens leave in the store. Where there is no room, the
// record of an agent goes that is none any more (see List): the transaction says which.
func (a *Agents) agentRoom(v fsm.View, token string, h *held) (fsm.Txn, error) {
	all, same, over, ok := a.agentCount.take(v.Now(), token, a.maxAgents, a.maxTokenAgents, func(count func(key string, over bool)) {
		for _, rec := range agents.List(v) {
			of := ""
			if rec != nil {
				of = rec.Token
			}
			count(of, rec.over(v.Now()))
		}
	})
	if ok {
		h.token = token
		h.agents++
		return fsm.Txn{}, nil
	}
	for stored, rec := range agents.List(v) {
		if over == 0 {
			break // to look at all for nothing takes long
		}
		if rec.over(v.Now()) && (rec.Token == token || same < a.maxTokenAgents) {
			return fsm.Txn{Checks: []fsm.Check{agents.Unchanged(stored)}, Ops: []fsm.Op{fsm.Delete(stored.Key)}}, nil
		}
	}
	return fsm.Txn{}, api.Errorf(api.CodeRateLimited, "there are %d agents, %d of them by this token, and no more are let in: remove those that are gone (tctl nodes rm)", all, same)
}

// clusterRoom is room for a name of a Kubernetes cluster, which a token's agents own.
func (a *Agents) clusterRoom(v fsm.View, owner string, h *held) error {
	all, same, _, ok := a.clusterCount.take(v.Now(), owner, a.maxClusters, a.maxTokenClusters, func(count func(key string, over bool)) {
		for _, cluster := range kubeClusters.List(v) {
			of := ""
			if cluster != nil {
				of = cluster.Owner
			}
			count(of, false)
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
