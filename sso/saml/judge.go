package saml

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/beevik/etree"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

const (
	statusSuccess   = "urn:oasis:names:tc:SAML:2.0:status:Success"
	methodBearer    = "urn:oasis:names:tc:SAML:2.0:cm:bearer" //nolint:gosec // a name, no token
	formatEntity    = "urn:oasis:names:tc:SAML:2.0:nameid-format:entity"
	formatNone      = "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified"
	formatsSAML1    = "urn:oasis:names:tc:SAML:1.1:nameid-format:"
	formatsSAML2    = "urn:oasis:names:tc:SAML:2.0:nameid-format:"
	formatTransient = formatsSAML2 + "transient"
	formatEncrypted = formatsSAML2 + "encrypted"
	versionOfSAML   = "2.0"
	statusWordsMax  = 3 // levels of StatusCode that are quoted
)

// expected is what an answer has to say.
type expected struct {
	request  string // ID of the AuthnRequest
	entity   string // of the identity provider
	acs      string
	audience string
	self     string // our entity id
	username string // attribute that names the user; "": NameID
	now      time.Time
}

// checkResponse judges the Response around an assertion. Where it is not signed this
// can only refuse: what it says is said again by the assertion.
func (x *expected) checkResponse(v *verified) error {
	r := v.response
	if version := attr(r, "Version"); version != versionOfSAML {
		return fmt.Errorf("its version is %q, not 2.0", clean(version))
	}
	if err := x.checkRequest("response", attr(r, "InResponseTo")); err != nil {
		return err
	}
	switch d := attr(r, "Destination"); {
	case d == "" && v.signed:
		return errors.New("the signed response names no Destination")
	case d != "" && !api.SameURL(d, x.acs):
		return fmt.Errorf("it is for the destination %q, not for %q", clean(d), x.acs)
	}
	issuer, err := one(r, nsAssertion, "Issuer")
	if err != nil {
		return err
	}
	if issuer != nil {
		if err := x.checkIssuer(issuer); err != nil {
			return err
		}
	}
	return checkStatus(r)
}

func (x *expected) checkRequest(what, id string) error {
	switch id {
	case x.request:
		return nil
	case "":
		return fmt.Errorf("the %s answers no login that was begun here (it has no InResponseTo): start at Sallyport, not at the identity provider", what)
	}
	return fmt.Errorf("the %s answers another login (InResponseTo): log in again", what)
}

func (x *expected) checkIssuer(issuer *etree.Element) error {
	name, ok := text(issuer)
	if f := attr(issuer, "Format"); !ok || f != "" && f != formatEntity || attr(issuer, "NameQualifier") != "" || attr(issuer, "SPNameQualifier") != "" {
		return errors.New("its issuer is no entity id")
	}
	if name != x.entity {
		return fmt.Errorf("its issuer is %q, not %q", clean(name), x.entity)
	}
	return nil
}

// checkStatus passes on what an identity provider says when it says no.
func checkStatus(response *etree.Element) error {
	status, err := must(response, nsProtocol, "Status")
	if err != nil {
		return err
	}
	code, err := must(status, nsProtocol, "StatusCode")
	if err != nil {
		return err
	}
	if attr(code, "Value") == statusSuccess {
		return nil
	}
	var words []string
	for c := code; c != nil && len(words) < statusWordsMax; {
		v := attr(c, "Value")
		words = append(words, v[strings.LastIndex(v, ":")+1:])
		if c, err = one(c, nsProtocol, "StatusCode"); err != nil {
			return err
		}
	}
	said := clean(strings.Join(words, ", "))
	if m, err := one(status, nsProtocol, "StatusMessage"); err == nil && m != nil {
		if t, ok := text(m); ok && t != "" {
			said += ": " + clean(t)
		}
	}
	return api.Errorf(api.CodeForbidden, "the identity provider refuses the login: %s", said)
}

// judge reads an assertion that is verified, and nothing else.
func (x *expected) judge(a *etree.Element) (*api.SSOIdentity, error) {
	id := attr(a, "ID")
	if v := attr(a, "Version"); v != versionOfSAML || !ncName.MatchString(id) {
		return nil, fmt.Errorf("the assertion has the version %q, not 2.0, or no good ID", clean(v))
	}
	issuer, err := must(a, nsAssertion, "Issuer")
	if err != nil {
		return nil, err
	}
	if err := x.checkIssuer(issuer); err != nil {
		return nil, err
	}
	subject, err := must(a, nsAssertion, "Subject")
	if err != nil {
		return nil, err
	}
	until, err := x.checkConfirmations(subject)
	if err != nil {
		return nil, err
	}
	if err := x.checkConditions(a); err != nil {
		return nil, err
	}
	expires, err := x.checkStatements(a)
	if err != nil {
		return nil, err
	}
	key, name, err := x.nameID(subject)
	if err != nil {
		return nil, err
	}
	raw, err := attributes(a)
	if err != nil {
		return nil, err
	}
	attrs, err := sso.Clean(raw)
	if err != nil {
		return nil, err
	}
	if x.username != "" {
		if name, err = x.userName(attrs); err != nil {
			return nil, err
		}
	}
	return &api.SSOIdentity{
		Subject: key, Username: name, Attributes: attrs, Expires: expires,
		UseOnce: x.entity + "\x00" + id, UseUntil: until.Add(sso.MaxSkew),
	}, nil
}

func (x *expected) userName(attrs map[string][]string) (string, error) {
	values := attrs[x.username]
	if len(values) != 1 {
		return "", api.Errorf(api.CodeForbidden, "the identity provider sent %d values of %q, the username_attribute of the connector: it has to send one", len(values), x.username)
	}
	return values[0], nil
}

// moment reads an xs:dateTime, which SAML wants in UTC (Core, section 1.3.3).
func moment(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("it holds the time %q, which is none", clean(s))
	}
	return t, nil
}

// window checks NotBefore and NotOnOrAfter of e, if they are there.
func (x *expected) window(e *etree.Element, what string) (end time.Time, err error) {
	if s := attr(e, "NotBefore"); s != "" {
		at, err := moment(s)
		if err == nil {
			err = sso.NotBefore(what+" counts from", at, x.now)
		}
		if err != nil {
			return end, err
		}
	}
	if s := attr(e, "NotOnOrAfter"); s != "" {
		if end, err = moment(s); err != nil {
			return end, err
		}
		// NotAfter takes the very end; SAML does not.
		err = sso.NotAfter(what+" counted until", end.Add(-time.Nanosecond), x.now)
	}
	return end, err
}

// checkConfirmations wants a bearer confirmation that is for this login (Profiles,
// section 4.1.4.3). It gives the end of the last: until then nobody may use the
// assertion again.
func (x *expected) checkConfirmations(subject *etree.Element) (until time.Time, err error) {
	reason := errors.New("its subject has no confirmation of the method bearer")
	found := false
	for _, c := range children(subject, nsAssertion, "SubjectConfirmation") {
		if attr(c, "Method") != methodBearer {
			continue
		}
		end, err := x.checkConfirmation(c)
		if err != nil {
			reason = err
			continue
		}
		found = true
		if end.After(until) {
			until = end
		}
	}
	if !found {
		return until, reason
	}
	return until, nil
}

func (x *expected) checkConfirmation(c *etree.Element) (end time.Time, err error) {
	data, err := must(c, nsAssertion, "SubjectConfirmationData")
	if err != nil {
		return end, err
	}
	if err := x.checkRequest("assertion", attr(data, "InResponseTo")); err != nil {
		return end, err
	}
	if r := attr(data, "Recipient"); !api.SameURL(r, x.acs) {
		return end, fmt.Errorf("its assertion is for the recipient %q, not for %q", clean(r), x.acs)
	}
	if attr(data, "NotOnOrAfter") == "" {
		return end, errors.New("its SubjectConfirmationData has no NotOnOrAfter")
	}
	return x.window(data, "its answer")
}

// checkConditions refuses conditions that it does not know, as Core, section 2.5.1.1
// wants.
func (x *expected) checkConditions(a *etree.Element) error {
	c, err := must(a, nsAssertion, "Conditions")
	if err != nil {
		return err
	}
	if _, err := x.window(c, "its assertion"); err != nil {
		return err
	}
	audiences := 0
	for _, e := range c.ChildElements() {
		switch {
		case is(e, nsAssertion, "AudienceRestriction"):
			audiences++
			if err := x.checkAudience(e); err != nil {
				return err
			}
		case is(e, nsAssertion, "OneTimeUse"), is(e, nsAssertion, "ProxyRestriction"):
		default:
			return fmt.Errorf("its assertion has a condition that is not known here: %q", clean(e.Tag))
		}
	}
	if audiences == 0 {
		return errors.New("its assertion names no audience (AudienceRestriction)")
	}
	return nil
}

func (x *expected) checkAudience(restriction *etree.Element) error {
	var named []string
	for _, e := range children(restriction, nsAssertion, "Audience") {
		name, ok := text(e)
		if ok && (name == x.audience || api.SameURL(name, x.audience)) {
			return nil
		}
		named = append(named, name)
	}
	return fmt.Errorf("its assertion is for the audience %q, not for %q", clean(strings.Join(named, " ")), x.audience)
}

// checkStatements wants a statement that somebody proved who they are, and gives the
// time when the first such wants the session to end.
func (x *expected) checkStatements(a *etree.Element) (expires time.Time, err error) {
	statements := children(a, nsAssertion, "AuthnStatement")
	if len(statements) == 0 {
		return expires, errors.New("its assertion does not say that anybody logged in (AuthnStatement)")
	}
	for _, s := range statements {
		if at := attr(s, "AuthnInstant"); at != "" {
			t, err := moment(at)
			if err == nil {
				err = sso.NotBefore("its user logged in at", t, x.now)
			}
			if err != nil {
				return expires, err
			}
		}
		end := attr(s, "SessionNotOnOrAfter")
		if end == "" {
			continue
		}
		t, err := moment(end)
		if err == nil {
			err = sso.NotAfter("the session there ended at", t.Add(-time.Nanosecond), x.now)
		}
		if err != nil {
			return expires, err
		}
		if expires.IsZero() || t.Before(expires) {
			expires = t
		}
	}
	return expires, nil
}

// nameID is the person: the key, which holds all that makes a NameID unique (Core,
// sections 2.2.2 and 8.3), and the bare name.
func (x *expected) nameID(subject *etree.Element) (key, name string, err error) {
	e, err := one(subject, nsAssertion, "NameID")
	if err != nil {
		return "", "", err
	}
	if e == nil {
		return "", "", errors.New("its subject has no NameID in plain text: make the identity provider send one, persistent or emailAddress")
	}
	for _, other := range []string{"BaseID", "EncryptedID"} {
		if len(children(subject, nsAssertion, other)) > 0 {
			return "", "", fmt.Errorf("its subject has a %s beside its NameID", other)
		}
	}
	name, ok := text(e)
	if !ok || !sso.Readable(name) {
		return "", "", errors.New("its NameID is empty, longer than 256 bytes or holds what can't be read")
	}
	format := attr(e, "Format")
	switch format {
	case formatTransient, formatEncrypted:
		return "", "", api.Errorf(api.CodeForbidden, "the identity provider names the user by another name at each login (NameID of the format %s): "+
			"make it send a NameID of the format persistent or emailAddress", strings.TrimPrefix(format, formatsSAML2))
	case "":
		format = formatNone
	}
	kind := strings.TrimPrefix(strings.TrimPrefix(format, formatsSAML2), formatsSAML1)
	q := url.Values{}
	if v := attr(e, "NameQualifier"); v != "" && v != x.entity {
		q.Set("nq", v)
	}
	if v := attr(e, "SPNameQualifier"); v != "" && v != x.self {
		q.Set("spnq", v)
	}
	if len(q) > 0 {
		kind += "?" + q.Encode()
	}
	// Without white space in the parts before it the name can't be taken for one of them.
	if !sso.Readable(kind) || strings.ContainsFunc(kind, unicode.IsSpace) {
		return "", "", errors.New("the format or a qualifier of its NameID is too long, or holds what can't be read")
	}
	return x.entity + " " + kind + " " + name, name, nil
}

// attributes are the texts by Name. A FriendlyName is another name of the same,
// where no attribute has it as its Name and no other attribute is called so too.
// A value that is no text (a NameID, say) can match nothing, and is left out.
func attributes(a *etree.Element) (map[string][]string, error) {
	out, friendly := map[string][]string{}, map[string]string{}
	for _, s := range children(a, nsAssertion, "AttributeStatement") {
		for _, e := range children(s, nsAssertion, "Attribute") {
			name := attr(e, "Name")
			if name == "" {
				return nil, errors.New("its assertion has an attribute without a name")
			}
			if _, ok := out[name]; !ok {
				out[name] = nil // the name is taken, whatever its values are
			}
			for _, v := range children(e, nsAssertion, "AttributeValue") {
				if t, ok := text(v); ok {
					out[name] = append(out[name], t)
				}
			}
			f := attr(e, "FriendlyName")
			if other, taken := friendly[f]; taken && other != name {
				name = "" // of two, of neither
			}
			friendly[f] = name
		}
	}
	delete(friendly, "")
	names := make(map[string]string, len(friendly))
	for f, name := range friendly {
		if _, taken := out[f]; !taken && name != "" {
			names[f] = name
		}
	}
	for f, name := range names {
		out[f] = out[name]
	}
	return out, nil
}
