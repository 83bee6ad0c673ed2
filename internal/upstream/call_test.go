package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestCall(t *testing.T) {
	for name, test := range map[string]struct {
		status int // 0: the connection is closed
		answer string
		in     any
		noOut  bool
		err    string
	}{
		"an answer":               {200, `{"x":"y"}`, nil, false, ""},
		"a question":              {201, `{"x":"y"}`, map[string]string{"q": "a"}, false, ""},
		"words nobody wants":      {200, `ok`, nil, true, ""},
		"no JSON":                 {200, `<html>`, nil, false, "the answer is no JSON"},
		"more than anybody reads": {200, `{"x":"` + strings.Repeat("y", maxAnswer) + `"}`, nil, false, "the answer is no JSON"},
		"a refusal":               {403, `{"message":"because"}`, nil, false, "the API server answers 403 Forbidden: because"},
		"a way to elsewhere":      {302, ``, nil, true, "the API server answers 302 Found"},
		"none":                    {0, ``, nil, true, "ask the API server at 127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if r.URL.String() != "/prefix/it?a=b" || r.Header.Get("User-Agent") != "sallyport" || (test.in != nil) != (string(b) == `{"q":"a"}`) {
					t.Errorf("%s %s %q %v", r.Method, r.URL, b, r.Header)
				}
				if test.status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.answer)
			}))
			defer srv.Close()
			u, err := url.Parse(srv.URL + "/prefix")
			if err != nil {
				t.Fatal(err)
			}
			var out struct{ X string }
			var to any = &out
			if test.noOut {
				to = nil
			}
			status, err := Upstream{URL: u, Plain: srv.Client().Transport}.Call(t.Context(), http.MethodPost, "/it?a=b", test.in, to)
			if status != test.status || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%d, %v", status, err)
			}
			if test.err == "" && !test.noOut && out.X != "y" {
				t.Errorf("%+v", out)
			}
			if errors.Is(err, ErrNoJSON) != (test.err == ErrNoJSON.Error()) {
				t.Errorf("%v", err)
			}
		})
	}
}
