package auth_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func totpAnswer(code string) auth.FactorAnswer { return auth.FactorAnswer{TOTP: code} }

// begin is the first step of a login with the right password.
func begin(t testing.TB, f *authtest.Fixture, user string, addr netip.Addr) *auth.Challenge {
	t.Helper()
	c, err := f.Service.Login.Begin(t.Context(), user, authtest.Password, addr)
	must(t, err)
	return c
}

// web is the second step.
func web(t testing.TB, f *authtest.Fixture, c *auth.Challenge, a auth.FactorAnswer, addr netip.Addr) error {
	t.Helper()
	_, err := f.Service.Login.Web(t.Context(), c.State, a, addr)
	return err
}

// pairFailures is what is counted of a user and home.
func pairFailures(f *authtest.Fixture, user string) string {
	rec, ok := f.DB.View().Get("attempts/" + auth.AttemptUser(user) + "/192.0.2.0_24")
	if !ok {
		return "none"
	}
	count, _, _ := strings.Cut(string(rec.Value), ",")
	return count
}

// other is a second replica on the same store.
func other(t testing.TB, f *authtest.Fixture) *authtest.Fixture {
	t.Helper()
	return authtest.NewOn(t, f.DB)
}

func TestFactorsAreAddedListedAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		session := f.WebLogin(t, "alice").Identity
		offer, err := f.Factors.Offer(session)
		must(t, err)
		uri, err := url.Parse(offer.TOTPURI)
		must(t, err)
		if uri.Scheme != "otpauth" || uri.Host != "totp" || uri.Path != "/tele.example.com:alice" ||
			uri.Query().Get("secret") != offer.TOTPSecret || uri.Query().Get("issuer") != "tele.example.com" || len(offer.TOTPSecret) != 32 {
			t.Error(offer.TOTPURI)
		}
		secret := f.AddTOTP(t, session)
		if e := lastEvent(f); e.Event != "mfa.add" || e.User != "alice" || e.Fields["mfa_device_type"] != "totp" || strings.Contains(fmt.Sprint(e), secret) {
			t.Errorf("%+v", e)
		}
		if snapshot := inflate(t, f.DB.Snapshot(t)); bytes.Contains(snapshot, []byte(secret)) || !bytes.Contains(snapshot, []byte("factors/alice")) {
			t.Error("the store shows the app's secret, or no factor")
		}
		<-time.After(time.Second)
		key := authtest.NewAuthenticator()
		passkey := f.AddPasskey(t, session, key)
		want := []api.Factor{{Kind: "totp", Name: "authenticator app"}, {Kind: "webauthn", Name: "passkey"}}
		ignore := cmpopts.IgnoreFields(api.Factor{}, "ID", "Created")
		if d := cmp.Diff(want, f.Factors.List("alice"), ignore); d != "" {
			t.Error(d)
		}
		offer, err = f.Factors.Offer(session)
		must(t, err)
		if offer.TOTPSecret != "" || offer.TOTPURI != "" || !strings.Contains(string(offer.WebAuthn), `"excludeCredentials":[{`) {
			t.Errorf("%+v", offer)
		}
		_, err = f.Factors.Add(t.Context(), session, auth.Enrolment{State: offer.State, Name: "Passkey", FactorAnswer: auth.FactorAnswer{
			WebAuthn: authtest.NewAuthenticator().Create(t, offer.WebAuthn)}}, auth.Actor{})
		if !api.IsCode(err, api.CodeExists) {
			t.Error("two of one name:", err)
		}
		must(t, f.Factors.Remove(t.Context(), session, passkey, auth.Actor{Addr: home}))
		if e := lastEvent(f); e.Event != "mfa.delete" || e.User != "alice" || e.Fields["mfa_device_uuid"] != passkey || e.Fields["addr.remote"] != "192.0.2.7" {
			t.Errorf("%+v", e)
		}
		if err := f.Factors.Remove(t.Context(), session, passkey, auth.Actor{}); !api.IsCode(err, api.CodeNotFound) {
			t.Error(err)
		}
		if got := f.Factors.List("alice"); len(got) != 1 || got[0].Kind != "totp" {
			t.Error(got)
		}
		f.AddUser(t, "bob", nil)
		f.AddPasskey(t, f.WebLogin(t, "bob").Identity, authtest.NewAuthenticator())
		must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
		f.AddUser(t, "alice", nil)
		if got := f.Factors.List("alice"); len(got) != 0 {
			t.Error("factors outlived their user:", got)
		}
		if len(f.Factors.List("bob")) != 1 {
			t.Error("a neighbour's factor went too")
		}
	})
}

func TestSecondFactorModes(t *testing.T) {
	for _, tc := range []struct {
		mode    api.SecondFactor
		has     string // t: TOTP, w: passkey
		methods []string
		refused bool
	}{
		{"off", "", nil, false}, {"off", "tw", nil, false},
		{"optional", "", nil, false}, {"optional", "t", []string{"totp"}, false},
		{"optional", "w", []string{"webauthn"}, false}, {"optional", "tw", []string{"totp", "webauthn"}, false},
		{"on", "", nil, true}, {"on", "t", []string{"totp"}, false}, {"on", "tw", []string{"totp", "webauthn"}, false},
		{"webauthn", "", nil, true}, {"webauthn", "t", nil, true}, {"webauthn", "w", []string{"webauthn"}, false}, {"webauthn", "tw", []string{"webauthn"}, false},
	} {
		t.Run(string(tc.mode)+" with "+tc.has, func(t *testing.T) {
			f := authtest.New(t)
			f.AddUser(t, "alice", nil)
			session := f.WebLogin(t, "alice").Identity
			var secret string
			key := authtest.NewAuthenticator()
			if strings.Contains(tc.has, "t") {
				secret = f.AddTOTP(t, session)
			}
			if strings.Contains(tc.has, "w") {
				f.AddPasskey(t, session, key)
			}
			f.SetSecondFactor(t, tc.mode)
			commits := f.DB.Commits()
			c, err := f.Service.Login.Begin(t.Context(), "alice", authtest.Password, home)
			if f.DB.Commits() != commits {
				t.Error("the first step wrote")
			}
			if tc.refused {
				if !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "tctl users reset alice") {
					t.Error(err)
				}
				if err := login(t, f, "alice", authtest.Password, home); !api.IsCode(err, api.CodeForbidden) {
					t.Error(err)
				}
				if err := login(t, f, "alice", "wrong password!", home); !api.IsCode(err, api.CodeUnauthenticated) {
					t.Error("a wrong password learns of it:", err)
				}
				return
			}
			must(t, err)
			if d := cmp.Diff(tc.methods, c.Methods, cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
			if len(tc.methods) > 0 {
				if err := web(t, f, c, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeSecondFactor) {
					t.Fatal("the factor was not asked for:", err)
				}
				err := login(t, f, "alice", authtest.Password, home)
				e, ok := errors.AsType[*api.Error](err)
				if !ok || e.Code != api.CodeSecondFactor || cmp.Diff(tc.methods, e.SecondFactors) != "" {
					t.Error(err)
				}
			}
			for _, m := range c.Methods {
				answer := totpAnswer("")
				if m == api.FactorTOTP {
					answer.TOTP = authtest.Code(t, secret, time.Now())
				} else {
					answer.WebAuthn = key.Get(t, c.WebAuthn)
				}
				must(t, web(t, f, c, answer, home))
				c = begin(t, f, "alice", home)
			}
			if len(tc.methods) == 0 {
				must(t, web(t, f, c, auth.FactorAnswer{}, home))
				must(t, login(t, f, "alice", authtest.Password, home))
			}
		})
	}
}

func TestLastFactorStaysWhereOneIsDemanded(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	session := f.WebLogin(t, "alice").Identity
	f.AddTOTP(t, session)
	passkey := f.AddPasskey(t, session, authtest.NewAuthenticator())
	app := f.Factors.List("alice")[0].ID
	f.SetSecondFactor(t, api.SecondFactorWebAuthn)
	if err := f.Factors.Remove(t.Context(), session, passkey, auth.Actor{}); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "add another first") {
		t.Error(err)
	}
	must(t, f.Factors.Remove(t.Context(), session, app, auth.Actor{}))
	f.SetSecondFactor(t, api.SecondFactorOn)
	if err := f.Factors.Remove(t.Context(), session, passkey, auth.Actor{}); !api.IsCode(err, api.CodeForbidden) {
		t.Error(err)
	}
	f.SetSecondFactor(t, api.SecondFactorOptional)
	must(t, f.Factors.Remove(t.Context(), session, passkey, auth.Actor{}))
}

func TestATOTPCodeCountsOnceOnAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		secret := f.AddTOTP(t, f.WebLogin(t, "alice").Identity)
		again := other(t, f)
		code := authtest.Code(t, secret, time.Now())
		must(t, web(t, f, begin(t, f, "alice", home), totpAnswer(code[:3]+" "+code[3:]), home))
		for name, replica := range map[string]*authtest.Fixture{"the same replica": f, "another replica": again} {
			err := web(t, replica, begin(t, replica, "alice", home), totpAnswer(code), home)
			if !api.IsCode(err, api.CodeSecondFactor) || !strings.Contains(err.Error(), "used already") {
				t.Errorf("%s took the code again: %v", name, err)
			}
			_, pub := authtest.NewKey(t)
			_, err = replica.Service.Login.Password(t.Context(), api.LoginRequest{User: "alice", Password: authtest.Password, OTPToken: code, TLSPubKey: pub}, home)
			if !api.IsCode(err, api.CodeSecondFactor) {
				t.Errorf("%s took the code again for a certificate: %v", name, err)
			}
		}
		// The code before, still within the skew, is older than the one used.
		if err := web(t, f, begin(t, f, "alice", office), totpAnswer(authtest.Code(t, secret, time.Now().Add(-30*time.Second))), office); !api.IsCode(err, api.CodeSecondFactor) {
			t.Error("a code before the last one:", err)
		}
		<-time.After(30 * time.Second)
		must(t, web(t, f, begin(t, f, "alice", home), totpAnswer(authtest.Code(t, secret, time.Now())), home))
		for _, off := range []time.Duration{-90 * time.Second, 90 * time.Second} {
			<-time.After(5 * time.Minute)
			if err := web(t, f, begin(t, f, "alice", home), totpAnswer(authtest.Code(t, secret, time.Now().Add(off))), home); !api.IsCode(err, api.CodeSecondFactor) {
				t.Error("a code that is off by", off, err)
			}
		}
		<-time.After(5 * time.Minute)
		must(t, web(t, f, begin(t, f, "alice", home), totpAnswer(authtest.Code(t, secret, time.Now().Add(30*time.Second))), home))
		if got := f.Factors.List("alice")[0].LastUsed; !got.Equal(time.Now()) {
			t.Error("last used", got)
		}
	})
}

func TestOfManyWhoUseOneCodeOneGetsIn(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	secret := f.AddTOTP(t, f.WebLogin(t, "alice").Identity)
	code := authtest.Code(t, secret, time.Now())
	replicas := []*authtest.Fixture{f, other(t, f), other(t, f)}
	var in atomic.Int32
	var wg sync.WaitGroup
	for i := range 9 {
		r := replicas[i%3]
		c := begin(t, r, "alice", netip.Addr{})
		wg.Go(func() {
			if web(t, r, c, totpAnswer(code), netip.Addr{}) == nil {
				in.Add(1)
			}
		})
	}
	wg.Wait()
	if in.Load() != 1 {
		t.Errorf("%d logins with one code", in.Load())
	}
}

func TestALoginStateCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		again := other(t, f)
		c := begin(t, f, "alice", home)
		must(t, web(t, again, c, auth.FactorAnswer{}, office))
		for name, replica := range map[string]*authtest.Fixture{"the same replica": f, "another replica": again} {
			if err := web(t, replica, c, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Errorf("%s took the state again: %v", name, err)
			}
		}
		once := begin(t, f, "alice", home)
		f.DB.BeforeCommit(func() { must(t, web(t, again, once, auth.FactorAnswer{}, office)) })
		if err := web(t, f, once, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("a state that was used meanwhile:", err)
		}
		late := begin(t, f, "alice", home)
		<-time.After(5 * time.Minute)
		if err := web(t, f, late, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("a state of five minutes ago:", err)
		}
		for name, change := range map[string]func(){
			"the password was changed": func() {
				rec, _ := f.DB.View().Get("passwords/alice")
				_, err := f.DB.Commit(t.Context(), auth.PutRaw(rec.Key, string(rec.Value)))
				must(t, err)
			},
			"the user was made anew": func() {
				must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
				f.AddUser(t, "alice", nil)
			},
		} {
			for _, meanwhile := range []bool{false, true} {
				c := begin(t, f, "alice", home)
				if meanwhile {
					f.DB.BeforeCommit(change)
				} else {
					change()
				}
				if err := web(t, f, c, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeUnauthenticated) {
					t.Errorf("%s (meanwhile: %v): %v", name, meanwhile, err)
				}
			}
		}
		for _, state := range []string{"", "x", "AAAA", c.State[:len(c.State)-1], strings.Repeat("A", 1<<20)} {
			if err := web(t, f, &auth.Challenge{State: state}, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Errorf("%.20q: %v", state, err)
			}
		}
		session := f.WebLogin(t, "alice")
		offer, err := f.Factors.Offer(session.Identity)
		must(t, err)
		if err := web(t, f, &auth.Challenge{State: offer.State}, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("an offer's state was taken for a login's:", err)
		}
	})
}

func TestAFactorAddedMeanwhileIsAskedFor(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	session := f.WebLogin(t, "alice").Identity
	c := begin(t, f, "alice", home)
	f.DB.BeforeCommit(func() { f.AddTOTP(t, session) })
	if err := web(t, f, c, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeSecondFactor) {
		t.Error(err)
	}
}

func TestOffersAreForWhoAskedAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		f.AddUser(t, "bob", nil)
		alice, bob := f.WebLogin(t, "alice").Identity, f.WebLogin(t, "bob").Identity
		offer, err := f.Factors.Offer(alice)
		must(t, err)
		e := auth.Enrolment{State: offer.State, FactorAnswer: totpAnswer(authtest.Code(t, offer.TOTPSecret, time.Now()))}
		if _, err := f.Factors.Add(t.Context(), bob, e, auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
			t.Error("another's offer:", err)
		}
		if _, err := f.Factors.Add(t.Context(), f.WebLogin(t, "alice").Identity, e, auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
			t.Error("an offer to another session:", err)
		}
		wrong := e
		wrong.TOTP = "000000"
		if wrong.TOTP == e.TOTP {
			wrong.TOTP = "111111"
		}
		if _, err := f.Factors.Add(t.Context(), alice, wrong, auth.Actor{}); !api.IsCode(err, api.CodeSecondFactor) {
			t.Error("a wrong code:", err)
		}
		both := e
		both.WebAuthn = []byte("{}")
		if _, err := f.Factors.Add(t.Context(), alice, both, auth.Actor{}); !api.IsCode(err, api.CodeInvalid) {
			t.Error("two answers:", err)
		}
		added, err := f.Factors.Add(t.Context(), alice, e, auth.Actor{})
		must(t, err)
		must(t, f.Factors.Remove(t.Context(), alice, added.ID, auth.Actor{}))
		if _, err := other(t, f).Factors.Add(t.Context(), alice, e, auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
			t.Error("an offer again, after its factor was removed:", err)
		}
		offer, err = f.Factors.Offer(alice)
		must(t, err)
		<-time.After(10 * time.Minute)
		e = auth.Enrolment{State: offer.State, FactorAnswer: totpAnswer(authtest.Code(t, offer.TOTPSecret, time.Now()))}
		if _, err := f.Factors.Add(t.Context(), alice, e, auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
			t.Error("an offer of ten minutes ago:", err)
		}
		must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), alice))
		if _, err := f.Factors.Offer(alice); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("a session that has ended:", err)
		}
	})
}

func TestFactorsAreBounded(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	session := f.WebLogin(t, "alice").Identity
	for range 9 {
		f.AddPasskey(t, session, authtest.NewAuthenticator())
	}
	offer, err := f.Factors.Offer(session)
	must(t, err)
	for _, name := range []string{strings.Repeat("x", 65), "a\nb", "\u202e", "\xff"} {
		e := auth.Enrolment{State: offer.State, Name: name, FactorAnswer: totpAnswer(authtest.Code(t, offer.TOTPSecret, time.Now()))}
		if _, err := f.Factors.Add(t.Context(), session, e, auth.Actor{}); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	f.AddTOTP(t, session)
	if _, err := f.Factors.Offer(session); !api.IsCode(err, api.CodeForbidden) {
		t.Error("an eleventh factor was offered:", err)
	}
	e := auth.Enrolment{State: offer.State, FactorAnswer: auth.FactorAnswer{WebAuthn: authtest.NewAuthenticator().Create(t, offer.WebAuthn)}}
	if _, err := f.Factors.Add(t.Context(), session, e, auth.Actor{}); !api.IsCode(err, api.CodeForbidden) {
		t.Error("an eleventh factor was added:", err)
	}
}
