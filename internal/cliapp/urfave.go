package cliapp

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// This file alone knows urfave/cli: it turns the declarations into its types,
// and a context of its own into a Call. Help and the environment are read here
// from the declarations, before: the library's help does not wrap lines, and it
// takes an empty variable for a value.

func (a *App) runURFave(ctx context.Context, root *Command, args []string, sources map[string]string) error {
	app := &cli.App{
		Name:        a.Name,
		HideVersion: true, HideHelp: true,
		Flags:          urfaveFlags(root.Flags),
		Reader:         a.Stdin,
		Writer:         a.Stdout,
		ErrWriter:      a.Stderr,
		ExitErrHandler: func(*cli.Context, error) {}, // Main decides how a program ends
		OnUsageError:   usageError,
	}
	if root.Run != nil {
		app.Action = a.action(root, sources)
	}
	for i := range root.Commands {
		app.Commands = append(app.Commands, a.urfaveCommand(&root.Commands[i], sources))
	}
	return app.RunContext(ctx, append([]string{a.Name}, args...))
}

func (a *App) urfaveCommand(c *Command, sources map[string]string) *cli.Command {
	out := &cli.Command{
		Name: c.Name, Aliases: c.Aliases, HideHelp: true,
		Flags: urfaveFlags(c.Flags), OnUsageError: usageError,
	}
	if c.Run != nil {
		out.Action = a.action(c, sources)
	}
	for i := range c.Commands {
		out.Subcommands = append(out.Subcommands, a.urfaveCommand(&c.Commands[i], sources))
	}
	return out
}

func (a *App) action(c *Command, sources map[string]string) cli.ActionFunc {
	return func(ctx *cli.Context) error {
		return c.Run(ctx.Context, &Call{
			Args: ctx.Args().Slice(), Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, values: ctx, sources: sources,
		})
	}
}

// usageError sees nothing that parse and resolve let pass.
func usageError(_ *cli.Context, err error, _ bool) error {
	return api.Errorf(api.CodeInvalid, "%w", err)
}

func urfaveFlags(flags []Flag) []cli.Flag {
	var out []cli.Flag
	for _, f := range flags {
		switch f.Kind {
		case String:
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
			d, _ := time.ParseDuration(f.Default) // "": zero
			out = append(out, &cli.DurationFlag{Name: f.Name, Aliases: f.Aliases, Value: d})
		case Int:
			n, _ := strconv.Atoi(f.Default) // "": zero
			out = append(out, &cli.IntFlag{Name: f.Name, Aliases: f.Aliases, Value: n})
		}
	}
	return out
}
