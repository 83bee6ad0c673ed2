package server

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What became of a trusted peer's PROXY header; labels of a metric.
type proxyOutcome string

const (
	proxyHeader  proxyOutcome = "header"   // taken
	proxyNone    proxyOutcome = "none"     // it may be missing, and was
	proxyMissing proxyOutcome = "missing"  // it may not be missing; refused
	proxyBroken  proxyOutcome = "broken"   // refused
	proxySlow    proxyOutcome = "slow"     // refused
	proxyCrowd   proxyOutcome = "too_many" // refused: no room to wait for it
	proxyGone    proxyOutcome = "gone"     // nothing was said at all: a health check, mostly
)

// proxyTrace tells an administrator what became of PROXY headers. A refused one
// looks like a broken network from outside, and a missing one like nothing at all.
type proxyTrace struct {
	log      *slog.Logger
	now      func() time.Time
	outcomes *prometheus.CounterVec

	mu   sync.Mutex
	told map[toldOf]time.Time
}

type toldOf struct {
	peer    netip.Addr
	refused bool
}

// Of one peer a line a minute, and of so many peers: a trusted network may be a
// large one.
const (
	proxyQuiet     = time.Minute
	proxyPeersTold = 256
)

func newProxyTrace(log *slog.Logger, now func() time.Time) *proxyTrace {
	return &proxyTrace{
		log: log, now: now, told: map[toldOf]time.Time{},
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_proxy_protocol_connections_total",
			Help: "Connections of trusted proxies, by what became of their PROXY header.",
		}, []string{"outcome"}),
	}
}

// note counts an outcome, and tells of it unless that was done just now.
func (t *proxyTrace) note(peer netip.Addr, outcome proxyOutcome, err error) {
	t.outcomes.WithLabelValues(string(outcome)).Inc()
	if outcome == proxyHeader || outcome == proxyGone {
		return
	}
	if !t.due(toldOf{peer, outcome != proxyNone}) {
		return
	}
	if outcome == proxyNone {
		t.log.Info("a trusted proxy sends no PROXY header: all its clients count as one address, in limits and in the audit log", "proxy", peer)
		return
	}
	reason := map[proxyOutcome]string{
		proxyMissing: "it sent no PROXY header, and --proxy-protocol=require demands one",
		proxyBroken:  "its PROXY header is broken, or of something other than TCP",
		proxySlow:    "its PROXY header did not arrive within " + proxyHeaderTime.String(),
		proxyCrowd:   "too many connections have sent no PROXY header yet",
	}[outcome]
	t.log.Warn("a trusted proxy's connection was refused", "proxy", peer, "reason", reason, "error", err)
}

// due says whether to tell of something, which is then told.
func (t *proxyTrace) due(what toldOf) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	recent := func(at time.Time) bool { return now.Sub(at).Abs() < proxyQuiet } // clocks are set back, too
	if at, ok := t.told[what]; ok && recent(at) {
		return false
	}
	if len(t.told) >= proxyPeersTold {
		for k, at := range t.told {
			if !recent(at) {
				delete(t.told, k)
			}
		}
		if len(t.told) >= proxyPeersTold {
			return false // the counter tells of it
		}
	}
	t.told[what] = now
	return true
}
