package acme

import (
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Statuses say how things are with the certificates, one for each name; first the one
// that users type, but those that nobody has asked for last. They are read from the store, so that every replica says the same.
func (m *Certificates) Statuses() []api.WebCertificate {
	var asked, unasked []api.WebCertificate
	for _, s := range slices.Backward(m.subjects) {
		if st := m.statusOf(s); st.State == api.CertificateNone {
			unasked = append(unasked, st)
		} else {
			asked = append(asked, st)
		}
	}
	return slices.Concat(asked, unasked)
}

func (m *Certificates) statusOf(s *subject) api.WebCertificate {
	now, a := m.clock(), m.attemptsOf(s.name)
	st := api.WebCertificate{
		Source: api.CertificateACME, State: api.CertificateNone, Names: []string{s.name}, Directory: m.directory,
		OrderedBy: a.By, LastError: a.Error, LastErrorAt: a.ErrorAt, Refused: a.Refused != "", Failures: a.Failures,
	}
	if a.backingOff(now) {
		st.NextTry = a.NextTry
	}
	h := s.current.Load()
	if h != nil {
		st.Issuer, st.NotAfter, st.RenewAfter = h.cert.Leaf.Issuer.CommonName, h.notAfter, h.renewAt
	}
	s.mu.Lock()
	if errors.Is(s.refused, errClock) { // this replica alone
		st.LastError, st.LastErrorAt = s.refused.Error(), s.refusal
	}
	s.mu.Unlock()
	switch {
	case h != nil && now.Before(h.notAfter):
		st.State = api.CertificateValid
	case !a.Ordering.IsZero() && now.Before(a.Ordering.Add(orderTimeout)): // else who ordered has died
		st.State = api.CertificateOrdering
	case h != nil:
		st.State = api.CertificateExpired
	case a.Error != "":
		st.State = api.CertificateFailing
	}
	return st
}

// Collector returns the metrics of renewals, which come from the store, and of orders,
// which are counted by the replica that made them.
func (m *Certificates) Collector() prometheus.Collector {
	return &collector{
		m:      m,
		renew:  prometheus.NewDesc("sallyport_acme_renewal_timestamp_seconds", "When the certificate is due for renewal.", nil, nil),
		orders: prometheus.NewDesc("sallyport_acme_orders_total", "Orders of this replica at the ACME server, by outcome.", []string{"outcome"}, nil),
		fails:  prometheus.NewDesc("sallyport_acme_failures", "Orders of all replicas that failed, since the last that didn't.", nil, nil),
		next:   prometheus.NewDesc("sallyport_acme_next_try_timestamp_seconds", "Until when no replica orders, because orders failed; 0 if nothing is in the way.", nil, nil),
	}
}

type collector struct {
	m                          *Certificates
	renew, orders, fails, next *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.renew, c.orders, c.fails, c.next} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	var renew, next time.Time
	fails := 0
	for _, s := range c.m.subjects {
		st := c.m.statusOf(s)
		if renew.IsZero() || !st.RenewAfter.IsZero() && st.RenewAfter.Before(renew) {
			renew = st.RenewAfter
		}
		next, fails = latest(next, st.NextTry), max(fails, st.Failures)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	if !renew.IsZero() {
		gauge(c.renew, seconds(renew))
	}
	gauge(c.next, seconds(next))
	gauge(c.fails, float64(fails))
	for outcome, n := range map[string]uint64{"issued": c.m.issued.Load(), "failed": c.m.failed.Load()} {
		ch <- prometheus.MustNewConstMetric(c.orders, prometheus.CounterValue, float64(n), outcome)
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
