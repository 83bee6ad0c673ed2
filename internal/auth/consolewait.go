package auth

import (
	"context"
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	consoleWait     = 20 * time.Second // less than what proxies between cut off
	maxConsoleWaits = 2                // of one login at once, on one replica
)

// Wait says what has become of a login, to who began it: as soon as it is approved or
// over, or after 20 s, or as soon as the context ends, that it still waits for
// somebody. Why it is over is the error. A wrong verifier counts as it does for Redeem.
func (c *Consoles) Wait(ctx context.Context, req api.ConsoleWaitRequest, addr netip.Addr) (*api.ConsoleWaitResponse, error) {
	if err := checkVerifier(req.CodeVerifier); err != nil {
		return nil, err
	}
	rec, err := c.lookup(ctx, req.ID, addr)
	if err != nil {
		return nil, err
	}
	if !rec.begunWith(req.CodeVerifier) {
		limited := c.limiter.allow(addr, c.base.db.View().Now(), false)
		refused := c.countRefused(req.ID, limited != nil)
		return nil, c.countWrong(ctx, req.ID, addr, rec, limited, refused, func(*consoleRecord) bool { return false })
	}
	if !c.enter(req.ID) {
		return nil, api.Errorf(api.CodeRateLimited, "%d others wait for this login already", maxConsoleWaits)
	}
	defer c.leave(req.ID)
	return c.await(ctx, req.ID)
}

// await looks at the login each time it changes.
func (c *Consoles) await(ctx context.Context, id string) (*api.ConsoleWaitResponse, error) {
	deadline := c.base.db.View().Now().Add(consoleWait)
	for {
		v := c.base.db.View()
		rec, changed, err := watchConsole(v, id)
		switch {
		case err != nil:
			return nil, err
		case rec.Over != nil:
			return nil, rec.Over.err()
		case rec.Proof != nil:
			return &api.ConsoleWaitResponse{State: api.ConsoleApproved}, nil
		case ctx.Err() != nil || !v.Now().Before(deadline):
			return &api.ConsoleWaitResponse{State: api.ConsolePending}, nil //nolint:nilerr // the tool asks again, another replica if this one stops
		}
		until := deadline
		if rec.Expires.Before(until) {
			until = rec.Expires
		}
		// What it returns for is what the next look finds.
		_, _ = waitAny(ctx, []<-chan struct{}{changed}, until.Sub(v.Now()))
	}
}

// watchConsole is getConsole with the channel that tells of a change.
func watchConsole(v fsm.View, id string) (*consoleRecord, <-chan struct{}, error) {
	_, _, changed := v.Watch(consoles.Key(id))
	rec, _, err := getConsole(v, id)
	return rec, changed, err
}

func (c *Consoles) enter(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits[id] >= maxConsoleWaits {
		return false
	}
	c.waits[id]++
	return true
}

func (c *Consoles) leave(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits[id]--; c.waits[id] == 0 {
		delete(c.waits, id)
	}
}
