package acme

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/mholt/acmez/v3/acme"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// An installation: the load balancer has an address at once, the name minutes later.
func TestFirstHandshakeAfterTheNameLeadsHereSucceeds(t *testing.T) {
	nobody := errors.New("no such host")
	for _, tc := range []struct {
		name        string
		before, fix func(*world)
		says        string
	}{
		{
			"no DNS record yet",
			func(w *world) { w.lookup = nobody },
			func(w *world) { w.lookup = nil },
			"create a DNS record",
		},
		{
			"a DNS record without an address",
			func(w *world) { w.addrs = nil },
			func(w *world) { w.addrs = []netip.Addr{netip.MustParseAddr("2001:db8::1")} },
			"create a DNS record",
		},
		{
			"somebody else answers",
			func(w *world) { w.leads = false },
			func(w *world) { w.leads = true },
			"somebody else answers",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a, b := w.start("a"), w.start("b")
				w.set(tc.before)
				began := time.Now()
				for range 60 {
					var e *RefusedError
					if _, err := a.shake(); !errors.As(err, &e) {
						t.Fatalf("a handshake: %v", err)
					}
					time.Sleep(10 * time.Second)
				}
				if n := w.authority.ordered(); n != 0 {
					t.Errorf("%d orders", n)
				}
				if n := w.log.written(); n > int(time.Since(began).Minutes())+2 {
					t.Errorf("%d writes for 60 handshakes in %v", n, time.Since(began))
				}
				for _, r := range []*member{a, b} {
					st := r.Status()
					if st.State != api.CertificateFailing || !strings.Contains(st.LastError, tc.says) || st.Failures != 0 || !st.NextTry.IsZero() || time.Since(st.LastErrorAt) > 2*time.Minute {
						t.Errorf("%s says %+v", r.opts.ServerID, st)
					}
				}
				w.set(tc.fix)
				b.shows("1")
				if st := a.Status(); st.State != api.CertificateValid || st.LastError != "" {
					t.Errorf("afterwards: %+v", st)
				}
			})
		})
	}
}

func TestCloudThatDoesNotLeadBackInIsNoReasonNotToOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.tell = errors.New("i/o timeout")
		w.start("a").shows("1")
	})
}

func TestStrangersHandshakesDoNotMultiplyLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.leads = false
		r := w.start("a")
		for range 100 {
			go func() {
				for range 20 {
					_, _ = r.shake()
				}
			}()
		}
		time.Sleep(5 * time.Second)
		w.set(func(w *world) {
			if w.lookups > 11 {
				t.Errorf("%d lookups in five seconds", w.lookups)
			}
		})
		time.Sleep(time.Minute)
	})
}

func TestFailuresAtTheAuthorityKeepAllReplicasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		problem := acme.Problem{Type: acme.ProblemTypeConnection, Status: 400, Detail: "Timeout during connect\r\n(likely firewall problem)"}
		w.authority.set(func(a *fakeAuthority) { a.fail = fmt.Errorf("solving challenge: %w", problem) })
		a, b := w.start("a"), w.start("b")
		for i, minutes := range []int{1, 2, 4, 8, 12, 12, 12} {
			pause := time.Duration(minutes) * time.Minute
			if _, err := a.shake(); err == nil {
				t.Fatal("issued")
			}
			if n := w.authority.ordered(); n != i+1 {
				t.Fatalf("%d orders, want %d", n, i+1)
			}
			began := time.Now()
			for _, r := range []*member{a, b, a, b} {
				var e *BackoffError
				if _, err := r.shake(); !errors.As(err, &e) || !e.Until.Equal(began.Add(pause)) {
					t.Fatalf("while backing off: %v", err)
				}
			}
			if took := time.Since(began); took > spacing {
				t.Errorf("4 handshakes took %v", took)
			}
			want := api.WebCertificate{
				Source: api.CertificateACME, State: api.CertificateFailing, Names: []string{webName}, Directory: testDirectory,
				OrderedBy: "a", LastErrorAt: began, Failures: i + 1, NextTry: began.Add(pause),
				LastError: "the authority says: HTTP 400 urn:ietf:params:acme:error:connection - Timeout during connect (likely firewall problem)",
			}
			for _, r := range []*member{a, b} {
				if diff := cmp.Diff(want, r.Status()); diff != "" {
					t.Errorf("status of %s: %s", r.opts.ServerID, diff)
				}
			}
			// Up to the second, with a handshake each.
			for range 10 {
				time.Sleep(pause/10 - time.Second)
				_, _ = b.shake()
			}
			if n := w.authority.ordered(); n != i+1 {
				t.Fatalf("%d orders while backing off", n)
			}
			time.Sleep(time.Until(began.Add(pause)))
		}
		w.authority.set(func(a *fakeAuthority) { a.fail = nil })
		b.shows("1")
		if st := a.Status(); st.Failures != 0 || st.LastError != "" || !st.NextTry.IsZero() {
			t.Errorf("status %+v", st)
		}
	})
}

func TestBackoffEndsWhenTheNameLeadsElsewhere(t *testing.T) {
	for _, tc := range []struct {
		name string
		was  func(*world)
		fix  func(*world)
	}{
		{"another address", nil, func(w *world) { w.addrs = []netip.Addr{netip.MustParseAddr("192.0.2.2")} }},
		{"one address more", nil, func(w *world) { w.addrs = append(w.addrs, netip.MustParseAddr("2001:db8::1")) }},
		{"nothing answered before", func(w *world) { w.tell = errors.New("refused") }, func(w *world) { w.tell = nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if tc.was != nil {
					w.set(tc.was)
				}
				w.authority.set(func(a *fakeAuthority) { a.fail = errors.New("no") })
				a, b := w.start("a"), w.start("b")
				for i := range 5 {
					_, _ = a.shake()
					time.Sleep(delay(i + 1))
				}
				if n := w.authority.ordered(); n != 5 {
					t.Fatalf("%d orders", n)
				}
				_, _ = a.shake()
				if n := w.authority.ordered(); n != 6 {
					t.Fatalf("%d orders", n)
				}
				w.authority.set(func(a *fakeAuthority) { a.fail = nil })
				w.set(tc.fix)
				b.shows("1")
			})
		})
	}
}

// The first failure had the wrong roots, say. With others it is worth a try: one by each
// replica, for while they are restarted one by one each would find the other's record.
func TestBackoffEndsOnceForAReplicaOfOtherSettings(t *testing.T) {
	for _, tc := range []struct {
		name   string
		set    func(*Options)
		orders int
	}{
		{"the same", func(*Options) {}, 0},
		{"other roots", func(o *Options) { o.RootsID = "others" }, 1},
		{"another e-mail", func(o *Options) { o.Email = "ops@example.com" }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.authority.set(func(a *fakeAuthority) { a.fail, a.away = errors.New("signed by unknown authority"), true })
				old := w.start("a")
				_, _ = old.shake()
				w.configure = tc.set
				r := w.start("b")
				for range 5 {
					_, _ = r.shake()
					_, _ = old.shake()
				}
				if n := w.authority.ordered() - 1; n != tc.orders {
					t.Errorf("%d orders while backing off, want %d", n, tc.orders)
				}
				if tc.orders == 0 {
					return
				}
				w.authority.set(func(a *fakeAuthority) { a.fail = nil })
				w.configure = func(o *Options) { tc.set(o); o.RootsID += "right" }
				w.start("c").shows("1")
			})
		})
	}
}

func TestAddressesInAnotherOrderAreTheSame(t *testing.T) {
	x, y := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.2")
	if diff := cmp.Diff(addressStrings([]netip.Addr{x, y, x}), addressStrings([]netip.Addr{y.Unmap(), x})); diff != "" {
		t.Error(diff)
	}
}

// Let's Encrypt lets five validations fail per hour and name.
func TestScheduleStaysBelowTheAuthoritysLimit(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's
	same := observation{outcome: ours, addresses: []string{"192.0.2.1"}}
	for _, tc := range []struct {
		name string
		seen func() observation
	}{
		{"nothing changes", func() observation { return same }},
		{"addresses change all the time", func() observation {
			return observation{outcome: ours, addresses: []string{fmt.Sprint(rnd.Uint64())}}
		}},
		{"now and then", func() observation {
			if rnd.IntN(600) == 0 {
				return observation{outcome: unknown}
			}
			return same
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var a attempts
			var failed []time.Time
			tokens, filled := float64(validationsBurst), start
			for now := start; now.Before(start.Add(48 * time.Hour)); now = now.Add(time.Second) {
				seen := tc.seen()
				if a.admit(seen, now) != nil {
					continue
				}
				a.failed(&attempt{seen: seen, progress: progress{ordered: true, challenged: true}}, errors.New("no"), now)
				failed = append(failed, now)
				// As the authority counts: five, one of which comes back every 12 minutes.
				tokens = min(validationsBurst, tokens+now.Sub(filled).Minutes()/12)
				filled = now
				if tokens--; tokens < -1e-6 {
					t.Fatalf("attempt %d at %v is one too many", len(failed), now.Sub(start))
				}
			}
			if len(failed) < 40 {
				t.Errorf("only %d attempts in two days", len(failed))
			}
		})
	}
}

func TestAuthoritysRetryAfterHoldsEvenIfTheNameChanges(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var a attempts
	a.failed(&attempt{seen: observation{outcome: ours}, progress: progress{notBefore: now.Add(3 * time.Hour)}}, errors.New("rate limited"), now)
	for at, want := range map[time.Duration]bool{time.Hour: false, 3*time.Hour - 1: false, 3 * time.Hour: true} {
		if got := a.admit(observation{outcome: unknown}, now.Add(at)) == nil; got != want {
			t.Errorf("after %v: %v", at, got)
		}
	}
}

func TestRetryAfterIsReadInBothForms(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Time{
		"120":                           now.Add(2 * time.Minute),
		"Thu, 01 Jan 2026 01:00:00 GMT": now.Add(time.Hour),
		"999999999":                     now.Add(maxRetryAfter),
		"Thu, 01 Jan 2099 01:00:00 GMT": now.Add(maxRetryAfter),
		"":                              {}, "-1": {}, "soon": {}, "99999999999999999999": {},
	} {
		if got := retryAfter(header, now); !got.Equal(want) {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

func TestAnotherDirectoryStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(a *fakeAuthority) { a.fail = errors.New("staging is closed") })
		r := w.start("a")
		_, _ = r.shake()
		r.end()
		w.authority.set(func(a *fakeAuthority) { a.fail = nil })
		other := w.stopped("a", r.db)
		other.directory = "https://other.test/dir"
		if st := other.Status(); st.Failures != 0 || st.State != api.CertificateNone {
			t.Errorf("status %+v", st)
		}
		other.run()
		other.shows("1")
	})
}

func FuzzOneLine(f *testing.F) {
	for _, s := range []string{"", "a b", "a\r\nb\x1b[31m", strings.Repeat("ä", 600), "\xff\xfe", "\u202egnp", strings.Repeat("x", 511) + "€"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s)
		if len(got) > maxErrorLength || !utf8.ValidString(got) || slices.ContainsFunc([]rune(got), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q", got)
		}
	})
}
