package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// What the cluster must get out of by itself, and what must not make it order too much.

var elsewhere = []netip.Addr{netip.MustParseAddr("192.0.2.77")}

// ahead makes a replica whose clock is wrong.
func (w *world) ahead(id string, by time.Duration) *member {
	db := w.log.replica(w.t)
	db.setClock(by)
	r := w.stopped(id, db)
	r.clock, r.opts.Clock = db.clock, db.clock
	r.run()
	return r
}

// A network that doesn't lead back in costs the preflight its whole time.
func TestFirstHandshakeAfterTheAddressChangedOutlastsASlowPreflight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.stopped("a", w.log.replica(t))
		a.opts.LeadsHere = func(ctx context.Context, _ string) (bool, error) {
			<-ctx.Done()
			return false, errors.New("i/o timeout")
		}
		a.run()
		w.authority.set(func(f *fakeAuthority) { f.fail = errors.New("no connection") })
		if _, err := a.shake(); err == nil {
			t.Error("issued")
		}
		time.Sleep(5 * time.Second)
		var e *BackoffError
		began := time.Now()
		if _, err := a.shake(); !errors.As(err, &e) || time.Since(began) > backoffRecheck+spacing {
			t.Errorf("nothing has changed, after %v: %v", time.Since(began), err)
		}
		time.Sleep(10 * time.Second)
		w.set(func(w *world) { w.addrs = elsewhere })
		w.authority.set(func(f *fakeAuthority) { f.fail = nil })
		a.shows("1")
	})
}

// A resolver may remember for half a minute that there was no record.
func TestHandshakeOutlastsAResolversMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		w.set(func(w *world) { w.lookup = errors.New("no such host") })
		for range 20 { // while somebody asks all the time, nobody waits
			began := time.Now()
			if _, err := r.shake(); err == nil || time.Since(began) > time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		time.AfterFunc(20*time.Second, func() { w.set(func(w *world) { w.lookup = nil }) })
		r.shows("1")
	})
}

func TestClockOfOneReplicaDoesNotKeepTheOthersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.ahead("a", 24*time.Hour), w.start("b")
		w.authority.set(func(f *fakeAuthority) { f.fail = errors.New("no connection") })
		if _, err := a.shake(); err == nil {
			t.Error("issued")
		}
		if left := time.Until(b.Status().NextTry); left != delay(1) {
			t.Errorf("next try in %v", left)
		}
		for range 5 { // nor does it keep the one from minding the others' failures
			time.Sleep(time.Second)
			if _, err := a.shake(); err == nil || w.authority.ordered() != 1 {
				t.Fatalf("%v, %d orders", err, w.authority.ordered())
			}
		}
		w.authority.set(func(f *fakeAuthority) { f.fail = nil })
		time.Sleep(2 * time.Minute)
		b.shows("1")
	})
}

func TestReplicaWhoseClockIsBeyondTheCertificatesEndDoesNotOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(f *fakeAuthority) { f.lifetime = 24 * time.Hour })
		a, b := w.ahead("a", 25*time.Hour), w.start("b")
		b.shows("1")
		a.lines.take()
		for range 20 {
			if _, err := a.shake(); !errors.Is(err, errClock) {
				t.Fatalf("got %v", err)
			}
			time.Sleep(30 * time.Second)
		}
		if n := w.authority.ordered(); n != 1 {
			t.Errorf("%d orders", n)
		}
		if st := a.Status(); !strings.Contains(st.LastError, "clock") {
			t.Errorf("status %+v", st)
		}
		if n := len(a.lines.take()); n < 9 || n > 11 {
			t.Errorf("%d lines in ten minutes", n)
		}
		if st := b.Status(); st.LastError != "" {
			t.Errorf("status of another %+v", st)
		}
	})
}

// What nobody can use counts as a failure, or each handshake would order another.
func TestCertificateThatCannotBeUsedIsNotOrderedAgainAtOnce(t *testing.T) {
	for name, set := range map[string]func(*fakeAuthority){
		"for another name": func(f *fakeAuthority) { f.other = true },
		"over already":     func(f *fakeAuthority) { f.lifetime = -time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.authority.set(set)
				r := w.start("a")
				for range 120 {
					_, _ = r.shake()
					time.Sleep(30 * time.Second)
				}
				if n := w.authority.ordered(); n < 5 || n > 10 {
					t.Errorf("%d orders in an hour", n)
				}
				if st := r.Status(); st.Failures != w.authority.ordered() || st.LastError == "" {
					t.Errorf("status %+v", st)
				}
			})
		})
	}
}

func TestAuthorityThatCannotBeReachedIsTriedEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		w.authority.set(func(f *fakeAuthority) {
			f.fail, f.away = errors.New("read the ACME directory: connection refused"), true
		})
		for began := time.Now(); time.Since(began) < 2*time.Hour; time.Sleep(10 * time.Second) {
			_, _ = r.shake()
		}
		if n := w.authority.ordered(); n < 60 {
			t.Errorf("%d attempts", n)
		}
		w.authority.set(func(f *fakeAuthority) { f.fail = nil })
		time.Sleep(delay(1))
		r.shows("1")
	})
}

func TestReplicasOfTwoDirectoriesKeepTheirOwnFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(f *fakeAuthority) { f.fail = errors.New("no connection") })
		a, b := w.start("a"), w.stopped("b", w.log.replica(t))
		b.directory = "https://other.test/dir"
		b.run()
		for range 30 {
			_, _ = a.shake()
			_, _ = b.shake()
			time.Sleep(10 * time.Second)
		}
		for _, r := range []*member{a, b} {
			if st := r.Status(); st.Failures != 3 {
				t.Errorf("%s: %+v", r.opts.ServerID, st)
			}
		}
	})
}

func TestStatusOfTwoNamesHasBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.stopped("a", w.log.replica(t))
		a.subjects = append(a.subjects, &subject{name: "login.example.com", replaced: make(chan struct{})})
		a.run()
		says := func(want string) {
			t.Helper()
			var got []string
			for _, st := range a.Statuses() {
				got = append(got, strings.Join(st.Names, " ")+" "+st.State)
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("got %q, want %s", got, want)
			}
		}
		says("login.example.com none, " + webName + " none")
		a.shows("1")
		says(webName + " valid, login.example.com none")
		if _, err := a.Certificate(t.Context(), "login.example.com"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		says("login.example.com valid, " + webName + " valid")
	})
}

// Reliability row 25. An authority has issued; a replica is told to stop while it stores that.
func TestCertificateIsStoredEvenIfTheReplicaStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		a.shows("1")
		b.end()
		stopped := false
		w.log.decide(func(txn fsm.Txn) fate {
			if stopped || !writesCertificate(txn) {
				return commits
			}
			stopped = true
			go a.end()
			time.Sleep(time.Second)
			return fails
		})
		time.Sleep(70 * 24 * time.Hour)
		c := w.start("c")
		if got := c.serial(); got != "2" || !stopped {
			t.Errorf("shows %q", got)
		}
		if st := c.Status(); st.Failures != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// Reliability row 23.
func TestLeaderChangeIsNoFailureOfTheOrder(t *testing.T) {
	for name, outage := range map[string]time.Duration{
		"short":                             6 * time.Second,
		"longer than the lease of the lock": 45 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.start("a")
				release := w.authority.holdOrders()
				w.authority.set(func(f *fakeAuthority) { f.validate = true })
				got := make(chan error)
				go func() { _, err := a.shake(); got <- err }()
				time.Sleep(time.Second)
				w.log.lead(false)
				release()
				time.AfterFunc(outage, func() { w.log.lead(true) })
				if err := <-got; err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if st := a.Status(); st.State != api.CertificateValid || st.Failures != 0 {
					t.Errorf("status %+v", st)
				}
			})
		})
	}
}

// Reliability row 23, while what was issued is being stored.
func TestIssuedCertificateOutlastsAnOutageOfTheStore(t *testing.T) {
	for name, outage := range map[string]time.Duration{
		"short":                             6 * time.Second,
		"longer than a replica that stops":  20 * time.Second,
		"longer than the lease of the lock": 45 * time.Second,
		"longer than handshakes wait":       3 * time.Minute,
		"longer than an order may take":     15 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a, b := w.start("a"), w.start("b")
				release := w.authority.holdOrders()
				go func() { _, _ = a.shake() }()
				synctest.Wait()
				w.log.lead(false)
				release()
				time.Sleep(outage)
				w.log.lead(true)
				time.Sleep(5 * time.Second)
				for _, r := range []*member{a, b} {
					r.shows("1")
				}
				if st := b.Status(); w.authority.ordered() != 1 || st.State != api.CertificateValid || st.Failures != 0 {
					t.Errorf("%d orders, status %+v", w.authority.ordered(), st)
				}
			})
		})
	}
}

// Reliability row 25. The answer was lost, and then the lock: it is another revision than the
// one that was to be replaced, but ours.
func TestCertificateThatWasStoredUnseenIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		w.authority.set(func(f *fakeAuthority) { f.fail = errors.New("no") })
		_, _ = a.shake()
		time.Sleep(delay(1))
		w.authority.set(func(f *fakeAuthority) { f.fail = nil })
		stored := false
		w.log.decide(func(txn fsm.Txn) fate {
			if stored || !writesCertificate(txn) {
				return commits
			}
			stored = true
			w.log.lead(false)
			return commitsUnseen
		})
		a.shows("1")
		time.Sleep(45 * time.Second)
		w.log.lead(true)
		time.Sleep(5 * time.Second)
		if st := b.Status(); !stored || w.authority.ordered() != 2 || st.State != api.CertificateValid || st.Failures != 0 || st.LastError != "" {
			t.Errorf("%d orders, status %+v", w.authority.ordered(), st)
		}
		if at := b.attemptsOf(webName); !at.Ordering.IsZero() {
			t.Errorf("since %v it is being ordered", at.Ordering)
		}
	})
}

// Reliability row 25. The lock was lost and had anew; another hiccup is no reason to give it away.
func TestLockThatIsHadAnewIsKeptUntilTheCertificateIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		release := w.authority.holdOrders()
		go func() { _, _ = a.shake() }()
		synctest.Wait()
		w.log.lead(false)
		release()
		time.Sleep(45*time.Second + time.Second/2) // who stores and who renews wait for whole seconds
		w.log.lead(true)
		if err := a.store.RenewLockLease(t.Context(), certLock, 0); !errors.Is(err, ErrLockLost) {
			t.Errorf("got %v", err)
		}
		tries := 0
		w.log.decide(func(txn fsm.Txn) fate {
			if !writesCertificate(txn) {
				return commits
			}
			if tries++; tries > 1 {
				return commits
			}
			go b.shows("1")
			time.Sleep(time.Second)
			return fails
		})
		time.Sleep(10 * time.Second)
		a.shows("1")
		if n := w.authority.ordered(); tries != 2 || n != 1 {
			t.Errorf("%d orders, %d tries to store", n, tries)
		}
	})
}

func writesCertificate(txn fsm.Txn) bool {
	return slices.ContainsFunc(txn.Ops, func(op fsm.Op) bool { return strings.HasSuffix(op.Key, certExt) })
}

// CertMagic unlocks in any case, and in this process another may have the lock by then.
func TestOrderThatHasGivenItsLockAwayDoesNotUnlockAnothers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, other, _, _ := twoReplicas(t)
		lock(t, s, certLock)
		at := &attempt{subject: &subject{name: strings.TrimPrefix(certLock, certificateLock(""))}}
		ctx := context.WithValue(t.Context(), attemptKey{}, at)
		for _, at.unlocked = range []bool{true, false} {
			if err := (retryingStorage{s}).Unlock(ctx, certLock); err != nil {
				t.Error(err)
			}
			if ok, err := other.TryLock(ctx, certLock); ok == at.unlocked || err != nil {
				t.Errorf("unlocked before: %v, free after: %v, %v", at.unlocked, ok, err)
			}
		}
		unlock(t, other, certLock)
	})
}

// Whoever lost the lock while it stored a certificate must not put it over a newer one.
func TestIssuedCertificateGivesWayToAnothersOfMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		release := w.authority.holdOrders()
		go func() { _, _ = a.shake() }()
		synctest.Wait()
		a.db.partition(true)
		release()
		synctest.Wait()
		b.shows("2")
		time.Sleep(time.Minute)
		a.db.partition(false)
		time.Sleep(time.Minute)
		for _, r := range []*member{a, b} {
			r.shows("2")
		}
		if st := b.Status(); w.authority.ordered() != 2 || st.Failures != 0 {
			t.Errorf("%d orders, status %+v", w.authority.ordered(), st)
		}
	})
}

// issuerFunc is an authority of one's own.
type issuerFunc func(context.Context) error

func (issuerFunc) IssuerKey() string { return "acme.test-dir" }

func (f issuerFunc) Issue(ctx context.Context, _ *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	return nil, f(ctx)
}

// An order begins anew when the lock was lost: how far it came before counts no more.
func TestSecondTryOfAnOrderStartsFromNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.stopped("a", w.log.replica(t))
		tries := 0
		a.issuer = issuerFunc(func(ctx context.Context) error {
			at := attemptFrom(ctx)
			if tries++; tries == 1 {
				at.ordered, at.challenged, at.notBefore = true, true, time.Now().Add(time.Hour)
				return ErrLockLost
			}
			return errors.New("connection refused")
		})
		a.run()
		if _, err := a.shake(); err == nil {
			t.Error("issued")
		}
		noted := a.attemptsOf(webName)
		if tries != 2 || !noted.Spent.IsZero() || !noted.NotBefore.IsZero() || time.Until(noted.NextTry) > delay(1) {
			t.Errorf("after %d tries: %+v", tries, noted)
		}
	})
}

func TestMetadataThatCannotBeReadDoesNotStopRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		a.shows("1")
		store(t, a.store, a.files(a.subjects[0])[2], "{")
		time.Sleep(61 * 24 * time.Hour)
		if got := a.serial(); got != "2" {
			t.Errorf("shows %q; status %+v", got, a.Status())
		}
	})
}

func TestWhatNeitherTheAuthorityNorThePreflightSaysIsToldToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		if _, err := a.db.Commit(t.Context(), fsm.Txn{Ops: []fsm.Op{fsm.Put(filesPrefix+a.files(a.subjects[0])[0], []byte("garbage"))}}); err != nil {
			t.Fatal(err)
		}
		a.lines.take()
		for range 60 {
			if _, err := a.shake(); err == nil {
				t.Fatal("a certificate of garbage")
			}
			time.Sleep(5 * time.Second)
		}
		if st := b.Status(); st.State != api.CertificateFailing || !strings.Contains(st.LastError, "can't be read") || st.Failures != 0 {
			t.Errorf("status %+v", st)
		}
		told := 0
		for _, line := range a.lines.take() {
			if strings.Contains(line, "no certificate is ordered") {
				told++
			}
			if strings.Contains(line, "store_error") {
				t.Errorf("the store took it, and yet: %s", line)
			}
		}
		if told < 4 || told > 6 {
			t.Errorf("%d lines in five minutes", told)
		}
	})
}

func TestLockIsKeptAcrossALostAnswerThoughTheClockIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, db, _ := twoReplicas(t)
		lock(t, s, certLock)
		db.setClock(time.Hour)
		lost := false
		db.decide(func(fsm.Txn) fate {
			if lost {
				return commits
			}
			lost = true
			return commitsUnseen
		})
		if err := s.RenewLockLease(t.Context(), certLock, 0); err != nil || !lost {
			t.Errorf("got %v", err)
		}
		unlock(t, s, certLock)
	})
}

func TestProblemBeforeTheChallengeSpendsNothing(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	no := errors.New("no")
	for _, tc := range []struct {
		name     string
		at       attempt
		failures int
		want     time.Duration
		spent    bool
		err      error
	}{
		{"on the way", attempt{}, 9, time.Minute, false, errors.New("connection refused")},
		{"the account", attempt{}, 9, validationsRefill, false, acme.Problem{Detail: "an e-mail address is needed"}},
		{"told when to come back", attempt{progress: progress{notBefore: now.Add(time.Hour)}}, 0, time.Hour, false, no},
		{"the order", attempt{progress: progress{ordered: true}}, 9, validationsRefill, false, no},
		{"the proof", attempt{progress: progress{ordered: true, challenged: true}}, 3, 8 * time.Minute, true, no},
		{"for a day", attempt{progress: progress{ordered: true, challenged: true}}, patientFailures, time.Hour, true, no},
	} {
		a := attempts{Failures: tc.failures}
		a.failed(&tc.at, plain(fmt.Errorf("order: %w", tc.err)), now)
		if got := a.NextTry.Sub(now); got != tc.want || a.Spent.IsZero() == tc.spent {
			t.Errorf("%s: %v, spent until %v", tc.name, got, a.Spent)
		}
	}
}
