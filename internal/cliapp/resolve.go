package cliapp

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
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

// environment fills in what the command line leaves out. An empty variable counts
// as none, so that a manifest or unit file can always name it.
func (p *parsed) environment() error {
	p.sources = map[string]string{}
	seen := map[string]bool{}
	for level := len(p.path) - 1; level >= 0; level-- {
		for i := range p.path[level].Flags {
			f := &p.path[level].Flags[i]
			if seen[f.Name] {
				continue // hidden by a flag of a command further down
			}
			seen[f.Name] = true
			if len(p.typed(f, level)) > 0 {
				p.sources[f.Name] = f.dashed()
				continue
			}
			value := ""
			if f.Env != "" {
				value = os.Getenv(f.Env)
			}
			if value == "" {
				p.open = append(p.open, slot{f, level})
				continue
			}
			if err := f.Check(value); err != nil {
				return api.Errorf(api.CodeInvalid, "environment variable %s: %w", f.Env, err)
			}
			p.sources[f.Name] = f.Env
			p.put(f, level, value)
		}
	}
	return nil
}

// value is that of a flag as far as the command line and the environment say.
func (p *parsed) value(flag string) string {
	f, level := p.lookup(flag)
	if f == nil {
		return ""
	}
	values := p.typed(f, level)
	if f.Kind != Strings {
		values = values[max(0, len(values)-1):] // the last counts
	}
	return strings.Join(values, ",")
}

// with is the line with what the settings say of flags that are still open.
func (p *parsed) with(settings map[string]Setting) (*parsed, error) {
	out := *p
	out.flags, out.sources = slices.Clone(p.flags), maps.Clone(p.sources)
	for i := range out.flags {
		out.flags[i] = slices.Clone(out.flags[i])
	}
	for _, o := range p.open {
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
			out.put(o.flag, o.level, value)
		}
		out.sources[o.flag.Name] = s.Source
	}
	return &out, nil
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

// put sets a flag to a value that was checked.
func (p *parsed) put(f *Flag, level int, value string) {
	if n, err := strconv.Atoi(value); f.Kind == Int && err == nil {
		value = strconv.Itoa(n) // 010 is ten; the library takes it for octal
	}
	if d, err := api.ParseDuration(value); f.Kind == Duration && err == nil {
		value = d.String() // the library knows no days
	}
	p.flags[level] = append(p.flags[level], "--"+f.Name+"="+value)
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
	case Size:
		return "SIZE"
	case String, Strings:
	}
	return strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// noneOf is the message for a value that is not among those allowed.
func noneOf(value string, allowed []string) string {
	if len(allowed) == 1 {
		return fmt.Sprintf("%q is not known: there is only %s", value, allowed[0])
	}
	return fmt.Sprintf("%q is none of %s%s", value, strings.Join(allowed, ", "), api.DidYouMean(value, allowed))
}

func allowed(f *Flag, value string) bool {
	return len(f.Values) == 0 || slices.Contains(f.Values, value)
}
