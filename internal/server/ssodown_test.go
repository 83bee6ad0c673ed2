package server

import (
	"context"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/sso"
)

// halfIDP knows where to send people, and answers as it is told otherwise.
type halfIDP struct {
	fakeKinds
	check, finish error
}

func (k *halfIDP) New(doc api.Connector, _ api.ConnectorFacts) (sso.Provider, error) {
	return &halfProvider{fakeProvider{&k.fakeKinds, doc}, k}, nil
}

type halfProvider struct {
	fakeProvider
	idp *halfIDP
}

func (p *halfProvider) Check(ctx context.Context) error {
	if err := p.fakeProvider.Check(ctx); err != nil {
		return err
	}
	return p.idp.check
}

func (p *halfProvider) Finish(ctx context.Context, f *sso.Flow, answer url.Values) (*api.SSOIdentity, error) {
	if p.idp.finish != nil {
		return nil, p.idp.finish
	}
	return p.fakeProvider.Finish(ctx, f, answer)
}

func newHalfSite(t *testing.T) (*ssoSite, *halfIDP) {
	t.Helper()
	s, idp := newSSOSite(t), &halfIDP{}
	s.sso.providers.kinds = idp
	return s, idp
}

// wantDown says that page, terminal and audit log say that the provider does not answer,
// and the first two what to do.
func (s *ssoSite) wantDown(tsh, page, reason string) {
	s.t.Helper()
	said := `the identity provider of connector "dex" does not answer (` + reason + `)`
	hint := "; log in as a local user meanwhile: tsh login --proxy=" + authtest.PublicAddr + " --auth=local --user=NAME"
	if !strings.Contains(html.UnescapeString(page), said+hint) {
		s.t.Errorf("the page: %s", page)
	}
	if _, err := s.f.Consoles.Get(s.t.Context(), tsh, auth.Actor{Addr: authtest.Client}); !api.IsCode(err, api.CodeConflict) || !strings.HasSuffix(err.Error(), said+hint) {
		s.t.Errorf("the terminal: %v", err)
	}
	events := s.f.DB.Events()
	if e := events[len(events)-1]; e.Code != api.EventCodeSSOLoginRefused || e.Fields["error"] != said {
		s.t.Errorf("the audit log: %+v", e)
	}
}

// A provider that goes away on the way is told of as one that is away at the start.
func TestSSOProviderThatGoesAwayIsToldOfEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, idp := newHalfSite(t)
		for _, reason := range []string{"127.0.0.1:20008: connection refused", "github.com answered 502 when the code was redeemed: try again later"} {
			time.Sleep(2 * time.Minute) // the bubble's: refusals are written once a minute
			idp.finish = api.Errorf(api.CodeUnavailable, "%s", reason)
			tsh := s.terminal("dex")
			cookies, callback := s.begin("dex", "/web/cli/"+tsh, "anna:admins")
			w := s.open(t.Context(), cookies, callback, nil)
			if w.Code != http.StatusServiceUnavailable {
				t.Errorf("%d", w.Code)
			}
			s.wantDown(tsh, w.Body.String(), reason)
		}
		// What a test of a connector is told is the bare fact.
		test, err := s.f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Name: "dex"})
		if err != nil {
			t.Fatal(err)
		}
		w := s.open(t.Context(), nil, "/web/sso/test/"+test.ID, nil)
		to, _ := url.Parse(w.Header().Get("Location"))
		cookies := jar{}
		cookies.keep(w)
		s.open(t.Context(), cookies, api.PathOIDCCallback+"/dex?"+url.Values{"state": {to.Query().Get("state")}, "code": {"x"}}.Encode(), nil)
		if got, err := s.f.SSOTests.Wait(t.Context(), authtest.Admin(), test.ID); err != nil || got.Error != idp.finish.Error() {
			t.Errorf("%+v %v", got, err)
		}
	})
}

// A provider whose address is known already is asked whether it answers, before anybody
// is sent there; for some seconds what it said counts.
func TestSSOSendsNobodyToAProviderThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, idp := newHalfSite(t)
		tsh := s.terminal("dex")
		const reason = "127.0.0.1:20008: it did not answer in time"
		idp.check = api.Errorf(api.CodeUnavailable, "%s", reason)
		start := func(connector, next string) (int, string) {
			w := s.open(t.Context(), nil, "/webapi/oidc/login/web?"+url.Values{"connector_id": {connector}, "next": {next}}.Encode(), nil)
			return w.Code, w.Body.String()
		}
		status, page := start("dex", "/web/cli/"+tsh)
		if status != http.StatusServiceUnavailable {
			t.Errorf("%d", status)
		}
		s.wantDown(tsh, page, reason)
		asked := len(idp.calls())
		if status, page = start("dex", "/web/account"); status != http.StatusServiceUnavailable || !strings.Contains(page, "/web/login?next=") || len(idp.calls()) != asked {
			t.Errorf("%d %s, asked %q", status, page, idp.calls()[asked:])
		}
		time.Sleep(checkKept)
		idp.check = nil
		if status, page = start("dex", ""); status != http.StatusSeeOther {
			t.Errorf("it is back: %d %s", status, page)
		}
		// The browser may reach what we do not.
		s.f.PutConnector(t, &api.SAMLConnector{Header: api.Header{Kind: api.KindSAML, Version: "v2", Metadata: api.Metadata{Name: "okta"}}, Spec: api.SAMLSpec{
			EntityDescriptor: "<EntityDescriptor/>", AttributesToRoles: []api.AttributeToRole{{Name: "groups", Value: "admins", Roles: []string{auth.RoleAccess}}},
		}})
		idp.check = api.Errorf(api.CodeUnavailable, "%s", reason)
		if w := s.open(t.Context(), nil, "/webapi/saml/login/web?connector_id=okta", nil); w.Code != http.StatusSeeOther {
			t.Errorf("SAML: %d %s", w.Code, w.Body)
		}
	})
}

// The link that a terminal shows may be opened after its connector was removed, and a
// page that was there before clicked.
func TestSSOTerminalLearnsThatItsConnectorIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newHalfSite(t)
		opened, clicked := s.terminal("dex"), s.terminal("dex")
		if err := s.f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindOIDC, "dex"); err != nil {
			t.Fatal(err)
		}
		if w := s.open(t.Context(), nil, "/web/cli/"+opened, nil); w.Code != http.StatusConflict || !strings.Contains(html.UnescapeString(w.Body.String()), `connector "dex" was removed`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w := s.open(t.Context(), nil, "/webapi/oidc/login/web?connector_id=dex&next=/web/cli/"+clicked, nil); w.Code != http.StatusNotFound {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		for _, id := range []string{opened, clicked} {
			if rec, ok := s.f.DB.View().Get("consoles/" + id); !ok || !strings.Contains(string(rec.Value), "was removed") {
				t.Errorf("%+v", rec)
			}
		}
	})
}
