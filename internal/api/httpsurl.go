package api

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// HTTPSURL reads the address of an identity provider: https, with a host and without
// user information or a fragment, and with a query only where one may be. The error
// says what is wrong with it; whoever has it says of what.
//
// There is no exemption for loopback: what is tried there would be what is used
// elsewhere.
func HTTPSURL(s string, query bool) (*url.URL, error) {
	if err := uri(s); err != nil {
		return nil, err
	}
	u, err := url.Parse(s)
	switch {
	case err == nil && u.User != nil:
		return nil, fmt.Errorf("must not hold a user or a password")
	case err != nil, u.Opaque != "", u.Hostname() == "" && u.Scheme == "https", u.Scheme == "":
		return nil, fmt.Errorf("%q is no address such as https://idp.example.com", clip(s))
	case u.Scheme != "https":
		return nil, fmt.Errorf("%q: want https, with a certificate that this machine trusts: who sits between could log in as anybody", clip(s))
	case strings.Contains(s, "#"):
		return nil, fmt.Errorf("%q: leave out what begins with #", clip(s))
	case !query && (u.RawQuery != "" || u.ForceQuery):
		return nil, fmt.Errorf("%q: leave out what begins with ?", clip(s))
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%q: port %s is none", clip(s), clip(port))
		}
	}
	return u, nil
}

// uri takes what may be the name of one side: ASCII without spaces, so that no two
// look alike.
func uri(s string) error {
	if len(s) > maxURL || !isVisible(s) || strings.ContainsAny(s, ` "<>\`+"^`{|}") {
		return fmt.Errorf("%q: want at most %d characters of ASCII, without spaces (international domain names begin with xn--)", clip(s), maxURL)
	}
	return nil
}

// PublicURL is the address of a path of the cluster; publicAddr is HOST or HOST:PORT.
// The default port is left out, as people write it and as browsers send it.
func PublicURL(publicAddr, path string) string {
	return "https://" + strings.TrimSuffix(publicAddr, ":443") + path
}

// CallbackURL is where identity providers send browsers back to, for a callback's
// path such as PathOIDCCallback.
func CallbackURL(publicAddr, path string) string { return PublicURL(publicAddr, "/v1"+path) }
