package tunnel

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	minRetryAfter = 500 * time.Millisecond
	maxRetryAfter = 30 * time.Second
	maxAdmitting  = 64 // hellos that the Gate is asked about at once

	networkShare    = 4  // of all handshakes, one part in so many is kept for each network
	maxOfAgentNew   = 8  // sessions with one certificate that have no tunnel yet
	hellosOfAgent   = 10 // of one agent within hellosOfAgentIn: it dials one after the other
	hellosOfAgentIn = 2 * time.Second
)

// handshakes lets TLS handshakes begin at a rate. A ClientHello needs no certificate,
// and whoever sends thousands must not keep all agents from coming back: beyond its
// share a network gets only what nobody else wants, which is all there is where agents
// are behind one address.
type handshakes struct {
	limiter *rate.Limiter
	share   *windows[netip.Prefix]
}

func newHandshakes(perSecond float64) *handshakes {
	return &handshakes{
		limiter: rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))),
		share:   &windows[netip.Prefix]{most: max(1, int(perSecond/networkShare)), length: time.Second},
	}
}

func (h *handshakes) allow(network netip.Prefix, now time.Time) bool {
	h.share.mu.Lock()
	defer h.share.mu.Unlock()
	more := h.share.full(network, now) && network.IsValid()
	if more && h.limiter.TokensAt(now) < float64(h.limiter.Burst())/2 { // kept for the others
		return false
	}
	if !h.limiter.AllowN(now, 1) {
		return false
	}
	h.share.count(network) // only what all together are allowed: the memory is bounded
	return true
}

// windows count by key, so many in each span of time. Guarded by mu.
type windows[K comparable] struct {
	most   int
	length time.Duration

	mu    sync.Mutex
	since time.Time
	n     map[K]int
}

// full reports whether a key has had its part of this span.
func (w *windows[K]) full(key K, now time.Time) bool {
	if w.n == nil || now.Sub(w.since).Abs() >= w.length {
		w.since, w.n = now, make(map[K]int)
	}
	return w.n[key] >= w.most
}

// count comes after full.
func (w *windows[K]) count(key K) { w.n[key]++ }

// newcomers bounds what one agent costs that has no tunnel: one that is locked, or a
// thief of its certificate, may come as often as it likes.
type newcomers struct {
	hellos windows[string]

	mu   sync.Mutex
	here map[string]int // sessions without a tunnel, by certificate
}

func newNewcomers() *newcomers {
	return &newcomers{hellos: windows[string]{most: hellosOfAgent, length: hellosOfAgentIn}, here: make(map[string]int)}
}

// newcomer is by what the hellos of an agent without a tunnel are counted: a
// certificate that is worth nothing names nobody.
func (id *Identity) newcomer() string { return cmp.Or(id.AgentID, id.KeySum) }

// enter counts a session in, unless there are too many. It goes by the certificate: a
// hello with a stolen one locks the agent, but silence must not keep it off.
func (n *newcomers) enter(keySum string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.here[keySum] >= maxOfAgentNew {
		return false
	}
	n.here[keySum]++
	return true
}

func (n *newcomers) leave(keySum string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.here[keySum]--; n.here[keySum] <= 0 {
		delete(n.here, keySum)
	}
}

// hello reports whether an agent's hello is to be judged now.
func (n *newcomers) hello(agentID string, now time.Time) bool {
	n.hellos.mu.Lock()
	defer n.hellos.mu.Unlock()
	if n.hellos.full(agentID, now) {
		return false
	}
	n.hellos.count(agentID) // handshakes are few: the memory is bounded
	return true
}

// admission lets hellos in at a rate, and tells the rest when to come again: in
// the order of a queue that nobody has to stand in.
type admission struct {
	limiter *rate.Limiter
	rate    float64
	random  func() float64
	places  chan struct{}

	mu    sync.Mutex
	queue float64 // how many were sent away and are to come again
	at    time.Time
}

func newAdmission(perSecond float64, random func() float64) *admission {
	return &admission{
		limiter: rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))),
		rate:    perSecond,
		random:  random,
		places:  make(chan struct{}, maxAdmitting),
	}
}

// begin returns what to call when the hello is judged, or nil and how long to stay away.
func (a *admission) begin(now time.Time) (end func(), retryAfter time.Duration) {
	if !a.limiter.AllowN(now, 1) {
		return nil, a.comeBack(now)
	}
	select {
	case a.places <- struct{}{}:
		return func() { <-a.places }, 0
	default:
		return nil, a.comeBack(now)
	}
}

// comeBack puts one more at the end of the queue. The time is spread by half: those
// who were sent away together must not come back together.
func (a *admission) comeBack(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := now.Sub(a.at); d > 0 {
		a.queue = max(0, a.queue-d.Seconds()*a.rate)
		a.at = now
	}
	a.queue++
	wait := time.Duration(a.queue / a.rate * (0.75 + a.random()/2) * float64(time.Second))
	return min(minRetryAfter+wait, maxRetryAfter)
}
