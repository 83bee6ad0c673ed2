package github

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// What must be in no error and no log line.
const (
	clientSecret = "client-secret-f00d"
	accessToken  = "gho_access-token-beef"
	goodCode     = "good-code-cafe"
)

// server is an Enterprise Server with alice, who is in three teams of two organizations.
// A handler in paths replaces the one of a path.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	paths    map[string]http.HandlerFunc
	seen     []string
	used     bool // the code
	revoked  bool
	exchange url.Values
}

const (
	pathToken  = "/login/oauth/access_token"
	pathUser   = "/api/v3/user"
	pathTeams  = "/api/v3/user/teams"
	pathOrgs   = "/api/v3/user/orgs"
	pathRevoke = "/api/v3/applications/client-1/token"
)

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{paths: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	s.paths[pathToken] = s.redeem
	s.paths[pathUser] = answer(`{"id": 583231, "login": "alice", "plan": {"name": "free"}}`)
	s.paths[pathTeams] = s.teams(
		`[{"slug": "devs", "organization": {"id": 7, "login": "octocats"}}]`,
		`[{"slug": "Ops", "organization": {"id": 7, "login": "octocats"}}]`,
		`[{"slug": "devs", "organization": {"id": 9, "login": "Other"}}]`)
	s.paths[pathOrgs] = answer(`[{"id": 7, "login": "octocats"}, {"id": 9, "login": "Other"}]`)
	s.paths[pathRevoke] = func(w http.ResponseWriter, r *http.Request) {
		var body map[string]string
		id, secret, _ := r.BasicAuth()
		if err := json.NewDecoder(r.Body).Decode(&body); err == nil && r.Method == http.MethodDelete && id == "client-1" && secret == clientSecret {
			s.mu.Lock()
			s.revoked = body["access_token"] == accessToken
			s.mu.Unlock()
		}
		w.WriteHeader(http.StatusNoContent)
	}
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+r.URL.RequestURI())
	h := s.paths[r.URL.Path]
	s.mu.Unlock()
	switch {
	case h == nil:
		http.NotFound(w, r)
	case strings.HasPrefix(r.URL.Path, pathUser) && r.Header.Get("Authorization") != "Bearer "+accessToken:
		http.Error(w, `{"message": "Bad credentials"}`, http.StatusUnauthorized)
	default:
		h(w, r)
	}
}

// requests are those so far.
func (s *server) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// tokenRevoked says whether the token was, and for which callback the code was redeemed.
func (s *server) tokenRevoked() (revoked bool, callback string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked, s.exchange.Get("redirect_uri")
}

func answer(body string) http.HandlerFunc { return fail(http.StatusOK, body) }

func fail(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// teams serves pages one after the other, with Link headers as GitHub writes them.
func (s *server) teams(pages ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("page"))
		if err != nil {
			n = 1
		}
		if n < len(pages) {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?per_page=100&page=%d>; rel="prev", <%s%s?per_page=100&page=%d>; rel="next"`, s.URL, pathTeams, n-1, s.URL, pathTeams, n+1))
		}
		answer(pages[n-1])(w, r)
	}
}

// form answers as GitHub does who does not ask for JSON.
func form(w http.ResponseWriter, values url.Values) {
	w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	fmt.Fprint(w, values.Encode())
}

// redeem is the exchange of a code, with GitHub's mistakes at status 200.
func (s *server) redeem(w http.ResponseWriter, r *http.Request) {
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchange = r.PostForm
	if r.FormValue("code") != goodCode || s.used || base64.RawURLEncoding.EncodeToString(sum[:]) != challenge() {
		form(w, url.Values{"error": {"bad_verification_code"}, "error_description": {"The code passed is incorrect or expired: " + r.FormValue("code")}})
		return
	}
	s.used = true
	form(w, url.Values{"access_token": {accessToken}, "scope": {"read:org"}, "token_type": {"bearer"}})
}

func flow() *sso.Flow {
	return &sso.Flow{ID: strings.Repeat("1d", 32), Nonce: strings.Repeat("4e", 32), Verifier: strings.Repeat("7f", 32), Started: time.Unix(1e9, 0)}
}

func challenge() string {
	sum := sha256.Sum256([]byte(flow().Verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// document is a valid one of github.com, or of the Enterprise Server at endpoint.
func document(endpoint string) *api.GithubConnector {
	doc := &api.GithubConnector{Spec: api.GithubSpec{
		ClientID: "client-1", ClientSecret: clientSecret, RedirectURL: "https://tele.example.com/v1/webapi/github/callback", EndpointURL: endpoint,
	}}
	if endpoint != "" {
		doc.Spec.APIEndpointURL = strings.TrimRight(endpoint, "/") + "/api/v3"
	}
	doc.Metadata.Name = "github"
	return doc
}

// provider is one whose log is kept.
func (s *server) provider(t *testing.T) (*Provider, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	p, err := New(document(s.URL), api.ConnectorFacts{}, sso.Options{
		HTTP: sso.NewClient(s.Client().Transport), Clock: func() time.Time { return time.Unix(1e9, 0) },
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, &log
}

func good() url.Values { return url.Values{"code": {goodCode}, "state": {flow().ID}} }

// silent fails the test where an error or the log tells a secret.
func silent(t *testing.T, err error, log *bytes.Buffer) {
	t.Helper()
	text := log.String()
	for e := err; e != nil; {
		text += fmt.Sprintf("\n%v %+v %#v", e, e, e)
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	for _, secret := range []string{clientSecret, accessToken, goodCode, flow().Verifier} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret %q is told:\n%s", secret, text)
		}
	}
}

func TestStartSendsToGithubWithStateAndPKCE(t *testing.T) {
	p, err := New(document(""), api.ConnectorFacts{}, sso.Options{})
	if err != nil {
		t.Fatal(err)
	}
	address, err := p.Start(t.Context(), flow())
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"client_id": {"client-1"}, "redirect_uri": {"https://tele.example.com/v1/webapi/github/callback"}, "response_type": {"code"}, "scope": {"read:org"},
		"state": {flow().ID}, "code_challenge": {challenge()}, "code_challenge_method": {"S256"},
	}
	if diff := cmp.Diff(want, u.Query()); diff != "" || u.Host != "github.com" || u.Path != "/login/oauth/authorize" {
		t.Errorf("%s\n%s", address, diff)
	}
}

func TestFinishSaysWhoAndWhichTeams(t *testing.T) {
	s := newServer(t)
	p, log := s.provider(t)
	got, err := p.Finish(t.Context(), flow(), good())
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(s.URL, "https://")
	want := &api.SSOIdentity{
		Subject: host + "/583231", Username: "alice",
		Teams: []api.GithubTeam{
			{Organization: "octocats", OrganizationID: 7, Slug: "devs"},
			{Organization: "octocats", OrganizationID: 7, Slug: "Ops"},
			{Organization: "Other", OrganizationID: 9, Slug: "devs"},
		},
		Attributes: map[string][]string{
			"username": {"alice"}, "github_orgs": {"Other", "octocats"}, "github_teams": {"Other/devs", "octocats/Ops", "octocats/devs"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	asked := []string{
		"POST " + pathToken, "GET " + pathUser, "GET " + pathTeams + "?per_page=100", "GET " + pathTeams + "?per_page=100&page=2",
		"GET " + pathTeams + "?per_page=100&page=3", "GET " + pathOrgs + "?per_page=100", "DELETE " + pathRevoke,
	}
	if diff := cmp.Diff(asked, s.requests()); diff != "" {
		t.Error(diff)
	}
	revoked, callback := s.tokenRevoked()
	if callback != "https://tele.example.com/v1/webapi/github/callback" {
		t.Errorf("the code was redeemed for %q", callback)
	}
	if !revoked {
		t.Error("the token was not revoked")
	}
	silent(t, nil, log)
}

// threats.md, GitHub: "renamed org (use id)". Who takes a name that was given up has
// another id, and so has the team there.
func TestThreatRenamedOrgIsToldByItsID(t *testing.T) {
	s := newServer(t)
	s.paths[pathTeams] = answer(`[{"slug": "devs", "organization": {"id": 7, "login": "was-octocats"}}, {"slug": "devs", "organization": {"id": 8, "login": "octocats"}}]`)
	p, _ := s.provider(t)
	id, err := p.Finish(t.Context(), flow(), good())
	if err != nil {
		t.Fatal(err)
	}
	want := []api.GithubTeam{{Organization: "was-octocats", OrganizationID: 7, Slug: "devs"}, {Organization: "octocats", OrganizationID: 8, Slug: "devs"}}
	if diff := cmp.Diff(want, id.Teams); diff != "" {
		t.Error(diff)
	}
}

func TestSubjectsOfServersDiffer(t *testing.T) {
	for _, test := range []struct{ at, atAPI, want string }{
		{"", "", "github.com/5"}, {"https://GHE.example.com:443", "https://GHE.example.com:443/api/v3", "ghe.example.com/5"},
		{"https://ghe.example.com:8443", "https://ghe.example.com:8443/api/v3", "ghe.example.com:8443/5"}, {"https://acme.ghe.com", "https://api.acme.ghe.com", "api.acme.ghe.com/5"},
	} {
		doc := document(test.at)
		doc.Spec.APIEndpointURL = test.atAPI
		p, err := New(doc, api.ConnectorFacts{}, sso.Options{})
		if err != nil {
			t.Errorf("%s: %v", test.at, err)
			continue
		}
		if got := p.api.subject(5); got != test.want {
			t.Errorf("%s: %s, want %s", test.at, got, test.want)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for _, test := range []struct{ at, atAPI, authorize, api, wrong string }{
		{"", "", "https://github.com/login/oauth/authorize", "https://api.github.com", ""},
		{"https://ghe.example.com/", "https://ghe.example.com/api/v3/", "https://ghe.example.com/login/oauth/authorize", "https://ghe.example.com/api/v3", ""},
		{"https://acme.ghe.com", "https://api.acme.ghe.com", "https://acme.ghe.com/login/oauth/authorize", "https://api.acme.ghe.com", ""},
		{"http://ghe.example.com", "", "", "", "spec.endpoint_url"},
		{"https://ghe.example.com", "http://ghe.example.com/api/v3", "", "", "spec.api_endpoint_url"},
	} {
		doc := document(test.at)
		doc.Spec.APIEndpointURL = test.atAPI
		p, err := New(doc, api.ConnectorFacts{}, sso.Options{})
		switch {
		case test.wrong != "":
			if err == nil || !strings.HasPrefix(err.Error(), test.wrong) {
				t.Errorf("%q, %q: %v, want it to name %s", test.at, test.atAPI, err, test.wrong)
			}
		case err != nil:
			t.Errorf("%q, %q: %v", test.at, test.atAPI, err)
		case p.oauth.Endpoint.AuthURL != test.authorize || p.api.base.String() != test.api:
			t.Errorf("%q, %q: %s, %s", test.at, test.atAPI, p.oauth.Endpoint.AuthURL, p.api.base)
		}
	}
}

// threats.md, OAuth: state of another login, a code twice, errors, mix-up.
func TestThreatForgedAnswersAreRefused(t *testing.T) {
	state := flow().ID
	for name, test := range map[string]struct {
		answer url.Values
		code   api.Code
		want   string
	}{
		"no code":             {url.Values{"state": {state}}, api.CodeUnauthenticated, "holds no code"},
		"two codes":           {url.Values{"state": {state}, "code": {goodCode, "other"}}, api.CodeUnauthenticated, `has "code" twice`},
		"two states":          {url.Values{"state": {state, "other"}, "code": {goodCode}}, api.CodeUnauthenticated, `has "state" twice`},
		"a long code":         {url.Values{"state": {state}, "code": {strings.Repeat("a", 600)}}, api.CodeUnauthenticated, "holds no code"},
		"a code of two lines": {url.Values{"state": {state}, "code": {"a\nb"}}, api.CodeUnauthenticated, "holds no code"},
		"no state":            {url.Values{"code": {goodCode}}, api.CodeUnauthenticated, "another login"},
		"foreign state":       {url.Values{"state": {"other"}, "code": {goodCode}}, api.CodeUnauthenticated, "another login"},
		"foreign issuer":      {url.Values{"state": {state}, "code": {goodCode}, "iss": {"https://evil.example.com"}}, api.CodeUnauthenticated, "RFC 9207"},
		"another's code":      {url.Values{"state": {state}, "code": {"stolen"}}, api.CodeUnauthenticated, "does not accept the code"},
		"denied":              {url.Values{"state": {state}, "error": {"access_denied"}, "error_description": {"The user has denied your application access."}}, api.CodeForbidden, "access was denied"},
		"denied, with a code": {url.Values{"state": {state}, "error": {"access_denied"}, "code": {goodCode}}, api.CodeForbidden, "access was denied"},
		"callback mismatch":   {url.Values{"state": {state}, "error": {"redirect_uri_mismatch"}}, api.CodeForbidden, "https://tele.example.com/v1/webapi/github/callback"},
		"suspended":           {url.Values{"state": {state}, "error": {"application_suspended"}}, api.CodeForbidden, "suspended"},
		"a server's error":    {url.Values{"state": {state}, "error": {"server_error"}}, api.CodeUnavailable, "(server_error): try again later"},
		"another error":       {url.Values{"state": {state}, "error": {"unsupported_response_type"}}, api.CodeForbidden, "an administrator compares"},
		"an error to inject":  {url.Values{"state": {state}, "error": {"<script>\x1b[2J"}}, api.CodeForbidden, "a reason that can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			p, log := s.provider(t)
			id, err := p.Finish(t.Context(), flow(), test.answer)
			if id != nil || api.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("%v, %v (%s); want %s: … %s", id, err, api.CodeOf(err), test.code, test.want)
			}
			if strings.ContainsAny(fmt.Sprint(err), "<\x1b") {
				t.Errorf("what a stranger sent is in %q", err)
			}
			silent(t, err, log)
		})
	}
}

func TestThreatCodeReplayIsRefused(t *testing.T) {
	s := newServer(t)
	p, log := s.provider(t)
	if _, err := p.Finish(t.Context(), flow(), good()); err != nil {
		t.Fatal(err)
	}
	_, err := p.Finish(t.Context(), flow(), good())
	if api.CodeOf(err) != api.CodeUnauthenticated {
		t.Errorf("the second time: %v", err)
	}
	silent(t, err, log)
}

func TestThreatWrongPKCEVerifierIsRefused(t *testing.T) {
	s := newServer(t)
	p, log := s.provider(t)
	f := flow()
	f.Verifier = strings.Repeat("00", 32)
	id, err := p.Finish(t.Context(), f, good())
	if id != nil || api.CodeOf(err) != api.CodeUnauthenticated {
		t.Errorf("%v, %v", id, err)
	}
	silent(t, err, log)
}

// threats.md, GitHub: "rate-limited/500 -> fail closed; token never stored or logged".
func TestThreatWhatGithubDoesNotSayLogsNobodyIn(t *testing.T) {
	limit := []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", strconv.Itoa(1e9 + 90)}
	deep := strings.Repeat(`[`, 200_000)
	for name, test := range map[string]struct {
		path string
		h    http.HandlerFunc
		code api.Code
		want string
	}{
		"user: limit":            {pathUser, fail(403, `{"message": "API rate limit exceeded"}`, limit...), api.CodeUnavailable, "try again in 1m30s"},
		"teams: limit":           {pathTeams, fail(403, `{"message": "API rate limit exceeded"}`, limit...), api.CodeUnavailable, "too many requests"},
		"teams: second limit":    {pathTeams, fail(403, `{"message": "You have exceeded a secondary rate limit."}`), api.CodeUnavailable, "try again later"},
		"teams: retry after":     {pathTeams, fail(403, `{}`, "Retry-After", "60"), api.CodeUnavailable, "try again in 1m0s"},
		"teams: 429":             {pathTeams, fail(429, `{}`, "Retry-After", "999999999"), api.CodeUnavailable, "status 429): try again later"},
		"teams: 500":             {pathTeams, fail(500, `<html>`), api.CodeUnavailable, "answers 500 Internal Server Error"},
		"teams: 502":             {pathTeams, fail(502, ``), api.CodeUnavailable, "answers 502"},
		"teams: forbidden":       {pathTeams, fail(403, `{"message": "Forbidden"}`), api.CodeForbidden, "answers 403"},
		"teams: not found":       {pathTeams, fail(404, `{"message": "Not Found"}`), api.CodeForbidden, "answers 404"},
		"user: 401":              {pathUser, fail(401, `{}`), api.CodeForbidden, "spec.api_endpoint_url"},
		"orgs: 500":              {pathOrgs, fail(500, `<html>`), api.CodeUnavailable, "answers 500"},
		"teams: truncated":       {pathTeams, answer(`[{"slug": "devs", "organization": {"id": 7, "lo`), api.CodeUnavailable, "breaks off"},
		"teams: no JSON":         {pathTeams, answer(`<!doctype html>`), api.CodeUnavailable, "is no JSON"},
		"teams: nothing":         {pathTeams, answer(``), api.CodeUnavailable, "is no JSON"},
		"teams: null":            {pathTeams, answer(` null`), api.CodeUnavailable, "it is null"},
		"teams: an object":       {pathTeams, answer(`{"message": "hello"}`), api.CodeUnavailable, "of another kind"},
		"teams: trailing":        {pathTeams, answer(`[] []`), api.CodeUnavailable, "no JSON"},
		"teams: deep":            {pathTeams, answer(deep), api.CodeUnavailable, "no JSON"},
		"teams: huge":            {pathTeams, answer(`[` + strings.Repeat(" ", 1<<20) + `]`), api.CodeUnavailable, "larger than 1024 KiB"},
		"teams: 204":             {pathTeams, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, api.CodeUnavailable, "answers 204"},
		"teams: negative id":     {pathTeams, answer(`[{"slug": "devs", "organization": {"id": -7, "login": "o"}}]`), api.CodeUnavailable, "without a positive id"},
		"teams: no id":           {pathTeams, answer(`[{"slug": "devs", "organization": {"login": "o"}}]`), api.CodeUnavailable, "without a positive id"},
		"teams: no organization": {pathTeams, answer(`[{"slug": "devs"}]`), api.CodeUnavailable, "has no organization"},
		"teams: an id of text":   {pathTeams, answer(`[{"slug": "devs", "organization": {"id": "7", "login": "o"}}]`), api.CodeUnavailable, "of another kind"},
		"teams: a fraction":      {pathTeams, answer(`[{"slug": "devs", "organization": {"id": 7.5, "login": "o"}}]`), api.CodeUnavailable, "of another kind"},
		"teams: an id too large": {pathTeams, answer(`[{"slug": "devs", "organization": {"id": 9223372036854775808, "login": "o"}}]`), api.CodeUnavailable, "of another kind"},
		"teams: a page too long": {pathTeams, answer(`[` + strings.Repeat(`{"slug": "a", "organization": {"id": 1, "login": "o"}},`, 100) + `{}]`), api.CodeUnavailable, "101 teams"},
		"user: id zero":          {pathUser, answer(`{"id": 0, "login": "alice"}`), api.CodeUnavailable, "no positive number"},
		"user: a control byte":   {pathUser, answer(`{"id": 5, "login": "ali\nce"}`), api.CodeUnavailable, "is no name"},
		"user: no login":         {pathUser, answer(`{"id": 5}`), api.CodeUnavailable, "is no name"},
		"user: null":             {pathUser, answer(`null`), api.CodeUnavailable, "it is null"},
		"orgs: negative id":      {pathOrgs, answer(`[{"id": -1, "login": "o"}]`), api.CodeUnavailable, "no positive id"},
		"token: 500":             {pathToken, fail(500, accessToken), api.CodeUnavailable, "answered 500"},
		"token: limit":           {pathToken, fail(429, `slow down `+accessToken), api.CodeUnavailable, "too many requests"},
		"token: no JSON":         {pathToken, answer(`<` + accessToken), api.CodeUnavailable, "did not answer as it should"},
		"token: none":            {pathToken, answer(`{"scope": "` + accessToken + `"}`), api.CodeUnavailable, "did not answer as it should"},
		"token: of a kind":       {pathToken, answer(`{"access_token": "` + accessToken + `", "token_type": "mac"}`), api.CodeUnavailable, "of a kind"},
		"token: client":          {pathToken, answer(`{"error": "incorrect_client_credentials", "error_description": "` + clientSecret + `"}`), api.CodeForbidden, "spec.client_id and spec.client_secret"},
		"token: callback":        {pathToken, answer(`{"error": "redirect_uri_mismatch"}`), api.CodeForbidden, "callback URL"},
		"token: client, a form": {pathToken, func(w http.ResponseWriter, _ *http.Request) {
			form(w, url.Values{"error": {"incorrect_client_credentials"}})
		}, api.CodeForbidden, "spec.client_secret"},
		"token: e-mail":        {pathToken, answer(`{"error": "unverified_user_email"}`), api.CodeForbidden, "verify your primary e-mail"},
		"token: another error": {pathToken, answer(`{"error": "` + strings.ToUpper(accessToken) + `"}`), api.CodeForbidden, "can't be read"},
		"token: 404":           {pathToken, fail(404, `<html>`), api.CodeForbidden, "spec.endpoint_url"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.paths[test.path] = test.h
			p, log := s.provider(t)
			id, err := p.Finish(t.Context(), flow(), good())
			if id != nil || api.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("%v, %v (%s); want %s: … %s", id, err, api.CodeOf(err), test.code, test.want)
			}
			if revoked, _ := s.tokenRevoked(); !revoked && test.path != pathToken {
				t.Error("the token was not revoked")
			}
			silent(t, err, log)
		})
	}
}

func TestThreatAPageThatFailsMidwayFailsTheLogin(t *testing.T) {
	one := `[{"slug": "devs", "organization": {"id": 7, "login": "octocats"}}]`
	for name, second := range map[string]http.HandlerFunc{
		"500": fail(500, ``), "limit": fail(403, ``, "Retry-After", "1"), "half": answer(one[:20]), "gone": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			pages := s.teams(one, one)
			s.paths[pathTeams] = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("page") == "2" {
					second(w, r)
					return
				}
				pages(w, r)
			}
			p, log := s.provider(t)
			if id, err := p.Finish(t.Context(), flow(), good()); id != nil || api.CodeOf(err) != api.CodeUnavailable {
				t.Errorf("%v, %v", id, err)
			} else {
				silent(t, err, log)
			}
		})
	}
}

// The access token and the code go to the connector's hosts alone.
func TestThreatRedirectsAndPagesElsewhereAreRefused(t *testing.T) {
	var mu sync.Mutex
	var got []string
	evil := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Method+" "+r.URL.Path)
		answer(`{"access_token": "evil", "token_type": "bearer", "id": 1, "login": "root"}`)(w, r)
	}))
	defer evil.Close()
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusTemporaryRedirect) }
	}
	next := func(to string) http.HandlerFunc { return fail(200, `[]`, "Link", "<"+to+`>; rel="next"`) }
	for name, test := range map[string]struct {
		path string
		h    http.HandlerFunc
		code api.Code
		want string
	}{
		"token":          {pathToken, redirect(evil.URL), api.CodeForbidden, "answered 307"},
		"user":           {pathUser, redirect(evil.URL), api.CodeForbidden, "a redirect"},
		"teams":          {pathTeams, redirect(evil.URL + pathTeams), api.CodeForbidden, "a redirect"},
		"page":           {pathTeams, next(evil.URL + pathTeams), api.CodeUnavailable, "next page is not at"},
		"page over http": {pathTeams, next("http://127.0.0.1:1/"), api.CodeUnavailable, "next page is not at"},
		"page, relative": {pathTeams, next("//evil.example.com/"), api.CodeUnavailable, "next page is not at"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.paths[test.path] = test.h
			p, log := s.provider(t)
			id, err := p.Finish(t.Context(), flow(), good())
			if id != nil || api.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("%v, %v (%s); want %s: … %s", id, err, api.CodeOf(err), test.code, test.want)
			}
			silent(t, err, log)
		})
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) > 0 {
		t.Errorf("the other host was asked %q", got)
	}
}

func TestThreatPagesWithoutEndAreLeft(t *testing.T) {
	s := newServer(t)
	s.paths[pathTeams] = fail(200, `[]`, "Link", "<"+s.URL+pathTeams+`?page=2>; rel="next"`)
	p, _ := s.provider(t)
	_, err := p.Finish(t.Context(), flow(), good())
	if api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(fmt.Sprint(err), "more than 50 pages") {
		t.Errorf("%v", err)
	}
}

func TestMoreTeamsThanASessionHoldsAreRefused(t *testing.T) {
	s := newServer(t)
	var pages []string
	for i := range 11 {
		var page []string
		for j := range 100 {
			page = append(page, fmt.Sprintf(`{"slug": "t%d", "organization": {"id": 7, "login": "octocats"}}`, i*100+j))
		}
		pages = append(pages, "["+strings.Join(page, ",")+"]")
	}
	s.paths[pathTeams] = s.teams(pages...)
	p, _ := s.provider(t)
	if _, err := p.Finish(t.Context(), flow(), good()); api.CodeOf(err) != api.CodeForbidden || !strings.Contains(fmt.Sprint(err), "too many attributes") {
		t.Errorf("%v", err)
	}
}

// threats.md: "names with , \n = NUL, unicode confusables in … SSO claims". A name that
// no document can hold is no team.
func TestThreatTeamsWithUnreadableNamesAreLeftOut(t *testing.T) {
	s := newServer(t)
	s.paths[pathTeams] = answer(`[{"slug": "de\u0000vs", "organization": {"id": 7, "login": "octocats"}}, {"slug": "a/b", "organization": {"id": 7, "login": "octocats"}},
		{"slug": "\u202edevs", "organization": {"id": 7, "login": "octocats"}}, {"slug": "devs", "organization": {"id": 7, "login": "octo\ncats"}},
		{"slug": "` + strings.Repeat("x", 300) + `", "organization": {"id": 7, "login": "octocats"}}, {"slug": "ops", "organization": {"id": 7, "login": "octocats"}}]`)
	s.paths[pathOrgs] = answer(`[{"id": 7, "login": "octo\tcats"}]`)
	p, _ := s.provider(t)
	id, err := p.Finish(t.Context(), flow(), good())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]api.GithubTeam{{Organization: "octocats", OrganizationID: 7, Slug: "ops"}}, id.Teams); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string][]string{"username": {"alice"}, "github_teams": {"octocats/ops"}}, id.Attributes); diff != "" {
		t.Error(diff)
	}
}

// hang answers nothing, not even when the client has given up; that it has, net/http
// notices only once the body is read.
func hang(_ http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		<-r.Context().Done()
	}
	panic(http.ErrAbortHandler) // else it would be an empty answer, which may still arrive
}

func TestAServerThatHangsIsGivenUp(t *testing.T) {
	for _, path := range []string{pathToken, pathUser, pathTeams} {
		s := newServer(t)
		s.paths[path] = hang
		p, log := s.provider(t)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := p.Finish(ctx, flow(), good())
		cancel()
		if api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(fmt.Sprint(err), "did not answer in time") {
			t.Errorf("%s: %v", path, err)
		}
		silent(t, err, log)
	}
}

func TestALoginDoesNotNeedTheTokenRevoked(t *testing.T) {
	s := newServer(t)
	s.paths[pathRevoke] = fail(500, accessToken)
	p, log := s.provider(t)
	if _, err := p.Finish(t.Context(), flow(), good()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "could not be revoked") {
		t.Errorf("the log says %q", log)
	}
	silent(t, nil, log)
}

func TestCheckWantsAnAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"well": {answer(``), ""}, "limit": {fail(403, ``), ""}, "not found": {fail(404, ``), ""},
		"500": {fail(500, ``), "500"}, "hang": {hang, "did not answer in time"},
	} {
		s := newServer(t)
		s.paths[pathToken] = test.h
		p, _ := s.provider(t)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if name == "hang" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		}
		err := p.Check(ctx)
		cancel()
		if test.want == "" && err != nil || test.want != "" && (api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	s := newServer(t)
	p, _ := s.provider(t)
	s.Close()
	if err := p.Check(t.Context()); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("down: %v", err)
	}
}
