package auth

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Roles keeps the roles.
type Roles struct{ base *base }

// Put writes a role: a new one, or over an old one with force. The document was
// validated by api.DecodeDocument; here it must compile too.
func (r *Roles) Put(ctx context.Context, by Actor, doc *api.Role, force bool) (api.PutResponse, error) {
	name := doc.Metadata.Name
	if err := doc.Validate(); err != nil {
		return api.PutResponse{}, err
	}
	if isBuiltIn(name) {
		return r.putBuiltIn(doc, force)
	}
	stored := &role{doc: *doc}
	stored.doc.Metadata.Revision = 0
	if err := stored.compile(); err != nil {
		return api.PutResponse{}, api.Errorf(api.CodeInvalid, "role %q: %w", name, err)
	}
	resp := api.PutResponse{Kind: api.KindRole, Name: name}
	rev, err := r.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		old, rec, err := roles.Get(v, name)
		if err := putAllowed(api.KindRole, doc.Metadata, rec, force); err != nil {
			return fsm.Txn{}, err
		}
		if rec != nil && (err != nil || isUnknownField(old.unknown)) {
			return fsm.Txn{}, api.Errorf(api.CodeForbidden, "role %q was written by a newer version of Sallyport: change it through an upgraded replica, or delete it first", name)
		}
		resp.Created = rec == nil
		op, err := roles.Put(name, stored, 0)
		if err != nil {
			return fsm.Txn{}, err
		}
		event, code := api.EventRoleCreated, api.EventCodeRoleCreated
		if rec != nil {
			event, code = api.EventRoleUpdated, api.EventCodeRoleUpdated
		}
		line, err := r.base.event(ctx, v, event, code, by, map[string]any{"name": name})
		return fsm.Txn{Checks: []fsm.Check{{Key: op.Key, Revision: revision(rec)}}, Ops: []fsm.Op{op}, Events: [][]byte{line}}, err
	})
	resp.Revision = rev
	return resp, err
}

// putBuiltIn takes a built-in role that is as it was, and no other: so all that
// was read from a cluster can be written back.
func (r *Roles) putBuiltIn(doc *api.Role, force bool) (api.PutResponse, error) {
	name := doc.Metadata.Name
	have, rec, err := roles.Get(r.base.db.View(), name)
	if err != nil {
		return api.PutResponse{}, readError(api.KindRole, name, err)
	}
	same := *doc
	same.Metadata.Revision = have.doc.Metadata.Revision
	if !reflect.DeepEqual(same, have.doc) {
		return api.PutResponse{}, api.Errorf(api.CodeForbidden, "role %q is built in and can't be changed: write a role of another name", name)
	}
	same.Metadata.Revision = 0
	if err := putAllowed(api.KindRole, same.Metadata, rec, force); err != nil {
		return api.PutResponse{}, err
	}
	return api.PutResponse{Kind: api.KindRole, Name: name, Revision: rec.Revision, Unchanged: true}, nil
}

// isUnknownField tells a field of a newer version from a template that does not
// compile: the second may be overwritten.
func isUnknownField(err error) bool {
	_, ok := errors.AsType[*api.FieldError](err)
	return ok
}

// putAllowed refuses to overwrite without force, or what has changed since it
// was read.
func putAllowed(kind string, m api.Metadata, rec *fsm.Record, force bool) error {
	if rec != nil && !force {
		return api.Errorf(api.CodeExists, "%s %q already exists: use --force (-f) to replace it", kind, m.Name)
	}
	return checkRevision(kind, m, revision(rec))
}

// Get returns a role as a document.
func (r *Roles) Get(name string) (json.RawMessage, error) {
	stored, rec, err := roles.Get(r.base.db.View(), name)
	if err != nil {
		return nil, readError(api.KindRole, clip(name), err)
	}
	return roleDocument(rec, stored)
}

// List returns all roles as documents, by name.
func (r *Roles) List() ([]json.RawMessage, error) {
	var out []json.RawMessage
	for rec, stored := range roles.List(r.base.db.View()) {
		doc, err := roleDocument(rec, stored)
		if err != nil {
			return nil, readError(api.KindRole, roles.Name(rec), err)
		}
		out = append(out, doc)
	}
	return out, nil
}

func roleDocument(rec *fsm.Record, stored *role) (json.RawMessage, error) {
	if stored == nil {
		return document(rec, nil)
	}
	doc := stored.doc
	doc.Metadata.Revision = rec.Revision
	return document(rec, &doc)
}

// keyConnectorsWritten is rewritten with each connector: with its revision one holds
// on to there being no other row than those that one has seen.
const keyConnectorsWritten = "system/connectors_written"

// Delete removes a role that nobody holds, and no connector gives. (Were a user given
// the role at the same moment, the user's access would be denied until mended, never
// widened. What a connector gives to whomever comes must not wait for a later role of
// that name.)
func (r *Roles) Delete(ctx context.Context, by Actor, name string) error {
	if isBuiltIn(name) {
		return api.Errorf(api.CodeForbidden, "role %q is built in and can't be deleted", name)
	}
	_, err := r.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, ok := v.Get(roles.Key(name))
		if !ok {
			return fsm.Txn{}, api.Errorf(api.CodeNotFound, "role %q not found", clip(name))
		}
		if holders := roleHolders(v, name); len(holders) > 0 {
			return fsm.Txn{}, api.Errorf(api.CodeConflict, "role %q is held by %s: take it from them first", name, strings.Join(holders, ", "))
		}
		if givers := roleGivers(v, name); len(givers) > 0 {
			return fsm.Txn{}, api.Errorf(api.CodeConflict, "role %q is given by connectors %s: take it out of their rows first", name, strings.Join(givers, ", "))
		}
		line, err := r.base.event(ctx, v, api.EventRoleDeleted, api.EventCodeRoleDeleted, by, map[string]any{"name": name})
		return fsm.Txn{
			Checks: []fsm.Check{roles.Unchanged(rec), {Key: keyConnectorsWritten, Revision: v.Revision(keyConnectorsWritten)}},
			Ops:    []fsm.Op{fsm.Delete(rec.Key)}, Events: [][]byte{line},
		}, err
	})
	return err
}

// roleHolders names users who have the role, at most ten of them.
func roleHolders(v fsm.View, name string) []string {
	var holders []string
	for rec, u := range users.List(v) {
		if u == nil || !slices.Contains(u.Spec.Roles, name) {
			continue
		}
		if len(holders) == 10 {
			return append(holders, "…")
		}
		holders = append(holders, users.Name(rec))
	}
	return holders
}

// roleGivers names the connectors whose rows give the role.
func roleGivers(v fsm.View, name string) []string {
	var givers []string
	for rec, stored := range connectors.List(v) {
		if stored == nil || stored.doc == nil {
			continue
		}
		if slices.ContainsFunc(rowRoles(stored.doc), func(at roleAt) bool { return at.role == name }) {
			givers = append(givers, connectors.Name(rec))
		}
	}
	return givers
}
