package peer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"
)

const (
	nameSuffix = ".peer.sallyport"
	// anyName is in every leaf beside the server's own name, so that a dialer
	// that does not know yet whom it will meet still has a name to verify.
	anyName = "any" + nameSuffix
	// leafSkew is how far a leaf's validity reaches to either side of its making. Two
	// replicas whose clocks differ by a day must still connect: the clock
	// guard can name only a clock that it can ask for.
	leafSkew  = 72 * time.Hour
	leafRenew = 24 * time.Hour
)

// authority is a peer CA: the same bytes in every process that has the seed.
type authority struct {
	cert   *x509.Certificate
	signer crypto.Signer
}

// newAuthority derives a CA from a seed. Ed25519 because both its key and its
// signature are functions of their input (Go's ECDSA makes neither so).
func newAuthority(seed []byte) (*authority, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("peer CA seed has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Sallyport peer CA"},
		NotBefore:             time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 4.1.2.5: no expiry
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
		// A peer CA vouches for replicas and nothing else.
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{strings.TrimPrefix(nameSuffix, ".")},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make peer CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse peer CA: %w", err)
	}
	return &authority{cert: cert, signer: key}, nil
}

// issue signs a leaf for a server over a fresh key that never leaves memory.
func (a *authority) issue(serverID string, now time.Time) (*tls.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make peer key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make peer certificate serial: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: serverID},
		DNSNames:     []string{serverID + nameSuffix, anyName},
		NotBefore:    now.Add(-leafSkew),
		NotAfter:     now.Add(leafSkew),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.signer)
	if err != nil {
		return nil, fmt.Errorf("sign peer certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse peer certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// serverIDOf reads the server id from a verified leaf.
func serverIDOf(state tls.ConnectionState) (string, error) {
	if len(state.PeerCertificates) == 0 {
		return "", errors.New("peer shows no certificate")
	}
	var id string
	for _, name := range state.PeerCertificates[0].DNSNames {
		if name == anyName {
			continue
		}
		label, ok := strings.CutSuffix(name, nameSuffix)
		if !ok || id != "" || !validServerID(label) {
			return "", fmt.Errorf("peer certificate names %q: not one server", state.PeerCertificates[0].DNSNames)
		}
		id = label
	}
	if id == "" {
		return "", errors.New("peer certificate names no server")
	}
	return id, nil
}

// validServerID accepts one DNS label of lower-case letters, digits and dashes.
func validServerID(id string) bool {
	if id == "" || len(id) > 63 || id == "any" {
		return false
	}
	for i, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(id)-1:
		default:
			return false
		}
	}
	return true
}

// credentials hold the CAs and this process's leaf.
type credentials struct {
	serverID string
	active   *authority
	pool     *x509.CertPool
	clock    func() time.Time

	mu     sync.Mutex
	leaf   *tls.Certificate
	issued time.Time
}

func newCredentials(serverID string, seeds [][]byte, clock func() time.Time) (*credentials, error) {
	if !validServerID(serverID) {
		return nil, fmt.Errorf("server id %q is no DNS label", serverID)
	}
	if len(seeds) == 0 {
		return nil, errors.New("no seed for the peer CA")
	}
	c := &credentials{serverID: serverID, pool: x509.NewCertPool(), clock: clock}
	for i, seed := range seeds {
		ca, err := newAuthority(seed)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			c.active = ca
		}
		c.pool.AddCert(ca.cert)
	}
	return c, nil
}

// certificate returns the leaf, renewed daily, or at once when the clock was
// set back or far ahead.
func (c *credentials) certificate() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	if age := now.Sub(c.issued); c.leaf != nil && age >= 0 && age < leafRenew {
		return c.leaf, nil
	}
	leaf, err := c.active.issue(c.serverID, now)
	if err != nil {
		return nil, err
	}
	c.leaf, c.issued = leaf, now
	return leaf, nil
}

func (c *credentials) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{protoRaft, protoRPC, protoTunnel},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.certificate()
		},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              c.pool,
		SessionTicketsDisabled: true,
		Time:                   c.clock,
	}
}

func (c *credentials) clientConfig(serverName, proto string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{proto},
		ServerName: serverName,
		RootCAs:    c.pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.certificate()
		},
		SessionTicketsDisabled: true,
		Time:                   c.clock,
	}
}
