package server

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Several agents serve one cluster: its labels are those of the one that started last,
// at once, and go with it; one that reaches another API server is not used.
func TestAgents_thatDoNotAgree(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, nil)
	token, err := r.admin(0).AddToken(t.Context(), &api.AddTokenRequest{Roles: []string{api.TokenRoleKube}})
	if err != nil {
		t.Fatal(err)
	}
	start := func(i int, labels map[string]string, ca string) *testAgent {
		return r.startAgent("cookie", r.pinned(i), func(o *agent.Options) {
			o.Token, o.CAPins, o.Labels, o.Clusters[0].CAs = token.Token, token.CAPins, labels, []string{strings.Repeat(ca, 64)}
		})
	}
	// One that comes and goes once more, on a busy machine, has the labels wait for a
	// minute: those of a cluster are written three times at once and no more.
	within := patience + goneAfter + time.Minute
	expect := func(what string, labels map[string]string, health api.Health, reason string) {
		t.Helper()
		for i := range r.run {
			eventually(t, within, fmt.Sprintf("replica %d: %s", i, what), func() error {
				c, err := r.run[i].srv.auth.KubeClusters.Get("cookie")
				if err != nil {
					return err
				}
				if d := cmp.Diff(labels, c.Labels); d != "" {
					return errors.New(d)
				}
				if c.Status == nil || c.Status.Health != health || !strings.Contains(c.Status.Reason, reason) || reason == "" && c.Status.Reason != "" {
					return fmt.Errorf("%+v", c.Status)
				}
				return nil
			})
		}
	}
	prod, dev := map[string]string{"env": "prod"}, map[string]string{"env": "dev"}
	start(0, prod, "a")
	expect("the first", prod, api.HealthHealthy, "")
	last := start(1, dev, "a")
	expect("another", dev, api.HealthHealthy, "different labels")
	last.stop()
	expect("it is gone", prod, api.HealthHealthy, "")
	stray := start(2, dev, "b")
	expect("one of another cluster", prod, api.HealthUnhealthy, "different API servers")
	stray.stop()
	expect("it is gone, too", prod, api.HealthHealthy, "")
}
