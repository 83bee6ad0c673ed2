package cliapp

import (
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Help fits a terminal of 80 columns.
const (
	helpWidth  = 80
	helpIndent = "   "
	// widestLeft is where the right column begins at most; a longer flag has a line of
	// its own.
	widestLeft = 26
)

// Variable is an environment variable that no flag stands for.
type Variable struct{ Name, Usage string }

// help writes the help of the command at the end of path.
func (a *App) help(w io.Writer, path []*Command) error {
	leaf := path[len(path)-1]
	var b strings.Builder
	b.WriteString(pathName(path))
	if leaf.Usage != "" {
		b.WriteString(" - " + leaf.Usage)
	}
	b.WriteString("\n\nUsage:\n" + helpIndent + usageLine(path) + "\n")
	if leaf.Description != "" {
		b.WriteByte('\n')
		b.WriteString(strings.Join(Reflow(leaf.Description, helpWidth), "\n") + "\n")
	}
	if len(leaf.Examples) > 0 {
		b.WriteString("\nExamples:\n")
		for _, e := range leaf.Examples {
			b.WriteString(helpIndent + e + "\n")
		}
	}
	var commands [][2]string
	for i := range leaf.Commands {
		if c := &leaf.Commands[i]; !c.Hidden {
			commands = append(commands, [2]string{strings.Join(append([]string{c.Name}, c.Aliases...), ", "), c.Usage})
		}
	}
	flags := append(flagRows(leaf.Flags), [2]string{"-h, --help", "show help"})
	var global [][2]string
	for _, c := range path[:len(path)-1] {
		global = append(global, flagRows(c.Flags)...)
	}
	var variables [][2]string
	if len(leaf.Commands) > 0 {
		variables = a.variables(path)
	}
	left := 0
	for _, rows := range [][][2]string{commands, flags, global, variables} {
		for _, r := range rows {
			if n := utf8.RuneCountInString(r[0]); n <= widestLeft {
				left = max(left, n)
			}
		}
	}
	section(&b, "Commands", commands, left)
	section(&b, "Flags", flags, left)
	section(&b, "Global flags", global, left)
	section(&b, "Environment", variables, left)
	_, err := io.WriteString(w, b.String())
	return err
}

// usageLine is how the command is called.
func usageLine(path []*Command) string {
	leaf := path[len(path)-1]
	line := pathName(path)
	switch {
	case len(leaf.Commands) == 0:
	case leaf.Run == nil:
		line += " COMMAND"
	default: // it runs alone, too
		line += " [COMMAND]"
	}
	line += " [flags]"
	if leaf.ArgsUsage != "" {
		line += " " + leaf.ArgsUsage
	}
	return line
}

func section(b *strings.Builder, title string, rows [][2]string, left int) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n" + title + ":\n")
	for _, r := range rows {
		lines := Wrap(r[1], helpWidth-len(helpIndent)-left-2)
		if n := utf8.RuneCountInString(r[0]); n > left {
			b.WriteString(helpIndent + r[0] + "\n")
		} else {
			b.WriteString(strings.TrimRight(helpIndent+r[0]+strings.Repeat(" ", left-n+2)+lines[0], " ") + "\n")
			lines = lines[1:]
		}
		for _, l := range lines {
			b.WriteString(strings.Repeat(" ", len(helpIndent)+left+2) + l + "\n")
		}
	}
}

func flagRows(flags []Flag) [][2]string {
	var out [][2]string
	for i := range flags {
		if f := &flags[i]; !f.Hidden {
			out = append(out, [2]string{f.Synopsis(), f.UsageText()})
		}
	}
	return out
}

// Synopsis is a flag as it is typed: "-f, --force", "--ttl DURATION", "--roles
// ROLES..." for one that may be repeated.
func (f *Flag) Synopsis() string {
	out := ""
	for _, alias := range f.Aliases {
		out += "-" + alias + ", "
	}
	out += f.dashed()
	if p := f.Placeholder(); p != "" {
		out += " " + p
	}
	if f.Kind == Strings {
		out += "..."
	}
	return out
}

// UsageText is what help says of a flag.
func (f *Flag) UsageText() string {
	text := f.Describe()
	if f.Default != "" && f.Kind != Bool {
		text += " (default: " + f.Default + ")"
	}
	if f.Env != "" {
		text += " [$" + f.Env + "]"
	}
	return text
}

// variables are those that a group's commands, and the program, read.
func (a *App) variables(path []*Command) [][2]string {
	var out [][2]string
	add := func(name, usage string) {
		for i := range out {
			if out[i][0] == name {
				if !slices.Contains(strings.Split(out[i][1], ", "), usage) {
					out[i][1] += ", " + usage
				}
				return
			}
		}
		out = append(out, [2]string{name, usage})
	}
	flags := func(c *Command) {
		for i := range c.Flags {
			if f := &c.Flags[i]; f.Env != "" && !f.Hidden {
				add(f.Env, f.dashed())
			}
		}
	}
	for _, c := range path[:len(path)-1] {
		flags(c)
	}
	var walk func(c *Command)
	walk = func(c *Command) {
		flags(c)
		for i := range c.Commands {
			if !c.Commands[i].Hidden {
				walk(&c.Commands[i])
			}
		}
	}
	walk(path[len(path)-1])
	for _, v := range a.Environment {
		add(v.Name, v.Usage)
	}
	if len(path) == 1 {
		add("NO_COLOR", "no colours, if set")
	}
	return out
}
