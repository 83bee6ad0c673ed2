package web

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// sent is a form as a browser would send it.
type sent struct {
	values url.Values
	cookie *http.Cookie
	header http.Header
}

// form opens the page of a token and fills it in.
func fillIn(t *testing.T, h http.Handler, token, password, repeat string) sent {
	t.Helper()
	w := get(h, "/web/invite/"+token)
	m := regexp.MustCompile(`name="form_token" value="([^"]+)"`).FindStringSubmatch(w.Body.String())
	cookies := w.Result().Cookies()
	if m == nil || len(cookies) != 1 {
		t.Fatalf("token %v, cookies %v", m, cookies)
	}
	return sent{
		values: url.Values{"form_token": {m[1]}, "username": {"alice"}, "password": {password}, "repeat": {repeat}},
		cookie: cookies[0],
		header: http.Header{"Origin": {"null"}, "Sec-Fetch-Site": {"same-origin"}},
	}
}

func post(h http.Handler, token string, f sent) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "https://gate.example.com/web/invite/"+token, strings.NewReader(f.values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = "[::ffff:192.0.2.7]:4711"
	if f.cookie != nil {
		r.AddCookie(f.cookie)
	}
	for k, v := range f.header {
		r.Header[k] = v
	}
	return do(h, r)
}

const good = "correct horse battery"

func TestInvite_setsThePasswordAndSaysWhatComesNext(t *testing.T) {
	f := &invites{}
	h := newSite(t, f, io.Discard)
	w := post(h, "good", fillIn(t, h, "good", good, good))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	checkHeaders(t, w.Header())
	checkHTML(t, w.Body.String())
	checkGolden(t, "done", w.Body.String())
	if !strings.Contains(w.Body.String(), "<span>tsh</span> <span>login</span> <span>--proxy=gate.example.com:443</span> <span>--user=alice</span></code>") {
		t.Errorf("no line to paste: %s", w.Body)
	}
	if diff := cmp.Diff([]string{"good", good, "192.0.2.7"}, f.redeemed); diff != "" {
		t.Error(diff)
	}
	if c := w.Result().Cookies(); len(c) != 1 || c[0].MaxAge >= 0 {
		t.Errorf("the form's cookie stays: %v", c)
	}
}

func TestInvite_cookieIsOfTheStrictestKind(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	c := fillIn(t, h, "good", "", "").cookie
	if c.Name != "__Host-sallyport-form" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 0 {
		t.Errorf("%+v", c)
	}
	r := httptest.NewRequest(http.MethodGet, "/web/invite/good", nil)
	r.AddCookie(c)
	if again := do(h, r).Result().Cookies(); len(again) != 0 {
		t.Errorf("a second cookie would spoil the first page: %v", again)
	}
}

func TestInvite_refusesForgedForms(t *testing.T) {
	for name, forge := range map[string]func(*sent){
		"no token":                  func(s *sent) { s.values.Del("form_token") },
		"empty token":               func(s *sent) { s.values.Set("form_token", "") },
		"wrong token":               func(s *sent) { s.values.Set("form_token", strings.Repeat("A", 43)) },
		"no cookie":                 func(s *sent) { s.cookie = nil },
		"another cookie":            func(s *sent) { s.cookie.Value = strings.Repeat("A", 43) },
		"a short cookie":            func(s *sent) { s.cookie.Value = "AA" },
		"an empty cookie":           func(s *sent) { s.cookie.Value = "" },
		"a foreign origin":          func(s *sent) { s.header = http.Header{"Origin": {"https://evil.example"}} },
		"foreign origin, site ours": func(s *sent) { s.header.Set("Origin", "https://evil.example") },
		"our origin over http":      func(s *sent) { s.header = http.Header{"Origin": {"http://gate.example.com"}} },
		"our host, another port":    func(s *sent) { s.header = http.Header{"Origin": {"https://gate.example.com:8443"}} },
		"our name as a prefix":      func(s *sent) { s.header = http.Header{"Origin": {"https://gate.example.com.evil.example"}} },
		"our name as a user":        func(s *sent) { s.header = http.Header{"Origin": {"https://gate.example.com:443@evil.example"}} },
		"two origins":               func(s *sent) { s.header = http.Header{"Origin": {"https://gate.example.com", "https://evil.example"}} },
		"a sandboxed frame":         func(s *sent) { s.header = http.Header{"Origin": {"null"}, "Sec-Fetch-Site": {"cross-site"}} },
		"null alone":                func(s *sent) { s.header = http.Header{"Origin": {"null"}} },
		"a sibling domain":          func(s *sent) { s.header = http.Header{"Sec-Fetch-Site": {"same-site"}} },
		"typed into the bar":        func(s *sent) { s.header = http.Header{"Sec-Fetch-Site": {"none"}} },
	} {
		t.Run(name, func(t *testing.T) {
			f := &invites{}
			h := newSite(t, f, io.Discard)
			s := fillIn(t, h, "good", good, good)
			forge(&s)
			w := post(h, "good", s)
			if w.Code != http.StatusForbidden || f.redeemed != nil {
				t.Errorf("%d, redeemed %v", w.Code, f.redeemed)
			}
			checkHeaders(t, w.Header())
			checkHTML(t, w.Body.String())
			if strings.Contains(w.Body.String(), good) {
				t.Error("the password is sent back")
			}
		})
	}
}

func TestInvite_tokenIsOfOneFormAlone(t *testing.T) {
	f := &invites{}
	h := newSite(t, f, io.Discard)
	if w := post(h, "reset", fillIn(t, h, "good", good, good)); w.Code != http.StatusForbidden || f.redeemed != nil {
		t.Errorf("%d %v", w.Code, f.redeemed)
	}
}

func TestInvite_takesWhatBrowsersSend(t *testing.T) {
	for name, header := range map[string]http.Header{
		"no-referrer":             {"Origin": {"null"}, "Sec-Fetch-Site": {"same-origin"}},
		"our origin":              {"Origin": {"https://gate.example.com"}, "Sec-Fetch-Site": {"same-origin"}},
		"our origin with port":    {"Origin": {"https://gate.example.com:443"}},
		"our origin, upper case":  {"Origin": {"https://Gate.Example.com"}},
		"neither: not a browser":  {},
		"site alone":              {"Sec-Fetch-Site": {"same-origin"}},
		"a page open in two tabs": {"Origin": {"null"}, "Sec-Fetch-Site": {"same-origin"}, "Cookie": {"other=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &invites{}
			h := newSite(t, f, io.Discard)
			s := fillIn(t, h, "good", good, good)
			if c := header.Get("Cookie"); c != "" {
				header.Set("Cookie", c+"; "+s.cookie.Name+"="+s.cookie.Value)
			}
			s.header = header
			if w := post(h, "good", s); w.Code != http.StatusOK || len(f.redeemed) != 3 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

func TestInvite_errorsStayOnThePage(t *testing.T) {
	for name, c := range map[string]struct {
		password, repeat string
		err              error
		status           int
		want             string
		invalid          string // id of the field that is marked
	}{
		"the two differ":     {good, good + "x", nil, 400, "The two entries differ.", "repeat"},
		"no second entry":    {good, "", nil, 400, "The two entries differ.", "repeat"},
		"nothing entered":    {"", "", nil, 400, "Enter a password.", "password"},
		"a rule is broken":   {"short", "short", api.Errorf(api.CodeInvalid, "the password needs 12 characters or more"), 400, "The password needs 12 characters or more.", "password"},
		"far too long":       {strings.Repeat("x", 9000), "", nil, 413, "far too long", ""},
		"no leader":          {good, good, api.Errorf(api.CodeUnavailable, "no leader at the moment, try again"), 503, "No leader at the moment, try again.", ""},
		"too many attempts":  {good, good, api.Errorf(api.CodeRateLimited, "wait a minute"), 429, "Wait a minute.", ""},
		"used in between":    {good, good, api.Errorf(api.CodeConflict, "the invite was used"), 410, "This link has been used", ""},
		"gone in between":    {good, good, api.Errorf(api.CodeNotFound, "no such invite"), 404, "This link does not work", ""},
		"nobody knows":       {good, good, api.Errorf(api.CodeAmbiguous, "no answer"), 504, "Try to log in with it.", ""},
		"a failure of ours":  {good, good, io.ErrUnexpectedEOF, 500, "Something went wrong on our side", ""},
		"a space at the end": {good + " ", good, nil, 400, "The two entries differ.", "repeat"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &invites{redeemErr: c.err}
			h := newSite(t, f, io.Discard)
			w := post(h, "good", fillIn(t, h, "good", c.password, c.repeat))
			body := w.Body.String()
			if w.Code != c.status || !strings.Contains(body, c.want) || f.redeemed != nil {
				t.Errorf("%d, redeemed %v\n%s", w.Code, f.redeemed, body)
			}
			checkHeaders(t, w.Header())
			checkHTML(t, body)
			if c.password != "" && strings.Contains(body, c.password) {
				t.Error("the password is sent back")
			}
			marked := regexp.MustCompile(`id="(\w+)"[^>]* aria-invalid="true"`).FindStringSubmatch(body)
			if c.invalid != "" && (marked == nil || marked[1] != c.invalid || !strings.Contains(body, `role="alert" id="error"`)) {
				t.Errorf("marked %v, want %s", marked, c.invalid)
			}
			if name == "a rule is broken" {
				checkGolden(t, "invite_error", body)
			}
		})
	}
}

func TestInvite_deadLinksTakeNoForm(t *testing.T) {
	for token, status := range map[string]int{"used": 410, "expired": 410, "nonsense": 404} {
		f := &invites{}
		h := newSite(t, f, io.Discard)
		s := fillIn(t, h, "good", good, good)
		key, _ := cookieKey(&http.Request{Header: http.Header{"Cookie": {s.cookie.Name + "=" + s.cookie.Value}}})
		s.values.Set("form_token", key.token("/web/invite/"+token))
		if w := post(h, token, s); w.Code != status || f.redeemed != nil {
			t.Errorf("%s: %d", token, w.Code)
		}
	}
}

func TestInvite_takesFormsOnly(t *testing.T) {
	f := &invites{}
	h := newSite(t, f, io.Discard)
	s := fillIn(t, h, "good", good, good)
	for _, ct := range []string{"", "application/json", "text/plain", "multipart/form-data; boundary=x"} {
		s.header.Set("Content-Type", ct)
		if w := post(h, "good", s); w.Code != http.StatusUnsupportedMediaType || f.redeemed != nil {
			t.Errorf("%q: %d", ct, w.Code)
		}
	}
	s.header.Set("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
	if w := post(h, "good", s); w.Code != http.StatusOK {
		t.Errorf("%d", w.Code)
	}
}

// R3-13: a link for 8 hours was "good for another 7 hours" as soon as it was opened.
func TestWhatIsLeftIsRoundedToWhatIsNearest(t *testing.T) {
	for d, want := range map[time.Duration]string{
		8*time.Hour - 40*time.Second:                 "8 hours",
		8 * time.Hour:                                "8 hours",
		7*time.Hour + 54*time.Minute:                 "7 hours and 50 minutes",
		7*time.Hour + 31*time.Minute:                 "7 hours and 30 minutes",
		47*time.Hour + 56*time.Minute:                "48 hours",
		2*time.Hour - 10*time.Second:                 "2 hours",
		time.Hour - time.Second:                      "60 minutes",
		61*time.Minute + 29*time.Second:              "61 minutes",
		40 * time.Second:                             "1 minute",
		29 * time.Second:                             "less than a minute",
		-time.Hour:                                   "less than a minute",
		2*time.Hour + 4*time.Minute + 59*time.Second: "2 hours",
	} {
		if got := left(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}
