package api

import (
	"encoding/json"
	"slices"
	"time"
)

// Kinds of documents that tctl create, get and rm know.
const (
	KindUser           = "user"
	KindRole           = "role"
	KindAuthPreference = "cluster_auth_preference"
	KindToken          = "token"
	KindKubeCluster    = "kube_cluster"
)

// What rules of roles name beside the kinds of documents.
const (
	KindSession = "session"
	KindEvent   = "event"
	KindAgent   = "agent"
	KindCluster = "cluster" // the replicas, and the state as a whole
)

// NotAllowed is the refusal of a verb on a kind of things for want of a rule that
// allows it, and says which that is.
func NotAllowed(user, verb, kind string) *Error {
	return Errorf(CodeForbidden, "user %q may not %s: no role allows it (spec.allow.rules with resources: [%s], verbs: [%s])", user, Doing(verb, kind), kind, verb)
}

// Doing says for people what a rule is about.
func Doing(verb, kind string) string {
	switch {
	case kind == KindCluster && verb == VerbRead:
		return "see the cluster's status"
	case kind == KindCluster && verb == VerbCreate:
		return "back up the cluster"
	case kind == KindCluster && verb == VerbUpdate:
		return "have the cluster's certificate ordered now"
	case kind == KindAuditForwarder:
		return verb + " audit forwarders"
	}
	if slices.Contains(ConnectorKinds(), kind) {
		return verb + " " + kind + " connectors"
	}
	return verb + " " + kind + "s"
}

// Kinds are those of documents, as error messages list them.
func Kinds() []string {
	return append([]string{KindUser, KindRole, KindAuthPreference, KindToken, KindKubeCluster, KindAuditForwarder}, ConnectorKinds()...)
}

// Header begins every document.
type Header struct {
	Kind     string   `json:"kind"`
	Version  string   `json:"version"`
	Metadata Metadata `json:"metadata"`
}

// Metadata names a document. Revision is the Raft index of its last write; a
// document written back with a revision is refused if somebody wrote in between.
type Metadata struct {
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Revision    uint64            `json:"revision,omitempty"`
	// Expires is when the document ends by itself. Tokens alone have one.
	Expires time.Time `json:"expires,omitzero"`
}

// User is a local user. What proves it is that user (a password hash, second
// factors) lives in records of its own, never in this document.
type User struct {
	Header `json:",inline"`
	Spec   UserSpec `json:"spec"`
}

// UserSpec says what a user may be: roles by name and the traits that fill the
// roles' {{internal.…}} templates.
type UserSpec struct {
	Roles  []string            `json:"roles,omitempty"`
	Traits map[string][]string `json:"traits,omitempty"`
}

// Names of the traits that tctl users add sets.
const (
	TraitKubeGroups = "kubernetes_groups"
	TraitKubeUsers  = "kubernetes_users"
)

// Role says what its holders may do. Deny wins over allow.
type Role struct {
	Header `json:",inline"`
	Spec   RoleSpec `json:"spec"`
}

// RoleSpec is the body of a Role.
type RoleSpec struct {
	Options RoleOptions    `json:"options,omitzero"`
	Allow   RoleConditions `json:"allow,omitzero"`
	Deny    RoleConditions `json:"deny,omitzero"`
}

// RoleOptions bound what a session may do in general.
type RoleOptions struct {
	MaxSessionTTL Duration `json:"max_session_ttl,omitzero"` // zero: no bound from this role
}

// RoleConditions is one side, allow or deny, of a role. Groups and users may
// hold templates: {{internal.TRAIT}} and {{external.TRAIT}}.
type RoleConditions struct {
	KubernetesGroups []string          `json:"kubernetes_groups,omitempty"`
	KubernetesUsers  []string          `json:"kubernetes_users,omitempty"`
	KubernetesLabels map[string]Values `json:"kubernetes_labels,omitempty"`
	Logins           []string          `json:"logins,omitempty"` // kept for documents written for Teleport, has no effect
	Rules            []Rule            `json:"rules,omitempty"`
}

// Rule lets its holders do verbs (list, create, read, update, delete, *) on
// kinds of documents (user, role, session, event …, *).
type Rule struct {
	Resources []string `json:"resources"`
	Verbs     []string `json:"verbs"`
}

// AuthPreferenceName is the name of the one document of KindAuthPreference.
const AuthPreferenceName = "cluster-auth-preference"

// AuthPreference says how local users prove who they are.
type AuthPreference struct {
	Header `json:",inline"`
	Spec   AuthPreferenceSpec `json:"spec"`
}

// AuthPreferenceSpec is the body of an AuthPreference. The zero value means
// Type local, SecondFactor optional, and the public address's host as RPID.
type AuthPreferenceSpec struct {
	Type          string             `json:"type,omitempty"`           // local, or the kind of the connector that tsh login uses by default
	ConnectorName string             `json:"connector_name,omitempty"` // which; needed unless there is one of that kind alone
	SecondFactor  SecondFactor       `json:"second_factor,omitempty"`
	WebAuthn      WebAuthnPreference `json:"webauthn,omitzero"`
}

// WebAuthnPreference configures passkeys.
type WebAuthnPreference struct {
	// RPID is the relying party's id: the host of the public address or a domain
	// above it (W3C Web Authentication, section 5.1.2). Passkeys made for one id are
	// worth nothing under another.
	RPID string `json:"rp_id,omitempty"`
}

// SecondFactor says what a local user needs beside the password.
type SecondFactor string

// The modes.
const (
	SecondFactorOff      SecondFactor = "off"      // none is asked for, even of who has one
	SecondFactorOptional SecondFactor = "optional" // who has one is asked for it
	SecondFactorOn       SecondFactor = "on"       // everyone needs one
	SecondFactorWebAuthn SecondFactor = "webauthn" // everyone needs a passkey
)

// Kinds of second factors.
const (
	FactorTOTP     = "totp"     // RFC 6238: six digits, 30 seconds, SHA-1, as every authenticator app knows it
	FactorWebAuthn = "webauthn" // a passkey or security key
)

// Factor is a second factor of a user, without anything secret.
type Factor struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Name     string    `json:"name"` // chosen by the user
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
	Locked   time.Time `json:"locked,omitzero"` // since when it proves nothing: there may be a copy of it
}

// Values is a list of strings that may be written as one string.
type Values []string

// UnmarshalJSON takes a string or a list of strings.
func (v *Values) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*v = Values{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(v))
}

// Duration is a time.Duration that reads and prints as Go writes it ("12h0m0s").
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return Errorf(CodeInvalid, "%q is not a duration such as 12h or 30m", b)
	}
	*d = Duration(v)
	return nil
}

// Kinds of sessions.
const (
	SessionCLI    = "cli"    // a certificate; what tsh login makes
	SessionSigned = "signed" // a certificate, too; what tctl auth sign makes
	SessionWeb    = "web"    // a cookie
)

// Session is one login. Certificates and cookies name it; when it is gone they
// are worth nothing.
type Session struct {
	ID         string    `json:"id"`
	Kind       string    `json:"kind"`
	User       string    `json:"user"`
	Connector  string    `json:"connector,omitempty"` // "" for a local user, whose roles and traits are read from the user record
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	ClientAddr string    `json:"client_addr,omitempty"`
	// Roles and Traits (internal ones) are what a connector's mapping gave, External what
	// the identity provider said; empty for a local user. An attribute named
	// kubernetes_groups fills {{external.kubernetes_groups}} and nothing else.
	Roles    []string            `json:"roles,omitempty"`
	Traits   map[string][]string `json:"traits,omitempty"`
	External map[string][]string `json:"external_traits,omitempty"`
}
