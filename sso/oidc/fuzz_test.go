package oidc

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

const (
	fuzzIssuer = "https://dex.example.com"
	fuzzNonce  = "0123456789abcdef"
)

// fuzzNow is when tokens of the corpus are good.
func fuzzNow() time.Time { return time.Unix(1_800_000_000, 0) }

// fuzzProvider has its keys already: nothing is asked.
func fuzzProvider(t testing.TB) (*Provider, *metadata, *sso.Flow) {
	d := inMemory(t, fuzzIssuer)
	d.now = fuzzNow
	p := d.provider()
	p.spec.ClaimsToRoles = nil
	md := &metadata{Issuer: fuzzIssuer, algs: signingAlgs()}
	md.keys = newKeySet(fuzzIssuer+"/keys", p.client, md.algs)
	return p, md, &sso.Flow{ID: "id", Nonce: fuzzNonce, Verifier: "verifier", Started: fuzzNow()}
}

func fuzzClaims(change string, v any) []byte {
	c := map[string]any{
		"iss": fuzzIssuer, "aud": clientID, "sub": "alice-1", "nonce": fuzzNonce, "iat": fuzzNow().Unix(), "exp": fuzzNow().Unix() + 300,
		"preferred_username": "alice",
	}
	if change != "" {
		c[change] = v
	}
	b, _ := json.Marshal(c)
	return b
}

// attacks are payloads that were refused for a reason, and good ones.
func attacks() [][]byte {
	good := fuzzClaims("", nil)
	return [][]byte{
		good, fuzzClaims("aud", "another"), fuzzClaims("aud", []string{clientID, "another"}), fuzzClaims("azp", "another"), fuzzClaims("iss", fuzzIssuer+"/"),
		fuzzClaims("nonce", ""), fuzzClaims("sub", "alice\x00"), fuzzClaims("sub", strings.Repeat("a", 256)), fuzzClaims("SUB", "admin"), fuzzClaims("exp", 1),
		fuzzClaims("exp", json.Number("1e400")), fuzzClaims("iat", json.Number("1e18")), fuzzClaims("nbf", -1), fuzzClaims("at_hash", "x"),
		fuzzClaims("groups", []any{"a", 1, true, nil, []any{"b"}, map[string]any{"c": 1}}), fuzzClaims("email", "a@x.org"), fuzzClaims("hasgroups", true),
		fuzzClaims("_claim_names", map[string]string{"groups": "src1"}), fuzzClaims("_claim_names", []any{1}), fuzzClaims("_claim_sources", 1),
		[]byte(`{"sub":"a","sub":"b"}`), []byte(`null`), []byte(`[]`), []byte(``), []byte("{\"sub\":\"\xff\"}"), []byte(strings.Repeat(`{"a":`, 100)),
		[]byte(strings.Replace(string(good), "{", `{"sub":"admin",`, 1)),
	}
}

// FuzzIDToken gives verification any bytes as a token. What it takes must be signed by
// the provider's key, as the standard library judges it, and be for this login.
func FuzzIDToken(f *testing.F) {
	one := edSigner("one", 1)
	for _, payload := range attacks() {
		f.Add([]byte(one.sign(f, payload)))
		f.Add([]byte(edSigner("one", 2).sign(f, payload)))
	}
	good := fuzzClaims("", nil)
	signed := one.sign(f, good)
	parts := strings.Split(signed, ".")
	none := func([]byte) []byte { return nil }
	for _, token := range []string{
		forge(`{"alg":"none"}`, good, none), forge(`{"alg":"HS256"}`, good, hs256([]byte(clientSecret))), forge(`{"alg":"EdDSA","kid":"two"}`, good, none),
		forge(`{"alg":"HS256","kid":"one"}`, good, hs256(one.key.Public().(ed25519.PublicKey))), forge(`{"alg":"EdDSA","b64":false,"crit":["b64"]}`, good, none),
		`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		`{"payload":"` + parts[1] + `","x":"..","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`,
		parts[0] + "." + b64([]byte(strings.Replace(string(good), "alice", "admin", 1))) + "." + parts[2],
		parts[0] + "." + parts[1] + ".", "..", "", signed + "=", signed + "\n", " " + signed, signed + ".", strings.Replace(signed, ".", ".\r\n", 1),
	} {
		f.Add([]byte(token))
	}
	p, md, flow := fuzzProvider(f)
	md.keys.keys = []jose.JSONWebKey{one.public()}
	f.Fuzz(func(t *testing.T, token []byte) {
		c, err := p.verify(t.Context(), md, flow, tokens{id: string(token), access: "access"})
		if err != nil {
			if _, ok := errors.AsType[*api.Error](err); !ok {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		parts := strings.Split(string(token), ".")
		if len(parts) != 3 {
			t.Fatalf("%d parts were taken", len(parts))
		}
		signature, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil || !ed25519.Verify(one.key.Public().(ed25519.PublicKey), []byte(parts[0]+"."+parts[1]), signature) {
			t.Fatalf("a token was taken that our key did not sign: %s", token)
		}
		wantForUs(t, c)
	})
}

// FuzzSignedClaims signs any bytes with the provider's key: what a hostile or
// careless provider may say.
func FuzzSignedClaims(f *testing.F) {
	for _, payload := range attacks() {
		f.Add(payload)
	}
	one := edSigner("one", 1)
	p, md, flow := fuzzProvider(f)
	md.keys.keys = []jose.JSONWebKey{one.public()}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := p.verify(t.Context(), md, flow, tokens{id: one.sign(t, payload), access: "access"})
		if err != nil {
			return
		}
		wantForUs(t, c)
		id, err := p.identity(c)
		if err == nil {
			wantClean(t, id)
		}
	})
}

// FuzzUserinfo merges any answer with a good ID token.
func FuzzUserinfo(f *testing.F) {
	for _, payload := range attacks() {
		f.Add(payload)
	}
	f.Add([]byte(`{"sub":"alice-1","email":"a@x.org","email_verified":"true","groups":["a"]}`))
	f.Add([]byte(`{"sub":"alice-1","_claim_names":{"groups":"x"},"address":{"country":"IS"},"level":1e400}`))
	p, _, _ := fuzzProvider(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		info, err := readUserinfo(fuzzIssuer+"/userinfo", 200, "application/json", body)
		if err != nil {
			return
		}
		token, err := readClaims(fuzzClaims("", nil))
		if err != nil {
			t.Fatal(err)
		}
		id, err := p.identity(merge(token, info))
		if err != nil {
			return
		}
		if id.Subject != fuzzIssuer+" alice-1" {
			t.Fatalf("userinfo made somebody else of alice: %q", id.Subject)
		}
		wantClean(t, id)
	})
}

// FuzzKeys reads any answer of jwks_uri: it never makes a key that anybody could sign with.
func FuzzKeys(f *testing.F) {
	one := edSigner("one", 1)
	f.Add(mustJSON(f, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{one.public(), {Key: []byte("secret"), KeyID: "oct"}, {Key: one.key, KeyID: "private"}}}))
	f.Add([]byte(`{"keys":null}`))
	f.Add([]byte(`{"keys":[null,1,{"kty":"RSA","n":"","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := readKeys(body)
		if err != nil {
			return
		}
		for _, k := range keys {
			if _, secret := k.Key.([]byte); secret || !k.IsPublic() {
				t.Fatalf("key %q of type %T was taken", k.KeyID, k.Key)
			}
		}
	})
}

func wantForUs(t *testing.T, c claims) {
	t.Helper()
	sub, _ := c["sub"].(string)
	if c["iss"] != fuzzIssuer || c["nonce"] != fuzzNonce || sub == "" || !sso.Readable(sub) || len(sub) > 255 {
		t.Fatalf("a token was taken that is not for this login: %v", c)
	}
}

func wantClean(t *testing.T, id *api.SSOIdentity) {
	t.Helper()
	if err := api.ValidateName("user", id.Username); err != nil {
		t.Fatal(err)
	}
	for name, values := range id.Attributes {
		for _, v := range append(values, name) {
			if v == "" || len(v) > 256 || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
				t.Fatalf("attribute %q holds %q", name, v)
			}
		}
	}
}
