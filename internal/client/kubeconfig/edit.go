package kubeconfig

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// The lists of a kubeconfig in which a cluster's entry stands, in kubectl's order.
func lists() []string { return []string{"clusters", "contexts", "users"} }

// change is one element of a list: replaced, removed (node nil) or added (index -1).
type change struct {
	list  string
	index int
	node  *yaml.Node
}

// apply gives the new text of files[0].
func (e *Edit) apply(path string, files []*file) ([]byte, error) {
	f := files[0]
	if f.root == nil && len(e.Set) == 0 {
		return f.src, nil // nothing there, nothing to remove
	}
	var changes []change
	for _, list := range lists() {
		seq, err := f.sequence(path, list)
		if err != nil {
			return nil, err
		}
		c, err := e.listChanges(path, f, list, seq)
		if err != nil {
			return nil, err
		}
		changes = append(changes, c...)
	}
	gone := func(name string) bool {
		proxy, ours := f.owner(name)
		return ours && proxy == e.Proxy && !e.sets(name)
	}
	current, set := f.current(), false
	switch inForce := currentContext(files); {
	case e.Select != "" && (e.Force || inForce == "" || e.takesOver(files, inForce)):
		current, set = e.Select, f.current() != e.Select
	case current != "" && e.Proxy != "" && gone(current):
		current, set = "", true
	}
	return f.rewrite(path, changes, current, set)
}

// takesOver says whether the present context is ours and of no use any more, or
// of another login: a choice among this login's clusters is kept.
func (e *Edit) takesOver(files []*file, current string) bool {
	return !e.sets(current) && slices.ContainsFunc(files, func(f *file) bool {
		proxy, ours := f.owner(current)
		return ours && (!e.Stay || proxy == e.Proxy)
	})
}

func (e *Edit) sets(name string) bool {
	return slices.ContainsFunc(e.Set, func(s Entry) bool { return s.Name == name })
}

func (e *Edit) listChanges(path string, f *file, list string, seq *yaml.Node) ([]change, error) {
	var changes []change
	var items []*yaml.Node
	if seq != nil {
		items = seq.Content
	}
	entries, done := map[string]int{}, map[string]bool{}
	for i := range e.Set {
		entries[e.Set[i].Name] = i
	}
	for i, item := range items {
		name := scalar(value(item, "name"))
		entry, wanted := entries[name]
		proxy, ours := f.owner(name)
		switch {
		case wanted && done[name]:
			changes = append(changes, change{list, i, nil}) // kubectl refuses a file with two of a name
		case wanted:
			if !ours {
				return nil, api.Errorf(api.CodeExists, "%s: the entry %q under %s was not made by tsh; rename or remove it, then run tsh again", path, name, list)
			}
			if e.Exclusive && proxy != e.Proxy {
				return nil, api.Errorf(api.CodeExists, "%s: the context %q is that of the login at %s: name contexts otherwise with 'tsh kube login --set-context-name', such as {{.ClusterName}}-{{.KubeName}}", path, name, proxy)
			}
			done[name] = true
			if want := e.Set[entry].item(list, item); !equal(item, want) {
				changes = append(changes, change{list, i, want})
			}
		case ours && e.Proxy != "" && proxy == e.Proxy:
			changes = append(changes, change{list, i, nil})
		}
	}
	for i := range e.Set {
		if !done[e.Set[i].Name] {
			changes = append(changes, change{list, -1, e.Set[i].item(list, nil)})
		}
	}
	return changes, nil
}
