package kubeconfig

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxSize bounds a kubeconfig, in bytes; those with hundreds of clusters are
// below 1 MiB.
const maxSize = 32 << 20

// file is a kubeconfig as read.
type file struct {
	src  []byte
	root *yaml.Node // its mapping; nil if the file says nothing; never changed
	// index is the first element of each name, by list: of thousands of clusters, each
	// is looked up several times.
	index map[string]map[string]*yaml.Node
}

func parse(path string, src []byte) (*file, error) {
	bad := func(format string, args ...any) error {
		return api.Errorf(api.CodeInvalid, "%s is not a kubeconfig that tsh can change: %s", path, fmt.Sprintf(format, args...))
	}
	if len(src) > maxSize {
		return nil, bad("it is %d bytes long", len(src))
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return &file{src: src}, nil
	} else if err != nil {
		return nil, bad("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, bad("it holds more than one document")
	}
	if len(doc.Content) != 1 {
		return nil, bad("it holds no document")
	}
	root := doc.Content[0]
	if root.ShortTag() == "!!null" && root.Value == "" {
		return &file{src: src}, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, bad("it is no mapping")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		if key.Kind != yaml.ScalarNode {
			return nil, bad("line %d: a key is no plain word", key.Line)
		}
		if seen[key.Value] {
			return nil, bad("line %d: the key %q appears twice", key.Line, key.Value)
		}
		seen[key.Value] = true
	}
	return &file{src: src, root: root}, nil
}

func (f *file) current() string { return scalar(value(f.root, "current-context")) }

// sequence is a list of the file, nil if there is none.
func (f *file) sequence(path, list string) (*yaml.Node, error) {
	seq := value(f.root, list)
	if seq == nil || seq.ShortTag() == "!!null" {
		return nil, nil //nolint:nilnil // no list is no error
	}
	if seq.Kind != yaml.SequenceNode {
		return nil, api.Errorf(api.CodeInvalid, "%s is not a kubeconfig that tsh can change: line %d: %s is no list", path, seq.Line, list)
	}
	return seq, nil
}

// item is the element of a list with that name.
func (f *file) item(list, name string) *yaml.Node {
	if f.index == nil {
		f.index = map[string]map[string]*yaml.Node{}
	}
	byName, ok := f.index[list]
	if !ok {
		byName = map[string]*yaml.Node{}
		if seq := value(f.root, list); seq != nil && seq.Kind == yaml.SequenceNode {
			for _, item := range slices.Backward(seq.Content) { // the first of a name counts
				byName[scalar(value(item, "name"))] = item
			}
		}
		f.index[list] = byName
	}
	return byName[name]
}

// owner is the proxy of the entry of that name, if tsh made it: its user is
// ours, and its context (if there is one) uses that user.
func (f *file) owner(name string) (proxy string, ours bool) {
	if name == "" {
		return "", false
	}
	if c := f.item("contexts", name); c != nil && scalar(value(value(c, "context"), "user")) != name {
		return "", false
	}
	return ownerProxy(f.item("users", name))
}

// rewrite gives the text of the file after the changes: by cutting lines where
// that works, else encoded anew. Either is parsed again and compared.
func (f *file) rewrite(path string, changes []change, current string, setCurrent bool) ([]byte, error) {
	if len(changes) == 0 && !setCurrent {
		return f.src, nil
	}
	want := f.changed(changes, current, setCurrent)
	says := func(out []byte) bool {
		got, err := parse(path, out)
		return err == nil && equal(got.root, want)
	}
	if out, ok := f.cut(changes, current, setCurrent); ok && says(out) {
		return out, nil
	}
	if out, ok := encodeJSON(want, f.src); ok && says(out) {
		return out, nil
	}
	out, err := encode(want)
	if err != nil || !says(out) {
		return nil, api.Errorf(api.CodeInvalid, "%s is written in a way that tsh can't change safely; it was left as it is (use another file: KUBECONFIG=FILE)", path)
	}
	return out, nil
}

// changed is the wanted tree.
func (f *file) changed(changes []change, current string, setCurrent bool) *yaml.Node {
	root := clone(f.root)
	if root == nil {
		root = mapping("apiVersion", text("v1"), "kind", text("Config"))
	}
	for _, list := range lists() {
		seq := value(root, list)
		var mine []change
		for _, c := range changes {
			if c.list == list {
				mine = append(mine, c)
			}
		}
		if len(mine) == 0 {
			continue
		}
		if seq == nil || seq.Kind != yaml.SequenceNode {
			seq = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			put(root, list, seq)
		}
		for _, c := range slices.Backward(mine) { // indexes stay true from the back
			switch {
			case c.index < 0:
			case c.node == nil:
				seq.Content = slices.Delete(seq.Content, c.index, c.index+1)
			default:
				seq.Content[c.index] = c.node
			}
		}
		for _, c := range mine {
			if c.index < 0 {
				seq.Content = append(seq.Content, c.node)
			}
		}
		if len(seq.Content) > 0 && root.Style&yaml.FlowStyle == 0 && !slices.ContainsFunc(mine, func(c change) bool { return c.index >= 0 }) {
			seq.Style &^= yaml.FlowStyle // was []
		}
	}
	if setCurrent {
		put(root, "current-context", text(current))
	}
	return root
}

// encode writes a tree; one that was JSON stays JSON.
func encode(root *yaml.Node) ([]byte, error) {
	if root.Style&yaml.FlowStyle != 0 {
		root = clone(root)
		quote(root)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

func quote(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, sub := range n.Content {
		quote(sub)
	}
}

// cutter edits the lines of a file.
type cutter struct {
	lines []string // with their ends
	eol   string
	edits []lineEdit
}

// lineEdit replaces lines [from, to), counted from 0. At one place, elements of
// a list come before new keys, and both before what is replaced.
type lineEdit struct {
	from, to int
	text     string
	newKey   bool
}

func (e lineEdit) rank() int {
	switch {
	case e.to > e.from:
		return 2
	case e.newKey:
		return 1
	default:
		return 0
	}
}

// exoticBreaks finds what ends a line in YAML but not here, so that line numbers
// would differ: a lone carriage return, NEL, and Unicode's separators.
func exoticBreaks(src []byte) bool {
	return bytes.Count(src, []byte("\r")) != bytes.Count(src, []byte("\r\n")) || bytes.ContainsAny(src, "\u0085\u2028\u2029")
}

// cut is the text with only the lines of the changes touched; ok is false where
// the layout is none that it knows.
func (f *file) cut(changes []change, current string, setCurrent bool) (out []byte, ok bool) {
	if exoticBreaks(f.src) {
		return nil, false
	}
	c := &cutter{eol: "\n"}
	for line := range strings.Lines(string(f.src)) {
		c.lines = append(c.lines, line)
	}
	if len(c.lines) > 0 && strings.HasSuffix(c.lines[0], "\r\n") {
		c.eol = "\r\n"
	}
	if n := len(c.lines); n > 0 && !strings.HasSuffix(c.lines[n-1], "\n") {
		c.lines[n-1] += c.eol
	}
	if f.root == nil {
		c.newKey(len(c.lines), "apiVersion: v1\nkind: Config\n")
	} else if f.root.Style&yaml.FlowStyle != 0 || f.root.Column != 1 {
		return nil, false
	}
	for _, list := range lists() {
		var mine []change
		for _, ch := range changes {
			if ch.list == list {
				mine = append(mine, ch)
			}
		}
		if len(mine) > 0 && !c.list(f.root, list, mine) {
			return nil, false
		}
	}
	if setCurrent && !c.current(f.root, current) {
		return nil, false
	}
	return c.apply(), true
}

func (c *cutter) insert(at int, text string) {
	c.edits = append(c.edits, lineEdit{from: at, to: at, text: text})
}

func (c *cutter) newKey(at int, text string) {
	c.edits = append(c.edits, lineEdit{from: at, to: at, text: text, newKey: true})
}

// list edits one list.
func (c *cutter) list(root *yaml.Node, list string, changes []change) bool {
	i := index(root, list)
	if i < 0 {
		body, ok := c.items(changes, 0)
		c.newKey(c.end(root), list+":\n"+body)
		return ok
	}
	key, seq := root.Content[i], root.Content[i+1]
	if seq.Kind != yaml.SequenceNode || len(seq.Content) == 0 { // null or []
		line := key.Line - 1
		m := emptyList.FindStringSubmatch(strings.TrimRight(c.lines[line], "\r\n"))
		if m == nil {
			return false
		}
		body, ok := c.items(changes, 0)
		c.edits = append(c.edits, lineEdit{from: line, to: line + 1, text: m[1] + m[2] + "\n" + body})
		return ok
	}
	if seq.Style&yaml.FlowStyle != 0 || seq.Anchor != "" {
		return false
	}
	return c.block(root, i, changes)
}

// emptyList is a key with nothing under it: "clusters:", "clusters: []", "clusters: null # why".
var emptyList = regexp.MustCompile(`^([a-z]+:)[ \t]*(?:\[[ \t]*\]|null|Null|NULL|~)?([ \t]+#.*)?[ \t]*$`)

// block edits a list in block style, the i-th key of root.
func (c *cutter) block(root *yaml.Node, i int, changes []change) bool {
	seq := root.Content[i+1]
	indent := seq.Column - 1
	stop := c.end(root)
	if i+2 < len(root.Content) {
		stop = root.Content[i+2].Line - 1
	}
	starts := make([]int, len(seq.Content)+1)
	starts[len(seq.Content)] = stop
	for n, item := range seq.Content {
		if starts[n] = c.dash(item.Line-1, indent); starts[n] < 0 || n > 0 && starts[n] <= starts[n-1] {
			return false
		}
	}
	removed := 0
	var added []change
	for _, ch := range changes {
		if ch.index < 0 {
			added = append(added, ch)
			continue
		}
		edit := lineEdit{from: starts[ch.index], to: c.trimEnd(starts[ch.index], starts[ch.index+1], indent)}
		if ch.node == nil {
			removed++
		} else {
			body, ok := c.items([]change{ch}, indent)
			if !ok {
				return false
			}
			edit.text = body
		}
		c.edits = append(c.edits, edit)
	}
	if removed == len(seq.Content) && len(added) == 0 {
		line := root.Content[i].Line - 1
		m := emptyList.FindStringSubmatch(strings.TrimRight(c.lines[line], "\r\n"))
		if m == nil {
			return false
		}
		c.edits = append(c.edits, lineEdit{from: line, to: line + 1, text: m[1] + " []" + m[2] + "\n"})
		return true
	}
	body, ok := c.items(added, indent)
	if last := len(seq.Content) - 1; body != "" {
		c.insert(c.trimEnd(starts[last], stop, indent), body)
	}
	return ok
}

// dash finds the line on which the item of a list begins: its own, or one above
// if the dash stands alone.
func (c *cutter) dash(line, indent int) int {
	for ; line >= 0; line-- {
		s := c.lines[line]
		if len(s) > indent && s[indent] == '-' && strings.Trim(s[:indent], " ") == "" {
			return line
		}
		if strings.TrimSpace(s) != "" && line < len(c.lines) && len(s) > indent && strings.Trim(s[:indent], " ") != "" {
			return -1
		}
	}
	return -1
}

// trimEnd leaves blank lines and comments behind an element of a list to what
// follows. Deeper than the list's dash, "#" may be text of the element.
func (c *cutter) trimEnd(from, to, indent int) int {
	for to > from+1 {
		line := c.lines[to-1]
		s := strings.TrimSpace(line)
		if s != "" && (s[0] != '#' || strings.IndexByte(line, '#') > indent) {
			break
		}
		to--
	}
	return to
}

// end is where new keys go: behind the last line that says something.
func (c *cutter) end(root *yaml.Node) int {
	if root == nil {
		return len(c.lines)
	}
	end := len(c.lines)
	for end > 0 && strings.TrimSpace(c.lines[end-1]) == "..." {
		end--
	}
	return end
}

// items encodes new elements at an indent.
func (c *cutter) items(changes []change, indent int) (string, bool) {
	if len(changes) == 0 {
		return "", true
	}
	seq := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, ch := range changes {
		if ch.node != nil {
			node := clone(ch.node)
			node.HeadComment, node.FootComment = "", "" // stand outside of what is cut
			if len(node.Content) > 0 {
				node.Content[0].HeadComment = ""
				node.Content[len(node.Content)-2].FootComment = ""
			}
			seq.Content = append(seq.Content, node)
		}
	}
	out, err := encode(seq)
	if err != nil {
		return "", false
	}
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if strings.TrimSpace(line) != "" {
			b.WriteString(strings.Repeat(" ", indent))
		}
		b.WriteString(line)
	}
	return b.String(), true
}

var currentLine = regexp.MustCompile(`^current-context:(?:[ \t]+(?:"[^"\\]*"|'[^']*'|[^#"'\s][^#]*?))?([ \t]+#.*)?[ \t]*$`)

func (c *cutter) current(root *yaml.Node, current string) bool {
	encoded, err := yaml.Marshal(current)
	if err != nil || bytes.Count(encoded, []byte("\n")) != 1 {
		return false
	}
	line := "current-context: " + strings.TrimSpace(string(encoded))
	i := index(root, "current-context")
	if i < 0 {
		c.newKey(c.end(root), line+"\n")
		return true
	}
	at := root.Content[i].Line - 1
	m := currentLine.FindStringSubmatch(strings.TrimRight(c.lines[at], "\r\n"))
	if m == nil {
		return false
	}
	c.edits = append(c.edits, lineEdit{from: at, to: at + 1, text: line + m[1] + "\n"})
	return true
}

func (c *cutter) apply() []byte {
	slices.SortStableFunc(c.edits, func(a, b lineEdit) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.rank(), b.rank()))
	})
	var out bytes.Buffer
	at := 0
	for _, e := range c.edits {
		if e.from > at {
			out.WriteString(strings.Join(c.lines[at:e.from], ""))
		}
		out.WriteString(strings.ReplaceAll(e.text, "\n", c.eol))
		at = max(at, e.to)
	}
	out.WriteString(strings.Join(c.lines[min(at, len(c.lines)):], ""))
	return out.Bytes()
}
