package auth

import (
	"strings"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Map says what a connector makes of an identity: every row that matches counts,
// and the roles of all are united in the order of the rows. CodeForbidden: there is
// none. pins are ids of organizations that the login's transaction is to remember
// (see Connectors.pin).
func Map(doc api.Connector, facts api.ConnectorFacts, id *api.SSOIdentity) (m api.SSOMapping, pins map[string]int64, err error) {
	var given unitedMapping
	if github, ok := doc.(*api.GithubConnector); ok {
		pins = given.teams(github, facts, id.Teams)
	} else {
		for _, row := range doc.Rows() {
			given.match(id.Attributes[row.Name], row.Value, row.Roles)
		}
	}
	if len(given.roles.list) == 0 {
		return api.SSOMapping{}, nil, errNoRow(doc, id)
	}
	m.Roles = given.roles.list
	for trait, values := range map[string][]string{api.TraitKubeGroups: given.groups.list, api.TraitKubeUsers: given.users.list} {
		if len(values) == 0 {
			continue
		}
		if m.Traits == nil {
			m.Traits = map[string][]string{}
		}
		m.Traits[trait] = values
	}
	return m, pins, nil
}

// errNoRow is worded as Teleport does it for GitHub: people search for that.
func errNoRow(doc api.Connector, id *api.SSOIdentity) error {
	user, name, rows := clip(id.Username), doc.Head().Metadata.Name, doc.Rows()
	if doc.ConnectorKind() == api.KindGithub || len(rows) == 0 {
		return api.Errorf(api.CodeForbidden, "user %q does not belong to any %ss configured in %q connector", user, doc.RowNoun(), name)
	}
	return api.Errorf(api.CodeForbidden, "user %q has no %ss that match %s of %q connector", user, doc.RowNoun(), strings.TrimPrefix(rows[0].List(), "spec."), name)
}

// united is a list of different values in the order in which they came.
type united struct {
	list []string
	seen map[string]bool
}

func (u *united) add(values ...string) {
	for _, v := range values {
		if u.seen[v] {
			continue
		}
		if u.seen == nil {
			u.seen = map[string]bool{}
		}
		u.seen[v] = true
		u.list = append(u.list, v)
	}
}

// unitedMapping is what the rows so far have given.
type unitedMapping struct{ roles, groups, users united }

// match gives the roles of a row if one of the values is meant. A pattern that does
// not compile, which no saved document has, means nobody.
func (u *unitedMapping) match(values []string, pattern string, roles []string) {
	p, err := api.CompilePattern(pattern)
	if err != nil {
		return
	}
	for _, v := range values {
		if p.Match(v) {
			u.roles.add(roles...)
			return
		}
	}
}

// teams gives what the teams of a person do, and the ids of organizations that are
// to be remembered.
func (u *unitedMapping) teams(doc *api.GithubConnector, facts api.ConnectorFacts, teams []api.GithubTeam) (pins map[string]int64) {
	of := memberships(facts, teams)
	member := func(organization, team string) bool {
		organization = strings.ToLower(organization)
		in := of[organization]
		if in == nil || !in.slugs[strings.ToLower(team)] {
			return false
		}
		if facts.Organizations[organization] == 0 {
			if pins == nil {
				pins = map[string]int64{}
			}
			pins[organization] = in.id
		}
		return true
	}
	for _, row := range doc.Spec.TeamsToLogins {
		if member(row.Organization, row.Team) {
			u.roles.add(api.RoleAccess)
			u.groups.add(row.KubernetesGroups...)
			u.users.add(row.KubernetesUsers...)
		}
	}
	for _, row := range doc.Spec.TeamsToRoles {
		if member(row.Organization, row.Team) {
			u.roles.add(row.Roles...)
		}
	}
	return pins
}

// membership is the teams of a person in one organization.
type membership struct {
	id    int64
	slugs map[string]bool
}

// memberships are the teams of a person by the names that the document has for
// their organizations: of one whose id is known the name that it had then, whatever
// it is called now, and of no other one. A team of an organization without an id is
// nobody's.
func memberships(facts api.ConnectorFacts, teams []api.GithubTeam) map[string]*membership {
	named := map[int64][]string{}
	for name, id := range facts.Organizations {
		named[id] = append(named[id], name)
	}
	out := map[string]*membership{}
	add := func(name string, t api.GithubTeam) {
		in := out[name]
		switch {
		case in == nil:
			in = &membership{id: t.OrganizationID, slugs: map[string]bool{}}
			out[name] = in
		case in.id != t.OrganizationID: // two that are called the same: neither is to be trusted
			in.slugs = nil
		}
		if in.slugs != nil {
			in.slugs[strings.ToLower(t.Slug)] = true
		}
	}
	for _, t := range teams {
		// Documents name teams in ASCII, and letters of other alphabets whose lower case
		// is an ASCII letter are no way round that.
		if t.OrganizationID == 0 || t.Slug == "" || !isASCII(t.Organization) || !isASCII(t.Slug) {
			continue
		}
		for _, name := range named[t.OrganizationID] {
			add(name, t)
		}
		if now := strings.ToLower(t.Organization); facts.Organizations[now] == 0 {
			add(now, t)
		}
	}
	return out
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
