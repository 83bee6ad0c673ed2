package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
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

	lookupTimeout    = 5 * time.Second
	leadsHereTimeout = 5 * time.Second

	// afterword bounds the note of how an order ended, when its own context has.
	afterword = 2 * time.Second
)

var (
	errRenewed  = errors.New("there is a certificate meanwhile")
	errNoAnswer = errors.New("nobody said where the name leads")
)

// attempt goes along with CertMagic's contexts to what it calls of ours.
type attempt struct {
	subject  *subject
	seen     observation
	failures int               // in a row, until now
	before   *x509.Certificate // what there was when this was decided; nil: none
	replaces *x509.Certificate // tell the authority (RFC 9773 section 5); nil: none

	notBefore time.Time // by the authority's Retry-After
	issued    bool
}

type attemptKey struct{}

func attemptFrom(ctx context.Context) *attempt {
	at, _ := ctx.Value(attemptKey{}).(*attempt)
	if at == nil {
		at = &attempt{}
	}
	return at
}

// fly gets a certificate that isn't due for renewal into current: another replica's, or
// by an order.
func (m *Manager) fly(l *life, s *subject, f *flight) error {
	h, err := m.load(l.ctx, s)
	found := !errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil && m.clock().Before(h.renewAt):
		return nil
	case err != nil && found && !errors.Is(err, errUnusable):
		return err // nobody knows: an order could be a second one
	}
	if err := s.space(l.ctx, m.clock()); err != nil {
		return err
	}

	at := &attempt{subject: s, seen: m.look(l.ctx, s.name)}
	if l.ctx.Err() != nil {
		return errNotRunning
	}
	attempts := m.attemptsOf(s.name)
	if err := m.admit(s, attempts, at.seen); err != nil {
		m.refuse(l.ctx, s, at.seen, err)
		return err
	}
	at.failures = attempts.Failures
	if h != nil {
		at.before = h.cert.Leaf
		if h.ari.HasWindow() { // else the authority doesn't know what that is
			at.replaces = h.cert.Leaf
		}
	}
	f.ordering.Store(true)
	return m.order(l, at, found)
}

// order has CertMagic order under the cluster's lock. Whether that is still to be done
// once the lock is ours says gate.PreCheck.
func (m *Manager) order(l *life, at *attempt, renew bool) error {
	s := at.subject
	ctx, cancel := context.WithTimeout(context.WithValue(l.ctx, attemptKey{}, at), lockTimeout)
	defer cancel()
	started := m.clock()
	var err error
	if renew {
		// By force: CertMagic wouldn't renew one that it can't read. PreCheck prevents
		// what is too much.
		err = l.config.RenewCertSync(ctx, s.name, true)
	} else {
		err = l.config.ObtainCertSync(ctx, s.name)
	}
	switch {
	case errors.Is(err, errRenewed):
		return nil
	case err != nil && at.issued:
		// It could not be stored. That mustn't happen time and again.
		return m.fail(l.ctx, at, err)
	case err != nil:
		return err
	}
	h, err := m.load(l.ctx, s)
	if err != nil {
		return err
	}
	if !at.issued {
		return nil // another replica's
	}
	m.issued.Add(1)
	m.log.Info("a certificate was issued", "name", s.name, "not_after", h.cert.Leaf.NotAfter, "renew_after", h.renewAt, "took", m.clock().Sub(started))
	err = m.note(l.ctx, s.name, func(a *attempts) bool { a.succeeded(); return true })
	if err != nil {
		m.log.Warn("that a certificate was issued couldn't be told to the other replicas", "name", s.name, "error", err)
	}
	return nil
}

// fail tells the cluster of a failure; if that can't be, this replica at least obeys.
func (m *Manager) fail(ctx context.Context, at *attempt, failure error) error {
	m.failed.Add(1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterword)
	defer cancel()
	var noted attempts
	err := m.note(ctx, at.subject.name, func(a *attempts) bool {
		a.failed(at.seen, failure, at.notBefore, m.clock())
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

// gate stands between CertMagic and the authority. It is called with the lock.
type gate struct{ m *Manager }

// IssuerKey implements certmagic.Issuer.
func (g gate) IssuerKey() string { return g.m.issuer.IssuerKey() }

// PreCheck implements certmagic.PreChecker: whether to order after all, since it may
// have been done, or have failed, while we waited for the lock.
func (g gate) PreCheck(ctx context.Context, _ []string, _ bool) error {
	m, at := g.m, attemptFrom(ctx)
	s := at.subject
	h, err := m.load(ctx, s)
	switch {
	case err == nil && m.clock().Before(h.notAfter) && (m.clock().Before(h.renewAt) || !h.cert.Leaf.Equal(at.before)):
		return errRenewed
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errUnusable):
		return err
	}
	known := m.attemptsOf(s.name)
	if err := m.admit(s, known, at.seen); err != nil {
		return err
	}
	at.failures = known.Failures
	m.log.Debug("a certificate is being ordered", "name", s.name, "directory", m.directory, "preflight", at.seen.outcome, "addresses", at.seen.addresses)
	// An order whose outcome couldn't be written down isn't begun.
	return m.note(ctx, s.name, func(a *attempts) bool {
		a.Ordering, a.By, a.Refused = m.clock(), m.opts.ServerID, ""
		return true
	})
}

// Issue implements certmagic.Issuer.
func (g gate) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	m, at := g.m, attemptFrom(ctx)
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	cert, err := m.issuer.Issue(ctx, csr)
	if err == nil {
		at.issued = true
		return cert, nil
	}
	switch {
	case errors.Is(err, ErrLockLost):
		// Another replica's turn, and its word.
	case errors.Is(ctx.Err(), context.Canceled):
		// This replica ends. The others may go on at once.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterword)
		defer cancel()
		if err := m.note(ctx, at.subject.name, func(a *attempts) bool { a.Ordering = time.Time{}; return true }); err != nil {
			m.log.Debug("an order's end isn't noted", "error", err)
		}
	default:
		err = m.fail(ctx, at, plain(err))
	}
	return nil, err
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
func (m *Manager) admit(s *subject, a *attempts, seen observation) error {
	now := m.clock()
	if err := a.admit(seen, now); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.holdOff) {
		return &BackoffError{Until: s.holdOff, Last: "the last attempt failed, and the other replicas couldn't be told"}
	}
	return nil
}

// space waits until it is time for another look.
func (s *subject) space(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	rest := s.refusal.Add(spacing).Sub(now)
	if s.refused == nil {
		rest = 0
	}
	s.mu.Unlock()
	if rest <= 0 {
		return nil
	}
	timer := time.NewTimer(min(rest, spacing))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errNotRunning
	}
}

// look is the preflight: whether the name leads to this cluster.
func (m *Manager) look(ctx context.Context, name string) observation {
	lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := m.opts.Lookup(lookup, name)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no address")
	}
	if err != nil {
		return observation{outcome: unresolved, err: fmt.Errorf("%s does not resolve, so nothing is ordered: create a DNS record that leads it to this cluster's load balancer: %w", name, err)}
	}
	seen := observation{outcome: unknown, addresses: addressStrings(addrs), err: errNoAnswer}
	if m.opts.LeadsHere == nil {
		return seen
	}
	connect, cancel := context.WithTimeout(ctx, leadsHereTimeout)
	defer cancel()
	leads, err := m.opts.LeadsHere(connect, name)
	switch {
	case err != nil:
		seen.err = err
	case leads:
		seen.outcome, seen.err = ours, nil
	default:
		seen.outcome = somebodyElse
		seen.err = fmt.Errorf("%s leads to %v, where somebody else answers, so nothing is ordered: make its DNS record lead to this cluster's load balancer", name, seen.addresses)
	}
	return seen
}

// refuse tells the cluster why nothing is ordered: once a minute at most, because
// anybody's handshake leads here.
func (m *Manager) refuse(ctx context.Context, s *subject, seen observation, reason error) {
	var refused *RefusedError
	if !errors.As(reason, &refused) {
		return // it is known
	}
	ctx, cancel := context.WithTimeout(ctx, afterword)
	defer cancel()
	now, noted := m.clock(), false
	err := m.note(ctx, s.name, func(a *attempts) bool {
		noted = a.Refused != seen.outcome || now.Sub(a.ErrorAt) >= time.Minute
		if noted {
			a.Refused, a.Error, a.ErrorAt = seen.outcome, oneLine(reason.Error()), now
		}
		return noted
	})
	if err != nil || noted {
		m.log.Warn("no certificate is ordered", "name", s.name, "reason", reason, "store_error", err)
	}
}
