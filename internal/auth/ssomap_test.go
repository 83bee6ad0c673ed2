package auth_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

const noTeams = `user "alice" does not belong to any teams configured in "github" connector` // the guide's

// Row "GitHub" of the threats: a renamed organization keeps working, who takes its
// name gets nothing.
func TestTeamsAreMapped(t *testing.T) {
	team := func(organization string, id int64, slug string) api.GithubTeam {
		return api.GithubTeam{Organization: organization, OrganizationID: id, Slug: slug}
	}
	roles := func(organization, team string, roles ...string) api.TeamToRoles {
		return api.TeamToRoles{Organization: organization, Team: team, Roles: roles}
	}
	pinned := func(name string, id int64) map[string]int64 { return map[string]int64{name: id} }
	logins := []api.TeamToLogins{
		{Organization: "octocats", Team: "admin", KubernetesGroups: []string{"system:masters", "view"}, Logins: []string{"{{external.username}}"}},
		{Organization: "octocats", Team: "devs", KubernetesGroups: []string{"view", "edit"}, KubernetesUsers: []string{"dev"}},
	}
	access := []string{"access"}
	groups := func(groups ...string) map[string][]string { return map[string][]string{"kubernetes_groups": groups} }
	tests := []struct {
		name   string
		logins []api.TeamToLogins
		roles  []api.TeamToRoles
		pinned map[string]int64
		teams  []api.GithubTeam
		want   api.SSOMapping
		pins   map[string]int64
		err    string
	}{
		{name: "the guide", logins: logins, teams: []api.GithubTeam{team("octocats", 1, "admin")},
			want: api.SSOMapping{Roles: access, Traits: groups("system:masters", "view")}, pins: pinned("octocats", 1)},
		{name: "the guide's failure", logins: logins, teams: []api.GithubTeam{team("octocats", 1, "ops")}, err: noTeams},
		{name: "no teams", logins: logins, err: noTeams},
		{name: "several rows", logins: logins, roles: []api.TeamToRoles{roles("octocats", "devs", "dev", "access"), roles("other", "devs", "no"), roles("octocats", "devs", "ops", "dev")},
			teams: []api.GithubTeam{team("octocats", 1, "devs"), team("octocats", 1, "admin"), team("octocats", 1, "devs")},
			want: api.SSOMapping{
				Roles:  []string{"access", "dev", "ops"},
				Traits: map[string][]string{"kubernetes_groups": {"system:masters", "view", "edit"}, "kubernetes_users": {"dev"}},
			}, pins: pinned("octocats", 1)},
		{name: "case does not matter", roles: []api.TeamToRoles{roles("OctoCats", "Admin", "dev")}, teams: []api.GithubTeam{team("oCTOCATS", 1, "aDMIN")},
			want: api.SSOMapping{Roles: []string{"dev"}}, pins: pinned("octocats", 1)},
		{name: "a renamed organization", logins: logins, pinned: pinned("octocats", 1), teams: []api.GithubTeam{team("felines", 1, "admin")},
			want: api.SSOMapping{Roles: access, Traits: groups("system:masters", "view")}},
		{name: "a name that somebody else took", logins: logins, pinned: pinned("octocats", 1), teams: []api.GithubTeam{team("octocats", 2, "admin")}, err: noTeams},
		{name: "both", roles: []api.TeamToRoles{roles("octocats", "admin", "admin"), roles("octocats", "devs", "dev")}, pinned: pinned("octocats", 1),
			teams: []api.GithubTeam{team("octocats", 2, "admin"), team("felines", 1, "devs")}, want: api.SSOMapping{Roles: []string{"dev"}}},
		{name: "another organization's team of the name", logins: logins, teams: []api.GithubTeam{team("evil", 2, "admin")}, err: noTeams},
		{name: "a name within a name", logins: logins, teams: []api.GithubTeam{team("octocats/admin", 2, ""), team("octocats", 1, "admin/x"), team("", 1, "octocats/admin")}, err: noTeams},
		{name: "no id", logins: logins, teams: []api.GithubTeam{team("octocats", 0, "admin")}, err: noTeams},
		{name: "two of one name", logins: logins, teams: []api.GithubTeam{team("octocats", 1, "admin"), team("Octocats", 2, "admin")}, err: noTeams},
		{name: "letters that are lower-cased to ASCII", roles: []api.TeamToRoles{roles("kats", "admin", "dev")}, teams: []api.GithubTeam{team("\u212aats", 1, "admin")}, err: noTeams},
		{name: "only what matched is pinned", roles: []api.TeamToRoles{roles("octocats", "admin", "dev"), roles("other", "x", "dev")},
			teams: []api.GithubTeam{team("octocats", 1, "admin"), team("other", 2, "y"), team("third", 3, "x")}, want: api.SSOMapping{Roles: []string{"dev"}}, pins: pinned("octocats", 1)},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			doc := githubDoc("github")
			doc.Spec.TeamsToLogins, doc.Spec.TeamsToRoles = tc.logins, tc.roles
			m, pins, err := auth.Map(doc, api.ConnectorFacts{Organizations: tc.pinned}, &api.SSOIdentity{Username: "alice", Teams: tc.teams})
			if tc.err != "" {
				if err == nil || err.Error() != tc.err || !api.IsCode(err, api.CodeForbidden) || m.Roles != nil || m.Traits != nil || pins != nil {
					t.Errorf("%v %+v %v", err, m, pins)
				}
				return
			}
			if d := cmp.Diff(tc.want, m); err != nil || d != "" {
				t.Error(err, d)
			}
			if d := cmp.Diff(tc.pins, pins, cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestClaimsAndAttributesAreMapped(t *testing.T) {
	type row struct {
		name, value string
		roles       []string
	}
	tests := []struct {
		name       string
		rows       []row
		attributes map[string][]string
		want       []string
	}{
		{"a value", []row{{"groups", "dev", []string{"a"}}}, map[string][]string{"groups": {"x", "dev"}}, []string{"a"}},
		{"all rows that match, in their order", []row{{"groups", "ops", []string{"c", "a"}}, {"groups", "dev", []string{"a", "b"}}, {"groups", "no", []string{"d"}}, {"team", "*", []string{"b", "e"}}},
			map[string][]string{"groups": {"dev", "ops"}, "team": {"red"}}, []string{"c", "a", "b", "e"}},
		{"a glob", []row{{"groups", "dev-*", []string{"a"}}}, map[string][]string{"groups": {"dev-eu"}}, []string{"a"}},
		{"a glob means the whole", []row{{"groups", "dev-*", []string{"a"}}}, map[string][]string{"groups": {"xdev-eu"}}, nil},
		{"a regular expression means the whole", []row{{"groups", "^dev|ops$", []string{"a"}}}, map[string][]string{"groups": {"devil", "xops"}}, nil},
		{"case matters", []row{{"groups", "dev", []string{"a"}}, {"Groups", "Dev", []string{"b"}}}, map[string][]string{"groups": {"Dev"}}, nil},
		{"any value is not no value", []row{{"groups", "*", []string{"a"}}}, map[string][]string{"groups": {}, "other": {"x"}}, nil},
		{"no attributes", []row{{"groups", "*", []string{"a"}}}, nil, nil},
		{"a pattern that no document has", []row{{"groups", "^($", []string{"a"}}}, map[string][]string{"groups": {"^($", "("}}, nil},
		// What a person may do comes of the rows alone.
		{"an attribute called kubernetes_groups", []row{{"groups", "dev", []string{"a"}}}, map[string][]string{"groups": {"dev"}, "kubernetes_groups": {"system:masters"}, "roles": {"admin"}}, []string{"a"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			oidc, saml := oidcDoc("dex"), samlDoc("okta")
			oidc.Spec.ClaimsToRoles, saml.Spec.AttributesToRoles = nil, nil
			for _, r := range tc.rows {
				oidc.Spec.ClaimsToRoles = append(oidc.Spec.ClaimsToRoles, api.ClaimToRole{Claim: r.name, Value: r.value, Roles: r.roles})
				saml.Spec.AttributesToRoles = append(saml.Spec.AttributesToRoles, api.AttributeToRole{Name: r.name, Value: r.value, Roles: r.roles})
			}
			id := &api.SSOIdentity{Username: "alice", Attributes: tc.attributes}
			for doc, refused := range map[api.Connector]string{
				oidc: `user "alice" has no claims that match claims_to_roles of "dex" connector`,
				saml: `user "alice" has no attributes that match attributes_to_roles of "okta" connector`,
			} {
				m, pins, err := auth.Map(doc, api.ConnectorFacts{}, id)
				if tc.want == nil {
					if err == nil || err.Error() != refused || !api.IsCode(err, api.CodeForbidden) {
						t.Error(err, m)
					}
					continue
				}
				if d := cmp.Diff(api.SSOMapping{Roles: tc.want}, m); err != nil || d != "" || pins != nil {
					t.Error(err, d, pins)
				}
			}
		})
	}
}

// What rows give does not depend on how many there are, or whether they come twice.
func TestManyRowsAreMapped(t *testing.T) {
	doc := oidcDoc("dex")
	doc.Spec.ClaimsToRoles = nil
	var values, want []string
	for i := range 500 {
		role := fmt.Sprint("r", i%250)
		doc.Spec.ClaimsToRoles = append(doc.Spec.ClaimsToRoles, api.ClaimToRole{Claim: "groups", Value: fmt.Sprintf("*%d*%d*", i, i), Roles: []string{role}})
		values = append(values, fmt.Sprintf("a%db%dc", i, i))
		if i < 250 {
			want = append(want, role)
		}
	}
	for _, teams := range [][]string{values, append(slices.Clone(values), values...)} {
		m, _, err := auth.Map(doc, api.ConnectorFacts{}, &api.SSOIdentity{Username: "alice", Attributes: map[string][]string{"groups": teams}})
		if d := cmp.Diff(want, m.Roles); err != nil || d != "" {
			t.Error(err, d)
		}
	}
	slices.Reverse(doc.Spec.ClaimsToRoles)
	m, _, err := auth.Map(doc, api.ConnectorFacts{}, &api.SSOIdentity{Username: "alice", Attributes: map[string][]string{"groups": values}})
	slices.Sort(m.Roles)
	slices.Sort(want)
	if d := cmp.Diff(want, m.Roles); err != nil || d != "" {
		t.Error("the order of rows changes what they give", err, d)
	}
}

func TestAnOrganizationIsKnownByItsIDFromTheFirstLoginOn(t *testing.T) {
	f := authtest.New(t)
	putConnector(t, f, githubDoc("github"), false)
	rec, _ := f.DB.View().Get("connectors/github")
	pin := func(pins map[string]int64) {
		t.Helper()
		txn, err := f.Pin(f.DB.View(), "github", pins)
		if err != nil {
			t.Fatal(err)
		}
		if len(txn.Ops) == 0 {
			return
		}
		if _, err := f.DB.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
	organizations := func() map[string]int64 {
		t.Helper()
		open, err := f.Connectors.Open("github")
		if err != nil {
			t.Fatal(err)
		}
		return open.Facts.Organizations
	}
	pin(nil)
	pin(map[string]int64{"evil": 7, "octocats": 0})
	if again, _ := f.DB.View().Get("connectors/github"); again.Revision != rec.Revision || organizations() != nil {
		t.Error("what is not the document's was remembered")
	}
	pin(map[string]int64{"octocats": 1})
	pin(map[string]int64{"octocats": 2})
	if d := cmp.Diff(map[string]int64{"octocats": 1}, organizations()); d != "" {
		t.Error(d)
	}
	again, _ := f.DB.View().Get("connectors/github")
	if !again.Created.Equal(rec.Created) {
		t.Error("the sessions of the connector would end")
	}
	if open, err := f.Connectors.Open("github"); err != nil || *open.Doc.Secrets()["spec.client_secret"] != clientSecret {
		t.Error("the secret is lost", err)
	}
	// Two first logins at once: one pins, the other must look again.
	putConnector(t, f, githubDoc("other"), false)
	one, err := f.Pin(f.DB.View(), "other", map[string]int64{"octocats": 1})
	if err != nil {
		t.Fatal(err)
	}
	two, err := f.Pin(f.DB.View(), "other", map[string]int64{"octocats": 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.DB.Commit(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if _, err := f.DB.Commit(t.Context(), two); !api.IsCode(err, api.CodeConflict) {
		t.Error(err)
	}
}
