package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func usersCommand() cliapp.Command {
	return cliapp.Command{
		Name: "users", Usage: "add, list and remove local users",
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
					{Name: "roles", Kind: cliapp.Strings, Usage: "give the user `ROLES`", Default: "access"},
					{Name: "ttl", Kind: cliapp.Duration, Usage: "let the link work for `LIFE`, at most 48h", Default: "1h"},
					formatFlag("text"),
				},
				Run: usersAdd,
			},
			{Name: "ls", Aliases: []string{"list"}, Usage: "list users", Flags: []cliapp.Flag{formatFlag("text")}, Run: usersList},
			{
				Name: "rm", Usage: "remove users; their sessions end at once", ArgsUsage: "NAME...", MinArgs: 1, MaxArgs: -1,
				Examples: []string{"tctl users rm alice"}, Run: usersRemove,
			},
		},
	}
}

func usersAdd(ctx context.Context, c *cliapp.Call) error {
	user := api.User{
		Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: c.Args[0]}},
		Spec:   api.UserSpec{Roles: c.Strings("roles"), Traits: map[string][]string{}},
	}
	for trait, flag := range map[string]string{api.TraitKubeGroups: "k8s-groups", api.TraitKubeUsers: "k8s-users"} {
		if values := c.Strings(flag); len(values) > 0 {
			user.Spec.Traits[trait] = values
		}
	}
	if err := user.Validate(); err != nil {
		return err
	}
	ttl := c.Duration("ttl")
	if ttl <= 0 {
		return api.Errorf(api.CodeInvalid, "--ttl must be more than nothing")
	}
	resp, err := connect(c).AddUser(ctx, &api.AddUserRequest{User: user, InviteTTL: api.Duration(ttl)})
	if err != nil {
		return err
	}
	return show(c, resp, func() {
		c.Printf("User %q has been created but requires a password. Share this URL with the user to complete user setup, link is valid for %s:\n%s\n\n",
			resp.User.Metadata.Name, short(time.Duration(resp.TTL)), resp.InviteURL)
		c.Printf("NOTE: Make sure %s points at a Sallyport proxy which users can access.\n", resp.Proxy)
	})
}

func usersList(ctx context.Context, c *cliapp.Call) error {
	items, err := connect(c).List(ctx, api.KindUser, "")
	if err != nil {
		return err
	}
	users := make([]api.User, len(items))
	for i, item := range items {
		if err := json.Unmarshal(item, &users[i]); err != nil {
			return fmt.Errorf("user %d of the answer: %w", i+1, err)
		}
	}
	return show(c, items, func() {
		if len(users) == 0 {
			c.Printf("No users found\n")
			return
		}
		rows := make([][]string, len(users))
		for i, u := range users {
			rows[i] = []string{u.Metadata.Name, strings.Join(u.Spec.Roles, ",")}
		}
		c.Table([]string{"User", "Roles"}, rows)
	})
}

func usersRemove(ctx context.Context, c *cliapp.Call) error {
	client := connect(c)
	for _, arg := range c.Args {
		for name := range strings.SplitSeq(arg, ",") {
			if err := api.ValidateName("user", name); err != nil {
				return err
			}
			if err := client.Delete(ctx, api.KindUser, name); err != nil {
				return err
			}
			c.Printf("User '%s' has been deleted\n", name)
		}
	}
	return nil
}
