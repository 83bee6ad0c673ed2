package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/splice"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// errDrained ends a watch cleanly.
var errDrained = errors.New("proxy: draining")

// fly sends an admitted request to the API server and its answer to the client.
// An error it returns is for the client: nothing has been answered yet.
func (h *Handler) fly(w http.ResponseWriter, r *http.Request, a *attempt, t target, up upstream.Upstream, start time.Time) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	f := &flight{cancel: cancel, ctl: http.NewResponseController(w), watch: a.res.verb == "watch" && a.upgrade == ""}
	if err := h.takeOff(r, a, f); err != nil {
		return err
	}
	defer f.grant.finish(f)
	if f.watch && h.draining.Load() {
		return errStopping
	}
	if err := h.begin(ctx, r, a, f); err != nil {
		return err
	}

	out := (&http.Request{
		Method: r.Method,
		URL:    t.url(up.URL),
		Host:   up.URL.Host,
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        requestHeader(r.Header, a.upgrade, f.grant.decision.ImpersonateUser, f.grant.decision.ImpersonateGroups),
		ContentLength: r.ContentLength,
	}).WithContext(ctx)
	var body *guardedBody
	if r.ContentLength != 0 {
		body = &guardedBody{body: r.Body}
		out.Body = body
		defer body.Close()
	}

	tripper := up.Plain
	if a.upgrade != "" {
		tripper = up.Upgrade
	}
	res, err := tripper.RoundTrip(out)
	if err != nil {
		return h.tripError(r, a, f, body, ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols && a.upgrade != "" {
		return h.stream(ctx, w, r, a, f, res, start)
	}
	return h.answer(ctx, w, r, a, f, res, localizer{up.URL, t.prefix}, start)
}

// takeOff puts the flight on its grant. A right that was lost between the
// decision and now is asked for once more: it may have been replaced.
func (h *Handler) takeOff(r *http.Request, a *attempt, f *flight) error {
	err := a.grant.begin(f, h.clock())
	if err == nil {
		return nil
	}
	g, again := h.grants.get(r.Context(), a.conn.Identity, a.kube, a.asUser, a.asGroups)
	if again != nil {
		return again
	}
	if g == a.grant {
		return err
	}
	a.grant = g
	return g.begin(f, h.clock())
}

// tripError says whose fault it is that there is no answer.
func (h *Handler) tripError(r *http.Request, a *attempt, f *flight, body *guardedBody, ctx context.Context, err error) error { //nolint:revive // ctx is one of the things that may have failed
	if why := f.cutReason(); why != nil {
		h.metrics.cut.Inc()
		a.cut = true
		return why
	}
	switch {
	case errors.Is(context.Cause(ctx), errDrained):
		return errStopping
	case r.Context().Err() != nil:
		gone := errors.New("the client went away before the answer")
		h.record(r, a, api.EventCodeKubeRequestFailed, statusClientGone, gone)
		h.failed(r, a, statusClientGone, gone)
		h.metrics.kube(a.kube).count(statusClientGone)
		panic(http.ErrAbortHandler)
	case body != nil && body.failed.Load():
		return api.Errorf(api.CodeInvalid, "the request body could not be read")
	}
	if e, ok := errors.AsType[*api.Error](err); ok { // no tunnel: it says so in words for the client
		return e
	}
	return unreachable(a.kube, err)
}

// statusClientGone is nginx's 499: no status of HTTP, for the log only.
const statusClientGone = 499

// answer passes on what the API server said.
func (h *Handler) answer(ctx context.Context, w http.ResponseWriter, r *http.Request, a *attempt, f *flight, res *http.Response, here localizer, start time.Time) error {
	if err := checkAnswer(res, a); err != nil {
		return err
	}
	header := w.Header()
	responseHeader(header, res.Header)
	if location := res.Header.Get("Location"); location != "" {
		local, ok := here.location(location)
		if ok {
			header["Location"] = []string{local}
		} else {
			delete(header, "Location")
			if res.StatusCode/100 == 3 {
				return &gatewayError{message: fmt.Sprintf("the Kubernetes cluster %q answered with a redirect to another host, which is not followed", a.kube)}
			}
		}
	}
	if a.upgrade != "" || r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
		// Whatever the client sent behind its request, nobody reads it: it may be of
		// another protocol, or (net/http hides a Content-Length beside chunked) what
		// somebody else would count as the body.
		header["Connection"] = []string{"close"}
	}
	h.settle(r, a, res.StatusCode, start)
	if a.upgrade != "" || res.StatusCode >= http.StatusMultipleChoices {
		h.failed(r, a, res.StatusCode, nil)
	} else if a.session != nil { // a command that ran without a stream
		defer func() { h.end(r, a, f.cutReason()) }()
	}
	w.WriteHeader(res.StatusCode)
	if r.Method == http.MethodHead {
		return nil
	}
	if res.ContentLength < 0 && (a.live || a.res.verb != "list" && a.res.verb != "get") {
		_ = f.ctl.Flush() // the first byte may be long in coming
	}
	var to io.Writer = w
	var events *watchWriter
	if f.watch {
		if events = newWatchWriter(w, res, r.URL.RawQuery); events != nil {
			to = events
		}
	}
	readErr, writeErr := copyBody(h.buffers, to, f.ctl, res.Body, res.ContentLength, a.live)
	switch {
	case readErr == nil && writeErr == nil:
		return nil
	case f.cutReason() != nil:
		h.metrics.cut.Inc()
		h.disconnected(r, a, f.cutReason())
		if writeErr == nil && events.lastWord(sessionEnded(f.cutReason(), h.login)) {
			return nil
		}
	case errors.Is(context.Cause(ctx), errDrained):
		return nil // as if the API server had ended the watch, which it does now and then
	}
	panic(http.ErrAbortHandler) // so that the client can tell a torn answer from a short one
}

// settle counts and records a request when its outcome is known, before the
// client learns it.
func (h *Handler) settle(r *http.Request, a *attempt, status int, start time.Time) {
	km := h.metrics.kube(a.kube)
	km.count(status)
	km.duration.Observe(time.Since(start).Seconds())
	h.record(r, a, api.EventCodeKubeRequest, status, nil)
}

// checkAnswer refuses answers that a client must not see.
func checkAnswer(res *http.Response, a *attempt) error {
	switch {
	case res.StatusCode < 200 || res.StatusCode > 599:
		return &gatewayError{message: fmt.Sprintf("the Kubernetes cluster %q answered with the impossible status %d", a.kube, res.StatusCode)}
	case res.StatusCode == http.StatusUnauthorized && a.res.subresource != "proxy":
		// The API server was never told who the client is by credentials: it is
		// ours that it refused, and logging in again would not help.
		return &gatewayError{message: fmt.Sprintf("the API server of the Kubernetes cluster %q refuses Sallyport's own credentials: tell your administrator", a.kube)}
	}
	return nil
}

// copyBody copies an answer. It flushes when the API server seems to pause, that
// is when a read did not fill a big buffer: a full one goes out unbuffered anyway.
// An answer of known and moderate length needs no flush, unless it is a live one.
func copyBody(pools *splice.Pools, w io.Writer, ctl *http.ResponseController, body io.Reader, length int64, live bool) (readErr, writeErr error) {
	buf := pools.Buffer()
	defer buf.Free()
	if !live && (length < 0 || length > splice.Small) {
		buf.Grow()
	}
	flush := live || length < 0 || length > splice.Big
	for {
		chunk := buf.Bytes()
		n, err := body.Read(chunk)
		if n > 0 {
			if _, err := w.Write(chunk[:n]); err != nil {
				return nil, err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
		if flush && n > 0 && n < splice.Big {
			if err := ctl.Flush(); err != nil {
				return nil, err
			}
		}
		if live {
			buf.Adapt(n)
		}
	}
}
