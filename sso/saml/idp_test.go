package saml

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" //nolint:gosec // to sign what must be refused
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

const (
	testEntity = "https://idp.example.com/metadata"
	testACS    = "https://sallyport.example.com/v1/webapi/saml/acs"
	persistent = formatsSAML2 + "persistent"
)

func testNow() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

func testFlow() *sso.Flow {
	return &sso.Flow{ID: strings.Repeat("ab", 32), Started: testNow()}
}

// keys are those that keyOf has read: it takes long.
var keys sync.Map

// keyOf reads testdata/NAME.pem: made for these tests, of no use elsewhere.
func keyOf(t testing.TB, name string) tls.Certificate {
	t.Helper()
	if c, ok := keys.Load(name); ok {
		return c.(tls.Certificate)
	}
	b, err := os.ReadFile(filepath.Join("testdata", name+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.X509KeyPair(b, b)
	if err != nil {
		t.Fatal(err)
	}
	keys.Store(name, c)
	return c
}

func pairOf(t testing.TB, name string) *api.KeyPair {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, cert := pem.Decode(b)
	return &api.KeyPair{PrivateKey: string(pem.EncodeToMemory(key)), Cert: string(cert)}
}

// answer is what an identity provider says; fields are mutated by tests before it is signed.
type answer struct {
	Now, Begin, End, SessionEnd    string
	Destination, Recipient         string
	Request, Confirmed             string
	ResponseIssuer, Issuer         string
	Self, Audience, Format, NameID string
	More                           string // attributes
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func honest() *answer {
	now, f := testNow(), testFlow()
	return &answer{
		Now: stamp(now), Begin: stamp(now.Add(-30 * time.Second)), End: stamp(now.Add(5 * time.Minute)), SessionEnd: stamp(now.Add(8 * time.Hour)),
		Destination: testACS, Recipient: testACS, Request: f.RequestID(), Confirmed: f.RequestID(),
		ResponseIssuer: testEntity, Issuer: testEntity, Self: testACS, Audience: testACS, Format: persistent, NameID: "alice@example.com",
	}
}

// document renders it as a product writes it.
func (a *answer) document(t testing.TB, product string) *etree.Document {
	t.Helper()
	tmpl, err := template.ParseFiles(filepath.Join("testdata", product+".xml"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, a); err != nil {
		t.Fatal(err)
	}
	return readDoc(t, b.String())
}

func readDoc(t testing.TB, s string) *etree.Document {
	t.Helper()
	doc := etree.NewDocument()
	if err := doc.ReadFromString(s); err != nil {
		t.Fatalf("%v\n%s", err, s)
	}
	return doc
}

func written(t testing.TB, doc *etree.Document) string {
	t.Helper()
	s, err := doc.WriteToString()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signer makes signatures, good ones if nothing is set but the key.
type signer struct {
	key        tls.Certificate
	prefix     string // "": no prefix, xmlns=
	method     string
	hash       crypto.Hash
	digestAlg  string
	c14n       string
	transforms []string
	prefixList string
	keyInfo    string
	uri        *string // of the Reference
	refs       func(ref string) string
	raw        func(info []byte) []byte // instead of the key
	empty      bool                     // digest of nothing
}

func (s signer) tag(name string) string {
	if s.prefix == "" {
		return name
	}
	return s.prefix + ":" + name
}

// sign puts a Signature behind the Issuer of e, or in front of everything.
func (s signer) sign(t testing.TB, e *etree.Element) *etree.Element {
	t.Helper()
	if s.hash == 0 {
		s.hash = crypto.SHA256
	}
	if s.method == "" {
		s.method = dsig.RSASHA256SignatureMethod
	}
	if s.digestAlg == "" {
		s.digestAlg = map[crypto.Hash]string{
			crypto.SHA1: "http://www.w3.org/2000/09/xmldsig#sha1", crypto.SHA256: "http://www.w3.org/2001/04/xmlenc#sha256",
			crypto.SHA384: "http://www.w3.org/2001/04/xmldsig-more#sha384", crypto.SHA512: "http://www.w3.org/2001/04/xmlenc#sha512",
		}[s.hash]
	}
	if s.c14n == "" {
		s.c14n = algExclusive
	}
	if s.transforms == nil {
		s.transforms = []string{algEnveloped, algExclusive}
	}
	canonical, err := dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList(s.prefixList).Canonicalize(detach(e))
	if err != nil {
		t.Fatal(err)
	}
	if s.empty {
		canonical = nil
	}
	info := s.info(s.digest(canonical), attr(e, "ID"))
	var value []byte
	if s.raw != nil {
		value = s.raw([]byte(info))
	} else {
		value = s.signature(t, []byte(info))
	}
	xmlns := "xmlns"
	if s.prefix != "" {
		xmlns += ":" + s.prefix
	}
	text := fmt.Sprintf(`<%[1]s %[2]s="%[3]s">%[4]s<%[5]s>%[6]s</%[5]s>%[7]s</%[1]s>`, s.tag("Signature"), xmlns, nsSignature, info,
		s.tag("SignatureValue"), base64.StdEncoding.EncodeToString(value), s.keyInfo)
	sig := readDoc(t, text).Root()
	at := 0
	for _, c := range e.ChildElements() {
		if c.Tag == "Issuer" {
			at = c.Index() + 1
		}
	}
	e.InsertChildAt(at, sig)
	return sig
}

func (s signer) digest(b []byte) string {
	h := s.hash.New()
	h.Write(b)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// info writes SignedInfo in its canonical form by hand, so that goxmldsig does not
// vouch for itself.
func (s signer) info(digest, id string) string {
	var transforms strings.Builder
	for _, alg := range s.transforms {
		inner := ""
		if s.prefixList != "" && alg == algExclusive {
			inner = fmt.Sprintf(`<ec:InclusiveNamespaces xmlns:ec="%s" PrefixList="%s"></ec:InclusiveNamespaces>`, algExclusive, s.prefixList)
		}
		fmt.Fprintf(&transforms, `<%[1]s Algorithm="%[2]s">%[3]s</%[1]s>`, s.tag("Transform"), alg, inner)
	}
	uri := "#" + id
	if s.uri != nil {
		uri = *s.uri
	}
	ref := fmt.Sprintf(`<%[1]s URI="%[2]s"><%[3]s>%[4]s</%[3]s><%[5]s Algorithm="%[6]s"></%[5]s><%[7]s>%[8]s</%[7]s></%[1]s>`,
		s.tag("Reference"), uri, s.tag("Transforms"), transforms.String(), s.tag("DigestMethod"), s.digestAlg, s.tag("DigestValue"), digest)
	if s.refs != nil {
		ref = s.refs(ref)
	}
	xmlns := "xmlns"
	if s.prefix != "" {
		xmlns += ":" + s.prefix
	}
	return fmt.Sprintf(`<%[1]s %[2]s="%[3]s"><%[4]s Algorithm="%[5]s"></%[4]s><%[6]s Algorithm="%[7]s"></%[6]s>%[8]s</%[1]s>`,
		s.tag("SignedInfo"), xmlns, nsSignature, s.tag("CanonicalizationMethod"), s.c14n, s.tag("SignatureMethod"), s.method, ref)
}

func (s signer) signature(t testing.TB, info []byte) []byte {
	t.Helper()
	h := s.hash.New()
	h.Write(info)
	raw, err := s.key.PrivateKey.(crypto.Signer).Sign(rand.Reader, h.Sum(nil), s.hash)
	if err != nil {
		t.Fatal(err)
	}
	if key, ok := s.key.PrivateKey.(*ecdsa.PrivateKey); ok {
		var pair struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(raw, &pair); err != nil {
			t.Fatal(err)
		}
		size := (key.Params().BitSize + 7) / 8
		raw = append(pair.R.FillBytes(make([]byte, size)), pair.S.FillBytes(make([]byte, size))...)
	}
	return raw
}

func x509KeyInfo(prefix string, c tls.Certificate) string {
	return fmt.Sprintf(`<%[1]sKeyInfo><%[1]sX509Data><%[1]sX509Certificate>%[2]s</%[1]sX509Certificate></%[1]sX509Data></%[1]sKeyInfo>`, prefix, base64.StdEncoding.EncodeToString(c.Certificate[0]))
}

// assertionOf is the Assertion of a response.
func assertionOf(doc *etree.Document) *etree.Element {
	return children(doc.Root(), nsAssertion, tagAssertion)[0]
}

// encryptAssertion puts an EncryptedAssertion in the place of the assertion.
func encryptAssertion(t testing.TB, doc *etree.Document, to *x509.Certificate, cbc bool) {
	t.Helper()
	a := assertionOf(doc)
	alone := etree.NewDocument()
	alone.SetRoot(detach(a))
	index := a.Index()
	doc.Root().RemoveChildAt(index)
	doc.Root().InsertChildAt(index, readDoc(t, encrypted(t, []byte(written(t, alone)), to, cbc)).Root())
}

func encrypted(t testing.TB, plain []byte, to *x509.Certificate, cbc bool) string {
	t.Helper()
	key := bytes.Repeat([]byte{7}, 16)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	alg := "http://www.w3.org/2009/xmlenc11#aes128-gcm"
	if cbc {
		alg = "http://www.w3.org/2001/04/xmlenc#aes128-cbc"
		iv := bytes.Repeat([]byte{9}, aes.BlockSize)
		pad := aes.BlockSize - len(plain)%aes.BlockSize
		plain = append(slices.Clip(plain), bytes.Repeat([]byte{byte(pad)}, pad)...)
		data = make([]byte, len(plain))
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, plain)
		data = append(iv, data...)
	} else {
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		nonce := bytes.Repeat([]byte{9}, gcm.NonceSize())
		data = append(nonce, gcm.Seal(nil, nonce, plain, nil)...)
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, to.PublicKey.(*rsa.PublicKey), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`<saml:EncryptedAssertion xmlns:saml="%s"><xenc:EncryptedData xmlns:xenc="http://www.w3.org/2001/04/xmlenc#" Type="http://www.w3.org/2001/04/xmlenc#Element">`+
		`<xenc:EncryptionMethod Algorithm="%s"/><ds:KeyInfo xmlns:ds="%s"><xenc:EncryptedKey><xenc:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p">`+
		`<ds:DigestMethod Algorithm="http://www.w3.org/2000/09/xmldsig#sha256"/></xenc:EncryptionMethod><xenc:CipherData><xenc:CipherValue>%s</xenc:CipherValue></xenc:CipherData></xenc:EncryptedKey></ds:KeyInfo>`+
		`<xenc:CipherData><xenc:CipherValue>%s</xenc:CipherValue></xenc:CipherData></xenc:EncryptedData></saml:EncryptedAssertion>`,
		nsAssertion, alg, nsSignature, base64.StdEncoding.EncodeToString(wrapped), base64.StdEncoding.EncodeToString(data))
}

// descriptor is metadata with the certificates of those keys.
func descriptor(t testing.TB, entity string, keys ...string) string {
	t.Helper()
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, `<md:KeyDescriptor use="signing"><ds:KeyInfo xmlns:ds="%s"><ds:X509Data><ds:X509Certificate>%s</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>`,
			nsSignature, base64.StdEncoding.EncodeToString(keyOf(t, k).Certificate[0]))
	}
	return fmt.Sprintf(`<?xml version="1.0"?>
<!-- as products write it -->
<md:EntityDescriptor xmlns:md="%s" entityID="%s"><md:IDPSSODescriptor WantAuthnRequestsSigned="true" protocolSupportEnumeration="%s">%s`+
		`<md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST" Location="https://idp.example.com/post"/>`+
		`<md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://idp.example.com/sso?realm=x"/></md:IDPSSODescriptor></md:EntityDescriptor>`,
		nsMetadata, entity, nsProtocol, b.String())
}

func connector(t testing.TB, keys ...string) *api.SAMLConnector {
	t.Helper()
	if keys == nil {
		keys = []string{"idp"}
	}
	c := &api.SAMLConnector{Spec: api.SAMLSpec{
		ACS: testACS, Audience: testACS, ServiceProviderIssuer: testACS,
		EntityDescriptor: descriptor(t, testEntity, keys...), SigningKeyPair: pairOf(t, "sp"), AssertionKeyPair: pairOf(t, "sp"),
	}}
	c.Metadata.Name = "okta"
	return c
}

func testOptions() sso.Options {
	return sso.Options{Clock: testNow}
}

func provider(t testing.TB, c *api.SAMLConnector) *Provider {
	t.Helper()
	p, err := New(c, api.ConnectorFacts{}, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func form(doc string) url.Values {
	return url.Values{"SAMLResponse": {base64.StdEncoding.EncodeToString([]byte(doc))}, "RelayState": {testFlow().ID}}
}

func finish(t testing.TB, p *Provider, doc string) (*api.SSOIdentity, error) {
	t.Helper()
	return p.Finish(t.Context(), testFlow(), form(doc))
}

func products() []string {
	return []string{"simplesamlphp", "okta", "entra", "keycloak", "google"}
}

// asProduct signs as a product does.
func asProduct(t testing.TB, product, key string) signer {
	t.Helper()
	k := keyOf(t, key)
	switch product {
	case "okta":
		return signer{key: k, prefix: "ds", prefixList: "xs", keyInfo: x509KeyInfo("ds:", k)}
	case "entra":
		return signer{key: k, keyInfo: x509KeyInfo("", k)}
	case "keycloak":
		return signer{key: k, prefix: "dsig", keyInfo: `<dsig:KeyInfo><dsig:KeyName>x</dsig:KeyName><dsig:KeyValue><dsig:RSAKeyValue><dsig:Modulus>AQAB</dsig:Modulus><dsig:Exponent>AQAB</dsig:Exponent></dsig:RSAKeyValue></dsig:KeyValue></dsig:KeyInfo>`}
	}
	return signer{key: k, prefix: "ds", keyInfo: x509KeyInfo("ds:", k)}
}

// shapes are how answers are signed: what is, and in what order.
func shapes() map[string]func(t testing.TB, s signer, doc *etree.Document) {
	sp := func(t testing.TB) *x509.Certificate { return keyOf(t, "sp").Leaf }
	response := func(t testing.TB, s signer, doc *etree.Document) { s.sign(t, doc.Root()) }
	assertion := func(t testing.TB, s signer, doc *etree.Document) { s.sign(t, assertionOf(doc)) }
	return map[string]func(t testing.TB, s signer, doc *etree.Document){
		"response":  response,
		"assertion": assertion,
		"both":      func(t testing.TB, s signer, doc *etree.Document) { assertion(t, s, doc); response(t, s, doc) },
		"encrypted, assertion": func(t testing.TB, s signer, doc *etree.Document) {
			assertion(t, s, doc)
			encryptAssertion(t, doc, sp(t), false)
		},
		"encrypted, response": func(t testing.TB, s signer, doc *etree.Document) {
			encryptAssertion(t, doc, sp(t), false)
			response(t, s, doc)
		},
		"encrypted by CBC, both": func(t testing.TB, s signer, doc *etree.Document) {
			assertion(t, s, doc)
			encryptAssertion(t, doc, sp(t), true)
			response(t, s, doc)
		},
	}
}

func shapeNames() []string { return slices.Sorted(maps.Keys(shapes())) }

// honestDoc is an answer that has to be taken.
func honestDoc(t testing.TB, shape string) *etree.Document {
	t.Helper()
	doc := honest().document(t, "simplesamlphp")
	shapes()[shape](t, asProduct(t, "simplesamlphp", "idp"), doc)
	return doc
}
