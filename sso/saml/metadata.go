package saml

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/beevik/etree"
	saml2 "github.com/russellhaering/gosaml2"
	saml2types "github.com/russellhaering/gosaml2/types"
	dsig "github.com/russellhaering/goxmldsig"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxCertificates bounds the work for one answer: each key is tried.
const maxCertificates = 16

// idp is an identity provider as its metadata describes it.
type idp struct {
	entity   string
	location string // of HTTP-Redirect
	certs    []*x509.Certificate
	until    time.Time // validUntil; zero: not said
	warnings []string
}

// placeholder stands for the metadata in Teleport's getting started guide.
const placeholder = "<?xml !!! Make sure to shift all lines"

// readDescriptor reads the metadata of an identity provider. Its own signature is not
// looked at: it is as good as where it came from, which is whoever saved the connector
// or an https address that was written there.
func readDescriptor(raw string) (*idp, error) {
	if strings.Contains(raw, placeholder) {
		return nil, errors.New("holds the placeholder of the guide still: put the metadata (XML) of your identity provider in its place, all its lines shifted by four spaces")
	}
	root, err := parse([]byte(strings.TrimSpace(strings.TrimPrefix(raw, "\ufeff"))), true)
	if err != nil {
		return nil, fmt.Errorf("is no metadata that is taken: %w", err)
	}
	e, err := entityIn(root)
	if err != nil {
		return nil, err
	}
	role, err := one(e, nsMetadata, "IDPSSODescriptor")
	if err != nil {
		return nil, err
	}
	if role == nil {
		if len(children(e, nsMetadata, "SPSSODescriptor")) > 0 {
			return nil, errors.New("is the metadata of a service provider, such as Sallyport itself: put that of the identity provider here")
		}
		return nil, errors.New("has no IDPSSODescriptor: it is not the metadata of an identity provider")
	}
	p := &idp{entity: attr(e, "entityID")}
	if err := checkEntity(p.entity); err != nil {
		return nil, err
	}
	for _, scope := range []*etree.Element{root, e, role} {
		if s := attr(scope, "validUntil"); s != "" {
			t, err := moment(s)
			if err != nil {
				return nil, err
			}
			if p.until.IsZero() || t.Before(p.until) {
				p.until = t
			}
		}
	}
	if p.location, err = redirectLocation(role); err != nil {
		return nil, err
	}
	return p, p.readKeys(role)
}

func entityIn(root *etree.Element) (*etree.Element, error) {
	if is(root, nsMetadata, "EntityDescriptor") {
		return root, nil
	}
	if !is(root, nsMetadata, "EntitiesDescriptor") {
		return nil, fmt.Errorf("begins with %q: it is no SAML 2.0 metadata (EntityDescriptor)", clean(root.Tag))
	}
	var all []*etree.Element
	_ = walk(root, func(e *etree.Element) error {
		if is(e, nsMetadata, "EntityDescriptor") {
			all = append(all, e)
		}
		return nil
	})
	if len(all) != 1 {
		return nil, fmt.Errorf("describes %d entities: keep the one EntityDescriptor of your identity provider", len(all))
	}
	return all[0], nil
}

// maxEntity is Core's, section 8.3.6.
const maxEntity = 1024

func checkEntity(entity string) error {
	switch {
	case entity == "":
		return errors.New("has no entityID")
	case len(entity) > maxEntity || strings.ContainsFunc(entity, unprintable):
		return errors.New("has an entityID that is longer than 1,024 bytes or holds white space")
	}
	return nil
}

func unprintable(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }

func redirectLocation(role *etree.Element) (string, error) {
	var bindings []string
	for _, s := range children(role, nsMetadata, "SingleSignOnService") {
		binding := attr(s, "Binding")
		if binding == saml2.BindingHttpRedirect {
			location := attr(s, "Location")
			return location, checkLocation(location)
		}
		bindings = append(bindings, binding[strings.LastIndex(binding, ":")+1:])
	}
	if len(bindings) == 0 {
		return "", errors.New("names no SingleSignOnService")
	}
	return "", fmt.Errorf("offers single sign-on by %s alone: turn on HTTP-Redirect at the identity provider", clean(strings.Join(bindings, ", ")))
}

func checkLocation(location string) error {
	if _, err := api.HTTPSURL(location, true); err != nil {
		return fmt.Errorf("has a single sign-on address that can't be used: %w", err)
	}
	return nil
}

// readKeys takes every key that the identity provider may sign by, so that it can
// change them. Of a chain in one X509Data the first is its key; those above are
// authorities, which must not speak for it.
func (p *idp) readKeys(role *etree.Element) error {
	var faults []string
	for _, k := range children(role, nsMetadata, "KeyDescriptor") {
		if use := attr(k, "use"); use != "" && use != "signing" {
			continue
		}
		for _, info := range children(k, nsSignature, dsig.KeyInfoTag) {
			for _, data := range children(info, nsSignature, dsig.X509DataTag) {
				all := children(data, nsSignature, dsig.X509CertificateTag)
				if len(all) == 0 {
					continue
				}
				s, _ := text(all[0])
				cert, err := readCertificate(s)
				if err == nil {
					err = checkKey(cert)
				}
				if err != nil {
					faults = append(faults, err.Error())
				} else if !slices.ContainsFunc(p.certs, cert.Equal) {
					p.certs = append(p.certs, cert)
				}
			}
		}
	}
	switch {
	case len(p.certs) == 0 && len(faults) > 0:
		return fmt.Errorf("has no signing certificate that is taken: %s", strings.Join(faults, "; "))
	case len(p.certs) == 0:
		return errors.New("has no signing certificate: without one nothing that it says can be believed")
	case len(p.certs) > maxCertificates:
		return fmt.Errorf("has %d signing certificates, at most %d are taken", len(p.certs), maxCertificates)
	}
	for _, f := range faults {
		p.warnings = append(p.warnings, "a signing certificate of the identity provider is left out: "+f)
	}
	return nil
}

func readCertificate(s string) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.DecodeString(squeeze(s))
	if err != nil {
		return nil, errors.New("a certificate is no base64")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("a certificate can't be read")
	}
	return cert, nil
}

// expired names certificates that are past. They count all the same: metadata gives
// keys (SAML V2.0 Metadata Interoperability Profile, section 2.6.1).
func (p *idp) expired(now time.Time) []string {
	var out []string
	for _, c := range p.certs {
		if now.After(c.NotAfter) {
			out = append(out, fmt.Sprintf("a signing certificate of the identity provider ended on %s; its key counts until the metadata leaves it out", c.NotAfter.UTC().Format(time.DateOnly)))
		}
	}
	return out
}

// Metadata describes Sallyport to the identity provider.
func (p *Provider) Metadata() ([]byte, error) {
	doc := etree.NewDocument()
	doc.CreateProcInst("xml", `version="1.0" encoding="UTF-8"`)
	root := doc.CreateElement("md:EntityDescriptor")
	root.CreateAttr("xmlns:md", nsMetadata)
	root.CreateAttr("xmlns:ds", nsSignature)
	root.CreateAttr("entityID", p.self)
	role := root.CreateElement("md:SPSSODescriptor")
	if p.signing != nil {
		role.CreateAttr("AuthnRequestsSigned", "true")
	}
	role.CreateAttr("WantAssertionsSigned", "true")
	role.CreateAttr("protocolSupportEnumeration", nsProtocol)
	if p.signing != nil {
		addKey(role, "signing", p.signing.Certificate[0])
	}
	if p.decrypting != nil {
		key := addKey(role, "encryption", p.decrypting.Certificate[0])
		for _, alg := range []string{saml2types.MethodAES128GCM, saml2types.MethodAES256GCM, saml2types.MethodRSAOAEP} {
			key.CreateElement("md:EncryptionMethod").CreateAttr("Algorithm", alg)
		}
	}
	acs := role.CreateElement("md:AssertionConsumerService")
	acs.CreateAttr("Binding", saml2.BindingHttpPost)
	acs.CreateAttr("Location", p.acs)
	acs.CreateAttr("index", "0")
	acs.CreateAttr("isDefault", "true")
	doc.Indent(2)
	return doc.WriteToBytes()
}

func addKey(role *etree.Element, use string, der []byte) *etree.Element {
	key := role.CreateElement("md:KeyDescriptor")
	key.CreateAttr("use", use)
	key.CreateElement("ds:KeyInfo").CreateElement("ds:X509Data").CreateElement("ds:X509Certificate").SetText(base64.StdEncoding.EncodeToString(der))
	return key
}
