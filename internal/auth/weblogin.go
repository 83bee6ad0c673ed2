package auth

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// Challenge is what is left to prove after the right password.
type Challenge struct {
	User     string          `json:"user"`
	State    string          `json:"state"`              // sealed; good for 5 minutes and one use
	Methods  []string        `json:"methods,omitempty"`  // api.FactorTOTP, api.FactorWebAuthn: any one of them; empty: none is needed
	WebAuthn json.RawMessage `json:"webauthn,omitempty"` // PublicKeyCredentialRequestOptions in JSON; nil without passkeys
}

// WebSession is a login in a browser.
type WebSession struct {
	Cookie   string // the cookie's value: see WebIdentity
	Identity pki.UserIdentity
	Expires  time.Time
}

// Begin is the first step of a login in a browser: the password, judged as
// Password judges it. A right one writes nothing, and neither counts nor clears
// failures: that is for the second step.
func (l *Login) Begin(ctx context.Context, user, password string, addr netip.Addr) (*Challenge, error) {
	if err := l.limit(user, addr); err != nil {
		return nil, err
	}
	if err := checkShape(user, password); err != nil {
		return nil, err
	}
	t := try{user, password, addr, errRefused()}
	var c *Challenge
	err := l.prove(ctx, t, func(proof *fsm.Record) error {
		if err := l.unlocked(ctx, t, nil); err != nil {
			return err
		}
		v := l.base.db.View()
		life, found, err := userLife(v, user)
		if err != nil {
			return err
		}
		if now, ok := v.Get(proof.Key); !found || !ok || now.Revision != proof.Revision {
			return errRefused()
		}
		c, err = l.factors.challenge(v, life, stateLogin, strconv.FormatUint(proof.Revision, 10))
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// challenge makes what a user must answer, for a purpose and what it is bound to.
func (f *Factors) challenge(v fsm.View, life *fsm.Record, purpose statePurpose, bound string) (*Challenge, error) {
	p, u, err := f.standing(v, life)
	if err != nil {
		return nil, err
	}
	c := &Challenge{User: u.user}
	if c.Methods, err = u.methods(p); err != nil {
		return nil, err
	}
	s, err := f.base.newState(v, life, bound, loginStateTTL)
	if err != nil {
		return nil, err
	}
	if slices.Contains(c.Methods, api.FactorWebAuthn) {
		rp, err := f.relyingParty(p)
		if err != nil {
			return nil, err
		}
		if c.WebAuthn, s.Challenge, err = beginAssertion(rp, u.passkeys(p, false)); err != nil {
			return nil, err
		}
	}
	c.State, err = f.keys.sealState(v, purpose, s)
	return c, err
}

// Web is the second step: it makes the session. The state is used once, on all
// replicas; a wrong answer leaves it to be tried again, and counts as a failure.
// CodeSecondFactor: the answer is missing or wrong; CodeUnauthenticated: begin
// again.
func (l *Login) Web(ctx context.Context, text string, a FactorAnswer, addr netip.Addr) (*WebSession, error) {
	s, err := l.factors.keys.openState(l.base.db.View(), stateLogin, text)
	if err != nil {
		// A stranger. Who has a state took a try for it, and has the lock's few answers.
		if limited := l.limit("", addr); limited != nil {
			return nil, limited
		}
		return nil, err
	}
	if err := l.base.db.Linearize(ctx); err != nil {
		return nil, err
	}
	release, _, err := l.gate(ctx, s.User, addr)
	if err != nil {
		return nil, err
	}
	defer release()
	token, err := l.base.random(webTokenBytes)
	if err != nil {
		return nil, err
	}
	password, err := strconv.ParseUint(s.Bound, 10, 64)
	if err != nil {
		return nil, errStateOver()
	}
	made := &WebSession{Cookie: webCookie(s.User, token)}
	err = l.admit(ctx, admission{
		user: s.User, addr: addr, password: password, state: s, answer: a,
		session: api.Session{ID: webSessionID(token), Kind: api.SessionWeb},
		finish: func(_ fsm.View, p *Principal) error {
			made.Identity = pki.UserIdentity{User: p.User, SessionID: p.SessionID, ClusterName: l.base.clusterName}
			made.Expires = p.Expires
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// Issue makes a session of Kind cli, with a certificate for a public key, for who
// is proven by a web session: password and second factor were given there. extra's
// checks and operations belong to the same transaction.
func (l *Login) Issue(ctx context.Context, proof pki.UserIdentity, pub []byte, ttl time.Duration, addr netip.Addr, extra func(v fsm.View) (fsm.Txn, error)) (*api.LoginResponse, error) {
	if err := checkTTL(ttl); err != nil {
		return nil, err
	}
	key, err := pki.ParsePublicKey(pub)
	if err != nil {
		return nil, err
	}
	id, err := l.base.random(sessionIDBytes)
	if err != nil {
		return nil, err
	}
	var resp *api.LoginResponse
	_, err = l.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		if _, err := l.access.Cookie(v, proof); err != nil {
			return fsm.Txn{}, err
		}
		web, rec, err := sessions.Get(v, sessionName(proof.User, proof.SessionID))
		if err != nil {
			return fsm.Txn{}, l.base.errSessionEnded(proof.User, proof.SessionID)
		}
		txn := fsm.Txn{Checks: []fsm.Check{sessions.Unchanged(rec)}}
		more, err := extra(v)
		if err != nil {
			return fsm.Txn{}, err
		}
		merge(&txn, more)
		s := &sessionRecord{
			Session: api.Session{
				ID: id, Kind: api.SessionCLI, User: web.User, Connector: web.Connector, Roles: web.Roles, Traits: web.Traits, External: web.External,
			},
			UserCreated: web.UserCreated, PasswordRevision: web.passwordRevision(rec),
			ConnectorCreated: web.ConnectorCreated, IdentityExpires: web.IdentityExpires,
		}
		fields := map[string]any{"method": "web", "success": true, "sid": id, "web_sid": proof.SessionID}
		made, err := l.makeSession(ctx, v, s, ttl, addr, fields, func(v fsm.View, p *Principal) (err error) {
			resp, err = l.response(v, p, key)
			return err
		})
		merge(&txn, made)
		// Whoever removes the user in this moment removes this session, too.
		owner := users.Key(s.User)
		if s.Connector != "" {
			owner = ssoUsers.Key(s.User)
		}
		txn.Checks = append(txn.Checks, fsm.Check{Key: owner, Revision: v.Revision(owner)})
		return txn, err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}
