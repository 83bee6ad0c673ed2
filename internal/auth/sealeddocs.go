package auth

import (
	"context"
	"encoding/json"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// sealedDocs shows documents whose secrets are sealed at rest, in records of type R:
// without the secrets, or with them to who asks for them.
type sealedDocs[R any] struct {
	base    *base
	keys    *keys
	records *fsm.Collection[R]
	what    string // they are, for people

	// plain gives a record's document as it is stored, without secrets, and its kind.
	plain func(*R) (kind string, raw json.RawMessage)
	// typed gives a copy of it, with its secrets if they are wanted; nil if this version
	// does not understand the document.
	typed func(v fsm.View, name string, stored *R, secrets bool) (headed, error)
	// read is the event that says whose secrets somebody asked for.
	read func(kind string, names []string) (event, code string, fields map[string]any)
}

// headed is a document.
type headed interface{ Head() *api.Header }

// sealSecrets seals the secrets of the document of that name, by their paths.
func (d *sealedDocs[R]) sealSecrets(v fsm.View, name string, secrets map[string]string) ([]byte, error) {
	if len(secrets) == 0 {
		return nil, nil
	}
	plain, err := json.Marshal(secrets)
	if err != nil {
		return nil, err
	}
	ring, err := d.keys.ring(v)
	if err != nil {
		return nil, err
	}
	return ring.Seal(d.records.Key(name), plain)
}

// openSecrets gives what sealSecrets has sealed.
func (d *sealedDocs[R]) openSecrets(v fsm.View, name string, sealed []byte) (secrets map[string]string, err error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	ring, err := d.keys.ring(v)
	if err != nil {
		return nil, err
	}
	plain, err := ring.Open(d.records.Key(name), sealed)
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "the secrets of %s %q can't be read: %w", d.what, name, err)
	}
	if json.Unmarshal(plain, &secrets) != nil { // the cause may tell of them
		return nil, api.Errorf(api.CodeInternal, "the secrets of %s %q can't be read", d.what, name)
	}
	return secrets, nil
}

// List returns all of a kind as documents without their secrets, by name.
func (d *sealedDocs[R]) List(kind string) ([]json.RawMessage, error) {
	docs, _, err := d.list(d.base.db.View(), kind, false)
	return docs, err
}

// ListSecrets is List with their secrets; the audit log is told first.
func (d *sealedDocs[R]) ListSecrets(ctx context.Context, by Actor, kind string) ([]json.RawMessage, error) {
	docs, names, err := d.list(d.base.db.View(), kind, true)
	if err == nil && len(docs) > 0 {
		err = d.shown(ctx, by, kind, names)
	}
	if err != nil {
		return nil, err
	}
	return docs, nil
}

func (d *sealedDocs[R]) list(v fsm.View, kind string, secrets bool) (out []json.RawMessage, names []string, err error) {
	for rec, stored := range d.records.List(v) {
		if stored == nil {
			continue
		}
		if is, _ := d.plain(stored); is != kind {
			continue
		}
		doc, err := d.document(v, rec, stored, secrets)
		if err != nil {
			return nil, nil, err
		}
		out, names = append(out, doc), append(names, d.records.Name(rec))
	}
	return out, names, nil
}

// Get returns one as a document without its secrets.
func (d *sealedDocs[R]) Get(kind, name string) (json.RawMessage, error) {
	return d.get(d.base.db.View(), kind, name, false)
}

// GetSecrets is Get with its secrets; the audit log is told first.
func (d *sealedDocs[R]) GetSecrets(ctx context.Context, by Actor, kind, name string) (json.RawMessage, error) {
	doc, err := d.get(d.base.db.View(), kind, name, true)
	if err == nil {
		err = d.shown(ctx, by, kind, []string{name})
	}
	if err != nil {
		return nil, err
	}
	return doc, nil
}

func (d *sealedDocs[R]) get(v fsm.View, kind, name string, secrets bool) (json.RawMessage, error) {
	stored, rec, err := d.records.Get(v, name)
	if err != nil {
		return nil, readError(kind, clip(name), err)
	}
	if is, _ := d.plain(stored); is != kind {
		return nil, errOtherKind(kind, name, is)
	}
	return d.document(v, rec, stored, secrets)
}

func errOtherKind(kind, name, is string) error {
	return api.Errorf(api.CodeNotFound, "%s %q not found: it is of kind %s (%s/%s)", kind, clip(name), is, is, clip(name))
}

func (d *sealedDocs[R]) document(v fsm.View, rec *fsm.Record, stored *R, secrets bool) (json.RawMessage, error) {
	doc, err := d.typed(v, d.records.Name(rec), stored, secrets)
	if err != nil {
		return nil, err
	}
	if doc == nil { // whatever it holds, its secrets are sealed
		_, raw := d.plain(stored)
		return document(&fsm.Record{Key: rec.Key, Value: raw, Revision: rec.Revision}, nil)
	}
	doc.Head().Metadata.Revision = rec.Revision
	return json.Marshal(doc)
}

// shown writes down who is about to see secrets.
func (d *sealedDocs[R]) shown(ctx context.Context, by Actor, kind string, names []string) error {
	event, code, fields := d.read(kind, names)
	_, err := d.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		line, err := d.base.event(ctx, v, event, code, by, fields)
		return fsm.Txn{Events: [][]byte{line}}, err
	})
	return err
}

// mayWriteSealed is for documents by which more is done than to write them: who does
// needs the right to that, too.
func (a *Authorizer) mayWriteSealed(v fsm.View, by Actor, verb, kind, text string) error {
	if by.User == SocketUser {
		return nil
	}
	p, err := a.Session(v, by.Session)
	if err != nil {
		return err
	}
	if p.Can(verb, kind) != nil {
		return api.Errorf(api.CodeForbidden, text, p.User, kind, verb)
	}
	return nil
}
