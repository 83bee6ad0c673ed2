package proxy

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// prefixK8s begins the paths of the fallback port: /k8s/<cluster>/api/….
const prefixK8s = "/k8s/"

// target is a request's path and query, as sent and as meant.
type target struct {
	raw   string // the path, percent-encoded as the client sent it; sent on byte for byte
	path  string // raw decoded; decisions look at this
	query string // as sent, without the ?

	prefix string // /k8s/<cluster> as sent, if it was cut off
}

// checkTarget reads the request target (RFC 9112 §3.2) from the bytes the client
// sent. It refuses whatever a second reader could read differently: a form other
// than origin-form, dot segments, empty segments, a percent-encoding of a byte
// that has a meaning in a path, backslashes, semicolons, fragments, bytes that
// no URI has. What it lets through is sent on unchanged.
func checkTarget(r *http.Request) (target, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default: // CONNECT names no path; TRACE would show our credentials to the client
		return target{}, api.Errorf(api.CodeInvalid, "method %.16q is refused: Kubernetes has no use for it", r.Method)
	}
	uri := r.RequestURI
	if uri == "" || uri[0] != '/' {
		return target{}, badPath("only requests for a path are served")
	}
	raw, query, _ := strings.Cut(uri, "?")
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return target{}, badPath("the query holds a byte that belongs percent-encoded")
		}
	}
	encoded := false
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '%' {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return target{}, badPath("a percent sign is not followed by two hex digits")
			}
			if !plainWhenDecoded(unhex(raw[i+1])<<4 | unhex(raw[i+2])) {
				return target{}, badPath("%s is not allowed", raw[i:i+3])
			}
			encoded = true
			i += 2
			continue
		}
		if !isPathByte(c) {
			return target{}, badPath("byte 0x%02x is not allowed", c)
		}
		if c == '/' && badSegment(raw[i+1:]) {
			return target{}, badPath("empty and dot segments are not allowed")
		}
	}
	path := raw
	if encoded {
		var err error
		if path, err = url.PathUnescape(raw); err != nil || !utf8.ValidString(path) {
			return target{}, badPath("the percent-encoding is not UTF-8")
		}
	}
	return target{raw: raw, path: path, query: query}, nil
}

func badPath(format string, args ...any) error {
	return api.Errorf(api.CodeInvalid, "the request path is refused: "+format, args...)
}

// badSegment reports whether the segment that s begins with is ".", "..", or
// empty though more follows.
func badSegment(s string) bool {
	switch {
	case strings.HasPrefix(s, "/"):
		return true
	case s == "." || s == ".." || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../"):
		return true
	}
	return false
}

// isPathByte: pchar of RFC 3986 and "/", without ";" (a parameter to some
// readers), with "[" and "]", which Go leaves as they are too.
func isPathByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~!$&'()*+,=:@[]/", c) >= 0
}

// plainWhenDecoded reports whether an encoded byte means nothing but itself once
// it is decoded. A dot may begin a dot segment, a percent sign another encoding.
func plainWhenDecoded(c byte) bool {
	return c >= 0x20 && c != 0x7f && strings.IndexByte(`/\.%;?#`, c) < 0
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}

// cutPrefix takes /k8s/<cluster> off the front. The first two slashes of both
// spellings of the path are the same, because an encoded slash is refused.
func (t target) cutPrefix() (kube string, rest target, ok bool) {
	if !strings.HasPrefix(t.raw, prefixK8s) || !strings.HasPrefix(t.path, prefixK8s) {
		return "", t, false
	}
	_, rawRest, slash := strings.Cut(t.raw[len(prefixK8s):], "/")
	kube, pathRest, _ := strings.Cut(t.path[len(prefixK8s):], "/")
	if kube == "" {
		return "", t, false
	}
	rest = target{raw: "/", path: "/", query: t.query}
	if slash {
		rest.raw = t.raw[len(t.raw)-len(rawRest)-1:]
		rest.path = t.path[len(t.path)-len(pathRest)-1:]
		rest.prefix = t.raw[:len(t.raw)-len(rest.raw)]
	} else {
		rest.prefix = t.raw
	}
	return kube, rest, true
}

// url is the target on an API server. Its RequestURI is the base's path and the
// target as sent: setting Path and RawPath together keeps Go from re-encoding.
func (t target) url(base *url.URL) *url.URL {
	u := &url.URL{Scheme: base.Scheme, Host: base.Host, Path: t.path, RawPath: t.raw, RawQuery: t.query}
	if base.Path != "" && base.Path != "/" {
		u.Path = strings.TrimSuffix(base.Path, "/") + t.path
		u.RawPath = strings.TrimSuffix(base.EscapedPath(), "/") + t.raw
	}
	return u
}

// checkHost refuses a Host that names another Kubernetes cluster than the one
// routed to: HTTP/2 clients reuse a connection for every name its certificate
// covers. Any other Host (the public address, an IP) is what kubectl sends
// beside a tls-server-name and says nothing.
func checkHost(host, kube, clusterName string) error {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	to, label := api.ParseServerName(host, clusterName)
	if to == api.AudienceKube && label != api.KubeLabel(kube) && label != kube { // kube: a label that stands for no cluster
		return &misdirectedError{kube: kube, named: cmp.Or(label, host)}
	}
	return nil
}
