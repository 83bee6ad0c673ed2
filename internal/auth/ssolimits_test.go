package auth_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// Strangers fill neither log nor store, whatever words they choose: of each network,
// connector and code one line a minute, and of a login of tsh one end.
func TestSSOFailuresOfStrangersAreToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.PutConnector(t, authtest.GithubConnector("github"))
		f.PutConnector(t, authtest.GithubConnector("ghe"))
		before := f.DB.Commits()
		fail := func(connector string, code api.Code, reason string, from netip.Addr) {
			f.SSO.Fail(t.Context(), f.SSOState(t, connector), nil, api.Errorf(code, "%s", reason), from)
		}
		for i := range 30 {
			fail("github", api.CodeForbidden, fmt.Sprintf("GitHub says: attacker%d", i), home)
		}
		fail("github", api.CodeForbidden, "the person said no", office)
		fail("github", api.CodeUnauthenticated, "another code", home)
		fail("ghe", api.CodeForbidden, "another connector", home)
		if n := f.DB.Commits() - before; n != 4 {
			t.Errorf("%d writes", n)
		}
		time.Sleep(time.Minute) // in the bubble
		fail("github", api.CodeForbidden, "the person said no", home)
		if e := lastEvent(f); e.Fields["attempts"] != float64(30) {
			t.Errorf("%+v", e)
		}
	})
}

// Nor do those who have accounts at a provider: each is named once a minute, and so many
// of a network.
func TestSSOFailuresOfPeopleAreBoundedByNetworkAndConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.PutConnector(t, authtest.GithubConnector("github"))
		open := f.OpenConnector(t, "github")
		refuse := func(subject int, from netip.Addr) {
			id := authtest.GithubIdentity(fmt.Sprint(subject), fmt.Sprintf("user%d", subject), "octocats/devs")
			if _, err := f.SSO.Login(t.Context(), f.SSOState(t, "github"), open, id, from); !api.IsCode(err, api.CodeForbidden) {
				t.Fatal(err)
			}
		}
		before := f.DB.Commits()
		for range 3 {
			for i := range 50 {
				refuse(i, home)
			}
		}
		if n := f.DB.Commits() - before; n != 21 { // and one for all others
			t.Errorf("50 accounts, three times each: %d lines", n)
		}
		refuse(0, office)
		if e := lastEvent(f); e.User != "user0" || e.Fields["addr.remote"] != office.String() || e.Fields["attempts"] != nil {
			t.Errorf("another network: %+v", e)
		}
		time.Sleep(time.Minute) // in the bubble
		refuse(0, home)
		if e := lastEvent(f); e.User != "user0" || e.Fields["attempts"] != float64(3) || e.Fields["others"] != nil {
			t.Errorf("a minute later: %+v", e)
		}
		for i := 1; i < 50; i++ {
			refuse(i, home)
		}
		time.Sleep(time.Minute) // in the bubble
		for i := range 50 {
			refuse(i, home)
		}
		told := 0
		for _, e := range f.DB.Events() {
			if e.Code == api.EventCodeSSOLoginRefused && e.Fields["addr.remote"] == home.String() {
				n, _ := e.Fields["attempts"].(float64)
				told += max(1, int(n))
			}
		}
		if told < 220 || told > 250 { // what is left is told with the next
			t.Errorf("the lines stand for %d of 250 attempts", told)
		}
	})
}

// An office has one address, and a stranger there spoils nothing: of ten minutes with 300
// logins, each through an identity provider and into a terminal, none is refused.
func TestAnOfficeBehindOneAddressLogsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.PutConnector(t, authtest.GithubConnector("github"))
		office := netip.MustParseAddr("198.51.100.20")
		var wg sync.WaitGroup
		in := make(chan struct{}, 300)
		for i := range 300 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 2 * time.Second) // in the bubble
				if err := logInFrom(t, f, i, office); err != nil {
					t.Errorf("person %d: %v", i, err)
					return
				}
				in <- struct{}{}
			})
		}
		wg.Go(func() { // beside them
			stranger := netip.MustParseAddr("198.51.100.99")
			tool := newTool(t)
			tool.req.ConnectorID = "github"
			for i := range 20 * 10 {
				_ = f.SSO.AllowStart(stranger)
				_, _ = f.Consoles.Start(t.Context(), tool.req, stranger)
				if done, err := f.SSO.Answering(stranger, fmt.Sprint("flow", i)); err == nil {
					done(false)
				}
				time.Sleep(3 * time.Second) // in the bubble
			}
		})
		wg.Wait()
		if len(in) != 300 {
			t.Errorf("%d of 300 got in", len(in))
		}
	})
}

// logInFrom is a person who logs tsh in by a connector.
func logInFrom(t *testing.T, f *authtest.Fixture, i int, from netip.Addr) error {
	tool := newTool(t)
	tool.req.ConnectorID = "github"
	begun, err := f.Consoles.Start(t.Context(), tool.req, from)
	if err != nil {
		return fmt.Errorf("tsh: %w", err)
	}
	tool.id = begun.ID
	if err := f.SSO.AllowStart(from); err != nil {
		return fmt.Errorf("to the provider: %w", err)
	}
	st := f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = tool.id })
	time.Sleep(20 * time.Second) // in the bubble
	done, err := f.SSO.Answering(from, st.ID)
	if err != nil {
		return fmt.Errorf("back from the provider: %w", err)
	}
	id := authtest.GithubIdentity(fmt.Sprint(1000+i), fmt.Sprintf("user%d", i), "octocats/admin")
	made, err := f.SSO.Login(t.Context(), st, f.OpenConnector(t, "github"), id, from)
	done(err == nil)
	if err != nil {
		return err
	}
	_, err = tool.redeem(t, f, tool.approve(t, f, made.Identity))
	return err
}

func TestSSOStartsOfStrangersAreLimited(t *testing.T) {
	f := authtest.New(t)
	limited := 0
	for range 300 {
		if api.IsCode(f.SSO.AllowStart(office), api.CodeRateLimited) {
			limited++
		}
	}
	if limited < 30 {
		t.Errorf("%d of 300 of one network were limited", limited)
	}
}

// What is brought back costs the network a try if it came to nothing, and a flow is not
// to be tried without an end by whoever holds it.
func TestSSOAnswersThatComeToNothingAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		answer := func(flow string, ok bool) error {
			done, err := f.SSO.Answering(office, flow)
			if err == nil {
				done(ok)
			}
			return err
		}
		for i := range 1000 {
			if i%50 == 0 {
				time.Sleep(time.Second) // in the bubble: for the limit of all networks
			}
			must(t, answer(fmt.Sprint("good", i), true))
		}
		for i := range 5 {
			if err := answer("bad", false); err != nil {
				t.Fatalf("try %d: %v", i+1, err)
			}
		}
		for range 6 {
			must(t, answer("ours", true)) // no fault of the flow's
		}
		if err := answer("bad", false); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("the sixth answer to a flow:", err)
		}
		limited := 0
		for i := range 200 {
			if i%50 == 0 {
				time.Sleep(time.Second) // in the bubble
			}
			if err := answer(fmt.Sprint("bad", i), false); api.IsCode(err, api.CodeRateLimited) {
				limited++
			}
		}
		if limited < 70 {
			t.Errorf("%d of 200 were limited", limited)
		}
		time.Sleep(time.Minute) // in the bubble
		for range 5 {
			must(t, answer("bad199", true)) // refused for the limit, it is as good as before
		}
		if _, err := f.SSO.Answering(home, "another network's"); err != nil {
			t.Error(err)
		}
	})
}
