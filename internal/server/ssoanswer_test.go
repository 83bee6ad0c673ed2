package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/proxy/web"
	"github.com/sallyport-dev/sallyport/sso"
)

// ssoSite is the pages over a store of one, without a network between: so that a test
// may have a clock of its own.
type ssoSite struct {
	t     *testing.T
	f     *authtest.Fixture
	sso   *singleSignOn
	pages http.Handler
	idp   *slowIDP
	store *noLeader
}

// slowIDP answers when it is let, and then as fakeKinds does.
type slowIDP struct {
	fakeKinds
	asked chan struct{} // one for each call
	let   chan struct{} // nil: at once; closed: so too
}

func (k *slowIDP) New(doc api.Connector, _ api.ConnectorFacts) (sso.Provider, error) {
	return &slowProvider{fakeProvider{&k.fakeKinds, doc}, k}, nil
}

type slowProvider struct {
	fakeProvider
	idp *slowIDP
}

func (p *slowProvider) Finish(ctx context.Context, f *sso.Flow, answer url.Values) (*api.SSOIdentity, error) {
	if p.idp.let != nil {
		p.idp.asked <- struct{}{}
		select {
		case <-p.idp.let:
		case <-ctx.Done():
			return nil, api.Errorf(api.CodeUnavailable, "idp.example.com: %s", sso.Reason(ctx.Err()))
		}
	}
	return p.fakeProvider.Finish(ctx, f, answer)
}

// noLeader is a store that nobody leads while it is down.
type noLeader struct {
	auth.DB
	down bool
}

func (d *noLeader) Linearize(ctx context.Context) error {
	if d.down {
		return api.Errorf(api.CodeUnavailable, "the cluster has no leader at the moment")
	}
	return d.DB.Linearize(ctx)
}

func newSSOSite(t *testing.T) *ssoSite {
	t.Helper()
	f := authtest.New(t)
	s := &ssoSite{t: t, f: f, idp: &slowIDP{asked: make(chan struct{}, 1000)}, store: &noLeader{DB: f.DB}}
	quiet := slog.New(slog.DiscardHandler)
	o := Options{ClusterName: authtest.ClusterName, PublicAddr: authtest.PublicAddr, Clock: time.Now, Rand: rand.Reader}
	s.sso = newSingleSignOn(f.Service, &ssoProviders{kinds: s.idp, clock: o.Clock, public: o.PublicAddr, open: f.Connectors.Open}, s.store, o, quiet)
	var err error
	s.pages, err = web.New(web.Options{
		PublicAddr: o.PublicAddr, ClusterName: o.ClusterName, Invites: f.Invites, SSO: s.sso, Logger: quiet,
		Accounts: webAccounts{
			auth: f.Service, store: f.DB, name: o.ClusterName, stale: func() error { return nil }, blame: func(err error) error { return err }, misses: &cookieMisses{},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.PutConnector(t, authtest.OIDCConnector("dex"))
	f.PutConnector(t, authtest.OIDCConnector("plain", func(spec *api.OIDCSpec) {
		spec.RedirectURL = api.Values{api.CallbackURL(o.PublicAddr, api.PathOIDCCallback)}
	}))
	return s
}

// jar is what a browser keeps.
type jar map[string]string

// open asks for a page, as a browser with these cookies.
func (s *ssoSite) open(ctx context.Context, cookies jar, path string, form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "https://"+authtest.ClusterName+path, nil)
	if form != nil {
		r = httptest.NewRequestWithContext(ctx, http.MethodPost, "https://"+authtest.ClusterName+path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for name, value := range cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	s.pages.ServeHTTP(w, r)
	return w
}

// keep takes the cookies of an answer.
func (j jar) keep(w *httptest.ResponseRecorder) {
	for _, c := range w.Result().Cookies() {
		if j[c.Name] = c.Value; c.MaxAge < 0 {
			delete(j, c.Name)
		}
	}
}

// begin is a login up to the identity provider: its cookies, and the callback that the
// provider would send the browser to.
func (s *ssoSite) begin(connector, next, code string) (cookies jar, callback string) {
	s.t.Helper()
	w := s.open(s.t.Context(), nil, "/webapi/oidc/login/web?"+url.Values{"connector_id": {connector}, "next": {next}}.Encode(), nil)
	to, err := url.Parse(w.Header().Get("Location"))
	if err != nil || w.Code != http.StatusSeeOther {
		s.t.Fatalf("%d %s", w.Code, w.Body)
	}
	cookies = jar{}
	cookies.keep(w)
	path := api.PathOIDCCallback
	if connector == "dex" {
		path += "/dex"
	}
	return cookies, "/v1" + path + "?" + url.Values{"state": {to.Query().Get("state")}, "code": {code}}.Encode()
}

// terminal begins a login of tsh.
func (s *ssoSite) terminal(connector string) (id string) {
	s.t.Helper()
	_, pub := authtest.NewKey(s.t)
	resp, err := s.f.Consoles.Start(s.t.Context(), api.ConsoleLoginRequest{
		RedirectURL: "http://127.0.0.1:40123/callback", TLSPubKey: pub, CodeChallenge: strings.Repeat("A", 43), ConnectorID: connector,
	}, authtest.Client)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.ID
}

// waits reports whether a login of tsh goes on.
func (s *ssoSite) waits(id string) bool {
	_, err := s.f.Consoles.Get(s.t.Context(), id, auth.Actor{Addr: authtest.Client})
	return err == nil
}

// A browser that is stopped, or loads the page again, ends nothing: what it brought is
// looked at to the end, once.
func TestSSOBrowsersThatGoEndNoLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSSOSite(t)
		s.idp.let = make(chan struct{})
		tsh := s.terminal("dex")
		cookies, callback := s.begin("dex", "/web/cli/"+tsh, "anna:admins")
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var again *httptest.ResponseRecorder
		wg.Go(func() { s.open(ctx, cookies, callback, nil) })
		<-s.idp.asked
		stop()
		wg.Go(func() { again = s.open(t.Context(), cookies, callback, nil) })
		time.Sleep(3 * time.Second) // the bubble's clock
		synctest.Wait()
		if !s.waits(tsh) {
			t.Error("the terminal's login is over as the browser went")
		}
		close(s.idp.let)
		wg.Wait()
		if again.Code != http.StatusSeeOther || again.Header().Get("Location") != "/web/cli/"+tsh {
			t.Errorf("the page that was loaded again: %d %s", again.Code, again.Body)
		}
		cookies.keep(again)
		if w := s.open(t.Context(), cookies, "/web/cli/"+tsh, nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `value="approve"`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if n := len(s.idp.asked); n != 0 {
			t.Errorf("the provider was shown the code %d times", 1+n)
		}
		if n := len(s.f.Sessions.List("anna")); n != 1 {
			t.Errorf("%d sessions", n)
		}
		if w := s.open(t.Context(), cookies, callback, nil); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "begun in another browser") {
			t.Errorf("later: %d", w.Code)
		}
	})
}

// A provider that hangs is waited for 10 s, by so many, and holds up nobody else.
func TestSSOAProviderThatHangsHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSSOSite(t)
		s.f.AddUser(t, "local", nil)
		s.idp.let = make(chan struct{})
		tsh := s.terminal("dex")
		var mu sync.Mutex
		answered := map[int]map[time.Duration]int{}
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 2 * maxCallbacksPer {
			next := ""
			if i == 0 {
				next = "/web/cli/" + tsh
			}
			cookies, callback := s.begin("dex", next, "anna:admins")
			wg.Go(func() {
				w := s.open(t.Context(), cookies, callback, nil)
				kept := len(cookies) == 1 && len(w.Result().Cookies()) == 0
				mu.Lock()
				defer mu.Unlock()
				if answered[w.Code] == nil {
					answered[w.Code] = map[time.Duration]int{}
				}
				answered[w.Code][time.Since(began)]++
				if kept != (w.Code == http.StatusTooManyRequests) || strings.Contains(w.Body.String(), "No answer from dex") == kept {
					t.Errorf("%d: the flow is kept: %v, in %s", w.Code, kept, w.Body)
				}
			})
			synctest.Wait()
		}
		// The others do as they always do.
		cookies := jar{}
		page := s.open(t.Context(), cookies, "/web/login", nil)
		cookies.keep(page)
		form := page2(page).fill(url.Values{"username": {"local"}, "password": {authtest.Password}})
		if w := s.open(t.Context(), cookies, "/web/login", form); w.Code != http.StatusSeeOther {
			t.Errorf("a local user: %d %s", w.Code, w.Body)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("somebody waited %s", took)
		}
		wg.Wait()
		want := map[int]map[time.Duration]int{
			http.StatusTooManyRequests: {0: maxCallbacksPer}, http.StatusServiceUnavailable: {10 * time.Second: maxCallbacksPer},
		}
		if diff := cmp.Diff(want, answered); diff != "" {
			t.Error(diff)
		}
		if s.waits(tsh) {
			t.Error("the terminal waits on")
		}
		if n := len(s.sso.callbacks); n != 0 {
			t.Errorf("%d places are lost", n)
		}
	})
}

func page2(w *httptest.ResponseRecorder) page { return page{status: w.Code, body: w.Body.String()} }

// What all connectors together may hold is bounded too.
func TestSSOCallbacksOfAllConnectorsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSSOSite(t)
		s.idp.let = make(chan struct{})
		var wg sync.WaitGroup
		var waiting, refused atomic.Int32
		for i := range 2 * maxCallbacksPer {
			cookies, callback := s.begin([]string{"dex", "plain"}[i%2], "", "anna:admins")
			wg.Go(func() {
				if w := s.open(t.Context(), cookies, callback, nil); w.Code == http.StatusTooManyRequests {
					refused.Add(1)
				} else {
					waiting.Add(1)
				}
			})
			synctest.Wait()
		}
		close(s.idp.let)
		wg.Wait()
		if waiting.Load() != maxCallbacks || refused.Load() != 2*maxCallbacksPer-maxCallbacks {
			t.Errorf("%d waited, %d were refused", waiting.Load(), refused.Load())
		}
	})
}

// Without a leader nobody shows the provider a code, which is good for one use: the
// browser brings it again.
func TestSSOAnswersWaitForALeader(t *testing.T) {
	for name, code := range map[string]string{"who is let in": "anna:admins", "who is not": "bert:guests"} {
		t.Run(name, func(t *testing.T) {
			s := newSSOSite(t)
			tsh := s.terminal("dex")
			cookies, callback := s.begin("dex", "/web/cli/"+tsh, code)
			s.store.down = true
			w := s.open(t.Context(), cookies, callback, nil)
			if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), `<a class="button" href="">Try again</a>`) || strings.Contains(w.Body.String(), "No answer from") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			cookies.keep(w)
			if !s.waits(tsh) || len(cookies) != 1 || slices.Contains(s.idp.calls(), "finish dex") {
				t.Errorf("%v, %q", cookies, s.idp.calls())
			}
			s.store.down = false
			w = s.open(t.Context(), cookies, callback, nil)
			if w.Code != map[bool]int{true: 303, false: 403}[code == "anna:admins"] || s.waits(tsh) != (code == "anna:admins") {
				t.Errorf("%d, the terminal waits: %v", w.Code, s.waits(tsh))
			}
		})
	}
}

// A leader that is lost in the very moment is no refusal either.
func TestSSOLoginsWithoutALeaderAreNotOver(t *testing.T) {
	s := newSSOSite(t)
	tsh := s.terminal("dex")
	cookies, callback := s.begin("dex", "/web/cli/"+tsh, "anna:admins")
	s.f.DB.Fail(api.Errorf(api.CodeUnavailable, "the cluster has no leader at the moment"))
	w := s.open(t.Context(), cookies, callback, nil)
	s.f.DB.Fail(nil)
	if cookies.keep(w); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "Not just now") || len(cookies) != 1 || !s.waits(tsh) {
		t.Errorf("%d %v %s", w.Code, cookies, w.Body)
	}
}

// Who might log in in another way is not stopped by one that failed.
func TestSSOFailuresEndLoginsOfTheirConnectorAlone(t *testing.T) {
	for _, connector := range []string{"", "dex"} {
		s := newSSOSite(t)
		tsh := s.terminal(connector)
		cookies, callback := s.begin("dex", "/web/cli/"+tsh, "anna:guests")
		w := s.open(t.Context(), cookies, callback, nil)
		over := connector == "dex"
		if w.Code != http.StatusForbidden || s.waits(tsh) == over || strings.Contains(w.Body.String(), "has been told") != over || strings.Contains(w.Body.String(), "Log in another way") == over {
			t.Errorf("--auth=%s: %d %s", connector, w.Code, w.Body)
		}
		s = newSSOSite(t)
		s.idp.setDown(api.Errorf(api.CodeUnavailable, "idp.example.com: connection refused"))
		tsh = s.terminal(connector)
		w = s.open(t.Context(), nil, "/webapi/oidc/login/web?connector_id=dex&next=/web/cli/"+tsh, nil)
		if w.Code != http.StatusServiceUnavailable || s.waits(tsh) == over || strings.Contains(w.Body.String(), "has been told") != over {
			t.Errorf("--auth=%s, down: %d %s", connector, w.Code, w.Body)
		}
	}
}

// threats.md, OAuth: mix-up of two connectors (RFC 9700, section 4.4).
func TestSSOAnswersComeToTheirConnectorsCallback(t *testing.T) {
	for path, connectors := range map[string][]string{
		api.PathOIDCCallback: {"plain"}, api.PathOIDCCallback + "/dex": {"dex"}, api.PathOIDCCallback + "/plain": nil, api.PathOIDCCallback + "/nobody": nil,
		api.PathOIDCCallback + "/DEX": nil, api.PathGithubCallback: nil, api.PathGithubCallback + "/dex": nil,
	} {
		for _, connector := range []string{"dex", "plain"} {
			for _, version := range []string{"", "/v1"} {
				s := newSSOSite(t)
				cookies, callback := s.begin(connector, "", "anna:admins")
				_, query, _ := strings.Cut(callback, "?")
				w := s.open(t.Context(), cookies, version+path+"?"+query, nil)
				if slices.Contains(connectors, connector) != (w.Code == http.StatusSeeOther) {
					t.Errorf("%s at %s%s: %d", connector, version, path, w.Code)
				}
				if w.Code != http.StatusSeeOther && (w.Code != http.StatusUnauthorized || slices.Contains(s.idp.calls(), "finish "+connector)) {
					t.Errorf("%s at %s%s: %d, asked %q", connector, version, path, w.Code, s.idp.calls())
				}
			}
		}
	}
}
