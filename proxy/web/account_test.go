package web

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boombuler/barcode/qr"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

func TestAccount_showsNoTokens(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	for _, path := range []string{"/", accountPath, passwordPath, appPath, passkeyPath, "/web/cli/good", logoutPath} {
		w := send(h, request{path: path, user: "alice.live"})
		if w.Code != 200 || strings.Contains(w.Body.String(), "alice.live") {
			t.Errorf("%s: %d, or the cookie's value is in the page", path, w.Code)
		}
	}
}

func TestAccount_marksThisSession(t *testing.T) {
	w := send(newSite(t, &invites{}, io.Discard), request{path: accountPath, user: "alice"})
	rows := strings.Split(w.Body.String(), `<li class="row">`)
	for _, row := range rows {
		if strings.Contains(row, "this one") != strings.Contains(row, `value="4567"`) {
			t.Errorf("%s", row)
		}
	}
	if order := regexp.MustCompile(`name="id" value="(\w+)"`).FindAllStringSubmatch(w.Body.String(), -1); len(order) != 3 || order[0][1] != "4567" || order[1][1] != "0123" {
		t.Errorf("not the newest first: %v", order)
	}
}

func TestAccount_endingThisSessionLogsOut(t *testing.T) {
	a := newAccounts()
	w := send(newSiteOf(t, &invites{}, a, io.Discard), request{path: endPath, user: "alice", form: url.Values{"id": {"4567"}}})
	if c := cookieOf(w, sessionCookie); w.Code != 200 || c == nil || c.MaxAge >= 0 {
		t.Errorf("%d %v", w.Code, c)
	}
	if diff := cmp.Diff([]string{"logout alice.live"}, a.calls); diff != "" {
		t.Error(diff)
	}
}

// A stranger's words in names, labels and addresses stay words.
func TestPages_escapeWhatUsersName(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}$(id)'`
	a := newAccounts()
	a.role = evil
	a.clusters = []api.KubeCluster{{Name: evil, Labels: map[string]string{evil: evil}, Status: &api.KubeStatus{Health: api.HealthUnhealthy, Reason: evil}}, {Name: evil, Status: &api.KubeStatus{Health: api.HealthHealthy, Version: evil}}}
	a.factors = []api.Factor{{ID: "f1", Kind: evil, Name: evil}, {ID: evil, Kind: api.FactorWebAuthn, Name: evil}}
	a.sessions = []api.Session{{ID: evil, Kind: evil, ClientAddr: evil, User: evil}}
	a.console.MatchCode = evil
	h := newSiteOf(t, &invites{}, a, io.Discard)
	for _, path := range []string{"/", accountPath, "/web/account/factors/f1/remove", "/web/cli/good", "/web/cli/anyone", loginPath + "?next=/web/account"} {
		w := send(h, request{path: path, user: "alice"})
		if w.Code != 200 || strings.Contains(w.Body.String(), "<script>") || strings.Contains(w.Body.String(), "<img src=x") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		checkPage(t, w)
	}
	for path, form := range map[string]url.Values{
		loginPath: {"username": {evil}, "password": {"x"}, "next": {evil}},
		appPath:   {"name": {evil}, "code": {"000000"}},
		endPath:   {"id": {evil}},
	} {
		a.err = api.Errorf(api.CodeInvalid, "%s", evil)
		w := send(h, request{path: path, user: "alice", form: complete(h, path, form)})
		if w.Code < 400 || strings.Contains(w.Body.String(), "<script>") || strings.Contains(w.Body.String(), "<img src=x") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		checkPage(t, w)
	}
}

func TestPassword_isCheckedBeforeItIsSent(t *testing.T) {
	for name, c := range map[string]struct {
		user   string
		form   url.Values
		status int
		want   string
		call   string
	}{
		"nothing":           {"alice", url.Values{}, 400, "Enter your present password.", ""},
		"no new one":        {"alice", url.Values{"old": {good}}, 400, "Enter a new password.", ""},
		"the two differ":    {"alice", url.Values{"old": {good}, "password": {"a"}, "repeat": {"b"}}, 400, "The two entries differ.", ""},
		"wrong old one":     {"alice", url.Values{"old": {"x"}, "password": {"a"}, "repeat": {"a"}}, 403, "This is not your present password.", ""},
		"no code":           {"totp", url.Values{"old": {good}, "password": {"a"}, "repeat": {"a"}}, 400, "Enter the code", ""},
		"no passkey":        {"passkey", url.Values{"old": {good}, "password": {"a"}, "repeat": {"a"}}, 400, "Use your passkey", ""},
		"a code":            {"totp", url.Values{"old": {good}, "password": {"a"}, "repeat": {"a"}, "code": {"1"}}, 303, "", "password a  1"},
		"a passkey's state": {"both", url.Values{"old": {good}, "password": {"a"}, "repeat": {"a"}, "passkey": {"{}"}}, 303, "", "password a state-of-both {}"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccounts()
			h := newSiteOf(t, &invites{}, a, io.Discard)
			c.form.Set(carriedField, carriedBy(send(h, request{path: passwordPath, user: c.user})))
			w := send(h, request{path: passwordPath, user: c.user, form: c.form})
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) || strings.Join(a.calls, ",") != c.call {
				t.Errorf("%d %v %s", w.Code, a.calls, w.Body)
			}
			if strings.Contains(w.Body.String(), good) {
				t.Error("a password is sent back")
			}
			checkPage(t, w)
		})
	}
}

func TestPassword_spentChallengesAreReplaced(t *testing.T) {
	a := newAccounts()
	h := newSiteOf(t, &invites{}, a, io.Discard)
	carried := carriedBy(send(h, request{path: passwordPath, user: "both"}))
	a.err = api.Errorf(api.CodeConflict, "used")
	form := url.Values{"old": {good}, "password": {"a"}, "repeat": {"a"}, "passkey": {"{}"}, carriedField: {carried}}
	w := send(h, request{path: passwordPath, user: "both", form: form})
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "please enter it again") && !strings.Contains(w.Body.String(), "Please enter it again") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	form = url.Values{"old": {good}, "password": {"a"}, "repeat": {"a"}}
	if w = send(h, request{path: passwordPath, user: "both", form: form}); w.Code != 200 || carriedBy(w) == "" {
		t.Errorf("without what the page carries: %d", w.Code)
	}
}

func TestPassword_asksNoMoreForAPasskeyThatIsLocked(t *testing.T) {
	a := newAccounts()
	a.err = api.Errorf(api.CodeForbidden, "this passkey is locked: ask an administrator")
	carried, err := sessionKey("nofactor.live").carry(passwordPath, &auth.Challenge{User: "nofactor", State: "s", Methods: []string{api.FactorWebAuthn}})
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"old": {good}, "password": {"a"}, "repeat": {"a"}, "passkey": {"{}"}, carriedField: {carried}}
	w := send(newSiteOf(t, &invites{}, a, io.Discard), request{path: passwordPath, user: "nofactor", form: form})
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "This passkey is locked: ask an administrator.") || strings.Contains(w.Body.String(), "<form method=\"post\" action=\""+passwordPath) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAdd_keepsTheOfferWhenTheCodeIsWrong(t *testing.T) {
	a := newAccounts()
	h := newSiteOf(t, &invites{}, a, io.Discard)
	first := send(h, request{path: appPath, user: "alice"})
	w := send(h, request{path: appPath, user: "alice", form: url.Values{carriedField: {carriedBy(first)}, "code": {"000000"}, "name": {"phone"}}})
	if w.Code != 400 || carriedBy(w) != carriedBy(first) || !strings.Contains(w.Body.String(), `value="phone"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = send(h, request{path: appPath, user: "alice", form: url.Values{carriedField: {carriedBy(w)}}})
	if w.Code != 400 || !strings.Contains(w.Body.String(), "Enter the code that the app shows.") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for name, carried := range map[string]string{
		"another page's": carriedBy(send(h, request{path: passkeyPath, user: "alice"})), "another session's": carriedBy(send(h, request{path: appPath, user: "bob"})), "none": "",
	} {
		w = send(h, request{path: appPath, user: "alice", form: url.Values{carriedField: {carried}, "code": {"123456"}}})
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "Please begin again") || carriedBy(w) == "" {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	if len(a.calls) != 0 {
		t.Errorf("%v", a.calls)
	}
	a.err = api.Errorf(api.CodeConflict, "this offer is too old")
	w = send(h, request{path: appPath, user: "alice", form: url.Values{carriedField: {carriedBy(first)}, "code": {"123456"}}})
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "This offer is too old.") || carriedBy(w) == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAdd_aFormOutlivesTheFreshness(t *testing.T) {
	a := newAccounts()
	h := newSiteOf(t, &invites{}, a, io.Discard)
	// The page was opened nine minutes after the login, and is sent after eleven.
	carried, err := sessionKey("alice.old").carry(appPath, theOffer())
	if err != nil {
		t.Fatal(err)
	}
	w := send(h, request{path: appPath, user: "alice.old", form: url.Values{carriedField: {carried}, "code": {"123456"}}})
	if w.Code != http.StatusSeeOther || len(a.calls) != 1 {
		t.Errorf("%d %v", w.Code, a.calls)
	}
}

// A secret shown to a browser left open would let whoever sits there in for good.
func TestAdd_offersNothingToWhoIsNotFresh(t *testing.T) {
	for _, path := range []string{appPath, passkeyPath} {
		old, err := sessionKey("alice.old").carry(path, theOffer())
		if err != nil {
			t.Fatal(err)
		}
		with := func(carried string) url.Values {
			if path == passkeyPath {
				return url.Values{carriedField: {carried}, "passkey": {`{"id":"x"}`}}
			}
			return url.Values{carriedField: {carried}, "code": {"123456"}}
		}
		for name, c := range map[string]struct {
			user string
			form url.Values
			err  error
		}{
			"opened":                          {"alice.old", nil, nil},
			"sent without what it carries":    {"alice.old", with(""), nil},
			"sent with what it did not get":   {"alice.old", with("x.y"), nil},
			"sent with an offer that is over": {"alice.old", with(old), api.Errorf(api.CodeConflict, "this offer is too old")},
			// The replica's clock may say otherwise than the cluster's time.
			"sent at the very end":   {"alice.late", with(""), nil},
			"opened at the very end": {"alice.late", nil, nil},
		} {
			a := newAccounts()
			a.err = c.err
			w := send(newSiteOf(t, &invites{}, a, io.Discard), request{path: path, user: c.user, form: c.form})
			if want := loginURL(path); w.Code != http.StatusSeeOther || w.Header().Get("Location") != want || strings.Contains(w.Body.String(), theSecret) {
				t.Errorf("%s, %s: %d, to %q", path, name, w.Code, w.Header().Get("Location"))
			}
			if a.offers != 0 || len(a.calls) != 0 {
				t.Errorf("%s, %s: %d offers, %v", path, name, a.offers, a.calls)
			}
		}
	}
}

func TestRemove_wantsAFreshLogin(t *testing.T) {
	const path = "/web/account/factors/f1/remove"
	for name, q := range map[string]request{
		"sent":                       {path: path, user: "alice.old", form: url.Values{}},
		"sent at the very end":       {path: path, user: "alice.late", form: url.Values{}},
		"opened too late to be sent": {path: path, user: "alice.late"},
	} {
		a := newAccounts()
		w := send(newSiteOf(t, &invites{}, a, io.Discard), q)
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != loginURL(path) || len(a.calls) != 0 {
			t.Errorf("%s: %d %v", name, w.Code, a.calls)
		}
	}
}

func TestRemove_saysWhyItStays(t *testing.T) {
	a := newAccounts()
	a.err = api.Errorf(api.CodeForbidden, "this is your last second factor that counts")
	h := newSiteOf(t, &invites{}, a, io.Discard)
	w := send(h, request{path: "/web/account/factors/f1/remove", user: "alice", form: url.Values{}})
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "This is your last second factor that counts.") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(w.Body.String(), `<nav aria-label="Main">`) || !strings.Contains(w.Body.String(), "Logged in as <strong>alice</strong>") {
		t.Errorf("the page is a stranger's: %s", w.Body)
	}
	if w = send(h, request{path: "/web/account/factors/nobody/remove", user: "alice"}); w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
}

func TestConsole_wantsTheRightUserAndAnAnswer(t *testing.T) {
	for path, want := range map[string]string{"/web/cli/good": "approve deny", "/web/cli/anyone": "approve deny", "/web/cli/other": "deny"} {
		w := send(newSite(t, &invites{}, io.Discard), request{path: path, user: "alice"})
		var got []string
		for _, m := range regexp.MustCompile(`name="answer" value="(\w+)"`).FindAllStringSubmatch(w.Body.String(), -1) {
			got = append(got, m[1])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s offers %v", path, got)
		}
	}
	for code, want := range map[api.Code]int{
		api.CodeUnauthenticated: 303, api.CodeForbidden: 403, api.CodeConflict: 409, api.CodeNotFound: 404, api.CodeUnavailable: 503,
	} {
		a := newAccounts()
		a.err = api.Errorf(code, "why not")
		w := send(newSiteOf(t, &invites{}, a, io.Discard), request{path: "/web/cli/good", user: "alice", form: url.Values{"answer": {"approve"}}})
		if w.Code != want || strings.Contains(w.Body.String(), "127.0.0.1:40123") {
			t.Errorf("%s: %d %s", code, w.Code, w.Body)
		}
		if want == 303 && w.Header().Get("Location") != loginPath+"?next=%2Fweb%2Fcli%2Fgood" {
			t.Errorf("leads to %s", w.Header().Get("Location"))
		}
	}
}

// The page leads to tsh on this machine, or nowhere, whatever the rest says.
func TestConsole_leadsToThisMachineOnly(t *testing.T) {
	for _, to := range []string{
		"", "https://evil.example/callback", "http://127.0.0.1.evil.example:1/callback", "http://127.0.0.1/callback", "http://127.0.0.1:0/callback", "http://localhost:80/callback",
		"http://127.0.0.2:80/callback", "http://[::1]:80/callback", "http://127.0.0.1:80/", "http://127.0.0.1:80/callback/../x", "http://127.0.0.1:80/%63allback", "https://127.0.0.1:80/callback",
		"http://evil@127.0.0.1:80/callback", "http://127.0.0.1:80@evil.example/callback", "javascript:alert(1)", "http://127.0.0.1:80/callback#x", "//127.0.0.1:80/callback", "http://[::ffff:127.0.0.1]:80/callback",
	} {
		a := newAccounts()
		a.redirect = to
		w := send(newSiteOf(t, &invites{}, a, io.Discard), request{path: "/web/cli/good", user: "alice", form: url.Values{"answer": {"approve"}}})
		if w.Code != 500 || strings.Contains(w.Body.String(), "refresh") || to != "" && strings.Contains(w.Body.String(), to) {
			t.Errorf("%q: %d %s", to, w.Code, w.Body)
		}
	}
}

func TestInvite_takesASecondFactor(t *testing.T) {
	for name, c := range map[string]struct {
		token  string
		form   url.Values
		status int
		want   string
		factor []string // what Redeem gets; nil: no call
	}{
		"off, with a code nevertheless": {"good", url.Values{"code": {"123456"}}, 200, "Your password is set", []string{}},
		"optional, left empty":          {"optional", url.Values{}, 200, "Your password is set", []string{}},
		"optional, a code":              {"optional", url.Values{"code": {"123 456"}}, 200, "second factor you have just added", []string{"offer-state", "", "123 456"}},
		"optional, a wrong code":        {"optional", url.Values{"code": {"000000"}}, 400, "The code is wrong", nil},
		"on, none":                      {"on", url.Values{}, 400, "A second factor is needed", nil},
		"on, a passkey":                 {"on", url.Values{"passkey": {`{"id":"x"}`}}, 200, "Your password is set", []string{"offer-state", "", `{"id":"x"}`}},
		"on, a code":                    {"on", url.Values{"code": {"123456"}}, 200, "Your password is set", []string{"offer-state", "", "123456"}},
		"webauthn, none":                {"webauthn", url.Values{}, 400, "A passkey is needed", nil},
		"webauthn, a passkey":           {"webauthn", url.Values{"passkey": {`{"id":"x"}`}}, 200, "Your password is set", []string{"offer-state", "", `{"id":"x"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &invites{}
			h := newSite(t, f, io.Discard)
			path := "/web/invite/" + c.token
			page := send(h, request{path: path})
			checkPage(t, page)
			c.form.Set("password", good)
			c.form.Set("repeat", good)
			c.form.Set(carriedField, carriedBy(page))
			w := send(h, request{path: path, form: c.form})
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			checkPage(t, w)
			var want []string
			if c.factor != nil {
				want = append([]string{c.token, good, "192.0.2.1"}, c.factor...)
			}
			if diff := cmp.Diff(want, f.redeemed); diff != "" {
				t.Error(diff)
			}
			if c.status == 400 && c.token != "good" && carriedBy(w) != carriedBy(page) {
				t.Error("another QR code, though the first one is scanned")
			}
		})
	}
}

func TestInvite_showsTheSecondFactorOfThePolicy(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	for token, want := range map[string]struct{ app, passkey, folded bool }{
		"good": {}, "optional": {true, true, true}, "on": {true, true, false}, "on-ip": {true, false, false}, "webauthn": {false, true, false},
	} {
		w := send(h, request{path: "/web/invite/" + token})
		body := w.Body.String()
		if strings.Contains(body, `class="qr"`) != want.app || strings.Contains(body, "data-passkey") != want.passkey || strings.Contains(body, "<details") != want.folded {
			t.Errorf("%s: %s", token, body)
		}
		checkPage(t, w)
		checkGolden(t, "invite_"+token, body)
	}
}

// A passkey that was made stays made when the password was not good enough.
func TestInvite_keepsAPasskeyAcrossAMistake(t *testing.T) {
	h := newSite(t, &invites{}, io.Discard)
	carried := carriedBy(send(h, request{path: "/web/invite/on"}))
	w := send(h, request{path: "/web/invite/on", form: url.Values{"password": {good}, "repeat": {"x"}, "passkey": {`{"id":"x"}`}, carriedField: {carried}}})
	if w.Code != 400 || !strings.Contains(w.Body.String(), `name="passkey" value="{&#34;id&#34;:&#34;x&#34;}"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestInvite_oldOffersAreReplaced(t *testing.T) {
	f := &invites{}
	h := newSite(t, f, io.Discard)
	key := formKey(strings.Repeat("k", cookieLen))
	old, err := key.carry("/web/invite/on", carriedOffer{theOffer(), noon.Add(-9 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	w := send(h, request{path: "/web/invite/on", form: url.Values{"password": {good}, "repeat": {good}, "code": {"123456"}, carriedField: {old}}})
	if w.Code != 400 || f.redeemed != nil || carriedBy(w) == old || !strings.Contains(w.Body.String(), "add the second factor again") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestQR_drawsTheSymbolWithItsQuietZone(t *testing.T) {
	text := theOffer().TOTPURI
	got, err := qrCode(text)
	if err != nil {
		t.Fatal(err)
	}
	symbol, err := qr.Encode(text, qr.L, qr.Auto)
	if err != nil {
		t.Fatal(err)
	}
	size := symbol.Bounds().Dx()
	if got.Size != size+8 {
		t.Errorf("size %d, of a symbol of %d", got.Size, size)
	}
	drawn := map[[2]int]bool{}
	for _, m := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1h-\d+z`).FindAllStringSubmatch(got.Path, -1) {
		x, _ := strconv.Atoi(m[1])
		y, _ := strconv.Atoi(m[2])
		run, _ := strconv.Atoi(m[3])
		for i := range run {
			drawn[[2]int{x + i, y}] = true
		}
	}
	for y := range got.Size {
		for x := range got.Size {
			want := x >= 4 && y >= 4 && x < size+4 && y < size+4 && dark(symbol.At(x-4, y-4))
			if drawn[[2]int{x, y}] != want {
				t.Fatalf("module %d,%d", x, y)
			}
		}
	}
	if _, err := qrCode(strings.Repeat("x", 5000)); err == nil {
		t.Error("more than a QR code holds was drawn")
	}
}

func TestOffer_oddOnesAreNotShown(t *testing.T) {
	if _, err := appOf(&auth.Offer{TOTPSecret: "A", TOTPURI: "javascript:alert(1)"}); err == nil {
		t.Error("an address of another kind was taken")
	}
}

func FuzzSafeNext(f *testing.F) {
	for _, s := range []string{"/", "/web/account", "//evil", `/\evil`, "/web/cli/x?y", "https://evil"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := safeNext(s)
		u, err := url.Parse("https://gate.example.com/a/b")
		if err != nil {
			t.Fatal(err)
		}
		to, err := u.Parse(got)
		if err != nil || to.Host != "gate.example.com" || to.Scheme != "https" || to.RawQuery != "" || to.Fragment != "" || to.Path != got {
			t.Errorf("%q leads to %v, %v", s, to, err)
		}
		if got != "/" && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func FuzzCookies(f *testing.F) {
	f.Add("__Host-session=alice.live; __Host-sallyport-form=AAAA; __Host-sallyport-said=password")
	f.Add(`__Host-session="x"; __Host-session=alice.live`)
	f.Add("__Host-sallyport-said=<script>")
	h := newSite(f, &invites{}, io.Discard)
	f.Fuzz(func(t *testing.T, header string) {
		for _, path := range []string{"/", accountPath, loginPath} {
			r := httptest.NewRequest(http.MethodGet, "https://gate.example.com"+path, nil)
			r.Header.Set("Cookie", header)
			w := do(h, r)
			if w.Code >= 500 {
				t.Errorf("%s: %d", path, w.Code)
			}
			if r.CookiesNamed(sessionCookie) == nil && strings.Contains(w.Body.String(), "Log out") {
				t.Errorf("%s: logged in by %q", path, header)
			}
		}
	})
}

// Whatever a form holds, a page comes back that is whole, and without the right
// token nothing changes.
func FuzzForms(f *testing.F) {
	key := formKey(strings.Repeat("k", cookieLen))
	carried, err := key.carry(factorPath, &auth.Challenge{User: "u", State: "s", Methods: []string{api.FactorTOTP}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), "form_token=x&username=alice&password=x&next=%2F")
	f.Add(uint8(1), "form_token="+key.token(factorPath)+"&code=1&carried="+carried)
	f.Add(uint8(2), "form_token="+key.token("/web/invite/on")+"&password=a&repeat=a&carried=a.b&passkey={")
	f.Add(uint8(3), "old=x&password=%zz;")
	paths := []string{loginPath, factorPath, "/web/invite/on", passwordPath, appPath, "/web/cli/good", endPath}
	a := newAccounts()
	h := newSiteOf(f, &invites{}, a, io.Discard)
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		path := paths[int(which)%len(paths)]
		r := httptest.NewRequest(http.MethodPost, "https://gate.example.com"+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.AddCookie(&http.Cookie{Name: formCookie, Value: strings.Repeat("a2tr", 10) + "a2s"})
		r.AddCookie(&http.Cookie{Name: sessionCookie, Value: "alice.live"})
		a.calls = nil
		w := do(h, r)
		if w.Code >= 500 || w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("%s: %d", path, w.Code)
		}
		if len(a.calls) > 0 && !strings.Contains(body, formField) {
			t.Errorf("%s changed %v", path, a.calls)
		}
	})
}

func FuzzCarried(f *testing.F) {
	key := formKey(strings.Repeat("k", cookieLen))
	real, err := key.carry("/p", &auth.Challenge{User: "u", WebAuthn: json.RawMessage(theRequest)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(real)
	f.Add("a.b")
	f.Add("." + strings.Repeat("A", 43))
	f.Fuzz(func(t *testing.T, s string) {
		c := &auth.Challenge{}
		if key.carried("/p", s, c) && s != real {
			t.Errorf("%q was taken", s)
		}
		if (formKey)(nil).carried("/p", s, c) {
			t.Error("taken without a key")
		}
	})
}
