package auth

import (
	"context"
	"crypto/subtle"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// ConsoleAnswer is what becomes of a login when a person has answered it.
type ConsoleAnswer struct {
	Redirect string // where to send the browser, which tells the tool; "": see Headless
	Headless bool   // the tool is told by nobody: it waits and learns
}

// Approve lets a login go on as the user of a web session. The code of a headless login
// must be typed as the terminal shows it. The session must be fresh, and of the connector that
// the login names: otherwise the answer is CodeUnauthenticated. CodeInvalid: the code is
// another.
func (c *Consoles) Approve(ctx context.Context, web pki.UserIdentity, id, typed string, from Actor) (ConsoleAnswer, error) {
	if _, err := c.lookup(ctx, id, from.Addr); err != nil {
		return ConsoleAnswer{}, err
	}
	code, err := c.base.random(consoleBytes)
	if err != nil {
		return ConsoleAnswer{}, err
	}
	var (
		answer ConsoleAnswer
		wrong  error
	)
	_, err = c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		wrong = nil
		p, err := c.access.fresh(v, web)
		if err != nil {
			return fsm.Txn{}, err
		}
		rec, stored, err := getConsole(v, id)
		if err == nil {
			err = rec.waiting()
		}
		if err == nil {
			err = rec.suits(p)
		}
		if err != nil {
			return fsm.Txn{}, err
		}
		if rec.Headless && plainCode(typed) == "" {
			return fsm.Txn{}, api.Errorf(api.CodeInvalid, "type the code that the terminal shows; if you see no such code, refuse the login")
		}
		if rec.Headless && !sameCode(typed, api.MatchCode(rec.PublicKey)) {
			var txn fsm.Txn
			txn, wrong, err = c.mistyped(ctx, v, rec, stored, from)
			return txn, err
		}
		next := *rec
		left := min(rec.Expires.Sub(v.Now()), consoleCodeTTL)
		next.Expires, next.Proof = v.Now().Add(left), &web
		if answer.Headless = rec.Headless; !rec.Headless {
			next.CodeHash = hash(code)
			answer.Redirect = rec.Redirect + "?" + url.Values{"id": {id}, "code": {code}}.Encode()
		}
		return rewrite(stored, &next, left)
	})
	if err == nil {
		err = wrong
	}
	if err != nil {
		return ConsoleAnswer{}, err
	}
	return answer, nil
}

// suits says whether a login is for who is logged in, and as they are.
func (r *consoleRecord) suits(p *Principal) error {
	by := p.Connector
	if by == "" {
		by = api.AuthLocal
	}
	switch {
	case r.Connector != "" && by != r.Connector:
		how := "with that connector"
		if r.Connector == api.AuthLocal {
			how = "with a password"
		}
		return api.Errorf(api.CodeUnauthenticated, "this login was begun with --auth=%s: log in %s to approve it", r.Connector, how)
	case r.User != "" && r.User != p.User:
		return api.Errorf(api.CodeForbidden, "this login was begun for user %q, and you are logged in as %q: log out first", r.User, p.User)
	default:
		return nil
	}
}

// sameCode compares a code that a person typed: case, dashes and spaces do not matter.
func sameCode(typed, want string) bool {
	return subtle.ConstantTimeCompare([]byte(strings.ToUpper(plainCode(typed))), []byte(plainCode(want))) == 1
}

func plainCode(code string) string { return strings.NewReplacer("-", "", " ", "").Replace(code) }

// mistyped counts a code that was typed wrong, in the record, so that it counts on
// all replicas. The last one ends the login.
func (c *Consoles) mistyped(ctx context.Context, v fsm.View, rec *consoleRecord, stored *fsm.Record, from Actor) (txn fsm.Txn, answer, err error) {
	next := *rec
	next.Typed++
	if left := consoleTries - next.Typed; left > 0 {
		txn, err = rewrite(stored, &next, rec.Expires.Sub(v.Now()))
		return txn, api.Errorf(api.CodeInvalid, "this is not the code that the terminal shows (%d tries are left): if you see no such code, refuse the login", left), err
	}
	const reason = "the code was typed wrong too often"
	txn, err = c.end(ctx, v, rec, stored, from, reason, &consoleOver{Code: api.CodeForbidden, Message: reason})
	return txn, api.Errorf(api.CodeConflict, "%s: this login is over", reason), err
}

// rewrite gives the transaction that changes a login which lives for that long.
func rewrite(stored *fsm.Record, next *consoleRecord, left time.Duration) (fsm.Txn, error) {
	op, err := consoles.Update(stored, next, max(left.Round(time.Millisecond), time.Millisecond))
	return fsm.Txn{Checks: []fsm.Check{consoles.Unchanged(stored)}, Ops: []fsm.Op{op}}, err
}

// Deny ends a login, approved or not.
func (c *Consoles) Deny(ctx context.Context, id string, from Actor) (ConsoleAnswer, error) {
	if _, err := c.lookup(ctx, id, from.Addr); err != nil {
		return ConsoleAnswer{}, err
	}
	var answer ConsoleAnswer
	_, err := c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := getConsole(v, id)
		if err == nil && rec.Over != nil {
			err = rec.waiting()
		}
		if err != nil {
			return fsm.Txn{}, err
		}
		if answer.Headless = rec.Headless; !rec.Headless {
			answer.Redirect = rec.Redirect + "?" + url.Values{"error": {"denied"}, "id": {id}}.Encode()
		}
		return c.end(ctx, v, rec, stored, from, "refused in the browser", &consoleOver{
			Code: api.CodeForbidden, Message: "the login was refused in the browser", Denied: true,
		})
	})
	return answer, err
}

// fail gives the transaction that tells a login why whoever was to approve it could
// not log in. It is empty if the login waits for nobody any more, or might as well be
// approved by who logs in in another way.
func (c *Consoles) fail(v fsm.View, st *SSOState, code api.Code, message string) (fsm.Txn, error) {
	rec, stored, err := getConsole(v, st.Console)
	if err != nil || rec.waiting() != nil || rec.Connector != st.Connector {
		return fsm.Txn{}, nil //nolint:nilerr // nobody to tell
	}
	return rec.over(v, stored, &consoleOver{Code: code, Message: message})
}

// over gives the transaction that ends a login, and keeps why. Nothing is left of it
// that could be redeemed.
func (r *consoleRecord) over(v fsm.View, stored *fsm.Record, why *consoleOver) (fsm.Txn, error) {
	next := *r
	next.CodeHash, next.Proof = nil, nil
	next.Over, next.Expires = why, v.Now().Add(consoleOverTTL)
	return rewrite(stored, &next, consoleOverTTL)
}

// end ends a login with an event; without why nothing is kept of it.
func (c *Consoles) end(ctx context.Context, v fsm.View, rec *consoleRecord, stored *fsm.Record, from Actor, reason string, why *consoleOver) (fsm.Txn, error) {
	txn := fsm.Txn{Checks: []fsm.Check{consoles.Unchanged(stored)}, Ops: []fsm.Op{fsm.Delete(stored.Key)}}
	if why != nil {
		var err error
		if txn, err = rec.over(v, stored, why); err != nil {
			return fsm.Txn{}, err
		}
	}
	fields := map[string]any{"method": "console", "success": false, "error": reason}
	if rec.Addr != "" {
		fields["begun_at"] = rec.Addr
	}
	switch {
	case from.User != "":
	case rec.Proof != nil:
		from.User = rec.Proof.User
	default:
		from.User = rec.User
	}
	line, err := c.base.event(ctx, v, api.EventUserLogin, api.EventCodeUserLoginRefused, from, fields)
	txn.Events = [][]byte{line}
	return txn, err
}
