package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const testCert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

func connectorHead(kind, name string) Header {
	h := Header{Kind: kind, Version: "v3", Metadata: Metadata{Name: name}}
	if kind == KindSAML {
		h.Version = "v2"
	}
	return h
}

func githubConnector(edit func(*GithubSpec)) *GithubConnector {
	c := &GithubConnector{Header: connectorHead(KindGithub, "github"), Spec: GithubSpec{
		ClientID: "id", ClientSecret: "geheim", TeamsToRoles: []TeamToRoles{{Organization: "octocats", Team: "admin", Roles: []string{"dev"}}},
	}}
	edit(&c.Spec)
	return c
}

func oidcConnector(edit func(*OIDCSpec)) *OIDCConnector {
	c := &OIDCConnector{Header: connectorHead(KindOIDC, "dex"), Spec: OIDCSpec{
		IssuerURL: "https://dex.example.com", ClientID: "id", ClientSecret: "geheim", ClaimsToRoles: []ClaimToRole{{Claim: "groups", Value: "dev", Roles: []string{"dev"}}},
	}}
	c.setDefaults()
	edit(&c.Spec)
	return c
}

func samlConnector(edit func(*SAMLSpec)) *SAMLConnector {
	c := &SAMLConnector{Header: connectorHead(KindSAML, "okta"), Spec: SAMLSpec{
		EntityDescriptor: "<EntityDescriptor/>", AttributesToRoles: []AttributeToRole{{Name: "groups", Value: "dev", Roles: []string{"dev"}}},
	}}
	edit(&c.Spec)
	return c
}

func TestConnectorsThatAreFine(t *testing.T) {
	for name, c := range map[string]Connector{
		"github": githubConnector(func(*GithubSpec) {}),
		"github without its secret, as it is shown": githubConnector(func(s *GithubSpec) { s.ClientSecret = "" }),
		"github enterprise": githubConnector(func(s *GithubSpec) {
			s.EndpointURL, s.APIEndpointURL = "https://g.example.com", "https://g.example.com:8443/api/v3"
		}),
		"the same row twice": githubConnector(func(s *GithubSpec) { s.TeamsToRoles = append(s.TeamsToRoles, s.TeamsToRoles...) }),
		"500 teams":          githubConnector(func(s *GithubSpec) { s.TeamsToRoles = slices.Repeat(s.TeamsToRoles, maxConnectorRows) }),
		"oidc":               oidcConnector(func(*OIDCSpec) {}),
		"patterns":           oidcConnector(func(s *OIDCSpec) { s.ClaimsToRoles[0].Value = "^(a|b)$"; s.Prompt = "login consent" }),
		"saml":               samlConnector(func(*SAMLSpec) {}),
		"saml from an address": samlConnector(func(s *SAMLSpec) {
			s.EntityDescriptor, s.EntityDescriptorURL = "", "https://login.example.com/metadata.xml?appid=1"
		}),
		"saml by hand": samlConnector(func(s *SAMLSpec) {
			s.EntityDescriptor, s.Issuer, s.SSO, s.Cert = "", "http://www.okta.com/abc", "https://okta.example.com/sso?tenant=1", testCert
		}),
		"a key whose private half is not shown": samlConnector(func(s *SAMLSpec) { s.SigningKeyPair = &KeyPair{Cert: testCert} }),
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		raw, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeDocument(raw)
		if d := cmp.Diff(any(c), again); err != nil || d != "" {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
}

// CVE-2026-28323: a connector that believes whatever is said cannot be saved.
func TestConnectorsThatCannotBeSafeAreNoDocuments(t *testing.T) {
	type gh = func(*GithubSpec)
	type oi = func(*OIDCSpec)
	type sa = func(*SAMLSpec)
	long := strings.Repeat("x", 3000)
	key := "-----BEGIN PRIVATE KEY-----\nZ2VoZWlt\n-----END PRIVATE KEY-----\n"
	tests := []struct {
		edit any
		path string
		want string
	}{
		{func(s *GithubSpec) { s.ClientID = "" }, "spec.client_id", "is missing"},
		{func(s *GithubSpec) { s.ClientID = "id\n" }, "spec.client_id", "line breaks"},
		{func(s *GithubSpec) { s.ClientSecret = "geheim " }, "spec.client_secret", "spaces"},
		{func(s *GithubSpec) { s.ClientSecret = "geheim\x00" }, "spec.client_secret", "printable"},
		{func(s *GithubSpec) { s.Display = "Git\u202ehub" }, "spec.display", "can be seen"},
		{func(s *GithubSpec) { s.RedirectURL = "http://tele.example.com/" }, "spec.redirect_url", "want https"},
		{func(s *GithubSpec) { s.RedirectURL = "https://tele.example.com/?x" }, "spec.redirect_url", "begins with ?"},
		{func(s *GithubSpec) { s.EndpointURL = "https://g.example.com" }, "spec.api_endpoint_url", "/api/v3"},
		{func(s *GithubSpec) { s.APIEndpointURL = "https://g.example.com" }, "spec.endpoint_url", "neither for github.com"},
		{func(s *GithubSpec) { s.EndpointURL = "https://user:geheim@g.example.com" }, "spec.endpoint_url", "must not hold a user"},
		{func(s *GithubSpec) { s.TeamsToRoles = nil }, "spec.teams_to_roles", "nobody can log in"},
		{func(s *GithubSpec) { s.TeamsToRoles = slices.Repeat(s.TeamsToRoles, maxConnectorRows+1) }, "spec", "more than 500"},
		{func(s *GithubSpec) { s.TeamsToRoles[0].Organization = "" }, "spec.teams_to_roles[0].organization", "is missing"},
		{func(s *GithubSpec) { s.TeamsToRoles[0].Organization = "*" }, "spec.teams_to_roles[0].organization", "https://github.com/NAME"},
		{func(s *GithubSpec) { s.TeamsToRoles[0].Team = "dev/ops" }, "spec.teams_to_roles[0].team", "as in its address"},
		{func(s *GithubSpec) { s.TeamsToRoles[0].Roles = nil }, "spec.teams_to_roles[0].roles", "one role at least"},
		{func(s *GithubSpec) { s.TeamsToRoles[0].Roles = []string{"dev", "dev"} }, "spec.teams_to_roles[0].roles[1]", "twice"},
		{func(s *GithubSpec) { s.TeamsToRoles[0].Roles = []string{"$1"} }, "spec.teams_to_roles[0].roles[0]", "ASCII"},
		{func(s *GithubSpec) { // of which every row is small
			s.TeamsToRoles = nil
			for i := range maxConnectorRoles/2 + 1 {
				s.TeamsToRoles = append(s.TeamsToRoles, TeamToRoles{"o", "t", []string{fmt.Sprint("a", i), fmt.Sprint("b", i)}})
			}
		}, "spec.teams_to_roles[250].roles", "different ones"},
		{func(s *GithubSpec) { s.TeamsToLogins = []TeamToLogins{{"o", "t", nil, []string{"a,b"}, nil}} }, "spec.teams_to_logins[0].kubernetes_groups[0]", "commas"},
		{func(s *GithubSpec) { s.TeamsToLogins = []TeamToLogins{{"o", "t", []string{"a\x1b"}, nil, nil}} }, "spec.teams_to_logins[0].logins[0]", "control character"},

		{func(s *OIDCSpec) { s.IssuerURL = "" }, "spec.issuer_url", "is missing"},
		{func(s *OIDCSpec) { s.IssuerURL = "http://127.0.0.1:5556" }, "spec.issuer_url", "want https"},
		{func(s *OIDCSpec) { s.IssuerURL = "https://dex.example.com?x=y" }, "spec.issuer_url", "begins with ?"},
		{func(s *OIDCSpec) { s.IssuerURL = "https://dex.example.com#" }, "spec.issuer_url", "begins with #"},
		{func(s *OIDCSpec) { s.IssuerURL = "https://dex.example.com/.well-known/openid-configuration" }, "spec.issuer_url", "leave off /.well-known/openid-configuration"},
		{func(s *OIDCSpec) { s.IssuerURL = "https://dex.example.com/a/.well-known/openid-configuration/" }, "spec.issuer_url", "leave off /.well-known/openid-configuration"},
		{func(s *OIDCSpec) { s.IssuerURL = "https:dex.example.com" }, "spec.issuer_url", "no address"},
		{func(s *OIDCSpec) { s.IssuerURL = "https://dex.example.com:99999" }, "spec.issuer_url", "port 99999"},
		{func(s *OIDCSpec) { s.IssuerURL = "https://dех.example.com" }, "spec.issuer_url", "xn--"},
		{func(s *OIDCSpec) { s.IssuerURL = "https://" + long }, "spec.issuer_url", "2048"},
		{func(s *OIDCSpec) { s.RedirectURL = Values{"https://a.example.com", "https://b.example.com"} }, "spec.redirect_url", "want one"},
		{func(s *OIDCSpec) { s.RedirectURL = Values{""} }, "spec.redirect_url", "is empty"},
		{func(s *OIDCSpec) { s.RedirectURL = Values{"http://a.example.com"} }, "spec.redirect_url", "want https"},
		{func(s *OIDCSpec) { s.Scope = []string{"email profile"} }, "spec.scope[0]", "no scope"},
		{func(s *OIDCSpec) { s.Prompt = "lgoin" }, "spec.prompt", "did you mean login?"},
		{func(s *OIDCSpec) { s.Prompt = "none login" }, "spec.prompt", "can't stand with others"},
		{func(s *OIDCSpec) { s.ACRValues = "a\nb" }, "spec.acr_values", "ASCII"},
		{func(s *OIDCSpec) { s.MaxAge = -1 }, "spec.max_age", "whole seconds"},
		{func(s *OIDCSpec) { s.PKCEMode = "disabled" }, "spec.pkce_mode", "can't be switched off"},
		{func(s *OIDCSpec) { s.UsernameClaim = "a\n" }, "spec.username_claim", "control character"},
		{func(s *OIDCSpec) { s.ClaimsToRoles = nil }, "spec.claims_to_roles", "nobody can log in"},
		{func(s *OIDCSpec) { s.ClaimsToRoles = slices.Repeat(s.ClaimsToRoles, 501) }, "spec.claims_to_roles", "more than 500"},
		{func(s *OIDCSpec) { s.ClaimsToRoles[0].Claim = "" }, "spec.claims_to_roles[0].claim", "is missing"},
		{func(s *OIDCSpec) { s.ClaimsToRoles[0].Value = "" }, "spec.claims_to_roles[0].value", `"*" for any`},
		{func(s *OIDCSpec) { s.ClaimsToRoles[0].Value = "^a)|(b$" }, "spec.claims_to_roles[0].value", "is no pattern"},

		{func(s *SAMLSpec) { s.EntityDescriptor = "" }, "spec.entity_descriptor", "is missing"},
		{func(s *SAMLSpec) { s.EntityDescriptor = strings.Repeat("<", MaxEntityDescriptor+1) }, "spec.entity_descriptor", "of a federation"},
		{func(s *SAMLSpec) { s.EntityDescriptorURL = "https://a.example.com" }, "spec.entity_descriptor", "want one source of metadata, not spec.entity_descriptor beside spec.entity_descriptor_url"},
		{func(s *SAMLSpec) { s.Cert = testCert }, "spec.entity_descriptor", "beside spec.issuer, spec.sso and spec.cert"},
		{func(s *SAMLSpec) { s.EntityDescriptor, s.EntityDescriptorURL = "", "http://a.example.com" }, "spec.entity_descriptor_url", "want https"},
		{func(s *SAMLSpec) { s.EntityDescriptor, s.Issuer, s.SSO = "", "urn:idp", "https://a.example.com" }, "spec.cert", "anybody could claim to be anyone"},
		{func(s *SAMLSpec) { s.EntityDescriptor, s.Issuer, s.Cert = "", "urn:idp", testCert }, "spec.sso", "is missing"},
		{func(s *SAMLSpec) {
			s.EntityDescriptor, s.Issuer, s.SSO, s.Cert = "", "urn:idp", "http://a.example.com", testCert
		}, "spec.sso", "want https"},
		{func(s *SAMLSpec) {
			s.EntityDescriptor, s.Issuer, s.SSO, s.Cert = "", "urn:idp", "https://a.example.com", "MIIB"
		}, "spec.cert", "-----BEGIN CERTIFICATE-----"},
		{func(s *SAMLSpec) { s.ACS = "http://tele.example.com" }, "spec.acs", "want https"},
		{func(s *SAMLSpec) { s.Audience = "a b" }, "spec.audience", "without spaces"},
		{func(s *SAMLSpec) { s.ServiceProviderIssuer = long }, "spec.service_provider_issuer", "2048"},
		{func(s *SAMLSpec) { s.UsernameAttribute = "\x00" }, "spec.username_attribute", "control character"},
		{func(s *SAMLSpec) { s.AttributesToRoles = nil }, "spec.attributes_to_roles", "nobody can log in"},
		{func(s *SAMLSpec) { s.AttributesToRoles[0].Name = "" }, "spec.attributes_to_roles[0].name", "is missing"},
		{func(s *SAMLSpec) { s.SigningKeyPair = &KeyPair{PrivateKey: key} }, "spec.signing_key_pair.cert", "is missing"},
		{func(s *SAMLSpec) { s.AssertionKeyPair = &KeyPair{Cert: key} }, "spec.assertion_key_pair.cert", "BEGIN CERTIFICATE"},
		{func(s *SAMLSpec) { s.AssertionKeyPair = &KeyPair{Cert: testCert, PrivateKey: testCert} }, "spec.assertion_key_pair.private_key", "BEGIN PRIVATE KEY"},
		{func(s *SAMLSpec) {
			s.AssertionKeyPair = &KeyPair{Cert: testCert, PrivateKey: strings.ReplaceAll(key, "PRIVATE", "ENCRYPTED PRIVATE")}
		}, "spec.assertion_key_pair.private_key", "without a passphrase"},
	}
	for i, tc := range tests {
		var c Connector
		switch edit := tc.edit.(type) {
		case gh:
			c = githubConnector(edit)
		case oi:
			c = oidcConnector(edit)
		case sa:
			c = samlConnector(edit)
		}
		err := c.Validate()
		field, ok := errors.AsType[*FieldError](err)
		if !ok || field.Path != tc.path || !strings.Contains(field.Reason, tc.want) || CodeOf(err) != CodeInvalid {
			t.Errorf("%d, %s: %v, want %s: …%s…", i, c.ConnectorKind(), err, tc.path, tc.want)
		}
		if err != nil && (strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "Z2Vo")) {
			t.Errorf("%d: the secret is told: %v", i, err)
		}
	}
}

// CVE-2026-35414: names that look like others, or mean something else.
// Teleport's own documents carry these, and what it does with another is not ours to guess.
func TestVersionsOfConnectors(t *testing.T) {
	for kind, versions := range map[string][]string{KindGithub: {"v3"}, KindOIDC: {"v2", "v3"}, KindSAML: {"v2"}} {
		for _, version := range []string{"v1", "v2", "v3", "v4", "v7", "v8", ""} {
			c := map[string]Connector{
				KindGithub: githubConnector(func(*GithubSpec) {}), KindOIDC: oidcConnector(func(*OIDCSpec) {}), KindSAML: samlConnector(func(*SAMLSpec) {}),
			}[kind]
			c.Head().Version = version
			err := checkConnector(c)
			field, _ := errors.AsType[*FieldError](err)
			switch {
			case slices.Contains(versions, version) && err != nil:
				t.Errorf("%s %s: %v", kind, version, err)
			case !slices.Contains(versions, version) && (field == nil || field.Path != "version" || !strings.HasSuffix(err.Error(), "want "+versions[len(versions)-1])):
				t.Errorf("%s %q: %v", kind, version, err)
			}
		}
	}
}

func TestNamesOfConnectors(t *testing.T) {
	for _, name := range []string{"", "local", "Local", "headless", "passwordless", "a/b", "gіthub", "a b", "a\n", "../x", strings.Repeat("a", 129)} {
		c := githubConnector(func(*GithubSpec) {})
		c.Metadata.Name = name
		if field, ok := errors.AsType[*FieldError](c.Validate()); !ok || field.Path != "metadata.name" {
			t.Errorf("%q: %v", name, c.Validate())
		}
	}
}

func TestPreferencesOfAConnector(t *testing.T) {
	for _, tc := range []struct{ typ, name, path string }{
		{"local", "", ""}, {"github", "", ""}, {"oidc", "dex", ""}, {"saml", "okta", ""},
		{"ldap", "", "spec.type"}, {"local", "dex", "spec.connector_name"}, {"github", "a/b", "spec.connector_name"},
	} {
		p := DefaultAuthPreference()
		p.Spec.Type, p.Spec.ConnectorName = tc.typ, tc.name
		path := ""
		if field, ok := errors.AsType[*FieldError](p.Validate()); ok {
			path = field.Path
		}
		if path != tc.path {
			t.Errorf("%s %s: %v", tc.typ, tc.name, p.Validate())
		}
	}
}

func TestRefusalsNameKindsOfConnectorsAsPeopleDo(t *testing.T) {
	for kind, want := range map[string]string{
		KindGithub: "user \"bob\" may not list github connectors: ", KindSAML: "user \"bob\" may not list saml connectors: ", KindRole: "user \"bob\" may not list roles: ",
	} {
		if got := NotAllowed("bob", VerbList, kind).Error(); !strings.HasPrefix(got, want) {
			t.Error(got)
		}
	}
}
