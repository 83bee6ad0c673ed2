package proxy

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests per Kubernetes cluster. Labels are names that Targets
// knew, never what a client sent.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.GaugeFunc
	streams  prometheus.Gauge
	cut      prometheus.Counter
	grants   prometheus.GaugeFunc

	perKube sync.Map // string: *kubeMetrics; spares the hot path the hashing of labels
}

type kubeMetrics struct {
	byClass  [6]prometheus.Counter // [2] is 2xx
	duration prometheus.Observer
}

func newMetrics(inFlight, grants func() float64) *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_kube_requests_total",
			Help: "Requests to Kubernetes clusters by class of the status answered.",
		}, []string{"kube_cluster", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sallyport_kube_request_duration_seconds",
			Help:    "Time from a request to the first byte of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"kube_cluster"}),
		inFlight: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_kube_requests_in_flight",
			Help: "Requests under way, watches and upgraded streams with them.",
		}, inFlight),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_kube_streams",
			Help: "Upgraded streams (exec, attach, port-forward) under way.",
		}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_kube_requests_cut_total",
			Help: "Requests ended before their time because the right to them was lost.",
		}),
		grants: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_kube_grants",
			Help: "Decisions kept, one per session, cluster and identity in recent use.",
		}, grants),
	}
}

func (m *metrics) each(fn func(prometheus.Collector)) {
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.inFlight, m.streams, m.cut, m.grants} {
		fn(c)
	}
}

// kube is the counters of a cluster; "" for requests that reached none.
func (m *metrics) kube(name string) *kubeMetrics {
	if km, ok := m.perKube.Load(name); ok {
		return km.(*kubeMetrics)
	}
	km := &kubeMetrics{duration: m.duration.WithLabelValues(name)}
	for i, class := range []string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"} {
		km.byClass[i] = m.requests.WithLabelValues(name, class)
	}
	actual, _ := m.perKube.LoadOrStore(name, km)
	return actual.(*kubeMetrics)
}

func (km *kubeMetrics) count(status int) {
	class := status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	km.byClass[class].Inc()
}

// Describe implements prometheus.Collector.
func (h *Handler) Describe(ch chan<- *prometheus.Desc) {
	h.metrics.each(func(c prometheus.Collector) { c.Describe(ch) })
}

// Collect implements prometheus.Collector.
func (h *Handler) Collect(ch chan<- prometheus.Metric) {
	h.metrics.each(func(c prometheus.Collector) { c.Collect(ch) })
}
