package acme

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/google/go-cmp/cmp"
	"github.com/mholt/acmez/v3/acme"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

const (
	webName       = "tele.example.com"
	testDirectory = "https://acme.test/dir"
)

// world is a cluster of replicas, the authority they order from, and what DNS and the
// network say of the name.
type world struct {
	t         *testing.T
	log       *testLog
	sealer    *seal.Keyring
	authority *fakeAuthority

	mu      sync.Mutex
	addrs   []netip.Addr
	lookup  error
	leads   bool
	tell    error
	lookups int

	configure func(*Options) // of replicas that are made; nil: nothing
}

// member is one replica.
type member struct {
	*Certificates
	world *world
	db    *testDB
	store *Storage
	lines *logLines
	end   func() // ends Run and waits for it
}

// newWorld makes a cluster whose name resolves and leads to it. It is for a synctest
// bubble.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, log: &testLog{}, sealer: newTestSealer(t),
		addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, leads: true,
	}
	w.authority = newFakeAuthority(t)
	return w
}

// set changes the world.
func (w *world) set(fn func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn(w)
}

// start starts a replica.
func (w *world) start(id string) *member {
	w.t.Helper()
	r := w.stopped(id, w.log.replica(w.t))
	r.run()
	return r
}

// stopped makes a replica that doesn't run.
func (w *world) stopped(id string, db *testDB) *member {
	w.t.Helper()
	r := &member{world: w, db: db, lines: &logLines{}}
	logger := slog.New(slog.NewTextHandler(r.lines, nil))
	r.store = NewStorage(StorageOptions{DB: db, Sealer: w.sealer, Owner: id, Logger: logger})
	opts := Options{
		Names: []string{webName}, Directory: testDirectory, HTTP01: true, Storage: r.store, DB: db, ServerID: id, Logger: logger,
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lookups++
			return w.addrs, w.lookup
		},
		LeadsHere: func(context.Context, string) (bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.leads, w.tell
		},
	}
	if w.configure != nil {
		w.configure(&opts)
	}
	m, err := newCertificates(opts, &branch{w.authority, r.store})
	if err != nil {
		w.t.Fatal(err)
	}
	r.Certificates = m
	w.authority.mu.Lock()
	w.authority.replicas = append(w.authority.replicas, m)
	w.authority.mu.Unlock()
	return r
}

func (r *member) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := r.Run(ctx); err != nil {
			r.world.t.Error(err)
		}
	}()
	r.end = sync.OnceFunc(func() { cancel(); <-ended })
	r.world.t.Cleanup(r.end)
	synctest.Wait()
}

// shake is a handshake: the serial number of the certificate shown, or the error.
func (r *member) shake() (string, error) {
	c, err := r.Certificate(context.Background(), webName)
	if err != nil {
		return "", err
	}
	return c.Leaf.SerialNumber.String(), nil
}

// shows is shake where a certificate is due. What follows an order, the handshake doesn't
// wait for; here it is waited for.
func (r *member) shows(want string) {
	r.world.t.Helper()
	if got, err := r.shake(); err != nil || got != want {
		r.world.t.Errorf("%s shows certificate %q (%v), want %q", r.opts.ServerID, got, err, want)
	}
	synctest.Wait()
}

// Status is what is said of the name that users type.
func (r *member) Status() api.WebCertificate { return r.Statuses()[0] }

// serial is the certificate shown without waiting.
func (r *member) serial() string {
	if c := r.Current(webName); c != nil {
		return c.Leaf.SerialNumber.String()
	}
	return ""
}

// fakeAuthority signs what it is asked to, after it has asked a random replica for the
// challenge. Certificates are numbered from 1.
type fakeAuthority struct {
	key *ecdsa.PrivateKey
	ca  *x509.Certificate

	mu       sync.Mutex
	replicas []*Certificates
	orders   []time.Time
	fail     error
	away     bool          // fail is of the way to it
	hold     chan struct{} // not nil: orders wait for it to be closed
	validate bool          // ask for the challenge
	lifetime time.Duration
	serial   int64
	other    bool      // certify another name than is asked for
	window   time.Time // of ARI; zero: none
	asked    int       // for ARI
}

func newFakeAuthority(t testing.TB) *fakeAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake authority"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now(), NotAfter: time.Now().Add(1e6 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeAuthority{key: key, ca: ca, lifetime: 90 * 24 * time.Hour}
}

func (a *fakeAuthority) set(fn func(*fakeAuthority)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn(a)
}

// holdOrders has orders wait for release.
func (a *fakeAuthority) holdOrders() (release func()) {
	hold := make(chan struct{})
	a.set(func(a *fakeAuthority) { a.hold = hold })
	return func() { close(hold) }
}

func (a *fakeAuthority) ordered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.orders)
}

func (a *fakeAuthority) renewalInfo() *acme.RenewalInfo {
	if a.window.IsZero() {
		return nil
	}
	next := time.Now().Add(6 * time.Hour)
	info := &acme.RenewalInfo{SelectedTime: a.window, RetryAfter: &next}
	info.SuggestedWindow.Start, info.SuggestedWindow.End = a.window, a.window.Add(time.Hour)
	return info
}

// branch is the authority as one replica reaches it.
type branch struct {
	*fakeAuthority
	storage *Storage
}

func (*branch) IssuerKey() string { return "acme.test-dir" }

func (b *branch) GetRenewalInfo(context.Context, certmagic.Certificate) (acme.RenewalInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	return *b.renewalInfo(), nil
}

func (b *branch) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	b.mu.Lock()
	b.orders = append(b.orders, time.Now())
	hold, fail, away, validate := b.hold, b.fail, b.away, b.validate
	b.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	at := attemptFrom(ctx)
	at.ordered, at.challenged = !away, !away && fail != nil
	if fail != nil {
		return nil, fail
	}
	if validate {
		if err := b.challenge(ctx, csr.DNSNames[0]); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	cert, err := b.sign(csr)
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		Metadata:    acme.Certificate{URL: "https://acme.test/cert", RenewalInfo: b.renewalInfo()},
	}, nil
}

// sign makes the next certificate. The caller has mu.
func (a *fakeAuthority) sign(csr *x509.CertificateRequest) (*x509.Certificate, error) {
	a.serial++
	names := csr.DNSNames
	if a.other {
		names = []string{"other.example.com"}
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(a.serial), DNSNames: names, NotBefore: time.Now(), NotAfter: time.Now().Add(a.lifetime)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.ca, csr.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// challenge has a replica answer, another one each time.
func (b *branch) challenge(ctx context.Context, name string) error {
	b.mu.Lock()
	n := len(b.orders)
	asked := b.replicas[n%len(b.replicas)]
	b.mu.Unlock()
	s := solver{retryingStorage{b.storage}}
	c := acme.Challenge{
		Type: acme.ChallengeTypeTLSALPN01, Token: fmt.Sprint("token", n), KeyAuthorization: fmt.Sprint("key", n),
		Identifier: acme.Identifier{Type: "dns", Value: name},
	}
	if err := s.Present(ctx, c); err != nil {
		return err
	}
	defer func() { _ = s.CleanUp(ctx, c) }()
	cert, err := asked.Challenge(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		return fmt.Errorf("%s: %w", asked.opts.ServerID, err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return err
	}
	return proves(leaf, c)
}

// logLines collects what a replica logs at level info and above.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns the lines since the last call.
func (l *logLines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.buf.String()), "\n")
	l.buf.Reset()
	return lines
}

func TestFirstHandshakesOfAllReplicasShareOneOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := w.authority.holdOrders()
		replicas := []*member{w.start("a"), w.start("b"), w.start("c")}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := w.authority.ordered(); n != 0 {
			t.Fatalf("%d orders before anybody asked for the name", n)
		}

		var wg sync.WaitGroup
		for _, r := range replicas {
			for range 20 {
				wg.Go(func() {
					if got, err := r.shake(); err != nil || got != "1" {
						t.Errorf("%s shows %q (%v)", r.opts.ServerID, got, err)
					}
				})
			}
		}
		synctest.Wait()
		for _, r := range replicas {
			if st := r.Status(); st.State != api.CertificateOrdering || st.OrderedBy == "" {
				t.Errorf("while ordering, %s says %+v", r.opts.ServerID, st)
			}
		}
		release()
		wg.Wait()
		if n := w.authority.ordered(); n != 1 {
			t.Errorf("%d orders, want 1", n)
		}
		synctest.Wait()
		want := replicas[0].Status()
		if want.State != api.CertificateValid || want.Issuer != "fake authority" || want.NotAfter.IsZero() || want.LastError != "" {
			t.Errorf("status is %+v", want)
		}
		for _, r := range replicas {
			if diff := cmp.Diff(want, r.Status()); diff != "" {
				t.Errorf("%s says otherwise: %s", r.opts.ServerID, diff)
			}
		}
	})
}

// Row 26 of reliability.md.
func TestOtherNamesAreNeverOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		for _, name := range []string{"random.example.com", "", "x." + webName, "*.example.com", "192.0.2.1", strings.Repeat("a", 4000)} {
			var e *NotConfiguredError
			if _, err := r.Certificate(t.Context(), name); !errors.As(err, &e) {
				t.Errorf("%q: %v", name, err)
			}
			if _, err := r.Challenge(&tls.ClientHelloInfo{ServerName: name}); !errors.As(err, &e) {
				t.Errorf("challenge for %q: %v", name, err)
			}
			if r.Current(name) != nil {
				t.Errorf("%q has a certificate", name)
			}
		}
		if n := w.authority.ordered(); n != 0 || w.lookups != 0 {
			t.Errorf("%d orders, %d lookups", n, w.lookups)
		}
		if _, err := r.Certificate(t.Context(), strings.ToUpper(webName)); err != nil {
			t.Errorf("the name in capitals: %v", err)
		}
	})
}

func TestEndOfAHandshakeDoesNotEndTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := w.authority.holdOrders()
		r := w.start("a")
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() { _, err := r.Certificate(ctx, webName); first <- err }()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		began := time.Now()
		if _, err := r.shake(); !errors.Is(err, ErrOrdering) || time.Since(began) != HandshakeTimeout {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		release()
		r.shows("1")
		if n := w.authority.ordered(); n != 1 {
			t.Errorf("%d orders, want 1", n)
		}
	})
}

func TestEndOfRunEndsTheOrderAndIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(a *fakeAuthority) { a.hold = make(chan struct{}) })
		a, b := w.start("a"), w.start("b")
		shook := make(chan error)
		go func() { _, err := a.shake(); shook <- err }()
		synctest.Wait()
		a.end()
		if err := <-shook; err == nil {
			t.Error("a handshake got a certificate from nowhere")
		}
		if _, err := a.shake(); !errors.Is(err, errNotRunning) || !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("after Run: %v", err)
		}
		w.authority.set(func(a *fakeAuthority) { a.hold = nil })
		if st := b.Status(); st.State != api.CertificateNone || st.Failures != 0 {
			t.Errorf("status %+v", st)
		}
		b.shows("1")
	})
}

// Row 22 of reliability.md: nobody waits longer than the lease.
func TestOrderOfAReplicaThatDiesIsFinishedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(a *fakeAuthority) { a.hold = make(chan struct{}) })
		a, b := w.start("a"), w.start("b")
		go func() { _, _ = a.shake() }()
		synctest.Wait()
		a.db.partition(true)
		w.authority.set(func(a *fakeAuthority) { a.hold = nil })
		began := time.Now()
		b.shows("1")
		if waited := time.Since(began); waited > defaultLease+2*time.Second {
			t.Errorf("waited %v", waited)
		}
		if n := w.authority.ordered(); n != 2 {
			t.Errorf("%d orders, want the dead one's and one more", n)
		}
		if st := b.Status(); st.Failures != 0 || st.OrderedBy != "b" {
			t.Errorf("status %+v", st)
		}
	})
}

func TestNothingIsOrderedWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		w.log.lead(false)
		for range 10 {
			if _, err := r.shake(); err == nil {
				t.Fatal("a certificate without a leader")
			}
		}
		if n := w.authority.ordered(); n != 0 {
			t.Errorf("%d orders", n)
		}
		w.log.lead(true)
		r.shows("1")
	})
}

func TestCertificateThatCannotBeStoredIsNotOrderedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.stopped("a", w.log.replica(t))
		var mended atomic.Bool
		r.store.sealer = sealFunc{r.store.sealer, func(key string) error {
			if mended.Load() || !strings.HasSuffix(key, certExt) {
				return nil
			}
			w.log.lead(false) // nor can anybody be told
			return errors.New("it can't be sealed")
		}}
		r.run()
		if _, err := r.shake(); err == nil {
			t.Error("a certificate that nobody else has")
		}
		mended.Store(true)
		w.log.lead(true)
		time.Sleep(30 * time.Second)
		var e *BackoffError
		if _, err := r.shake(); !errors.As(err, &e) || w.authority.ordered() != 1 {
			t.Errorf("%v, %d orders", err, w.authority.ordered())
		}
		time.Sleep(2 * time.Minute)
		r.shows("2")
	})
}

// sealFunc doesn't seal what fn has an error for.
type sealFunc struct {
	Sealer
	fn func(key string) error
}

func (s sealFunc) Seal(key string, plaintext []byte) ([]byte, error) {
	if err := s.fn(key); err != nil {
		return nil, err
	}
	return s.Sealer.Seal(key, plaintext)
}

func TestUnusableCertificateIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		files := r.files(r.subjects[0])
		for i, content := range []string{"garbage", "garbage", "{}"} {
			store(t, r.store, files[i], content)
		}
		r.shows("1")
		store(t, r.store, files[1], "garbage")
		synctest.Wait()
		r.shows("1") // what was read before stays
		if n := w.authority.ordered(); n != 1 {
			t.Errorf("%d orders", n)
		}
	})
}

func TestFastPathDoesNotAllocate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newWorld(t).start("a")
		r.shows("1")
		ctx := t.Context()
		if n := testing.AllocsPerRun(100, func() { _, _ = r.Certificate(ctx, webName) }); n > 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	db := newTestDB(t)
	for _, tc := range []struct{ name, directory, want string }{
		{"192.0.2.1", "", "DNS name"},
		{"*.example.com", "", "DNS name"},
		{"tele.example.com:443", "", "DNS name"},
		{"", "", "DNS name"},
		{webName, "http://acme.test/dir", "https URL"},
		{webName, "acme.test", "https URL"},
	} {
		_, err := New(Options{Names: []string{tc.name}, Directory: tc.directory, DB: db, ServerID: "a", Storage: newTestStorage(t, db)})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q at %q: %v", tc.name, tc.directory, err)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("nothing is needed")
	}
	m, err := New(Options{Names: []string{webName, "Proxy.example.com.", webName}, DB: db, ServerID: "a", Storage: newTestStorage(t, db)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{webName, "proxy.example.com"}, m.names()); diff != "" {
		t.Error(diff)
	}
	st := m.Statuses()[0]
	if st.Directory != certmagic.LetsEncryptProductionCA || st.State != api.CertificateNone {
		t.Errorf("status %+v", st)
	}
}
