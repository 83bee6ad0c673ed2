package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// What became of a connector.
const (
	eventCreated = iota
	eventUpdated
	eventDeleted
)

func connectorEvent(kind string, what int) (event, code string) {
	type named struct{ event, code string }
	all := map[string][3]named{
		api.KindGithub: {
			{api.EventGithubCreated, api.EventCodeGithubCreated}, {api.EventGithubUpdated, api.EventCodeGithubUpdated}, {api.EventGithubDeleted, api.EventCodeGithubDeleted},
		},
		api.KindOIDC: {
			{api.EventOIDCCreated, api.EventCodeOIDCCreated}, {api.EventOIDCUpdated, api.EventCodeOIDCUpdated}, {api.EventOIDCDeleted, api.EventCodeOIDCDeleted},
		},
		api.KindSAML: {
			{api.EventSAMLCreated, api.EventCodeSAMLCreated}, {api.EventSAMLUpdated, api.EventCodeSAMLUpdated}, {api.EventSAMLDeleted, api.EventCodeSAMLDeleted},
		},
	}
	n := all[kind][what]
	return n.event, n.code
}

// maxEventRoles bounds what an event says of roles.
const maxEventRoles = 50

// addChanges says for the audit log whom a connector believes from now on, and what
// it makes of them: by the names of fields and roles alone, as values may be secret.
func (n *candidate) addChanges(fields map[string]any, facts api.ConnectorFacts) {
	had, gives := map[string]bool{}, map[string]bool{}
	for _, at := range rowRoles(n.doc) {
		gives[at.role] = true
	}
	if n.rec == nil {
		addRoles(fields, "roles", gives)
		return
	}
	if n.kept == nil { // what was there can't be read
		addRoles(fields, "roles", gives)
		fields["changed"] = []string{"spec"}
		return
	}
	for _, at := range rowRoles(n.kept) {
		had[at.role] = true
	}
	changed := changedFields(n.kept, n.doc)
	if facts.EntityDescriptor != n.had.EntityDescriptor {
		changed = append(changed, "metadata of the identity provider")
	}
	if !maps.Equal(facts.Organizations, n.had.Organizations) {
		changed = append(changed, "ids of organizations")
	}
	if !reflect.DeepEqual(facts.SigningKeyPair, n.had.SigningKeyPair) {
		changed = append(changed, "signing key")
	}
	if len(changed) > 0 {
		fields["changed"] = changed
	}
	without := func(a, b map[string]bool) map[string]bool {
		a = maps.Clone(a)
		maps.DeleteFunc(a, func(role string, _ bool) bool { return b[role] })
		return a
	}
	addRoles(fields, "roles_added", without(gives, had))
	addRoles(fields, "roles_removed", without(had, gives))
}

func addRoles(fields map[string]any, name string, roles map[string]bool) {
	if len(roles) == 0 {
		return
	}
	list := slices.Sorted(maps.Keys(roles))
	if more := len(list) - maxEventRoles; more > 0 {
		list = append(list[:maxEventRoles], fmt.Sprintf("and %d more", more))
	}
	fields[name] = list
}

// changedFields are the paths of what differs, one level into the spec.
func changedFields(a, b any) []string {
	var out []string
	differ := func(prefix string, x, y map[string]json.RawMessage) {
		for _, name := range slices.Sorted(maps.Keys(x)) {
			if string(x[name]) != string(y[name]) {
				out = append(out, prefix+name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(y)) {
			if _, both := x[name]; !both {
				out = append(out, prefix+name)
			}
		}
	}
	top := func(doc any) (all, spec map[string]json.RawMessage) {
		raw, err := json.Marshal(doc)
		if err == nil && json.Unmarshal(raw, &all) == nil {
			_ = json.Unmarshal(all["spec"], &spec) // it was written a moment ago
			delete(all, "spec")
		}
		return all, spec
	}
	allA, specA := top(a)
	allB, specB := top(b)
	differ("", allA, allB)
	differ("spec.", specA, specB)
	slices.Sort(out)
	return out
}
