package server

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/sso"
)

// Who loads one page again and again while a provider hangs holds one place: the others
// wait for the same answer, and hold none.
func TestSSOReloadsOfOneAnswerHoldOnePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSSOSite(t)
		s.idp.let = make(chan struct{})
		cookies, callback := s.begin("dex", "", "anna:admins")
		var wg sync.WaitGroup
		for range maxCallbacks {
			wg.Go(func() {
				if w := s.open(t.Context(), cookies, callback, nil); w.Code != http.StatusSeeOther {
					t.Errorf("a reload: %d", w.Code)
				}
			})
			synctest.Wait()
		}
		if n := len(s.sso.callbacks); n != 1 {
			t.Errorf("%d places are held", n)
		}
		others, back := s.begin("plain", "", "bert:admins")
		wg.Go(func() {
			if w := s.open(t.Context(), others, back, nil); w.Code != http.StatusSeeOther {
				t.Errorf("another connector: %d %s", w.Code, w.Body)
			}
		})
		synctest.Wait()
		close(s.idp.let)
		wg.Wait()
		if n := len(s.idp.asked); n != 2 {
			t.Errorf("the providers were asked %d times", n)
		}
		if n := len(s.sso.callbacks); n != 0 {
			t.Errorf("%d places are lost", n)
		}
	})
}

// However often there was no leader, the flow is as good as before.
func TestSSOTriesWithoutALeaderCostNothing(t *testing.T) {
	s := newSSOSite(t)
	tsh := s.terminal("dex")
	cookies, callback := s.begin("dex", "/web/cli/"+tsh, "anna:admins")
	s.store.down = true
	for range 6 {
		w := s.open(t.Context(), cookies, callback, nil)
		if cookies.keep(w); w.Code != http.StatusServiceUnavailable {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	s.store.down = false
	if w := s.open(t.Context(), cookies, callback, nil); w.Code != http.StatusSeeOther || !s.waits(tsh) {
		t.Errorf("%d %s, the terminal waits: %v", w.Code, w.Body, s.waits(tsh))
	}
}

// Who waits for somebody else's question asks with a time of their own, and what a part
// of it says is not kept.
func TestPreflightOfAProviderThatIsSlowIsNoVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idp := &anIDP{check: func(ctx context.Context) error {
			select {
			case <-time.After(3 * time.Second):
				return nil
			case <-ctx.Done():
				return api.Errorf(api.CodeUnavailable, "idp.example.com: %s", sso.Reason(ctx.Err()))
			}
		}}
		s := preflightOf(api.KindOIDC, idp)
		var wg sync.WaitGroup
		for i, bound := range []func() (context.Context, context.CancelFunc){
			func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), 2900*time.Millisecond)
			},
			func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) },
		} {
			ctx, cancel := bound()
			wg.Go(func() {
				defer cancel()
				if _, err := s.preflight(ctx, "dex"); (err == nil) != (i == 1) {
					t.Errorf("%d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if _, err := s.preflight(t.Context(), "dex"); err != nil || idp.asked != 2 {
			t.Errorf("later: %v, asked %d times", err, idp.asked)
		}
	})
}

// A test whose result can't be written is over for the browser: a code is shown once.
func TestSSOTestThatIsNotWrittenIsNotRepeated(t *testing.T) {
	s := newSSOSite(t)
	test, err := s.f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Name: "dex"})
	if err != nil {
		t.Fatal(err)
	}
	w := s.open(t.Context(), nil, "/web/sso/test/"+test.ID, nil)
	to, _ := url.Parse(w.Header().Get("Location"))
	cookies := jar{}
	cookies.keep(w)
	s.f.DB.Fail(api.Errorf(api.CodeUnavailable, "the cluster has no leader at the moment"))
	w = s.open(t.Context(), cookies, api.PathOIDCCallback+"/dex?"+url.Values{"state": {to.Query().Get("state")}, "code": {"anna:admins"}}.Encode(), nil)
	s.f.DB.Fail(nil)
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), `href="">Try again`) || strings.Contains(w.Body.String(), "tctl says the same") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A connector that can't be used ends the login of the terminal, at once.
func TestSSOTerminalLearnsThatItsConnectorCannotBeUsed(t *testing.T) {
	s := newSSOSite(t)
	tsh := s.terminal("dex")
	s.sso.providers.open = func(string) (*auth.OpenConnector, error) {
		return nil, api.Errorf(api.CodeForbidden, `connector "dex" holds what this version can't enforce, so nobody logs in by it`)
	}
	w := s.open(t.Context(), nil, "/webapi/oidc/login/web?connector_id=dex&next=/web/cli/"+tsh, nil)
	if w.Code != http.StatusForbidden || s.waits(tsh) || !strings.Contains(w.Body.String(), "has been told") {
		t.Errorf("%d %s, the terminal waits: %v", w.Code, w.Body, s.waits(tsh))
	}
}

// Answers for a connector that is gone are limited as all are.
func TestSSOAnswersForAConnectorThatIsGoneAreLimited(t *testing.T) {
	s := newSSOSite(t)
	cookies, callback := s.begin("dex", "", "anna:admins")
	if err := s.f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindOIDC, "dex"); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		w := s.open(t.Context(), cookies, callback, nil)
		if tried := strings.Contains(w.Body.String(), "tried 5 times"); tried != (i == 5) {
			t.Errorf("answer %d: %d %s", i+1, w.Code, w.Body)
		}
	}
}

// slowStore is one that answers as late as it may, or not at all.
type slowStore struct{ auth.DB }

func (d slowStore) Linearize(ctx context.Context) error {
	select {
	case <-time.After(leaderFor - time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Who stops a replica waits for its callbacks: the slowest is over by then, and the
// provider has had all of its time.
func TestSSOCallbacksEndBeforeTheReplicaDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSSOSite(t)
		s.idp.let = make(chan struct{}) // never
		s.sso.db = slowStore{s.store}
		cookies, callback := s.begin("dex", "", "anna:admins")
		began := time.Now()
		w := s.open(t.Context(), cookies, callback, nil)
		if took := time.Since(began); w.Code != http.StatusServiceUnavailable || took != leaderFor-time.Second+finishFor {
			t.Errorf("%d after %s", w.Code, took)
		}
	})
	if most := callbackFor + failFor; most > drainFor || leaderFor+finishFor > callbackFor {
		t.Errorf("a callback may take %s, of %s", most, drainFor)
	}
}

// Who approved a login in another window meanwhile is not told that it is over.
func TestSSOFailuresEndNoLoginThatWasApproved(t *testing.T) {
	s := newSSOSite(t)
	tsh := s.terminal("dex")
	good, callback := s.begin("dex", "/web/cli/"+tsh, "anna:admins")
	late, refused := s.begin("dex", "/web/cli/"+tsh, "bert:guests")
	w := s.open(t.Context(), good, callback, nil)
	good.keep(w)
	w = s.open(t.Context(), good, "/web/cli/"+tsh, nil)
	good.keep(w)
	if w = s.open(t.Context(), good, "/web/cli/"+tsh, page2(w).fill(url.Values{"answer": {"approve"}})); s.waits(tsh) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	w = s.open(t.Context(), late, refused, nil)
	if w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "waits no more") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
