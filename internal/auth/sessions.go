package auth

import (
	"context"
	"errors"
	"slices"
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
		return nil, errSessionEnded(id.User)
	}
	if err != nil {
		return nil, readError("session", id.SessionID, err)
	}
	return &rec.Session, nil
}

// List returns a user's sessions, oldest first.
func (s *Sessions) List(user string) []api.Session {
	var out []api.Session
	for _, rec := range userSessions(s.base.db.View(), user) {
		if v, err := sessions.Decode(rec); err == nil {
			out = append(out, v.Session)
		}
	}
	return out
}

// Delete ends a session (tsh logout). Ending one that has ended is no error.
func (s *Sessions) Delete(ctx context.Context, id pki.UserIdentity) error {
	if api.ValidateName(api.KindUser, id.User) != nil || !pki.ValidSessionID(id.SessionID) {
		return api.Errorf(api.CodeInvalid, "no such session")
	}
	_, err := s.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, ok := v.Get(sessions.Key(sessionName(id.User, id.SessionID)))
		if !ok {
			return fsm.Txn{}, nil
		}
		return fsm.Txn{Ops: []fsm.Op{fsm.Delete(rec.Key)}}, nil
	})
	return err
}

// userSessions are the records of a user's sessions, oldest first.
func userSessions(v fsm.View, user string) []*fsm.Record {
	if user == "" {
		return nil
	}
	recs := slices.Collect(v.List(sessions.Key(user + "/")))
	slices.SortFunc(recs, func(a, b *fsm.Record) int { return a.Created.Compare(b.Created) })
	return recs
}

// putSession gives the operations that make a session, and end the oldest ones
// of a user who has too many.
func putSession(v fsm.View, s *sessionRecord) ([]fsm.Op, error) {
	left := s.Expires.Sub(v.Now())
	if left <= 0 {
		return nil, api.Errorf(api.CodeInvalid, "the session would end before it begins")
	}
	op, err := sessions.Put(sessionName(s.User, s.ID), s, left.Round(time.Millisecond))
	if err != nil {
		return nil, err
	}
	ops := []fsm.Op{op}
	old := userSessions(v, s.User)
	for len(old) >= maxUserSessions {
		ops = append(ops, fsm.Delete(old[0].Key))
		old = old[1:]
	}
	return ops, nil
}
