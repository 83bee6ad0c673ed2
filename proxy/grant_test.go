package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
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

func TestOrderAndRepeatsOfGroupsMakeNoOtherGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &fakeAuth{decide: anybody}
		gs := newGrants(auth, time.Now)
		defer gs.close()
		var first *grant
		for _, groups := range [][]string{{"a", "b"}, {"b", "a"}, {"a", "b", "a"}, {"b", "b", "a", "a"}} {
			asked := fmt.Sprint(groups)
			g, err := gs.get(t.Context(), alice, "prod", "", groups)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = g
			}
			if g != first || fmt.Sprint(groups) != asked {
				t.Errorf("%s made another grant, or was changed to %v", asked, groups)
			}
		}
		if other, err := gs.get(t.Context(), alice, "prod", "", []string{"a"}); err != nil || other == first {
			t.Error("another set of groups shares the grant", err)
		}
	})
}

// anybody lets everybody be whoever they ask to be, for as long as they like.
func anybody(id Identity, _, asUser string, asGroups []string) (Decision, error) {
	return Decision{ImpersonateUser: id.User + asUser, ImpersonateGroups: append([]string{"g"}, asGroups...), Right: newRight()}, nil
}

func TestGrantsOfASessionAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gs := newGrants(&fakeAuth{decide: anybody}, time.Now)
		defer gs.close()
		get := func(as string) *grant {
			t.Helper()
			g, err := gs.get(t.Context(), alice, "prod", as, nil)
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Millisecond) // on synctest's clock: one is older than the other
			return g
		}
		other, err := gs.get(t.Context(), Identity{"bob", "s2"}, "prod", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		oldest := get("first")
		busy := get("busy")
		f, ctx := newFlight()
		if err := busy.begin(f, time.Now()); err != nil {
			t.Fatal(err)
		}
		before := runtime.NumGoroutine()
		for i := range 1000 {
			get(fmt.Sprint("user", i))
		}
		synctest.Wait()
		if n := gs.len(); n > maxGrants+2 { // the busy one and bob's are watched on
			t.Errorf("%d grants after a thousand names", n)
		}
		if n := runtime.NumGoroutine() - before; n > 2*maxGrants {
			t.Errorf("%d goroutines more", n)
		}
		if late, _ := newFlight(); oldest.begin(late, time.Now()) == nil {
			t.Error("a request began on a grant that nobody watches")
		}
		if ctx.Err() != nil {
			t.Error("the request under way was cut")
		}
		busy.decision.Right.(*fakeRight).lose(api.Errorf(api.CodeUnauthenticated, "the user was deleted"))
		synctest.Wait()
		if ctx.Err() == nil {
			t.Error("a request on a retired grant is not cut any more when its right ends")
		}
		busy.finish(f)
		if again, err := gs.get(t.Context(), Identity{"bob", "s2"}, "prod", "", nil); err != nil || again != other {
			t.Error("one session's grants pushed out another's", err)
		}
		for i := range gs.shards {
			if sh := &gs.shards[i]; len(sh.sessions["s1"]) > maxGrants {
				t.Errorf("%d grants are remembered for the session", len(sh.sessions["s1"]))
			}
		}
	})
}
