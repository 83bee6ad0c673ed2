package yamldoc

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// The getting-started guide's, word for word.
const (
	guideGithub = `kind: github
version: v3
metadata:
  # connector name that will be used with ` + "`tsh --auth=github login`" + `
  name: github
spec:
  # client ID of Github OAuth app
  client_id: client-id
  # client secret of Github OAuth app
  client_secret: client-secret
  # This name will be shown on UI login screen
  display: Github
  # Change tele.example.com to your domain name
  redirect_url: https://tele.example.com:443/v1/webapi/github/callback
  # Map github teams to kubernetes groups
  teams_to_logins:
    - organization: octocats # Github organization name
      team: admin           # Github team name within that organization
      # list of Kubernetes groups this Github team is allowed to connect to
      kubernetes_groups: ["system:masters"]
      # keep this field as is for now
      logins: ["{{external.username}}"]
`
	guideOkta = `kind: saml
version: v2
metadata:
  name: okta
spec:
  acs: https://tele.example.com/v1/webapi/saml/acs
  attributes_to_roles:
  - {name: "groups", value: "okta-admin", roles: ["admin"]}
  entity_descriptor: |
    <?xml !!! Make sure to shift all lines in XML descriptor 
    with 4 spaces, otherwise things will not work
`
	oidcYAML = `kind: oidc
version: v3
metadata: {name: dex}
spec:
  issuer_url: https://dex.example.com/dex
  client_id: sallyport
  client_secret: s3cret
  redirect_url: [https://tele.example.com/v1/webapi/oidc/callback]
  scope: [groups]
  prompt: select_account
  max_age: 1h
  claims_to_roles:
  - {claim: groups, value: "^dev-[a-z]+$", roles: [access]}
`
	samlHead = `kind: saml
version: v2
metadata: {name: okta}
spec:
  attributes_to_roles:
  - {name: groups, value: okta-admin, roles: [admin]}
`
)

func TestConnectorsOfTheGuideAreTakenWordForWord(t *testing.T) {
	docs, err := Decode([]byte(guideGithub + "---\n" + guideOkta))
	if err != nil {
		t.Fatal(err)
	}
	want := []any{
		&api.GithubConnector{
			Header: api.Header{Kind: api.KindGithub, Version: "v3", Metadata: api.Metadata{Name: "github"}},
			Spec: api.GithubSpec{
				ClientID: "client-id", ClientSecret: "client-secret", Display: "Github", RedirectURL: "https://tele.example.com:443/v1/webapi/github/callback",
				TeamsToLogins: []api.TeamToLogins{{
					Organization: "octocats", Team: "admin", KubernetesGroups: []string{"system:masters"}, Logins: []string{"{{external.username}}"},
				}},
			},
		},
		&api.SAMLConnector{
			Header: api.Header{Kind: api.KindSAML, Version: "v2", Metadata: api.Metadata{Name: "okta"}},
			Spec: api.SAMLSpec{
				ACS: "https://tele.example.com/v1/webapi/saml/acs", AttributesToRoles: []api.AttributeToRole{{Name: "groups", Value: "okta-admin", Roles: []string{"admin"}}},
				EntityDescriptor: "<?xml !!! Make sure to shift all lines in XML descriptor \nwith 4 spaces, otherwise things will not work\n",
			},
		},
	}
	if d := cmp.Diff(want, []any{docs[0].Value, docs[1].Value}); d != "" {
		t.Error(d)
	}
	// As it stands in the guide's source, which a site generator would have filled in.
	if _, err := Decode([]byte(strings.Replace(guideGithub, "{{external.username}}", "{% raw %}{{external.username}}{% endraw %}", 1))); err != nil {
		t.Error(err)
	}
}

func TestMistakesInConnectorsAreNamedWithTheirLine(t *testing.T) {
	edit := func(text, old, now string) string {
		t.Helper()
		if strings.Count(text, old) != 1 {
			t.Fatalf("%q is not there once", old)
		}
		return strings.Replace(text, old, now, 1)
	}
	tests := []struct{ name, text, want string }{
		{"XML that is not shifted", samlHead + "  entity_descriptor: |\n<EntityDescriptor>\n</EntityDescriptor>\n",
			"line 8: is not shifted far enough to belong to entity_descriptor: shift all lines of its text, down to the last, by 4 spaces"},
		{"XML of which the first line alone is shifted", samlHead + "  entity_descriptor: |\n    <?xml version=\"1.0\"?>\n<EntityDescriptor>\n</EntityDescriptor>\n",
			"line 9: is not shifted far enough to belong to entity_descriptor: shift all lines of its text, down to the last, by 4 spaces"},
		{"XML that is shifted as far as its field", samlHead + "  entity_descriptor: |\n  <EntityDescriptor\n  a=\"b\">\n",
			"line 8: is not shifted far enough to belong to entity_descriptor: shift all lines of its text, down to the last, by 4 spaces"},
		{"XML that looks like a field", samlHead + "  entity_descriptor: |\n    <?xml version=\"1.0\"?>\n<md:EntityDescriptor><a>b: c</a>\n",
			`line 9: saml "okta": this line: is not shifted far enough to belong to entity_descriptor: shift all lines of its text, down to the last, by the spaces of its first line, such as four`},
		{"no XML", samlHead + "  entity_descriptor: https://okta.example.com/metadata\n",
			`line 7: saml "okta": spec.entity_descriptor: does not begin with <: want the identity provider's metadata (XML), written below 'entity_descriptor: |' with all its lines shifted by four spaces`},
		{"no secret but a field of Teleport's", edit(oidcYAML, "  client_secret: s3cret\n", "  google_service_account: x\n  provider: ping\n"),
			"oidc \"dex\" has 2 fields that are not known:\n  line 7: spec.google_service_account: a field of Teleport's that this version of Sallyport does not have\n  line 8: spec.provider: a field of Teleport's that this version of Sallyport does not have"},
		{"a slip", edit(guideGithub, "team: admin", "taem: admin"), `line 18: github "github": spec.teams_to_logins[0].taem: unknown field, did you mean team?`},
		{"http", edit(oidcYAML, "https://dex", "http://dex"),
			`line 5: oidc "dex": spec.issuer_url: "http://dex.example.com/dex": want https, with a certificate that this machine trusts: who sits between could log in as anybody`},
		{"a pattern", edit(oidcYAML, "[a-z]+", "[a-z"), "line 13: oidc \"dex\": spec.claims_to_roles[0].value: \"^dev-[a-z$\" is no pattern: error parsing regexp: missing closing ]: `[a-z`"},
		{"a number for a secret is not shown", edit(guideGithub, "client_secret: client-secret", "client_secret: 123456"),
			`line 10: github "github": spec.client_secret: want a string, not a number`},
		{"a team's name in words", edit(guideGithub, "team: admin ", "team: My Team "),
			`line 18: github "github": spec.teams_to_logins[0].team: "My Team": want the team's name as in its address, such as my-team for My Team; patterns are not supported here`},
		{"an organization that looks like another", edit(guideGithub, "octocats", "осtocats"), // two letters are Cyrillic
			`line 17: github "github": spec.teams_to_logins[0].organization: "осtocats": want the organization's name as in its address, https://github.com/NAME`},
		{"a template that would mean nothing", edit(guideGithub, `["system:masters"]`, `["{{external.username}}"]`),
			`line 20: github "github": spec.teams_to_logins[0].kubernetes_groups[0]: "{{external.username}}": templates are filled in in roles, not here: write a role with it, and name the role in spec.teams_to_roles`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Decode([]byte(tc.text))
			if err == nil {
				t.Fatal("it was taken")
			}
			if d := cmp.Diff(tc.want, err.Error()); d != "" || api.CodeOf(err) != api.CodeInvalid {
				t.Errorf("%s %s", api.CodeOf(err), d)
			}
		})
	}
}

// FuzzConnectorYAML: reading never panics, and what is valid stays what it is when
// it is written and read again.
func FuzzConnectorYAML(f *testing.F) {
	for _, seed := range []string{guideGithub, guideOkta, oidcYAML, samlHead + "  issuer: urn:a\n  sso: https://a.example.com/sso?x=y\n  cert: |\n    -----BEGIN CERTIFICATE-----\n    AAAA\n    -----END CERTIFICATE-----\n",
		samlHead + "  entity_descriptor_url: https://a.example.com/m?x=y\n  signing_key_pair: {private_key: x, cert: y}\n",
		"kind: github\nversion: v3\nmetadata: {name: ghes}\nspec: {client_id: a, endpoint_url: https://g.example.com, api_endpoint_url: https://g.example.com/api/v3, teams_to_roles: [{organization: a, team: b, roles: [dev]}]}\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		docs, err := Decode(text)
		if err != nil {
			return
		}
		for _, d := range docs {
			c, ok := d.Value.(api.Connector)
			if !ok {
				continue
			}
			if err := c.Validate(); err != nil {
				t.Fatalf("it was taken though %v", err)
			}
			raw, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			again, err := api.DecodeDocument(raw)
			if err != nil {
				t.Fatalf("%s\n%v", raw, err)
			}
			if twice, err := json.Marshal(again); err != nil || string(twice) != string(raw) {
				t.Fatalf("%v\n%s\n%s", err, raw, twice)
			}
		}
	})
}
