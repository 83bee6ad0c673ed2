package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
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

// NewConnector is an empty connector of a kind, nil for what is none of ConnectorKinds.
func NewConnector(kind string) Connector {
	switch kind {
	case KindGithub:
		return &GithubConnector{}
	case KindOIDC:
		return &OIDCConnector{}
	case KindSAML:
		return &SAMLConnector{}
	}
	return nil
}

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
	// Endpoints are the fields that say to whom the secret of a path is told, or what it
	// belongs to.
	Endpoints(secret string) []ConnectorField
	// Rows are all those of its mapping.
	Rows() []ConnectorRow
	// RowNoun is what its rows are about, for people: team, claim or attribute.
	RowNoun() string
	// Callback is the field that says, or does not say, where the identity provider sends
	// browsers back to, and the paths of ours that may be there. The first is the one of
	// a connector that does not say it.
	Callback() (field ConnectorField, paths []string)
	// SetCallback says it, and what is the same unless the document says otherwise.
	SetCallback(address string)
	Validate() error

	setDefaults()
	check() error
}

// ConnectorField is a field of a document by its path, such as spec.issuer_url.
type ConnectorField struct{ Path, Value string }

// ConnectorRow says who is given roles: whoever has the claim or attribute Name with
// a value that the pattern Value means, or is in team Value of organization Name.
type ConnectorRow struct {
	Path        string // such as spec.claims_to_roles[0]
	Name, Value string
	Roles       []string
}

// List is the path of the list that the row stands in.
func (r *ConnectorRow) List() string { return r.Path[:strings.LastIndexByte(r.Path, '[')] }

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

// TeamToLogins gives the members of a team RoleAccess, and the groups and
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

// ConnectorKind implements Connector.
func (c *GithubConnector) ConnectorKind() string { return KindGithub }

// ConnectorKind implements Connector.
func (c *OIDCConnector) ConnectorKind() string { return KindOIDC }

// ConnectorKind implements Connector.
func (c *SAMLConnector) ConnectorKind() string { return KindSAML }

// Head implements Connector.
func (c *GithubConnector) Head() *Header { return &c.Header }

// Head implements Connector.
func (c *OIDCConnector) Head() *Header { return &c.Header }

// Head implements Connector.
func (c *SAMLConnector) Head() *Header { return &c.Header }

// Display implements Connector.
func (c *GithubConnector) Display() string { return displayed(c.Spec.Display, &c.Header) }

// Display implements Connector.
func (c *OIDCConnector) Display() string { return displayed(c.Spec.Display, &c.Header) }

// Display implements Connector.
func (c *SAMLConnector) Display() string { return displayed(c.Spec.Display, &c.Header) }

func displayed(display string, h *Header) string {
	if display == "" {
		return h.Metadata.Name
	}
	return display
}

// Secrets implements Connector.
func (c *GithubConnector) Secrets() map[string]*string {
	return map[string]*string{"spec.client_secret": &c.Spec.ClientSecret}
}

// Secrets implements Connector.
func (c *OIDCConnector) Secrets() map[string]*string {
	return map[string]*string{"spec.client_secret": &c.Spec.ClientSecret}
}

// Secrets implements Connector.
func (c *SAMLConnector) Secrets() map[string]*string {
	out := map[string]*string{}
	if c.Spec.SigningKeyPair != nil {
		out["spec.signing_key_pair.private_key"] = &c.Spec.SigningKeyPair.PrivateKey
	}
	if c.Spec.AssertionKeyPair != nil {
		out["spec.assertion_key_pair.private_key"] = &c.Spec.AssertionKeyPair.PrivateKey
	}
	return out
}

// Endpoints implements Connector: those to whom the client secret is told.
func (c *GithubConnector) Endpoints(string) []ConnectorField {
	return []ConnectorField{{"spec.endpoint_url", c.Spec.EndpointURL}, {"spec.api_endpoint_url", c.Spec.APIEndpointURL}}
}

// Endpoints implements Connector: whose token endpoint is told the client secret.
func (c *OIDCConnector) Endpoints(string) []ConnectorField {
	return []ConnectorField{{"spec.issuer_url", c.Spec.IssuerURL}}
}

// Endpoints implements Connector: private keys are told nobody, but belong to their
// certificates.
func (c *SAMLConnector) Endpoints(secret string) []ConnectorField {
	name, pair := "spec.assertion_key_pair", c.Spec.AssertionKeyPair
	if strings.HasPrefix(secret, "spec.signing_key_pair.") {
		name, pair = "spec.signing_key_pair", c.Spec.SigningKeyPair
	}
	field := ConnectorField{Path: name + ".cert"}
	if pair != nil {
		field.Value = pair.Cert
	}
	return []ConnectorField{field}
}

// Rows implements Connector. All of teams_to_logins give RoleAccess.
func (c *GithubConnector) Rows() []ConnectorRow {
	var rows []ConnectorRow
	for i, r := range c.Spec.TeamsToLogins {
		rows = append(rows, ConnectorRow{fmt.Sprintf("spec.teams_to_logins[%d]", i), r.Organization, r.Team, []string{RoleAccess}})
	}
	for i, r := range c.Spec.TeamsToRoles {
		rows = append(rows, ConnectorRow{fmt.Sprintf("spec.teams_to_roles[%d]", i), r.Organization, r.Team, r.Roles})
	}
	return rows
}

// Rows implements Connector.
func (c *OIDCConnector) Rows() []ConnectorRow {
	var rows []ConnectorRow
	for i, r := range c.Spec.ClaimsToRoles {
		rows = append(rows, ConnectorRow{fmt.Sprintf("spec.claims_to_roles[%d]", i), r.Claim, r.Value, r.Roles})
	}
	return rows
}

// Rows implements Connector.
func (c *SAMLConnector) Rows() []ConnectorRow {
	var rows []ConnectorRow
	for i, r := range c.Spec.AttributesToRoles {
		rows = append(rows, ConnectorRow{fmt.Sprintf("spec.attributes_to_roles[%d]", i), r.Name, r.Value, r.Roles})
	}
	return rows
}

// RowNoun implements Connector.
func (c *GithubConnector) RowNoun() string { return "team" }

// RowNoun implements Connector.
func (c *OIDCConnector) RowNoun() string { return "claim" }

// RowNoun implements Connector.
func (c *SAMLConnector) RowNoun() string { return "attribute" }

// Callback implements Connector.
func (c *GithubConnector) Callback() (field ConnectorField, paths []string) {
	return ConnectorField{"spec.redirect_url", c.Spec.RedirectURL}, []string{PathGithubCallback, ownPath(PathGithubCallback, c)}
}

// Callback implements Connector. Each has a path of its own, as the answers of two
// identity providers could be mixed up otherwise (RFC 9700, section 4.4).
func (c *OIDCConnector) Callback() (field ConnectorField, paths []string) {
	field.Path = "spec.redirect_url"
	if len(c.Spec.RedirectURL) > 0 { // one at most: see check
		field.Value = c.Spec.RedirectURL[0]
	}
	return field, []string{ownPath(PathOIDCCallback, c), PathOIDCCallback}
}

// Callback implements Connector. An answer says, signed, whom it is from.
func (c *SAMLConnector) Callback() (field ConnectorField, paths []string) {
	return ConnectorField{"spec.acs", c.Spec.ACS}, []string{PathSAMLACS, ownPath(PathSAMLACS, c)}
}

func ownPath(path string, c Connector) string {
	return path + "/" + url.PathEscape(c.Head().Metadata.Name)
}

// SetCallback implements Connector.
func (c *GithubConnector) SetCallback(address string) { c.Spec.RedirectURL = address }

// SetCallback implements Connector.
func (c *OIDCConnector) SetCallback(address string) { c.Spec.RedirectURL = Values{address} }

// SetCallback implements Connector.
func (c *SAMLConnector) SetCallback(address string) {
	c.Spec.ACS = address
	if c.Spec.Audience == "" {
		c.Spec.Audience = address
	}
	if c.Spec.ServiceProviderIssuer == "" {
		c.Spec.ServiceProviderIssuer = address
	}
}

// DefaultScope is what is asked of a provider of OpenID Connect, beside openid, for a
// connector that does not say it.
func DefaultScope() []string { return []string{"email", "profile"} }

// Organizations are those that the rows name, in lower case, each once, sorted.
func (c *GithubConnector) Organizations() []string {
	names := make([]string, 0, len(c.Spec.TeamsToLogins)+len(c.Spec.TeamsToRoles))
	for _, row := range c.Spec.TeamsToLogins {
		names = append(names, strings.ToLower(row.Organization))
	}
	for _, row := range c.Spec.TeamsToRoles {
		names = append(names, strings.ToLower(row.Organization))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *GithubConnector) setDefaults() {}

func (c *OIDCConnector) setDefaults() {
	if len(c.Spec.Scope) == 0 {
		c.Spec.Scope = DefaultScope()
	}
}

func (c *SAMLConnector) setDefaults() {}

// Validate says what is wrong with the connector as a document.
func (c *GithubConnector) Validate() error { return checkConnector(c) }

// Validate says what is wrong with the connector as a document.
func (c *OIDCConnector) Validate() error { return checkConnector(c) }

// Validate says what is wrong with the connector as a document; the metadata of the
// identity provider is for sso/saml to judge.
func (c *SAMLConnector) Validate() error { return checkConnector(c) }

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
