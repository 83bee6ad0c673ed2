package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// claims are an ID token's, or userinfo's; numbers are json.Number.
type claims map[string]any

// readClaims reads a JSON object; names that come twice, and deep nesting, are refused.
func readClaims(b []byte) (claims, error) {
	if err := api.CheckFields(b, map[string]any{}); err != nil {
		return nil, errors.New("has claims that can't be read, or one of them twice")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var c claims
	if err := dec.Decode(&c); err != nil || c == nil {
		return nil, errors.New("has claims that can't be read")
	}
	return c, nil
}

// withUserinfo adds what the userinfo endpoint says of the same person (OpenID
// Connect Core 1.0, section 5.3). It is always asked, so that sessions hold the same
// claims whatever rules exist. Where it fails, a login goes on if the ID token has
// all that the connector names.
func (p *Provider) withUserinfo(ctx context.Context, md *metadata, c claims, access string) (claims, error) {
	if md.UserinfoEndpoint == "" {
		return c, nil
	}
	info, err := p.userinfo(ctx, md, access)
	if err != nil {
		for _, name := range p.wanted() {
			if _, there := c[name]; !there {
				return nil, err
			}
		}
		if _, err := p.username(c); err != nil {
			return nil, err
		}
		p.o.Log().WarnContext(ctx, "userinfo is left out of a login, the ID token has what the connector needs", "connector", p.name, "error", err)
		return c, nil
	}
	if info["sub"] != c["sub"] { // section 5.3.2: it may be about somebody else
		return nil, api.Errorf(api.CodeUnauthenticated, "the ID token and userinfo of the identity provider are about different people (sub); log in again, and tell your administrator if it comes back")
	}
	return merge(c, info), nil
}

func (p *Provider) userinfo(ctx context.Context, md *metadata, access string) (claims, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, md.UserinfoEndpoint, nil)
	if err != nil {
		return nil, sso.Unavailable(md.UserinfoEndpoint, err)
	}
	req.Header.Set("Authorization", "Bearer "+access)
	req.Header.Set("Accept", "application/json")
	status, header, body, err := sso.Do(p.client, req)
	if err != nil {
		return nil, sso.Unavailable(md.UserinfoEndpoint, err)
	}
	return readUserinfo(md.UserinfoEndpoint, status, header.Get("Content-Type"), body)
}

func readUserinfo(address string, status int, contentType string, body []byte) (claims, error) {
	if status != http.StatusOK {
		return nil, sso.Unavailable(address, sso.StatusError(status))
	}
	if kind, _, _ := mime.ParseMediaType(contentType); kind == "application/jwt" {
		return nil, api.Errorf(api.CodeUnavailable, "%s: its userinfo is a signed token; let the identity provider answer Sallyport with plain JSON", sso.Host(address))
	}
	c, err := readClaims(body)
	if err != nil {
		return nil, api.Errorf(api.CodeUnavailable, "%s: its userinfo %s", sso.Host(address), err.Error())
	}
	return c, nil
}

// merge lets the ID token win. Whether an address is verified is said of one address:
// the two claims go together.
func merge(token, info claims) claims {
	out := maps.Clone(info)
	maps.Copy(out, token)
	if email, there := token["email"]; there {
		if _, said := token["email_verified"]; !said && (info["email"] == nil || !equal(info["email"], email)) {
			delete(out, "email_verified")
		}
	} else if _, there := info["email"]; there {
		delete(out, "email_verified")
		if verified, said := info["email_verified"]; said {
			out["email_verified"] = verified
		}
	}
	return out
}

// equal compares strings alone: other JSON values may not be comparable in Go.
func equal(a, b any) bool {
	x, ok := a.(string)
	y, too := b.(string)
	return ok && too && x == y
}

// wanted are the claims that the connector names.
func (p *Provider) wanted() []string {
	var names []string
	if p.spec.UsernameClaim != "" {
		names = append(names, p.spec.UsernameClaim)
	}
	for _, row := range p.spec.ClaimsToRoles {
		if !slices.Contains(names, row.Claim) {
			names = append(names, row.Claim)
		}
	}
	return names
}

// identity is who the claims are about.
func (p *Provider) identity(c claims) (*api.SSOIdentity, error) {
	if err := p.checkElsewhere(c); err != nil {
		return nil, err
	}
	name, err := p.username(c)
	if err != nil {
		return nil, err
	}
	attributes, err := sso.Clean(flatten(c))
	if err != nil {
		return nil, err
	}
	sub, _ := c["sub"].(string)
	return &api.SSOIdentity{Subject: p.spec.IssuerURL + " " + sub, Username: name, Attributes: attributes}, nil
}

// checkElsewhere refuses a login whose claims lie elsewhere (section 5.6.2: aggregated
// and distributed ones): Microsoft Entra leaves the groups of people out who have more
// than 200. Such a login would have fewer roles than it should, and nobody knew why.
func (p *Provider) checkElsewhere(c claims) error {
	elsewhere, _ := c["_claim_names"].(map[string]any)
	for _, name := range p.wanted() {
		if _, there := c[name]; there {
			continue
		}
		_, left := elsewhere[name]
		if name == "groups" && c["hasgroups"] == true {
			left = true
		}
		if left {
			return api.Errorf(api.CodeForbidden,
				"the identity provider left claim %q out, as it does where somebody has too many values (groups overage): let it send only those that are assigned to this application, or app roles", name)
		}
	}
	return nil
}

// username is what the person is called here. It says nothing of who that is.
func (p *Provider) username(c claims) (string, error) {
	name := ""
	verified := truth(c["email_verified"])
	switch claim := p.spec.UsernameClaim; {
	case claim == "email" && c["email_verified"] != nil && !verified:
		return "", api.Errorf(api.CodeForbidden, "the identity provider says that your e-mail address is not verified, and connector %q names people by it: verify it there, then log in again", p.name)
	case claim != "":
		if name, _ = scalar(c[claim]); name == "" {
			return "", api.Errorf(api.CodeForbidden, "the identity provider sends no claim %q, which spec.username_claim of connector %q names; it sends %s", claim, p.name, sent(c))
		}
	default:
		if verified {
			name, _ = c["email"].(string)
		}
		if name == "" {
			name, _ = c["preferred_username"].(string)
			if strings.Contains(name, "@") { // at many providers people choose it
				return "", api.Errorf(api.CodeForbidden,
					"the identity provider calls you %q, which is no e-mail address that it has verified (email with email_verified: true): an administrator who knows that nobody can choose that name there sets spec.username_claim: preferred_username of connector %q, or asks for more by spec.scope",
					api.CleanText(name, 100), p.name)
			}
		}
		if name == "" {
			return "", api.Errorf(api.CodeForbidden,
				"the identity provider sends neither claim \"email\" with \"email_verified\": true nor \"preferred_username\": an administrator sets spec.username_claim of connector %q, or asks for more by spec.scope; it sends %s", p.name, sent(c))
		}
	}
	if err := api.ValidateName("user", name); err != nil {
		return "", api.Errorf(api.CodeForbidden, "%s; an administrator may choose another claim by spec.username_claim of connector %q", err.Error(), p.name)
	}
	return name, nil
}

// sent lists the names of claims for a message.
func sent(c claims) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		if sso.Readable(name) && len(names) < 30 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// truth reads a boolean, which some providers write as a string.
func truth(v any) bool { return v == true || v == "true" }

// protocol are the claims that speak of the token, not of the person.
func protocol() []string {
	return []string{
		"iss", "aud", "exp", "iat", "nbf", "nonce", "azp", "at_hash", "c_hash", "s_hash", "sid", "jti", "sub", "auth_time",
		"_claim_names", "_claim_sources",
	}
}

// flatten makes attributes of the claims that are strings, numbers, booleans or lists
// of these. An address that the provider itself says is not verified is none of them:
// a rule for it would let in whoever claims it.
func flatten(c claims) map[string][]string {
	out := map[string][]string{}
	for name, v := range c {
		if slices.Contains(protocol(), name) || name == "email" && c["email_verified"] != nil && !truth(c["email_verified"]) {
			continue
		}
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		for _, v := range list {
			if text, ok := scalar(v); ok {
				out[name] = append(out[name], text)
			}
		}
	}
	return out
}

// scalar is a string, number or boolean as text; numbers stay as they were written.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "true", true
		}
		return "false", true
	}
	return "", false
}
