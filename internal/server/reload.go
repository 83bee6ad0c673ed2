package server

import (
	"crypto/x509"
	"net/netip"
)

// Reload are the options that may change while a replica runs.
type Reload struct {
	CertFile, KeyFile string
	TrustedProxies    []string
}

// Reload puts new options into force, for connections from now on, or changes
// nothing and says why. The certificate is read anew even if its files' names
// are the old ones.
func (s *Server) Reload(r Reload) error {
	opts := s.opts
	opts.CertFile, opts.KeyFile, opts.TrustedProxies = r.CertFile, r.KeyFile, r.TrustedProxies
	if err := opts.checkPublic(); err != nil {
		return err
	}
	cert, err := opts.openCertFile()
	if err != nil {
		return &OptionError{"cert-file", err}
	}
	s.setPublic(opts.trusted, cert)
	return nil
}

// openCertFile reads the certificate of the web name; nil if there are no files.
func (o *Options) openCertFile() (*certFile, error) {
	if o.CertFile == "" {
		return nil, nil
	}
	f := &certFile{cert: o.CertFile, key: o.KeyFile, now: o.Clock}
	if _, err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

func (s *Server) setPublic(trusted []netip.Prefix, cert *certFile) {
	s.trusted.set(trusted)
	s.web.file.Store(cert)
}

// certificates are what the public listeners work with.
func (s *Server) certificates() certificates {
	return certificates{
		now: s.state.Time, host: s.hostCertificate, web: s.web.show, challenge: s.web.challenge,
		clients: func() (*x509.CertPool, error) {
			cas, err := s.auth.Authorities.UserCAs()
			return poolOf(cas), err
		},
	}
}
