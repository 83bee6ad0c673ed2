package auth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	maxFactors     = 10 // of one user
	maxFactorName  = 64 // characters
	maxCredential  = 8 << 10
	factorIDBytes  = 16
	handleBytes    = 32 // W3C Web Authentication, section 14.6.1, asks for 64 at most
	defaultTOTP    = "authenticator app"
	defaultPasskey = "passkey"
)

// Factors are what users have beside a password.
type Factors struct {
	base       *base
	keys       *keys
	access     *Authorizer
	preference *AuthPreferences
}

// factorsRecord is all of one user, in one record: so the check that it is
// unchanged holds for all that is decided by it (which is the last, how many there
// are, which codes are spent), and a reset takes away one that is added meanwhile.
type factorsRecord struct {
	// UserCreated binds it to one life of the user, as a session.
	UserCreated time.Time `json:"user_created"`
	// Handle is the user's name to authenticators: random, so that what a lost key
	// tells is not who it belonged to, and another in the user's next life.
	Handle  []byte            `json:"handle"`
	Factors map[string]factor `json:"factors"` // by id
}

type factor struct {
	Kind     string          `json:"kind"`
	Name     string          `json:"name"`
	Created  time.Time       `json:"created"`
	LastUsed time.Time       `json:"last_used,omitzero"`
	TOTP     *totpFactor     `json:"totp,omitempty"`
	WebAuthn *webauthnFactor `json:"webauthn,omitempty"`
}

// usable says whether a factor can prove anything under a policy.
func (f factor) usable(p policy) bool {
	switch {
	case f.TOTP != nil:
		return p.satisfiedBy(api.FactorTOTP)
	case f.WebAuthn != nil:
		return f.WebAuthn.RPID == p.rpID && f.WebAuthn.Locked.IsZero()
	default:
		return false
	}
}

func (f factor) public(id string) api.Factor {
	out := api.Factor{ID: id, Kind: f.Kind, Name: f.Name, Created: f.Created, LastUsed: f.LastUsed}
	if f.WebAuthn != nil {
		out.Locked = f.WebAuthn.Locked
	}
	return out
}

// fields are of the events that are about it.
func (f factor) fields(id string) map[string]any {
	return map[string]any{"mfa_device_name": f.Name, "mfa_device_type": f.Kind, "mfa_device_uuid": id}
}

// userFactors are one user's, as a view shows them.
type userFactors struct {
	user   string
	life   *fsm.Record // the user's
	rec    *fsm.Record // nil: none
	stored factorsRecord
}

// read gives the factors of a user's present life, to be changed at will.
func (f *Factors) read(v fsm.View, life *fsm.Record) (*userFactors, error) {
	u := &userFactors{user: users.Name(life), life: life}
	rec, ok := v.Get(factorRecs.Key(u.user))
	if ok {
		stored, err := factorRecs.Decode(rec)
		if err != nil {
			return nil, readError("second factors of user", u.user, err)
		}
		u.rec = rec
		if stored.UserCreated.Equal(life.Created) {
			u.stored = *stored
		}
	}
	u.stored.UserCreated = life.Created
	if u.stored.Factors == nil {
		u.stored.Factors = map[string]factor{}
	}
	return u, nil
}

// standing is the policy in force and what a user has.
func (f *Factors) standing(v fsm.View, life *fsm.Record) (policy, *userFactors, error) {
	p, err := f.preference.policy(v)
	if err != nil {
		return p, nil, err
	}
	u, err := f.read(v, life)
	return p, u, err
}

// write gives the operation that stores them, and its check.
func (u *userFactors) write() (fsm.Txn, error) {
	check := fsm.Check{Key: factorRecs.Key(u.user), Revision: revision(u.rec)}
	var op fsm.Op
	var err error
	if u.rec == nil {
		op, err = factorRecs.Put(u.user, &u.stored, 0)
	} else {
		op, err = factorRecs.Update(u.rec, &u.stored, 0)
	}
	return fsm.Txn{Checks: []fsm.Check{check, users.Unchanged(u.life)}, Ops: []fsm.Op{op}}, err
}

func (u *userFactors) ids() []string {
	return slices.SortedFunc(maps.Keys(u.stored.Factors), func(a, b string) int {
		return cmp.Or(u.stored.Factors[a].Created.Compare(u.stored.Factors[b].Created), cmp.Compare(a, b))
	})
}

func (u *userFactors) list() []api.Factor {
	var out []api.Factor
	for _, id := range u.ids() {
		out = append(out, u.stored.Factors[id].public(id))
	}
	return out
}

// usable are the ids of those of a kind that can prove something, oldest first.
func (u *userFactors) usable(p policy, kind string) []string {
	var out []string
	for _, id := range u.ids() {
		if one := u.stored.Factors[id]; one.Kind == kind && one.usable(p) {
			out = append(out, id)
		}
	}
	return out
}

// passkeys are those the library should know of; all: also those that are locked
// or of another relying party.
func (u *userFactors) passkeys(p policy, all bool) webauthnUser {
	w := webauthnUser{name: u.user, handle: u.stored.Handle}
	for _, id := range u.ids() {
		if one := u.stored.Factors[id]; one.WebAuthn != nil && (all || one.usable(p)) {
			w.credentials = append(w.credentials, one.WebAuthn.Credential)
		}
	}
	return w
}

// methods are the kinds with which a user may prove more than the password; none:
// the password is enough. Who has factors of which none counts any more, or none
// where the policy demands one, can't log in.
func (u *userFactors) methods(p policy) ([]string, error) {
	if p.mode == api.SecondFactorOff {
		return nil, nil
	}
	var methods []string
	for _, kind := range []string{api.FactorTOTP, api.FactorWebAuthn} {
		if len(u.usable(p, kind)) > 0 {
			methods = append(methods, kind)
		}
	}
	if len(methods) == 0 && (p.demands() || len(u.stored.Factors) > 0) {
		what := "a second factor"
		if p.mode == api.SecondFactorWebAuthn {
			what = "a passkey"
		}
		return nil, api.Errorf(api.CodeForbidden, "user %q needs %s to log in, and has none that can be used: ask an administrator for a new link (tctl users reset %s)", u.user, what, u.user)
	}
	return methods, nil
}

// List returns a user's second factors, oldest first.
func (f *Factors) List(user string) []api.Factor {
	v := f.base.db.View()
	life, found, err := userLife(v, user)
	if err != nil || !found {
		return nil
	}
	u, err := f.read(v, life)
	if err != nil {
		f.base.log.Error("second factors can't be read", "user", user, "error", err)
		return nil
	}
	return u.list()
}

// Offer is what a user needs to add a factor. It goes to the user's browser, and
// its State comes back.
type Offer struct {
	State      string          `json:"state"`              // sealed; good for OfferTTL, for who asked alone
	TOTPSecret string          `json:"secret,omitempty"`   // base32; "": the user has an app already, or the policy wants passkeys
	TOTPURI    string          `json:"uri,omitempty"`      // otpauth://…
	WebAuthn   json.RawMessage `json:"webauthn,omitempty"` // PublicKeyCredentialCreationOptions in JSON; nil: impossible
}

// FactorAnswer proves a factor: one of TOTP and WebAuthn is set, or none.
type FactorAnswer struct {
	TOTP     string          // the code, perhaps with spaces
	WebAuthn json.RawMessage // what credential.toJSON() gives
	// State is a Challenge's, where the call has no other place for it.
	State string
}

// Empty reports that nothing was given.
func (a FactorAnswer) Empty() bool { return a.TOTP == "" && len(a.WebAuthn) == 0 }

// Enrolment adds a factor that was offered. Name is what the user calls it; "": a
// name is made.
type Enrolment struct {
	State string
	Name  string
	FactorAnswer
}

// owner is a local user logged in on the web, whose session the transaction should
// hold on to.
func (f *Factors) owner(v fsm.View, session pki.UserIdentity) (life *fsm.Record, check fsm.Check, err error) {
	p, err := f.access.Cookie(v, session)
	if err != nil {
		return nil, check, err
	}
	if p.Connector != "" {
		return nil, check, errNotLocal(p.User, p.Connector, "password and second factors are kept by the identity provider")
	}
	rec, ok := v.Get(sessions.Key(sessionName(session.User, session.SessionID)))
	if !ok {
		return nil, check, f.base.errSessionEnded(session.User, session.SessionID)
	}
	life, found, err := userLife(v, p.User)
	if err == nil && !found {
		err = f.base.errSessionEnded(p.User, p.SessionID)
	}
	return life, sessions.Unchanged(rec), err
}

// freshOwner is owner for who has logged in, in a browser, not long ago. Otherwise
// the answer is CodeUnauthenticated.
func (f *Factors) freshOwner(v fsm.View, session pki.UserIdentity) (life *fsm.Record, check fsm.Check, err error) {
	if _, err := f.access.fresh(v, session); err != nil {
		return nil, check, err
	}
	return f.owner(v, session)
}

func sessionBound(session pki.UserIdentity) string { return "session/" + session.SessionID }

// Offer says what a user may add who has logged in not long ago: see freshOwner.
// It writes nothing.
func (f *Factors) Offer(session pki.UserIdentity) (*Offer, error) {
	v := f.base.db.View()
	life, _, err := f.freshOwner(v, session)
	if err != nil {
		return nil, err
	}
	return f.offer(v, life, sessionBound(session))
}

// offer makes an offer to a user, good for the bound alone. Where the policy is
// off there is nothing to offer.
func (f *Factors) offer(v fsm.View, life *fsm.Record, bound string) (*Offer, error) {
	p, err := f.preference.policy(v)
	if err != nil || p.mode == api.SecondFactorOff {
		return &Offer{}, err
	}
	u, err := f.read(v, life)
	if err != nil {
		return nil, err
	}
	if len(u.stored.Factors) >= maxFactors {
		return nil, errTooManyFactors(u.user)
	}
	s, err := f.base.newState(v, life, bound, OfferTTL)
	if err != nil {
		return nil, err
	}
	if s.Handle = u.stored.Handle; len(s.Handle) == 0 {
		if s.Handle, err = f.base.randomBytes(handleBytes); err != nil {
			return nil, err
		}
	}
	offer := &Offer{}
	if p.satisfiedBy(api.FactorTOTP) && !u.has(api.FactorTOTP) {
		if s.Secret, err = newTOTPSecret(f.base.rand); err != nil {
			return nil, err
		}
		offer.TOTPSecret, offer.TOTPURI = s.Secret, totpURI(f.base.clusterName, u.user, s.Secret)
	}
	if p.rpID != "" {
		rp, err := f.relyingParty(p)
		if err != nil {
			return nil, err
		}
		who := u.passkeys(p, true)
		who.handle = s.Handle
		if offer.WebAuthn, s.Challenge, err = beginRegistration(rp, who); err != nil {
			return nil, err
		}
	}
	offer.State, err = f.keys.sealState(v, stateOffer, s)
	return offer, err
}

func errTooManyFactors(user string) error {
	return api.Errorf(api.CodeForbidden, "user %q has %d second factors, which is the most: remove one first", user, maxFactors)
}

func (u *userFactors) has(kind string) bool {
	for _, one := range u.stored.Factors {
		if one.Kind == kind {
			return true
		}
	}
	return false
}

// Add adds a factor that was offered to the session. The offer was made to a fresh
// one, and is good for some minutes: who began in time may finish.
func (f *Factors) Add(ctx context.Context, session pki.UserIdentity, e Enrolment, from Actor) (*api.Factor, error) {
	id, err := f.base.random(factorIDBytes)
	if err != nil {
		return nil, err
	}
	var added *api.Factor
	_, err = f.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		life, alive, err := f.owner(v, session)
		if err != nil {
			return fsm.Txn{}, err
		}
		p, err := f.preference.policy(v)
		if err != nil {
			return fsm.Txn{}, err
		}
		s, err := f.keys.openBound(v, stateOffer, e.State, sessionBound(session), life)
		if err != nil {
			return fsm.Txn{}, offerOver(err)
		}
		txn, err := s.spend(v)
		if err != nil {
			return fsm.Txn{}, offerOver(err)
		}
		more, one, err := f.enrol(ctx, v, p, life, id, s, e, from)
		if err != nil {
			return fsm.Txn{}, err
		}
		merge(&txn, more)
		txn.Checks = append(txn.Checks, alive, p.unchanged())
		added = one
		return txn, nil
	})
	if err != nil {
		return nil, err
	}
	return added, nil
}

// offerOver says of an offer's state what errStateOver says of a login's: who asks
// is logged in, and must not be sent away to log in again.
func offerOver(err error) error {
	if api.IsCode(err, api.CodeUnauthenticated) {
		return api.Errorf(api.CodeConflict, "this offer is too old, or was used already: begin again")
	}
	return err
}

// enrol checks the answer to an offer and gives the transaction that stores the
// factor, with its event.
func (f *Factors) enrol(ctx context.Context, v fsm.View, p policy, life *fsm.Record, id string, s *state, e Enrolment, from Actor) (fsm.Txn, *api.Factor, error) {
	u, err := f.read(v, life)
	switch {
	case err != nil:
		return fsm.Txn{}, nil, err
	case p.mode == api.SecondFactorOff:
		return fsm.Txn{}, nil, api.Errorf(api.CodeForbidden, "second factors are switched off in this cluster")
	case len(u.stored.Factors) >= maxFactors:
		return fsm.Txn{}, nil, errTooManyFactors(u.user)
	case e.TOTP != "" && len(e.WebAuthn) > 0:
		return fsm.Txn{}, nil, errTwoAnswers()
	case len(u.stored.Handle) > 0 && !bytes.Equal(u.stored.Handle, s.Handle): // another offer was faster
		return fsm.Txn{}, nil, api.Errorf(api.CodeConflict, "another second factor was added meanwhile: begin again")
	}
	u.stored.Handle = s.Handle
	one := factor{Created: v.Now().UTC()}
	switch {
	case e.TOTP != "":
		one.Kind = api.FactorTOTP
		one.TOTP, err = f.enrolTOTP(v, p, u, s, e.TOTP)
	case len(e.WebAuthn) > 0:
		one.Kind = api.FactorWebAuthn
		one.WebAuthn, err = f.enrolWebAuthn(v, p, u, s, e.WebAuthn)
	default:
		err = errSecondFactor(nil, "type the code that the app shows, or use a passkey")
	}
	if err != nil {
		return fsm.Txn{}, nil, err
	}
	if one.Name, err = u.freeName(e.Name, one.Kind); err != nil {
		return fsm.Txn{}, nil, err
	}
	u.stored.Factors[id] = one
	txn, err := u.write()
	if err != nil {
		return fsm.Txn{}, nil, err
	}
	from.User = u.user
	line, err := f.event(ctx, v, api.EventFactorAdd, api.EventCodeFactorAdd, from, id, one)
	txn.Events = [][]byte{line}
	added := one.public(id)
	return txn, &added, err
}

func (f *Factors) event(ctx context.Context, v fsm.View, name, code string, by Actor, id string, one factor) ([]byte, error) {
	return f.base.event(ctx, v, name, code, by, one.fields(id))
}

func (f *Factors) enrolTOTP(v fsm.View, p policy, u *userFactors, s *state, code string) (*totpFactor, error) {
	switch {
	case !p.satisfiedBy(api.FactorTOTP):
		return nil, api.Errorf(api.CodeInvalid, "only passkeys count in this cluster: add one")
	case u.has(api.FactorTOTP):
		return nil, api.Errorf(api.CodeExists, "user %q has an authenticator app already: remove it first", u.user)
	case s.Secret == "":
		return nil, api.Errorf(api.CodeConflict, "no authenticator app was offered: begin again")
	}
	step, ok := matchTOTP(s.Secret, code, v.Now())
	if !ok {
		return nil, errSecondFactor(nil, "the code is not the one that the app should show now: check that the clock of the phone is right, and type the next one")
	}
	sealed, err := f.sealTOTP(v, u.user, s.Secret)
	return &totpFactor{Sealed: sealed, LastStep: step}, err
}

func (f *Factors) enrolWebAuthn(v fsm.View, p policy, u *userFactors, s *state, answer []byte) (*webauthnFactor, error) {
	if p.rpID == "" {
		return nil, api.Errorf(api.CodeInvalid, "%s", p.noPasskeys)
	}
	if s.Challenge == nil || s.Challenge.RelyingPartyID != p.rpID {
		return nil, api.Errorf(api.CodeConflict, "the name that passkeys are made for has changed: begin again")
	}
	rp, err := f.relyingParty(p)
	if err != nil {
		return nil, err
	}
	credential, err := finishRegistration(rp, u.passkeys(p, true), *s.Challenge, answer)
	if err != nil {
		f.base.log.Debug("a new passkey was refused", "user", u.user, "error", libraryError(err))
		return nil, errSecondFactor(nil, "the passkey was not accepted: try again, or use another device")
	}
	credential.Attestation = webauthn.CredentialAttestation{} // we asked for none, and judge by none
	if stored, err := json.Marshal(credential); err != nil || len(stored) > maxCredential {
		return nil, errSecondFactor(nil, "the passkey was not accepted, because its data is too long: use another device")
	}
	if credentialTaken(v, credential) {
		return nil, api.Errorf(api.CodeExists, "this passkey is registered already: use another")
	}
	return &webauthnFactor{RPID: p.rpID, Credential: *credential}, nil
}

// credentialTaken says whether anybody has a passkey of that id (W3C Web
// Authentication, section 7.1, step 26). It reads all users' factors, which stay
// decoded; people add passkeys rarely.
func credentialTaken(v fsm.View, c *webauthn.Credential) bool {
	for _, stored := range factorRecs.List(v) {
		if stored == nil {
			continue
		}
		for _, one := range stored.Factors {
			if one.WebAuthn != nil && bytes.Equal(one.WebAuthn.Credential.ID, c.ID) {
				return true
			}
		}
	}
	return false
}

// freeName checks a name, or makes one.
func (u *userFactors) freeName(name, kind string) (string, error) {
	taken := func(name string) bool {
		for _, one := range u.stored.Factors {
			if strings.EqualFold(one.Name, name) {
				return true
			}
		}
		return false
	}
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		base := defaultPasskey
		if kind == api.FactorTOTP {
			base = defaultTOTP
		}
		name = base
		for n := 2; taken(name); n++ {
			name = fmt.Sprintf("%s %d", base, n)
		}
	case utf8.RuneCountInString(name) > maxFactorName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", api.Errorf(api.CodeInvalid, "the name of a second factor has at most %d printable characters", maxFactorName)
	case taken(name):
		return "", api.Errorf(api.CodeExists, "you have a second factor called %q already: choose another name", name)
	}
	return name, nil
}

// Remove takes a factor away, unless the policy demands one and it is the last that
// counts. The session must be fresh: see freshOwner.
func (f *Factors) Remove(ctx context.Context, session pki.UserIdentity, id string, from Actor) error {
	_, err := f.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		life, alive, err := f.freshOwner(v, session)
		if err != nil {
			return fsm.Txn{}, err
		}
		p, u, err := f.standing(v, life)
		if err != nil {
			return fsm.Txn{}, err
		}
		one, ok := u.stored.Factors[id]
		if !ok {
			return fsm.Txn{}, api.Errorf(api.CodeNotFound, "there is no such second factor (any more)")
		}
		delete(u.stored.Factors, id)
		if _, err := u.methods(p); err != nil && one.usable(p) {
			return fsm.Txn{}, api.Errorf(api.CodeForbidden, "this is your last second factor that counts, and the cluster demands one: add another first")
		}
		txn, err := u.write()
		if err != nil {
			return fsm.Txn{}, err
		}
		from.User = u.user
		line, err := f.event(ctx, v, api.EventFactorDelete, api.EventCodeFactorDelete, from, id, one)
		txn.Events = [][]byte{line}
		txn.Checks = append(txn.Checks, alive, p.unchanged())
		return txn, err
	})
	return err
}

// errSecondFactor asks for a factor, or for another answer.
func errSecondFactor(methods []string, format string, args ...any) error {
	err := api.Errorf(api.CodeSecondFactor, format, args...)
	err.SecondFactors = methods
	return err
}

func errTwoAnswers() error {
	return api.Errorf(api.CodeInvalid, "one second factor is enough: give a code or a passkey's answer, not both")
}

// isFactorError tells an answer about factors from a failure of ours.
func isFactorError(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && (e.Code == api.CodeSecondFactor || e.Code == api.CodeForbidden)
}
