package auth

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Wrong codes are counted once more, for the user whatever the network: six digits
// fall to who knows the password and has many networks and much time. After ten,
// codes rest, and each further wrong one doubles that; a right one ends it. It locks
// out nobody's owner for strangers, since only who has the password gets that far;
// codes alone rest, neither passkeys nor the socket.
const (
	maxWrongCodes  = 10
	wrongCodesRest = 20 * time.Minute
	maxCodesRest   = 24 * time.Hour
	wrongCodesTTL  = 7 * 24 * time.Hour // how long they are remembered after the last
	wrongCodes     = "codes"            // beside the networks' counts of the user
)

func wrongCodesName(user string) string { return attemptUser(user) + "/" + wrongCodes }

// wrongFactor is an answer that proves nothing: a failure to be counted.
type wrongFactor struct {
	reason string // for the audit log
	answer error  // for who tried
	also   decide // what is written with the failure; nil: nothing
}

func (w *wrongFactor) Error() string { return w.reason }

// factorProof is what a right answer leads to.
type factorProof struct {
	txn    fsm.Txn
	fields map[string]any // for the event of the login
}

// prove judges an answer in a view. ch is what the browser was asked, nil where it
// was asked nothing. Errors: a *wrongFactor; CodeSecondFactor where the answer is
// missing or of the wrong kind; CodeForbidden where the user can't log in at all.
func (f *Factors) prove(v fsm.View, life *fsm.Record, a FactorAnswer, ch *challenge, addr netip.Addr) (*factorProof, error) {
	p, u, err := f.standing(v, life)
	if err != nil {
		return nil, err
	}
	methods, err := u.methods(p)
	if err != nil {
		return nil, err
	}
	proof := &factorProof{}
	if len(methods) > 0 {
		switch {
		case a.TOTP != "" && len(a.WebAuthn) > 0:
			err = errTwoAnswers()
		case a.TOTP != "" && slices.Contains(methods, api.FactorTOTP):
			proof, err = f.proveTOTP(v, p, u, methods, a.TOTP, addr)
		case len(a.WebAuthn) > 0 && ch != nil && slices.Contains(methods, api.FactorWebAuthn):
			proof, err = f.proveWebAuthn(v, p, u, methods, a.WebAuthn, *ch)
		case methods[0] == api.FactorTOTP:
			err = errSecondFactor(methods, "a second factor is needed: give the code of your authenticator app")
		default:
			err = errSecondFactor(methods, "a second factor is needed: use your passkey in a browser")
		}
		if err != nil {
			return nil, err
		}
	}
	// That the user has no factor is a reason too: one that is added meanwhile counts.
	proof.txn.Checks = append(proof.txn.Checks, p.unchanged(), fsm.Check{Key: factorRecs.Key(u.user), Revision: revision(u.rec)})
	return proof, nil
}

// used gives the proof by a factor, which is written back.
func (f *Factors) used(v fsm.View, u *userFactors, id string, one factor) (*factorProof, error) {
	one.LastUsed = v.Now().UTC()
	u.stored.Factors[id] = one
	txn, err := u.write()
	return &factorProof{txn: txn, fields: one.fields(id)}, err
}

func (f *Factors) proveTOTP(v fsm.View, p policy, u *userFactors, methods []string, code string, addr netip.Addr) (*factorProof, error) {
	count, rec, err := attempts.Get(v, wrongCodesName(u.user))
	if err != nil && !errors.Is(err, fsm.ErrNotFound) {
		return nil, readError("login attempts", "", err)
	}
	counted := fsm.Txn{Checks: []fsm.Check{{Key: attempts.Key(wrongCodesName(u.user)), Revision: revision(rec)}}}
	if left := codesRest(count, v.Now()); addr.IsValid() && left > 0 {
		return nil, &wrongFactor{
			reason: "too many wrong codes",
			answer: api.Errorf(api.CodeRateLimited, "too many wrong codes: try again in %s; if they were not yours, somebody knows your password: ask an administrator for a new link (tctl users reset %s)", roughly(left), u.user),
		}
	}
	id := u.usable(p, api.FactorTOTP)[0]
	one := u.stored.Factors[id]
	secret, err := f.openTOTP(v, u.user, one.TOTP)
	if err != nil {
		return nil, err
	}
	step, ok := matchTOTP(secret, code, v.Now())
	switch {
	case !ok:
		return nil, &wrongFactor{"wrong code", errSecondFactor(methods, "the code is wrong: type the one that the app shows now"), countWrongCode(u.user)}
	case step <= one.TOTP.LastStep:
		return nil, &wrongFactor{"code used already", errSecondFactor(methods, "this code was used already: wait for the next one"), countWrongCode(u.user)}
	}
	one.TOTP.LastStep = step // of a copy of our own: see read
	proof, err := f.used(v, u, id, one)
	if err != nil {
		return nil, err
	}
	if rec != nil {
		counted.Ops = append(counted.Ops, fsm.Delete(rec.Key))
	}
	merge(&proof.txn, counted)
	return proof, nil
}

// codesRest is how much longer codes rest.
func codesRest(count *attemptRecord, now time.Time) time.Duration {
	if count == nil || count.Failures < maxWrongCodes {
		return 0
	}
	rest := min(wrongCodesRest<<min(count.Failures-maxWrongCodes, 10), maxCodesRest)
	return count.Last.Add(rest).Sub(now)
}

// roughly says how long to wait, rounded up.
func roughly(d time.Duration) string {
	if d > 2*time.Hour {
		return fmt.Sprintf("%d hours", (d+time.Hour-1)/time.Hour)
	}
	return fmt.Sprintf("%d minutes", (d+time.Minute-1)/time.Minute)
}

// countWrongCode counts one more, wherever it came from.
func countWrongCode(user string) decide {
	return func(v fsm.View) (fsm.Txn, error) {
		next := &attemptRecord{Failures: 1, Last: v.Now()}
		count, rec, err := attempts.Get(v, wrongCodesName(user))
		if err == nil {
			next.Failures = min(count.Failures+1, maxFailures)
		}
		op, err := attempts.Put(wrongCodesName(user), next, wrongCodesTTL)
		return fsm.Txn{Checks: []fsm.Check{{Key: op.Key, Revision: revision(rec)}}, Ops: []fsm.Op{op}}, err
	}
}

func (f *Factors) proveWebAuthn(v fsm.View, p policy, u *userFactors, methods []string, answer []byte, ch challenge) (*factorProof, error) {
	if ch.RelyingPartyID != p.rpID {
		return nil, errStateOver() // the policy has changed since
	}
	rp, err := f.relyingParty(p)
	if err != nil {
		return nil, err
	}
	credential, err := finishAssertion(rp, u.passkeys(p, false), ch, answer)
	if err != nil {
		f.base.log.Debug("a passkey was refused", "user", u.user, "error", libraryError(err))
		return nil, &wrongFactor{"passkey refused", errSecondFactor(methods, "the passkey was not accepted: try again, or another one"), nil}
	}
	for _, id := range u.usable(p, api.FactorWebAuthn) {
		one := u.stored.Factors[id]
		if !bytes.Equal(one.WebAuthn.Credential.ID, credential.ID) {
			continue
		}
		if credential.Authenticator.CloneWarning {
			return nil, &wrongFactor{"passkey locked: its counter went back", u.errLocked(p, id, v.Now()), f.lockPasskey(u.user, id)}
		}
		one.WebAuthn.Credential = *credential
		return f.used(v, u, id, one)
	}
	return nil, &wrongFactor{"passkey refused", errSecondFactor(methods, "this passkey is not registered any more: use another"), nil}
}

// errLocked is for whose passkey is locked now: it says what is left to them, so that
// nobody is offered again what is worth nothing.
func (u *userFactors) errLocked(p policy, id string, now time.Time) error {
	const why = "the counter of this passkey went back, so there may be a copy of it, and it is locked"
	one := u.stored.Factors[id]
	one.WebAuthn.Locked = now // of a copy of our own: see read
	left, err := u.methods(p)
	if err != nil {
		return api.Errorf(api.CodeForbidden, why+": ask an administrator for a new link (tctl users reset %s)", u.user)
	}
	return errSecondFactor(left, why+": use another second factor")
}

// lockPasskey makes a passkey worthless, if it is still there.
func (f *Factors) lockPasskey(user, id string) decide {
	return func(v fsm.View) (fsm.Txn, error) {
		life, found, err := userLife(v, user)
		if err != nil || !found {
			return fsm.Txn{}, err
		}
		u, err := f.read(v, life)
		if err != nil {
			return fsm.Txn{}, err
		}
		one, ok := u.stored.Factors[id]
		if !ok || one.WebAuthn == nil {
			return fsm.Txn{}, nil
		}
		one.WebAuthn.Locked = v.Now().UTC()
		u.stored.Factors[id] = one
		return u.write()
	}
}
