package saml

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

const (
	signingKeyBits  = 2048
	signingKeyYears = 10
	serialBits      = 128
)

// Probe implements what the contract of connectors asks at save: metadata that can
// be trusted, and keys that fit. It makes a key pair to sign requests with where the
// document has none; whoever keeps the facts keeps that pair over later saves, for
// the identity provider may know it.
func Probe(ctx context.Context, doc *api.SAMLConnector, o sso.Options) (facts api.ConnectorFacts, warnings []string, err error) {
	now := o.Now()
	if address := doc.Spec.EntityDescriptorURL; address != "" {
		const path = "spec.entity_descriptor_url"
		raw, err := sso.Get(ctx, o.Client(), address, metadataTypes)
		if err != nil {
			return facts, nil, fault(doc, &api.FieldError{Path: path, Reason: fmt.Sprintf("the metadata can't be fetched (%s): mend the address, or paste it into spec.entity_descriptor", sso.Unavailable(address, err))})
		}
		if len(raw) > api.MaxEntityDescriptor { // it is kept in the store
			return facts, nil, fault(doc, &api.FieldError{Path: path, Reason: fmt.Sprintf("the metadata there has more than %d bytes: want that of one identity provider, not of a federation", api.MaxEntityDescriptor)})
		}
		facts.EntityDescriptor = string(raw)
	}
	p, err := New(doc, facts, o)
	if err != nil {
		return api.ConnectorFacts{}, nil, err
	}
	if err := p.idp.checkUntil(now); err != nil {
		path := "spec.entity_descriptor"
		if facts.EntityDescriptor != "" {
			path = "spec.entity_descriptor_url"
		}
		return api.ConnectorFacts{}, nil, fault(doc, &api.FieldError{Path: path, Reason: err.Error() + ": get the present one from the identity provider"})
	}
	warnings = append(p.idp.warnings, p.idp.expired(now)...)
	if doc.Spec.SigningKeyPair == nil {
		if facts.SigningKeyPair, err = newPair(doc.Metadata.Name, now); err != nil {
			return api.ConnectorFacts{}, nil, err
		}
	}
	return facts, warnings, nil
}

// newPair makes a key that lasts: identity providers are given its certificate by
// hand, and few look at its end.
func newPair(name string, now time.Time) (*api.KeyPair, error) {
	key, err := rsa.GenerateKey(rand.Reader, signingKeyBits)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	cert := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Sallyport, connector " + name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(signingKeyYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &api.KeyPair{
		PrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		Cert:       string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	}, nil
}
