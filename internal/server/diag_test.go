package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestReadyzNamesWhatIsWrongAllTheSame(t *testing.T) {
	for _, c := range []struct {
		ok     bool
		reason string
		code   int
		body   string
	}{
		{true, "", 200, "ok\n"},
		{true, "no writes: its disk fails: no space left on device", 200, "ok; no writes: its disk fails: no space left on device\n"},
		{false, "starting", 503, "not ready: starting\n"},
	} {
		w := httptest.NewRecorder()
		diagHandler(prometheus.NewRegistry(), func() (bool, string) { return c.ok, c.reason }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		if w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("%d %q, want %d %q", w.Code, w.Body, c.code, c.body)
		}
	}
}
