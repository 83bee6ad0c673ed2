package saml

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	saml2types "github.com/russellhaering/gosaml2/types"

	"github.com/sallyport-dev/sallyport/internal/api"
)

type descriptorCase struct {
	name, doc, want string
}

// descriptors are what admins paste, with what they are told.
func descriptors(t testing.TB) []descriptorCase {
	good := descriptor(t, testEntity, "idp")
	change := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.ReplaceAll(good, old, with)
	}
	body := good[strings.Index(good, "<md:EntityDescriptor"):]
	federation := `<md:EntitiesDescriptor xmlns:md="` + nsMetadata + `">%s</md:EntitiesDescriptor>`
	sp, err := provider(t, connector(t)).Metadata()
	if err != nil {
		t.Fatal(err)
	}
	ca := base64.StdEncoding.EncodeToString(keyOf(t, "other").Certificate[0])
	return []descriptorCase{
		{"good", good, ""},
		{"a byte order mark, and space", "\ufeff\n" + good + "\n", ""},
		{"key without a use", change(` use="signing"`, ""), ""},
		{"a federation of one", fmt.Sprintf(federation, body), ""},
		{"a chain", change("</ds:X509Certificate>", "</ds:X509Certificate><ds:X509Certificate>"+ca+"</ds:X509Certificate>"), ""},
		{"valid for a time", change("<md:EntityDescriptor ", `<md:EntityDescriptor validUntil="2027-01-01T00:00:00Z" `), ""},
		{"no certificate", descriptor(t, testEntity), "has no signing certificate: without one nothing that it says can be believed"},
		{"for encryption alone", change(`use="signing"`, `use="encryption"`), "has no signing certificate"},
		{"a short key", descriptor(t, testEntity, "short"), "its RSA key has 1024 bits, at least 2048 are needed"},
		{"a broken certificate", change("<ds:X509Certificate>", "<ds:X509Certificate>AAAA"), "a certificate can't be read"},
		{"no base64", change("<ds:X509Certificate>", "<ds:X509Certificate>*"), "a certificate is no base64"},
		{"http", change("https://idp.example.com/sso", "http://idp.example.com/sso"), "want https"},
		{"no address", change("https://idp.example.com/sso?realm=x", "sso"), "is no address such as"},
		{"POST alone", change("HTTP-Redirect", "HTTP-Artifact"), "offers single sign-on by HTTP-POST, HTTP-Artifact alone: turn on HTTP-Redirect"},
		{"a service provider's", string(sp), "is the metadata of a service provider"},
		{"another role's", change("IDPSSODescriptor", "PDPDescriptor"), "has no IDPSSODescriptor"},
		{"two entities", fmt.Sprintf(federation, body+body), "describes 2 entities: keep the one EntityDescriptor"},
		{"no entities", fmt.Sprintf(federation, ""), "describes 0 entities"},
		{"no entity id", change(`entityID="`+testEntity+`"`, ""), "has no entityID"},
		{"a spaced entity id", change(testEntity, "the idp"), "holds white space"},
		{"DOCTYPE", change("<md:EntityDescriptor ", "<!DOCTYPE x><md:EntityDescriptor "), "it holds a DOCTYPE"},
		{"HTML", "<html><body>log in</body></html>", `begins with "html"`},
		{"no XML", "entity", "is no metadata that is taken"},
		{"the guide's placeholder", "<?xml !!! Make sure to shift all lines in XML descriptor \nwith 4 spaces, otherwise things will not work\n", "holds the placeholder of the guide still: put the metadata (XML) of your identity provider in its place, all its lines shifted by four spaces"},
		{"nothing", "", "is no metadata that is taken"},
		{"a time that is none", change("<md:EntityDescriptor ", `<md:EntityDescriptor validUntil="soon" `), "the time \"soon\""},
		{"past", change("<md:EntityDescriptor ", `<md:EntityDescriptor validUntil="2026-11-01T00:00:00Z" `), "was valid until 2026-11-01T00:00:00Z only"},
	}
}

func TestMetadataThatCantBeSafeIsNotSaved(t *testing.T) {
	for _, c := range descriptors(t) {
		t.Run(c.name, func(t *testing.T) {
			doc := connector(t)
			doc.Spec.EntityDescriptor = c.doc
			if c.doc == "" {
				doc.Spec.EntityDescriptor = " "
			}
			_, _, err := Probe(t.Context(), doc, testOptions())
			mustSay(t, err, c.want)
			if err == nil {
				return
			}
			field, ok := errors.AsType[*api.FieldError](err)
			if !ok || field.Path != "spec.entity_descriptor" || !api.IsCode(err, api.CodeInvalid) {
				t.Errorf("%v names no field", err)
			}
		})
	}
}

// Of a chain the authority above must not speak for the identity provider.
func TestOnlyTheFirstCertificateOfAChainCounts(t *testing.T) {
	for _, c := range descriptors(t) {
		if c.name != "a chain" {
			continue
		}
		doc := connector(t)
		doc.Spec.EntityDescriptor = c.doc
		a := honest().document(t, "okta")
		asProduct(t, "okta", "other").sign(t, assertionOf(a))
		_, err := finish(t, provider(t, doc), written(t, a))
		mustSay(t, err, "no known key")
	}
}

// byHand is a connector that names its identity provider in the document.
func byHand(t testing.TB, issuer, location, cert string) *api.SAMLConnector {
	c := connector(t)
	c.Spec.EntityDescriptor, c.Spec.Issuer, c.Spec.SSO, c.Spec.Cert = "", issuer, location, cert
	return c
}

func TestKeysAndAddressesThatDoNotFitAreNotSaved(t *testing.T) {
	const location = "https://idp.example.com/sso"
	cert := pairOf(t, "idp").Cert
	keys := func(signing, assertion *api.KeyPair) *api.SAMLConnector {
		c := connector(t)
		c.Spec.SigningKeyPair, c.Spec.AssertionKeyPair = signing, assertion
		return c
	}
	mixed := &api.KeyPair{PrivateKey: pairOf(t, "sp").PrivateKey, Cert: pairOf(t, "other").Cert}
	for name, c := range map[string]struct {
		doc        *api.SAMLConnector
		path, want string
	}{
		"by hand":               {byHand(t, testEntity, location, cert+pairOf(t, "ecdsa").Cert), "", ""},
		"another's certificate": {keys(nil, mixed), "spec.assertion_key_pair", "do not belong together"},
		"no key":                {keys(&api.KeyPair{Cert: cert}, nil), "spec.signing_key_pair", "can't be read"},
		"ECDSA":                 {keys(pairOf(t, "ecdsa"), nil), "spec.signing_key_pair", "want an RSA key"},
		"a short key":           {keys(nil, pairOf(t, "short")), "spec.assertion_key_pair", "1024 bits"},
		"cert: none":            {byHand(t, testEntity, location, "x"), "spec.cert", "holds 0 certificates"},
		"cert: a key":           {byHand(t, testEntity, location, pairOf(t, "idp").PrivateKey), "spec.cert", "something else than certificates"},
		"cert: short":           {byHand(t, testEntity, location, pairOf(t, "short").Cert), "spec.cert", "1024 bits"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Probe(t.Context(), c.doc, testOptions())
			mustSay(t, err, c.want)
			field, ok := errors.AsType[*api.FieldError](err)
			if err != nil && (!ok || field.Path != c.path) {
				t.Errorf("%v is not about %s", err, c.path)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE") {
				t.Error("a key is shown")
			}
		})
	}
}

func TestProbeMakesASigningKey(t *testing.T) {
	doc := connector(t, "idp", "short")
	doc.Spec.SigningKeyPair = nil
	facts, warnings, err := Probe(t.Context(), doc, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "left out: its RSA key has 1024 bits") {
		t.Errorf("warnings %q", warnings)
	}
	pair, err := readPair("x", facts.SigningKeyPair)
	if err != nil {
		t.Fatal(err)
	}
	if years := pair.Leaf.NotAfter.Sub(testNow()).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("lasts %.1f years", years)
	}
	p, err := New(doc, facts, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if p.signing == nil || !p.signing.Leaf.Equal(pair.Leaf) {
		t.Error("the provider does not use it")
	}
	doc.Spec.SigningKeyPair = pairOf(t, "sp")
	if facts, _, err = Probe(t.Context(), doc, testOptions()); err != nil || facts.SigningKeyPair != nil {
		t.Errorf("one is made beside the document's: %v", err)
	}
}

func TestOldCertificatesCountAndAreNamed(t *testing.T) {
	o := testOptions()
	o.Clock = func() time.Time { return keyOf(t, "idp").Leaf.NotAfter.AddDate(1, 0, 0) }
	_, warnings, err := Probe(t.Context(), connector(t), o)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "its key counts until the metadata leaves it out") {
		t.Errorf("%q, %v", warnings, err)
	}
}

func TestOurMetadata(t *testing.T) {
	c := connector(t)
	c.Spec.ServiceProviderIssuer = "https://sallyport.example.com/sp"
	raw, err := provider(t, c).Metadata()
	if err != nil {
		t.Fatal(err)
	}
	var m saml2types.EntityDescriptor
	if err := xml.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	sp := m.SPSSODescriptor
	if m.EntityID != "https://sallyport.example.com/sp" || sp == nil || !sp.WantAssertionsSigned || !sp.AuthnRequestsSigned || sp.ProtocolSupportEnumeration != nsProtocol {
		t.Fatalf("%s", raw)
	}
	acs := sp.AssertionConsumerServices
	if len(acs) != 1 || acs[0].Location != testACS || !strings.HasSuffix(acs[0].Binding, "HTTP-POST") {
		t.Errorf("%+v", acs)
	}
	if len(sp.KeyDescriptors) != 2 || sp.KeyDescriptors[0].Use != "signing" || sp.KeyDescriptors[1].Use != "encryption" {
		t.Fatalf("%+v", sp.KeyDescriptors)
	}
	want := base64.StdEncoding.EncodeToString(keyOf(t, "sp").Certificate[0])
	for _, k := range sp.KeyDescriptors {
		if got := k.KeyInfo.X509Data.X509Certificates; len(got) != 1 || got[0].Data != want {
			t.Errorf("%s: another certificate", k.Use)
		}
	}
	if strings.Contains(string(raw), "PRIVATE") {
		t.Error("a private key is in it")
	}
}
