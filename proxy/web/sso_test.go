package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	theFlow   = FlowCookiePrefix + "0123456789abcdef"
	theState  = "0123456789abcdef"
	nomapping = `user "octocat" does not belong to any teams configured in "github" connector`
)

// signOn is single sign-on in which everything goes as it is told to.
type signOn struct {
	connectors []api.PingConnector
	startErr   error
	address    string
	finish     SSOFinish
	finishErr  error
	calls      []string
}

func newSignOn() *signOn {
	return &signOn{
		connectors: []api.PingConnector{
			{Kind: api.KindOIDC, Name: "dex", Display: "Example Corp"}, {Kind: api.KindGithub, Name: "github", Display: "GitHub"}, {Kind: api.KindSAML, Name: "okta"},
		},
		address: "https://idp.example.net/authorize?state=" + theState,
		finish: SSOFinish{
			Session: &auth.WebSession{Identity: pki.UserIdentity{User: "octocat"}, Cookie: "octocat.live", Expires: noon.Add(12 * time.Hour)},
			Next:    "/", Cookie: theFlow, Connector: api.PingConnector{Kind: api.KindGithub, Name: "github", Display: "GitHub"},
		},
	}
}

func (f *signOn) Connectors() []api.PingConnector { return f.connectors }

func (f *signOn) begin(words ...string) (*SSOStart, error) {
	f.calls = append(f.calls, strings.Join(words, " "))
	if f.startErr != nil {
		return nil, f.startErr
	}
	return &SSOStart{Address: f.address, Cookie: &http.Cookie{
		Name: theFlow, Value: "sealed", Path: "/", MaxAge: 600, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}}, nil
}

func (f *signOn) Start(_ context.Context, kind, connector, next, session string, from netip.Addr) (*SSOStart, error) {
	if !from.IsValid() {
		return nil, errors.New("whom to limit?")
	}
	for _, c := range f.connectors {
		if c.Name == connector && c.Kind == kind {
			return f.begin("start", kind, connector, next, session)
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "there is no connector %q", connector)
}

func (f *signOn) StartTest(_ context.Context, id string, from netip.Addr) (*SSOStart, error) {
	if id == "unknown" || !from.IsValid() {
		return nil, api.Errorf(api.CodeNotFound, "there is no such test")
	}
	return f.begin("test", id)
}

func (f *signOn) Finish(_ context.Context, kind, path string, answer url.Values, cookie func(string) (string, bool), from netip.Addr) (*SSOFinish, error) {
	if !from.IsValid() || !strings.HasPrefix(path, "/webapi/"+kind+"/") {
		return &SSOFinish{}, errors.New("whom to limit?")
	}
	value, _ := cookie(theFlow)
	f.calls = append(f.calls, strings.Join([]string{"finish", path, answer.Encode(), value}, " "))
	out := f.finish
	if f.finishErr != nil {
		out.Session = nil
	}
	return &out, f.finishErr
}

func (f *signOn) Metadata(_ context.Context, name string) ([]byte, error) {
	switch name {
	case "okta":
		return []byte("<EntityDescriptor/>"), nil
	case "broken":
		return nil, errors.New("secret detail of the store")
	default:
		return nil, api.Errorf(api.CodeNotFound, "there is no such connector")
	}
}

// withFlow is a request of a browser that has begun a login.
func withFlow(q request) request {
	q.cookies = append(q.cookies, &http.Cookie{Name: theFlow, Value: "sealed"})
	return q
}

// posted is what a browser sends when an identity provider's page makes it.
func posted(form url.Values) request {
	form.Set(formField, "") // it knows no token of ours
	return request{path: api.PathSAMLACS, form: form, header: http.Header{"Origin": {"https://idp.example.net"}, "Sec-Fetch-Site": {"cross-site"}}}
}

// evil is what a stranger may call things.
const evilName = "\u202e\"><script>alert(1)</script>\x1b[31m<img src=x onerror=alert(1)>{{.}}'"

func manyConnectors(n int) (out []api.PingConnector) {
	for i := range n {
		display := fmt.Sprintf("Identity of department %d", i)
		if i%5 == 3 {
			display = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft (production)"
		}
		out = append(out, api.PingConnector{Kind: api.KindOIDC, Name: fmt.Sprintf("dep-%02d", i), Display: display})
	}
	return out
}

func manyAttributes() map[string][]string {
	out := map[string][]string{}
	for i := range 100 {
		out[fmt.Sprintf("https://schemas.example.com/identity/claims/%02d", i)] = []string{"yes"}
	}
	const groups = "https://schemas.example.com/identity/claims/00"
	for j := range 1000 {
		out[groups] = append(out[groups], fmt.Sprintf("cn=group-%d,ou=%s", j, strings.Repeat("x", 300)))
	}
	return out
}

// ended is the page after a callback that ends so.
func ended(t testing.TB, kind string, change func(*signOn)) func() *httptest.ResponseRecorder {
	return func() *httptest.ResponseRecorder {
		a := newAccounts()
		a.sso = newSignOn()
		change(a.sso)
		h := newSiteOf(t, &invites{}, a, io.Discard)
		if kind == api.KindSAML {
			return send(h, withFlow(posted(url.Values{"RelayState": {theState}, "SAMLResponse": {"PA=="}})))
		}
		return send(h, withFlow(request{path: api.PathGithubCallback + "?code=c&state=" + theState}))
	}
}

// theirs is an error of an identity provider.
func theirs(code api.Code, message string) error {
	return &ProviderError{&api.Error{Code: code, Message: message}}
}

// shownSSO are the states of single sign-on.
func shownSSO(t testing.TB) map[string]func() *httptest.ResponseRecorder {
	as := func(user, path string, form url.Values, cookies ...*http.Cookie) func() *httptest.ResponseRecorder {
		return func() *httptest.ResponseRecorder {
			a := newAccounts()
			a.sso = newSignOn()
			a.factors = nil
			return send(newSiteOf(t, &invites{}, a, os.Stderr), request{path: path, user: user, form: form, cookies: cookies})
		}
	}
	connectors := func(list []api.PingConnector) func() *httptest.ResponseRecorder {
		return func() *httptest.ResponseRecorder {
			a := newAccounts()
			a.sso = newSignOn()
			a.sso.connectors = list
			return send(newSiteOf(t, &invites{}, a, os.Stderr), request{path: loginPath})
		}
	}
	refused := func(change func(*SSOFinish), err error) func() *httptest.ResponseRecorder {
		return ended(t, api.KindGithub, func(f *signOn) { change(&f.finish); f.finishErr = err })
	}
	started := func(err error) func() *httptest.ResponseRecorder {
		return func() *httptest.ResponseRecorder {
			a := newAccounts()
			a.sso = newSignOn()
			a.sso.startErr = err
			return send(newSiteOf(t, &invites{}, a, os.Stderr), request{path: "/webapi/oidc/login/web?connector_id=dex"})
		}
	}
	teams := map[string][]string{"username": {"octocat"}, "github_orgs": {"octocats"}, "github_teams": {"octocats/devs", "octocats/on-call"}}
	return map[string]func() *httptest.ResponseRecorder{
		"login-sso":              connectors(newSignOn().connectors),
		"login-sso-one":          connectors(manyConnectors(4)[3:]),
		"login-sso-many":         connectors(manyConnectors(20)),
		"login-sso-evil":         connectors([]api.PingConnector{{Kind: api.KindSAML, Name: "e", Display: evilName + strings.Repeat("y", 500)}}),
		"login-local":            as("", loginPath+"?next=/web/cli/local", nil),
		"login-again-sso":        as("octocat.old", loginPath+"?next=/web/cli/good", nil),
		"sso-nomapping":          refused(func(f *SSOFinish) { f.Attributes = teams }, api.Errorf(api.CodeForbidden, nomapping)),
		"sso-nomapping-terminal": refused(func(f *SSOFinish) { f.Attributes, f.Next = teams, "/web/cli/failed" }, api.Errorf(api.CodeForbidden, nomapping)),
		"sso-many":               refused(func(f *SSOFinish) { f.Attributes = manyAttributes() }, api.Errorf(api.CodeForbidden, nomapping)),
		"sso-evil": refused(func(f *SSOFinish) {
			f.Attributes, f.Connector.Display = map[string][]string{evilName: {evilName, ""}, "empty": nil}, evilName
		}, api.Errorf(api.CodeForbidden, "user %s is refused: %s", evilName, strings.Repeat("y", 5000))),
		"sso-nomapping-other": refused(func(f *SSOFinish) { f.Attributes, f.Next = teams, "/web/cli/good" }, api.Errorf(api.CodeForbidden, nomapping)),
		"sso-denied":          refused(func(*SSOFinish) {}, theirs(api.CodeForbidden, "GitHub: the person there did not allow it (access_denied)")),
		"sso-unusable":        started(theirs(api.CodeForbidden, "this identity provider can't be used: the issuer of https://idp.example.com is another")),
		"sso-noleader":        refused(func(f *SSOFinish) { f.Cookie, f.Repeat = "", true }, api.Errorf(api.CodeUnavailable, "the cluster has no leader at the moment")),
		"sso-noleader-saml": ended(t, api.KindSAML, func(f *signOn) {
			f.finish.Cookie, f.finish.Repeat, f.finishErr = "", true, api.Errorf(api.CodeUnavailable, "the cluster has no leader at the moment")
		}),
		"sso-unproven":       refused(func(*SSOFinish) {}, theirs(api.CodeUnauthenticated, "the clocks of the identity provider and of Sallyport differ by more than 3m0s: the ID token was issued at 2026-11-22T12:10:00Z, here it is 2026-11-22T12:00:00Z; set both by NTP, then log in again")),
		"sso-down":           refused(func(f *SSOFinish) { f.Next = "/web/account" }, theirs(api.CodeUnavailable, "github.com: it did not answer in time")),
		"sso-busy":           refused(func(f *SSOFinish) { f.Cookie, f.Repeat = "", true }, api.Errorf(api.CodeRateLimited, "too many logins wait for an identity provider at this moment: try again in some seconds")),
		"sso-taken":          refused(func(*SSOFinish) {}, api.Errorf(api.CodeConflict, `user "alice" exists already as a local user`)),
		"sso-internal":       refused(func(*SSOFinish) {}, errors.New("secret detail of the store")),
		"sso-test":           refused(func(f *SSOFinish) { f.Test, f.Session = true, nil }, nil),
		"sso-testfailed":     refused(func(f *SSOFinish) { f.Test = true }, theirs(api.CodeUnauthenticated, "the signature is not of the identity provider's certificate")),
		"sso-testgone":       as("", ssoTestPath+"unknown", nil),
		"sso-lost":           refused(func(f *SSOFinish) { f.Lost, f.Session = true, nil }, nil),
		"sso-gone":           as("", "/webapi/github/login/web?connector_id=nobody&next=/web/account", nil),
		"sso-entered":        ended(t, api.KindSAML, func(f *signOn) { f.finish.Next = "/web/cli/sso" }),
		"cli-sso":            as("octocat", "/web/cli/sso", nil),
		"cli-sso-other":      as("alice", "/web/cli/sso", nil),
		"cli-sso-bob":        as("octocat", "/web/cli/sso-bob", nil),
		"cli-sso-late":       as("octocat.late", "/web/cli/sso", url.Values{"answer": {"approve"}}),
		"cli-sso-went":       as("", "/web/cli/sso", nil, &http.Cookie{Name: wentCookie, Value: "sso"}),
		"cli-sso-gone":       as("", "/web/cli/gone", nil),
		"cli-local-other":    as("octocat", "/web/cli/local", nil),
		"cli-headless":       as("alice", "/web/cli/headless", nil),
		"cli-headless-wrong": as("alice", "/web/cli/headless", url.Values{"answer": {"approve"}, "code": {"0000-0000"}}),
		"cli-headless-done":  as("alice", "/web/cli/headless", url.Values{"answer": {"approve"}, "code": {" 3F7A-09C2 "}}),
		"cli-headless-sso":   as("octocat", "/web/cli/headless-sso", nil),
		"account-sso":        as("octocat", accountPath, nil),
		"clusters-sso":       as("octocat", "/", nil),
		"password-sso":       as("octocat", passwordPath, nil),
	}
}

func wantSSO() map[string]look {
	return map[string]look{
		"login-sso":              {200, `href="/webapi/oidc/login/web?connector_id=dex">Example Corp</a>`},
		"login-sso-one":          {200, "Donaudampf"},
		"login-sso-many":         {200, "Identity of department 19"},
		"login-sso-evil":         {200, "&lt;script&gt;"},
		"login-local":            {200, "tsh in your terminal waits"},
		"login-again-sso":        {200, "connector_id=github&amp;next=%2Fweb%2Fcli%2Fgood"},
		"sso-nomapping":          {403, "octocats/on-call"},
		"sso-nomapping-terminal": {403, "Your terminal has been told"},
		"sso-many":               {403, "and 981 more"},
		"sso-evil":               {403, "&lt;script&gt;"},
		"sso-nomapping-other":    {403, "Try again"},
		"sso-denied":             {403, "GitHub did not log you in"},
		"sso-unusable":           {403, "Example Corp can’t be used"},
		"sso-noleader":           {503, `<a class="button" href="">Try again</a>`},
		"sso-noleader-saml":      {503, "reload this page"},
		"sso-unproven":           {401, "differ by more than 3m0s"},
		"sso-down":               {503, "No answer from GitHub"},
		"sso-busy":               {429, "Not just now"},
		"sso-taken":              {409, "exists already as a local user"},
		"sso-internal":           {500, "Something went wrong on our side"},
		"sso-test":               {200, "Go back to the terminal"},
		"sso-testfailed":         {401, "Go back to the terminal"},
		"sso-testgone":           {404, "This test is over"},
		"sso-lost":               {403, "begun in another browser, or too long ago"},
		"sso-gone":               {404, "There is no such way to log in"},
		"sso-entered":            {200, `<meta http-equiv="refresh" content="0;url=/web/cli/sso">`},
		"cli-sso":                {200, "<strong>3F7A-09C2</strong>"},
		"cli-sso-other":          {200, "connector_id=github&amp;next=%2Fweb%2Fcli%2Fsso"},
		"cli-sso-bob":            {200, `href="/webapi/github/login/web?connector_id=github&amp;next=%2Fweb%2Fcli%2Fsso-bob">Log in with GitHub as somebody else</a>`},
		"cli-sso-late":           {401, "That took too long"},
		"cli-sso-went":           {200, "waits for a login with GitHub"},
		"cli-sso-gone":           {404, "was removed"},
		"cli-local-other":        {200, "Log in with a password"},
		"cli-headless":           {200, `name="code"`},
		"cli-headless-wrong":     {400, "This is not the code that your terminal shows"},
		"cli-headless-done":      {200, "Go back to your terminal"},
		"cli-headless-sso":       {200, `name="code"`},
		"account-sso":            {200, "You log in with <strong>GitHub</strong>"},
		"clusters-sso":           {200, "<span>--auth=github</span>"},
		"password-sso":           {403, "no password and no second factor here"},
	}
}
