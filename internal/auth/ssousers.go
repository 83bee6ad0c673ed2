package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// ssoUserRecord is somebody who has logged in through a connector. It gives no
// rights: those are of the sessions, as the identity provider's word was at each
// login. It holds the name, and by Created the sessions hang on it.
type ssoUserRecord struct {
	Connector string    `json:"connector"`
	Kind      string    `json:"kind"`
	Subject   string    `json:"subject"`
	Roles     []string  `json:"roles"` // of the last login
	Created   time.Time `json:"created"`
	LastLogin time.Time `json:"last_login"`
}

// ssoSubjectRecord says what an identity is called here.
type ssoSubjectRecord struct {
	User string `json:"user"`
}

// ssoSubject is who somebody is: the connector and the subject, which the identity
// provider gives to nobody else. Names and e-mail addresses may be given up and
// taken by another, so they are no part of it.
func ssoSubject(connector, subject string) string { return hashed(connector, subject) }

// hashed stands in keys for what an identity provider says, within its connector.
func hashed(connector, said string) string {
	sum := sha256.Sum256([]byte(connector + "\x00" + said)) // no name of a connector has a NUL
	return hex.EncodeToString(sum[:])
}

// SSO are those who have logged in through connectors, by name.
func (u *Users) SSO() []api.SSOUser {
	var out []api.SSOUser
	for rec, stored := range ssoUsers.List(u.base.db.View()) {
		if stored == nil {
			u.base.log.Error("an SSO user can't be read", "user", ssoUsers.Name(rec))
			continue
		}
		out = append(out, api.SSOUser{
			Name: ssoUsers.Name(rec), Connector: stored.Connector, Kind: stored.Kind, Subject: stored.Subject,
			Roles: stored.Roles, Created: stored.Created, LastLogin: stored.LastLogin,
		})
	}
	return out
}

// errNotLocal is the answer to whatever only local users have.
func errNotLocal(user, connector, why string) error {
	return api.Errorf(api.CodeInvalid, "user %q comes from connector %q: %s", user, connector, why)
}

// notSSO refuses what only a local user has, in the words of why, for the name of
// an SSO user.
func notSSO(v fsm.View, name, why string) error {
	u, _, err := ssoUsers.Get(v, name)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return nil
	case err != nil:
		return readError("SSO user", clip(name), err)
	default:
		return errNotLocal(name, u.Connector, why)
	}
}

// nameFree refuses a local user under the name of an SSO user, unless the connector is
// gone. The transaction holds it so; before is whom it removes.
func nameFree(v fsm.View, name string) (txn fsm.Txn, before *ssoUserRecord, err error) {
	u, rec, err := ssoUsers.Get(v, name)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return fsm.Txn{Checks: []fsm.Check{ssoUsers.Absent(name)}}, nil, nil
	case err != nil:
		return txn, nil, readError("SSO user", name, err)
	case u.left(v):
		return succeed(v, name, u, rec), u, nil
	default:
		return txn, nil, api.Errorf(api.CodeExists, "user %q exists already, from connector %q: choose another name, or remove that user first: tctl users rm %s", name, u.Connector, name)
	}
}

// left says that nobody can come back to a name: the connector is not there, and one
// that was made anew would be another's word.
func (u *ssoUserRecord) left(v fsm.View) bool {
	_, ok := v.Get(connectors.Key(u.Connector))
	return !ok
}

// succeed gives what removes an SSO user whose connector is gone, as somebody else takes
// the name.
func succeed(v fsm.View, name string, u *ssoUserRecord, rec *fsm.Record) fsm.Txn {
	return fsm.Txn{
		Checks: []fsm.Check{ssoUsers.Unchanged(rec), {Key: connectors.Key(u.Connector)}},
		Ops:    forget(v, name, u),
	}
}

// addReplaced tells of whom a name was.
func addReplaced(fields map[string]any, before *ssoUserRecord) {
	if before != nil {
		fields["replaces"] = map[string]any{"connector": before.Connector, "subject": before.Subject}
	}
}

// forget gives the operations that remove an SSO user: the name, the identity, and
// the sessions.
func forget(v fsm.View, name string, u *ssoUserRecord) []fsm.Op {
	ops := append(takeAway(v, name), fsm.Delete(ssoUsers.Key(name)))
	if u == nil { // it can't be read; what points to it is judged by it
		return ops
	}
	return append(ops, fsm.Delete(ssoSubjects.Key(ssoSubject(u.Connector, u.Subject))))
}

// deleteSSO removes an SSO user with the sessions. The person may log in again as
// long as the identity provider lets them.
func (u *Users) deleteSSO(ctx context.Context, v fsm.View, by Actor, name string) (fsm.Txn, error) {
	stored, rec, err := ssoUsers.Get(v, name)
	if errors.Is(err, fsm.ErrNotFound) {
		return fsm.Txn{}, api.Errorf(api.CodeNotFound, "user %q not found", clip(name))
	}
	fields := map[string]any{"name": name}
	if err == nil {
		fields["connector"] = stored.Connector
	} else {
		stored = nil
	}
	line, err := u.base.event(ctx, v, api.EventUserDelete, api.EventCodeUserDelete, by, fields)
	return fsm.Txn{Checks: []fsm.Check{ssoUsers.Unchanged(rec)}, Ops: forget(v, name, stored), Events: [][]byte{line}}, err
}

// ssoUserTxn gives what makes or renews the record of who logs in: the name is
// nobody else's, and an identity that comes with a new name leaves the old one with
// its sessions. It fills in the life of the session's user, and fields of its event.
func ssoUserTxn(v fsm.View, s *sessionRecord, kind, subject string, fields map[string]any) (txn fsm.Txn, err error) {
	name := s.User
	local := users.Key(name)
	if _, ok := v.Get(local); ok {
		return txn, api.Errorf(api.CodeConflict, "user %q exists already as a local user, so nobody can log in by connector %q under this name: ask an administrator to remove the local user (tctl users rm %s), or to change the name at the identity provider", name, s.Connector, name)
	}
	key := ssoSubject(s.Connector, subject)
	txn.Checks = []fsm.Check{{Key: local}}
	next := ssoUserRecord{
		Connector: s.Connector, Kind: kind, Subject: subject, Roles: s.Roles, Created: v.Now(), LastLogin: v.Now(),
	}
	var op fsm.Op
	old, rec, err := ssoUsers.Get(v, name)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		txn.Checks = append(txn.Checks, ssoUsers.Absent(name))
		op, err = ssoUsers.Put(name, &next, 0)
	case err != nil:
		return txn, readError("SSO user", name, err)
	case old.left(v):
		merge(&txn, succeed(v, name, old, rec))
		addReplaced(fields, old)
		op, err = ssoUsers.Put(name, &next, 0)
	case old.Connector != s.Connector || old.Subject != subject:
		return txn, errNameOfAnother(name, old.Connector, s.Connector)
	default:
		next.Created = old.Created
		txn.Checks = append(txn.Checks, ssoUsers.Unchanged(rec))
		op, err = ssoUsers.Update(rec, &next, 0)
	}
	if err != nil {
		return txn, err
	}
	s.UserCreated = next.Created
	moved, renamed, err := rename(v, s, key, subject)
	if err != nil {
		return txn, err
	}
	if merge(&txn, moved); renamed != "" {
		fields["renamed_from"] = renamed
	}
	point, err := ssoSubjects.Put(key, &ssoSubjectRecord{User: name}, 0)
	txn.Ops = append(txn.Ops, op, point) // after what is removed
	return txn, err
}

// rename gives what removes an identity's record under an older name, with its
// sessions; that name is "" if there is none.
func rename(v fsm.View, s *sessionRecord, key, subject string) (txn fsm.Txn, old string, err error) {
	is, rec, err := ssoSubjects.Get(v, key)
	if errors.Is(err, fsm.ErrNotFound) {
		txn.Checks = []fsm.Check{ssoSubjects.Absent(key)}
		return txn, "", nil
	}
	if err != nil {
		return txn, "", readError("SSO user", s.User, err)
	}
	txn.Checks = []fsm.Check{ssoSubjects.Unchanged(rec)}
	if is.User == s.User {
		return txn, "", nil
	}
	was, rec, err := ssoUsers.Get(v, is.User)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		txn.Checks = append(txn.Checks, ssoUsers.Absent(is.User))
		return txn, "", nil
	case err != nil:
		return txn, "", readError("SSO user", is.User, err)
	}
	txn.Checks = append(txn.Checks, ssoUsers.Unchanged(rec))
	if was.Connector != s.Connector || was.Subject != subject { // another's by now
		return txn, "", nil
	}
	txn.Ops = forget(v, is.User, was)
	return txn, is.User, nil
}

func errNameOfAnother(name, has, asks string) error {
	whose := "somebody from connector"
	if has == asks {
		whose = "another person from connector"
	}
	return api.Errorf(api.CodeConflict, "user %q exists already, it is %s %q: ask an administrator to remove that user (tctl users rm %s), or to change the name at the identity provider", name, whose, has, name)
}
