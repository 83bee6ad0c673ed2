package cliapp

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// parsed is a command line with every flag at the command that owns it.
type parsed struct {
	path    []*Command // the program first
	flags   [][]string // per element of path, as --name=value
	args    []string
	help    bool
	version bool

	sources map[string]string // by flag: "--ttl", "DEMO_TTL" or Setting.Source
	open    []slot            // flags that neither the line nor the environment sets
}

// ordered is the command line as urfave/cli reads it: flags before what they
// belong to, arguments behind "--".
func (p *parsed) ordered() []string {
	out := p.head()
	out = append(out, "--")
	return append(out, p.args...)
}

func (p *parsed) head() []string {
	var out []string
	for i, c := range p.path {
		if i > 0 {
			out = append(out, c.Name)
		}
		out = append(out, p.flags[i]...)
	}
	return out
}

// early is a flag typed before the command that knows it ("tsh --auth=x login").
type early struct{ name, value string }

type parser struct {
	parsed
	early []early
}

// parse reads args (without the program's name) against root.
func parse(root *Command, args []string) (*parsed, error) {
	p := &parser{parsed: parsed{path: []*Command{root}, flags: [][]string{nil}}}
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			p.args = append(p.args, args[i+1:]...)
			i = len(args)
		case len(arg) > 1 && arg[0] == '-':
			used, err := p.flag(arg, args[i+1:])
			if err != nil {
				return nil, err
			}
			i += used
		default:
			if err := p.word(arg); err != nil {
				return nil, err
			}
		}
	}
	if p.help || p.version {
		return &p.parsed, nil
	}
	for _, e := range p.early {
		f, level := p.lookup(e.name)
		if f == nil {
			return nil, p.unknownFlag(e.name)
		}
		if err := p.set(f, level, e.value); err != nil {
			return nil, err
		}
	}
	if leaf := p.leaf(); len(leaf.Commands) > 0 && len(p.args) > 0 {
		return nil, usagef(p.path, "unexpected argument %q", p.args[0])
	}
	return &p.parsed, nil
}

func (p *parsed) leaf() *Command { return p.path[len(p.path)-1] }

// word takes a word that is no flag: a command's name, or an argument.
func (p *parser) word(word string) error {
	leaf := p.leaf()
	if len(leaf.Commands) == 0 {
		p.args = append(p.args, word)
		return nil
	}
	if word == "help" {
		p.help = true
		return nil
	}
	sub := leaf.command(word)
	if sub == nil {
		var names []string
		for _, c := range leaf.Commands {
			if !c.Hidden {
				names = append(names, c.Name)
			}
		}
		return usagef(p.path, "there is no command %q%s", pathName(p.path)+" "+word, api.DidYouMean(word, names))
	}
	p.path = append(p.path, sub)
	p.flags = append(p.flags, nil)
	return nil
}

func (c *Command) command(name string) *Command {
	for i := range c.Commands {
		if s := &c.Commands[i]; s.Name == name || slices.Contains(s.Aliases, name) {
			return s
		}
	}
	return nil
}

// flag takes a flag and says how many of the following words were its value.
func (p *parser) flag(arg string, rest []string) (used int, err error) {
	name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	switch {
	case (name == "help" || name == "h") && !hasValue:
		p.help = true
		return 0, nil
	case name == "version" && !hasValue && len(p.path) == 1:
		p.version = true
		return 0, nil
	}
	f, level := p.lookup(name)
	wait := false
	if f == nil {
		if f = p.leaf().below(name); f == nil {
			return 0, p.unknownFlag(name)
		}
		wait = true
	}
	switch {
	case hasValue:
	case f.Kind == Bool:
		value = "true"
	case len(rest) == 0 || p.looksLikeFlag(rest[0]):
		return 0, usagef(p.path, "flag %s needs a value", f.dashed())
	default:
		value, used = rest[0], 1
	}
	if wait {
		p.early = append(p.early, early{name, value})
		return used, nil
	}
	return used, p.set(f, level, value)
}

// looksLikeFlag keeps "--ttl --user=x" from taking a flag for a value, and
// leaves values that merely begin with a dash ("-", "-5m").
func (p *parser) looksLikeFlag(word string) bool {
	if len(word) < 2 || word[0] != '-' {
		return false
	}
	if word == "--" {
		return true
	}
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	f, _ := p.lookup(name)
	return f != nil
}

// lookup finds a flag of the present command or one above it, innermost first.
func (p *parsed) lookup(name string) (*Flag, int) {
	for level := len(p.path) - 1; level >= 0; level-- {
		if f := p.path[level].flagNamed(name); f != nil {
			return f, level
		}
	}
	return nil, 0
}

func (c *Command) flagNamed(name string) *Flag {
	for i := range c.Flags {
		if f := &c.Flags[i]; f.Name == name || slices.Contains(f.Aliases, name) {
			return f
		}
	}
	return nil
}

// below finds a flag of a command further down. Where commands disagree on
// whether it takes a value, it can't be read before the command is known.
func (c *Command) below(name string) *Flag {
	var found *Flag
	for i := range c.Commands {
		sub := &c.Commands[i]
		f := sub.flagNamed(name)
		if f == nil {
			f = sub.below(name)
		}
		if f == nil {
			continue
		}
		if found != nil && (found.Kind == Bool) != (f.Kind == Bool) {
			return nil
		}
		found = f
	}
	return found
}

func (p *parser) set(f *Flag, level int, value string) error {
	if err := f.check(value); err != "" {
		return usagef(p.path, "flag %s: %s", f.dashed(), err)
	}
	p.put(f, level, value)
	return nil
}

// check says what is wrong with a value; "": nothing.
func (f *Flag) check(value string) string {
	switch f.Kind {
	case Bool:
		if _, err := strconv.ParseBool(value); err != nil {
			return fmt.Sprintf("%q is neither true nor false", value)
		}
	case Duration:
		switch d, err := api.ParseDuration(value); {
		case err != nil && f.Max > 0 && errors.Is(err, api.ErrLongDuration), f.Max > 0 && d > f.Max:
			return fmt.Sprintf("%q is too long: at most %s", value, longDuration(f.Max))
		case err != nil:
			return fmt.Sprintf("%q %v", value, err)
		}
	case Int:
		if _, err := strconv.Atoi(value); err != nil {
			return fmt.Sprintf("%q is not a number", value)
		}
	case Size:
		if _, err := ParseSize(value); err != nil {
			return fmt.Sprintf("%q %v", value, err)
		}
	case String:
		if !allowed(f, value) {
			return noneOf(value, f.Values)
		}
	case Strings:
		for v := range strings.SplitSeq(value, ",") {
			if !allowed(f, strings.TrimSpace(v)) {
				return noneOf(v, f.Values)
			}
		}
	}
	return ""
}

func (f *Flag) dashed() string { return dashed(f.Name) }

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func (p *parser) unknownFlag(name string) error {
	var known []string
	for _, c := range p.path {
		for _, f := range c.Flags {
			if !f.Hidden {
				known = append(known, f.Name)
			}
		}
	}
	hint := ""
	if near := api.Nearest(name, known); near != "" {
		hint = ", did you mean " + dashed(near) + "?"
	}
	return usagef(p.path, "'%s' has no flag %s%s", pathName(p.path), dashed(name), hint)
}
