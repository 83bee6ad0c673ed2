package authtest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// GithubConnector is the guide's: who is in the team admin of octocats becomes
// system:masters. edit may change it.
func GithubConnector(name string, edit ...func(*api.GithubSpec)) *api.GithubConnector {
	c := &api.GithubConnector{
		Header: api.Header{Kind: api.KindGithub, Version: "v3", Metadata: api.Metadata{Name: name}},
		Spec: api.GithubSpec{
			ClientID: "client-id", ClientSecret: "client-secret",
			TeamsToLogins: []api.TeamToLogins{{Organization: "octocats", Team: "admin", KubernetesGroups: []string{"system:masters"}}},
		},
	}
	for _, fn := range edit {
		fn(&c.Spec)
	}
	return c
}

// OIDCConnector gives who has the claim groups with the value admins the role access.
// edit may change it.
func OIDCConnector(name string, edit ...func(*api.OIDCSpec)) *api.OIDCConnector {
	c := &api.OIDCConnector{
		Header: api.Header{Kind: api.KindOIDC, Version: "v3", Metadata: api.Metadata{Name: name}},
		Spec: api.OIDCSpec{
			IssuerURL: "https://idp.example.com", ClientID: "client-id", ClientSecret: "client-secret",
			ClaimsToRoles: []api.ClaimToRole{{Claim: "groups", Value: "admins", Roles: []string{auth.RoleAccess}}},
		},
	}
	for _, fn := range edit {
		fn(&c.Spec)
	}
	return c
}

// PutConnector writes a connector, over any old one.
func (f *Fixture) PutConnector(t testing.TB, doc api.Connector) {
	t.Helper()
	if _, err := f.Connectors.Put(t.Context(), Admin(), doc, true); err != nil {
		t.Fatal(err)
	}
}

// OpenConnector is a connector as a callback has it.
func (f *Fixture) OpenConnector(t testing.TB, name string) *auth.OpenConnector {
	t.Helper()
	open, err := f.Connectors.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return open
}

// SSOState is a login at the identity provider of a connector, as it is when the
// browser has come back.
func (f *Fixture) SSOState(t testing.TB, connector string, edit ...func(*auth.SSOState)) *auth.SSOState {
	t.Helper()
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	st := auth.SSOState{ID: hex.EncodeToString(id), Kind: f.OpenConnector(t, connector).Doc.ConnectorKind(), Connector: connector}
	st.Flow = json.RawMessage(`{"id":"` + st.ID + `"}`)
	for _, fn := range edit {
		fn(&st)
	}
	text, err := f.SSO.Seal(st)
	if err != nil {
		t.Fatal(err)
	}
	back, err := f.SSO.Open(text)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// SSOLogin logs an identity in.
func (f *Fixture) SSOLogin(t testing.TB, connector string, id *api.SSOIdentity) *auth.WebSession {
	t.Helper()
	made, err := f.SSO.Login(t.Context(), f.SSOState(t, connector), f.OpenConnector(t, connector), id, Client)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// GithubIdentity is a member of teams, each ORGANIZATION/SLUG.
func GithubIdentity(subject, user string, teams ...string) *api.SSOIdentity {
	id := &api.SSOIdentity{Subject: subject, Username: user, Attributes: map[string][]string{"username": {user}}}
	ids := map[string]int64{}
	for _, team := range teams {
		org, slug, _ := strings.Cut(team, "/")
		if ids[org] == 0 {
			ids[org] = int64(len(ids) + 100)
			id.Attributes["github_orgs"] = append(id.Attributes["github_orgs"], org)
		}
		id.Teams = append(id.Teams, api.GithubTeam{Organization: org, OrganizationID: ids[org], Slug: slug})
		id.Attributes["github_teams"] = append(id.Attributes["github_teams"], team)
	}
	return id
}
