package auth_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// beginErr is the first step with any password.
func beginErr(t testing.TB, f *authtest.Fixture, user, password string, addr netip.Addr) error {
	t.Helper()
	_, err := f.Service.Login.Begin(t.Context(), user, password, addr)
	return err
}

// wrongCode is a code that is of no step around now.
func wrongCode(t testing.TB, secret string, i int) string {
	t.Helper()
	taken := map[string]bool{}
	for step := -2; step <= 2; step++ {
		taken[authtest.Code(t, secret, time.Now().Add(time.Duration(step)*30*time.Second))] = true
	}
	for ; ; i++ {
		if code := fmt.Sprintf("%06d", i%1000000); !taken[code] {
			return code
		}
	}
}

func TestBothWaysToLogInJudgeAPasswordAlike(t *testing.T) {
	type cost struct {
		Derivations int64
		Commits     int
		Events      int
		Text        string
	}
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.Invite(t, "nopassword", nil)
	f.AddUser(t, "app", nil)
	f.AddTOTP(t, f.WebLogin(t, "app").Identity)
	measure := func(user string, try func(testing.TB, *authtest.Fixture, string, string, netip.Addr) error) cost {
		total, _ := f.Derivations()
		commits, events := f.DB.Commits(), len(f.DB.Events())
		err := try(t, f, user, "wrong password!", netip.MustParseAddr("203.0.113.9"))
		after, _ := f.Derivations()
		return cost{after - total, f.DB.Commits() - commits, len(f.DB.Events()) - events, err.Error()}
	}
	want := measure("alice", login)
	for _, user := range []string{"alice", "nobody", "nopassword", "app", "a/b"} {
		if d := cmp.Diff(want, measure(user, beginErr)); d != "" {
			t.Errorf("begin, %s: %s", user, d)
		}
		if d := cmp.Diff(want, measure(user, login)); d != "" {
			t.Errorf("password, %s: %s", user, d)
		}
	}
	for name, args := range map[string][2]string{
		"no user": {"", authtest.Password}, "no password": {"alice", ""}, "1 MB": {"alice", strings.Repeat("x", 1<<20)},
	} {
		if err := beginErr(t, f, args[0], args[1], home); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPasswordWithoutFactorNeitherCountsNorClears(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	secret := f.AddTOTP(t, f.WebLogin(t, "alice").Identity)
	for range 3 {
		_ = login(t, f, "alice", "wrong password!", home)
	}
	commits := f.DB.Commits()
	c := begin(t, f, "alice", home)
	if err := login(t, f, "alice", authtest.Password, home); !api.IsCode(err, api.CodeSecondFactor) {
		t.Error(err)
	}
	if err := web(t, f, c, auth.FactorAnswer{}, home); !api.IsCode(err, api.CodeSecondFactor) {
		t.Error(err)
	}
	if f.DB.Commits() != commits {
		t.Error("something was written")
	}
	if got := pairFailures(f, "alice"); got != `{"failures":3` {
		t.Error(got)
	}
	if err := web(t, f, c, totpAnswer(wrongCode(t, secret, 0)), home); !api.IsCode(err, api.CodeSecondFactor) {
		t.Error(err)
	}
	if got := pairFailures(f, "alice"); got != `{"failures":4` {
		t.Error("a wrong code:", got)
	}
	must(t, web(t, f, c, totpAnswer(authtest.Code(t, secret, time.Now())), home))
	if got := pairFailures(f, "alice"); got != "none" {
		t.Error("after a login:", got)
	}
}

func TestWrongCodesLockThePair(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	secret := f.AddTOTP(t, f.WebLogin(t, "alice").Identity)
	replicas := []*authtest.Fixture{f, other(t, f)}
	c := begin(t, f, "alice", home)
	for i := range 5 {
		if err := web(t, replicas[i%2], c, totpAnswer(wrongCode(t, secret, i)), home); !api.IsCode(err, api.CodeSecondFactor) {
			t.Fatal(i, err)
		}
	}
	events := len(f.DB.Events())
	right := totpAnswer(authtest.Code(t, secret, time.Now()))
	for name, err := range map[string]error{
		"the right code":     web(t, f, c, right, home),
		"a wrong code":       web(t, f, c, totpAnswer(wrongCode(t, secret, 9)), home),
		"no code":            web(t, f, c, auth.FactorAnswer{}, home),
		"the right password": beginErr(t, f, "alice", authtest.Password, home),
		"a wrong password":   beginErr(t, f, "alice", "wrong password!", home),
		"for a certificate":  login(t, f, "alice", authtest.Password, home),
	} {
		if !api.IsCode(err, api.CodeRateLimited) || !strings.Contains(err.Error(), "from your network") {
			t.Errorf("%s under the lock: %v", name, err)
		}
	}
	if n := len(f.DB.Events()) - events; n != 1 {
		t.Errorf("%d events of refusals that cost nothing", n)
	}
	must(t, web(t, f, c, right, office))
}

func TestCodesCannotBeGuessedFromManyNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		session := f.WebLogin(t, "alice").Identity
		secret := f.AddTOTP(t, session)
		key := authtest.NewAuthenticator()
		f.AddPasskey(t, session, key)
		network := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i), 0, 1}) }
		for i := range 10 {
			if err := web(t, f, begin(t, f, "alice", network(i)), totpAnswer(wrongCode(t, secret, i)), network(i)); !api.IsCode(err, api.CodeSecondFactor) {
				t.Fatal(i, err)
			}
		}
		right := func() auth.FactorAnswer { return totpAnswer(authtest.Code(t, secret, time.Now())) }
		replica := other(t, f)
		if err := web(t, replica, begin(t, replica, "alice", network(50)), right(), network(50)); !api.IsCode(err, api.CodeRateLimited) || !strings.Contains(err.Error(), "too many wrong codes") {
			t.Error("the right code after ten wrong ones:", err)
		}
		c := begin(t, f, "alice", office)
		must(t, web(t, f, c, auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}, office))
		must(t, web(t, f, begin(t, f, "alice", netip.Addr{}), right(), netip.Addr{}))
		// That was a success, so the codes are forgotten.
		<-time.After(30 * time.Second)
		must(t, web(t, f, begin(t, f, "alice", office), right(), office))
		for i := range 10 {
			_ = web(t, f, begin(t, f, "alice", network(100+i)), totpAnswer(wrongCode(t, secret, i)), network(100+i))
		}
		<-time.After(20 * time.Minute)
		must(t, web(t, f, begin(t, f, "alice", office), right(), office))
	})
}

func TestCodesRestLongerWithEachWrongOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		session := f.WebLogin(t, "alice").Identity
		secret := f.AddTOTP(t, session)
		key := authtest.NewAuthenticator()
		f.AddPasskey(t, session, key)
		n := 0
		try := func(code string) error { // each from a network of its own
			n++
			addr := netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1})
			return web(t, f, begin(t, f, "alice", addr), totpAnswer(code), addr)
		}
		guess := func() error { return try(wrongCode(t, secret, 0)) }
		right := func() error { return try(authtest.Code(t, secret, time.Now())) }
		for range 10 {
			if err := guess(); !api.IsCode(err, api.CodeSecondFactor) {
				t.Fatal(err)
			}
		}
		rests := []struct {
			rest time.Duration
			says string
		}{
			{20 * time.Minute, "20 minutes"}, {40 * time.Minute, "40 minutes"}, {80 * time.Minute, "80 minutes"}, {160 * time.Minute, "3 hours"},
			{320 * time.Minute, "6 hours"}, {640 * time.Minute, "11 hours"}, {1280 * time.Minute, "22 hours"}, {24 * time.Hour, "24 hours"}, {24 * time.Hour, "24 hours"},
		}
		for _, tc := range rests {
			ends := time.Now().Add(tc.rest)
			if err := right(); !api.IsCode(err, api.CodeRateLimited) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "tctl users reset alice") {
				t.Errorf("at the beginning of %s: %v", tc.rest, err)
			}
			<-time.After(time.Until(ends) - time.Second)
			if err := guess(); !api.IsCode(err, api.CodeRateLimited) {
				t.Errorf("at the end of %s: %v", tc.rest, err)
			}
			<-time.After(time.Until(ends))
			if err := guess(); !api.IsCode(err, api.CodeSecondFactor) {
				t.Errorf("after %s: %v", tc.rest, err)
			}
		}
		c := begin(t, f, "alice", office)
		must(t, web(t, f, c, auth.FactorAnswer{WebAuthn: key.Get(t, c.WebAuthn)}, office))
		if err := right(); !api.IsCode(err, api.CodeRateLimited) {
			t.Error("a passkey forgot the wrong codes:", err)
		}
		<-time.After(24 * time.Hour)
		must(t, right())
		for range 10 { // that forgot them
			if err := guess(); !api.IsCode(err, api.CodeSecondFactor) {
				t.Fatal(err)
			}
		}
		<-time.After(20 * time.Minute)
		must(t, right())
	})
}

func TestSecondStepLosesToTheFifthFailureBesideIt(t *testing.T) {
	try := func(wrong bool) (answer string, sessions int) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		session := f.WebLogin(t, "alice").Identity
		secret := f.AddTOTP(t, session)
		must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), session))
		c := begin(t, f, "alice", home)
		for range 4 {
			_ = login(t, f, "alice", "wrong password!", home)
		}
		a := totpAnswer(authtest.Code(t, secret, time.Now()))
		if wrong {
			a = totpAnswer(wrongCode(t, secret, 0))
		}
		f.DB.BeforeCommit(func() { _ = login(t, f, "alice", "wrong password!", home) })
		err := web(t, f, c, a, home)
		if !api.IsCode(err, api.CodeRateLimited) {
			t.Error(err)
		}
		return fmt.Sprint(err), len(f.Sessions.List("alice"))
	}
	right, n := try(false)
	wrong, _ := try(true)
	if right != wrong || n != 0 {
		t.Errorf("%q, %q, %d sessions", right, wrong, n)
	}
}

// laggard is a replica that sees what others wrote only when it asks for it.
type laggard struct {
	*authtest.DB
	mu        sync.Mutex
	behind    *fsm.View
	meanwhile func() // what others do once, after the next Linearize, unseen until that after it
}

func (l *laggard) View() fsm.View {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.behind != nil {
		return *l.behind
	}
	return l.DB.View()
}

func (l *laggard) Linearize(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind = nil
	if fn := l.meanwhile; fn != nil {
		v := l.DB.View()
		l.behind, l.meanwhile = &v, nil
		fn()
	}
	return l.DB.Linearize(ctx)
}

func TestRightPasswordIsNotToldByAReplicaThatIsBehind(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.AddTOTP(t, f.WebLogin(t, "alice").Identity)
	db := &laggard{DB: f.DB}
	replica, err := auth.New(authtest.Options(f.DB, func(o *auth.Options) { o.DB = db }))
	must(t, err)
	for name, try := range map[string]func() error{
		"begin": func() error {
			_, err := replica.Login.Begin(t.Context(), "alice", authtest.Password, home)
			return err
		},
		"password": func() error {
			_, pub := authtest.NewKey(t)
			_, err := replica.Login.Password(t.Context(), api.LoginRequest{User: "alice", Password: authtest.Password, TLSPubKey: pub}, home)
			return err
		},
	} {
		must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
		f.AddUser(t, "alice", nil)
		f.AddTOTP(t, f.WebLogin(t, "alice").Identity)
		db.meanwhile = func() {
			for range 5 {
				_ = login(t, f, "alice", "wrong password!", home)
			}
		}
		if err := try(); !api.IsCode(err, api.CodeRateLimited) {
			t.Errorf("%s: a right password beyond the fifth failure: %v", name, err)
		}
	}
}

func TestWebLoginsAreLimitedAsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		refused := func(n int, step func() error) (limited int) {
			for range n {
				if api.IsCode(step(), api.CodeRateLimited) {
					limited++
				}
			}
			return limited
		}
		c := begin(t, f, "alice", home)
		if got := refused(50, func() error { return beginErr(t, f, "", "", home) }); got != 11 {
			t.Errorf("%d of 50 first steps refused", got)
		}
		must(t, web(t, f, c, auth.FactorAnswer{}, home)) // who has begun may finish
		if got := refused(50, func() error { return web(t, f, &auth.Challenge{State: "x"}, auth.FactorAnswer{}, office) }); got != 10 {
			t.Errorf("%d of 50 second steps refused", got)
		}
		<-time.After(time.Minute)
		must(t, web(t, f, begin(t, f, "alice", home), auth.FactorAnswer{}, home))
	})
}

func TestFloodOfWebLoginsIsBounded(t *testing.T) {
	f := authtest.New(t, func(o *auth.Options) { o.Passwords = auth.PasswordOptions{MemoryKiB: 1024, Iterations: 1, Queue: 30} })
	f.AddUser(t, "alice", nil)
	flood(t, f, func(user string, addr netip.Addr) error { return beginErr(t, f, user, authtest.Password, addr) })()
}

func TestCertificateOfAWebSession(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	w := f.WebLogin(t, "alice")
	_, pub := authtest.NewKey(t)
	nothing := func(fsm.View) (fsm.Txn, error) { return fsm.Txn{}, nil }
	issue := func(extra func(fsm.View) (fsm.Txn, error)) (*api.LoginResponse, error) {
		return f.Service.Login.Issue(t.Context(), w.Identity, pub, time.Hour, home, extra)
	}
	resp, err := issue(func(v fsm.View) (fsm.Txn, error) {
		return fsm.Txn{Checks: []fsm.Check{{Key: "once"}}, Ops: []fsm.Op{fsm.Put("once", []byte("1"))}}, nil
	})
	must(t, err)
	if e := lastEvent(f); e.Event != "user.login" || e.Fields["web_sid"] != w.Identity.SessionID || e.Fields["sid"] != resp.SessionID {
		t.Errorf("%+v", e)
	}
	id := w.Identity
	id.SessionID = resp.SessionID
	if p, err := f.Access.Certificate(f.DB.View(), id); err != nil || resp.Expires.Sub(p.Expires).Abs() > time.Second {
		t.Error(p, err)
	}
	if _, ok := f.DB.View().Get("once"); !ok {
		t.Error("extra was left out")
	}
	refuse := api.Errorf(api.CodeForbidden, "no")
	if _, err := issue(func(fsm.View) (fsm.Txn, error) { return fsm.Txn{}, refuse }); !api.IsCode(err, api.CodeForbidden) {
		t.Error("extra's refusal:", err)
	}
	cert, _ := f.Login(t, "alice")
	if _, err := f.Service.Login.Issue(t.Context(), cert, pub, 0, home, nothing); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a certificate's session issues certificates:", err)
	}
	f.DB.BeforeCommit(func() { must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), w.Identity)) })
	if _, err := issue(nothing); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a web session that ended meanwhile:", err)
	}
	if _, err := f.Service.Login.Issue(t.Context(), w.Identity, []byte("key"), 0, home, nothing); err == nil {
		t.Error("garbage as a key")
	}
}
