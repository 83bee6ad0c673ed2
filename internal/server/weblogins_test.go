package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/client"
)

// browser is a person's, with cookies, before replicas of which a load balancer
// chooses another at every request.
type browser struct {
	r *replicas
	c *http.Client
}

func (r *replicas) browser() *browser {
	r.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.hostCAs())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &browser{r, &http.Client{
		Transport: tr, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// page is an answer of a replica to a browser.
type page struct {
	status   int
	location string
	body     string
}

// open asks replica i for a page; a form, if there is one, is sent.
func (b *browser) open(i int, path string, form url.Values) page {
	b.r.t.Helper()
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(b.r.t.Context(), method, "https://"+b.r.opts[i].PublicAddr+path, body)
	if err != nil {
		b.r.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := b.c.Do(req)
	if err != nil {
		b.r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.r.t.Fatal(err)
	}
	if unsettled := resp.Header.Get(api.HeaderUnsettled); unsettled != "" {
		b.r.catchUp(strings.Split(unsettled, ","))
	}
	return page{resp.StatusCode, resp.Header.Get("Location"), string(text)}
}

var hiddenField = regexp.MustCompile(`<input type="hidden" name="([a-z_]+)" value="([^"]*)">`)

// fill takes the hidden fields of a page's form, and adds what a person does.
func (p page) fill(more url.Values) url.Values {
	form := url.Values{}
	for _, m := range hiddenField.FindAllStringSubmatch(p.body, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	for k, v := range more {
		form[k] = v
	}
	return form
}

var endToken = regexp.MustCompile(`action="/web/account/sessions/end"><input type="hidden" name="form_token" value="([^"]*)">`)

// endSession is the form of an account's page that ends a session.
func (p page) endSession(t *testing.T, id string) url.Values {
	t.Helper()
	token := endToken.FindStringSubmatch(p.body)
	if token == nil {
		t.Fatalf("no form: %s", p.body)
	}
	return url.Values{"form_token": {token[1]}, "id": {id}}
}

// login gets the page from replica i and sends it to replica j.
func (b *browser) login(i, j int, user, password string) page {
	b.r.t.Helper()
	form := b.open(i, "/web/login", nil).fill(url.Values{"username": {user}, "password": {password}})
	return b.open(j, "/web/login", form)
}

func (b *browser) mustLogin(i, j int, user string) {
	b.r.t.Helper()
	if p := b.login(i, j, user, testPassword); p.status != http.StatusSeeOther {
		b.r.t.Fatalf("login of %s: %d %s", user, p.status, p.body)
	}
}

// loggedIn asks replica i for a page that needs a login.
func (b *browser) loggedIn(i int) bool {
	b.r.t.Helper()
	return b.open(i, "/web/account", nil).status == http.StatusOK
}

// addUserWithApp makes a user who has an authenticator app, whose secret it gives.
func (r *replicas) addUserWithApp(i int, name string) (secret string) {
	r.t.Helper()
	invites, from := r.run[i].srv.auth.Invites, auth.Actor{}
	resp, err := r.admin(i).AddUser(r.t.Context(), &api.AddUserRequest{User: api.User{
		Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: name}},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	token := resp.InviteURL[strings.LastIndex(resp.InviteURL, "/")+1:]
	offer, err := invites.Offer(r.t.Context(), token, from)
	if err != nil {
		r.t.Fatal(err)
	}
	e := &auth.Enrolment{State: offer.State, FactorAnswer: auth.FactorAnswer{TOTP: appCode(r.t, offer.TOTPSecret, -1)}}
	if _, err := invites.Redeem(r.t.Context(), token, testPassword, e, from); err != nil {
		r.t.Fatal(err)
	}
	return offer.TOTPSecret
}

// appCode is what an authenticator app shows so many steps from now.
func appCode(t *testing.T, secret string, steps int) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, time.Now().Add(time.Duration(steps)*30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func (r *replicas) web(i int) *client.Client {
	r.t.Helper()
	c, err := client.NewWeb(r.opts[i].PublicAddr, client.WebOptions{CAs: r.hostCAs(), Agent: "test"})
	if err != nil {
		r.t.Fatal(err)
	}
	c.OnUnsettled = r.catchUp
	r.t.Cleanup(c.Close)
	return c
}

// watch opens a live stream through replica i; the channel tells when it ended.
func (r *replicas) watch(creds *client.Credentials, i int) <-chan time.Time {
	r.t.Helper()
	c := r.kubeClient(creds)
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "https://"+r.opts[i].PublicAddr+"/api/v1/pods?watch=true", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	var resp *http.Response
	eventually(r.t, patience, fmt.Sprintf("a watch through replica %d", i), func() (err error) {
		if resp, err = c.Do(req); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			_ = resp.Body.Close()
			return errors.New(resp.Status)
		}
		return nil
	})
	ended := make(chan time.Time, 1)
	go func() {
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body) // how it breaks is the proxy's test
		ended <- time.Now()
	}()
	return ended
}

// What one replica knows of logins, all do: a load balancer may send every request
// to another one.
func TestLoginsAreOneAcrossReplicas(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, nil)
	secrets := map[string]string{"password": testPassword} // that nobody but their holders may have

	for _, step := range []struct {
		name string
		run  func(t *testing.T, r *replicas, secrets map[string]string)
	}{
		{"a cookie of one replica counts on all", cookiesCountOnAll},
		{"a code is used once", codesAreUsedOnce},
		{"a login's first step is used once", firstStepsAreUsedOnce},
		{"failures count on all", failuresCountOnAll},
		{"tsh begins, a browser approves, tsh redeems", consoleLoginGoesOn},
		{"a reset ends what the user had", resetEndsAll},
		{"a session that is ended in a browser ends its streams", endedSessionsEndStreams},
		{"a changed password ends the other sessions", changedPasswordEndsOthers},
		{"state and log hold no secret", nothingSecretIsKept},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(t, r, secrets) })
	}
}

func cookiesCountOnAll(t *testing.T, r *replicas, secrets map[string]string) {
	r.addUser(0, "alice", "devs")
	b := r.browser()
	b.mustLogin(0, 1, "alice") // the form of one, sent to another
	for _, c := range b.c.Jar.Cookies(&url.URL{Scheme: "https", Host: r.opts[0].PublicAddr}) {
		_, secrets["cookie "+c.Name], _ = strings.Cut(c.Value, ".")
	}
	for i := range 3 {
		if !b.loggedIn(i) {
			t.Errorf("replica %d does not know the cookie", i)
		}
		if p := b.open(i, "/", nil); !strings.Contains(p.body, "alice") || !strings.Contains(p.body, testCluster) {
			t.Errorf("replica %d shows no home: %d %s", i, p.status, p.body)
		}
	}
	out := b.open(2, "/web/logout", nil).fill(nil)
	old := b.c.Jar
	b.c.Jar = keepJar{old} // who kept the cookie has nothing
	if p := b.open(0, "/web/logout", out); p.status != http.StatusOK {
		t.Fatalf("logout: %d %s", p.status, p.body)
	}
	for i := range 3 {
		if b.loggedIn(i) {
			t.Errorf("replica %d takes the cookie after the logout", i)
		}
	}
}

func codesAreUsedOnce(t *testing.T, r *replicas, secrets map[string]string) {
	secret := r.addUserWithApp(1, "bob")
	secrets["app's secret"] = secret
	code := url.Values{"code": {appCode(t, secret, 0)}}
	first, second := r.browser(), r.browser()
	p, q := first.login(0, 1, "bob", testPassword), second.login(1, 2, "bob", testPassword)
	if p.status != http.StatusOK || q.status != http.StatusOK || first.loggedIn(0) {
		t.Fatalf("the password alone: %d, %d", p.status, q.status)
	}
	if p := first.open(2, "/web/login/factor", p.fill(code)); p.status != http.StatusSeeOther {
		t.Fatalf("the code: %d %s", p.status, p.body)
	}
	if q := second.open(0, "/web/login/factor", q.fill(code)); q.status != http.StatusUnauthorized || !strings.Contains(q.body, "used already") {
		t.Errorf("the code once more, on another replica: %d %s", q.status, q.body)
	}
	if second.loggedIn(1) {
		t.Error("a used code logs in")
	}
	_, _, err := r.web(1).LoginWithPassword(t.Context(), "bob", testPassword, code.Get("code"), 0)
	if !api.IsCode(err, api.CodeSecondFactor) {
		t.Errorf("the code once more, in a terminal: %v", err)
	}
}

func firstStepsAreUsedOnce(t *testing.T, r *replicas, secrets map[string]string) {
	r.addUser(2, "grace", "devs")
	login := func(i int) *auth.Login { return r.run[i].srv.auth.Login }
	step, err := login(0).Begin(t.Context(), "grace", testPassword, loopback)
	if err != nil {
		t.Fatal(err)
	}
	secrets["state of a login"] = step.State
	if _, err := login(1).Web(t.Context(), step.State, auth.FactorAnswer{}, loopback); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := login(i).Web(t.Context(), step.State, auth.FactorAnswer{}, loopback); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("once more at replica %d: %v", i, err)
		}
	}
}

func failuresCountOnAll(t *testing.T, r *replicas, _ map[string]string) {
	r.addUser(0, "carol", "devs")
	for n := range 5 {
		var err error
		if n%2 == 0 {
			_, err = r.run[n%3].srv.auth.Login.Begin(t.Context(), "carol", "a wrong password", loopback)
		} else {
			_, _, err = r.web(n%3).LoginWithPassword(t.Context(), "carol", "a wrong password", "", 0)
		}
		if !api.IsCode(err, api.CodeUnauthenticated) {
			t.Fatalf("failure %d: %v", n, err)
		}
	}
	for i := range 3 {
		if p := r.browser().login(i, i, "carol", testPassword); p.status != http.StatusTooManyRequests || !strings.Contains(p.body, "too many failed logins") && !strings.Contains(p.body, "Too many failed logins") {
			t.Errorf("the right password in a browser at replica %d: %d %s", i, p.status, p.body)
		}
		if _, _, err := r.web(i).LoginWithPassword(t.Context(), "carol", testPassword, "", 0); !api.IsCode(err, api.CodeRateLimited) {
			t.Errorf("in a terminal at replica %d: %v", i, err)
		}
	}
}

func consoleLoginGoesOn(t *testing.T, r *replicas, secrets map[string]string) {
	r.addUser(0, "dave", "devs")
	const callback = "http://127.0.0.1:45678/callback"
	login, err := r.web(0).StartConsoleLogin(t.Context(), client.ConsoleOptions{Callback: callback, User: "dave", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	b := r.browser()
	b.mustLogin(0, 2, "dave")
	path := "/web/cli/" + login.ID
	shown := b.open(1, path, nil)
	for _, want := range []string{login.MatchCode, "127.0.0.1"} { // from where it was begun
		if !strings.Contains(shown.body, want) {
			t.Errorf("the page does not show %s: %s", want, shown.body)
		}
	}
	approved := b.open(1, path, shown.fill(url.Values{"answer": {"approve"}}))
	to := regexp.MustCompile(regexp.QuoteMeta(callback) + `\?[^"']*`).FindString(html.UnescapeString(approved.body))
	u, err := url.Parse(to)
	if err != nil || to == "" || u.Query().Get("id") != login.ID {
		t.Fatalf("%d %s", approved.status, approved.body)
	}
	secrets["code of a console login"] = u.Query().Get("code")
	resp, creds, err := r.web(2).RedeemConsoleLogin(t.Context(), login, u.Query().Get("code"))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(resp.Expires).Round(time.Minute); resp.Username != "dave" || left != time.Hour {
		t.Errorf("%s, %s", resp.Username, left)
	}
	for i := range 3 {
		if status, body := r.get(r.kubeClient(creds), i, "/api"); status != http.StatusOK {
			t.Errorf("kubectl through replica %d: %d %s", i, status, body)
		}
		if _, _, err := r.web(i).RedeemConsoleLogin(t.Context(), login, u.Query().Get("code")); !api.IsCode(err, api.CodeNotFound) {
			t.Errorf("redeemed again, at replica %d: %v", i, err)
		}
	}
}

func resetEndsAll(t *testing.T, r *replicas, _ map[string]string) {
	r.addUser(0, "erin", "devs")
	creds := r.login(1, "erin")
	b := r.browser()
	b.mustLogin(2, 2, "erin")
	ended := r.watch(creds, 2)
	if _, err := r.admin(0).ResetUser(t.Context(), &api.ResetUserRequest{User: "erin"}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if status, body := r.get(r.kubeClient(creds), i, "/api"); status != http.StatusUnauthorized {
			t.Errorf("kubectl through replica %d: %d %s", i, status, body)
		}
		if b.loggedIn(i) {
			t.Errorf("replica %d takes the cookie", i)
		}
		if _, _, err := r.web(i).LoginWithPassword(t.Context(), "erin", testPassword, "", 0); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("replica %d takes the old password: %v", i, err)
		}
	}
	wasCut(t, ended)
}

func endedSessionsEndStreams(t *testing.T, r *replicas, _ map[string]string) {
	r.addUser(0, "frank", "devs")
	resp, creds, err := r.web(1).LoginWithPassword(t.Context(), "frank", testPassword, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	kept := r.login(2, "frank")
	b := r.browser()
	b.mustLogin(0, 1, "frank")
	ended := r.watch(creds, 2)
	account := b.open(1, "/web/account", nil)
	form := account.endSession(t, resp.SessionID)
	if p := b.open(0, "/web/account/sessions/end", form); p.status != http.StatusSeeOther {
		t.Fatalf("%d %s", p.status, p.body)
	}
	wasCut(t, ended)
	if status, _ := r.get(r.kubeClient(kept), 2, "/api"); status != http.StatusOK {
		t.Errorf("another session of the user: %d", status)
	}
	if !b.loggedIn(2) {
		t.Error("the browser's own session ended too")
	}
}

func changedPasswordEndsOthers(t *testing.T, r *replicas, _ map[string]string) {
	r.addUser(0, "heidi", "devs")
	creds := r.login(0, "heidi")
	here, elsewhere := r.browser(), r.browser()
	here.mustLogin(1, 1, "heidi")
	elsewhere.mustLogin(2, 2, "heidi")
	form := here.open(2, "/web/account/password", nil)
	next := "another " + testPassword
	if p := here.open(0, "/web/account/password", form.fill(url.Values{"old": {testPassword}, "password": {next}, "repeat": {next}})); p.status != http.StatusSeeOther {
		t.Fatalf("%d %s", p.status, p.body)
	}
	for i := range 3 {
		if !here.loggedIn(i) || elsewhere.loggedIn(i) {
			t.Errorf("replica %d: here %v, elsewhere %v", i, here.loggedIn(i), elsewhere.loggedIn(i))
		}
		if status, _ := r.get(r.kubeClient(creds), i, "/api"); status != http.StatusUnauthorized {
			t.Errorf("kubectl through replica %d: %d", i, status)
		}
	}
}

func nothingSecretIsKept(t *testing.T, r *replicas, secrets map[string]string) {
	for i, run := range r.run {
		events, err := os.ReadFile(filepath.Join(r.opts[i].DataDir, "log", "events.log"))
		if err != nil || len(events) == 0 {
			t.Fatal(len(events), err)
		}
		for name, secret := range secrets {
			if secret == "" {
				t.Fatalf("no %s was seen", name)
			}
			if bytes.Contains(events, []byte(secret)) {
				t.Errorf("the log of replica %d holds the %s", i, name)
			}
			for rec := range run.srv.store.View().List("") {
				if strings.Contains(rec.Key, secret) || bytes.Contains(rec.Value, []byte(secret)) {
					t.Errorf("%s of replica %d holds the %s", rec.Key, i, name)
				}
			}
		}
	}
	if len(secrets) != 5 {
		t.Errorf("%d secrets were looked for", len(secrets))
	}
}

// wasCut waits for the end of a stream. That it comes at once is shown where time is
// virtual (packages proxy, auth and cluster), and that a user sees it within a second by
// the end-to-end tests: how soon it comes here depends on what else the machine does.
func wasCut(t *testing.T, ended <-chan time.Time) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the stream goes on")
	}
}

// keepJar keeps cookies that a server takes back.
type keepJar struct{ http.CookieJar }

func (keepJar) SetCookies(*url.URL, []*http.Cookie) {}

var loopback = netip.MustParseAddr("127.0.0.1")
