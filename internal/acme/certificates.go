package acme

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// What callers go by, too.
const (
	// HandshakeTimeout is how long a handshake waits for a certificate: clients and load
	// balancers give up after a minute or so.
	HandshakeTimeout = 60 * time.Second

	// LeadsHereTimeout bounds the look whether a name leads to this cluster.
	LeadsHereTimeout = 5 * time.Second
)

const (
	// backoffRecheck is how long one waits while the cluster stays away from the authority: for
	// a look whether that still makes sense.
	backoffRecheck = time.Second
)

// keyGenerator is for certificates and accounts.
var keyGenerator = certmagic.StandardKeyGenerator{KeyType: certmagic.P256} //nolint:gochecknoglobals // a constant

// Options of Certificates. Names, Storage, DB and ServerID are needed.
type Options struct {
	Names     []string       // the only ones that are ever ordered; what users type is the last
	Email     string         // contact of the account; may be empty
	Directory string         // URL of the ACME server's directory; "": Let's Encrypt
	Roots     *x509.CertPool // whom to trust as ACME server; nil: whom the machine trusts
	RootsID   string         // tells Roots from others: what failed by others may be tried at once
	HTTP01    bool           // HTTPHandler is what port 80 of the names leads to: use it for every second attempt
	Storage   *Storage
	DB        DB
	ServerID  string // of this replica

	// LeadsHere says whether a connection to the name ends at this cluster. False and no
	// error: somebody else answered; an error: it can't tell. Nil: it never can.
	LeadsHere func(ctx context.Context, name string) (bool, error)
	Lookup    func(ctx context.Context, name string) ([]netip.Addr, error) // nil: by the machine's resolver

	Clock  func() time.Time // nil: time.Now
	Rand   io.Reader        // nil: crypto/rand
	Logger *slog.Logger     // nil: none
}

// NotConfiguredError says that a certificate was asked for a name that isn't the cluster's.
type NotConfiguredError struct{ Name string }

func (e *NotConfiguredError) Error() string {
	return fmt.Sprintf("%.255q is none of the names that certificates are ordered for", e.Name)
}

// RefusedError says that nothing was ordered because the name doesn't lead to the cluster.
type RefusedError struct{ Reason error }

func (e *RefusedError) Error() string { return e.Reason.Error() }
func (e *RefusedError) Unwrap() error { return e.Reason }

// BackoffError says that nothing was ordered because the last attempts failed.
type BackoffError struct {
	Until time.Time
	Last  string // error of the last attempt
}

func (e *BackoffError) Error() string {
	return fmt.Sprintf("no certificate is ordered before %s, unless the name's addresses change: %s", e.Until.UTC().Format(time.RFC3339), e.Last)
}

// ErrOrdering is the error (wrapped) of who doesn't wait any longer; the order goes on.
var ErrOrdering = errors.New("the certificate is still being ordered")

var errNotRunning = api.Errorf(api.CodeUnavailable, "ACME isn't running on this replica yet, or no longer")

// Certificates keeps the certificates of the cluster's names.
type Certificates struct {
	*Challenges

	opts      Options
	directory string
	db        DB
	storage   *Storage
	issuer    certmagic.Issuer // the authority
	clock     func() time.Time
	log       *slog.Logger
	settings  string  // tells what orders depend on, beside the directory, from other settings
	jitter    float64 // 0 to 1: this replica's place in the queue for renewals
	subjects  []*subject

	mu      sync.Mutex
	running *runState // nil: not running

	issued, failed atomic.Uint64 // orders of this replica
}

// runState is what Run keeps.
type runState struct {
	ctx    context.Context //nolint:containedctx // orders end with Run, not with the handshake that began them
	config *certmagic.Config
	calls  sync.WaitGroup
}

// subject is a name that certificates are ordered for.
type subject struct {
	name    string
	current atomic.Pointer[held]

	loading   sync.Mutex // held while reading the store: what is read later is newer
	revisions [3]uint64  // of the certificate's files, as loaded; guarded by loading

	mu       sync.Mutex
	call     *call         // nil: none
	replaced chan struct{} // closed when current is
	refused  error         // by the last call, if it turned to nobody
	refusal  time.Time     // when
	told     time.Time     // when this replica last logged why; the call's
	holdOff  time.Time     // the last failure could not be told to the others
	failed   bool          // an order of this replica did, since it started
}

// call is an attempt to get a certificate, of which there is one for a name at a time, as
// by singleflight; but it outlives who waits for it.
type call struct {
	attempt

	done      chan struct{}
	err       error       // after done
	unchanged atomic.Bool // nothing has changed, so far, since the authority's last no
}

// New makes Certificates. It reads and orders nothing before Run.
func New(opts Options) (*Certificates, error) {
	return newCertificates(opts, nil)
}

// newCertificates takes an authority of any kind; nil: the one at Directory.
func newCertificates(opts Options, issuer certmagic.Issuer) (*Certificates, error) {
	if opts.Storage == nil || opts.DB == nil || opts.ServerID == "" || len(opts.Names) == 0 {
		return nil, errors.New("acme: Storage, DB, ServerID and Names are needed")
	}
	if opts.Directory == "" {
		opts.Directory = certmagic.LetsEncryptProductionCA
	}
	if u, err := url.Parse(opts.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the ACME server %q is not an https URL: write the one of its directory, as %s", opts.Directory, certmagic.LetsEncryptProductionCA)
	}
	if opts.Lookup == nil {
		opts.Lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
			// With the dot no search domain of this pod is tried: the authority has others.
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
		}
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	place, err := rand.Int(opts.Rand, big.NewInt(1000))
	if err != nil {
		return nil, fmt.Errorf("acme: random: %w", err)
	}
	m := &Certificates{
		opts: opts, directory: opts.Directory, db: opts.DB, storage: opts.Storage, issuer: issuer,
		clock: opts.Clock, log: opts.Logger, jitter: float64(place.Int64()) / 1000,
		Challenges: NewChallenges(opts.Storage, opts.Names),
	}
	if issuer == nil {
		m.issuer = newACMEIssuer(opts)
	}
	if opts.Email != "" || opts.RootsID != "" { // else as in a record that has none
		sum := sha256.Sum256([]byte(opts.Email + "\n" + opts.RootsID))
		m.settings = hex.EncodeToString(sum[:8])
	}
	for _, given := range opts.Names {
		name := api.Hostname(given)
		if !certmagic.SubjectQualifiesForCert(name) || certmagic.SubjectIsIP(name) || strings.ContainsAny(given, "*/@:") {
			return nil, fmt.Errorf("no certificate can be ordered for %q: ACME needs a DNS name", given)
		}
		if slices.Contains(m.names(), name) {
			continue
		}
		m.subjects = append(m.subjects, &subject{name: name, replaced: make(chan struct{})})
	}
	return m, nil
}

func (m *Certificates) names() []string {
	names := make([]string, len(m.subjects))
	for i, s := range m.subjects {
		names[i] = s.name
	}
	return names
}

// subject finds a name as a client wrote it.
func (m *Certificates) subject(name string) *subject {
	name = api.Hostname(name)
	for _, s := range m.subjects { // one or two
		if s.name == name {
			return s
		}
	}
	return nil
}

// Run keeps up with the store, renews, and owns what is ordered for handshakes. It ends
// with ctx, and with it an order that is under way: another replica takes that up.
func (m *Certificates) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logger := zapLogger(m.log)
	var config *certmagic.Config
	// CertMagic wants a cache. It stays empty, so that its maintenance has nothing to do:
	// that would order without asking what the cluster knows of failures.
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return config, nil },
		Logger:           logger,

		RenewCheckInterval: 24 * time.Hour, OCSPCheckInterval: 24 * time.Hour,
	})
	defer cache.Stop()
	config = certmagic.New(cache, certmagic.Config{
		Storage:             retryingStorage{m.storage},
		Issuers:             []certmagic.Issuer{limitedIssuer{m}},
		KeySource:           keyGenerator,
		DisableStorageCheck: true, // it is a write to every replica for each order
		Logger:              logger,
	})
	l := &runState{ctx: ctx, config: config}
	m.mu.Lock()
	if m.running != nil {
		m.mu.Unlock()
		return errors.New("acme: it runs already")
	}
	m.running = l
	m.mu.Unlock()

	var tasks sync.WaitGroup
	tasks.Go(func() { m.watchStore(ctx) })
	for _, s := range m.subjects {
		tasks.Go(func() { m.renewLoop(ctx, s) })
	}
	<-ctx.Done()
	m.mu.Lock()
	m.running = nil // no more calls
	m.mu.Unlock()
	tasks.Wait()
	l.calls.Wait()
	return nil
}

// Current returns the certificate of a name, nil if there is none that is valid. It
// never waits.
func (m *Certificates) Current(name string) *tls.Certificate {
	if s := m.subject(name); s != nil {
		return s.valid(m.clock())
	}
	return nil
}

// Certificate returns the certificate of a name. If there is none, one is ordered, for
// the whole cluster, and waited for: at most a minute, and after failures only until it is
// clear that nothing has changed, some seconds.
// Upon an error show the host CA's. An order goes on when the handshake that began it ends.
func (m *Certificates) Certificate(ctx context.Context, name string) (*tls.Certificate, error) {
	s := m.subject(name)
	if s == nil {
		return nil, &NotConfiguredError{name}
	}
	if c := s.valid(m.clock()); c != nil {
		return c, nil
	}
	return m.wait(ctx, s)
}

func (m *Certificates) wait(ctx context.Context, s *subject) (*tls.Certificate, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, HandshakeTimeout, ErrOrdering)
	defer cancel()
	var recheck <-chan time.Time
	attempts := m.attemptsOf(s.name)
	if attempts.backingOff(m.clock()) {
		if err := s.recentRefusal(m.clock()); err != nil {
			return nil, err
		}
		ticker := time.NewTicker(backoffRecheck)
		defer ticker.Stop()
		recheck = ticker.C
	}
	f, _, err := m.join(s)
	if err != nil {
		return nil, err
	}
	for {
		replaced := s.watch()
		if c := s.valid(m.clock()); c != nil {
			return c, nil
		}
		select {
		case <-f.done:
			if c := s.valid(m.clock()); c != nil {
				return c, nil
			}
			if f.err == nil {
				return nil, errClock
			}
			return nil, f.err
		case <-replaced: // by another replica, while ours waits for its turn
		case <-recheck:
			if f.unchanged.Load() {
				return nil, &BackoffError{Until: attempts.NextTry, Last: attempts.Error}
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", s.name, context.Cause(ctx))
		}
	}
}

// join joins the call for a name, if one is under way, or starts one.
func (m *Certificates) join(s *subject) (f *call, underWay bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running == nil {
		return nil, false, errNotRunning
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call != nil {
		return s.call, true, nil
	}
	l := m.running
	f = &call{attempt: attempt{subject: s, running: l.ctx}, done: make(chan struct{})}
	s.call = f
	l.calls.Go(func() {
		f.err = m.obtain(l, f)
		m.reportRefusal(l.ctx, &f.attempt, f.err)
		s.mu.Lock()
		s.call, s.refused, s.refusal = nil, nil, m.clock()
		if !f.asked {
			s.refused = f.err
		}
		s.mu.Unlock()
		close(f.done)
	})
	return f, false, nil
}

// valid returns the certificate if it is one at the time.
func (s *subject) valid(now time.Time) *tls.Certificate {
	if h := s.current.Load(); h != nil && now.Before(h.notAfter) {
		return h.cert
	}
	return nil
}

// recentRefusal returns why nothing was ordered just now.
func (s *subject) recentRefusal(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call == nil && now.Before(s.refusal.Add(spacing)) {
		return s.refused
	}
	return nil
}

// watch returns a channel that is closed when the certificate is replaced.
func (s *subject) watch() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replaced
}
