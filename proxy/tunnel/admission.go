package tunnel

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	minRetryAfter = 500 * time.Millisecond
	maxRetryAfter = 30 * time.Second
	maxAdmitting  = 64 // hellos that the Gate is asked about at once
)

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
