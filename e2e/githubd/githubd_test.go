package githubd

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

const callback = "https://tele.example.com/v1/webapi/github/callback"

// app is an OAuth app and its user's browser.
type app struct {
	t      *testing.T
	g      *GitHub
	url    string
	client *http.Client
}

func newApp(t *testing.T) *app {
	t.Helper()
	g := New(Options{ClientID: "id", ClientSecret: "secret", Callbacks: []string{callback}, MaxPage: 2})
	g.AddUser("alice")
	g.AddUser("bob")
	for _, team := range []string{"octocats/devs", "octocats/ops", "other/devs"} {
		if err := g.Join(team, "alice"); err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewTLSServer(g)
	t.Cleanup(s.Close)
	client := s.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &app{t, g, s.URL, client}
}

func (a *app) do(method, path, token string, form url.Values) (*http.Response, string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp, string(b)
}

// authorize is what the page posts, and where the browser is sent.
func (a *app) authorize(more url.Values) url.Values {
	a.t.Helper()
	sum := sha256.Sum256([]byte("verifier"))
	form := url.Values{
		"client_id": {"id"}, "redirect_uri": {callback}, "state": {"s"}, "scope": {"read:org"}, "login": {"alice"}, "answer": {"authorize"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	for name, values := range more {
		form[name] = values
	}
	resp, body := a.do(http.MethodPost, "/login/oauth/authorize", "", form)
	to, err := resp.Location()
	if err != nil || !strings.HasPrefix(to.String(), callback+"?") {
		a.t.Fatalf("%s, %v: %s", resp.Status, to, body)
	}
	return to.Query()
}

func (a *app) redeem(code, verifier, redirect string) (answer map[string]string) {
	a.t.Helper()
	resp, body := a.do(http.MethodPost, "/login/oauth/access_token", "", url.Values{
		"client_id": {"id"}, "client_secret": {"secret"}, "code": {code}, "code_verifier": {verifier}, "redirect_uri": {redirect},
	})
	if err := json.Unmarshal([]byte(body), &answer); err != nil || resp.StatusCode != http.StatusOK {
		a.t.Fatalf("%s, %v: %s", resp.Status, err, body)
	}
	return answer
}

func (a *app) token() string {
	a.t.Helper()
	return a.redeem(a.authorize(nil).Get("code"), "verifier", callback)["access_token"]
}

func TestACodeIsGoodForOneExchangeOfItsApp(t *testing.T) {
	a := newApp(t)
	code := a.authorize(nil).Get("code")
	if got := a.redeem(code, "verifier", callback); !strings.HasPrefix(got["access_token"], "gho_") || got["scope"] != "read:org" {
		t.Errorf("%v", got)
	}
	for name, got := range map[string]map[string]string{
		"again":            a.redeem(code, "verifier", callback),
		"wrong verifier":   a.redeem(a.authorize(nil).Get("code"), "other", callback),
		"no verifier":      a.redeem(a.authorize(nil).Get("code"), "", callback),
		"another callback": a.redeem(a.authorize(nil).Get("code"), "verifier", callback+"/x"),
	} {
		if got["error"] == "" || got["access_token"] != "" {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := a.authorize(url.Values{"answer": {"cancel"}}); got.Get("error") != "access_denied" || got.Get("state") != "s" || got.Has("code") {
		t.Errorf("cancelled: %v", got)
	}
	if got := a.authorize(url.Values{"redirect_uri": {"https://evil.example.com"}}); got.Get("error") != "redirect_uri_mismatch" || got.Has("code") {
		t.Errorf("another's callback: %v", got)
	}
}

func TestThePageCarriesTheRequestOn(t *testing.T) {
	a := newApp(t)
	q := url.Values{"client_id": {"id"}, "redirect_uri": {callback}, "state": {`"><script>`}, "scope": {"read:org"}}
	resp, body := a.do(http.MethodGet, "/login/oauth/authorize?"+q.Encode(), "", nil)
	if resp.StatusCode != http.StatusOK || strings.Contains(body, "<script") {
		t.Errorf("%s: %s", resp.Status, body)
	}
	for _, want := range []string{`name="redirect_uri" value="` + callback + `"`, `<button id="authorize"`, `id="user" name="login" value="alice"`, "<main>"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
}

func TestListsComeInPages(t *testing.T) {
	a := newApp(t)
	token := a.token()
	resp, body := a.do(http.MethodGet, "/api/v3/user/teams?per_page=100", token, nil)
	link := resp.Header.Get("Link")
	if strings.Count(body, `"slug"`) != 2 || !strings.Contains(link, "/api/v3/user/teams?per_page=2&page=2>; rel=\"next\"") {
		t.Errorf("%s\n%s", link, body)
	}
	resp, body = a.do(http.MethodGet, "/user/teams?per_page=2&page=2", token, nil)
	if strings.Count(body, `"slug"`) != 1 || strings.Contains(resp.Header.Get("Link"), "next") {
		t.Errorf("%s\n%s", resp.Header.Get("Link"), body)
	}
	if resp, _ := a.do(http.MethodGet, "/user/teams", "gho_other", nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("another token: %s", resp.Status)
	}
}

func TestANameThatIsGivenUpIsFree(t *testing.T) {
	a := newApp(t)
	id := func(name string) (id int64) {
		resp, body := a.do(http.MethodGet, "/orgs/"+name, "", nil)
		var org struct {
			ID int64 `json:"id"`
		}
		if err := json.Unmarshal([]byte(body), &org); err != nil || resp.StatusCode != http.StatusOK {
			return 0
		}
		return org.ID
	}
	before := id("OctoCats")
	if err := a.g.RenameOrg("octocats", "moved"); err != nil {
		t.Fatal(err)
	}
	if id("octocats") != 0 || id("moved") != before || before == 0 {
		t.Errorf("%d became %d", before, id("moved"))
	}
	if squatter := a.g.AddOrg("octocats"); squatter == before || id("octocats") != squatter {
		t.Errorf("%d is had twice", before)
	}
	_, body := a.do(http.MethodGet, "/user/orgs", a.token(), nil)
	if !strings.Contains(body, `"moved"`) || strings.Contains(body, `"octocats"`) {
		t.Errorf("alice is in %s", body)
	}
}

func TestFaults(t *testing.T) {
	a := newApp(t)
	token := a.token()
	a.g.SetFault(Fault{Kind: Error500, Path: "/user/teams", After: 1})
	for i, want := range []int{200, 500, 500} {
		if resp, _ := a.do(http.MethodGet, "/user/teams", token, nil); resp.StatusCode != want {
			t.Errorf("request %d: %s", i, resp.Status)
		}
	}
	if resp, _ := a.do(http.MethodGet, "/user", token, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("another path: %s", resp.Status)
	}
	a.g.SetFault(Fault{Kind: RateLimit})
	if resp, _ := a.do(http.MethodGet, "/user", token, nil); resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Ratelimit-Remaining") != "0" {
		t.Errorf("limit: %s", resp.Status)
	}
	a.g.SetFault(Fault{Kind: Truncated})
	if _, body := a.do(http.MethodGet, "/user/teams", token, nil); json.Valid([]byte(body)) {
		t.Errorf("truncated: %s", body)
	}
	a.g.SetFault(Fault{Kind: Hang})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/login/oauth/access_token", strings.NewReader("code=x"))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := a.client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v, %v", resp, err)
	}
	a.g.SetFault(Fault{})
	if resp, _ := a.do(http.MethodGet, "/user", token, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("mended: %s", resp.Status)
	}
	if !slices.Contains(a.g.Requests(), "POST /login/oauth/access_token") || len(a.g.Tokens()) != 1 {
		t.Errorf("%q, %d tokens", a.g.Requests(), len(a.g.Tokens()))
	}
}
