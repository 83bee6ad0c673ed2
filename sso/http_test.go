package sso

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func served(t *testing.T, h http.HandlerFunc) (*httptest.Server, *http.Client) {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	return s, NewClient(s.Client().Transport)
}

func get(t *testing.T, c *http.Client, address string) (string, error) {
	t.Helper()
	body, err := Get(t.Context(), c, address, "application/json")
	return string(body), err
}

func TestClientSpeaksHTTPSAlone(t *testing.T) {
	var asked atomic.Int32
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer plain.Close()
	for _, c := range []*http.Client{NewClient(nil), NewClient(plain.Client().Transport)} {
		_, err := get(t, c, plain.URL+"/?code=secret")
		if err == nil || Reason(err) != "its address does not begin with https://" {
			t.Errorf("%v", err)
		}
		resp, err := c.Post(plain.URL, "text/plain", strings.NewReader("secret"))
		if err == nil {
			resp.Body.Close()
			t.Error("posted")
		}
	}
	if asked.Load() != 0 {
		t.Error("a plain server was asked")
	}
}

func TestClientTrustsTheSystemsRootsAlone(t *testing.T) {
	s, _ := served(t, func(http.ResponseWriter, *http.Request) {})
	_, err := get(t, NewClient(nil), s.URL)
	if err == nil || Reason(err) != "its certificate is signed by an authority that this machine does not know: SSL_CERT_FILE of the replicas names further ones" {
		t.Errorf("%v", err)
	}
}

func TestClientHasBounds(t *testing.T) {
	c := NewClient(nil)
	tr := c.Transport.(*bounded).base.(*http.Transport)
	if c.Timeout != 10*time.Second || tr.TLSHandshakeTimeout != 3*time.Second || tr.ResponseHeaderTimeout != 5*time.Second ||
		tr.Proxy == nil || tr.MaxResponseHeaderBytes == 0 || c.Jar != nil || tr.TLSClientConfig.MinVersion != tls.VersionTLS12 || tr.TLSClientConfig.InsecureSkipVerify {
		t.Errorf("%+v %+v", c, tr)
	}
	if got := (Options{HTTP: c}).Client(); got != c {
		t.Error("another client")
	}
	if _, ours := (Options{}).Client().Transport.(*bounded); !ours {
		t.Error("without bounds")
	}
	c.CloseIdleConnections()
}

func TestClientFollowsRedirectsAtTheSamePlace(t *testing.T) {
	other, _ := served(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "stolen") })
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "stolen") }))
	defer plain.Close()
	var to string
	s, c := served(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/go":
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/3", "/2", "/1":
			http.Redirect(w, r, fmt.Sprintf("/%c", r.URL.Path[1]-1), http.StatusFound)
		case "/4":
			http.Redirect(w, r, "/3", http.StatusFound)
		default:
			fmt.Fprint(w, "here")
		}
	})
	host := strings.TrimPrefix(s.URL, "https://")
	for target, want := range map[string]string{
		"/there": "", "https://" + host + "/there": "", "//" + host + "/x": "",
		other.URL + "/?code=secret":  "it redirects to " + other.URL + "/, and answers count from itself alone",
		plain.URL:                    "it redirects to " + plain.URL + "/, and answers count from itself alone",
		"http://" + host:             "it redirects to http://" + host + "/, and answers count from itself alone",
		"https://evil@" + host + "/": "it redirects to https://" + host + "/, and answers count from itself alone",
		"https://127.0.0.1:1/":       "it redirects to https://127.0.0.1:1/, and answers count from itself alone",
		"file:///etc/passwd":         "it redirects to file:///, and answers count from itself alone",
		"https://%zz/?code=secret":   "the connection broke, or spoke no HTTP",
	} {
		to = target
		body, err := get(t, c, s.URL+"/go")
		switch {
		case want == "" && (err != nil || body != "here"):
			t.Errorf("to %s: %q, %v", target, body, err)
		case want != "" && (err == nil || Reason(err) != want):
			t.Errorf("to %s: %q, %v", target, body, Reason(err))
		}
	}
	if body, err := get(t, c, s.URL+"/3"); err != nil || body != "here" {
		t.Errorf("three redirects: %q, %v", body, err)
	}
	for _, path := range []string{"/4", "/loop"} {
		if _, err := get(t, c, s.URL+path); err == nil || Reason(err) != "it redirects more than 3 times" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestClientBoundsBodies(t *testing.T) {
	s, c := served(t, func(w http.ResponseWriter, r *http.Request) {
		page := strings.Repeat("x", 1<<16)
		out := io.Writer(w)
		n := 16 // 1 MiB
		if r.URL.Path != "/fits" {
			n = 20
		}
		if r.URL.Path == "/bomb" {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			out = z
		}
		for range n {
			if _, err := io.WriteString(out, page); err != nil {
				return
			}
		}
	})
	if body, err := get(t, c, s.URL+"/fits"); err != nil || len(body) != maxBody {
		t.Errorf("%d, %v", len(body), err)
	}
	for _, path := range []string{"/large", "/bomb"} {
		if _, err := get(t, c, s.URL+path); err == nil || Reason(err) != "its answer is larger than 1024 KiB" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestClientKeepsNoCookies(t *testing.T) {
	var got string
	s, c := served(t, func(w http.ResponseWriter, r *http.Request) {
		got += r.Header.Get("Cookie")
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
	})
	for range 2 {
		if _, err := get(t, c, s.URL); err != nil {
			t.Fatal(err)
		}
	}
	if got != "" {
		t.Errorf("cookies %q were sent", got)
	}
}

// transport is a RoundTripper without a network.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestClientWaitsTenSecondsAtMost(t *testing.T) {
	for name, rt := range map[string]transport{
		"headers": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
		"body": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: hanging{r.Context()}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				_, err := get(t, NewClient(rt), "https://dex.example.com/?code=secret")
				if err == nil || Reason(err) != "it did not answer in time" || time.Since(began) != MaxWait {
					t.Errorf("%v after %s", err, time.Since(began))
				}
			})
		})
	}
}

type hanging struct{ ctx context.Context }

func (h hanging) Read([]byte) (int, error) { <-h.ctx.Done(); return 0, h.ctx.Err() }
func (h hanging) Close() error             { return nil }

func TestUnavailableNamesTheHostAndNoSecret(t *testing.T) {
	const address = "https://dex.example.com:5556/token?code=secret"
	wrapped := func(err error) error { return &url.Error{Op: "Get", URL: address, Err: err} }
	for want, err := range map[string]error{
		"it did not answer in time":              wrapped(context.DeadlineExceeded),
		"the asking was broken off":              wrapped(context.Canceled),
		"its name is not known (DNS)":            wrapped(&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true, Name: "secret"}}),
		"its name could not be looked up (DNS)":  wrapped(&net.DNSError{Name: "secret"}),
		"the connection broke, or spoke no HTTP": wrapped(errors.New("failed to parse Location header \"?code=secret\"")),
		"it does not speak TLS":                  wrapped(tls.RecordHeaderError{Msg: "secret"}),
		"it answered 503 Service Unavailable":    StatusError(503),
		"it answered with status 799":            StatusError(799),
		"its answer is larger than 1024 KiB":     fmt.Errorf("reading: %w", refusal("its answer is larger than 1024 KiB")),
	} {
		got := Unavailable(address, err)
		if got.Error() != "dex.example.com:5556: "+want || api.CodeOf(got) != api.CodeUnavailable || strings.Contains(fmt.Sprintf("%+v", errors.Unwrap(got)), "secret") {
			t.Errorf("%v: %q", err, got)
		}
	}
	own := api.Errorf(api.CodeForbidden, "no")
	if got, ok := errors.AsType[*api.Error](Unavailable(address, own)); !ok || got != own {
		t.Error("an error of ours was reworded")
	}
	if got := Unavailable("::", io.EOF).Error(); got != "the identity provider: the connection broke, or spoke no HTTP" {
		t.Error(got)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	_, err = get(t, NewClient(nil), "https://"+listener.Addr().String()+"/?code=secret")
	if got := Unavailable("https://"+listener.Addr().String(), err).Error(); got != listener.Addr().String()+": connection refused" {
		t.Error(got)
	}
	if _, err := get(t, NewClient(nil), "https://%zz/"); err == nil || Reason(err) != "its address is none" {
		t.Error(err)
	}
}

func TestClocks(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		by            time.Duration
		before, after bool // refused
	}{
		{0, false, false}, {MaxSkew, false, false}, {-MaxSkew, false, false}, {MaxSkew + time.Second, true, false}, {-MaxSkew - time.Second, false, true},
	} {
		at := now.Add(tc.by)
		if err := NotBefore("it was issued at", at, now); (err != nil) != tc.before {
			t.Errorf("NotBefore %s: %v", tc.by, err)
		}
		if err := NotAfter("it is good until", at, now); (err != nil) != tc.after {
			t.Errorf("NotAfter %s: %v", tc.by, err)
		}
	}
	const want = "the clocks of the identity provider and of Sallyport differ by more than 3m0s: it was issued at 2026-03-01T12:10:00Z, here it is 2026-03-01T12:00:00Z; set both by NTP, then log in again"
	if got := NotBefore("it was issued at", now.Add(10*time.Minute), now).Error(); got != want {
		t.Error(got)
	}
}

func TestOptions(t *testing.T) {
	var o Options
	o.Log().Info("nothing")
	if time.Since(o.Now()) > time.Hour {
		t.Error(o.Now())
	}
}
