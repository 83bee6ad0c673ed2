package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func TestDocumentsAreFresh(t *testing.T) {
	top := filepath.Join("..", "..")
	programs, err := declarations(t.Context(), top)
	if err != nil {
		t.Fatal(err)
	}
	files, err := documents(t.Context(), top, programs)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Errorf("%v: run make docs", err)
			continue
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
			t.Errorf("%s is stale, run make docs:\n%s", name, diff)
		}
	}
}

// TestManualsAreWellFormed asks mandoc, where there is one.
func TestManualsAreWellFormed(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Log("no mandoc here: only the text was compared")
		return
	}
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "man", "*.1"))
	if err != nil || len(pages) != 3 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		if out, err := exec.CommandContext(t.Context(), mandoc, "-Tlint", "-Werror", page).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", page, err, out)
		}
	}
}

// TestEveryExitStatusIsToldOf: those of all codes, and no others.
func TestEveryExitStatusIsToldOf(t *testing.T) {
	src, err := os.ReadFile(filepath.Join("..", "api", "errors.go"))
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`(?m)^\tCode\w+ +Code = "(\w+)"`).FindAllSubmatch(src, -1)
	want := map[string]bool{"0": true, "130": true}
	for _, code := range codes {
		want[strconv.Itoa(api.Code(code[1]).ExitCode())] = true
	}
	told := map[string]bool{}
	for _, s := range statuses() {
		told[s[0]] = true
	}
	if diff := cmp.Diff(want, told); diff != "" || len(codes) < 12 {
		t.Errorf("%d codes: %s", len(codes), diff)
	}
}

func demo() cliapp.Declared {
	return cliapp.Declared{
		Name: "demo", Usage: "show a thing", Flags: []cliapp.Flag{{Name: "socket", Usage: "`PATH` of it"}},
		Environment: []cliapp.Variable{{Name: "DEMO_TTL", Usage: "--ttl"}, {Name: "HOME", Usage: "home"}},
		Commands: []cliapp.DeclaredCommand{
			{Path: "demo users", Line: "demo users COMMAND [flags]", Usage: "users", Group: true},
			{
				Path: "demo users add", Line: "demo users add [flags] NAME", Aliases: []string{"new"}, Usage: "add a | user", Description: "First.\n\n.Second\nline.",
				Examples: []string{`demo users add 'a\b' --x`},
				Flags:    []cliapp.Flag{{Name: "ttl", Kind: cliapp.Duration, Usage: "for `TIME`", Default: "1h", Env: "DEMO_TTL"}, {Name: "force", Aliases: []string{"f"}, Kind: cliapp.Bool, Usage: "replace"}},
			},
		},
	}
}

func TestReference(t *testing.T) {
	got := string(reference([]cliapp.Declared{demo()}))
	_, got, _ = strings.Cut(got, "| 130 | interrupted |\n")
	want := `
## demo

Show a thing.

| command | |
|---|---|
| [§demo users add§](#demo-users-add) | add a \| user |

Flags of all commands of demo:

| flag | |
|---|---|
| §--socket PATH§ | PATH of it |

| variable beside those of flags | |
|---|---|
| §HOME§ | home |

### demo users add

Add a | user. Also: §new§.

§§§
demo users add [flags] NAME
§§§

First.

.Second
line.

| flag | | variable |
|---|---|---|
| §--ttl TIME§ | for TIME (default: §1h§) | §DEMO_TTL§ |
| §-f, --force§ | replace |  |

§§§sh
demo users add 'a\b' --x
§§§
`
	if diff := cmp.Diff(strings.ReplaceAll(want, "§", "`"), got); diff != "" {
		t.Error(diff)
	}
}

func TestManual(t *testing.T) {
	want := `.\" written by make docs from the declarations of demo
.TH DEMO 1 "" "Sallyport" "Sallyport"
.SH NAME
demo \- show a thing
.SH SYNOPSIS
.B demo users add
[flags] NAME
.SH COMMANDS
.SS demo users add [flags] NAME
Add a | user.
.PP
First.
.PP
\&.Second
line.
.TP
.B \-\-ttl TIME
for TIME (default: 1h) [$DEMO_TTL]
.TP
.B \-f, \-\-force
replace
.PP
Examples:
.PP
.nf
.RS 4
demo users add 'a\eb' \-\-x
.RE
.fi
.SH OPTIONS OF ALL COMMANDS
.TP
.B \-\-socket PATH
PATH of it
.SH ENVIRONMENT
.TP
.B DEMO_TTL
\-\-ttl
.TP
.B HOME
home
.SH EXIT STATUS
`
	got, _, _ := strings.Cut(string(manual(demo())), ".TP\n.B 0\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBetween(t *testing.T) {
	got, err := between([]byte("a\n"+begin+"old\n"+end+"b\n"), []byte("k: v\n"))
	if want := "a\n" + begin + "\n```yaml\nk: v\n```\n\n" + end + "b\n"; string(got) != want || err != nil {
		t.Errorf("%v\n%s", err, got)
	}
	if _, err := between([]byte(end+begin), nil); err == nil {
		t.Error("a document without its marks")
	}
}
