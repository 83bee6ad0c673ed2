package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// fakeRight is lost when its channel is closed.
type fakeRight struct {
	stale atomic.Bool
	once  sync.Once
	lost  chan struct{}
	why   error
}

func newRight() *fakeRight { return &fakeRight{lost: make(chan struct{})} }

func (r *fakeRight) Stale() bool { return r.stale.Load() }

func (r *fakeRight) Watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.lost:
		return r.why
	}
}

func (r *fakeRight) lose(why error) {
	r.once.Do(func() {
		r.why = why
		r.stale.Store(true)
		close(r.lost)
	})
}

// fakeAuth lets alice into prod as herself.
type fakeAuth struct {
	mu    sync.Mutex
	calls int
	right *fakeRight
	deny  error
	// decide, if set, replaces the rule.
	decide func(id Identity, kube, asUser string, asGroups []string) (Decision, error)
}

func (a *fakeAuth) Kube(_ context.Context, id Identity, kube, asUser string, asGroups []string) (Decision, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.deny != nil {
		return Decision{}, a.deny
	}
	if a.decide != nil {
		return a.decide(id, kube, asUser, asGroups)
	}
	if a.right == nil || a.right.Stale() {
		a.right = newRight()
	}
	if kube != "prod" && kube != "dev" {
		return Decision{}, api.Errorf(api.CodeNotFound, "no Kubernetes cluster %q", kube)
	}
	d := Decision{ImpersonateUser: id.User, ImpersonateGroups: []string{"devs", "system:authenticated"}, Right: a.right}
	if asUser != "" || len(asGroups) > 0 {
		if asUser != "bob" && asUser != "" || len(asGroups) > 0 && !slices.Equal(asGroups, []string{"devs"}) {
			return Decision{}, api.Errorf(api.CodeForbidden, "user %q may not impersonate user %q with groups %q", id.User, asUser, asGroups)
		}
		d.ImpersonateUser, d.ImpersonateGroups = "bob", []string{"devs"}
	}
	return d, nil
}

func (a *fakeAuth) forbid(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deny = err
	if a.right != nil {
		a.right.lose(err)
	}
}

// fakeRecorder keeps events.
type fakeRecorder struct {
	mu     sync.Mutex
	events []api.Event
	// commit, if set, is what Commit does first.
	commit func(ctx context.Context, e api.Event) error
}

func (r *fakeRecorder) Record(e api.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *fakeRecorder) Commit(ctx context.Context, e api.Event) error {
	if r.commit != nil {
		if err := r.commit(ctx, e); err != nil {
			return err
		}
	}
	r.Record(e)
	return nil
}

// codes are those of the events so far.
func (r *fakeRecorder) codes() (codes []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		codes = append(codes, e.Code)
	}
	return codes
}

// only is the one event of a code.
func (r *fakeRecorder) only(t *testing.T, code string) (one api.Event) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Code == code {
			n, one = n+1, e
		}
	}
	if n != 1 {
		t.Fatalf("%d events %s in %+v", n, code, r.events)
	}
	return one
}

func (r *fakeRecorder) last(t *testing.T) api.Event {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) == 0 {
		t.Fatal("no event was recorded")
	}
	return r.events[len(r.events)-1]
}

// seen is what an API server got of a request.
type seen struct {
	Proto, Method, URI, Host string
	Header                   http.Header
	Body                     string
}

// backend is an API server that notes what it gets.
type backend struct {
	*httptest.Server
	mu      sync.Mutex
	seen    []seen
	handler http.Handler // nil: 200 {}
	conns   atomic.Int64 // open ones
	active  atomic.Int64 // requests being answered
}

func newBackend(t testing.TB, handler http.HandlerFunc) *backend {
	t.Helper()
	b := &backend{}
	if handler != nil {
		b.handler = handler
	}
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.active.Add(1)
		defer b.active.Add(-1)
		s := seen{Proto: r.Proto, Method: r.Method, URI: r.RequestURI, Host: r.Host, Header: r.Header.Clone()}
		if r.ContentLength >= 0 && r.ContentLength < 1<<20 {
			body, _ := io.ReadAll(r.Body)
			s.Body = string(body)
		}
		b.mu.Lock()
		b.seen = append(b.seen, s)
		b.mu.Unlock()
		if b.handler != nil {
			b.handler.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}))
	b.EnableHTTP2 = true
	quiet(b.Config)
	b.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			b.conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			b.conns.Add(-1)
		}
	}
	b.StartTLS()
	t.Cleanup(b.Close)
	return b
}

func (b *backend) requests() []seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen)
}

func (b *backend) only(t *testing.T) seen {
	t.Helper()
	got := b.requests()
	if len(got) != 1 {
		t.Fatalf("the API server got %d requests, want 1: %v", len(got), got)
	}
	return got[0]
}

func (b *backend) upstream(t testing.TB) upstream.Upstream {
	t.Helper()
	up, err := upstream.New(&rest.Config{
		Host:            b.URL,
		TLSClientConfig: rest.TLSClientConfig{CAData: pemOf(b.Certificate())},
		BearerToken:     "proxy-token",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.CloseIdle)
	return up
}

// fixture is a proxy in front of a backend, with alice's connections.
type fixture struct {
	t        testing.TB
	backend  *backend
	auth     *fakeAuth
	recorder *fakeRecorder
	handler  *Handler
	front    *httptest.Server // SNI routed to prod
	byPath   *httptest.Server // the fallback port
	stale    atomic.Pointer[error]
	conn     atomic.Pointer[ConnInfo] // of every connection to front
}

func newFixture(t testing.TB, handler http.HandlerFunc, options ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, backend: newBackend(t, handler), auth: &fakeAuth{}, recorder: &fakeRecorder{}}
	f.conn.Store(&ConnInfo{Identity: Identity{User: "alice", SessionID: "s1"}, Kube: "prod", Addr: "192.0.2.7:4711", LocalAddr: "192.0.2.1:443"})
	up := f.backend.upstream(t)
	o := Options{
		Authorizer: f.auth, Targets: StaticTargets{"prod": up, "dev": up}, Recorder: f.recorder,
		ClusterName: "sally.example", ServerID: "r1", PublicAddr: "sally.example:443",
		Visible: func(context.Context, Identity) []string { return []string{"prod", "dev"} },
		Stale: func() error {
			if p := f.stale.Load(); p != nil {
				return *p
			}
			return nil
		},
	}
	for _, opt := range options {
		opt(&o)
	}
	var err error
	if f.handler, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.handler.Close() })
	f.front = serveTLS(t, f.handler, f.conn.Load)
	f.byPath = serveTLS(t, f.handler.PathHandler(), func() *ConnInfo { info := *f.conn.Load(); info.Kube = ""; return &info })
	return f
}

func serveTLS(t testing.TB, h http.Handler, info func() *ConnInfo) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	quiet(s.Config)
	s.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return WithConn(ctx, info()) }
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// do sends a request over HTTP/2 and gives back answer and body.
func (f *fixture) do(req *http.Request) (*http.Response, string) {
	f.t.Helper()
	client := f.front.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return res, string(body)
}

func (f *fixture) get(path string, header ...string) (*http.Response, string) {
	f.t.Helper()
	return f.do(newRequest(f.t, http.MethodGet, f.front.URL+path, nil, header...))
}

func newRequest(t testing.TB, method, url string, body io.Reader, header ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

// rawConn is a client that types its own HTTP/1.1.
type rawConn struct {
	*tls.Conn
	br *bufio.Reader
	t  testing.TB
}

func dialRaw(t testing.TB, s *httptest.Server) *rawConn {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: "example.com", NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}}).
		DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = c.Close() })
	return &rawConn{Conn: c.(*tls.Conn), br: bufio.NewReader(c), t: t}
}

// send writes lines, each ended with CR LF.
func (c *rawConn) send(lines ...string) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads one answer's head.
func (c *rawConn) answer() *http.Response {
	c.t.Helper()
	res, err := http.ReadResponse(c.br, nil)
	if err != nil {
		c.t.Fatalf("read the answer: %v", err)
	}
	return res
}

// wantClosed fails unless the other side has closed without a further byte.
func (c *rawConn) wantClosed() {
	c.t.Helper()
	rest, err := io.ReadAll(c.br)
	if len(rest) > 0 {
		c.t.Fatalf("the connection went on: %q", rest)
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // as read
		c.t.Fatal("the connection was not closed")
	}
}

// wantStatus reads a Kubernetes Status and compares its code.
func wantStatus(t *testing.T, res *http.Response, body string, code int, contains string) {
	t.Helper()
	var st metav1.Status
	if err := json.Unmarshal([]byte(body), &st); err != nil || st.Kind != "Status" || st.APIVersion != "v1" || st.Status != "Failure" {
		t.Fatalf("HTTP %d, the answer is no Kubernetes Status: %.200q", res.StatusCode, body)
	}
	if res.StatusCode != code || int(st.Code) != code || !strings.Contains(st.Message, contains) {
		t.Fatalf("HTTP %d, Status %d %q; want %d and %q", res.StatusCode, st.Code, st.Message, code, contains)
	}
}

func wantImpersonated(t *testing.T, h http.Header, user string, groups ...string) {
	t.Helper()
	if got := h["Impersonate-User"]; !slices.Equal(got, []string{user}) {
		t.Errorf("Impersonate-User: got %q, want %q", got, user)
	}
	if got := h["Impersonate-Group"]; !slices.Equal(got, groups) {
		t.Errorf("Impersonate-Group: got %q, want %q", got, groups)
	}
	for name := range h {
		if fold := strings.ToLower(name); strings.HasPrefix(fold, "impersonate") && name != "Impersonate-User" && name != "Impersonate-Group" {
			t.Errorf("the API server got %q", name)
		}
	}
	if got := h["Authorization"]; !slices.Equal(got, []string{"Bearer proxy-token"}) {
		t.Errorf("Authorization: got %q", got)
	}
}

// patience is for machines that are busy; who waits so long waits for something
// that does not come.
const patience = time.Minute

// eventually polls a condition that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// quiet keeps the servers' complaints about what the tests send to themselves.
func quiet(s *http.Server) { s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) }
