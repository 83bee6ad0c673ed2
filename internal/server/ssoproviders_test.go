package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/sso"
)

// anIDP is a provider that does as it is told.
type anIDP struct {
	name  string
	check func(context.Context) error
	asked int
}

func (p *anIDP) Check(ctx context.Context) error {
	p.asked++
	return p.check(ctx)
}
func (p *anIDP) Start(context.Context, *sso.Flow) (string, error) { return theIDP, nil }
func (p *anIDP) Finish(context.Context, *sso.Flow, url.Values) (*api.SSOIdentity, error) {
	return nil, errors.New("not asked for")
}

// kindsOf makes what a test gives it.
type kindsOf func(api.Connector) (sso.Provider, error)

func (k kindsOf) New(doc api.Connector, _ api.ConnectorFacts) (sso.Provider, error) { return k(doc) }
func (k kindsOf) Probe(context.Context, api.Connector) (api.ConnectorFacts, []string, error) {
	return api.ConnectorFacts{}, nil, nil
}

func anOIDC(name string, revision uint64) *auth.OpenConnector {
	return &auth.OpenConnector{
		Doc:      &api.OIDCConnector{Header: api.Header{Kind: api.KindOIDC, Metadata: api.Metadata{Name: name}}},
		Revision: revision,
	}
}

func TestSSOProvidersAreMadeOnceForEachRevision(t *testing.T) {
	var (
		made     int
		revision uint64 = 1
		broken   error
		gone     error
	)
	p := &ssoProviders{
		kinds: kindsOf(func(doc api.Connector) (sso.Provider, error) {
			made++
			return &anIDP{name: doc.Head().Metadata.Name}, broken
		}),
		open: func(name string) (*auth.OpenConnector, error) { return anOIDC(name, revision), gone },
	}
	get := func() *ssoProvider {
		t.Helper()
		got, err := p.get("dex")
		if (err == nil) != (broken == nil && gone == nil) {
			t.Fatal(err)
		}
		return got
	}
	first := get()
	if get() != first || made != 1 {
		t.Errorf("made %d times", made)
	}
	revision = 2
	if second := get(); second == first || made != 2 {
		t.Error("a connector that has changed is used as it was")
	}
	revision, broken = 3, errors.New("no certificate")
	get()
	if len(p.all) != 0 {
		t.Error("what can't be made leaves what it was")
	}
	broken = nil
	get()
	gone = api.Errorf(api.CodeNotFound, "no such connector")
	get()
	if len(p.all) != 0 {
		t.Error("a connector that is gone leaves its provider")
	}
}

func preflightOf(kind string, idp *anIDP) *ssoProviders {
	var doc api.Connector = &api.OIDCConnector{Header: api.Header{Metadata: api.Metadata{Name: "dex"}}}
	if kind == api.KindSAML {
		doc = &api.SAMLConnector{Header: api.Header{Metadata: api.Metadata{Name: "dex"}}}
	}
	return &ssoProviders{
		public: "tele.example.com:443", clock: time.Now,
		kinds: kindsOf(func(api.Connector) (sso.Provider, error) { return idp, nil }),
		open:  func(string) (*auth.OpenConnector, error) { return &auth.OpenConnector{Doc: doc, Revision: 1}, nil },
	}
}

// However a provider hangs, who logs in knows within the 10 s of the promise, many ask
// as one, and the next question waits for some seconds.
func TestPreflightOfAProviderThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idp := &anIDP{check: func(ctx context.Context) error {
			<-ctx.Done()
			return api.Errorf(api.CodeUnavailable, "idp.example.com: it did not answer in time")
		}}
		s := preflightOf(api.KindOIDC, idp)
		began := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := s.preflight(t.Context(), "dex")
				if !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "--auth=local --user=NAME") || time.Since(began) > checkFor {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			})
		}
		wg.Wait()
		if idp.asked != 1 {
			t.Errorf("asked %d times at once", idp.asked)
		}
		if _, err := s.preflight(t.Context(), "dex"); err == nil || time.Since(began) > checkFor || idp.asked != 1 {
			t.Errorf("what was found out is not kept: %v, asked %d times", err, idp.asked)
		}
		time.Sleep(checkKept) // the bubble's clock, not the world's
		idp.check = func(context.Context) error { return nil }
		if warning, err := s.preflight(t.Context(), "dex"); warning != "" || err != nil || idp.asked != 2 {
			t.Errorf("it is back: %q %v, asked %d times", warning, err, idp.asked)
		}
	})
}

func TestPreflightWhoGivesUpLeavesNoVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idp := &anIDP{check: func(ctx context.Context) error {
			<-ctx.Done()
			return api.Errorf(api.CodeUnavailable, "the asking was broken off")
		}}
		s := preflightOf(api.KindOIDC, idp)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := s.preflight(ctx, "dex"); err == nil {
			t.Error("an answer all the same")
		}
		idp.check = func(context.Context) error { return nil }
		if _, err := s.preflight(t.Context(), "dex"); err != nil {
			t.Errorf("%v", err)
		}
	})
}

// The browser may reach a SAML identity provider that we do not.
func TestPreflightOfSAMLWarns(t *testing.T) {
	idp := &anIDP{check: func(context.Context) error {
		return api.Errorf(api.CodeUnavailable, "idp.example.com: connection refused")
	}}
	warning, err := preflightOf(api.KindSAML, idp).preflight(t.Context(), "dex")
	if err != nil || !strings.Contains(warning, "connection refused") {
		t.Errorf("%q %v", warning, err)
	}
}

// What is no silence of the provider is said as it is: nobody waits it out.
func TestPreflightSaysWhatIsWrong(t *testing.T) {
	for _, kind := range []string{api.KindOIDC, api.KindSAML} {
		for _, problem := range []error{
			api.Errorf(api.CodeForbidden, "this identity provider can't be used: it speaks for another issuer"), api.Errorf(api.CodeUnauthenticated, "x"), errors.New("y"),
		} {
			idp := &anIDP{check: func(context.Context) error { return problem }}
			if warning, err := preflightOf(kind, idp).preflight(t.Context(), "dex"); warning != "" || !errors.Is(err, problem) || strings.Contains(err.Error(), "does not answer") {
				t.Errorf("%s: %q %v", kind, warning, err)
			}
		}
	}
}

// Every kind of connector that can be saved is one that we speak, and nobody is asked
// anything before somebody logs in.
func TestSSORealProvidersOfAllKinds(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	kinds := newRealKinds(time.Now, slog.New(slog.DiscardHandler))
	kinds.o.HTTP = sso.NewClient(nobody{t})
	head := func(kind string) api.Header { return api.Header{Kind: kind, Metadata: api.Metadata{Name: "x"}} }
	docs := map[string]api.Connector{
		api.KindGithub: &api.GithubConnector{Header: head(api.KindGithub), Spec: api.GithubSpec{ClientID: "id", ClientSecret: "secret"}},
		api.KindOIDC: &api.OIDCConnector{Header: head(api.KindOIDC), Spec: api.OIDCSpec{
			IssuerURL: "https://idp.example.com", ClientID: "id", ClientSecret: "secret", RedirectURL: api.Values{"https://tele.example.com/v1" + api.PathOIDCCallback},
		}},
		api.KindSAML: &api.SAMLConnector{Header: head(api.KindSAML), Spec: api.SAMLSpec{
			Issuer: "https://idp.example.com", SSO: theIDP, Cert: string(pemOf(srv.Certificate().Raw)),
		}},
	}
	for _, kind := range api.ConnectorKinds() {
		p, err := kinds.New(docs[kind], api.ConnectorFacts{})
		if err != nil || p == nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := kinds.New(laterKind{}, api.ConnectorFacts{}); !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("%v", err)
	}
}

// laterKind is a connector of a kind that this version does not know.
type laterKind struct{ api.Connector }

func (laterKind) ConnectorKind() string { return "ldap" }

// nobody answers no request.
type nobody struct{ t *testing.T }

func (n nobody) RoundTrip(r *http.Request) (*http.Response, error) {
	n.t.Errorf("%s is asked", r.URL.Host)
	return nil, errors.New("nobody is there")
}
