package server

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// certificateStatuses say what the web names show, and each by itself if they are
// ordered one by one; nil: nothing yet.
func (s *Server) certificateStatuses() (*api.WebCertificate, []api.WebCertificate) {
	if s.web.file.Load() == nil && s.web.acme != nil {
		all := s.web.acme.Statuses()
		return &all[0], all
	}
	return s.certificateStatus(), nil
}

// certificateStatus is of a certificate that is not by ACME.
func (s *Server) certificateStatus() *api.WebCertificate {
	if f := s.web.file.Load(); f != nil {
		cert, err := f.load()
		if err != nil {
			return &api.WebCertificate{Source: api.CertificateFile, State: api.CertificateExpired, LastError: err.Error()}
		}
		out := s.describe(api.CertificateFile, cert)
		if problem, at := f.problem(); problem != nil {
			out.LastError, out.LastErrorAt = problem.Error(), at.UTC()
		}
		return out
	}
	cert, err := s.hostCertificate(s.opts.ClusterName)
	if err != nil {
		return nil // the CAs are yet to be made, and status says so
	}
	out := s.describe(api.CertificateHostCA, cert)
	// Replicas sign it anew by themselves for as long as they have the CA.
	if cas, err := s.auth.Authorities.States(); err == nil {
		for _, ca := range cas {
			if ca.Type == "host" {
				out.NotAfter, out.State = ca.Expires, s.stateOf(ca.Expires)
			}
		}
	}
	return out
}

func (s *Server) describe(source string, cert *tls.Certificate) *api.WebCertificate {
	out := &api.WebCertificate{Source: source, State: api.CertificateValid}
	leaf := cert.Leaf
	if leaf == nil && len(cert.Certificate) > 0 {
		leaf, _ = x509.ParseCertificate(cert.Certificate[0])
	}
	if leaf == nil {
		return out
	}
	out.Names, out.Issuer, out.NotAfter, out.State = leaf.DNSNames, leaf.Issuer.CommonName, leaf.NotAfter.UTC(), s.stateOf(leaf.NotAfter)
	for _, ip := range leaf.IPAddresses {
		out.Names = append(out.Names, ip.String())
	}
	return out
}

func (s *Server) stateOf(notAfter time.Time) string {
	if s.opts.Clock().After(notAfter) {
		return api.CertificateExpired
	}
	return api.CertificateValid
}

// certificateCollector shows when the certificate of the web name ends, and of several the
// first of them.
type certificateCollector struct {
	status func() (*api.WebCertificate, []api.WebCertificate)
	desc   *prometheus.Desc
}

func (s *Server) certificateCollector() prometheus.Collector {
	return &certificateCollector{s.certificateStatuses, prometheus.NewDesc("sallyport_certificate_expiry_timestamp_seconds",
		"When the certificate that the web name shows ends.", []string{"source"}, nil)}
}

func (c *certificateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *certificateCollector) Collect(ch chan<- prometheus.Metric) {
	is, all := c.status()
	for i := range all {
		if !all[i].NotAfter.IsZero() && (is.NotAfter.IsZero() || all[i].NotAfter.Before(is.NotAfter)) {
			is = &all[i]
		}
	}
	if is != nil && !is.NotAfter.IsZero() {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(is.NotAfter.Unix()), is.Source)
	}
}
