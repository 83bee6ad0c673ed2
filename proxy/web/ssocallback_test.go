package web

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func newSSOSite(t testing.TB) (http.Handler, *accounts) {
	t.Helper()
	a := newAccounts()
	a.sso = newSignOn()
	return newSiteOf(t, &invites{}, a, io.Discard), a
}

func TestSSO_startLeadsToTheProviderWithTheFlow(t *testing.T) {
	for name, c := range map[string]struct {
		path, user string
		call       string
	}{
		"github":            {"/webapi/github/login/web?connector_id=github", "", "start github github / "},
		"below v1":          {"/v1/webapi/oidc/login/web?connector_id=dex&next=/web/account", "", "start oidc dex /web/account "},
		"a login of tsh":    {"/webapi/saml/login/web?connector_id=okta&next=%2Fweb%2Fcli%2Fsso", "alice", "start saml okta /web/cli/sso alice.live"},
		"a test":            {ssoTestPath + "abc", "", "test abc"},
		"to another host":   {"/webapi/github/login/web?connector_id=github&next=//evil.example", "", "start github github / "},
		"to another scheme": {"/webapi/github/login/web?connector_id=github&next=javascript:alert(1)", "", "start github github / "},
		"to the logout":     {"/webapi/github/login/web?connector_id=github&next=/web/logout", "", "start github github / "},
	} {
		t.Run(name, func(t *testing.T) {
			h, a := newSSOSite(t)
			w := send(h, request{path: c.path, user: c.user})
			if diff := cmp.Diff([]string{c.call}, a.sso.calls); diff != "" {
				t.Error(diff)
			}
			if w.Code != http.StatusSeeOther || w.Header().Get("Location") != a.sso.address || cookieOf(w, theFlow) == nil {
				t.Errorf("%d %v", w.Code, w.Header())
			}
			checkPage(t, w)
		})
	}
}

// A page of ours leads to no other kind of address, whatever a connector says.
func TestSSO_startLeadsToHTTPSAlone(t *testing.T) {
	for _, to := range []string{"", "http://idp.example.net/", "javascript:alert(1)", "https:///x", "//idp.example.net", "https://user@idp.example.net/", "https:idp.example.net"} {
		h, a := newSSOSite(t)
		a.sso.address = to
		w := send(h, request{path: "/webapi/github/login/web?connector_id=github"})
		if w.Code != http.StatusInternalServerError || w.Header().Get("Location") != "" || cookieOf(w, theFlow) != nil {
			t.Errorf("%q: %d %v", to, w.Code, w.Header())
		}
	}
}

func TestSSO_keepsFewFlows(t *testing.T) {
	h, _ := newSSOSite(t)
	q := request{path: "/webapi/github/login/web?connector_id=github"}
	var names []string
	for _, c := range []string{"aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff"} {
		names = append(names, FlowCookiePrefix+strings.Repeat(c, 4))
		q.cookies = append(q.cookies, &http.Cookie{Name: names[len(names)-1], Value: "x"})
	}
	q.cookies = append(q.cookies, &http.Cookie{Name: FlowCookiePrefix + "not-ours", Value: "x"})
	w := send(h, q)
	for i, name := range names {
		if c := cookieOf(w, name); (c != nil) != (i < 2) || c != nil && (c.MaxAge >= 0 || !c.Secure || c.Path != "/") {
			t.Errorf("%s: %v", name, c)
		}
	}
}

func TestSSO_startsAreRefusedInWords(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		path   string
		status int
		words  string
	}{
		"unknown":     {nil, "/webapi/github/login/web?connector_id=nobody", 404, "There is no such way to log in"},
		"no name":     {nil, "/webapi/github/login/web", 404, "There is no such way to log in"},
		"other kind":  {nil, "/webapi/oidc/login/web?connector_id=github", 404, "There is no such way to log in"},
		"down":        {theirs(api.CodeUnavailable, "github.com: it did not answer in time"), "/webapi/github/login/web?connector_id=github", 503, "github.com: it did not answer in time"},
		"too many":    {api.Errorf(api.CodeRateLimited, "too many logins, wait a minute"), "/webapi/github/login/web?connector_id=github&next=/web/cli/sso", 429, "Try again"},
		"bad secret":  {theirs(api.CodeForbidden, "an administrator checks spec.client_secret"), "/webapi/github/login/web?connector_id=github", 403, "<h1 class=\"trouble\">GitHub can’t be used</h1>"},
		"no leader":   {api.Errorf(api.CodeUnavailable, "no leader"), "/webapi/github/login/web?connector_id=github", 503, "<h1 class=\"trouble\">Not just now</h1>"},
		"down, other": {theirs(api.CodeUnavailable, "github.com: it did not answer in time"), "/webapi/github/login/web?connector_id=github&next=/web/cli/good", 503, "Log in another way"},
		"down, tsh":   {theirs(api.CodeUnavailable, "github.com: it did not answer in time"), "/webapi/github/login/web?connector_id=github&next=/web/cli/failed", 503, "<span>--auth=github</span>"},
		"a long name": {nil, "/webapi/github/login/web?connector_id=" + strings.Repeat("x", maxField+1), 404, "There is no such page"},
	} {
		t.Run(name, func(t *testing.T) {
			h, a := newSSOSite(t)
			a.sso.startErr = c.err
			w := send(h, request{path: c.path})
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.words) || w.Header().Get("Location") != "" {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if told := strings.Contains(w.Body.String(), "has been told"); told != (name == "down, tsh") {
				t.Errorf("the terminal has been told: %v", told)
			}
			checkPage(t, w)
		})
	}
}

func TestSSO_callbackLogsInAndLeadsOn(t *testing.T) {
	for _, path := range []string{
		api.PathGithubCallback, "/v1" + api.PathGithubCallback, api.PathOIDCCallback, "/v1" + api.PathOIDCCallback,
		api.PathGithubCallback + "/github", "/v1" + api.PathOIDCCallback + "/a.b",
	} {
		h, a := newSSOSite(t)
		a.sso.finish.Next = "/web/cli/sso"
		w := send(h, withFlow(request{path: path + "?code=c&state=" + theState, user: "mallory"}))
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/web/cli/sso" {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		if diff := cmp.Diff([]string{"finish " + strings.TrimPrefix(path, "/v1") + " code=c&state=" + theState + " sealed"}, a.sso.calls); diff != "" {
			t.Error(diff)
		}
		// Session fixation: nothing of before the login is worth anything after it.
		if diff := cmp.Diff([]string{"logout mallory.live"}, a.calls); diff != "" {
			t.Error(diff)
		}
		c := cookieOf(w, sessionCookie)
		if c == nil || c.Value != "octocat.live" || c.SameSite != http.SameSiteLaxMode || !c.Secure || !c.HttpOnly {
			t.Errorf("%s: %v", path, c)
		}
		for _, gone := range []string{theFlow, formCookie} {
			if c := cookieOf(w, gone); c == nil || c.MaxAge >= 0 {
				t.Errorf("%s: the cookie %s stays: %v", path, gone, c)
			}
		}
		checkPage(t, w)
	}
}

// What the provider's site has a browser post, brings no cookie of the session, and a
// redirect from it need not either: a page of ours leads on.
func TestSSO_samlLeadsOnByAPage(t *testing.T) {
	for _, path := range []string{api.PathSAMLACS, "/v1" + api.PathSAMLACS, "/v1" + api.PathSAMLACS + "/okta"} {
		h, a := newSSOSite(t)
		a.sso.finish.Next = "/web/account"
		q := withFlow(posted(url.Values{"RelayState": {theState}, "SAMLResponse": {"PA=="}}))
		q.path = path
		w := send(h, q)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `content="0;url=/web/account"`) || !strings.Contains(w.Body.String(), `<a class="button" href="/web/account">Go on</a>`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if c := cookieOf(w, sessionCookie); c == nil || c.Value != "octocat.live" || c.SameSite != http.SameSiteLaxMode {
			t.Errorf("%v", c)
		}
		if c := cookieOf(w, theFlow); c == nil || c.MaxAge >= 0 {
			t.Errorf("the flow stays: %v", c)
		}
		if len(a.sso.calls) != 1 || !strings.Contains(a.sso.calls[0], "RelayState="+theState) {
			t.Errorf("%q", a.sso.calls)
		}
		checkPage(t, w)
	}
}

// threats.md, OAuth: a callback without the flow of this browser logs nobody in.
func TestSSO_callbackOfAnotherBrowserIsRefused(t *testing.T) {
	for name, q := range map[string]request{
		"no cookie":          {path: api.PathGithubCallback + "?code=c&state=" + theState},
		"no cookie, SAML":    posted(url.Values{"RelayState": {theState}, "SAMLResponse": {"PA=="}}),
		"a cookie of a kind": {path: api.PathGithubCallback + "?code=c&state=" + theState, cookies: []*http.Cookie{{Name: FlowCookiePrefix + "x", Value: "y"}}},
		"a damaged query":    withFlow(request{path: api.PathGithubCallback + "?code=%zz&state=" + theState}),
		"a huge query":       withFlow(request{path: api.PathGithubCallback + "?state=" + theState + "&code=" + strings.Repeat("x", maxQuery)}),
	} {
		t.Run(name, func(t *testing.T) {
			h, a := newSSOSite(t)
			w := send(h, q)
			if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "begun in another browser") || cookieOf(w, sessionCookie) != nil || len(a.sso.calls) > 0 {
				t.Errorf("%d %v %s", w.Code, a.sso.calls, w.Body)
			}
			checkPage(t, w)
		})
	}
}

func TestSSO_failuresMakeNoSessionAndDropTheFlow(t *testing.T) {
	for name, state := range shownSSO(t) {
		if !strings.HasPrefix(name, "sso-") || slices.Contains([]string{"sso-entered", "sso-gone", "sso-testgone", "sso-unusable"}, name) {
			continue
		}
		w := state()
		kept := strings.HasPrefix(name, "sso-noleader") || name == "sso-busy" // nothing was decided
		if c := cookieOf(w, theFlow); (c == nil) != kept || c != nil && c.MaxAge >= 0 {
			t.Errorf("%s: the flow: %v", name, c)
		}
		if kept && strings.Contains(w.Body.String(), "No answer from") {
			t.Errorf("%s: blames the provider", name)
		}
		if cookieOf(w, sessionCookie) != nil {
			t.Errorf("%s: a session", name)
		}
	}
}

func TestSSO_methods(t *testing.T) {
	h, a := newSSOSite(t)
	for path, allow := range map[string]string{
		api.PathGithubCallback: "GET", api.PathOIDCCallback: "GET", "/v1" + api.PathSAMLACS: "POST", "/webapi/github/login/web": "GET",
		api.PathSAMLMetadata + "/okta": "GET, HEAD", ssoTestPath + "abc": "GET",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodOptions} {
			if slices.Contains(strings.Split(allow, ", "), method) {
				continue
			}
			r := httptest.NewRequest(method, "https://gate.example.com"+path+"?connector_id=github&code=c&state="+theState, nil)
			r.AddCookie(&http.Cookie{Name: theFlow, Value: "sealed"})
			if w := do(h, r); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != allow {
				t.Errorf("%s %s: %d, Allow %q", method, path, w.Code, w.Header().Get("Allow"))
			}
		}
	}
	if len(a.sso.calls) > 0 {
		t.Errorf("%q", a.sso.calls)
	}
}

// Pictures and frames of other sites begin and end no login.
func TestSSO_loginsHaveAWindowOfTheirOwn(t *testing.T) {
	for _, path := range []string{"/webapi/github/login/web?connector_id=github", ssoTestPath + "abc", api.PathGithubCallback + "?code=c&state=" + theState} {
		for dest, status := range map[string]int{"image": 403, "iframe": 403, "empty": 403, "document": 303} {
			h, a := newSSOSite(t)
			w := send(h, withFlow(request{path: path, header: http.Header{"Sec-Fetch-Dest": {dest}}}))
			if w.Code != status || (len(a.sso.calls) > 0) != (status == 303) {
				t.Errorf("%s as %s: %d %q", path, dest, w.Code, a.sso.calls)
			}
		}
	}
}

func TestHome_namesConnectors(t *testing.T) {
	h, a := newSSOSite(t)
	a.sso.connectors = manyConnectors(20)
	body := get(h, "/").Body.String()
	if n := strings.Count(body, "--auth="); n != maxHome || !strings.Contains(body, "<span>--auth=dep-00</span>") {
		t.Errorf("%d of them: %s", n, body)
	}
	checkHTML(t, body)
}

func TestSSO_acsTakesOnlyWhatItShould(t *testing.T) {
	form := "RelayState=" + theState + "&SAMLResponse=PA%3D%3D"
	for name, c := range map[string]struct {
		query, contentType, body string
		status                   int
	}{
		"JSON":      {"", "application/json", "{}", 415},
		"multipart": {"", "multipart/form-data; boundary=x", "--x--", 415},
		"no type":   {"", "", form, 415},
		"huge":      {"", "application/x-www-form-urlencoded", form + strings.Repeat("A", api.MaxRequestBody), 413},
		"damaged":   {"", "application/x-www-form-urlencoded", "RelayState=%zz", 400},
		"a query":   {"?RelayState=" + theState, "application/x-www-form-urlencoded", form, 400},
	} {
		t.Run(name, func(t *testing.T) {
			h, a := newSSOSite(t)
			r := httptest.NewRequest(http.MethodPost, "https://gate.example.com"+api.PathSAMLACS+c.query, strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.contentType)
			r.AddCookie(&http.Cookie{Name: theFlow, Value: "sealed"})
			w := do(h, r)
			if w.Code != c.status || len(a.sso.calls) > 0 || cookieOf(w, sessionCookie) != nil {
				t.Errorf("%d %q %s", w.Code, a.sso.calls, w.Body)
			}
			checkPage(t, w)
		})
	}
}

// The ACS alone may be posted to by another site.
func TestSSO_noOtherFormIsTakenFromElsewhere(t *testing.T) {
	h, a := newSSOSite(t)
	for _, path := range []string{loginPath, logoutPath, "/web/cli/sso", endPath} {
		q := posted(url.Values{"answer": {"approve"}})
		q.path, q.user = path, "octocat"
		if w := send(h, q); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if len(a.calls)+len(a.sso.calls) > 0 {
		t.Errorf("%q %q", a.calls, a.sso.calls)
	}
}

func TestSSO_withoutItThereAreNoPages(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	for _, r := range ssoRoutes {
		q := withFlow(request{path: strings.Replace(r.path, "{name}", "okta", 1) + "?connector_id=github&state=" + theState})
		if w := send(h, q); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", r.path, w.Code)
		}
		q.form = url.Values{"RelayState": {theState}}
		if w := send(h, q); w.Code != http.StatusMethodNotAllowed || cookieOf(w, sessionCookie) != nil {
			t.Errorf("%s, sent to: %d", r.path, w.Code)
		}
	}
	if w := send(h, request{path: ssoTestPath + "abc"}); w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
}

func TestSSO_metadata(t *testing.T) {
	h, _ := newSSOSite(t)
	for path, status := range map[string]int{"/okta": 200, "/github": 404, "/broken": 500, "": 404, "/": 404, "/okta/more": 404} {
		w := get(h, "/v1"+api.PathSAMLMetadata+path)
		if w.Code != status || strings.Contains(w.Body.String(), "secret detail") {
			t.Errorf("%q: %d %s", path, w.Code, w.Body)
		}
		if status == 200 && (w.Header().Get("Content-Type") != "application/samlmetadata+xml" || w.Body.String() != "<EntityDescriptor/>" || w.Header().Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%v %s", w.Header(), w.Body)
		}
	}
}

func TestSSO_pathsOfPagesAndOfSessions(t *testing.T) {
	for path, want := range map[string][2]bool{
		"/webapi/github/callback": {true, true}, "/v1/webapi/saml/acs": {true, true}, "/v1/webapi/oidc/login/web": {true, false},
		"/webapi/saml/metadata/okta": {true, false}, "/webapi/github/login/console": {false, false}, "/webapi/ping": {false, false},
		"/webapi/github/callback/": {false, false}, "/webapi/github/callback/x/y": {false, false},
		"/v1/webapi/oidc/callback/dex": {true, true}, "/webapi/saml/acs/okta": {true, true}, "/webapi/oidc/callbackdex": {false, false}, "/v1/v1/webapi/github/callback": {false, false}, "/webapi/ldap/callback": {false, false}, "/": {false, false},
	} {
		if got := [2]bool{IsPage(path), MakesSessions(path)}; got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// A clock that is wrong makes no session by a callback either.
func TestSSO_wrongClocksLogNobodyIn(t *testing.T) {
	a := newAccounts()
	a.sso = newSignOn()
	h, err := New(Options{
		PublicAddr: "gate.example.com:443", ClusterName: "gate.example.com", Invites: &invites{}, Accounts: a, SSO: a.sso, Clock: func() time.Time { return noon },
		ClockError: func() error { return api.Errorf(api.CodeUnavailable, "the clock of this replica is wrong by 1h0m0s") },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []request{
		withFlow(request{path: api.PathGithubCallback + "?code=c&state=" + theState}), withFlow(posted(url.Values{"RelayState": {theState}})),
		{path: "/webapi/github/login/web?connector_id=github"}, {path: ssoTestPath + "abc"},
	} {
		if w := send(h, q); w.Code != http.StatusServiceUnavailable || len(a.sso.calls) > 0 {
			t.Errorf("%s: %d %q", q.path, w.Code, a.sso.calls)
		}
	}
}

func TestConsole_ofAConnectorLeadsToItsProvider(t *testing.T) {
	const start = "/webapi/github/login/web?connector_id=github&next=%2Fweb%2Fcli%2Fsso"
	for name, c := range map[string]struct {
		user   string
		went   string
		status int
		to     string
	}{
		"nobody":                      {"", "", 303, start},
		"an ended session":            {"octocat.ended", "", 303, start},
		"an old session":              {"octocat.old", "", 303, start},
		"an old one of another way":   {"alice.old", "", 303, start},
		"fresh":                       {"octocat", "", 200, ""},
		"fresh, of another way":       {"alice", "", 200, ""},
		"back, and nobody still":      {"", "sso", 200, ""},
		"back, and an old session":    {"octocat.old", "sso", 200, ""},
		"back from another login":     {"", "other", 303, start},
		"back, logged in":             {"octocat", "sso", 200, ""},
		"back, somebody of elsewhere": {"alice", "sso", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h, a := newSSOSite(t)
			q := request{path: "/web/cli/sso", user: c.user}
			if c.went != "" {
				q.cookies = []*http.Cookie{{Name: wentCookie, Value: c.went}}
			}
			w := send(h, q)
			if w.Code != c.status || w.Header().Get("Location") != c.to || len(a.calls) > 0 {
				t.Errorf("%d %q %s", w.Code, w.Header().Get("Location"), w.Body)
			}
			went := cookieOf(w, wentCookie)
			if c.status == 303 && (went == nil || went.Value != "sso" || went.SameSite != http.SameSiteLaxMode || went.MaxAge <= 0) {
				t.Errorf("nothing stops a loop: %v", went)
			}
			if c.status == 200 && strings.Contains(w.Body.String(), `value="approve"`) != (c.user == "octocat") {
				t.Errorf("who may approve? %s", w.Body)
			}
			if c.status == 200 && c.user == "octocat" && c.went != "" && (went == nil || went.MaxAge >= 0) {
				t.Errorf("the way there is not forgotten: %v", went)
			}
		})
	}
}

// Browsers follow no redirect of a form to another origin under our policy, so the way
// to a provider begins with a click.
func TestConsole_formsDoNotLeadToProviders(t *testing.T) {
	h, a := newSSOSite(t)
	a.err = api.Errorf(api.CodeUnauthenticated, "you logged in more than 10 minutes ago")
	w := send(h, request{path: "/web/cli/sso", user: "octocat", form: url.Values{"answer": {"approve"}}})
	if w.Code != http.StatusUnauthorized || w.Header().Get("Location") != "" || !strings.Contains(w.Body.String(), `href="/webapi/github/login/web?connector_id=github&amp;next=%2Fweb%2Fcli%2Fsso"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	checkPage(t, w)
	w = send(h, request{path: "/web/cli/good", user: "alice", form: url.Values{"answer": {"approve"}}})
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/web/login?next=%2Fweb%2Fcli%2Fgood" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestConsole_ofPasswordsOffersNoConnector(t *testing.T) {
	h, _ := newSSOSite(t)
	if w := send(h, request{path: loginPath + "?next=/web/cli/local"}); strings.Contains(w.Body.String(), "connector_id") {
		t.Errorf("%s", w.Body)
	}
	w := send(h, request{path: loginPath, form: url.Values{"username": {"alice"}, "password": {"wrong"}, "next": {"/web/cli/local"}}})
	if w.Code != 401 || strings.Contains(w.Body.String(), "connector_id") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := send(h, request{path: "/web/cli/local"}); w.Header().Get("Location") != "/web/login?next=%2Fweb%2Fcli%2Flocal" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := send(h, request{path: "/web/cli/local", user: "octocat"}); w.Code != 200 || strings.Contains(w.Body.String(), `value="approve"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// threats.md, local callback: what a headless login shows on its terminal must be
// typed, so a page that an attacker sends has nothing to click on.
func TestConsole_headlessWantsTheCodeTyped(t *testing.T) {
	h, a := newSSOSite(t)
	w := send(h, request{path: "/web/cli/headless", user: "alice"})
	for _, want := range []string{"build-07.internal.example.com", "192.0.2.1", "just now", `name="code"`, "tsh login --headless"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q in %s", want, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), a.console.MatchCode) {
		t.Error("the page shows the code")
	}
	for _, code := range []string{"", "0000-0000"} {
		w = send(h, request{path: "/web/cli/headless", user: "alice", form: url.Values{"answer": {"approve"}, "code": {code}}})
		if w.Code != 400 || len(a.calls) > 0 || strings.Contains(w.Body.String(), a.console.MatchCode) {
			t.Errorf("%q: %d %q %s", code, w.Code, a.calls, w.Body)
		}
	}
	w = send(h, request{path: "/web/cli/headless", user: "alice", form: url.Values{"answer": {"approve"}, "code": {a.console.MatchCode}}})
	if w.Code != 200 || strings.Contains(w.Body.String(), "http-equiv") || strings.Contains(w.Body.String(), "127.0.0.1") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff([]string{"approve alice.live headless " + a.console.MatchCode}, a.calls); diff != "" {
		t.Error(diff)
	}
}

func TestAccount_ofAConnectorHasNoPassword(t *testing.T) {
	h, a := newSSOSite(t)
	if w := send(h, request{path: accountPath, user: "octocat"}); w.Code != 200 || strings.Contains(w.Body.String(), passwordPath) || strings.Contains(w.Body.String(), "/web/account/factors/") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, path := range []string{passwordPath, appPath, passkeyPath, "/web/account/factors/f1/remove"} {
		for _, form := range []url.Values{nil, {"old": {good}, "password": {"a"}, "repeat": {"a"}, "code": {"123456"}}} {
			if w := send(h, request{path: path, user: "octocat", form: form}); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "GitHub keeps them") {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	}
	if len(a.calls) > 0 || a.offers > 0 {
		t.Errorf("%q", a.calls)
	}
}

// threats.md, XSS: what identity providers and those who configure them say is text.
func TestSSO_pagesEscapeWhatStrangersSay(t *testing.T) {
	for _, name := range []string{"login-sso-evil", "sso-evil"} {
		body := shownSSO(t)[name]().Body.String()
		for _, bad := range []string{"<script>", "<img src=x", "\x1b", "\u202e"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s: %q in %s", name, bad, body)
			}
		}
		if len(body) > 20<<10 {
			t.Errorf("%s: %d bytes", name, len(body))
		}
	}
	if body := shownSSO(t)["sso-many"]().Body; body.Len() > 200<<10 {
		t.Errorf("%d bytes of attributes", body.Len())
	}
}

func TestSSO_logsNothingThatABrowserSent(t *testing.T) {
	for _, fail := range []error{nil, api.Errorf(api.CodeForbidden, nomapping)} {
		var logs bytes.Buffer
		a := newAccounts()
		a.sso = newSignOn()
		a.sso.finishErr = fail
		send(newSiteOf(t, &invites{}, a, &logs), withFlow(request{path: api.PathGithubCallback + "?code=secretcode&state=" + theState}))
		if strings.Contains(logs.String(), "secretcode") || strings.Contains(logs.String(), theState) || strings.Contains(logs.String(), "sealed") {
			t.Error(logs.String())
		}
	}
}

// A link that was used is no worse than one that is too old.
func TestSSO_aTestThatIsDoneIsOver(t *testing.T) {
	a := newAccounts()
	a.sso = newSignOn()
	a.sso.startErr = api.Errorf(api.CodeConflict, "this test of a connector is done")
	w := send(newSiteOf(t, &invites{}, a, io.Discard), request{path: ssoTestPath + "done"})
	if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "This test is over") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
