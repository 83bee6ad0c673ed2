package web

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

var (
	update = flag.Bool("update", false, "write the golden pages anew")
	serve  = flag.String("serve", "", "serve the pages at this address, to look at them in a browser")
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// invites knows tokens by name and takes what one redeems them with.
type invites struct {
	user      string // of the token "good"; "": alice
	redeemErr error
	redeemed  []string // token, password, address, and the second factor if there is one
}

func (f *invites) Lookup(_ context.Context, token string, from auth.Actor) (auth.Invite, error) {
	in := auth.Invite{User: "alice", Expires: noon.Add(47 * time.Minute)}
	if f.user != "" {
		in.User = f.user
	}
	if !from.Addr.IsValid() {
		return auth.Invite{}, errors.New("whom to limit?")
	}
	switch token {
	case "good":
		return in, nil
	case "optional", "on", "webauthn":
		in.SecondFactor = api.SecondFactor(token)
		return in, nil
	case "on-ip", "totp":
		in.SecondFactor = api.SecondFactorOn
		return in, nil
	case "reset":
		in.Reset, in.Expires = true, noon.Add(8*time.Hour-40*time.Second) // it takes a moment to open a link
		return in, nil
	case "expired":
		in.Expires = noon
		return in, nil
	case "used":
		return auth.Invite{}, api.Errorf(api.CodeConflict, "this link was used already, on 2026-11-22 11:58 UTC: if it was not you, tell an administrator")
	case "busy":
		return auth.Invite{}, api.Errorf(api.CodeRateLimited, "too many attempts, wait a minute")
	case "noquorum":
		return auth.Invite{}, api.Errorf(api.CodeUnavailable, "the cluster has no leader at the moment")
	case "broken":
		return auth.Invite{}, errors.New("secret detail of the store")
	default:
		return auth.Invite{}, api.Errorf(api.CodeNotFound, "this link is not known: ask for a new one")
	}
}

func (f *invites) Offer(_ context.Context, token string, _ auth.Actor) (*auth.Offer, error) {
	o := theOffer()
	if token == "on-ip" {
		o.WebAuthn = nil
	}
	return o, nil
}

func (f *invites) Redeem(_ context.Context, token, password string, e *auth.Enrolment, from auth.Actor) (string, error) {
	if f.redeemErr != nil {
		return "", f.redeemErr
	}
	if e != nil && e.TOTP == "000000" {
		return "", api.Errorf(api.CodeSecondFactor, "the code is wrong: check the clock of your phone and enter the code it shows now")
	}
	f.redeemed = append(f.redeemed, token, password, from.Addr.String())
	if e != nil {
		f.redeemed = append(f.redeemed, e.State, e.Name, e.TOTP+string(e.WebAuthn))
	}
	return "", nil
}

// sevens is a source of randomness that never ends and never surprises.
type sevens struct{}

func (sevens) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 7
	}
	return len(p), nil
}

func newSite(t testing.TB, f *invites, logs io.Writer) http.Handler {
	t.Helper()
	return newSiteOf(t, f, newAccounts(), logs)
}

func newSiteOf(t testing.TB, f *invites, a *accounts, logs io.Writer) http.Handler {
	t.Helper()
	o := Options{
		PublicAddr: "gate.example.com:443", ClusterName: "gate.example.com", Version: "1.2.3", Invites: f, Accounts: a,
		Clock: func() time.Time { return noon }, Rand: sevens{},
		Logger: slog.New(slog.NewTextHandler(logs, nil)),
	}
	if a.sso != nil {
		o.SSO = a.sso
	}
	if a.audit != nil {
		o.Audit = a.audit
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	return do(h, httptest.NewRequest(http.MethodGet, "https://gate.example.com"+path, nil))
}

// routes are all pages, with the words by which one knows them.
var routes = []struct {
	path, golden string
	status       int
	want         string
}{
	{"/", "home", 200, "<span>--user=YOU</span>"},
	{"/web", "", 200, "Kubernetes, through one gate"},
	{"/web/", "", 200, "Kubernetes, through one gate"},
	{"/web/invite/good", "invite", 200, `value="alice" readonly`},
	{"/web/reset/reset", "reset", 200, "for another 8 hours"},
	{"/web/invite/expired", "expired", 410, "It was good until 12:00 UTC on 22 November 2026."},
	{"/web/invite/used", "used", 410, "on 2026-11-22 11:58 UTC: if it was not you, tell an administrator."},
	{"/web/invite/nonsense", "unknown", 404, "This link is not known: ask for a new one."},
	{"/web/invite/busy", "", 429, "Too many attempts, wait a minute."},
	{"/web/invite/noquorum", "noquorum", 503, "The cluster has no leader at the moment."},
	{"/web/invite/broken", "broken", 500, "Something went wrong on our side"},
	{"/web/msg/info/login_success", "msg_login_success", 200, "You are logged in"},
	{"/web/msg/error/login", "", 200, "You could not be logged in"},
	{"/web/msg/error/login/callback", "msg_callback", 200, "was not accepted"},
	{"/web/msg/error/login/auth", "", 200, "You have no access here yet"},
	{"/web/msg/error/<script>alert(1)</script>", "", 404, "There is no such page"},
	{"/web/msg/warn/login", "", 404, "There is no such page"},
	{"/web/msg/", "", 404, "There is no such page"},
	{"/web/invite/", "", 404, "There is no such page"},
	{"/web/invite/good/more", "", 404, "There is no such page"},
	{"/assets/", "", 404, "There is no such page"},
	{"/assets/x/nothing.css", "", 404, "There is no such page"},
	{"/elsewhere", "notfound", 404, "There is no such page"},
}

func TestPages_sayWhatTheyShould(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	for _, c := range routes {
		t.Run(c.path, func(t *testing.T) {
			w := get(h, c.path)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
				t.Errorf("status %d, want %d; page:\n%s", w.Code, c.status, w.Body)
			}
			checkHeaders(t, w.Header())
			checkHTML(t, w.Body.String())
			if c.golden != "" {
				checkGolden(t, c.golden, w.Body.String())
			}
			head := do(h, httptest.NewRequest(http.MethodHead, c.path, nil))
			if head.Code != c.status {
				t.Errorf("HEAD gives %d, GET %d", head.Code, c.status)
			}
		})
	}
}

func checkHeaders(t *testing.T, h http.Header) {
	t.Helper()
	checkPolicy(t, h, "")
}

// checkPolicy asserts the headers of every answer; more is what this one's policy
// allows beside that of all.
func checkPolicy(t *testing.T, h http.Header, more string) {
	t.Helper()
	if h.Get("Content-Type") == "" && h.Get("Location") == "" {
		t.Error("no type")
	}
	for name, want := range map[string]string{
		"Content-Security-Policy":   "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'" + more,
		"X-Content-Type-Options":    "nosniff",
		"Strict-Transport-Security": "max-age=31536000",
		"Referrer-Policy":           "no-referrer",
		"Cache-Control":             "no-store",
		"X-Frame-Options":           "DENY",
		"Content-Type":              "text/html; charset=utf-8",
	} {
		if got := h.Get(name); got != want && !(name == "Content-Type" && got == "") {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// checkHTML asserts that elements close in order, that ids are unique, that
// labels and descriptions lead somewhere, and that nothing of the page needs
// what the policy forbids.
func checkHTML(t *testing.T, page string) {
	t.Helper()
	if !strings.HasPrefix(page, "<!DOCTYPE html>\n<html lang=\"en\">") {
		t.Errorf("begins with %.60q", page)
	}
	// XML wants an end for each element and a value for each attribute.
	page = regexp.MustCompile(` (required|formnovalidate|readonly|autofocus|hidden|defer|open)\b`).ReplaceAllString(page, ` $1=""`)
	page = regexp.MustCompile(`<((?:meta|link|input|img|hr)\b[^>]*)>`).ReplaceAllString(page, `<$1/>`)
	d := xml.NewDecoder(strings.NewReader(page))
	d.Entity = xml.HTMLEntity
	ids, refs, count := map[string]bool{}, map[string]bool{}, map[string]int{}
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, page)
		}
		el, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		count[el.Name.Local]++
		for _, a := range el.Attr {
			switch name := a.Name.Local; {
			case name == "id" && ids[a.Value]:
				t.Errorf("id %q twice", a.Value)
			case name == "id":
				ids[a.Value] = true
			case name == "for" || name == "aria-describedby":
				for ref := range strings.FieldsSeq(a.Value) {
					refs[ref] = true
				}
			case name == "style" || strings.HasPrefix(name, "on"):
				t.Errorf("inline %s=%q", name, a.Value)
			case el.Name.Local == "script" && name == "src" && !regexp.MustCompile(`^/assets/[0-9a-f]{16}/passkey\.js$`).MatchString(a.Value):
				t.Errorf("a script from %q", a.Value)
			case (name == "href" || name == "src" || name == "action") && !regexp.MustCompile(`^($|/[^/]|/$|#|otpauth://totp/|http://127\.0\.0\.1:40123/callback\?)`).MatchString(a.Value):
				t.Errorf("%s leads elsewhere: %q", name, a.Value)
			}
		}
	}
	scripts := 0
	if strings.Contains(page, "data-passkey=") {
		scripts = 1
	}
	if count["script"] != scripts || !regexp.MustCompile(`^(<script [^>]*></script>)?$`).MatchString(strings.Join(regexp.MustCompile(`(?s)<script.*</script>`).FindAllString(page, -1), "")) {
		t.Errorf("%d scripts, want %d, without anything in it", count["script"], scripts)
	}
	for ref := range refs {
		if !ids[ref] {
			t.Errorf("no element has the id %q", ref)
		}
	}
	for name, want := range map[string]int{"h1": 1, "main": 1, "title": 1, "style": 0, "iframe": 0} {
		if count[name] != want {
			t.Errorf("%d <%s>, want %d", count[name], name, want)
		}
	}
}

var digest = regexp.MustCompile(`/assets/[0-9a-f]{16}/`)

var search = regexp.MustCompile(`(?s)<form [^>]*role="search">.*</form>\n`)

// checkGolden compares a page with testdata: two of them whole, one of a stranger and
// one of somebody who is logged in, and of the others what they have of their own.
func checkGolden(t *testing.T, name, page string) {
	t.Helper()
	page = digest.ReplaceAllString(page, "/assets/DIGEST/")
	if name != "home" && name != "state_account" {
		if page = regexp.MustCompile(`(?s)<main .*</main>\n`).FindString(page); page == "" {
			t.Fatal("a page without a main element")
		}
	}
	if strings.HasPrefix(name, "state_audit-") && name != "state_audit-wrong" { // the form is that of state_audit
		page = search.ReplaceAllString(page, "")
	}
	file := filepath.Join("testdata", name+".html")
	if *update {
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), page); diff != "" {
		t.Error(diff)
	}
}

func TestPages_refuseOtherMethods(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	for path, allow := range map[string]string{
		"/": "GET, HEAD", "/web": "GET, HEAD", "/web/invite/good": "GET, HEAD, POST", "/web/msg/info/login_success": "GET, HEAD", "/assets/x/style.css": "GET, HEAD",
	} {
		for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace, "PROPFIND", http.MethodPost} {
			if strings.Contains(allow, method) {
				continue
			}
			w := do(h, httptest.NewRequest(method, path, nil))
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != allow {
				t.Errorf("%s %s: %d, Allow %q", method, path, w.Code, w.Header().Get("Allow"))
			}
			checkHeaders(t, w.Header())
		}
	}
}

func TestAssets_areKeptByTheirDigestOnly(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	urls := regexp.MustCompile(`/assets/[0-9a-f]{16}/[a-z]+\.[a-z]+`).FindAllString(get(h, "/").Body.String(), -1)
	if len(urls) != 3 {
		t.Fatalf("the page loads %q", urls)
	}
	dir := urls[0][:strings.LastIndex(urls[0], "/")]
	for name, ct := range map[string]string{"style.css": "text/css; charset=utf-8", "logo.svg": "image/svg+xml", "gate.svg": "image/svg+xml", "passkey.js": "text/javascript; charset=utf-8"} {
		w := get(h, dir+"/"+name)
		if w.Code != 200 || w.Header().Get("Content-Type") != ct || w.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("%s: %v", name, w.Header())
		}
		if bytes.Contains(w.Body.Bytes(), []byte("url(http")) || bytes.Contains(w.Body.Bytes(), []byte("@import")) {
			t.Errorf("%s loads something from elsewhere", name)
		}
		if regexp.MustCompile(`innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|fetch\(|XMLHttp|import\(`).Match(w.Body.Bytes()) {
			t.Errorf("%s does more than ask for a passkey", name)
		}
		if strings.HasSuffix(name, ".svg") {
			if err := xml.Unmarshal(w.Body.Bytes(), new(struct{ XMLName xml.Name })); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// A page of another version, during an update.
		if w := get(h, "/assets/0000000000000000/"+name); w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s of another version: %d %v", name, w.Code, w.Header())
		}
	}
}

func TestPages_escapeWhatTheyShow(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>$(id)'`
	f := &invites{user: evil}
	h := newSite(t, f, io.Discard)
	w := get(h, "/web/invite/good")
	if strings.Contains(w.Body.String(), "<script") || strings.Contains(w.Body.String(), "<img src=x") {
		t.Errorf("%s", w.Body)
	}
	checkHTML(t, w.Body.String())
	w = post(h, "good", fillIn(t, h, "good", "a long password", "a long password"))
	if w.Code != 200 || strings.Contains(w.Body.String(), "<script") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	checkHTML(t, w.Body.String())
	if !strings.Contains(w.Body.String(), `onerror=alert(1)&gt;$(id)&#39;\&#39;&#39;&#39;`) {
		t.Errorf("the line to paste is not quoted for a shell: %s", w.Body)
	}
	f.redeemErr = api.Errorf(api.CodeInvalid, "%s", evil)
	w = post(h, "good", fillIn(t, h, "good", "a long password", "a long password"))
	if strings.Contains(w.Body.String(), "<script") {
		t.Errorf("%s", w.Body)
	}
	checkHTML(t, w.Body.String())
}

func TestPages_doNotLogTokens(t *testing.T) {
	var logs bytes.Buffer
	h := newSite(t, &invites{}, &logs)
	for _, c := range routes {
		get(h, c.path)
	}
	if !strings.Contains(logs.String(), "secret detail of the store") {
		t.Errorf("our own failure is not in the log: %s", logs.String())
	}
	if strings.Contains(logs.String(), "broken") || strings.Contains(logs.String(), "/web/") {
		t.Errorf("the log tells a token: %s", logs.String())
	}
	if strings.Contains(get(h, "/web/invite/broken").Body.String(), "secret detail") {
		t.Error("a stranger reads our failure's details")
	}
}

// A form that somebody has typed is not simply gone, and no page is JSON.
func TestPages_ofAReplicaWhoseClockIsWrong(t *testing.T) {
	a := newAccounts()
	h, err := New(Options{
		PublicAddr: "gate.example.com:443", ClusterName: "gate.example.com", Invites: &invites{}, Accounts: a,
		Clock: func() time.Time { return noon }, Rand: sevens{}, Logger: slog.New(slog.DiscardHandler),
		ClockError: func() error { return api.Errorf(api.CodeUnavailable, "the clock of this replica is off by 24h") },
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]request{
		"login":            {path: loginPath},
		"a login sent":     {path: loginPath, form: url.Values{"username": {"alice"}, "password": {good}}},
		"account":          {path: accountPath, user: "alice"},
		"a password sent":  {path: passwordPath, user: "alice", form: url.Values{"old": {good}}},
		"an invite":        {path: "/web/invite/good"},
		"sent to the home": {path: "/", user: "alice", form: url.Values{}},
	} {
		w := send(h, q)
		again := strings.Contains(w.Body.String(), "go back in your browser and send the form again")
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || again != (q.form != nil) ||
			!strings.Contains(w.Body.String(), "Not just now") || !strings.Contains(w.Body.String(), "The clock of this replica is off by 24h") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		checkPage(t, w)
		checkHTML(t, w.Body.String())
	}
	if len(a.calls) != 0 {
		t.Error(a.calls)
	}
	if w := send(h, request{path: "/"}); w.Code != http.StatusOK {
		t.Errorf("the introduction: %d", w.Code)
	}
}

func TestNew_needsItsOptions(t *testing.T) {
	for _, o := range []Options{{}, {PublicAddr: "a", ClusterName: "b"}, {PublicAddr: "a", Invites: &invites{}, Accounts: newAccounts()}, {PublicAddr: "a", ClusterName: "b", Invites: &invites{}}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	h, err := New(Options{PublicAddr: "localhost:3080", ClusterName: "x", Invites: &invites{}, Accounts: newAccounts()})
	if err != nil {
		t.Fatal(err)
	}
	if got := get(h, "/").Header().Get("Strict-Transport-Security"); got != "" {
		t.Errorf("HSTS on localhost: %s", got)
	}
}

// TestServe shows the pages to whoever wants to look at them: go test -run
// TestServe -serve 127.0.0.1:8080 -timeout 0. /show/… gives those that one comes to
// by a form: see newShow.
func TestServe(t *testing.T) {
	if *serve == "" {
		return
	}
	l, err := net.Listen("tcp", *serve)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(newShow(t))
	srv.Listener = l
	srv.StartTLS()
	defer srv.Close()
	t.Logf("serving at %s until killed", srv.URL)
	select {}
}
