package auth_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func TestFiveFailuresLockThePairForTwentyMinutes(t *testing.T) {
	for _, user := range []string{"alice", "nobody"} {
		synctest.Test(t, func(t *testing.T) {
			f := authtest.New(t)
			f.AddUser(t, "alice", nil)
			for range 5 {
				if err := login(t, f, user, "wrong password!", home); !api.IsCode(err, api.CodeUnauthenticated) {
					t.Fatal(err)
				}
			}
			derivations, _ := f.Derivations()
			err := login(t, f, user, authtest.Password, home)
			if !api.IsCode(err, api.CodeRateLimited) || !strings.Contains(err.Error(), "20 minutes") {
				t.Fatal("not locked:", err)
			}
			if after, _ := f.Derivations(); after != derivations {
				t.Error("a locked pair still costs a derivation")
			}
			if err := login(t, f, user, authtest.Password, netip.MustParseAddr("192.0.2.200")); !api.IsCode(err, api.CodeRateLimited) {
				t.Error("the neighbour in the /24 is not locked:", err)
			}
			if user == "alice" {
				must(t, login(t, f, user, authtest.Password, office))
				must(t, login(t, f, user, authtest.Password, netip.Addr{}))
			}
			<-time.After(20*time.Minute - time.Second)
			if err := login(t, f, user, authtest.Password, home); !api.IsCode(err, api.CodeRateLimited) {
				t.Error("unlocked early:", err)
			}
			<-time.After(time.Second)
			err = login(t, f, user, authtest.Password, home)
			if user == "alice" && err != nil || user != "alice" && !api.IsCode(err, api.CodeUnauthenticated) {
				t.Error("still locked:", err)
			}
		})
	}
}

func TestSuccessForgetsFailures(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	for range 3 {
		for range 4 {
			_ = login(t, f, "alice", "wrong password!", home)
		}
		must(t, login(t, f, "alice", authtest.Password, home))
	}
}

func TestUserIsSlowedAndNeverLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		elapsed := func(err *error, addr netip.Addr, password string) time.Duration {
			start := time.Now()
			*err = login(t, f, "alice", password, addr)
			return time.Since(start)
		}
		var err error
		for i := range 30 {
			elapsed(&err, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), "wrong password!")
			if !api.IsCode(err, api.CodeUnauthenticated) {
				t.Fatal(i, err)
			}
		}
		if d := elapsed(&err, office, authtest.Password); err != nil || d < time.Second || d > 5*time.Second {
			t.Fatal("after 30 failures elsewhere:", d, err)
		}
		if d := elapsed(&err, netip.Addr{}, authtest.Password); err != nil || d > 0 {
			t.Fatal("the socket is not exempt:", d, err)
		}
		<-time.After(10 * time.Minute)
		if d := elapsed(&err, office, authtest.Password); err != nil || d > 0 {
			t.Fatal("still slow:", d, err)
		}
	})
}

func TestGuessesMadeAtOnceAreCountedOneByOne(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.DB.BeforeCommit(func() { _ = login(t, f, "alice", "wrong password!", home) })
	_ = login(t, f, "alice", "wrong password!", home)
	rec, ok := f.DB.View().Get("attempts/" + auth.AttemptUser("alice") + "/192.0.2.0_24")
	if !ok || !bytes.Contains(rec.Value, []byte(`"failures":2,`)) {
		t.Fatalf("two guesses at once were counted as %s", rec.Value)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _ = login(t, f, "alice", "wrong password!", home) })
	}
	wg.Wait()
	if err := login(t, f, "alice", authtest.Password, home); !api.IsCode(err, api.CodeRateLimited) {
		t.Fatal("twenty guesses at once did not lock:", err)
	}
}

func TestRightGuessLosesToTheFifthFailureBesideIt(t *testing.T) {
	type outcome struct {
		Answer          string
		Commits         int
		Events          []string
		Sessions        int
		Failures        string
		Derivations     int64
		AnswerAfterward string
	}
	try := func(password string) (o outcome) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		for range 4 {
			_ = login(t, f, "alice", "wrong password!", home)
		}
		derivations, _ := f.Derivations()
		commits, events := f.DB.Commits(), len(f.DB.Events())
		f.DB.BeforeCommit(func() { _ = login(t, f, "alice", "wrong password!", home) })
		err := login(t, f, "alice", password, home)
		if !api.IsCode(err, api.CodeRateLimited) {
			t.Errorf("%q was not judged after the one beside it: %v", password, err)
		}
		o.Answer, o.Commits, o.Sessions = fmt.Sprint(err), f.DB.Commits()-commits, len(f.Sessions.List("alice"))
		for _, e := range f.DB.Events()[events:] {
			o.Events = append(o.Events, fmt.Sprint(e.Code, e.Fields["error"]))
		}
		rec, _ := f.DB.View().Get("attempts/" + auth.AttemptUser("alice") + "/192.0.2.0_24")
		o.Failures, _, _ = strings.Cut(string(rec.Value), ",")
		after, _ := f.Derivations()
		o.Derivations = after - derivations
		o.AnswerAfterward = fmt.Sprint(login(t, f, "alice", password, home))
		return o
	}
	right, wrong := try(authtest.Password), try("a wrong guess, too")
	if d := cmp.Diff(right, wrong); d != "" {
		t.Error("the lock tells the right password from a wrong one:", d)
	}
	if right.Sessions != 0 || right.Failures != `{"failures":5` || len(right.Events) != 2 {
		t.Errorf("%+v", right)
	}
}

func TestOfGuessesMadeAtOnceFiveAreAnswered(t *testing.T) {
	for _, user := range []string{"alice", "nobody"} {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		codes := make(chan api.Code, 40)
		var wg sync.WaitGroup
		for range cap(codes) {
			wg.Go(func() { codes <- api.CodeOf(login(t, f, user, "wrong password!", home)) })
		}
		wg.Wait()
		close(codes)
		count := map[api.Code]int{}
		for c := range codes {
			count[c]++
		}
		if d := cmp.Diff(map[api.Code]int{api.CodeUnauthenticated: 5, api.CodeRateLimited: 35}, count); d != "" {
			t.Error(user, d)
		}
	}
}

func TestLockIsAskedAgainAfterTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		free := f.HoldDerivations()
		results := make(chan error, 30)
		for range cap(results) {
			go func() { results <- login(t, f, "alice", "wrong password!", home) }()
		}
		synctest.Wait()
		_, err := f.DB.Commit(t.Context(), auth.PutRaw("attempts/"+auth.AttemptUser("alice")+"/192.0.2.0_24", `{"failures":5,"last":"2000-01-01T00:00:00Z"}`))
		must(t, err)
		before, _ := f.Derivations()
		free()
		for range cap(results) {
			if err := <-results; !api.IsCode(err, api.CodeRateLimited) {
				t.Error(err)
			}
		}
		if after, _ := f.Derivations(); after != before {
			t.Errorf("%d derivations for a locked pair", after-before)
		}
	})
}

func TestLockedTriesAreToldOnceAMinute(t *testing.T) {
	for _, user := range []string{"alice", "nobody"} {
		synctest.Test(t, func(t *testing.T) {
			f := authtest.New(t)
			f.AddUser(t, "alice", nil)
			for range 5 {
				_ = login(t, f, user, "wrong password!", home)
			}
			tries := func(n int) (events []api.Event, commits int) {
				e, c := len(f.DB.Events()), f.DB.Commits()
				for range n {
					if err := login(t, f, user, authtest.Password, home); !api.IsCode(err, api.CodeRateLimited) {
						t.Error(err)
					}
				}
				return f.DB.Events()[e:], f.DB.Commits() - c
			}
			if events, commits := tries(30); len(events) != 1 || commits != 1 || events[0].Code != "T1000W" || events[0].Fields["attempts"] != nil {
				t.Error(events, commits)
			}
			<-time.After(time.Minute)
			if events, commits := tries(10); len(events) != 1 || commits != 1 || events[0].Fields["attempts"] != 30.0 {
				t.Error(events, commits)
			}
		})
	}
}

func TestGuessesFromManyNetworksAtOnceComeOneByOne(t *testing.T) {
	for _, user := range []string{"alice", "nobody"} {
		synctest.Test(t, func(t *testing.T) {
			f := authtest.New(t)
			f.AddUser(t, "alice", nil)
			must(t, login(t, f, "alice", authtest.Password, office)) // from where alice is known
			botnet := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i), 0, 1}) }
			for i := range 30 {
				_ = login(t, f, user, "wrong password!", botnet(i))
			}
			before, _ := f.Derivations()
			start, events := time.Now(), len(f.DB.Events())
			results := make(chan error, 20)
			for i := range cap(results) {
				go func() { results <- login(t, f, user, "wrong password!", botnet(100+i)) }()
			}
			synctest.Wait()
			if user == "alice" {
				must(t, login(t, f, user, authtest.Password, netip.Addr{}))
				if took := time.Since(start); took != 0 {
					t.Error("the socket waited", took)
				}
				must(t, login(t, f, user, authtest.Password, office))
				if took := time.Since(start); took > 5*time.Second {
					t.Error("the guesses kept the owner waiting for", took)
				}
				before += 2
			}
			count := map[api.Code]int{}
			for range cap(results) {
				count[api.CodeOf(<-results)]++
			}
			if d := cmp.Diff(map[api.Code]int{api.CodeUnauthenticated: 5, api.CodeRateLimited: 15}, count); d != "" {
				t.Error(d)
			}
			if took := time.Since(start); took != 25*time.Second {
				t.Error("five guesses took", took)
			}
			if after, _ := f.Derivations(); after-before != 5 {
				t.Errorf("%d derivations", after-before)
			}
			told := 0
			for _, e := range f.DB.Events()[events:] {
				if e.Fields["error"] == "too many logins of one user at once" {
					told++
				}
			}
			if told != 1 {
				t.Errorf("%d events for what was refused at once", told)
			}
		})
	}
}

func TestKnownNetworksAreFewAndGoWithPasswordAndUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		known := func() string {
			rec, ok := f.DB.View().Get("networks/alice")
			if !ok {
				return ""
			}
			return string(rec.Value)
		}
		for i := range 20 {
			must(t, login(t, f, "alice", authtest.Password, netip.AddrFrom4([4]byte{10, byte(i), 0, 1})))
			<-time.After(time.Second)
		}
		if got := known(); strings.Count(got, "/24") != 16 || strings.Contains(got, `"10.3.0.0/24"`) || !strings.Contains(got, `"10.19.0.0/24"`) {
			t.Error(got)
		}
		before := known()
		must(t, login(t, f, "alice", authtest.Password, netip.MustParseAddr("10.19.0.200")))
		_ = login(t, f, "alice", "wrong password!", home)
		if known() != before {
			t.Error("a known network, or a failure, was written:", known())
		}
		must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
		if known() != "" {
			t.Error("left behind:", known())
		}
	})
}

// burn tries n times from networks that next gives, at no cost but the limits',
// and says how many were let through them.
func burn(t *testing.T, f *authtest.Fixture, n int, next func(int) netip.Addr) (passed int) {
	t.Helper()
	for i := range n {
		_, err := f.Service.Login.Password(t.Context(), api.LoginRequest{}, next(i))
		if api.IsCode(err, api.CodeInvalid) {
			passed++
		}
	}
	return passed
}

func TestNoWideNetworkUsesUpTheLoginsOfAll(t *testing.T) {
	for name, next := range map[string]func(i int) netip.Addr{
		"a /48": func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, byte(i >> 8), byte(i), 15: 1})
		},
		"a /16": func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i), 1}) },
		"a /16 as IPv6": func(i int) netip.Addr {
			return netip.MustParseAddr(fmt.Sprintf("::ffff:10.1.%d.1", i%256))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := authtest.New(t, func(o *auth.Options) { o.Limits.Networks = 50 })
				f.AddUser(t, "alice", nil)
				if got := burn(t, f, 300, next); got != 60 {
					t.Errorf("%d tries at once", got)
				}
				if n := f.Networks(); n > 100 {
					t.Errorf("%d networks remembered", n)
				}
				must(t, login(t, f, "alice", authtest.Password, home))
			})
		})
	}
}

func TestABotnetLeavesLoginsToKnownNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		f.AddUser(t, "bob", nil)
		must(t, login(t, f, "alice", authtest.Password, office))
		everywhere := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{byte(10 + i), 51, 100, 1}) }
		neighbours := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(i), 1}) }
		burn(t, f, 100, neighbours)
		burn(t, f, 180, everywhere)
		must(t, login(t, f, "alice", authtest.Password, office))
		for user, addr := range map[string]netip.Addr{"alice": home, "bob": office} {
			if err := login(t, f, user, authtest.Password, addr); !api.IsCode(err, api.CodeRateLimited) {
				t.Errorf("%s from %s took what is kept for others: %v", user, addr, err)
			}
		}
		<-time.After(time.Second)
		must(t, login(t, f, "alice", authtest.Password, home))
	})
}

func TestGuessedInvitesLeaveLoginsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		limited := 0
		for i := range 200 {
			from := auth.Actor{Addr: netip.AddrFrom4([4]byte{byte(i), 1, 1, 1})}
			if _, err := f.Invites.Lookup(t.Context(), strings.Repeat("ab", 32), from); api.IsCode(err, api.CodeRateLimited) {
				limited++
			}
		}
		if limited != 100 {
			t.Errorf("%d of 200 refused", limited)
		}
		must(t, login(t, f, "alice", authtest.Password, home))
	})
}

func TestOneNetworkGetsFortyTriesThenTwentyAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		limited := func(n int) (refused int) {
			for i := range n {
				addr := netip.MustParseAddr(fmt.Sprintf("2001:db8:1:1::%x", i+1))
				if _, err := f.Invites.Lookup(t.Context(), strings.Repeat("ab", 32), auth.Actor{Addr: addr}); api.IsCode(err, api.CodeRateLimited) {
					refused++
				}
			}
			return refused
		}
		if got := limited(50); got != 10 {
			t.Errorf("%d of 50 refused", got)
		}
		<-time.After(time.Minute)
		if got := limited(50); got != 30 {
			t.Errorf("a minute later %d of 50 refused", got)
		}
	})
}

func TestLinksThatCountWorkWhileStrangersGuessAndForAWholeOffice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		ctx := t.Context()
		for i := range 200 { // all that there is for guesses, of this network and of all
			_, _ = f.Invites.Lookup(ctx, strings.Repeat("ab", 32), auth.Actor{Addr: netip.AddrFrom4([4]byte{byte(i), 1, 1, 1})})
			_, _ = f.Invites.Lookup(ctx, strings.Repeat("ab", 32), auth.Actor{Addr: home})
		}
		from := auth.Actor{Addr: home}
		for i := range 50 {
			token := f.Invite(t, fmt.Sprintf("user%d", i), nil)
			_, err := f.Invites.Lookup(ctx, token, from)
			must(t, err)
			_, err = f.Invites.Offer(ctx, token, from)
			must(t, err)
			_, err = f.Invites.Redeem(ctx, token, authtest.Password, nil, from)
			must(t, err)
			if _, err := f.Invites.Lookup(ctx, token, from); !api.IsCode(err, api.CodeConflict) {
				t.Error("a link that was used does not say so:", err)
			}
		}
		for name, try := range map[string]func(token string) error{
			"lookup": func(token string) error { _, err := f.Invites.Lookup(ctx, token, from); return err },
			"offer":  func(token string) error { _, err := f.Invites.Offer(ctx, token, from); return err },
			"redeem": func(token string) error {
				_, err := f.Invites.Redeem(ctx, token, authtest.Password, nil, from)
				return err
			},
		} {
			for _, token := range []string{"", "x", strings.Repeat("cd", 32)} {
				if err := try(token); !api.IsCode(err, api.CodeRateLimited) {
					t.Errorf("%s of what is no link is not limited: %v", name, err)
				}
			}
		}
	})
}
