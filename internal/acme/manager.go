package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Options of a Manager. Names, Storage, DB, LeadsHere and ServerID must be set.
type Options struct {
	Names     []string       // the only ones that are ever ordered; the first is the cluster's
	Email     string         // contact of the account; may be empty
	Directory string         // URL of the authority's directory; "": Let's Encrypt
	Roots     *x509.CertPool // whom to trust as authority's server; nil: the machine's
	HTTP01    bool           // HTTPHandler is reachable at port 80 of the names
	Storage   *Storage
	DB        DB
	ServerID  string // of this replica

	// LeadsHere says whether a connection to the name ends at this cluster: true: it
	// does; false and no error: somebody else answered; an error: it can't tell.
	LeadsHere func(ctx context.Context, name string) (bool, error)
	Lookup    func(ctx context.Context, name string) ([]netip.Addr, error) // nil: the machine's resolver

	Clock  func() time.Time // nil: time.Now
	Rand   io.Reader        // nil: crypto/rand.Reader
	Logger *slog.Logger     // nil: none
}

// NotConfiguredError says that a certificate was asked for a name that is none of ours.
type NotConfiguredError struct{ Name string }

func (e *NotConfiguredError) Error() string {
	return "no certificate is ordered for " + e.Name + ": it is none of the cluster's names"
}

// Manager keeps the public certificates of the cluster's names.
type Manager struct {
	opts Options
}

// New returns a manager. It orders nothing; Run must run for it to do so.
func New(opts Options) (*Manager, error) {
	return &Manager{opts: opts}, nil
}

// Run watches the store for certificates of other replicas, orders and renews. It ends
// with ctx.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Certificate returns the certificate of a name.
func (m *Manager) Certificate(_ context.Context, name string) (*tls.Certificate, error) {
	return nil, &NotConfiguredError{name}
}

// Current returns the certificate of a name if there is one; it never waits.
func (m *Manager) Current(string) *tls.Certificate { return nil }

// Challenge answers a TLS-ALPN-01 handshake (acme-tls/1), whichever replica ordered.
func (m *Manager) Challenge(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("no live challenge")
}

// HTTPHandler answers HTTP-01 challenges and hands everything else to next.
func (m *Manager) HTTPHandler(next http.Handler) http.Handler { return next }

// Status says the same on every replica.
func (m *Manager) Status() api.WebCertificate {
	return api.WebCertificate{Source: api.CertificateACME, State: api.CertificateNone, Names: m.opts.Names}
}

// Collector returns the metrics.
func (m *Manager) Collector() prometheus.Collector { return collector{} }

type collector struct{}

func (collector) Describe(chan<- *prometheus.Desc) {}
func (collector) Collect(chan<- prometheus.Metric) {}
