package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/splice"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// Options configure a Handler. Authorizer, Targets and Recorder are needed.
type Options struct {
	Authorizer Authorizer
	Targets    Targets
	Recorder   Recorder

	ClusterName string // ends the SNI names: <label>.kube.<ClusterName>
	ServerID    string // of this replica, for events
	PublicAddr  string // host:port that messages tell people to log in at

	// Stale says why this replica must not decide (it has lost the leader for too
	// long), or nil. It is asked for every request. Nil: never stale.
	Stale func() error
	// Admit says why no request may be served now, because its event could not be
	// kept, or nil. It is asked for every request: it must neither block nor
	// allocate. Nil: always nil.
	Admit func() error
	// Refused is told of each certificate that is not accepted: it must not block. Nil:
	// nobody is told.
	Refused func(auth.Refusal)
	// Visible are the clusters that somebody may know of, to suggest one when a
	// name is mistyped. Nil: no suggestions.
	Visible func(ctx context.Context, id Identity) []string

	Clock  func() time.Time // nil: time.Now
	Rand   io.Reader        // of sessions' ids; nil: crypto/rand
	Logger *slog.Logger     // nil: discard
}

// Handler proxies requests to Kubernetes clusters. It is an http.Handler for
// connections whose SNI names the cluster, and a prometheus.Collector.
type Handler struct {
	targets     Targets
	recorder    Recorder
	clusterName string
	serverID    string
	login       string
	stale       func() error
	audited     func() error // Options.Admit
	refused     func(auth.Refusal)
	visible     func(context.Context, Identity) []string
	clock       func() time.Time
	rand        io.Reader
	log         *slog.Logger

	grants  *grants
	metrics *metrics
	buffers *splice.Pools

	inFlight atomic.Int64
	draining atomic.Bool
	idle     chan struct{} // a token when inFlight has reached 0 while draining

	stop    context.CancelFunc
	sweeper sync.WaitGroup
}

// New makes a Handler and starts its sweeper; Close ends both.
func New(o Options) (*Handler, error) {
	if o.Authorizer == nil || o.Targets == nil || o.Recorder == nil || o.ClusterName == "" {
		return nil, errors.New("proxy: Authorizer, Targets, Recorder and ClusterName are needed")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	login := "tsh login"
	if o.PublicAddr != "" {
		login += " --proxy=" + o.PublicAddr
	}
	h := &Handler{
		targets: o.Targets, recorder: o.Recorder, clusterName: o.ClusterName, serverID: o.ServerID, login: login,
		stale: o.Stale, audited: o.Admit, refused: o.Refused, visible: o.Visible, clock: o.Clock, rand: o.Rand, log: o.Logger,
		grants:  newGrants(o.Authorizer, o.Clock),
		buffers: splice.NewPools(),
		idle:    make(chan struct{}, 1),
	}
	h.metrics = newMetrics(
		func() float64 { return float64(h.inFlight.Load()) },
		func() float64 { return float64(h.grants.len()) },
	)
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	h.sweeper.Go(func() { h.sweep(ctx) })
	return h, nil
}

// sweep drops idle decisions, and cuts every stream once this replica may no
// longer vouch for them.
func (h *Handler) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h.grants.sweep()
		if h.stale != nil {
			if err := h.stale(); err != nil {
				why := staleError(err)
				h.grants.each(func(f *flight) { f.cut(why) })
			}
		}
	}
}

func staleError(err error) error {
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	return api.Errorf(api.CodeUnavailable, "this replica can't decide who may do what (see --max-stale): %w", err)
}

// Drain asks watches to come again elsewhere, refuses new upgraded streams, and
// waits for what is under way. When ctx ends first, the rest is cut and ctx's
// error returned. Ordinary requests are served throughout: whoever calls Drain
// has stopped listening, or is about to.
func (h *Handler) Drain(ctx context.Context) error {
	h.draining.Store(true)
	h.grants.each((*flight).drain)
	for h.inFlight.Load() > 0 {
		select {
		case <-h.idle:
		case <-ctx.Done():
			h.grants.each(func(f *flight) { f.cut(errStopping) })
			return ctx.Err()
		}
	}
	return nil
}

// Close cuts what is still under way, ends the goroutines that watch rights, and
// waits for them. Requests that come later are refused.
func (h *Handler) Close() error {
	h.stop()
	h.sweeper.Wait()
	h.draining.Store(true)
	h.grants.each(func(f *flight) { f.cut(errStopping) })
	h.grants.close()
	return nil
}

// ServeHTTP serves a connection whose SNI names the cluster.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.serve(w, r, false) }

// PathHandler serves the fallback port, on which the path may name the cluster,
// /k8s/<cluster>/…, for clients that can't set tls-server-name. An SNI that
// names one works there too.
func (h *Handler) PathHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, true) })
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, byPath bool) {
	h.inFlight.Add(1)
	defer func() {
		if h.inFlight.Add(-1) == 0 && h.draining.Load() {
			select {
			case h.idle <- struct{}{}:
			default: // a token is there already
			}
		}
	}()
	start := time.Now()
	a := attempt{}
	t, up, err := h.admit(r, &a, byPath)
	if err == nil {
		err = h.fly(w, r, &a, t, up, start)
	}
	if err != nil {
		h.refuse(w, r, &a, err)
	}
}

// identified is the connection's description if it says who is there, or why not.
func identified(info *ConnInfo) (*ConnInfo, error) {
	switch {
	case info == nil:
	case info.Identity.User != "" && info.Identity.SessionID != "":
		return info, nil
	case info.Refused != nil:
		return nil, info.Refused
	}
	return nil, api.Errorf(api.CodeUnauthenticated, "this address needs a client certificate")
}

// admit settles everything about a request but the answer.
func (h *Handler) admit(r *http.Request, a *attempt, byPath bool) (t target, up upstream.Upstream, err error) {
	if a.conn, err = identified(connInfo(r.Context())); err != nil {
		return t, up, err
	}
	a.kube = a.conn.Kube
	if t, err = checkTarget(r); err != nil {
		return t, up, err
	}
	if byPath {
		if t, err = h.routePath(a, t); err != nil {
			return t, up, err
		}
	}
	if a.kube == "" {
		return t, up, api.Errorf(api.CodeNotFound, "the request names no Kubernetes cluster: `tsh kube login` writes a kubeconfig that does")
	}
	a.path, a.res = t.raw, parseResource(r.Method, t.path, t.query)
	a.live = a.res.subresource != "" || a.res.streams(t.query)
	if err := checkHost(r.Host, a.kube, h.clusterName); err != nil {
		return t, up, err
	}
	if h.stale != nil {
		if err := h.stale(); err != nil {
			return t, up, staleError(err)
		}
	}
	if h.audited != nil {
		if err := h.audited(); err != nil {
			a.unaudited, a.closed = true, true
			return t, up, api.Errorf(api.CodeUnavailable, "%w", err)
		}
	}
	if a.asUser, a.asGroups, err = impersonation(r.Header); err != nil {
		return t, up, err
	}
	if a.upgrade, err = upgradeRequest(r, a.res); err != nil {
		return t, up, err
	}
	if a.upgrade != "" && h.draining.Load() {
		return t, up, errStopping
	}
	if a.grant, err = h.grants.get(r.Context(), a.conn.Identity, a.kube, a.asUser, a.asGroups); err != nil {
		return t, up, h.suggest(r.Context(), a, err)
	}
	if up, err = h.targets.Target(a.kube); err != nil {
		return t, up, h.suggest(r.Context(), a, err)
	}
	return t, up, nil
}

// routePath takes the cluster from the path, which must agree with the SNI where
// that names one.
func (h *Handler) routePath(a *attempt, t target) (target, error) {
	kube, rest, ok := t.cutPrefix()
	if !ok {
		return t, nil
	}
	if err := api.ValidateKubeName(kube); err != nil {
		return t, api.Errorf(api.CodeNotFound, "no Kubernetes cluster has the name %.64q", kube)
	}
	if a.kube != "" && a.kube != kube {
		return t, &misdirectedError{kube: a.kube, named: kube}
	}
	a.kube = kube
	return rest, nil
}

// suggest adds a near name to "no such cluster".
func (h *Handler) suggest(ctx context.Context, a *attempt, err error) error {
	if !api.IsCode(err, api.CodeNotFound) || h.visible == nil {
		return err
	}
	// By the label: of a cluster whose label is a hash only one that exists has led
	// to a name here, and a suggestion would tell.
	name := api.Nearest(api.KubeLabel(a.kube), h.visible(ctx, a.conn.Identity))
	if name == "" || name == a.kube || strings.Contains(err.Error(), name) {
		return err
	}
	return api.Errorf(api.CodeNotFound, "%w; did you mean %q?", err, name)
}

// refuse answers with a Status and records why.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, a *attempt, err error) {
	h.uncertified(r, err)
	err = sessionEnded(err, h.login)
	status, reason, message := statusOf(err)
	code := api.EventCodeKubeRequestRefused
	if status >= http.StatusInternalServerError && !a.unaudited {
		code = api.EventCodeKubeRequestFailed
		h.log.WarnContext(r.Context(), "kube request failed", "kube_cluster", a.kube, "status", status, "error", cause(err))
	}
	known := ""
	if a.grant != nil {
		known = a.kube
	}
	h.metrics.kube(known).count(status)
	switch {
	case a.conn == nil: // strangers can't fill the log
	case a.closed && h.refused != nil:
		// Told one by one, the refusals of clients that try again would be what keeps the
		// events from the cluster, and the door closed.
		counted := refusalOf(r, a.conn, err)
		counted.Unaudited = true
		h.refused(counted)
	default:
		h.record(r, a, code, status, err)
		h.failed(r, a, status, err)
	}
	// What follows a refused upgrade or an unread body may be of another protocol,
	// and a request that was cut leaves deadlines behind: no second request is
	// taken from such a connection.
	closing := r.ProtoMajor == 1 && (a.cut || r.Header["Upgrade"] != nil || r.ContentLength != 0)
	if code, text := beginning(status, a.path); text {
		writeText(w, code, message, closing)
		return
	}
	writeStatus(w, status, reason, message, closing)
}

// cause is the innermost error worth logging.
func cause(err error) error {
	if e, ok := errors.AsType[*gatewayError](err); ok && e.cause != nil {
		return e.cause
	}
	return err
}

// rawPath is the request's path as sent.
func rawPath(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return path
}
