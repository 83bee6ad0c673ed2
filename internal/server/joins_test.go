package server

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Who joined is in the log of the replica, and strangers can't fill it.
func TestJoins_areToldByTheLogAndCounted(t *testing.T) {
	var log strings.Builder
	now := time.Unix(1_000_000, 0)
	j := newJoins(slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now }, func(id string) (api.Agent, error) {
		return api.Agent{ID: id, Name: "pod-0", KubeClusters: []string{"cookie"}, Token: "0011223344556677"}, nil
	})
	said := func() string { defer log.Reset(); return log.String() }
	from := netip.MustParseAddr("192.0.2.7")
	j.joined(from, &api.JoinResponse{AgentID: agentID}, nil)
	if got := said(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `level=INFO msg="an agent joined" agent=`+agentID+` remote=192.0.2.7 name=pod-0 kube_clusters=[cookie] token=0011223344556677`) {
		t.Errorf("a join: %s", got)
	}
	for range 1000 {
		j.joined(from, nil, api.Errorf(api.CodeUnauthenticated, "the token is not known"))
	}
	if got := said(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `level=WARN msg="joins were refused: the last one showed no token that is known" count=1 remote=192.0.2.7`) {
		t.Errorf("guesses: %s", got)
	}
	now = now.Add(refusalsEvery)
	j.joined(from, nil, api.Errorf(api.CodeForbidden, "the token is not for Kubernetes cluster \"x\""))
	if got := said(); !strings.Contains(got, `msg="joins were refused" count=1000 remote=192.0.2.7 error="the token is not for`) {
		t.Errorf("a minute later: %s", got)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(j.counts)
	families, err := r.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(families, err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if diff := cmp.Diff(map[string]float64{"joined": 1, "unauthenticated": 1000, "forbidden": 1}, got); diff != "" {
		t.Errorf("sallyport_joins_total (-want +got):\n%s", diff)
	}
}
