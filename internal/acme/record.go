package acme

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/fsm"
)

// statusKey is the store's record of attempts, which all replicas obey: whoever orders
// writes it. It holds no secret and isn't sealed, so that a backup can be asked why there
// was no certificate.
const statusKey = "acme/status"

// maxErrorLength bounds what is kept of an error, in bytes: much of it is an authority's text.
const maxErrorLength = 512

// Outcomes of a preflight.
const (
	unresolved   = "unresolved"    // the name has no address
	somebodyElse = "somebody_else" // what answers at it isn't this cluster
	ours         = "ours"
	unknown      = "unknown" // nothing answered us: a cloud whose network doesn't lead back in, for instance
)

// status is the value of statusKey.
type status struct {
	Names map[string]*attempts `json:"names"`
}

// attempts say what became of the orders for one name.
type attempts struct {
	Directory string    `json:"directory"`
	Ordering  time.Time `json:"ordering,omitzero"` // since when a replica is at it
	By        string    `json:"by,omitempty"`      // server id of who orders, or did last
	Error     string    `json:"error,omitempty"`   // of the last attempt
	ErrorAt   time.Time `json:"error_at,omitzero"`
	Refused   string    `json:"refused,omitempty"` // outcome of the preflight, if that was it

	// Of failures at the authority in a row, and how things were at the last of them.
	Failures  int       `json:"failures,omitempty"`
	NextTry   time.Time `json:"next_try,omitzero"`
	NotBefore time.Time `json:"not_before,omitzero"` // by the authority's own word (Retry-After)
	Addresses []string  `json:"addresses,omitempty"`
	Preflight string    `json:"preflight,omitempty"`

	// Spent is when the authority will have forgotten all failed validations.
	Spent time.Time `json:"spent,omitzero"`
}

// observation is what a preflight saw.
type observation struct {
	outcome   string
	addresses []string // sorted
	err       error
}

// What an authority grants: Let's Encrypt lets 5 validations fail per hour, account and
// name, and gives one of them back every 12 minutes. delays keep the sixth attempt more
// than an hour behind the first, so that unchanged circumstances stay below that however
// one counts; the two constants are the same limit for those that change all the time.
const (
	validationsBurst  = 5
	validationsRefill = 12 * time.Minute
)

// delay is how long to wait after so many failures in a row.
func delay(failures int) time.Duration {
	minutes := [...]int{1, 2, 4, 8, 46, 60}
	return time.Duration(minutes[min(max(failures, 1), len(minutes))-1]) * time.Minute
}

// admit says whether the authority may be asked now.
func (a *attempts) admit(seen observation, now time.Time) error {
	switch seen.outcome {
	case unresolved, somebodyElse:
		return &RefusedError{Reason: seen.err}
	}
	until := a.NextTry
	if a.changed(seen) {
		until = latest(a.NotBefore, a.replenished())
	}
	if now.Before(until) {
		return &BackoffError{Until: until, Last: a.Error}
	}
	return nil
}

// backingOff reports whether unchanged circumstances forbid an attempt.
func (a *attempts) backingOff(now time.Time) bool { return now.Before(a.NextTry) }

// changed reports whether it is worthwhile to try again early.
func (a *attempts) changed(seen observation) bool {
	return seen.outcome != a.Preflight || !slices.Equal(seen.addresses, a.Addresses)
}

// replenished is when one more validation may fail.
func (a *attempts) replenished() time.Time {
	if a.Spent.IsZero() {
		return time.Time{}
	}
	return a.Spent.Add(-(validationsBurst - 1) * validationsRefill)
}

// failed notes a failure at the authority.
func (a *attempts) failed(seen observation, err error, notBefore, now time.Time) {
	a.Ordering = time.Time{}
	a.Error, a.ErrorAt, a.Refused = oneLine(err.Error()), now, ""
	a.Failures++
	a.Spent = latest(a.Spent, now).Add(validationsRefill)
	a.NotBefore = notBefore
	a.NextTry = latest(now.Add(delay(a.Failures)), notBefore, a.replenished())
	a.Addresses, a.Preflight = seen.addresses, seen.outcome
}

// succeeded forgets failures, but not what the authority still counts.
func (a *attempts) succeeded() {
	*a = attempts{Directory: a.Directory, By: a.By, Spent: a.Spent}
}

func latest(ts ...time.Time) time.Time {
	return slices.MaxFunc(ts, time.Time.Compare)
}

// attemptsOf reads what is known of a name. Attempts at another authority don't count.
func (m *Manager) attemptsOf(name string) *attempts {
	record, ok := m.db.View().Get(statusKey)
	if ok {
		if a := decodeStatus(record.Value).Names[name]; a != nil && a.Directory == m.directory {
			return a
		}
	}
	return &attempts{Directory: m.directory}
}

// decodeStatus never fails: a record that can't be read must not keep a cluster without
// a certificate, and the next attempt replaces it.
func decodeStatus(value []byte) status {
	var st status
	if json.Unmarshal(value, &st) != nil {
		st = status{}
	}
	if st.Names == nil {
		st.Names = map[string]*attempts{}
	}
	return st
}

// note changes what the store says of a name. Fn is called again when somebody else
// wrote meanwhile; it returns false if nothing needs to be written.
func (m *Manager) note(ctx context.Context, name string, fn func(*attempts) bool) error {
	for {
		record, ok := m.db.View().Get(statusKey)
		check := fsm.Check{Key: statusKey}
		st := decodeStatus(nil)
		if ok {
			check.Revision = record.Revision
			st = decodeStatus(record.Value)
		}
		a := st.Names[name]
		if a == nil || a.Directory != m.directory {
			a = &attempts{Directory: m.directory}
			st.Names[name] = a
		}
		if !fn(a) {
			return nil
		}
		value, err := json.Marshal(st)
		if err != nil {
			return fmt.Errorf("encode %s: %w", statusKey, err)
		}
		_, err = m.db.Commit(ctx, fsm.Txn{Checks: []fsm.Check{check}, Ops: []fsm.Op{fsm.Put(statusKey, value)}})
		var conflict *fsm.ConflictError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &conflict) || ctx.Err() != nil:
			return fmt.Errorf("write %s: %w", statusKey, err)
		}
	}
}

func addressStrings(addrs []netip.Addr) []string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.Unmap().String()
	}
	slices.Sort(s)
	return slices.Compact(s)
}

// oneLine makes of somebody's text one line of bounded length that a terminal prints as it is.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(s) <= maxErrorLength {
		return s
	}
	const more = "…"
	cut := maxErrorLength - len(more)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + more
}
