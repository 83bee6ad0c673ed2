package auth

import (
	"encoding/json"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// role is a stored role, compiled once per record and shared by every request.
type role struct {
	doc         api.Role
	allow, deny conditions
	// unknown is the field that this version does not know, or what does not
	// compile. Such a role may restrict in a way that we would miss, so whoever
	// decides by it denies.
	unknown error
}

type conditions struct {
	groups, users []template
	labels        labelMatcher
	rules         []api.Rule
}

// UnmarshalJSON reads a stored role. Only what is no role at all is an error.
func (r *role) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &r.doc); err != nil {
		return err
	}
	if r.unknown = api.CheckFields(b, &r.doc); r.unknown == nil {
		r.unknown = r.compile()
	}
	return nil
}

// MarshalJSON writes the document.
func (r *role) MarshalJSON() ([]byte, error) { return json.Marshal(r.doc) }

func (r *role) compile() (err error) {
	if r.allow, err = compileConditions(&r.doc.Spec.Allow); err != nil {
		return fmt.Errorf("spec.allow.%w", err)
	}
	if r.deny, err = compileConditions(&r.doc.Spec.Deny); err != nil {
		return fmt.Errorf("spec.deny.%w", err)
	}
	return nil
}

func compileConditions(c *api.RoleConditions) (out conditions, err error) {
	out.rules = c.Rules
	for _, s := range c.KubernetesGroups {
		t, err := parseTemplate(s)
		if err != nil {
			return out, fmt.Errorf("kubernetes_groups: %w", err)
		}
		out.groups = append(out.groups, t)
	}
	for _, s := range c.KubernetesUsers {
		t, err := parseTemplate(s)
		if err != nil {
			return out, fmt.Errorf("kubernetes_users: %w", err)
		}
		out.users = append(out.users, t)
	}
	if out.labels, err = compileLabels(c.KubernetesLabels); err != nil {
		return out, fmt.Errorf("kubernetes_labels: %w", err)
	}
	return out, nil
}

// expandAll expands one field of one role.
func expandAll(field string, templates []template, have traits, out []string) ([]string, error) {
	var err error
	for _, t := range templates {
		if out, err = t.expand(field, have, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}
