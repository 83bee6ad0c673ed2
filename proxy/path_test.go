package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func requestFor(uri string) *http.Request {
	return &http.Request{Method: http.MethodGet, RequestURI: uri}
}

func TestCheckTargetRefusesWhatReadersDifferOn(t *testing.T) {
	for _, uri := range []string{
		"", "*", "api", "http://evil/api", "//evil/api", "/api//v1", "/api/v1//", "/..", "/.", "/api/../v1", "/api/v1/../..//", "/api/./v1", "/api/..",
		"/api/%2e%2e/v1", "/api/%2E./v1", "/api/.%2e", "/api/v1/pods%2Fexec", "/api/v1/pods%2fx", "/api/%00", "/api/%0a", "/api/%0d%0aX: y", "/api/%7f",
		"/api/v1;x=y", "/api/v1%3bx", `/api\v1`, "/api%5cv1", "/api/v1#x", "/api/v1?x#y", "/api/v1%23", "/api/v1%3fwatch=1", "/api/%252e%252e",
		"/api/%", "/api/%2", "/api/%zz", "/api/\x00", "/api/\x7f", "/api/\xc3\xa9", "/api/%ff", "/api/a b", "/api/v1?a b", "/api/v1?a=\x01", "/api/{x}", "/api/v1/\"",
	} {
		if got, err := checkTarget(requestFor(uri)); err == nil {
			t.Errorf("%q was let through as %+v", uri, got)
		}
	}
	for _, method := range []string{http.MethodConnect, http.MethodTrace, "PRI", "get", ""} {
		if _, err := checkTarget(&http.Request{Method: method, RequestURI: "/api"}); err == nil {
			t.Errorf("method %q was let through", method)
		}
	}
}

func TestLegalTargetsStayByteExact(t *testing.T) {
	base := &url.URL{Scheme: "https", Host: "api.test", Path: "/base x"}
	for _, uri := range []string{
		"/", "/api", "/api/", "/api/v1/namespaces/default/pods?labelSelector=a%3Db%2Cc&limit=500", "/api/v1/namespaces/x/services/https:web:8443/proxy/a/b/",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3anode",
		"/x/caf%C3%A9", "/x/a%20b", "/x/...", "/x/.a", "/x/a..b", "/x/(a)!$&'*+,=@~[1]", "/x?", "/x?a;b&c=%zz&d=a/b?c", "/x?q=..%2f..//",
		"/api/v1/namespaces/a/pods/b/exec?command=sh&command=-c&command=echo%20%3B",
	} {
		got, err := checkTarget(requestFor(uri))
		if err != nil {
			t.Errorf("%q: %v", uri, err)
			continue
		}
		for _, b := range []*url.URL{{Scheme: "https", Host: "api.test"}, base} {
			want := strings.TrimSuffix(b.EscapedPath()+uri, "?")
			if sent := got.url(b).RequestURI(); sent != want {
				t.Errorf("%q is sent on as %q", uri, sent)
			}
		}
	}
}

func TestPrefixIsCutFromBothSpellings(t *testing.T) {
	for _, tt := range []struct{ uri, kube, raw, path, prefix string }{
		{"/k8s/prod/api/v1?x=1", "prod", "/api/v1", "/api/v1", "/k8s/prod"},
		{"/k8s/prod", "prod", "/", "/", "/k8s/prod"},
		{"/k8s/prod/", "prod", "/", "/", "/k8s/prod"},
		{"/k8s/a%40b/x%20y/z", "a@b", "/x%20y/z", "/x y/z", "/k8s/a%40b"},
		{"/k8s/prod/k8s/prod/x", "prod", "/k8s/prod/x", "/k8s/prod/x", "/k8s/prod"},
		{"/k8s/", "", "", "", ""},
		{"/k8s", "", "", "", ""},
		{"/k%38s/prod/x", "", "", "", ""},
		{"/api", "", "", "", ""},
	} {
		target, err := checkTarget(requestFor(tt.uri))
		if err != nil {
			t.Fatal(err)
		}
		kube, rest, ok := target.cutPrefix()
		if ok != (tt.kube != "") || ok && (kube != tt.kube || rest.raw != tt.raw || rest.path != tt.path || rest.prefix != tt.prefix || rest.query != target.query) {
			t.Errorf("%q: got %q, %+v, %v", tt.uri, kube, rest, ok)
		}
	}
}

func TestOnlyAHostThatNamesAnotherClusterIsMisdirected(t *testing.T) {
	for host, want := range map[string]bool{
		"sally.example": true, "sally.example:443": true, "192.0.2.1:443": true, "[2001:db8::1]:443": true, "[2001:db8::1]": true, "": true,
		"prod.kube.sally.example": true, "PROD.kube.Sally.example.:443": true, "prod.kube.other.example": true,
		"dev.kube.sally.example": false, "dev.kube.sally.example:443": false, "DEV.KUBE.sally.example.": false, "a.prod.kube.sally.example": false,
	} {
		if err := checkHost(host, "prod", "sally.example"); (err == nil) != want {
			t.Errorf("Host %q: %v", host, err)
		}
	}
	if err := checkHost("x-ab.kube.sally.example", "x-ab", "sally.example"); err != nil {
		t.Errorf("an unknown cluster's own label: %v", err) // 404 will say it better
	}
	if err := checkHost("x-"+strings.Repeat("0", 32)+".kube.sally.example", "Prod_1", "sally.example"); err == nil {
		t.Error("a foreign hashed label passed")
	}
}

// FuzzTarget: whatever is let through is sent on unchanged, means the same to
// net/url, and has no segment that any reader could resolve.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{
		"/api/v1/pods?watch=1", "/k8s/prod/api", "/api/%2e%2e", "//x", "/a/../b", "/%41", "/x?y#z", "/k8s/a%40b/x", "/a/%2f", "/caf%C3%A9/", "/a;b", "/a\\b", "/[x]/(y)", "*", "http://x/y",
	} {
		f.Add(s)
	}
	bases := []*url.URL{{Scheme: "https", Host: "h"}, {Scheme: "https", Host: "h", Path: "/base"}}
	f.Fuzz(func(t *testing.T, uri string) {
		whole, err := checkTarget(requestFor(uri))
		if err != nil {
			return
		}
		parsed, err := url.ParseRequestURI(uri)
		if err != nil {
			t.Fatalf("net/url refuses %q: %v", uri, err)
		}
		if parsed.Path != whole.path || parsed.RawQuery != whole.query || parsed.Host != "" {
			t.Fatalf("%q: net/url reads %q ? %q, we %q ? %q", uri, parsed.Path, parsed.RawQuery, whole.path, whole.query)
		}
		check := func(part target) {
			for _, base := range bases {
				want := base.Path + part.raw
				if part.query != "" {
					want += "?" + part.query
				}
				if sent := part.url(base).RequestURI(); sent != want {
					t.Fatalf("%q is sent on as %q", want, sent)
				}
			}
			segments := strings.Split(part.path, "/")
			for i, s := range segments {
				if s == "." || s == ".." || s == "" && i > 0 && i < len(segments)-1 || strings.ContainsAny(s, "\\;#?%\x00\r\n") {
					t.Fatalf("%q has the segment %q", part.path, s)
				}
			}
		}
		check(whole)
		if kube, rest, ok := whole.cutPrefix(); ok {
			check(rest)
			if rest.prefix+rest.raw != whole.raw && rest.prefix != whole.raw {
				t.Fatalf("%q is cut into %q and %q", whole.raw, rest.prefix, rest.raw)
			}
			if decoded, err := url.PathUnescape(rest.prefix); err != nil || decoded != "/k8s/"+kube {
				t.Fatalf("prefix %q names %q", rest.prefix, kube)
			}
		}
		parseResource(http.MethodGet, whole.path, whole.query)
	})
}

func TestServerAndProxyReadTheSameTarget(t *testing.T) {
	// httptest.NewRequest parses as net/http's server does.
	r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/a%20b?x=%2F", nil)
	got, err := checkTarget(r)
	if err != nil || got.path != r.URL.Path || got.query != r.URL.RawQuery {
		t.Fatalf("got %+v, %v", got, err)
	}
}
