package tunnel

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/splice"
)

// metrics count what the tunnels of this replica do. Labels are words of ours.
type metrics struct {
	requests *prometheus.CounterVec
	own, hop prometheus.Counter // of requests
	retries  prometheus.Counter
	refused  *prometheus.CounterVec
	gauges   []prometheus.Collector

	streams atomic.Int64 // open to agents, by requests of this replica
	spliced atomic.Int64 // carried for peers
	buffers *splice.Pools
}

func newMetrics(t *Tunnels) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_tunnel_requests_total",
			Help: "Requests sent over tunnels, tries after a failed one with them, by route: own tunnel, or one hop to a replica that has one.",
		}, []string{"route"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_tunnel_retries_total",
			Help: "Requests that went to another tunnel because the first was dead.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_tunnel_refused_total",
			Help: "Agents that were refused a tunnel, by reason.",
		}, []string{"reason"}),
		buffers: splice.NewPools(),
	}
	m.own, m.hop = m.requests.WithLabelValues("own"), m.requests.WithLabelValues("hop")
	gauge := func(name, help string, value func() int64) {
		m.gauges = append(m.gauges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	gauge("sallyport_tunnels", "Tunnels that agents hold to this replica.", func() int64 {
		t.mu.RLock()
		defer t.mu.RUnlock()
		return int64(len(t.ownTunnelsLocked()))
	})
	gauge("sallyport_tunnel_links", "Links to other replicas that are up.", func() int64 {
		t.mu.RLock()
		defer t.mu.RUnlock()
		return int64(len(t.peers.links))
	})
	gauge("sallyport_tunnel_streams", "Streams that requests of this replica have open to agents, idle ones with them.", m.streams.Load)
	gauge("sallyport_tunnel_spliced_streams", "Streams carried for other replicas to agents here.", m.spliced.Load)
	return m
}

func (m *metrics) refuse(reason string) { m.refused.WithLabelValues(reason).Inc() }

func (m *metrics) each(fn func(prometheus.Collector)) {
	for _, c := range append([]prometheus.Collector{m.requests, m.retries, m.refused}, m.gauges...) {
		fn(c)
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.each(func(c prometheus.Collector) { c.Describe(ch) })
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.each(func(c prometheus.Collector) { c.Collect(ch) })
}
