package saml

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	algExclusive = string(dsig.CanonicalXML10ExclusiveAlgorithmId)
	algEnveloped = string(dsig.EnvelopedSignatureAltorithmId)
)

var (
	// errUnsigned is for an element that has no signature of its own.
	errUnsigned = errors.New("it is not signed")
	// errUnknownKey is for a signature that none of the known keys has made: the
	// identity provider may have a new one.
	errUnknownKey = errors.New("no known key of the identity provider made its signature")

	ncName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,255}$`)
)

func signatureMethods() map[string]x509.PublicKeyAlgorithm {
	return map[string]x509.PublicKeyAlgorithm{
		dsig.RSASHA256SignatureMethod: x509.RSA, dsig.RSASHA384SignatureMethod: x509.RSA, dsig.RSASHA512SignatureMethod: x509.RSA,
		dsig.ECDSASHA256SignatureMethod: x509.ECDSA, dsig.ECDSASHA384SignatureMethod: x509.ECDSA, dsig.ECDSASHA512SignatureMethod: x509.ECDSA,
	}
}

func digestMethods() map[string]bool {
	return map[string]bool{
		"http://www.w3.org/2001/04/xmlenc#sha256": true, "http://www.w3.org/2001/04/xmldsig-more#sha384": true, "http://www.w3.org/2001/04/xmlenc#sha512": true,
	}
}

// verify gives e as one of the keys has signed it: parsed from the canonical bytes
// of which the signature holds the digest, without the signature. e is not changed.
func verify(e *etree.Element, certs []*x509.Certificate) (*etree.Element, error) {
	sig, err := one(e, nsSignature, dsig.SignatureTag)
	if err != nil {
		return nil, err
	}
	if sig == nil {
		return nil, errUnsigned
	}
	method, err := checkSignature(sig, attr(e, "ID"))
	if err != nil {
		return nil, err
	}
	fit := 0
	for _, cert := range certs {
		if cert.PublicKeyAlgorithm != method {
			continue
		}
		fit++
		signed, err := verifyBy(e, cert)
		if err != nil {
			continue // goxmldsig does not tell a foreign key from changed content
		}
		if !is(signed, e.NamespaceURI(), e.Tag) || attr(signed, "ID") != attr(e, "ID") {
			return nil, errors.New("its signature is on something else")
		}
		return signed, nil
	}
	return nil, fmt.Errorf("%w, or it was changed after (%d keys were tried)", errUnknownKey, fit)
}

// checkSignature refuses all but the one shape of signature that identity providers
// make: exactly one Reference (CVE-2026-33487: goxmldsig takes the first that fits),
// to the element around it.
func checkSignature(sig *etree.Element, id string) (x509.PublicKeyAlgorithm, error) {
	const none = x509.UnknownPublicKeyAlgorithm
	if !ncName.MatchString(id) {
		return none, errors.New("what it signs has no ID, or a strange one")
	}
	if err := checkSignatureNames(sig); err != nil {
		return none, err
	}
	info, err := must(sig, nsSignature, dsig.SignedInfoTag)
	if err != nil {
		return none, err
	}
	if _, err := must(sig, nsSignature, dsig.SignatureValueTag); err != nil {
		return none, err
	}
	c14n, err := must(info, nsSignature, dsig.CanonicalizationMethodTag)
	if err != nil {
		return none, err
	}
	if alg := attr(c14n, dsig.AlgorithmAttr); alg != algExclusive {
		return none, fmt.Errorf("its canonicalization %q is not taken, only %s", clean(alg), algExclusive)
	}
	method, err := must(info, nsSignature, dsig.SignatureMethodTag)
	if err != nil {
		return none, err
	}
	key, ok := signatureMethods()[attr(method, dsig.AlgorithmAttr)]
	if !ok {
		return none, fmt.Errorf("its signature method %q is not taken: make the identity provider sign by RSA or ECDSA with SHA-256", clean(attr(method, dsig.AlgorithmAttr)))
	}
	refs := children(info, nsSignature, dsig.ReferenceTag)
	if len(refs) != 1 {
		return none, fmt.Errorf("its signature has %d references, not one", len(refs))
	}
	if uri := attr(refs[0], dsig.URIAttr); uri != "#"+id {
		return none, fmt.Errorf("its signature refers to %q, not to the element around it", clean(uri))
	}
	return key, checkReference(refs[0])
}

// checkSignatureNames allows in a signature only elements of its own namespace, each
// where it belongs, and attributes without a prefix: encoding/xml, by which goxmldsig
// reads them, takes x:URI for URI.
func checkSignatureNames(sig *etree.Element) error {
	for _, c := range sig.ChildElements() {
		if c.NamespaceURI() != nsSignature || c.Tag != dsig.SignedInfoTag && c.Tag != dsig.SignatureValueTag && c.Tag != dsig.KeyInfoTag {
			return fmt.Errorf("its signature holds %q", clean(c.Tag))
		}
		if c.Tag == dsig.KeyInfoTag { // is dropped, unread
			continue
		}
		err := walk(c, func(e *etree.Element) error {
			if ns := e.NamespaceURI(); ns != nsSignature && (e.Tag != dsig.InclusiveNamespacesTag || ns != algExclusive) {
				return fmt.Errorf("its signature holds %q of a foreign namespace", clean(e.Tag))
			}
			for _, a := range e.Attr {
				if a.Space != "" && a.Space != "xmlns" {
					return fmt.Errorf("its signature holds the attribute %q with a prefix", clean(a.Key))
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkReference allows the transforms that leave what is signed whole.
func checkReference(ref *etree.Element) error {
	list, err := must(ref, nsSignature, dsig.TransformsTag)
	if err != nil {
		return err
	}
	var algs []string
	for _, t := range list.ChildElements() {
		if t.Tag != dsig.TransformTag {
			return fmt.Errorf("its signature has a transform %q", clean(t.Tag))
		}
		algs = append(algs, attr(t, dsig.AlgorithmAttr))
	}
	if len(algs) != 2 || algs[0] != algEnveloped || algs[1] != algExclusive {
		return fmt.Errorf("its signature has the transforms %q: only the enveloped signature, then exclusive canonicalization, are taken", clean(strings.Join(algs, " ")))
	}
	digest, err := must(ref, nsSignature, dsig.DigestMethodTag)
	if err != nil {
		return err
	}
	if alg := attr(digest, dsig.AlgorithmAttr); !digestMethods()[alg] {
		return fmt.Errorf("its digest method %q is not taken: make the identity provider sign with SHA-256", clean(alg))
	}
	_, err = must(ref, nsSignature, dsig.DigestValueTag)
	return err
}

// verifyBy has goxmldsig verify e by one key. What it would go by otherwise is taken
// away before: KeyInfo, which anybody can write, and the time, because metadata says
// by which keys an identity provider signs, whatever the dates of their certificates
// (SAML V2.0 Metadata Interoperability Profile, section 2.6.1).
func verifyBy(e *etree.Element, cert *x509.Certificate) (*etree.Element, error) {
	e = detach(e)
	sig, err := must(e, nsSignature, dsig.SignatureTag)
	if err != nil {
		return nil, err
	}
	for _, k := range children(sig, nsSignature, dsig.KeyInfoTag) {
		sig.RemoveChild(k)
	}
	value, err := must(sig, nsSignature, dsig.SignatureValueTag)
	if err != nil {
		return nil, err
	}
	if err := mendValue(value, cert); err != nil {
		return nil, err
	}
	// goxmldsig looks through 1,000 elements for a signature. Where it stands does not
	// matter: the transform takes it out.
	e.RemoveChild(sig)
	e.InsertChildAt(0, sig)
	ctx := dsig.NewDefaultValidationContext(&dsig.MemoryX509CertificateStore{Roots: []*x509.Certificate{cert}})
	ctx.Clock = dsig.NewFakeClockAt(cert.NotBefore)
	return ctx.Validate(e)
}

// detach copies e with the namespaces that are in scope where it stands.
func detach(e *etree.Element) *etree.Element {
	c := e.Copy()
	have := map[string]bool{}
	for _, a := range e.Attr {
		if a.Space == "xmlns" || a.Space == "" && a.Key == "xmlns" {
			have[a.FullKey()] = true
		}
	}
	for p := e.Parent(); p != nil; p = p.Parent() {
		for _, a := range p.Attr {
			if (a.Space == "xmlns" || a.Space == "" && a.Key == "xmlns") && !have[a.FullKey()] {
				have[a.FullKey()] = true
				c.CreateAttr(a.FullKey(), a.Value)
			}
		}
	}
	return c
}

// mendValue writes a signature as goxmldsig reads it: base64 without white space, and
// ECDSA as ASN.1, where XML Signature 1.1 (section 6.4.3) has the two numbers bare.
func mendValue(value *etree.Element, cert *x509.Certificate) error {
	s, ok := text(value)
	if !ok {
		return errors.New("its signature value holds elements")
	}
	raw, err := base64.StdEncoding.DecodeString(squeeze(s))
	if err != nil {
		return fmt.Errorf("its signature value is no base64: %w", err)
	}
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); ok {
		size := (key.Curve.Params().BitSize + 7) / 8
		if len(raw) != 2*size {
			return errors.New("its signature value has the wrong size")
		}
		var b cryptobyte.Builder
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1BigInt(new(big.Int).SetBytes(raw[:size]))
			b.AddASN1BigInt(new(big.Int).SetBytes(raw[size:]))
		})
		if raw, err = b.Bytes(); err != nil {
			return err
		}
	}
	value.SetText(base64.StdEncoding.EncodeToString(raw))
	return nil
}

// minRSABits is the shortest RSA key that counts.
const minRSABits = 2048

// checkKey says whether a certificate's key is one to rely on.
func checkKey(cert *x509.Certificate) error {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits {
			return fmt.Errorf("its RSA key has %d bits, at least %d are needed", bits, minRSABits)
		}
		return nil
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize < 256 {
			return fmt.Errorf("its key is on the curve %s, P-256 or larger is needed", key.Curve.Params().Name)
		}
		return nil
	}
	return fmt.Errorf("its key is of the kind %s, RSA or ECDSA is needed", cert.PublicKeyAlgorithm)
}
