package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func newFlight() (*flight, context.Context) {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &flight{cancel: cancel, ctl: http.NewResponseController(httptest.NewRecorder())}, ctx
}

var alice = Identity{User: "alice", SessionID: "s1"}

func TestOneDecisionServesASessionUntilItIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &fakeAuth{}
		gs := newGrants(auth, time.Now)
		defer gs.close()
		get := func(id Identity, kube, as string) *grant {
			t.Helper()
			g, err := gs.get(t.Context(), id, kube, as, nil)
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		first := get(alice, "prod", "")
		if get(alice, "prod", "") != first || auth.calls != 1 {
			t.Errorf("%d decisions for one session", auth.calls)
		}
		for _, other := range []*grant{
			get(Identity{"alice", "s2"}, "prod", ""), get(Identity{"bob", "s1"}, "prod", ""), get(alice, "dev", ""), get(alice, "prod", "bob"),
		} {
			if other == first {
				t.Error("a decision was used for something else")
			}
		}
		auth.right.stale.Store(true)
		second := get(alice, "prod", "")
		if second == first || get(alice, "prod", "") != second {
			t.Error("a stale decision was used")
		}
	})
}

func TestWatchersEndWithTheirGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &fakeAuth{}
		gs := newGrants(auth, time.Now)
		defer gs.close()
		g, err := gs.get(t.Context(), alice, "prod", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		f, ctx := newFlight()
		if err := g.begin(f, time.Now()); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * grantIdle) // on synctest's clock
		gs.sweep()
		synctest.Wait()
		if gs.len() != 1 {
			t.Error("a grant with a request under way was taken for idle")
		}
		g.finish(f)
		gs.sweep()
		synctest.Wait()
		if gs.len() != 0 {
			t.Error("an idle grant is still watched")
		}
		if ctx.Err() != nil {
			t.Error("the request was cancelled")
		}
	})
}

func TestTheEndOfARightCutsItsRequestsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &fakeAuth{}
		gs := newGrants(auth, time.Now)
		defer gs.close()
		mine, _ := gs.get(t.Context(), alice, "prod", "", nil)
		right := auth.right
		auth.right = nil
		other, _ := gs.get(t.Context(), Identity{"bob", "s2"}, "prod", "", nil)
		f1, ctx1 := newFlight()
		f2, ctx2 := newFlight()
		if err := errors.Join(mine.begin(f1, time.Now()), other.begin(f2, time.Now())); err != nil {
			t.Fatal(err)
		}
		why := api.Errorf(api.CodeUnauthenticated, "the user was deleted")
		right.lose(why)
		synctest.Wait()
		if !errors.Is(context.Cause(ctx1), why) || !errors.Is(f1.cutReason(), why) || ctx2.Err() != nil {
			t.Errorf("mine %v, other %v", context.Cause(ctx1), ctx2.Err())
		}
		late, _ := newFlight()
		if err := mine.begin(late, time.Now()); !errors.Is(err, why) {
			t.Errorf("a request began on a lost right: %v", err)
		}
		mine.finish(f1)
		other.finish(f2)
	})
}

func TestExpiryIsJudgedByTheClockToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		offset := time.Duration(0)
		var mu sync.Mutex
		clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(offset) }
		auth := &fakeAuth{}
		end := time.Now().Add(time.Hour)
		auth.decide = func(id Identity, _, _ string, _ []string) (Decision, error) {
			return Decision{ImpersonateUser: id.User, ImpersonateGroups: []string{"g"}, Expires: end, Right: newRight()}, nil
		}
		gs := newGrants(auth, clock)
		defer gs.close()
		g, err := gs.get(t.Context(), alice, "prod", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		f, ctx := newFlight()
		_ = g.begin(f, clock())
		mu.Lock()
		offset = 2 * time.Hour // somebody set the clock
		mu.Unlock()
		if _, err := gs.get(t.Context(), alice, "prod", "", nil); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("an expired session was let in: %v", err)
		}
		gs.sweep()
		if ctx.Err() == nil {
			t.Error("the request goes on")
		}
		g.finish(f)
	})
}

func TestWatchersAreNotLeftWhenClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &fakeAuth{}
		gs := newGrants(auth, time.Now)
		if _, err := gs.get(t.Context(), alice, "prod", "", nil); err != nil {
			t.Fatal(err)
		}
		gs.close() // synctest fails if a goroutine is left
		if _, err := gs.get(t.Context(), alice, "dev", "", nil); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("a grant was made after close: %v", err)
		}
	})
}

func TestManyAtOnceShareOneGrant(t *testing.T) {
	auth := &fakeAuth{}
	gs := newGrants(auth, time.Now)
	defer gs.close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				g, err := gs.get(t.Context(), alice, "prod", "", nil)
				if err != nil {
					t.Error(err)
					return
				}
				f, _ := newFlight()
				if g.begin(f, time.Now()) == nil {
					g.finish(f)
				}
			}
		})
	}
	wg.Wait()
	if gs.len() != 1 {
		t.Errorf("%d grants", gs.len())
	}
}
