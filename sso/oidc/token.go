package oidc

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// tokens are what the token endpoint gave.
type tokens struct{ id, access string }

// exchange gives the code for tokens. What the endpoint answers stays out of errors,
// but for the code of an error and its description: oauth2's own error is the body.
func (p *Provider) exchange(ctx context.Context, md *metadata, f *sso.Flow, code string) (tokens, error) {
	got, err := p.oauth(md).Exchange(oidc.ClientContext(ctx, p.client), code, oauth2.VerifierOption(f.Verifier))
	if err != nil {
		return tokens{}, p.exchangeFailed(md, f, code, err)
	}
	id, _ := got.Extra("id_token").(string)
	if id == "" {
		return tokens{}, api.Errorf(api.CodeUnavailable, "%s gave no ID token for the code: does it know this client as one of OpenID Connect?", sso.Host(md.TokenEndpoint))
	}
	return tokens{id: id, access: got.AccessToken}, nil
}

func (p *Provider) exchangeFailed(md *metadata, f *sso.Flow, code string, err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		if _, asked := errors.AsType[*url.Error](err); asked || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return sso.Unavailable(md.TokenEndpoint, err)
		}
		return api.Errorf(api.CodeUnavailable, "%s did not answer with tokens, as OpenID Connect wants it", sso.Host(md.TokenEndpoint))
	}
	if refused.ErrorCode == "" || refused.Response.StatusCode >= http.StatusInternalServerError {
		return sso.Unavailable(md.TokenEndpoint, sso.StatusError(refused.Response.StatusCode))
	}
	said := quote(p.withoutSecrets(f, code, refused.ErrorCode), p.withoutSecrets(f, code, refused.ErrorDescription))
	switch refused.ErrorCode {
	case "invalid_grant":
		return api.Errorf(api.CodeUnauthenticated, "the identity provider does not take the code of this login: %s; log in again", said)
	case "invalid_client", "unauthorized_client":
		return api.Errorf(api.CodeForbidden, "the identity provider refuses this connector: %s; an administrator checks spec.client_id and spec.client_secret", said)
	default:
		return api.Errorf(api.CodeForbidden, "the identity provider gives no token: %s; an administrator compares the connector with what is registered there", said)
	}
}

// withoutSecrets is what a provider says, unless it repeats a secret of this login.
func (p *Provider) withoutSecrets(f *sso.Flow, code, said string) string {
	for _, secret := range []string{code, p.spec.ClientSecret, f.Verifier, f.Nonce, f.ID} {
		if secret != "" && strings.Contains(said, secret) {
			return "what it says holds a secret and is left out"
		}
	}
	return said
}

// verify gives the claims of an ID token that was issued for this login (OpenID
// Connect Core 1.0, section 3.1.3.7).
func (p *Provider) verify(ctx context.Context, md *metadata, f *sso.Flow, got tokens) (claims, error) {
	if !compact(got.id) { // go-jose reads JSON serializations too, with several signatures
		return nil, notValid("is no signed token (JWS in compact form)")
	}
	keys := &asked{keySet: md.keys}
	// Issuer, audience and times are read below, strictly.
	verifier := oidc.NewVerifier(p.spec.IssuerURL, keys, &oidc.Config{
		SupportedSigningAlgs: md.algs, SkipClientIDCheck: true, SkipIssuerCheck: true, SkipExpiryCheck: true,
	})
	token, err := verifier.Verify(ctx, got.id)
	if err != nil {
		if down, ok := errors.AsType[*api.Error](keys.err); ok {
			return nil, down
		}
		if errors.Is(keys.err, errSignature) {
			return nil, notValid("is not signed by a key of the identity provider")
		}
		return nil, notValid("can't be read, or is not signed by one of the algorithms that the identity provider names and that are safe (" + strings.Join(md.algs, ", ") + ")")
	}
	var raw json.RawMessage
	if err = token.Claims(&raw); err != nil {
		return nil, notValid("has no claims")
	}
	c, err := readClaims(raw)
	if err != nil {
		return nil, notValid(err.Error())
	}
	if err = p.checkParties(c); err != nil {
		return nil, err
	}
	if nonce, ok := c["nonce"].(string); !ok || f.Nonce == "" || subtle.ConstantTimeCompare([]byte(nonce), []byte(f.Nonce)) != 1 {
		return nil, notValid("belongs to another login (nonce)")
	}
	if hash, there := c["at_hash"]; there {
		if text, ok := hash.(string); !ok || text != token.AccessTokenHash || token.VerifyAccessToken(got.access) != nil {
			return nil, notValid("belongs to another access token (at_hash)")
		}
	}
	if err = p.checkTimes(c); err != nil {
		return nil, err
	}
	return c, p.checkContext(c)
}

// compact says whether text is JWS Compact Serialization (RFC 7515, section 7.1):
// three parts in base64url as it is written, with no stray bits at an end. go-jose
// verifies what it decoded and encoded again, and would take other texts for it.
func compact(text string) bool {
	parts := strings.Split(text, ".")
	return len(parts) == 3 && !slices.ContainsFunc(parts, func(part string) bool {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		return err != nil || base64.RawURLEncoding.EncodeToString(raw) != part
	})
}

// notValid refuses an ID token. Its text, which came from the token endpoint, is
// never part of the message.
func notValid(reason string) error {
	return api.Errorf(api.CodeUnauthenticated, "the ID token of the identity provider %s; log in again, and tell your administrator if it comes back", reason)
}

// checkParties wants the token to be from the issuer, for this client, about somebody.
func (p *Provider) checkParties(c claims) error {
	if issuer, _ := c["iss"].(string); issuer != p.spec.IssuerURL {
		return notValid("was issued by another identity provider (iss)")
	}
	audience, ok := c["aud"].([]any)
	if one, single := c["aud"].(string); single {
		audience, ok = []any{one}, true
	}
	if !ok || !slices.Contains(audience, any(p.spec.ClientID)) {
		return notValid("is for another client (aud)")
	}
	party, named := c["azp"]
	if named && party != any(p.spec.ClientID) || !named && len(audience) > 1 {
		return notValid("was issued to another client (azp)")
	}
	sub, _ := c["sub"].(string)
	if len(sub) > maxSubject || !sso.Readable(sub) {
		return notValid("does not say who logged in: its sub is empty, too long or not readable")
	}
	return nil
}

// maxSubject is how long a sub may be (OpenID Connect Core 1.0, section 2).
const maxSubject = 255

// checkTimes takes clocks that differ by sso.MaxSkew. How old iat is does not matter:
// the nonce says that the token is of this login, and some providers date it back.
func (p *Provider) checkTimes(c claims) error {
	now := p.o.Now()
	expires, err := c.time("exp")
	if err != nil {
		return err
	}
	issued, err := c.time("iat")
	if err != nil {
		return err
	}
	if err = sso.NotAfter("its ID token is good until", expires, now); err != nil {
		return err
	}
	if err = sso.NotBefore("its ID token was issued at", issued, now); err != nil {
		return err
	}
	if _, there := c["nbf"]; there {
		from, err := c.time("nbf")
		if err != nil {
			return err
		}
		return sso.NotBefore("its ID token is good from", from, now)
	}
	return nil
}

// checkContext wants what was asked for by max_age and acr_values: a provider may
// ignore both, and whoever set them relies on them.
func (p *Provider) checkContext(c claims) error {
	if age := time.Duration(p.spec.MaxAge); age > 0 {
		at, err := c.time("auth_time")
		if err != nil {
			return err
		}
		now := p.o.Now()
		if err = sso.NotBefore("its user proved who it is at", at, now); err != nil {
			return err
		}
		if now.Sub(at) > age+sso.MaxSkew {
			return api.Errorf(api.CodeForbidden, "you proved who you are to the identity provider at %s, and spec.max_age of the connector wants it within %s: log out there, then log in again",
				at.UTC().Format(time.RFC3339), age)
		}
	}
	if wanted := strings.Fields(p.spec.ACRValues); len(wanted) > 0 {
		got, named := c["acr"].(string)
		switch {
		case !named:
			return api.Errorf(api.CodeForbidden, "the identity provider does not say how you logged in (acr), and spec.acr_values of the connector wants %s", strings.Join(wanted, " or "))
		case !slices.Contains(wanted, got):
			return api.Errorf(api.CodeForbidden, "the identity provider says that you logged in by %q (acr), and spec.acr_values of the connector wants %s", api.CleanText(got, 100), strings.Join(wanted, " or "))
		}
	}
	return nil
}

// time is a NumericDate (RFC 7519, section 2).
func (c claims) time(name string) (time.Time, error) {
	n, ok := c[name].(json.Number)
	if !ok {
		return time.Time{}, notValid("has no time " + name)
	}
	seconds, err := n.Float64()
	if err != nil || seconds < 0 || seconds > maxTime {
		return time.Time{}, notValid("has no usable time " + name)
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9)), nil
}

// maxTime is the last second of the year 9999.
const maxTime = 253402300799
