package agent

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// diagServer serves the diagnostics port. It has no secrets to show and asks
// nobody who they are.
func (a *Agent) diagServer() *http.Server {
	reg := prometheus.NewRegistry()
	reg.MustRegister(a.Collector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok") // a restart mends no tunnel: it is tried again anyway
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ok, reason := a.Ready(); !ok {
			http.Error(w, "not ready: "+reason, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
}

// Collector gives the agent's metrics.
func (a *Agent) Collector() prometheus.Collector { return collector{a} }

type collector struct{ *Agent }

// Describe implements prometheus.Collector: which series there are shows with time.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	send := func(name, help string, kind prometheus.ValueType, v float64, labels, values []string) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("sallyport_agent_"+name, help, labels, nil), kind, v, values...)
	}
	c.mu.Lock()
	tunnels, expires := len(c.open), c.expires
	c.mu.Unlock()
	send("tunnels", "Tunnels to replicas that are up.", prometheus.GaugeValue, float64(tunnels), nil, nil)
	send("reconnects_total", "Tunnels that ended before another had taken their place.", prometheus.CounterValue, float64(c.lost.Load()), nil, nil)
	if !expires.IsZero() {
		send("certificate_expiry_timestamp_seconds", "When the agent's certificate expires.", prometheus.GaugeValue, float64(expires.Unix()), nil, nil)
	}
	for _, k := range c.clusters {
		k.mu.Lock()
		is := k.said.Health
		k.mu.Unlock()
		for _, each := range []api.Health{api.HealthHealthy, api.HealthUnhealthy, api.HealthUnknown} {
			value := 0.0
			if each == is {
				value = 1
			}
			send("cluster_health", "1 for what the last probes of the API server say of it; unknown: it was not asked yet, or does not say enough.",
				prometheus.GaugeValue, value, []string{"kube_cluster", "health"}, []string{k.name, string(each)})
		}
		for class := range k.requests {
			code := strconv.Itoa(class) + "xx"
			if class == 0 {
				code = "refused"
			}
			send("requests_total", "Requests by the class of the answer's status; refused: the agent passed them on to nobody.",
				prometheus.CounterValue, float64(k.requests[class].Load()), []string{"kube_cluster", "code"}, []string{k.name, code})
		}
	}
}
