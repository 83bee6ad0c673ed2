package auth

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// template is one value of kubernetes_groups or kubernetes_users: a literal, or
// text around one {{internal.TRAIT}} or {{external.TRAIT}} (a trait whose name
// has other characters is written {{external["NAME"]}}).
type template struct {
	prefix, trait, suffix string // trait "": prefix is the literal
	external              bool   // {{external.TRAIT}}
}

// traits are what templates are filled from. internal are those that an
// administrator gave, in a user's document or by a connector's mapping, external
// what an identity provider says of somebody: an attribute that happens to be called
// kubernetes_groups must not pass for the other.
type traits struct {
	internal, external map[string][]string
}

// localTraits are those of a user's document, which fill both kinds of templates.
func localTraits(of map[string][]string) traits { return traits{of, of} }

// of are the values that a template asks for.
func (t traits) of(tpl template) []string {
	if tpl.external {
		return t.external[tpl.trait]
	}
	return t.internal[tpl.trait]
}

func parseTemplate(s string) (template, error) {
	prefix, rest, ok := strings.Cut(s, "{{")
	if !ok {
		if strings.Contains(s, "}}") {
			return template{}, fmt.Errorf("template %q: }} without {{", s)
		}
		return template{prefix: s}, nil
	}
	expr, suffix, ok := strings.Cut(rest, "}}")
	if !ok {
		return template{}, fmt.Errorf("template %q: {{ without }}", s)
	}
	if strings.Contains(suffix, "{{") || strings.Contains(suffix, "}}") || strings.Contains(prefix, "}}") {
		return template{}, fmt.Errorf("template %q: one {{…}} a value is allowed", s)
	}
	external, trait, err := parseTrait(strings.TrimSpace(expr))
	if err != nil {
		return template{}, fmt.Errorf("template %q: %w", s, err)
	}
	return template{prefix: prefix, trait: trait, suffix: suffix, external: external}, nil
}

func parseTrait(expr string) (external bool, trait string, err error) {
	for _, namespace := range []string{"internal", "external"} {
		external = namespace == "external"
		rest, ok := strings.CutPrefix(expr, namespace)
		if !ok {
			continue
		}
		if name, ok := strings.CutPrefix(rest, "."); ok && isIdentifier(name) {
			return external, name, nil
		}
		if quoted, ok := strings.CutPrefix(rest, "["); ok && strings.HasSuffix(quoted, "]") {
			if name, err := strconv.Unquote(strings.TrimSuffix(quoted, "]")); err == nil && name != "" {
				return external, name, nil
			}
		}
	}
	return false, "", fmt.Errorf("want internal.TRAIT, external.TRAIT or external[%q], functions are not supported", "TRAIT")
}

func isIdentifier(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// expand adds what the template gives for a person to out: nothing for a trait
// that the person lacks. A result that could not pass through a header
// unchanged is an error, so that a hostile trait is seen and not half obeyed.
func (t template) expand(field string, have traits, out []string) ([]string, error) {
	if t.trait == "" {
		return append(out, t.prefix), nil
	}
	for _, v := range have.of(t) {
		if v == "" {
			continue
		}
		name := t.prefix + v + t.suffix
		if err := api.ValidateGroup(field, name); err != nil {
			return nil, fmt.Errorf("trait %q: %w", t.trait, err)
		}
		out = append(out, name)
	}
	return out, nil
}
