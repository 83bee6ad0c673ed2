package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	// FlowTTL is how long a login may take from the start at the identity provider to the way
	// back.
	FlowTTL = 10 * time.Minute
	// maxSSOState is what a browser keeps in one cookie (RFC 6265, section 6.1: 4096
	// bytes with name and attributes).
	maxSSOState = 3800
	maxSubject  = 1024
	maxUseOnce  = 4096
	// maxAnswerLife is how long an answer stays used that an identity provider wants to be
	// good for longer: the flow that it answers is over long before.
	maxAnswerLife = 24 * time.Hour

	maxFlowTries = 5    // answers to one flow, on this replica
	maxFlows     = 8192 // of which they are counted
)

// SSO makes sessions of what identity providers say. Speaking with them is not its
// business: who calls Login vouches for the identity.
type SSO struct {
	base       *base
	keys       *keys
	connectors *Connectors
	login      *Login
	consoles   *Consoles
	starts     *limiter
	answers    *limiter
	quiet      *quiet

	mu     sync.Mutex
	tries  *recent[string, int]          // answers to a flow
	people *recent[string, rate.Limiter] // of whom one line each is written, by network and connector
}

// SSOState is a login at an identity provider, which the browser keeps sealed
// until it comes back. Nothing is stored before that: a stranger who begins
// logins costs the store nothing, and any replica can finish one.
type SSOState struct {
	Flow      json.RawMessage `json:"flow"` // sso.Flow
	ID        string          `json:"id"`   // the flow's: good for one login
	Kind      string          `json:"kind"` // of the connector
	Connector string          `json:"connector,omitempty"`
	Next      string          `json:"next,omitempty"`    // where to go afterwards
	Console   string          `json:"console,omitempty"` // the login of tsh that it is for
	Test      string          `json:"test,omitempty"`    // the test that it belongs to: it logs nobody in
	Expires   time.Time       `json:"expires"`           // filled in by Seal
}

// AllowStart limits logins that are begun.
func (s *SSO) AllowStart(addr netip.Addr) error {
	return s.starts.allow(addr, s.base.db.View().Now(), false)
}

// Answering limits what is brought back of a flow: those answers alone cost a try, of the
// network's and of the five of the flow, that came to nothing, as done says when it is known.
// CodeRateLimited: the flow is as good as before.
func (s *SSO) Answering(addr netip.Addr, flow string) (done func(ok bool), err error) {
	if err := s.answers.allow(addr, s.base.db.View().Now(), false); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tries := s.tries.get(flow, func() *int { return new(int) })
	if *tries++; *tries > maxFlowTries {
		return nil, api.Errorf(api.CodeUnauthenticated, "this login was tried %d times: begin again", maxFlowTries)
	}
	return func(ok bool) {
		if !ok {
			return
		}
		s.answers.giveBack(addr, s.base.db.View().Now())
		s.mu.Lock()
		defer s.mu.Unlock()
		if tries := s.tries.get(flow, func() *int { return new(int) }); *tries > 0 { // 0: it was forgotten meanwhile
			*tries--
		}
	}, nil
}

// Seal makes the text that the browser keeps. It is good for ten minutes.
func (s *SSO) Seal(st SSOState) (string, error) {
	v := s.base.db.View()
	st.Expires = v.Now().Add(FlowTTL)
	if !st.whole() {
		return "", fmt.Errorf("auth: a login by a connector without id, kind or connector can't be sealed")
	}
	text, err := s.keys.sealValue(v, stateSSO, &st)
	if err == nil && len(text) > maxSSOState {
		return "", api.Errorf(api.CodeInvalid, "the address to go to after the login is too long")
	}
	return text, err
}

// Open reads what came back. Altered, foreign and expired ones are all
// CodeUnauthenticated: begin again. That it was used already is Login's to say.
func (s *SSO) Open(text string) (*SSOState, error) {
	v := s.base.db.View()
	if len(text) > maxSSOState {
		return nil, errStateOver()
	}
	var st SSOState
	if err := s.keys.openValue(v, stateSSO, text, &st); err != nil {
		return nil, err
	}
	if !st.whole() || !v.Now().Before(st.Expires) {
		return nil, errStateOver()
	}
	return &st, nil
}

func (st *SSOState) whole() bool {
	return st.ID != "" && len(st.Flow) > 0 && slices.Contains(api.ConnectorKinds(), st.Kind) && (st.Connector != "" || st.Test != "")
}

// usedName is the name of the record that says that the flow was used. Other states'
// ids have no such prefix.
func (st *SSOState) usedName() string { return "sso-" + st.ID }

func (st *SSOState) used(v fsm.View) bool {
	_, ok := v.Get(usedStates.Key(st.usedName()))
	return ok
}

// Login makes the session of who an identity provider says somebody is: the flow
// and what else is good once are used up by the transaction that makes it. A refusal
// (see Judged) has done what Fail does; after any other error the login may go on.
func (s *SSO) Login(ctx context.Context, st *SSOState, open *OpenConnector, id *api.SSOIdentity, from netip.Addr) (*WebSession, error) {
	made, err := s.admit(ctx, st, open, id, from)
	if err != nil {
		if Judged(err) {
			s.Fail(ctx, st, id, err, from)
		}
		return nil, err
	}
	return made, nil
}

// Judged says whether an error of a login decides against it. What a store without a
// leader, or any other fault of ours, makes of a login is no word about it.
func Judged(err error) bool {
	if _, ok := errors.AsType[*fsm.ConflictError](err); ok {
		return false
	}
	switch api.CodeOf(err) {
	case api.CodeForbidden, api.CodeConflict, api.CodeUnauthenticated, api.CodeInvalid:
		return true
	default:
		return false
	}
}

func (s *SSO) admit(ctx context.Context, st *SSOState, open *OpenConnector, id *api.SSOIdentity, from netip.Addr) (*WebSession, error) {
	if st.Test != "" || open.Doc.ConnectorKind() != st.Kind || open.Doc.Head().Metadata.Name != st.Connector {
		return nil, api.Errorf(api.CodeUnauthenticated, "this login was begun for another connector: begin again")
	}
	if err := checkIdentity(st.Connector, id); err != nil {
		return nil, err
	}
	if err := s.base.db.Linearize(ctx); err != nil {
		return nil, err
	}
	token, err := s.base.random(webTokenBytes)
	if err != nil {
		return nil, err
	}
	made := &WebSession{Cookie: webCookie(id.Username, token)}
	_, err = s.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		if open, err = s.current(v, open); err != nil {
			return fsm.Txn{}, err
		}
		return s.admission(ctx, v, st, open, id, from, webSessionID(token), made)
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// checkIdentity refuses who can't be a user here, before anything is asked of the
// store.
func checkIdentity(connector string, id *api.SSOIdentity) error {
	if id.Subject == "" || len(id.Subject) > maxSubject || !utf8.ValidString(id.Subject) {
		return api.Errorf(api.CodeForbidden, "the identity provider of connector %q does not say who this is, by an id that it gives to nobody else", connector)
	}
	if len(id.UseOnce) > maxUseOnce {
		return api.Errorf(api.CodeForbidden, "the identity provider of connector %q gave its answer a name of more than %d bytes", connector, maxUseOnce)
	}
	if strings.HasPrefix(strings.ToLower(id.Username), "system:") {
		return api.Errorf(api.CodeForbidden, "connector %q calls this person %q: names that begin with system: belong to Kubernetes; ask an administrator to map another name", connector, clip(id.Username))
	}
	if err := api.ValidateName(api.KindUser, id.Username); err != nil {
		return api.Errorf(api.CodeForbidden, "connector %q gives this person no name that a user can have: %w; ask an administrator to map another name", connector, err)
	}
	return nil
}

// current is the connector as the view has it, if it is still the one by which the
// person was identified: what a login has learnt of it may have been added since,
// but whom it believes and what it maps to may not have been changed.
func (s *SSO) current(v fsm.View, open *OpenConnector) (*OpenConnector, error) {
	name := open.Doc.Head().Metadata.Name
	rec, ok := v.Get(connectors.Key(name))
	if ok && rec.Created.Equal(open.Created) && rec.Revision == open.Revision {
		return open, nil
	}
	if !ok || !rec.Created.Equal(open.Created) {
		return nil, api.Errorf(api.CodeForbidden, "connector %q was removed while you logged in", name)
	}
	again, err := s.connectors.open(v, name) // of this very view: it is there
	if err != nil {
		return nil, err
	}
	if !again.asBefore(open) {
		return nil, api.Errorf(api.CodeConflict, "connector %q was changed while you logged in: log in again", name)
	}
	return again, nil
}

// asBefore says whether a connector is what it was, but for what logins have learnt of it.
func (o *OpenConnector) asBefore(was *OpenConnector) bool {
	return o.Created.Equal(was.Created) && reflect.DeepEqual(o.Doc, was.Doc) &&
		o.Facts.EntityDescriptor == was.Facts.EntityDescriptor && reflect.DeepEqual(o.Facts.SigningKeyPair, was.Facts.SigningKeyPair)
}

// admission gives the transaction of a login, which holds on to all that it was
// judged by.
func (s *SSO) admission(ctx context.Context, v fsm.View, st *SSOState, open *OpenConnector, id *api.SSOIdentity, from netip.Addr, sid string, made *WebSession) (fsm.Txn, error) {
	if !v.Now().Before(st.Expires) {
		return fsm.Txn{}, errStateOver()
	}
	txn, err := spendID(v, st.usedName(), id.Username, st.Expires)
	if err != nil {
		return fsm.Txn{}, err
	}
	once, err := spendAnswer(v, st.Connector, id)
	if err != nil {
		return fsm.Txn{}, err
	}
	merge(&txn, once)
	mapping, pins, err := Map(open.Doc, open.Facts, id)
	if err != nil {
		return fsm.Txn{}, err
	}
	if !id.Expires.IsZero() && !v.Now().Before(id.Expires) {
		return fsm.Txn{}, api.Errorf(api.CodeForbidden, "the session at the identity provider of connector %q ended on %s: log in there anew", st.Connector, minute(id.Expires))
	}
	rec := &sessionRecord{
		Session: api.Session{
			ID: sid, Kind: api.SessionWeb, User: id.Username, Connector: st.Connector,
			Roles: mapping.Roles, Traits: mapping.Traits, External: id.Attributes,
		},
		ConnectorCreated: open.Created, IdentityExpires: id.Expires,
	}
	fields := map[string]any{"method": st.Kind, "success": true, "sid": sid}
	user, err := ssoUserTxn(v, rec, st.Kind, id.Subject, fields)
	if err != nil {
		return fsm.Txn{}, err
	}
	merge(&txn, user)
	addAttributes(fields, st.Kind, id)
	if len(pins) > 0 { // whom names stand for from now on
		fields["pinned"] = pins
	}
	session, err := s.login.makeSession(ctx, v, rec, 0, from, fields, func(_ fsm.View, p *Principal) error {
		made.Identity = pki.UserIdentity{User: p.User, SessionID: p.SessionID, ClusterName: s.base.clusterName}
		made.Expires = p.Expires
		return nil
	})
	if err != nil {
		return fsm.Txn{}, err
	}
	merge(&txn, session)
	if _, replaced := fields["replaces"]; replaced { // what was known is of somebody else
		ops, err := knowAlone(v, id.Username, from)
		if err != nil {
			return fsm.Txn{}, err
		}
		txn.Ops = append(txn.Ops, ops...)
	}
	pinned, err := s.connectors.pin(v, st.Connector, pins)
	merge(&txn, pinned)
	txn.Checks = append(txn.Checks, fsm.Check{Key: connectors.Key(st.Connector), Revision: open.Revision})
	return txn, err
}

// spendAnswer uses up an answer that is good for one login, whichever replica it is
// shown to and whichever flow it is shown in.
func spendAnswer(v fsm.View, connector string, id *api.SSOIdentity) (fsm.Txn, error) {
	if id.UseOnce == "" {
		return fsm.Txn{}, nil
	}
	until := v.Now().Add(maxAnswerLife)
	if id.UseUntil.Before(until) {
		until = id.UseUntil
	}
	txn, err := spendID(v, "answer-"+hashed(connector, id.UseOnce), id.Username, until)
	if api.IsCode(err, api.CodeUnauthenticated) {
		return txn, api.Errorf(api.CodeUnauthenticated, "this answer of the identity provider was used already: log in again")
	}
	return txn, err
}
