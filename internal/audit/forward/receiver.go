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
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

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
	status     int // of the answer; 0: there was none
	tooLarge   bool
	retryAfter time.Duration
	text       string
}

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
	header   http.Header      // the document's own
	secrets  []*regexp.Regexp // never shown, whoever says them
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
		_, credentials, _ := strings.Cut(value, " ") // Splunk TOKEN
		r.hide(value, credentials)
	}
	if token := doc.Spec.BearerToken; token != "" {
		r.header.Set("Authorization", "Bearer "+token)
		r.hide(token)
	}
	// The path is no secret (docs/adr/051), but whoever sees a status need not see it.
	r.hide(doc.Spec.SigningSecret, strings.TrimPrefix(doc.Spec.SigningSecret, "whsec_"), u.EscapedPath(), u.Path)
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
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTimeout, Control: dialable}).DialContext, TLSClientConfig: conf,
		TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: maxHeaders,
		MaxIdleConnsPerHost: 1, ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{SendPingTimeout: dialTimeout, PingTimeout: dialTimeout},
	}
	return client, nil
}

var errLinkLocal = errors.New("its address is link-local (169.254.0.0/16, fe80::/10), where clouds tell machines their secrets: nothing is sent there")

// dialable refuses addresses that only what runs on this machine should reach. It sees
// what a name has come to.
func dialable(_, address string, _ syscall.RawConn) error {
	if at, err := netip.ParseAddrPort(address); err != nil || at.Addr().Unmap().IsLinkLocalUnicast() {
		return errLinkLocal
	}
	return nil
}

func (r *receiver) close() { r.client.CloseIdleConnections() }

// payload is a body that knows whether all of it was taken. It has no WriteTo, which
// would take all before anything is written.
type payload struct {
	rest  *bytes.Reader
	taken atomic.Bool
}

func (p *payload) Read(b []byte) (int, error) {
	n, err := p.rest.Read(b)
	p.taken.Store(p.rest.Len() == 0)
	return n, err
}

func (p *payload) Close() error { return nil }

// post makes the request. sent says whether the transport took all of the last body
// that it began with: it takes another one for another connection.
func (r *receiver) post(ctx context.Context, out *request) (req *http.Request, sent func() bool, err error) {
	var last atomic.Pointer[payload]
	body := func() (io.ReadCloser, error) {
		p := &payload{rest: bytes.NewReader(out.body)}
		last.Store(p)
		return p, nil
	}
	first, _ := body()
	if req, err = http.NewRequestWithContext(ctx, http.MethodPost, r.endpoint, first); err != nil {
		return nil, nil, err
	}
	req.ContentLength, req.GetBody, req.Header = int64(len(out.body)), body, r.header.Clone()
	for name, values := range out.header {
		req.Header[name] = values
	}
	return req, func() bool { return last.Load().taken.Load() }, nil
}

// send sends a batch once. No failure says that the receiver has it.
func (r *receiver) send(ctx context.Context, batch []event) (answer, *failure) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	out, err := r.protocol.request(batch, r.now())
	if err != nil {
		return answer{}, &failure{sort: ofContent, text: err.Error()}
	}
	req, sent, err := r.post(ctx, out)
	if err != nil {
		return answer{}, &failure{sort: ofRefusal, text: "spec.endpoint is no address"}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.client.CloseIdleConnections() // it may be dead, and the next request would wait on it as long
		return answer{}, &failure{text: r.host + ": " + reason(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	all := sent() // what is taken from here on nobody has answered to
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode/100 != 2:
		return answer{}, r.failure(resp, body)
	case !all:
		return answer{}, &failure{
			status: resp.StatusCode, retryAfter: retryAfter(resp.Header.Get("Retry-After"), r.now()),
			text: fmt.Sprintf("%s answered %d before it had read all that was sent", r.host, resp.StatusCode),
		}
	}
	a := answer{}
	if err == nil { // else: the batch is taken all the same
		a = r.protocol.answer(body)
	}
	a.message = r.clean(a.message)
	return a, nil
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
	f := &failure{status: status, retryAfter: retryAfter(resp.Header.Get("Retry-After"), r.now())}
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

// hide keeps texts out of what is shown.
func (r *receiver) hide(texts ...string) {
	for _, text := range texts {
		if len(text) > 3 { // "on" and "1" are in any text
			r.secrets = append(r.secrets, spelt(text))
		}
	}
}

// spelt matches a text however it is spelt: in capitals or not, and with what is no
// letter or digit in it escaped as in URLs, JSON or HTML.
func spelt(text string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("(?i)")
	for _, c := range text {
		plain := regexp.QuoteMeta(string(c))
		switch {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c > unicode.MaxASCII:
			b.WriteString(plain)
		default:
			fmt.Fprintf(&b, `(?:\\?%s|%%%02x|\\u%04x|&#0*%d;|&#x0*%x;|&[a-z]+;`, plain, c, c, c, c)
			if c == ' ' {
				b.WriteString(`|\+`)
			}
			b.WriteByte(')')
		}
	}
	return regexp.MustCompile(b.String())
}

// clean makes of what a receiver says something that can be shown: it may send back
// what we sent.
func (r *receiver) clean(text string) string {
	for _, secret := range r.secrets {
		text = secret.ReplaceAllLiteralString(text, "[secret]")
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

// reason is why a receiver could not be asked, without its address and without what it sent, which net/http quotes.
func reason(err error) string {
	timeout := interface{ Timeout() bool }(nil)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "it did not answer in time"
	case errors.Is(err, errLinkLocal):
		return errLinkLocal.Error()
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
