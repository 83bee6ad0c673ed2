package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/acme"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// publicCertificates get a certificate that the public trusts; an *acme.Certificates.
type publicCertificates interface {
	Load(ctx context.Context) // what is there already
	Run(ctx context.Context) error
	Certificate(ctx context.Context, name string) (*tls.Certificate, error)
	Current(name string) *tls.Certificate
	Retry(ctx context.Context, name string) (issued bool, err error)
	Statuses() []api.WebCertificate // one for each name; first what users type
	Collector() prometheus.Collector
	challengeAnswers
}

// challengeAnswers prove to an ACME authority that a name is ours; of *acme.Challenges.
type challengeAnswers interface {
	Challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
	HTTPHandler(next http.Handler) http.Handler
}

// webCertificates choose what is shown to who asks for the web name, or for none that
// has an audience of its own: a certificate from files; else ACME's; else the host CA's,
// so that a replica can always be reached by those who know its CA.
type webCertificates struct {
	names      []string                                          // that are ordered, in lower case; the cluster's first
	public     string                                            // host of PublicAddr
	file       atomic.Pointer[certFile]                          // nil: none
	acme       publicCertificates                                // nil: none
	running    chan struct{}                                     // holds something while acme runs
	proofs     challengeAnswers                                  // also where this replica orders nothing; nil until the store is open
	host       func(serverName string) (*tls.Certificate, error) // the host CA's
	slots      *admission                                        // of handshakes that wait for an order
	challenges *admission                                        // of challenges that are looked up
	until      context.Context                                   //nolint:containedctx // ends when this replica begins to stop, which no handshake holds up
	log        *slog.Logger
}

// Handshakes that wait hold what strangers may have in all (see admission) six times as
// long as others. So they may have an eighth of it: who comes when that is taken sees
// the host CA's certificate at once.
const (
	ordersPerNetwork = strangersPerNetwork / 8
	ordersInAll      = strangersInAll / 8
)

// To look a challenge up may cost the cluster a round trip. An authority asks from
// some five places at a time; behind a load balancer they may look like one.
const (
	challengesPerNetwork = 32
	challengesInAll      = 256
)

func newWebCertificates(o Options, host func(string) (*tls.Certificate, error), until context.Context, log *slog.Logger) *webCertificates { //nolint:revive // it is kept, not passed on
	public, _, _ := net.SplitHostPort(o.PublicAddr) // checked before
	return &webCertificates{
		names: o.acmeNames(), public: public, host: host, until: until, log: log, running: make(chan struct{}, 1),
		slots:      &admission{perNetwork: ordersPerNetwork, inAll: ordersInAll, networks: map[netip.Prefix]int{}},
		challenges: &admission{perNetwork: challengesPerNetwork, inAll: challengesInAll, networks: map[netip.Prefix]int{}},
	}
}

// show gives the certificate for a handshake.
func (c *webCertificates) show(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if f := c.file.Load(); f != nil {
		return f.load()
	}
	if c.acme != nil {
		if cert, err := c.ordered(hello); cert != nil || err != nil {
			return cert, err
		}
	}
	return c.host(hello.ServerName)
}

// ordered gives ACME's certificate; nil if there is none. Only a name that was
// configured is ordered: whoever points another one here could use up what the
// authority allows. An error: no certificate is to be shown to this client.
func (c *webCertificates) ordered(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := api.Hostname(hello.ServerName)
	if !slices.Contains(c.names, name) {
		if _, err := netip.ParseAddr(c.public); err == nil && name == "" {
			return nil, nil //nolint:nilnil // who dials the address that users are given: the host CA's is good for it
		}
		for _, name := range slices.Backward(c.names) { // what users type is the last
			if cert := c.acme.Current(name); cert != nil {
				return cert, nil
			}
		}
		return nil, nil //nolint:nilnil // there is none
	}
	if cert := c.acme.Current(name); cert != nil {
		return cert, nil
	}
	network := auth.NetworkOf(clientAddr(hello.Conn.RemoteAddr()))
	if !c.slots.enter(network) {
		return nil, nil //nolint:nilnil // not for this one
	}
	defer c.slots.leave(network)
	return c.await(hello, name)
}

var (
	errStopping = errors.New("this replica stops: connect again, to another")
	errHungUp   = errors.New("the client has gone")
)

// await has a handshake wait for an order.
func (c *webCertificates) await(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	// http.Server has set a deadline for a handshake that waits for the client alone.
	// It takes away the one that is set here when the handshake is over.
	if err := hello.Conn.SetDeadline(time.Now().Add(acme.HandshakeTimeout + handshakeTime)); err != nil {
		return nil, err
	}
	ctx, end := context.WithCancelCause(hello.Context())
	defer end(nil)
	defer context.AfterFunc(c.until, func() { end(errStopping) })()
	unwatch := func() {}
	if hc, ok := hello.Conn.(*helloConn); ok {
		unwatch = hc.watch(func() { end(errHungUp) })
	}
	waiting, cancel := context.WithTimeout(ctx, acme.HandshakeTimeout)
	cert, err := c.acme.Certificate(waiting, name)
	cancel()
	unwatch()
	if ctx.Err() != nil && err != nil {
		// The host CA's would look like the order's outcome.
		return nil, context.Cause(ctx)
	}
	if err != nil {
		c.log.Debug("no certificate by ACME; the host CA's is shown", "name", name, "error", err)
		cert = nil
	}
	if err := hello.Conn.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	return cert, nil
}

// acmeTLS is the protocol by which an authority looks whether we have a name
// (RFC 8737).
const acmeTLS = "acme-tls/1"

// isChallenge says whether a ClientHello is an ACME authority's. It offers nothing but
// that protocol (RFC 8737 section 3); whoever offers others too gets those.
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeTLS
}

var (
	errNoChallenge = errors.New("no certificate is ordered by ACME for this name")
	errChallenges  = errors.New("too many ACME challenges are looked up at a time")
)

// challenge gives the configuration that answers an ACME authority, whichever replica
// ordered: where --acme is given to replicas one by one, the first that has it orders.
// net/http closes a connection that agreed on a protocol it has no handler for: none
// reaches HTTP.
func (c *webCertificates) challenge(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if c.proofs == nil || !slices.Contains(c.names, api.Hostname(hello.ServerName)) {
		return nil, errNoChallenge
	}
	network := auth.NetworkOf(clientAddr(hello.Conn.RemoteAddr()))
	if !c.challenges.enter(network) {
		return nil, errChallenges
	}
	defer c.challenges.leave(network)
	cert, err := c.proofs.Challenge(hello)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{acmeTLS}, Certificates: []tls.Certificate{*cert}, SessionTicketsDisabled: true,
	}, nil
}

// otherName says whether a name is below the cluster's, and none of those that the web
// is served under. People make a wildcard record, because the guide says so.
func otherName(host, clusterName string, names []string) bool {
	host = api.Hostname(host)
	return strings.HasSuffix(host, "."+clusterName) && !slices.Contains(names, host)
}

// refuseName answers who came by such a name: with words, whatever was asked for.
func refuseName(w http.ResponseWriter, publicURL string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, "nothing is served under this name: this is a Sallyport cluster, which is at "+publicURL, http.StatusNotFound)
}
