package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Bounds of one deletion, so that it stays one transaction. What is left of the
// attempts counts for nothing and expires.
const maxAttemptsDeleted = 1000

// Users keeps the local users, and those who came by connectors (see SSO).
type Users struct {
	base    *base
	invites *Invites
	access  *Authorizer
	login   *Login
	factors *Factors
}

// Add makes a user without a password and the link by which the user sets one.
// A user without roles gets the role access.
func (u *Users) Add(ctx context.Context, by Actor, req api.AddUserRequest) (api.AddUserResponse, error) {
	doc := req.User
	doc.Kind = api.KindUser
	if doc.Version == "" {
		doc.Version = api.UserVersion
	}
	doc.Metadata.Revision = 0
	if len(doc.Spec.Roles) == 0 {
		doc.Spec.Roles = []string{RoleAccess}
	}
	if err := doc.Validate(); err != nil {
		return api.AddUserResponse{}, err
	}
	name := doc.Metadata.Name
	ttl, err := linkTTL("invite", time.Duration(req.InviteTTL), defaultInviteTTL, maxInviteTTL)
	if err != nil {
		return api.AddUserResponse{}, err
	}
	token, err := u.base.random(inviteTokenBytes)
	if err != nil {
		return api.AddUserResponse{}, err
	}
	resp := api.AddUserResponse{User: doc, InviteURL: u.invites.url(token, false), TTL: api.Duration(ttl), Proxy: u.base.publicAddr}
	rev, err := u.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		if _, ok := v.Get(users.Key(name)); ok {
			return fsm.Txn{}, api.Errorf(api.CodeExists, "user %q already exists", name)
		}
		txn, err := u.put(ctx, v, by, &doc, nil)
		if err != nil {
			return txn, err
		}
		resp.Expires = v.Now().Add(ttl)
		// The record of the user is as old as this very entry, whose time is not
		// known yet: zero stands for "the first life this invite sees".
		return txn, u.invites.create(ctx, v, &txn, by, inviteRecord{User: name}, token, ttl)
	})
	resp.User.Metadata.Revision = rev
	return resp, err
}

// Put writes a user's document: a new user, or over an old one with force.
// Fields of the stored document that this version does not know stay.
func (u *Users) Put(ctx context.Context, by Actor, doc *api.User, force bool) (api.PutResponse, error) {
	if err := doc.Validate(); err != nil {
		return api.PutResponse{}, err
	}
	stored := *doc
	stored.Metadata.Revision = 0
	resp := api.PutResponse{Kind: api.KindUser, Name: doc.Metadata.Name}
	rev, err := u.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, ok := v.Get(users.Key(doc.Metadata.Name))
		if !ok {
			rec = nil
		}
		if err := putAllowed(api.KindUser, doc.Metadata, rec, force); err != nil {
			return fsm.Txn{}, err
		}
		resp.Created = rec == nil
		return u.put(ctx, v, by, &stored, rec)
	})
	resp.Revision = rev
	return resp, err
}

// put makes the transaction that writes a user over rec (nil: a new one). Its
// checks hold the roles in place.
func (u *Users) put(ctx context.Context, v fsm.View, by Actor, doc *api.User, rec *fsm.Record) (fsm.Txn, error) {
	name := doc.Metadata.Name
	txn, before, err := nameFree(v, name)
	if err != nil {
		return fsm.Txn{}, err
	}
	txn.Checks = append(txn.Checks, fsm.Check{Key: users.Key(name), Revision: revision(rec)})
	for i, r := range doc.Spec.Roles {
		roleRec, ok := v.Get(roles.Key(r))
		if !ok {
			return txn, api.Errorf(api.CodeInvalid, "user %q: %w", name, &api.FieldError{
				Path: fmt.Sprintf("spec.roles[%d]", i), Reason: fmt.Sprintf("role %q does not exist", r),
			})
		}
		txn.Checks = append(txn.Checks, roles.Unchanged(roleRec))
	}
	if err := u.mayGrant(v, by, doc, rec); err != nil {
		return txn, err
	}
	event, code := api.EventUserCreate, api.EventCodeUserCreate
	var op fsm.Op
	if rec == nil {
		op, err = users.Put(name, doc, 0)
	} else {
		event, code = api.EventUserUpdate, api.EventCodeUserUpdate
		op, err = users.Update(rec, doc, 0)
	}
	if err != nil {
		return txn, err
	}
	fields := map[string]any{"name": name, "roles": doc.Spec.Roles, "connector": "local"}
	addReplaced(fields, before)
	line, err := u.base.event(ctx, v, event, code, by, fields)
	txn.Ops, txn.Events = append(txn.Ops, op), [][]byte{line}
	return txn, err
}

// mayGrant lets people give only what they have: otherwise whoever may write
// users could make one with the role admin, or with the role access and the
// trait system:masters. Who may update roles could give it to their own role
// anyway, and is free, as is the socket. What the user has (rec) may stay.
func (u *Users) mayGrant(v fsm.View, by Actor, doc *api.User, rec *fsm.Record) error {
	if by.User == SocketUser {
		return nil
	}
	p, err := u.access.Session(v, by.Session)
	if err != nil {
		return err
	}
	if p.Can(api.VerbUpdate, api.KindRole) == nil {
		return nil
	}
	var old api.User
	if rec != nil {
		stored, err := users.Decode(rec)
		if err != nil {
			return readError(api.KindUser, doc.Metadata.Name, err)
		}
		old = *stored
	}
	for _, name := range doc.Spec.Roles {
		had := slices.Contains(old.Spec.Roles, name)
		if !had && !slices.Contains(p.RoleNames, name) {
			return api.Errorf(api.CodeForbidden, "user %q may not give user %q the role %q without having it: ask somebody who does, or who may update roles", p.User, doc.Metadata.Name, name)
		}
		r, _, err := roles.Get(v, name)
		if err != nil {
			return readError(api.KindRole, name, err)
		}
		for _, t := range slices.Concat(r.allow.groups, r.allow.users) {
			for _, value := range doc.Spec.Traits[t.trait] {
				if slices.Contains(p.traits.of(t), value) || had && slices.Contains(old.Spec.Traits[t.trait], value) {
					continue
				}
				return api.Errorf(api.CodeForbidden, "user %q may not give user %q the trait %s %q, of which role %q makes Kubernetes names, without having it: ask somebody who does, or who may update roles",
					p.User, doc.Metadata.Name, t.trait, clip(value), name)
			}
		}
	}
	return nil
}

// Get returns a user as a document.
func (u *Users) Get(name string) (json.RawMessage, error) {
	stored, rec, err := users.Get(u.base.db.View(), name)
	if err != nil {
		return nil, readError(api.KindUser, clip(name), err)
	}
	return userDocument(rec, stored)
}

// List returns all users as documents, by name.
func (u *Users) List() ([]json.RawMessage, error) {
	var out []json.RawMessage
	for rec, stored := range users.List(u.base.db.View()) {
		doc, err := userDocument(rec, stored)
		if err != nil {
			return nil, readError(api.KindUser, users.Name(rec), err)
		}
		out = append(out, doc)
	}
	return out, nil
}

// Any says whether there is any user.
func (u *Users) Any() bool {
	for range users.List(u.base.db.View()) {
		return true
	}
	return false
}

func userDocument(rec *fsm.Record, stored *api.User) (json.RawMessage, error) {
	if stored == nil {
		return document(rec, nil)
	}
	doc := *stored
	doc.Metadata.Revision = rec.Revision
	return document(rec, &doc)
}

// Delete removes a user with sessions, password, second factors, invites and
// counted failures, all in one transaction: streams of the sessions end when it is
// applied. A session that a login makes at the same moment is bound to the deleted
// life of the user, and worth nothing even if the name is used again.
//
// An SSO user goes the same way, and may log in again as long as the identity
// provider lets them.
func (u *Users) Delete(ctx context.Context, by Actor, name string) error {
	_, err := u.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, ok := v.Get(users.Key(name))
		if !ok {
			return u.deleteSSO(ctx, v, by, name)
		}
		line, err := u.base.event(ctx, v, api.EventUserDelete, api.EventCodeUserDelete, by, map[string]any{"name": name})
		return fsm.Txn{
			Checks: []fsm.Check{users.Unchanged(rec)},
			Ops:    append(takeAway(v, name), fsm.Delete(rec.Key)), Events: [][]byte{line},
		}, err
	})
	return err
}

// takeAway are the operations that leave of a user what an administrator wrote
// and nothing else: no password, second factors, sessions, invites and counted
// failures.
func takeAway(v fsm.View, name string) []fsm.Op {
	failures := attempts.Key(attemptUser(name) + "/")
	ops := []fsm.Op{
		fsm.Delete(passwordRecs.Key(name)), fsm.Delete(factorRecs.Key(name)), fsm.Delete(knownNets.Key(name)),
		fsm.Delete(failures + allNetworks), fsm.Delete(failures + wrongCodes),
	}
	for s := range v.List(sessions.Key(name + "/")) { // bounded by maxUserSessions
		ops = append(ops, fsm.Delete(s.Key))
	}
	for i, invite := range invites.List(v) {
		if invite != nil && invite.User == name {
			ops = append(ops, fsm.Delete(i.Key))
		}
	}
	left := maxAttemptsDeleted
	for a := range v.List(failures) {
		if left--; left < 0 {
			break
		}
		ops = append(ops, fsm.Delete(a.Key))
	}
	return ops
}

// userLife is the user's record; found is false where there is none.
func userLife(v fsm.View, name string) (rec *fsm.Record, found bool, err error) {
	_, rec, err = users.Get(v, name)
	if errors.Is(err, fsm.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return rec, false, readError(api.KindUser, name, err)
	}
	return rec, true, nil
}
