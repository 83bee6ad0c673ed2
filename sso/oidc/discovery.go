package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/semaphore"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// metadata is what a provider says of itself (OpenID Connect Discovery 1.0, section
// 3), with what we make of it.
type metadata struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	UserinfoEndpoint      string   `json:"userinfo_endpoint"`
	JWKSURI               string   `json:"jwks_uri"`
	ResponseTypes         []string `json:"response_types_supported"`
	GrantTypes            []string `json:"grant_types_supported"`
	SigningAlgs           []string `json:"id_token_signing_alg_values_supported"`
	AuthMethods           []string `json:"token_endpoint_auth_methods_supported"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported"`
	IssuerInAnswer        bool     `json:"authorization_response_iss_parameter_supported"`

	raw       []byte
	keys      *keySet
	algs      []string // that ID tokens may be signed with
	authStyle oauth2.AuthStyle
}

// How long a discovery document counts, and when to ask again after a failure.
const (
	fresh = time.Hour
	retry = time.Minute
)

// discovery keeps the metadata of one issuer.
type discovery struct {
	issuer string
	client *http.Client
	o      sso.Options
	asking *semaphore.Weighted // held by who asks

	mu   sync.Mutex
	last *metadata
	due  time.Time // when to ask again
}

func newDiscovery(issuer string, client *http.Client, o sso.Options) *discovery {
	return &discovery{issuer: issuer, client: client, o: o, asking: semaphore.NewWeighted(1)}
}

func (d *discovery) known() (md *metadata, due bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last, d.last == nil || !d.o.Now().Before(d.due)
}

// get gives the metadata. Once known it is given at once, except to the one that
// renews it when it is due; where that fails, the old counts on.
func (d *discovery) get(ctx context.Context) (*metadata, error) {
	md, due := d.known()
	if !due {
		return md, nil
	}
	if md != nil {
		if !d.asking.TryAcquire(1) {
			return md, nil // another is asking
		}
	} else if err := d.wait(ctx); err != nil {
		return nil, err
	}
	defer d.asking.Release(1)
	if md, due = d.known(); !due { // another asked meanwhile
		return md, nil
	}
	got, err := d.fetch(ctx)
	if err == nil {
		d.keep(got)
		return got, nil
	}
	if md == nil {
		return nil, err
	}
	d.o.Log().WarnContext(ctx, "an identity provider's discovery document can't be renewed, the old one counts on", "issuer", d.issuer, "error", err)
	d.mu.Lock()
	d.due = d.o.Now().Add(retry)
	d.mu.Unlock()
	return md, nil
}

// renew asks now, whatever is known.
func (d *discovery) renew(ctx context.Context) error {
	if err := d.wait(ctx); err != nil {
		return err
	}
	defer d.asking.Release(1)
	got, err := d.fetch(ctx)
	if err != nil {
		return err
	}
	if last, due := d.known(); due || !bytes.Equal(last.raw, got.raw) { // else the keys that it has got stay
		d.keep(got)
	}
	return nil
}

func (d *discovery) wait(ctx context.Context) error {
	if err := d.asking.Acquire(ctx, 1); err != nil {
		return sso.Unavailable(d.issuer, err)
	}
	return nil
}

func (d *discovery) keep(md *metadata) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last, d.due = md, d.o.Now().Add(fresh)
}

// wellKnown is where the document is (OpenID Connect Discovery 1.0, section 4).
func wellKnown(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

func (d *discovery) fetch(ctx context.Context) (*metadata, error) {
	address := wellKnown(d.issuer)
	body, err := sso.Get(ctx, d.client, address, "application/json")
	if err != nil {
		if status, ok := errors.AsType[sso.StatusError](err); ok && status == http.StatusNotFound {
			return nil, api.Errorf(api.CodeUnavailable, "there is no discovery document at %s (404): compare spec.issuer_url with what the identity provider calls its issuer", address)
		}
		return nil, sso.Unavailable(address, err)
	}
	md := &metadata{raw: body}
	if api.CheckFields(body, map[string]any{}) != nil || json.Unmarshal(body, md) != nil || md.Issuer == "" {
		return nil, api.Errorf(api.CodeUnavailable, "what %s gives is no discovery document of OpenID Connect", address)
	}
	if err := md.check(d.issuer); err != nil {
		return nil, err
	}
	md.keys = newKeySet(md.JWKSURI, d.client, md.algs)
	return md, nil
}

// signingAlgs are the algorithms of RFC 7518 and 8037 by which only the holder of a
// private key can sign.
func signingAlgs() []string {
	return []string{
		oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
	}
}

// check says why this provider can't be used, or not safely.
func (m *metadata) check(issuer string) error {
	if m.Issuer != issuer {
		hint := "write it so if that is the one you mean"
		if strings.TrimSuffix(m.Issuer, "/") == strings.TrimSuffix(issuer, "/") {
			hint = "the slash at the end counts"
		}
		return unusable("it calls its issuer %q, and the connector says %q; %s", api.CleanText(m.Issuer, 200), issuer, hint)
	}
	for _, e := range []struct {
		name, address string
		optional      bool
	}{
		{"authorization_endpoint", m.AuthorizationEndpoint, false},
		{"token_endpoint", m.TokenEndpoint, false},
		{"jwks_uri", m.JWKSURI, false},
		{"userinfo_endpoint", m.UserinfoEndpoint, true},
	} {
		if e.optional && e.address == "" {
			continue
		}
		if _, err := api.HTTPSURL(e.address, true); err != nil {
			return unusable("its %s can't be asked: %w", e.name, err)
		}
	}
	if m.ResponseTypes != nil && !slices.Contains(m.ResponseTypes, "code") || m.GrantTypes != nil && !slices.Contains(m.GrantTypes, "authorization_code") {
		return unusable("it does not offer the authorization code flow, the only one that is safe in a browser")
	}
	if m.ChallengeMethods != nil && !slices.Contains(m.ChallengeMethods, "S256") {
		return unusable("it does not offer PKCE with S256 (RFC 7636), without which codes can be stolen")
	}
	m.algs = []string{oidc.RS256} // which every provider has
	if m.SigningAlgs != nil {
		m.algs = slices.DeleteFunc(signingAlgs(), func(alg string) bool { return !slices.Contains(m.SigningAlgs, alg) })
	}
	if len(m.algs) == 0 {
		return unusable("it signs ID tokens by none of %s", strings.Join(signingAlgs(), ", "))
	}
	switch {
	case m.AuthMethods == nil || slices.Contains(m.AuthMethods, "client_secret_basic"):
		m.authStyle = oauth2.AuthStyleInHeader
	case slices.Contains(m.AuthMethods, "client_secret_post"):
		m.authStyle = oauth2.AuthStyleInParams
	default:
		return unusable("it takes client secrets neither by client_secret_basic nor by client_secret_post")
	}
	return nil
}

func unusable(format string, args ...any) error {
	return api.Errorf(api.CodeForbidden, "this identity provider can't be used: "+format, args...)
}
