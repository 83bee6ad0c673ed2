package acme

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mholt/acmez/v3/acme"

	"github.com/sallyport-dev/sallyport/fsm"
)

// The records of attempts, which all replicas obey: whoever orders writes them. While a
// cluster is given another authority, a name has one for each. They hold no secret and
// aren't sealed, so that a backup can be asked why there was no certificate.
var records = fsm.NewCollection[attempts]("acme/status/") //nolint:gochecknoglobals // it holds no data: it describes the schema

// maxErrorLength bounds what is kept of an error, in bytes: much of it is an authority's text.
const maxErrorLength = 512

// Outcomes of a preflight.
const (
	unresolved   = "unresolved"    // the name has no address
	somebodyElse = "somebody_else" // what answers at it isn't this cluster
	ours         = "ours"
	unknown      = "unknown" // nothing answered us: a cloud whose network doesn't lead back in, for instance
)

// attempts say what became of the orders for one name at one authority. All times are
// state time, for no replica's clock is everybody's.
type attempts struct {
	Ordering time.Time `json:"ordering,omitzero"` // since when a replica is at it
	By       string    `json:"by,omitempty"`      // server id of who orders, or did last
	Error    string    `json:"error,omitempty"`   // of the last attempt
	ErrorAt  time.Time `json:"error_at,omitzero"`
	Refused  string    `json:"refused,omitempty"` // outcome of the preflight, if that was it

	// Of failures at the authority in a row, and how things were at the last of them.
	Failures  int       `json:"failures,omitempty"`
	NextTry   time.Time `json:"next_try,omitzero"`
	NotBefore time.Time `json:"not_before,omitzero"` // by the authority's own word (Retry-After)
	Addresses []string  `json:"addresses,omitempty"`
	Preflight string    `json:"preflight,omitempty"`
	Settings  string    `json:"settings,omitempty"` // of who failed: tells them from others
	Retry     bool      `json:"retry,omitempty"`    // somebody wants the next attempt now, all the same

	Issued []time.Time `json:"issued,omitempty"` // when the authority last did, and the time before

	// Spent is when the authority will have forgotten all failed validations.
	Spent time.Time `json:"spent,omitzero"`
}

// observation is what a preflight saw.
type observation struct {
	outcome   string
	addresses []string // sorted
	err       error

	settings string // this replica's
	tried    bool   // with them, in vain
}

// What an authority grants: Let's Encrypt lets 5 validations fail per hour, account and
// name, and gives one of them back every 12 minutes.
const (
	validationsBurst  = 5
	validationsRefill = 12 * time.Minute

	// twoRenewals is the least time for them. Let's Encrypt issues five a week.
	twoRenewals = 12 * time.Hour

	// patientFailures in a row are ten hours' worth. Nobody is about to mend it, and of
	// those that go on for weeks an authority pauses the account.
	patientFailures = 50
)

// delay is how long to wait after so many failures in a row. None but the last is longer
// than it takes until the authority grants another.
func delay(failures int) time.Duration {
	if failures > patientFailures {
		return time.Hour
	}
	return min(time.Minute<<min(max(failures, 1)-1, 4), validationsRefill)
}

// admit says whether the authority may be asked now.
func (a *attempts) admit(seen observation, now time.Time) error {
	switch seen.outcome {
	case unresolved, somebodyElse:
		return &RefusedError{Reason: seen.err}
	}
	if a.Retry {
		return nil
	}
	until := a.NextTry
	// There may be nothing to wait for: a retry was taken up by a replica that died since.
	if granted := latest(a.NotBefore, a.replenished()); a.changed(seen) && (a.Preflight == "" || granted.Before(until)) {
		until = granted
	}
	if now.Before(until) {
		return &BackoffError{Until: until, Last: a.Error}
	}
	return nil
}

// backingOff reports whether unchanged circumstances forbid an attempt.
func (a *attempts) backingOff(now time.Time) bool { return now.Before(a.NextTry) }

// retry forgets what keeps the cluster away from the authority. Which of two challenges has
// its turn stays, and what the authority counts is noted for those who come by themselves.
func (a *attempts) retry() { a.Retry, a.NextTry, a.Failures = true, time.Time{}, a.Failures%2 }

// changed reports whether it is worthwhile to try again early.
func (a *attempts) changed(seen observation) bool {
	return seen.outcome != a.Preflight || a.moved(seen)
}

// moved reports whether what an order depends on is another than at the last failure: the
// name's addresses, or this replica's settings. Replicas that are restarted one by one
// differ in these for a while, and would take turns; so it counts until they have failed, too.
func (a *attempts) moved(seen observation) bool {
	return !slices.Equal(seen.addresses, a.Addresses) || seen.settings != a.Settings && !seen.tried
}

// replenished is when one more validation may fail.
func (a *attempts) replenished() time.Time {
	if a.Spent.IsZero() {
		return time.Time{}
	}
	return a.Spent.Add(-(validationsBurst - 1) * validationsRefill)
}

// failed notes a failure at the authority, or on the way there.
func (a *attempts) failed(at *attempt, err error, now time.Time) {
	a.Ordering = time.Time{}
	a.Error, a.ErrorAt, a.Refused, a.Retry = oneLine(err.Error()), now, "", false
	a.Failures++
	pause := delay(1)
	if at.ordered || errors.As(err, new(acme.Problem)) { // the authority refuses, and goes on to
		pause = delay(a.Failures)
	}
	if at.challenged {
		a.Spent = latest(a.Spent, now).Add(validationsRefill)
		if most := now.Add(validationsBurst * validationsRefill); a.Spent.After(most) { // by retries: it doesn't count what it refuses
			a.Spent = most
		}
	}
	a.NotBefore = at.notBefore
	a.NextTry = latest(now.Add(pause), a.NotBefore, a.replenished())
	a.Addresses, a.Preflight, a.Settings = at.seen.addresses, at.seen.outcome, at.seen.settings
}

// succeeded forgets failures, but not what the authority still counts.
func (a *attempts) succeeded() { *a = attempts{By: a.By, Issued: a.Issued, Spent: a.Spent} }

// rested is when a certificate may be renewed at the earliest: an authority may want one
// back at once, but if it says so of the next one too it is wrong, and can be asked again
// at leisure.
func (a *attempts) rested(leaf *x509.Certificate) time.Time {
	if len(a.Issued) < 2 {
		return time.Time{}
	}
	return a.Issued[0].Add(min(leaf.NotAfter.Sub(leaf.NotBefore)/3, twoRenewals))
}

func latest(ts ...time.Time) time.Time {
	return slices.MaxFunc(ts, time.Time.Compare)
}

// recordOf is the name of a record in its collection. A directory's URL can be longer than
// a key.
func (m *Certificates) recordOf(name string) string {
	sum := sha256.Sum256([]byte(m.directory))
	return name + "/" + hex.EncodeToString(sum[:])
}

// attemptsOf reads what is known of a name, which isn't to be changed. A record that can't
// be read must not keep a cluster without a certificate, and the next attempt replaces it.
func (m *Certificates) attemptsOf(name string) *attempts {
	a, _, err := records.Get(m.db.View(), m.recordOf(name))
	if err != nil {
		return &attempts{}
	}
	return a
}

// note changes what the store says of a name. Fn is called again when somebody else wrote
// meanwhile; it returns false if nothing needs to be written. Where nobody can tell whether
// it was, and another wrote since, a failure may count twice.
func (m *Certificates) note(ctx context.Context, name string, fn func(*attempts) bool) error {
	key := m.recordOf(name)
	var last fsm.Op
	err := m.storage.write(ctx, nil, func(v fsm.View) (txn fsm.Txn, done bool, err error) {
		_, record, err := records.Get(v, key)
		switch {
		case record != nil && last.Key != "" && bytes.Equal(record.Value, last.Value):
			// By the try whose answer was lost: what another writes has other times.
			return txn, true, nil
		case err == nil:
			a, err := records.Decode(record) // a copy
			if err != nil || !fn(a) {
				return txn, true, err
			}
			txn.Checks = append(txn.Checks, records.Unchanged(record))
			last, err = records.Update(record, a, 0)
			txn.Ops = append(txn.Ops, last)
			return txn, false, err
		}
		a, check := &attempts{}, records.Absent(key)
		if !fn(a) {
			return txn, true, nil
		}
		if record != nil {
			m.log.Warn("what was noted of a name's orders can't be read and is replaced", "name", name, "error", err)
			check = records.Unchanged(record)
		}
		last, err = records.Put(key, a, 0)
		return fsm.Txn{Checks: []fsm.Check{check}, Ops: []fsm.Op{last}}, false, err
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", records.Key(key), err)
	}
	return nil
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
