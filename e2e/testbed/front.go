package testbed

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// FaultKind is a way in which what stands behind a front fails.
type FaultKind string

// The ways to fail.
const (
	FaultHang        FaultKind = "hang"       // takes connections and requests, answers none until another fault is set
	FaultError       FaultKind = "500"        // as its protocol says it
	FaultRateLimited FaultKind = "rate limit" // 429, come back in an hour
	FaultDown        FaultKind = "down"       // connection refused; Path means nothing
)

// Fault is what fails, and how.
type Fault struct {
	Kind FaultKind
	Path string // how the path of what fails begins; "": everything
}

// frontOptions are a front's. addr, cert and backend must be there.
type frontOptions struct {
	addr    string
	cert    tls.Certificate
	backend string                                   // URL
	via     http.RoundTripper                        // how the backend is reached; nil: as it comes
	touch   func(*http.Request)                      // may change a request on its way; nil: nothing
	edit    func(*http.Response) error               // may change an answer on its way; nil: nothing
	around  func(http.Handler) http.Handler          // sees each request and its answer, a fault's too; nil: nobody does
	refuse  func(w http.ResponseWriter, f FaultKind) // tells of a fault; nil: as text
}

// front is the TLS before a server of the test bed that speaks none, or none that tests
// trust, and what a test lets fail of it.
type front struct {
	o       frontOptions
	proxy   http.Handler
	handler http.Handler // of whole requests

	mu       sync.Mutex
	faults   []Fault
	changed  chan struct{} // closed when faults change
	hanging  int
	requests []string
	server   *http.Server // nil: down
	served   chan error
}

func newFront(o frontOptions) (*front, error) {
	to, err := url.Parse(o.backend)
	if err != nil {
		return nil, err
	}
	if o.refuse == nil {
		o.refuse = refuse
	}
	f := &front{o: o, changed: make(chan struct{})}
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.SetXForwarded()
			r.Out.Host = r.In.Host
			if o.touch != nil {
				o.touch(r.Out)
			}
		},
		Transport: o.via, ModifyResponse: o.edit,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // who asks gets a 502: the server is starting, or gone
	}
	f.handler = http.HandlerFunc(f.answer)
	if o.around != nil {
		f.handler = o.around(f.handler)
	}
	return f, f.listen()
}

func refuse(w http.ResponseWriter, f FaultKind) {
	if f == FaultRateLimited {
		w.Header().Set("Retry-After", anHour)
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	}
	http.Error(w, "out of order", http.StatusInternalServerError)
}

// anHour is a Retry-After.
const anHour = "3600"

func (f *front) listen() error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", f.o.addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: f, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // of who does not trust it, which tests try
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{f.o.cert}},
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

// setFault replaces all faults; whoever hangs is answered, unless it still would.
func (f *front) setFault(faults ...Fault) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
	close(f.changed)
	f.changed = make(chan struct{})
	switch {
	case slices.ContainsFunc(faults, func(f Fault) bool { return f.Kind == FaultDown }):
		return f.shut()
	case f.server == nil:
		return f.listen()
	}
	return nil
}

// close ends the front for good.
func (f *front) close() error { return f.setFault(Fault{Kind: FaultDown}) }

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
	f.handler.ServeHTTP(w, r)
}

func (f *front) answer(w http.ResponseWriter, r *http.Request) {
	for {
		fault, changed := f.faultOf(r.URL.Path)
		switch fault {
		case FaultHang:
			f.hangs(1)
			select {
			case <-changed:
				f.hangs(-1)
				continue
			case <-r.Context().Done():
				f.hangs(-1)
				panic(http.ErrAbortHandler) // else it would be an empty answer, which may still arrive
			}
		case "":
			f.proxy.ServeHTTP(w, r)
		default:
			f.o.refuse(w, fault)
		}
		return
	}
}

// faultOf is the first fault that a path has ("": none), and when to look again.
func (f *front) faultOf(path string) (FaultKind, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fault := range f.faults {
		if strings.HasPrefix(path, fault.Path) {
			return fault.Kind, f.changed
		}
	}
	return "", f.changed
}

func (f *front) hangs(by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hanging += by
}

// hung is how many requests hang now.
func (f *front) hung() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hanging
}

// seen are the requests so far.
func (f *front) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.requests...)
}
