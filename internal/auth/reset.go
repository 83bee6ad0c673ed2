package auth

import (
	"context"
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	defaultResetTTL = 8 * time.Hour
	maxResetTTL     = 24 * time.Hour
)

// Reset takes away what a user has proven things with (password, second factors,
// sessions, older links, counted failures) and gives a link by which the user sets
// them anew. Live streams end with the sessions.
//
// The link is the user: who gets it could log in as them. So it is for those only
// who could give somebody all that the user has: see mayGrant.
func (u *Users) Reset(ctx context.Context, by Actor, name string, ttl time.Duration) (api.ResetUserResponse, error) {
	ttl, err := linkTTL("reset", ttl, defaultResetTTL, maxResetTTL)
	if err != nil {
		return api.ResetUserResponse{}, err
	}
	token, err := u.base.random(inviteTokenBytes)
	if err != nil {
		return api.ResetUserResponse{}, err
	}
	resp := api.ResetUserResponse{User: name, ResetURL: u.invites.url(token, true), TTL: api.Duration(ttl), Proxy: u.base.publicAddr}
	_, err = u.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		if err := notSSO(v, name, "there is no password here to reset; to end the sessions, remove the user with tctl users rm"); err != nil {
			return fsm.Txn{}, err
		}
		doc, rec, err := users.Get(v, name)
		if err != nil {
			return fsm.Txn{}, readError(api.KindUser, clip(name), err)
		}
		if err := u.mayGrant(v, by, doc, nil); err != nil {
			return fsm.Txn{}, err
		}
		txn := fsm.Txn{Checks: []fsm.Check{users.Unchanged(rec)}, Ops: takeAway(v, name)}
		line, err := u.base.event(ctx, v, api.EventUserReset, api.EventCodeUserReset, by, map[string]any{"name": name, "ttl": ttl.String()})
		if err != nil {
			return fsm.Txn{}, err
		}
		txn.Events = [][]byte{line}
		resp.Expires = v.Now().Add(ttl)
		return txn, u.invites.create(ctx, v, &txn, by, inviteRecord{User: name, UserCreated: rec.Created, Reset: true}, token, ttl)
	})
	if err != nil {
		return api.ResetUserResponse{}, err
	}
	return resp, nil
}

// PasswordChallenge says what a change of the password asks for beside the old
// one; its State goes into ChangePassword's answer.
func (u *Users) PasswordChallenge(session pki.UserIdentity) (*Challenge, error) {
	v := u.base.db.View()
	life, _, err := u.factors.owner(v, session)
	if err != nil {
		return nil, err
	}
	return u.factors.challenge(v, life, statePassword, sessionBound(session))
}

// ChangePassword sets a new password for who knows the old one and has the second
// factor that a login would ask for. A wrong one counts as at a login, and is
// CodeForbidden. It ends the user's other sessions.
func (u *Users) ChangePassword(ctx context.Context, session pki.UserIdentity, old, next string, a FactorAnswer, from Actor) error {
	l := u.login
	if err := l.limit(session.User, from.Addr); err != nil {
		return err
	}
	if _, _, err := u.factors.owner(u.base.db.View(), session); err != nil {
		return err
	}
	if err := checkShape(session.User, old); err != nil {
		return err
	}
	if err := checkNewPassword(next); err != nil {
		return err
	}
	if old == next {
		return api.Errorf(api.CodeInvalid, "the new password is the old one: choose another")
	}
	t := try{session.User, old, from.Addr, api.Errorf(api.CodeForbidden, "the old password is wrong")}
	return l.prove(ctx, t, func(proof *fsm.Record) error {
		// The factor first: who has none should not cost another derivation.
		if _, err := u.change(u.base.db.View(), session, a, from.Addr); err != nil {
			return l.settle(ctx, t, nil, err)
		}
		phc, err := l.passwords.hash(ctx, next)
		if err != nil {
			return err
		}
		var locked error
		_, err = u.base.transact(ctx, func(v fsm.View) (txn fsm.Txn, err error) {
			if txn, locked, err = l.forgive(v, t); err != nil || locked != nil {
				return fsm.Txn{}, err
			}
			more, err := u.change(v, session, a, from.Addr)
			if err != nil {
				return fsm.Txn{}, err
			}
			merge(&txn, more)
			if now, ok := v.Get(proof.Key); !ok || now.Revision != proof.Revision {
				return fsm.Txn{}, t.refused
			}
			txn.Checks = append(txn.Checks, passwordRecs.Unchanged(proof))
			set, err := l.passwords.put(v, t.user, phc)
			if err != nil {
				return fsm.Txn{}, err
			}
			txn.Ops = append(txn.Ops, set, fsm.Delete(knownNets.Key(t.user)))
			from.User = t.user
			line, err := u.base.event(ctx, v, api.EventUserPasswordChange, api.EventCodeUserPasswordChange, from, map[string]any{"name": t.user})
			txn.Events = append(txn.Events, line)
			return txn, err
		})
		return l.settle(ctx, t, locked, err)
	})
}

// change gives what a change of the password does beside setting it: it proves the
// second factor, ends the other sessions, and ties this one to the new password.
func (u *Users) change(v fsm.View, session pki.UserIdentity, a FactorAnswer, from netip.Addr) (txn fsm.Txn, err error) {
	life, alive, err := u.factors.owner(v, session)
	if err != nil {
		return txn, err
	}
	txn.Checks = []fsm.Check{alive, users.Unchanged(life)}
	var ch *challenge
	if a.State != "" {
		s, err := u.factors.keys.openBound(v, statePassword, a.State, sessionBound(session), life)
		if err != nil {
			return txn, offerOver(err)
		}
		used, err := s.spend(v)
		if err != nil {
			return txn, offerOver(err)
		}
		merge(&txn, used)
		ch = s.Challenge
	}
	factor, err := u.factors.prove(v, life, a, ch, from)
	if err != nil {
		return txn, offerOver(err)
	}
	merge(&txn, factor.txn)
	for _, rec := range userSessions(v, session.User) {
		if rec.Key != alive.Key {
			txn.Ops = append(txn.Ops, fsm.Delete(rec.Key))
			continue
		}
		s, err := sessions.Decode(rec)
		if err != nil {
			return txn, readError("session", session.SessionID, err)
		}
		s.PasswordWithin = true
		op, err := sessions.Update(rec, s, max(rec.Expires.Sub(v.Now()), time.Second))
		if err != nil {
			return txn, err
		}
		txn.Ops = append(txn.Ops, op)
	}
	return txn, nil
}
