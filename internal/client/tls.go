package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// WebOptions say how to verify the public web name.
type WebOptions struct {
	CAs      []byte // PEM; empty: the system's roots
	Pin      string // of the one authority to accept, which the server must present; CAs then don't count
	Insecure bool   // verify nothing; the caller has warned
	Agent    string // User-Agent
}

// NewWeb calls the web name at proxy (host:port). A certificate of an unknown
// authority gives an error in whose chain is an AuthorityError.
func NewWeb(proxy string, opts WebOptions) (*Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: opts.Insecure} //nolint:gosec // asked for by --insecure, which warns
	switch {
	case opts.Insecure:
	case opts.Pin != "":
		host, port, err := SplitProxy(proxy)
		if err != nil {
			return nil, err
		}
		// The verification of crypto/tls gives way to one of our own, which runs
		// inside the handshake: before it has passed, nothing is sent.
		config.InsecureSkipVerify = true
		config.VerifyConnection = verifyPin(net.JoinHostPort(host, port), host, opts.Pin)
	case len(opts.CAs) > 0:
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(opts.CAs) {
			return nil, api.Errorf(api.CodeInvalid, "the CA file holds no PEM certificate")
		}
	}
	return newHTTPS(proxy, config, opts.Agent)
}

// APIOptions say who calls the authenticated API and whom it trusts.
type APIOptions struct {
	ClusterName string
	CertPEM     []byte
	KeyPEM      []byte
	HostCAs     []byte // PEM
	Agent       string // User-Agent
}

// NewAPI calls api.<ClusterName> at proxy (host:port).
func NewAPI(proxy string, opts APIOptions) (*Client, error) {
	cert, err := tls.X509KeyPair(opts.CertPEM, opts.KeyPEM)
	if err != nil {
		return nil, api.Errorf(api.CodeUnauthenticated, "the stored certificate does not load (%w), log in again", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(opts.HostCAs) {
		return nil, api.Errorf(api.CodeUnauthenticated, "the stored login has no host CA, log in again")
	}
	c, err := newHTTPS(proxy, &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: api.APIServerName(opts.ClusterName),
		RootCAs: pool, Certificates: []tls.Certificate{cert},
	}, opts.Agent)
	if err != nil {
		return nil, err
	}
	explain := c.explain
	c.explain = func(err error) error {
		if is[x509.UnknownAuthorityError](err) {
			return api.Errorf(api.CodeForbidden, "the certificate of %s is signed by an authority that your login does not know; if the cluster got another one, run 'tsh logout' and log in again", proxy)
		}
		return explain(err)
	}
	return c, nil
}

func newHTTPS(proxy string, config *tls.Config, agent string) (*Client, error) {
	host, port, err := SplitProxy(proxy)
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort(host, port)
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
	}
	return &Client{
		http: &http.Client{Transport: transport, CheckRedirect: noRedirect},
		base: "https://" + addr, agent: agent, timeout: requestTimeout,
		explain: func(err error) error { return explainTLS(addr, host, err) },
	}, nil
}

func explainSocket(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return api.Errorf(api.CodeUnavailable, "no replica answers on %s: start one with 'sallyport start', run tctl where one runs, or name its socket with --socket", path)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return api.Errorf(api.CodeUnavailable, "the replica on %s hung up: it is stopping, or you are neither root nor its user", path)
	case errors.Is(err, fs.ErrPermission):
		return api.Errorf(api.CodeForbidden, "%s may be used by root and the replica's own user only", path)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return api.Errorf(api.CodeUnavailable, "the replica on %s does not answer", path)
	}
	return api.Errorf(api.CodeUnavailable, "ask the replica on %s: %w", path, rootCause(err))
}

func explainTLS(addr, host string, err error) error {
	var dns *net.DNSError
	var remote *net.OpError
	var timeout net.Error // that of the TLS handshake has no other name
	if unknown, ok := asAuthorityError(addr, host, err); ok {
		return api.Errorf(api.CodeForbidden, "%w", unknown)
	}
	switch cause := rootCause(err); {
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeUnavailable, "%s does not answer", addr)
	case is[x509.HostnameError](err), is[x509.CertificateInvalidError](err), is[*tls.CertificateVerificationError](err):
		return api.Errorf(api.CodeForbidden, "the certificate of %s is not good for it: %w", addr, cause)
	case errors.As(err, &dns):
		return api.Errorf(api.CodeUnavailable, "there is no address for %q: check --proxy (SALLYPORT_PROXY)", dns.Name)
	case errors.As(err, &remote) && remote.Op == "remote error":
		return api.Errorf(api.CodeUnauthenticated, "%s refused the connection (%w); if you are logged in, log in again", addr, remote.Err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return api.Errorf(api.CodeUnavailable, "%s does not answer", addr)
	default:
		return api.Errorf(api.CodeUnavailable, "reach %s: %w", addr, cause)
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// rootCause strips the layers that repeat the address and the method.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		if _, ok := err.(syscall.Errno); ok { //nolint:errorlint // walks the chain itself
			return err
		}
		err = next
	}
}
