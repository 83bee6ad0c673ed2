package auth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// What is half done (a login whose password was right, an offer of a second
// factor) is not kept by us: a stranger's browser holds it, sealed. So it costs the
// store nothing until it is finished, and any replica can finish it.
const (
	// OfferTTL is how long an offer of a second factor is good.
	OfferTTL      = 10 * time.Minute
	loginStateTTL = 5 * time.Minute
	// maxState bounds what is looked at. A state holds what a browser was asked,
	// which names up to maxFactors passkeys of up to 1023 bytes each.
	maxState = 64 << 10
	// usedMargin is how much longer than a state its used record lives: replicas'
	// clocks differ from the store's by less.
	usedMargin   = 10 * time.Minute
	stateIDBytes = 16
)

// statePurpose keeps a state of one kind from being taken for another: it is
// authenticated with it.
type statePurpose string

const (
	stateLogin    statePurpose = "login"    // the password was right
	stateOffer    statePurpose = "offer"    // of a second factor
	statePassword statePurpose = "password" // a challenge for a change of the password
	stateSSO      statePurpose = "sso"      // a login at an identity provider
)

// state is what every purpose has.
type state struct {
	ID          string    `json:"id"`
	User        string    `json:"user"`
	UserCreated time.Time `json:"user_created"`
	Expires     time.Time `json:"expires"`
	// Bound is what the state is good for alone: the revision of the password that
	// was given, the session or the invite that asked. "": nothing.
	Bound string `json:"bound,omitempty"`
	// Challenge is what the browser's key was asked.
	Challenge *challenge `json:"challenge,omitempty"`
	// Handle and Secret are of a factor offered: see factorsRecord and totpFactor.
	Handle []byte `json:"handle,omitempty"`
	Secret string `json:"secret,omitempty"`
}

// newState begins a state: what is common to all.
func (b *base) newState(v fsm.View, user *fsm.Record, bound string, ttl time.Duration) (*state, error) {
	id, err := b.random(stateIDBytes)
	if err != nil {
		return nil, err
	}
	return &state{ID: id, User: users.Name(user), UserCreated: user.Created, Expires: v.Now().Add(ttl), Bound: bound}, nil
}

func (p statePurpose) recordKey() string { return "state/" + string(p) } // no record has it

// sealState makes the text that goes out.
func (k *keys) sealState(v fsm.View, p statePurpose, s *state) (string, error) {
	return k.sealValue(v, p, s)
}

// sealValue is sealState for any value that JSON can hold.
func (k *keys) sealValue(v fsm.View, p statePurpose, value any) (string, error) {
	ring, err := k.ring(v)
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("state of a login: %w", err)
	}
	sealed, err := ring.Seal(p.recordKey(), plain)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// openState reads what came back. Altered, foreign and expired ones are all
// errStateOver: there is one thing to do about them. Whether it was used is for
// spend to say.
func (k *keys) openState(v fsm.View, p statePurpose, text string) (*state, error) {
	var s state
	if err := k.openValue(v, p, text, &s); err != nil {
		return nil, err
	}
	if s.ID == "" || s.User == "" || !v.Now().Before(s.Expires) {
		return nil, errStateOver()
	}
	return &s, nil
}

// openValue reads what sealValue made for the purpose.
func (k *keys) openValue(v fsm.View, p statePurpose, text string, into any) error {
	if text == "" || len(text) > maxState {
		return errStateOver()
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || base64.RawURLEncoding.EncodeToString(sealed) != text { // line breaks, which base64 passes over
		return errStateOver()
	}
	ring, err := k.ring(v)
	if err != nil {
		return err
	}
	plain, err := ring.Open(p.recordKey(), sealed)
	if err != nil || json.Unmarshal(plain, into) != nil {
		return errStateOver()
	}
	return nil
}

// openBound is openState for what is good for one life of a user alone, and there
// for what it is bound to.
func (k *keys) openBound(v fsm.View, p statePurpose, text, bound string, life *fsm.Record) (*state, error) {
	s, err := k.openState(v, p, text)
	if err == nil && (s.Bound != bound || s.User != users.Name(life) || !s.UserCreated.Equal(life.Created)) {
		return nil, errStateOver()
	}
	return s, err
}

// spend gives the check and the operation by which a state is used once, whichever
// replicas it is brought to.
func (s *state) spend(v fsm.View) (fsm.Txn, error) { return spendID(v, s.ID, s.User, s.Expires) }

// spendID is spend for anything that has an id and is worthless after a while.
func spendID(v fsm.View, id, user string, until time.Time) (fsm.Txn, error) {
	if _, ok := v.Get(usedStates.Key(id)); ok {
		return fsm.Txn{}, errStateOver()
	}
	op, err := usedStates.Put(id, &usedRecord{User: user}, max(until.Sub(v.Now()), 0)+usedMargin)
	return fsm.Txn{Checks: []fsm.Check{usedStates.Absent(id)}, Ops: []fsm.Op{op}}, err
}

func errStateOver() error {
	return api.Errorf(api.CodeUnauthenticated, "this page is too old, or was used already: begin again")
}

// merge adds one transaction to another.
func merge(txn *fsm.Txn, more fsm.Txn) {
	txn.Checks = append(txn.Checks, more.Checks...)
	txn.Ops = append(txn.Ops, more.Ops...)
	txn.Events = append(txn.Events, more.Events...)
}
