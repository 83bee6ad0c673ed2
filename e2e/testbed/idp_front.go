package testbed

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// IDPFault is a way in which an identity provider fails.
type IDPFault string

// The ways to fail.
const (
	IDPWell  IDPFault = ""
	IDPHang  IDPFault = "hang" // takes connections and requests, answers none until another fault is set
	IDPError IDPFault = "500"
	IDPDown  IDPFault = "down" // connection refused
)

// front is the TLS before an identity provider that speaks none, and what a test lets
// fail of it.
type front struct {
	addr string
	cert tls.Certificate
	next http.Handler

	mu       sync.Mutex
	fault    IDPFault
	changed  chan struct{} // closed when fault changes
	requests []string
	server   *http.Server // nil: down
	served   chan error
}

// newFront listens at addr for backend. touch may change a request on its way; nil: nothing.
// via is how the backend is reached; nil: as it comes.
func newFront(addr string, cert tls.Certificate, backend string, touch func(*http.Request), via http.RoundTripper) (*front, error) {
	to, err := url.Parse(backend)
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.SetXForwarded()
			r.Out.Host = r.In.Host
			if touch != nil {
				touch(r.Out)
			}
		},
		Transport: via,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // who asks gets a 502: the provider is starting, or gone
	}
	f := &front{addr: addr, cert: cert, next: proxy, changed: make(chan struct{})}
	return f, f.listen()
}

func (f *front) listen() error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", f.addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: f, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // of who does not trust it, which tests try
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{f.cert}},
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(l, "", "") }()
	f.server, f.served = server, served
	return nil
}

func (f *front) shut() error {
	if f.server == nil {
		return nil
	}
	err := f.server.Close()
	if served := <-f.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	f.server = nil
	return err
}

func (f *front) setFault(fault IDPFault) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
	close(f.changed)
	f.changed = make(chan struct{})
	switch {
	case fault == IDPDown:
		return f.shut()
	case f.server == nil:
		return f.listen()
	}
	return nil
}

// close ends the front for good.
func (f *front) close() error { return f.setFault(IDPDown) }

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	f.mu.Unlock()
	// Whole, before anything else: net/http notices that a client has gone only then, and takes
	// a body away from the proxy, which breaks off, when the answer begins before its end is read.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = http.NoBody
	if len(body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	for {
		f.mu.Lock()
		fault, changed := f.fault, f.changed
		f.mu.Unlock()
		switch fault {
		case IDPHang:
			select {
			case <-changed:
				continue
			case <-r.Context().Done():
				panic(http.ErrAbortHandler) // else it would be an empty answer, which may still arrive
			}
		case IDPError, IDPDown:
			http.Error(w, fmt.Sprintf("%s is out of order", r.Host), http.StatusInternalServerError)
		default:
			f.next.ServeHTTP(w, r)
		}
		return
	}
}

// seen are the requests so far.
func (f *front) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.requests...)
}
