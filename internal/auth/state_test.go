package auth_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// FuzzState: no text opens but one of ours, whatever is done to it; and one of
// ours opens for its purpose alone.
func FuzzState(f *testing.F) {
	fix := authtest.New(f)
	fix.AddUser(f, "alice", nil)
	c := begin(f, fix, "alice", home)
	offer, err := fix.Factors.Offer(fix.WebLogin(f, "alice").Identity)
	must(f, err)
	must(f, fix.OpenLoginState(c.State))
	for _, seed := range []string{
		"", "A", "AAAA", "AQ", "====", c.State[:10], c.State + "A", c.State + "\n", c.State + "=", strings.ToUpper(c.State), offer.State, strings.Repeat("A", 1<<17),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := fix.OpenLoginState(text); (err == nil) != (text == c.State) || err != nil && !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("%.80q: %v", text, err)
		}
	})
}

// FuzzTOTP: of all that is typed only the codes of the steps around now get in,
// each with whatever spaces.
func FuzzTOTP(f *testing.F) {
	const secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
	now := time.Unix(1234567890, 0)
	right := map[string]bool{}
	for _, off := range []time.Duration{-30 * time.Second, 0, 30 * time.Second} {
		right[authtest.Code(f, secret, now.Add(off))] = true
	}
	current := authtest.Code(f, secret, now)
	for _, seed := range []string{
		current, current[:3] + " " + current[3:], " " + current, current + "\n", "", "000000", "+12345", "-12345", "0x1234", "12345", "1234567",
		"\u0661\u0662\u0663\u0664\u0665\u0666", strings.Repeat("1", 1000), strings.Repeat(" ", 1000) + current,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		step, ok := auth.MatchTOTP(secret, typed, now)
		want := len(typed) <= 24 && right[strings.ReplaceAll(typed, " ", "")]
		if ok != want {
			t.Errorf("%q: %v", typed, ok)
		}
		if current := now.Unix() / 30; ok && (step < current-1 || step > current+1) {
			t.Errorf("%q: step %d", typed, step)
		}
	})
}

// FuzzPasskeyAnswer: what a browser sends is refused as a wrong factor, and neither
// panics nor is our fault, unless it says what the key has signed.
func FuzzPasskeyAnswer(f *testing.F) {
	fix := authtest.New(f)
	fix.AddUser(f, "alice", nil)
	session := fix.WebLogin(f, "alice").Identity
	key := authtest.NewAuthenticator()
	fix.AddPasskey(f, session, key)
	c := begin(f, fix, "alice", home)
	offer, err := fix.Factors.Offer(session)
	must(f, err)
	create, get := authtest.NewAuthenticator().Create(f, offer.WebAuthn), key.Get(f, c.WebAuthn)
	for _, seed := range []string{
		"", "{", "null", "[]", "{}", `{"id":"AA","rawId":"AA","type":"public-key","response":{}}`, string(create), string(get),
		string(create[:len(create)/2]), string(get[:len(get)/2]), strings.Replace(string(get), "response", "Response", 1),
		strings.Replace(string(create), `"attestationObject":"o2`, `"attestationObject":"v2`, 1),
		strings.Replace(string(create), `"attestationObject":"`, `"attestationObject":"n`, 1),
		strings.Replace(string(get), `"authenticatorData":"`, `"authenticatorData":"AAAA`, 1),
	} {
		f.Add([]byte(seed))
	}
	signed := func(answer []byte) string {
		var a struct {
			Response struct{ ClientDataJSON string }
		}
		_ = json.Unmarshal(answer, &a) // what is none says nothing
		return strings.TrimRight(a.Response.ClientDataJSON, "=\r\n")
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		login, enrolment := fix.JudgePasskey("alice", c.State, offer.State, answer)
		if !api.IsCode(login, api.CodeSecondFactor) && (login != nil || signed(answer) != signed(get)) {
			t.Errorf("login: %q: %v", answer, login)
		}
		if !api.IsCode(enrolment, api.CodeSecondFactor) && (enrolment != nil || signed(answer) != signed(create)) {
			t.Errorf("enrolment: %q: %v", answer, enrolment)
		}
	})
}
