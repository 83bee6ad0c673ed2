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
// and a context of its own into a Call.

func (a *App) runURFave(ctx context.Context, root *Command, args []string, sources map[string]string) error {
	app := &cli.App{
		Name: a.Name, HelpName: a.Name, Usage: a.Usage, Description: a.Description,
		HideVersion: true, HideHelpCommand: true,
		Flags:                 urfaveFlags(root.Flags),
		Reader:                a.Stdin,
		Writer:                a.Stdout,
		ErrWriter:             a.Stderr,
		ExitErrHandler:        func(*cli.Context, error) {}, // Main decides how a program ends
		OnUsageError:          usageError,
		CustomAppHelpTemplate: helpTemplate,
	}
	if root.Run != nil {
		app.Action = a.action(root, sources)
	}
	help := helpTemplate + globalHelp(app.Flags)
	for i := range root.Commands {
		app.Commands = append(app.Commands, a.urfaveCommand(&root.Commands[i], help, sources))
	}
	return app.RunContext(ctx, append([]string{a.Name}, args...))
}

func (a *App) urfaveCommand(c *Command, help string, sources map[string]string) *cli.Command {
	out := &cli.Command{
		Name: c.Name, Aliases: c.Aliases, Usage: c.Usage, ArgsUsage: c.ArgsUsage,
		Description: c.Description, Hidden: c.Hidden, HideHelpCommand: true,
		Flags: urfaveFlags(c.Flags), OnUsageError: usageError,
		CustomHelpTemplate: help,
	}
	if len(c.Examples) > 0 {
		out.Description = strings.TrimSpace(c.Description + "\n\nExamples:\n\n   " + strings.Join(c.Examples, "\n   "))
	}
	if c.Run != nil {
		out.Action = a.action(c, sources)
	}
	for i := range c.Commands {
		out.Subcommands = append(out.Subcommands, a.urfaveCommand(&c.Commands[i], help, sources))
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

// usageError sees only bad environment variables: parse has checked the rest.
func usageError(_ *cli.Context, err error, _ bool) error {
	return api.Errorf(api.CodeInvalid, "%w", err)
}

func urfaveFlags(flags []Flag) []cli.Flag {
	var out []cli.Flag
	for _, f := range flags {
		var env []string
		if f.Env != "" {
			env = []string{f.Env}
		}
		usage := f.Usage
		if len(f.Values) > 0 {
			usage += " (" + strings.Join(f.Values, ", ") + ")"
		}
		switch f.Kind {
		case String:
			out = append(out, &cli.StringFlag{Name: f.Name, Aliases: f.Aliases, Usage: usage, EnvVars: env, Value: f.Default, Hidden: f.Hidden})
		case Strings:
			sf := &cli.StringSliceFlag{Name: f.Name, Aliases: f.Aliases, Usage: usage, EnvVars: env, Hidden: f.Hidden}
			if f.Default != "" {
				sf.Value = cli.NewStringSlice(strings.Split(f.Default, ",")...)
			}
			out = append(out, sf)
		case Bool:
			out = append(out, &cli.BoolFlag{Name: f.Name, Aliases: f.Aliases, Usage: usage, EnvVars: env, Value: f.Default == "true", Hidden: f.Hidden, DisableDefaultText: true})
		case Duration:
			d, _ := time.ParseDuration(f.Default) // "": zero
			out = append(out, &cli.DurationFlag{Name: f.Name, Aliases: f.Aliases, Usage: usage, EnvVars: env, Value: d, Hidden: f.Hidden})
		case Int:
			n, _ := strconv.Atoi(f.Default) // "": zero
			number := &cli.IntFlag{Name: f.Name, Aliases: f.Aliases, Usage: usage, EnvVars: env, Value: n, Hidden: f.Hidden}
			if f.Default == "" {
				out = append(out, noDefault{number})
			} else {
				out = append(out, number)
			}
		}
	}
	return out
}

// noDefault is a number whose help does not say "(default: 0)": without a
// default, the usage says what its absence means.
type noDefault struct{ *cli.IntFlag }

func (f noDefault) GetDefaultText() string { return "" }
func (f noDefault) String() string         { return cli.FlagStringer(f) }

// globalHelp is the part of a template that shows the program's own flags below
// each command's.
func globalHelp(flags []cli.Flag) string {
	var b strings.Builder
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() {
			b.WriteString("   " + f.String() + "\n")
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "{{" + strconv.Quote("\nGlobal flags:\n"+b.String()) + "}}"
}

// helpTemplate is shorter than the library's own and the same at every level.
const helpTemplate = `{{.HelpName}}{{if .Usage}} - {{.Usage}}{{end}}

Usage:
   {{.HelpName}}{{if .VisibleCommands}} COMMAND{{end}}{{if .VisibleFlags}} [flags]{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}
{{- if .Description}}

{{.Description}}{{end}}
{{- if .VisibleCommands}}

Commands:{{range .VisibleCommands}}
   {{join .Names ", "}}{{"\t"}}{{.Usage}}{{end}}{{end}}
{{- if .VisibleFlags}}

Flags:{{range .VisibleFlags}}
   {{.}}{{end}}{{end}}
`
