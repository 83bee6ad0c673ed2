package server

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// redirectHandler sends who came by plain HTTP to the public address: nothing is
// served here, and no other name is sent anywhere.
func redirectHandler(names []string, publicAddr string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !slices.Contains(names, api.Hostname(r.Host)):
			refuseName(w, api.PublicURL(publicAddr, "/"))
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			// What was sent has gone over the network in the clear already.
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this is plain HTTP: use "+api.PublicURL(publicAddr, "/"), http.StatusMethodNotAllowed)
		default:
			to := r.URL.EscapedPath()
			if !strings.HasPrefix(to, "/") {
				to = "/"
			}
			if r.URL.RawQuery != "" {
				to += "?" + r.URL.RawQuery
			}
			w.Header().Set("Cache-Control", "no-store")                                      // 308 is kept for ever otherwise
			http.Redirect(w, r, api.PublicURL(publicAddr, to), http.StatusPermanentRedirect) //nolint:gosec // the host is ours
		}
	})
}

// plainServer is the server of --acme-http-addr. All that comes there is small and
// quick: an authority's question, or somebody who typed no https.
func plainServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           http.MaxBytesHandler(h, 1<<10),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       15 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
