package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

const (
	// renewLookEvery bounds how long nobody looks whether a certificate is due: the machine's
	// clock may jump.
	renewLookEvery = time.Hour

	// refusedEvery is between two tries to renew where no handshake asks and no failure
	// is on record.
	refusedEvery = 10 * time.Minute

	// loadTimeout bounds the reading of a certificate.
	loadTimeout = 10 * time.Second

	// maxJitter bounds by how much replicas renew one after the other: without it each
	// of them would do a preflight, to learn from the lock that it was the second.
	maxJitter = time.Minute

	ariEvery      = 6 * time.Hour // if the authority doesn't say (RFC 9773 section 4.3.3)
	ariAtMost     = 24 * time.Hour
	ariAfterError = time.Hour
)

// errUnusable is of a certificate that nobody can be shown.
var errUnusable = errors.New("the stored certificate can't be used")

// held is a certificate as stored, valid or not.
type held struct {
	cert     *tls.Certificate // with Leaf
	notAfter time.Time
	renewAt  time.Time
	ari      acme.RenewalInfo
	askAt    time.Time // when to ask the authority again when it wants us to renew; zero: it knows no ARI
}

// load reads the certificate of a name and puts it into current. It is fs.ErrNotExist if
// there is none, errUnusable if there is one that can't be shown; any other error says
// nothing about whether there is one.
func (m *Certificates) load(ctx context.Context, s *subject) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	s.loading.Lock()
	defer s.loading.Unlock()
	before := m.stored(s)
	var files [3][]byte
	for i, name := range m.files(s) {
		value, err := m.storage.Load(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read the certificate of %s: %w", s.name, err)
		}
		files[i] = value
	}
	h, err := newHeld(s.name, files[0], files[1], files[2])
	if err != nil {
		return nil, err
	}
	s.revisions = before
	s.current.Store(h)
	s.mu.Lock()
	close(s.replaced)
	s.replaced = make(chan struct{})
	s.mu.Unlock()
	return h, nil
}

// files are the paths of certificate, key and metadata.
func (m *Certificates) files(s *subject) [3]string {
	keys, issuer := certmagic.StorageKeys, m.issuer.IssuerKey()
	return [3]string{keys.SiteCert(issuer, s.name), keys.SitePrivateKey(issuer, s.name), keys.SiteMeta(issuer, s.name)}
}

// stored are the files' revisions.
func (m *Certificates) stored(s *subject) (revisions [3]uint64) {
	v := m.db.View()
	for i, name := range m.files(s) {
		revisions[i] = v.Revision(filesPrefix + name)
	}
	return revisions
}

func newHeld(name string, certPEM, keyPEM, meta []byte) (*held, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUnusable, name, err)
	}
	if err := pair.Leaf.VerifyHostname(name); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnusable, err)
	}
	h := &held{cert: &pair, notAfter: pair.Leaf.NotAfter}
	var res certmagic.CertificateResource
	var about acme.Certificate
	// Without them the certificate is as good: it is renewed by its age, after repairMetadata.
	if json.Unmarshal(meta, &res) == nil && json.Unmarshal(res.IssuerData, &about) == nil && about.RenewalInfo != nil {
		h.ari = *about.RenewalInfo
		h.askAt = pair.Leaf.NotBefore.Add(ariAfterError) // it wasn't there when it issued
		if h.ari.HasWindow() && h.ari.RetryAfter != nil {
			h.askAt = *h.ari.RetryAfter
		}
	}
	h.renewAt = renewAt(pair.Leaf, h.ari)
	return h, nil
}

// renewAt is when to renew: as the authority suggests (ARI), else when a third of the
// life is left; but when a twentieth is, whatever the authority suggests. CertMagic's rule.
func renewAt(leaf *x509.Certificate, ari acme.RenewalInfo) time.Time {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if !ari.HasWindow() || ari.SelectedTime.IsZero() {
		return leaf.NotAfter.Add(-life / 3)
	}
	if last := leaf.NotAfter.Add(-life / 20); ari.SelectedTime.After(last) {
		return last
	}
	return ari.SelectedTime
}

// Load takes over what the store has, as this replica has it. Call it before the first
// handshake comes: that would see the host CA's certificate until Run has done so.
func (m *Certificates) Load(ctx context.Context) { _ = m.loadChanged(ctx) }

// loadChanged takes over what other replicas have stored, and says whether that is all.
func (m *Certificates) loadChanged(ctx context.Context) (whole bool) {
	whole = true
	for _, s := range m.subjects {
		revisions := m.stored(s)
		s.loading.Lock()
		same := revisions == s.revisions
		s.loading.Unlock()
		if same || revisions[0] == 0 {
			continue
		}
		if _, err := m.load(ctx, s); err != nil && ctx.Err() == nil {
			m.log.Warn("a certificate in the store isn't taken over", "name", s.name, "error", err)
			whole = false
		}
	}
	return whole
}

// watchStore takes over what other replicas store.
func (m *Certificates) watchStore(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		_, changed := m.db.View().WatchPrefix(filesPrefix + "certificates/")
		if !m.loadChanged(ctx) {
			retry.Reset(loadTimeout)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-retry.C:
		}
	}
}

// renewLoop renews the certificate of a name, once there is one.
func (m *Certificates) renewLoop(ctx context.Context, s *subject) {
	var renewAfter, askAfter time.Time // whatever else says earlier
	for ctx.Err() == nil {
		replaced := s.watch()
		pause := renewLookEvery
		if h := s.current.Load(); h != nil {
			now := m.clock()
			ask, known := latest(h.askAt, askAfter), m.attemptsOf(s.name)
			renew := latest(m.due(h), known.NextTry, known.rested(h.cert.Leaf), renewAfter)
			switch {
			case !h.askAt.IsZero() && !now.Before(ask):
				m.refreshARI(ctx, s)
				askAfter = now.Add(ariAfterError) // if it didn't say
				continue
			case !now.Before(renew):
				renewAfter = m.renew(ctx, s)
				continue
			}
			pause = min(pause, renew.Sub(now))
			if !h.askAt.IsZero() {
				pause = min(pause, ask.Sub(now))
			}
		}
		if await(ctx, replaced, pause) != nil {
			return
		}
	}
}

// due is when this replica renews.
func (m *Certificates) due(h *held) time.Time {
	jitter := min(h.cert.Leaf.NotAfter.Sub(h.cert.Leaf.NotBefore)/100, maxJitter)
	return h.renewAt.Add(time.Duration(m.jitter * float64(jitter)))
}

// renew returns when to try again at the earliest, whatever the record of attempts says.
func (m *Certificates) renew(ctx context.Context, s *subject) time.Time {
	f, _, err := m.join(s)
	if err == nil {
		select {
		case <-f.done:
			err = f.err
		case <-ctx.Done():
		}
	}
	if errors.Is(err, errNotRunning) {
		<-ctx.Done() // it is how Run ends
	}
	now := m.clock()
	if m.attemptsOf(s.name).backingOff(now) {
		return time.Time{} // the record says when
	}
	if err != nil {
		return now.Add(refusedEvery)
	}
	return now.Add(time.Minute)
}

// refreshARI asks the authority when to renew: a certificate that it is about to revoke
// has to go early. One replica asks, and tells the others by the store.
func (m *Certificates) refreshARI(ctx context.Context, s *subject) {
	getter, ok := m.issuer.(certmagic.RenewalInfoGetter)
	if !ok {
		return
	}
	unlock, err := m.tryLock(ctx, s)
	if unlock == nil {
		if err != nil {
			m.log.Debug("nobody asks when to renew", "name", s.name, "error", err)
		}
		return
	}
	defer unlock()
	h, err := m.load(ctx, s)
	if err != nil || h.askAt.IsZero() || m.clock().Before(h.askAt) {
		return // it was another replica's turn
	}
	ask, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	info, err := getter.GetRenewalInfo(ask, certmagic.Certificate{Certificate: *h.cert})
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		m.log.Info("the ACME server doesn't say when to renew", "name", s.name, "error", err)
		return
	}
	now := m.clock()
	if info.RetryAfter == nil || !info.RetryAfter.After(now) {
		at := now.Add(ariEvery)
		info.RetryAfter = &at
	} else if limit := now.Add(ariAtMost); info.RetryAfter.After(limit) {
		info.RetryAfter = &limit
	}
	if info.SameWindow(h.ari) && !h.ari.SelectedTime.IsZero() {
		info.SelectedTime = h.ari.SelectedTime
	} else {
		m.log.Info("the ACME server has moved the renewal", "name", s.name, "from", h.ari.SelectedTime, "to", info.SelectedTime, "explanation", oneLine(info.ExplanationURL))
	}
	if err := m.storeARI(ctx, s, info); err != nil {
		m.log.Info("when to renew can't be stored", "name", s.name, "error", err)
		return
	}
	if _, err := m.load(ctx, s); err != nil {
		m.log.Debug("the new renewal time isn't known here", "name", s.name, "error", err)
	}
}

func (m *Certificates) storeARI(ctx context.Context, s *subject, info acme.RenewalInfo) error {
	file := m.files(s)[2]
	value, err := m.storage.Load(ctx, file)
	if err != nil {
		return fmt.Errorf("read a certificate's metadata: %w", err)
	}
	var res certmagic.CertificateResource
	var about acme.Certificate
	if err := json.Unmarshal(value, &res); err != nil {
		return fmt.Errorf("decode a certificate's metadata: %w", err)
	}
	if err := json.Unmarshal(res.IssuerData, &about); err != nil {
		return fmt.Errorf("decode a certificate's metadata: %w", err)
	}
	about.RenewalInfo = &info
	if res.IssuerData, err = json.Marshal(about); err != nil {
		return fmt.Errorf("encode a certificate's metadata: %w", err)
	}
	if value, err = json.MarshalIndent(res, "", "\t"); err != nil {
		return fmt.Errorf("encode a certificate's metadata: %w", err)
	}
	if err := m.storage.Store(ctx, file, value); err != nil {
		return fmt.Errorf("store a certificate's metadata: %w", err)
	}
	return nil
}

// tryLock takes the lock of orders for a name, for the metadata to be nobody else's. It
// returns nil if somebody has it.
func (m *Certificates) tryLock(ctx context.Context, s *subject) (unlock func(), err error) {
	lock := certificateLock(s.name)
	if ok, err := m.storage.TryLock(ctx, lock); !ok {
		return nil, err
	}
	return func() {
		if err := m.storage.Unlock(context.WithoutCancel(ctx), lock); err != nil {
			m.log.Debug("a lock stays until its lease ends", "lock", lock, "error", err)
		}
	}, nil
}
