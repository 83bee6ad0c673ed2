// Package arch keeps the architecture: which package may import which, and
// what the small binaries must never reach. The rules are the table in rules.go,
// read by the test beside it; .golangci.yml repeats the arrows for editors.
package arch

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the product's module path.
const Module = "github.com/sallyport-dev/sallyport"

// Package is one node of an import graph.
type Package struct {
	Path    string
	Imports []string // direct, without those of tests
}

// Rule says what the package Path (relative to Module) may import of ours.
// A path that ends in "/..." stands for the package and everything below it.
type Rule struct {
	Path  string
	Allow []string
}

// Ban says what the packages at and below From must not reach, even through others.
type Ban struct {
	From string
	Not  []string // import paths; "/..." as in Rule; relative ones are ours
	Why  string
}

// Check returns every breach of rules and bans in the graph, one sentence each.
func Check(graph []Package, rules []Rule, bans []Ban) []string {
	byPath := make(map[string]Package, len(graph))
	for _, p := range graph {
		byPath[p.Path] = p
	}
	var breaches []string
	for _, p := range graph {
		rel, ours := strings.CutPrefix(p.Path, Module+"/")
		if !ours {
			continue
		}
		rule, ok := ruleFor(rules, rel)
		if !ok {
			breaches = append(breaches, fmt.Sprintf("%s has no rule in internal/arch/rules.go: say there what it may import", rel))
			continue
		}
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, Module+"/")
			if ours && !matchesAny(rule.Allow, to) {
				breaches = append(breaches, fmt.Sprintf("%s imports %s; it may import %s", rel, to, orNothing(rule.Allow)))
			}
		}
		for _, ban := range bans {
			if !matches(ban.From, rel) {
				continue
			}
			for _, not := range ban.Not {
				if chain := reach(byPath, p.Path, not); chain != nil {
					breaches = append(breaches, fmt.Sprintf("%s reaches %s: %s (%s)", rel, not, strings.Join(chain, " -> "), ban.Why))
				}
			}
		}
	}
	slices.Sort(breaches)
	return breaches
}

// ruleFor returns the most specific rule for a package.
func ruleFor(rules []Rule, path string) (Rule, bool) {
	best, found := Rule{}, false
	for _, r := range rules {
		if r.Path == path {
			return r, true
		}
		if matches(r.Path, path) && (!found || len(r.Path) > len(best.Path)) {
			best, found = r, true
		}
	}
	return best, found
}

func matches(pattern, path string) bool {
	tree, isTree := strings.CutSuffix(pattern, "/...")
	return path == tree || isTree && strings.HasPrefix(path, tree+"/")
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

func orNothing(allow []string) string {
	if len(allow) == 0 {
		return "nothing of ours"
	}
	return strings.Join(allow, ", ")
}

// reach finds a shortest chain of imports from a package to one that the pattern matches.
func reach(graph map[string]Package, from, pattern string) []string {
	came := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at != from && (matches(pattern, at) || matches(Module+"/"+pattern, at)) {
			var chain []string
			for ; at != ""; at = came[at] {
				chain = append(chain, strings.TrimPrefix(at, Module+"/"))
			}
			slices.Reverse(chain)
			return chain
		}
		for _, next := range graph[at].Imports {
			if _, seen := came[next]; !seen {
				came[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}
