package cliapp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// App is a program.
type App struct {
	Name        string
	Usage       string // one line
	Description string
	Version     string // 1.2.3: the version command and --version print "Sallyport v1.2.3"
	Flags       []Flag // known to every command
	Commands    []Command

	Environment []Variable // what the program reads beside its flags' variables, for help

	// Nil means the process's own.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Command is a command, or a group of them if Commands is set.
type Command struct {
	Name        string
	Aliases     []string
	Usage       string // one line
	ArgsUsage   string // NAME [FILE]
	Description string
	Examples    []string // command lines
	Flags       []Flag
	Commands    []Command
	MinArgs     int
	MaxArgs     int // -1: any number
	Hidden      bool
	// Complete gives candidates for the next argument; it must be quick and quiet.
	Complete func(*Call) []string
	// Settings, if set, is asked once for the values of flags that neither the command
	// line nor the environment sets; an error ends the run. It may look at flags'
	// values so far ("": not set). What it says of flags that the command lacks is
	// ignored.
	Settings func(get func(flag string) string) (map[string]Setting, error)
	Run      func(context.Context, *Call) error
}

type runFunc = func(context.Context, *Call) error

// Kind is the type of a flag's value.
type Kind int

// The kinds. A Strings flag may be repeated and takes commas between values. A
// Duration is as api.ParseDuration reads it, a Size as ParseSize does.
const (
	String Kind = iota
	Strings
	Bool
	Duration
	Int
	Size
)

// Flag is a flag. Usage names the value in backticks: "address of `HOST`".
type Flag struct {
	Name    string
	Aliases []string // one letter each: "f" is -f
	Kind    Kind
	Usage   string
	Env     string        // environment variable that sets it
	Default string        // as typed
	Values  []string      // the only values allowed, if any
	Max     time.Duration `json:",omitzero"` // the longest that a Duration may be; 0: any
	Hidden  bool
	// Complete gives candidates for the value where Values are none; as that of Command.
	Complete func(*Call) []string `json:"-"`
}

// Main runs the program with args (os.Args) and returns the exit status.
func (a *App) Main(ctx context.Context, args []string) int {
	app := *a
	if app.Stdin == nil {
		app.Stdin = os.Stdin
	}
	if app.Stdout == nil {
		app.Stdout = os.Stdout
	}
	if app.Stderr == nil {
		app.Stderr = os.Stderr
	}
	if len(args) > 0 {
		args = args[1:]
	}
	root := app.root()
	if len(args) > 0 && args[0] == completeCommand {
		app.complete(root, args[1:])
		return 0
	}
	run := app.run
	if len(args) == 1 && args[0] == declareCommand {
		run = func(context.Context, *Command, []string) error { return app.declare(root) }
	}
	err := run(ctx, root, args)
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		fmt.Fprintln(app.Stderr, "interrupted")
		return 130
	}
	fmt.Fprintf(app.Stderr, "%s %s\n", paint(app.Stderr, red, "ERROR:"), Clean(err.Error()))
	return api.CodeOf(err).ExitCode()
}

// root is the program as the topmost command.
func (a *App) root() *Command {
	return &Command{
		Name: a.Name, Usage: a.Usage, Description: a.Description, Flags: a.Flags,
		Commands: append(slices.Clone(a.Commands), a.versionCommand(), a.completionCommand()),
	}
}

// versionCommand is there because people try both "tctl version" and
// "tctl --version".
func (a *App) versionCommand() Command {
	return Command{Name: "version", Usage: "print the version", Run: func(context.Context, *Call) error { return a.printVersion() }}
}

func (a *App) printVersion() error {
	_, err := fmt.Fprintf(a.Stdout, "Sallyport v%s\n", a.Version)
	return err
}

func (a *App) run(ctx context.Context, root *Command, args []string) error {
	p, err := parse(root, args)
	if err != nil {
		return err
	}
	if p.version {
		return a.printVersion()
	}
	leaf := p.path[len(p.path)-1]
	if p.help || leaf.Run == nil {
		return a.help(a.Stdout, p.path)
	}
	if err := checkArgs(p.path, p.args); err != nil {
		return err
	}
	if err := p.environment(); err != nil {
		return err
	}
	var settings map[string]Setting
	if leaf.Settings != nil {
		if settings, err = leaf.Settings(p.value); err != nil {
			return err
		}
	}
	return a.call(ctx, root, p, settings, leaf.Run)
}

// call runs fn with a line and the settings for what is open in it.
func (a *App) call(ctx context.Context, root *Command, p *parsed, settings map[string]Setting, fn runFunc) error {
	full, err := p.with(settings)
	if err != nil {
		return err
	}
	return a.runURFave(ctx, root, full, func(ctx context.Context, c *Call) error {
		c.again = func(settings map[string]Setting) (again *Call, err error) {
			err = a.call(ctx, root, p, settings, func(_ context.Context, c *Call) error {
				again = c
				return nil
			})
			return again, err
		}
		if err := fn(ctx, c); err != nil {
			return err
		}
		return c.unwritten
	})
}

func checkArgs(path []*Command, args []string) error {
	leaf := path[len(path)-1]
	switch {
	case len(args) < leaf.MinArgs:
		return usagef(path, "%s is missing", argName(leaf, len(args)))
	case leaf.MaxArgs >= 0 && len(args) > leaf.MaxArgs:
		return usagef(path, "unexpected argument %q", args[leaf.MaxArgs])
	}
	return nil
}

// argName is the n-th word of ArgsUsage.
func argName(c *Command, n int) string {
	if words := strings.Fields(c.ArgsUsage); n < len(words) {
		word, optional := strings.CutPrefix(words[n], "[")
		if optional {
			word = strings.TrimSuffix(word, "]")
		}
		return word
	}
	return "an argument"
}

// usagef is a wrong use of the command at the end of path.
func usagef(path []*Command, format string, args ...any) error {
	return api.Errorf(api.CodeInvalid, "%s; see '%s --help'", fmt.Sprintf(format, args...), pathName(path))
}

func pathName(path []*Command) string {
	out := make([]string, len(path))
	for i, c := range path {
		out[i] = c.Name
	}
	return strings.Join(out, " ")
}
