package page

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

const sample = "# A page\n\nSome words.\n" + `
<!-- a comment of people's, with ` + "```" + `
-->

Save the file below as
` + "`zoo.yaml`" + `:

` + "```yaml\nanimals: [cow]\n```" + `

<!-- test
where 1.2.3.4 is [0-9.]+
where cat is lion
at ` + "`ask`" + `: type "name? " $who
at ` + "`later`" + `: until 10s
$ ask() { read -r -p "name? " x; echo "hello $x"; }; later() { echo x >>tries; [ "$(wc -l <tries)" -ge 3 ] && echo now; }
-->

1. A list

   ` + "```bash" + `
   # What is set
   $ ZOO='big
   zoo'
   $ ask
   name? hello alice

   $ later
   now
   $ printf '%s\n' \
       "$ZOO 10.20.30.40   lion" more lines end
   big
   zoo 1.2.3.4 cat

   ...
   end
   $ cat <<END
   one
   END
   one
   $ grep cow zoo.yaml
   animals: [cow]
   ` + "```" + `

<!-- test at ` + "`false`" + `: fails -->

` + "```bash\n$ false\n```\n" + `
<!-- test do look -->
<!-- test skip nothing to see -->

` + "```bash\n$ exit 7\n```\n```text\nfor people\n```\n"

func session(t *testing.T, dir string) *Session {
	t.Helper()
	s, err := NewSession(t.Context(), testbed.Command{}, dir, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestPageRunsAsAPersonTypesIt(t *testing.T) {
	p, err := Parse("sample.md", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	dir, looked := t.TempDir(), ""
	r := NewRunner(session(t, dir), dir, Options{Log: t.Logf, Vars: map[string]string{"who": "alice"}, Do: map[string]func(context.Context, *Runner) error{
		"look": func(ctx context.Context, r *Runner) (err error) { looked, err = r.Get(ctx, "ZOO"); return err },
	}})
	if err := r.Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if looked != "big\nzoo" {
		t.Errorf("the call saw %q", looked)
	}
	if n := len(p.Commands()); n != 8 {
		t.Errorf("%d commands that people see: %q", n, p.Commands())
	}
}

func TestPageThatIsNotUnderstood(t *testing.T) {
	block := func(language, text string) string { return "```" + language + "\n" + text + "\n```\n" }
	for name, c := range map[string]struct{ page, want string }{
		"language":          {block("sh", "$ true"), `neither bash, yaml nor text`},
		"no language":       {block("", "$ true"), `neither bash, yaml nor text`},
		"output first":      {block("bash", "true"), "no command prints this"},
		"no space":          {block("bash", "$true"), "a command begins with"},
		"no command":        {block("bash", "# true"), "no command"},
		"comment inside":    {block("bash", "$ true # it is"), "a comment in a command"},
		"open quote":        {block("bash", "$ echo 'a"), "a command without an end"},
		"open backslash":    {block("bash", "$ echo a \\"), "a command without an end"},
		"open here-doc":     {block("bash", "$ cat <<END\na"), "a command without an end"},
		"open block":        {"```bash\n$ true\n", "a block without an end"},
		"fence":             {"``` bash extra\n", "a fence that isn't understood"},
		"indented less":     {"  ```bash\n  $ true\nx\n  ```\n", "indented less"},
		"yaml":              {block("yaml", "a: b"), "Save the file below as"},
		"instruction":       {"<!-- test jump -->\n", "no such instruction"},
		"about no command":  {"<!-- test at `false`: fails -->\n" + block("bash", "$ true"), "in no command"},
		"about two":         {"<!-- test at `true`: fails -->\n" + block("bash", "$ true\n$ true"), "in two commands"},
		"no block":          {"<!-- test at `true`: fails -->\n", "no block follows"},
		"unknown about":     {"<!-- test at `true`: flies -->\n" + block("bash", "$ true"), "no such instruction about"},
		"words":             {"<!-- test at `true`: until -->\n" + block("bash", "$ true"), "wrong number of words"},
		"open comment":      {"<!-- test\n$ true\n", "a comment without an end"},
		"open other":        {"<!-- nothing\n", "a comment without an end"},
		"skip why":          {"<!-- test skip -->\n" + block("bash", "$ true"), "needs a reason"},
		"regexp":            {"<!-- test where a is ( -->\n", "missing closing"},
		"command, no end":   {"<!-- test\n$ echo 'a\n-->\n", "a command without an end"},
		"where":             {"<!-- test where a -->\n", "want where"},
		"type without text": {"<!-- test at `true`: type x -->\n" + block("bash", "$ true"), "want type"},
	} {
		if p, err := Parse("p.md", []byte(c.page)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %+v", name, err, p)
		}
	}
}

func TestPageThatDoesNotHold(t *testing.T) {
	for name, c := range map[string]struct{ page, want string }{
		"status":        {"```bash\n$ (exit 3)\n```\n", "exit status 3"},
		"a pipe's":      {"```bash\n$ (exit 3) | cat\n```\n", "exit status 3"},
		"output":        {"```bash\n$ echo a\nb\n```\n", "the page shows\n\tb\nand it printed\n\ta"},
		"more output":   {"```bash\n$ printf 'a\\nb\\n'\na\n```\n", "nothing more"},
		"less output":   {"```bash\n$ echo a\na\n...\nb\n```\n", `there should be "b"`},
		"succeeds":      {"<!-- test at `true`: fails -->\n```bash\n$ true\n```\n", "succeeded and should fail"},
		"not set":       {"```bash\n$ echo ${NOT_SET_AT_ALL?}\n```\n", "the shell has ended"},
		"hangs":         {"<!-- test at `cat`: takes 100ms -->\n```bash\n$ cat\n```\n", "deadline"},
		"never asked":   {"<!-- test at `true`: type \"x\" y -->\n```bash\n$ true\n```\n", `never asked for "x"`},
		"no call":       {"<!-- test do dance -->\n", `no call "dance"`},
		"no variable":   {"<!-- test at `true`: type \"x\" $y -->\n```bash\n$ true\n```\n", `no variable "y"`},
		"call fails":    {"<!-- test at `true`: during trip -->\n```bash\n$ true\n```\n", "beside it: tripped"},
		"file outside":  {"Save the file below as `../a`\n```yaml\na: b\n```\n", "outside"},
		"never happens": {"<!-- test at `echo`: until 400ms -->\n```bash\n$ echo a\nb\n```\n", "there should be"},
	} {
		p, err := Parse("p.md", []byte(c.page))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		dir := t.TempDir()
		r := NewRunner(session(t, dir), dir, Options{Do: map[string]func(context.Context, *Runner) error{
			"trip": func(context.Context, *Runner) error { return errors.New("tripped") },
		}})
		if err := r.Run(t.Context(), p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSessionIsATerminalThatColoursCountForNothingOn(t *testing.T) {
	dir := t.TempDir()
	s := session(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), testbed.Patience)
	defer cancel()
	out, status, err := s.Run(ctx, `[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && cd / && printf '\033[1mbold\033[0m\r\n'; cd "$OLDPWD"; pwd`)
	if err != nil || status != 0 {
		t.Fatalf("%q, %d, %v", out, status, err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := Match([]string{"bold", "DIR"}, out, []Where{{"DIR", real}}); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Run(ctx, "sleep 300 & echo"); err != nil { // Close ends it
		t.Error(err)
	}
	start := time.Now()
	if _, status, err := s.Run(ctx, "(exit 9)"); err != nil || status != 9 || time.Since(start) > testbed.Patience {
		t.Errorf("status %d, %v", status, err)
	}
}

func TestMatchPrefersTheLongerText(t *testing.T) {
	where := []Where{{"tele", "[a-z]+"}, {"tele.example.com", "there"}}
	if err := Match([]string{"at tele.example.com, tele"}, "at there, here\n", where); err != nil {
		t.Error(err)
	}
}
