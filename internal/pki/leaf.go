package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	minRSABits      = 2048
	maxRSABits      = 8192 // above, verifying is a way to burn our CPU
	maxPublicKeyDER = 2048
)

// ParsePublicKey reads a client's public key (PKIX, DER). A signing request is
// not accepted: its subject and extensions would only be ignored.
func ParsePublicKey(der []byte) (crypto.PublicKey, error) {
	if len(der) == 0 || len(der) > maxPublicKeyDER {
		return nil, api.Errorf(api.CodeInvalid, "public key: %d bytes, want 1 to %d", len(der), maxPublicKeyDER)
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "public key: not a PKIX public key in DER")
	}
	return pub, checkPublicKey(pub)
}

func checkPublicKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return nil
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); minRSABits <= n && n <= maxRSABits && k.E > 2 && k.E&1 == 1 {
			return nil
		}
	}
	return api.Errorf(api.CodeInvalid, "public key: want ECDSA P-256 or P-384, Ed25519, or RSA of %d to %d bits", minRSABits, maxRSABits)
}

// SignUser makes a user's certificate for a public key. Everything in it but
// the key is ours: subject CN is the user, one URI SAN names cluster and
// session. Callers begin it ClockSkew early.
func (a *Authority) SignUser(pub crypto.PublicKey, id UserIdentity, notBefore, notAfter time.Time) ([]byte, error) {
	if err := id.validate(a.ClusterName); err != nil {
		return nil, err
	}
	return a.sign(UserCA, pub, notBefore, notAfter, &x509.Certificate{
		Subject: pkix.Name{CommonName: id.User},
		URIs:    []*url.URL{id.uri()},
	})
}

// SignHost makes a host certificate for DNS names and addresses.
func (a *Authority) SignHost(pub crypto.PublicKey, dnsNames []string, ips []net.IP, notBefore, notAfter time.Time) ([]byte, error) {
	if len(dnsNames)+len(ips) == 0 {
		return nil, fmt.Errorf("a host certificate needs a name or an address")
	}
	for _, name := range dnsNames {
		if !api.IsDNSName(strings.TrimPrefix(name, "*.")) {
			return nil, api.Errorf(api.CodeInvalid, "host certificate: %q is not a lower-case DNS name", name)
		}
	}
	return a.sign(HostCA, pub, notBefore, notAfter, &x509.Certificate{DNSNames: dnsNames, IPAddresses: ips})
}

func (a *Authority) sign(typ CAType, pub crypto.PublicKey, notBefore, notAfter time.Time, template *x509.Certificate) ([]byte, error) {
	if a.Type != typ {
		return nil, fmt.Errorf("the %s CA does not sign %s certificates", a.Type, typ)
	}
	if err := checkPublicKey(pub); err != nil {
		return nil, err
	}
	if !notBefore.Before(notAfter) || notAfter.After(a.Cert.NotAfter) {
		return nil, fmt.Errorf("sign a %s certificate from %s to %s: want a time span that ends before the CA does (%s)",
			typ, notBefore.UTC().Format(time.RFC3339), notAfter.UTC().Format(time.RFC3339), a.Cert.NotAfter.Format(time.RFC3339))
	}
	usage, err := leafUsage(typ)
	if err != nil {
		return nil, err
	}
	marker, err := markerExtension(typ)
	if err != nil {
		return nil, err
	}
	template.NotBefore, template.NotAfter = notBefore, notAfter
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	template.BasicConstraintsValid = true
	template.ExtraExtensions = []pkix.Extension{marker}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, pub, a.Signer)
	if err != nil {
		return nil, fmt.Errorf("sign a %s certificate: %w", typ, err)
	}
	return der, nil
}
