package saml

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// FuzzResponse: whatever comes, nothing panics, and what is taken says only what the
// identity provider's key has signed.
func FuzzResponse(f *testing.F) {
	// Each product and each shape; all pairs of them are TestAnswersOfProductsAreTaken's.
	names := shapeNames()
	for i, product := range products() {
		doc := honest().document(f, product)
		shapes()[names[i%len(names)]](f, asProduct(f, product, "idp"), doc)
		f.Add(written(f, doc))
	}
	for _, shape := range names {
		f.Add(written(f, honestDoc(f, shape)))
	}
	for _, a := range attacks() {
		if s := a.doc(f); len(s) <= 16<<10 {
			f.Add(s)
		}
	}
	p := provider(f, connector(f))
	attrs := map[string][]string{"uid": {"alice"}, "groups": {"devs", "ops"}}
	f.Fuzz(func(t *testing.T, doc string) {
		id, err := finish(t, p, doc)
		if err != nil {
			if api.CodeOf(err) == api.CodeInternal || len(err.Error()) > 2000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%q", err)
			}
			return
		}
		delete(id.Attributes, "urn:oid:0.9.2342.19200300.100.1.1") // keycloak's
		if id.Username != "alice@example.com" || !strings.HasPrefix(id.Subject, testEntity+" ") || !strings.HasSuffix(id.Subject, " alice@example.com") || !cmp.Equal(attrs, id.Attributes) {
			t.Errorf("taken as %+v\n%s", id, doc)
		}
	})
}

// FuzzForm: the same for what is around the document.
func FuzzForm(f *testing.F) {
	f.Add("SAMLResponse=PGEvPg%3D%3D&RelayState=" + testFlow().ID)
	f.Add(form(written(f, honestDoc(f, "both"))).Encode())
	p := provider(f, connector(f))
	f.Fuzz(func(t *testing.T, query string) {
		v, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if id, err := p.Finish(t.Context(), testFlow(), v); err == nil && id.Username != "alice@example.com" {
			t.Errorf("taken as %+v", id)
		}
	})
}

// FuzzDescriptor: metadata that is taken has a key that counts and an https address,
// and its errors are fit to be shown.
func FuzzDescriptor(f *testing.F) {
	f.Add(descriptor(f, testEntity, "idp", "ecdsa"))
	for _, c := range descriptors(f) {
		f.Add(c.doc)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		p, err := readDescriptor(doc)
		if err != nil {
			return
		}
		u, err := url.Parse(p.location)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || p.entity == "" || len(p.certs) == 0 || strings.ContainsAny(p.entity, " \n") {
			t.Errorf("taken: %q %q %d", p.entity, p.location, len(p.certs))
		}
		for _, c := range p.certs {
			if err := checkKey(c); err != nil {
				t.Error(err)
			}
		}
	})
}
