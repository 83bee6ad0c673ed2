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
		empty := api.NewConnector(head.Kind)
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
	sealed, err := c.sealSecrets(v, name, secrets)
	return &connectorRecord{Document: raw, Facts: facts, Sealed: sealed}, err
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
	secrets, err := c.openSecrets(v, name, stored.Sealed)
	if err != nil {
		return nil, facts, err
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

// checkCallback refuses a document that would send browsers elsewhere.
func (b *base) checkCallback(doc api.Connector) error {
	if b.callbackPath(doc) != "" {
		return nil
	}
	field, paths := doc.Callback()
	return connectorError(doc, field.Path, fmt.Sprintf("%q does not lead back to here: write %s (and the same at the identity provider), or leave it out",
		clip(field.Value), api.CallbackURL(b.publicAddr, paths[0])))
}

// callbackPath is the path of ours at which answers arrive; "": the document says
// another place. The default port and /v1 may be written or not.
func (b *base) callbackPath(doc api.Connector) string {
	field, paths := doc.Callback()
	if field.Value == "" {
		return paths[0]
	}
	for _, path := range paths {
		if api.SameURL(field.Value, api.CallbackURL(b.publicAddr, path)) || api.SameURL(field.Value, api.PublicURL(b.publicAddr, path)) {
			return path
		}
	}
	return ""
}

// fill writes down what a document leaves out. It is the caller's own.
func (b *base) fill(doc api.Connector) {
	field, paths := doc.Callback()
	if field.Value == "" {
		field.Value = api.CallbackURL(b.publicAddr, paths[0])
	}
	doc.SetCallback(field.Value)
}

// sharedCallback warns of a connector whose answers arrive where those of another
// identity provider do: one of the two could pass an answer of the other off as its own,
// and be told the code in it (RFC 9700, section 4.4). SAML's answers say, signed, whose
// they are.
func (b *base) sharedCallback(v fsm.View, doc api.Connector) []string {
	kind, name, path := doc.ConnectorKind(), doc.Head().Metadata.Name, b.callbackPath(doc)
	if kind == api.KindSAML {
		return nil
	}
	for rec, stored := range connectors.List(v) {
		other := connectors.Name(rec)
		if other == name || stored == nil || stored.kind != kind || stored.doc == nil || b.callbackPath(stored.doc) != path || sameEndpoints("", stored.doc, doc) {
			continue
		}
		field, paths := doc.Callback()
		own := paths[slices.IndexFunc(paths, func(p string) bool { return p != path })]
		return []string{fmt.Sprintf("the identity provider of connector %q sends people back to the same address, so that one of the two could pass off the other's answers as its own: write %s: %s, and the same at the identity provider",
			other, field.Path, api.CallbackURL(b.publicAddr, own))}
	}
	return nil
}

// halfExpressions warns of rows whose value was meant for a regular expression and is
// none, so that nobody may have it.
func halfExpressions(doc api.Connector) []string {
	if doc.ConnectorKind() == api.KindGithub { // whose rows know no patterns
		return nil
	}
	var warnings []string
	for _, row := range doc.Rows() {
		if api.HalfExpression(row.Value) {
			warnings = append(warnings, fmt.Sprintf("%s.value: %q is no regular expression, which begins with ^ and ends with $, such as %s: only * stands for other text in it",
				row.Path, row.Value, "^"+strings.Trim(row.Value, "^$")+"$"))
		}
	}
	return warnings
}

// sameEndpoints says whether the secret at a path would be told, or shown, to
// whomever it was given for: who may write a document but not read the secret must
// not be told it by a server of theirs.
func sameEndpoints(path string, a, b api.Connector) bool {
	return a.ConnectorKind() == b.ConnectorKind() && slices.Equal(a.Endpoints(path), b.Endpoints(path))
}

// endpointFields are what sameEndpoints compares, for people.
func endpointFields(path string, doc api.Connector) string {
	var names []string
	for _, field := range doc.Endpoints(path) {
		names = append(names, field.Path)
	}
	if len(names) == 1 {
		return names[0] + " stays as it is"
	}
	return strings.Join(names, " and ") + " stay as they are"
}

// roleAt is a role that a document names.
type roleAt struct{ path, role string }

// rowRoles are the roles that the rows of a document give, each where it is first.
func rowRoles(doc api.Connector) []roleAt {
	var out []roleAt
	seen := map[string]bool{}
	for _, row := range doc.Rows() {
		for i, r := range row.Roles {
			if !seen[r] {
				seen[r] = true
				out = append(out, roleAt{fmt.Sprintf("%s.roles[%d]", row.Path, i), r})
			}
		}
	}
	return out
}

func connectorError(doc api.Connector, path, reason string) error {
	return api.Errorf(api.CodeInvalid, "%s %q: %w", doc.ConnectorKind(), doc.Head().Metadata.Name, &api.FieldError{Path: path, Reason: reason})
}
