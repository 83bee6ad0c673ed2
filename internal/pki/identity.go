package pki

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	sessionScheme   = "sallyport"
	sessionPath     = "/session/"
	minSessionIDLen = 32 // hex digits: 16 random bytes
	maxSessionIDLen = 64
)

// UserIdentity is what a user certificate says. It grants nothing: the session
// it names does, while it lives.
type UserIdentity struct{ User, SessionID, ClusterName string }

func (id UserIdentity) uri() *url.URL {
	return &url.URL{Scheme: sessionScheme, Host: id.ClusterName, Path: sessionPath + id.SessionID}
}

func (id UserIdentity) validate(clusterName string) error {
	if id.ClusterName != clusterName {
		return fmt.Errorf("identity of cluster %q, want %q", id.ClusterName, clusterName)
	}
	if err := api.ValidateName("user", id.User); err != nil {
		return err
	}
	if !ValidSessionID(id.SessionID) {
		return fmt.Errorf("session id: want %d to %d lower-case hex digits", minSessionIDLen, maxSessionIDLen)
	}
	return nil
}

// ValidSessionID reports whether id has the shape of a session's id: 16 to 32
// bytes in lower-case hex.
func ValidSessionID(id string) bool {
	if len(id) < minSessionIDLen || len(id) > maxSessionIDLen || strings.ToLower(id) != id {
		return false
	}
	_, err := hex.DecodeString(id)
	return err == nil
}

// VerifyUser says who shows these certificates: exactly one, signed directly by
// one of the user CAs, valid now, and accepted by ParseUser. TLS stacks that
// verify for themselves call it too: which pool verified decides the role, and
// this is the one place that holds both.
func VerifyUser(peer, userCAs []*x509.Certificate, clusterName string, now time.Time) (UserIdentity, error) {
	if len(peer) != 1 {
		return UserIdentity{}, fmt.Errorf("%d client certificates, want exactly one", len(peer))
	}
	roots := x509.NewCertPool()
	for _, ca := range userCAs {
		if err := checkAuthorityCert(ca, UserCA, clusterName); err != nil {
			return UserIdentity{}, err
		}
		roots.AddCert(ca)
	}
	chains, err := peer[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(), // none: no CA stands between ours and a leaf
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return UserIdentity{}, fmt.Errorf("client certificate: %w", err)
	}
	for _, chain := range chains {
		if len(chain) != 2 {
			return UserIdentity{}, errors.New("client certificate: not signed directly by the user CA")
		}
	}
	return ParseUser(peer[0], clusterName)
}

// ParseUser reads the identity of a certificate that the user CA verified. It
// is strict: whatever SignUser would not have written is refused, so that a
// certificate has one reading only.
func ParseUser(cert *x509.Certificate, clusterName string) (UserIdentity, error) {
	fail := func(format string, args ...any) (UserIdentity, error) {
		return UserIdentity{}, fmt.Errorf("client certificate: "+format, args...)
	}
	if cert == nil {
		return fail("none")
	}
	if err := checkMarker(cert, UserCA); err != nil {
		return fail("%w", err)
	}
	switch {
	case cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return fail("it is a CA's, or has no constraints")
	case len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(cert.UnknownExtKeyUsage) > 0:
		return fail("it is not for client authentication alone")
	case len(cert.UnhandledCriticalExtensions) > 0:
		return fail("it has a critical extension that is not ours")
	case len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || len(cert.URIs) != 1:
		return fail("its alternative names are not one session URI")
	case cert.Issuer.CommonName != clusterName || len(cert.Issuer.OrganizationalUnit) != 1 || cert.Issuer.OrganizationalUnit[0] != string(UserCA):
		return fail("its issuer is not the user CA of %s", clusterName)
	case len(cert.Subject.Names) != 1:
		return fail("its subject is not one common name")
	}
	uri := cert.URIs[0]
	id := UserIdentity{
		User:        cert.Subject.CommonName,
		SessionID:   strings.TrimPrefix(uri.Path, sessionPath),
		ClusterName: uri.Host,
	}
	if err := id.validate(clusterName); err != nil {
		return fail("%w", err)
	}
	if *uri != *id.uri() { // no user info, query, fragment, escaping or other spelling
		return fail("its session URI is malformed")
	}
	return id, nil
}
