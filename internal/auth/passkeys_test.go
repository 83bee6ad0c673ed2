package auth_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func TestUserHandleIsRandomAndOfOneLife(t *testing.T) {
	f := authtest.New(t)
	handle := func() string {
		offer, err := f.Factors.Offer(f.WebLogin(t, "alice").Identity)
		must(t, err)
		var o struct{ User struct{ ID, Name string } }
		must(t, json.Unmarshal(offer.WebAuthn, &o))
		if o.User.Name != "alice" || len(o.User.ID) < 40 {
			t.Errorf("%+v", o)
		}
		return o.User.ID
	}
	f.AddUser(t, "alice", nil)
	f.AddPasskey(t, f.WebLogin(t, "alice").Identity, authtest.NewAuthenticator())
	// off: who has a factor needs no answer, for this test's sake
	login := func() string {
		f.SetSecondFactor(t, api.SecondFactorOff)
		session := f.WebLogin(t, "alice").Identity
		f.SetSecondFactor(t, api.SecondFactorOptional)
		offer, err := f.Factors.Offer(session)
		must(t, err)
		var o struct{ User struct{ ID string } }
		must(t, json.Unmarshal(offer.WebAuthn, &o))
		return o.User.ID
	}
	first := login()
	if again := login(); again != first {
		t.Error("another handle in the same life")
	}
	must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
	f.AddUser(t, "alice", nil)
	if handle() == first {
		t.Error("the handle survived the user")
	}
}

func TestPasskeyLogin(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	key := authtest.NewAuthenticator()
	f.AddPasskey(t, f.WebLogin(t, "alice").Identity, key)
	again := other(t, f)
	c := begin(t, f, "alice", home)
	s, err := again.Service.Login.Web(t.Context(), c.State, auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}, home)
	must(t, err)
	id, err := auth.WebIdentity(s.Cookie, authtest.ClusterName)
	if err != nil || id != s.Identity {
		t.Fatal(id, err)
	}
	p, err := f.Access.Cookie(f.DB.View(), id)
	if err != nil || p.Kind != api.SessionWeb || s.Expires.Sub(p.Expires).Abs() > time.Second {
		t.Fatal(p, err)
	}
	if e := lastEvent(f); e.Code != "T1000I" || e.Fields["mfa_device_type"] != "webauthn" || e.Fields["kind"] != "web" {
		t.Errorf("%+v", e)
	}
	if bytes.Contains(inflate(t, f.DB.Snapshot(t)), []byte(s.Cookie[strings.Index(s.Cookie, ".")+1:])) {
		t.Error("the store holds the cookie's token")
	}
	key.NoCounter, key.Counter = true, 0 // would be "back" for a key that counts
	fresh := authtest.NewAuthenticator()
	fresh.NoCounter = true
	f.AddPasskey(t, s.Identity, fresh)
	for range 2 { // a key that never counts goes on working
		c := begin(t, f, "alice", home)
		var o struct {
			Allow []map[string]any `json:"allowCredentials"`
		}
		must(t, json.Unmarshal(c.WebAuthn, &o))
		if len(o.Allow) != 2 {
			t.Error(o)
		}
		must(t, web(t, f, c, auth.FactorAnswer{WebAuthn: fresh.Get(t, c.WebAuthn)}, home))
	}
}

func TestPasskeyAnswersThatAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		lie  func(a *authtest.Authenticator)
		edit func(answer string) string
	}{
		{"another origin", func(a *authtest.Authenticator) { a.Origin = "https://tele.example.com.evil.org" }, nil},
		{"a subdomain", func(a *authtest.Authenticator) { a.Origin = "https://x.tele.example.com" }, nil},
		{"another port", func(a *authtest.Authenticator) { a.Origin = "https://tele.example.com:8443" }, nil},
		{"no TLS", func(a *authtest.Authenticator) { a.Origin = "http://tele.example.com" }, nil},
		{"another RP id", func(a *authtest.Authenticator) { a.RPID = "evil.org" }, nil},
		{"an RP id above", func(a *authtest.Authenticator) { a.RPID = "example.com" }, nil},
		{"in a frame of another", func(a *authtest.Authenticator) { a.CrossOrigin = true }, nil},
		{"no JSON", nil, func(string) string { return "{" }},
		{"1 MB", nil, func(s string) string { return s + strings.Repeat(" ", 1<<20) }},
		{"a signature of other data", nil, func(s string) string {
			i := strings.Index(s, `"authenticatorData":"`) + 60
			c := byte('A')
			if s[i] == c {
				c = 'B'
			}
			return s[:i] + string(c) + s[i+1:]
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := authtest.New(t)
			f.AddUser(t, "alice", nil)
			session := f.WebLogin(t, "alice").Identity
			key := authtest.NewAuthenticator()
			f.AddPasskey(t, session, key)
			liar := key
			if tc.lie != nil {
				tc.lie(liar)
			}
			c := begin(t, f, "alice", home)
			answer := string(liar.Get(t, c.WebAuthn))
			if tc.edit != nil {
				answer = tc.edit(answer)
			}
			if err := web(t, f, c, auth.FactorAnswer{WebAuthn: []byte(answer)}, home); !api.IsCode(err, api.CodeSecondFactor) {
				t.Error(err)
			}
			if got := pairFailures(f, "alice"); got != `{"failures":1` {
				t.Error("counted:", got)
			}
			if e := lastEvent(f); e.Code != "T1000W" || e.Fields["error"] != "passkey refused" {
				t.Errorf("%+v", e)
			}
			if tc.lie != nil {
				offer, err := f.Factors.Offer(session)
				must(t, err)
				fresh := authtest.NewAuthenticator()
				tc.lie(fresh)
				_, err = f.Factors.Add(t.Context(), session, auth.Enrolment{State: offer.State, FactorAnswer: auth.FactorAnswer{WebAuthn: fresh.Create(t, offer.WebAuthn)}}, auth.Actor{})
				if !api.IsCode(err, api.CodeSecondFactor) {
					t.Error("enrolled:", err)
				}
			}
		})
	}
}

func TestPasskeyAnswersAreNotReplayed(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.AddUser(t, "mallory", nil)
	key, foreign := authtest.NewAuthenticator(), authtest.NewAuthenticator()
	f.AddPasskey(t, f.WebLogin(t, "alice").Identity, key)
	f.AddPasskey(t, f.WebLogin(t, "mallory").Identity, foreign)
	c := begin(t, f, "alice", home)
	answer := auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}
	must(t, web(t, f, c, answer, home))
	again := other(t, f)
	if err := web(t, again, c, answer, home); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("answer and state again:", err)
	}
	if err := web(t, again, begin(t, f, "alice", home), answer, home); !api.IsCode(err, api.CodeSecondFactor) {
		t.Error("the answer to another challenge:", err)
	}
	mallory := begin(t, f, "mallory", home)
	if err := web(t, f, begin(t, f, "alice", home), auth.FactorAnswer{WebAuthn: foreign.Get(t, mallory.WebAuthn)}, home); !api.IsCode(err, api.CodeSecondFactor) {
		t.Error("another user's passkey:", err)
	}
}

func TestPasskeyWhoseCounterGoesBackIsLocked(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	session := f.WebLogin(t, "alice").Identity
	key := authtest.NewAuthenticator()
	key.Counter = 10
	f.AddPasskey(t, session, key)
	c := begin(t, f, "alice", home)
	must(t, web(t, f, c, auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}, home))
	key.Counter = 5 // a copy
	c = begin(t, f, "alice", home)
	if err := web(t, f, c, auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}, home); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "locked") {
		t.Fatal(err)
	}
	if e := lastEvent(f); !strings.Contains(fmt.Sprint(e.Fields["error"]), "counter went back") {
		t.Errorf("%+v", e)
	}
	key.Counter = 50 // the real one
	if err := web(t, f, c, auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}, home); !api.IsCode(err, api.CodeForbidden) {
		t.Error("a locked passkey:", err)
	}
	if _, err := other(t, f).Service.Login.Begin(t.Context(), "alice", authtest.Password, home); !api.IsCode(err, api.CodeForbidden) {
		t.Error("who has only a locked passkey needs none:", err)
	}
	if list := f.Factors.List("alice"); len(list) != 1 || list[0].Locked.IsZero() {
		t.Errorf("it is not listed as locked: %+v", list)
	}
}

func TestLockedPasskeyLeavesTheOtherFactors(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	session := f.WebLogin(t, "alice").Identity
	key := authtest.NewAuthenticator()
	key.Counter = 10
	f.AddPasskey(t, session, key)
	f.AddTOTP(t, session)
	key.Counter = 5
	c := begin(t, f, "alice", home)
	err := web(t, f, c, auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}, home)
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Code != api.CodeSecondFactor || !slices.Equal(e.SecondFactors, []string{api.FactorTOTP}) {
		t.Errorf("%+v", err)
	}
}

func TestOneAuthenticatorIsNotTwoUsers(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.AddUser(t, "bob", nil)
	bob := f.WebLogin(t, "bob").Identity
	key := authtest.NewAuthenticator()
	f.AddPasskey(t, f.WebLogin(t, "alice").Identity, key)
	offer, err := f.Factors.Offer(bob)
	must(t, err)
	answer := key.CreateAgain(t, offer.WebAuthn)
	if _, err := f.Factors.Add(t.Context(), bob, auth.Enrolment{State: offer.State, FactorAnswer: auth.FactorAnswer{WebAuthn: answer}}, auth.Actor{}); !api.IsCode(err, api.CodeExists) {
		t.Error(err)
	}
}
