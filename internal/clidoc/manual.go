package main

import (
	"fmt"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// manual is a program's page for man(1), in the man macros of roff.
func manual(p cliapp.Declared) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, ".\\\" written by make docs from the declarations of %s\n", p.Name)
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"Sallyport\" \"Sallyport\"\n", strings.ToUpper(p.Name))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(p.Name), roff(p.Usage))
	b.WriteString(".SH SYNOPSIS\n")
	first := true
	for _, c := range p.Commands {
		if c.Group {
			continue
		}
		if !first {
			b.WriteString(".br\n")
		}
		first = false
		name, rest, _ := strings.Cut(c.Line, " [flags]")
		fmt.Fprintf(&b, ".B %s\n%s\n", roff(name), roff("[flags]"+rest))
	}
	if p.Description != "" {
		b.WriteString(".SH DESCRIPTION\n")
		paragraphs(&b, p.Description)
	}
	b.WriteString(".SH COMMANDS\n")
	for _, c := range p.Commands {
		if c.Group {
			continue
		}
		fmt.Fprintf(&b, ".SS %s\n%s.\n", roff(c.Line), roff(upper(c.Usage)))
		if c.Description != "" {
			b.WriteString(".PP\n")
			paragraphs(&b, c.Description)
		}
		options(&b, c.Flags)
		if len(c.Examples) > 0 {
			b.WriteString(".PP\nExamples:\n.PP\n.nf\n.RS 4\n")
			for _, e := range c.Examples {
				b.WriteString(roff(e) + "\n")
			}
			b.WriteString(".RE\n.fi\n")
		}
	}
	if len(p.Flags) > 0 {
		b.WriteString(".SH OPTIONS OF ALL COMMANDS\n")
		options(&b, p.Flags)
	}
	if len(p.Environment) > 0 {
		b.WriteString(".SH ENVIRONMENT\n")
		for _, v := range p.Environment {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(v.Name), roff(v.Usage))
		}
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, s := range statuses() {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", s[0], roff(s[1]))
	}
	b.WriteString(".SH SEE ALSO\n")
	var also []string
	for _, other := range []string{"sallyport", "tctl", "tsh"} {
		if other != p.Name {
			also = append(also, ".BR "+other+" (1)")
		}
	}
	b.WriteString(strings.Join(also, " ,\n") + "\n")
	return []byte(b.String())
}

func options(b *strings.Builder, flags []cliapp.Flag) {
	for i := range flags {
		f := &flags[i]
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(f.Synopsis()), roff(f.UsageText()))
	}
}

func paragraphs(b *strings.Builder, text string) {
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		for line := range strings.SplitSeq(p, "\n") {
			b.WriteString(roff(line) + "\n")
		}
	}
}

// roff makes text of what would be requests, escapes and typographic dashes.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ", "…", "...").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
