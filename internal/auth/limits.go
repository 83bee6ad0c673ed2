package auth

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// LoginLimits bound how often strangers may try anything, on this replica:
// logins, links and console logins that are not known, each by itself. They come
// before any work and any write. What is 0 is as the functions below say.
type LoginLimits struct {
	PerNetworkMinute int // of a /24 or /64
	NetworkBurst     int
	PerWideMinute    int // of a /16 or /48
	WideBurst        int
	PerSecond        int // all networks together
	Burst            int
	Networks         int // of each size remembered at most
}

// keptShare of the logins is kept for networks from which the very user has
// logged in lately: a botnet takes the rest, not these.
const keptShare = 0.2

// limiter counts tries per network, per wide network (so that who has a /48, as
// every customer of some providers does, or a /16, does not use up what there is
// for all), and in all.
type limiter struct {
	mu             sync.Mutex
	networks, wide *buckets
	open           *rate.Limiter
	kept           *rate.Limiter
}

// The rates of what strangers do by logging in. What is not named is that of logins
// with a password, of which each costs a derivation and may be a guess.
func guessLimits() LoginLimits {
	return LoginLimits{
		PerNetworkMinute: 20, NetworkBurst: 40, PerWideMinute: 120, WideBurst: 60, PerSecond: 50, Burst: 100, Networks: 8192,
	}
}

// ssoStartLimits are of logins begun at an identity provider. One costs a signature at
// most, writes nothing and proves nothing, and a whole office comes from one address.
func ssoStartLimits() LoginLimits {
	return LoginLimits{PerNetworkMinute: 120, NetworkBurst: 240, PerWideMinute: 600, WideBurst: 600}
}

// ssoAnswerLimits are of what is brought back from an identity provider and refused. One
// costs a call of the provider or a verification, and a line in the log.
func ssoAnswerLimits() LoginLimits {
	return LoginLimits{PerNetworkMinute: 60, NetworkBurst: 120, PerWideMinute: 300, WideBurst: 300}
}

// consoleStartLimits are of logins of tsh that no password approves here, or that a code
// must be typed for. One costs a record for ten minutes, of which there are maxConsoles.
func consoleStartLimits() LoginLimits {
	return LoginLimits{PerNetworkMinute: 60, NetworkBurst: 120, PerWideMinute: 300, WideBurst: 300}
}

// or fills in what is not set.
func (o LoginLimits) or(d LoginLimits) LoginLimits {
	for _, f := range []struct {
		v *int
		d int
	}{
		{&o.PerNetworkMinute, d.PerNetworkMinute},
		{&o.NetworkBurst, d.NetworkBurst},
		{&o.PerWideMinute, d.PerWideMinute},
		{&o.WideBurst, d.WideBurst},
		{&o.PerSecond, d.PerSecond},
		{&o.Burst, d.Burst},
		{&o.Networks, d.Networks},
	} {
		if *f.v <= 0 {
			*f.v = f.d
		}
	}
	return o
}

func newLimiter(o LoginLimits, kept float64) *limiter {
	o = o.or(guessLimits())
	share := func(part float64) *rate.Limiter {
		return rate.NewLimiter(rate.Limit(part*float64(o.PerSecond)), int(part*float64(o.Burst)+0.5))
	}
	return &limiter{
		networks: newBuckets(o.PerNetworkMinute, o.NetworkBurst, o.Networks),
		wide:     newBuckets(o.PerWideMinute, o.WideBurst, o.Networks),
		open:     share(1 - kept), kept: share(kept),
	}
}

// allow takes one try of the address's network, then one of the wide network,
// then one of all. A known network takes none of the wide one's, which its
// neighbours may have used up, and what is kept when the rest is gone. An
// address that is not valid is the unix socket's: it is exempt.
func (l *limiter) allow(addr netip.Addr, now time.Time, known bool) error {
	if !addr.IsValid() {
		return nil
	}
	network := NetworkOf(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.networks.allow(network, now) || !known && !l.wide.allow(wideNetworkOf(network), now) {
		return errNetworkLimited()
	}
	if !l.open.AllowN(now, 1) && !(known && l.kept.AllowN(now, 1)) {
		return errAllLimited()
	}
	return nil
}

// giveBack undoes what allow took of an address that is not known.
func (l *limiter) giveBack(addr netip.Addr, now time.Time) {
	if !addr.IsValid() {
		return
	}
	network := NetworkOf(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range []*rate.Limiter{l.networks.of(network), l.wide.of(wideNetworkOf(network)), l.open} {
		one.AllowN(now, -1) // never more than the burst: tokens are capped when they are next counted
	}
}

// left says what allow would, and takes nothing.
func (l *limiter) left(addr netip.Addr, now time.Time, known bool) error {
	if !addr.IsValid() {
		return nil
	}
	network := NetworkOf(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.networks.left(network, now) || !known && !l.wide.left(wideNetworkOf(network), now) {
		return errNetworkLimited()
	}
	if l.open.TokensAt(now) < 1 && !(known && l.kept.TokensAt(now) >= 1) {
		return errAllLimited()
	}
	return nil
}

func errNetworkLimited() error {
	return api.Errorf(api.CodeRateLimited, "too many attempts from your network: wait a minute")
}

func errAllLimited() error {
	return api.Errorf(api.CodeRateLimited, "too many attempts at this moment: try again in a few seconds")
}

// wideNetworkOf is the /48 of a /64, the /16 of a /24.
func wideNetworkOf(network netip.Prefix) netip.Prefix {
	bits := 48
	if network.Addr().Is4() {
		bits = 16
	}
	return netip.PrefixFrom(network.Addr(), bits).Masked()
}

// buckets are the limits of the networks seen most recently. Forgetting one
// resets its limit; the limits above it stand regardless.
type buckets struct {
	limit rate.Limit
	burst int
	seen  *recent[netip.Prefix, rate.Limiter]
}

func newBuckets(perMinute, burst, most int) *buckets {
	return &buckets{rate.Limit(float64(perMinute) / 60), burst, newRecent[netip.Prefix, rate.Limiter](most)}
}

func (b *buckets) allow(network netip.Prefix, now time.Time) bool {
	return b.of(network).AllowN(now, 1)
}

func (b *buckets) left(network netip.Prefix, now time.Time) bool {
	return b.of(network).TokensAt(now) >= 1
}

func (b *buckets) of(network netip.Prefix) *rate.Limiter {
	return b.seen.get(network, func() *rate.Limiter { return rate.NewLimiter(b.limit, b.burst) })
}

// networks are those that have shown a good proof lately, so many at most.
type networks struct {
	mu   sync.Mutex
	seen *recent[netip.Prefix, struct{}]
}

const maxNetworks = 8192

func newNetworks() *networks {
	return &networks{seen: newRecent[netip.Prefix, struct{}](maxNetworks)}
}

func (n *networks) add(network netip.Prefix) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen.get(network, func() *struct{} { return &struct{}{} })
}

func (n *networks) has(network netip.Prefix) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen.has(network)
}

// recent remembers the values that were asked for most recently, so many of
// them and no more.
type recent[K comparable, V any] struct {
	most  int
	items map[K]*list.Element // of recentItem[K, V]
	order *list.List
}

type recentItem[K comparable, V any] struct {
	key   K
	value *V
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{most, map[K]*list.Element{}, list.New()}
}

// get gives the value of a key, a new one if it is not remembered.
func (r *recent[K, V]) get(key K, fresh func() *V) *V {
	if el, ok := r.items[key]; ok {
		r.order.MoveToFront(el)
		return el.Value.(recentItem[K, V]).value
	}
	value := fresh()
	r.items[key] = r.order.PushFront(recentItem[K, V]{key, value})
	if r.order.Len() > r.most {
		oldest := r.order.Back()
		delete(r.items, oldest.Value.(recentItem[K, V]).key)
		r.order.Remove(oldest)
	}
	return value
}

// has says whether there is a value, which is as recent as before.
func (r *recent[K, V]) has(key K) bool {
	_, ok := r.items[key]
	return ok
}

func (r *recent[K, V]) len() int { return r.order.Len() }
