package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/proxy/web"
	"github.com/sallyport-dev/sallyport/sso"
)

// singleSignOn is single sign-on as the pages ask for it: it brings together what auth
// knows of connectors and what sso knows of protocols, and holds no flow, so that any
// replica may finish what another one began.
type singleSignOn struct {
	auth      *auth.Service
	providers *ssoProviders
	db        auth.DB
	name      string // of the cluster
	public    string // PublicAddr
	rand      io.Reader
	clock     func() time.Time
	log       *slog.Logger
	callbacks chan struct{} // one for each under way
	answers   singleflight.Group
	logins    *prometheus.CounterVec
}

const (
	// callbackFor is what a start or a callback may take in all, before it tells of a failure:
	// a replica that stops waits for it (unless --drain-timeout is shorter), and must still
	// be there to keep what comes of it.
	callbackFor = drainFor - failFor
	// leaderFor is what the store may take to say that it is ready. A browser may come back.
	leaderFor = 4 * time.Second
	// finishFor is what an identity provider may take for all that is asked of it.
	finishFor = sso.MaxWait
	// failFor is how long to try to tell who waits for a login or a test, even if the browser
	// has gone. auth's own bound is the same.
	failFor = 5 * time.Second
	// maxLoggedReason bounds what a line of the log takes from an identity provider, in bytes.
	maxLoggedReason = 500
)

func newSingleSignOn(service *auth.Service, providers *ssoProviders, db auth.DB, o Options, log *slog.Logger) *singleSignOn {
	return &singleSignOn{
		auth: service, providers: providers, db: db, name: o.ClusterName, public: o.PublicAddr, rand: o.Rand, clock: o.Clock, log: log,
		callbacks: make(chan struct{}, maxCallbacks),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_sso_logins_total",
			Help: "Logins through connectors that ended at this replica, by outcome: success, or the code of the refusal.",
		}, []string{"connector", "kind", "outcome"}),
	}
}

// sealedFlow is auth.SSOState.Flow.
type sealedFlow struct {
	sso.Flow
	// Created is of the connector's life: an answer is not for another one of its name.
	Created time.Time `json:"connector_created"`
	// Session is the browser's of before, which the login ends.
	Session *pki.UserIdentity `json:"session,omitempty"`
}

// Connectors implements web.SSO.
func (s *singleSignOn) Connectors() []api.PingConnector { return s.auth.Connectors.Public() }

// Start implements web.SSO.
func (s *singleSignOn) Start(ctx context.Context, kind, connector, next, session string, from netip.Addr) (*web.SSOStart, error) {
	if err := s.auth.SSO.AllowStart(from); err != nil {
		return nil, err
	}
	st := &auth.SSOState{Kind: kind, Connector: connector, Next: next}
	if id, ok := strings.CutPrefix(next, web.ConsolePath); ok {
		st.Console = id
	}
	p, err := s.providers.get(connector)
	if err == nil && p.Doc.ConnectorKind() != kind {
		err = api.Errorf(api.CodeNotFound, "there is no connector %q of kind %s", connector, kind)
	}
	if api.IsCode(err, api.CodeNotFound) && st.Console != "" {
		_, _ = s.auth.Consoles.Get(ctx, st.Console, auth.Actor{Addr: from}) // ends it, if it is by that connector
	}
	if api.IsCode(err, api.CodeNotFound) {
		return nil, err
	}
	ctx, cancel := goingOn(ctx)
	defer cancel()
	if err != nil {
		return nil, s.finished(ctx, st, nil, err, from)
	}
	// What is known of a provider may be from better days. A browser that goes says nothing
	// about it. SAML: see preflight.
	if kind != api.KindSAML {
		if problem := p.check(ctx, s.clock); problem != nil {
			return nil, s.finished(ctx, st, nil, &web.ProviderError{Err: problem}, from)
		}
	}
	return s.start(ctx, st, p, session, from)
}

// StartTest implements web.SSO.
func (s *singleSignOn) StartTest(ctx context.Context, id string, from netip.Addr) (*web.SSOStart, error) {
	if err := s.auth.SSO.AllowStart(from); err != nil {
		return nil, err
	}
	ctx, cancel := goingOn(ctx)
	defer cancel()
	open, err := s.auth.SSOTests.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := newSSOProvider(s.providers.kinds, open)
	if err != nil {
		return nil, err
	}
	st := &auth.SSOState{Kind: open.Doc.ConnectorKind(), Connector: open.Doc.Head().Metadata.Name, Test: id}
	return s.start(ctx, st, p, "", from)
}

func (s *singleSignOn) start(ctx context.Context, st *auth.SSOState, p *ssoProvider, session string, from netip.Addr) (*web.SSOStart, error) {
	f, err := sso.NewFlow(s.rand, s.clock())
	if err != nil {
		return nil, err
	}
	st.ID = f.ID
	asking, cancel := context.WithTimeout(ctx, finishFor)
	defer cancel()
	address, err := p.Start(asking, f)
	if err != nil {
		return nil, s.finished(ctx, st, nil, &web.ProviderError{Err: err}, from)
	}
	flow := sealedFlow{Flow: *f, Created: p.Created}
	cookie := &http.Cookie{
		Name: flowCookie(f.ID), Path: "/", MaxAge: int(auth.FlowTTL.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if st.Kind == api.KindSAML {
		// The answer is a POST of the identity provider's site: it brings cookies of this
		// kind alone, and so not the session's.
		cookie.SameSite = http.SameSiteNoneMode
		if id, err := auth.WebIdentity(session, s.name); session != "" && err == nil {
			flow.Session = &id
		}
	}
	if st.Flow, err = json.Marshal(flow); err != nil {
		return nil, err
	}
	if cookie.Value, err = s.auth.SSO.Seal(*st); err != nil {
		return nil, err
	}
	return &web.SSOStart{Address: address, Cookie: cookie}, nil
}

// flowCookie names the cookie of a flow, so that several logins may be under way.
func flowCookie(id string) string { return web.FlowCookiePrefix + id[:16] }

var flowIDs = regexp.MustCompile(`^[0-9a-f]{64}$`)

// goingOn is the context of work that goes on although the browser has gone: the
// terminal that waits for the login has not, and a browser that loads the page again
// comes back for what became of it.
func goingOn(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), callbackFor)
}

// Finish implements web.SSO.
func (s *singleSignOn) Finish(ctx context.Context, kind, path string, answer url.Values, cookie func(string) (string, bool), from netip.Addr) (*web.SSOFinish, error) {
	out := &web.SSOFinish{}
	st, flow := s.flow(kind, answer, cookie, out)
	if st == nil {
		out.Lost = true
		return out, nil
	}
	out.Next, out.Test = st.Next, st.Test != ""
	out.Connector = api.PingConnector{Kind: st.Kind, Name: st.Connector, Display: st.Connector}
	if c, err := s.auth.Connectors.Named(st.Connector); err == nil {
		out.Connector.Display = c.Display
	}
	spent := out.Cookie
	out.Cookie, out.Repeat = "", true // until something is decided
	// A browser that loads the page again while its first answer is looked at brings the
	// same once more. A provider's code is good for one use: both get what that gives, and
	// who waits for it takes no place.
	same := sha256.Sum256([]byte(st.ID + "\x00" + path + "\x00" + answer.Encode()))
	got, err, _ := s.answers.Do(string(same[:]), func() (any, error) {
		ctx, cancel := goingOn(ctx)
		defer cancel()
		err := s.answer(ctx, kind, path, st, flow, answer, out, from)
		if decided(err) {
			out.Cookie, out.Repeat = spent, false
		}
		return *out, err
	})
	finish := got.(web.SSOFinish) //nolint:forcetypeassert // of the function above
	return &finish, err
}

// decided says whether a login is over, well or not. It is not where the error is ours,
// and says nothing about the login.
func decided(err error) bool {
	_, theirs := errors.AsType[*web.ProviderError](err)
	return err == nil || theirs || auth.Judged(err) || api.IsCode(err, api.CodeNotFound)
}

// answer judges what came back of a flow, and says in out what came of it.
func (s *singleSignOn) answer(ctx context.Context, kind, path string, st *auth.SSOState, flow *sealedFlow, answer url.Values, out *web.SSOFinish, from netip.Addr) error {
	done, err := s.auth.SSO.Answering(from, st.ID) // first of all: what is below costs something
	if err != nil {
		s.count(st, err)
		return err
	}
	err = s.place(ctx, kind, path, st, flow, answer, out, from)
	done(err == nil || !decided(err))
	return err
}

// place has an answer judged if there is a place for it, among all and among those of
// its connector.
func (s *singleSignOn) place(ctx context.Context, kind, path string, st *auth.SSOState, flow *sealedFlow, answer url.Values, out *web.SSOFinish, from netip.Addr) error {
	leave, err := enter(s.callbacks)
	if err != nil {
		s.count(st, err)
		return err
	}
	defer leave()
	p, err := s.provider(ctx, st, flow)
	if err != nil {
		return s.finished(ctx, st, nil, err, from)
	}
	leaveIt, err := enter(p.callbacks)
	if err != nil {
		s.count(st, err)
		return err
	}
	defer leaveIt()
	return s.judge(ctx, kind, path, st, p, flow, answer, out, from)
}

// judge asks the identity provider about an answer, and makes the session.
func (s *singleSignOn) judge(ctx context.Context, kind, path string, st *auth.SSOState, p *ssoProvider, flow *sealedFlow, answer url.Values, out *web.SSOFinish, from netip.Addr) error {
	if err := s.arrived(st, p, kind, path); err != nil {
		return s.finished(ctx, st, nil, err, from)
	}
	ready, cancel := context.WithTimeout(ctx, leaderFor)
	defer cancel()
	// A code that was shown to the provider can't be shown again: first of all there must
	// be somebody who keeps what comes of it.
	if err := s.db.Linearize(ready); err != nil {
		s.count(st, err)
		return err
	}
	asking, cancel := context.WithTimeout(ctx, finishFor)
	defer cancel()
	id, err := p.Finish(asking, &flow.Flow, answer)
	if err != nil {
		return s.finished(ctx, st, id, &web.ProviderError{Err: err}, from)
	}
	out.Repeat = st.Kind == api.KindSAML // which asks nobody; a code was shown by now
	if st.Test != "" {
		return s.finished(ctx, st, id, nil, from)
	}
	out.Session, err = s.auth.SSO.Login(ctx, st, p.OpenConnector, id, from)
	s.count(st, err)
	if err != nil { // Login has told whom there is to tell
		if api.IsCode(err, api.CodeForbidden) {
			out.Attributes = id.Attributes // what a person may need to tell an administrator
		}
		return err
	}
	s.endBefore(ctx, flow, out.Session, from)
	return nil
}

// arrived refuses an answer at another address than the flow's connector has: what an
// identity provider says is for its own callback alone (RFC 9700, section 4.4).
func (s *singleSignOn) arrived(st *auth.SSOState, p *ssoProvider, kind, path string) error {
	if st.Kind != kind {
		return api.Errorf(api.CodeUnauthenticated, "the answer came to the address of another kind of connector (%s, not %s): try again", kind, st.Kind)
	}
	field, paths := p.Doc.Callback()
	want := field.Value
	if want == "" {
		want = api.CallbackURL(s.public, paths[0])
	}
	if api.SameURL(want, api.CallbackURL(s.public, path)) || api.SameURL(want, api.PublicURL(s.public, path)) {
		return nil
	}
	return api.Errorf(api.CodeUnauthenticated, "the answer came to the address of another connector than %q: somebody may be mixing up logins; try again, and tell your administrator if it comes back", st.Connector)
}

// flow finds what Start gave to this browser; nil if it gave nothing that fits.
func (s *singleSignOn) flow(kind string, answer url.Values, cookie func(string) (string, bool), out *web.SSOFinish) (*auth.SSOState, *sealedFlow) {
	name := "state"
	if kind == api.KindSAML {
		name = "RelayState"
	}
	if len(answer[name]) != 1 || !flowIDs.MatchString(answer[name][0]) {
		return nil, nil
	}
	id := answer[name][0]
	text, ok := cookie(flowCookie(id))
	if !ok {
		return nil, nil
	}
	out.Cookie = flowCookie(id)
	st, err := s.auth.SSO.Open(text)
	if err != nil || st.ID != id {
		return nil, nil
	}
	flow := &sealedFlow{}
	if err := json.Unmarshal(st.Flow, flow); err != nil || flow.ID != id {
		return nil, nil
	}
	return st, flow
}

// provider is the one that the flow was begun with.
func (s *singleSignOn) provider(ctx context.Context, st *auth.SSOState, flow *sealedFlow) (*ssoProvider, error) {
	if st.Test != "" {
		open, err := s.auth.SSOTests.Open(ctx, st.Test)
		if err != nil {
			return nil, err
		}
		return newSSOProvider(s.providers.kinds, open)
	}
	p, err := s.providers.get(st.Connector)
	if err != nil {
		return nil, err
	}
	if p.Doc.ConnectorKind() != st.Kind || !p.Created.Equal(flow.Created) {
		return nil, api.Errorf(api.CodeUnauthenticated, "connector %q was replaced while you logged in: try again", st.Connector)
	}
	return p, nil
}

// enter takes a place among the callbacks that are under way.
func enter(places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, api.Errorf(api.CodeRateLimited, "too many logins wait for an identity provider at this moment: try again in some seconds")
	}
}

// finished ends a test, or a login that failed: it tells the log, the terminal and who
// looks at figures.
func (s *singleSignOn) finished(ctx context.Context, st *auth.SSOState, id *api.SSOIdentity, reason error, from netip.Addr) error {
	if st.Test == "" {
		reason = s.explained(st, reason)
		if decided(reason) {
			s.auth.SSO.Fail(ctx, st, id, reason, from)
		}
		s.count(st, reason)
		return reason
	}
	if !decided(reason) {
		return reason
	}
	r := api.SSOTestResult{Done: true, Identity: id}
	if reason != nil {
		r.Error = reason.Error()
	}
	telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), failFor)
	defer cancel()
	if err := s.auth.SSOTests.Finish(telling, st.Test, r); err != nil {
		return err
	}
	return reason
}

// explained says of a provider that does not answer as it should what tsh is told where
// that is known at the start. SAML asks nobody on the way: what it lacks, it says.
func (s *singleSignOn) explained(st *auth.SSOState, reason error) error {
	theirs, ok := errors.AsType[*web.ProviderError](reason)
	if !ok || st.Kind == api.KindSAML || !api.IsCode(reason, api.CodeUnavailable) {
		return reason
	}
	return &web.ProviderError{Err: s.providers.down(st.Connector, theirs.Err)}
}

// count keeps the figures, and a line for who runs the replica.
func (s *singleSignOn) count(st *auth.SSOState, reason error) {
	outcome := "success"
	if reason != nil {
		outcome = string(api.CodeOf(reason))
		s.log.Warn("a login through a connector failed", "connector", st.Connector, "kind", st.Kind, "code", outcome,
			"reason", api.CleanText(reason.Error(), maxLoggedReason))
	}
	s.logins.WithLabelValues(st.Connector, st.Kind, outcome).Inc()
}

// endBefore ends the session that the browser had before a SAML login. A callback of
// the others brings that session's cookie itself.
func (s *singleSignOn) endBefore(ctx context.Context, flow *sealedFlow, made *auth.WebSession, from netip.Addr) {
	if flow.Session == nil || *flow.Session == made.Identity {
		return
	}
	if err := s.auth.Sessions.Delete(ctx, actor(*flow.Session, from), *flow.Session); err != nil {
		s.log.Warn("a session that a new login replaces goes on", "user", flow.Session.User, "error", err)
	}
}

// Metadata implements web.SSO.
func (s *singleSignOn) Metadata(_ context.Context, name string) ([]byte, error) {
	p, err := s.providers.get(name)
	if err != nil {
		return nil, err
	}
	m, ok := p.Provider.(interface{ Metadata() ([]byte, error) })
	if !ok {
		return nil, api.Errorf(api.CodeNotFound, "connector %q is not of kind saml", name)
	}
	return m.Metadata()
}
