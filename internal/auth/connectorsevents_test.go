package auth_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// What an administrator of one connector could do unseen: believe somebody else, or
// give more.
func TestEventsSayWhatOfAConnectorChanged(t *testing.T) {
	f := authtest.New(t)
	for i := range 60 {
		f.PutRole(t, fmt.Sprintf("r%02d", i), api.RoleSpec{})
	}
	doc := oidcDoc("dex")
	putConnector(t, f, doc, false)
	fields := func() map[string]any {
		t.Helper()
		e := lastEvent(f)
		raw, err := json.Marshal(e.Fields)
		if err != nil || strings.Contains(string(raw), clientSecret) || strings.Contains(string(raw), "evil") {
			t.Errorf("%v %s", err, raw)
		}
		var out map[string]any
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := func(want map[string]any) {
		t.Helper()
		if d := cmp.Diff(want, fields()); d != "" {
			t.Error(d)
		}
	}
	want(map[string]any{"name": "dex", "roles": []any{"access", "admin"}})
	doc.Spec.IssuerURL, doc.Spec.ClientSecret = "https://evil.example.com", clientSecret+"2"
	doc.Metadata.Description = "x"
	putConnector(t, f, doc, true)
	want(map[string]any{"name": "dex", "changed": []any{"metadata", "spec.client_secret", "spec.issuer_url"}})
	doc.Spec.ClaimsToRoles[0].Roles = []string{"admin", "r01"}
	putConnector(t, f, doc, true)
	want(map[string]any{"name": "dex", "changed": []any{"spec.claims_to_roles"}, "roles_added": []any{"r01"}, "roles_removed": []any{"access"}})
	doc.Spec.ClaimsToRoles[0].Roles = nil
	for i := range 60 {
		doc.Spec.ClaimsToRoles[0].Roles = append(doc.Spec.ClaimsToRoles[0].Roles, fmt.Sprintf("r%02d", i))
	}
	putConnector(t, f, doc, true)
	if added := fields()["roles_added"].([]any); len(added) != 51 || added[50] != "and 9 more" {
		t.Error(added)
	}
}

func TestEventsSayThatMetadataChanged(t *testing.T) {
	metadata, ids := "<a/>", map[string]int64(nil)
	f := authtest.New(t, probing(func(api.Connector) (api.ConnectorFacts, error) {
		return api.ConnectorFacts{EntityDescriptor: metadata, Organizations: ids}, nil
	}))
	saml := samlDoc("okta")
	saml.Spec.EntityDescriptor, saml.Spec.EntityDescriptorURL = "", "https://idp.example.com/metadata"
	putConnector(t, f, saml, false)
	metadata = "<b/>"
	putConnector(t, f, saml, true)
	if d := cmp.Diff([]any{"metadata of the identity provider"}, lastEvent(f).Fields["changed"]); d != "" {
		t.Error(d)
	}
	putConnector(t, f, githubDoc("github"), false)
	ids = map[string]int64{"octocats": 1}
	putConnector(t, f, githubDoc("github"), true)
	if d := cmp.Diff([]any{"ids of organizations"}, lastEvent(f).Fields["changed"]); d != "" {
		t.Error(d)
	}
}

// Who asks for secrets is written down before they are given out, once for an answer.
func TestWhoSeesSecretsIsWrittenDown(t *testing.T) {
	f := authtest.New(t)
	putConnector(t, f, oidcDoc("dex"), false)
	putConnector(t, f, oidcDoc("op"), false)
	events := len(f.DB.Events())
	for range 2 {
		if _, err := f.Connectors.List(api.KindOIDC); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Connectors.Get(api.KindOIDC, "dex"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Connectors.ListSecrets(t.Context(), authtest.Admin(), api.KindSAML); err != nil {
			t.Fatal(err)
		}
		_, err := f.Connectors.GetSecrets(t.Context(), authtest.Admin(), api.KindOIDC, "nosuch")
		wantCode(t, "none", err, api.CodeNotFound, "")
	}
	if n := len(f.DB.Events()) - events; n != 0 {
		t.Error(n, "events of what shows no secret")
	}
	docs, err := f.Connectors.ListSecrets(t.Context(), authtest.Admin(), api.KindOIDC)
	if err != nil || len(docs) != 2 || !strings.Contains(string(docs[1]), clientSecret) {
		t.Errorf("%v %s", err, docs)
	}
	e := lastEvent(f)
	if d := cmp.Diff(map[string]any{"method": "oidc", "connectors": []any{"dex", "op"}}, e.Fields); d != "" || e.Event != api.EventConnectorSecrets || e.Code != "TSP21I" || e.User != authtest.Admin().User {
		t.Errorf("%+v %s", e, d)
	}
	if _, err := f.Connectors.GetSecrets(t.Context(), authtest.Admin(), api.KindOIDC, "op"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]any{"op"}, lastEvent(f).Fields["connectors"]); d != "" || len(f.DB.Events()) != events+2 {
		t.Error(d)
	}
}

// RFC 9700, section 4.4: answers of one identity provider taken for those of another.
func TestConnectorsThatShareACallbackAreWarnedOf(t *testing.T) {
	f := authtest.New(t)
	plain := func(name, issuer string) *api.OIDCConnector {
		doc := oidcDoc(name)
		doc.Spec.IssuerURL, doc.Spec.RedirectURL = issuer, api.Values{"https://tele.example.com/v1/webapi/oidc/callback"}
		return doc
	}
	wantNone := func(what string, doc api.Connector, force bool) {
		t.Helper()
		if resp := putConnector(t, f, doc, force); resp.Warnings != nil {
			t.Errorf("%s: %q", what, resp.Warnings)
		}
	}
	wantNone("the first one", plain("a", "https://a.example.com"), false)
	wantNone("the first one again", plain("a", "https://a.example.com"), true)
	wantNone("one with a path of its own", oidcDoc("own"), false)
	wantNone("another client of the same issuer", plain("a2", "https://a.example.com"), false)
	second := plain("b", "https://b.example.com")
	second.Spec.RedirectURL = api.Values{"https://tele.example.com:443/webapi/oidc/callback"} // the same place
	resp := putConnector(t, f, second, false)
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], `connector "a" sends people back to the same address`) ||
		!strings.Contains(resp.Warnings[0], "spec.redirect_url: https://tele.example.com/v1/webapi/oidc/callback/b, ") {
		t.Errorf("%q", resp.Warnings)
	}
	begun, err := f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Document: mustJSON(t, second)})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SSOTests.Finish(t.Context(), begun.ID, api.SSOTestResult{Error: "x"}); err != nil {
		t.Fatal(err)
	}
	if r, err := f.SSOTests.Wait(t.Context(), authtest.Admin(), begun.ID); err != nil || len(r.Warnings) != 1 {
		t.Errorf("%v %+v", err, r)
	}
	second.Spec.RedirectURL = api.Values{"https://tele.example.com/v1/webapi/oidc/callback/b"}
	wantNone("moved to its own", second, true)
	wantNone("SAML", samlDoc("okta"), false)
	wantNone("SAML", samlDoc("okta2"), false)
	wantNone("GitHub", githubDoc("github"), false)
	wantNone("the same GitHub", githubDoc("github2"), false)
	server := githubDoc("server")
	server.Spec.EndpointURL, server.Spec.APIEndpointURL = "https://g.example.com", "https://g.example.com/api/v3"
	if resp := putConnector(t, f, server, false); len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "https://tele.example.com/v1/webapi/github/callback/server") {
		t.Errorf("another GitHub: %q", resp.Warnings)
	}
}

// A role that a connector begins to give at the same moment stays.
func TestARoleIsNotRemovedWhileAConnectorComesToGiveIt(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "dev", api.RoleSpec{})
	doc := oidcDoc("dex")
	doc.Spec.ClaimsToRoles[0].Roles = []string{"dev"}
	f.DB.BeforeCommit(func() { putConnector(t, f, doc, false) })
	wantCode(t, "in a race", f.Roles.Delete(t.Context(), authtest.Admin(), "dev"), api.CodeConflict, "given by connectors dex")
	if err := f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindOIDC, "dex"); err != nil {
		t.Fatal(err)
	}
	if err := f.Roles.Delete(t.Context(), authtest.Admin(), "dev"); err != nil {
		t.Error(err)
	}
}
