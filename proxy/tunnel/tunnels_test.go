package tunnel

import (
	"testing"
)

func TestARequestGoesOverTheOwnTunnelOrOneHop(t *testing.T) {
	all := startReplicas(t, "a", "b", "c")
	all[0].dial(t, agentID(1), "cookie")
	for _, r := range all {
		r.knows(t, agentID(1), "a")
		if got, want := r.get(t, "cookie", "/version?x=1"), "1 cookie /version?x=1 "; got != want {
			t.Errorf("through %s: %q, want %q", r.id, got, want)
		}
	}
}
