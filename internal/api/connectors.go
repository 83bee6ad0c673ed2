package api

import (
	"encoding/json"
	"time"
)

// Kinds of connectors, each with the protocol that its identity provider speaks.
const (
	KindGithub = "github"
	KindOIDC   = "oidc"
	KindSAML   = "saml"
)

// ConnectorKinds are the kinds of connectors.
func ConnectorKinds() []string { return []string{KindGithub, KindOIDC, KindSAML} }

// Connector is the document of an identity provider: *GithubConnector,
// *OIDCConnector or *SAMLConnector. Names are unique over all three kinds:
// tsh login --auth=NAME says no kind.
type Connector interface {
	// ConnectorKind is one of ConnectorKinds.
	ConnectorKind() string
	// Head is the document's own header.
	Head() *Header
	// Display is what a button on the login page says.
	Display() string
	// Secrets are the fields that nobody sees unless they ask for them, by their paths
	// such as spec.client_secret; a field of an absent part is not among them.
	Secrets() map[string]*string
	Validate() error
}

// GithubConnector logs members of GitHub teams in (OAuth 2.0, RFC 6749).
type GithubConnector struct {
	Header `json:",inline"`
	Spec   GithubSpec `json:"spec"`
}

// GithubSpec is the body of a GithubConnector; the names are Teleport's.
type GithubSpec struct {
	ClientID      string         `json:"client_id"`
	ClientSecret  string         `json:"client_secret,omitempty"`
	RedirectURL   string         `json:"redirect_url,omitempty"` // "": https://PUBLIC_ADDR/v1/webapi/github/callback
	Display       string         `json:"display,omitempty"`
	TeamsToLogins []TeamToLogins `json:"teams_to_logins,omitempty"`
	TeamsToRoles  []TeamToRoles  `json:"teams_to_roles,omitempty"`
	// EndpointURL and APIEndpointURL are those of GitHub Enterprise Server; "": github.com.
	EndpointURL    string `json:"endpoint_url,omitempty"`
	APIEndpointURL string `json:"api_endpoint_url,omitempty"`
}

// TeamToLogins gives the members of a team the role access, and the groups and
// users as internal traits.
type TeamToLogins struct {
	Organization     string   `json:"organization"`
	Team             string   `json:"team"`             // its slug
	Logins           []string `json:"logins,omitempty"` // kept for documents written for Teleport, has no effect
	KubernetesGroups []string `json:"kubernetes_groups,omitempty"`
	KubernetesUsers  []string `json:"kubernetes_users,omitempty"`
}

// TeamToRoles gives the members of a team roles.
type TeamToRoles struct {
	Organization string   `json:"organization"`
	Team         string   `json:"team"` // its slug
	Roles        []string `json:"roles"`
}

// OIDCConnector logs people in by OpenID Connect Core 1.0 with PKCE (RFC 7636).
type OIDCConnector struct {
	Header `json:",inline"`
	Spec   OIDCSpec `json:"spec"`
}

// OIDCSpec is the body of an OIDCConnector; the names are Teleport's.
type OIDCSpec struct {
	IssuerURL     string        `json:"issuer_url"`
	ClientID      string        `json:"client_id"`
	ClientSecret  string        `json:"client_secret,omitempty"`
	RedirectURL   Values        `json:"redirect_url,omitempty"` // one; "": https://PUBLIC_ADDR/v1/webapi/oidc/callback
	Display       string        `json:"display,omitempty"`
	Scope         []string      `json:"scope,omitempty"` // beside openid; default: email, profile
	Prompt        string        `json:"prompt,omitempty"`
	ACRValues     string        `json:"acr_values,omitempty"`
	MaxAge        Duration      `json:"max_age,omitzero"`         // how long ago the person may have proven who it is, at most; zero: any time
	UsernameClaim string        `json:"username_claim,omitempty"` // "": email if email_verified, else preferred_username
	PKCEMode      string        `json:"pkce_mode,omitempty"`      // enabled, which is the default and the only one
	ClaimsToRoles []ClaimToRole `json:"claims_to_roles"`
}

// ClaimToRole gives roles to whoever has a claim (SAML: an attribute) with a value,
// which may be a pattern as CompilePattern takes it.
type ClaimToRole struct {
	Claim string   `json:"claim"`
	Value string   `json:"value"`
	Roles []string `json:"roles"`
}

// SAMLConnector logs people in by SAML 2.0, web browser SSO profile, begun here.
type SAMLConnector struct {
	Header `json:",inline"`
	Spec   SAMLSpec `json:"spec"`
}

// SAMLSpec is the body of a SAMLConnector; the names are Teleport's. Who the
// identity provider is comes from its metadata (EntityDescriptor, or fetched from
// EntityDescriptorURL), or from Issuer, SSO and Cert.
type SAMLSpec struct {
	ACS                   string            `json:"acs,omitempty"`                     // "": https://PUBLIC_ADDR/v1/webapi/saml/acs
	Audience              string            `json:"audience,omitempty"`                // "": ACS
	ServiceProviderIssuer string            `json:"service_provider_issuer,omitempty"` // our entity id; "": ACS
	Display               string            `json:"display,omitempty"`
	EntityDescriptor      string            `json:"entity_descriptor,omitempty"`
	EntityDescriptorURL   string            `json:"entity_descriptor_url,omitempty"`
	Issuer                string            `json:"issuer,omitempty"`
	SSO                   string            `json:"sso,omitempty"`
	Cert                  string            `json:"cert,omitempty"` // PEM
	UsernameAttribute     string            `json:"username_attribute,omitempty"`
	AttributesToRoles     []AttributeToRole `json:"attributes_to_roles"`
	// SigningKeyPair signs what we ask; made when there is none. AssertionKeyPair opens
	// encrypted assertions.
	SigningKeyPair   *KeyPair `json:"signing_key_pair,omitempty"`
	AssertionKeyPair *KeyPair `json:"assertion_key_pair,omitempty"`
}

// AttributeToRole is ClaimToRole as SAML names it.
type AttributeToRole struct {
	Name  string   `json:"name"`
	Value string   `json:"value"`
	Roles []string `json:"roles"`
}

// KeyPair is a private key with its certificate, both PEM.
type KeyPair struct {
	PrivateKey string `json:"private_key,omitempty"`
	Cert       string `json:"cert"`
}

// ConnectorFacts are what the servers found out about an identity provider when a
// connector was saved, and keep beside its document.
type ConnectorFacts struct {
	// EntityDescriptor is what EntityDescriptorURL gave.
	EntityDescriptor string `json:"entity_descriptor,omitempty"`
	// Organizations are the ids of GitHub organizations by the lower-case names of the
	// document: who takes a name that was given up is not who had it.
	Organizations map[string]int64 `json:"organizations,omitempty"`
	// SigningKeyPair is one that was made; its private key is sealed at rest.
	SigningKeyPair *KeyPair `json:"signing_key_pair,omitempty"`
}

// SSOIdentity is who an identity provider says somebody is.
type SSOIdentity struct {
	// Subject is what the provider never gives to somebody else: the number of a GitHub
	// account, issuer and sub (OIDC), IdP and NameID (SAML). With the connector's name
	// it is the person; no other field ever is.
	Subject  string `json:"subject"`
	Username string `json:"username"` // what the person is called here; an api name
	// Attributes are what the provider sent: the external traits.
	Attributes map[string][]string `json:"attributes,omitempty"`
	Teams      []GithubTeam        `json:"teams,omitempty"` // GitHub alone
	// Expires is when the provider wants a session to end; zero: it does not say.
	Expires time.Time `json:"expires,omitzero"`
	// UseOnce names an answer that is good for one login until UseUntil (the id of a
	// SAML assertion); "": the flow itself is used once, which is enough.
	UseOnce  string    `json:"-"`
	UseUntil time.Time `json:"-"`
}

// GithubTeam is a team that somebody is a member of.
type GithubTeam struct {
	Organization   string `json:"organization"` // its login, as it is called now
	OrganizationID int64  `json:"organization_id"`
	Slug           string `json:"slug"`
}

// SSOMapping is what a connector makes of an identity.
type SSOMapping struct {
	Roles  []string            `json:"roles"`
	Traits map[string][]string `json:"traits,omitempty"` // internal ones
}

// SSOUser is somebody who has logged in through a connector.
type SSOUser struct {
	Name      string    `json:"name"`
	Connector string    `json:"connector"`
	Kind      string    `json:"kind"` // of the connector
	Subject   string    `json:"subject"`
	Roles     []string  `json:"roles"` // of the last login
	Created   time.Time `json:"created"`
	LastLogin time.Time `json:"last_login"`
}

// SSOUsers are answered to PathSSOUsers, by name.
type SSOUsers struct {
	Users []SSOUser `json:"users"`
}

// PingConnector is what strangers are told of a connector.
type PingConnector struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Display string `json:"display"`
}

// SSOTestRequest walks a login without saving anything: by Document, a connector
// with its secrets, or by the saved one of Name.
type SSOTestRequest struct {
	Document json.RawMessage `json:"document,omitempty"`
	Name     string          `json:"name,omitempty"`
}

// SSOTest is a login to try in a browser.
type SSOTest struct {
	ID      string    `json:"id"`
	URL     string    `json:"url"` // https://…/web/sso/test/ID
	Expires time.Time `json:"expires"`
}

// SSOTestResult is what came of it. While Done is false, ask again: the answer
// waits for up to 20 s.
type SSOTestResult struct {
	Done     bool         `json:"done"`
	Error    string       `json:"error,omitempty"` // why nobody would be logged in
	Identity *SSOIdentity `json:"identity,omitempty"`
	Mapping  *SSOMapping  `json:"mapping,omitempty"`
	// Warnings are those of the connector, as saving it would give them.
	Warnings []string `json:"warnings,omitempty"`
}
