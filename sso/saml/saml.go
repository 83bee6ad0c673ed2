package saml

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	saml2 "github.com/russellhaering/gosaml2"
	dsig "github.com/russellhaering/goxmldsig"
	"golang.org/x/sync/semaphore"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

const (
	refreshEvery = time.Hour
	// refreshUrgent is how soon an unknown key, or an end that has come, may have
	// metadata fetched again.
	refreshUrgent = time.Minute
	// refreshWait leaves a login time to go on with what is known.
	refreshWait   = 5 * time.Second
	metadataTypes = "application/samlmetadata+xml, application/xml;q=0.9, text/xml;q=0.8"
)

// Provider implements sso.Provider for a SAML connector. It remembers metadata that
// it fetched: one Provider for the life of a connector's revision, not one a login.
type Provider struct {
	name string // of the connector
	o    sso.Options
	http *http.Client
	// acs is where answers come to, self our entity id.
	acs, audience, self, username string
	signing, decrypting           *tls.Certificate // nil: none

	descriptorURL string              // "": the metadata never changes
	asking        *semaphore.Weighted // held by who fetches it, who may touch asked
	asked         time.Time           // when it was last fetched, or tried to be

	mu  sync.Mutex
	idp *idp
}

var _ sso.Provider = (*Provider)(nil)

// New makes the provider of a document that is valid, says all that it may leave out,
// and that Probe has judged. It asks nobody.
func New(doc *api.SAMLConnector, facts api.ConnectorFacts, o sso.Options) (*Provider, error) {
	spec := &doc.Spec
	p := &Provider{
		name: doc.Metadata.Name, o: o, http: o.Client(), asking: semaphore.NewWeighted(1),
		acs: spec.ACS, audience: spec.Audience, self: spec.ServiceProviderIssuer, username: spec.UsernameAttribute,
		descriptorURL: spec.EntityDescriptorURL,
	}
	var err error
	if p.idp, err = identityProvider(spec, facts); err != nil {
		return nil, fault(doc, err)
	}
	pair, path := spec.SigningKeyPair, "spec.signing_key_pair"
	if pair == nil {
		pair = facts.SigningKeyPair
	}
	if p.signing, err = readPair(path, pair); err != nil {
		return nil, fault(doc, err)
	}
	if p.decrypting, err = readPair("spec.assertion_key_pair", spec.AssertionKeyPair); err != nil {
		return nil, fault(doc, err)
	}
	return p, nil
}

// fault is err, a *api.FieldError, for who wrote the document.
func fault(doc *api.SAMLConnector, err error) error {
	return api.Errorf(api.CodeInvalid, "%s %q: %w", api.KindSAML, doc.Metadata.Name, err)
}

// identityProvider reads who it is, from wherever the document says it.
func identityProvider(spec *api.SAMLSpec, facts api.ConnectorFacts) (*idp, error) {
	raw, path := spec.EntityDescriptor, "spec.entity_descriptor"
	if spec.EntityDescriptorURL != "" {
		raw, path = facts.EntityDescriptor, "spec.entity_descriptor_url"
		if raw == "" {
			return nil, &api.FieldError{Path: path, Reason: "its metadata was never fetched: save the connector again"}
		}
	}
	if raw != "" {
		p, err := readDescriptor(raw)
		if err != nil {
			return nil, &api.FieldError{Path: path, Reason: err.Error()}
		}
		return p, nil
	}
	p := &idp{entity: spec.Issuer, location: spec.SSO}
	for rest := []byte(spec.Cert); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, &api.FieldError{Path: "spec.cert", Reason: "holds something else than certificates"}
		}
		if err := checkKey(cert); err != nil {
			return nil, &api.FieldError{Path: "spec.cert", Reason: err.Error()}
		}
		p.certs = append(p.certs, cert)
	}
	if len(p.certs) == 0 || len(p.certs) > maxCertificates {
		return nil, &api.FieldError{Path: "spec.cert", Reason: fmt.Sprintf("holds %d certificates: the one that the identity provider signs by is needed, PEM", len(p.certs))}
	}
	return p, nil
}

// readPair reads a key pair of ours.
func readPair(path string, pair *api.KeyPair) (*tls.Certificate, error) {
	if pair == nil {
		return nil, nil
	}
	c, err := tls.X509KeyPair([]byte(pair.Cert), []byte(pair.PrivateKey))
	if err != nil { // its text may quote no key, yet says little: the cases are few
		return nil, &api.FieldError{Path: path, Reason: "its private_key and cert can't be read, or do not belong together"}
	}
	if c.Leaf == nil || c.Leaf.PublicKeyAlgorithm != x509.RSA {
		return nil, &api.FieldError{Path: path, Reason: "want an RSA key: identity providers know no other here"}
	}
	if err := checkKey(c.Leaf); err != nil {
		return nil, &api.FieldError{Path: path, Reason: err.Error()}
	}
	return &c, nil
}

// current is the identity provider as it is known now.
func (p *Provider) current() *idp {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idp
}

// usable is the identity provider as it is known now, renewed where that is due. Past
// its validUntil metadata counts no more, nor do the keys in it: nobody has promised
// them for longer.
func (p *Provider) usable(ctx context.Context) (*idp, error) {
	now := p.o.Now()
	known := p.current()
	p.refresh(ctx, !known.until.IsZero() && !now.Before(known.until))
	known = p.current()
	err := known.checkUntil(now)
	switch {
	case err == nil:
		return known, nil
	case p.descriptorURL != "":
		return nil, api.Errorf(api.CodeUnavailable, "the metadata of the identity provider %w, and spec.entity_descriptor_url gave no newer (why is in the log): an administrator has the identity provider renew it, or mends that address (connector %q)", err, p.name)
	}
	return nil, api.Errorf(api.CodeUnavailable, "the metadata of the identity provider %w: an administrator puts the present one into spec.entity_descriptor of connector %q", err, p.name)
}

// refresh fetches the metadata again if that is due. What fails, or is another's,
// leaves what is known. While one fetches it others go on with what is known, unless
// it is urgent: then they wait for it.
func (p *Provider) refresh(ctx context.Context, urgent bool) {
	if p.descriptorURL == "" {
		return
	}
	within := refreshEvery
	if urgent {
		within = refreshUrgent
		if p.asking.Acquire(ctx, 1) != nil {
			return
		}
	} else if !p.asking.TryAcquire(1) {
		return
	}
	defer p.asking.Release(1)
	now := p.o.Now()
	if since := now.Sub(p.asked); !p.asked.IsZero() && since >= 0 && since < within {
		return
	}
	p.asked = now
	// A browser that goes away must not take the attempt with it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshWait)
	defer cancel()
	old := p.current()
	fresh, err := fetch(ctx, p.http, p.descriptorURL, now)
	if err == nil && fresh.entity != old.entity {
		err = fmt.Errorf("it is of %q now, was of %q: save the connector again if that is right", clean(fresh.entity), old.entity)
	}
	if err != nil {
		p.o.Log().Warn("the metadata of an identity provider can't be fetched, what is known of it stays", slog.String("entity", old.entity), slog.Any("error", err))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idp = fresh
}

// fetch gets metadata that may be used now.
func fetch(ctx context.Context, client *http.Client, address string, now time.Time) (*idp, error) {
	raw, err := sso.Get(ctx, client, address, metadataTypes)
	if err != nil {
		return nil, sso.Unavailable(address, err)
	}
	p, err := readDescriptor(string(raw))
	if err != nil {
		return nil, err
	}
	if err := p.checkUntil(now); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *idp) checkUntil(now time.Time) error {
	if !p.until.IsZero() && now.After(p.until.Add(sso.MaxSkew)) {
		return fmt.Errorf("was valid until %s only (validUntil)", p.until.UTC().Format(time.RFC3339))
	}
	return nil
}

// Check implements sso.Provider. Whether we reach the identity provider says little
// here: only browsers have to.
func (p *Provider) Check(ctx context.Context) error {
	location := p.current().location
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
	if err != nil {
		return sso.Unavailable(location, err)
	}
	once := *p.http
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := once.Do(req)
	if err != nil {
		return sso.Unavailable(location, err)
	}
	_ = resp.Body.Close()
	// Asked without a request it may answer with an error of its own, and some do by 500.
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return sso.Unavailable(location, sso.StatusError(resp.StatusCode))
	}
	return nil
}

// Start implements sso.Provider: a signed AuthnRequest by HTTP-Redirect.
func (p *Provider) Start(ctx context.Context, f *sso.Flow) (string, error) {
	known, err := p.usable(ctx)
	if err != nil {
		return "", err
	}
	sp := &saml2.SAMLServiceProvider{
		IdentityProviderSSOURL:      known.location,
		AssertionConsumerServiceURL: p.acs,
		ServiceProviderIssuer:       p.self,
		SignAuthnRequests:           p.signing != nil,
		SignAuthnRequestsAlgorithm:  dsig.RSASHA256SignatureMethod,
		Clock:                       dsig.NewFakeClockAt(p.o.Now()),
	}
	if p.signing != nil {
		key, ok := p.signing.PrivateKey.(crypto.Signer)
		if !ok {
			return "", errors.New("the signing key can't sign")
		}
		if err := sp.SetSPSigningKeyStore(&saml2.KeyStore{Signer: key, Cert: p.signing.Certificate[0]}); err != nil {
			return "", err
		}
	}
	doc, err := sp.BuildAuthRequestDocumentNoSig() // the query is signed instead
	if err != nil {
		return "", err
	}
	doc.Root().CreateAttr("ID", f.RequestID()) // in place of the one that gosaml2 made up
	return sp.BuildAuthURLRedirect(f.ID, doc)
}

// Finish implements sso.Provider.
func (p *Provider) Finish(ctx context.Context, f *sso.Flow, answer url.Values) (*api.SSOIdentity, error) {
	raw, err := decode(f, answer)
	if err != nil {
		return nil, refuse(err)
	}
	known, err := p.usable(ctx)
	if err != nil {
		return nil, err
	}
	id, err := p.finish(known, f, raw)
	if errors.Is(err, errUnknownKey) { // it may have a new one
		p.refresh(ctx, true)
		if now := p.current(); now != known {
			id, err = p.finish(now, f, raw)
		}
	}
	if err != nil {
		return nil, refuse(err)
	}
	return id, nil
}

// finish judges an answer by what is known of the identity provider.
func (p *Provider) finish(from *idp, f *sso.Flow, raw []byte) (*api.SSOIdentity, error) {
	x := &expected{
		request: f.RequestID(), entity: from.entity, acs: p.acs, audience: p.audience, self: p.self, username: p.username, now: p.o.Now(),
	}
	root, err := parse(raw, false)
	if err != nil {
		return nil, err
	}
	v, err := open(root, from.certs, p.decrypting)
	if err != nil {
		return nil, err
	}
	if err := x.checkResponse(v); err != nil {
		return nil, err
	}
	if v.assertion == nil {
		return nil, errors.New("it holds no assertion")
	}
	return x.judge(v.assertion)
}

// refuse makes an error of this package one for the person who logs in.
func refuse(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	return api.Errorf(api.CodeUnauthenticated, "the answer of the identity provider is refused: %s", err)
}

// decode takes the answer out of the form. It is not compressed in this binding
// (Bindings, section 3.5.4), and never unpacked.
func decode(f *sso.Flow, answer url.Values) ([]byte, error) {
	if state := answer["RelayState"]; len(state) != 1 || state[0] != f.ID {
		return nil, errors.New("it belongs to another login (RelayState): log in again")
	}
	form := answer["SAMLResponse"]
	if len(form) != 1 || form[0] == "" {
		return nil, errors.New("the form has no SAMLResponse, or more than one")
	}
	// Some wrap lines, by two bytes in 64 at most.
	if len(form[0]) > base64.StdEncoding.EncodedLen(maxDocument)*66/64 {
		return nil, fmt.Errorf("it is larger than %d bytes", maxDocument)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(form[0]))
	if err != nil {
		return nil, errors.New("it is no base64")
	}
	return raw, nil
}
