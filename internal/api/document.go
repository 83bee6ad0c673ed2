package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of documents. They keep one user or role far below the size of a
// transaction and its evaluation cheap.
const (
	maxDescription = 1024
	maxLabels      = 64
	maxRoles       = 100
	maxTraits      = 100
	maxTraitValues = 1000
	maxListEntries = 500
	maxValueLen    = 256
)

// Versions that new documents of our own carry.
const (
	UserVersion           = "v2"
	RoleVersion           = "v7"
	AuthPreferenceVersion = "v2"
	GithubVersion         = "v3"
	OIDCVersion           = "v3"
	SAMLVersion           = "v2"
)

// AuthLocal is the type of authentication by password.
const AuthLocal = "local"

// RoleAccess is a role that is there from birth: every Kubernetes cluster, with the
// groups and users of the person.
const RoleAccess = "access"

// versionsOf are the versions of a kind's documents that are understood. A
// connector of another version may mean something else by what it says, and it decides
// who everybody is.
func versionsOf(kind string) []string {
	switch kind {
	case KindGithub:
		return []string{GithubVersion}
	case KindOIDC:
		return []string{"v2", OIDCVersion}
	case KindSAML:
		return []string{SAMLVersion}
	case KindAuditForwarder:
		return []string{AuditForwarderVersion}
	default:
		return []string{"v2", "v3", "v4", "v5", "v6", "v7", "v8"}
	}
}

// Verbs of rules.
const (
	VerbList   = "list"
	VerbCreate = "create"
	VerbRead   = "read"
	VerbUpdate = "update"
	VerbDelete = "delete"
	// VerbImpersonate on KindUser is to get certificates for other people (SignRequest):
	// as good as being each of them. So "*" does not allow it, but denies it.
	VerbImpersonate = "impersonate"
)

var (
	ruleVerbs     = []string{VerbList, VerbCreate, VerbRead, VerbUpdate, VerbDelete, VerbImpersonate, "*"}
	ruleResources = slices.Concat(
		[]string{KindUser, KindRole, KindAuthPreference, KindSession, KindEvent, KindToken, KindAgent, KindKubeCluster, KindCluster, KindAuditForwarder}, ConnectorKinds(), []string{"*"},
	)
)

var secondFactors = []string{string(SecondFactorOff), string(SecondFactorOptional), string(SecondFactorOn), string(SecondFactorWebAuthn)}

// DecodeDocument reads a document of any kind from JSON and validates it: *User,
// *Role, *AuthPreference, *Token, *KubeClusterDocument,
// *AuditForwarder or a Connector. A field that this version does not know is an error,
// because it might be a restriction that would not be enforced.
func DecodeDocument(b []byte) (any, error) {
	if len(b) > MaxRequestBody {
		return nil, Errorf(CodeTooLarge, "the document has %d bytes, at most %d are allowed", len(b), MaxRequestBody)
	}
	var head struct { // lenient, for the errors of what follows
		Kind     string `json:"kind"`
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, Errorf(CodeInvalid, "document: %w", asFieldError(err))
	}
	var doc interface {
		setDefaults()
		Validate() error
	}
	switch head.Kind {
	case KindUser:
		doc = &User{}
	case KindRole:
		doc = &Role{}
	case KindAuthPreference:
		doc = &AuthPreference{}
	case KindToken:
		doc = &Token{}
	case KindKubeCluster:
		doc = &KubeClusterDocument{}
	case KindAuditForwarder:
		doc = &AuditForwarder{}
	case "":
		return nil, Errorf(CodeInvalid, "document: %w", &FieldError{Path: "kind", Reason: "is missing, want one of " + strings.Join(Kinds(), ", ")})
	default:
		if c := NewConnector(head.Kind); c != nil {
			doc = c
			break
		}
		reason := fmt.Sprintf("%q is not known here, want one of %s", clip(head.Kind), strings.Join(Kinds(), ", "))
		if hint := DidYouMean(head.Kind, Kinds()); hint != "" {
			reason = fmt.Sprintf("%q is not known here%s", clip(head.Kind), hint)
		}
		return nil, Errorf(CodeInvalid, "document: %w", &FieldError{Path: "kind", Reason: reason})
	}
	if err := DecodeStrict(b, doc); err != nil {
		if head.Kind == KindToken { // the name may be the token itself
			head.Metadata.Name = ""
		}
		return nil, documentError(head.Kind, head.Metadata.Name, err)
	}
	doc.setDefaults()
	return doc, doc.Validate()
}

func documentError(kind, name string, err error) error {
	if name == "" {
		return Errorf(CodeOf(err), "%s: %w", kind, err)
	}
	return Errorf(CodeOf(err), "%s %q: %w", kind, clip(name), err)
}

// setDefaults has nothing to do: a user's fields mean what they say.
func (u *User) setDefaults() {}

// setDefaults gives roles of the oldest versions what Teleport gives them:
// every Kubernetes cluster unless labels say otherwise.
func (r *Role) setDefaults() {
	if (r.Version == "v2" || r.Version == "v3") && r.Spec.Allow.KubernetesLabels == nil {
		r.Spec.Allow.KubernetesLabels = map[string]Values{"*": {"*"}}
	}
}

// Validate says what is wrong with the user as a document; whether its roles
// exist is for the store to say.
func (u *User) Validate() error {
	if err := u.check(); err != nil {
		return documentError(KindUser, u.Metadata.Name, asInvalid(err))
	}
	return nil
}

func (u *User) check() error {
	if err := u.Header.check(KindUser); err != nil {
		return err
	}
	if strings.HasPrefix(strings.ToLower(u.Metadata.Name), "system:") {
		// A user without kubernetes_users acts under the own name.
		return &FieldError{"metadata.name", "names that begin with system: belong to Kubernetes"}
	}
	if err := checkRoleNames("spec.roles", u.Spec.Roles); err != nil {
		return err
	}
	if len(u.Spec.Traits) > maxTraits {
		return &FieldError{"spec.traits", fmt.Sprintf("more than %d", maxTraits)}
	}
	for name, values := range u.Spec.Traits {
		path := "spec.traits." + clip(name)
		if err := ValidateName("trait", name); err != nil {
			return &FieldError{"spec.traits", err.Error()}
		}
		if len(values) > maxTraitValues {
			return &FieldError{path, fmt.Sprintf("more than %d values", maxTraitValues)}
		}
		for i, v := range values {
			if err := checkTraitValue(name, v); err != nil {
				return &FieldError{fmt.Sprintf("%s[%d]", path, i), err.Error()}
			}
		}
	}
	return nil
}

func checkTraitValue(trait, value string) error {
	switch trait {
	case TraitKubeGroups:
		return ValidateGroup("Kubernetes group", value)
	case TraitKubeUsers:
		return ValidateGroup("Kubernetes user", value)
	default:
		return checkText(value, maxValueLen)
	}
}

func checkRoleNames(path string, roles []string) error {
	if len(roles) > maxRoles {
		return &FieldError{path, fmt.Sprintf("more than %d", maxRoles)}
	}
	for i, name := range roles {
		if err := ValidateName(KindRole, name); err != nil {
			return &FieldError{fmt.Sprintf("%s[%d]", path, i), err.Error()}
		}
		if slices.Contains(roles[:i], name) {
			return &FieldError{fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%q is there twice", name)}
		}
	}
	return nil
}

// setDefaults names the one document, which people need not do, and says what
// an empty field means.
func (p *AuthPreference) setDefaults() {
	if p.Metadata.Name == "" {
		p.Metadata.Name = AuthPreferenceName
	}
	if p.Spec.Type == "" {
		p.Spec.Type = AuthLocal
	}
	if p.Spec.SecondFactor == "" {
		p.Spec.SecondFactor = SecondFactorOptional
	}
}

// DefaultAuthPreference is in force until one is written.
func DefaultAuthPreference() *AuthPreference {
	p := &AuthPreference{Header: Header{Kind: KindAuthPreference, Version: AuthPreferenceVersion}}
	p.setDefaults()
	return p
}

// Validate says what is wrong with the preference as a document; whether its
// RPID fits the public address and its connector exists is for internal/auth to say.
func (p *AuthPreference) Validate() error {
	if err := p.check(); err != nil {
		return documentError(KindAuthPreference, p.Metadata.Name, asInvalid(err))
	}
	return nil
}

func (p *AuthPreference) check() error {
	if err := p.Header.check(KindAuthPreference); err != nil {
		return err
	}
	if p.Metadata.Name != AuthPreferenceName {
		return &FieldError{"metadata.name", fmt.Sprintf("there is only one, called %s", AuthPreferenceName)}
	}
	if types := append([]string{AuthLocal}, ConnectorKinds()...); !slices.Contains(types, p.Spec.Type) {
		return &FieldError{"spec.type", notKnown(p.Spec.Type, "one", types)}
	}
	if name := p.Spec.ConnectorName; name != "" {
		if p.Spec.Type == AuthLocal {
			return &FieldError{"spec.connector_name", fmt.Sprintf("has no effect with spec.type %s: write the connector's kind there, or leave the name out", AuthLocal)}
		}
		if err := ValidateName("connector", name); err != nil {
			return &FieldError{"spec.connector_name", err.Error()}
		}
	}
	if mode := string(p.Spec.SecondFactor); !slices.Contains(secondFactors, mode) {
		return &FieldError{"spec.second_factor", notKnown(mode, "one", secondFactors)}
	}
	if id := p.Spec.WebAuthn.RPID; id != "" && !IsDNSName(id) {
		return &FieldError{"spec.webauthn.rp_id", fmt.Sprintf("%q is no lower-case DNS name", clip(id))}
	}
	return nil
}

// Validate says what is wrong with the role as a document. Templates and label
// patterns are compiled by internal/auth, which alone knows how to use them.
func (r *Role) Validate() error {
	if err := r.check(); err != nil {
		return documentError(KindRole, r.Metadata.Name, asInvalid(err))
	}
	return nil
}

func (r *Role) check() error {
	if err := r.Header.check(KindRole); err != nil {
		return err
	}
	if ttl := time.Duration(r.Spec.Options.MaxSessionTTL); ttl < 0 || ttl > 0 && ttl < time.Minute {
		return &FieldError{"spec.options.max_session_ttl", "want at least 1m"}
	}
	if err := r.Spec.Allow.check("spec.allow"); err != nil {
		return err
	}
	return r.Spec.Deny.check("spec.deny")
}

func (c *RoleConditions) check(path string) error {
	for _, list := range []struct {
		name   string
		values []string
	}{
		{"kubernetes_groups", c.KubernetesGroups}, {"kubernetes_users", c.KubernetesUsers}, {"logins", c.Logins},
	} {
		if len(list.values) > maxListEntries {
			return &FieldError{path + "." + list.name, fmt.Sprintf("more than %d", maxListEntries)}
		}
		for i, v := range list.values {
			at := fmt.Sprintf("%s.%s[%d]", path, list.name, i)
			if strings.Contains(v, "{{") || strings.Contains(v, "}}") {
				if err := checkText(v, maxValueLen); err != nil {
					return &FieldError{at, err.Error()}
				}
			} else if err := ValidateGroup(strings.TrimSuffix(list.name, "s"), v); err != nil {
				return &FieldError{at, err.Error()}
			}
		}
	}
	if len(c.KubernetesLabels) > maxLabels {
		return &FieldError{path + ".kubernetes_labels", fmt.Sprintf("more than %d", maxLabels)}
	}
	for key, values := range c.KubernetesLabels {
		at := path + ".kubernetes_labels." + clip(key)
		if key == "" || checkText(key, maxValueLen) != nil {
			return &FieldError{path + ".kubernetes_labels", fmt.Sprintf("%q is not a label's name", clip(key))}
		}
		if len(values) == 0 || len(values) > maxListEntries {
			return &FieldError{at, fmt.Sprintf("want 1 to %d values", maxListEntries)}
		}
		for i, v := range values {
			if err := checkText(v, maxValueLen); err != nil {
				return &FieldError{fmt.Sprintf("%s[%d]", at, i), err.Error()}
			}
		}
	}
	return checkRules(path+".rules", c.Rules)
}

func checkRules(path string, rules []Rule) error {
	if len(rules) > maxListEntries {
		return &FieldError{path, fmt.Sprintf("more than %d", maxListEntries)}
	}
	for i, rule := range rules {
		for _, list := range []struct {
			name          string
			values, known []string
		}{
			{"resources", rule.Resources, ruleResources}, {"verbs", rule.Verbs, ruleVerbs},
		} {
			at := fmt.Sprintf("%s[%d].%s", path, i, list.name)
			if len(list.values) == 0 {
				return &FieldError{at, "is empty"}
			}
			for j, v := range list.values {
				if !slices.Contains(list.known, v) {
					return &FieldError{fmt.Sprintf("%s[%d]", at, j), notKnown(v, "some", list.known)}
				}
			}
		}
	}
	return nil
}

// notKnown refuses a value that is none of those known, and says which was
// likely meant.
func notKnown(v, howMany string, known []string) string {
	reason := fmt.Sprintf("%q is not known, want %s of %s", clip(v), howMany, strings.Join(known, ", "))
	if near := Nearest(strings.ToLower(v), known); near != "" {
		reason += ", did you mean " + near + "?"
	}
	return reason
}

func (h *Header) check(kind string) error { return h.checkWith(kind, false) }

func (h *Header) checkWith(kind string, mayExpire bool) error {
	if h.Kind != kind {
		return &FieldError{"kind", fmt.Sprintf("is %q, want %q", clip(h.Kind), kind)}
	}
	if known := versionsOf(kind); !slices.Contains(known, h.Version) {
		reason := notKnown(h.Version, "one", known)
		if slices.Contains(ConnectorKinds(), kind) {
			reason = fmt.Sprintf("%q is none of kind %s, want %s", clip(h.Version), kind, known[len(known)-1])
		}
		return &FieldError{"version", reason}
	}
	if err := ValidateName(kind, h.Metadata.Name); err != nil {
		return &FieldError{"metadata.name", strings.TrimPrefix(err.Error(), nameSubject(kind, h.Metadata.Name))} // documentError has it
	}
	if err := checkText(h.Metadata.Description, maxDescription); err != nil {
		return &FieldError{"metadata.description", err.Error()}
	}
	if !mayExpire && !h.Metadata.Expires.IsZero() {
		return &FieldError{"metadata.expires", "has no effect: a " + kind + " does not end by itself"}
	}
	return checkLabels("metadata.labels", h.Metadata.Labels)
}

func checkLabels(path string, labels map[string]string) error {
	if len(labels) > maxLabels {
		return &FieldError{path, fmt.Sprintf("more than %d", maxLabels)}
	}
	for k, v := range labels {
		if k == "" || checkText(k, maxValueLen) != nil || checkText(v, maxValueLen) != nil {
			return &FieldError{path, fmt.Sprintf("%q: names and values hold 1 to %d bytes without control characters", clip(k), maxValueLen)}
		}
	}
	return nil
}

func checkText(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(s), limit)
	}
	if i := strings.IndexFunc(s, func(r rune) bool {
		return r < 0x20 || 0x7f <= r && r < 0xa0 || r == 0xfffd || r == 0x2028 || r == 0x2029
	}); i >= 0 {
		return fmt.Errorf("%q holds a control character or broken UTF-8", clip(s))
	}
	return nil
}

func asInvalid(err error) error { return Errorf(CodeInvalid, "%w", err) }

// clip keeps what strangers sent from filling an error message.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
