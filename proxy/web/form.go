package web

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/auth"
)

// A form carries a token that a page of ours gave out: a MAC of the path it is
// posted to. No replica needs to remember it or share a key with the others, so
// the page may come from one and the POST go to another.
//
// Before a login the key is a random cookie. That holds because another site can
// neither read the cookie, nor set one of its own (the __Host- prefix shuts out
// sibling domains and plain HTTP; RFC 6265bis, section 4.1.3.2), nor have it sent
// (SameSite=Strict). A login ends that cookie's life, so that nothing which was
// seen before it is worth anything after. From then on the key comes from the
// session's cookie (see visit.go).
const (
	formCookie = "__Host-sallyport-form"
	formField  = "form_token"
	cookieLen  = 32       // bytes
	maxForm    = 64 << 10 // bytes of a posted form; an attestation has certificates in it
	maxField   = 4 << 10  // bytes of what people type
)

// formKey is what the tokens of one browser's forms are made with.
type formKey []byte

// guestKey gives the key of a browser that is not logged in, and sets the cookie
// if it has none. Strict cookies are not sent when a link in a mail is followed,
// so such a page gets a new one each time.
func (s *site) guestKey(w http.ResponseWriter, r *http.Request) (formKey, error) {
	if key, ok := cookieKey(r); ok {
		return key, nil
	}
	key := make([]byte, cookieLen)
	if _, err := io.ReadFull(s.opts.Rand, key); err != nil {
		return nil, fmt.Errorf("make a form token: %w", err)
	}
	setCookie(w, formCookie, base64.RawURLEncoding.EncodeToString(key))
	return key, nil
}

// setCookie sets a cookie that no other site has sent and that ends with the browser.
func setCookie(w http.ResponseWriter, name, value string) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// dropCookie ends a cookie's life.
func dropCookie(w http.ResponseWriter, name string) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

// cookieKey reads the cookie of a browser that is not logged in.
func cookieKey(r *http.Request) (formKey, bool) {
	value, ok := oneCookie(r, formCookie)
	if !ok {
		return nil, false
	}
	key, err := base64.RawURLEncoding.DecodeString(value)
	return key, err == nil && len(key) == cookieLen
}

// oneCookie gives the value of a cookie that came once. Two of a name are not a
// browser's doing where names begin with __Host-.
func oneCookie(r *http.Request, name string) (string, bool) {
	cookies := r.CookiesNamed(name)
	if len(cookies) != 1 || len(cookies[0].Value) > maxField {
		return "", false
	}
	return cookies[0].Value, true
}

func (k formKey) mac(purpose string, parts ...string) []byte {
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte(purpose))
	for _, part := range parts {
		mac.Write([]byte{0})
		mac.Write([]byte(part))
	}
	return mac.Sum(nil)
}

// token is for a form that is posted to path.
func (k formKey) token(path string) string {
	return base64.RawURLEncoding.EncodeToString(k.mac("sallyport form", path))
}

// fits reports whether the parsed form of r carries the token of its path.
func (k formKey) fits(r *http.Request) bool {
	return len(k) > 0 && hmac.Equal([]byte(k.token(r.URL.Path)), []byte(r.PostForm.Get(formField)))
}

// carry packs what a page needs again when its form comes back, such as the
// secret behind a QR code, so that a wrong code does not mean scanning anew. It
// tells the user nothing that the page does not; the MAC keeps others from
// choosing what our page shows.
func (k formKey) carry(path string, v any) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	packed := base64.RawURLEncoding.EncodeToString(data)
	return packed + "." + base64.RawURLEncoding.EncodeToString(k.mac("sallyport carried", path, packed)), nil
}

// carried unpacks what carry packed for the same browser and path.
func (k formKey) carried(path, s string, v any) bool {
	packed, sum, ok := strings.Cut(s, ".")
	want := base64.RawURLEncoding.EncodeToString(k.mac("sallyport carried", path, packed))
	if !ok || len(k) == 0 || !hmac.Equal([]byte(want), []byte(sum)) {
		return false
	}
	data, err := base64.RawURLEncoding.DecodeString(packed)
	return err == nil && json.Unmarshal(data, v) == nil
}

// formError is a form that could not be read, in words for the user.
type formError struct {
	status  int
	message string
}

func parseForm(w http.ResponseWriter, r *http.Request) *formError {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(ct), "application/x-www-form-urlencoded") {
		return &formError{http.StatusUnsupportedMediaType, "The form arrived in a shape that no browser sends. Please try again."}
	}
	err := r.ParseForm()
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return &formError{http.StatusRequestEntityTooLarge, "That was far too long for this form. Please try again with less."}
	}
	if err != nil {
		return &formError{http.StatusBadRequest, "The form arrived damaged. Please try again."}
	}
	for name, values := range r.PostForm {
		if name != carriedField && name != passkeyField && len(values) > 0 && len(values[0]) > maxField {
			return &formError{http.StatusRequestEntityTooLarge, "That was far too long for this form. Please try again with less."}
		}
	}
	return nil
}

// The fields that a page fills in by itself.
const (
	carriedField = "carried"
	passkeyField = "passkey"
)

// answer reads a second factor from a parsed form. A passkey goes before a code:
// nobody makes one by accident.
func answer(r *http.Request) auth.FactorAnswer {
	if p := strings.TrimSpace(r.PostForm.Get(passkeyField)); p != "" {
		return auth.FactorAnswer{WebAuthn: json.RawMessage(p)}
	}
	return auth.FactorAnswer{TOTP: strings.TrimSpace(r.PostForm.Get("code"))}
}

// refuseForeign answers a POST that another site sent.
func (s *site) refuseForeign(w http.ResponseWriter, r *http.Request) {
	s.notice(w, r, http.StatusForbidden, notice{
		Title: "This was not sent by our page", Error: true,
		Lines: []string{
			"Your browser says that another site sent this form, so nothing was changed.",
			"Open the page from where you had it and fill in the form there.",
		},
	})
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
