package acme

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// R1: the operator has opened the firewall, which nobody here can see.
func TestRetryEndsTheBackoffOnAnyReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		w.authority.set(func(f *fakeAuthority) {
			f.fail = acme.Problem{Type: acme.ProblemTypeConnection, Detail: "Timeout during connect (likely firewall problem)"}
		})
		for range 100 {
			_, _ = a.shake()
			time.Sleep(30 * time.Second)
		}
		_, _ = a.shake()
		if wait := time.Until(b.Status().NextTry); wait < time.Minute {
			t.Fatalf("next try in %v", wait)
		}
		// The challenge that has its turn keeps it: the other may be of no use here.
		failures := b.Status().Failures
		if _, err := b.Retry(t.Context(), webName); err == nil || !strings.Contains(err.Error(), "firewall") {
			t.Errorf("got %v", err)
		}
		if st := a.Status(); st.Failures%2 == failures%2 || st.Failures > 2 || time.Until(st.NextTry) > delay(2) {
			t.Errorf("after another failure: %+v", st)
		}
		var e *BackoffError
		if _, err := a.shake(); !errors.As(err, &e) {
			t.Errorf("a handshake after another failure: %v", err)
		}
		w.authority.set(func(f *fakeAuthority) { f.fail = nil })
		ordered := w.authority.ordered()
		if issued, err := b.Retry(t.Context(), strings.ToUpper(webName)); err != nil || !issued {
			t.Errorf("%v, %v", issued, err)
		}
		synctest.Wait()
		a.shows("1")
		if n := w.authority.ordered() - ordered; n != 1 {
			t.Errorf("%d orders", n)
		}
		if st := a.Status(); st.State != api.CertificateValid || st.Failures != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// What the authority said, and what it counts, the operator may know better.
func TestRetryGoesBeyondWhatTheAuthorityGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		if err := a.note(t.Context(), webName, func(at *attempts) bool {
			now := time.Now()
			at.failed(&attempt{seen: observation{outcome: ours}, progress: progress{notBefore: now.Add(24 * time.Hour)}}, errors.New("rate limited"), now)
			at.Spent = now.Add(10 * validationsRefill)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		w.set(func(w *world) { w.addrs = elsewhere }) // which ends a back-off, but not the authority's word
		var e *BackoffError
		if _, err := a.shake(); !errors.As(err, &e) {
			t.Errorf("got %v", err)
		}
		if issued, err := a.Retry(t.Context(), webName); err != nil || !issued {
			t.Errorf("%v, %v", issued, err)
		}
	})
}

func TestRetryOrdersNothingThatIsNotDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a")
		a.shows("1")
		writes := w.log.written()
		if issued, err := a.Retry(t.Context(), webName); err != nil || issued {
			t.Errorf("%v, %v", issued, err)
		}
		if _, err := a.Retry(t.Context(), "other.example.com"); !errors.As(err, new(*NotConfiguredError)) {
			t.Errorf("got %v", err)
		}
		if w.authority.ordered() != 1 || w.log.written() != writes {
			t.Errorf("%d orders, %d writes", w.authority.ordered(), w.log.written()-writes)
		}
		// A renewal that fails is due.
		w.authority.set(func(f *fakeAuthority) { f.fail = errors.New("no") })
		time.Sleep(61 * 24 * time.Hour)
		w.authority.set(func(f *fakeAuthority) { f.fail = nil })
		if issued, err := a.Retry(t.Context(), webName); err != nil || !issued || a.serial() != "2" {
			t.Errorf("%v, %v, shows %s", issued, err, a.serial())
		}
	})
}

func TestRetryIsRefusedByThePreflightAndNotHeldAgainstTheNextHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.leads = false
		a := w.start("a")
		if _, err := a.Retry(t.Context(), webName); !errors.As(err, new(*RefusedError)) || !strings.Contains(err.Error(), "somebody else answers") {
			t.Errorf("got %v", err)
		}
		if w.authority.ordered() != 0 {
			t.Error("ordered")
		}
		w.set(func(w *world) { w.leads = true })
		a.shows("1")
		if a.attemptsOf(webName).Retry {
			t.Error("it counts for the next order too")
		}
	})
}

// Who asks while an attempt is under way that will be refused gets one of its own; and
// whoever stops waiting doesn't end it.
func TestRetryOutlastsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.stopped("a", w.log.replica(t))
		look := make(chan struct{})
		close(look)
		a.opts.LeadsHere = func(context.Context, string) (bool, error) {
			w.mu.Lock()
			l := look
			w.mu.Unlock()
			<-l
			return true, nil
		}
		a.run()
		w.authority.set(func(f *fakeAuthority) { f.fail = errors.New("no") })
		_, _ = a.shake()
		w.authority.set(func(f *fakeAuthority) { f.fail, f.hold = nil, make(chan struct{}) })
		w.set(func(*world) { look = make(chan struct{}) })
		go func() { _, _ = a.shake() }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		asked := make(chan error)
		go func() { _, err := a.Retry(ctx, webName); asked <- err }()
		synctest.Wait()
		close(look)
		if err := <-asked; !errors.Is(err, ErrOrdering) {
			t.Errorf("got %v", err)
		}
		if st := a.Status(); st.State != api.CertificateOrdering {
			t.Errorf("status %+v", st)
		}
		close(w.authority.hold)
		a.shows("1")
	})
}

// Whoever asks has mended something since the order that is under way began.
func TestRetryDuringAnOrderHasOneOfItsOwn(t *testing.T) {
	for _, tc := range []struct {
		name, asks string
		mended     bool
	}{
		{"on the same replica", "a", true},
		{"on another", "b", true},
		{"in vain", "a", false},
		{"in vain, on another", "b", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				replicas := map[string]*member{"a": w.start("a"), "b": w.start("b")}
				hold, no := make(chan struct{}), errors.New("no")
				w.authority.set(func(f *fakeAuthority) { f.fail, f.hold = no, hold })
				go func() { _, _ = replicas["a"].shake() }()
				synctest.Wait()
				asked := make(chan error)
				go func() { _, err := replicas[tc.asks].Retry(t.Context(), webName); asked <- err }()
				synctest.Wait()
				w.authority.set(func(f *fakeAuthority) {
					if f.hold = nil; tc.mended {
						f.fail = nil
					}
				})
				close(hold)
				if err := <-asked; (err == nil) != tc.mended || !tc.mended && !errors.Is(err, no) {
					t.Errorf("got %v", err)
				}
				if n := w.authority.ordered(); n != 2 {
					t.Errorf("%d orders", n)
				}
				if tc.mended && replicas["b"].attemptsOf(webName).Retry {
					t.Error("it counts for the next order too")
				}
			})
		})
	}
}

func TestRetryGoesOnWhenTheReplicaThatOrdersStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		w.authority.set(func(f *fakeAuthority) { f.hold = make(chan struct{}) })
		if err := a.note(t.Context(), webName, func(at *attempts) bool {
			now := time.Now()
			at.failed(&attempt{seen: observation{outcome: ours}, progress: progress{notBefore: now.Add(24 * time.Hour)}}, errors.New("rate limited"), now)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = a.Retry(t.Context(), webName) }()
		synctest.Wait()
		a.end()
		if !b.attemptsOf(webName).Retry {
			t.Error("it is forgotten")
		}
		w.authority.set(func(f *fakeAuthority) { f.hold = nil })
		w.set(func(w *world) { w.addrs = elsewhere })
		b.shows("1")
	})
}

// Its replica died: nobody can tell. What has changed since the last failure is no reason to wait.
func TestChangeDoesNotKeepAwayWhereNothingElseDoes(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var a attempts
	a.failed(&attempt{seen: observation{outcome: ours}, progress: progress{notBefore: now.Add(24 * time.Hour)}}, errors.New("rate limited"), now)
	a.retry()
	a.Retry = false // by the order that began
	for _, outcome := range []string{ours, unknown} {
		if err := a.admit(observation{outcome: outcome}, now); err != nil {
			t.Errorf("%s: %v", outcome, err)
		}
	}
}

// The authority counts up to five, then it refuses to look.
func TestManyRetriesKeepTheClusterAwayNoLongerThanFive(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var a attempts
	for range 20 {
		now = now.Add(30 * time.Second)
		a.retry()
		a.failed(&attempt{seen: observation{outcome: ours}, progress: progress{ordered: true, challenged: true}}, errors.New("no"), now)
	}
	for _, outcome := range []string{ours, unknown} {
		if err := a.admit(observation{outcome: outcome}, now.Add(validationsRefill)); err != nil {
			t.Errorf("%s: %v", outcome, err)
		}
	}
}
