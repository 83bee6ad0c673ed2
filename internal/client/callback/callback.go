// Package callback receives, on this machine, the code that a browser brings at
// the end of a login there (RFC 8252, section 7.3).
//
// What an attacker might try: another process of this machine, or a page in the
// browser, calling the address with a code of its own (only the right login's id
// counts, which neither knows); reaching it under another name (the Host must be
// the loopback address); putting it into a page as a picture or a script (only a
// page of its own counts); keeping it busy (headers are short and soon due). A
// code that leaks is worth nothing without the verifier, which never leaves tsh.
package callback

import (
	"context"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	path = "/callback"
	// maxCode is far more than any code, and keeps the log in's request small.
	maxCode      = 512
	readPatience = 5 * time.Second
	// farewell is how long the last answer may take to reach the browser.
	farewell = 2 * time.Second
)

// Refused is what both the browser and the servers say when the person said no.
const Refused = "the login was refused in the browser"

// Listener waits for one browser.
type Listener struct{ l net.Listener }

// Listen takes a free port of the loopback interface. Close or Wait ends it.
func Listen(ctx context.Context) (*Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the browser: %w", err)
	}
	return &Listener{l}, nil
}

// Addr is 127.0.0.1:PORT.
func (l *Listener) Addr() string { return l.l.Addr().String() }

// URL is where the browser is to go.
func (l *Listener) URL() string { return "http://" + l.Addr() + path }

// Close stops listening.
func (l *Listener) Close() { _ = l.l.Close() }

// result is what the browser brought.
type result struct {
	code string
	err  error
}

// Wait answers browsers until one brings the code for the login of that id, or
// says that the person refused (api.CodeForbidden). Then nothing listens any more.
func (l *Listener) Wait(ctx context.Context, id string) (string, error) {
	done := make(chan result, 1)
	srv := &http.Server{
		Handler: handler(l.Addr(), id, done), ReadHeaderTimeout: readPatience, ReadTimeout: readPatience, WriteTimeout: readPatience,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	srv.SetKeepAlivesEnabled(false)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l.l) })
	defer wg.Wait()
	defer func() { _ = srv.Close() }()
	select {
	case r := <-done:
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_ = srv.Shutdown(bounded) // the page on its way may arrive
		return r.code, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func handler(addr, id string, done chan<- result) http.Handler {
	var once sync.Once
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 0)
		if r.Host != addr || r.URL.Path != path || r.Method != http.MethodGet || embedded(r) {
			http.NotFound(w, r)
			return
		}
		query := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(query.Get("id")), []byte(id)) != 1 {
			answer(w, http.StatusBadRequest, "This is not the login that waits",
				"The link belongs to another login. Go back to the terminal and use the newest link there.")
			return
		}
		got := result{code: query.Get("code")}
		switch {
		case query.Get("error") != "":
			got = result{err: api.Errorf(api.CodeForbidden, Refused)}
		case got.code == "" || len(got.code) > maxCode:
			answer(w, http.StatusBadRequest, "Something is missing", "The link lacks its code. Go back to the page before and try again.")
			return
		}
		first := false
		once.Do(func() { first = true })
		switch {
		case !first:
			answer(w, http.StatusGone, "This login is over", "You may close this window.")
		case got.err != nil:
			answer(w, http.StatusOK, "The login was refused", "Nobody was logged in. You may close this window.")
		default:
			answer(w, http.StatusOK, "Back to the terminal", "tsh takes over from here. You may close this window.")
		}
		if first {
			done <- got
		}
	})
}

// embedded says whether the browser asks for something else than a page of its own.
func embedded(r *http.Request) bool {
	dest := r.Header.Get("Sec-Fetch-Dest")
	return dest != "" && dest != "document"
}

// answer writes a page; its words are ours alone, so nothing needs escaping.
func answer(w http.ResponseWriter, status int, title, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>`+title+` - Sallyport</title>
<style>body { font: 1.125rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 20vh auto; padding: 0 1rem }</style>
</head>
<body>
<main>
<h1>`+title+`</h1>
<p>`+text+`</p>
</main>
</body>
</html>
`)
}
