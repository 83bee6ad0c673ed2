package sso

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Bounds of what an identity provider may do to us.
const (
	MaxWait      = 10 * time.Second // for one answer
	maxBody      = 1 << 20          // of an answer, unpacked
	maxHeaders   = 256 << 10
	maxRedirects = 3
	dialTimeout  = 3 * time.Second
	tlsTimeout   = 3 * time.Second
	headTimeout  = 5 * time.Second
	idleTimeout  = 30 * time.Second
)

// refusal is an error whose text is ours alone, so that anybody may read it.
type refusal string

func (r refusal) Error() string { return string(r) }

// StatusError is an answer with another status than was asked for.
type StatusError int

func (s StatusError) Error() string {
	// the status line's own text is the server's
	if text := http.StatusText(int(s)); text != "" {
		return fmt.Sprintf("it answered %d %s", int(s), text)
	}
	return fmt.Sprintf("it answered with status %d", int(s))
}

// NewClient is the one way to ask identity providers: https alone, no cookies,
// redirects within the same scheme, host and port, and bounds on time and size, so
// that a provider which hangs or babbles holds nobody up. The transport is nil but in
// tests: then it takes certificates that the system trusts, and proxies of the
// environment.
func NewClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    tlsTimeout,
			ResponseHeaderTimeout:  headTimeout,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxHeaders,
			ForceAttemptHTTP2:      true,
		}
	}
	return &http.Client{Transport: &bounded{transport}, Timeout: MaxWait, CheckRedirect: checkRedirect}
}

// checkRedirect keeps codes and secrets with whom they are meant for.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return refusal(fmt.Sprintf("it redirects more than %d times", maxRedirects))
	}
	if next.URL.User != nil || !api.SameURL(origin(next.URL), origin(via[0].URL)) {
		return refusal(fmt.Sprintf("it redirects to %s, and answers count from itself alone", origin(next.URL)))
	}
	return nil
}

func origin(u *url.URL) string { return u.Scheme + "://" + u.Host + "/" }

// bounded refuses what is not https, and bodies that are too large.
type bounded struct{ base http.RoundTripper }

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper closes it, whatever happens
		}
		return nil, refusal("its address does not begin with https://")
	}
	resp, err := b.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{resp.Body, maxBody}
	return resp, nil
}

// CloseIdleConnections lets http.Client's reach the transport.
func (b *bounded) CloseIdleConnections() {
	if c, ok := b.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// limitedBody reads so many bytes of a body, and fails where there are more: what was
// cut would be taken for the whole by some parsers.
type limitedBody struct {
	io.ReadCloser
	left int64
}

func (l *limitedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1] // one more shows that there is more
	}
	n, err := l.ReadCloser.Read(p)
	if int64(n) > l.left {
		n = int(l.left)
		err = refusal(fmt.Sprintf("its answer is larger than %d KiB", maxBody>>10))
	}
	l.left -= int64(n)
	return n, err
}

// Do sends a request with NewClient's client and reads the whole answer. Errors are
// for Unavailable; a status is the caller's to judge.
func Do(client *http.Client, req *http.Request) (status int, header http.Header, body []byte, err error) {
	resp, err := client.Do(req) //nolint:gosec // an administrator chose the identity provider, https alone
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err = io.ReadAll(resp.Body); err != nil {
		return 0, nil, nil, err
	}
	return resp.StatusCode, resp.Header, body, nil
}

// Get asks for a document; any other status than 200 is a StatusError.
func Get(ctx context.Context, client *http.Client, address, accept string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, refusal("its address is none")
	}
	req.Header.Set("Accept", accept)
	status, _, body, err := Do(client, req)
	if err == nil && status != http.StatusOK {
		err = StatusError(status)
	}
	return body, err
}

// Unavailable says that an address was asked and gave no usable answer: the host and
// the reason. The rest of the address stays out, for its query may hold a code or a
// token, and err does not become a cause, for the same reason.
func Unavailable(address string, err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	return api.Errorf(api.CodeUnavailable, "%s: %s", Host(address), Reason(err))
}

// Host is what of an address may be shown.
func Host(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		return u.Host
	}
	return "the identity provider"
}

// Reason is why asking an identity provider failed, without anything that it or a
// browser sent: url.Error holds a whole URL, and net/http quotes headers and status
// lines that it can't read.
func Reason(err error) string {
	if own, ok := errors.AsType[refusal](err); ok {
		return own.Error()
	}
	if status, ok := errors.AsType[StatusError](err); ok {
		return status.Error()
	}
	timeout := interface{ Timeout() bool }(nil)
	switch {
	case errors.Is(err, context.Canceled):
		return "the asking was broken off"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "it did not answer in time"
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		if e.IsNotFound {
			return "its name is not known (DNS)"
		}
		return "its name could not be looked up (DNS)"
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		if _, ok := errors.AsType[x509.UnknownAuthorityError](e.Err); ok {
			return "its certificate is signed by an authority that this machine does not know: SSL_CERT_FILE of the replicas names further ones"
		}
		return e.Error()
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it does not speak TLS"
	}
	if e, ok := errors.AsType[tls.AlertError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "proxyconnect" {
			return "the proxy to it: " + e.Error()
		}
		return e.Error() // connection refused
	}
	return "the connection broke, or spoke no HTTP"
}
