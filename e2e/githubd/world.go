package githubd

import (
	"fmt"
	"slices"
	"strings"
)

// User is an account of a person.
type User struct {
	ID    int64
	Login string
}

type org struct {
	id    int64
	login string
	teams []*team
}

type team struct {
	id      int64
	slug    string
	members map[int64]bool // ids of users
}

// AddUser makes an account.
func (g *GitHub) AddUser(login string) User {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	u := &User{g.last, login}
	g.users = append(g.users, u)
	return *u
}

// RenameUser gives an account another login. The old one is free.
func (g *GitHub) RenameUser(old, login string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.userCalled(old)
	if u == nil {
		return fmt.Errorf("there is no user %q", old)
	}
	u.Login = login
	return nil
}

// AddOrg makes an organization and returns its number.
func (g *GitHub) AddOrg(login string) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addOrg(login).id
}

func (g *GitHub) addOrg(login string) *org {
	g.last++
	o := &org{id: g.last, login: login}
	g.orgs = append(g.orgs, o)
	return o
}

// RenameOrg gives an organization another name, with its number and teams. The old
// name is free: AddOrg(old) is somebody else who takes it.
func (g *GitHub) RenameOrg(old, login string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.orgCalled(old)
	if o == nil {
		return fmt.Errorf("there is no organization %q", old)
	}
	o.login = login
	return nil
}

// Join makes users members of a team "org/slug"; what is missing of both is made.
func (g *GitHub) Join(name string, logins ...string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	login, slug, found := strings.Cut(name, "/")
	if !found {
		return fmt.Errorf("team %q: want org/slug", name)
	}
	o := g.orgCalled(login)
	if o == nil {
		o = g.addOrg(login)
	}
	t := o.team(slug)
	if t == nil {
		g.last++
		t = &team{id: g.last, slug: slug, members: map[int64]bool{}}
		o.teams = append(o.teams, t)
	}
	for _, who := range logins {
		u := g.userCalled(who)
		if u == nil {
			return fmt.Errorf("there is no user %q", who)
		}
		t.members[u.ID] = true
	}
	return nil
}

// Leave ends memberships of a team "org/slug".
func (g *GitHub) Leave(name string, logins ...string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	login, slug, _ := strings.Cut(name, "/")
	o := g.orgCalled(login)
	if o == nil || o.team(slug) == nil {
		return fmt.Errorf("there is no team %q", name)
	}
	for _, who := range logins {
		if u := g.userCalled(who); u != nil {
			delete(o.team(slug).members, u.ID)
		}
	}
	return nil
}

func (o *org) team(slug string) *team {
	i := slices.IndexFunc(o.teams, func(t *team) bool { return strings.EqualFold(t.slug, slug) })
	if i < 0 {
		return nil
	}
	return o.teams[i]
}

func (o *org) json() map[string]any {
	return map[string]any{"id": o.id, "login": o.login, "node_id": fmt.Sprintf("O_%d", o.id), "description": nil}
}

func (g *GitHub) userCalled(login string) *User {
	i := slices.IndexFunc(g.users, func(u *User) bool { return strings.EqualFold(u.Login, login) })
	if i < 0 {
		return nil
	}
	return g.users[i]
}

func (g *GitHub) orgCalled(login string) *org {
	i := slices.IndexFunc(g.orgs, func(o *org) bool { return strings.EqualFold(o.login, login) })
	if i < 0 {
		return nil
	}
	return g.orgs[i]
}

// teamsOf and orgsOf are as the API shows them.
func (g *GitHub) teamsOf(id int64) (all []any) {
	for _, o := range g.orgs {
		for _, t := range o.teams {
			if t.members[id] {
				all = append(all, map[string]any{"id": t.id, "slug": t.slug, "name": t.slug, "privacy": "closed", "parent": nil, "organization": o.json()})
			}
		}
	}
	return all
}

func (g *GitHub) orgsOf(id int64) (all []any) {
	for _, o := range g.orgs {
		if slices.ContainsFunc(o.teams, func(t *team) bool { return t.members[id] }) {
			all = append(all, o.json())
		}
	}
	return all
}
