package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// pages are all that people read of this repository, by their path below top.
func pages(t *testing.T, top string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md", "charts/*.md", "charts/*/*.md", "e2e/*/*.md"} {
		names, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name) //nolint:gosec // of this repository
			if err != nil {
				t.Fatal(err)
			}
			rel, err := filepath.Rel(top, name)
			if err != nil {
				t.Fatal(err)
			}
			found[filepath.ToSlash(rel)] = string(b)
		}
	}
	if len(found) < 30 {
		t.Fatalf("%d pages", len(found))
	}
	return found
}

var (
	fenced  = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	spans   = regexp.MustCompile("`([^`\n]+)`")
	comment = regexp.MustCompile(`(?s)<!--.*?-->`)
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	unslug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors are the places of a page that a link can lead to, as GitHub names them.
func anchors(page string) map[string]bool {
	found, times := map[string]bool{}, map[string]int{}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		text := link.ReplaceAllString(strings.ToLower(m[1]), "]")
		slug := strings.ReplaceAll(unslug.ReplaceAllString(text, ""), " ", "-")
		n := times[slug]
		times[slug]++
		if n > 0 {
			slug = fmt.Sprintf("%s-%d", slug, n)
		}
		found[slug] = true
	}
	return found
}

// deadLinks are the links of pages, to files and to headings, that lead nowhere.
func deadLinks(all map[string]string, exists func(name string) bool) (problems []string) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text := spans.ReplaceAllString(fenced.ReplaceAllString(all[name], ""), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
			}
			page, isPage := all[target]
			switch {
			case !isPage && !exists(target):
				problems = append(problems, fmt.Sprintf("%s: %s: there is no %s", name, m[1], target))
			case anchor != "" && !anchors(page)[anchor]:
				problems = append(problems, fmt.Sprintf("%s: %s: %s has no such heading", name, m[1], target))
			}
		}
	}
	return problems
}

// TestLinksOfPagesLeadSomewhere is about files and headings of this repository, not about
// the rest of the world.
func TestLinksOfPagesLeadSomewhere(t *testing.T) {
	top := filepath.Join("..", "..")
	all := pages(t, top)
	for _, problem := range deadLinks(all, func(name string) bool {
		_, err := os.Stat(filepath.Join(top, name))
		return err == nil
	}) {
		t.Error(problem)
	}
	for name := range all {
		if page, ok := strings.CutPrefix(name, "docs/"); ok && !strings.Contains(page, "/") && page != "CONTRIBUTING.md" &&
			!strings.Contains(all["README.md"], "("+name+")") && !strings.Contains(all["docs/guide.md"], "("+page+")") {
			t.Errorf("neither README.md nor docs/guide.md leads to %s", name)
		}
	}
}

func TestDeadLinksAreFound(t *testing.T) {
	got := deadLinks(map[string]string{
		"a.md":      "# A `b`, c\n## Two\n## Two\n[x](docs/b.md#one) [x](#a-b-c) [x](#two-1) [x](https://e.com) `[x](code.md)`\n```sh\n[x](block.md)\n```\n[x](there) [x](gone.md)",
		"docs/b.md": "# One\n```sh\n# Not one\n```\n[x](../a.md#two) [x](../a.md#three) [x](#not-one)",
	}, func(name string) bool { return name == "there" })
	want := []string{
		"a.md: gone.md: there is no gone.md",
		"docs/b.md: ../a.md#three: a.md has no such heading",
		"docs/b.md: #not-one: docs/b.md has no such heading",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// vocabulary is what commands may say.
type vocabulary struct {
	programs  map[string]cliapp.Declared
	variables map[string]bool
	charts    map[string]map[string]any // by name, their values.yaml
}

var (
	oneCommand = regexp.MustCompile(`[|;&()]+`) // ends there
	ourCommand = regexp.MustCompile(`(?:^|[\s"'])(tctl|tsh|sallyport) +([a-z_-].*)`)
	setValue   = regexp.MustCompile(`--set(?:-string|-json)?[= ]'?([A-Za-z][\w.]*)=`)
	ourVar     = regexp.MustCompile(`\bSALLYPORT_[A-Z_]*[A-Z]\b`)
	flagWord   = regexp.MustCompile(`^(--[a-z][a-z-]*|-[a-zA-Z])(?:=.*)?$`)
)

// quoted are the commands of a page: lines of its blocks for a shell, and what stands
// between backquotes in its text.
func quoted(page string) (lines []string) {
	for _, m := range fenced.FindAllStringSubmatch(page, -1) {
		if slices.Contains([]string{"sh", "bash", "console"}, m[1]) {
			for line := range strings.Lines(strings.ReplaceAll(m[2], "\\\n", " ")) {
				line = strings.TrimSpace(line)
				if !strings.HasPrefix(line, "#") {
					command, _, _ := strings.Cut(line, " #")
					lines = append(lines, command)
				}
			}
		}
	}
	for _, m := range spans.FindAllStringSubmatch(comment.ReplaceAllString(fenced.ReplaceAllString(page, ""), ""), -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// unknown are the commands, flags, variables and values of charts in a line that there
// are not.
func (v *vocabulary) unknown(line string) (problems []string) {
	for _, command := range oneCommand.Split(line, -1) {
		m := ourCommand.FindStringSubmatch(command)
		if m == nil {
			continue
		}
		if problem := v.unknownCommand(m[1], strings.Fields(m[2])); problem != "" {
			problems = append(problems, problem)
		}
	}
	for _, name := range ourVar.FindAllString(line, -1) {
		if !v.variables[name] {
			problems = append(problems, "no program reads "+name)
		}
	}
	for _, m := range setValue.FindAllStringSubmatch(line, -1) {
		known := false
		for chart, values := range v.charts {
			other := slices.ContainsFunc(slices.Collect(maps.Keys(v.charts)), func(name string) bool { return name != chart && strings.Contains(line, name) })
			known = known || hasValue(values, strings.Split(m[1], ".")) && (!other || strings.Contains(line, chart))
		}
		if !known {
			problems = append(problems, "no chart has the value "+m[1])
		}
	}
	return problems
}

func (v *vocabulary) unknownCommand(program string, words []string) string {
	d := v.programs[program]
	if len(words) > 0 && words[0] == "--" { // kubectl exec POD tctl -- users add
		words = words[1:]
	}
	path, command := program, cliapp.DeclaredCommand{Group: true}
	for len(words) > 0 && command.Group {
		word := strings.Trim(words[0], `'",.:`)
		i := slices.IndexFunc(d.Commands, func(c cliapp.DeclaredCommand) bool {
			parent, name := c.Path[:strings.LastIndex(c.Path, " ")], c.Path[strings.LastIndex(c.Path, " ")+1:]
			return parent == path && (name == word || slices.Contains(c.Aliases, word))
		})
		if i < 0 {
			break
		}
		path, command, words = d.Commands[i].Path, d.Commands[i], words[1:]
	}
	if command.Group && len(words) > 0 && regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(words[0]) {
		return fmt.Sprintf("%s has no command %s", path, words[0])
	}
	flags := slices.Concat(d.Flags, command.Flags)
	for _, word := range words {
		if word == "--" {
			break
		}
		m := flagWord.FindStringSubmatch(strings.Trim(word, `'",.:[]`))
		if m == nil || slices.Contains([]string{"--help", "-h", "--version"}, m[1]) {
			continue
		}
		name := strings.TrimLeft(m[1], "-")
		if !slices.ContainsFunc(flags, func(f cliapp.Flag) bool { return f.Name == name || slices.Contains(f.Aliases, name) }) {
			return fmt.Sprintf("%s has no flag %s", path, m[1])
		}
	}
	return ""
}

// hasValue reports whether a chart knows a value; a map or list that is empty there takes
// any.
func hasValue(values map[string]any, path []string) bool {
	value, found := values[path[0]]
	if !found || len(path) == 1 {
		return found
	}
	inner, isMap := value.(map[string]any)
	return isMap && (len(inner) == 0 || hasValue(inner, path[1:]))
}

// TestPagesQuoteWhatThereIs: no page tells people to type a command, flag, variable or
// value of a chart that there is not.
func TestPagesQuoteWhatThereIs(t *testing.T) {
	top := filepath.Join("..", "..")
	programs, err := declarations(t.Context(), top)
	if err != nil {
		t.Fatal(err)
	}
	v := &vocabulary{programs: map[string]cliapp.Declared{}, variables: map[string]bool{}, charts: map[string]map[string]any{}}
	for _, d := range programs {
		v.programs[d.Name] = d
		for _, e := range d.Environment {
			v.variables[e.Name] = true
		}
		for _, c := range d.Commands {
			for _, f := range c.Flags {
				v.variables[f.Env] = true
			}
		}
	}
	for _, chart := range []string{"sallyport-cluster", "sallyport-kube-agent"} {
		b, err := os.ReadFile(filepath.Join(top, "charts", chart, "values.yaml")) //nolint:gosec // of this repository
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]any{}
		if err := yaml.Unmarshal(b, &values); err != nil {
			t.Fatal(err)
		}
		v.charts[chart] = values
	}
	all, n := pages(t, top), 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(name, "docs/adr/") || strings.HasPrefix(name, "e2e/") {
			continue // of their day; and of tests
		}
		for _, line := range quoted(all[name]) {
			n++
			for _, problem := range v.unknown(line) {
				t.Errorf("%s: %s: %s", name, line, problem)
			}
		}
	}
	if n < 1000 {
		t.Errorf("only %d lines looked at", n)
	}
}

func TestUnknownWordsAreFound(t *testing.T) {
	v := &vocabulary{
		programs:  map[string]cliapp.Declared{"tctl": demo(), "tsh": demo(), "sallyport": demo()},
		variables: map[string]bool{"SALLYPORT_PROXY": true},
		charts: map[string]map[string]any{
			"sallyport-cluster":    {"acme": false, "labels": map[string]any{}, "tls": map[string]any{"secret": ""}},
			"sallyport-kube-agent": {"authToken": ""},
		},
	}
	d := v.programs["tctl"]
	for i := range d.Commands {
		d.Commands[i].Path = strings.Replace(d.Commands[i].Path, "demo", "tctl", 1)
	}
	for line, want := range map[string]string{
		"tctl users add --ttl=1h alice":                                      "",
		"kubectl exec -ti ${POD?} tctl -- users new alice -f | cat --all":    "",
		"X=$(tctl users add a --socket=s) && true":                           "",
		"helm repo add sallyport ${CHARTS_URL?}":                             "",
		"tctl users COMMAND":                                                 "",
		"$ tctl users rm alice":                                              "tctl users has no command rm",
		"tctl users add --tll=1h":                                            "tctl users add has no flag --tll",
		"SALLYPORT_PROXY=a SALLYPORT_PORXY=b":                                "no program reads SALLYPORT_PORXY",
		"helm install --set acme=true --set labels.env=x --set tls.secret=y": "",
		"helm install x sallyport/sallyport-cluster --set authToken=x":       "no chart has the value authToken",
		"helm upgrade --set tls.scret=y":                                     "no chart has the value tls.scret",
	} {
		if got := strings.Join(v.unknown(line), "; "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	got := quoted("Text `one` and\n```sh\ntwo \\\n  --flag  # why\n# no\n```\n```text\nno\n```\n<!-- `no` -->")
	if diff := cmp.Diff([]string{"two    --flag ", "one"}, got); diff != "" {
		t.Error(diff)
	}
}
