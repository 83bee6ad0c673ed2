package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func usersCommand() cliapp.Command {
	return cliapp.Command{
		Name: "users", Usage: "add, list, change, reset and remove users",
		Commands: []cliapp.Command{
			{
				Name: "add", Usage: "add a user and print the link by which a password is set", ArgsUsage: "NAME", MinArgs: 1, MaxArgs: 1,
				Examples: []string{
					`tctl users add alice --k8s-groups="system:masters"`,
					"tctl users add bob --roles=access,auditor --k8s-groups=dev,ops --ttl=24h",
				},
				Flags: []cliapp.Flag{
					{Name: "k8s-groups", Kind: cliapp.Strings, Usage: "Kubernetes `GROUPS` of the user; repeat it or separate them by commas"},
					{Name: "k8s-users", Kind: cliapp.Strings, Usage: "Kubernetes `USERS` that the user may act as"},
					{Name: "roles", Kind: cliapp.Strings, Usage: "give the user `ROLES`", Default: "access", Complete: completeRoles},
					{Name: "ttl", Kind: cliapp.Duration, Usage: "let the link work for `LIFE`, at most 48h", Default: "1h"},
					formatFlag("text"),
				},
				Run: usersAdd,
			},
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list users, and where they come from",
				Description: "Type is local for who has a password here, else the kind and name of the connector\nby which the user logged in last; roles are then those of that login.",
				Flags:       []cliapp.Flag{formatFlag("text")}, Run: usersList,
			},
			{
				Name: "update", Usage: "change a user's roles and Kubernetes groups", ArgsUsage: "NAME", MinArgs: 1, MaxArgs: 1,
				Description: "Each flag replaces what the user had; one given empty takes it all away. What\nhas no flag stays. Living sessions follow at once. For anything else there is\n'tctl edit user/NAME'.",
				Examples:    []string{"tctl users update alice --set-roles=access,auditor", "tctl users update bob --k8s-groups=dev --k8s-users="},
				Flags: []cliapp.Flag{
					{Name: "set-roles", Kind: cliapp.Strings, Usage: "the `ROLES` of the user from now on; --roles is the same", Complete: completeRoles},
					{Name: "roles", Kind: cliapp.Strings, Usage: "--set-roles", Hidden: true, Complete: completeRoles},
					{Name: "k8s-groups", Kind: cliapp.Strings, Usage: "the user's Kubernetes `GROUPS` from now on"},
					{Name: "k8s-users", Kind: cliapp.Strings, Usage: "the Kubernetes `USERS` that the user may act as from now on"},
					formatFlag("text"),
				},
				Complete: completeUsers, Run: usersUpdate,
			},
			{
				Name: "reset", Usage: "have a user set password and second factor anew", ArgsUsage: "NAME", MinArgs: 1, MaxArgs: 1,
				Description: "For who has forgotten the password or lost the phone: takes the password, the\nsecond factors and the sessions away, and prints the link by which they are set\nanew. Roles and groups stay.",
				Examples:    []string{"tctl users reset alice", "tctl users reset alice --ttl=1h"},
				Flags: []cliapp.Flag{
					{Name: "ttl", Kind: cliapp.Duration, Usage: "let the link work for `LIFE`, at most 24h", Default: "8h"},
					formatFlag("text"),
				},
				Complete: completeUsers, Run: usersReset,
			},
			{
				Name: "rm", Usage: "remove users; their sessions end at once", ArgsUsage: "NAME...", MinArgs: 1, MaxArgs: -1,
				Description: "Somebody who comes from a connector is forgotten with it, and can log in again as\nlong as the identity provider and the connector's mapping allow it.",
				Examples:    []string{"tctl users rm alice"}, Complete: completeAnyUser, Run: usersRemove,
			},
		},
	}
}

func usersAdd(ctx context.Context, c *cliapp.Call) error {
	user := api.User{
		Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: c.Args[0]}},
		Spec:   api.UserSpec{Roles: c.Strings("roles"), Traits: map[string][]string{}},
	}
	for _, t := range kubeTraits() {
		if values := c.Strings(t.flag); len(values) > 0 {
			user.Spec.Traits[t.trait] = values
		}
	}
	if err := cmp.Or(api.ValidateName(api.KindUser, c.Args[0]), user.Validate()); err != nil {
		return err
	}
	ttl, err := lifetime(c)
	if err != nil {
		return err
	}
	return withReplica(c, func(r *replica) error {
		resp, err := r.AddUser(ctx, &api.AddUserRequest{User: user, InviteTTL: ttl})
		if err != nil {
			return err
		}
		return show(c, resp, func() {
			c.Printf("User %q has been created but requires a password. Share this URL with the user to complete user setup, link is valid for %s:\n%s\n\n",
				resp.User.Metadata.Name, cliapp.ShortDuration(time.Duration(resp.TTL)), resp.InviteURL)
			printNote(c, resp.Proxy)
			if note := reachesNothing(ctx, r, &resp.User); note != "" {
				c.Notef("%s", note)
			}
		})
	})
}

// reachesNothing says that a new user can log in and no more, and what to do; "" if some
// role may give more, or if the caller may not know.
func reachesNothing(ctx context.Context, r *replica, u *api.User) string {
	name := u.Metadata.Name
	if len(u.Spec.Roles) == 0 {
		return fmt.Sprintf("User %q has no roles: they will be able to log in, and to reach nothing, until you give them some: tctl users update %s --set-roles=access --k8s-groups=GROUPS", name, name)
	}
	for _, role := range u.Spec.Roles {
		items, err := r.List(ctx, api.KindRole, role)
		if err != nil {
			return ""
		}
		docs, err := decodeAll[api.Role](items)
		if err != nil || slices.ContainsFunc(docs, func(d api.Role) bool { return mayGive(&d, u) }) {
			return ""
		}
	}
	what := "the role " + u.Spec.Roles[0] + " gives"
	if len(u.Spec.Roles) > 1 {
		what = "the roles " + strings.Join(u.Spec.Roles, ", ") + " give"
	}
	return fmt.Sprintf("User %q has no Kubernetes groups, and %s none: they will be able to log in, and to reach nothing, until you give them some: tctl users update %s --k8s-groups=GROUPS", name, what, name)
}

// mayGive reports whether a role gives a user anything: a rule, or a Kubernetes group or
// user, be it by a trait that they have. On which clusters, only those can tell.
func mayGive(role *api.Role, u *api.User) bool {
	allow := &role.Spec.Allow
	if len(allow.Rules) > 0 {
		return true
	}
	for _, value := range slices.Concat(allow.KubernetesGroups, allow.KubernetesUsers) {
		if !strings.Contains(value, "{{") {
			return true
		}
		for trait := range u.Spec.Traits {
			if strings.Contains(value, trait) {
				return true
			}
		}
	}
	return false
}

func printNote(c *cliapp.Call, proxy string) {
	c.Printf("NOTE: Make sure %s points at a Sallyport proxy which users can access.\n", proxy)
}

func lifetime(c *cliapp.Call) (api.Duration, error) {
	ttl := c.Duration("ttl")
	if ttl <= 0 {
		return 0, api.Errorf(api.CodeInvalid, "--ttl must be more than nothing")
	}
	return api.Duration(ttl), nil
}

// kubeTrait is a trait that a flag sets, and how people call it.
type kubeTrait struct{ flag, trait, spoken string }

func kubeTraits() []kubeTrait {
	return []kubeTrait{
		{"k8s-groups", api.TraitKubeGroups, "Kubernetes groups"},
		{"k8s-users", api.TraitKubeUsers, "Kubernetes users"},
	}
}

func usersReset(ctx context.Context, c *cliapp.Call) error {
	name := c.Args[0]
	if err := api.ValidateName(api.KindUser, name); err != nil {
		return err
	}
	ttl, err := lifetime(c)
	if err != nil {
		return err
	}
	return withReplica(c, func(r *replica) error {
		resp, err := r.ResetUser(ctx, &api.ResetUserRequest{User: name, TTL: ttl})
		if err != nil {
			return explainUser(ctx, r, name, err)
		}
		return show(c, resp, func() {
			c.Printf("User %q has been reset. Share this URL with the user to complete password reset, link is valid for %s:\n%s\n\n",
				resp.User, cliapp.ShortDuration(time.Duration(resp.TTL)), resp.ResetURL)
			printNote(c, resp.Proxy)
		})
	})
}

// listed is a user in the list of them: a local user's own document, or what would
// be one of somebody who comes from a connector.
type listed struct {
	api.User
	Type      string     `json:"type"`                // local, or the kind of the connector
	Connector string     `json:"connector,omitempty"` // this and the rest: who comes from one
	Subject   string     `json:"subject,omitempty"`
	Created   *time.Time `json:"created,omitempty"`
	LastLogin *time.Time `json:"last_login,omitempty"`
}

// from says where the user comes from, for people.
func (l *listed) from() string {
	if l.Connector == "" {
		return l.Type
	}
	return l.Type + ":" + l.Connector
}

func listUsers(ctx context.Context, r *replica) ([]listed, error) {
	items, err := r.List(ctx, api.KindUser, "")
	if err != nil {
		return nil, err
	}
	local, err := decodeAll[api.User](items)
	if err != nil {
		return nil, err
	}
	foreign, err := r.SSOUsers(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]listed, 0, len(local)+len(foreign))
	for _, u := range local {
		out = append(out, listed{User: u, Type: api.AuthLocal})
	}
	for _, u := range foreign {
		out = append(out, listed{
			User: api.User{
				Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: u.Name}},
				Spec:   api.UserSpec{Roles: u.Roles},
			},
			Type: u.Kind, Connector: u.Connector, Subject: u.Subject, Created: &u.Created, LastLogin: &u.LastLogin,
		})
	}
	slices.SortStableFunc(out, func(a, b listed) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return out, nil
}

func usersList(ctx context.Context, c *cliapp.Call) error {
	return withReplica(c, func(r *replica) error {
		users, err := listUsers(ctx, r)
		if err != nil {
			return err
		}
		return show(c, users, func() {
			if len(users) == 0 {
				c.Printf("No users found\n")
				return
			}
			rows := make([][]string, len(users))
			for i, u := range users {
				rows[i] = []string{u.Metadata.Name, strings.Join(u.Spec.Roles, ","), u.from()}
			}
			c.Table([]string{"User", "Roles", "Type"}, rows)
		})
	})
}

func usersRemove(ctx context.Context, c *cliapp.Call) error {
	var names []string
	for _, arg := range c.Args {
		for name := range strings.SplitSeq(arg, ",") {
			if err := api.ValidateName("user", name); err != nil {
				return err
			}
			names = append(names, name)
		}
	}
	return withReplica(c, func(r *replica) error {
		return each(ctx, names, func(name string) error {
			note := mayReturn(ssoUser(ctx, r, name))
			if err := r.Delete(ctx, api.KindUser, name, false); err != nil {
				return err
			}
			c.Printf("User '%s' has been deleted\n", name)
			if note != "" {
				c.Notef("%s", note)
			}
			return nil
		})
	})
}

func usersUpdate(ctx context.Context, c *cliapp.Call) error {
	name := c.Args[0]
	if err := api.ValidateName(api.KindUser, name); err != nil {
		return err
	}
	var change userChange
	for _, flag := range []string{"set-roles", "roles"} {
		if !c.IsSet(flag) {
			continue
		}
		if change.setRoles {
			return api.Errorf(api.CodeInvalid, "--set-roles and --roles are the same: give one")
		}
		change.roles = c.Strings(flag)
		change.lines = append(change.lines, update("roles", change.roles))
		change.setRoles = true
	}
	for _, t := range kubeTraits() {
		if c.IsSet(t.flag) {
			change.setTraits = append(change.setTraits, t.trait)
			change.traits = append(change.traits, c.Strings(t.flag))
			change.lines = append(change.lines, update(t.spoken, c.Strings(t.flag)))
		}
	}
	if len(change.lines) == 0 {
		return api.Errorf(api.CodeInvalid, "say what to change: --set-roles, --k8s-groups or --k8s-users; see 'tctl users update --help'")
	}
	return withReplica(c, func(r *replica) error {
		items, err := r.List(ctx, api.KindUser, name)
		if err != nil {
			return explainUser(ctx, r, name, err)
		}
		if len(items) != 1 {
			return api.Errorf(api.CodeInternal, "the replica gave %d documents for user %q", len(items), name)
		}
		doc, err := change.apply(items[0])
		if err != nil {
			return err
		}
		resp, err := r.Put(ctx, doc, true)
		if api.IsCode(err, api.CodeConflict) {
			return api.Errorf(api.CodeConflict, "somebody else changed user %q at the same moment: nothing was done, give the command again", name)
		}
		if err != nil {
			return err
		}
		return show(c, resp, func() {
			for _, line := range change.lines {
				c.Printf("%s has been updated with %s\n", name, line)
			}
		})
	})
}

func update(what string, values []string) string {
	if len(values) == 0 {
		return "no " + what
	}
	return what + " " + strings.Join(values, ",")
}

// userChange is what users update does to a document.
type userChange struct {
	setRoles  bool
	roles     []string
	setTraits []string
	traits    [][]string
	lines     []string // what to say of it
}

// apply changes a document as the replica gave it out: with the revision, so that
// nobody's change in between is lost, and with the fields that this tctl does not know.
func (u *userChange) apply(doc json.RawMessage) (json.RawMessage, error) {
	var user, spec, traits map[string]json.RawMessage
	err := decodeInto(doc, &user)
	if err == nil {
		err = decodeInto(user["spec"], &spec)
	}
	if err == nil {
		err = decodeInto(spec["traits"], &traits)
	}
	if err != nil {
		return nil, fmt.Errorf("read the user's document: %w", err)
	}
	if u.setRoles {
		spec["roles"], err = json.Marshal(append([]string{}, u.roles...))
	}
	for i, trait := range u.setTraits {
		delete(traits, trait)
		if len(u.traits[i]) > 0 && err == nil {
			traits[trait], err = json.Marshal(u.traits[i])
		}
	}
	if err == nil {
		spec["traits"], err = json.Marshal(traits)
	}
	if err == nil {
		user["spec"], err = json.Marshal(spec)
	}
	if err != nil {
		return nil, fmt.Errorf("write the user's document: %w", err)
	}
	return json.Marshal(user)
}

// decodeInto reads an object that may be absent.
func decodeInto(raw json.RawMessage, into *map[string]json.RawMessage) error {
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, into); err != nil {
			return err
		}
	}
	if *into == nil {
		*into = map[string]json.RawMessage{}
	}
	return nil
}
