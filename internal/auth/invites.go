package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	inviteTokenBytes  = 32
	defaultInviteTTL  = time.Hour
	maxInviteTTL      = 48 * time.Hour
	minInviteTTL      = time.Minute
	inviteTombstone   = 7 * 24 * time.Hour // how long a spent invite can say why
	inviteTokenLength = 2 * inviteTokenBytes
	redeemTime        = 10 * time.Second // to write a redemption whose client may be gone
)

// Invites are links by which people set a password, once, and a second factor
// with it: their first, or a new one after a reset (see Users.Reset).
type Invites struct {
	base      *base
	passwords *passwords
	limiter   *limiter
	factors   *Factors
	turns     *turns // one redemption of a link at a time
}

// Invite is what the page may know of a token.
type Invite struct {
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
	Reset   bool      `json:"reset,omitempty"` // the user has, or had, a password
	// SecondFactor is the policy in force.
	SecondFactor api.SecondFactor `json:"second_factor,omitempty"`
}

// linkTTL is how long a link is good for: what was asked for, within bounds, or the
// usual time.
func linkTTL(what string, ttl, usual, most time.Duration) (time.Duration, error) {
	switch {
	case ttl == 0:
		return usual, nil
	case ttl < minInviteTTL || ttl > most:
		return 0, api.Errorf(api.CodeInvalid, "%s: a link is valid for %s to %s, not %s", what, minInviteTTL, most, ttl)
	default:
		return ttl, nil
	}
}

func (i *Invites) url(token string, reset bool) string {
	page := "invite"
	if reset {
		page = "reset"
	}
	return "https://" + i.base.publicAddr + "/web/" + page + "/" + token
}

// inviteName is the record's name: who reads the store learns no token.
func inviteName(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// create adds an invite to a transaction. Its UserCreated is zero for a user whom
// the same transaction makes. The link is good for ttl from the view's time.
func (i *Invites) create(ctx context.Context, v fsm.View, txn *fsm.Txn, by Actor, invite inviteRecord, token string, ttl time.Duration) error {
	invite.Created, invite.Expires = v.Now(), v.Now().Add(ttl)
	op, err := invites.Put(inviteName(token), &invite, ttl+inviteTombstone)
	if err != nil {
		return err
	}
	line, err := i.base.event(ctx, v, api.EventResetTokenCreate, api.EventCodeResetTokenCreate, by, map[string]any{"name": invite.User, "ttl": ttl.String()})
	txn.Ops = append(txn.Ops, op)
	txn.Events = append(txn.Events, line)
	return err
}

// Lookup says whose invite it is, or why it is worth nothing: used, expired and
// unknown are told apart. Guesses are limited: see lookup.
func (i *Invites) Lookup(ctx context.Context, token string, from Actor) (Invite, error) {
	invite, err := i.lookup(ctx, token, from)
	if err != nil {
		return Invite{}, err
	}
	v := i.base.db.View()
	p, err := i.factors.preference.policy(v)
	if err != nil {
		return Invite{}, err
	}
	_, has := v.Get(passwordRecs.Key(invite.User))
	return Invite{User: invite.User, Expires: invite.Expires, Reset: has || invite.Reset, SecondFactor: p.mode}, nil
}

// lookup reads an invite, from the leader if this replica does not know it: it may
// have been made on another one a moment ago. Tokens are too long to be guessed, so
// those that are known take none of the tries there are for guesses: a whole office
// may be invited at once, and strangers who guess keep nobody out.
func (i *Invites) lookup(ctx context.Context, token string, from Actor) (*inviteRecord, error) {
	v := i.base.db.View()
	invite, known, _, err := lookupInvite(v, token)
	if known != nil || !api.IsCode(err, api.CodeNotFound) {
		return invite, err
	}
	if err := i.limiter.allow(from.Addr, v.Now(), false); err != nil {
		return nil, err
	}
	if len(token) != inviteTokenLength {
		return nil, err
	}
	if err := i.base.db.Linearize(ctx); err != nil {
		return nil, err
	}
	invite, _, _, err = lookupInvite(i.base.db.View(), token)
	return invite, err
}

// lookupInvite returns the invite that still counts, its record and its user's. The
// record comes with an error, too, if there is one: whoever has the link does not guess.
func lookupInvite(v fsm.View, token string) (*inviteRecord, *fsm.Record, *fsm.Record, error) {
	unknown := api.Errorf(api.CodeNotFound, "this link is not known: ask for a new one")
	if len(token) != inviteTokenLength {
		return nil, nil, nil, unknown
	}
	invite, rec, err := invites.Get(v, inviteName(token))
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return nil, nil, nil, unknown
	case err != nil:
		return nil, rec, nil, readError("invite", "", err)
	case !invite.Used.IsZero():
		return nil, rec, nil, api.Errorf(api.CodeConflict, "this link was used already, on %s: if it was not you, tell an administrator", minute(invite.Used))
	case !v.Now().Before(invite.Expires):
		return nil, rec, nil, api.Errorf(api.CodeNotFound, "this link expired on %s: ask for a new one", minute(invite.Expires))
	}
	user, found, err := userLife(v, invite.User)
	if err != nil {
		return nil, rec, nil, err
	}
	// An invite made with its user was written by the entry that made the user.
	life := invite.UserCreated
	if life.IsZero() {
		life = rec.Created
	}
	if !found || !user.Created.Equal(life) {
		return nil, rec, nil, unknown
	}
	return invite, rec, user, nil
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func inviteBound(token string) string { return "invite/" + inviteName(token) }

// Offer says what the user of a link may add as a second factor. It writes
// nothing.
func (i *Invites) Offer(ctx context.Context, token string, from Actor) (*Offer, error) {
	if _, err := i.lookup(ctx, token, from); err != nil {
		return nil, err
	}
	v := i.base.db.View()
	_, _, user, err := lookupInvite(v, token)
	if err != nil {
		return nil, err
	}
	return i.factors.offer(v, user, inviteBound(token))
}

// Redeem sets the password of the invite's user, adds the second factor (nil:
// none) and spends the invite: of many who try at once, exactly one succeeds, and
// who gives a wrong code may try again. A link derives one key at a time, and one that
// was derived spends it even if the client has gone: who has a link can't keep the
// queue that all logins share. CodeSecondFactor: the factor is missing where the policy
// demands one, or wrong, or its offer is too old.
func (i *Invites) Redeem(ctx context.Context, token, password string, e *Enrolment, from Actor) (user string, err error) {
	invite, err := i.lookup(ctx, token, from)
	if err != nil {
		return "", err
	}
	user = invite.User
	if err := checkNewPassword(password); err != nil {
		return "", err
	}
	id, err := i.base.random(factorIDBytes)
	if err != nil {
		return "", err
	}
	done, err := i.turns.take(ctx, inviteName(token))
	if api.IsCode(err, api.CodeRateLimited) {
		err = api.Errorf(api.CodeRateLimited, "this link is being used at this moment: try again in a few seconds")
	}
	if err != nil {
		return "", err
	}
	defer done()
	// What is wrong with the factor is found before the derivation, which costs more,
	// and again in the transaction.
	if _, err := i.enrolment(ctx, i.base.db.View(), token, id, e, from); err != nil {
		return "", err
	}
	phc, err := i.passwords.hash(ctx, password)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redeemTime)
	defer cancel()
	_, err = i.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		return i.redemption(ctx, v, token, phc, id, e, from)
	})
	return user, err
}

// enrolment gives what adds the second factor, or refuses that there is none.
func (i *Invites) enrolment(ctx context.Context, v fsm.View, token, id string, e *Enrolment, from Actor) (fsm.Txn, error) {
	_, _, life, err := lookupInvite(v, token)
	if err != nil {
		return fsm.Txn{}, err
	}
	p, err := i.factors.preference.policy(v)
	if err != nil {
		return fsm.Txn{}, err
	}
	txn := fsm.Txn{Checks: []fsm.Check{p.unchanged()}}
	if e == nil || e.Empty() {
		u, err := i.factors.read(v, life)
		if err != nil {
			return fsm.Txn{}, err
		}
		if _, err := u.methods(p); err != nil && p.demands() {
			if p.mode == api.SecondFactorWebAuthn {
				return fsm.Txn{}, errSecondFactor([]string{api.FactorWebAuthn}, "a passkey is needed in this cluster: add one")
			}
			return fsm.Txn{}, errSecondFactor([]string{api.FactorTOTP, api.FactorWebAuthn}, "a second factor is needed in this cluster: add an authenticator app or a passkey")
		}
		return txn, nil
	}
	s, err := i.factors.keys.openBound(v, stateOffer, e.State, inviteBound(token), life)
	if api.IsCode(err, api.CodeUnauthenticated) {
		err = errSecondFactor(nil, "the second factor was offered too long ago: reload the page and begin again")
	}
	if err != nil {
		return fsm.Txn{}, err
	}
	more, _, err := i.factors.enrol(ctx, v, p, life, id, s, *e, from)
	merge(&txn, more)
	return txn, err
}

func (i *Invites) redemption(ctx context.Context, v fsm.View, token, phc, id string, e *Enrolment, from Actor) (fsm.Txn, error) {
	invite, rec, user, err := lookupInvite(v, token)
	if err != nil {
		return fsm.Txn{}, err
	}
	txn, err := i.enrolment(ctx, v, token, id, e, from)
	if err != nil {
		return fsm.Txn{}, err
	}
	spent := *invite
	spent.Used = v.Now()
	tombstone, err := invites.Update(rec, &spent, inviteTombstone)
	if err != nil {
		return fsm.Txn{}, err
	}
	set, err := i.passwords.put(v, invite.User, phc)
	if err != nil {
		return fsm.Txn{}, err
	}
	from.User = invite.User
	line, err := i.base.event(ctx, v, api.EventUserPasswordChange, api.EventCodeUserPasswordChange, from, map[string]any{"name": invite.User})
	merge(&txn, fsm.Txn{
		Checks: []fsm.Check{invites.Unchanged(rec), users.Unchanged(user)},
		Ops:    []fsm.Op{tombstone, set, fsm.Delete(knownNets.Key(invite.User))},
		Events: [][]byte{line},
	})
	for i, other := range invites.List(v) { // of resets made at once: each link is the user
		if other != nil && other.User == invite.User && other.Used.IsZero() && i.Key != rec.Key {
			txn.Ops = append(txn.Ops, fsm.Delete(i.Key))
		}
	}
	for _, s := range userSessions(v, invite.User) { // whoever knew an older password is out
		txn.Ops = append(txn.Ops, fsm.Delete(s.Key))
	}
	return txn, err
}
