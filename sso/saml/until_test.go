package saml

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
	wantPast(t, p, "and spec.entity_descriptor_url gave no newer (why is in the log): an administrator has the identity provider renew it, or mends that address")
	m.doc.Store(validFor(t, testNow().Add(time.Hour), "rollover"))
	tick(time.Minute)
	if _, err := p.Start(t.Context(), testFlow()); err != nil || !p.current().certs[0].Equal(keyOf(t, "rollover").Leaf) {
		t.Errorf("the new metadata is not used: %v", err)
	}
}

// slowly serves a document after a second of a bubble's time.
type slowly string

func (s slowly) RoundTrip(*http.Request) (*http.Response, error) {
	time.Sleep(time.Second) // in a bubble
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(s)))}, nil
}

// Whoever logs in while another fetches the metadata that both need waits for it, and
// is not refused for what is past.
func TestLoginsWaitForMetadataThatIsPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := connector(t)
		doc.Spec.EntityDescriptor, doc.Spec.EntityDescriptorURL = "", "https://idp.example.com/metadata"
		facts := api.ConnectorFacts{EntityDescriptor: validFor(t, testNow().Add(-time.Hour), "idp")}
		o := testOptions()
		o.HTTP = sso.NewClient(slowly(validFor(t, testNow().Add(time.Hour), "idp")))
		p, err := New(doc, facts, o)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := p.Start(t.Context(), testFlow()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s", took)
		}
	})
}
