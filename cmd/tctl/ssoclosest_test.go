package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestTheRowThatCameClosestIsNamed(t *testing.T) {
	github := func(rows ...api.TeamToRoles) api.Connector {
		return &api.GithubConnector{Spec: api.GithubSpec{TeamsToRoles: rows}}
	}
	oidc := func(rows ...api.ClaimToRole) api.Connector {
		return &api.OIDCConnector{Spec: api.OIDCSpec{ClaimsToRoles: rows}}
	}
	saml := func(rows ...api.AttributeToRole) api.Connector {
		return &api.SAMLConnector{Spec: api.SAMLSpec{AttributesToRoles: rows}}
	}
	in := func(organization string, slugs ...string) *api.SSOIdentity {
		id := &api.SSOIdentity{}
		for _, s := range slugs {
			id.Teams = append(id.Teams, api.GithubTeam{Organization: organization, Slug: s})
		}
		return id
	}
	sent := func(attributes map[string][]string) *api.SSOIdentity { return &api.SSOIdentity{Attributes: attributes} }
	for name, tc := range map[string]struct {
		doc    api.Connector
		id     *api.SSOIdentity
		mapped *api.SSOMapping
		want   string
	}{
		"another team of the organization": {
			doc: github(api.TeamToRoles{Organization: "other", Team: "a"}, api.TeamToRoles{Organization: "OctoCats", Team: "admin"}), id: in("octocats", "devs", "ops"),
			want: `teams_to_roles[1] came closest: it wants team "admin" of organization "OctoCats", where the person is in "devs", "ops"`,
		},
		"a team by its name instead of its slug": {
			doc: github(api.TeamToRoles{Organization: "octocats", Team: "x"}, api.TeamToRoles{Organization: "octocats", Team: "Dev Ops"}), id: in("octocats", "dev-ops"),
			want: `teams_to_roles[1] came closest: it wants team "Dev Ops" of organization "octocats", where the person is in "dev-ops"; teams are written as in their addresses`,
		},
		"no team of the organization": {
			doc: github(api.TeamToRoles{Organization: "octocats", Team: "admin"}, api.TeamToRoles{Organization: "octocats", Team: "ops"}), id: in("other", "devs"),
			want: `GitHub shows no team of "octocats": is the person a member, and does the organization let this OAuth app see that (Settings, Third-party Access)?`,
		},
		"another value of the claim": {
			doc: oidc(api.ClaimToRole{Claim: "team", Value: "x"}, api.ClaimToRole{Claim: "groups", Value: "admins"}), id: sent(map[string][]string{"groups": {"developers", "everyone"}}),
			want: `claims_to_roles[1] came closest: it wants claim "groups" to be "admins", which is "developers", "everyone"`,
		},
		"a value that is written otherwise": {
			doc: oidc(api.ClaimToRole{Claim: "groups", Value: "x"}, api.ClaimToRole{Claim: "groups", Value: "admins"}), id: sent(map[string][]string{"groups": {"Admins"}}),
			want: `claims_to_roles[1] came closest: it wants claim "groups" to be "admins", which is "Admins"; upper and lower case count`,
		},
		"a claim that was not sent": {
			doc: oidc(api.ClaimToRole{Claim: "groups", Value: "admins"}), id: sent(map[string][]string{"email": {"a@example.com"}, "sub": {"1"}}),
			want: `no row came close: the identity provider did not send claim "groups", but "email", "sub"; does it want another scope (spec.scope) for it?`,
		},
		"an attribute that is called almost so": {
			doc: saml(api.AttributeToRole{Name: "groups", Value: "admins"}), id: sent(map[string][]string{"Group": {"admins"}}),
			want: `attributes_to_roles[0] came closest: it wants attribute "groups", which was not sent; "Group" was`,
		},
		"nothing at all": {
			doc: saml(api.AttributeToRole{Name: "groups", Value: "admins"}), id: sent(nil),
			want: `no row came close: the identity provider did not send attribute "groups", but nothing`,
		},
		"many groups are cut": {
			doc:  saml(api.AttributeToRole{Name: "groups", Value: "admins"}),
			id:   sent(map[string][]string{"groups": {"g01", "g02", "g03", "g04", "g05", "g06", "g07", "g08", "g09", "g10"}}),
			want: `attributes_to_roles[0] came closest: it wants attribute "groups" to be "admins", which is "g01", "g02", "g03", "g04", "g05", "g06", "g07", "g08", 2 more`,
		},
		"a row matched: something else was wrong": {
			doc: saml(api.AttributeToRole{Name: "groups", Value: "admins"}), id: sent(nil), mapped: &api.SSOMapping{Roles: []string{"admin"}},
		},
		"nobody came back":           {doc: saml(api.AttributeToRole{Name: "groups", Value: "admins"})},
		"the document can't be read": {id: sent(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := closest(tc.doc, &api.SSOTestResult{Done: true, Identity: tc.id, Mapping: tc.mapped}); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestRowsAreReadAsPeopleTypeThem(t *testing.T) {
	for _, tc := range []struct {
		text string
		team bool
		want *mapped // nil: refused
	}{
		{"octocats/devs=access", true, &mapped{"octocats", "devs", []string{"access"}}},
		{" octocats / devs = access , auditor ", true, &mapped{"octocats", "devs", []string{"access", "auditor"}}},
		{"octocats/devs=a=b", true, &mapped{"octocats", "devs", []string{"a=b"}}}, // a Kubernetes group may hold it
		{"octocats,devs,access,auditor", true, &mapped{"octocats", "devs", []string{"access", "auditor"}}},
		{"octocats=access", true, nil},
		{"octocats/=access", true, nil},
		{"octocats/devs=", true, nil},
		{"octocats/devs", true, nil},
		{"octocats/devs=a,,b", true, nil},
		{"groups=admins=admin,access", false, &mapped{"groups", "admins", []string{"admin", "access"}}},
		{"groups=cn=admins,ou=x=admin", false, &mapped{"groups", "cn=admins,ou=x", []string{"admin"}}},
		{"https://example.com/groups=a/b=admin", false, &mapped{"https://example.com/groups", "a/b", []string{"admin"}}},
		{"groups,admins,admin", false, &mapped{"groups", "admins", []string{"admin"}}},
		{"groups=admins", false, nil},
		{"groups==admin", false, nil},
		{"=admins=admin", false, nil},
		{"groups,admins", false, nil},
		{"", false, nil},
	} {
		t.Run(tc.text, func(t *testing.T) {
			row, ok := parseRow(tc.text, tc.team)
			if ok != (tc.want != nil) {
				t.Fatal(row, ok)
			}
			if tc.want != nil && !cmp.Equal(row, *tc.want, cmp.AllowUnexported(mapped{})) {
				t.Error(cmp.Diff(*tc.want, row, cmp.AllowUnexported(mapped{})))
			}
		})
	}
}
