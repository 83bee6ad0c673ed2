package selector

import (
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Selector says which clusters are meant. That of no labels and no query means all.
type Selector struct {
	labels map[string][]api.Pattern
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
		pattern, err := api.CompilePattern(strings.TrimSpace(value))
		if err != nil {
			return s, api.Errorf(api.CodeInvalid, "--labels: value of %q: %w", key, err)
		}
		if s.labels == nil {
			s.labels = map[string][]api.Pattern{}
		}
		s.labels[key] = append(s.labels[key], pattern)
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
		if !slices.ContainsFunc(values, func(p api.Pattern) bool { return p.Match(have) }) {
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
