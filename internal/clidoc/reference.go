package main

import (
	"fmt"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

const referenceHead = `# Commands

Every command of the three programs, written from their declarations by ` + "`make docs`" + `. The same is in ` + "`PROGRAM COMMAND --help`" + ` and in
the manual pages ([sallyport](man/sallyport.1), [tctl](man/tctl.1), [tsh](man/tsh.1)).

Flags may stand before and after arguments; ` + "`--`" + ` ends them. A flag whose value is shown as ` + "`VALUE...`" + ` may be repeated, or takes
several values with commas. A ` + "`DURATION`" + ` is as ` + "`90s`, `30m`, `12h`, `7d`" + ` (days of 24 hours) or ` + "`1d12h`" + `. A flag goes over its variable,
and that over a settings file ([configuration](configuration.md)).
Data is on standard output, all else on standard error. NO_COLOR turns colours off. Completion for a shell:
` + "`source <(tsh completion bash)`" + `, and so for zsh and fish.

| exit status | meaning |
|---|---|
`

// statuses are the exit statuses of api.Code.
func statuses() [][2]string {
	return [][2]string{
		{"0", "done"}, {"1", "failed"}, {"2", "wrong usage, or a value that can't be right"}, {"3", "log in, or give a second factor"},
		{"4", "not allowed"}, {"5", "not found"}, {"6", "exists already, or was changed by somebody else meanwhile"},
		{"7", "not possible now: try again later"}, {"130", "interrupted"},
	}
}

// reference is docs/cli.md.
func reference(programs []cliapp.Declared) []byte {
	var b strings.Builder
	b.WriteString(referenceHead)
	for _, s := range statuses() {
		fmt.Fprintf(&b, "| %s | %s |\n", s[0], s[1])
	}
	for _, p := range programs {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n", p.Name, upper(p.Usage))
		if p.Description != "" {
			fmt.Fprintf(&b, "\n%s\n", p.Description)
		}
		b.WriteString("\n| command | |\n|---|---|\n")
		for _, c := range p.Commands {
			if !c.Group {
				fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", c.Path, strings.ReplaceAll(c.Path, " ", "-"), cell(c.Usage))
			}
		}
		if len(p.Flags) > 0 {
			fmt.Fprintf(&b, "\nFlags of all commands of %s:\n", p.Name)
			flagTable(&b, p.Flags)
		}
		var others []cliapp.Variable
		for _, v := range p.Environment {
			if !strings.HasPrefix(v.Usage, "--") {
				others = append(others, v)
			}
		}
		if len(others) > 0 {
			b.WriteString("\n| variable beside those of flags | |\n|---|---|\n")
			for _, v := range others {
				fmt.Fprintf(&b, "| `%s` | %s |\n", v.Name, cell(v.Usage))
			}
		}
		for _, c := range p.Commands {
			if !c.Group {
				command(&b, c)
			}
		}
	}
	return []byte(b.String())
}

func command(b *strings.Builder, c cliapp.DeclaredCommand) {
	fmt.Fprintf(b, "\n### %s\n\n%s.", c.Path, upper(c.Usage))
	if len(c.Aliases) > 0 {
		fmt.Fprintf(b, " Also: `%s`.", strings.Join(c.Aliases, "`, `"))
	}
	fmt.Fprintf(b, "\n\n```\n%s\n```\n", c.Line)
	if c.Description != "" {
		fmt.Fprintf(b, "\n%s\n", c.Description)
	}
	if len(c.Flags) > 0 {
		flagTable(b, c.Flags)
	}
	if len(c.Examples) > 0 {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", strings.Join(c.Examples, "\n"))
	}
}

func flagTable(b *strings.Builder, flags []cliapp.Flag) {
	variables := false
	for _, f := range flags {
		variables = variables || f.Env != ""
	}
	head, line := "\n| flag | |", "|---|---|"
	if variables {
		head, line = head+" variable |", line+"---|"
	}
	b.WriteString(head + "\n" + line + "\n")
	for i := range flags {
		f := &flags[i]
		text := cell(f.Describe())
		if f.Default != "" && f.Kind != cliapp.Bool {
			text += " (default: `" + f.Default + "`)"
		}
		fmt.Fprintf(b, "| `%s` | %s |", f.Synopsis(), text)
		if variables {
			env := ""
			if f.Env != "" {
				env = "`" + f.Env + "`"
			}
			fmt.Fprintf(b, " %s |", env)
		}
		b.WriteByte('\n')
	}
}

func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(text)
}

func upper(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
