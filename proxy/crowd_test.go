package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// The tunnel of a cluster carries everybody's requests: neither many watches nor many
// identities (--as), nor those replaced by others, give one session more than its part.
func TestOneSessionDoesNotTakeAClusterFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gs := newGrants(&fakeAuth{decide: anybody}, time.Now)
		defer gs.close()
		begin := func(id Identity, kube, as string) (*flight, error) {
			t.Helper()
			g, err := gs.get(t.Context(), id, kube, as, nil)
			if err != nil {
				t.Fatal(err)
			}
			f, _ := newFlight()
			return f, g.begin(f, time.Now())
		}
		var all []*flight
		for i := range maxFlights {
			f, err := begin(alice, "prod", fmt.Sprintf("u%d", i%(3*maxGrants)))
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			all = append(all, f)
		}
		for _, as := range []string{"", "u1", "one-more"} {
			if _, err := begin(alice, "prod", as); !api.IsCode(err, api.CodeRateLimited) || !strings.Contains(err.Error(), `"prod"`) {
				t.Errorf("one too many, as %q: %v", as, err)
			}
		}
		for what, other := range map[string]struct {
			id   Identity
			kube string
		}{"another session": {Identity{"alice", "s2"}, "prod"}, "another cluster": {alice, "dev"}} {
			f, err := begin(other.id, other.kube, "")
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			all = append(all, f)
		}
		all[0].grant.finish(all[0])
		f, err := begin(alice, "prod", "")
		if err != nil {
			t.Fatalf("when one has ended: %v", err)
		}
		for _, f := range append(all[1:], f) {
			f.grant.finish(f)
		}
		<-time.After(2 * grantIdle) // on synctest's clock
		gs.sweep()
		synctest.Wait()
		for i := range gs.shards {
			if n := len(gs.shards[i].crowds); n > 0 {
				t.Errorf("%d counts outlive their grants", n)
			}
		}
	})
}

// client-go waits and tries again when it is told so, and kubectl shows our words.
func TestWhoHasTooMuchUnderWayIsToldWhenToTryAgain(t *testing.T) {
	f := newFixture(t, nil)
	g, err := f.handler.grants.get(t.Context(), alice, "prod", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []*flight
	for range maxFlights {
		fl, _ := newFlight()
		if err := g.begin(fl, time.Now()); err != nil {
			t.Fatal(err)
		}
		all = append(all, fl)
	}
	res, body := f.get("/api/v1/pods")
	wantStatus(t, res, body, http.StatusTooManyRequests, `has 1000 requests to the Kubernetes cluster "prod" under way`)
	var status metav1.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil || res.Header.Get("Retry-After") != "1" ||
		status.Reason != metav1.StatusReasonTooManyRequests || status.Details == nil || status.Details.RetryAfterSeconds != 1 {
		t.Errorf("%v, %v, %s", err, res.Header, body)
	}
	for _, fl := range all {
		g.finish(fl)
	}
	if res, body := f.get("/api/v1/pods"); res.StatusCode != http.StatusOK {
		t.Errorf("when they have ended: %s, %s", res.Status, body)
	}
}
