package githubd

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Options of a GitHub.
type Options struct {
	// Addr is where Start listens; "": a free port of loopback.
	Addr string
	// Certificate is what Start shows; its authority is the caller's.
	Certificate tls.Certificate
	// Host is the name in its addresses, which Certificate must be good for; "": 127.0.0.1.
	Host string
	// The one OAuth app that is registered. Callbacks are its callback URLs; the first is where
	// mistakes are reported to.
	ClientID, ClientSecret string
	Callbacks              []string
	// MaxPage is the size of the largest page; 0: GitHub's own, 100.
	MaxPage int
}

// GitHub is the double. It serves the pages at / and the API both at / (as
// api.github.com) and below /api/v3 (as Enterprise Server). Safe for concurrent use.
type GitHub struct {
	o   Options
	mux *http.ServeMux

	mu       sync.Mutex
	last     int64 // number given out last
	users    []*User
	orgs     []*org
	grants   map[string]grant // by code
	tokens   map[string]token
	fault    Fault
	mended   chan struct{} // closed when fault changes
	requests []string
}

// grant is what a code stands for.
type grant struct {
	user                       int64
	redirect, challenge, scope string
	until                      time.Time
}

type token struct {
	user  int64
	scope string
}

// New makes a GitHub in which there is nobody. See Start.
func New(o Options) *GitHub {
	if o.MaxPage == 0 {
		o.MaxPage = 100
	}
	g := &GitHub{o: o, grants: map[string]grant{}, tokens: map[string]token{}, mended: make(chan struct{}), last: 1000}
	g.mux = g.routes()
	return g
}

// FaultKind is a way to fail.
type FaultKind string

// The ways to fail.
const (
	None      FaultKind = ""
	RateLimit FaultKind = "rate limit" // 403, nothing remaining
	Secondary FaultKind = "secondary"  // 403 with Retry-After
	Error500  FaultKind = "500"
	Hang      FaultKind = "hang"  // until SetFault, or the client goes
	BadJSON   FaultKind = "json"  // 200, no JSON
	Truncated FaultKind = "short" // 200, half an answer
)

// Fault is what fails, and how.
type Fault struct {
	Kind FaultKind
	// Path is how the path of what fails begins, as in api.github.com: "/user/teams",
	// "/login/oauth/access_token"; "": everything.
	Path string
	// After is how many such requests are answered well first: 1 lets page 2 fail.
	After int
}

// SetFault replaces the fault; whoever hangs is answered by it.
func (g *GitHub) SetFault(f Fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = f
	close(g.mended)
	g.mended = make(chan struct{})
}

// failing counts a request, and is the way it fails with what ends a hang.
func (g *GitHub) failing(path string) (FaultKind, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fault.Kind == None || !strings.HasPrefix(path, g.fault.Path) {
		return None, nil
	}
	if g.fault.After > 0 {
		g.fault.After--
		return None, nil
	}
	return g.fault.Kind, g.mended
}

// Requests are the methods and paths of all requests so far, as in "GET /user/teams".
func (g *GitHub) Requests() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.requests...)
}

// Tokens are the access tokens that are good for something: nobody should keep one.
func (g *GitHub) Tokens() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []string
	for t := range g.tokens {
		all = append(all, t)
	}
	return all
}

// ServeHTTP implements http.Handler.
func (g *GitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Enterprise Server has the API on the host of the pages.
	if rest, found := strings.CutPrefix(r.URL.Path, "/api/v3/"); found {
		r2 := r.Clone(context.WithValue(r.Context(), prefixKey{}, "/api/v3"))
		r2.URL.Path, r2.URL.RawPath = "/"+rest, ""
		r = r2
	}
	g.mu.Lock()
	g.requests = append(g.requests, r.Method+" "+r.URL.Path)
	g.mu.Unlock()
	for {
		kind, mended := g.failing(r.URL.Path)
		if kind != Hang {
			g.answer(w, r, kind)
			return
		}
		// net/http notices that the client has gone only when the body is read.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case <-mended:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler) // else it would be an empty answer, which may still arrive
		}
	}
}

// prefixKey holds what was cut off the path of a request.
type prefixKey struct{}

// Server is a GitHub that listens.
type Server struct {
	*GitHub
	URL  string // https://HOST:PORT: endpoint_url; the API is URL+"/api/v3"
	Addr string // for a browser to trust
	http *http.Server
	done chan error
}

// Start listens with TLS, and serves until Close.
func Start(o Options) (*Server, error) {
	addr, host := o.Addr, o.Host
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s := &Server{GitHub: New(o), URL: "https://" + net.JoinHostPort(host, port), Addr: l.Addr().String(), done: make(chan error, 1)}
	s.http = &http.Server{
		Handler: s.GitHub, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // of who does not trust it, which tests try
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{o.Certificate}},
	}
	go func() { s.done <- s.http.ServeTLS(l, "", "") }()
	return s, nil
}

// Close ends the server and all its connections.
func (s *Server) Close() error {
	s.SetFault(Fault{}) // who hangs goes on
	err := s.http.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func random(prefix string) string { return prefix + rand.Text() }
