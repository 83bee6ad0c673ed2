package auth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

const (
	connectorCert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	connectorKey  = "-----BEGIN PRIVATE KEY-----\nZ2VoZWltZXIgU2NobMO8c3NlbA==\n-----END PRIVATE KEY-----\n"
	madeKey       = "-----BEGIN PRIVATE KEY-----\nYXVjaCBnZWhlaW0=\n-----END PRIVATE KEY-----\n"
	clientSecret  = "correct-horse-client-secret"
)

func connectorHead(kind, name string) api.Header {
	h := api.Header{Kind: kind, Version: "v3", Metadata: api.Metadata{Name: name}}
	if kind == api.KindSAML {
		h.Version = "v2"
	}
	return h
}

func githubDoc(name string) *api.GithubConnector {
	return &api.GithubConnector{Header: connectorHead(api.KindGithub, name), Spec: api.GithubSpec{
		ClientID: "id", ClientSecret: clientSecret, Display: "GitHub",
		TeamsToLogins: []api.TeamToLogins{{Organization: "Octocats", Team: "admin", KubernetesGroups: []string{"system:masters"}}},
		TeamsToRoles:  []api.TeamToRoles{{Organization: "octocats", Team: "devs", Roles: []string{"access"}}},
	}}
}

func oidcDoc(name string) *api.OIDCConnector {
	return &api.OIDCConnector{Header: connectorHead(api.KindOIDC, name), Spec: api.OIDCSpec{
		IssuerURL: "https://idp.example.com", ClientID: "id", ClientSecret: clientSecret,
		ClaimsToRoles: []api.ClaimToRole{{Claim: "groups", Value: "admins", Roles: []string{"access", "admin"}}},
	}}
}

func samlDoc(name string) *api.SAMLConnector {
	return &api.SAMLConnector{Header: connectorHead(api.KindSAML, name), Spec: api.SAMLSpec{
		EntityDescriptor: "<EntityDescriptor/>", AttributesToRoles: []api.AttributeToRole{{Name: "groups", Value: "admins", Roles: []string{"admin"}}},
		AssertionKeyPair: &api.KeyPair{Cert: connectorCert, PrivateKey: connectorKey},
	}}
}

func probing(probe func(api.Connector) (api.ConnectorFacts, error), warnings ...string) func(*auth.Options) {
	return func(o *auth.Options) {
		o.Probe = func(_ context.Context, c api.Connector) (api.ConnectorFacts, []string, error) {
			facts, err := probe(c)
			return facts, warnings, err
		}
	}
}

func putConnector(t *testing.T, f *authtest.Fixture, doc api.Connector, force bool) api.PutResponse {
	t.Helper()
	resp, err := f.Connectors.Put(t.Context(), authtest.Admin(), doc, force)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func wantField(t *testing.T, what string, err error, path, text string) {
	t.Helper()
	field, ok := errors.AsType[*api.FieldError](err)
	if !ok || field.Path != path || !strings.Contains(err.Error(), text) || !api.IsCode(err, api.CodeInvalid) {
		t.Errorf("%s: %v, want %s: …%s…", what, err, path, text)
	}
}

func TestConnectorsAreWrittenShownAndRemoved(t *testing.T) {
	f := authtest.New(t)
	events := len(f.DB.Events())
	first := putConnector(t, f, githubDoc("github"), false)
	if d := cmp.Diff(api.PutResponse{Kind: "github", Name: "github", Created: true, Revision: first.Revision}, first); d != "" || first.Revision == 0 {
		t.Error(d)
	}
	_, err := f.Connectors.Put(t.Context(), authtest.Admin(), githubDoc("github"), false)
	wantCode(t, "without force", err, api.CodeExists, "--force")
	if again := putConnector(t, f, githubDoc("github"), true); !again.Unchanged || again.Created || again.Revision != first.Revision {
		t.Errorf("%+v", again)
	}
	changed := githubDoc("github")
	changed.Metadata.Revision, changed.Spec.Display = first.Revision, "Octocats"
	second := putConnector(t, f, changed, true)
	if second.Created || second.Unchanged || second.Revision <= first.Revision {
		t.Errorf("%+v", second)
	}
	_, err = f.Connectors.Put(t.Context(), authtest.Admin(), changed, true)
	wantCode(t, "an old revision", err, api.CodeConflict, "changed since you read it")

	raw, err := f.Connectors.Get("github", "github")
	shown := githubDoc("github")
	shown.Metadata.Revision, shown.Spec.Display, shown.Spec.ClientSecret = second.Revision, "Octocats", ""
	if want, _ := json.Marshal(shown); err != nil || string(raw) != string(want) {
		t.Errorf("%v %s", err, raw)
	}
	shown.Spec.ClientSecret = clientSecret
	if raw, err = f.Connectors.GetSecrets(t.Context(), authtest.Admin(), "github", "github"); err != nil {
		t.Fatal(err)
	}
	if want, _ := json.Marshal(shown); string(raw) != string(want) {
		t.Errorf("%s", raw)
	}
	putConnector(t, f, oidcDoc("dex"), false)
	if list, err := f.Connectors.List("github"); err != nil || len(list) != 1 || strings.Contains(string(list[0]), clientSecret) {
		t.Errorf("%v %s", err, list)
	}
	want := []api.PingConnector{{Kind: "oidc", Name: "dex", Display: "dex"}, {Kind: "github", Name: "github", Display: "Octocats"}}
	if d := cmp.Diff(want, f.Connectors.Public()); d != "" {
		t.Error(d)
	}
	_, err = f.Connectors.Get("saml", "github")
	wantCode(t, "another kind", err, api.CodeNotFound, "of kind github")
	wantCode(t, "another kind", f.Connectors.Delete(t.Context(), authtest.Admin(), "saml", "github"), api.CodeNotFound, "of kind github")
	if err := f.Connectors.Delete(t.Context(), authtest.Admin(), "github", "github"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "twice", f.Connectors.Delete(t.Context(), authtest.Admin(), "github", "github"), api.CodeNotFound, "not found")
	_, err = f.Connectors.Open("github")
	wantCode(t, "open", err, api.CodeNotFound, `there is no connector "github": one can log in by local, dex`)

	var got []string
	for _, e := range f.DB.Events()[events:] {
		got = append(got, fmt.Sprintf("%s %s %s %v %d", e.Event, e.Code, e.User, e.Fields["name"], len(e.Fields)))
	}
	if d := cmp.Diff([]string{
		"github.created T8000I system:tctl github 2", "github.updated T8002I system:tctl github 2", "connector.secrets_read TSP21I system:tctl <nil> 2", "oidc.created T8100I system:tctl dex 2", "github.deleted T8001I system:tctl github 1",
	}, got); d != "" {
		t.Error(d)
	}
}

func TestAnOpenConnectorHasAllThatALoginNeeds(t *testing.T) {
	f := authtest.New(t, probing(func(c api.Connector) (api.ConnectorFacts, error) {
		if c.ConnectorKind() != api.KindSAML {
			return api.ConnectorFacts{}, nil
		}
		return api.ConnectorFacts{SigningKeyPair: &api.KeyPair{Cert: connectorCert, PrivateKey: madeKey}}, nil
	}))
	github, saml := githubDoc("github"), samlDoc("okta")
	putConnector(t, f, github, false)
	revision := putConnector(t, f, saml, false).Revision
	open, err := f.Connectors.Open("okta")
	if err != nil {
		t.Fatal(err)
	}
	const acs = "https://tele.example.com/v1/webapi/saml/acs"
	saml.Spec.ACS, saml.Spec.Audience, saml.Spec.ServiceProviderIssuer = acs, acs, acs
	rec, _ := f.DB.View().Get("connectors/okta")
	want := &auth.OpenConnector{
		Doc: saml, Facts: api.ConnectorFacts{SigningKeyPair: &api.KeyPair{Cert: connectorCert, PrivateKey: madeKey}}, Revision: revision, Created: rec.Created,
	}
	if d := cmp.Diff(want, open); d != "" {
		t.Error(d)
	}
	if open, err = f.Connectors.Open("github"); err != nil || open.Doc.(*api.GithubConnector).Spec.RedirectURL != "https://tele.example.com/v1/webapi/github/callback" {
		t.Errorf("%v %+v", err, open)
	}
	if *open.Doc.Secrets()["spec.client_secret"] != clientSecret {
		t.Error("no secret")
	}
	putConnector(t, f, oidcDoc("dex"), false)
	if open, err = f.Connectors.Open("dex"); err != nil || open.Doc.(*api.OIDCConnector).Spec.RedirectURL[0] != "https://tele.example.com/v1/webapi/oidc/callback/dex" ||
		cmp.Diff([]string{"email", "profile"}, open.Doc.(*api.OIDCConnector).Spec.Scope) != "" {
		t.Errorf("%v %+v", err, open)
	}
}

// Rows "secrets at rest" and CVE-2026-28323 of the threats: no secret in the store or
// the audit log.
func TestSecretsOfConnectorsAreSealedAtRest(t *testing.T) {
	f := authtest.New(t, probing(func(c api.Connector) (api.ConnectorFacts, error) {
		return api.ConnectorFacts{SigningKeyPair: &api.KeyPair{Cert: connectorCert, PrivateKey: madeKey}}, nil
	}, "careful"))
	for _, doc := range []api.Connector{githubDoc("github"), oidcDoc("dex"), samlDoc("okta")} {
		if resp := putConnector(t, f, doc, false); cmp.Diff([]string{"careful"}, resp.Warnings) != "" {
			t.Errorf("%+v", resp)
		}
		raw, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Document: raw}); err != nil {
			t.Fatal(err)
		}
	}
	events, err := json.Marshal(f.DB.Events())
	if err != nil {
		t.Fatal(err)
	}
	all := append(f.DB.Snapshot(t), events...)
	for _, secret := range []string{clientSecret, "Z2VoZWltZXIgU2NobM", "YXVjaCBnZWhlaW0", "PRIVATE KEY"} {
		if bytes.Contains(all, []byte(secret)) {
			t.Errorf("%s is there to be read", secret)
		}
	}
	for _, kind := range api.ConnectorKinds() {
		list, err := f.Connectors.List(kind)
		if err != nil || len(list) != 1 || bytes.Contains(list[0], []byte(clientSecret)) || bytes.Contains(list[0], []byte("PRIVATE")) {
			t.Errorf("%v %s", err, list)
		}
	}
}

func TestCallbacksLeadBackToThePublicAddress(t *testing.T) {
	f := authtest.New(t)
	for i, url := range []string{
		"https://tele.example.com/v1/webapi/github/callback", "https://tele.example.com:443/v1/webapi/github/callback", "https://tele.example.com/webapi/github/callback",
		"https://TELE.example.com:443/webapi/github/callback", "https://tele.example.com/v1/webapi/github/callback/g4",
	} {
		doc := githubDoc(fmt.Sprint("g", i))
		doc.Spec.RedirectURL = url
		putConnector(t, f, doc, false)
		if open, err := f.Connectors.Open(doc.Metadata.Name); err != nil || open.Doc.(*api.GithubConnector).Spec.RedirectURL != url {
			t.Errorf("%v %+v: what was written is what the identity provider knows", err, open)
		}
	}
	for _, url := range []string{
		"https://tele.example.com.evil.example/v1/webapi/github/callback", "https://tele.example.com:8443/v1/webapi/github/callback", "https://tele.example.com/v1/webapi/github/callback/",
		"https://tele.example.com/v1/webapi/oidc/callback", "https://tele.example.com/v2/webapi/github/callback", "https://tele.example.com/v1/webapi/../webapi/github/callback",
		"https://tele.example.com/v1/webapi/github/callback/another",
	} {
		doc := githubDoc("other")
		doc.Spec.RedirectURL = url
		_, err := f.Connectors.Put(t.Context(), authtest.Admin(), doc, false)
		wantField(t, url, err, "spec.redirect_url", "write https://tele.example.com/v1/webapi/github/callback")
	}
	saml := samlDoc("okta")
	saml.Spec.ACS = "https://tele.example.com/v1/webapi/saml/acs/okta"
	putConnector(t, f, saml, false)
	saml.Spec.ACS = "https://tele.example.com/v1/webapi/saml/acs/dex"
	_, err := f.Connectors.Put(t.Context(), authtest.Admin(), saml, true)
	wantField(t, "acs", err, "spec.acs", "write https://tele.example.com/v1/webapi/saml/acs")

	// The address was changed after the connector was saved.
	moved, err := auth.New(authtest.Options(f.DB, func(o *auth.Options) { o.PublicAddr = "new.example.com:8443" }))
	if err != nil {
		t.Fatal(err)
	}
	_, err = moved.Connectors.Open("g0")
	wantCode(t, "moved", err, api.CodeForbidden, "write https://new.example.com:8443/v1/webapi/github/callback")
}

func TestWhatAConnectorNeedsToBeSaved(t *testing.T) {
	refusal := api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "spec.entity_descriptor", Reason: "has no signing certificate"})
	f := authtest.New(t, probing(func(c api.Connector) (api.ConnectorFacts, error) {
		if c.Head().Metadata.Name == "unsafe" {
			return api.ConnectorFacts{}, refusal
		}
		return api.ConnectorFacts{}, nil
	}))
	put := func(doc api.Connector, force bool) error {
		_, err := f.Connectors.Put(t.Context(), authtest.Admin(), doc, force)
		return err
	}
	github := githubDoc("github")
	github.Spec.ClientSecret = ""
	wantField(t, "no secret", put(github, false), "spec.client_secret", "is missing: want the one that the identity provider gave out")
	saml := samlDoc("okta")
	saml.Spec.AssertionKeyPair.PrivateKey = ""
	wantField(t, "no key", put(saml, false), "spec.assertion_key_pair.private_key", "is missing")
	github = githubDoc("github")
	github.Spec.TeamsToRoles[0].Roles = []string{"access", "nosuch"}
	wantField(t, "no role", put(github, false), "spec.teams_to_roles[0].roles[1]", `role "nosuch" does not exist`)
	oidc := oidcDoc("dex")
	oidc.Spec.IssuerURL = "http://idp.example.com"
	wantField(t, "http", put(oidc, false), "spec.issuer_url", "want https")
	if err := put(samlDoc("unsafe"), false); !errors.Is(err, refusal) {
		t.Error(err)
	}
	if n := len(f.Connectors.Public()); n != 0 {
		t.Error(n, "were saved")
	}

	putConnector(t, f, githubDoc("github"), false)
	wantCode(t, "the name of another kind", put(oidcDoc("github"), true), api.CodeExists, "of kind github already")
	wantCode(t, "another case", put(oidcDoc("GitHub"), true), api.CodeExists, `would look like connector "github"`)
	github = githubDoc("github")
	github.Kind = api.KindOIDC
	if put(github, true) == nil {
		t.Error("a github connector that says it is an oidc one was saved")
	}
	wantCode(t, "a role in use", f.Roles.Delete(t.Context(), authtest.Admin(), "admin"), api.CodeForbidden, "built in")
	f.PutRole(t, "dev", api.RoleSpec{})
	oidc = oidcDoc("dex")
	oidc.Spec.ClaimsToRoles[0].Roles = []string{"dev"}
	putConnector(t, f, oidc, false)
	wantCode(t, "a role in use", f.Roles.Delete(t.Context(), authtest.Admin(), "dev"), api.CodeConflict, "given by connectors dex")
}

// A role that is removed while a connector names it is not overlooked.
// A pattern of one anchor is a text, and nobody has it.
func TestARowThatIsHalfAnExpressionIsWarnedOf(t *testing.T) {
	f := authtest.New(t)
	for _, doc := range []api.Connector{
		authtest.OIDCConnector("dex", func(s *api.OIDCSpec) {
			s.ClaimsToRoles = append(s.ClaimsToRoles, api.ClaimToRole{Claim: "groups", Value: "^(dev|ops)", Roles: []string{auth.RoleAccess}})
		}),
		&api.SAMLConnector{Header: connectorHead(api.KindSAML, "okta"), Spec: api.SAMLSpec{EntityDescriptor: "<EntityDescriptor/>", AttributesToRoles: []api.AttributeToRole{
			{Name: "groups", Value: "^(dev|ops)$", Roles: []string{auth.RoleAccess}}, {Name: "groups", Value: "(dev|ops)$", Roles: []string{auth.RoleAccess}},
		}}},
	} {
		resp := putConnector(t, f, doc, false)
		if len(resp.Warnings) != 1 || !strings.HasPrefix(resp.Warnings[0], doc.Rows()[1].Path+".value: ") || !strings.Contains(resp.Warnings[0], "^(dev|ops)$") {
			t.Errorf("%s: %q", doc.ConnectorKind(), resp.Warnings)
		}
	}
}

func TestRolesOfRowsAreHeldInPlace(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "dev", api.RoleSpec{})
	doc := oidcDoc("dex")
	doc.Spec.ClaimsToRoles[0].Roles = []string{"dev"}
	f.DB.BeforeCommit(func() {
		if err := f.Roles.Delete(t.Context(), authtest.Admin(), "dev"); err != nil {
			t.Error(err)
		}
	})
	_, err := f.Connectors.Put(t.Context(), authtest.Admin(), doc, false)
	wantField(t, "the role went", err, "spec.claims_to_roles[0].roles[0]", "does not exist")
}

func TestAStoredSecretIsKeptForTheSameIdentityProviderAlone(t *testing.T) {
	f := authtest.New(t)
	putConnector(t, f, oidcDoc("dex"), false)
	putConnector(t, f, githubDoc("github"), false)
	putConnector(t, f, samlDoc("okta"), false)
	secret := func(name, path string) string {
		t.Helper()
		open, err := f.Connectors.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		return *open.Doc.Secrets()[path]
	}
	oidc := oidcDoc("dex")
	oidc.Spec.ClientSecret, oidc.Spec.Display = "", "Dex"
	putConnector(t, f, oidc, true)
	if secret("dex", "spec.client_secret") != clientSecret {
		t.Error("the secret is lost")
	}
	oidc.Spec.IssuerURL = "https://evil.example.com"
	_, err := f.Connectors.Put(t.Context(), authtest.Admin(), oidc, true)
	wantField(t, "another issuer", err, "spec.client_secret", "is kept only while spec.issuer_url stays as it is")
	_, err = f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Document: mustJSON(t, oidc)})
	wantField(t, "a test at another issuer", err, "spec.client_secret", "is kept only while")
	oidc.Spec.ClientSecret = "new"
	putConnector(t, f, oidc, true)
	if secret("dex", "spec.client_secret") != "new" {
		t.Error("the new secret is lost")
	}

	github := githubDoc("github")
	github.Spec.ClientSecret, github.Spec.EndpointURL, github.Spec.APIEndpointURL = "", "https://evil.example.com", "https://evil.example.com/api"
	_, err = f.Connectors.Put(t.Context(), authtest.Admin(), github, true)
	wantField(t, "another server", err, "spec.client_secret", "spec.endpoint_url and spec.api_endpoint_url stay as they are")

	saml := samlDoc("okta")
	saml.Spec.AssertionKeyPair.PrivateKey, saml.Spec.Display = "", "Okta"
	putConnector(t, f, saml, true)
	if secret("okta", "spec.assertion_key_pair.private_key") != connectorKey {
		t.Error("the key is lost")
	}
	saml.Spec.AssertionKeyPair.Cert = strings.ReplaceAll(connectorCert, "AAAA", "AAAB")
	_, err = f.Connectors.Put(t.Context(), authtest.Admin(), saml, true)
	wantField(t, "another certificate", err, "spec.assertion_key_pair.private_key", "is kept only while spec.assertion_key_pair.cert stays")
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWhatIsKnownOfAnIdentityProviderStays(t *testing.T) {
	ids := map[string]int64{"octocats": 1}
	made := 0
	f := authtest.New(t, probing(func(c api.Connector) (api.ConnectorFacts, error) {
		if c.ConnectorKind() == api.KindSAML {
			made++
			return api.ConnectorFacts{SigningKeyPair: &api.KeyPair{Cert: fmt.Sprint(made), PrivateKey: fmt.Sprint("key ", made)}}, nil
		}
		return api.ConnectorFacts{Organizations: ids}, nil
	}))
	open := func(name string) api.ConnectorFacts {
		t.Helper()
		open, err := f.Connectors.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		return open.Facts
	}
	saml := samlDoc("okta")
	putConnector(t, f, saml, false)
	saml.Spec.Display = "Okta"
	putConnector(t, f, saml, true)
	if facts := open("okta"); facts.SigningKeyPair.Cert != "1" || facts.SigningKeyPair.PrivateKey != "key 1" {
		t.Errorf("the identity provider has another certificate: %+v", facts.SigningKeyPair)
	}
	if resp := putConnector(t, f, saml, true); !resp.Unchanged {
		t.Errorf("%+v", resp)
	}

	github := githubDoc("github")
	putConnector(t, f, github, false)
	ids = map[string]int64{"octocats": 2, "evil": 3}
	github.Spec.Display = "x"
	resp := putConnector(t, f, github, true)
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], `"octocats" belongs to somebody else now (id 2, it was 1)`) {
		t.Error(resp.Warnings)
	}
	if d := cmp.Diff(map[string]int64{"octocats": 1}, open("github").Organizations); d != "" {
		t.Error(d)
	}
	ids = nil // it is not told now, but known
	if resp := putConnector(t, f, github, true); !resp.Unchanged || resp.Warnings != nil {
		t.Errorf("%+v", resp)
	}
	// Ids of another server are of no use.
	github.Spec.EndpointURL, github.Spec.APIEndpointURL, ids = "https://ghes.example.com", "https://ghes.example.com/api/v3", map[string]int64{"octocats": 9}
	putConnector(t, f, github, true)
	if d := cmp.Diff(map[string]int64{"octocats": 9}, open("github").Organizations); d != "" {
		t.Error(d)
	}
}

// Row "newer versions" of fail-closed records: see role.
func TestAConnectorThatIsNotUnderstoodLogsNobodyIn(t *testing.T) {
	f := authtest.New(t)
	putConnector(t, f, oidcDoc("dex"), false)
	rec, _ := f.DB.View().Get("connectors/dex")
	good := string(rec.Value)
	for _, tc := range []struct {
		name, old, now string
		newer          bool
	}{
		{"a field of a newer version", `"issuer_url"`, `"allowed_networks":["10.0.0.0/8"],"issuer_url"`, true},
		{"a field of the record", `"document"`, `"expires":1,"document"`, true},
		{"facts", `"facts":{`, `"facts":{"pinned_keys":["x"]`, true},
		{"a kind", `"kind":"oidc"`, `"kind":"ldap"`, true},
		{"what is not saved any more", `https://idp`, `http://idp`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			value := good
			if tc.name == "facts" && !strings.Contains(value, tc.old) {
				value = strings.Replace(value, `{"document"`, `{"facts":{},"document"`, 1)
			}
			if !strings.Contains(value, tc.old) {
				t.Fatal(value)
			}
			if _, err := f.DB.Commit(t.Context(), auth.PutRaw("connectors/dex", strings.Replace(value, tc.old, tc.now, 1))); err != nil {
				t.Fatal(err)
			}
			_, err := f.Connectors.Open("dex")
			wantCode(t, "open", err, api.CodeForbidden, "nobody logs in by it")
			if n := len(f.Connectors.Public()); n != 0 {
				t.Error("it is offered")
			}
			_, err = f.Connectors.Named("dex")
			wantCode(t, "ping", err, api.CodeForbidden, "nobody logs in by it")
			pref := api.DefaultAuthPreference()
			pref.Spec.Type, pref.Spec.ConnectorName = "oidc", "dex"
			if _, err := f.Preference.Put(t.Context(), authtest.Admin(), pref, true); err == nil {
				t.Error("it became the default")
			}
			_, err = f.Connectors.Put(t.Context(), authtest.Admin(), oidcDoc("dex"), true)
			if tc.newer {
				wantCode(t, "put", err, api.CodeForbidden, "newer version")
			} else if err != nil {
				t.Error(err)
			}
			if kind := "oidc"; tc.name != "a kind" {
				if raw, err := f.Connectors.GetSecrets(t.Context(), authtest.Admin(), kind, "dex"); err != nil || !json.Valid(raw) {
					t.Errorf("%v %s", err, raw)
				}
			}
		})
	}
	if err := f.Connectors.Delete(t.Context(), authtest.Admin(), "oidc", "dex"); err != nil {
		t.Error(err)
	}
	if _, err := f.DB.Commit(t.Context(), auth.PutRaw("connectors/dex", `{"document":[]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Connectors.Open("dex"); err == nil {
		t.Error("what is no connector was opened")
	}
	if err := f.Connectors.Delete(t.Context(), authtest.Admin(), "oidc", "dex"); err != nil {
		t.Error("what can't be read can't be removed either:", err)
	}
}

func TestASealedSecretOpensAtItsConnectorAlone(t *testing.T) {
	f := authtest.New(t)
	putConnector(t, f, oidcDoc("dex"), false)
	rec, _ := f.DB.View().Get("connectors/dex")
	if _, err := f.DB.Commit(t.Context(), auth.PutRaw("connectors/evil", strings.Replace(string(rec.Value), `"name":"dex"`, `"name":"evil"`, 1))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Connectors.Open("evil"); err == nil || strings.Contains(err.Error(), clientSecret) {
		t.Error(err)
	}
}

func TestWhoMayWriteConnectors(t *testing.T) {
	f := authtest.New(t)
	everything := []string{"*"}
	f.PutRole(t, "connectors", api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: api.ConnectorKinds(), Verbs: everything}}}})
	f.PutRole(t, "roles", api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: []string{api.KindRole}, Verbs: []string{api.VerbUpdate}}}}})
	f.AddUser(t, "bob", nil, "connectors")
	f.AddUser(t, "carol", nil, "connectors", "roles")
	f.AddUser(t, "root", nil, "admin")
	for name, want := range map[string]api.Code{"bob": api.CodeForbidden, "carol": "", "root": ""} {
		id, _ := f.Login(t, name)
		by := auth.Actor{User: name, Addr: authtest.Client, Session: id}
		if _, err := f.Connectors.Put(t.Context(), by, oidcDoc("of-"+name), false); api.CodeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.Connectors.Put(t.Context(), auth.Actor{User: "bob"}, oidcDoc("x"), false); err == nil {
		t.Error("a name without a session wrote a connector")
	}
}

func TestTheDefaultConnector(t *testing.T) {
	f := authtest.New(t)
	prefer := func(typ, name string) error {
		doc := api.DefaultAuthPreference()
		doc.Spec.Type, doc.Spec.ConnectorName = typ, name
		_, err := f.Preference.Put(t.Context(), authtest.Admin(), doc, true)
		return err
	}
	wantField(t, "none", prefer("github", ""), "spec.type", "there is no connector of kind github: create one first")
	wantField(t, "none", prefer("github", "github"), "spec.connector_name", `there is no connector "github" of kind github`)
	putConnector(t, f, githubDoc("github"), false)
	if d := f.Connectors.Default(); d != nil {
		t.Errorf("creating one made it the default: %+v", d)
	}
	wantField(t, "another kind", prefer("oidc", "github"), "spec.connector_name", "of kind oidc")
	if err := prefer("github", ""); err != nil {
		t.Fatal(err)
	}
	if e := lastEvent(f); e.Event != api.EventAuthPreference || e.Fields["type"] != "github" || e.Fields["connector"] != "github" {
		t.Errorf("%+v", e)
	}
	want := &api.PingConnector{Kind: "github", Name: "github", Display: "GitHub"}
	if d := cmp.Diff(want, f.Connectors.Default()); d != "" {
		t.Error(d)
	}
	putConnector(t, f, githubDoc("ghes"), false) // comes before it by name
	if d := cmp.Diff(want, f.Connectors.Default()); d != "" {
		t.Error("another one of the kind changed the default", d)
	}
	wantField(t, "which?", prefer("github", ""), "spec.connector_name", "there are ghes, github of kind github")
	wantCode(t, "the default", f.Connectors.Delete(t.Context(), authtest.Admin(), "github", "github"), api.CodeConflict, "change spec.type")
	if err := f.Connectors.Delete(t.Context(), authtest.Admin(), "github", "ghes"); err != nil {
		t.Error(err)
	}
	// It becomes the default while it is removed.
	if err := prefer("local", ""); err != nil {
		t.Fatal(err)
	}
	f.DB.BeforeCommit(func() {
		if err := prefer("github", "github"); err != nil {
			t.Error(err)
		}
	})
	wantCode(t, "in a race", f.Connectors.Delete(t.Context(), authtest.Admin(), "github", "github"), api.CodeConflict, "by default")
	// It is removed while it becomes the default.
	if err := prefer("local", ""); err != nil {
		t.Fatal(err)
	}
	f.DB.BeforeCommit(func() {
		if err := f.Connectors.Delete(t.Context(), authtest.Admin(), "github", "github"); err != nil {
			t.Error(err)
		}
	})
	wantField(t, "in a race", prefer("github", "github"), "spec.connector_name", "there is no connector")
	if d := f.Connectors.Default(); d != nil {
		t.Errorf("%+v", d)
	}
}

func TestThereIsABoundOfConnectors(t *testing.T) {
	f := authtest.New(t)
	for i := range 100 {
		putConnector(t, f, oidcDoc(fmt.Sprint("c", i)), false)
	}
	_, err := f.Connectors.Put(t.Context(), authtest.Admin(), oidcDoc("one-more"), false)
	wantCode(t, "101", err, api.CodeConflict, "the most there can be")
	changed := oidcDoc("c7")
	changed.Spec.Display = "x"
	putConnector(t, f, changed, true)
}
