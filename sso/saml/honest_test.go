package saml

import (
	"crypto"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dsig "github.com/russellhaering/goxmldsig"

	"github.com/sallyport-dev/sallyport/sso"
)

func TestAnswersOfProductsAreTaken(t *testing.T) {
	p := provider(t, connector(t))
	for _, product := range products() {
		for _, shape := range shapeNames() {
			t.Run(product+", "+shape, func(t *testing.T) {
				doc := honest().document(t, product)
				shapes()[shape](t, asProduct(t, product, "idp"), doc)
				id, err := finish(t, p, written(t, doc))
				if err != nil {
					t.Fatal(err)
				}
				attrs := map[string][]string{"uid": {"alice"}, "groups": {"devs", "ops"}}
				if product == "keycloak" {
					attrs["urn:oid:0.9.2342.19200300.100.1.1"] = []string{"alice"}
				}
				if d := cmp.Diff(attrs, id.Attributes); d != "" {
					t.Error(d)
				}
				if id.Subject != testEntity+" persistent alice@example.com" || id.Username != "alice@example.com" {
					t.Errorf("%q %q", id.Subject, id.Username)
				}
				if !id.Expires.Equal(testNow().Add(8*time.Hour)) || !id.UseUntil.Equal(testNow().Add(5*time.Minute+sso.MaxSkew)) {
					t.Errorf("expires %s, used until %s", id.Expires, id.UseUntil)
				}
			})
		}
	}
}

// threats.md: an assertion that was used is refused on every replica, however it
// comes again: whoever keeps UseOnce sees the same.
func TestOneAssertionIsOneUseHoweverItIsWrapped(t *testing.T) {
	p := provider(t, connector(t))
	uses := map[string][]string{}
	for _, shape := range shapeNames() {
		id, err := finish(t, p, written(t, honestDoc(t, shape)))
		if err != nil {
			t.Fatal(err)
		}
		uses[id.UseOnce] = append(uses[id.UseOnce], shape)
	}
	if len(uses) != 1 {
		t.Errorf("uses differ: %v", uses)
	}
	for use := range uses {
		if entity, id, ok := strings.Cut(use, "\x00"); !ok || entity != testEntity || id == "" {
			t.Errorf("got %q", use)
		}
	}
	doc := honest().document(t, "google") // another ID
	shapes()["both"](t, asProduct(t, "google", "idp"), doc)
	id, err := finish(t, p, written(t, doc))
	if err != nil || uses[id.UseOnce] != nil {
		t.Errorf("another assertion is the same use: %v, %v", id, err)
	}
}

func TestStrongAlgorithmsAreTaken(t *testing.T) {
	for _, c := range []struct {
		key, method string
		hash        crypto.Hash
	}{
		{"idp", dsig.RSASHA256SignatureMethod, crypto.SHA256},
		{"idp", dsig.RSASHA384SignatureMethod, crypto.SHA384},
		{"idp", dsig.RSASHA512SignatureMethod, crypto.SHA512},
		{"ecdsa", dsig.ECDSASHA256SignatureMethod, crypto.SHA256},
		{"ecdsa", dsig.ECDSASHA384SignatureMethod, crypto.SHA384},
	} {
		t.Run(c.method, func(t *testing.T) {
			doc := honest().document(t, "simplesamlphp")
			signer{key: keyOf(t, c.key), method: c.method, hash: c.hash, prefix: "ds"}.sign(t, assertionOf(doc))
			if _, err := finish(t, provider(t, connector(t, "idp", "ecdsa")), written(t, doc)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A new key is announced beside the old one, and either may sign.
func TestAnyKeyOfTheMetadataCounts(t *testing.T) {
	p := provider(t, connector(t, "idp", "rollover"))
	for _, key := range []string{"idp", "rollover"} {
		doc := honest().document(t, "keycloak")
		asProduct(t, "keycloak", key).sign(t, assertionOf(doc))
		if _, err := finish(t, p, written(t, doc)); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// threats.md: clocks that differ by up to three minutes work, beyond is named.
func TestClocksMayDifferByThreeMinutes(t *testing.T) {
	now := testNow()
	const skewed = "the clocks of the identity provider and of Sallyport differ by more than 3m0s"
	for name, c := range map[string]struct {
		change func(a *answer)
		want   string
	}{
		"begins in 3m":        {func(a *answer) { a.Begin = stamp(now.Add(3 * time.Minute)) }, ""},
		"begins in 3m1s":      {func(a *answer) { a.Begin = stamp(now.Add(3*time.Minute + time.Second)) }, skewed + ": its assertion counts from"},
		"ended 2m59s ago":     {func(a *answer) { a.End = stamp(now.Add(-3*time.Minute + time.Second)) }, ""},
		"ended 3m ago":        {func(a *answer) { a.End = stamp(now.Add(-3 * time.Minute)) }, skewed + ": its answer counted until"},
		"session ended 2m59s": {func(a *answer) { a.SessionEnd = stamp(now.Add(-3*time.Minute + time.Second)) }, ""},
		"session ended 3m":    {func(a *answer) { a.SessionEnd = stamp(now.Add(-3 * time.Minute)) }, skewed + ": the session there ended"},
		"logged in in 3m1s":   {func(a *answer) { a.Now = stamp(now.Add(3*time.Minute + time.Second)) }, skewed + ": its user logged in at"},
		"fractions of time":   {func(a *answer) { a.End = now.Add(time.Minute).Format("2006-01-02T15:04:05.000Z") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := honest()
			c.change(a)
			doc := a.document(t, "simplesamlphp")
			asProduct(t, "simplesamlphp", "idp").sign(t, assertionOf(doc))
			_, err := finish(t, provider(t, connector(t)), written(t, doc))
			mustSay(t, err, c.want)
		})
	}
}

// https://h and https://h:443 are equal in Destination and Recipient.
func TestDefaultPortsAndCaseOfHostsDoNotMatter(t *testing.T) {
	a := honest()
	a.Destination = "https://Sallyport.example.com:443/v1/webapi/saml/acs"
	a.Recipient, a.Audience = a.Destination, a.Destination
	doc := a.document(t, "okta")
	shapes()["both"](t, asProduct(t, "okta", "idp"), doc)
	if _, err := finish(t, provider(t, connector(t)), written(t, doc)); err != nil {
		t.Error(err)
	}
}

func TestWhatMakesAPerson(t *testing.T) {
	entity := testEntity + " "
	for name, c := range map[string]struct {
		change func(a *answer)
		key    string
		err    string
	}{
		"persistent":          {func(*answer) {}, entity + "persistent alice@example.com", ""},
		"emailAddress":        {func(a *answer) { a.Format = formatsSAML1 + "emailAddress" }, entity + "emailAddress alice@example.com", ""},
		"no format":           {func(a *answer) { a.Format = "" }, entity + "unspecified alice@example.com", ""},
		"another's qualifier": {func(a *answer) { a.Self = "https://other.example.com" }, entity + "persistent?spnq=https%3A%2F%2Fother.example.com alice@example.com", ""},
		"entity in CDATA":     {func(a *answer) { a.NameID = "al<![CDATA[ice]]>@example.com" }, entity + "persistent alice@example.com", ""},
		"transient":           {func(a *answer) { a.Format = formatTransient }, "", "(NameID of the format transient): make it send a NameID of the format persistent or emailAddress"},
		"encrypted":           {func(a *answer) { a.Format = formatEncrypted }, "", "(NameID of the format encrypted): make it send"},
		"empty":               {func(a *answer) { a.NameID = " " }, "", "its NameID is empty"},
		"long":                {func(a *answer) { a.NameID = strings.Repeat("a", 257) }, "", "longer than 256 bytes"},
		"control":             {func(a *answer) { a.NameID = "alice&#9;x" }, "", "holds what can't be read"},
		"bidi":                {func(a *answer) { a.NameID = "alice\u202ex" }, "", "holds what can't be read"},
		"elements":            {func(a *answer) { a.NameID = "<b>alice</b>" }, "", "holds what can't be read"},
		"format with a space": {func(a *answer) { a.Format = "persistent admin" }, "", "the format or a qualifier"},
	} {
		t.Run(name, func(t *testing.T) {
			a := honest()
			c.change(a)
			doc := a.document(t, "simplesamlphp")
			asProduct(t, "simplesamlphp", "idp").sign(t, assertionOf(doc))
			id, err := finish(t, provider(t, connector(t)), written(t, doc))
			mustSay(t, err, c.err)
			if err == nil && id.Subject != c.key {
				t.Errorf("got %q, want %q", id.Subject, c.key)
			}
		})
	}
}

func TestUsernameAttribute(t *testing.T) {
	for name, want := range map[string]string{"uid": "", "groups": `sent 2 values of "groups"`, "mail": `sent 0 values of "mail"`} {
		c := connector(t)
		c.Spec.UsernameAttribute = name
		id, err := finish(t, provider(t, c), written(t, honestDoc(t, "both")))
		mustSay(t, err, want)
		if err == nil && (id.Username != "alice" || !strings.HasSuffix(id.Subject, " alice@example.com")) {
			t.Errorf("%s: %q %q", name, id.Username, id.Subject)
		}
	}
}

func TestAttributesByNameAndFriendlyName(t *testing.T) {
	a := honest()
	a.More = `<saml:Attribute Name="urn:1" FriendlyName="mail"><saml:AttributeValue>a@example.com</saml:AttributeValue></saml:Attribute>` +
		// Two of one friendly name: neither is it.
		`<saml:Attribute Name="urn:2" FriendlyName="role"><saml:AttributeValue>x</saml:AttributeValue></saml:Attribute>` +
		`<saml:Attribute Name="urn:3" FriendlyName="role"><saml:AttributeValue>y</saml:AttributeValue></saml:Attribute>` +
		// A friendly name that is another's name.
		`<saml:Attribute Name="urn:4" FriendlyName="groups"><saml:AttributeValue>admins</saml:AttributeValue></saml:Attribute>` +
		// Values that are no text.
		`<saml:Attribute Name="targeted"><saml:AttributeValue><saml:NameID>root</saml:NameID></saml:AttributeValue></saml:Attribute>` +
		`<saml:Attribute Name="urn:5" FriendlyName="targeted"><saml:AttributeValue>root</saml:AttributeValue></saml:Attribute>` +
		`<saml:Attribute Name="bad"><saml:AttributeValue>a&#10;b</saml:AttributeValue></saml:Attribute>`
	doc := a.document(t, "simplesamlphp")
	asProduct(t, "simplesamlphp", "idp").sign(t, assertionOf(doc))
	id, err := finish(t, provider(t, connector(t)), written(t, doc))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"uid": {"alice"}, "groups": {"devs", "ops"}, "urn:1": {"a@example.com"}, "mail": {"a@example.com"},
		"urn:2": {"x"}, "urn:3": {"y"}, "urn:4": {"admins"}, "urn:5": {"root"},
	}
	if d := cmp.Diff(want, id.Attributes); d != "" {
		t.Error(d)
	}
}

func TestAThousandGroupsAreTaken(t *testing.T) {
	const maxValues = 1000 // of sso.Clean
	a := honest()
	var b strings.Builder
	for i := range maxValues {
		fmt.Fprintf(&b, `<saml:AttributeValue>group-%04d</saml:AttributeValue>`, i)
	}
	a.More = `<saml:Attribute Name="many">` + b.String() + `</saml:Attribute>`
	for _, shape := range shapeNames() {
		doc := a.document(t, "simplesamlphp")
		shapes()[shape](t, asProduct(t, "simplesamlphp", "idp"), doc)
		id, err := finish(t, provider(t, connector(t)), written(t, doc))
		if err != nil {
			t.Errorf("%s: %v", shape, err)
		} else if n := len(id.Attributes["many"]); n != maxValues {
			t.Errorf("%s: %d groups", shape, n)
		}
	}
}

// The identity provider's own no reaches the person, without what a terminal or a log
// would stumble over.
func TestTheIdentityProvidersNoIsPassedOn(t *testing.T) {
	const no = `<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" ID="_r" Version="2.0" InResponseTo="%s" Destination="%s"><samlp:Status>` +
		`<samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Responder"><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:RequestDenied"/></samlp:StatusCode>` +
		`<samlp:StatusMessage>alice is` + "\u202e" + `&#10; not  assigned</samlp:StatusMessage></samlp:Status></samlp:Response>`
	p := provider(t, connector(t))
	_, err := finish(t, p, fmt.Sprintf(no, testFlow().RequestID(), testACS))
	mustSay(t, err, "the identity provider refuses the login: Responder, RequestDenied: alice is not assigned")
	_, err = finish(t, p, fmt.Sprintf(no, "_other", testACS)) // anybody's words, then
	mustSay(t, err, "answers another login")
}

func TestLinesOfBase64AreTaken(t *testing.T) {
	raw := base64.StdEncoding.EncodeToString([]byte(written(t, honestDoc(t, "response"))))
	var b strings.Builder
	for len(raw) > 64 {
		b.WriteString(raw[:64] + "\r\n")
		raw = raw[64:]
	}
	b.WriteString(raw + "\r\n")
	f := form("")
	f.Set("SAMLResponse", b.String())
	if _, err := provider(t, connector(t)).Finish(t.Context(), testFlow(), f); err != nil {
		t.Error(err)
	}
}

func mustSay(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("taken, want %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("got %q, want %q", err, want)
	}
}
