package saml

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"github.com/beevik/etree"
	saml2types "github.com/russellhaering/gosaml2/types"
	dsig "github.com/russellhaering/goxmldsig"
)

const (
	tagResponse  = "Response"
	tagAssertion = "Assertion"
	tagEncrypted = "EncryptedAssertion"
)

// verified is an answer of which the signatures were verified.
type verified struct {
	// response can refuse, and prove nothing, where it is not signed.
	response *etree.Element
	signed   bool // the response is
	// assertion is what a key of the identity provider has signed, itself or in the response.
	assertion *etree.Element
}

// survey refuses every shape of Response in which something could be taken for
// something else. All elements are looked at, wherever they hide.
func survey(root *etree.Element) (assertion *etree.Element, encrypted bool, err error) {
	if !is(root, nsProtocol, tagResponse) {
		return nil, false, fmt.Errorf("it is no SAML 2.0 Response but %q", clean(root.Tag))
	}
	if err := surveyIDs(root); err != nil {
		return nil, false, err
	}
	err = walk(root, func(e *etree.Element) error {
		switch e.Tag { // in any namespace
		case tagResponse:
			if e != root {
				return errors.New("it holds another Response")
			}
		case tagAssertion, tagEncrypted:
			if e.NamespaceURI() != nsAssertion || e.Parent() != root {
				return fmt.Errorf("it holds an %s where none belongs", e.Tag)
			}
			if assertion != nil {
				return errors.New("it holds more than one assertion")
			}
			assertion, encrypted = e, e.Tag == tagEncrypted
		case dsig.SignatureTag:
			if p := e.Parent(); e.NamespaceURI() != nsSignature || p != root && !(is(p, nsAssertion, tagAssertion) && p.Parent() == root) {
				return errors.New("it holds a Signature where none belongs")
			}
		}
		return nil
	})
	return assertion, encrypted, err
}

// surveyAssertion is survey for an assertion that was decrypted.
func surveyAssertion(a *etree.Element) error {
	if !is(a, nsAssertion, tagAssertion) {
		return fmt.Errorf("what was encrypted is no Assertion but %q", clean(a.Tag))
	}
	if err := surveyIDs(a); err != nil {
		return err
	}
	return walk(a, func(e *etree.Element) error {
		switch e.Tag {
		case tagResponse, tagAssertion, tagEncrypted:
			if e != a {
				return errors.New("it holds another assertion")
			}
		case dsig.SignatureTag:
			if e.NamespaceURI() != nsSignature || e.Parent() != a {
				return errors.New("it holds a Signature where none belongs")
			}
		}
		return nil
	})
}

// surveyIDs refuses IDs that are there twice, and attributes that goxmldsig would
// take for one: it passes over prefixes.
func surveyIDs(root *etree.Element) error {
	seen := map[string]bool{}
	return walk(root, func(e *etree.Element) error {
		signatures := 0
		for _, c := range e.ChildElements() {
			if c.Tag == dsig.SignatureTag {
				signatures++
			}
		}
		if signatures > 1 {
			return errors.New("an element has more than one Signature")
		}
		for _, a := range e.Attr {
			if a.Space == "xmlns" || !strings.EqualFold(a.Key, "id") {
				continue
			}
			if a.Space != "" {
				return fmt.Errorf("it holds the attribute %s", clean(a.FullKey()))
			}
			if seen[a.Value] {
				return fmt.Errorf("the ID %q is there twice", clean(a.Value))
			}
			seen[a.Value] = true
		}
		return nil
	})
}

// open verifies an answer, and decrypts it if it has to. The signature of the response
// comes before decrypting: what strangers encrypt is not even looked at, where the
// identity provider signs its answers as a whole.
func open(root *etree.Element, certs []*x509.Certificate, key *tls.Certificate) (*verified, error) {
	raw, encrypted, err := survey(root)
	if err != nil {
		return nil, err
	}
	v := &verified{response: root}
	switch signed, err := verify(root, certs); {
	case err == nil:
		v.response, v.signed = signed, true
	case !errors.Is(err, errUnsigned):
		return nil, fmt.Errorf("response: %w", err)
	}
	if raw == nil {
		return v, nil
	}
	if encrypted {
		return v, v.decrypt(raw, certs, key)
	}
	// Verified where it stands, not in the response as it was signed: canonicalisation
	// has dropped namespaces there that only the assertion's signature names.
	switch a, err := verify(raw, certs); {
	case err == nil:
		v.assertion = a
		return v, nil
	case !errors.Is(err, errUnsigned):
		return nil, fmt.Errorf("assertion: %w", err)
	case !v.signed:
		return nil, errors.New("neither the response nor its assertion is signed: make the identity provider sign them")
	}
	v.assertion, err = must(v.response, nsAssertion, tagAssertion)
	return v, err
}

// errEncrypted is all that is said of an encrypted assertion from an unsigned
// response: more would tell whoever sends changed ciphertexts what is in them (padding
// oracles on AES-CBC, which widely used identity providers still encrypt by).
var errEncrypted = errors.New("its encrypted assertion can't be opened by assertion_key_pair, or is not signed by a known key of the identity provider: " +
	"check which certificate the identity provider encrypts for, and that it signs assertions")

func (v *verified) decrypt(raw *etree.Element, certs []*x509.Certificate, key *tls.Certificate) error {
	if key == nil {
		return errors.New("its assertion is encrypted and the connector has no assertion_key_pair: add one, or turn encryption off at the identity provider")
	}
	if v.signed {
		var err error
		if raw, err = must(v.response, nsAssertion, tagEncrypted); err != nil {
			return err
		}
	}
	plain, err := decryptBytes(raw, key)
	if err != nil {
		return errEncrypted
	}
	a, err := parse(plain, false)
	if err != nil {
		return errEncrypted
	}
	if err := surveyAssertion(a); err != nil {
		return errEncrypted
	}
	switch signed, err := verify(a, certs); {
	case err == nil:
		v.assertion = signed
	case errors.Is(err, errUnsigned) && v.signed:
		v.assertion = a
	default:
		// An unknown key within has no metadata fetched, as others have: that too would
		// tell that what was sent could be opened.
		return errEncrypted
	}
	return nil
}

// Bounds of gosaml2's decryption, which indexes into what it gets.
const (
	minCiphertext = 32
	maxWrappedKey = 4096
)

// decryptBytes opens an EncryptedAssertion. RSA PKCS #1 v1.5 is not taken (its
// padding tells too much), nor is 3DES.
func decryptBytes(e *etree.Element, key *tls.Certificate) ([]byte, error) {
	doc := etree.NewDocument()
	doc.SetRoot(detach(e))
	raw, err := doc.WriteToBytes()
	if err != nil {
		return nil, err
	}
	var ea saml2types.EncryptedAssertion
	if err := xml.Unmarshal(raw, &ea); err != nil {
		return nil, err
	}
	ea.CipherValue = squeeze(ea.CipherValue)
	wrapped := &ea.EncryptedKey
	if wrapped.CipherValue == "" {
		wrapped = &ea.DetEncryptedKey
	}
	wrapped.CipherValue = squeeze(wrapped.CipherValue)
	// The certificate that it says it is for is no secret and no proof: the key fits or not.
	wrapped.X509Data = ""
	switch wrapped.EncryptionMethod.Algorithm {
	case saml2types.MethodRSAOAEP, saml2types.MethodRSAOAEP2:
	default:
		return nil, errors.New("key transport is not RSA-OAEP")
	}
	if ea.EncryptionMethod.Algorithm == saml2types.MethodTripleDESCBC {
		return nil, errors.New("3DES is not taken")
	}
	if n := base64.StdEncoding.DecodedLen(len(ea.CipherValue)); n < minCiphertext+2 || len(wrapped.CipherValue) > maxWrappedKey {
		return nil, errors.New("ciphertext too short, or its key too long")
	}
	return ea.DecryptBytes(key)
}

func squeeze(s string) string { return strings.Join(strings.Fields(s), "") }
