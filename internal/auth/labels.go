package auth

import (
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const wildcard = "*"

// labelMatcher is kubernetes_labels, compiled. Keys are exact and all must
// match; of a key's values, each an api.Pattern, one must. The pair *: * matches every cluster, and without any labels
// nothing matches.
type labelMatcher struct {
	everything bool
	keys       []labelKey
}

type labelKey struct {
	name     string
	patterns []api.Pattern
}

func compileLabels(labels map[string]api.Values) (labelMatcher, error) {
	var m labelMatcher
	for name, values := range labels {
		key := labelKey{name: name}
		for _, v := range values {
			p, err := api.CompilePattern(v)
			if err != nil {
				return m, fmt.Errorf("label %q: value %q: %w", name, v, err)
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
		if p.Match(v) {
			return true
		}
	}
	return false
}
