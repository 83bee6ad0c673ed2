package yamldoc

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxListed bounds how many unknown fields a message lists, maxSorted how many are
// looked up for it: each costs a walk through the document.
const (
	maxListed = 20
	maxSorted = 1000
)

// explain says on which line the document is wrong, and of all unknown fields
// where they are: whoever brings a document of Teleport's should not find them
// one by one.
func explain(body ast.Node, raw []byte, err error) error {
	field, ok := errors.AsType[*api.FieldError](err)
	if !ok {
		return api.Errorf(api.CodeOf(err), "line %d: %w", line(body), err)
	}
	if like := emptyDocument(kindOf(body)); like != nil {
		unknown := api.UnknownFields(raw, like)
		if i := slices.IndexFunc(unknown, func(f *api.FieldError) bool { return *f == *field }); i >= 0 {
			return unknownFields(body, unknown)
		}
	} else if kind := kindOf(body); field.Path == "kind" && slices.Contains(teleportKinds(), kind) {
		return api.Errorf(api.CodeInvalid, "line %d: kind: %q is one of Teleport's that this version of Sallyport does not have, want one of %s",
			fieldLine(body, "kind"), kind, strings.Join(api.Kinds(), ", "))
	}
	return api.Errorf(api.CodeOf(err), "line %d: %w", fieldLine(body, field.Path), err)
}

func unknownFields(body ast.Node, unknown []*api.FieldError) error {
	who := kindOf(body)
	if name := scalar(body, "metadata", "name"); name != "" {
		who = fmt.Sprintf("%s %q", who, name)
	}
	type place struct {
		line int
		text string
	}
	places := make([]place, min(len(unknown), maxSorted))
	for i, f := range unknown[:len(places)] {
		what, reason := f.Path, f.Reason
		switch {
		case strings.HasPrefix(f.Path, "<"): // a line of XML with a colon and a space in it
			what, reason = "this line", notShifted("entity_descriptor", "the spaces of its first line, such as four")
		case ofTeleport(f.Path):
			reason = "a field of Teleport's that this version of Sallyport does not have"
		}
		places[i] = place{fieldLine(body, f.Path), what + ": " + reason}
	}
	if len(places) == 1 {
		return api.Errorf(api.CodeInvalid, "line %d: %s: %s", places[0].line, who, places[0].text)
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.line, b.line) }) // the JSON has them in another order
	var b strings.Builder
	fmt.Fprintf(&b, "%s has %d fields that are not known:", who, len(unknown))
	for _, p := range places[:min(len(places), maxListed)] {
		fmt.Fprintf(&b, "\n  line %d: %s", p.line, p.text)
	}
	if more := len(unknown) - maxListed; more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	return api.Errorf(api.CodeInvalid, "%s", b.String())
}

func emptyDocument(kind string) any {
	switch kind {
	case api.KindUser:
		return &api.User{}
	case api.KindRole:
		return &api.Role{}
	case api.KindAuthPreference:
		return &api.AuthPreference{}
	case api.KindAuditForwarder:
		return &api.AuditForwarder{}
	default:
		if c := api.NewConnector(kind); c != nil {
			return c
		}
		return nil
	}
}

func kindOf(body ast.Node) string { return scalar(body, "kind") }

// scalar is the text at a path of names, or "".
func scalar(node ast.Node, names ...string) string {
	for _, name := range names {
		next, rest := step(node, name)
		if next == nil || rest != "" {
			return ""
		}
		node = next.value
	}
	if s, ok := node.(*ast.StringNode); ok {
		return s.Value
	}
	return ""
}

var twice = regexp.MustCompile(`^mapping key (.*) already defined at \[(\d+):\d+\]$`)

// syntaxError puts what the parser says into words for whoever typed the text.
func syntaxError(err error, text []byte) error {
	var e yaml.Error
	if !errors.As(err, &e) || e.GetToken() == nil || e.GetToken().Position == nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return api.Errorf(api.CodeInvalid, "not YAML: %s", first)
	}
	at, message := e.GetToken().Position.Line, e.GetMessage()
	field, spaces := leftBlock(text, at)
	switch m := twice.FindStringSubmatch(message); {
	case field != "":
		message = notShifted(field, fmt.Sprintf("%d spaces", spaces))
	case m != nil:
		message = fmt.Sprintf("%s is there twice, first on line %s", m[1], m[2])
	case strings.Contains(message, `'	' that cannot start any token`), indentedByTab(text, at):
		message = "indented by a tab: YAML wants spaces"
	case strings.HasPrefix(message, "mapping value is not allowed"), strings.HasPrefix(message, "value is not allowed"):
		message += `: check the indentation here and on the next line, or quote a value that holds ": "`
	}
	return api.Errorf(api.CodeInvalid, "line %d: %s", at, message)
}

func indentedByTab(text []byte, line int) bool {
	lines := strings.Split(string(text), "\n")
	if line < 1 || line > len(lines) {
		return false
	}
	l := lines[line-1]
	return strings.Contains(l[:len(l)-len(strings.TrimLeft(l, " \t"))], "\t")
}

// blockOf matches a line whose field has its text on the lines below.
var blockOf = regexp.MustCompile(`^( *)(?:- )*([A-Za-z_]+): *[|>][-+0-9]*[ \t]*(?:#.*)?$`)

// leftBlock names the field whose text the line should have belonged to, and the
// spaces that would have done it: whoever pastes XML below 'entity_descriptor: |'
// forgets to shift it, or shifts its first line alone. "" is for every other mistake.
func leftBlock(text []byte, at int) (field string, spaces int) {
	lines := strings.Split(string(text), "\n")
	if at < 2 || at > len(lines) {
		return "", 0
	}
	if bad := lines[at-1]; !strings.HasPrefix(strings.TrimSpace(bad), "<") && strings.Contains(bad, ": ") {
		return "", 0 // a field, which may well stand there
	}
	for i := at - 2; i >= 0; i-- {
		m := blockOf.FindStringSubmatch(lines[i])
		if m == nil {
			if trimmed := strings.TrimLeft(lines[i], " "); strings.Contains(trimmed, ": ") && !strings.HasPrefix(trimmed, "<") {
				return "", 0
			}
			continue
		}
		first := lines[i+1]
		if i+1 == at-1 || strings.TrimSpace(first) == "" {
			return m[2], len(m[1]) + 2
		}
		return m[2], len(first) - len(strings.TrimLeft(first, " "))
	}
	return "", 0
}

func notShifted(field, by string) string {
	return fmt.Sprintf("is not shifted far enough to belong to %s: shift all lines of its text, down to the last, by %s", field, by)
}
