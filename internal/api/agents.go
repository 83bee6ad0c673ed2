package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// KubeCluster is a Kubernetes cluster behind this address.
type KubeCluster struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Status *KubeStatus       `json:"status,omitempty"` // nil where nobody asked for it
}

// KubeStatus is how a Kubernetes cluster does, as far as the replica that was asked knows.
type KubeStatus struct {
	Health   Health    `json:"health"`
	Reason   string    `json:"reason,omitempty"`   // in words; of a healthy one, what is not quite right
	Version  string    `json:"version,omitempty"`  // of its API server, such as v1.34.1
	Agents   int       `json:"agents"`             // connected to any replica; 0 for a replica's own cluster
	Own      bool      `json:"own,omitempty"`      // the cluster that replicas reach without an agent
	LastSeen time.Time `json:"last_seen,omitzero"` // when it could last be reached; UTC
	Checked  time.Time `json:"checked,omitzero"`   // when its API server was last asked; UTC
}

// Asked says whether the health is an answer: unknown is one, too, where an API server
// was asked and does not say enough.
func (s *KubeStatus) Asked() bool { return s.Health != HealthUnknown || !s.Checked.IsZero() }

// Offline is the status of a cluster that no agent serves at this moment. When it
// was last there stands in LastSeen alone: clients say it as they say other times.
func Offline(lastSeen time.Time) KubeStatus {
	return KubeStatus{Health: HealthOffline, Reason: "no agent of it is connected", LastSeen: lastSeen}
}

// Health is the outcome of the last probes of an API server: /readyz, and a
// SelfSubjectAccessReview of the right to impersonate.
type Health string

// The healths.
const (
	HealthHealthy   Health = "healthy"
	HealthUnhealthy Health = "unhealthy" // it answers no, or not at all
	HealthUnknown   Health = "unknown"   // nobody has asked yet, or it can't be told
	HealthOffline   Health = "offline"   // no agent of it is connected
)

// Gravity orders healths: of several, the gravest is that of all. asked says whether an
// API server was.
func (h Health) Gravity(asked bool) int {
	switch {
	case h == HealthUnhealthy:
		return 4
	case h == HealthUnknown && asked:
		return 3 // requests may be refused
	case h == HealthHealthy:
		return 2 // somebody knows
	case h == "":
		return 0
	default:
		return 1
	}
}

// KubeClusterVersion is what documents of KindKubeCluster carry.
const KubeClusterVersion = "v3"

// KubeClusterDocument is a KubeCluster as tctl get prints it. Clusters come from
// agents, not from documents: see internal/auth.
type KubeClusterDocument struct {
	Header `json:",inline"`
	Spec   KubeClusterSpec `json:"spec"`
	Status *KubeStatus     `json:"status,omitempty"`
}

// KubeClusterSpec is the body of a KubeClusterDocument.
type KubeClusterSpec struct {
	// Token is the id or name of the token whose agents own the cluster's name; "" for
	// a cluster that replicas reach by themselves.
	Token string `json:"token,omitempty"`
}

// TokenVersion is what documents of KindToken carry.
const TokenVersion = "v2"

// TokenRoleKube is the one role that tokens give: to join as an agent.
const TokenRoleKube = "kube"

// Join methods.
const (
	JoinMethodToken      = "token"      // whoever knows the token joins
	JoinMethodKubernetes = "kubernetes" // a service account's token is shown, and verified
)

// How a service account's token is verified.
const (
	TokenKubernetesInCluster  = "in_cluster"  // by the TokenReview of the replicas' own cluster
	TokenKubernetesStaticJWKS = "static_jwks" //nolint:gosec // no credential: by the keys in the document
)

// Token lets agents join. With JoinMethodToken the document's name is the secret
// as long as it is being written; what is stored and read back has the token's id
// for its name (see TokenID), and a hash.
type Token struct {
	Header `json:",inline"`
	Spec   TokenSpec `json:"spec"`
}

// TokenSpec is the body of a Token.
type TokenSpec struct {
	Roles      []string `json:"roles"`
	JoinMethod string   `json:"join_method,omitempty"` // "": JoinMethodToken
	// MaxUses is how many agents may join by it, 0: any number, and then nobody counts.
	// Uses counts them; who writes a document does not set it.
	MaxUses int `json:"max_uses,omitempty"`
	Uses    int `json:"uses,omitempty"`
	// KubeClusters are the names under which its agents may serve clusters. Empty:
	// any that is not taken by agents of another token.
	KubeClusters Values           `json:"kubernetes_clusters,omitempty"`
	Kubernetes   *TokenKubernetes `json:"kubernetes,omitempty"`
}

// TokenKubernetes says which service accounts join, and who vouches for them.
type TokenKubernetes struct {
	Type       string                 `json:"type,omitempty"` // "": TokenKubernetesInCluster
	Allow      []TokenKubernetesAllow `json:"allow"`
	StaticJWKS *TokenStaticJWKS       `json:"static_jwks,omitempty"`
}

// TokenKubernetesAllow names a service account.
type TokenKubernetesAllow struct {
	ServiceAccount string `json:"service_account"` // NAMESPACE:NAME
}

// TokenStaticJWKS holds the keys of a cluster's service account issuer.
type TokenStaticJWKS struct {
	JWKS string `json:"jwks"` // JSON Web Key Set (RFC 7517), as kubectl get --raw /openid/v1/jwks prints it
}

// MinTokenLen keeps tokens that people make up from being guessed.
const MinTokenLen = 16

// setDefaults says what an empty field means.
func (t *Token) setDefaults() {
	if t.Spec.JoinMethod == "" {
		t.Spec.JoinMethod = JoinMethodToken
	}
	if k := t.Spec.Kubernetes; k != nil && k.Type == "" {
		k.Type = TokenKubernetesInCluster
	}
}

// Validate says what is wrong with the token as a document; whether its keys can
// be used is for internal/auth to say. The errors never hold a secret.
func (t *Token) Validate() error {
	if err := t.check(); err != nil {
		name := t.Metadata.Name
		if t.Spec.JoinMethod != JoinMethodKubernetes {
			name = ""
		}
		return documentError(KindToken, name, asInvalid(err))
	}
	return nil
}

func (t *Token) check() error {
	secret := t.Spec.JoinMethod != JoinMethodKubernetes
	if secret {
		head := t.Header
		if err := ValidateName(KindToken, head.Metadata.Name); err != nil {
			return &FieldError{"metadata.name", "is the token itself: use ASCII letters, digits and -_.@+: only, up to 128 of them"}
		}
		head.Metadata.Name = "token" // an error must not print it
		if err := head.checkWith(KindToken, true); err != nil {
			return err
		}
		if n := len(t.Metadata.Name); n < MinTokenLen {
			return &FieldError{"metadata.name", fmt.Sprintf("is the token itself, and %d characters can be guessed: use at least %d, or let 'tctl tokens add' make one", n, MinTokenLen)}
		}
	} else if err := t.Header.checkWith(KindToken, true); err != nil {
		return err
	}
	if len(t.Spec.Roles) == 0 {
		return &FieldError{"spec.roles", "is empty, want [" + TokenRoleKube + "]"}
	}
	for i, role := range t.Spec.Roles {
		if role != TokenRoleKube || i > 0 {
			return &FieldError{fmt.Sprintf("spec.roles[%d]", i), notKnown(role, "one", []string{TokenRoleKube})}
		}
	}
	if t.Spec.MaxUses < 0 || t.Spec.Uses < 0 {
		return &FieldError{"spec.max_uses", "is less than nothing"}
	}
	if len(t.Spec.KubeClusters) > maxListEntries {
		return &FieldError{"spec.kubernetes_clusters", fmt.Sprintf("more than %d", maxListEntries)}
	}
	for i, name := range t.Spec.KubeClusters {
		if err := ValidateKubeName(name); err != nil {
			return &FieldError{fmt.Sprintf("spec.kubernetes_clusters[%d]", i), err.Error()}
		}
	}
	return t.checkMethod()
}

func (t *Token) checkMethod() error {
	k := t.Spec.Kubernetes
	switch t.Spec.JoinMethod {
	case JoinMethodToken:
		if k != nil {
			return &FieldError{"spec.kubernetes", "has no effect with join_method " + JoinMethodToken}
		}
		return nil
	case JoinMethodKubernetes:
	default:
		return &FieldError{"spec.join_method", notKnown(t.Spec.JoinMethod, "one", []string{JoinMethodToken, JoinMethodKubernetes})}
	}
	if k == nil || len(k.Allow) == 0 {
		return &FieldError{"spec.kubernetes.allow", "names nobody: list {service_account: NAMESPACE:NAME}"}
	}
	if len(k.Allow) > maxListEntries {
		return &FieldError{"spec.kubernetes.allow", fmt.Sprintf("more than %d", maxListEntries)}
	}
	for i, a := range k.Allow {
		namespace, name, ok := strings.Cut(a.ServiceAccount, ":")
		if !ok || !isDNSLabel(namespace) || !IsDNSName(name) {
			return &FieldError{fmt.Sprintf("spec.kubernetes.allow[%d].service_account", i), fmt.Sprintf("%q: want NAMESPACE:NAME", clip(a.ServiceAccount))}
		}
	}
	types := []string{TokenKubernetesInCluster, TokenKubernetesStaticJWKS}
	switch {
	case !slices.Contains(types, k.Type):
		return &FieldError{"spec.kubernetes.type", notKnown(k.Type, "one", types)}
	case k.Type == TokenKubernetesStaticJWKS && (k.StaticJWKS == nil || k.StaticJWKS.JWKS == ""):
		return &FieldError{"spec.kubernetes.static_jwks.jwks", "is missing: it is what 'kubectl get --raw /openid/v1/jwks' prints"}
	case k.Type != TokenKubernetesStaticJWKS && k.StaticJWKS != nil:
		return &FieldError{"spec.kubernetes.static_jwks", "has no effect with type " + k.Type}
	case k.StaticJWKS != nil && !json.Valid([]byte(k.StaticJWKS.JWKS)):
		return &FieldError{"spec.kubernetes.static_jwks.jwks", "is not JSON"}
	}
	return nil
}

// setDefaults has nothing to do.
func (k *KubeClusterDocument) setDefaults() {}

// Validate says what is wrong with the document.
func (k *KubeClusterDocument) Validate() error {
	if err := k.Header.check(KindKubeCluster); err != nil {
		return documentError(KindKubeCluster, k.Metadata.Name, asInvalid(err))
	}
	return (&KubeCluster{Name: k.Metadata.Name, Labels: k.Metadata.Labels}).Validate()
}

// Validate says what is wrong with a Kubernetes cluster.
func (k *KubeCluster) Validate() error {
	if err := ValidateKubeName(k.Name); err != nil {
		return err
	}
	if err := ValidateLabels(k.Labels); err != nil {
		return Errorf(CodeInvalid, "Kubernetes cluster %q: %w", k.Name, err)
	}
	return nil
}

// ValidateLabels says what is wrong with the labels of a Kubernetes cluster.
func ValidateLabels(labels map[string]string) error {
	if err := checkLabels("labels", labels); err != nil {
		return asInvalid(err)
	}
	return nil
}

// AddTokenRequest makes a token of JoinMethodToken.
type AddTokenRequest struct {
	Roles        []string          `json:"roles"`
	TTL          Duration          `json:"ttl,omitzero"`    // zero: 30 m; at most 10 years
	Value        string            `json:"value,omitempty"` // "": 16 random bytes in hex
	MaxUses      int               `json:"max_uses,omitempty"`
	KubeClusters []string          `json:"kubernetes_clusters,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// AddTokenResponse holds the token: the only time that anybody sees it.
type AddTokenResponse struct {
	Token   string    `json:"token"`
	ID      string    `json:"id"` // how it is called from now on
	Roles   []string  `json:"roles"`
	Expires time.Time `json:"expires"`
	TTL     Duration  `json:"ttl"`
	Proxy   string    `json:"proxy"`   // host:port that agents dial
	CAPins  []string  `json:"ca_pins"` // of the host CAs, see Pin
}

// JoinRequest makes somebody who holds a token an agent. The private half of
// PublicKey never leaves the agent.
type JoinRequest struct {
	Token        string   `json:"token"`         // the secret, or the name of a token with another method
	JWT          string   `json:"jwt,omitempty"` // of the service account, with JoinMethodKubernetes; audience: the cluster's name
	PublicKey    []byte   `json:"public_key"`    // PKIX, DER
	KubeClusters []string `json:"kubernetes_clusters"`
	Name         string   `json:"name,omitempty"` // of pod or host, for people
	Version      string   `json:"version,omitempty"`
}

// JoinResponse is an agent's identity and whom to trust with it.
type JoinResponse struct {
	AgentID     string       `json:"agent_id"`
	Cert        []byte       `json:"cert"` // PEM
	Generation  uint64       `json:"generation"`
	Expires     time.Time    `json:"expires"`
	ClusterName string       `json:"cluster_name"`
	HostSigners []HostSigner `json:"host_signers"`
}

// MaxAgentClusters is how many Kubernetes clusters one agent may serve.
const MaxAgentClusters = 100

// agentIDLen is how long an agent's id is, in hex digits: 16 random bytes.
const agentIDLen = 32

// ValidAgentID reports whether id has the shape of an agent's id.
func ValidAgentID(id string) bool { return isLowerHex(id, agentIDLen) }

// Agent is one that has joined.
type Agent struct {
	ID           string    `json:"id"`
	Name         string    `json:"name,omitempty"` // as it calls itself
	KubeClusters []string  `json:"kubernetes_clusters"`
	Token        string    `json:"token"` // id or name of the token it joined by
	JoinedFrom   string    `json:"joined_from,omitempty"`
	Joined       time.Time `json:"joined"`
	Generation   uint64    `json:"generation"` // of its certificate
	Expires      time.Time `json:"expires"`    // of its certificate
	Locked       time.Time `json:"locked,omitzero"`
	LockReason   string    `json:"lock_reason,omitempty"`
	// Replicas are the ids of those that it has tunnels to.
	Replicas []string `json:"replicas"`
	Version  string   `json:"version,omitempty"`
	// Duplicate: two processes use its identity at this moment, and have for a minute.
	Duplicate bool `json:"duplicate,omitempty"`
}

// Agents are those that have joined, by id.
type Agents struct {
	Agents []Agent `json:"agents"`
}
