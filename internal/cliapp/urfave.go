package cliapp

import (
	"context"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// This file alone knows urfave/cli: it turns the declarations into its types,
// and a context of its own into a Call. Help and the environment are read here
// from the declarations, before: the library's help does not wrap lines, and it
// takes an empty variable for a value.

func (a *App) runURFave(ctx context.Context, root *Command, p *parsed, run runFunc) error {
	action := func(ctx *cli.Context) error {
		return run(ctx.Context, &Call{
			Args: ctx.Args().Slice(), Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, values: ctx, line: p,
		})
	}
	app := &cli.App{
		Name:        a.Name,
		HideVersion: true, HideHelp: true,
		Flags:          urfaveFlags(root.Flags),
		Reader:         a.Stdin,
		Writer:         a.Stdout,
		ErrWriter:      a.Stderr,
		ExitErrHandler: func(*cli.Context, error) {}, // Main decides how a program ends
		OnUsageError:   usageError,
		Action:         action,
	}
	for i := range root.Commands {
		app.Commands = append(app.Commands, urfaveCommand(&root.Commands[i], action))
	}
	return app.RunContext(ctx, append([]string{a.Name}, p.ordered()...))
}

func urfaveCommand(c *Command, action cli.ActionFunc) *cli.Command {
	out := &cli.Command{
		Name: c.Name, Aliases: c.Aliases, HideHelp: true,
		Flags: urfaveFlags(c.Flags), OnUsageError: usageError, Action: action,
	}
	for i := range c.Commands {
		out.Subcommands = append(out.Subcommands, urfaveCommand(&c.Commands[i], action))
	}
	return out
}

// usageError sees nothing that parse and resolve let pass.
func usageError(_ *cli.Context, err error, _ bool) error {
	return api.Errorf(api.CodeInvalid, "%w", err)
}

func urfaveFlags(flags []Flag) []cli.Flag {
	var out []cli.Flag
	for _, f := range flags {
		switch f.Kind {
		case String, Size: // Call.Size reads it
			out = append(out, &cli.StringFlag{Name: f.Name, Aliases: f.Aliases, Value: f.Default})
		case Strings:
			sf := &cli.StringSliceFlag{Name: f.Name, Aliases: f.Aliases}
			if f.Default != "" {
				sf.Value = cli.NewStringSlice(strings.Split(f.Default, ",")...)
			}
			out = append(out, sf)
		case Bool:
			out = append(out, &cli.BoolFlag{Name: f.Name, Aliases: f.Aliases, Value: f.Default == "true"})
		case Duration:
			d, _ := api.ParseDuration(f.Default) // "": zero
			out = append(out, &cli.DurationFlag{Name: f.Name, Aliases: f.Aliases, Value: d})
		case Int:
			n, _ := strconv.Atoi(f.Default) // "": zero
			out = append(out, &cli.IntFlag{Name: f.Name, Aliases: f.Aliases, Value: n})
		}
	}
	return out
}
