package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/sallyport-dev/sallyport/internal/acme"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// leadsHere says whether a name, dialled as users would, leads to a replica of this
// cluster: one that has a certificate of the host CA for the name by which agents
// join. False: somebody else answers. An error: it can't be told, because nobody
// does, which is what a cloud does to those who dial its load balancer from behind it.
func (s *Server) leadsHere(ctx context.Context, name string) (bool, error) {
	_, port, err := net.SplitHostPort(s.opts.PublicAddr)
	if err != nil {
		return false, err
	}
	hosts, err := s.auth.Authorities.HostSigners()
	if err != nil {
		return false, err
	}
	pool := x509.NewCertPool()
	for _, h := range hosts {
		for _, ca := range h.TLSCerts {
			pool.AppendCertsFromPEM(ca)
		}
	}
	return leadsTo(ctx, net.JoinHostPort(name, port), api.JoinServerName(s.opts.ClusterName), pool)
}

// preflight is what is asked before an order; nil: nothing is.
func (s *Server) preflight() func(context.Context, string) (bool, error) {
	if s.opts.ACMEPreflight == ACMEPreflightOff {
		return nil
	}
	return s.leadsHere
}

// leadsTo says whether who answers at an address has a certificate for serverName by
// one of the roots. No proxy is asked: users' connections don't come from one.
func leadsTo(ctx context.Context, addr, serverName string, roots *x509.CertPool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, acme.LeadsHereTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false, err
	}
	defer nc.Close()
	err = tls.Client(nc, &tls.Config{ServerName: serverName, RootCAs: roots, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
	switch {
	case err == nil:
		return true, nil
	case answered(err):
		return false, nil
	}
	return false, fmt.Errorf("TLS with %s: %w", addr, err)
}

// answered says whether a handshake failed by what the other side said, and not by its
// silence.
func answered(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok { // it is no TLS
		return true
	}
	// crypto/tls gives alerts as a network error of such an operation: the other
	// side's, and its own about what the other side sent.
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "local error" || op.Op == "remote error" && op.Err.Error() != internalError.Error())
}

// internalError is the alert of a server that can't answer at the moment. It may be one
// of ours: the only alert that replicas give to this ClientHello.
const internalError = tls.AlertError(80)
