package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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
	base   *base
	keys   *keys
	access *Authorizer
}

// forwarderRecord is a forwarder without its secrets, which are sealed apart.
type forwarderRecord struct {
	Document json.RawMessage `json:"document"`
	Sealed   []byte          `json:"sealed,omitempty"` // the secrets by their paths

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
		if err := f.mayWrite(v, by); err != nil {
			return fsm.Txn{}, err
		}
		doc, err := ownForwarder(given)
		if err != nil {
			return fsm.Txn{}, err
		}
		doc.Metadata.Revision = 0
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
		return f.write(v, by, doc, rec, kept)
	})
	if err != nil {
		return api.PutResponse{}, err
	}
	if !resp.Unchanged {
		resp.Revision = rev
	}
	return resp, nil
}

func (f *Forwarders) mayWrite(v fsm.View, by Actor) error {
	if by.User == SocketUser {
		return nil
	}
	p, err := f.access.Session(v, by.Session)
	if err != nil {
		return err
	}
	if p.Can(api.VerbRead, api.KindEvent) != nil {
		return api.Errorf(api.CodeForbidden, "user %q may not write audit forwarders without the right to read the audit log (spec.allow.rules with resources: [%s], verbs: [%s]): a forwarder sends it elsewhere",
			p.User, api.KindEvent, api.VerbRead)
	}
	return nil
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
	if kept != nil {
		had, err := ownForwarder(kept)
		if err != nil {
			return err
		}
		full, err := ownForwarder(doc)
		if err != nil {
			return err
		}
		secrets := had.TakeSecrets()
		full.GiveSecrets(secrets)
		if doc.Spec.Endpoint == kept.Spec.Endpoint {
			doc.GiveSecrets(secrets)
		} else {
			doc.GiveSecrets(nil)
			own, err := ownForwarder(doc)
			if err != nil {
				return err
			}
			said := own.TakeSecrets()
			for _, path := range slices.Sorted(maps.Keys(full.TakeSecrets())) {
				if _, ok := said[path]; !ok {
					return forwarderError(name, path, "is missing: the stored one is kept only while spec.endpoint stays as it is, so that nobody else is told it; write it"+orNone(path))
				}
			}
		}
	} else {
		doc.GiveSecrets(nil)
	}
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
func (f *Forwarders) write(v fsm.View, by Actor, doc *api.AuditForwarder, rec *fsm.Record, kept *api.AuditForwarder) (fsm.Txn, error) {
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
	ops, err := f.seal(v, doc)
	if err != nil {
		return fsm.Txn{}, err
	}
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
	line, err := f.base.event(v, event, code, by, fields)
	return fsm.Txn{Checks: checks, Ops: ops, Events: [][]byte{line}}, err
}

// shownEndpoint is what of an address may be shown: people put secrets into queries.
func shownEndpoint(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	u.RawQuery, u.ForceQuery = "", false
	return u.String()
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

// seal makes the record of a forwarder. doc is the caller's own and loses its secrets.
func (f *Forwarders) seal(v fsm.View, doc *api.AuditForwarder) ([]fsm.Op, error) {
	name, secrets := doc.Metadata.Name, doc.TakeSecrets()
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	stored := &forwarderRecord{Document: raw}
	if len(secrets) > 0 {
		plain, err := json.Marshal(secrets)
		if err != nil {
			return nil, err
		}
		ring, err := f.keys.ring(v)
		if err != nil {
			return nil, err
		}
		if stored.Sealed, err = ring.Seal(forwarders.Key(name), plain); err != nil {
			return nil, err
		}
	}
	op, err := forwarders.Put(name, stored, 0)
	return []fsm.Op{op}, err
}

// unseal gives a copy of a forwarder with its secrets. It must be known.
func (f *Forwarders) unseal(v fsm.View, name string, stored *forwarderRecord) (*api.AuditForwarder, error) {
	doc, err := ownForwarder(stored.doc)
	if err != nil || len(stored.Sealed) == 0 {
		return doc, err
	}
	ring, err := f.keys.ring(v)
	if err != nil {
		return nil, err
	}
	plain, err := ring.Open(forwarders.Key(name), stored.Sealed)
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "the secrets of %s %q can't be read: %w", api.KindAuditForwarder, name, err)
	}
	var secrets map[string]string
	if err := json.Unmarshal(plain, &secrets); err != nil {
		return nil, api.Errorf(api.CodeInternal, "the secrets of %s %q can't be read", api.KindAuditForwarder, name) // the cause may tell of them
	}
	doc.GiveSecrets(secrets)
	return doc, nil
}

// List returns all forwarders as documents without their secrets, by name.
func (f *Forwarders) List() ([]json.RawMessage, error) {
	docs, _, err := f.list(f.base.db.View(), false)
	return docs, err
}

// ListSecrets is List with their secrets; the audit log is told first.
func (f *Forwarders) ListSecrets(ctx context.Context, by Actor) ([]json.RawMessage, error) {
	docs, names, err := f.list(f.base.db.View(), true)
	if err == nil && len(docs) > 0 {
		err = f.shown(ctx, by, names)
	}
	if err != nil {
		return nil, err
	}
	return docs, nil
}

func (f *Forwarders) list(v fsm.View, secrets bool) (out []json.RawMessage, names []string, err error) {
	for rec, stored := range forwarders.List(v) {
		if stored == nil {
			continue
		}
		doc, err := f.document(v, rec, stored, secrets)
		if err != nil {
			return nil, nil, err
		}
		out, names = append(out, doc), append(names, forwarders.Name(rec))
	}
	return out, names, nil
}

// Get returns a forwarder as a document without its secrets.
func (f *Forwarders) Get(name string) (json.RawMessage, error) {
	return f.get(f.base.db.View(), name, false)
}

// GetSecrets is Get with its secrets; the audit log is told first.
func (f *Forwarders) GetSecrets(ctx context.Context, by Actor, name string) (json.RawMessage, error) {
	doc, err := f.get(f.base.db.View(), name, true)
	if err == nil {
		err = f.shown(ctx, by, []string{name})
	}
	if err != nil {
		return nil, err
	}
	return doc, nil
}

// shown writes down who is about to see secrets.
func (f *Forwarders) shown(ctx context.Context, by Actor, names []string) error {
	_, err := f.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		line, err := f.base.event(v, api.EventConnectorSecrets, api.EventCodeConnectorSecrets, by, map[string]any{"method": api.KindAuditForwarder, "connectors": names})
		return fsm.Txn{Events: [][]byte{line}}, err
	})
	return err
}

func (f *Forwarders) get(v fsm.View, name string, secrets bool) (json.RawMessage, error) {
	stored, rec, err := forwarders.Get(v, name)
	if err != nil {
		return nil, readError(api.KindAuditForwarder, clip(name), err)
	}
	return f.document(v, rec, stored, secrets)
}

func (f *Forwarders) document(v fsm.View, rec *fsm.Record, stored *forwarderRecord, secrets bool) (json.RawMessage, error) {
	if stored.doc == nil { // whatever it holds, its secrets are sealed
		return document(&fsm.Record{Key: rec.Key, Value: stored.Document, Revision: rec.Revision}, nil)
	}
	doc, err := ownForwarder(stored.doc)
	if err == nil && secrets {
		doc, err = f.unseal(v, forwarders.Name(rec), stored)
	}
	if err != nil {
		return nil, err
	}
	doc.Metadata.Revision = rec.Revision
	return json.Marshal(doc)
}

// Delete removes a forwarder, and with it how far it had come.
func (f *Forwarders) Delete(ctx context.Context, by Actor, name string) error {
	_, err := f.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		_, rec, err := forwarders.Get(v, name)
		if rec == nil {
			return fsm.Txn{}, readError(api.KindAuditForwarder, clip(name), err)
		}
		line, err := f.base.event(v, api.EventForwarderDeleted, api.EventCodeForwarderDeleted, by, map[string]any{"name": name})
		return fsm.Txn{
			Checks: []fsm.Check{forwarders.Unchanged(rec)},
			Ops:    []fsm.Op{fsm.Delete(rec.Key), fsm.Delete(cursors.Key(name))}, Events: [][]byte{line},
		}, err
	})
	return err
}
