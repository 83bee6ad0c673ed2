package auth

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const wildcard = "*"

// labelMatcher is kubernetes_labels, compiled. Keys are exact and all must
// match; of a key's values one must: a glob (* stands for any text), or RE2
// when written ^…$. The pair *: * matches every cluster, and without any labels
// nothing matches.
type labelMatcher struct {
	everything bool
	keys       []labelKey
}

type labelKey struct {
	name     string
	patterns []pattern
}

type pattern struct {
	any     bool
	literal string
	re      *regexp.Regexp
}

func compileLabels(labels map[string]api.Values) (labelMatcher, error) {
	var m labelMatcher
	for name, values := range labels {
		key := labelKey{name: name}
		for _, v := range values {
			p, err := compilePattern(v)
			if err != nil {
				return m, fmt.Errorf("label %q: %w", name, err)
			}
			key.patterns = append(key.patterns, p)
		}
		if name == wildcard {
			if len(values) != 1 || values[0] != wildcard {
				return m, fmt.Errorf("label %q: only the value %q can go with it", wildcard, wildcard)
			}
			m.everything = true
			continue
		}
		m.keys = append(m.keys, key)
	}
	return m, nil
}

func compilePattern(v string) (pattern, error) {
	switch {
	case v == wildcard:
		return pattern{any: true}, nil
	case strings.HasPrefix(v, "^") && strings.HasSuffix(v, "$"):
		inner := v[1 : len(v)-1]
		if _, err := regexp.Compile(inner); err != nil { // alone, lest it close the group below
			return pattern{}, fmt.Errorf("value %q: %w", v, err)
		}
		// The anchors hold for the whole: ^a|b$ means a or b, not a… or …b.
		re, err := regexp.Compile(`\A(?:` + inner + `)\z`)
		if err != nil {
			return pattern{}, fmt.Errorf("value %q: %w", v, err)
		}
		return pattern{re: re}, nil
	case strings.Contains(v, wildcard):
		parts := strings.Split(v, wildcard)
		for i, part := range parts {
			parts[i] = regexp.QuoteMeta(part)
		}
		re, err := regexp.Compile(`(?s)\A` + strings.Join(parts, ".*") + `\z`)
		return pattern{re: re}, err
	default:
		return pattern{literal: v}, nil
	}
}

func (p pattern) match(v string) bool {
	switch {
	case p.any:
		return true
	case p.re != nil:
		return p.re.MatchString(v)
	default:
		return p.literal == v
	}
}

// match reports whether a cluster with these labels is meant.
func (m labelMatcher) match(labels map[string]string) bool {
	if len(m.keys) == 0 {
		return m.everything
	}
	for _, key := range m.keys {
		v, ok := labels[key.name]
		if !ok || !key.match(v) {
			return false
		}
	}
	return true
}

func (k labelKey) match(v string) bool {
	for _, p := range k.patterns {
		if p.match(v) {
			return true
		}
	}
	return false
}
