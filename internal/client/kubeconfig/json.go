package kubeconfig

import (
	"bytes"
	"encoding/json"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// firstIndent is how far the first key of a JSON document stands from the margin.
var firstIndent = regexp.MustCompile(`^\s*\{[ \t]*\r?\n([ \t]+)"`)

// encodeJSON writes a tree as src is written: JSON on several lines. ok is false
// where src is something else.
func encodeJSON(root *yaml.Node, src []byte) (out []byte, ok bool) {
	m := firstIndent.FindSubmatch(src)
	if m == nil || !json.Valid(src) {
		return nil, false
	}
	var line bytes.Buffer
	if err := appendJSON(&line, root); err != nil {
		return nil, false
	}
	var b bytes.Buffer
	if err := json.Indent(&b, line.Bytes(), "", string(m[1])); err != nil {
		return nil, false
	}
	if bytes.HasSuffix(src, []byte("\n")) {
		b.WriteByte('\n')
	}
	if bytes.Contains(src, []byte("\r\n")) {
		return bytes.ReplaceAll(b.Bytes(), []byte("\n"), []byte("\r\n")), true
	}
	return b.Bytes(), true
}

func appendJSON(b *bytes.Buffer, n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return appendScalar(b, n)
	}
	open, shut := byte('['), byte(']')
	if n.Kind == yaml.MappingNode {
		open, shut = '{', '}'
	}
	b.WriteByte(open)
	for i, sub := range n.Content {
		switch {
		case i == 0:
		case n.Kind == yaml.MappingNode && i%2 == 1:
			b.WriteByte(':')
		default:
			b.WriteByte(',')
		}
		if err := appendJSON(b, sub); err != nil {
			return err
		}
	}
	b.WriteByte(shut)
	return nil
}

func appendScalar(b *bytes.Buffer, n *yaml.Node) error {
	if n.ShortTag() != "!!str" {
		b.WriteString(n.Value) // as it stood in JSON, or ours
		return nil
	}
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(n.Value); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the encoder's newline
	return nil
}
