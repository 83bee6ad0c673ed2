package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	sessionIDBytes = 16
	// maxUserSessions bounds what one user leaves in the store (and one deletion
	// removes): the login after that ends the oldest. A script that logs in for
	// every command must not fill the cluster's memory.
	maxUserSessions = 500
)

// Sessions are the logins that live.
type Sessions struct{ base *base }

func sessionName(user, id string) string { return user + "/" + id }

// Get returns a session; callers must not change it.
func (s *Sessions) Get(id pki.UserIdentity) (*api.Session, error) {
	rec, _, err := sessions.Get(s.base.db.View(), sessionName(id.User, id.SessionID))
	if errors.Is(err, fsm.ErrNotFound) {
		return nil, s.base.errSessionEnded(id.User, id.SessionID)
	}
	if err != nil {
		return nil, readError("session", id.SessionID, err)
	}
	return &rec.Session, nil
}

// List returns a user's sessions, or everybody's for "", oldest first; callers
// must not change their roles and traits.
func (s *Sessions) List(user string) []api.Session {
	prefix := ""
	if user != "" {
		prefix = user + "/"
	}
	v := s.base.db.View()
	var out []api.Session
	for _, rec := range sessionRecords(v, prefix) {
		// By its name and not by Decode: what was decoded stays, and there may be
		// 500 for each user.
		if stored, _, err := sessions.Get(v, sessions.Name(rec)); err == nil {
			out = append(out, stored.Session)
		}
	}
	return out
}

// Delete ends a session: its holder's doing (tsh logout) or somebody else's, as
// the event says. Ending one that has ended is no error and writes nothing.
func (s *Sessions) Delete(ctx context.Context, by Actor, id pki.UserIdentity) error {
	if api.ValidateName(api.KindUser, id.User) != nil || !pki.ValidSessionID(id.SessionID) {
		return api.Errorf(api.CodeInvalid, "no such session")
	}
	_, err := s.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, ok := v.Get(sessions.Key(sessionName(id.User, id.SessionID)))
		if !ok {
			return fsm.Txn{}, nil
		}
		return s.end(ctx, v, by, rec)
	})
	return err
}

// DeleteOthers ends all sessions of a user but the one to keep, together.
func (s *Sessions) DeleteOthers(ctx context.Context, by Actor, keep pki.UserIdentity) error {
	if api.ValidateName(api.KindUser, keep.User) != nil {
		return api.Errorf(api.CodeInvalid, "no such session")
	}
	_, err := s.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		var txn fsm.Txn
		for _, rec := range userSessions(v, keep.User) { // bounded by maxUserSessions
			if rec.Key == sessions.Key(sessionName(keep.User, keep.SessionID)) {
				continue
			}
			one, err := s.end(ctx, v, by, rec)
			if err != nil {
				return fsm.Txn{}, err
			}
			merge(&txn, one)
		}
		return txn, nil
	})
	return err
}

// end gives the transaction that ends one session, with its event.
func (s *Sessions) end(ctx context.Context, v fsm.View, by Actor, rec *fsm.Record) (fsm.Txn, error) {
	line, err := s.base.event(ctx, v, api.EventUserLogout, api.EventCodeUserLogout, by, endedFields(rec))
	return fsm.Txn{Checks: []fsm.Check{sessions.Unchanged(rec)}, Ops: []fsm.Op{fsm.Delete(rec.Key)}, Events: [][]byte{line}}, err
}

func endedFields(rec *fsm.Record) map[string]any {
	user, id, _ := strings.Cut(sessions.Name(rec), "/")
	fields := map[string]any{"name": user, "sid": id}
	if stored, err := sessions.Decode(rec); err == nil { // one that can't be read can be ended
		fields["kind"] = stored.Kind
	}
	return fields
}

// Certificate resolves the session that a certificate names: a web session's id
// in a certificate is worth nothing, whoever signed it.
func (a *Authorizer) Certificate(v fsm.View, id pki.UserIdentity) (*Principal, error) {
	return a.sessionOf(v, id, api.SessionCLI, api.SessionSigned)
}

// Cookie resolves the session that a cookie names (see WebIdentity): no cookie
// stands for the session of a certificate.
func (a *Authorizer) Cookie(v fsm.View, id pki.UserIdentity) (*Principal, error) {
	return a.sessionOf(v, id, api.SessionWeb)
}

// FreshFor is how young a web session must be for what outlives it: a browser left
// open, or a stolen cookie, must not be enough to let somebody in for good.
const FreshFor = 10 * time.Minute

// fresh is Cookie for a session of a login not long ago.
func (a *Authorizer) fresh(v fsm.View, id pki.UserIdentity) (*Principal, error) {
	p, err := a.Cookie(v, id)
	if err == nil && v.Now().Sub(p.Created) >= FreshFor {
		return nil, api.Errorf(api.CodeUnauthenticated, "you logged in more than %d minutes ago: log in again to do this", int(FreshFor.Minutes()))
	}
	return p, err
}

func (a *Authorizer) sessionOf(v fsm.View, id pki.UserIdentity, kinds ...string) (*Principal, error) {
	p, err := a.Session(v, id)
	if err == nil && !slices.Contains(kinds, p.Kind) {
		return nil, a.base.errSessionEnded(id.User, id.SessionID)
	}
	return p, err
}

// userSessions are the records of a user's sessions, oldest first.
func userSessions(v fsm.View, user string) []*fsm.Record {
	if user == "" {
		return nil
	}
	return sessionRecords(v, user+"/")
}

// sessionRecords are those whose names begin so, oldest first.
func sessionRecords(v fsm.View, prefix string) []*fsm.Record {
	recs := slices.Collect(v.List(sessions.Key(prefix)))
	slices.SortFunc(recs, func(a, b *fsm.Record) int { return a.Created.Compare(b.Created) })
	return recs
}

// putSession gives the operations that make a session, and end the oldest ones
// of a user who has too many: those are ended.
func putSession(v fsm.View, s *sessionRecord) (ops []fsm.Op, ended []*fsm.Record, err error) {
	left := s.Expires.Sub(v.Now())
	if left <= 0 {
		return nil, nil, api.Errorf(api.CodeInvalid, "the session would end before it begins")
	}
	op, err := sessions.Put(sessionName(s.User, s.ID), s, left.Round(time.Millisecond))
	if err != nil {
		return nil, nil, err
	}
	ops = []fsm.Op{op}
	old := userSessions(v, s.User)
	for len(old) >= maxUserSessions {
		ops, ended = append(ops, fsm.Delete(old[0].Key)), append(ended, old[0])
		old = old[1:]
	}
	return ops, ended, nil
}

// maxCookie bounds what is looked at of a cookie: a name of 128 bytes in
// base64, and a token.
const maxCookie = 512

// WebIdentity says whose session a cookie's value names: USER.TOKEN, the user's
// name in unpadded base64url. The store holds a hash of the token alone, as the
// session's id, so that who reads the store can't make the cookie. Whether such a
// session lives is Cookie's to say.
func WebIdentity(cookie, clusterName string) (pki.UserIdentity, error) {
	no := api.Errorf(api.CodeUnauthenticated, "not a session of cluster %q: log in again", clusterName)
	encoded, token, ok := strings.Cut(cookie, ".")
	if !ok || len(cookie) > maxCookie || !validWebToken(token) {
		return pki.UserIdentity{}, no
	}
	user, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || api.ValidateName(api.KindUser, string(user)) != nil {
		return pki.UserIdentity{}, no
	}
	return pki.UserIdentity{User: string(user), SessionID: webSessionID(token), ClusterName: clusterName}, nil
}

// webTokenBytes is how random the token of a cookie is; it is written in hex.
const webTokenBytes = 32

func validWebToken(token string) bool {
	b, err := hex.DecodeString(token)
	return err == nil && len(b) == webTokenBytes && strings.ToLower(token) == token
}

// webCookie is WebIdentity's inverse.
func webCookie(user, token string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(user)) + "." + token
}

func webSessionID(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:sessionIDBytes])
}
