package cliapp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// demo is a program that prints what it was told.
func demo(stdout, stderr io.Writer) *App {
	show := func(name string) func(context.Context, *Call) error {
		return func(_ context.Context, c *Call) error {
			c.Printf("%s args=%q groups=%q ttl=%s force=%v socket=%q auth=%q\n", name, c.Args, c.Strings("groups"),
				c.Duration("ttl"), c.Bool("force"), c.String("socket"), c.String("auth"))
			return nil
		}
	}
	return &App{
		Name: "demo", Usage: "show what was typed", Version: "1.2.3",
		Flags: []Flag{{Name: "socket", Env: "DEMO_SOCKET", Default: "/default", Usage: "`PATH` of the socket"}},
		Commands: []Command{
			{
				Name: "users", Usage: "manage users",
				Commands: []Command{
					{
						Name: "add", Usage: "add a user", ArgsUsage: "NAME", MinArgs: 1, MaxArgs: 1, Run: show("add"),
						Description: "Adds a user.", Examples: []string{"demo users add alice"},
						Flags: []Flag{
							{Name: "groups", Kind: Strings, Usage: "`GROUPS` of the user", Complete: func(*Call) []string { return []string{"dev", "ops"} }},
							{Name: "ttl", Kind: Duration, Env: "DEMO_TTL", Usage: "life of the link"},
						},
					},
					{Name: "ls", Aliases: []string{"list"}, Usage: "list users", Run: show("ls"), Flags: []Flag{
						{Name: "format", Values: []string{"text", "json"}, Default: "text", Usage: "output"},
					}},
				},
			},
			{
				Name: "create", Usage: "create", ArgsUsage: "[FILE]", MaxArgs: 1, Run: show("create"),
				Flags: []Flag{{Name: "force", Aliases: []string{"f"}, Kind: Bool, Usage: "replace"}},
			},
			{
				Name: "login", Usage: "log in", Run: show("login"), Flags: []Flag{{Name: "auth", Usage: "connector"}},
			},
			{
				Name: "fail", Usage: "fail", Run: func(context.Context, *Call) error {
					return api.Errorf(api.CodeNotFound, "nothing named \x1b[31mx")
				},
				Complete: func(*Call) []string { return []string{"one", "two"} }, MaxArgs: 1,
			},
		},
		Stdin: strings.NewReader(""), Stdout: stdout, Stderr: stderr,
	}
}

func runDemo(args ...string) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	status = demo(&out, &errs).Main(context.Background(), append([]string{"demo"}, args...))
	return out.String(), errs.String(), status
}

func TestFlagsWorkAnywhere(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"users add alice --groups=a,b", `add args=["alice"] groups=["a" "b"] ttl=0s force=false socket="/default" auth=""`},
		{"users add --groups a --groups b,a alice", `add args=["alice"] groups=["a" "b"] ttl=0s force=false socket="/default" auth=""`},
		{"users --groups=a add alice", `add args=["alice"] groups=["a"] ttl=0s force=false socket="/default" auth=""`},
		{"users add alice --socket /x --ttl=10000h", `add args=["alice"] groups=[] ttl=10000h0m0s force=false socket="/x" auth=""`},
		{"--socket=/x users add groups", `add args=["groups"] groups=[] ttl=0s force=false socket="/x" auth=""`},
		{"users add help", `add args=["help"] groups=[] ttl=0s force=false socket="/default" auth=""`},
		{"create -f", `create args=[] groups=[] ttl=0s force=true socket="/default" auth=""`},
		{"create -f x", `create args=["x"] groups=[] ttl=0s force=true socket="/default" auth=""`},
		{"create x -f", `create args=["x"] groups=[] ttl=0s force=true socket="/default" auth=""`},
		{"create x --force=false", `create args=["x"] groups=[] ttl=0s force=false socket="/default" auth=""`},
		{"create -", `create args=["-"] groups=[] ttl=0s force=false socket="/default" auth=""`},
		{"create -- -f", `create args=["-f"] groups=[] ttl=0s force=false socket="/default" auth=""`},
		{"--auth=github login", `login args=[] groups=[] ttl=0s force=false socket="/default" auth="github"`},
		{"--auth github login", `login args=[] groups=[] ttl=0s force=false socket="/default" auth="github"`},
		{"users list", `ls args=[] groups=[] ttl=0s force=false socket="/default" auth=""`},
	} {
		t.Run(test.line, func(t *testing.T) {
			stdout, stderr, status := runDemo(strings.Fields(test.line)...)
			if stdout != test.want+"\n" || stderr != "" || status != 0 {
				t.Errorf("status %d, stderr %q, stdout\n%s\nwant\n%s", status, stderr, stdout, test.want)
			}
		})
	}
}

func TestWrongUsageSaysWhatToDo(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"users add alice --group=a", `'demo users add' has no flag --group, did you mean --groups?; see 'demo users add --help'`},
		{"users add -x", `'demo users add' has no flag -x; see 'demo users add --help'`},
		{"users add", `NAME is missing; see 'demo users add --help'`},
		{"users add a b", `unexpected argument "b"; see 'demo users add --help'`},
		{"users ad alice", `there is no command "demo users ad", did you mean "add"?; see 'demo users --help'`},
		{"uesrs", `there is no command "demo uesrs", did you mean "users"?; see 'demo --help'`},
		{"users add alice --ttl=1x", `flag --ttl: "1x" is not a duration such as 30m, 12h or 7d; see 'demo users add --help'`},
		{"users add alice --ttl", `flag --ttl needs a value; see 'demo users add --help'`},
		{"users add alice --ttl --groups=x", `flag --ttl needs a value; see 'demo users add --help'`},
		{"users ls --format=jsn", `flag --format: "jsn" is none of text, json, did you mean "json"?; see 'demo users ls --help'`},
		{"create --force=maybe", `flag --force: "maybe" is neither true nor false; see 'demo create --help'`},
		{"--auth=x create", `'demo create' has no flag --auth; see 'demo create --help'`},
	} {
		t.Run(test.line, func(t *testing.T) {
			stdout, stderr, status := runDemo(strings.Fields(test.line)...)
			if want := "ERROR: " + test.want + "\n"; stderr != want || stdout != "" || status != 2 {
				t.Errorf("status %d, stdout %q, stderr\n%s\nwant\n%s", status, stdout, stderr, want)
			}
		})
	}
}

func TestErrorsGiveTheirExitStatusAndCannotDriveTheTerminal(t *testing.T) {
	stdout, stderr, status := runDemo("fail")
	if want := "ERROR: nothing named \\u001b[31mx\n"; stderr != want || stdout != "" || status != 5 {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
}

// fullDisk takes some bytes and then none.
type fullDisk struct {
	room int
	err  error
}

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.room -= len(p); d.room < 0 {
		return 0, d.err
	}
	return len(p), nil
}

func TestAnAnswerThatIsLostIsAnError(t *testing.T) {
	for name, test := range map[string]struct {
		room   int
		err    error
		stderr string
		status int
	}{
		"room for all":  {1 << 20, nil, "", 0},
		"a full disk":   {0, syscall.ENOSPC, "ERROR: not all of the answer could be written: no space left on device\n", 1},
		"full later on": {20, syscall.ENOSPC, "ERROR: not all of the answer could be written: no space left on device\n", 1},
		"read enough":   {0, fmt.Errorf("write: %w", syscall.EPIPE), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var errs bytes.Buffer
			app := &App{Name: "x", Stdout: &fullDisk{test.room, test.err}, Stderr: &errs, Commands: []Command{{Name: "add", Run: func(_ context.Context, c *Call) error {
				c.Printf("the link is %s\n", "here")
				c.Table([]string{"User", "Roles"}, [][]string{{"alice", "access"}})
				return nil
			}}}}
			if status := app.Main(t.Context(), []string{"x", "add"}); status != test.status || errs.String() != test.stderr {
				t.Errorf("status %d, stderr %q", status, errs.String())
			}
		})
	}
}

func TestEnvironmentFillsFlags(t *testing.T) {
	t.Setenv("DEMO_SOCKET", "/env")
	if stdout, _, _ := runDemo("create"); !strings.Contains(stdout, `socket="/env"`) {
		t.Error(stdout)
	}
	if stdout, _, _ := runDemo("create", "--socket=/flag"); !strings.Contains(stdout, `socket="/flag"`) {
		t.Error(stdout)
	}
	t.Setenv("DEMO_TTL", "soon")
	if _, stderr, status := runDemo("users", "add", "alice"); status != 2 || !strings.Contains(stderr, "DEMO_TTL") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

func TestInterruptEndsWith130(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	app := &App{Name: "x", Stdout: io.Discard, Stderr: io.Discard, Commands: []Command{{Name: "work", Run: func(ctx context.Context, _ *Call) error {
		return fmt.Errorf("work: %w", ctx.Err())
	}}}}
	if status := app.Main(ctx, []string{"x", "work"}); status != 130 {
		t.Error(status)
	}
}

func TestHelp(t *testing.T) {
	want := `demo users add - add a user

Usage:
   demo users add [flags] NAME

Adds a user.

Examples:
   demo users add alice

Flags:
   --groups GROUPS...  GROUPS of the user
   --ttl DURATION      life of the link [$DEMO_TTL]
   -h, --help          show help

Global flags:
   --socket PATH       PATH of the socket (default: /default) [$DEMO_SOCKET]
`
	for _, line := range []string{"users add --help", "users add -h alice", "help users add", "users help add", "--help users add"} {
		stdout, stderr, status := runDemo(strings.Fields(line)...)
		if diff := cmp.Diff(want, stdout); diff != "" || status != 0 || stderr != "" {
			t.Errorf("%s: status %d, stderr %q\n%s", line, status, stderr, diff)
		}
	}
	stdout, _, status := runDemo()
	if status != 0 || !strings.Contains(stdout, "Commands:\n   users ") {
		t.Error(status, stdout)
	}
	for _, word := range []string{"--version", "version"} {
		if stdout, _, _ := runDemo(word); stdout != "Sallyport v1.2.3\n" {
			t.Error(word, stdout)
		}
	}
}

func TestHelpOfAGroupNamesTheVariables(t *testing.T) {
	var out bytes.Buffer
	app := demo(&out, io.Discard)
	app.Environment = []Variable{{"DEMO_HOME", "directory of everything that this demonstration writes, which is nothing at all, so that it may be any"}}
	app.Commands[1].Flags = append(app.Commands[1].Flags, Flag{Name: "a-flag-of-a-name-too-long-to-share-a-line", Usage: "is `ODD`", Default: "1", Values: []string{"1", "2"}})
	if status := app.Main(t.Context(), []string{"demo", "--help"}); status != 0 {
		t.Error(status)
	}
	want := `demo - show what was typed

Usage:
   demo COMMAND [flags]

Commands:
   users          manage users
   create         create
   login          log in
   fail           fail
   version        print the version
   completion     print a shell's completion script

Flags:
   --socket PATH  PATH of the socket (default: /default) [$DEMO_SOCKET]
   -h, --help     show help

Environment:
   DEMO_SOCKET    --socket
   DEMO_TTL       --ttl
   DEMO_HOME      directory of everything that this demonstration writes, which
                  is nothing at all, so that it may be any
   NO_COLOR       no colours, if set
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	out.Reset()
	app.Main(t.Context(), []string{"demo", "create", "--help"})
	want = `demo create - create

Usage:
   demo create [flags] [FILE]

Flags:
   -f, --force    replace
   --a-flag-of-a-name-too-long-to-share-a-line ODD
                  is ODD (1, 2) (default: 1)
   -h, --help     show help

Global flags:
   --socket PATH  PATH of the socket (default: /default) [$DEMO_SOCKET]
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestShortDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Hour: "1h", 48 * time.Hour: "48h", 90 * time.Minute: "1h30m", 30 * time.Minute: "30m",
		90 * time.Second: "1m30s", 10 * time.Second: "10s", 100 * time.Minute: "1h40m",
	} {
		if got := ShortDuration(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"", []string{""}},
		{"a bb ccc", []string{"a bb", "ccc"}},
		{"  a bb ccc", []string{"  a", "  bb", "  ccc"}},
		{"aaaaaaaaa b", []string{"aaaaaaaaa", "b"}},
		{"ä ö ü", []string{"ä ö ü"}},
	} {
		if diff := cmp.Diff(test.want, Wrap(test.text, 5)); diff != "" {
			t.Errorf("%q: %s", test.text, diff)
		}
	}
}

// TestParagraphsAreWrappedOnce: where their lines end in the source does not show.
func TestParagraphsAreWrappedOnce(t *testing.T) {
	for text, want := range map[string][]string{
		"a bb\nccc dd e\nf":        {"a bb", "ccc dd", "e f"},
		"a\n\nb\nc":                {"a", "", "b c"},
		"a:\n  b c d e\n  f\ng\nh": {"a:", "  b c", "  d e", "  f", "g h"},
		"":                         {""},
	} {
		if diff := cmp.Diff(want, Reflow(text, 6)); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{""}, "users create login fail version completion"},
		{[]string{"us"}, "users"},
		{[]string{"users", ""}, "add ls"},
		{[]string{"users", "add", "--g"}, "--groups"},
		{[]string{"users", "ls", "--format", ""}, "text json"},
		{[]string{"users", "ls", "--format", "=", "j"}, "--format=json"},
		{[]string{"users", "ls", "--format", "="}, "--format=text --format=json"},
		{[]string{"users", "add", "--groups", ""}, "dev ops"},
		{[]string{"users", "add", "--groups=o"}, "--groups=ops"},
		{[]string{"users", "add", "--groups=dev,"}, "--groups=dev,dev --groups=dev,ops"},
		{[]string{"users", "add", "--groups", "dev,o"}, "dev,ops"},
		{[]string{"--groups", "", "users"}, "users"},
		{[]string{"fail", "t"}, "two"},
		{[]string{"--socket", "/x", "fail", ""}, "one two"},
		{[]string{"nonsense", ""}, ""},
		{nil, "users create login fail version completion"},
	} {
		stdout, stderr, status := runDemo(append([]string{completeCommand}, test.words...)...)
		if got := strings.Join(strings.Fields(stdout), " "); got != test.want || stderr != "" || status != 0 {
			t.Errorf("%q: %q, want %q (stderr %q)", test.words, got, test.want, stderr)
		}
	}
}

// TestCompletionScripts runs each shell that is here with the script for it, and a
// program that completes as this package does.
func TestCompletionScripts(t *testing.T) {
	if os.Getenv("CLIAPP_TEST_DEMO") != "" { // as that program
		os.Exit(demo(os.Stdout, os.Stderr).Main(t.Context(), append([]string{"demo"}, strings.Split(os.Getenv("CLIAPP_TEST_DEMO"), "\x1f")...)))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := "#!/bin/sh\nargs=$(printf '%s\\037' \"$@\")\nexport CLIAPP_TEST_DEMO=\"${args%?}\"\nexec " + self + " -test.run='^TestCompletionScripts$'\n"
	if err := os.WriteFile(filepath.Join(dir, "demo"), []byte(program), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "afile"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for shell, run := range map[string]struct {
		args  []string
		setup string            // before the lines
		lines map[string]string // what is typed: what is offered
	}{
		"bash": {
			args: []string{"--norc", "--noprofile", "-c"},
			setup: "offer() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($#-1)); COMPREPLY=(); _demo_complete; echo \"${COMPREPLY[@]}\"; }\n" +
				"[[ $(complete -p demo) == 'complete -o default -F _demo_complete demo' ]] || echo not registered\n",
			lines: map[string]string{
				"offer demo ''": "users create login fail version completion", "offer demo us": "users",
				"offer demo users ls --format ''": "text json", "offer demo users ls --format = ''": "text json", "offer demo users ls --format = j": "json",
				"offer demo users add --g": "--groups", "offer demo create a": "",
			},
		},
		"zsh": {
			args:  []string{"-f", "-c"},
			setup: "compadd() { shift; print -- \"$@\" }; _files() { print files }; offer() { words=(\"$@\"); CURRENT=$#words; _demo }\n[[ $_comps[demo] == _demo ]] || print not registered\n",
			lines: map[string]string{
				"offer demo ''": "users create login fail version completion", "offer demo us": "users",
				"offer demo users ls --format ''": "text json", "offer demo users ls --format=j": "--format=json",
				"offer demo users add --g": "--groups", "offer demo create a": "files",
			},
		},
		"fish": {
			args:  []string{"--no-config", "-c"},
			setup: "function offer; string join -- ' ' (complete -C \"$argv\"); end\n",
			lines: map[string]string{
				"offer 'demo '": "completion create fail login users version", "offer 'demo us'": "users",
				"offer 'demo users ls --format '": "json text", "offer 'demo users ls --format=j'": "--format=json",
				"offer 'demo users add --g'": "--groups", "offer 'demo create a'": "afile",
			},
		},
	} {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Logf("no %s here: only the candidates were tested", shell)
				return
			}
			script, _, status := runDemo("completion", shell)
			if status != 0 {
				t.Fatal(script)
			}
			if shell == "zsh" {
				script = "autoload -U compinit; compinit -D -u\n" + script
			}
			var typed, want []string
			for line, offered := range run.lines {
				typed, want = append(typed, line), append(want, offered)
			}
			cmd := exec.CommandContext(t.Context(), path, append(run.args, script+run.setup+strings.Join(typed, "\n")+"\ntrue\n")...) //nolint:gosec // a shell
			cmd.Dir = dir
			cmd.Env = []string{"HOME=" + dir, "PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			if diff := cmp.Diff(strings.Join(want, "\n")+"\n", string(out)); diff != "" || err != nil {
				t.Errorf("%v: for\n%s\n%s", err, strings.Join(typed, "\n"), diff)
			}
		})
	}
	if _, stderr, status := runDemo("completion", "tcsh"); status != 2 || !strings.Contains(stderr, "only for bash, zsh and fish") {
		t.Error(status, stderr)
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	(&Call{Stdout: &out}).Table([]string{"Kube Cluster Name", "Selected"}, [][]string{{"cookie", ""}, {"tele.example.com", "*"}})
	want := `Kube Cluster Name Selected
----------------- --------
cookie
tele.example.com  *
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestReadLine(t *testing.T) {
	var stderr bytes.Buffer
	c := &Call{Stdin: strings.NewReader("s3cret\r\nrest"), Stderr: &stderr}
	if got, err := c.ReadPassword(t.Context(), "Password: "); got != "s3cret" || err != nil || stderr.Len() > 0 {
		t.Errorf("%q, %v, %q", got, err, stderr.String())
	}
	c = &Call{Stdin: strings.NewReader(""), Stderr: &stderr}
	if _, err := c.ReadLine(t.Context(), "? "); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestInterruptEndsAQuestion(t *testing.T) {
	never, w := io.Pipe()
	defer func() { _ = w.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := &Call{Stdin: never, Stderr: io.Discard}
	if _, err := c.ReadLine(ctx, "? "); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// FuzzParse: a line that parse takes is taken by the library with the same
// arguments, nothing that looks like a flag becomes an argument unasked, and
// ordering what is in order changes nothing.
func FuzzParse(f *testing.F) {
	f.Add("users\x00add\x00alice\x00--groups=a")
	f.Add("create\x00-f\x00-")
	f.Add("--auth\x00x\x00login\x00--\x00--")
	f.Add("users\x00add\x00groups\x00--socket\x00-\x00--ttl=1h")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\x00")
		var got []string
		called := false
		app := demo(io.Discard, io.Discard)
		root := app.root()
		record := func(_ context.Context, c *Call) error { got, called = c.Args, true; return nil }
		p, err := parse(root, args)
		if err != nil {
			return
		}
		before := len(args)
		for i, a := range args {
			if a == "--" {
				before = i
				break
			}
		}
		typed := len(args) - before - 1
		for i, a := range p.args {
			if len(a) > 1 && a[0] == '-' && (typed < 0 || i < len(p.args)-typed) {
				t.Fatalf("%q: %q became an argument", args, a)
			}
		}
		if p.help || p.version || p.leaf().Run == nil {
			return
		}
		again, err := parse(root, p.ordered())
		if err != nil {
			t.Fatalf("%q ordered as %q: %v", args, p.ordered(), err)
		}
		if diff := cmp.Diff(p.ordered(), again.ordered()); diff != "" {
			t.Fatal(diff)
		}
		if err := app.runURFave(context.Background(), root, p, record); err != nil {
			t.Fatalf("%q: %v", p.ordered(), err)
		}
		if !called || strings.Join(got, "\x00") != strings.Join(p.args, "\x00") {
			t.Fatalf("%q: called %v with %q, want %q", args, called, got, p.args)
		}
	})
}

// settingsDemo is the demo with a settings file of its own.
func settingsDemo(out, errs io.Writer, settings map[string]Setting, err error) *App {
	app := demo(out, errs)
	ask := func(get func(string) string) (map[string]Setting, error) {
		if get("socket") == "/none" {
			return nil, nil
		}
		return settings, err
	}
	users := app.Commands[0].Commands
	users[0].Settings = ask // and not that of "create"
	source := func(_ context.Context, c *Call) error {
		for _, name := range []string{"socket", "groups", "ttl"} {
			c.Printf("%s: %s, set %v\n", name, c.Source(name), c.IsSet(name))
		}
		return nil
	}
	app.Commands = append(app.Commands, Command{Name: "sources", Usage: "show where values are from", Run: source, Settings: ask, Flags: users[0].Flags})
	return app
}

func TestSettingsFillWhatIsLeftOut(t *testing.T) {
	settings := map[string]Setting{
		"socket": {Values: []string{"/file"}, Source: "f.yaml, line 1"},
		"groups": {Values: []string{"a", "b"}, Source: "f.yaml, line 2"},
		"other":  {Values: []string{"of another command"}, Source: "f.yaml, line 3"},
	}
	for _, test := range []struct {
		line string
		env  map[string]string
		want string
	}{
		{"users add x", nil, `add args=["x"] groups=["a" "b"] ttl=0s force=false socket="/file" auth=""`},
		{"users add x --groups=c", nil, `add args=["x"] groups=["c"] ttl=0s force=false socket="/file" auth=""`},
		{"users add x --groups=c", map[string]string{"DEMO_SOCKET": "/env", "DEMO_TTL": "1h"}, `add args=["x"] groups=["c"] ttl=1h0m0s force=false socket="/env" auth=""`},
		{"users add x", map[string]string{"DEMO_SOCKET": "", "DEMO_TTL": ""}, `add args=["x"] groups=["a" "b"] ttl=0s force=false socket="/file" auth=""`},
		{"users add x --socket=/none", nil, `add args=["x"] groups=[] ttl=0s force=false socket="/none" auth=""`},
		{"users add x", map[string]string{"DEMO_SOCKET": "/none"}, `add args=["x"] groups=[] ttl=0s force=false socket="/none" auth=""`},
		{"create", nil, `create args=[] groups=[] ttl=0s force=false socket="/default" auth=""`},
		{"sources", nil, "socket: f.yaml, line 1, set true\ngroups: f.yaml, line 2, set true\nttl: default, set false"},
		{"sources --groups=a", map[string]string{"DEMO_TTL": "1h"}, "socket: f.yaml, line 1, set true\ngroups: --groups, set true\nttl: DEMO_TTL, set true"},
	} {
		t.Run(test.line, func(t *testing.T) {
			for k, v := range test.env {
				t.Setenv(k, v)
			}
			var out, errs bytes.Buffer
			status := settingsDemo(&out, &errs, settings, nil).Main(t.Context(), append([]string{"demo"}, strings.Fields(test.line)...))
			if diff := cmp.Diff(test.want+"\n", out.String()); diff != "" || status != 0 {
				t.Errorf("status %d, %s\n%s", status, errs.String(), diff)
			}
		})
	}
}

func TestACallWithOtherSettings(t *testing.T) {
	t.Setenv("DEMO_SOCKET", "/env")
	texts := func(c *Call) (out []string) {
		for _, name := range []string{"socket", "groups", "ttl", "number", "yes", "nonesuch"} {
			out = append(out, c.Text(name)+" ("+c.Source(name)+")")
		}
		return out
	}
	var first, second, third *Call
	app := demo(io.Discard, io.Discard)
	app.Commands = []Command{{
		Name:  "show",
		Flags: []Flag{{Name: "groups", Kind: Strings}, {Name: "ttl", Kind: Duration, Default: "1m"}, {Name: "number", Kind: Int}, {Name: "yes", Kind: Bool}},
		Settings: func(func(string) string) (map[string]Setting, error) {
			return map[string]Setting{"groups": {[]string{"a, b", "a"}, "line 1"}, "ttl": {[]string{"60m"}, "line 2"}, "yes": {[]string{"1"}, "line 3"}}, nil
		},
		Run: func(_ context.Context, c *Call) (err error) {
			first = c
			if second, err = c.WithSettings(map[string]Setting{"groups": {[]string{"c"}, "line 4"}, "socket": {[]string{"/file"}, "line 5"}, "number": {[]string{"9"}, "line 6"}}); err != nil {
				return err
			}
			third, err = second.WithSettings(nil)
			return err
		},
	}}
	if status := app.Main(t.Context(), []string{"demo", "show", "--number=010"}); status != 0 {
		t.Fatal(status)
	}
	for i, test := range []struct {
		call *Call
		want []string
	}{
		{first, []string{"/env (DEMO_SOCKET)", "a,b (line 1)", "1h (line 2)", "10 (--number)", "true (line 3)", " (default)"}},
		{second, []string{"/env (DEMO_SOCKET)", "c (line 4)", "1m (default)", "10 (--number)", "false (default)", " (default)"}},
		{third, []string{"/env (DEMO_SOCKET)", " (default)", "1m (default)", "10 (--number)", "false (default)", " (default)"}},
	} {
		if diff := cmp.Diff(test.want, texts(test.call)); diff != "" {
			t.Errorf("call %d: %s", i+1, diff)
		}
	}
}

func TestBadSettingsEndTheRun(t *testing.T) {
	for want, settings := range map[string]map[string]Setting{
		`f.yaml, line 7: "soon" is not a duration such as 30m, 12h or 7d`: {"ttl": {Values: []string{"soon"}, Source: "f.yaml, line 7"}},
		`f.yaml, line 7: --ttl takes one value, not 2`:                    {"ttl": {Values: []string{"1h", "2h"}, Source: "f.yaml, line 7"}},
		`f.yaml is broken`: nil,
	} {
		var err error
		if settings == nil {
			err = api.Errorf(api.CodeInvalid, "f.yaml is broken")
		}
		var out, errs bytes.Buffer
		status := settingsDemo(&out, &errs, settings, err).Main(t.Context(), []string{"demo", "users", "add", "x"})
		if errs.String() != "ERROR: "+want+"\n" || out.Len() > 0 || status != 2 {
			t.Errorf("status %d: %s%s", status, out.String(), errs.String())
		}
	}
}
