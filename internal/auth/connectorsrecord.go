package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// connectorRecord is a connector without its secrets, which are sealed apart: what
// is shown, listed and logged never had them.
type connectorRecord struct {
	Document json.RawMessage    `json:"document"`
	Sealed   []byte             `json:"sealed,omitempty"` // the secrets by their paths, and secretMadeKey
	Facts    api.ConnectorFacts `json:"facts,omitzero"`

	kind string
	// doc is the document without its secrets, nil where unknown is not.
	doc api.Connector
	// unknown is what this version does not know or would not save. It may restrict in
	// a way that we would miss, so nobody logs in by it: see role. newer says that it
	// was written by a newer version, which alone may overwrite it.
	unknown error
	newer   bool
}

// secretMadeKey is the path, among the sealed secrets, of the private half of the
// facts' key pair. No document has a field of that name.
const secretMadeKey = "facts.signing_key_pair.private_key"

// UnmarshalJSON reads a stored connector. Only what is none at all is an error.
func (c *connectorRecord) UnmarshalJSON(b []byte) error {
	type plain connectorRecord
	if err := json.Unmarshal(b, (*plain)(c)); err != nil {
		return err
	}
	var head struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(c.Document, &head); err != nil {
		return err
	}
	c.kind = head.Kind
	c.unknown = api.CheckFields(b, (*plain)(c))
	if c.newer = c.unknown != nil; c.newer {
		return nil
	}
	if c.doc, c.unknown = readConnector(c.Document); c.unknown != nil {
		empty := emptyConnector(head.Kind)
		c.doc, c.newer = nil, empty == nil || len(api.UnknownFields(c.Document, empty)) > 0
	}
	return nil
}

// readConnector reads and judges a document.
func readConnector(raw []byte) (api.Connector, error) {
	decoded, err := api.DecodeDocument(raw)
	if err != nil {
		return nil, err
	}
	doc, ok := decoded.(api.Connector)
	if !ok {
		return nil, api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "kind", Reason: "is not that of a connector: want one of " + strings.Join(api.ConnectorKinds(), ", ")})
	}
	return doc, nil
}

// usable says why nobody may log in by a connector.
func (c *connectorRecord) usable(name string) error {
	if c.unknown != nil {
		return api.Errorf(api.CodeForbidden, "connector %q holds what this version can't enforce, so nobody logs in by it: %w", name, c.unknown)
	}
	return nil
}

// emptyConnector is nil for what is no kind of connectors.
func emptyConnector(kind string) api.Connector {
	switch kind {
	case api.KindGithub:
		return &api.GithubConnector{}
	case api.KindOIDC:
		return &api.OIDCConnector{}
	case api.KindSAML:
		return &api.SAMLConnector{}
	}
	return nil
}

// ownConnector is a copy of a document, to be changed, as it would be read from a
// file: validated, with its defaults.
func ownConnector(doc api.Connector) (api.Connector, error) {
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	c, err := readConnector(raw)
	if err != nil {
		return nil, err
	}
	if c.ConnectorKind() != doc.ConnectorKind() {
		return nil, api.Errorf(api.CodeInvalid, "%s %q is a %s by its kind", doc.ConnectorKind(), clip(doc.Head().Metadata.Name), clip(doc.Head().Kind))
	}
	return c, nil
}

// seal makes the record of a connector. doc, which has its secrets, is the caller's
// own and loses them.
func (c *Connectors) seal(v fsm.View, name string, doc api.Connector, facts api.ConnectorFacts) (*connectorRecord, error) {
	secrets := map[string]string{}
	for path, secret := range doc.Secrets() {
		secrets[path], *secret = *secret, ""
	}
	if pair := facts.SigningKeyPair; pair != nil {
		secrets[secretMadeKey] = pair.PrivateKey
		facts.SigningKeyPair = &api.KeyPair{Cert: pair.Cert}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	out := &connectorRecord{Document: raw, Facts: facts}
	if len(secrets) == 0 {
		return out, nil
	}
	plain, err := json.Marshal(secrets)
	if err != nil {
		return nil, err
	}
	ring, err := c.keys.ring(v)
	if err != nil {
		return nil, err
	}
	out.Sealed, err = ring.Seal(connectors.Key(name), plain)
	return out, err
}

// unseal gives a copy of a connector with its secrets, and its facts with theirs. It
// must be usable.
func (c *Connectors) unseal(v fsm.View, name string, stored *connectorRecord) (api.Connector, api.ConnectorFacts, error) {
	facts := stored.Facts
	facts.Organizations = maps.Clone(facts.Organizations)
	doc, err := ownConnector(stored.doc)
	if err != nil || len(stored.Sealed) == 0 {
		return doc, facts, err
	}
	ring, err := c.keys.ring(v)
	if err != nil {
		return nil, facts, err
	}
	plain, err := ring.Open(connectors.Key(name), stored.Sealed)
	if err != nil {
		return nil, facts, api.Errorf(api.CodeInternal, "the secrets of connector %q can't be read: %w", name, err)
	}
	var secrets map[string]string
	if err := json.Unmarshal(plain, &secrets); err != nil {
		return nil, facts, api.Errorf(api.CodeInternal, "the secrets of connector %q can't be read", name) // the cause may tell of them
	}
	for path, secret := range doc.Secrets() {
		*secret = secrets[path]
	}
	if pair := facts.SigningKeyPair; pair != nil {
		facts.SigningKeyPair = &api.KeyPair{Cert: pair.Cert, PrivateKey: secrets[secretMadeKey]}
	}
	return doc, facts, nil
}

// missingSecret is the path of a secret that a document lacks, or "".
func missingSecret(doc api.Connector) string {
	secrets := doc.Secrets()
	for _, path := range slices.Sorted(maps.Keys(secrets)) {
		if *secrets[path] == "" {
			return path
		}
	}
	return ""
}

// callbackField is where a document says, or does not say, where identity providers
// send browsers back to; path is the place that is ours.
func callbackField(doc api.Connector) (field, value, path string) {
	switch d := doc.(type) {
	case *api.GithubConnector:
		return "spec.redirect_url", d.Spec.RedirectURL, api.PathGithubCallback
	case *api.OIDCConnector:
		if len(d.Spec.RedirectURL) > 0 { // one at most: see its Validate
			value = d.Spec.RedirectURL[0]
		}
		return "spec.redirect_url", value, api.PathOIDCCallback
	case *api.SAMLConnector:
		return "spec.acs", d.Spec.ACS, api.PathSAMLACS
	}
	return "", "", ""
}

// callbackURL is our place of a path, as connectors have it that do not say it.
func (b *base) callbackURL(path string) string {
	host := b.publicAddr
	if bare, ok := strings.CutSuffix(host, ":443"); ok {
		host = bare
	}
	return "https://" + host + "/v1" + path
}

// checkCallback refuses a document that would send browsers elsewhere. The default
// port and /v1 may be written or not.
func (b *base) checkCallback(doc api.Connector) error {
	field, value, path := callbackField(doc)
	if value == "" || api.SameURL(value, b.callbackURL(path)) || api.SameURL(value, "https://"+b.publicAddr+path) {
		return nil
	}
	return connectorError(doc, field, fmt.Sprintf("%q does not lead back to here: write %s (and the same at the identity provider), or leave it out", clip(value), b.callbackURL(path)))
}

// fill writes down what a document leaves out. It is the caller's own.
func (b *base) fill(doc api.Connector) {
	_, value, path := callbackField(doc)
	if value == "" {
		value = b.callbackURL(path)
	}
	switch d := doc.(type) {
	case *api.GithubConnector:
		d.Spec.RedirectURL = value
	case *api.OIDCConnector:
		d.Spec.RedirectURL = api.Values{value}
	case *api.SAMLConnector:
		d.Spec.ACS = value
		if d.Spec.Audience == "" {
			d.Spec.Audience = value
		}
		if d.Spec.ServiceProviderIssuer == "" {
			d.Spec.ServiceProviderIssuer = value
		}
	}
}

// sameEndpoints says whether the secret at a path would be sent, or shown, to
// whomever it was given for: who may write a document but not read the secret must
// not be told it by a server of theirs.
func sameEndpoints(path string, a, b api.Connector) bool {
	switch x := a.(type) {
	case *api.GithubConnector:
		y, ok := b.(*api.GithubConnector)
		return ok && x.Spec.EndpointURL == y.Spec.EndpointURL && x.Spec.APIEndpointURL == y.Spec.APIEndpointURL
	case *api.OIDCConnector:
		y, ok := b.(*api.OIDCConnector)
		return ok && x.Spec.IssuerURL == y.Spec.IssuerURL
	case *api.SAMLConnector: // private keys are sent to nobody, but belong to their certificates
		y, ok := b.(*api.SAMLConnector)
		return ok && pairCert(path, x) == pairCert(path, y)
	}
	return false
}

func pairCert(path string, c *api.SAMLConnector) string {
	pair := c.Spec.AssertionKeyPair
	if strings.HasPrefix(path, "spec.signing_key_pair.") {
		pair = c.Spec.SigningKeyPair
	}
	if pair == nil {
		return ""
	}
	return pair.Cert
}

// endpointFields are what sameEndpoints compares, for people.
func endpointFields(doc api.Connector) string {
	switch doc.(type) {
	case *api.GithubConnector:
		return "spec.endpoint_url and spec.api_endpoint_url stay as they are"
	case *api.OIDCConnector:
		return "spec.issuer_url stays as it is"
	}
	return "its certificate stays as it is"
}

// roleAt is a role that a document names.
type roleAt struct{ path, role string }

// rowRoles are the roles that the rows of a document name, each where it is first.
func rowRoles(doc api.Connector) []roleAt {
	var out []roleAt
	seen := map[string]bool{}
	add := func(path string, i int, roles []string) {
		for j, r := range roles {
			if !seen[r] {
				seen[r] = true
				out = append(out, roleAt{fmt.Sprintf("spec.%s[%d].roles[%d]", path, i, j), r})
			}
		}
	}
	switch d := doc.(type) {
	case *api.GithubConnector:
		for i, row := range d.Spec.TeamsToRoles {
			add("teams_to_roles", i, row.Roles)
		}
	case *api.OIDCConnector:
		for i, row := range d.Spec.ClaimsToRoles {
			add("claims_to_roles", i, row.Roles)
		}
	case *api.SAMLConnector:
		for i, row := range d.Spec.AttributesToRoles {
			add("attributes_to_roles", i, row.Roles)
		}
	}
	return out
}

func connectorError(doc api.Connector, path, reason string) error {
	return api.Errorf(api.CodeInvalid, "%s %q: %w", doc.ConnectorKind(), doc.Head().Metadata.Name, &api.FieldError{Path: path, Reason: reason})
}
