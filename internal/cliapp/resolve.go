package cliapp

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Setting is what a settings file says of a flag.
type Setting struct {
	Values []string // one, or any number for a Strings flag
	Source string   // "/etc/sallyport.yaml, line 3"
}

// slot is a flag of the command line's path that nothing has set yet.
type slot struct {
	flag  *Flag
	level int
}

// resolve fills in what the command line leaves out: from the environment, then
// from the settings. It says where each flag's value is from. An empty variable
// counts as none, so that a manifest or unit file can always name it.
func (p *parsed) resolve() (sources map[string]string, err error) {
	sources = map[string]string{}
	values := map[string]string{} // as far as the command line and the environment say
	var open []slot
	seen := map[string]bool{}
	for level := len(p.path) - 1; level >= 0; level-- {
		for i := range p.path[level].Flags {
			f := &p.path[level].Flags[i]
			if seen[f.Name] {
				continue // hidden by a flag of a command further down
			}
			seen[f.Name] = true
			if typed := p.typed(f, level); len(typed) > 0 {
				sources[f.Name], values[f.Name] = f.dashed(), f.joined(typed)
				continue
			}
			value := ""
			if f.Env != "" {
				value = os.Getenv(f.Env)
			}
			if value == "" {
				open = append(open, slot{f, level})
				continue
			}
			if err := f.Check(value); err != nil {
				return nil, api.Errorf(api.CodeInvalid, "environment variable %s: %w", f.Env, err)
			}
			sources[f.Name], values[f.Name] = f.Env, value
			p.put(f, level, value)
		}
	}
	leaf := p.path[len(p.path)-1]
	if leaf.Settings == nil {
		return sources, nil
	}
	settings, err := leaf.Settings(func(flag string) string { return values[flag] })
	if err != nil {
		return nil, err
	}
	for _, o := range open {
		s, ok := settings[o.flag.Name]
		if !ok {
			continue
		}
		if o.flag.Kind != Strings && len(s.Values) != 1 {
			return nil, api.Errorf(api.CodeInvalid, "%s: %s takes one value, not %d", s.Source, o.flag.dashed(), len(s.Values))
		}
		for _, value := range s.Values {
			if err := o.flag.Check(value); err != nil {
				return nil, api.Errorf(api.CodeInvalid, "%s: %w", s.Source, err)
			}
			p.put(o.flag, o.level, value)
		}
		sources[o.flag.Name] = s.Source
	}
	return sources, nil
}

// typed are the values that the command line gives a flag.
func (p *parsed) typed(f *Flag, level int) []string {
	var out []string
	for _, word := range p.flags[level] {
		if value, ok := strings.CutPrefix(word, "--"+f.Name+"="); ok {
			out = append(out, value)
		}
	}
	return out
}

func (p *parsed) put(f *Flag, level int, value string) {
	p.flags[level] = append(p.flags[level], "--"+f.Name+"="+value)
}

// joined is the one value that repeated flags amount to.
func (f *Flag) joined(values []string) string {
	if f.Kind == Strings {
		return strings.Join(values, ",")
	}
	return values[len(values)-1]
}

// Check says what is wrong with a value, without naming the flag.
func (f *Flag) Check(value string) error {
	if err := f.check(value); err != "" {
		return api.Errorf(api.CodeInvalid, "%s", err)
	}
	return nil
}

// Placeholder is the word that stands for the flag's value: what its usage has in backticks.
func (f *Flag) Placeholder() string {
	if _, rest, ok := strings.Cut(f.Usage, "`"); ok {
		if name, _, ok := strings.Cut(rest, "`"); ok {
			return name
		}
	}
	switch f.Kind {
	case Bool:
		return ""
	case Duration:
		return "DURATION"
	case Int:
		return "N"
	case String, Strings:
	}
	return strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// noneOf is the message for a value that is not among those allowed.
func noneOf(value string, allowed []string) string {
	return fmt.Sprintf("%q is none of %s%s", value, strings.Join(allowed, ", "), didYouMean(value, allowed))
}

func allowed(f *Flag, value string) bool {
	return len(f.Values) == 0 || slices.Contains(f.Values, value)
}
