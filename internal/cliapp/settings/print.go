package settings

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// width of the lines that Print writes.
const width = 80

// Print writes a settings file with the values given (by flag name). Every other key
// is commented out, under its usage and with its default. The header comes first,
// as a comment.
func Print(w io.Writer, flags []cliapp.Flag, header string, given map[string][]string) error {
	var b bytes.Buffer
	comment(&b, header)
	for i := range flags {
		f := &flags[i]
		if f.Hidden {
			continue
		}
		b.WriteByte('\n')
		comment(&b, f.Describe())
		values, ok := given[f.Name]
		if !ok {
			fmt.Fprintf(&b, "#%s: %s\n", Key(f.Name), example(f))
			continue
		}
		text, err := yaml.Marshal(map[string]any{Key(f.Name): typed(f, values)})
		if err != nil {
			return err
		}
		b.Write(text)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// typed is a value in the form that YAML writes best.
func typed(f *cliapp.Flag, values []string) any {
	if f.Kind == cliapp.Strings {
		return values
	}
	if len(values) == 0 {
		return ""
	}
	value := values[len(values)-1]
	if f.Kind == cliapp.String {
		return value // quoted where YAML would take it for something else
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: value}
}

// example is what stands behind a key that is commented out: its default, or a
// word for its value.
func example(f *cliapp.Flag) string {
	value := f.Default
	switch {
	case value == "" && f.Kind == cliapp.Bool:
		value = "false"
	case value == "":
		value = f.Placeholder()
	}
	if f.Kind == cliapp.Strings {
		return "[" + strings.ReplaceAll(value, ",", ", ") + "]"
	}
	if strings.HasPrefix(value, ":") {
		return `"` + value + `"` // ":3080" is text in YAML too, but looks like a key
	}
	return value
}

func comment(b *bytes.Buffer, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		for _, wrapped := range cliapp.Wrap(line, width-2) {
			b.WriteString(strings.TrimRight("# "+wrapped, " ") + "\n")
		}
	}
}
