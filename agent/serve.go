package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

const (
	maxHeader     = 256 << 10
	headerTimeout = 30 * time.Second
	idleTimeout   = 5 * time.Minute // longer than a replica keeps an idle stream: it closes first
	bufferSize    = 32 << 10
)

// cluster is a Kubernetes cluster that is served.
type cluster struct {
	name     string
	cas      []string // see Cluster
	handler  http.Handler
	probe    func(context.Context) upstream.ProbeResult // nil: nobody asks
	requests [6]atomic.Uint64                           // by class of status; 0: refused here

	mu      sync.Mutex
	judge   upstream.Thresholds
	said    upstream.ProbeResult
	checked time.Time
}

type tunnelKey struct{}

// server speaks HTTP/1.1 on the streams of all tunnels.
func (a *Agent) server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: http.HandlerFunc(a.serve), Protocols: protocols, DisableGeneralOptionsHandler: true, // we answer OPTIONS * ourselves
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				a.conns.Add(1)
			case http.StateHijacked, http.StateClosed:
				a.conns.Done()
			case http.StateActive, http.StateIdle:
			}
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, tunnelKey{}, c.(*stream).tunnel)
		},
	}
}

// serve checks a request before a cluster gets it. The replica has authorized it;
// this is for the day that a replica is wrong.
func (a *Agent) serve(w http.ResponseWriter, r *http.Request) {
	a.requests.Add(1)
	defer a.requests.Done()
	if t, ok := r.Context().Value(tunnelKey{}).(*tunnel); ok {
		t.begin()
		defer t.done()
	}
	c := a.byHost[r.Host]
	if c == nil {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, "this agent serves no Kubernetes cluster of that name")
		return
	}
	if code, reason, message := refusal(r); code != 0 {
		c.requests[0].Add(1)
		writeStatus(w, code, reason, message)
		return
	}
	c.handler.ServeHTTP(w, r)
}

// refusal says what is wrong with a request; code 0: nothing.
func refusal(r *http.Request) (code int, reason metav1.StatusReason, message string) {
	if r.Method == http.MethodConnect || !strings.HasPrefix(r.RequestURI, "/") {
		return http.StatusBadRequest, metav1.StatusReasonBadRequest, "only requests for a path are served"
	}
	if users := r.Header["Impersonate-User"]; len(users) != 1 || strings.TrimSpace(users[0]) == "" {
		return http.StatusForbidden, metav1.StatusReasonForbidden, "the request names no user, or several: an agent never acts as itself"
	}
	for _, line := range r.Header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			// It would be taken off as hop-by-hop, and the rest run with other rights.
			if strings.HasPrefix(strings.ToLower(strings.TrimSpace(name)), "impersonate-") {
				return http.StatusBadRequest, metav1.StatusReasonBadRequest, "Connection names a field that says who the user is"
			}
		}
	}
	return 0, "", ""
}

// errNobody stops a request that has lost its user on the way through here.
var errNobody = errors.New("the request has lost its user")

// apiTransport is the http.RoundTripper to a cluster's API server.
type apiTransport struct{ up upstream.Upstream }

// RoundTrip implements http.RoundTripper.
func (t apiTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(r.Header["Impersonate-User"]) != 1 {
		return nil, errNobody
	}
	if r.Header.Get("Upgrade") != "" {
		return t.up.Upgrade.RoundTrip(r)
	}
	return t.up.Plain.RoundTrip(r)
}

// forward hands requests to a cluster's API server. Only the address changes, and
// who asks: the credentials are the agent's, the user stays who the replica says.
func (a *Agent) forward(c *cluster, up upstream.Upstream) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			out, in := p.Out, p.In
			out.URL.Scheme, out.URL.Host, out.Host = up.URL.Scheme, up.URL.Host, ""
			out.URL.Path = up.URL.Path + in.URL.Path
			if in.URL.RawPath != "" {
				out.URL.RawPath = up.URL.EscapedPath() + in.URL.RawPath
			}
			out.URL.RawQuery = in.URL.RawQuery // as sent: ReverseProxy drops what it can't parse
			for name := range out.Header {
				if dropped(name) {
					delete(out.Header, name)
				}
			}
		},
		Transport:     apiTransport{up},
		FlushInterval: -1, // watches and logs at once
		BufferPool:    a.buffers,
		ErrorLog:      slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		ModifyResponse: func(res *http.Response) error {
			c.count(res.StatusCode)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // the replica has gone: nobody to tell
			}
			c.count(http.StatusBadGateway)
			a.problem("upstream "+c.name, slog.LevelWarn, "a request could not be sent to the API server", "kube_cluster", c.name, "error", err)
			writeStatus(w, http.StatusBadGateway, "BadGateway",
				fmt.Sprintf("the API server of the Kubernetes cluster %q can't be reached by its agent: %s; the agent's log says more", c.name, upstream.Why(err)))
		},
	}
}

// dropped are the fields that only the agent's own credentials may set, and those
// by which proxies speak of others.
func dropped(name string) bool {
	return name == "Authorization" || name == "Forwarded" || name == "X-Real-Ip" ||
		strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Remote-")
}

func (c *cluster) count(status int) {
	if class := status / 100; class > 0 && class < len(c.requests) {
		c.requests[class].Add(1)
	}
}

// writeStatus answers with a Kubernetes Status, which kubectl prints.
func writeStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	body, err := json.Marshal(&metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Message: message, Reason: reason, Code: int32(code), //nolint:gosec // an HTTP status has three digits
	})
	if err != nil {
		code, body = http.StatusInternalServerError, nil // strings always marshal
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-cache, private")
	w.WriteHeader(code)
	_, _ = w.Write(body) // the replica is gone: nobody to tell
}

// buffers are for bodies on their way.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return b.pool.Get().(*[bufferSize]byte)[:] }

// Put implements httputil.BufferPool.
func (b *buffers) Put(buf []byte) { b.pool.Put((*[bufferSize]byte)(buf)) }

// newCluster is a cluster of the options.
func (a *Agent) newCluster(o Cluster) *cluster {
	c := &cluster{name: o.Name, cas: o.CAs, probe: o.Probe, said: upstream.ProbeResult{Health: api.HealthUnknown}}
	if o.Handler != nil {
		c.handler = o.Handler
		if c.probe == nil {
			c.said.Health = api.HealthHealthy
		}
		return c
	}
	if c.probe == nil {
		c.probe = o.Upstream.Probe
	}
	c.handler = a.forward(c, o.Upstream)
	return c
}
