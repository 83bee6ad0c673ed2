package pki

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const agentPath = "/agent/"

// AgentIdentity is what an agent's certificate says. It grants nothing: the
// agent's record does, which also says which generation counts.
type AgentIdentity struct {
	ID          string // api.ValidAgentID
	Generation  uint64 // 1 at the join, one more with each renewal
	ClusterName string
	NotAfter    time.Time // of the certificate; SignAgent is told it apart
}

// uri holds the generation in decimal, so that it has one spelling.
func (id AgentIdentity) uri() *url.URL {
	return &url.URL{Scheme: uriScheme, Host: id.ClusterName, Path: agentPath + id.ID + "/" + strconv.FormatUint(id.Generation, 10)}
}

func (id AgentIdentity) validate(clusterName string) error {
	switch {
	case id.ClusterName != clusterName:
		return fmt.Errorf("identity of cluster %q, want %q", id.ClusterName, clusterName)
	case !api.ValidAgentID(id.ID):
		return errors.New("agent id: want 32 lower-case hex digits")
	case id.Generation == 0:
		return errors.New("agent: generations begin with 1")
	}
	return nil
}

// KeySum is the SHA-256 of a public key (SubjectPublicKeyInfo, DER), in hex: by it
// an agent's record knows the key of a certificate.
func KeySum(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// PublicKeySum is KeySum of a key as certificates encode it.
func PublicKeySum(pub crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encode a public key: %w", err)
	}
	return KeySum(spki), nil
}

// SignAgent makes an agent's certificate for a public key. Everything in it but
// the key is ours: subject CN is the id, one URI SAN names cluster, id and
// generation. Callers begin it ClockSkew early.
func (a *Authority) SignAgent(pub crypto.PublicKey, id AgentIdentity, notBefore, notAfter time.Time) ([]byte, error) {
	if err := id.validate(a.ClusterName); err != nil {
		return nil, err
	}
	return a.sign(AgentCA, pub, notBefore, notAfter, &x509.Certificate{
		Subject: pkix.Name{CommonName: id.ID},
		URIs:    []*url.URL{id.uri()},
	})
}

// VerifyAgent says which agent shows these certificates, as strictly as
// VerifyUser says it of users.
func VerifyAgent(peer, agentCAs []*x509.Certificate, clusterName string, now time.Time) (AgentIdentity, error) {
	if err := verifyClient(AgentCA, peer, agentCAs, clusterName, now); err != nil {
		return AgentIdentity{}, err
	}
	return ParseAgent(peer[0], clusterName)
}

// ParseAgent reads the identity of a certificate that the agent CA verified.
// Whatever SignAgent would not have written is refused.
func ParseAgent(cert *x509.Certificate, clusterName string) (AgentIdentity, error) {
	uri, err := clientURI(AgentCA, cert, clusterName)
	if err != nil {
		return AgentIdentity{}, err
	}
	name, number, _ := strings.Cut(strings.TrimPrefix(uri.Path, agentPath), "/")
	generation, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return AgentIdentity{}, errors.New("client certificate: its agent URI has no generation")
	}
	id := AgentIdentity{ID: name, Generation: generation, ClusterName: uri.Host, NotAfter: cert.NotAfter}
	if err := id.validate(clusterName); err != nil {
		return AgentIdentity{}, fmt.Errorf("client certificate: %w", err)
	}
	if *uri != *id.uri() || cert.Subject.CommonName != id.ID { // no other spelling
		return AgentIdentity{}, errors.New("client certificate: its agent URI is malformed, or not its subject's")
	}
	return id, nil
}
