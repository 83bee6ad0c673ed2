package tunnel

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// maxTries bounds the tunnels that one request is tried on.
const maxTries = 5

// newUpstream is the way to a cluster. The agent tells its clusters apart by Host.
func newUpstream(t *Tunnels, name string) upstream.Upstream {
	return upstream.Upstream{
		URL:     &url.URL{Scheme: "http", Host: api.KubeLabel(name)},
		Plain:   &kubeTransport{t: t, kube: name},
		Upgrade: &kubeTransport{t: t, kube: name, upgrade: true},
	}
}

// kubeTransport is an http.RoundTripper to a cluster, over whatever tunnel is best at the
// time of a request.
type kubeTransport struct {
	t       *Tunnels
	kube    string
	upgrade bool
}

// RoundTrip implements http.RoundTripper. A tunnel that turns out to be dead is
// not the client's to see while another can be tried: that is, while nothing of
// the request can have been carried out, or it may be carried out twice.
func (k *kubeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	body := newOnceBody(req.Body)
	res, err := k.roundTrip(req, body)
	body.settle()
	return res, err
}

func (k *kubeTransport) roundTrip(req *http.Request, body *onceBody) (*http.Response, error) {
	ctx := req.Context()
	var tried []*route
	var held bool
	var last error
	for {
		r := k.t.pick(k.kube, tried)
		if r == nil {
			if !held && k.t.await(ctx, k.kube, tried) {
				held = true
				continue
			}
			return nil, k.failed(ctx, last)
		}
		res, err := k.try(r, req, body)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if k.t.complaints.Allow() {
			k.t.log.Warn("a request through a tunnel broke", "kube_cluster", k.kube, "agent", r.agent, "via", r.via(), "error", err)
		}
		if !k.repeatable(req, body, err) {
			if body.failed() {
				return nil, err
			}
			if full(err) { // the agent has not taken it
				return nil, k.failed(ctx, err)
			}
			return nil, api.Errorf(api.CodeAmbiguous, "the tunnel to the Kubernetes cluster %q broke before it answered: look whether the request was carried out before you repeat it", k.kube)
		}
		last = err
		if tried = append(tried, r); len(tried) == maxTries {
			return nil, k.failed(ctx, last)
		}
		k.t.metrics.retries.Inc()
	}
}

// failed is the error for want of a (further) tunnel. The last one's is nil if there
// was none.
func (k *kubeTransport) failed(ctx context.Context, last error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if full(last) {
		return api.Errorf(api.CodeRateLimited, "too many requests to the Kubernetes cluster %q are open, its agents take no more: try again in a moment, and end watches and port-forwards that nobody needs", k.kube)
	}
	if last != nil {
		return api.Errorf(api.CodeUnavailable, "no agent of Kubernetes cluster %q answered; try again, and look at its pods' logs", k.kube)
	}
	k.t.mu.RLock()
	defer k.t.mu.RUnlock()
	return k.t.routes.noAgent(k.kube)
}

// repeatable reports whether a request that failed may go to another tunnel.
func (k *kubeTransport) repeatable(req *http.Request, body *onceBody, err error) bool {
	if _, unopened := errors.AsType[*openError](err); unopened {
		return body.untouched()
	}
	if k.upgrade || body != nil {
		return false // a command may be running
	}
	return req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == http.MethodOptions
}

// try sends the request over one route.
func (k *kubeTransport) try(r *route, req *http.Request, body *onceBody) (*http.Response, error) {
	if body != nil {
		again := *req // RoundTrip closes the body it is given, whatever comes of it
		again.Body, again.GetBody = body.attempt(), nil
		req = &again
	}
	counter := k.t.metrics.own
	if r.own == nil {
		counter = k.t.metrics.hop
	}
	counter.Inc()
	r.active.Add(1)
	if r.own != nil {
		r.own.waiting.Add(1)
	}
	res, err := r.transport(k.upgrade).RoundTrip(req)
	if r.own != nil {
		r.own.waiting.Add(-1)
	}
	if err != nil {
		r.active.Add(-1)
		return nil, err
	}
	if stream, ok := res.Body.(io.ReadWriteCloser); ok {
		res.Body = &countedStream{ReadWriteCloser: stream, route: r}
	} else {
		res.Body = &countedBody{ReadCloser: res.Body, route: r}
	}
	return res, nil
}

func (r *route) via() string {
	if r.own != nil {
		return r.t.opts.ServerID
	}
	return r.link.member.ID
}

// countedBody is an answer's body that ends the count of its request.
type countedBody struct {
	io.ReadCloser
	route *route
	once  sync.Once
}

func (b *countedBody) Close() error {
	b.once.Do(func() { b.route.active.Add(-1) })
	return b.ReadCloser.Close()
}

// countedStream is the same after a 101; it is closed by halves, too.
type countedStream struct {
	io.ReadWriteCloser
	route *route
	once  sync.Once
}

func (s *countedStream) Close() error {
	s.once.Do(func() { s.route.active.Add(-1) })
	return s.ReadWriteCloser.Close()
}

// CloseWrite passes on the client's end of an upgraded stream.
func (s *countedStream) CloseWrite() error {
	if h, ok := s.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return s.Close()
}

// pick chooses a way to a cluster that is not among tried.
func (t *Tunnels) pick(kube string, tried []*route) *route {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.routes.pick(kube, tried)
}

// await waits a moment for a route to a cluster that has just lost its last one,
// and reports whether it is worth another look.
func (t *Tunnels) await(ctx context.Context, name string, tried []*route) bool {
	t.mu.RLock()
	limit := t.holdLocked(name)
	t.mu.RUnlock()
	if limit <= 0 {
		return false
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		changed := t.Changed()
		if t.pick(name, tried) != nil {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		case <-t.ctx.Done():
			return false
		}
	}
}

// onceBody is a request's body through several attempts, of which only the last
// may have read from it. A nil one is that of a request without.
type onceBody struct {
	body io.ReadCloser

	mu      sync.Mutex
	current *bodyAttempt
	touched bool
	err     error // of reading it: the client's fault
	settled bool
	closed  bool
}

func newOnceBody(body io.ReadCloser) *onceBody {
	if body == nil || body == http.NoBody {
		return nil
	}
	return &onceBody{body: body}
}

// attempt gives a transport its body. The ones before read nothing any more.
func (b *onceBody) attempt() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &bodyAttempt{b: b}
	return b.current
}

// untouched reports whether nothing was read; if so, nothing will be before the
// next attempt.
func (b *onceBody) untouched() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.touched {
		b.current = nil
	}
	return !b.touched
}

// failed reports whether it could not be read.
func (b *onceBody) failed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

// settle is called when there is no further attempt: the body is closed as soon as
// the last one has closed it, or there was none.
func (b *onceBody) settle() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.settled = true
	end := !b.closed && (b.current == nil || b.current.closed)
	b.closed = b.closed || end
	b.mu.Unlock()
	if end {
		_ = b.body.Close() // as http.RoundTripper promises
	}
}

type bodyAttempt struct {
	b      *onceBody
	closed bool // guarded by b.mu
}

func (a *bodyAttempt) Read(p []byte) (int, error) {
	b := a.b
	b.mu.Lock()
	if b.current != a || a.closed {
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	b.touched = true
	b.mu.Unlock()
	n, err := b.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

func (a *bodyAttempt) Close() error {
	b := a.b
	b.mu.Lock()
	a.closed = true
	end := b.settled && b.current == a && !b.closed
	b.closed = b.closed || end
	b.mu.Unlock()
	if end {
		return b.body.Close()
	}
	return nil
}
