package callback

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// visit asks as a browser does, and gives status and page.
func visit(t *testing.T, method, target, host string, header http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestOnlyTheRightLoginCountsAndOnce(t *testing.T) {
	l, err := Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		code string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		code, err := l.Wait(t.Context(), "the-id")
		got <- answer{code, err}
	}()
	base := "http://" + l.Addr()
	for name, test := range map[string]struct {
		method, target, host string
		header               http.Header
		status               int
	}{
		"other path":    {http.MethodGet, "/?id=the-id&code=evil", "", nil, 404},
		"favicon":       {http.MethodGet, "/favicon.ico", "", nil, 404},
		"other id":      {http.MethodGet, "/callback?id=other&code=evil", "", nil, 400},
		"no id":         {http.MethodGet, "/callback?code=evil", "", nil, 400},
		"refused by id": {http.MethodGet, "/callback?id=other&error=denied", "", nil, 400},
		"no code":       {http.MethodGet, "/callback?id=the-id", "", nil, 400},
		"long code":     {http.MethodGet, "/callback?id=the-id&code=" + strings.Repeat("x", 600), "", nil, 400},
		"post":          {http.MethodPost, "/callback?id=the-id&code=evil", "", nil, 404},
		"rebound name":  {http.MethodGet, "/callback?id=the-id&code=evil", "evil.example.com", nil, 404},
		"picture":       {http.MethodGet, "/callback?id=the-id&code=evil", "", http.Header{"Sec-Fetch-Dest": {"image"}}, 404},
	} {
		if status, page := visit(t, test.method, base+test.target, test.host, test.header); status != test.status || strings.Contains(page, "evil") {
			t.Errorf("%s: %d %s", name, status, page)
		}
	}
	status, page := visit(t, http.MethodGet, l.URL()+"?"+url.Values{"id": {"the-id"}, "code": {"c&d"}}.Encode(), "", http.Header{"Sec-Fetch-Dest": {"document"}})
	if status != 200 || !strings.Contains(page, "You may close this window") || strings.Contains(page, "c&") {
		t.Errorf("%d %s", status, page)
	}
	if a := <-got; a.code != "c&d" || a.err != nil {
		t.Errorf("%q, %v", a.code, a.err)
	}
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr()); err == nil {
		_ = conn.Close()
		t.Error("listens after the hit")
	}
}

func TestRefusalInTheBrowser(t *testing.T) {
	l, err := Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := l.Wait(t.Context(), "id")
		got <- err
	}()
	if status, page := visit(t, http.MethodGet, l.URL()+"?id=id&error=denied", "", nil); status != 200 || !strings.Contains(page, "refused") {
		t.Errorf("%d %s", status, page)
	}
	if err := <-got; !api.IsCode(err, api.CodeForbidden) {
		t.Error(err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	l, err := Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Wait(ctx, "id"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr()); err == nil {
		t.Error("still listens")
	}
}

// TestSecondHitIsTold: two tabs may bring the code at once; one of them counts.
func TestSecondHitIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan result, 1)
		h := handler("127.0.0.1:1", "id", done)
		for i, want := range []int{200, 410} {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/callback?id=id&code=c", nil)
			r.Host = "127.0.0.1:1"
			h.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("hit %d: %d, want %d", i, w.Code, want)
			}
			if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
				t.Errorf("policy %q", csp)
			}
		}
		select {
		case <-done:
		case <-time.After(time.Second):
			t.Error("no result")
		}
	})
}

// FuzzHandler: whatever is asked, only the login's id brings a result.
func FuzzHandler(f *testing.F) {
	f.Add("/callback", "id=id&code=c")
	f.Add("/callback", "id=other&code=c")
	f.Add("/callback", "id=id&error=x")
	f.Add("//callback", "id=%69d;code=c")
	f.Fuzz(func(t *testing.T, path, query string) {
		done := make(chan result, 1)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Host, r.URL.Path, r.URL.RawQuery = "127.0.0.1:1", path, query
		handler("127.0.0.1:1", "id", done).ServeHTTP(httptest.NewRecorder(), r)
		select {
		case got := <-done:
			if r.URL.Query().Get("id") != "id" || got.err == nil && got.code == "" {
				t.Errorf("%q %q: %+v", path, query, got)
			}
		default:
		}
	})
}
