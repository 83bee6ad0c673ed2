package acme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	certLock    = "issue_cert_tele.example.com"
	accountLock = "register_acme_account_me@example.com"
	accountFile = "acme/authority/users/me@example.com/me.json"
)

func lock(t testing.TB, s *Storage, name string) {
	t.Helper()
	if err := s.Lock(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

func unlock(t testing.TB, s *Storage, name string) {
	t.Helper()
	if err := s.Unlock(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

func taken(t testing.TB, s *Storage, name string) bool {
	t.Helper()
	ok, err := s.TryLock(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if ok {
		unlock(t, s, name)
	}
	return !ok
}

// stopRenewing is what a crash, or a pause of the process, does to a lock.
func stopRenewing(s *Storage, name string) {
	s.mu.Lock()
	l := s.held[name]
	s.mu.Unlock()
	l.stop()
	<-l.done
}

func wait(d time.Duration) { <-time.After(d) }

// twoReplicas of one store, each with its storage.
func twoReplicas(t testing.TB) (a, b *Storage, dbA, dbB *testDB) {
	t.Helper()
	dbA = newTestDB(t)
	dbB = dbA.replica(t)
	a = newTestStorage(t, dbA)
	return a, newTestStorage(t, dbB, a), dbA, dbB
}

// Reliability row 22: the holder dies.
func TestLockOfADeadHolderIsFreeAfterItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := twoReplicas(t)
		lock(t, a, certLock)
		wait(25 * time.Second) // it was renewed at 20 s
		stopRenewing(a, certLock)
		began := time.Now()
		lock(t, b, certLock)
		if took := time.Since(began); took < 25*time.Second || took > 26*time.Second {
			t.Errorf("free after %s", took)
		}
		unlock(t, b, certLock)
	})
}

func TestLockIsKeptForAsLongAsItsHolderLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := twoReplicas(t)
		lock(t, a, certLock)
		for range 30 {
			wait(20 * time.Second)
			if !taken(t, b, certLock) {
				t.Fatal("two have the lock")
			}
		}
		unlock(t, a, certLock)
		if taken(t, b, certLock) {
			t.Error("still taken after Unlock")
		}
	})
}

// Reliability row 22: no fencing (certmagic#205). The holder doesn't know that it was
// paused.
func TestWritesOfAHolderPausedForLongerThanItsLeaseAreRefused(t *testing.T) {
	for _, c := range []struct{ lock, file string }{
		{certLock, challengeFile},
		{certLock, siteFiles[2]},
		{accountLock, accountFile},
		{"storage_clean", "last_clean.json"},
	} {
		t.Run(c.file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, db, _ := twoReplicas(t)
				store(t, a, "unprotected", "x")
				lock(t, a, c.lock)
				store(t, a, c.file, "mine")
				stopRenewing(a, c.lock)
				wait(31 * time.Second)

				// Nobody has taken the lock. It is lost all the same: somebody may have had it.
				if err := a.Store(t.Context(), c.file, []byte("late")); !errors.Is(err, ErrLockLost) || !api.IsCode(err, api.CodeConflict) {
					t.Errorf("store: %v", err)
				}
				lock(t, b, c.lock)
				store(t, b, c.file, "the other's")
				if err := a.Store(t.Context(), c.file, []byte("late")); !errors.Is(err, ErrLockLost) {
					t.Errorf("store: %v", err)
				}
				if err := a.Delete(t.Context(), c.file); !errors.Is(err, ErrLockLost) {
					t.Errorf("delete: %v", err)
				}
				if err := a.RenewLockLease(t.Context(), c.lock, time.Hour); !errors.Is(err, ErrLockLost) {
					t.Errorf("renew: %v", err)
				}
				store(t, a, "unprotected", "y")

				// And to let go of it takes nothing from the other.
				unlock(t, a, c.lock)
				if _, ok := db.View().Get(locksPrefix + c.lock); !ok {
					t.Error("the other's lock is gone")
				}
				if got := load(t, a, c.file); got != "the other's" {
					t.Errorf("got %q", got)
				}
				unlock(t, b, c.lock)
				lock(t, a, c.lock) // and it is usable again
				store(t, a, c.file, "mine")
				unlock(t, a, c.lock)
			})
		})
	}
}

// Reliability row 22, with a holder that is cut off and goes on renewing.
func TestHolderThatIsCutOffLosesTheLockToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, dbA, _ := twoReplicas(t)
		lock(t, a, accountLock)
		dbA.partition(true)
		if err := a.Store(t.Context(), accountFile, nil); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("cut off: %v", err)
		}
		lock(t, b, accountLock)
		dbA.partition(false)
		if err := a.Store(t.Context(), accountFile, nil); !errors.Is(err, ErrLockLost) {
			t.Errorf("back: %v", err)
		}
		wait(time.Minute)
		unlock(t, a, accountLock)
		if !taken(t, a, accountLock) {
			t.Error("b's lock is gone")
		}
		unlock(t, b, accountLock)
	})
}

func TestLockOutlivesAnElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, db, _ := twoReplicas(t)
		lock(t, a, accountLock)
		for range 3 {
			wait(9 * time.Second)
			db.lead(false)
			wait(15 * time.Second)
			db.lead(true)
			wait(4 * time.Second)
			store(t, a, accountFile, "x")
			if !taken(t, b, accountLock) {
				t.Error("lost")
			}
		}
		unlock(t, a, accountLock)
	})
}

// Reliability row 22: goroutines pile up (certmagic PR#357).
func TestWaitersThatGiveUpLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, db, _ := twoReplicas(t)
		lock(t, a, certLock)
		before := db.written()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var gaveUp atomic.Int32
		for i := range 50 {
			wg.Go(func() {
				s := []*Storage{a, b}[i%2]
				if err := s.Lock(ctx, certLock); errors.Is(err, context.Canceled) {
					gaveUp.Add(1)
				} else {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		synctest.Wait()
		if gaveUp.Load() != 50 || db.written() != before {
			t.Errorf("%d gave up, %d writes", gaveUp.Load(), db.written()-before)
		}
		if err := a.Lock(ctx, "another"); !errors.Is(err, context.Canceled) {
			t.Errorf("a lock for a context that has ended: %v", err)
		}
		unlock(t, a, certLock)
		if len(a.queues)+len(b.queues)+len(a.held)+len(b.held) != 0 {
			t.Errorf("left: %v %v %v %v", a.queues, b.queues, a.held, b.held)
		}
		for r := range db.View().List(locksPrefix) {
			t.Errorf("left: %s", r.Key)
		}
	}) // and a bubble ends only when all its goroutines have
}

func TestWaitersHaveTheLockInTurnAndNeverTwoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := twoReplicas(t)
		lock(t, a, certLock)
		var wg sync.WaitGroup
		var inside, total atomic.Int32
		var order []int
		for i := range 20 {
			wg.Go(func() {
				s := []*Storage{a, b}[i%2]
				lock(t, s, certLock)
				if inside.Add(1) != 1 {
					t.Error("two have the lock")
				}
				if i%2 == 0 {
					order = append(order, i)
				}
				wait(time.Second)
				inside.Add(-1)
				total.Add(1)
				unlock(t, s, certLock)
			})
			synctest.Wait()
		}
		unlock(t, a, certLock)
		wg.Wait()
		if total.Load() != 20 {
			t.Errorf("%d had the lock", total.Load())
		}
		if diff := cmp.Diff([]int{0, 2, 4, 6, 8, 10, 12, 14, 16, 18}, order); diff != "" {
			t.Errorf("order within a process: %s", diff)
		}
	})
}

// A release wakes waiters by the store's watch: nobody asks now and then.
func TestWaitingCostsNoWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, db, _ := twoReplicas(t)
		lock(t, a, certLock)
		done := make(chan time.Time, 1)
		go func() {
			lock(t, b, certLock)
			done <- time.Now()
		}()
		before := db.written()
		wait(10*time.Minute + time.Millisecond)
		if renewals := db.written() - before; renewals != 60 {
			t.Errorf("%d writes, 60 renewals", renewals)
		}
		released := time.Now()
		unlock(t, a, certLock)
		if at := <-done; !at.Equal(released) {
			t.Errorf("woken after %s", at.Sub(released))
		}
		unlock(t, b, certLock)
	})
}

func TestLockWhoseAnswerIsLostIsHeldOnceOrNotAtAll(t *testing.T) {
	for name, f := range map[string]fate{"done": commitsUnseen, "lost": vanishes, "late": commitsLate} {
		for _, act := range []string{"lock", "renew", "unlock"} {
			t.Run(act+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b, db, _ := twoReplicas(t)
					once := func() {
						var n atomic.Int32
						db.decide(func(fsm.Txn) fate {
							if n.Add(1) == 1 {
								return f
							}
							return commits
						})
					}
					if act == "lock" {
						once()
					}
					lock(t, a, accountLock)
					if act == "renew" {
						once()
						wait(15 * time.Second)
					}
					store(t, a, accountFile, "x")
					if !taken(t, b, accountLock) {
						t.Error("not locked")
					}
					if act == "unlock" {
						once()
					}
					unlock(t, a, accountLock)
					store(t, a, accountFile, "y") // what comes late comes now
					if taken(t, b, accountLock) {
						t.Error("still locked")
					}
				})
			})
		}
	}
}

func TestLockThatNobodyWaitsForAnyMoreIsNotLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, db, _ := twoReplicas(t)
		ctx, cancel := context.WithCancel(t.Context())
		var n atomic.Int32
		db.decide(func(fsm.Txn) fate {
			if n.Add(1) > 1 {
				return commits
			}
			cancel()
			return commitsUnseen
		})
		if err := a.Lock(ctx, certLock); err == nil {
			t.Fatal("locked")
		}
		if taken(t, b, certLock) {
			t.Error("nobody has the lock, and it is taken")
		}
	})
}

func TestUnlockFreesTheLockThoughTheWorkWasCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := twoReplicas(t)
		ctx, cancel := context.WithCancel(t.Context())
		if err := a.Lock(ctx, certLock); err != nil {
			t.Fatal(err)
		}
		cancel()
		wait(time.Minute) // it is renewed all the same
		if !taken(t, b, certLock) {
			t.Error("lost with the context of Lock")
		}
		if err := a.Unlock(ctx, certLock); err != nil || taken(t, b, certLock) {
			t.Errorf("still taken: %v", err)
		}
	})
}

func TestUnlockWithoutALeaderSaysSoAndTheLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, db, _ := twoReplicas(t)
		lock(t, a, certLock)
		db.lead(false)
		if err := a.Unlock(t.Context(), certLock); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("got %v", err)
		}
		if err := a.Unlock(t.Context(), certLock); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("again: %v", err)
		}
		if err := b.Lock(t.Context(), "other"); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("lock: %v", err)
		}
		db.lead(true)
		lock(t, a, certLock) // after the lease
		unlock(t, a, certLock)
	})
}

// The leader's clock counts. A replica whose own is ahead sees its locks expired at once.
func TestLockIsHeldByAReplicaWhoseClockIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, db, dbB := twoReplicas(t)
		dbB.setClock(5 * time.Minute)
		lock(t, b, accountLock)
		for range 10 {
			wait(time.Minute)
			store(t, b, accountFile, "x")
			if !taken(t, a, accountLock) {
				t.Fatal("lost")
			}
		}
		unlock(t, b, accountLock)

		lock(t, a, accountLock)
		before := db.written()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := b.Lock(ctx, accountLock); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if n := db.written() - before; n > 130 { // of b, one a second; a renewal wakes it once more
			t.Errorf("%d writes in a minute of waiting", n)
		}
		unlock(t, a, accountLock)
	})
}

func TestRenewLockLeaseRenewsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, db, _ := twoReplicas(t)
		if err := a.RenewLockLease(t.Context(), certLock, time.Hour); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("nobody has it: %v", err)
		}
		lock(t, a, certLock)
		wait(9 * time.Second)
		if err := a.RenewLockLease(t.Context(), certLock, 6*time.Hour); err != nil {
			t.Fatal(err)
		}
		r, ok := db.View().Get(locksPrefix + certLock)
		if !ok || !r.Expires.Equal(time.Now().Add(30*time.Second)) {
			t.Errorf("got %+v", r)
		}
		unlock(t, a, certLock)
	})
}

func TestEachLockProtectsTheFilesThatCertMagicWritesUnderIt(t *testing.T) {
	for file, want := range map[string]string{
		"certificates/authority/tele.example.com/tele.example.com.key":             "issue_cert_tele.example.com",
		"certificates/authority/tele.example.com/tele.example.com.key.compromised": "issue_cert_tele.example.com",
		"certificates/authority/tele.example.com":                                  "issue_cert_tele.example.com",
		"certificates/authority/wildcard_.example.com/wildcard_.example.com.crt":   "issue_cert_*.example.com",
		"challenges/tele.example.com.json":                                         "issue_cert_tele.example.com",
		"acme/authority/users/me@example.com/me.key":                               "register_acme_account_me@example.com",
		"acme/authority/users/me_plus_x@example.com/me_plus_x.json":                "register_acme_account_Me+x@example.com",
		"acme/authority/users/default/default.key":                                 "register_acme_account",
		"last_clean.json":                "storage_clean",
		"ocsp/tele.example.com-12345678": "",
		"rw_test_1":                      "",
		"certificates/authority":         "",
		"acme/authority/users":           "",
		"acme/authority":                 "",
	} {
		if want != "" {
			var err error
			if want, err = lockName(want); err != nil {
				t.Fatal(err)
			}
		}
		if got := lockOf(file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
}

func TestNamesOfLocksAreBounded(t *testing.T) {
	s := newTestStorage(t, newTestDB(t))
	for _, name := range []string{"", "/", strings.Repeat("x", 2000)} {
		if err := s.Lock(t.Context(), name); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%.10q: %v", name, err)
		}
	}
}

func TestLockRecordSaysWhoseItIs(t *testing.T) {
	s := newTestStorage(t, newTestDB(t))
	lock(t, s, certLock)
	defer unlock(t, s, certLock)
	r, _ := s.db.View().Get(locksPrefix + certLock)
	if !strings.HasPrefix(string(r.Value), `{"owner":"replica","nonce":"`) {
		t.Errorf("got %s", r.Value)
	}
	if got := fmt.Sprint(s); got != "replicated store" {
		t.Errorf("CertMagic logs %q", got)
	}
}
