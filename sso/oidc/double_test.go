package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

const (
	clientID     = "sallyport"
	clientSecret = "client-secret-of-the-tests"
	callback     = "https://sallyport.example.com/v1/webapi/oidc/callback"
)

// double is an identity provider that can lie in every way. It is an http.Handler:
// behind TLS (newDouble), or as a transport without a network (inMemory).
type double struct {
	t      testing.TB
	issuer string
	client http.RoundTripper
	now    func() time.Time

	mu       sync.Mutex
	signer   signer            // of ID tokens
	served   []jose.JSONWebKey // at jwks_uri
	person   map[string]any    // claims of the ID token beside the protocol's
	info     map[string]any    // of userinfo; nil: there is none
	metadata func(m map[string]any)
	claims   func(c map[string]any)                              // changes the ID token's
	token    func(c map[string]any) string                       // makes it
	tokens   func(m map[string]any)                              // changes the token answer
	handlers map[string]func(http.ResponseWriter, *http.Request) // take a path over
	codes    map[string]*grant
	asked    map[string]int // requests by path
	seen     []string       // secrets that no error may hold
	post     bool           // wants client_secret_post
}

type grant struct {
	query url.Values
	used  bool
}

type signer struct {
	alg jose.SignatureAlgorithm
	key crypto.Signer
	kid string
}

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid, Algorithm: string(s.alg), Use: "sig"}
}

// sign signs any payload.
func (s signer) sign(t testing.TB, payload []byte) string {
	t.Helper()
	js, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: jose.JSONWebKey{Key: s.key, KeyID: s.kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := js.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// rsaKey is made once: it takes long.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// edSigner's key is always the same, so that corpora of signed tokens stay good.
func edSigner(kid string, seed byte) signer {
	return signer{jose.EdDSA, ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)), kid}
}

func rsaSigner(alg jose.SignatureAlgorithm) signer { return signer{alg, rsaKey(), "rsa"} }

func ecSigner(t testing.TB, alg jose.SignatureAlgorithm, curve elliptic.Curve) signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{alg, key, "ec"}
}

func makeDouble(t testing.TB, issuer string) *double {
	d := &double{
		t: t, issuer: issuer, now: time.Now, signer: edSigner("one", 1),
		person:   map[string]any{"email": "alice@example.com", "email_verified": true, "groups": []string{"devs", "ops"}},
		handlers: map[string]func(http.ResponseWriter, *http.Request){}, codes: map[string]*grant{}, asked: map[string]int{},
		seen: []string{clientSecret},
	}
	d.served = []jose.JSONWebKey{d.signer.public()}
	return d
}

// newDouble listens on loopback with TLS.
func newDouble(t testing.TB) *double {
	d := makeDouble(t, "")
	server := httptest.NewTLSServer(d)
	t.Cleanup(server.Close)
	d.issuer, d.client = server.URL, server.Client().Transport
	return d
}

// inMemory needs no network: it runs in a bubble of testing/synctest.
func inMemory(t testing.TB, issuer string) *double {
	d := makeDouble(t, issuer)
	d.client = memory{d.issuer: d}
	return d
}

// memory leads requests to handlers by scheme and host.
type memory map[string]http.Handler

func (m memory) RoundTrip(req *http.Request) (*http.Response, error) {
	h := m[req.URL.Scheme+"://"+req.URL.Host]
	if h == nil {
		return nil, fmt.Errorf("nobody is at %s", req.URL.Host)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asked[r.URL.Path]++
	h := d.handlers[r.URL.Path]
	d.mu.Unlock()
	if h != nil {
		h(w, r)
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		writeJSON(w, d.document())
	case "/keys":
		d.mu.Lock()
		defer d.mu.Unlock()
		writeJSON(w, jose.JSONWebKeySet{Keys: d.served})
	case "/token":
		d.serveToken(w, r)
	case "/userinfo":
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer access-") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		info := map[string]any{"sub": "alice-1"}
		for k, v := range d.info {
			info[k] = v
		}
		writeJSON(w, info)
	default:
		http.NotFound(w, r)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (d *double) document() map[string]any {
	m := map[string]any{
		"issuer": d.issuer, "authorization_endpoint": d.issuer + "/auth", "token_endpoint": d.issuer + "/token", "jwks_uri": d.issuer + "/keys",
		"response_types_supported": []string{"code", "code id_token"}, "code_challenge_methods_supported": []string{"plain", "S256"},
		"id_token_signing_alg_values_supported":          []string{"none", "HS256", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
		"authorization_response_iss_parameter_supported": true,
		"token_endpoint_auth_methods_supported":          []string{"client_secret_basic", "client_secret_post"},
	}
	if d.info != nil {
		m["userinfo_endpoint"] = d.issuer + "/userinfo"
	}
	if d.post {
		m["token_endpoint_auth_methods_supported"] = []string{"client_secret_post"}
	}
	if d.metadata != nil {
		d.metadata(m)
	}
	return m
}

// authorize is what the provider does with a browser that is sent to address, after
// its user has logged in: the answer that the browser carries back.
func (d *double) authorize(address string) url.Values {
	d.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		d.t.Fatal(err)
	}
	q := u.Query()
	if got := u.Scheme + "://" + u.Host + u.Path; got != d.issuer+"/auth" {
		d.t.Fatalf("the browser is sent to %s", got)
	}
	return url.Values{"state": {q.Get("state")}, "code": {d.grant(q)}, "iss": {d.issuer}}
}

// grant makes a code for an authorization request.
func (d *double) grant(q url.Values) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	code := fmt.Sprintf("code-%d-%s", len(d.codes), hex.EncodeToString([]byte(d.issuer))[:8])
	d.codes[code] = &grant{query: q}
	d.seen = append(d.seen, code)
	return code
}

func (d *double) serveToken(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	refuse := func(code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		// what a careless provider says
		writeJSON(w, map[string]string{"error": code, "error_description": "the code " + r.PostFormValue("code") + " is not good"})
	}
	id, secret, basic := r.BasicAuth()
	if d.post {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	if basic == d.post || id != clientID || secret != clientSecret {
		refuse("invalid_client")
		return
	}
	code := r.PostFormValue("code")
	g := d.codes[code]
	verifier := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	d.seen = append(d.seen, r.PostFormValue("code_verifier"))
	if g == nil || g.used || r.PostFormValue("grant_type") != "authorization_code" ||
		g.query.Get("code_challenge_method") != "S256" || g.query.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(verifier[:]) ||
		g.query.Get("redirect_uri") != r.PostFormValue("redirect_uri") {
		refuse("invalid_grant")
		return
	}
	g.used = true
	access := "access-" + code
	sum := sha256.Sum256([]byte(access))
	c := map[string]any{
		"iss": d.issuer, "aud": clientID, "sub": "alice-1", "nonce": g.query.Get("nonce"),
		"iat": d.now().Unix(), "exp": d.now().Add(5 * time.Minute).Unix(),
	}
	if d.signer.alg == jose.RS256 {
		c["at_hash"] = base64.RawURLEncoding.EncodeToString(sum[:16])
	}
	for k, v := range d.person {
		c[k] = v
	}
	if d.claims != nil {
		d.claims(c)
	}
	m := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 300}
	if d.token != nil {
		m["id_token"] = d.token(c)
	} else {
		m["id_token"] = d.signer.sign(d.t, mustJSON(d.t, c))
	}
	if d.tokens != nil {
		d.tokens(m)
	}
	for _, v := range []any{m["id_token"], m["access_token"]} {
		if text, _ := v.(string); text != "" {
			d.seen = append(d.seen, text)
		}
	}
	writeJSON(w, m)
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (d *double) count(path string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[path]
}

func (d *double) serve(keys ...signer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served = nil
	for _, k := range keys {
		d.served = append(d.served, k.public())
	}
}

func (d *double) connector() *api.OIDCConnector {
	return &api.OIDCConnector{
		Header: api.Header{Kind: api.KindOIDC, Version: "v3", Metadata: api.Metadata{Name: "dex"}},
		Spec: api.OIDCSpec{
			IssuerURL: d.issuer, ClientID: clientID, ClientSecret: clientSecret, Scope: []string{"email", "profile", "groups"},
			RedirectURL:   api.Values{callback},
			ClaimsToRoles: []api.ClaimToRole{{Claim: "groups", Value: "devs", Roles: []string{"access"}}},
		},
	}
}

func (d *double) options() sso.Options {
	return sso.Options{HTTP: sso.NewClient(d.client), Clock: d.now}
}

// provider is the connector's, as edit changes it.
func (d *double) provider(edit ...func(*api.OIDCSpec)) *Provider {
	d.t.Helper()
	doc := d.connector()
	for _, e := range edit {
		e(&doc.Spec)
	}
	p, err := New(doc, api.ConnectorFacts{}, d.options())
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func (d *double) flow() *sso.Flow {
	d.t.Helper()
	f, err := sso.NewFlow(rand.Reader, d.now())
	if err != nil {
		d.t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, f.Nonce, f.Verifier)
	return f
}

// login walks one login; no error of it may hold a secret.
func (d *double) login(p *Provider, edit ...func(url.Values)) (*api.SSOIdentity, error) {
	d.t.Helper()
	f := d.flow()
	address, err := p.Start(d.t.Context(), f)
	if err != nil {
		return nil, d.discreet(err)
	}
	answer := d.authorize(address)
	for _, e := range edit {
		e(answer)
	}
	id, err := p.Finish(d.t.Context(), f, answer)
	return id, d.discreet(err)
}

// discreet fails the test where an error tells a secret, by its text or a cause.
func (d *double) discreet(err error) error {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	text := fmt.Sprintf("%v %+v", err, err)
	for _, secret := range d.seen {
		if err != nil && secret != "" && strings.Contains(text, secret) {
			d.t.Errorf("an error holds %q: %v", secret, err)
		}
	}
	return err
}

// wantError compares code and part of the message.
func wantError(t *testing.T, err error, code api.Code, part string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s with %q", code, part)
	}
	if api.CodeOf(err) != code || !strings.Contains(err.Error(), part) {
		t.Errorf("error %s %q, want %s with %q", api.CodeOf(err), err, code, part)
	}
}
