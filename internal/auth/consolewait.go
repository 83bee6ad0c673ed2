package auth

import (
	"context"
	"net/netip"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxConsoleWaits is how many wait for one login at once, on one replica.
const maxConsoleWaits = 2

// Wait says what has become of a login, to who began it: as soon as it is approved or
// over, or after 20 s, or as soon as the context ends, that it still waits for
// somebody. An error is of the call, and not why the login is over. A wrong verifier
// counts as it does for Redeem.
func (c *Consoles) Wait(ctx context.Context, req api.ConsoleWaitRequest, addr netip.Addr) (*api.ConsoleWaitResponse, error) {
	if _, err := c.begun(ctx, req, addr); err != nil {
		return nil, err
	}
	if !c.enter(req.ID) {
		return nil, api.Errorf(api.CodeRateLimited, "%d others wait for this login already", maxConsoleWaits)
	}
	defer c.leave(req.ID)
	return longPoll(ctx, c.base.db, func(v fsm.View) (glance[api.ConsoleWaitResponse], error) {
		_, _, changed := v.Watch(consoles.Key(req.ID))
		rec, _, err := getConsole(v, req.ID)
		if err != nil {
			return glance[api.ConsoleWaitResponse]{}, err
		}
		resp := rec.state()
		return glance[api.ConsoleWaitResponse]{answer: &resp, final: resp.State != api.ConsolePending, changed: changed, expires: rec.Expires}, nil
	})
}

// begun is the login of who has its verifier.
func (c *Consoles) begun(ctx context.Context, req api.ConsoleWaitRequest, addr netip.Addr) (*consoleRecord, error) {
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
	return rec, nil
}

// state is what who began a login is told of it.
func (r *consoleRecord) state() api.ConsoleWaitResponse {
	switch {
	case r.Over != nil:
		return api.ConsoleWaitResponse{State: api.ConsoleFailed, Code: r.Over.Code, Message: r.Over.Message}
	case r.Proof != nil:
		return api.ConsoleWaitResponse{State: api.ConsoleApproved}
	default:
		return api.ConsoleWaitResponse{State: api.ConsolePending}
	}
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
