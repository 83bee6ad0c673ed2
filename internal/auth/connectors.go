package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	// maxConnectors bounds what everybody is shown who asks how to log in.
	maxConnectors = 100
	// maxConnectorSize bounds a record, of which one must fit into a transaction with
	// the checks of its roles.
	maxConnectorSize = 512 << 10
	// probeTimeout bounds what an identity provider is asked when a connector is saved.
	probeTimeout = 15 * time.Second
)

// Connectors keeps the connectors: whom we believe who somebody is. Their secrets
// are sealed at rest, and shown to nobody who does not ask for them.
type Connectors struct {
	sealedDocs[connectorRecord]
	access *Authorizer
	probe  func(context.Context, api.Connector) (api.ConnectorFacts, []string, error) // nil: no facts
}

func newConnectors(b *base, k *keys, access *Authorizer, o Options) *Connectors {
	c := &Connectors{access: access, probe: o.Probe}
	c.sealedDocs = sealedDocs[connectorRecord]{
		base: b, keys: k, records: connectors, what: "connector", typed: c.typed,
		plain: func(stored *connectorRecord) (string, json.RawMessage) { return stored.kind, stored.Document },
		read: func(kind string, names []string) (event, code string, fields map[string]any) {
			return api.EventConnectorSecrets, api.EventCodeConnectorSecrets, map[string]any{"method": kind, "connectors": names}
		},
	}
	return c
}

// typed is for sealedDocs.
func (c *Connectors) typed(v fsm.View, name string, stored *connectorRecord, secrets bool) (headed, error) {
	switch {
	case stored.doc == nil:
		return nil, nil //nolint:nilnil // it is not understood
	case secrets:
		doc, _, err := c.unseal(v, name, stored)
		return doc, err
	default:
		return ownConnector(stored.doc)
	}
}

// OpenConnector is a connector as whoever speaks with its identity provider needs
// it. Nothing of it may be changed.
type OpenConnector struct {
	Doc   api.Connector // with its secrets, and with what was left out filled in
	Facts api.ConnectorFacts
	// Revision and Created are those of the record: each change of the connector has
	// another revision, each life another time.
	Revision uint64
	Created  time.Time
}

// Put writes a connector: a new one, or over an old one of its name with force. Who
// writes one decides who everybody is, and so needs the right to change roles too.
func (c *Connectors) Put(ctx context.Context, by Actor, doc api.Connector, force bool) (api.PutResponse, error) {
	meta := doc.Head().Metadata
	kind, name := doc.ConnectorKind(), meta.Name
	first, err := c.prepare(c.base.db.View(), by, doc, force)
	if err != nil {
		return api.PutResponse{}, err
	}
	found, warned, err := c.ask(ctx, first.doc)
	if err != nil {
		return api.PutResponse{}, err
	}
	resp := api.PutResponse{Kind: kind, Name: name}
	rev, err := c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		next, err := c.prepare(v, by, doc, force)
		if err != nil {
			return fsm.Txn{}, err
		}
		if !reflect.DeepEqual(next.doc, first.doc) {
			return fsm.Txn{}, api.Errorf(api.CodeConflict, "%s %q was changed by somebody else at the same moment: try again", kind, name)
		}
		facts, warnings := next.keep(found, warned)
		resp.Created, resp.Unchanged, resp.Warnings = next.rec == nil, false, warnings
		if next.unchanged(facts) {
			resp.Unchanged, resp.Revision = true, next.rec.Revision
			return fsm.Txn{}, nil
		}
		return c.write(ctx, v, by, next, facts)
	})
	if err != nil {
		return api.PutResponse{}, err
	}
	if !resp.Unchanged {
		resp.Revision = rev
	}
	return resp, nil
}

// candidate is a connector that may be written, with what is there already.
type candidate struct {
	doc  api.Connector // its own, with its secrets and without a revision
	rec  *fsm.Record   // nil: a new one
	kept api.Connector // what is there, with its secrets; nil where that can't be read
	had  api.ConnectorFacts
	// borrowed says that a secret of what is there is used, which the document leaves out.
	borrowed bool
	warnings []string
	// checks hold the roles in place that its rows name.
	checks []fsm.Check
}

// prepare judges a document against a view, and fills in the secrets that it leaves
// out and that may be kept.
func (c *Connectors) prepare(v fsm.View, by Actor, given api.Connector, force bool) (*candidate, error) {
	if err := c.mayWrite(v, by); err != nil {
		return nil, err
	}
	next, err := c.complete(v, given)
	if err != nil {
		return nil, err
	}
	return next, putAllowed(given.ConnectorKind(), given.Head().Metadata, next.rec, force)
}

// complete is prepare without the questions who writes, and over what.
func (c *Connectors) complete(v fsm.View, given api.Connector) (*candidate, error) {
	doc, err := ownConnector(given)
	if err != nil {
		return nil, err
	}
	head := doc.Head()
	head.Metadata.Revision = 0
	if err := c.base.checkCallback(doc); err != nil {
		return nil, err
	}
	next := &candidate{doc: doc}
	if err := c.find(v, next, head.Metadata.Name); err != nil {
		return nil, err
	}
	if err := next.keepSecrets(); err != nil {
		return nil, err
	}
	next.warnings = append(c.base.sharedCallback(v, doc), halfExpressions(doc)...)
	for _, at := range rowRoles(doc) {
		rec, ok := v.Get(roles.Key(at.role))
		if !ok {
			return nil, connectorError(doc, at.path, fmt.Sprintf("role %q does not exist", at.role))
		}
		next.checks = append(next.checks, roles.Unchanged(rec))
	}
	return next, nil
}

// mayWrite: whoever writes a connector may become anyone. Who may update roles may
// do so anyway.
func (c *Connectors) mayWrite(v fsm.View, by Actor) error {
	return c.access.mayWriteSealed(v, by, api.VerbUpdate, api.KindRole,
		"user %q may not write connectors without the right to update roles (spec.allow.rules with resources: [%s], verbs: [%s]): a connector decides who everybody is")
}

// find looks for what has the name, or one that is easily taken for it.
func (c *Connectors) find(v fsm.View, next *candidate, name string) error {
	kind, count := next.doc.ConnectorKind(), 0
	for rec, stored := range connectors.List(v) {
		count++
		other := connectors.Name(rec)
		switch {
		case !strings.EqualFold(other, name):
			continue
		case other != name:
			return api.Errorf(api.CodeExists, "%s %q would look like connector %q, which is there already: choose another name", kind, name, other)
		case stored == nil || stored.newer:
			return api.Errorf(api.CodeForbidden, "connector %q was written by a newer version of Sallyport: change it through an upgraded replica, or delete it first", name)
		case stored.kind != kind:
			return api.Errorf(api.CodeExists, "%q is the name of a connector of kind %s already: choose another name, or remove that one first (tctl rm %s/%s)", name, stored.kind, stored.kind, name)
		}
		next.rec = rec
		if stored.unknown != nil {
			continue // it is overwritten by one that this version understands
		}
		doc, facts, err := c.unseal(v, name, stored)
		if err != nil {
			c.base.log.Warn("a connector's secrets can't be read, so none is kept", "connector", name, "error", err)
			continue
		}
		doc.Head().Metadata.Revision = 0
		next.kept, next.had = doc, facts
	}
	if next.rec == nil && count >= maxConnectors {
		return api.Errorf(api.CodeConflict, "there are %d connectors already, which is the most there can be: remove one", count)
	}
	return nil
}

// keepSecrets fills in what a document leaves out. A secret that is stored is kept
// only while it is for the same identity provider.
func (n *candidate) keepSecrets() error {
	var have map[string]*string
	if n.kept != nil {
		have = n.kept.Secrets()
	}
	moved := ""
	for path, secret := range n.doc.Secrets() {
		kept := have[path]
		switch {
		case *secret != "" || kept == nil:
		case sameEndpoints(path, n.kept, n.doc):
			*secret = *kept
			n.borrowed = n.borrowed || *kept != ""
		default:
			moved = path
		}
	}
	path := missingSecret(n.doc)
	switch {
	case path == "":
		return nil
	case moved == path:
		return connectorError(n.doc, path, "is missing: the stored one is kept only while "+endpointFields(path, n.doc)+", so that nobody else is told it")
	case path == "spec.client_secret":
		return connectorError(n.doc, path, "is missing: want the one that the identity provider gave out with spec.client_id; without it anybody could speak for us there")
	default:
		return connectorError(n.doc, path, "is missing: want the private key of the certificate beside it (PEM)")
	}
}

// ask asks the identity provider.
func (c *Connectors) ask(ctx context.Context, doc api.Connector) (facts api.ConnectorFacts, warnings []string, err error) {
	if c.probe == nil {
		return facts, nil, nil
	}
	own, err := ownConnector(doc)
	if err != nil {
		return facts, nil, err
	}
	c.base.fill(own)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return c.probe(ctx, own)
}

// keep joins what was found out now with what was known. An organization's id stays
// once it is known: the name may belong to somebody else by now. A key that was made
// stays too, as the identity provider has its certificate.
func (n *candidate) keep(found api.ConnectorFacts, warned []string) (facts api.ConnectorFacts, warnings []string) {
	facts, warnings = found, slices.Concat(n.warnings, warned)
	facts.Organizations = nil
	if n.keepsMadeKey() {
		facts.SigningKeyPair = n.had.SigningKeyPair
	}
	github, ok := n.doc.(*api.GithubConnector)
	if !ok {
		return facts, warnings
	}
	sameServer := n.kept != nil && sameEndpoints("", n.kept, n.doc)
	for _, name := range github.Organizations() {
		id := found.Organizations[name]
		if known := n.had.Organizations[name]; known != 0 && sameServer {
			if id != 0 && id != known {
				warnings = append(warnings, fmt.Sprintf("organization %q belongs to somebody else now (id %d, it was %d): its teams stay those of the first; if you mean the new one, remove the connector (tctl rm github/%s) and create it again",
					name, id, known, github.Metadata.Name))
			}
			id = known
		}
		if id == 0 {
			continue
		}
		if facts.Organizations == nil {
			facts.Organizations = map[string]int64{}
		}
		facts.Organizations[name] = id
	}
	return facts, warnings
}

// keepsMadeKey says that the key which was made for what is there is used on.
func (n *candidate) keepsMadeKey() bool {
	saml, ok := n.doc.(*api.SAMLConnector)
	return ok && saml.Spec.SigningKeyPair == nil && n.had.SigningKeyPair != nil && n.had.SigningKeyPair.PrivateKey != ""
}

// unchanged says whether there is nothing to write.
func (n *candidate) unchanged(facts api.ConnectorFacts) bool {
	if n.kept == nil || !reflect.DeepEqual(n.kept, n.doc) {
		return false
	}
	x, errX := json.Marshal(n.had)
	y, errY := json.Marshal(facts)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func (c *Connectors) write(ctx context.Context, v fsm.View, by Actor, next *candidate, facts api.ConnectorFacts) (fsm.Txn, error) {
	kind, name := next.doc.ConnectorKind(), next.doc.Head().Metadata.Name
	fields := map[string]any{"name": name}
	next.addChanges(fields, facts) // before the document loses its secrets
	stored, err := c.seal(v, name, next.doc, facts)
	if err != nil {
		return fsm.Txn{}, err
	}
	op, err := connectors.Put(name, stored, 0)
	if err != nil {
		return fsm.Txn{}, err
	}
	if len(op.Value) > maxConnectorSize {
		return fsm.Txn{}, api.Errorf(api.CodeTooLarge, "%s %q has %d bytes as it is stored, at most %d are allowed", kind, name, len(op.Value), maxConnectorSize)
	}
	event, code := connectorEvent(kind, eventCreated)
	if next.rec != nil {
		event, code = connectorEvent(kind, eventUpdated)
	}
	line, err := c.base.event(ctx, v, event, code, by, fields)
	return fsm.Txn{
		Checks: append(next.checks, fsm.Check{Key: op.Key, Revision: revision(next.rec)}),
		Ops:    []fsm.Op{op, fsm.Put(keyConnectorsWritten, []byte("{}"))}, Events: [][]byte{line},
	}, err
}

// Delete removes a connector. The sessions that it made end with it (see
// Authorizer.Session). The one that tsh login uses by default stays.
func (c *Connectors) Delete(ctx context.Context, by Actor, kind, name string) error {
	_, err := c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		stored, rec, err := connectors.Get(v, name)
		if rec == nil {
			return fsm.Txn{}, readError(kind, clip(name), err)
		}
		if err == nil && stored.kind != kind {
			return fsm.Txn{}, errOtherKind(kind, name, stored.kind)
		}
		if preferred, _ := preferredConnector(v); preferred == name {
			return fsm.Txn{}, api.Errorf(api.CodeConflict, "connector %q is the one that people log in with by default: change spec.type and spec.connector_name of the %s first", name, api.KindAuthPreference)
		}
		event, code := connectorEvent(kind, eventDeleted)
		line, err := c.base.event(ctx, v, event, code, by, map[string]any{"name": name})
		return fsm.Txn{
			Checks: []fsm.Check{connectors.Unchanged(rec), {Key: preferences.Key(keyPreference), Revision: v.Revision(preferences.Key(keyPreference))}},
			Ops:    []fsm.Op{fsm.Delete(rec.Key)}, Events: [][]byte{line},
		}, err
	})
	return err
}

// preferredConnector is the connector that the authentication preference names, and
// its kind; "" is for local.
func preferredConnector(v fsm.View) (name, kind string) {
	stored, _, err := preferences.Get(v, keyPreference)
	if err != nil || stored.doc.Spec.Type == api.AuthLocal {
		return "", ""
	}
	return stored.doc.Spec.ConnectorName, stored.doc.Spec.Type
}

// preferable finds the connector that a preference means, and holds on to it: the
// named one, or the only one of the kind.
func preferable(v fsm.View, spec *api.AuthPreferenceSpec) (name string, check fsm.Check, err error) {
	invalid := func(path, format string, args ...any) error {
		return api.Errorf(api.CodeInvalid, "%s: %w", api.KindAuthPreference, &api.FieldError{Path: path, Reason: fmt.Sprintf(format, args...)})
	}
	var names []string
	for rec, stored := range connectors.List(v) {
		if stored == nil || stored.kind != spec.Type {
			continue
		}
		at := connectors.Name(rec)
		if spec.ConnectorName != "" && spec.ConnectorName != at {
			continue
		}
		if err := stored.usable(at); err != nil {
			return "", check, err
		}
		name, check = at, connectors.Unchanged(rec)
		names = append(names, at)
	}
	switch {
	case len(names) == 1:
		return name, check, nil
	case spec.ConnectorName != "":
		return "", check, invalid("spec.connector_name", "there is no connector %q of kind %s: create it first", clip(spec.ConnectorName), spec.Type)
	case len(names) == 0:
		return "", check, invalid("spec.type", "there is no connector of kind %s: create one first", spec.Type)
	default:
		return "", check, invalid("spec.connector_name", "is missing: there are %s of kind %s", strings.Join(names, ", "), spec.Type)
	}
}

// Public is what strangers are told of the connectors by which one can log in, by name.
func (c *Connectors) Public() []api.PingConnector {
	var out []api.PingConnector
	for rec, stored := range connectors.List(c.base.db.View()) {
		if stored != nil && stored.doc != nil {
			out = append(out, ping(connectors.Name(rec), stored))
		}
	}
	return out
}

func ping(name string, stored *connectorRecord) api.PingConnector {
	return api.PingConnector{Kind: stored.kind, Name: name, Display: stored.doc.Display()}
}

// Default is the connector that tsh login uses unless told otherwise; nil: local.
func (c *Connectors) Default() *api.PingConnector {
	v := c.base.db.View()
	name, kind := preferredConnector(v)
	stored, _, err := connectors.Get(v, name)
	if name == "" || err != nil || stored.doc == nil || stored.kind != kind {
		return nil
	}
	p := ping(name, stored)
	return &p
}

// Named is what strangers are told of one connector.
func (c *Connectors) Named(name string) (*api.PingConnector, error) {
	v := c.base.db.View()
	stored, _, err := connectors.Get(v, name)
	if err != nil {
		return nil, c.errNoConnector(v, name, err)
	}
	if err := stored.usable(name); err != nil {
		return nil, err
	}
	p := ping(name, stored)
	return &p, nil
}

// errNoConnector says which there are: everybody may know.
func (c *Connectors) errNoConnector(v fsm.View, name string, err error) error {
	if !errors.Is(err, fsm.ErrNotFound) {
		return readError("connector", clip(name), err)
	}
	names := []string{api.AuthLocal}
	for rec := range connectors.List(v) {
		names = append(names, connectors.Name(rec))
	}
	return api.Errorf(api.CodeNotFound, "there is no connector %q: one can log in by %s", clip(name), strings.Join(names, ", "))
}

// Open gives a connector for a login. One that holds what this version does not
// know, or would not save, is an error: it may be a restriction.
func (c *Connectors) Open(name string) (*OpenConnector, error) {
	return c.open(c.base.db.View(), name)
}

func (c *Connectors) open(v fsm.View, name string) (*OpenConnector, error) {
	stored, rec, err := connectors.Get(v, name)
	if err != nil {
		return nil, c.errNoConnector(v, name, err)
	}
	if err := stored.usable(name); err != nil {
		return nil, err
	}
	doc, facts, err := c.unseal(v, name, stored)
	if err != nil {
		return nil, err
	}
	if path := missingSecret(doc); path != "" {
		return nil, api.Errorf(api.CodeForbidden, "connector %q has lost its %s, so nobody logs in by it: write it again", name, path)
	}
	if err := c.base.checkCallback(doc); err != nil { // our address was another one when it was saved
		return nil, api.Errorf(api.CodeForbidden, "nobody can log in by it until it is mended: %w", err)
	}
	c.base.fill(doc)
	return &OpenConnector{Doc: doc, Facts: facts, Revision: rec.Revision, Created: rec.Created}, nil
}

// pin gives the transaction by which a connector remembers the ids of GitHub
// organizations that a login has shown; it is empty if there is nothing to remember.
// What is known already, or is not the document's, stays as it is.
func (c *Connectors) pin(v fsm.View, name string, pins map[string]int64) (fsm.Txn, error) {
	if len(pins) == 0 {
		return fsm.Txn{}, nil
	}
	stored, rec, err := connectors.Get(v, name)
	if err != nil {
		return fsm.Txn{}, c.errNoConnector(v, name, err)
	}
	if err := stored.usable(name); err != nil {
		return fsm.Txn{}, err
	}
	github, ok := stored.doc.(*api.GithubConnector)
	if !ok {
		return fsm.Txn{}, nil
	}
	own, err := connectors.Decode(rec)
	if err != nil {
		return fsm.Txn{}, readError("connector", name, err)
	}
	changed := false
	for _, organization := range github.Organizations() {
		id := pins[organization]
		if id == 0 || own.Facts.Organizations[organization] != 0 {
			continue
		}
		if own.Facts.Organizations == nil {
			own.Facts.Organizations = map[string]int64{}
		}
		own.Facts.Organizations[organization], changed = id, true
	}
	if !changed {
		return fsm.Txn{}, nil
	}
	op, err := connectors.Update(rec, own, 0)
	return fsm.Txn{Checks: []fsm.Check{connectors.Unchanged(rec)}, Ops: []fsm.Op{op}}, err
}
