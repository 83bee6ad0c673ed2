package saml

import (
	"bytes"
	"compress/flate"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/beevik/etree"
)

// bytesOfDocuments are attacks on parsers.
func bytesOfDocuments() []attack {
	return []attack{
		// CVE-2018-0489 and its kin: canonicalization drops comments, which some parsers
		// end a text at.
		{"comment in the name", replaced("assertion", "alice@example.com", "alice@example.com<!---->.evil"), "it holds a comment"},
		{"comment in an attribute", replaced("assertion", ">devs<", ">de<!-- -->vs<"), "it holds a comment"},
		{"comment elsewhere", replaced("assertion", "<samlp:Status>", "<!-- x --><samlp:Status>"), "it holds a comment"},
		{"DOCTYPE", replaced("assertion", "<samlp:Response", `<!DOCTYPE x><samlp:Response`), "it holds a DOCTYPE"},
		{"doctype in small letters", replaced("assertion", "<samlp:Response", `<!doctype x><samlp:Response`), "it holds a DOCTYPE"},
		{"an entity", replaced("assertion", "<samlp:Response", `<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><samlp:Response`), "it holds a DOCTYPE"},
		{"a billion laughs", replaced("assertion", "<samlp:Response", `<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><samlp:Response`), "it holds a DOCTYPE"},
		{"an ID by DTD", replaced("assertion", "<samlp:Response", `<!DOCTYPE x [<!ATTLIST y z ID #IMPLIED>]><samlp:Response`), "it holds a DOCTYPE"},
		{"an unknown entity", replaced("assertion", "alice@example.com", "&alice;"), "invalid character entity"},
		{"a processing instruction", replaced("assertion", "alice@example.com", "alice<?x y?>@example.com"), "a processing instruction"},
		{"a stylesheet", replaced("assertion", "<samlp:Response", `<?xml-stylesheet href="x"?><samlp:Response`), "a processing instruction"},
		{"another encoding", replaced("assertion", "<samlp:Response", `<?xml version="1.0" encoding="utf-7"?><samlp:Response`), "its encoding is"},
		{"UTF-16", func(t testing.TB) string {
			var b bytes.Buffer
			for _, c := range []byte("<a>" + written(t, honestDoc(t, "assertion"))) {
				b.Write([]byte{c, 0})
			}
			return "\xff\xfe" + b.String()
		}, "it is no UTF-8 text"},
		{"NUL", replaced("assertion", "alice@example.com", "alice\x00@example.com"), "a NUL byte"},
		{"an attribute twice", replaced("assertion", `Version="2.0"`, `Version="2.0" Version="2.0"`), "twice"},
		{"an attribute twice by two prefixes", replaced("assertion", `Version="2.0"`, `xmlns:p="urn:p" xmlns:q="urn:p" p:v="1" q:v="2" Version="2.0"`), "twice"},
		{"two documents", func(t testing.TB) string { return written(t, honestDoc(t, "assertion")) + "<x/>" }, "2 elements at its top"},
		{"text behind", func(t testing.TB) string { return written(t, honestDoc(t, "assertion")) + "x" }, "text outside of its element"},
		{"cut", func(t testing.TB) string {
			return strings.TrimSuffix(written(t, honestDoc(t, "assertion")), "</samlp:Response>\n")
		}, "unexpected EOF"},
		// CVE-2020-29509, 29510, 29511: tokens that change when they are written again.
		{"unstable attribute", replaced("assertion", "<samlp:Status>", `<samlp:Status ::x="y">`), "syntax error"},
		{"unstable element", replaced("assertion", "<samlp:Status>", `<samlp:Status><x::y/>`), "syntax error"},
		{"a colon in front", replaced("assertion", "<samlp:Status>", `<samlp:Status><:y/>`), `the name ":y"`},
		{"a colon in front of an attribute", replaced("assertion", "<samlp:Status>", `<samlp:Status :x="y">`), `the name ":x"`},
		{"a prefixed xmlns", replaced("assertion", "<samlp:Status>", `<samlp:Status samlp:xmlns="urn:y">`), `the name "xmlns"`},
		{"xmlns redeclared", replaced("assertion", "<samlp:Status>", `<samlp:Status xmlns:xmlns="urn:x">`), `the name "xmlns"`},
		{"xml redeclared", replaced("assertion", "<samlp:Status>", `<samlp:Status xmlns:xml="urn:x">`), "a namespace that can't be declared"},
		{"no namespace for a prefix", replaced("assertion", "<samlp:Status>", `<samlp:Status xmlns:x="">`), "a namespace that can't be declared"},
		{"a name of 100,000 letters", replaced("assertion", "<samlp:Status>", "<"+strings.Repeat("a\u202e", 100_000)+"></b><samlp:Status>"), "XML syntax error"},
		{"10,000 levels", replaced("assertion", "<samlp:Status>", strings.Repeat("<a>", 10_000)+strings.Repeat("</a>", 10_000)+"<samlp:Status>"), "more than 32 levels"},
		{"100,000 elements", replaced("assertion", "<samlp:Status>", strings.Repeat("<a/>", 100_000)+"<samlp:Status>"), "more than 32 levels, 20000 elements"},
		{"100,000 attributes", func(t testing.TB) string {
			var b strings.Builder
			for i := range 100_000 {
				fmt.Fprintf(&b, ` a%d=""`, i)
			}
			return replaced("assertion", "<samlp:Status>", "<samlp:Status"+b.String()+">")(t)
		}, "more than 64 attributes"},
		{"10,000 attributes", func(t testing.TB) string {
			var b strings.Builder
			for i := range 10_000 {
				fmt.Fprintf(&b, ` a%d=""`, i)
			}
			return replaced("assertion", "<samlp:Status>", "<samlp:Status"+b.String()+">")(t)
		}, "more than 64 attributes"},
		{"10,000 prefixes", func(t testing.TB) string {
			var b strings.Builder
			for i := range 10_000 {
				fmt.Fprintf(&b, `<a xmlns:a%d="urn:x"/>`, i)
			}
			return replaced("assertion", "<samlp:Status>", b.String()+"<samlp:Status>")(t)
		}, "64 namespace prefixes"},
		{"10 MiB", func(t testing.TB) string { return written(t, honestDoc(t, "assertion")) + strings.Repeat(" ", 10<<20) }, "it is larger than"},
		// CVE-2025-25293
		{"deflated", func(t testing.TB) string { return deflated(t, []byte(written(t, honestDoc(t, "assertion")))) }, "compressed answers are not taken"},
		{"a bomb", func(t testing.TB) string { return deflated(t, bytes.Repeat([]byte("<a>"), 1<<20)) }, "it "},
		{"nothing", func(testing.TB) string { return " " }, "0 elements at its top"},
	}
}

func deflated(t testing.TB, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func encryptions() []attack {
	sp := func(t testing.TB) *x509.Certificate { return keyOf(t, "sp").Leaf }
	const closed = "its encrypted assertion can't be opened"
	instead := func(plain func(t testing.TB) string, whole bool) func(t testing.TB) string {
		return func(t testing.TB) string {
			doc := honest().document(t, "simplesamlphp")
			doc.Root().RemoveChild(assertionOf(doc))
			doc.Root().AddChild(readDoc(t, encrypted(t, []byte(plain(t)), sp(t), false)).Root())
			if whole {
				goodSigner(t).sign(t, doc.Root())
			}
			return written(t, doc)
		}
	}
	alone := func(a *etree.Element) func(t testing.TB) string {
		return func(t testing.TB) string {
			doc := etree.NewDocument()
			doc.SetRoot(detach(a))
			return written(t, doc)
		}
	}
	assertion := func(t testing.TB) *etree.Element { return assertionOf(honestDoc(t, "assertion")) }
	return []attack{
		{"a stranger's assertion, encrypted", func(t testing.TB) string {
			return instead(alone(rename(assertionOf(honest().document(t, "simplesamlphp")))), false)(t)
		}, closed},
		{"a stranger's assertion in the place of another in a signed response", func(t testing.TB) string {
			doc := honestDoc(t, "encrypted, response")
			e := children(doc.Root(), nsAssertion, tagEncrypted)[0]
			plain := alone(rename(assertionOf(honest().document(t, "simplesamlphp"))))(t)
			doc.Root().RemoveChild(e)
			doc.Root().AddChild(readDoc(t, encrypted(t, []byte(plain), sp(t), false)).Root())
			return written(t, doc)
		}, "response: no known key"},
		{"changed, then encrypted", func(t testing.TB) string { return instead(alone(rename(assertion(t))), false)(t) }, closed},
		{"changed, then encrypted, in a signed response", func(t testing.TB) string { return instead(alone(rename(assertion(t))), true)(t) }, closed},
		{"signed by another", func(t testing.TB) string {
			doc := honest().document(t, "simplesamlphp")
			signer{key: keyOf(t, "other"), prefix: "ds"}.sign(t, assertionOf(doc))
			return instead(alone(assertionOf(doc)), false)(t)
		}, closed},
		{"a comment within", func(t testing.TB) string {
			return instead(func(t testing.TB) string {
				return strings.Replace(alone(assertion(t))(t), "alice@", "alice<!-- -->@", 1)
			}, false)(t)
		}, closed},
		{"a DOCTYPE within", func(t testing.TB) string {
			return instead(func(t testing.TB) string { return "<!DOCTYPE x>" + alone(assertion(t))(t) }, false)(t)
		}, closed},
		{"a Response within", func(t testing.TB) string {
			return instead(func(t testing.TB) string { return written(t, honestDoc(t, "assertion")) }, true)(t)
		}, closed},
		{"two assertions within", func(t testing.TB) string {
			evilOne := rename(assertion(t).Copy())
			cut(evilOne)
			evilOne.CreateAttr("ID", "_evil")
			evilOne.AddChild(detach(assertion(t)))
			return instead(alone(evilOne), true)(t)
		}, closed},
		{"text within", instead(func(testing.TB) string { return "admin" }, true), closed},
		{"one that is encrypted, one that is not", func(t testing.TB) string {
			doc := honestDoc(t, "assertion")
			doc.Root().AddChild(readDoc(t, encrypted(t, []byte("<x/>"), sp(t), false)).Root())
			return written(t, doc)
		}, "more than one assertion"},
		{"encrypted for another", func(t testing.TB) string {
			doc := honestDoc(t, "assertion")
			encryptAssertion(t, doc, keyOf(t, "other").Leaf, false)
			return written(t, doc)
		}, closed},
		{"a changed ciphertext", replaced("encrypted, assertion", "<xenc:CipherValue>", "<xenc:CipherValue>AAAA"), closed},
		{"a short ciphertext", func(t testing.TB) string { return ciphertext(t, make([]byte, 5), "") }, closed},
		{"no ciphertext", func(t testing.TB) string { return ciphertext(t, nil, "") }, closed},
		{"a short ciphertext by CBC", func(t testing.TB) string {
			return ciphertext(t, make([]byte, 16), "http://www.w3.org/2001/04/xmlenc#aes128-cbc")
		}, closed},
		{"zeroes by CBC", func(t testing.TB) string {
			return ciphertext(t, make([]byte, 64), "http://www.w3.org/2001/04/xmlenc#aes128-cbc")
		}, closed},
		{"3DES", func(t testing.TB) string {
			return ciphertext(t, make([]byte, 64), "http://www.w3.org/2001/04/xmlenc#tripledes-cbc")
		}, closed},
		{"PKCS #1 v1.5", func(t testing.TB) string {
			s := written(t, honestDoc(t, "encrypted, assertion"))
			key, err := rsa.EncryptPKCS1v15(rand.Reader, sp(t).PublicKey.(*rsa.PublicKey), bytes.Repeat([]byte{7}, 16)) //nolint:staticcheck // to be refused
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(s, "<xenc:CipherValue>")
			old, _, _ := strings.Cut(rest, "<")
			s = strings.Replace(s, old, base64.StdEncoding.EncodeToString(key), 1)
			return strings.Replace(s, "xmlenc#rsa-oaep-mgf1p", "xmlenc#rsa-1_5", 1)
		}, closed},
	}
}

// ciphertext is an encrypted assertion with those bytes in the place of what was encrypted.
func ciphertext(t testing.TB, data []byte, alg string) string {
	t.Helper()
	s := written(t, honestDoc(t, "encrypted, assertion"))
	i := strings.LastIndex(s, "<xenc:CipherValue>") + len("<xenc:CipherValue>")
	j := strings.LastIndex(s, "</xenc:CipherValue>")
	s = s[:i] + base64.StdEncoding.EncodeToString(data) + s[j:]
	if alg != "" {
		s = strings.Replace(s, "http://www.w3.org/2009/xmlenc11#aes128-gcm", alg, 1)
	}
	return s
}
