package auth

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// LoginLimits bound how often strangers may try anything (logins, invite
// tokens), per network (/24 or /64) and in all, on this replica. They come
// before any work and any write.
type LoginLimits struct {
	PerNetworkMinute int // 20
	NetworkBurst     int // 40
	PerSecond        int // 50, all networks together
	Burst            int // 100
	Networks         int // remembered at most: 8192
}

// limiter remembers the most recently seen networks. Forgetting one resets its
// limit; the limit over all stands regardless.
type limiter struct {
	perNetwork rate.Limit
	burst      int
	max        int

	mu       sync.Mutex
	all      *rate.Limiter
	networks map[netip.Prefix]*list.Element // of *networkLimit
	recent   *list.List
}

type networkLimit struct {
	network netip.Prefix
	bucket  *rate.Limiter
}

func newLimiter(o LoginLimits) *limiter {
	orDefault := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orDefault(&o.PerNetworkMinute, 20)
	orDefault(&o.NetworkBurst, 40)
	orDefault(&o.PerSecond, 50)
	orDefault(&o.Burst, 100)
	orDefault(&o.Networks, 8192)
	return &limiter{
		perNetwork: rate.Limit(float64(o.PerNetworkMinute) / 60), burst: o.NetworkBurst, max: o.Networks,
		all:      rate.NewLimiter(rate.Limit(o.PerSecond), o.Burst),
		networks: map[netip.Prefix]*list.Element{}, recent: list.New(),
	}
}

// allow takes one try of the address's network, then one of all. An address
// that is not valid is the unix socket's: it is exempt.
func (l *limiter) allow(addr netip.Addr, now time.Time) error {
	if !addr.IsValid() {
		return nil
	}
	network := networkOf(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	el, ok := l.networks[network]
	if ok {
		l.recent.MoveToFront(el)
	} else {
		el = l.recent.PushFront(&networkLimit{network, rate.NewLimiter(l.perNetwork, l.burst)})
		l.networks[network] = el
		if l.recent.Len() > l.max {
			oldest := l.recent.Back()
			delete(l.networks, oldest.Value.(*networkLimit).network)
			l.recent.Remove(oldest)
		}
	}
	if !el.Value.(*networkLimit).bucket.AllowN(now, 1) {
		return api.Errorf(api.CodeRateLimited, "too many attempts from your network: wait a minute")
	}
	if !l.all.AllowN(now, 1) {
		return api.Errorf(api.CodeRateLimited, "too many attempts at this moment: try again in a few seconds")
	}
	return nil
}
