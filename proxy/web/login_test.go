package web

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// cookieOf is a cookie that an answer sets, or nil.
func cookieOf(w *httptest.ResponseRecorder, name string) *http.Cookie {
	for _, c := range w.Result().Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// checkPage asserts what holds of every page that is shown, whatever it says.
func checkPage(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	more := ""
	if strings.Contains(w.Body.String(), "<script") {
		more = "; script-src 'self'"
	}
	checkPolicy(t, w.Header(), more)
	if w.Code < 300 || w.Code >= 400 {
		checkHTML(t, w.Body.String())
	}
}

// look is by what one knows a page.
type look struct {
	status int
	words  string
}

func TestStates_showWhatTheyShould(t *testing.T) {
	want := map[string]look{
		"login-wrong":    {401, "Wrong user name or password."},
		"login-locked":   {403, "locked until 12:20 UTC"},
		"login-busy":     {429, "too many logins"},
		"login-noquorum": {503, "The cluster has no leader at the moment."},
		"login-again":    {200, "You are logged in as <strong>alice</strong>, but not just now."},
		"login-terminal": {200, `value="alice"`},
		"factor-code":    {200, `name="code"`},
		"factor-passkey": {200, `data-passkey="get"`},
		"factor-both":    {200, `data-passkey="get"`},
		"factor-wrong":   {401, "The code is wrong, or was used already: wait for the next one."},
		"factor-expired": {401, "Please log in again."},
		"factor-locked":  {401, "so it is locked: use another second factor."},
		"account-locked": {200, "Its counter went back"},
		"clusters":       {200, "No agent of it is connected. Last seen"},
		"clusters-none":  {200, "No Kubernetes cluster is open to you"},
		"account":        {200, "2001:db8::17:4"},
		"account-none":   {200, "Add an authenticator app"},
		"account-on":     {200, "Everyone here needs one."},
		"account-off":    {200, "Nobody is asked for one here"},
		"account-broken": {503, "Not just now"},
		"account-said":   {200, "Your password is changed."},
		"password":       {200, `autocomplete="current-password"`},
		"password-both":  {200, `data-passkey="get"`},
		"password-wrong": {403, "This is not your present password."},
		"app":            {200, `<svg class="qr"`},
		"app-wrong":      {400, "The code is wrong: check the clock"},
		"app-none":       {200, "You have one already"},
		"passkey":        {200, `data-passkey="create"`},
		"passkey-none":   {200, "Passkeys can’t be used here"},
		"remove":         {200, "Remove “Blue key”?"},
		"remove-last":    {200, "It is your only second factor"},
		"cli":            {200, "<strong>3F7A-09C2</strong>"},
		"cli-elsewhere":  {200, "You are at 192.0.2.1, so look twice."},
		"cli-other":      {200, "waits for <strong>bob</strong>"},
		"cli-unknown":    {404, "This login is over"},
		"cli-approved":   {200, `<meta http-equiv="refresh" content="0;url=http://127.0.0.1:40123/callback?id=abc&amp;code=def">`},
		"cli-denied":     {200, "It gets nothing"},
		"cli-undecided":  {400, "Choose one of the two"},
		"logout":         {200, "Log out?"},
		"logged-out":     {200, "You are logged out"},
		"ended":          {401, "Please log in again"},
		"foreign":        {403, "This was not sent by our page"},
	}
	maps.Copy(want, wantAudit())
	for name, c := range wantSSO() {
		want[name] = c
	}
	states := shown(t)
	for name, state := range states {
		t.Run(name, func(t *testing.T) {
			w := state()
			if c, ok := want[name]; !ok || w.Code != c.status || !strings.Contains(strings.ToLower(w.Body.String()), strings.ToLower(c.words)) {
				t.Errorf("%d, want %v in\n%s", w.Code, c, w.Body)
			}
			checkPage(t, w)
			checkGolden(t, "state_"+name, w.Body.String())
			problem := strings.Contains(w.Body.String(), `role="alert"`)
			if problem && !strings.Contains(w.Body.String(), `id="error" tabindex="-1" autofocus>`) {
				t.Error("the message does not get the focus")
			}
			if problem && !strings.Contains(w.Body.String(), "<title>Error: ") {
				t.Error("the title does not say that something is wrong")
			}
			if n := strings.Count(w.Body.String(), "autofocus"); n > 1 {
				t.Errorf("%d elements want the focus", n)
			}
		})
	}
	for name := range want {
		if states[name] == nil {
			t.Errorf("no state %q", name)
		}
	}
}

func TestLogin_givesASessionAndLeadsOn(t *testing.T) {
	for name, c := range map[string]struct {
		user   string
		answer url.Values // nil: no second step
		next   string
		to     string
	}{
		"password alone":      {"alice", nil, "", "/"},
		"back to a page":      {"alice", nil, "/web/cli/abc", "/web/cli/abc"},
		"a code":              {"totp", url.Values{"code": {" 123456 "}}, "/web/account", "/web/account"},
		"a passkey":           {"passkey", url.Values{"passkey": {`{"id":"x"}`}}, "", "/"},
		"a passkey or a code": {"both", url.Values{"passkey": {`{"id":"x"}`}, "code": {""}}, "", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccounts()
			h := newSiteOf(t, &invites{}, a, io.Discard)
			w := send(h, request{path: loginPath, form: url.Values{"username": {c.user + " "}, "password": {good}, "next": {c.next}}})
			if c.answer != nil {
				if w.Code != 200 || len(a.calls) != 0 || cookieOf(w, sessionCookie) != nil {
					t.Fatalf("the password alone: %d, %v", w.Code, a.calls)
				}
				c.answer.Set(carriedField, carriedBy(w))
				c.answer.Set("next", c.next)
				w = send(h, request{path: factorPath, form: c.answer})
			}
			if w.Code != http.StatusSeeOther || w.Header().Get("Location") != c.to {
				t.Fatalf("%d %s %s", w.Code, w.Header().Get("Location"), w.Body)
			}
			if diff := cmp.Diff([]string{"login " + c.user}, a.calls); diff != "" {
				t.Error(diff)
			}
			checkPage(t, w)
			got := cookieOf(w, sessionCookie)
			want := &http.Cookie{Name: "__Host-session", Value: c.user + ".live", Path: "/", Expires: noon.Add(12 * time.Hour), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
			if got == nil {
				t.Fatal("no session")
			}
			got.Raw, got.RawExpires = "", ""
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Session fixation: nothing that a browser held before a login is worth anything
// after it.
func TestLogin_changesWhatTheBrowserHeldBefore(t *testing.T) {
	a := newAccounts()
	h := newSiteOf(t, &invites{}, a, io.Discard)
	w := send(h, request{path: loginPath, user: "mallory", form: url.Values{"username": {"alice"}, "password": {good}}})
	if c := cookieOf(w, formCookie); c == nil || c.MaxAge >= 0 {
		t.Errorf("the form's cookie stays: %v", c)
	}
	if c := cookieOf(w, sessionCookie); c == nil || c.Value != "alice.live" {
		t.Errorf("the session is %v", c)
	}
	if diff := cmp.Diff([]string{"login alice", "logout mallory.live"}, a.calls); diff != "" {
		t.Errorf("the session of before goes on: %s", diff)
	}
	// A token of before the login, for the very path.
	before := formKey(strings.Repeat("k", cookieLen)).token(passwordPath)
	w = send(h, request{path: passwordPath, user: "alice", form: url.Values{formField: {before}, "old": {good}, "password": {good}, "repeat": {good}}})
	if w.Code != http.StatusForbidden || len(a.calls) != 2 {
		t.Errorf("%d %v", w.Code, a.calls)
	}
}

func TestLogin_failedOnesLeaveNothing(t *testing.T) {
	for name, c := range map[string]struct {
		user, password string
		status         int
		field          string
	}{
		"wrong password":  {"alice", "wrong", 401, "password"},
		"no password":     {"alice", "", 400, "password"},
		"no user":         {" ", good, 400, "username"},
		"locked":          {"locked", good, 403, ""},
		"too many":        {"busy", good, 429, ""},
		"no quorum":       {"noquorum", good, 503, ""},
		"no factor":       {"nofactor", good, 403, ""},
		"a failure":       {"broken", good, 500, ""},
		"a huge password": {"alice", strings.Repeat("x", maxField+1), 413, ""},
		"a huge form":     {"alice", strings.Repeat("x", maxForm), 413, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var logs bytes.Buffer
			a := newAccounts()
			h := newSiteOf(t, &invites{}, a, &logs)
			w := send(h, request{path: loginPath, form: url.Values{"username": {c.user}, "password": {c.password}, "next": {"/web/account"}}})
			if w.Code != c.status || len(a.calls) != 0 || cookieOf(w, sessionCookie) != nil {
				t.Errorf("%d %v %s", w.Code, a.calls, w.Body)
			}
			if retry := w.Header().Get("Retry-After") != ""; retry != (c.status == 429 || c.status == 503) {
				t.Errorf("Retry-After: %v", retry)
			}
			checkPage(t, w)
			if c.password != "" && (strings.Contains(w.Body.String(), c.password) || strings.Contains(logs.String(), c.password)) {
				t.Error("the password is sent back or logged")
			}
			if c.field != "" && !strings.Contains(w.Body.String(), `id="`+c.field+`"`) {
				t.Errorf("no field %s", c.field)
			}
			if strings.Contains(w.Body.String(), "secret detail") || c.status == 500 && !strings.Contains(logs.String(), "secret detail") {
				t.Error("a failure of ours is for the log")
			}
			if c.status != 500 && c.status != 413 && !strings.Contains(w.Body.String(), `name="next" value="/web/account"`) {
				t.Error("where to go is forgotten")
			}
		})
	}
}

func TestFactor_wrongAnswersCanBeTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		user   string
		answer url.Values
		status int
		again  bool // with the same challenge
	}{
		"wrong code":      {"totp", url.Values{"code": {"999999"}}, 401, true},
		"no code":         {"totp", url.Values{"code": {" "}}, 400, true},
		"no passkey":      {"passkey", url.Values{}, 400, true},
		"wrong passkey":   {"passkey", url.Values{"passkey": {"nonsense"}}, 401, true},
		"too many":        {"totp", url.Values{"code": {"111111"}}, 429, true},
		"expired or used": {"totp", url.Values{"code": {"000000"}}, 401, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccounts()
			h := newSiteOf(t, &invites{}, a, io.Discard)
			carried := carriedBy(send(h, request{path: loginPath, form: url.Values{"username": {c.user}, "password": {good}}}))
			c.answer.Set(carriedField, carried)
			w := send(h, request{path: factorPath, form: c.answer})
			if w.Code != c.status || len(a.calls) != 0 || cookieOf(w, sessionCookie) != nil {
				t.Errorf("%d %v %s", w.Code, a.calls, w.Body)
			}
			if got := carriedBy(w); (got == carried) != c.again {
				t.Errorf("carried %.20q, before %.20q", got, carried)
			}
			checkPage(t, w)
		})
	}
}

func TestFactor_doesNotOfferWhatIsLocked(t *testing.T) {
	body := shown(t)["factor-locked"]().Body.String()
	if strings.Contains(body, "data-passkey") || !strings.Contains(body, `name="code"`) {
		t.Errorf("%s", body)
	}
}

func TestFactor_takesNoChallengeOfAnotherBrowserOrPage(t *testing.T) {
	a := newAccounts()
	h := newSiteOf(t, &invites{}, a, io.Discard)
	c := &auth.Challenge{User: "alice", State: "state-of-alice"}
	other, _ := formKey(strings.Repeat("x", cookieLen)).carry(factorPath, c)
	path, _ := formKey(strings.Repeat("k", cookieLen)).carry(passwordPath, c)
	for name, carried := range map[string]string{"another browser's": other, "another page's": path, "none": "", "nonsense": "a.b"} {
		w := send(h, request{path: factorPath, form: url.Values{"code": {"123456"}, carriedField: {carried}}})
		if w.Code != http.StatusForbidden || len(a.calls) != 0 || !strings.Contains(w.Body.String(), "Please log in again") {
			t.Errorf("%s: %d %v", name, w.Code, a.calls)
		}
	}
	if w := send(h, request{path: factorPath}); w.Code != http.StatusSeeOther || w.Header().Get("Location") != loginPath {
		t.Errorf("without a form: %d", w.Code)
	}
}

func TestLogin_pageOfWhoIsLoggedIn(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	if w := send(h, request{path: loginPath, user: "alice"}); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/" {
		t.Errorf("%d %s", w.Code, w.Header().Get("Location"))
	}
	if w := send(h, request{path: loginPath + "?next=/web/cli/good", user: "mallory"}); w.Code != 200 || !strings.Contains(w.Body.String(), `value="alice"`) {
		t.Errorf("%d, not for whom tsh waits: %s", w.Code, w.Body)
	}
}

func TestLogin_leadsNowhereElse(t *testing.T) {
	for _, next := range []string{
		"https://evil.example", "//evil.example", `/\evil.example`, `\/evil.example`, "///evil.example", "/%2f/evil.example", "/web/cli/../../evil", "/web/cli/a?x=y",
		"/web/cli/a#x", "javascript:alert(1)", "/\t/evil.example", "/web/cli/a\n", "\r\nSet-Cookie: x=y", "/web/logout", "/web/login", "web/account", "/web/accounts",
		"/web/account/", "/web/account//evil", "/web/cli/", " /web/account", strings.Repeat("/web/account/a", 1000),
	} {
		a := newAccounts()
		h := newSiteOf(t, &invites{}, a, io.Discard)
		w := send(h, request{path: loginPath, form: url.Values{"username": {"alice"}, "password": {good}, "next": {next}}})
		if len(next) > maxField {
			if w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("%d", w.Code)
			}
			continue
		}
		if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != "/" {
			t.Errorf("%.40q leads to %.40q", next, got)
		}
		w = send(h, request{path: loginPath + "?next=" + url.QueryEscape(next)})
		if w.Code != 200 || !strings.Contains(w.Body.String(), `name="next" value="/"`) {
			t.Errorf("%.40q: the page carries it on", next)
		}
	}
	for _, next := range []string{"/", "/web/account", "/web/account/password", "/web/account/factors/abc-1_X/remove", "/web/cli/Abc-_123", "/web/audit"} {
		if got := safeNext(next); got != next {
			t.Errorf("%q is a page of ours, not %q", next, got)
		}
	}
}

func TestPages_wantALogin(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	for _, path := range []string{accountPath, passwordPath, appPath, passkeyPath, "/web/account/factors/f1/remove", "/web/cli/good"} {
		for _, user := range []string{"", "alice.ended", "nonsense.x"} {
			w := send(h, request{path: path, user: user})
			if want := loginPath + "?next=" + url.QueryEscape(path); w.Code != http.StatusSeeOther || w.Header().Get("Location") != want {
				t.Errorf("%s as %q: %d %s", path, user, w.Code, w.Header().Get("Location"))
			}
		}
	}
	// Those that change who may log in want a login not long ago.
	for path, stale := range map[string]bool{accountPath: false, passwordPath: false, appPath: true, passkeyPath: true, "/web/account/factors/f1/remove": true, "/web/cli/good": true} {
		w := send(h, request{path: path, user: "alice.old"})
		if got := w.Code == http.StatusSeeOther; got != stale {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for _, user := range []string{"", "alice.ended"} {
		w := send(h, request{path: "/", user: user})
		if w.Code != 200 || !strings.Contains(w.Body.String(), `href="/web/login">Log in</a>`) {
			t.Errorf("home as %q: %d", user, w.Code)
		}
		if c := cookieOf(w, sessionCookie); c != nil { // this replica may be behind
			t.Errorf("a cookie that is not known here is dropped: %v", c)
		}
	}
}

// forms are all that a session can send, with what each would change.
func forms() map[string]url.Values {
	return map[string]url.Values{
		logoutPath:                       {},
		endPath:                          {"id": {"0123"}},
		othersPath:                       {},
		passwordPath:                     {"old": {good}, "password": {good + "2"}, "repeat": {good + "2"}},
		appPath:                          {"code": {"123456"}, "name": {"phone"}},
		passkeyPath:                      {"passkey": {`{"id":"x"}`}, "name": {"key"}},
		"/web/account/factors/f1/remove": {},
		"/web/cli/good":                  {"answer": {"approve"}},
	}
}

// complete adds what the form's page would have given it.
func complete(h http.Handler, path string, form url.Values) url.Values {
	if slices.Contains([]string{passwordPath, appPath, passkeyPath}, path) {
		form.Set(carriedField, carriedBy(send(h, request{path: path, user: "alice"})))
	}
	return form
}

func TestForms_changeWhatTheySay(t *testing.T) {
	want := map[string]struct{ call, to string }{
		logoutPath:                       {"logout alice.live", ""},
		endPath:                          {"end 0123", accountPath},
		othersPath:                       {"end others", accountPath},
		passwordPath:                     {"password " + good + "2  ", accountPath},
		appPath:                          {"add offer-state phone 123456", accountPath},
		passkeyPath:                      {`add offer-state key {"id":"x"}`, accountPath},
		"/web/account/factors/f1/remove": {"remove f1", accountPath},
		"/web/cli/good":                  {"approve alice.live good", ""},
	}
	for path, form := range forms() {
		t.Run(path, func(t *testing.T) {
			a := newAccounts()
			h := newSiteOf(t, &invites{}, a, io.Discard)
			w := send(h, request{path: path, user: "alice", form: complete(h, path, form)})
			if diff := cmp.Diff([]string{want[path].call}, a.calls); diff != "" {
				t.Errorf("%d %s", w.Code, diff)
			}
			checkPage(t, w)
			if got := w.Header().Get("Location"); got != want[path].to {
				t.Errorf("%d leads to %q", w.Code, got)
			}
			if want[path].to == "" {
				return
			}
			said := cookieOf(w, saidCookie)
			if said == nil || saying(said.Value) == "" || said.SameSite != http.SameSiteStrictMode || !said.HttpOnly || !said.Secure {
				t.Fatalf("says %v", said)
			}
			w = send(h, request{path: accountPath, user: "alice", cookies: []*http.Cookie{said}})
			if !strings.Contains(w.Body.String(), saying(said.Value)) || cookieOf(w, saidCookie).MaxAge >= 0 {
				t.Error("it is not said, or for ever")
			}
		})
	}
}

func TestForms_refuseForgedOnes(t *testing.T) {
	for name, forge := range map[string]func(*request){
		"no token":               func(q *request) { q.form.Set(formField, "") },
		"wrong token":            func(q *request) { q.form.Set(formField, strings.Repeat("A", 43)) },
		"of another session":     func(q *request) { q.form.Set(formField, sessionKey("alice.other").token(q.path)) },
		"of another form":        func(q *request) { q.form.Set(formField, sessionKey("alice.live").token("/web/elsewhere")) },
		"of before the login":    func(q *request) { q.form.Set(formField, formKey(strings.Repeat("k", cookieLen)).token(q.path)) },
		"another origin":         func(q *request) { q.header = http.Header{"Origin": {"https://evil.example"}} },
		"another site":           func(q *request) { q.header = http.Header{"Sec-Fetch-Site": {"cross-site"}} },
		"a sibling":              func(q *request) { q.header = http.Header{"Sec-Fetch-Site": {"same-site"}} },
		"null origin alone":      func(q *request) { q.header = http.Header{"Origin": {"null"}, "Sec-Fetch-Site": nil} },
		"another session's form": func(q *request) { q.form.Set(formField, sessionKey("alice.live").token(q.path)); q.user = "mallory" },
	} {
		for path, form := range forms() {
			a := newAccounts()
			h := newSiteOf(t, &invites{}, a, io.Discard)
			q := request{path: path, user: "alice", form: complete(h, path, form)}
			forge(&q)
			w := send(h, q)
			if w.Code != http.StatusForbidden || len(a.calls) != 0 {
				t.Errorf("%s, %s: %d %v", name, path, w.Code, a.calls)
			}
			checkPage(t, w)
		}
		// The two of the login, which have no session.
		a := newAccounts()
		h := newSiteOf(t, &invites{}, a, io.Discard)
		q := request{path: loginPath, form: url.Values{"username": {"alice"}, "password": {good}}}
		if forge(&q); q.user != "" {
			continue
		}
		if w := send(h, q); w.Code != http.StatusForbidden || len(a.calls) != 0 {
			if name != "of before the login" { // which is where this one is
				t.Errorf("%s, login: %d %v", name, w.Code, a.calls)
			}
		}
	}
}

func TestForms_ofEndedSessionsChangeNothing(t *testing.T) {
	for path, form := range forms() {
		a := newAccounts()
		h := newSiteOf(t, &invites{}, a, io.Discard)
		complete(h, path, form)
		w := send(h, request{path: path, user: "alice.ended", form: form})
		if w.Code != http.StatusUnauthorized || len(a.calls) != 0 || !strings.Contains(w.Body.String(), "Please log in again") {
			t.Errorf("%s: %d %v", path, w.Code, a.calls)
		}
		if c := cookieOf(w, sessionCookie); c != nil { // this replica may be behind
			t.Errorf("%s: the cookie is dropped", path)
		}
		checkPage(t, w)
	}
}

func TestForms_tellFailures(t *testing.T) {
	for _, c := range []struct {
		code   api.Code
		status int
	}{
		{api.CodeUnavailable, 503}, {api.CodeRateLimited, 429}, {api.CodeAmbiguous, 504}, {api.CodeForbidden, 403}, {api.CodeInternal, 500},
	} {
		for path, form := range forms() {
			a := newAccounts()
			h := newSiteOf(t, &invites{}, a, io.Discard)
			complete(h, path, form)
			a.err = api.Errorf(c.code, "the words of the failure")
			w := send(h, request{path: path, user: "alice", form: form})
			if w.Code != c.status || cookieOf(w, sessionCookie) != nil || cookieOf(w, saidCookie) != nil {
				t.Errorf("%s, %s: %d", path, c.code, w.Code)
			}
			checkPage(t, w)
		}
	}
}

// Asking who it is may cost a question to the leader.
func TestPages_askOnceWhoItIs(t *testing.T) {
	for _, code := range []api.Code{api.CodeUnavailable, api.CodeForbidden, api.CodeInternal, api.CodeUnauthenticated} {
		a := newAccounts()
		a.readErr = api.Errorf(code, "the words of the failure")
		h := newSiteOf(t, &invites{}, a, io.Discard)
		for path, form := range forms() {
			for _, form := range []url.Values{nil, form} {
				a.asked = 0
				send(h, request{path: path, user: "alice", form: form})
				if a.asked > 1 && path != logoutPath {
					t.Errorf("%s, %s: asked %d times", path, code, a.asked)
				}
			}
		}
		a.asked = 0
		send(h, request{path: "/", user: "alice"})
		if a.asked != 1 {
			t.Errorf("/, %s: asked %d times", code, a.asked)
		}
	}
}

// A role that is missing denies everything, but not to leave.
func TestLogout_isForWhoMayDoNothingElse(t *testing.T) {
	a := newAccounts()
	a.readErr = api.Errorf(api.CodeForbidden, `role "x" of user "alice" does not exist`)
	h := newSiteOf(t, &invites{}, a, io.Discard)
	for _, path := range []string{"/", accountPath, "/elsewhere"} {
		if w := send(h, request{path: path, user: "alice"}); !strings.Contains(w.Body.String(), `href="/web/logout">Log out</a>`) {
			t.Errorf("%s: %d, no way out: %s", path, w.Code, w.Body)
		}
	}
	if w := send(h, request{path: logoutPath, user: "alice"}); w.Code != 200 || !strings.Contains(w.Body.String(), "Log out?") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := send(h, request{path: logoutPath, user: "alice", form: url.Values{formField: {"x"}}}); w.Code != http.StatusForbidden || len(a.calls) != 0 {
		t.Errorf("a forged logout: %d %v", w.Code, a.calls)
	}
	w := send(h, request{path: logoutPath, user: "alice", form: url.Values{}})
	if c := cookieOf(w, sessionCookie); w.Code != 200 || len(a.calls) != 1 || c == nil || c.MaxAge >= 0 {
		t.Errorf("%d %v %v", w.Code, a.calls, c)
	}
}
