package auth

import (
	"context"
	"errors"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// Sign makes a session of Kind signed for a user who does not log in, with a certificate
// for a key that the caller made: what a pipeline needs, which has no password. It is a
// session like any other: it is listed, can be ended, and ends with the user. Only
// api.MaxSignTTL and the roles' max_session_ttl bound its life, for an administrator
// decides how long.
//
// Who is not the socket needs the verb impersonate on users, because this is to become
// each of them. Users alone have such sessions who have a record here: what an SSO user
// may be is for the identity provider to say, at a login.
func (l *Login) Sign(ctx context.Context, by Actor, req api.SignRequest) (*api.LoginResponse, error) {
	// Before anything is said of the request: who may not sign learns nothing by it.
	if err := l.mayImpersonate(l.base.db.View(), by); err != nil {
		return nil, err
	}
	if err := api.ValidateName(api.KindUser, req.User); err != nil {
		return nil, err
	}
	ttl := time.Duration(req.TTL)
	if err := checkTTL(ttl); err != nil {
		return nil, err
	}
	if ttl > api.MaxSignTTL {
		return nil, api.Errorf(api.CodeInvalid, "a certificate is signed for %d days at most: ask for less, and sign again in time", int(api.MaxSignTTL.Hours()/24))
	}
	key, err := pki.ParsePublicKey(req.TLSPubKey)
	if err != nil {
		return nil, err
	}
	id, err := l.base.random(pki.SignedSessionIDBytes)
	if err != nil {
		return nil, err
	}
	// A role that another replica has just written bounds this certificate, too.
	if err := l.base.db.Linearize(ctx); err != nil {
		return nil, err
	}
	var resp *api.LoginResponse
	_, err = l.base.transact(ctx, func(v fsm.View) (txn fsm.Txn, err error) {
		if err := l.mayImpersonate(v, by); err != nil {
			return txn, err
		}
		life, err := signedFor(v, req.User)
		if err != nil {
			return txn, err
		}
		// No password stands behind it: one that is set later, by whoever has the user's
		// invite, ends it like all others.
		s := &sessionRecord{Session: api.Session{ID: id, Kind: api.SessionSigned, User: req.User}, UserCreated: life.Created}
		p, err := l.newSession(v, s, ttl, api.MaxSignTTL, by.Addr)
		if err != nil {
			return txn, err
		}
		if txn, err = l.keep(ctx, v, s, by); err != nil {
			return txn, err
		}
		// Whoever removes the user in this moment removes this session, too.
		txn.Checks = append(txn.Checks, users.Unchanged(life))
		if resp, err = l.response(v, p, key); err != nil {
			return txn, err
		}
		line, err := l.certificateEvent(ctx, v, p, by, map[string]any{"name": p.User, "ttl": p.Expires.Sub(p.Created.Truncate(time.Second)).String()})
		txn.Events = append(txn.Events, line)
		return txn, err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (l *Login) mayImpersonate(v fsm.View, by Actor) error {
	if by.User == SocketUser {
		return nil
	}
	p, err := l.access.Session(v, by.Session)
	if err != nil {
		return err
	}
	return p.Can(api.VerbImpersonate, api.KindUser)
}

// signedFor is the record of a user for whom Sign may sign.
func signedFor(v fsm.View, name string) (*fsm.Record, error) {
	life, found, err := userLife(v, name)
	if err != nil || found {
		return life, err
	}
	u, _, err := ssoUsers.Get(v, name)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return nil, api.Errorf(api.CodeNotFound, "user %q not found: 'tctl users ls' lists all, 'tctl users add' makes one", name)
	case err != nil:
		return nil, readError("SSO user", name, err)
	default:
		return nil, api.Errorf(api.CodeInvalid, "user %q comes from connector %q, which alone says what they may: a certificate without a login is for a local user, as 'tctl users add' makes them", name, u.Connector)
	}
}
