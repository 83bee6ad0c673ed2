package server

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Of several certificates an alert is for the one that ends first, and for none that isn't
// there.
func TestExpiryMetricIsOfTheCertificateThatEndsFirst(t *testing.T) {
	t.Parallel()
	const name = "sallyport_certificate_expiry_timestamp_seconds"
	at := func(second int64) api.WebCertificate {
		return api.WebCertificate{Source: api.CertificateACME, NotAfter: time.Unix(second, 0)}
	}
	for what, c := range map[string]struct {
		all  []api.WebCertificate
		want int64 // 0: none
	}{
		"one":              {[]api.WebCertificate{at(7)}, 7},
		"the second":       {[]api.WebCertificate{at(9), at(8)}, 8},
		"none":             {[]api.WebCertificate{{Source: api.CertificateACME}}, 0},
		"the one there is": {[]api.WebCertificate{{Source: api.CertificateACME}, at(5)}, 5},
	} {
		collector := &certificateCollector{func() (*api.WebCertificate, []api.WebCertificate) { return &c.all[0], c.all },
			prometheus.NewDesc(name, "When.", []string{"source"}, nil)}
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(collector)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var got int64
		for _, f := range families {
			got = int64(f.GetMetric()[0].GetGauge().GetValue())
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
}
