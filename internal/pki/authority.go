package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// CAType says what a certificate authority signs.
type CAType string

// The authorities.
const (
	UserCA  CAType = "user"  // people and CI
	HostCA  CAType = "host"  // what replicas show on kube, api and tunnel names
	AgentCA CAType = "agent" // agents in Kubernetes clusters
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	organization      = "Sallyport"
)

// ClockSkew is how early certificates begin, for clocks that are off.
const ClockSkew = 5 * time.Minute

// oidCAType marks CA and leaf with the CA's type (a UTF8String). It is not
// critical: kubectl, browsers and load balancers need not know it.
var oidCAType = asn1.ObjectIdentifier{1, 3, 9999, 3, 1}

// Authority is a certificate authority whose private key this replica holds.
type Authority struct {
	Type        CAType
	ClusterName string
	Cert        *x509.Certificate
	Signer      crypto.Signer
}

// NewAuthority makes an authority with a fresh ECDSA P-256 key, valid ten years
// from ClockSkew before now.
func NewAuthority(typ CAType, clusterName string, now time.Time, rand io.Reader) (*Authority, error) {
	usage, err := leafUsage(typ)
	if err != nil {
		return nil, err
	}
	if err := api.ValidateClusterName(clusterName); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("make the %s CA's key: %w", typ, err)
	}
	marker, err := markerExtension(typ)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{
			Organization:       []string{organization},
			OrganizationalUnit: []string{string(typ)},
			CommonName:         clusterName,
		},
		NotBefore:             now.Add(-ClockSkew),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{usage}, // bounds what its leaves may be good for
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // no CA below it
		ExtraExtensions:       []pkix.Extension{marker},
	}
	der, err := x509.CreateCertificate(rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the %s CA: %w", typ, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the %s CA: %w", typ, err)
	}
	return &Authority{Type: typ, ClusterName: clusterName, Cert: cert, Signer: key}, nil
}

// CertPEM is the authority's certificate.
func (a *Authority) CertPEM() []byte { return EncodeCert(a.Cert.Raw) }

// KeyPEM is the authority's private key (PKCS #8). The caller seals it.
func (a *Authority) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.Signer)
	if err != nil {
		return nil, fmt.Errorf("encode the %s CA's key: %w", a.Type, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseAuthority reads what CertPEM and KeyPEM wrote and checks that it is the
// authority the caller thinks it is.
func ParseAuthority(typ CAType, clusterName string, certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := ParseAuthorityCert(typ, clusterName, certPEM)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("the %s CA's key is not one PEM PRIVATE KEY block", typ)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the %s CA's key: %w", typ, err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the %s CA's key is a %T, not ECDSA", typ, key)
	}
	if !signer.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("the %s CA's key does not belong to its certificate", typ)
	}
	return &Authority{Type: typ, ClusterName: clusterName, Cert: cert, Signer: signer}, nil
}

// ParseAuthorityCert reads the certificate of an authority without its key, and
// checks type and cluster in subject and extension.
func ParseAuthorityCert(typ CAType, clusterName string, certPEM []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("the %s CA is not one PEM CERTIFICATE block", typ)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the %s CA: %w", typ, err)
	}
	if err := checkAuthorityCert(cert, typ, clusterName); err != nil {
		return nil, err
	}
	return cert, nil
}

func checkAuthorityCert(cert *x509.Certificate, typ CAType, clusterName string) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return fmt.Errorf("the %s CA's certificate is not that of a CA", typ)
	case cert.Subject.CommonName != clusterName:
		return fmt.Errorf("the %s CA is that of cluster %q, not of %q: set the cluster name back, it can't be changed", typ, cert.Subject.CommonName, clusterName)
	case !slices.Equal(cert.Subject.OrganizationalUnit, []string{string(typ)}):
		return fmt.Errorf("the certificate given as %s CA is of type %q", typ, cert.Subject.OrganizationalUnit)
	}
	return checkMarker(cert, typ)
}

// EncodeCert writes a certificate as PEM.
func EncodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func leafUsage(typ CAType) (x509.ExtKeyUsage, error) {
	switch typ {
	case UserCA, AgentCA:
		return x509.ExtKeyUsageClientAuth, nil
	case HostCA:
		return x509.ExtKeyUsageServerAuth, nil
	default:
		return 0, fmt.Errorf("no such certificate authority: %q", typ)
	}
}

func markerExtension(typ CAType) (pkix.Extension, error) {
	value, err := asn1.MarshalWithParams(string(typ), "utf8")
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode the CA type: %w", err)
	}
	return pkix.Extension{Id: oidCAType, Value: value}, nil
}

// checkMarker wants the extension exactly once, and its encoding byte for byte.
func checkMarker(cert *x509.Certificate, typ CAType) error {
	want, err := markerExtension(typ)
	if err != nil {
		return err
	}
	found := 0
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidCAType) {
			continue
		}
		if found++; !bytes.Equal(ext.Value, want.Value) {
			return fmt.Errorf("the certificate's CA type is not %q", typ)
		}
	}
	if found != 1 {
		return fmt.Errorf("the certificate does not name its CA type once")
	}
	return nil
}
