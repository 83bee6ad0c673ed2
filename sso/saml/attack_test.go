package saml

import (
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const evil = "admin@example.com"

// attack is a document that must be refused, for that reason and no other: so each
// of them shows that one check is there.
type attack struct {
	name string
	doc  func(t testing.TB) string
	want string
}

// goodSigner signs as the identity provider does.
func goodSigner(t testing.TB) signer { return signer{key: keyOf(t, "idp"), prefix: "ds"} }

// said signs (the assertion, or all) what an identity provider says wrongly.
func said(change func(a *answer), whole bool) func(t testing.TB) string {
	return func(t testing.TB) string {
		a := honest()
		change(a)
		doc := a.document(t, "simplesamlphp")
		if whole {
			goodSigner(t).sign(t, doc.Root())
		} else {
			goodSigner(t).sign(t, assertionOf(doc))
		}
		return written(t, doc)
	}
}

// edited signs an answer whose document was changed before.
func edited(change func(doc *etree.Document)) func(t testing.TB) string {
	return func(t testing.TB) string {
		doc := honest().document(t, "simplesamlphp")
		change(doc)
		goodSigner(t).sign(t, assertionOf(doc))
		return written(t, doc)
	}
}

// forged changes an answer after it was signed.
func forged(shape string, change func(doc *etree.Document)) func(t testing.TB) string {
	return func(t testing.TB) string {
		doc := honestDoc(t, shape)
		change(doc)
		return written(t, doc)
	}
}

// replaced changes the text of an answer after it was signed.
func replaced(shape, old, with string) func(t testing.TB) string {
	return func(t testing.TB) string {
		s := written(t, honestDoc(t, shape))
		if !strings.Contains(s, old) {
			t.Fatalf("%q is not in %s", old, s)
		}
		return strings.Replace(s, old, with, 1)
	}
}

func find(e *etree.Element, path string) *etree.Element {
	for tag := range strings.SplitSeq(path, "/") {
		for _, c := range e.ChildElements() {
			if c.Tag == tag {
				e = c
				break
			}
		}
	}
	return e
}

func rename(a *etree.Element) *etree.Element {
	find(a, "Subject/NameID").SetText(evil)
	return a
}

// cut takes the Signature out of e.
func cut(e *etree.Element) *etree.Element {
	sig := find(e, "Signature")
	e.RemoveChild(sig)
	return sig
}

func drop(e *etree.Element, path string) {
	c := find(e, path)
	c.Parent().RemoveChild(c)
}

// wrapping are XSW1 to XSW8 of Somorovsky et al., "On Breaking SAML: Be Whoever You
// Want to Be" (2012), with the ID kept and with another.
func wrapping() []attack {
	var out []attack
	for _, id := range []string{"", "_evil"} {
		mark := func(e *etree.Element) *etree.Element {
			if id != "" {
				e.CreateAttr("ID", id)
			}
			return e
		}
		add := func(name, shape, want string, change func(doc *etree.Document)) {
			if id == "" {
				want = "is there twice"
			}
			out = append(out, attack{name + id, forged(shape, change), want})
		}
		// A Response that was signed becomes a part of one that was not.
		response := func(put func(evilRoot, sig, original *etree.Element)) func(*etree.Document) {
			return func(doc *etree.Document) {
				original := doc.Root()
				evilRoot := mark(original.Copy())
				if id != "" {
					assertion := children(evilRoot, nsAssertion, tagAssertion)[0]
					assertion.CreateAttr("ID", "_evil-assertion")
				}
				rename(children(evilRoot, nsAssertion, tagAssertion)[0])
				sig := cut(original)
				cut(evilRoot)
				doc.SetRoot(evilRoot)
				put(evilRoot, sig, original)
			}
		}
		add("XSW1", "response", "it holds", response(func(evilRoot, sig, original *etree.Element) {
			sig.AddChild(original)
			evilRoot.InsertChildAt(1, sig)
		}))
		add("XSW2", "response", "it holds another Response", response(func(evilRoot, sig, original *etree.Element) {
			evilRoot.InsertChildAt(1, original)
			evilRoot.InsertChildAt(2, sig)
		}))
		assertion := func(put func(root, evilOne, original *etree.Element)) func(*etree.Document) {
			return func(doc *etree.Document) {
				original := assertionOf(doc)
				evilOne := mark(rename(original.Copy()))
				cut(evilOne)
				put(doc.Root(), evilOne, original)
			}
		}
		add("XSW3", "assertion", "more than one assertion", assertion(func(root, evilOne, original *etree.Element) {
			root.InsertChildAt(original.Index(), evilOne)
		}))
		add("XSW4", "assertion", "an Assertion where none belongs", assertion(func(root, evilOne, original *etree.Element) {
			root.RemoveChild(original)
			evilOne.AddChild(original)
			root.AddChild(evilOne)
		}))
		add("XSW5", "assertion", "more than one assertion", assertion(func(root, evilOne, original *etree.Element) {
			evilOne.InsertChildAt(1, cut(original))
			root.RemoveChild(original)
			root.AddChild(evilOne)
			root.AddChild(original)
		}))
		add("XSW6", "assertion", "an Assertion where none belongs", assertion(func(root, evilOne, original *etree.Element) {
			sig := cut(original)
			root.RemoveChild(original)
			sig.AddChild(original)
			evilOne.InsertChildAt(1, sig)
			root.AddChild(evilOne)
		}))
		add("XSW7", "assertion", "an Assertion where none belongs", assertion(func(root, evilOne, _ *etree.Element) {
			extensions := etree.NewElement("samlp:Extensions")
			extensions.AddChild(evilOne)
			root.InsertChildAt(1, extensions)
		}))
		add("XSW8", "assertion", "an Assertion where none belongs", assertion(func(root, evilOne, original *etree.Element) {
			sig := cut(original)
			root.RemoveChild(original)
			sig.CreateElement("ds:Object").AddChild(original)
			evilOne.InsertChildAt(1, sig)
			root.AddChild(evilOne)
		}))
	}
	return out
}

// shapesOfDocuments are the other ways to have two parts taken for each other.
func shapesOfDocuments() []attack {
	return []attack{
		{"signature stripped", forged("assertion", func(doc *etree.Document) { cut(assertionOf(doc)) }), "neither the response nor its assertion is signed"},
		{"signature stripped, name changed", forged("both", func(doc *etree.Document) { cut(doc.Root()); cut(rename(assertionOf(doc))) }), "neither the response nor its assertion is signed"},
		{"assertion changed", replaced("assertion", "alice@example.com", evil), "no known key of the identity provider"},
		{"response changed", replaced("response", "alice@example.com", evil), "no known key of the identity provider"},
		{"assertion changed in an honest response", forged("both", func(doc *etree.Document) { rename(assertionOf(doc)) }), "no known key of the identity provider"},
		{"attribute added", replaced("both", ">devs<", ">admins<"), "no known key of the identity provider"},
		// The whole is signed by the identity provider, the part by a stranger: not half as good, but no good.
		{"assertion by another key in a signed response", func(t testing.TB) string {
			doc := honest().document(t, "simplesamlphp")
			signer{key: keyOf(t, "other"), prefix: "ds"}.sign(t, assertionOf(doc))
			goodSigner(t).sign(t, doc.Root())
			return written(t, doc)
		}, "assertion: no known key"},
		{"signed assertion in a response by another key", func(t testing.TB) string {
			doc := honestDoc(t, "assertion")
			signer{key: keyOf(t, "other"), prefix: "ds"}.sign(t, doc.Root())
			return written(t, doc)
		}, "response: no known key"},
		{"signature of the assertion moved to the response", forged("assertion", func(doc *etree.Document) {
			sig := cut(assertionOf(doc))
			doc.Root().InsertChildAt(1, sig)
			rename(assertionOf(doc))
		}), `refers to "#_a1", not to the element around it`},
		{"signature on another element", forged("assertion", func(doc *etree.Document) {
			sig := cut(assertionOf(doc))
			find(doc.Root(), "Status").AddChild(sig)
			rename(assertionOf(doc))
		}), "a Signature where none belongs"},
		{"signature in the subject", forged("assertion", func(doc *etree.Document) {
			sig := cut(assertionOf(doc))
			find(assertionOf(doc), "Subject").AddChild(sig)
		}), "a Signature where none belongs"},
		{"signature of another namespace beside it", forged("assertion", func(doc *etree.Document) {
			find(doc.Root(), "Status").CreateElement("samlp:Signature")
		}), "a Signature where none belongs"},
		{"two signatures", forged("assertion", func(doc *etree.Document) {
			a := assertionOf(doc)
			a.AddChild(find(a, "Signature").Copy())
		}), "more than one Signature"},
		{"a signature's Object", forged("assertion", func(doc *etree.Document) {
			find(assertionOf(doc), "Signature").CreateElement("ds:Object").SetText("x")
		}), `its signature holds "Object"`},
		{"a signature's second SignedInfo", forged("assertion", func(doc *etree.Document) {
			s := find(assertionOf(doc), "Signature")
			s.AddChild(find(s, "SignedInfo").Copy())
		}), "has 2 elements SignedInfo"},
		{"a SignedInfo of another namespace", forged("assertion", func(doc *etree.Document) {
			s := find(assertionOf(doc), "Signature")
			c := find(s, "SignedInfo").Copy()
			c.CreateAttr("xmlns:x", "urn:x")
			c.Space = "x"
			s.InsertChildAt(0, c)
		}), `its signature holds "SignedInfo"`},
		{"x:URI beside URI", forged("assertion", func(doc *etree.Document) {
			r := find(assertionOf(doc), "Signature/SignedInfo/Reference")
			r.CreateAttr("xmlns:x", "urn:x")
			r.CreateAttr("x:URI", "#_a1")
		}), `holds the attribute "URI" with a prefix`},
		{"x:ID beside ID", forged("assertion", func(doc *etree.Document) {
			a := assertionOf(doc)
			a.CreateAttr("xmlns:x", "urn:x")
			a.CreateAttr("x:ID", "_a1")
		}), "it holds the attribute x:ID"},
		{"xml:id", forged("assertion", func(doc *etree.Document) { find(doc.Root(), "Status").CreateAttr("xml:id", "_a1") }), "it holds the attribute xml:id"},
		{"duplicate ID elsewhere", forged("assertion", func(doc *etree.Document) { find(doc.Root(), "Status").CreateAttr("Id", "_a1") }), `the ID "_a1" is there twice`},
		{"two signed assertions", func(t testing.TB) string {
			doc := honestDoc(t, "assertion")
			second := honest().document(t, "okta")
			goodSigner(t).sign(t, assertionOf(second))
			doc.Root().AddChild(detach(assertionOf(second)))
			return written(t, doc)
		}, "more than one assertion"},
		{"an Assertion of another namespace", forged("assertion", func(doc *etree.Document) {
			e := rename(assertionOf(doc)).Copy()
			e.CreateAttr("xmlns:saml", "urn:oasis:names:tc:SAML:1.0:assertion")
			e.CreateAttr("ID", "_x")
			doc.Root().AddChild(e)
		}), "an Assertion where none belongs"},
		{"an Assertion of no namespace", forged("assertion", func(doc *etree.Document) { doc.Root().CreateElement("Assertion") }), "an Assertion where none belongs"},
		{"the prefix saml made another's", forged("assertion", func(doc *etree.Document) {
			assertionOf(doc).CreateAttr("xmlns:saml", "urn:other")
		}), "an Assertion where none belongs"},
		{"the prefix of the wrapper redeclared within", forged("assertion", func(doc *etree.Document) {
			find(assertionOf(doc), "Subject").CreateAttr("xmlns:saml", "urn:other")
		}), "no known key"},
		{"no Response", func(t testing.TB) string {
			doc := etree.NewDocument()
			doc.SetRoot(detach(assertionOf(honestDoc(t, "assertion"))))
			return written(t, doc)
		}, "it is no SAML 2.0 Response"},
		{"a Response of another namespace", replaced("assertion", "SAML:2.0:protocol", "SAML:1.0:protocol"), "it is no SAML 2.0 Response"},
		{"no assertion", edited2(func(doc *etree.Document) { doc.Root().RemoveChild(assertionOf(doc)) }), "it holds no assertion"},
	}
}

// edited2 signs the whole Response after a change.
func edited2(change func(doc *etree.Document)) func(t testing.TB) string {
	return func(t testing.TB) string {
		doc := honest().document(t, "simplesamlphp")
		change(doc)
		goodSigner(t).sign(t, doc.Root())
		return written(t, doc)
	}
}

// signed is an assertion with such a signature.
func signed(change func(t testing.TB, s *signer)) func(t testing.TB) string {
	return func(t testing.TB) string {
		doc := honest().document(t, "simplesamlphp")
		s := goodSigner(t)
		change(t, &s)
		s.sign(t, assertionOf(doc))
		return written(t, doc)
	}
}

func signatures() []attack {
	word := func(s string) *string { return &s }
	twice := func(uri string, first bool) func(t testing.TB, s *signer) {
		return func(_ testing.TB, s *signer) {
			s.refs = func(ref string) string {
				other := strings.Replace(ref, "#_a1", uri, 1)
				if first {
					return other + ref
				}
				return ref + other
			}
		}
	}
	return []attack{
		{"SHA-1", signed(func(_ testing.TB, s *signer) { s.method, s.hash = dsig.RSASHA1SignatureMethod, crypto.SHA1 }), "make the identity provider sign by RSA or ECDSA with SHA-256"},
		{"SHA-1 digest", signed(func(_ testing.TB, s *signer) { s.digestAlg = "http://www.w3.org/2000/09/xmldsig#sha1" }), "its digest method"},
		{"HMAC by the public key", signed(func(t testing.TB, s *signer) {
			s.method = "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"
			s.raw = func(info []byte) []byte {
				m := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: keyOf(t, "idp").Certificate[0]}))
				m.Write(info)
				return m.Sum(nil)
			}
		}), "its signature method"},
		{"no signature method", signed(func(_ testing.TB, s *signer) { s.method = " " }), "its signature method"},
		{"ECDSA by an RSA key", signed(func(_ testing.TB, s *signer) { s.method = dsig.ECDSASHA256SignatureMethod }), "no known key"},
		{"another key, same issuer", signed(func(t testing.TB, s *signer) { s.key = keyOf(t, "other") }), "no known key"},
		{"another key, brought in KeyInfo", signed(func(t testing.TB, s *signer) {
			s.key = keyOf(t, "other")
			s.keyInfo = x509KeyInfo("ds:", s.key)
		}), "no known key"},
		{"another key, the right one in KeyInfo", signed(func(t testing.TB, s *signer) {
			s.key = keyOf(t, "other")
			s.keyInfo = x509KeyInfo("ds:", keyOf(t, "idp"))
		}), "no known key"},
		{"our own key", signed(func(t testing.TB, s *signer) { s.key = keyOf(t, "sp") }), "no known key"},
		// CVE-2026-33487
		{"two references, the other first", signed(twice("#_r1", true)), "has 2 references"},
		{"two references, the other last", signed(twice("#_r1", false)), "has 2 references"},
		{"two references to the same", signed(twice("#_a1", false)), "has 2 references"},
		{"no reference", signed(func(_ testing.TB, s *signer) { s.refs = func(string) string { return "" } }), "has 0 references"},
		{"empty reference", signed(func(_ testing.TB, s *signer) { s.uri = word("") }), `refers to ""`},
		{"reference to the wrapper", signed(func(_ testing.TB, s *signer) { s.uri = word("#_r1") }), `refers to "#_r1"`},
		{"reference by XPointer", signed(func(_ testing.TB, s *signer) { s.uri = word("#xpointer(id('_a1'))") }), "refers to"},
		{"reference elsewhere", signed(func(_ testing.TB, s *signer) { s.uri = word("https://evil.example.com/#_a1") }), "refers to"},
		{"no transforms", signed(func(_ testing.TB, s *signer) { s.transforms = []string{} }), "has the transforms"},
		{"no canonicalization", signed(func(_ testing.TB, s *signer) { s.transforms = []string{algEnveloped} }), "has the transforms"},
		{"inclusive canonicalization", signed(func(_ testing.TB, s *signer) {
			s.transforms = []string{algEnveloped, string(dsig.CanonicalXML10RecAlgorithmId)}
		}), "has the transforms"},
		{"comments are signed", signed(func(_ testing.TB, s *signer) {
			s.transforms = []string{algEnveloped, string(dsig.CanonicalXML10ExclusiveWithCommentsAlgorithmId)}
		}), "has the transforms"},
		{"XSLT", signed(func(_ testing.TB, s *signer) {
			s.transforms = []string{algEnveloped, "http://www.w3.org/TR/1999/REC-xslt-19991116", algExclusive}
		}), "has the transforms"},
		{"XPath", signed(func(_ testing.TB, s *signer) {
			s.transforms = []string{algEnveloped, "http://www.w3.org/TR/1999/REC-xpath-19991116", algExclusive}
		}), "has the transforms"},
		{"enveloped twice", signed(func(_ testing.TB, s *signer) { s.transforms = []string{algEnveloped, algEnveloped, algExclusive} }), "has the transforms"},
		{"SignedInfo by another canonicalization", signed(func(_ testing.TB, s *signer) { s.c14n = string(dsig.CanonicalXML11AlgorithmId) }), "its canonicalization"},
		{"SignedInfo with comments", signed(func(_ testing.TB, s *signer) { s.c14n = string(dsig.CanonicalXML10ExclusiveWithCommentsAlgorithmId) }), "its canonicalization"},
		// "The Fragile Lock" (2025): where canonicalization fails, some digest nothing.
		{"digest of nothing", signed(func(_ testing.TB, s *signer) { s.empty = true }), "no known key"},
		{"relative namespace", func(t testing.TB) string {
			doc := honest().document(t, "simplesamlphp")
			assertionOf(doc).CreateAttr("xmlns:x", "1")
			s := goodSigner(t)
			s.empty = true
			s.sign(t, assertionOf(doc))
			return written(t, doc)
		}, `the namespace "1", which is relative`},
		{"relative default namespace", replaced("assertion", "<saml:Conditions", `<saml:Conditions xmlns="x"`), "which is relative"},
		{"undeclared prefix", replaced("assertion", "<samlp:Status>", "<samlp:Status><x:y/>"), "nothing declares the prefix of"},
		{"undeclared prefix of an attribute", replaced("assertion", "<samlp:Status>", `<samlp:Status x:y="">`), "nothing declares the prefix of"},
		{"signature value of ECDSA, cut", func(t testing.TB) string {
			doc := honest().document(t, "simplesamlphp")
			k := keyOf(t, "ecdsa")
			signer{key: k, prefix: "ds", method: dsig.ECDSASHA256SignatureMethod, raw: func([]byte) []byte { return make([]byte, 64) }}.sign(t, assertionOf(doc))
			return written(t, doc)
		}, "no known key"},
	}
}

func statements() []attack {
	confirmation := "Subject/SubjectConfirmation"
	data := confirmation + "/SubjectConfirmationData"
	return []attack{
		{"unsolicited", said(func(a *answer) { a.Request, a.Confirmed = "", "" }, true), "the response answers no login that was begun here"},
		{"unsolicited, response has no attribute", edited(func(doc *etree.Document) { doc.Root().RemoveAttr("InResponseTo") }), "the response answers no login that was begun here"},
		{"another login's", said(func(a *answer) { a.Request, a.Confirmed = "_x", "_x" }, true), "the response answers another login"},
		{"another login's, in an unsigned wrapper that fits", said(func(a *answer) { a.Confirmed = "_x" }, false), "the assertion answers another login"},
		{"only the unsigned wrapper answers", said(func(a *answer) { a.Confirmed = "" }, false), "the assertion answers no login that was begun here"},
		{"only the signed wrapper answers", said(func(a *answer) { a.Confirmed = "" }, true), "the assertion answers no login that was begun here"},
		{"only the assertion answers", said(func(a *answer) { a.Request = "_x" }, false), "the response answers another login"},
		{"another destination", said(func(a *answer) { a.Destination = "https://evil.example.com/v1/webapi/saml/acs" }, true), "it is for the destination"},
		{"another destination, unsigned", said(func(a *answer) { a.Destination = "https://evil.example.com/v1/webapi/saml/acs" }, false), "it is for the destination"},
		{"destination over http", said(func(a *answer) { a.Destination = "http://sallyport.example.com/v1/webapi/saml/acs" }, true), "it is for the destination"},
		{"no destination, signed", edited2(func(doc *etree.Document) { doc.Root().RemoveAttr("Destination") }), "names no Destination"},
		{"another recipient", said(func(a *answer) { a.Recipient = "https://evil.example.com/acs" }, false), "it is for the recipient"[6:]},
		{"recipient with a longer path", said(func(a *answer) { a.Recipient = testACS + "/x" }, false), "for the recipient"},
		{"no recipient", edited(func(doc *etree.Document) { find(assertionOf(doc), data).RemoveAttr("Recipient") }), "for the recipient"},
		{"another audience", said(func(a *answer) { a.Audience = "https://other.example.com" }, false), "it is for the audience"[6:]},
		{"no audience", edited(func(doc *etree.Document) { drop(assertionOf(doc), "Conditions/AudienceRestriction") }), "names no audience"},
		{"an audience beside another restriction", edited(func(doc *etree.Document) {
			find(assertionOf(doc), "Conditions").CreateElement("saml:AudienceRestriction").CreateElement("saml:Audience").SetText("https://other.example.com")
		}), "for the audience"},
		{"no conditions", edited(func(doc *etree.Document) { drop(assertionOf(doc), "Conditions") }), "has no Conditions"},
		{"an unknown condition", edited(func(doc *etree.Document) { find(assertionOf(doc), "Conditions").CreateElement("saml:Condition") }), "a condition that is not known here"},
		{"another issuer", said(func(a *answer) { a.Issuer = "https://other.example.com" }, false), `its issuer is "https://other.example.com"`},
		{"another issuer of the response", said(func(a *answer) { a.ResponseIssuer = "https://other.example.com" }, false), `its issuer is "https://other.example.com"`},
		{"no issuer", edited(func(doc *etree.Document) { drop(assertionOf(doc), "Issuer") }), "has no Issuer"},
		{"issuer of another format", edited(func(doc *etree.Document) { find(assertionOf(doc), "Issuer").CreateAttr("Format", persistent) }), "its issuer is no entity id"},
		{"expired", said(func(a *answer) { a.End = stamp(testNow().Add(-time.Hour)) }, false), "differ by more than 3m0s"},
		{"not yet valid", said(func(a *answer) { a.Begin = stamp(testNow().Add(time.Hour)) }, false), "differ by more than 3m0s"},
		{"conditions expired", edited(func(doc *etree.Document) {
			find(assertionOf(doc), "Conditions").CreateAttr("NotOnOrAfter", stamp(testNow().Add(-time.Hour)))
		}), "its assertion counted until"},
		{"no time", said(func(a *answer) { a.End = "tomorrow" }, false), `the time "tomorrow", which is none`},
		{"no end", edited(func(doc *etree.Document) { find(assertionOf(doc), data).RemoveAttr("NotOnOrAfter") }), "has no NotOnOrAfter"},
		{"no confirmation", edited(func(doc *etree.Document) { drop(assertionOf(doc), confirmation) }), "no confirmation of the method bearer"},
		{"another method", edited(func(doc *etree.Document) {
			find(assertionOf(doc), confirmation).CreateAttr("Method", "urn:oasis:names:tc:SAML:2.0:cm:holder-of-key")
		}), "no confirmation of the method bearer"},
		{"nobody logged in", edited(func(doc *etree.Document) { drop(assertionOf(doc), "AuthnStatement") }), "does not say that anybody logged in"},
		{"no subject", edited(func(doc *etree.Document) { drop(assertionOf(doc), "Subject") }), "has no Subject"},
		{"two names", edited(func(doc *etree.Document) {
			find(assertionOf(doc), "Subject").CreateElement("saml:NameID").SetText(evil)
		}), "has 2 elements NameID"},
		{"no name", edited(func(doc *etree.Document) { drop(assertionOf(doc), "Subject/NameID") }), "has no NameID in plain text"},
		{"an encrypted name beside", edited(func(doc *etree.Document) { find(assertionOf(doc), "Subject").CreateElement("saml:EncryptedID") }), "has a EncryptedID beside"},
		{"SAML 1.1", edited(func(doc *etree.Document) { assertionOf(doc).CreateAttr("Version", "1.1") }), `the version "1.1"`},
		{"SAML 1.1 around", edited(func(doc *etree.Document) { doc.Root().CreateAttr("Version", "1.1") }), `its version is "1.1"`},
		{"no status", edited(func(doc *etree.Document) { drop(doc.Root(), "Status") }), "has no Status"},
		{"a failure with an assertion", edited(func(doc *etree.Document) {
			find(doc.Root(), "Status/StatusCode").CreateAttr("Value", "urn:oasis:names:tc:SAML:2.0:status:Responder")
		}), "the identity provider refuses the login: Responder"},
		{"an attribute without a name", said(func(a *answer) { a.More = "<saml:Attribute/>" }, false), "an attribute without a name"},
		{"too many attributes", said(func(a *answer) {
			for i := range 120 {
				a.More += fmt.Sprintf(`<saml:Attribute Name="a%d"><saml:AttributeValue>x</saml:AttributeValue></saml:Attribute>`, i)
			}
		}, false), "too many attributes"},
		{"too many values", said(func(a *answer) {
			a.More = `<saml:Attribute Name="a">`
			for i := range 1001 {
				a.More += fmt.Sprintf(`<saml:AttributeValue>%d</saml:AttributeValue>`, i)
			}
			a.More += `</saml:Attribute>`
		}, false), "too many attributes"},
	}
}

func attacks() []attack {
	var out []attack
	for _, part := range [][]attack{wrapping(), shapesOfDocuments(), signatures(), statements(), bytesOfDocuments(), encryptions()} {
		out = append(out, part...)
	}
	return out
}

// The rows of threats.md about SAML: CVE-2020-15216, CVE-2020-29509/10/11,
// CVE-2025-25291/2/3, CVE-2026-33487, "The Fragile Lock", InResponseTo, replay, bindings.
func TestAttacksAreRefused(t *testing.T) {
	p := provider(t, connector(t, "idp", "ecdsa"))
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			id, err := finish(t, p, a.doc(t))
			mustSay(t, err, a.want)
			if err == nil {
				t.Fatalf("taken as %+v", id)
			}
			if n := len(err.Error()); n > 1000 || strings.ContainsRune(err.Error(), 0x202e) {
				t.Errorf("a message of %d bytes", n)
			}
			if code := api.CodeOf(err); code != api.CodeUnauthenticated && code != api.CodeForbidden {
				t.Errorf("code %s", code)
			}
		})
	}
}

func TestEncryptedWithoutAKeyIsRefused(t *testing.T) {
	c := connector(t)
	c.Spec.AssertionKeyPair = nil
	_, err := finish(t, provider(t, c), written(t, honestDoc(t, "encrypted, assertion")))
	mustSay(t, err, "the connector has no assertion_key_pair")
}

// threats.md, mix-up: what one identity provider says opens nothing at the connector
// of another, whichever of them lies.
func TestIdentityProvidersAreNotMixedUp(t *testing.T) {
	other := connector(t)
	other.Spec.EntityDescriptor = descriptor(t, "https://other.example.com", "other")
	signedBy := func(key, entity string) string {
		a := honest()
		a.Issuer, a.ResponseIssuer = entity, entity
		doc := a.document(t, "simplesamlphp")
		asProduct(t, "simplesamlphp", key).sign(t, assertionOf(doc))
		return written(t, doc)
	}
	_, err := finish(t, provider(t, other), signedBy("idp", testEntity))
	mustSay(t, err, "no known key")
	_, err = finish(t, provider(t, other), signedBy("idp", "https://other.example.com"))
	mustSay(t, err, "no known key")
	_, err = finish(t, provider(t, other), signedBy("other", testEntity))
	mustSay(t, err, "its issuer is")
	if _, err = finish(t, provider(t, other), signedBy("other", "https://other.example.com")); err != nil {
		t.Error(err)
	}
	// One key for two entities (a hosted service): the entity tells them apart.
	other.Spec.EntityDescriptor = descriptor(t, "https://other.example.com", "idp")
	_, err = finish(t, provider(t, other), signedBy("idp", testEntity))
	mustSay(t, err, "its issuer is")
}

func TestFormsThatAreNotOursAreRefused(t *testing.T) {
	good := written(t, honestDoc(t, "both"))
	b64 := base64.StdEncoding.EncodeToString([]byte(good))
	state := testFlow().ID
	for name, c := range map[string]struct {
		form url.Values
		want string
	}{
		"nothing":             {url.Values{}, "RelayState"},
		"another RelayState":  {url.Values{"SAMLResponse": {b64}, "RelayState": {"x"}}, "belongs to another login (RelayState)"},
		"no RelayState":       {url.Values{"SAMLResponse": {b64}}, "belongs to another login (RelayState)"},
		"two RelayStates":     {url.Values{"SAMLResponse": {b64}, "RelayState": {state, state}}, "belongs to another login (RelayState)"},
		"no answer":           {url.Values{"RelayState": {state}}, "no SAMLResponse"},
		"two answers":         {url.Values{"SAMLResponse": {b64, b64}, "RelayState": {state}}, "more than one"},
		"no base64":           {url.Values{"SAMLResponse": {good}, "RelayState": {state}}, "it is no base64"},
		"base64 for URLs":     {url.Values{"SAMLResponse": {base64.URLEncoding.EncodeToString([]byte("<?>>>~~"))}, "RelayState": {state}}, "it is no base64"},
		"base64 that goes on": {url.Values{"SAMLResponse": {b64 + "===="}, "RelayState": {state}}, "it is no base64"},
		"loose bits":          {url.Values{"SAMLResponse": {"PGEvPm="}, "RelayState": {state}}, "it is no base64"},
		"huge":                {url.Values{"SAMLResponse": {strings.Repeat("A", 4<<20)}, "RelayState": {state}}, "it is larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := provider(t, connector(t)).Finish(t.Context(), testFlow(), c.form)
			mustSay(t, err, c.want)
		})
	}
	// An answer is good for the login that asked for it, and for no other.
	f := testFlow()
	f.ID = strings.Repeat("cd", 32)
	_, err := provider(t, connector(t)).Finish(t.Context(), f, url.Values{"SAMLResponse": {b64}, "RelayState": {f.ID}})
	mustSay(t, err, "answers another login")
}
