package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxChain bounds the certificates looked at of what a server presents.
const maxChain = 10

// Authority is a CA as a server presents it. That alone proves nothing: whoever
// is on the way can present one of his own.
type Authority struct {
	Pin     string
	Subject string
}

// AuthorityError says that a server's certificate is good for its name but
// signed by an authority that nothing here vouches for. The connection was ended
// before anything was sent.
type AuthorityError struct {
	Addr      string
	Pinned    string     // the pin that was asked for; "": the system's roots were
	Presented *Authority // nil: the server presents no authority that signed it
}

func (e *AuthorityError) Error() string {
	if e.Pinned == "" {
		return fmt.Sprintf("the certificate of %s is signed by an authority this machine does not know", e.Addr)
	}
	if e.Presented == nil {
		return fmt.Sprintf("%s shows no certificate of the authority %s that was pinned: nothing was sent to it", e.Addr, e.Pinned)
	}
	return fmt.Sprintf("the authority of %s is another than the one pinned: nothing was sent to it; pinned: %s, now: %s", e.Addr, e.Pinned, e.Presented.Pin)
}

// verifyPin makes a check of the connection that accepts one authority alone.
// The pin stands for the key, so a renewed certificate of the same authority is
// accepted, and a leaf that is itself pinned.
func verifyPin(addr, host, pin string) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		chain := cs.PeerCertificates
		for _, cert := range chain[:min(len(chain), maxChain)] {
			if api.Pin(cert) != pin {
				continue
			}
			if err := verifyChain(chain, cert, host); !is[x509.UnknownAuthorityError](err) {
				return err
			}
			// Anyone can show a certificate of the authority beside one it did not sign.
		}
		return &AuthorityError{Addr: addr, Pinned: pin, Presented: presented(chain, host)}
	}
}

// verifyChain verifies what a server shows as if root were the only authority.
func verifyChain(chain []*x509.Certificate, root *x509.Certificate, host string) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: host}
	opts.Roots.AddCert(root)
	for _, cert := range chain[1:min(len(chain), maxChain)] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// presented is the topmost authority of the chain, if it signed itself and its
// signature leads down to a leaf that is good for the host.
func presented(chain []*x509.Certificate, host string) *Authority {
	for _, cert := range chain[:min(len(chain), maxChain)] {
		if !isRoot(cert) || verifyChain(chain, cert, host) != nil {
			continue
		}
		return &Authority{Pin: api.Pin(cert), Subject: cert.Subject.String()}
	}
	return nil
}

func isRoot(cert *x509.Certificate) bool {
	return string(cert.RawIssuer) == string(cert.RawSubject) && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// asAuthorityError finds out whether err is about the authority alone.
func asAuthorityError(addr, host string, err error) (*AuthorityError, bool) {
	if e, ok := errors.AsType[*AuthorityError](err); ok {
		return e, true
	}
	if !is[x509.UnknownAuthorityError](err) {
		return nil, false
	}
	e := &AuthorityError{Addr: addr}
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(v.UnverifiedCertificates) > 0 {
		e.Presented = presented(v.UnverifiedCertificates, host)
	}
	return e, true
}
