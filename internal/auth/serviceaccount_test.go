package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const audience = "tele.example.com"

var jwtNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// issuer is a Kubernetes cluster's issuer of service account tokens.
type issuer struct {
	kid string
	alg jose.SignatureAlgorithm
	key crypto.Signer
}

func newIssuer(t testing.TB, kid string, alg jose.SignatureAlgorithm) issuer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return issuer{kid, alg, key}
}

func (i issuer) jwk() jose.JSONWebKey {
	return jose.JSONWebKey{Key: i.key.Public(), KeyID: i.kid, Algorithm: string(i.alg), Use: "sig"}
}

func keySet(t testing.TB, keys ...jose.JSONWebKey) string {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// claims are those of a projected token, as the API server makes them.
func claims(edit map[string]any) map[string]any {
	c := map[string]any{
		"aud": []string{audience}, "exp": jwtNow.Add(time.Hour).Unix(), "iat": jwtNow.Unix(), "nbf": jwtNow.Unix(),
		"iss": "https://kubernetes.default.svc.cluster.local", "jti": "4b4a", "sub": "system:serviceaccount:sallyport:agent",
		"kubernetes.io": map[string]any{
			"namespace": "sallyport", "serviceaccount": map[string]any{"name": "agent", "uid": "1"}, "pod": map[string]any{"name": "agent-0", "uid": "2"},
		},
	}
	maps.Copy(c, edit)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

func (i issuer) sign(t testing.TB, c map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: i.alg, Key: i.key}, (&jose.SignerOptions{}).WithHeader("kid", i.kid))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestServiceAccountTokens(t *testing.T) {
	a, b, foreign := newIssuer(t, "a", jose.RS256), newIssuer(t, "b", jose.ES256), newIssuer(t, "a", jose.RS256)
	ed := newIssuer(t, "c", jose.EdDSA)
	keys, err := parseJWKS(keySet(t, a.jwk(), b.jwk(), ed.jwk()))
	if err != nil {
		t.Fatal(err)
	}
	one, err := parseJWKS(keySet(t, a.jwk()))
	if err != nil {
		t.Fatal(err)
	}
	unix := func(d time.Duration) int64 { return jwtNow.Add(d).Unix() }
	shift := func(d time.Duration) map[string]any {
		return map[string]any{"iat": unix(d), "nbf": unix(d), "exp": unix(d + time.Hour)}
	}
	unnamed, unknown := a, a
	unnamed.kid, unknown.kid = "", "z"
	raw := func(header string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + strings.Join(strings.Split(a.sign(t, claims(nil)), ".")[1:], ".")
	}
	hmac := func() string {
		pub, _ := json.Marshal(a.jwk())
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: pub}, (&jose.SignerOptions{}).WithHeader("kid", "a"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := json.Marshal(claims(nil))
		signed, _ := signer.Sign(body)
		text, _ := signed.CompactSerialize()
		return text
	}
	general := func() string {
		signer, _ := jose.NewSigner(jose.SigningKey{Algorithm: a.alg, Key: a.key}, (&jose.SignerOptions{}).WithHeader("kid", "a"))
		body, _ := json.Marshal(claims(nil))
		signed, _ := signer.Sign(body)
		return signed.FullSerialize()
	}
	kubernetes := func(namespace, name string) map[string]any {
		return map[string]any{"kubernetes.io": map[string]any{"namespace": namespace, "serviceaccount": map[string]any{"name": name}}}
	}
	for _, tc := range []struct {
		name string
		text string
		err  string // "": accepted
	}{
		{"RS256", a.sign(t, claims(nil)), ""},
		{"ES256", b.sign(t, claims(nil)), ""},
		{"EdDSA", ed.sign(t, claims(nil)), ""},
		{"without Kubernetes' own claims", a.sign(t, claims(map[string]any{"kubernetes.io": nil})), ""},
		{"one audience, as a string", a.sign(t, claims(map[string]any{"aud": audience})), ""},
		{"several audiences", a.sign(t, claims(map[string]any{"aud": []string{"x", audience}})), ""},
		{"clocks four minutes apart", a.sign(t, claims(shift(4*time.Minute))), ""},
		{"clocks four minutes apart, the other way", a.sign(t, claims(shift(-time.Hour-4*time.Minute))), ""},
		{"reliability row 15: an hour ahead", a.sign(t, claims(shift(time.Hour))), "set the clocks right, they are 1h0m0s apart"},
		{"reliability row 15: an hour behind", a.sign(t, claims(shift(-2*time.Hour))), "expired at 2026-11-22 11:00:00 UTC"},
		{"nbf in the future", a.sign(t, claims(map[string]any{"nbf": unix(30 * time.Minute)})), "set the clocks right"},
		{"no exp", a.sign(t, claims(map[string]any{"exp": nil})), "no exp"},
		{"no iat", a.sign(t, claims(map[string]any{"iat": nil})), "no iat"},
		{"valid for a year", a.sign(t, claims(map[string]any{"exp": unix(365 * 24 * time.Hour)})), "at most an hour"},
		{"ends before it begins", a.sign(t, claims(map[string]any{"exp": unix(-time.Minute)})), "at most an hour"},
		{"exp beyond all times", a.sign(t, claims(map[string]any{"exp": 1e300})), "can't be read"},
		{"another audience", a.sign(t, claims(map[string]any{"aud": []string{"https://kubernetes.default.svc"}})), "audience"},
		{"no audience", a.sign(t, claims(map[string]any{"aud": nil})), "audience"},
		{"a user", a.sign(t, claims(map[string]any{"sub": "alice"})), "not that of a service account"},
		{"no subject", a.sign(t, claims(map[string]any{"sub": nil})), "not that of a service account"},
		{"three names", a.sign(t, claims(map[string]any{"sub": "system:serviceaccount:a:b:c"})), "not that of a service account"},
		{"no name", a.sign(t, claims(map[string]any{"sub": "system:serviceaccount:a:"})), "not that of a service account"},
		{"another namespace in Kubernetes' claims", a.sign(t, claims(kubernetes("kube-system", "agent"))), "two service accounts"},
		{"another name in Kubernetes' claims", a.sign(t, claims(kubernetes("sallyport", "admin"))), "two service accounts"},
		{"no name in Kubernetes' claims", a.sign(t, claims(map[string]any{"kubernetes.io": map[string]any{"namespace": "sallyport"}})), "two service accounts"},
		{"another cluster's key of the same kid", foreign.sign(t, claims(nil)), "no valid signature"},
		{"a kid that is not known", unknown.sign(t, claims(nil)), "/openid/v1/jwks"},
		{"no kid, several keys", unnamed.sign(t, claims(nil)), "/openid/v1/jwks"},
		{"alg none", raw(`{"alg":"none","kid":"a"}`), "can't be read"},
		{"HS256 by the public key", hmac(), "can't be read"},
		{"another alg than the key's", raw(`{"alg":"PS256","kid":"a"}`), "with a key that is for RS256"},
		{"what must be understood", raw(`{"alg":"RS256","kid":"a","crit":["b64"],"b64":false}`), "the service account's token"},
		{"a header that nobody signed", raw(`{"alg":"RS256","kid":"a","typ":"x"}`), "no valid signature"},
		{"JSON serialization", general(), "no JWT"},
		{"three dots", a.sign(t, claims(nil)) + ".x", "no JWT"},
		{"a line break", a.sign(t, claims(nil)) + "\n", "no JWT"},
		{"nothing", "", "no JWT"},
		{"1 MB", strings.Repeat("a", 1<<20), "no JWT"},
		{"garbage", "a.b.c", "can't be read"},
	} {
		username, err := verifyJWT(keys, tc.text, audience, jwtNow)
		switch {
		case tc.err == "" && (err != nil || username != "system:serviceaccount:sallyport:agent"):
			t.Errorf("%s: %q %v", tc.name, username, err)
		case tc.err != "" && (!api.IsCode(err, api.CodeUnauthenticated) || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%s: %v, want %q", tc.name, err, tc.err)
		}
	}
	if _, err := verifyJWT(one, unnamed.sign(t, claims(nil)), audience, jwtNow); err != nil {
		t.Error("no kid, one key:", err)
	}
}

func TestKeySetsHoldPublicKeysOnly(t *testing.T) {
	a, b := newIssuer(t, "a", jose.RS256), newIssuer(t, "b", jose.ES256)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	short := weak.PublicKey
	short.N = short.N.Rsh(short.N, 1024)
	private := func(i issuer) jose.JSONWebKey { k := i.jwk(); k.Key = i.key; return k }
	use := a.jwk()
	use.Use = "enc"
	many := make([]jose.JSONWebKey, 33)
	for i := range many {
		many[i] = a.jwk()
		many[i].KeyID = strings.Repeat("k", i)
	}
	for name, tc := range map[string]struct{ text, err string }{
		"two":                 {keySet(t, a.jwk(), b.jwk()), ""},
		"with spaces":         {"\n " + keySet(t, b.jwk()) + "\n", ""},
		"a private RSA key":   {keySet(t, private(a)), "private"},
		"a private EC key":    {keySet(t, b.jwk(), private(b)), "private"},
		"a symmetric key":     {keySet(t, jose.JSONWebKey{Key: []byte("0123456789abcdef"), KeyID: "s"}), "symmetric"},
		"a short RSA key":     {keySet(t, jose.JSONWebKey{Key: &short, KeyID: "s"}), "2048"},
		"a key to encrypt":    {keySet(t, use), "want sig"},
		"a kid twice":         {keySet(t, a.jwk(), a.jwk()), "twice"},
		"none":                {`{"keys":[]}`, "0 keys"},
		"too many":            {keySet(t, many...), "33 keys"},
		"too long":            {`{"keys":[` + strings.Repeat(" ", maxJWKS) + `]}`, "bytes"},
		"a kind of its own":   {`{"keys":[{"kty":"XYZ"}]}`, "known kind"},
		"no object":           {`{"keys":[1]}`, "no JSON object"},
		"a single key":        {strings.TrimSuffix(strings.TrimPrefix(keySet(t, a.jwk()), `{"keys":[`), "]}"), "0 keys"},
		"no JSON":             {"-----BEGIN PUBLIC KEY-----", "no JSON Web Key Set"},
		"upper-case members":  {`{"keys":[{"kty":"EC","D":"AAAA"}]}`, "private"},
		"a point not on it":   {`{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}`, "known kind"},
		"an even exponent":    {`{"keys":[{"kty":"RSA","n":"` + base64.RawURLEncoding.EncodeToString(weak.N.Bytes()) + `","e":"Ag"}]}`, "RSA"},
		"an algorithm of MAC": {`{"keys":[{"kty":"EC","crv":"P-256","alg":"HS256"}]}`, "keys[0]"},
	} {
		_, err := parseJWKS(tc.text)
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: %v, want %q", name, err, tc.err)
		}
	}
}

// FuzzServiceAccountToken reads what a stranger sends, with keys that anybody may
// have pasted: whatever passes was signed.
func FuzzServiceAccountToken(f *testing.F) {
	a := newIssuer(f, "a", jose.ES256)
	good := a.sign(f, claims(nil))
	set := keySet(f, a.jwk())
	for _, text := range []string{
		good, good + "x", "a.b.c", "..", "", strings.Replace(good, ".", "..", 1), "eyJhbGciOiJub25lIn0.e30.",
		base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"a","jwk":{"kty":"oct","k":"AA"}}`)) + ".e30.AA",
	} {
		f.Add(text, set)
	}
	f.Add(good, `{"keys":[{"kty":"oct","k":"AA"}]}`)
	f.Add(good, `{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","kid":"a"}]}`)
	f.Fuzz(func(t *testing.T, text, jwks string) {
		if keys, err := parseJWKS(jwks); err == nil {
			for _, k := range keys {
				if !k.IsPublic() || !k.Valid() {
					t.Fatalf("took %+v", k)
				}
			}
			_, _ = verifyJWT(keys, text, audience, jwtNow)
		}
		keys, err := parseJWKS(set)
		if err != nil {
			t.Fatal(err)
		}
		// ECDSA signatures can be varied without the key (s, n-s), so only what is signed counts.
		username, err := verifyJWT(keys, text, audience, jwtNow)
		if err == nil && (username != "system:serviceaccount:sallyport:agent" || text[:strings.LastIndex(text, ".")] != good[:strings.LastIndex(good, ".")]) {
			t.Fatalf("%q passes as %q", text, username)
		}
	})
}

func TestReviewsAreBoundedInNumber(t *testing.T) {
	s := &serviceAccounts{base: &base{clusterName: audience}, reviews: make(chan struct{}, 1)}
	s.review = func(context.Context, string, []string) (string, error) { return "system:serviceaccount:a:b", nil }
	s.reviews <- struct{}{}
	k := &api.TokenKubernetes{Type: api.TokenKubernetesInCluster}
	if _, err := s.username(t.Context(), k, "a.b.c"); !api.IsCode(err, api.CodeRateLimited) {
		t.Error(err)
	}
	<-s.reviews
	if _, err := s.username(t.Context(), k, "a.b.c"); err != nil || len(s.reviews) != 0 {
		t.Error(err)
	}
}
