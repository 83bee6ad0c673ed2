package tunnel

import (
	"fmt"
	"testing"
)

// An agent whose load balancer leads it to a replica where it has a tunnel already
// closes the one that came later. No request may be lost in that one.
func TestATunnelThatHasJustComeTakesNothingFromAnOlderOne(t *testing.T) {
	all := startReplicas(t, "a", "b")
	holder, other := all[0], all[1]
	holder.dial(t, agentID(1), "cookie")
	other.knows(t, agentID(1), "a")
	for i := range 3 {
		second := holder.connect(t, agentID(1))
		second.hello(t, "cookie")
		second.hear(t, "welcome", isWelcome)
		for _, r := range all { // which the second would not answer
			if got, want := r.get(t, "cookie", "/x"), "1 cookie /x "; got != want {
				t.Errorf("%d: through %s: %q, want %q", i, r.id, got, want)
			}
		}
		second.close()
	}
}

// With all but one tunnel found dead, a peer's request takes that one.
func TestAPeersStreamTakesWhicheverTunnelIsAlive(t *testing.T) {
	all := startReplicas(t, "a", "b")
	holder, other := all[0], all[1]
	alive := holder.dial(t, agentID(1), "cookie")
	dead := holder.dial(t, agentID(1), "cookie")
	other.knows(t, agentID(1), "a")
	holder.mu.Lock()
	tunnels := holder.own[agentID(1)].tunnels
	newest := tunnels[1]
	newest.second = newest.second.Add(-2 * probation)
	holder.mu.Unlock()
	if got := holder.ownTunnels(agentID(1)); len(got) != 2 || got[0] != newest {
		t.Errorf("the newest is not the first of %d", len(got))
	}
	_ = newest.sess.Close() // and nobody has noticed yet
	for i := range 3 {
		if got := other.get(t, "cookie", fmt.Sprint("/", i)); got != fmt.Sprintf("1 cookie /%d ", i) {
			t.Errorf("got %q", got)
		}
	}
	alive.close()
	dead.close()
}
