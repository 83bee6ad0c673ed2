package server

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// refusalsEvery is how often the log tells of joins that were refused: strangers cause
// them.
const refusalsEvery = time.Minute

// joins tells the log and the metrics who joins.
type joins struct {
	log    *slog.Logger
	clock  func() time.Time
	agent  func(id string) (api.Agent, error)
	counts *prometheus.CounterVec

	mu      sync.Mutex
	last    time.Time // when the log was told
	refused int       // since then
}

func newJoins(log *slog.Logger, clock func() time.Time, agent func(id string) (api.Agent, error)) *joins {
	return &joins{log: log, clock: clock, agent: agent, counts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_joins_total",
		Help: "Agents that joined at this replica, by outcome: joined, or the code of the refusal (unauthenticated: no token that is known).",
	}, []string{"outcome"})}
}

// joined is an authapi.Options.Joined.
func (j *joins) joined(addr netip.Addr, resp *api.JoinResponse, err error) {
	if err != nil {
		code := api.CodeOf(err)
		j.counts.WithLabelValues(string(code)).Inc()
		j.refuse(addr, code, err)
		return
	}
	j.counts.WithLabelValues("joined").Inc()
	who := []any{"agent", resp.AgentID, "remote", addr}
	if a, err := j.agent(resp.AgentID); err == nil { // else removed already
		who = append(who, "name", a.Name, "kube_clusters", a.KubeClusters, "token", a.Token)
	}
	j.log.Info("an agent joined", who...)
}

// refuse tells the log of the first refusal, then of how many there were.
func (j *joins) refuse(addr netip.Addr, code api.Code, err error) {
	j.mu.Lock()
	j.refused++
	n, now := j.refused, j.clock()
	due := j.last.IsZero() || now.Sub(j.last).Abs() >= refusalsEvery
	if due {
		j.last, j.refused = now, 0
	}
	j.mu.Unlock()
	if !due {
		return
	}
	if code == api.CodeUnauthenticated {
		j.log.Warn("joins were refused: the last one showed no token that is known", "count", n, "remote", addr)
		return
	}
	j.log.Warn("joins were refused", "count", n, "remote", addr, "error", err)
}
