package yamldoc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Bounds of a file. It may hold all users of a large organisation; what bounds one
// document is api.MaxRequestBody.
const (
	MaxSize      = 16 << 20
	maxDocuments = 20_000
)

// Document is one document of a file: decoded by api.DecodeDocument, and as the
// JSON that goes to the server.
type Document struct {
	Value any // as api.DecodeDocument gives it
	JSON  json.RawMessage
	Line  int // where it begins
	body  ast.Node
}

// FieldLine is the line of a field, or of the innermost part of its path that
// stands in the document: what a server refuses, it names by field alone.
func (d *Document) FieldLine(path string) int {
	if d.body == nil {
		return d.Line
	}
	return fieldLine(d.body, path)
}

// Decode reads all documents of a YAML (or JSON) file, and validates them. The
// error names the line.
func Decode(text []byte) ([]Document, error) {
	if len(text) > MaxSize {
		return nil, api.Errorf(api.CodeTooLarge, "more than %d bytes", MaxSize)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // some editors put a byte order mark there
	file, err := parse(text)
	if err != nil {
		return nil, err
	}
	var docs []Document
	for _, node := range file.Docs {
		if node.Body == nil || node.Body.Type() == ast.NullType || node.Body.Type() == ast.CommentType {
			continue
		}
		doc, err := decodeNode(node.Body)
		if err != nil {
			return nil, err
		}
		if docs = append(docs, doc); len(docs) > maxDocuments {
			return nil, api.Errorf(api.CodeTooLarge, "more than %d documents", maxDocuments)
		}
	}
	if len(docs) == 0 {
		return nil, api.Errorf(api.CodeInvalid, "no document: want YAML that begins with 'kind: KIND', one of %s", strings.Join(api.Kinds(), ", "))
	}
	return docs, nil
}

// parse guards against a parser that panics on hostile text: it is not ours.
func parse(text []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, api.Errorf(api.CodeInvalid, "not YAML")
		}
	}()
	file, err = parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntaxError(err, text)
	}
	return file, nil
}

func decodeNode(body ast.Node) (doc Document, err error) {
	defer func() {
		if r := recover(); r != nil {
			doc, err = Document{}, api.Errorf(api.CodeInvalid, "line %d: not YAML", line(body))
		}
	}()
	var refused refuser
	ast.Walk(&refused, body)
	if refused.err != nil {
		return Document{}, refused.err
	}
	if !isMapping(body) {
		return Document{}, api.Errorf(api.CodeInvalid, "line %d: want fields such as 'kind: role', not %s", line(body), nodeName(body))
	}
	var value any
	if err := yaml.NodeToValue(body, &value, yaml.Strict()); err != nil {
		return Document{}, syntaxError(err, nil)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return Document{}, api.Errorf(api.CodeInvalid, "line %d: keys must be strings", line(body))
	}
	decoded, err := api.DecodeDocument(raw)
	if err != nil {
		return Document{}, explain(body, raw, err)
	}
	return Document{Value: decoded, JSON: raw, Line: line(body), body: body}, nil
}

func isMapping(node ast.Node) bool {
	return node.Type() == ast.MappingType || node.Type() == ast.MappingValueType
}

func nodeName(node ast.Node) string {
	switch node.Type() {
	case ast.SequenceType:
		return "a list"
	case ast.IntegerType, ast.FloatType:
		return "a number"
	case ast.BoolType:
		return "true or false"
	default:
		return "a string"
	}
}

// refuser finds what would make a document larger than it looks, or other than
// it looks.
type refuser struct {
	err   error
	depth int
}

const maxDepth = 64

// Visit implements ast.Visitor.
func (r *refuser) Visit(node ast.Node) ast.Visitor {
	if r.err != nil {
		return nil
	}
	what := ""
	switch node.Type() {
	case ast.AnchorType, ast.AliasType, ast.MergeKeyType:
		what = "anchors and aliases are not supported"
	case ast.TagType:
		what = "tags are not supported"
	case ast.InfinityType, ast.NanType:
		what = "no field holds such a number; quote it if it is text"
	default:
	}
	if r.depth > maxDepth {
		what = fmt.Sprintf("nested deeper than %d levels", maxDepth)
	}
	if what != "" {
		r.err = api.Errorf(api.CodeInvalid, "line %d: %s", line(node), what)
		return nil
	}
	return &child{r: r, depth: r.depth + 1}
}

// child carries the depth of one branch; the error is the root's.
type child struct {
	r     *refuser
	depth int
}

func (c *child) Visit(node ast.Node) ast.Visitor {
	c.r.depth = c.depth
	return c.r.Visit(node)
}

func line(node ast.Node) int {
	if node == nil || node.GetToken() == nil || node.GetToken().Position == nil {
		return 1
	}
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return line(m.Values[0])
	}
	if mv, ok := node.(*ast.MappingValueNode); ok {
		return line(mv.Key)
	}
	return node.GetToken().Position.Line
}

// fieldLine finds the line of spec.allow.rules[0].verbs: it descends as far as
// the path and the document agree.
func fieldLine(node ast.Node, path string) int {
	at := line(node)
	for path != "" {
		next, rest := step(node, path)
		if next == nil {
			return at
		}
		node, path = next.value, rest
		at = next.line
	}
	return at
}

type stepped struct {
	value ast.Node
	line  int
}

// step takes one member or element. Names may hold dots, so the longest member
// that is a prefix of the path wins.
func step(node ast.Node, path string) (*stepped, string) {
	path = strings.TrimPrefix(path, ".")
	if index, rest, ok := cutIndex(path); ok {
		if seq, isSeq := node.(*ast.SequenceNode); isSeq && index < len(seq.Values) {
			return &stepped{seq.Values[index], line(seq.Values[index])}, rest
		}
		return nil, ""
	}
	var members []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		members = n.Values
	case *ast.MappingValueNode:
		members = []*ast.MappingValueNode{n}
	}
	var found *ast.MappingValueNode
	longest := -1
	for _, m := range members {
		name := m.Key.GetToken().Value
		rest, ok := strings.CutPrefix(path, name)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') && len(name) > longest {
			found, longest = m, len(name)
		}
	}
	if found == nil {
		return nil, ""
	}
	return &stepped{found.Value, line(found)}, path[longest:]
}

func cutIndex(path string) (index int, rest string, ok bool) {
	if !strings.HasPrefix(path, "[") {
		return 0, "", false
	}
	digits, rest, ok := strings.Cut(path[1:], "]")
	index, err := strconv.Atoi(digits)
	return index, rest, ok && err == nil && index >= 0
}
