package auth

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// authenticatedGroup is what the API server itself adds only for identities that
// come without groups.
const authenticatedGroup = "system:authenticated"

// KubeRequest is what a client asks for with kubectl --as and --as-group.
type KubeRequest struct {
	AsUser   string
	AsGroups []string
}

// identitySet is what a person's roles give on one Kubernetes cluster.
type identitySet struct {
	groups, users []string
	deniedUsers   []string
}

// kubeIdentities gathers groups and users of those roles that allow the
// cluster. Each field of deny stands alone: denied labels shut the cluster,
// denied groups and users ("*": all) are taken away wherever they came from. A
// role's groups count only where that very role allows the request, so that a
// narrow role with a wide group never widens another.
//
// Labels come first, for all roles: whom they shut out must not learn from
// another error that the cluster exists (see hidden).
func kubeIdentities(p *Principal, kube *api.KubeCluster) (identitySet, error) {
	var set identitySet
	var allowing []*role
	for _, r := range p.roles {
		if r.deny.labels.match(kube.Labels) {
			return set, hidden(kube.Name, "role %q denies user %q the cluster (deny.kubernetes_labels)", r.doc.Metadata.Name, p.User)
		}
		if r.allow.labels.match(kube.Labels) {
			allowing = append(allowing, r)
		}
	}
	if len(allowing) == 0 {
		return set, hidden(kube.Name, "no role of user %q allows the cluster (allow.kubernetes_labels)", p.User)
	}
	for _, r := range allowing {
		if err := set.add(p, r); err != nil {
			return set, err
		}
	}
	return set, set.subtractDenied(p)
}

// hiddenError is a refusal that looks as if the cluster did not exist: who may
// not know of it must not find out by asking for names. The audit log is told
// the reason.
type hiddenError struct {
	answer *api.Error
	reason string
}

func hidden(kube, format string, args ...any) error {
	return &hiddenError{errKubeNotFound(kube), fmt.Sprintf(format, args...)}
}

func (e *hiddenError) Error() string { return e.answer.Error() }

// Unwrap gives the answer, which is all that may leave the process.
func (e *hiddenError) Unwrap() error { return e.answer }

// AuditReason is why the cluster was refused.
func (e *hiddenError) AuditReason() string { return e.reason }

func (s *identitySet) add(p *Principal, r *role) (err error) {
	if s.groups, err = expandAll("kubernetes_groups", r.allow.groups, p.traits, s.groups); err != nil {
		return roleError(p, r, err)
	}
	if s.users, err = expandAll("kubernetes_users", r.allow.users, p.traits, s.users); err != nil {
		return roleError(p, r, err)
	}
	return nil
}

func (s *identitySet) subtractDenied(p *Principal) error {
	for _, r := range p.roles {
		groups, err := expandAll("kubernetes_groups", r.deny.groups, p.traits, nil)
		if err != nil {
			return roleError(p, r, err)
		}
		users, err := expandAll("kubernetes_users", r.deny.users, p.traits, nil)
		if err != nil {
			return roleError(p, r, err)
		}
		s.groups = subtract(s.groups, groups)
		s.users = subtract(s.users, users)
		s.deniedUsers = append(s.deniedUsers, users...)
	}
	slices.Sort(s.groups)
	slices.Sort(s.users)
	s.groups, s.users = slices.Compact(s.groups), slices.Compact(s.users)
	return nil
}

func subtract(have, denied []string) []string {
	if slices.Contains(denied, wildcard) {
		return nil
	}
	return slices.DeleteFunc(have, func(v string) bool { return slices.Contains(denied, v) })
}

func roleError(p *Principal, r *role, err error) error {
	return api.Errorf(api.CodeForbidden, "role %q of user %q can't be applied: %w", r.doc.Metadata.Name, p.User, err)
}

// impersonation chooses user and groups to act as. What the client asks for is
// accepted only within what the roles allow.
func (s identitySet) impersonation(p *Principal, req KubeRequest) (user string, groups []string, err error) {
	if len(s.groups) == 0 && len(s.users) == 0 {
		return "", nil, api.Errorf(api.CodeForbidden, "user %q has neither kubernetes_groups nor kubernetes_users here: ask for a role or traits that give some", p.User)
	}
	users := s.users
	if len(users) == 0 { // then people act as themselves, unless that is denied
		if users = subtract([]string{p.User}, s.deniedUsers); len(users) == 0 {
			return "", nil, api.Errorf(api.CodeForbidden, "user %q may act as no user here, not even under the own name (deny.kubernetes_users)", p.User)
		}
	}
	switch {
	case req.AsUser != "" && !slices.Contains(users, req.AsUser):
		return "", nil, api.Errorf(api.CodeForbidden, "user %q may not act as user %q: no role allows it (allow.kubernetes_users)", p.User, clip(req.AsUser))
	case req.AsUser != "":
		user = req.AsUser
	case len(users) == 1:
		user = users[0]
	default:
		return "", nil, api.Errorf(api.CodeForbidden, "user %q may act as any of %s (kubernetes_users): choose one with kubectl --as", p.User, strings.Join(users, ", "))
	}
	groups = s.groups
	if len(req.AsGroups) > 0 {
		for _, g := range req.AsGroups {
			if g != authenticatedGroup && !slices.Contains(s.groups, g) {
				return "", nil, api.Errorf(api.CodeForbidden, "user %q may not act as group %q: no role allows it (allow.kubernetes_groups)", p.User, clip(g))
			}
		}
		groups = slices.Clone(req.AsGroups)
		slices.Sort(groups)
		groups = slices.Compact(groups)
	}
	if !slices.Contains(groups, authenticatedGroup) {
		groups = append(slices.Clip(groups), authenticatedGroup)
	}
	for _, name := range append([]string{user}, groups...) {
		if err := api.ValidateGroup("Kubernetes name", name); err != nil { // the last gate before a header
			return "", nil, api.Errorf(api.CodeForbidden, "user %q: %w", p.User, err)
		}
	}
	return user, groups, nil
}

// Can says whether the rules allow a verb on a kind of document. Deny wins. That all
// verbs are allowed does not allow api.VerbImpersonate: who wrote "*" meant documents.
func (p *Principal) Can(verb, kind string) error {
	allowed, allowing := false, []string{verb, wildcard}
	if verb == api.VerbImpersonate {
		allowing = []string{verb}
	}
	for _, r := range p.roles {
		if rulesMatch(r.deny.rules, kind, verb, wildcard) {
			return api.Errorf(api.CodeForbidden, "role %q denies user %q to %s (spec.deny.rules with resources: [%s], verbs: [%s])", r.doc.Metadata.Name, p.User, api.Doing(verb, kind), kind, verb)
		}
		allowed = allowed || rulesMatch(r.allow.rules, kind, allowing...)
	}
	if !allowed {
		return api.NotAllowed(p.User, verb, kind)
	}
	return nil
}

// rulesMatch says whether a rule is about a kind and has one of the verbs.
func rulesMatch(rules []api.Rule, kind string, verbs ...string) bool {
	return slices.ContainsFunc(rules, func(r api.Rule) bool {
		return slices.ContainsFunc(verbs, func(verb string) bool { return slices.Contains(r.Verbs, verb) }) &&
			(slices.Contains(r.Resources, kind) || slices.Contains(r.Resources, wildcard))
	})
}

// clip keeps what strangers sent from filling a message.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
