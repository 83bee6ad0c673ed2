package server

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/client"
)

// Logins through connectors, of browsers and terminals before three replicas that they
// share: starting replicas takes longer than all of them. A login begins on any replica
// and ends on any other, and what was used on one is used on all.
func TestSSO(t *testing.T) {
	t.Parallel()
	r, kinds := startSSOReplicas(t, 3)
	for _, call := range kinds.calls() {
		if !strings.HasPrefix(call, "probe ") {
			t.Errorf("an identity provider is asked at the start: %s", call)
		}
	}
	for _, step := range []struct {
		name string
		run  func(*testing.T, *replicas, *fakeKinds)
	}{
		{"begun on one, finished on another, known to the third", ssoGoesOn},
		{"a callback is used once", ssoCallbacksAreUsedOnce},
		{"an assertion is used once, in whatever flow", ssoAssertionsAreUsedOnce},
		{"a SAML login ends the session of before", ssoEndsTheSessionOfBefore},
		{"what this browser did not begin is refused", ssoRefusesWhatThisBrowserDidNotBegin},
		{"failures reach the terminal", ssoFailuresReachTheTerminal},
		{"tests log nobody in", ssoTestsLogNobodyIn},
		{"the leader dies in between", ssoOutlivesTheLeader}, // the last: one is gone
	} {
		t.Run(step.name, func(t *testing.T) { step.run(t, r, kinds) })
	}
}

func ssoGoesOn(t *testing.T, r *replicas, _ *fakeKinds) {
	b := r.browser()
	p := b.back(1, b.begin(0, api.KindOIDC, "dex", "/web/account"), "anna:devs")
	if p.status != http.StatusSeeOther || p.location != "/web/account" {
		t.Fatalf("%d %s %s", p.status, p.location, p.body)
	}
	if n := len(b.flows()); n != 0 {
		t.Errorf("%d flows stay with the browser", n)
	}
	for i := range 3 {
		if p := b.open(i, "/web/account", nil); p.status != http.StatusOK || !strings.Contains(p.body, "You log in with <strong>Example Corp</strong>") || !strings.Contains(p.body, "anna") {
			t.Errorf("replica %d: %d %s", i, p.status, p.body)
		}
	}
}

func ssoCallbacksAreUsedOnce(t *testing.T, r *replicas, _ *fakeKinds) {
	b := r.browser()
	state := b.begin(0, api.KindOIDC, "dex", "")
	thief, flows := r.browser(), b.flows() // who has the flow, even
	if p := b.back(1, state, "bela:devs"); p.status != http.StatusSeeOther {
		t.Fatalf("%d %s", p.status, p.body)
	}
	for i := range 3 {
		thief.keep(flows)
		if p := thief.back(i, state, "bela:devs"); p.status < 400 || p.status >= 500 {
			t.Errorf("replica %d took it again: %d %s", i, p.status, p.body)
		}
		if thief.loggedIn(i) {
			t.Errorf("replica %d: a session", i)
		}
	}
}

func ssoAssertionsAreUsedOnce(t *testing.T, r *replicas, _ *fakeKinds) {
	b, other := r.browser(), r.browser()
	if p := b.post(1, b.begin(0, api.KindSAML, "okta", "/web/account"), "cora:devs"); p.status != http.StatusOK || !strings.Contains(p.body, `content="0;url=/web/account"`) {
		t.Fatalf("%d %s", p.status, p.body)
	}
	if !b.loggedIn(2) {
		t.Error("not logged in")
	}
	p := other.post(2, other.begin(1, api.KindSAML, "okta", ""), "cora:devs")
	if p.status != http.StatusUnauthorized || !strings.Contains(p.body, "used already") || other.loggedIn(2) {
		t.Errorf("an assertion of another flow: %d %s", p.status, p.body)
	}
}

// The POST of another site brings no cookie of the session, so the flow remembers it.
func ssoEndsTheSessionOfBefore(t *testing.T, r *replicas, _ *fakeKinds) {
	b := r.browser()
	if p := b.back(0, b.begin(0, api.KindOIDC, "dex", ""), "dora:devs"); p.status != http.StatusSeeOther {
		t.Fatalf("%d %s", p.status, p.body)
	}
	before := r.run[0].srv.auth.Sessions.List("dora")
	state := b.begin(1, api.KindSAML, "okta", "")
	across := r.browser() // what a browser sends along with another site's POST
	across.keep(b.flows())
	if p := across.post(2, state, "emma:devs"); p.status != http.StatusOK || !across.loggedIn(2) {
		t.Fatalf("%d %s", p.status, p.body)
	}
	for i := range 3 {
		if len(before) != 1 || len(r.run[i].srv.auth.Sessions.List("dora")) != 0 || b.loggedIn(i) {
			t.Errorf("replica %d: the session of before goes on", i)
		}
	}
}

func ssoOutlivesTheLeader(t *testing.T, r *replicas, _ *fakeKinds) {
	lead := r.leader()
	b := r.browser()
	state := b.begin(lead, api.KindOIDC, "dex", "/web/account")
	r.stop(lead, r.run[lead])
	left := (lead + 1) % 3
	var p page
	eventually(t, patience, "the login goes on without the leader", func() error {
		if p = b.back(left, state, "fred:devs"); p.status == http.StatusServiceUnavailable {
			state = b.begin(left, api.KindOIDC, "dex", "/web/account") // as the page says: try again
			return errors.New("no leader yet")
		}
		return nil
	})
	if p.status != http.StatusSeeOther || !b.loggedIn((lead+2)%3) {
		t.Errorf("%d %s", p.status, p.body)
	}
}

// What somebody else's browser began, or nobody did, logs nobody in (threats.md, OAuth:
// state missing, foreign browser, mix-up of two connectors).
func ssoRefusesWhatThisBrowserDidNotBegin(t *testing.T, r *replicas, kinds *fakeKinds) {
	attacker, victim := r.browser(), r.browser()
	begun := attacker.begin(0, api.KindOIDC, "dex", "")
	own := victim.begin(0, api.KindOIDC, "other", "")
	saml := victim.begin(0, api.KindSAML, "okta", "")
	flows := victim.flows()
	// The attacker's flow under the name that the victim's browser has.
	mixed := r.browser()
	mixed.keep(map[string]string{flowCookie(own): attacker.flows()[flowCookie(begun)]})
	altered := r.browser()
	altered.keep(map[string]string{flowCookie(own): flows[flowCookie(own)] + "A"})

	asked := len(kinds.calls())
	const lost = "begun in another browser"
	for name, c := range map[string]struct {
		b     *browser
		path  string
		form  url.Values
		words string
	}{
		"login CSRF: the attacker's callback":      {victim, api.PathOIDCCallback + "?code=mallory:devs&state=" + begun, nil, lost},
		"no state":                                 {victim, api.PathOIDCCallback + "?code=mallory:devs", nil, lost},
		"an empty state":                           {victim, api.PathOIDCCallback + "?code=mallory:devs&state=", nil, lost},
		"two states":                               {victim, api.PathOIDCCallback + "?code=mallory:devs&state=" + own + "&state=" + begun, nil, lost},
		"a state of the same cookie":               {victim, api.PathOIDCCallback + "?code=mallory:devs&state=" + own[:16] + begun[16:], nil, lost},
		"a state that is none":                     {victim, api.PathOIDCCallback + "?code=mallory:devs&state=" + strings.ToUpper(own), nil, lost},
		"the flow of another under this name":      {mixed, api.PathOIDCCallback + "?code=mallory:devs&state=" + own, nil, lost},
		"an altered flow":                          {altered, api.PathOIDCCallback + "?code=mallory:devs&state=" + own, nil, lost},
		"SAML's RelayState at the OIDC callback":   {victim, api.PathOIDCCallback + "?code=mallory:devs&RelayState=" + own, nil, lost},
		"an OIDC flow at the GitHub callback":      {victim, api.PathGithubCallback + "?code=mallory:devs&state=" + own, nil, "another kind of connector"},
		"a SAML flow at the OIDC callback":         {victim, api.PathOIDCCallback + "?code=mallory:devs&state=" + saml, nil, "another kind of connector"},
		"a SAML answer that nobody asked for":      {victim, api.PathSAMLACS, url.Values{"SAMLResponse": {"mallory:devs"}}, lost},
		"a SAML answer with the attacker's flow":   {victim, api.PathSAMLACS, url.Values{"SAMLResponse": {"mallory:devs"}, "RelayState": {begun}}, lost},
		"a SAML answer for a flow of another kind": {victim, api.PathSAMLACS, url.Values{"SAMLResponse": {"mallory:devs"}, "RelayState": {own}}, "another kind of connector"},
	} {
		victim.keep(flows) // each try begins with what the browser had
		p := c.b.open(0, c.path, c.form)
		if p.status < 400 || p.status >= 500 || !strings.Contains(p.body, c.words) || c.b.loggedIn(0) {
			t.Errorf("%s: %d %s", name, p.status, p.body)
		}
	}
	if more := kinds.calls()[asked:]; len(more) > 0 {
		t.Errorf("an identity provider was asked about it: %q", more)
	}
}

// The page, and the terminal, say what was wrong; and the login of tsh is over.
func ssoFailuresReachTheTerminal(t *testing.T, r *replicas, kinds *fakeKinds) {
	for name, c := range map[string]struct {
		code   string
		status int
		words  []string // on the page; the first in the terminal
	}{
		"no mapping": {"gina:accounting", 403, []string{"has no claims that match claims_to_roles of", "accounting", "has been told"}},
		"denied":     {"denied", 403, []string{"the person at the identity provider said no", "has been told"}},
	} {
		login, err := r.beginSSO("dex")
		if err != nil {
			t.Fatal(err)
		}
		b := r.browser()
		shown := b.open(0, "/web/cli/"+login.ID, nil)
		if !strings.HasPrefix(shown.location, "/webapi/oidc/login/web?connector_id=dex&next=") {
			t.Fatalf("%s: %d %s", name, shown.status, shown.location)
		}
		to, err := url.Parse(b.open(0, shown.location, nil).location)
		if err != nil {
			t.Fatal(err)
		}
		p := b.back(0, to.Query().Get("state"), c.code)
		for _, words := range c.words {
			if p.status != c.status || !strings.Contains(p.body, words) || b.loggedIn(0) {
				t.Errorf("%s: %d, want %q in %s", name, p.status, words, p.body)
			}
		}
		began := time.Now()
		if err := r.web(0).AwaitConsoleLogin(t.Context(), login); err == nil || !strings.Contains(err.Error(), c.words[0]) {
			t.Errorf("%s: the terminal is told %v", name, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: after %s", name, took)
		}
	}
	// A provider that is down tells the terminal even before a browser opens.
	// What others said is kept for a while, so this one is new.
	if _, err := r.run[0].srv.auth.Connectors.Put(t.Context(), auth.Actor{User: auth.SocketUser}, authtest.OIDCConnector("away"), false); err != nil {
		t.Fatal(err)
	}
	defer kinds.setDown(nil)
	kinds.setDown(api.Errorf(api.CodeUnavailable, "idp.example.com: connection refused"))
	_, err := r.beginSSO("away")
	if err == nil || !strings.Contains(err.Error(), `the identity provider of connector "away" does not answer (idp.example.com: connection refused); log in as a local user meanwhile: tsh login --proxy=`+r.opts[0].PublicAddr+" --auth=local --user=NAME") {
		t.Errorf("%v", err)
	}
	if p := r.browser().open(0, "/webapi/oidc/login/web?connector_id=dex", nil); p.status != http.StatusServiceUnavailable || !strings.Contains(p.body, "connection refused") {
		t.Errorf("%d %s", p.status, p.body)
	}
	if p := r.browser().open(0, "/web/login", nil); p.status != http.StatusOK || !strings.Contains(p.body, "Example Corp") {
		t.Errorf("the login page: %d", p.status)
	}
}

// beginSSO is tsh login --auth=NAME.
func (r *replicas) beginSSO(connector string) (*client.ConsoleLogin, error) {
	return r.web(0).StartConsoleLogin(r.t.Context(), client.ConsoleOptions{Callback: "http://127.0.0.1:40123/callback", Connector: connector, Kind: api.KindOIDC})
}

// tctl sso test: somebody walks the way of a login, and nobody is logged in.
func ssoTestsLogNobodyIn(t *testing.T, r *replicas, _ *fakeKinds) {
	srv := r.run[0].srv
	by := auth.Actor{User: auth.SocketUser}
	test, err := srv.auth.SSOTests.Start(t.Context(), by, api.SSOTestRequest{Name: "dex"})
	if err != nil {
		t.Fatal(err)
	}
	b := r.browser()
	to, err := url.Parse(b.open(0, "/web/sso/test/"+test.ID, nil).location)
	if err != nil {
		t.Fatal(err)
	}
	p := b.back(0, to.Query().Get("state"), "hans:devs")
	if p.status != http.StatusOK || !strings.Contains(p.body, "Go back to the terminal") || b.loggedIn(0) {
		t.Errorf("%d %s", p.status, p.body)
	}
	got, err := srv.auth.SSOTests.Wait(t.Context(), by, test.ID)
	if err != nil || !got.Done || got.Identity == nil || got.Identity.Username != "hans" || got.Mapping == nil || !slices.Contains(got.Mapping.Roles, auth.RoleAccess) {
		t.Errorf("%+v %v", got, err)
	}
	if users := srv.auth.Users.SSO(); slices.ContainsFunc(users, func(u api.SSOUser) bool { return u.Name == "hans" }) {
		t.Errorf("%+v", users)
	}
}
