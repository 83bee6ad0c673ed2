package settings

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// Keys are the keys of a settings file, right or wrong.
func Keys(src []byte) ([]string, error) {
	nodes, err := mappingOf(src)
	var keys []string
	for i := 0; i+1 < len(nodes); i += 2 {
		keys = append(keys, nodes[i].Value)
	}
	return keys, err
}

// mappingOf gives keys and values in turn, with their places.
func mappingOf(src []byte) ([]*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(src, &doc); err != nil {
		return nil, fmt.Errorf("not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if doc.Kind == 0 || doc.Content[0].ShortTag() == "!!null" {
		return nil, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode || root.Style&yaml.FlowStyle != 0 {
		return nil, errors.New("lines of the form key: value are expected; edit the file by hand")
	}
	return root.Content, nil
}

// Set sets a flag's key to a value on a line of its own. All other lines, and a
// comment behind the value, stay as they are. A file that is too intricate for
// that is refused.
func Set(src []byte, f *cliapp.Flag, value string) ([]byte, error) {
	key := Key(f.Name)
	line, err := keyLine(key, value, f.Kind == cliapp.String)
	if err != nil {
		return nil, err
	}
	nodes, err := mappingOf(src)
	if err != nil {
		return nil, err
	}
	lines := splitLines(src)
	i := indexOf(nodes, key)
	if i < 0 {
		at := exampleOf(lines, key)
		if at > 0 && !strings.HasSuffix(lines[at-1], "\n") {
			lines[at-1] += "\n"
		}
		return checkEdit(nodes, slices.Insert(lines, at, line+"\n"), key, &value)
	}
	if err := oneLine(nodes[i], nodes[i+1], lines); err != nil {
		return nil, err
	}
	if comment := nodes[i+1].LineComment; comment != "" {
		line += " " + comment
	}
	at := nodes[i].Line - 1
	lines[at] = line + lines[at][len(strings.TrimRight(lines[at], "\r\n")):]
	return checkEdit(nodes, lines, key, &value)
}

// Unset removes the line of a key.
func Unset(src []byte, key string) ([]byte, error) {
	nodes, err := mappingOf(src)
	if err != nil {
		return nil, err
	}
	i := indexOf(nodes, key)
	if i < 0 {
		return src, nil
	}
	lines := splitLines(src)
	if err := oneLine(nodes[i], nodes[i+1], lines); err != nil {
		return nil, err
	}
	at := nodes[i].Line - 1
	return checkEdit(nodes, slices.Delete(lines, at, at+1), key, nil)
}

func indexOf(nodes []*yaml.Node, key string) int {
	for i := 0; i+1 < len(nodes); i += 2 {
		if nodes[i].Value == key {
			return i
		}
	}
	return -1
}

// exampleOf is the place of a new key: below its example, in a file that Print
// wrote, else the end.
func exampleOf(lines []string, key string) int {
	for i, line := range lines {
		if text, ok := strings.CutPrefix(line, "#"); ok && strings.HasPrefix(strings.TrimLeft(text, " "), key+":") {
			return i + 1
		}
	}
	return len(lines)
}

// checkEdit makes sure that lines were cut in the right places: read again, all
// other keys are as before, and key has the value, or none if it is nil.
func checkEdit(before []*yaml.Node, lines []string, key string, value *string) ([]byte, error) {
	out := []byte(strings.Join(lines, ""))
	byHand := errors.New("it is not written as lines of the form key: value; edit the file by hand")
	after, err := mappingOf(out)
	if err != nil {
		return nil, byHand
	}
	others := func(nodes []*yaml.Node) (out []string) {
		for i := 0; i+1 < len(nodes); i += 2 {
			if nodes[i].Value != key {
				text, err := yaml.Marshal(nodes[i+1])
				out = append(out, nodes[i].Value, string(text), fmt.Sprint(err))
			}
		}
		return out
	}
	i := indexOf(after, key)
	if (i >= 0) != (value != nil) || i >= 0 && after[i+1].Value != *value || !slices.Equal(others(before), others(after)) {
		return nil, byHand
	}
	return out, nil
}

// oneLine makes sure that an entry is a line of its own and no more than that.
func oneLine(key, value *yaml.Node, lines []string) error {
	byHand := fmt.Errorf("line %d: the value of %s is not on one line with it; edit the file by hand", key.Line, key.Value)
	if key.Line > len(lines) { // YAML breaks lines at more characters than "\n"
		return byHand
	}
	if value.Kind != yaml.ScalarNode || value.Line != key.Line && value.Value != "" || value.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 || key.Column != 1 {
		return byHand
	}
	// The line alone must say the same as the whole.
	alone, err := mappingOf([]byte(lines[key.Line-1]))
	if err != nil || len(alone) != 2 || alone[0].Value != key.Value || alone[1].Value != value.Value || alone[1].Kind != yaml.ScalarNode {
		return byHand
	}
	return nil
}

func keyLine(key, value string, isText bool) (string, error) {
	if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return "", errors.New("a value can't hold control characters or broken UTF-8")
	}
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: value}
	if isText {
		node.SetString(value) // quoted where YAML would take it for something else
	}
	b, err := yaml.Marshal(node)
	if err != nil {
		return "", err
	}
	text := strings.TrimSuffix(string(b), "\n")
	if strings.Contains(text, "\n") {
		return "", errors.New("the value is too long for a line")
	}
	return key + ": " + text, nil
}

func splitLines(src []byte) []string { return slices.Collect(strings.Lines(string(src))) }
