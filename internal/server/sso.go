package server

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
	name      string // of the cluster
	public    string // PublicAddr
	rand      io.Reader
	clock     func() time.Time
	log       *slog.Logger
	callbacks chan struct{} // one for each under way
	logins    *prometheus.CounterVec

	finishFor time.Duration // what an identity provider may take for a callback
}

const (
	// failFor is how long to try to tell who waits for a test, even if the browser has gone.
	failFor = 5 * time.Second
	// flowTTL is how long the browser keeps a flow; auth judges the same.
	flowTTL = 10 * time.Minute
	// maxLoggedReason bounds what a line of the log takes from an identity provider, in bytes.
	maxLoggedReason = 500
)

func newSingleSignOn(kinds ssoKinds, o Options, log *slog.Logger) *singleSignOn {
	s := &singleSignOn{
		name: o.ClusterName, public: o.PublicAddr, rand: o.Rand, clock: o.Clock, log: log,
		callbacks: make(chan struct{}, maxCallbacks), finishFor: sso.MaxWait,
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_sso_logins_total",
			Help: "Logins through connectors that ended at this replica, by outcome: success, or the code of the refusal.",
		}, []string{"connector", "kind", "outcome"}),
	}
	s.providers = &ssoProviders{kinds: kinds, clock: o.Clock, open: func(name string) (*auth.OpenConnector, error) { return s.auth.Connectors.Open(name) }}
	return s
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
	p, err := s.providers.get(connector)
	if err != nil {
		return nil, err
	}
	if p.Doc.ConnectorKind() != kind {
		return nil, api.Errorf(api.CodeNotFound, "there is no connector %q of kind %s", connector, kind)
	}
	st := &auth.SSOState{Kind: kind, Connector: connector, Next: next}
	st.Console, _ = strings.CutPrefix(next, consolePages)
	if st.Console == next {
		st.Console = ""
	}
	return s.start(ctx, st, p, session, from)
}

// consolePages are the pages on which a login of tsh is approved; its id follows.
const consolePages = "/web/cli/"

// StartTest implements web.SSO.
func (s *singleSignOn) StartTest(ctx context.Context, id string, from netip.Addr) (*web.SSOStart, error) {
	if err := s.auth.SSO.AllowStart(from); err != nil {
		return nil, err
	}
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
	asking, cancel := context.WithTimeout(ctx, s.finishFor)
	defer cancel()
	st.ID = f.ID
	address, err := p.Start(asking, f)
	if err != nil {
		s.failed(ctx, st, nil, err, from)
		return nil, err
	}
	flow := sealedFlow{Flow: *f, Created: p.Created}
	cookie := &http.Cookie{
		Name: flowCookie(f.ID), Path: "/", MaxAge: int(flowTTL.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
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

// Finish implements web.SSO.
func (s *singleSignOn) Finish(ctx context.Context, kind string, answer url.Values, cookie func(string) (string, bool), from netip.Addr) (*web.SSOFinish, error) {
	out := &web.SSOFinish{}
	st, flow := s.flow(kind, answer, cookie, out)
	if st == nil {
		out.Lost = true
		return out, nil
	}
	out.Next, out.Test = st.Next, st.Test != ""
	out.Connector = api.PingConnector{Kind: st.Kind, Name: st.Connector, Display: s.display(st.Connector)}
	done, err := s.auth.SSO.Answering(from, st.ID)
	if err != nil {
		return out, err
	}
	err = s.answer(ctx, kind, st, flow, answer, out, from)
	done(err == nil || !auth.Judged(err))
	return out, err
}

// answer judges what came back of a flow, and says in out what came of it.
func (s *singleSignOn) answer(ctx context.Context, kind string, st *auth.SSOState, flow *sealedFlow, answer url.Values, out *web.SSOFinish, from netip.Addr) error {
	p, err := s.provider(ctx, st, flow)
	if err != nil {
		return s.finished(ctx, st, out, nil, err, from)
	}
	out.Connector.Display = p.Doc.Display()
	release, err := s.enter(p)
	if err != nil {
		s.count(st, err)
		return err
	}
	defer release()
	if st.Kind != kind {
		err := api.Errorf(api.CodeUnauthenticated, "the answer came to the address of another kind of connector (%s, not %s): try again", kind, st.Kind)
		return s.finished(ctx, st, out, nil, err, from)
	}
	asking, cancel := context.WithTimeout(ctx, s.finishFor)
	defer cancel()
	id, err := p.Finish(asking, &flow.Flow, answer)
	if err != nil || st.Test != "" {
		return s.finished(ctx, st, out, id, err, from)
	}
	out.Session, err = s.auth.SSO.Login(ctx, st, p.OpenConnector, id, from)
	if err != nil { // Login has told whom there is to tell
		out.Console = st.Console != "" && auth.Judged(err)
		if api.IsCode(err, api.CodeForbidden) {
			out.Attributes = shownAttributes(id)
		}
		s.count(st, err)
		return err
	}
	s.count(st, nil)
	s.endBefore(ctx, flow, out.Session, from)
	return nil
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

// enter takes a place among the callbacks.
func (s *singleSignOn) enter(p *ssoProvider) (release func(), err error) {
	busy := api.Errorf(api.CodeRateLimited, "too many logins wait for an identity provider at this moment: try again in some seconds")
	select {
	case s.callbacks <- struct{}{}:
	default:
		return nil, busy
	}
	select {
	case p.callbacks <- struct{}{}:
	default:
		<-s.callbacks
		return nil, busy
	}
	return func() { <-p.callbacks; <-s.callbacks }, nil
}

// finished ends a test, or a login that failed.
func (s *singleSignOn) finished(ctx context.Context, st *auth.SSOState, out *web.SSOFinish, id *api.SSOIdentity, reason error, from netip.Addr) error {
	if st.Test == "" {
		out.Console = st.Console != ""
		s.failed(ctx, st, id, reason, from)
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

// failed tells the log, the terminal and who looks at figures.
func (s *singleSignOn) failed(ctx context.Context, st *auth.SSOState, id *api.SSOIdentity, reason error, from netip.Addr) {
	if st.Test != "" {
		return
	}
	s.auth.SSO.Fail(ctx, st, id, reason, from)
	s.count(st, reason)
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

func (s *singleSignOn) display(name string) string {
	for _, c := range s.auth.Connectors.Public() {
		if c.Name == name {
			return c.Display
		}
	}
	return name
}

// shownAttributes are what a person may need to tell an administrator.
func shownAttributes(id *api.SSOIdentity) map[string][]string {
	out := map[string][]string{}
	for name, values := range id.Attributes {
		out[name] = values
	}
	const teams = "github_teams"
	if len(id.Teams) > 0 && len(out[teams]) == 0 {
		for _, t := range id.Teams {
			out[teams] = append(out[teams], t.Organization+"/"+t.Slug)
		}
	}
	return out
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

// preflight is an auth.Options.Preflight: it tells who is about to log in whether
// that is any use. The browser may reach a SAML identity provider that we do not, and
// nothing else is asked of it, so that is a warning.
func (s *singleSignOn) preflight(ctx context.Context, connector string) (warning string, err error) {
	p, err := s.providers.get(connector)
	if err != nil {
		return "", err
	}
	problem := p.check(ctx, s.clock)
	if problem == nil {
		return "", nil
	}
	if p.Doc.ConnectorKind() == api.KindSAML {
		return "the identity provider of connector \"" + connector + "\" does not answer the cluster (" + problem.Error() + "); your browser may reach it all the same", nil
	}
	return "", api.Errorf(api.CodeUnavailable, "the identity provider of connector %q does not answer (%s); log in as a local user meanwhile: tsh login --proxy=%s --auth=local --user=NAME",
		connector, problem.Error(), api.ShellQuote(s.public))
}
