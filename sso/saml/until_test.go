package saml

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// validFor is metadata with an end.
func validFor(t testing.TB, until time.Time, key string) string {
	return strings.Replace(descriptor(t, testEntity, key), "<md:EntityDescriptor ", `<md:EntityDescriptor validUntil="`+stamp(until)+`" `, 1)
}

// wantPast is a login that metadata with a past validUntil has stopped.
func wantPast(t *testing.T, p *Provider, want string) {
	t.Helper()
	_, started := p.Start(t.Context(), testFlow())
	_, finished := finish(t, p, signedBy(t, "idp"))
	for _, err := range []error{started, finished} {
		mustSay(t, err, want)
		if !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("%v (%s)", err, api.CodeOf(err))
		}
	}
}

func TestPastedMetadataEndsWithItsValidUntil(t *testing.T) {
	at := testNow()
	o := testOptions()
	o.Clock = func() time.Time { return at }
	doc := connector(t)
	doc.Spec.EntityDescriptor = validFor(t, testNow().Add(time.Hour), "idp")
	p, err := New(doc, api.ConnectorFacts{}, o)
	if err != nil {
		t.Fatal(err)
	}
	at = testNow().Add(time.Hour + sso.MaxSkew)
	if _, err := p.Start(t.Context(), testFlow()); err != nil {
		t.Error(err)
	}
	at = at.Add(time.Second)
	wantPast(t, p, "was valid until 2026-11-23T13:00:00Z only (validUntil): an administrator puts the present one into spec.entity_descriptor")
}

func TestFetchedMetadataEndsWithItsValidUntilUnlessThereIsNewer(t *testing.T) {
	m := newMetadataServer(t, validFor(t, testNow().Add(10*time.Minute), "idp"))
	p, tick := fetched(t, m)
	if _, err := finish(t, p, signedBy(t, "idp")); err != nil {
		t.Fatal(err)
	}
	// From its end on newer metadata is looked for, once a minute, hour or no hour.
	tick(11 * time.Minute)
	for range 3 {
		if _, err := p.Start(t.Context(), testFlow()); err != nil {
			t.Fatal(err) // within sso.MaxSkew
		}
	}
	if n := m.asked.Load(); n != 3 {
		t.Errorf("asked %d times", n)
	}
	tick(3 * time.Minute)
	wantPast(t, p, "and spec.entity_descriptor_url gives no newer: an administrator has the identity provider renew it")
	m.doc.Store(validFor(t, testNow().Add(time.Hour), "rollover"))
	tick(time.Minute)
	if _, err := p.Start(t.Context(), testFlow()); err != nil || !p.current().certs[0].Equal(keyOf(t, "rollover").Leaf) {
		t.Errorf("the new metadata is not used: %v", err)
	}
}
