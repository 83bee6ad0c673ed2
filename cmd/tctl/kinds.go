package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// kind is a kind of document as people type and read it.
type kind struct {
	name  string // as in documents
	words []string
	only  string // the name of the one document there is; "": there may be many
	usual string // how messages name it if not by its name
}

func kinds() []kind {
	return []kind{
		{name: api.KindRole, words: []string{"role", "roles"}}, // before users, who name them: 'get all' can be given to 'create'
		{name: api.KindUser, words: []string{"user", "users"}},
		{name: api.KindGithub, words: []string{api.KindGithub}}, // before the preference, which may name one of them
		{name: api.KindOIDC, words: []string{api.KindOIDC}},
		{name: api.KindSAML, words: []string{api.KindSAML}},
		{name: api.KindAuthPreference, words: []string{"cap", api.KindAuthPreference}, only: api.AuthPreferenceName, usual: "cluster auth preference"},
		{name: api.KindToken, words: []string{"token", "tokens"}},
		{name: api.KindKubeCluster, words: []string{"kube_cluster", "kube_clusters", "kube"}},
		{name: api.KindAuditForwarder, words: []string{"audit_forwarder", "audit_forwarders"}},
	}
}

// all stands for every kind, connectors for those of ConnectorKinds.
const (
	all        = "all"
	connectors = "connectors"
)

// isConnectors says whether a word means connectors of whatever kind.
func isConnectors(word string) bool {
	return strings.EqualFold(word, connectors) || strings.EqualFold(word, "connector")
}

func kindNames() []string {
	var out []string
	for _, k := range kinds() {
		out = append(out, k.words[0])
	}
	return out
}

// spoken is how Teleport's messages name a document, quotes included:
// people's scripts look for them.
func spoken(kindName, name string) string {
	for _, k := range kinds() {
		if k.name == kindName && k.usual != "" {
			return k.usual
		}
	}
	switch kindName {
	case api.KindUser:
		return fmt.Sprintf("%s %q", kindName, name)
	case api.KindKubeCluster:
		return fmt.Sprintf("Kubernetes cluster %q", name)
	case api.KindGithub:
		return fmt.Sprintf("authentication connector %q", name)
	case api.KindOIDC, api.KindSAML:
		return fmt.Sprintf("authentication connector '%s'", name)
	case api.KindAuditForwarder:
		return fmt.Sprintf("audit forwarder '%s'", name)
	}
	return fmt.Sprintf("%s '%s'", kindName, name)
}

// ref names one document, or with an empty name all of a kind.
type ref struct{ kind, name string }

func (r ref) String() string { return r.kind + "/" + r.name }

// parseRefs reads what stands between commas and in several arguments.
func parseRefs(args []string) ([]ref, error) {
	var out []ref
	for _, arg := range args {
		for word := range strings.SplitSeq(arg, ",") {
			if strings.EqualFold(word, all) {
				for _, k := range kinds() {
					out = append(out, ref{kind: k.name})
				}
				continue
			}
			if isConnectors(word) {
				for _, k := range api.ConnectorKinds() {
					out = append(out, ref{kind: k})
				}
				continue
			}
			r, err := parseRef(word)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// parseRef reads KIND or KIND/NAME; a plural is fine. A kind that this tctl does
// not know may be known to the replica, unless it looks like a slip.
func parseRef(text string) (ref, error) {
	word, name, named := strings.Cut(text, "/")
	word = strings.ToLower(strings.ReplaceAll(word, "-", "_"))
	if isConnectors(word) && named { // fetch and remove find out of which kind it is
		return ref{connectors, name}, api.ValidateName("connector", name)
	}
	known := []string{connectors, all}
	for _, k := range kinds() {
		known = append(known, k.words...)
		if !slices.Contains(k.words, word) {
			continue
		}
		switch {
		case k.only == "" && named:
			return ref{k.name, name}, api.ValidateName(k.name, name)
		case k.only == "":
			return ref{kind: k.name}, nil
		case named && name != k.only:
			return ref{}, api.Errorf(api.CodeInvalid, "there is only one %s: name it %s, without a name", k.usual, k.words[0])
		}
		return ref{k.name, k.only}, nil
	}
	if hint := api.DidYouMean(word, known); hint != "" {
		return ref{}, api.Errorf(api.CodeInvalid, "there is no kind %q%s", word, hint)
	}
	if err := api.ValidateName("kind", word); err != nil {
		return ref{}, err
	}
	if named {
		return ref{word, name}, api.ValidateName(word, name)
	}
	return ref{kind: word}, nil
}

// hasSecrets says whether documents of a kind have secrets, which are left out of what
// is shown, and kept where a document is written back without them.
func hasSecrets(kindName string) bool {
	return kindName == api.KindAuditForwarder || slices.Contains(api.ConnectorKinds(), kindName)
}

// isKind says whether a word names kinds of documents, as parseRefs reads it.
func isKind(word string) bool {
	word = strings.ToLower(strings.ReplaceAll(word, "-", "_"))
	return word == all || isConnectors(word) || slices.ContainsFunc(kinds(), func(k kind) bool { return slices.Contains(k.words, word) })
}

// parseNamed is parseRefs for commands that take no whole kinds; command is what
// was typed, for the error.
func parseNamed(command string, args []string) ([]ref, error) {
	for _, arg := range args {
		if strings.EqualFold(arg, all) || isConnectors(arg) {
			return nil, api.Errorf(api.CodeInvalid, "say which: tctl %s KIND/NAME", command)
		}
	}
	refs, err := parseRefs(args)
	if err != nil {
		return nil, err
	}
	for _, r := range refs {
		if r.name == "" {
			return nil, api.Errorf(api.CodeInvalid, "say which %s: tctl %s %s/NAME", r.kind, command, r.kind)
		}
	}
	return refs, nil
}
