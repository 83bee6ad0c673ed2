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
	uriScheme       = "sallyport"
	sessionPath     = "/session/"
	minSessionIDLen = 32 // hex digits: 16 random bytes
	maxSessionIDLen = 64
	signedIDLen     = 2 * SignedSessionIDBytes
)

// SignedSessionIDBytes is how long the ids of sessions are that nobody logged in for
// ('tctl auth sign'); others are shorter. So a certificate says by itself what it is, when
// nothing else is left of its session.
const SignedSessionIDBytes = 20

// UserIdentity is what a user certificate says. It grants nothing: the session
// it names does, while it lives.
type UserIdentity struct{ User, SessionID, ClusterName string }

func (id UserIdentity) uri() *url.URL {
	return &url.URL{Scheme: uriScheme, Host: id.ClusterName, Path: sessionPath + id.SessionID}
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

// SignedSessionID reports whether an id is that of a session that nobody logged in for.
func SignedSessionID(id string) bool { return len(id) == signedIDLen && ValidSessionID(id) }

// VerifyUser says who shows these certificates: exactly one, signed directly by
// one of the user CAs, valid now, and accepted by ParseUser. TLS stacks that
// verify for themselves call it too: which pool verified decides the role, and
// this is the one place that holds both.
func VerifyUser(peer, userCAs []*x509.Certificate, clusterName string, now time.Time) (UserIdentity, error) {
	if err := verifyClient(UserCA, peer, userCAs, clusterName, now); err != nil {
		return UserIdentity{}, err
	}
	return ParseUser(peer[0], clusterName)
}

// verifyClient wants exactly one certificate, signed directly by one of the
// authorities, which are of that type and cluster, and valid now.
func verifyClient(typ CAType, peer, cas []*x509.Certificate, clusterName string, now time.Time) error {
	if len(peer) != 1 {
		return fmt.Errorf("%d client certificates, want exactly one", len(peer))
	}
	roots := x509.NewCertPool()
	for _, ca := range cas {
		if err := checkAuthorityCert(ca, typ, clusterName); err != nil {
			return err
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
		return fmt.Errorf("client certificate: %w", err)
	}
	for _, chain := range chains {
		if len(chain) != 2 {
			return fmt.Errorf("client certificate: not signed directly by the %s CA", typ)
		}
	}
	return nil
}

// ParseUser reads the identity of a certificate that the user CA verified. It
// is strict: whatever SignUser would not have written is refused, so that a
// certificate has one reading only.
func ParseUser(cert *x509.Certificate, clusterName string) (UserIdentity, error) {
	uri, err := clientURI(UserCA, cert, clusterName)
	if err != nil {
		return UserIdentity{}, err
	}
	id := UserIdentity{
		User:        cert.Subject.CommonName,
		SessionID:   strings.TrimPrefix(uri.Path, sessionPath),
		ClusterName: uri.Host,
	}
	if err := id.validate(clusterName); err != nil {
		return UserIdentity{}, fmt.Errorf("client certificate: %w", err)
	}
	if *uri != *id.uri() { // no user info, query, fragment, escaping or other spelling
		return UserIdentity{}, errors.New("client certificate: its session URI is malformed")
	}
	return id, nil
}

// clientURI checks what client certificates of all types have in common, and
// gives the one URI, which names the identity.
func clientURI(typ CAType, cert *x509.Certificate, clusterName string) (*url.URL, error) {
	fail := func(format string, args ...any) (*url.URL, error) {
		return nil, fmt.Errorf("client certificate: "+format, args...)
	}
	if cert == nil {
		return fail("none")
	}
	if err := checkMarker(cert, typ); err != nil {
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
		return fail("its alternative names are not one URI")
	case cert.Issuer.CommonName != clusterName || len(cert.Issuer.OrganizationalUnit) != 1 || cert.Issuer.OrganizationalUnit[0] != string(typ):
		return fail("its issuer is not the %s CA of %s", typ, clusterName)
	case len(cert.Subject.Names) != 1:
		return fail("its subject is not one common name")
	}
	return cert.URIs[0], nil
}
