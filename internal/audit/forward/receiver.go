package forward

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Bounds of what a receiver may do to us.
const (
	sendTimeout = 30 * time.Second // for a batch, with the answer
	dialTimeout = 10 * time.Second
	idleTimeout = 90 * time.Second
	maxHeaders  = 64 << 10
	maxAnswer   = 4 << 10 // of its body
	maxShown    = 1 << 10 // of that, in a status
)

// Sorts of failures.
const (
	ofPassing = iota // it may work the next time
	ofRefusal        // somebody has to change something
	ofContent        // it is about what was sent
)

// failure is why a receiver did not take a batch. Its text is shown to people and
// holds none of our secrets.
type failure struct {
	sort       int
	tooLarge   bool
	retryAfter time.Duration
	text       string
}

func (f *failure) Error() string { return f.text }

// answer is what a receiver says that took a batch.
type answer struct {
	rejected uint64 // events that it dropped
	message  string
}

// request is a batch as a protocol puts it.
type request struct {
	body   []byte
	header http.Header
}

// protocol is how batches are written and answers read.
type protocol interface {
	request(batch []event, now time.Time) (*request, error)
	answer(body []byte) answer
}

// receiver is where a forwarder sends to.
type receiver struct {
	protocol protocol
	client   *http.Client
	endpoint string
	host     string
	header   http.Header // the document's own
	secrets  []string    // never shown, whoever says them
	now      func() time.Time
}

func newReceiver(doc api.AuditForwarder, o Options) (*receiver, error) {
	u, err := url.Parse(doc.Spec.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("spec.endpoint is no address") // which may hold a secret
	}
	r := &receiver{endpoint: doc.Spec.Endpoint, host: u.Host, header: http.Header{"User-Agent": {"sallyport"}}, now: o.Clock}
	for name, value := range doc.Spec.Headers {
		r.header.Set(name, value)
		r.secrets = append(r.secrets, value)
		if _, credentials, ok := strings.Cut(value, " "); ok { // Splunk TOKEN
			r.secrets = append(r.secrets, credentials)
		}
	}
	if token := doc.Spec.BearerToken; token != "" {
		r.header.Set("Authorization", "Bearer "+token)
		r.secrets = append(r.secrets, token)
	}
	for _, values := range u.Query() {
		r.secrets = append(r.secrets, values...)
	}
	if doc.Spec.SigningSecret != "" {
		r.secrets = append(r.secrets, doc.Spec.SigningSecret, strings.TrimPrefix(doc.Spec.SigningSecret, "whsec_"))
	}
	if doc.Spec.Type == api.ForwardOTLP {
		r.protocol = otlp{}
	} else if r.protocol, err = newWebhook(doc); err != nil {
		return nil, err
	}
	r.client, err = newClient(o.HTTP, doc)
	return r, err
}

// newClient is for one receiver: no cookies, no redirects (they would take the log
// and our secrets elsewhere), proxies of the environment as everywhere in a replica.
func newClient(given *http.Client, doc api.AuditForwarder) (*http.Client, error) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if given != nil {
		client.Transport = given.Transport
		return client, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if doc.Spec.CACert != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(doc.Spec.CACert)) {
			return nil, errors.New("spec.ca_cert holds no certificate")
		}
	}
	client.Transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, TLSClientConfig: conf,
		TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: maxHeaders,
		MaxIdleConnsPerHost: 1, ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{SendPingTimeout: dialTimeout, PingTimeout: dialTimeout},
	}
	return client, nil
}

func (r *receiver) close() { r.client.CloseIdleConnections() }

// send sends a batch once. A nil error says that the receiver has it.
func (r *receiver) send(ctx context.Context, batch []event) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	out, err := r.protocol.request(batch, r.now())
	if err != nil {
		return answer{}, &failure{sort: ofContent, text: err.Error()}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.endpoint, bytes.NewReader(out.body))
	if err != nil {
		return answer{}, &failure{sort: ofRefusal, text: "spec.endpoint is no address"}
	}
	req.Header = r.header.Clone()
	for name, values := range out.header {
		req.Header[name] = values
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.client.CloseIdleConnections() // it may be dead, and the next request would wait on it as long
		return answer{}, &failure{text: r.host + ": " + reason(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		a := answer{}
		if err == nil { // else: the batch is taken all the same
			a = r.protocol.answer(body)
		}
		a.message = r.clean(a.message)
		return a, nil
	}
	return answer{}, r.failure(resp, body)
}

// failure says what an answer means that is no success.
func (r *receiver) failure(resp *http.Response, body []byte) *failure {
	status := resp.StatusCode
	text := fmt.Sprintf("%s answered %d", r.host, status)
	if known := http.StatusText(status); known != "" {
		text += " " + known // the status line's own text is the receiver's
	}
	if said := r.clean(string(body)); said != "" {
		text += ": " + said
	}
	f := &failure{retryAfter: retryAfter(resp.Header.Get("Retry-After"), r.now())}
	switch {
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500:
	case status == http.StatusBadRequest, status == http.StatusUnprocessableEntity:
		f.sort = ofContent
	case status == http.StatusRequestEntityTooLarge:
		f.sort, f.tooLarge = ofContent, true
	case status/100 == 3:
		f.sort, text = ofRefusal, text+"; it redirects, which is not followed: write the address where it leads into spec.endpoint"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		f.sort, text = ofRefusal, text+"; check spec.bearer_token and spec.headers"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		f.sort, text = ofRefusal, text+"; check spec.endpoint"
	default:
		f.sort = ofRefusal
	}
	f.text = text
	return f
}

// clean makes of what a receiver says something that can be shown: it may send back
// what we sent.
func (r *receiver) clean(text string) string {
	for _, secret := range r.secrets {
		if len(secret) > 3 { // "on" and "1" are in any text
			text = strings.ReplaceAll(text, secret, "[secret]")
		}
	}
	return api.CleanText(text, maxShown)
}

// retryAfter reads the header (RFC 9110, section 10.2.3), bounded.
func retryAfter(text string, now time.Time) time.Duration {
	d := time.Duration(0)
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	return max(0, min(d, maxRetryAfter))
}

// reason is why a receiver could not be asked, without the address, whose query may
// hold a secret, and without what it sent, which net/http quotes.
func reason(err error) string {
	timeout := interface{ Timeout() bool }(nil)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "it did not answer in time"
	case errors.Is(err, context.Canceled):
		return "the sending was broken off"
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		if e.IsNotFound {
			return "its name is not known (DNS)"
		}
		return "its name could not be looked up (DNS)"
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		if _, ok := errors.AsType[x509.UnknownAuthorityError](e.Err); ok {
			return "its certificate is signed by an authority that the replicas do not know: write that into spec.ca_cert"
		}
		return api.CleanText(e.Error(), maxShown)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return "it does not speak TLS"
	}
	if e, ok := errors.AsType[tls.AlertError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "proxyconnect" {
			return "the proxy to it: " + e.Error()
		}
		return e.Error()
	}
	return "the connection broke, or spoke no HTTP"
}
