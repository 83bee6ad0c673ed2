package api

import (
	"net/url"
	"strings"
)

// SameURL says whether two absolute http or https URLs name the same place: scheme
// and host compare without case, the scheme's default port may be written or not
// (RFC 3986, section 6.2.3), path and query compare byte for byte. What is no such
// URL, or carries user information or a fragment, is the same as nothing, not even
// as itself: an identity provider's answer that is meant for it is meant for nobody.
func SameURL(a, b string) bool {
	x, ok := normalURL(a)
	if !ok {
		return false
	}
	y, ok := normalURL(b)
	return ok && x == y
}

// comparableURL is what of a URL counts in comparisons.
type comparableURL struct {
	scheme, host, port, path, query string
	asks                            bool // there is a question mark, even if nothing follows
}

func normalURL(s string) (comparableURL, bool) {
	// url.Parse passes over an empty fragment and does not say that there was one.
	if s == "" || strings.ContainsAny(s, "#\\") || strings.TrimSpace(s) != s {
		return comparableURL{}, false
	}
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.User != nil || u.Hostname() == "" {
		return comparableURL{}, false
	}
	c := comparableURL{
		scheme: u.Scheme, host: strings.ToLower(u.Hostname()), port: u.Port(), path: u.EscapedPath(), query: u.RawQuery,
		asks: u.ForceQuery || u.RawQuery != "",
	} // url.Parse gives the scheme in lower case
	switch {
	case c.scheme != "https" && c.scheme != "http":
		return comparableURL{}, false
	case c.port == "" && c.scheme == "https":
		c.port = "443"
	case c.port == "":
		c.port = "80"
	}
	if c.path == "" {
		c.path = "/"
	}
	return c, true
}
