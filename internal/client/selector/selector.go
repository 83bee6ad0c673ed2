package selector

import (
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Selector says which clusters are meant. That of no labels and no query means all.
type Selector struct {
	labels map[string][]func(string) bool
	query  predicate
}

// New reads labels (KEY=VALUE each) and a query; both may be empty.
func New(labels []string, query string) (Selector, error) {
	var s Selector
	for _, pair := range labels {
		key, value, ok := strings.Cut(pair, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return s, api.Errorf(api.CodeInvalid, "--labels: %q is not KEY=VALUE", pair)
		}
		match, err := pattern(strings.TrimSpace(value))
		if err != nil {
			return s, api.Errorf(api.CodeInvalid, "--labels: value of %q: %w", key, err)
		}
		if s.labels == nil {
			s.labels = map[string][]func(string) bool{}
		}
		s.labels[key] = append(s.labels[key], match)
	}
	if strings.TrimSpace(query) != "" {
		var err error
		if s.query, err = parse(query); err != nil {
			return s, api.Errorf(api.CodeInvalid, "--query: %w", err)
		}
	}
	return s, nil
}

// Everything says that the selector means all clusters.
func (s Selector) Everything() bool { return len(s.labels) == 0 && s.query == nil }

// Match says whether the cluster is meant.
func (s Selector) Match(k *api.KubeCluster) bool {
	for key, values := range s.labels {
		have, ok := k.Labels[key]
		if !ok {
			return false
		}
		matched := false
		for _, match := range values {
			matched = matched || match(have)
		}
		if !matched {
			return false
		}
	}
	return s.query == nil || s.query(k)
}

// Pick gives those of the clusters that are meant, in their order.
func (s Selector) Pick(clusters []api.KubeCluster) []api.KubeCluster {
	out := make([]api.KubeCluster, 0, len(clusters))
	for i := range clusters {
		if s.Match(&clusters[i]) {
			out = append(out, clusters[i])
		}
	}
	return out
}

// pattern reads a value as roles do: text, a glob, or ^…$.
func pattern(value string) (func(string) bool, error) {
	switch {
	case len(value) > 1 && value[0] == '^' && value[len(value)-1] == '$':
		inner := value[1 : len(value)-1]
		if _, err := regexp.Compile(inner); err != nil { // alone, lest it close the group below
			return nil, err
		}
		// The anchors hold for the whole: ^a|b$ means a or b, not a… or …b.
		re, err := regexp.Compile(`\A(?:` + inner + `)\z`)
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	case strings.Contains(value, "*"):
		return func(have string) bool { return glob(strings.Split(value, "*"), have) }, nil
	}
	return func(have string) bool { return have == value }, nil
}

// glob matches text against the parts between asterisks, of which there is one at
// least. Taking each part where it first occurs is enough.
func glob(parts []string, text string) bool {
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return true
}
