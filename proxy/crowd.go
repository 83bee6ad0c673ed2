package proxy

import (
	"sync/atomic"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxFlights bounds what one session has under way in one Kubernetes cluster, watches
// with the rest. A tunnel carries a few thousand streams: one user with some
// connections full of watches would take them from all others.
const maxFlights = 1000

// crowdKey names what the bound is for: --as makes no difference.
type crowdKey struct{ session, kube string }

// crowd counts the flights of all grants of a session in a cluster, those that were
// replaced with them.
type crowd struct {
	n      atomic.Int64
	grants int // that count here; guarded by grantShard.mu
}

// enter takes a place, if there is one.
func (c *crowd) enter() bool {
	if c.n.Add(1) > maxFlights {
		c.n.Add(-1)
		return false
	}
	return true
}

func (c *crowd) leave() { c.n.Add(-1) }

// crowdOf is where a grant's flights count. It needs mu.
func (sh *grantShard) crowdOf(key *grantKey) *crowd {
	k := crowdKey{key.session, key.kube}
	c := sh.crowds[k]
	if c == nil {
		c = new(crowd)
		sh.crowds[k] = c
	}
	c.grants++
	return c
}

// disperse ends a grant's part in its crowd. It needs mu.
func (sh *grantShard) disperse(g *grant) {
	if g.crowd.grants--; g.crowd.grants == 0 {
		delete(sh.crowds, crowdKey{g.key.session, g.key.kube})
	}
}

func errTooManyFlights(kube string) error {
	return api.Errorf(api.CodeRateLimited,
		"your session has %d requests to the Kubernetes cluster %q under way, which is as many as it may have: end some (watches and port-forwards count), or try again", maxFlights, kube)
}
