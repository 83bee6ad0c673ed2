package web

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
)

// A form carries a token that a page of ours gave out. The token is a MAC of
// the form's path, keyed with a random cookie. No replica needs to remember it
// or share a key with the others, so the page may come from one and the POST go
// to another. It holds because another site can neither read the cookie, nor
// set one of its own (the __Host- prefix shuts out sibling domains and plain
// HTTP; RFC 6265bis, section 4.1.3.2), nor have it sent (SameSite=Strict).
const (
	formCookie = "__Host-sallyport-form"
	formField  = "form_token"
	cookieLen  = 32      // bytes
	maxForm    = 8 << 10 // bytes of a posted form
)

// formToken gives the token for a form on r's page, and sets the cookie if the
// browser has none. Strict cookies are not sent when a link in a mail is
// followed, so such a page gets a new one each time.
func (s *site) formToken(w http.ResponseWriter, r *http.Request) (string, error) {
	key, ok := cookieKey(r)
	if !ok {
		key = make([]byte, cookieLen)
		if _, err := io.ReadFull(s.opts.Rand, key); err != nil {
			return "", err
		}
		http.SetCookie(w, &http.Cookie{
			Name: formCookie, Value: base64.RawURLEncoding.EncodeToString(key),
			Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		})
	}
	return tokenFor(key, r.URL.Path), nil
}

// dropFormCookie ends the life of the cookie with the form it was for.
func dropFormCookie(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{
		Name: formCookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

func cookieKey(r *http.Request) ([]byte, bool) {
	c, err := r.Cookie(formCookie)
	if err != nil {
		return nil, false
	}
	key, err := base64.RawURLEncoding.DecodeString(c.Value)
	return key, err == nil && len(key) == cookieLen
}

func tokenFor(key []byte, path string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("sallyport form\x00" + path))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// hasFormToken reports whether the parsed form of r carries its token.
func hasFormToken(r *http.Request) bool {
	key, ok := cookieKey(r)
	return ok && hmac.Equal([]byte(tokenFor(key, r.URL.Path)), []byte(r.PostForm.Get(formField)))
}

// fromOurPage reports whether what the browser says of a POST's origin is
// consistent with a page of ours. Sec-Fetch-Site decides where it is sent, which
// is in every browser since 2023. Origin must not contradict it; it is "null"
// in Chromium and Firefox because our pages send no referrer, and so "null"
// alone proves nothing. A request with neither header is not a browser's.
func (s *site) fromOurPage(r *http.Request) bool {
	origin, site := r.Header.Values("Origin"), r.Header.Values("Sec-Fetch-Site")
	if len(origin) > 1 || len(site) > 1 {
		return false
	}
	sameSite := len(site) == 1 && site[0] == "same-origin"
	if len(site) == 1 && !sameSite {
		return false
	}
	if len(origin) == 0 {
		return true
	}
	if origin[0] == "null" {
		return sameSite
	}
	host, https := strings.CutPrefix(origin[0], "https://")
	host = withPort(host)
	return https && (host == withPort(r.Host) || host == withPort(s.opts.PublicAddr))
}

// withPort adds the port that an origin leaves out.
func withPort(host string) string {
	host = strings.ToLower(host)
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host
	}
	return host + ":443"
}
