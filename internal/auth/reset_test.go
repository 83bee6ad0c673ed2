package auth_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const newPassword = "another long password"

// offer is what the user of a link may add.
func offer(t testing.TB, f *authtest.Fixture, token string) *auth.Offer {
	t.Helper()
	o, err := f.Invites.Offer(t.Context(), token, auth.Actor{Addr: home})
	must(t, err)
	return o
}

func redeem(t testing.TB, f *authtest.Fixture, token string, e *auth.Enrolment) error {
	t.Helper()
	_, err := f.Invites.Redeem(t.Context(), token, newPassword, e, auth.Actor{Addr: home})
	return err
}

func TestInviteSetsPasswordAndFactorAtOnce(t *testing.T) {
	for _, mode := range []api.SecondFactor{"off", "optional", "on", "webauthn"} {
		t.Run(string(mode), func(t *testing.T) {
			f := authtest.New(t)
			f.SetSecondFactor(t, mode)
			token := f.Invite(t, "alice", nil)
			invite, err := f.Invites.Lookup(t.Context(), token, auth.Actor{})
			if err != nil || invite.SecondFactor != mode {
				t.Fatal(invite, err)
			}
			demanded := mode == "on" || mode == "webauthn"
			if err := redeem(t, f, token, nil); demanded != api.IsCode(err, api.CodeSecondFactor) || !demanded && err != nil {
				t.Error("without a factor:", err)
			}
			if f.HasPassword("alice") == demanded {
				t.Error("password set:", !demanded)
			}
			token = f.Invite(t, "bob", nil)
			o := offer(t, f, token)
			if (o.TOTPSecret == "") != (mode == "off" || mode == "webauthn") || (o.WebAuthn == nil) != (mode == "off") {
				t.Errorf("%+v", o)
			}
			if mode == "off" {
				return
			}
			derivations, _ := f.Derivations()
			if err := redeem(t, f, token, &auth.Enrolment{State: o.State, FactorAnswer: auth.FactorAnswer{WebAuthn: []byte("{}")}}); !api.IsCode(err, api.CodeSecondFactor) {
				t.Error("a wrong answer:", err)
			}
			if err := redeem(t, f, token, &auth.Enrolment{State: "x", FactorAnswer: totpAnswer("123456")}); !api.IsCode(err, api.CodeSecondFactor) {
				t.Error("no offer of ours:", err)
			}
			foreign := offer(t, f, f.Invite(t, "eve", nil))
			answer := auth.FactorAnswer{WebAuthn: authtest.NewAuthenticator().Create(t, foreign.WebAuthn)}
			if err := redeem(t, f, token, &auth.Enrolment{State: foreign.State, FactorAnswer: answer}); !api.IsCode(err, api.CodeSecondFactor) {
				t.Error("another link's offer:", err)
			}
			if after, _ := f.Derivations(); after != derivations || f.HasPassword("bob") {
				t.Error("a wrong factor cost a derivation, or set the password")
			}
			e := &auth.Enrolment{State: o.State, Name: "phone", FactorAnswer: auth.FactorAnswer{WebAuthn: authtest.NewAuthenticator().Create(t, o.WebAuthn)}}
			must(t, redeem(t, f, token, e))
			if got := f.Factors.List("bob"); len(got) != 1 || got[0].Name != "phone" {
				t.Error(got)
			}
			if err := redeem(t, f, token, e); !api.IsCode(err, api.CodeConflict) {
				t.Error("again:", err)
			}
			if e := lastEvent(f); e.Event != "user.password_change" || e.User != "bob" {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestPolicyThatIsStricterMeanwhileHoldsForAnInvite(t *testing.T) {
	f := authtest.New(t)
	token := f.Invite(t, "alice", nil)
	f.DB.BeforeCommit(func() { f.SetSecondFactor(t, api.SecondFactorOn) })
	if err := redeem(t, f, token, nil); !api.IsCode(err, api.CodeSecondFactor) || f.HasPassword("alice") {
		t.Error(err)
	}
}

// resetToken resets a user and gives the link's token.
func resetToken(t testing.TB, f *authtest.Fixture, name string) string {
	t.Helper()
	resp, err := f.Users.Reset(t.Context(), authtest.Admin(), name, 0)
	must(t, err)
	prefix := "https://tele.example.com:443/web/reset/"
	if !strings.HasPrefix(resp.ResetURL, prefix) || resp.User != name || time.Duration(resp.TTL) != 8*time.Hour || resp.Proxy != authtest.PublicAddr {
		t.Errorf("%+v", resp)
	}
	return strings.TrimPrefix(resp.ResetURL, prefix)
}

func TestResetTakesAllThatProvesTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", groups("a"))
		f.AddUser(t, "bob", nil)
		f.WebLogin(t, "bob")
		w := f.WebLogin(t, "alice").Identity
		id, _ := f.Login(t, "alice")
		f.AddTOTP(t, w)
		d, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{})
		must(t, err)
		stream := make(chan error, 1)
		go func() { stream <- d.Watch(t.Context()) }()
		for range 5 {
			_ = login(t, f, "alice", "wrong password!", home)
		}
		older := resetToken(t, f, "alice")
		stale := offer(t, f, older)
		token := resetToken(t, f, "alice")
		if err := <-stream; !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("the stream lives:", err)
		}
		if f.HasPassword("alice") || len(f.Factors.List("alice")) != 0 || len(f.Sessions.List("alice")) != 0 {
			t.Error("something is left")
		}
		for r := range f.DB.View().List("attempts/" + auth.AttemptUser("alice")) {
			t.Error("left behind:", r.Key)
		}
		if len(f.Sessions.List("bob")) != 1 || !f.HasPassword("bob") {
			t.Error("a neighbour was reset too")
		}
		if err := login(t, f, "alice", authtest.Password, home); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("the old password:", err)
		}
		var names []string
		for _, e := range f.DB.Events()[len(f.DB.Events())-4:] {
			names = append(names, e.Event)
		}
		if got := strings.Join(names, " "); !strings.Contains(got, "user.reset reset_password_token.create") {
			t.Error(got)
		}
		if err := redeem(t, f, older, nil); !api.IsCode(err, api.CodeNotFound) {
			t.Error("the older link:", err)
		}
		invite, err := f.Invites.Lookup(t.Context(), token, auth.Actor{})
		if err != nil || !invite.Reset || invite.User != "alice" {
			t.Error(invite, err)
		}
		answer := totpAnswer(authtest.Code(t, stale.TOTPSecret, time.Now()))
		if err := redeem(t, f, token, &auth.Enrolment{State: stale.State, FactorAnswer: answer}); !api.IsCode(err, api.CodeSecondFactor) {
			t.Error("the older link's offer:", err)
		}
		<-time.After(8*time.Hour - time.Second)
		must(t, redeem(t, f, token, nil))
		must(t, login(t, f, "alice", newPassword, home))
	})
}

func TestOfLinksMadeAtOnceOneCounts(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	var first string
	f.DB.BeforeCommit(func() { first = resetToken(t, f, "alice") })
	second := resetToken(t, f, "alice")
	bob := f.Invite(t, "bob", nil)
	must(t, redeem(t, f, first, nil))
	if err := redeem(t, f, second, nil); !api.IsCode(err, api.CodeNotFound) {
		t.Error("the link of a reset at the same moment:", err)
	}
	if err := redeem(t, f, first, nil); !api.IsCode(err, api.CodeConflict) {
		t.Error("the link that was used says something else:", err)
	}
	must(t, redeem(t, f, bob, nil))
}

func TestResetIsForWhoCouldGiveTheSame(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "helpdesk", api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: []string{"user"}, Verbs: []string{"*"}}}}})
	f.AddUser(t, "helper", groups("dev"), "helpdesk", "access")
	f.AddUser(t, "boss", groups("system:masters"), "admin")
	f.AddUser(t, "peer", groups("dev"), "access")
	f.AddUser(t, "master", groups("system:masters"), "access")
	id, _ := f.Login(t, "helper")
	helper := auth.Actor{User: "helper", Session: id}
	for _, name := range []string{"boss", "master"} {
		if _, err := f.Users.Reset(t.Context(), helper, name, 0); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("helper becomes %s: %v", name, err)
		}
		if !f.HasPassword(name) {
			t.Error(name, "lost the password")
		}
	}
	for _, name := range []string{"peer", "helper"} {
		if _, err := f.Users.Reset(t.Context(), helper, name, 0); err != nil {
			t.Error(name, err)
		}
	}
	if _, err := f.Users.Reset(t.Context(), auth.Actor{}, "peer", 0); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("nobody:", err)
	}
	for _, ttl := range []time.Duration{time.Second, 25 * time.Hour, -time.Hour} {
		if _, err := f.Users.Reset(t.Context(), authtest.Admin(), "peer", ttl); !api.IsCode(err, api.CodeInvalid) {
			t.Error(ttl, err)
		}
	}
	if _, err := f.Users.Reset(t.Context(), authtest.Admin(), "nobody", 0); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
}

func TestResetTakesWhatIsAddedMeanwhile(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	w := f.WebLogin(t, "alice").Identity
	var late pki.UserIdentity
	f.DB.BeforeCommit(func() {
		f.AddTOTP(t, w)
		f.SetSecondFactor(t, api.SecondFactorOff)
		late, _ = f.Login(t, "alice")
	})
	resetToken(t, f, "alice")
	if len(f.Factors.List("alice")) != 0 {
		t.Error("a factor that was added meanwhile")
	}
	if _, err := f.Access.Session(f.DB.View(), late); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a session that was made meanwhile:", err)
	}
}

func TestChangedPasswordEndsTheOtherSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", groups("a"))
		w := f.WebLogin(t, "alice").Identity
		elsewhere := f.WebLogin(t, "alice").Identity
		cert, _ := f.Login(t, "alice")
		change := func(old, next string) error {
			return f.Users.ChangePassword(t.Context(), w, old, next, auth.FactorAnswer{}, auth.Actor{Addr: home})
		}
		for next, code := range map[string]api.Code{"short": api.CodeInvalid, authtest.Password: api.CodeInvalid} {
			if err := change(authtest.Password, next); !api.IsCode(err, code) {
				t.Error(next, err)
			}
		}
		if err := change("wrong password!", newPassword); !api.IsCode(err, api.CodeForbidden) {
			t.Error(err)
		}
		if got := pairFailures(f, "alice"); got != `{"failures":1` {
			t.Error("counted:", got)
		}
		var during pki.UserIdentity
		f.DB.BeforeCommit(func() { during, _ = f.Login(t, "alice") })
		must(t, change(authtest.Password, newPassword))
		if e := lastEvent(f); e.Event != "user.password_change" || e.User != "alice" || e.Fields["addr.remote"] != "192.0.2.7" {
			t.Errorf("%+v", e)
		}
		for name, id := range map[string]pki.UserIdentity{"in another browser": elsewhere, "of a certificate": cert, "made meanwhile": during} {
			if _, err := f.Access.Session(f.DB.View(), id); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Errorf("the session %s lives: %v", name, err)
			}
		}
		if _, err := f.Access.Cookie(f.DB.View(), w); err != nil {
			t.Error("this session ended too:", err)
		}
		if err := login(t, f, "alice", authtest.Password, office); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("the old password:", err)
		}
		must(t, login(t, f, "alice", newPassword, office))
		must(t, change(newPassword, "a third long password"))
		if _, err := f.Access.Cookie(f.DB.View(), w); err != nil {
			t.Error("after a second change:", err)
		}
		<-time.After(12 * time.Hour)
		if _, err := f.Access.Cookie(f.DB.View(), w); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("a change makes the session longer:", err)
		}
	})
}

func TestSessionKeptOverAChangeEndsWithTheNextReset(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	w := f.WebLogin(t, "alice").Identity
	must(t, f.Users.ChangePassword(t.Context(), w, authtest.Password, newPassword, auth.FactorAnswer{}, auth.Actor{Addr: home}))
	rec, _ := f.DB.View().Get("passwords/alice")
	_, err := f.DB.Commit(t.Context(), auth.PutRaw(rec.Key, string(rec.Value)))
	must(t, err)
	if _, err := f.Access.Cookie(f.DB.View(), w); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("the session outlived the password it hangs on:", err)
	}
}

func TestChangedPasswordAsksForTheSecondFactor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		w := f.WebLogin(t, "alice").Identity
		secret := f.AddTOTP(t, w)
		key := authtest.NewAuthenticator()
		f.AddPasskey(t, w, key)
		change := func(old, next string, a auth.FactorAnswer) error {
			return f.Users.ChangePassword(t.Context(), w, old, next, a, auth.Actor{Addr: home})
		}
		if err := change(authtest.Password, newPassword, auth.FactorAnswer{}); !api.IsCode(err, api.CodeSecondFactor) {
			t.Error(err)
		}
		if err := change(authtest.Password, newPassword, totpAnswer(wrongCode(t, secret, 0))); !api.IsCode(err, api.CodeSecondFactor) {
			t.Error(err)
		}
		if got := pairFailures(f, "alice"); got != `{"failures":1` {
			t.Error("counted:", got)
		}
		c, err := f.Users.PasswordChallenge(w)
		if err != nil || len(c.Methods) != 2 {
			t.Fatal(c, err)
		}
		if err := web(t, f, c, auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}, home); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("the challenge of a change was taken for a login's:", err)
		}
		answer := auth.FactorAnswer{State: c.State, WebAuthn: key.Get(t, c.WebAuthn)}
		must(t, change(authtest.Password, newPassword, answer))
		if err := change(newPassword, authtest.Password, answer); !api.IsCode(err, api.CodeConflict) {
			t.Error("the same answer again:", err)
		}
		must(t, change(newPassword, authtest.Password, totpAnswer(authtest.Code(t, secret, time.Now()))))
	})
}

func TestGuessesByAChangeOfThePasswordLockThePair(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	w := f.WebLogin(t, "alice").Identity
	for range 5 {
		_ = f.Users.ChangePassword(t.Context(), w, "wrong password!", newPassword, auth.FactorAnswer{}, auth.Actor{Addr: home})
	}
	if err := f.Users.ChangePassword(t.Context(), w, authtest.Password, newPassword, auth.FactorAnswer{}, auth.Actor{Addr: home}); !api.IsCode(err, api.CodeRateLimited) {
		t.Error("not locked:", err)
	}
	must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), w))
	if err := f.Users.ChangePassword(t.Context(), w, authtest.Password, newPassword, auth.FactorAnswer{}, auth.Actor{Addr: office}); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a session that has ended:", err)
	}
}
