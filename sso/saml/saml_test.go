package saml

import (
	"compress/flate"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

func TestStartAsksForThisLoginWithASignature(t *testing.T) {
	p, f := provider(t, connector(t)), testFlow()
	address, err := p.Start(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Scheme != "https" || u.Host != "idp.example.com" || u.Path != "/sso" || q.Get("realm") != "x" || q.Get("RelayState") != f.ID {
		t.Errorf("goes to %s", address)
	}
	// Bindings, section 3.4.4.1: what is signed is the query as it was sent, in this order.
	var sent []string
	for _, name := range []string{"SAMLRequest", "RelayState", "SigAlg"} {
		for part := range strings.SplitSeq(u.RawQuery, "&") {
			if strings.HasPrefix(part, name+"=") {
				sent = append(sent, part)
			}
		}
	}
	sum := sha256.Sum256([]byte(strings.Join(sent, "&")))
	sig, err := base64.StdEncoding.DecodeString(q.Get("Signature"))
	if err == nil {
		err = rsa.VerifyPKCS1v15(keyOf(t, "sp").Leaf.PublicKey.(*rsa.PublicKey), crypto.SHA256, sum[:], sig)
	}
	if err != nil || q.Get("SigAlg") != "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256" {
		t.Errorf("%v, %s", err, q.Get("SigAlg"))
	}
	packed, err := base64.StdEncoding.DecodeString(q.Get("SAMLRequest"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(flate.NewReader(strings.NewReader(string(packed))))
	if err != nil {
		t.Fatal(err)
	}
	e := readDoc(t, string(raw)).Root()
	for name, want := range map[string]string{
		"ID": f.RequestID(), "AssertionConsumerServiceURL": testACS, "Destination": "https://idp.example.com/sso?realm=x",
		"Version": "2.0", "IssueInstant": "2026-11-23T12:00:00Z", "ForceAuthn": "", "ProtocolBinding": "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST",
	} {
		if got := attr(e, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if issuer, _ := text(children(e, nsAssertion, "Issuer")[0]); issuer != testACS {
		t.Errorf("issuer %q", issuer)
	}
	if policy := children(e, nsProtocol, "NameIDPolicy")[0]; attr(policy, "Format") != "" {
		t.Error("a format of names is asked for")
	}
}

func TestStartWithoutAKeyIsNotSigned(t *testing.T) {
	c := connector(t)
	c.Spec.SigningKeyPair = nil
	address, err := provider(t, c).Start(t.Context(), testFlow())
	if err != nil || strings.Contains(address, "Signature=") {
		t.Errorf("%s, %v", address, err)
	}
}

// metadataServer serves metadata that tests change.
type metadataServer struct {
	*httptest.Server
	doc    atomic.Value // string
	status atomic.Int32
	asked  atomic.Int32
}

func newMetadataServer(t *testing.T, doc string) *metadataServer {
	t.Helper()
	m := &metadataServer{}
	m.doc.Store(doc)
	m.status.Store(http.StatusOK)
	m.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		m.asked.Add(1)
		w.WriteHeader(int(m.status.Load()))
		_, _ = io.WriteString(w, m.doc.Load().(string))
	}))
	t.Cleanup(m.Close)
	return m
}

// fetched is a connector whose metadata comes from m, and the hand of its clock.
func fetched(t *testing.T, m *metadataServer) (*Provider, func(d time.Duration)) {
	t.Helper()
	c := connector(t)
	c.Spec.EntityDescriptor, c.Spec.EntityDescriptorURL = "", m.URL
	var mu sync.Mutex
	at := testNow()
	o := testOptions()
	o.HTTP = sso.NewClient(m.Client().Transport)
	o.Clock = func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	facts, _, err := Probe(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	if facts.EntityDescriptor != m.doc.Load() {
		t.Fatal("the facts do not hold the metadata")
	}
	p, err := New(c, facts, o)
	if err != nil {
		t.Fatal(err)
	}
	return p, func(d time.Duration) { mu.Lock(); defer mu.Unlock(); at = at.Add(d) }
}

func signedBy(t *testing.T, key string) string {
	t.Helper()
	doc := honest().document(t, "okta")
	asProduct(t, "okta", key).sign(t, assertionOf(doc))
	return written(t, doc)
}

// A new key of the identity provider is noticed by the first answer it signs, and
// strangers with keys of their own can't make us ask more than once a minute.
func TestAnUnknownKeyHasMetadataFetchedOnceAMinute(t *testing.T) {
	m := newMetadataServer(t, descriptor(t, testEntity, "idp"))
	p, tick := fetched(t, m)
	if _, err := finish(t, p, signedBy(t, "idp")); err != nil {
		t.Fatal(err)
	}
	if n := m.asked.Load(); n != 2 { // Probe, and the first use: the facts may be old
		t.Fatalf("asked %d times", n)
	}
	m.doc.Store(descriptor(t, testEntity, "rollover"))
	_, err := finish(t, p, signedBy(t, "rollover"))
	mustSay(t, err, "no known key")
	tick(time.Minute)
	if _, err = finish(t, p, signedBy(t, "rollover")); err != nil {
		t.Error(err)
	}
	_, err = finish(t, p, signedBy(t, "idp")) // which the metadata has left out
	mustSay(t, err, "no known key")
	for range 5 {
		_, err = finish(t, p, signedBy(t, "other"))
		mustSay(t, err, "no known key")
	}
	if n := m.asked.Load(); n != 3 {
		t.Errorf("asked %d times", n)
	}
}

// Whether an encrypted answer could be opened must not be told by what we do next
// either: a new key within is noticed at the hourly refresh.
func TestAnUnknownKeyWithinAnEncryptedAnswerHasNothingFetched(t *testing.T) {
	m := newMetadataServer(t, descriptor(t, testEntity, "idp"))
	p, tick := fetched(t, m)
	if _, err := p.Start(t.Context(), testFlow()); err != nil {
		t.Fatal(err)
	}
	m.doc.Store(descriptor(t, testEntity, "rollover"))
	doc := honest().document(t, "okta")
	asProduct(t, "okta", "rollover").sign(t, assertionOf(doc))
	encryptAssertion(t, doc, keyOf(t, "sp").Leaf, false)
	tick(time.Minute)
	_, err := finish(t, p, written(t, doc))
	mustSay(t, err, errEncrypted.Error())
	if n := m.asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	// A signed response is verified before anything is opened, and may have it fetched.
	asProduct(t, "okta", "rollover").sign(t, doc.Root())
	if _, err = finish(t, p, written(t, doc)); err != nil {
		t.Error(err)
	}
}

func TestMetadataIsFetchedHourlyAndTheOldStaysWhenItCantBe(t *testing.T) {
	m := newMetadataServer(t, descriptor(t, testEntity, "idp"))
	p, tick := fetched(t, m)
	start := func() {
		t.Helper()
		if _, err := p.Start(t.Context(), testFlow()); err != nil {
			t.Fatal(err)
		}
	}
	start()
	tick(59 * time.Minute)
	start()
	if n := m.asked.Load(); n != 2 {
		t.Errorf("asked %d times within the hour", n)
	}
	for name, change := range map[string]func(){
		"500":     func() { m.status.Store(http.StatusInternalServerError) },
		"another": func() { m.doc.Store(descriptor(t, "https://evil.example.com", "other")) },
		"http": func() {
			m.doc.Store(strings.ReplaceAll(descriptor(t, testEntity, "other"), "https://idp", "http://idp"))
		},
		"past": func() {
			m.doc.Store(strings.Replace(descriptor(t, testEntity, "other"), "<md:EntityDescriptor ", `<md:EntityDescriptor validUntil="2020-01-01T00:00:00Z" `, 1))
		},
		"huge": func() { m.doc.Store(strings.Repeat(" ", 2<<20)) },
	} {
		m.status.Store(http.StatusOK)
		change()
		tick(time.Hour)
		start()
		if p.current().entity != testEntity || !p.current().certs[0].Equal(keyOf(t, "idp").Leaf) {
			t.Errorf("%s: what was known is gone", name)
		}
	}
	m.status.Store(http.StatusOK)
	m.doc.Store(descriptor(t, testEntity, "rollover"))
	tick(time.Hour)
	start()
	if !p.current().certs[0].Equal(keyOf(t, "rollover").Leaf) {
		t.Error("the new metadata is not used")
	}
}

func TestMetadataThatCantBeFetchedIsNotSaved(t *testing.T) {
	m := newMetadataServer(t, "")
	m.status.Store(http.StatusNotFound)
	c := connector(t)
	c.Spec.EntityDescriptor, c.Spec.EntityDescriptorURL = "", m.URL
	o := testOptions()
	o.HTTP = sso.NewClient(m.Client().Transport)
	_, _, err := Probe(t.Context(), c, o)
	mustSay(t, err, "it answered 404 Not Found): mend the address, or paste it into spec.entity_descriptor")
	m.status.Store(http.StatusOK)
	m.doc.Store(strings.Replace(descriptor(t, testEntity, "idp"), "as products", strings.Repeat("x", api.MaxEntityDescriptor), 1))
	_, _, err = Probe(t.Context(), c, o)
	mustSay(t, err, "want that of one identity provider, not of a federation")
	_, err = New(c, api.ConnectorFacts{}, o)
	mustSay(t, err, "its metadata was never fetched")
}

func TestManyAnswersAtOnce(t *testing.T) {
	m := newMetadataServer(t, descriptor(t, testEntity, "idp"))
	p, _ := fetched(t, m)
	good, bad := signedBy(t, "idp"), signedBy(t, "other")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := finish(t, p, good); err != nil {
				t.Error(err)
			}
			if _, err := finish(t, p, bad); err == nil {
				t.Error("taken")
			}
			if _, err := p.Start(t.Context(), testFlow()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestCheckAsksTheLoginAddress(t *testing.T) {
	status := http.StatusFound
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://login.example.com/")
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	o := testOptions()
	o.HTTP = sso.NewClient(s.Client().Transport)
	p, err := New(byHand(t, testEntity, s.URL+"/sso?secret=x", pairOf(t, "idp").Cert), api.ConnectorFacts{}, o)
	if err != nil {
		t.Fatal(err)
	}
	for code, want := range map[int]string{http.StatusFound: "", http.StatusBadRequest: "", http.StatusInternalServerError: "", http.StatusBadGateway: "it answered 502"} {
		status = code
		err := p.Check(t.Context())
		mustSay(t, err, want)
		if err != nil && (!api.IsCode(err, api.CodeUnavailable) || strings.Contains(err.Error(), "secret")) {
			t.Error(err)
		}
	}
	s.Close()
	if err := p.Check(t.Context()); !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("got %v", err)
	}
}
