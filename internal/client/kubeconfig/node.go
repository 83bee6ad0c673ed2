package kubeconfig

import (
	"slices"

	"go.yaml.in/yaml/v3"
)

// Small steps on parsed YAML. All of them take nil for "not there".

func text(s string) *yaml.Node {
	n := new(yaml.Node)
	n.SetString(s)
	return n
}

func texts(list []string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, s := range list {
		n.Content = append(n.Content, text(s))
	}
	return n
}

// mapping takes keys and *yaml.Node values in turn.
func mapping(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i+1 < len(pairs); i += 2 {
		key, _ := pairs[i].(string)
		val, _ := pairs[i+1].(*yaml.Node)
		n.Content = append(n.Content, text(key), val)
	}
	return n
}

func index(n *yaml.Node, key string) int {
	if n == nil || n.Kind != yaml.MappingNode {
		return -1
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == key {
			return i
		}
	}
	return -1
}

func value(n *yaml.Node, key string) *yaml.Node {
	if i := index(n, key); i >= 0 {
		return n.Content[i+1]
	}
	return nil
}

func scalar(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		return ""
	}
	return n.Value
}

// put sets a key to a value; an equal value keeps its spelling.
func put(n *yaml.Node, key string, val *yaml.Node) {
	if i := index(n, key); i < 0 {
		n.Content = append(n.Content, text(key), val)
	} else if !equal(n.Content[i+1], val) {
		n.Content[i+1] = val
	}
}

func drop(n *yaml.Node, key string) {
	if i := index(n, key); i >= 0 && n.Content[i+1].ShortTag() != "!!null" {
		n.Content = slices.Delete(n.Content, i, i+2)
	}
}

// child is the mapping under key, made if there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if v := value(n, key); v != nil && v.Kind == yaml.MappingNode {
		return v
	}
	v := mapping()
	if i := index(n, key); i >= 0 {
		n.Content[i+1] = v
	} else {
		n.Content = append(n.Content, text(key), v)
	}
	return v
}

func clone(n *yaml.Node) *yaml.Node {
	if n == nil {
		return nil
	}
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, sub := range n.Content {
		c.Content[i] = clone(sub)
	}
	return &c
}

// equal compares what two trees say, not how it is written.
func equal(a, b *yaml.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Kind != b.Kind || a.ShortTag() != b.ShortTag() || a.Anchor != b.Anchor || len(a.Content) != len(b.Content) {
		return false
	}
	if a.Kind == yaml.ScalarNode && a.ShortTag() != "!!null" && a.Value != b.Value || a.Kind == yaml.AliasNode && a.Value != b.Value {
		return false
	}
	for i := range a.Content {
		if !equal(a.Content[i], b.Content[i]) {
			return false
		}
	}
	return true
}
