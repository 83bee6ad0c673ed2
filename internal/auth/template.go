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
	trait, err := parseTrait(strings.TrimSpace(expr))
	if err != nil {
		return template{}, fmt.Errorf("template %q: %w", s, err)
	}
	return template{prefix: prefix, trait: trait, suffix: suffix}, nil
}

func parseTrait(expr string) (string, error) {
	for _, namespace := range []string{"internal", "external"} {
		rest, ok := strings.CutPrefix(expr, namespace)
		if !ok {
			continue
		}
		if name, ok := strings.CutPrefix(rest, "."); ok && isIdentifier(name) {
			return name, nil
		}
		if quoted, ok := strings.CutPrefix(rest, "["); ok && strings.HasSuffix(quoted, "]") {
			if name, err := strconv.Unquote(strings.TrimSuffix(quoted, "]")); err == nil && name != "" {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("want internal.TRAIT, external.TRAIT or external[%q], functions are not supported", "TRAIT")
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
func (t template) expand(field string, traits map[string][]string, out []string) ([]string, error) {
	if t.trait == "" {
		return append(out, t.prefix), nil
	}
	for _, v := range traits[t.trait] {
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
