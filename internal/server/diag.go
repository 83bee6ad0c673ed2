package server

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readiness says whether this replica should get traffic, and if not, why; or what is wrong all the same.
type readiness func() (ready bool, reason string)

// diagHandler serves the diagnostics port. It has no secrets to show and asks
// nobody who they are, so nothing else is ever mounted here.
func diagHandler(reg *prometheus.Registry, ready readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		// Alive is all a restart could mend; a replica without quorum is alive.
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch ok, reason := ready(); {
		case !ok:
			http.Error(w, "not ready: "+reason, http.StatusServiceUnavailable)
		case reason != "":
			fmt.Fprintln(w, "ok; "+reason)
		default:
			fmt.Fprintln(w, "ok")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}

func diagServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
}
