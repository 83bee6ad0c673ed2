package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	ssoTTL = 10 * time.Minute // from the start at the identity provider to the way back
	// maxSSOState is what a browser keeps in one cookie (RFC 6265, section 6.1: 4096
	// bytes with name and attributes).
	maxSSOState   = 3800
	maxSubject    = 1024
	maxUseOnce    = 4096
	maxReason     = 1024            // bytes of a failure's words in log and terminal
	ssoFailTime   = 5 * time.Second // to tell of a failure to whoever is left
	maxAttributes = 8 << 10         // bytes of them in an event
)

// SSO makes sessions of what identity providers say. Speaking with them is not its
// business: who calls Login vouches for the identity.
type SSO struct {
	base       *base
	keys       *keys
	connectors *Connectors
	login      *Login
	consoles   *Consoles
	limiter    *limiter
	quiet      *quiet
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

// Allow limits what strangers may start or bring back.
func (s *SSO) Allow(addr netip.Addr) error {
	return s.limiter.allow(addr, s.base.db.View().Now(), false)
}

// Seal makes the text that the browser keeps. It is good for ten minutes.
func (s *SSO) Seal(st SSOState) (string, error) {
	v := s.base.db.View()
	st.Expires = v.Now().Add(ssoTTL)
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
// has done what Fail does.
func (s *SSO) Login(ctx context.Context, st *SSOState, open *OpenConnector, id *api.SSOIdentity, from netip.Addr) (*WebSession, error) {
	made, err := s.admit(ctx, st, open, id, from)
	if err != nil {
		s.Fail(ctx, st, id, err, from)
		return nil, err
	}
	return made, nil
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
		return s.admission(v, st, open, id, from, webSessionID(token), made)
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
	again, err := s.connectors.Open(name)
	if err != nil {
		return nil, err
	}
	if !again.Created.Equal(open.Created) || !reflect.DeepEqual(again.fixed(), open.fixed()) {
		return nil, api.Errorf(api.CodeConflict, "connector %q was changed while you logged in: log in again", name)
	}
	return again, nil
}

// fixed is what of a connector logins do not change, to be compared.
func (o *OpenConnector) fixed() OpenConnector {
	out := OpenConnector{Facts: o.Facts}
	out.Facts.Organizations = nil
	switch d := o.Doc.(type) { // copies: others read the same document
	case *api.GithubConnector:
		doc := *d
		out.Doc = &doc
	case *api.OIDCConnector:
		doc := *d
		out.Doc = &doc
	case *api.SAMLConnector:
		doc := *d
		out.Doc = &doc
	default:
		return OpenConnector{Doc: o.Doc, Revision: o.Revision}
	}
	out.Doc.Head().Metadata.Revision = 0
	return out
}

// admission gives the transaction of a login, which holds on to all that it was
// judged by.
func (s *SSO) admission(v fsm.View, st *SSOState, open *OpenConnector, id *api.SSOIdentity, from netip.Addr, sid string, made *WebSession) (fsm.Txn, error) {
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
	user, renamed, err := ssoUserTxn(v, rec, st.Kind, id.Subject)
	if err != nil {
		return fsm.Txn{}, err
	}
	merge(&txn, user)
	fields := map[string]any{"method": st.Kind, "success": true, "sid": sid}
	addAttributes(fields, st.Kind, id)
	if renamed != "" {
		fields["renamed_from"] = renamed
	}
	session, err := s.login.makeSession(v, rec, 0, from, fields, func(_ fsm.View, p *Principal) error {
		made.Identity = pki.UserIdentity{User: p.User, SessionID: p.SessionID, ClusterName: s.base.clusterName}
		made.Expires = p.Expires
		return nil
	})
	if err != nil {
		return fsm.Txn{}, err
	}
	merge(&txn, session)
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
	sum := sha256.Sum256([]byte(connector + "\x00" + id.UseOnce))
	txn, err := spendID(v, "answer-"+hex.EncodeToString(sum[:]), id.Username, id.UseUntil)
	if api.IsCode(err, api.CodeUnauthenticated) {
		return txn, api.Errorf(api.CodeUnauthenticated, "this answer of the identity provider was used already: log in again")
	}
	return txn, err
}

// Fail tells the log, and the terminal that waits, why a login came to nothing. id is
// nil where nobody knows who it was, st where nobody knows what was begun.
//
// It does its best, in a few seconds, and even if the browser has gone: the terminal
// has not.
func (s *SSO) Fail(ctx context.Context, st *SSOState, id *api.SSOIdentity, reason error, from netip.Addr) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ssoFailTime)
	defer cancel()
	if st == nil {
		st = &SSOState{}
	}
	if st.Test != "" { // what came of it is for who began the test
		return
	}
	code, text := told(reason)
	if code == api.CodeInternal {
		s.base.log.ErrorContext(ctx, "a login by a connector failed", "connector", st.Connector, "error", reason)
	}
	if err := s.fail(ctx, st, id, code, text, from); err != nil {
		s.base.log.WarnContext(ctx, "a failed login is told nowhere else", "connector", st.Connector, "reason", text, "error", err)
	}
}

// told is what of an error people may read.
func told(err error) (api.Code, string) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Code == api.CodeInternal {
		return api.CodeInternal, "something went wrong here: the log of the servers says what"
	}
	return e.Code, api.CleanText(e.Message, maxReason)
}

// fail writes who the identity provider has named each time, and what strangers
// bring once a minute for each network and reason; a login of tsh ends once.
func (s *SSO) fail(ctx context.Context, st *SSOState, id *api.SSOIdentity, code api.Code, text string, from netip.Addr) error {
	if st.Console != "" {
		if _, _, err := getConsole(s.base.db.View(), st.Console); api.IsCode(err, api.CodeNotFound) {
			if err := s.base.db.Linearize(ctx); err != nil { // it may have begun on another replica
				return err
			}
		}
	}
	n := 1
	if v := s.base.db.View(); id == nil || st.used(v) {
		n = s.quiet.count(strings.Join([]string{NetworkOf(from).String(), st.Connector, text}, "\x00"), v.Now())
	}
	_, err := s.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		var txn fsm.Txn
		if st.Console != "" && !st.used(v) { // of one that succeeded, the page was loaded again
			ended, err := s.consoles.fail(v, st.Console, code, text)
			if err != nil {
				return fsm.Txn{}, err
			}
			if merge(&txn, ended); len(txn.Ops) > 0 {
				txn.Checks = append(txn.Checks, usedStates.Absent(st.usedName()))
			}
		}
		if n == 0 {
			return txn, nil
		}
		line, err := s.failureEvent(v, st, id, text, n, from)
		txn.Events = append(txn.Events, line)
		return txn, err
	})
	return err
}

func (s *SSO) failureEvent(v fsm.View, st *SSOState, id *api.SSOIdentity, text string, n int, from netip.Addr) ([]byte, error) {
	method := st.Kind
	if method == "" {
		method = "sso"
	}
	fields := map[string]any{"method": method, "success": false, "error": text}
	if st.Connector != "" {
		fields["connector"] = st.Connector
	}
	if n > 1 {
		fields["attempts"] = n // since the last such event
	}
	by := Actor{Addr: from}
	if id != nil {
		addAttributes(fields, st.Kind, id)
		if api.ValidateName(api.KindUser, id.Username) == nil {
			by.User = id.Username
		}
	}
	return s.base.event(v, api.EventUserLogin, api.EventCodeSSOLoginRefused, by, fields)
}
