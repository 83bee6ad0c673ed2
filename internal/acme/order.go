package acme

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

const (
	// orderTimeout bounds an order, lockTimeout also the wait for another replica's.
	orderTimeout = 5 * time.Minute
	lockTimeout  = 2 * orderTimeout

	// spacing is the least time between two looks at where a name leads: strangers'
	// handshakes start them.
	spacing = 500 * time.Millisecond

	lookupTimeout = 5 * time.Second

	// noteTimeout bounds the note of how an order ended, when its own context has.
	noteTimeout = 2 * time.Second

	// Resolvers remember for a while that a name had no address. So one that didn't resolve
	// when it was asked for before is looked up again and again; but not where somebody
	// asks all the time, for that would be a long wait for each of them.
	resolvePatience = 25 * time.Second
	resolveEvery    = 2 * time.Second
	resolverMemory  = 30 * time.Second
	resolveSpacing  = 5 * time.Second

	// tellEvery is the least time between two notes of why nothing is ordered: anybody's
	// handshake leads to one.
	tellEvery = time.Minute
)

var (
	errRenewed  = errors.New("there is a certificate meanwhile")
	errNoAnswer = errors.New("nobody said where the name leads")
	errClock    = errors.New("this replica's clock is wrong: by it the certificate has ended, by the cluster's it hasn't")
)

// attempt goes along with CertMagic's contexts to what it calls of ours.
type attempt struct {
	subject  *subject
	running  context.Context //nolint:containedctx // Run's, which what was issued outlasts, not only the order
	seen     observation
	began    time.Time         // when the lock was had, by state time
	failures int               // in a row, until now
	before   *x509.Certificate // what there was when this was decided; nil: none
	replaces *x509.Certificate // tell the authority (RFC 9773 section 5); nil: none

	progress
}

// progress is how far an attempt came.
type progress struct {
	asked      bool // somebody was turned to: this isn't a refusal
	ordered    bool // the authority was asked for an order
	challenged bool // and may have looked for the proof
	issued     bool
	told       bool // the cluster knows how it ended

	retried  bool // by somebody's wish, which this took up
	unlocked bool // the lock was given away

	revision uint64            // revision of the certificate's file when the lock was had
	files    map[string][]byte // of what was issued, by path

	notBefore time.Time // by the authority's Retry-After, by this replica's clock
}

type attemptKey struct{}

func attemptFrom(ctx context.Context) *attempt {
	at, _ := ctx.Value(attemptKey{}).(*attempt)
	if at == nil {
		at = &attempt{}
	}
	return at
}

// obtain gets a certificate that isn't due for renewal into current: another replica's, or
// by an order.
func (m *Certificates) obtain(l *runState, f *call) error {
	at := &f.attempt
	s := at.subject
	s.mu.Lock()
	refused, ago := s.refused != nil, m.clock().Sub(s.refusal)
	s.mu.Unlock()
	if rest := spacing - ago; refused && rest > 0 {
		_ = await(l.ctx, nil, min(rest, spacing))
	}
	h, err := m.load(l.ctx, s)
	switch {
	case err == nil && m.clock().Before(h.renewAt):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errUnusable):
		return err // nobody knows: an order could be a second one
	}
	attempts := m.attemptsOf(s.name)
	until := m.clock()
	if attempts.Refused == unresolved && resolveSpacing < ago && ago < resolverMemory {
		until = until.Add(resolvePatience)
	}
	at.seen = m.resolve(l.ctx, s.name, until)
	s.mu.Lock()
	at.seen.settings, at.seen.tried = m.settings, s.failed
	s.mu.Unlock()
	moved := attempts.Retry || attempts.moved(at.seen) && !m.clock().Before(latest(attempts.NotBefore, attempts.replenished()))
	f.unchanged.Store(!moved)
	m.probe(l.ctx, s.name, &at.seen)
	if l.ctx.Err() != nil {
		return errNotRunning
	}
	if err := m.admit(s, attempts, at.seen, m.clock()); err != nil {
		return err
	}
	f.unchanged.Store(false)
	if h != nil {
		at.before = h.cert.Leaf
		if h.ari.HasWindow() { // else the authority doesn't know what that is
			at.replaces = h.cert.Leaf
		}
	}
	return m.order(l, at)
}

// order has CertMagic order under the cluster's lock. Whether that is still to be done
// once the lock is ours says limitedIssuer.PreCheck.
func (m *Certificates) order(l *runState, at *attempt) error {
	s := at.subject
	ctx, cancel := context.WithTimeout(context.WithValue(l.ctx, attemptKey{}, at), lockTimeout)
	defer cancel()
	started := m.clock()
	if err := m.repairMetadata(ctx, s); err != nil {
		return err
	}
	var err error
	for range 2 {
		// By force, for CertMagic wouldn't renew one that it can't read; PreCheck prevents
		// what is too much. Of one that isn't there it makes a first one.
		if err = l.config.RenewCertSync(ctx, s.name, true); !errors.Is(err, ErrLockLost) || at.issued {
			break
		}
	}
	// What has been issued is seen to, even if this replica ends.
	ctx = context.WithoutCancel(ctx)
	switch {
	case errors.Is(err, errRenewed):
		if s.valid(m.clock()) == nil {
			return errClock
		}
		return nil
	case err != nil && !at.issued:
		return err
	}
	h, loadErr := m.load(ctx, s)
	if block, _ := pem.Decode(at.files[m.files(s)[0]]); loadErr == nil && block != nil && bytes.Equal(block.Bytes, h.cert.Leaf.Raw) {
		err = nil // it is there, though nobody could tell
	}
	if loadErr == nil && h.notAfter.Before(at.began) {
		loadErr = fmt.Errorf("the authority's certificate ended at %s", h.notAfter.UTC().Format(time.RFC3339))
	}
	switch {
	case loadErr == nil && err != nil && !h.cert.Leaf.Equal(at.before):
		return nil // another replica's
	case at.issued && (err != nil || loadErr != nil):
		// It is none that could be used. That mustn't happen time and again.
		return m.fail(ctx, at, errors.Join(err, loadErr))
	case !at.issued:
		return loadErr // another replica's
	}
	m.issued.Add(1)
	m.log.Info("a certificate was issued", "name", s.name, "not_after", h.cert.Leaf.NotAfter, "renew_after", h.renewAt, "took", m.clock().Sub(started))
	ctx, cancel = context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	if err := m.note(ctx, s.name, func(a *attempts) bool { a.succeeded(); return true }); err != nil {
		m.log.Warn("that a certificate was issued couldn't be told to the other replicas", "name", s.name, "error", err)
	}
	return nil
}

// repairMetadata replaces metadata that can't be read: CertMagic would neither renew nor replace
// the certificate.
func (m *Certificates) repairMetadata(ctx context.Context, s *subject) error {
	file := m.files(s)[2]
	value, err := m.storage.Load(ctx, file)
	var res certmagic.CertificateResource
	if errors.Is(err, fs.ErrNotExist) || err == nil && json.Unmarshal(value, &res) == nil {
		return nil
	}
	if err != nil {
		return err
	}
	unlock, err := m.tryLock(ctx, s)
	if unlock == nil {
		return err // by whoever has the lock
	}
	defer unlock()
	return m.storage.Store(ctx, file, []byte("{}"))
}

// stateTime is the cluster's. Who has a lock has it to within seconds, however wrong this
// replica's clock.
func (m *Certificates) stateTime() time.Time { return m.db.View().AtStateTime().Now() }

// fail tells the cluster of a failure; if that can't be, this replica at least obeys.
func (m *Certificates) fail(ctx context.Context, at *attempt, failure error) error {
	m.failed.Add(1)
	at.told = true
	at.subject.mu.Lock()
	at.subject.failed = true
	at.subject.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	now := m.stateTime()
	if !at.notBefore.IsZero() {
		at.notBefore = at.notBefore.Add(now.Sub(m.clock()))
	}
	var noted attempts
	err := m.note(ctx, at.subject.name, func(a *attempts) bool {
		a.failed(at, failure, now)
		noted = *a
		return true
	})
	if err != nil {
		at.subject.mu.Lock()
		at.subject.holdOff = m.clock().Add(delay(at.failures + 1))
		at.subject.mu.Unlock()
		m.log.Warn("a certificate couldn't be ordered, nor the other replicas told so", "name", at.subject.name, "error", failure, "store_error", err)
		return failure
	}
	m.log.Warn("a certificate couldn't be ordered", "name", at.subject.name, "failures", noted.Failures, "next_try", noted.NextTry, "error", noted.Error)
	return failure
}

// limitedIssuer stands between CertMagic and the authority. It is called with the lock.
type limitedIssuer struct{ m *Certificates }

// IssuerKey implements certmagic.Issuer.
func (g limitedIssuer) IssuerKey() string { return g.m.issuer.IssuerKey() }

// PreCheck implements certmagic.PreChecker: whether to order after all, since it may
// have been done, or have failed, while we waited for the lock.
func (g limitedIssuer) PreCheck(ctx context.Context, _ []string, _ bool) error {
	m, at := g.m, attemptFrom(ctx)
	s := at.subject
	at.progress = progress{revision: m.stored(s)[0]} // an order whose lock was lost begins anew
	h, err := m.load(ctx, s)
	now, known := m.stateTime(), m.attemptsOf(s.name)
	switch {
	case err == nil && now.Before(h.notAfter) && (now.Before(latest(h.renewAt, known.rested(h.cert.Leaf))) || !h.cert.Leaf.Equal(at.before)):
		return errRenewed
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errUnusable):
		return err
	}
	if err := m.admit(s, known, at.seen, now); err != nil {
		return err
	}
	at.began, at.failures = now, known.Failures
	m.log.Debug("a certificate is being ordered", "name", s.name, "directory", m.directory, "preflight", at.seen.outcome, "addresses", at.seen.addresses)
	// An order whose outcome couldn't be written down isn't begun.
	return m.note(ctx, s.name, func(a *attempts) bool {
		at.retried = at.retried || a.Retry
		a.Ordering, a.By, a.Refused, a.Retry = now, m.opts.ServerID, "", false
		return true
	})
}

// Issue implements certmagic.Issuer.
func (g limitedIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	m, at := g.m, attemptFrom(ctx)
	at.asked = true
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	cert, err := m.issuer.Issue(ctx, csr)
	switch {
	case err == nil:
		at.issued = true
		now := m.stateTime()
		// With the lock still: whoever has it next knows.
		if err := m.note(ctx, at.subject.name, func(a *attempts) bool {
			a.Issued = append(a.Issued[max(0, len(a.Issued)-1):], now)
			return true
		}); err != nil {
			m.log.Debug("when a certificate was issued isn't noted", "error", err)
		}
		return cert, nil
	case errors.Is(err, ErrLockLost), unavailable(err), errors.Is(ctx.Err(), context.Canceled):
		// Another replica's turn; or nobody's, without a leader; or this replica ends. None
		// of it is the authority's word, and any replica may go on at once.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
		defer cancel()
		ended := m.note(ctx, at.subject.name, func(a *attempts) bool {
			a.Ordering, a.Retry = time.Time{}, a.Retry || at.retried
			return a.By == m.opts.ServerID
		})
		if ended != nil {
			m.log.Debug("an order's end isn't noted", "error", ended)
		}
		return nil, err
	}
	return nil, m.fail(ctx, at, plain(err))
}

// plain leaves away what acmez wraps around an authority's own words.
func plain(err error) error {
	var problem acme.Problem
	if errors.As(err, &problem) && problem.Detail != "" {
		return fmt.Errorf("the authority says: %w", problem)
	}
	return err
}

// admit says whether the authority may be asked.
func (m *Certificates) admit(s *subject, a *attempts, seen observation, now time.Time) error {
	if err := a.admit(seen, now); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.clock().Before(s.holdOff) {
		return &BackoffError{Until: s.holdOff, Last: "the last attempt failed, and the other replicas couldn't be told"}
	}
	return nil
}

// resolve is the first half of the preflight: whether the name has an address. One that
// has none is looked up again until the time given.
func (m *Certificates) resolve(ctx context.Context, name string, until time.Time) observation {
	for {
		lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
		addrs, err := m.opts.Lookup(lookup, name)
		cancel()
		if len(addrs) > 0 && err == nil {
			return observation{outcome: unknown, addresses: addressStrings(addrs), err: errNoAnswer}
		}
		if err == nil {
			err = errors.New("it has no address")
		}
		if !m.clock().Add(resolveEvery).Before(until) || await(ctx, nil, resolveEvery) != nil {
			return observation{outcome: unresolved, err: fmt.Errorf("%s does not resolve, so nothing is ordered: create a DNS record that leads it to this cluster's load balancer: %w", name, err)}
		}
	}
}

// probe is the second: whether the address is this cluster's.
func (m *Certificates) probe(ctx context.Context, name string, seen *observation) {
	if seen.outcome == unresolved || m.opts.LeadsHere == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, LeadsHereTimeout)
	defer cancel()
	leads, err := m.opts.LeadsHere(ctx, name)
	switch {
	case err != nil:
		seen.err = err
	case leads:
		seen.outcome, seen.err = ours, nil
	default:
		seen.outcome = somebodyElse
		seen.err = fmt.Errorf("%s leads to %s, where somebody else answers, so nothing is ordered: make its DNS record lead to this cluster's load balancer; if a proxy in front is meant to answer, start replicas with --acme-preflight=off", name, strings.Join(seen.addresses, ", "))
	}
}

// reportRefusal tells the cluster why nothing was ordered, unless it knows, or it is this
// replica's own affair. It is no failure at the authority.
func (m *Certificates) reportRefusal(ctx context.Context, at *attempt, reason error) {
	var backoff *BackoffError
	if reason == nil || at.told || ctx.Err() != nil || errors.As(reason, &backoff) {
		return
	}
	var refused string
	if !at.asked && errors.As(reason, new(*RefusedError)) {
		refused = at.seen.outcome
	}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	s, now := at.subject, m.clock()
	var err error
	noted := false
	if !errors.Is(reason, errClock) {
		err = m.note(ctx, s.name, func(a *attempts) bool {
			noted = a.Refused != refused || now.Sub(a.ErrorAt).Abs() >= tellEvery
			if noted {
				a.Refused, a.Error, a.ErrorAt = refused, oneLine(reason.Error()), now
			}
			return noted
		})
	}
	if noted || now.Sub(s.told) >= tellEvery && (err != nil || errors.Is(reason, errClock)) {
		s.told = now
		attrs := []any{"name", s.name, "reason", reason}
		if err != nil { // the other replicas weren't told so
			attrs = append(attrs, "store_error", err)
		}
		m.log.Warn("no certificate is ordered", attrs...)
	}
}
