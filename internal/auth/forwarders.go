package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxForwarders bounds what the leader sends at the same time.
const maxForwarders = 32

// keyAuditHead is where the journal keeps how far the audit log has come (see
// internal/audit); of it, the number of the last line counts here.
const keyAuditHead = fsm.JournalPrefix + "head"

// Forwarders keeps the audit forwarders, and with each how far it has come. Their
// secrets are sealed at rest, and shown to nobody who does not ask for them.
type Forwarders struct {
	sealedDocs[forwarderRecord]
	access *Authorizer
}

func newForwarders(b *base, k *keys, access *Authorizer) *Forwarders {
	f := &Forwarders{access: access}
	f.sealedDocs = sealedDocs[forwarderRecord]{
		base: b, keys: k, records: forwarders, what: api.KindAuditForwarder, typed: f.typed,
		plain: func(stored *forwarderRecord) (string, json.RawMessage) {
			return api.KindAuditForwarder, stored.Document
		},
		read: func(_ string, names []string) (event, code string, fields map[string]any) {
			return api.EventForwarderSecrets, api.EventCodeForwarderSecrets, map[string]any{"forwarders": names}
		},
	}
	return f
}

// typed is for sealedDocs.
func (f *Forwarders) typed(v fsm.View, name string, stored *forwarderRecord, secrets bool) (headed, error) {
	switch {
	case stored.doc == nil:
		return nil, nil //nolint:nilnil // it is not understood
	case secrets:
		return f.unseal(v, name, stored)
	default:
		return ownForwarder(stored.doc)
	}
}

// forwarderRecord is a forwarder without its secrets, which are sealed apart.
type forwarderRecord struct {
	Document json.RawMessage `json:"document"`
	Sealed   []byte          `json:"sealed,omitempty"` // the secrets by their paths
	// ID is random: one that was removed and made again under its name has another.
	ID string `json:"id,omitempty"`

	// doc is the document without its secrets, nil where unknown is not.
	doc *api.AuditForwarder
	// unknown is what this version does not know. It may restrict what is sent, so
	// nothing is: see role.
	unknown error
}

// UnmarshalJSON reads a stored forwarder. Only what is none at all is an error.
func (f *forwarderRecord) UnmarshalJSON(b []byte) error {
	type plain forwarderRecord
	if err := json.Unmarshal(b, (*plain)(f)); err != nil {
		return err
	}
	if f.unknown = api.CheckFields(b, (*plain)(f)); f.unknown == nil {
		f.doc, f.unknown = readForwarder(f.Document)
	}
	return nil
}

func readForwarder(raw []byte) (*api.AuditForwarder, error) {
	decoded, err := api.DecodeDocument(raw)
	if err != nil {
		return nil, err
	}
	doc, ok := decoded.(*api.AuditForwarder)
	if !ok {
		return nil, api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "kind", Reason: "is not " + api.KindAuditForwarder})
	}
	return doc, nil
}

// ownForwarder is a copy of a document, to be changed, as it would be read from a file.
func ownForwarder(doc *api.AuditForwarder) (*api.AuditForwarder, error) {
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return readForwarder(raw)
}

func forwarderError(name, path, reason string) error {
	return api.Errorf(api.CodeInvalid, "%s %q: %w", api.KindAuditForwarder, name, &api.FieldError{Path: path, Reason: reason})
}

// Put writes a forwarder: a new one, or over an old one of its name with force. Who
// writes one sends the audit log wherever they like, and so needs the right to read it
// too.
func (f *Forwarders) Put(ctx context.Context, by Actor, given *api.AuditForwarder, force bool) (api.PutResponse, error) {
	name := given.Metadata.Name
	resp := api.PutResponse{Kind: api.KindAuditForwarder, Name: name}
	rev, err := f.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		err := f.access.mayWriteSealed(v, by, api.VerbRead, api.KindEvent,
			"user %q may not write audit forwarders without the right to read the audit log (spec.allow.rules with resources: [%s], verbs: [%s]): a forwarder sends it elsewhere")
		if err != nil {
			return fsm.Txn{}, err
		}
		doc, err := ownForwarder(given)
		if err != nil {
			return fsm.Txn{}, err
		}
		doc.Metadata.Revision = 0
		if f.base.isOwnAddress(doc.Spec.Endpoint) {
			return fsm.Txn{}, forwarderError(name, "spec.endpoint", "is this cluster's own address, where nobody takes the audit log: each try would be one more event to send")
		}
		rec, kept, err := f.find(v, name)
		if err != nil {
			return fsm.Txn{}, err
		}
		if err := putAllowed(api.KindAuditForwarder, given.Metadata, rec, force); err != nil {
			return fsm.Txn{}, err
		}
		if err := keepForwarderSecrets(doc, kept); err != nil {
			return fsm.Txn{}, err
		}
		resp.Created, resp.Unchanged, resp.Warnings = rec == nil, false, forwarderWarnings(doc, kept)
		if kept != nil && reflect.DeepEqual(kept, doc) {
			resp.Unchanged, resp.Revision = true, rec.Revision
			return fsm.Txn{}, nil
		}
		return f.write(ctx, v, by, doc, rec, kept)
	})
	if err != nil {
		return api.PutResponse{}, err
	}
	if !resp.Unchanged {
		resp.Revision = rev
	}
	return resp, nil
}

// isOwnAddress says whether an address is ours by its name. We do not know all names that
// lead here.
func (b *base) isOwnAddress(endpoint string) bool {
	u, err := url.Parse(endpoint)
	host, port, splitErr := net.SplitHostPort(b.publicAddr)
	if err != nil || splitErr != nil || cmp.Or(u.Port(), "443") != port {
		return false
	}
	name := strings.TrimSuffix(u.Hostname(), ".")
	return strings.EqualFold(name, host) || strings.EqualFold(name, b.clusterName)
}

// find looks for what has the name, or one that is easily taken for it. kept is what
// is there, with its secrets; nil where that can't be read.
func (f *Forwarders) find(v fsm.View, name string) (rec *fsm.Record, kept *api.AuditForwarder, err error) {
	count := 0
	for r, stored := range forwarders.List(v) {
		count++
		other := forwarders.Name(r)
		switch {
		case !strings.EqualFold(other, name):
			continue
		case other != name:
			return nil, nil, api.Errorf(api.CodeExists, "%s %q would look like %q, which is there already: choose another name", api.KindAuditForwarder, name, other)
		case stored == nil || stored.unknown != nil:
			return nil, nil, api.Errorf(api.CodeForbidden, "%s %q was written by a newer version of Sallyport: change it through an upgraded replica, or delete it first", api.KindAuditForwarder, name)
		}
		rec = r
		if kept, err = f.unseal(v, name, stored); err != nil {
			f.base.log.Warn("an audit forwarder's secrets can't be read, so none is kept", "forwarder", name, "error", err)
			kept = nil
		}
	}
	if rec == nil && count >= maxForwarders {
		return nil, nil, api.Errorf(api.CodeConflict, "there are %d audit forwarders already, which is the most there can be: remove one", count)
	}
	return rec, kept, nil
}

// keepForwarderSecrets fills in what a document leaves out. A secret that is stored is
// kept only while it is for the same receiver.
func keepForwarderSecrets(doc, kept *api.AuditForwarder) error {
	name := doc.Metadata.Name
	full, had := *doc, map[string]string(nil)
	if kept != nil {
		old := *kept
		had = old.TakeSecrets()
	}
	full.GiveSecrets(had)
	if kept != nil && doc.Spec.Endpoint != kept.Spec.Endpoint {
		said, wanted := *doc, full
		said.GiveSecrets(nil)
		own := said.TakeSecrets()
		for _, path := range slices.Sorted(maps.Keys(wanted.TakeSecrets())) {
			if _, ok := own[path]; !ok {
				return forwarderError(name, path, "is missing: the stored one is kept only while spec.endpoint stays as it is, so that nobody else is told it; write it"+orNone(path))
			}
		}
	}
	*doc = full
	if path := doc.MissingHeader(); path != "" {
		return forwarderError(name, path, "is missing: want the header's value")
	}
	// With what was kept, two may name one header.
	return doc.Validate()
}

// orNone says how to do without a secret.
func orNone(path string) string {
	if strings.HasPrefix(path, "spec.headers.") {
		return ", or leave the header out"
	}
	return ", or " + api.ForwardNoSecret
}

func forwarderWarnings(doc, kept *api.AuditForwarder) (warnings []string) {
	if kept != nil && kept.Spec.Start != doc.Spec.Start {
		warnings = append(warnings, fmt.Sprintf("spec.start counts for a new forwarder alone: this one goes on from where it is; to begin again, remove it (tctl rm %s/%s) and create it",
			api.KindAuditForwarder, doc.Metadata.Name))
	}
	for i, pattern := range doc.Spec.Types {
		if api.HalfExpression(pattern) {
			warnings = append(warnings, fmt.Sprintf("spec.types[%d]: %q is no regular expression, which begins with ^ and ends with $: only * stands for other text in it", i, pattern))
		}
	}
	return warnings
}

// write makes the transaction; doc loses its secrets. A new forwarder's cursor is made
// with it: at the end of the log, where the event about it comes next, or before
// the first line there can be.
func (f *Forwarders) write(ctx context.Context, v fsm.View, by Actor, doc *api.AuditForwarder, rec *fsm.Record, kept *api.AuditForwarder) (fsm.Txn, error) {
	name := doc.Metadata.Name
	fields := map[string]any{"name": name, "forwarder_type": doc.Spec.Type, "endpoint": shownEndpoint(doc.Spec.Endpoint)}
	event, code := api.EventForwarderCreated, api.EventCodeForwarderCreated
	if rec != nil {
		event, code = api.EventForwarderUpdated, api.EventCodeForwarderUpdated
		fields["changed"] = []string{"spec"}
		if kept != nil {
			fields["changed"] = changedFields(kept, doc)
		}
	}
	op, err := f.seal(v, doc, rec)
	if err != nil {
		return fsm.Txn{}, err
	}
	ops := []fsm.Op{op}
	checks := []fsm.Check{{Key: forwarders.Key(name), Revision: revision(rec)}}
	if rec == nil {
		cursor := api.ForwarderCursor{}
		if doc.Spec.Start == api.ForwardFromNow {
			if cursor.Number, err = auditEnd(v); err != nil {
				return fsm.Txn{}, err
			}
		}
		op, err := cursors.Put(name, &cursor, 0)
		if err != nil {
			return fsm.Txn{}, err
		}
		ops = append(ops, op)
	}
	line, err := f.base.event(ctx, v, event, code, by, fields)
	return fsm.Txn{Checks: checks, Ops: ops, Events: [][]byte{line}}, err
}

// shownEndpoint is what of an address events say: people put secrets into paths, too.
func shownEndpoint(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// auditEnd is the number of the log's last line.
func auditEnd(v fsm.View) (uint64, error) {
	rec, ok := v.Get(keyAuditHead)
	if !ok {
		return 0, nil
	}
	var head struct {
		Number uint64 `json:"number"`
	}
	if err := json.Unmarshal(rec.Value, &head); err != nil {
		return 0, fmt.Errorf("record %s: %w", keyAuditHead, err)
	}
	return head.Number, nil
}

// seal makes the record of a forwarder in place of rec. doc is the caller's own and loses
// its secrets.
func (f *Forwarders) seal(v fsm.View, doc *api.AuditForwarder, rec *fsm.Record) (fsm.Op, error) {
	stored := &forwarderRecord{}
	var err error
	if rec != nil {
		if stored, err = forwarders.Decode(rec); err != nil {
			return fsm.Op{}, err
		}
	}
	name := doc.Metadata.Name
	if stored.ID == "" {
		if stored.ID, err = api.NewEventID(f.base.rand); err != nil {
			return fsm.Op{}, err
		}
	}
	if stored.Sealed, err = f.sealSecrets(v, name, doc.TakeSecrets()); err != nil {
		return fsm.Op{}, err
	}
	if stored.Document, err = json.Marshal(doc); err != nil {
		return fsm.Op{}, err
	}
	return forwarders.Put(name, stored, 0)
}

// unseal gives a copy of a forwarder with its secrets. It must be known.
func (f *Forwarders) unseal(v fsm.View, name string, stored *forwarderRecord) (*api.AuditForwarder, error) {
	doc, err := ownForwarder(stored.doc)
	if err != nil {
		return nil, err
	}
	secrets, err := f.openSecrets(v, name, stored.Sealed)
	if err != nil {
		return nil, err
	}
	doc.GiveSecrets(secrets)
	return doc, nil
}

// Delete removes a forwarder, and with it how far it had come.
func (f *Forwarders) Delete(ctx context.Context, by Actor, _, name string) error {
	_, err := f.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		_, rec, err := forwarders.Get(v, name)
		if rec == nil {
			return fsm.Txn{}, readError(api.KindAuditForwarder, clip(name), err)
		}
		line, err := f.base.event(ctx, v, api.EventForwarderDeleted, api.EventCodeForwarderDeleted, by, map[string]any{"name": name})
		return fsm.Txn{
			Checks: []fsm.Check{forwarders.Unchanged(rec)},
			Ops:    []fsm.Op{fsm.Delete(rec.Key), fsm.Delete(cursors.Key(name))}, Events: [][]byte{line},
		}, err
	})
	return err
}
