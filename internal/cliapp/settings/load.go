package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// maxSize is far above any settings file, and far below what would hurt.
const maxSize = 1 << 20

// Key is a flag's name in a settings file.
func Key(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// Load reads a settings file: values by flag name. An error names file and line;
// for a file that isn't there it is fs.ErrNotExist.
func Load(path string, flags []cliapp.Flag) (map[string]cliapp.Setting, error) {
	f, err := os.Open(path) //nolint:gosec // whoever runs the program names the file
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "settings: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "settings: %w", err)
	}
	if len(b) > maxSize {
		return nil, api.Errorf(api.CodeInvalid, "%s is larger than %d bytes: is this the right file?", path, maxSize)
	}
	return Parse(path, b, flags)
}

// Parse is Load for what was read already; name stands in errors and sources.
func Parse(name string, b []byte, flags []cliapp.Flag) (map[string]cliapp.Setting, error) {
	p := &parser{name: name, flags: map[string]*cliapp.Flag{}, out: map[string]cliapp.Setting{}}
	for i := range flags {
		key := Key(flags[i].Name)
		p.flags[key] = &flags[i]
		if !flags[i].Hidden {
			p.keys = append(p.keys, key)
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return p.out, nil // nothing but comments: all defaults
	case err != nil:
		return nil, p.syntax(b, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, p.syntax(b, err)
		}
		return nil, api.Errorf(api.CodeInvalid, "%s holds more than one document: remove the line --- and what follows", name)
	}
	if err := p.document(doc.Content[0]); err != nil {
		return nil, err
	}
	return p.out, nil
}

type parser struct {
	name  string
	flags map[string]*cliapp.Flag // by key
	keys  []string
	out   map[string]cliapp.Setting
}

func (p *parser) at(line int) string { return fmt.Sprintf("%s, line %d", p.name, line) }

func (p *parser) errorf(n *yaml.Node, format string, args ...any) error {
	return api.Errorf(api.CodeInvalid, "%s: %s", p.at(n.Line), fmt.Sprintf(format, args...))
}

func (p *parser) document(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil // "---" and nothing else
	}
	if n.Kind != yaml.MappingNode {
		return p.errorf(n, "lines of the form key: value are expected, such as %s", p.example())
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		f := p.flags[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || f == nil:
			return p.errorf(key, "unknown key %q%s", key.Value, api.DidYouMean(key.Value, p.keys))
		case first[key.Value] > 0:
			return p.errorf(key, "%s is set in line %d already: remove one", key.Value, first[key.Value])
		}
		first[key.Value] = key.Line
		values, err := p.values(key.Value, f, value)
		if err != nil {
			return err
		}
		p.out[f.Name] = cliapp.Setting{Values: values, Source: p.at(key.Line)}
	}
	return nil
}

func (p *parser) example() string {
	if len(p.keys) == 0 {
		return "key: value"
	}
	return p.keys[0] + ": …"
}

func (p *parser) values(key string, f *cliapp.Flag, n *yaml.Node) ([]string, error) {
	if n.Kind == yaml.SequenceNode && f.Kind == cliapp.Strings {
		values := []string{}
		for _, item := range n.Content {
			v, err := p.value(key, f, item)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		}
		return values, nil
	}
	v, err := p.value(key, f, n)
	return []string{v}, err
}

// value is a scalar as it is written, whatever type YAML would give it.
func (p *parser) value(key string, f *cliapp.Flag, n *yaml.Node) (string, error) {
	switch {
	case n.Kind == yaml.SequenceNode:
		return "", p.errorf(n, "%s takes one value, not a list", key)
	case n.Kind == yaml.MappingNode:
		return "", p.errorf(n, "%s takes a value, not keys of its own", key)
	case n.Kind != yaml.ScalarNode:
		return "", p.errorf(n, "%s: write the value out, there are no aliases here", key)
	case n.Tag == "!!null":
		return "", p.errorf(n, "%s has no value: give one, or put # before the line for the default", key)
	}
	if err := f.Check(n.Value); err != nil {
		return "", p.errorf(n, "%s: %s", key, err)
	}
	return n.Value, nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntax puts an error of the YAML parser into the form of ours. What it explains
// badly or without a line, tabs and strange characters, is looked for first.
func (p *parser) syntax(b []byte, err error) error {
	line := 0
	for text := range strings.Lines(string(b)) {
		line++
		if indent := text[:len(text)-len(strings.TrimLeft(text, " \t"))]; strings.Contains(indent, "\t") {
			return api.Errorf(api.CodeInvalid, "%s: a tab can't indent in YAML: use blanks", p.at(line))
		}
		if i := strings.IndexFunc(text, strange); i >= 0 {
			return api.Errorf(api.CodeInvalid, "%s: not YAML: character %d is not text in UTF-8", p.at(line), i+1)
		}
	}
	text := yamlLine.ReplaceAllString(err.Error(), "")
	line = 1 // which the library leaves out
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
		line, _ = strconv.Atoi(m[1]) // digits, by the expression
	}
	return api.Errorf(api.CodeInvalid, "%s: not YAML: %s", p.at(line), text)
}

func strange(r rune) bool {
	return r == utf8.RuneError || unicode.IsControl(r) && r != '\t' && r != '\n' && r != '\r'
}
