package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Redeem gives the certificate to who holds code and verifier, once: of a headless
// login, the verifier alone. Everything wrong counts as a try, before the approval
// too; the last try ends the login.
func (c *Consoles) Redeem(ctx context.Context, req api.ConsoleRedeemRequest, addr netip.Addr) (*api.LoginResponse, error) {
	if err := checkVerifier(req.CodeVerifier); err != nil {
		return nil, err
	}
	rec, err := c.lookup(ctx, req.ID, addr)
	if err != nil {
		return nil, err
	}
	if rec.Over != nil {
		if rec.Over.Denied || !rec.begunWith(req.CodeVerifier) {
			return nil, errNoConsole()
		}
		return nil, rec.Over.err()
	}
	if !rec.opens(req) {
		if rec, err = c.judgeAgain(ctx, rec, req, addr); err != nil {
			return nil, err
		}
	}
	// Judged again in the transaction, whose check holds the count of tries.
	resp, err := c.login.Issue(ctx, *rec.Proof, rec.PublicKey, rec.TTL, addr, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := getConsole(v, req.ID)
		switch {
		case err != nil:
			return fsm.Txn{}, err
		case !rec.opens(req):
			return fsm.Txn{}, errConsoleWrong()
		}
		p, err := c.access.Cookie(v, *rec.Proof)
		if err == nil {
			err = rec.suits(p) // replicas of versions before connectors approve without it
		}
		return fsm.Txn{Checks: []fsm.Check{consoles.Unchanged(stored)}, Ops: []fsm.Op{fsm.Delete(stored.Key)}}, err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func checkVerifier(verifier string) error {
	if n := len(verifier); n < 43 || n > 128 {
		return api.Errorf(api.CodeInvalid, "code_verifier: want 43 to 128 characters (RFC 7636, section 4.1)")
	}
	return nil
}

// begunWith says whether a verifier is that of whoever began the login.
func (r *consoleRecord) begunWith(verifier string) bool {
	return subtle.ConstantTimeCompare(r.Challenge, hash(verifier)) == 1
}

// opens says whether code and verifier are the right ones, in the same time for
// all that are not. A headless login has no code, and no other does without: one that
// has was approved by a click, at a replica that knows of no headless logins.
func (r *consoleRecord) opens(req api.ConsoleRedeemRequest) bool {
	code := r.CodeHash
	switch {
	case r.Headless && len(code) == 0:
		code = hash("")
	case r.Headless, len(code) != sha256.Size:
		code = make([]byte, sha256.Size) // the hash of nothing known
	}
	right := subtle.ConstantTimeCompare(code, hash(req.Code))
	right &= subtle.ConstantTimeCompare(r.Challenge, hash(req.CodeVerifier))
	return right == 1 && r.Proof != nil
}

// judgeAgain asks the leader about a code that seems wrong, as this replica may not
// know of the approval yet, and counts the try if it is. Asking and counting cost the
// others something, so both take a try of the limit's: who may begin so many logins
// may not do five times as much by guessing at them.
//
// A try that the limit refuses is counted all the same, in memory, and the last of
// them ends the login: one write for a login whose start the limit allowed. The first
// of them may ask the leader, so that strangers who have used up the limit do not
// spoil the right code.
func (c *Consoles) judgeAgain(ctx context.Context, rec *consoleRecord, req api.ConsoleRedeemRequest, addr netip.Addr) (*consoleRecord, error) {
	limited := c.limiter.allow(addr, c.base.db.View().Now(), false)
	refused := c.countRefused(req.ID, limited != nil)
	if limited == nil || refused == 1 {
		if err := c.base.db.Linearize(ctx); err != nil {
			return nil, err
		}
		var err error
		if rec, _, err = getConsole(c.base.db.View(), req.ID); err != nil || rec.opens(req) {
			return rec, err
		}
	}
	right := func(rec *consoleRecord) bool { return rec.opens(req) }
	return nil, c.countWrong(ctx, req.ID, addr, rec, limited, refused, right)
}

// countWrong counts a wrong try, in memory if the limit refuses it.
func (c *Consoles) countWrong(ctx context.Context, id string, addr netip.Addr, rec *consoleRecord, limited error, refused int, right func(*consoleRecord) bool) error {
	switch {
	case limited == nil:
		return c.writeWrong(ctx, id, addr, refused+1, right)
	case rec.Tries+refused >= consoleTries:
		return c.writeWrong(ctx, id, addr, refused, right)
	default:
		return limited
	}
}

// countRefused says how many tries at a login were refused, with one more if more.
func (c *Consoles) countRefused(id string, more bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.refused.get(id, func() *int { return new(int) })
	if more {
		*n++
	}
	return *n
}

// writeWrong counts a wrong try, or ends the login if those that are not in its record
// yet (this one, and those refused before) are the last it had.
func (c *Consoles) writeWrong(ctx context.Context, id string, addr netip.Addr, more int, right func(*consoleRecord) bool) error {
	_, err := c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := getConsole(v, id)
		switch {
		case err != nil:
			return fsm.Txn{}, err
		case right(rec): // approved since it was judged
			return fsm.Txn{}, api.Errorf(api.CodeRateLimited, "the login was approved at this moment: try again")
		case rec.Over != nil:
			return fsm.Txn{}, errNoConsole()
		case rec.Tries+more >= consoleTries:
			return c.end(ctx, v, rec, stored, Actor{Addr: addr}, "wrong code or verifier, too often", nil)
		}
		next := *rec
		next.Tries++
		return rewrite(stored, &next, rec.Expires.Sub(v.Now()))
	})
	if err != nil {
		return err
	}
	return errConsoleWrong()
}

func hash(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}
