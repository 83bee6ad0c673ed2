package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func sessionsCommand() cliapp.Command {
	return cliapp.Command{
		Name: "sessions", Usage: "list and end sessions, which are what logins give",
		Commands: []cliapp.Command{
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list sessions, oldest first",
				Flags: []cliapp.Flag{{Name: "user", Usage: "those of `USER` only", Complete: completeAnyUser}, formatFlag("text")},
				Run:   sessionsList,
			},
			{
				Name: "rm", Usage: "end sessions", ArgsUsage: "[ID...]", MaxArgs: -1,
				Description: "Their certificates and cookies are worth nothing from then on, and their streams\nare cut. An ID may be shortened, to no less than 4 characters, as long as it\n" +
					"means one session. With --user alone, the user must have one session at most;\n--all ends them all.",
				Examples: []string{"tctl sessions rm 3f2a9c01", "tctl sessions rm --user=alice --all"},
				Flags: []cliapp.Flag{
					{Name: "user", Usage: "end sessions of `USER` only", Complete: completeAnyUser},
					{Name: "all", Kind: cliapp.Bool, Usage: "end all of the user's; needs --user"},
					formatFlag("text"),
				},
				Complete: completeSessions,
				Run:      sessionsRemove,
			},
		},
	}
}

func sessionsList(ctx context.Context, c *cliapp.Call) error {
	user := c.String("user")
	if err := checkUser(user); err != nil {
		return err
	}
	return withReplica(c, func(r *replica) error {
		sessions, err := r.Sessions(ctx, user)
		if err != nil {
			return err
		}
		return show(c, sessions, func() {
			if len(sessions) == 0 {
				c.Printf("No sessions found\n")
				return
			}
			c.Table(sessionRows(sessions))
		})
	})
}

func checkUser(user string) error {
	if user == "" {
		return nil
	}
	return api.ValidateName(api.KindUser, user)
}

func sessionRows(sessions []api.Session) (header []string, rows [][]string) {
	for _, s := range sessions {
		rows = append(rows, []string{s.User, s.Kind, client.Minute(s.Created), client.Minute(s.Expires), cmp.Or(s.ClientAddr, "-"), s.ID})
	}
	return []string{"User", "Kind", "Created (UTC)", "Expires (UTC)", "From", "ID"}, rows
}

func sessionsRemove(ctx context.Context, c *cliapp.Call) error {
	user, everything := c.String("user"), c.Bool("all")
	switch {
	case everything && user == "":
		return api.Errorf(api.CodeInvalid, "--all needs --user: say whose sessions to end")
	case everything && len(c.Args) > 0:
		return api.Errorf(api.CodeInvalid, "give IDs or --all, not both")
	case user == "" && len(c.Args) == 0:
		return api.Errorf(api.CodeInvalid, "say which: tctl sessions rm ID, or tctl sessions rm --user=NAME --all")
	}
	if err := checkUser(user); err != nil {
		return err
	}
	return withReplica(c, func(r *replica) error {
		sessions, err := r.Sessions(ctx, user)
		if err != nil {
			return err
		}
		doomed := sessions
		var missing error
		switch {
		case len(c.Args) > 0:
			if doomed, missing, err = pick(sessions, func(s api.Session) string { return s.ID }, picked{"session", "tctl sessions ls", "live"}, c.Args); err != nil {
				return err
			}
		case len(sessions) > 1 && !everything:
			return api.Errorf(api.CodeInvalid, "user %q has %d sessions: end them all with --all, or name one ('tctl sessions ls --user=%s' lists them)", user, len(sessions), user)
		}
		if i := slices.IndexFunc(doomed, func(s api.Session) bool { return s.ID == r.session }); i >= 0 && r.session != "" {
			own := doomed[i]
			doomed = append(slices.Delete(slices.Clone(doomed), i, i+1), own) // last: nothing can be asked after it
			if !scripted(c) {
				c.Warnf("this ends the session of your own login, too")
			}
		}
		text := c.String("format") == "text"
		ended := []api.Session{}
		failed := each(ctx, doomed, func(s api.Session) error {
			if err := r.EndSession(ctx, s.User, s.ID); err != nil && !api.IsCode(err, api.CodeNotFound) {
				return fmt.Errorf("session %s of user %q: %w", s.ID, s.User, err)
			}
			if ended = append(ended, s); text {
				c.Printf("Session %s of user %q has been ended\n", s.ID, s.User)
			}
			return nil
		})
		return errors.Join(missing, failed, show(c, ended, func() {
			if len(sessions) == 0 && len(c.Args) == 0 {
				c.Printf("User %q has no session\n", user)
			}
		}))
	})
}
