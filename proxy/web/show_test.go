package web

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// request is one of a browser's, for tests and for TestServe.
type request struct {
	method, path string
	user         string // whose session; USER.live if there is no dot
	form         url.Values
	header       http.Header
	cookies      []*http.Cookie
}

// send sends a request as a browser would: a form gets the token that its page
// would hold, unless one is given.
func send(h http.Handler, q request) *httptest.ResponseRecorder {
	body := ""
	session := q.user
	if session != "" && !strings.Contains(session, ".") {
		session += ".live"
	}
	key := formKey(strings.Repeat("k", cookieLen))
	if session != "" && !strings.HasPrefix(q.path, loginPath) {
		key = sessionKey(session)
	}
	if q.form != nil {
		q.method = http.MethodPost
		if !q.form.Has(formField) {
			q.form.Set(formField, key.token(q.path))
		}
		body = q.form.Encode()
	}
	if q.method == "" {
		q.method = http.MethodGet
	}
	r := httptest.NewRequest(q.method, "https://gate.example.com"+q.path, strings.NewReader(body))
	if q.form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", "null")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for k, v := range q.header {
		r.Header[k] = v
	}
	r.AddCookie(&http.Cookie{Name: formCookie, Value: strings.Repeat("a2tr", 10) + "a2s"})
	if session != "" {
		r.AddCookie(&http.Cookie{Name: sessionCookie, Value: session})
	}
	for _, c := range q.cookies {
		r.AddCookie(c)
	}
	return do(h, r)
}

// carriedBy reads the field that a page fills in by itself.
func carriedBy(w *httptest.ResponseRecorder) string {
	_, after, _ := strings.Cut(w.Body.String(), `name="carried" value="`)
	value, _, _ := strings.Cut(after, `"`)
	return value
}

// shown are states that one comes to by way of others.
func shown(t testing.TB) map[string]func() *httptest.ResponseRecorder {
	t.Helper()
	a := newAccounts()
	site := func() http.Handler { return newSiteOf(t, &invites{}, a, os.Stderr) }
	login := func(user, password string) func() *httptest.ResponseRecorder {
		return func() *httptest.ResponseRecorder {
			return send(site(), request{path: loginPath, form: url.Values{"username": {user}, "password": {password}}})
		}
	}
	as := func(user, path string, form url.Values) func() *httptest.ResponseRecorder {
		return func() *httptest.ResponseRecorder {
			h := site()
			if form != nil {
				form.Del(formField)
				form.Set(carriedField, carriedBy(send(h, request{path: path, user: user})))
			}
			return send(h, request{path: path, user: user, form: form})
		}
	}
	with := func(change func(*accounts), path string) func() *httptest.ResponseRecorder {
		return func() *httptest.ResponseRecorder {
			b := newAccounts()
			change(b)
			return send(newSiteOf(t, &invites{}, b, os.Stderr), request{path: path, user: "alice"})
		}
	}
	all := map[string]func() *httptest.ResponseRecorder{
		"login-wrong":    login("alice", "wrong"),
		"login-locked":   login("locked", good),
		"login-busy":     login("busy", good),
		"login-noquorum": login("noquorum", good),
		"login-again":    as("alice.old", loginPath+"?next=/web/account/factors/app", nil),
		"login-terminal": as("", loginPath+"?next=/web/cli/good", nil),
		"factor-code":    login("totp", good),
		"factor-passkey": login("passkey", good),
		"factor-both":    login("both", good),
		"factor-wrong": func() *httptest.ResponseRecorder {
			return send(site(), request{path: factorPath, form: url.Values{"code": {"999999"}, carriedField: {carriedBy(login("totp", good)())}}})
		},
		"factor-expired": func() *httptest.ResponseRecorder {
			return send(site(), request{path: factorPath, form: url.Values{"code": {"000000"}, carriedField: {carriedBy(login("totp", good)())}}})
		},
		"factor-locked": func() *httptest.ResponseRecorder {
			return send(site(), request{path: factorPath, form: url.Values{"passkey": {"copy"}, carriedField: {carriedBy(login("both", good)())}}})
		},
		"clusters":       as("alice", "/", nil),
		"clusters-none":  with(func(a *accounts) { a.clusters = nil }, "/"),
		"account":        as("alice", accountPath, nil),
		"account-none":   with(func(a *accounts) { a.factors, a.sessions = nil, a.sessions[1:2] }, accountPath),
		"account-on":     with(func(a *accounts) { a.mode = api.SecondFactorOn }, accountPath),
		"account-locked": with(func(a *accounts) { a.factors[1].Locked = noon.Add(-time.Hour) }, accountPath),
		"account-off":    with(func(a *accounts) { a.mode = api.SecondFactorOff }, accountPath),
		"account-broken": with(func(a *accounts) {
			a.readErr = api.Errorf(api.CodeUnavailable, "the cluster has no leader at the moment")
		}, accountPath),
		"account-said": func() *httptest.ResponseRecorder {
			return send(site(), request{path: accountPath, user: "alice", cookies: []*http.Cookie{{Name: saidCookie, Value: "password"}}})
		},
		"password":       as("alice", passwordPath, nil),
		"password-both":  as("both", passwordPath, nil),
		"password-wrong": as("alice", passwordPath, url.Values{"old": {"x"}, "password": {good}, "repeat": {good}}),
		"app":            as("alice", appPath, nil),
		"app-wrong":      as("alice", appPath, url.Values{"code": {"000000"}, "name": {"phone"}}),
		"app-none":       as("totp", appPath, nil),
		"passkey":        as("alice", passkeyPath, nil),
		"passkey-none":   as("ip", passkeyPath, nil),
		"remove":         as("alice", "/web/account/factors/f2/remove", nil),
		"remove-last":    with(func(a *accounts) { a.factors = a.factors[:1] }, "/web/account/factors/f1/remove"),
		"cli":            as("alice", "/web/cli/good", nil),
		"cli-elsewhere":  as("alice", "/web/cli/elsewhere", nil),
		"cli-other":      as("alice", "/web/cli/other", nil),
		"cli-unknown":    as("alice", "/web/cli/unknown", nil),
		"cli-approved":   as("alice", "/web/cli/good", url.Values{"answer": {"approve"}}),
		"cli-denied":     as("alice", "/web/cli/good", url.Values{"answer": {"deny"}}),
		"cli-undecided":  as("alice", "/web/cli/good", url.Values{}),
		"logout":         as("alice", logoutPath, nil),
		"logged-out":     as("alice", logoutPath, url.Values{}),
		"ended":          as("alice.ended", endPath, url.Values{}),
		"foreign": func() *httptest.ResponseRecorder {
			return send(site(), request{path: endPath, user: "alice", form: url.Values{}, header: http.Header{"Origin": {"https://evil.example"}}})
		},
	}
	maps.Copy(all, shownSSO(t))
	maps.Copy(all, shownAudit(t))
	return all
}

// newShow serves the site, to alice where a page wants a login, and every state
// under /show/NAME; /show/ lists them.
func newShow(t testing.TB) http.Handler {
	t.Helper()
	states := shown(t)
	a := newAccounts()
	a.sso, a.audit = newSignOn(), newAuditLog(300)
	site := newSiteOf(t, &invites{}, a, os.Stderr)
	mux := http.NewServeMux()
	mux.Handle("/", site)
	mux.HandleFunc("/show/{name...}", func(w http.ResponseWriter, r *http.Request) {
		state, ok := states[r.PathValue("name")]
		if !ok {
			for name := range states {
				_, _ = w.Write([]byte(name + "\n"))
			}
			return
		}
		answer := state()
		for k, v := range answer.Header() {
			if k != "Set-Cookie" {
				w.Header()[k] = v
			}
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write([]byte(strings.Replace(answer.Body.String(), `http-equiv="refresh"`, `name="refresh"`, 1)))
	})
	return mux
}
