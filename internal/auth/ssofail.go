package auth

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	maxReason     = 1024            // bytes of a failure's words in log and terminal
	ssoFailTime   = 5 * time.Second // to tell of a failure to whoever is left
	maxAttributes = 8 << 10         // bytes of them in an event
	// maxPeople of one network and connector have a line of their own in a minute: who has
	// accounts without an end at a provider must not fill the log with them.
	maxPeople = 20
)

// Hinted is a failure with what to do about it, which is for the terminal and the page: the
// audit log is read later, by others.
type Hinted struct {
	Err  *api.Error
	Hint string
}

func (h *Hinted) Error() string { return h.Err.Error() + "; " + h.Hint }
func (h *Hinted) Unwrap() error { return h.Err }

// Fail tells the log, and the terminal that waits, why a login came to nothing. id is
// nil where nobody knows who it was.
//
// It does its best, in a few seconds, and even if the browser has gone: the terminal
// has not.
func (s *SSO) Fail(ctx context.Context, st *SSOState, id *api.SSOIdentity, reason error, from netip.Addr) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ssoFailTime)
	defer cancel()
	if st.Test != "" { // what came of it is for who began the test
		return
	}
	code, text := told(reason)
	if code == api.CodeInternal {
		s.base.log.ErrorContext(ctx, "a login through a connector failed", "connector", st.Connector, "error", reason)
	}
	hint := ""
	if h, ok := errors.AsType[*Hinted](reason); ok {
		hint = "; " + h.Hint
	}
	if err := s.fail(ctx, st, id, code, text, hint, from); err != nil {
		s.base.log.WarnContext(ctx, "a failed login is told nowhere else", "connector", st.Connector, "reason", text, "error", err)
	}
}

// told is what of an error people may read.
func told(err error) (api.Code, string) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Code == api.CodeInternal {
		return api.CodeInternal, "something went wrong here: the log of the servers says what"
	}
	return e.Code, api.CleanText(e.Message, maxReason)
}

// fail writes a line if it is time for one; a login of tsh ends once.
func (s *SSO) fail(ctx context.Context, st *SSOState, id *api.SSOIdentity, code api.Code, text, hint string, from netip.Addr) error {
	if st.Console != "" {
		if _, _, err := getConsole(s.base.db.View(), st.Console); api.IsCode(err, api.CodeNotFound) {
			if err := s.base.db.Linearize(ctx); err != nil { // it may have begun on another replica
				return err
			}
		}
	}
	told := s.count(st.Connector, id, code, from)
	_, err := s.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		var txn fsm.Txn
		if st.Console != "" && !st.used(v) { // of one that succeeded, the page was loaded again
			ended, err := s.consoles.fail(v, st, code, text+hint)
			if err != nil {
				return fsm.Txn{}, err
			}
			if merge(&txn, ended); len(txn.Ops) > 0 {
				txn.Checks = append(txn.Checks, usedStates.Absent(st.usedName()))
			}
		}
		if told.attempts == 0 {
			return txn, nil
		}
		line, err := s.failureEvent(ctx, v, st, id, text, told, from)
		txn.Events = append(txn.Events, line)
		return txn, err
	})
	return err
}

// refusals are those that a line in the log stands for, 0: none is due.
type refusals struct {
	attempts int
	others   bool // they are of several people, of whom the last is named
}

// count counts a refusal. Nothing that strangers choose makes another line: one a minute
// is of each network, connector and code where nobody knows who it was, and otherwise of
// each person; of maxPeople of a network and connector, and of all others together.
func (s *SSO) count(connector string, id *api.SSOIdentity, code api.Code, from netip.Addr) refusals {
	now := s.base.db.View().Now()
	group := NetworkOf(from).String() + "\x00" + connector + "\x00"
	if id == nil {
		return refusals{attempts: s.quiet.count(group+string(code), now)}
	}
	n := s.quiet.count(group+hashed(connector, id.Subject), now)
	if n == 0 {
		return refusals{}
	}
	s.mu.Lock()
	people := s.people.get(group, func() *rate.Limiter { return rate.NewLimiter(rate.Limit(maxPeople/quietFor.Seconds()), maxPeople) })
	own := people.AllowN(now, 1)
	s.mu.Unlock()
	if own {
		return refusals{attempts: n}
	}
	return refusals{attempts: s.quiet.add(group+"others", n, now), others: true}
}

func (s *SSO) failureEvent(ctx context.Context, v fsm.View, st *SSOState, id *api.SSOIdentity, text string, told refusals, from netip.Addr) ([]byte, error) {
	fields := map[string]any{"method": st.Kind, "connector": st.Connector, "success": false, "error": text}
	if told.attempts > 1 {
		fields["attempts"] = told.attempts // since the last such event
	}
	if told.others {
		fields["others"] = true // than those who have a line of their own
	}
	by := Actor{Addr: from}
	if id != nil {
		addAttributes(fields, st.Kind, id)
		if api.ValidateName(api.KindUser, id.Username) == nil {
			by.User = id.Username
		}
	}
	return s.base.event(ctx, v, api.EventUserLogin, api.EventCodeSSOLoginRefused, by, fields)
}
