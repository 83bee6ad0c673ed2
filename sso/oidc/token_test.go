package oidc

import (
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// forge is a JWS that anybody can make.
func forge(header string, payload []byte, mac func(signed []byte) []byte) string {
	signed := b64([]byte(header)) + "." + b64(payload)
	return signed + "." + b64(mac([]byte(signed)))
}

func hs256(key []byte) func([]byte) []byte {
	return func(signed []byte) []byte {
		h := hmac.New(sha256.New, key)
		h.Write(signed)
		return h.Sum(nil)
	}
}

// Row OIDC of threats: aud of another client, azp, iss, alg none and HS256, nonce,
// times, kid.
func TestIDTokensThatAreRefused(t *testing.T) {
	claim := func(name string, v any) func(*double) {
		return func(d *double) { d.claims = func(c map[string]any) { c[name] = v } }
	}
	without := func(name string) func(*double) {
		return func(d *double) { d.claims = func(c map[string]any) { delete(c, name) } }
	}
	token := func(f func(d *double, payload []byte) string) func(*double) {
		return func(d *double) {
			d.token = func(c map[string]any) string { return f(d, mustJSON(d.t, c)) }
		}
	}
	rs := rsaSigner(jose.RS256)
	publicKey := func() []byte {
		der, err := x509.MarshalPKIXPublicKey(rs.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	nothing := func([]byte) []byte { return nil }
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	const unsafe = "not signed by one of the algorithms"
	for name, tc := range map[string]struct {
		lie  func(*double)
		part string
	}{
		"aud of another client":   {claim("aud", "another"), "is for another client (aud)"},
		"aud of others":           {claim("aud", []string{"another", "third"}), "is for another client (aud)"},
		"aud in another case":     {claim("aud", "Sallyport"), "is for another client (aud)"},
		"aud absent":              {without("aud"), "is for another client (aud)"},
		"aud an object":           {claim("aud", map[string]any{clientID: true}), "token of the identity provider"},
		"aud with numbers":        {claim("aud", []any{clientID, 5}), "token of the identity provider"},
		"several aud without azp": {claim("aud", []string{clientID, "another"}), "was issued to another client (azp)"},
		"azp of another":          {claim("azp", "another"), "was issued to another client (azp)"},
		"azp empty":               {claim("azp", ""), "was issued to another client (azp)"},
		"azp null":                {claim("azp", nil), "was issued to another client (azp)"},
		"azp a list":              {claim("azp", []string{clientID}), "was issued to another client (azp)"},
		"iss of another":          {claim("iss", "https://evil.example.com"), "another identity provider (iss)"},
		"iss with a slash":        {func(d *double) { claim("iss", d.issuer+"/")(d) }, "another identity provider (iss)"},
		"iss absent":              {without("iss"), "another identity provider (iss)"},
		"iss a list":              {claim("iss", []string{"x"}), "token of the identity provider"},
		"nonce absent":            {without("nonce"), "belongs to another login (nonce)"},
		"nonce empty":             {claim("nonce", ""), "belongs to another login (nonce)"},
		"nonce of another login":  {claim("nonce", strings.Repeat("a", 64)), "belongs to another login (nonce)"},
		"nonce in another case":   {func(d *double) { d.claims = func(c map[string]any) { c["Nonce"] = c["nonce"]; delete(c, "nonce") } }, "belongs to another login (nonce)"},
		"sub absent":              {without("sub"), "does not say who logged in"},
		"sub empty":               {claim("sub", ""), "does not say who logged in"},
		"sub a number":            {claim("sub", 7), "token of the identity provider"},
		"sub with a line end":     {claim("sub", "alice\nroot"), "does not say who logged in"},
		"sub with a NUL":          {claim("sub", "alice\x00root"), "does not say who logged in"},
		"sub that turns round":    {claim("sub", "alice\u202etoor"), "does not say who logged in"},
		"sub too long":            {claim("sub", strings.Repeat("a", 256)), "does not say who logged in"},
		"sub of broken UTF-8": {func(d *double) {
			d.person["x"] = 1
			d.token = func(c map[string]any) string {
				return d.signer.sign(d.t, []byte(strings.Replace(string(mustJSON(d.t, c)), "alice-1", "alice\xff", 1)))
			}
		}, "does not say who logged in"},
		"sub in upper case alone":      {func(d *double) { d.claims = func(c map[string]any) { c["SUB"] = c["sub"]; delete(c, "sub") } }, "does not say who logged in"},
		"expired":                      {claim("exp", in(-time.Hour)), "clocks of the identity provider and of Sallyport differ by more than 3m0s: its ID token is good until"},
		"exp absent":                   {without("exp"), "has no time exp"},
		"exp a string":                 {claim("exp", "tomorrow"), "token of the identity provider"},
		"exp without end":              {claim("exp", json.Number("1e400")), "token of the identity provider"},
		"exp far away":                 {claim("exp", json.Number("1e300")), "has no usable time exp"},
		"exp negative":                 {claim("exp", -5), "has no usable time exp"},
		"iat absent":                   {without("iat"), "has no time iat"},
		"iat to come":                  {claim("iat", in(sso.MaxSkew+time.Minute)), "differ by more than 3m0s: its ID token was issued at"},
		"nbf to come":                  {claim("nbf", in(sso.MaxSkew+time.Minute)), "differ by more than 3m0s: its ID token is good from"},
		"nbf no time":                  {claim("nbf", json.Number("1e300")), "has no usable time nbf"},
		"at_hash of another":           {claim("at_hash", b64(make([]byte, 16))), "another access token (at_hash)"},
		"at_hash empty":                {claim("at_hash", ""), "another access token (at_hash)"},
		"at_hash null":                 {claim("at_hash", nil), "another access token (at_hash)"},
		"alg none":                     {token(func(_ *double, p []byte) string { return forge(`{"alg":"none"}`, p, nothing) }), unsafe},
		"alg NoNe":                     {token(func(_ *double, p []byte) string { return forge(`{"alg":"NoNe"}`, p, nothing) }), unsafe},
		"alg absent":                   {token(func(_ *double, p []byte) string { return forge(`{}`, p, nothing) }), unsafe},
		"HS256 with the client secret": {token(func(_ *double, p []byte) string { return forge(`{"alg":"HS256"}`, p, hs256([]byte(clientSecret))) }), unsafe},
		"HS256 with the public key":    {token(func(d *double, p []byte) string { return forge(`{"alg":"HS256","kid":"rsa"}`, p, hs256(publicKey())) }), unsafe},
		"HS256 with a served key": {func(d *double) {
			d.served = append(d.served, jose.JSONWebKey{Key: []byte(clientSecret), KeyID: "oct", Algorithm: "HS256"})
			token(func(_ *double, p []byte) string {
				return forge(`{"alg":"HS256","kid":"oct"}`, p, hs256([]byte(clientSecret)))
			})(d)
		}, unsafe},
		"key in the header": {token(func(_ *double, p []byte) string {
			s := edSigner("one", 9)
			js, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: s.key}, &jose.SignerOptions{EmbedJWK: true})
			if err != nil {
				t.Fatal(err)
			}
			jws, err := js.Sign(p)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := jws.CompactSerialize()
			return text
		}), "is not signed by a key of the identity provider"},
		"kid unknown":            {token(func(_ *double, p []byte) string { return edSigner("two", 2).sign(t, p) }), "is not signed by a key of the identity provider"},
		"kid unknown, key known": {token(func(d *double, p []byte) string { return edSigner("two", 1).sign(t, p) }), "is not signed by a key of the identity provider"},
		"key for encryption":     {func(d *double) { d.served[0].Use = "enc" }, "is not signed by a key of the identity provider"},
		"key for another algorithm": {func(d *double) {
			d.signer = rsaSigner(jose.PS256)
			d.served = []jose.JSONWebKey{rs.public()}
		}, "is not signed by a key of the identity provider"},
		"key that is published with its private half": {func(d *double) { d.served = []jose.JSONWebKey{{Key: d.signer.key, KeyID: "one"}} }, "is not signed by a key of the identity provider"},
		"kid known, key another":                      {token(func(_ *double, p []byte) string { return edSigner("one", 2).sign(t, p) }), "is not signed by a key of the identity provider"},
		"kid of a key of another kind":                {token(func(_ *double, p []byte) string { s := rs; s.kid = "one"; return s.sign(t, p) }), "is not signed by a key of the identity provider"},
		"an algorithm that is not named": {func(d *double) {
			d.metadata = func(m map[string]any) {
				m["id_token_signing_alg_values_supported"] = []string{"RS256", "none", "HS256"}
			}
		}, "are safe (RS256)"},
		"JSON serialization": {token(func(d *double, p []byte) string {
			parts := strings.Split(d.signer.sign(t, p), ".")
			return `{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`
		}), "no signed token"},
		"JSON with two dots": {token(func(d *double, p []byte) string {
			parts := strings.Split(d.signer.sign(t, p), ".")
			return `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","x":"..","signature":"` + parts[2] + `"}`
		}), "no signed token"},
		"payload altered": {token(func(d *double, p []byte) string {
			parts := strings.Split(d.signer.sign(t, p), ".")
			return parts[0] + "." + b64([]byte(strings.Replace(string(p), "alice-1", "admin-1", 1))) + "." + parts[2]
		}), "is not signed by a key"},
		"critical header": {token(func(d *double, p []byte) string {
			return forge(`{"alg":"EdDSA","kid":"one","crit":["x"],"x":1}`, p, nothing)
		}), "token of the identity provider"},
		"a claim twice": {token(func(d *double, p []byte) string {
			return d.signer.sign(t, []byte(strings.Replace(string(p), `"sub":"alice-1"`, `"sub":"admin","sub":"alice-1"`, 1)))
		}), "one of them twice"},
		"deep claims": {token(func(d *double, p []byte) string {
			return d.signer.sign(t, []byte(`{"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+","+string(p[1:])))
		}), "has claims that can't be read"},
		"claims that are a list":  {token(func(d *double, _ []byte) string { return d.signer.sign(t, []byte(`[]`)) }), "token of the identity provider"},
		"claims that are null":    {token(func(d *double, _ []byte) string { return d.signer.sign(t, []byte(`null`)) }), "has claims that can't be read"},
		"claims with a tail":      {token(func(d *double, p []byte) string { return d.signer.sign(t, append(p, " {}"...)) }), "token of the identity provider"},
		"claims that are garbage": {token(func(d *double, _ []byte) string { return d.signer.sign(t, []byte("\x00\xff")) }), "token of the identity provider"},
		"no token at all":         {token(func(_ *double, _ []byte) string { return "garbage" }), "no signed token"},
		"dots":                    {token(func(_ *double, _ []byte) string { return ".." }), unsafe},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			tc.lie(d)
			id, err := d.login(d.provider())
			if err == nil {
				t.Fatalf("logged in as %+v", id)
			}
			if api.CodeOf(err) != api.CodeUnauthenticated || !strings.Contains(err.Error(), tc.part) {
				t.Errorf("%s %q, want %q", api.CodeOf(err), err, tc.part)
			}
		})
	}
}

func TestIDTokensThatAreTaken(t *testing.T) {
	for name, claims := range map[string]map[string]any{
		"one aud in a list":      {"aud": []string{clientID}},
		"several aud with azp":   {"aud": []string{"another", clientID}, "azp": clientID},
		"one aud with azp":       {"azp": clientID},
		"clock behind":           {"exp": time.Now().Add(-sso.MaxSkew + time.Minute).Unix()},
		"clock ahead":            {"iat": time.Now().Add(sso.MaxSkew - time.Minute).Unix(), "nbf": time.Now().Add(sso.MaxSkew - time.Minute).Unix()},
		"iat dated back":         {"iat": time.Now().Add(-5 * time.Minute).Unix()},
		"parts of seconds":       {"iat": float64(time.Now().UnixMilli()) / 1000},
		"claims in upper case":   {"SUB": "admin-1", "Iss": "https://evil.example.com", "AUD": "another", "Exp": 1, "NONCE": "x"},
		"what we have no use of": {"events": map[string]any{"x": []any{1, nil}}, "null": nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.claims = func(c map[string]any) { maps.Copy(c, claims) }
			id, err := d.login(d.provider())
			if err != nil {
				t.Fatal(err)
			}
			if id.Subject != d.issuer+" alice-1" {
				t.Errorf("subject %q", id.Subject)
			}
		})
	}
}

// A token of an earlier login of the same person, or of another's, is no answer.
func TestIDTokenOfAnotherLoginIsRefused(t *testing.T) {
	d := newDouble(t)
	p := d.provider()
	var first string
	d.token = func(c map[string]any) string {
		token := d.signer.sign(t, mustJSON(t, c))
		if first == "" {
			first = token
		}
		return first
	}
	if _, err := d.login(p); err != nil {
		t.Fatal(err)
	}
	_, err := d.login(p)
	wantError(t, err, api.CodeUnauthenticated, "belongs to another login (nonce)")
}

func TestFlowWithoutNonceIsRefused(t *testing.T) {
	d := newDouble(t)
	p, f := d.provider(), d.flow()
	f.Nonce = ""
	address, err := p.Start(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Finish(t.Context(), f, d.authorize(address))
	wantError(t, err, api.CodeUnauthenticated, "belongs to another login (nonce)")
}

func TestKeys(t *testing.T) {
	one, two := edSigner("one", 1), edSigner("two", 2)
	t.Run("two keys", func(t *testing.T) {
		d := newDouble(t)
		p := d.provider()
		d.serve(one, two)
		for _, d.signer = range []signer{one, two, one} {
			if _, err := d.login(p); err != nil {
				t.Error(err)
			}
		}
		if n := d.count("/keys"); n != 1 {
			t.Errorf("keys were fetched %d times", n)
		}
	})
	t.Run("rotation", func(t *testing.T) {
		d := newDouble(t)
		p := d.provider()
		if _, err := d.login(p); err != nil {
			t.Fatal(err)
		}
		d.serve(two)
		d.signer = two
		if _, err := d.login(p); err != nil {
			t.Error(err)
		}
		d.signer = one
		_, err := d.login(p)
		wantError(t, err, api.CodeUnauthenticated, "not signed by a key")
	})
	t.Run("no kid", func(t *testing.T) {
		d := newDouble(t)
		d.serve(two, one)
		d.signer.kid = ""
		if _, err := d.login(d.provider()); err != nil {
			t.Error(err)
		}
	})
	t.Run("withdrawn", func(t *testing.T) {
		d := newDouble(t)
		now := time.Now()
		d.now = func() time.Time { return now }
		p := d.provider()
		if _, err := d.login(p); err != nil {
			t.Fatal(err)
		}
		d.serve(two) // and the thief of the first goes on signing
		now = now.Add(fresh)
		_, err := d.login(p)
		wantError(t, err, api.CodeUnauthenticated, "not signed by a key")
	})
	t.Run("known ones while jwks_uri is down", func(t *testing.T) {
		d := newDouble(t)
		p := d.provider()
		if _, err := d.login(p); err != nil {
			t.Fatal(err)
		}
		d.handlers["/keys"] = fails
		if _, err := d.login(p); err != nil {
			t.Error(err)
		}
	})
	t.Run("ones that nobody knows beside them", func(t *testing.T) {
		d := newDouble(t)
		d.handlers["/keys"] = answers(`{"keys":[{"kty":"OKP","crv":"Ed448","x":"AA","kid":"a"},{"kty":"new","kid":"b"},{"kty":"EC","crv":"secp256k1","alg":"ES256K","x":"AA","y":"AA"},` +
			string(mustJSON(t, d.signer.public())) + `]}`)
		if _, err := d.login(d.provider()); err != nil {
			t.Error(err)
		}
	})
}

func TestMaxAgeAndACR(t *testing.T) {
	ago := func(d time.Duration) any { return time.Now().Add(-d).Unix() }
	strict := func(s *api.OIDCSpec) { s.MaxAge, s.ACRValues = api.Duration(time.Hour), "phr mfa" }
	for name, tc := range map[string]struct {
		claims map[string]any
		code   api.Code
		part   string
	}{
		"both":            {map[string]any{"auth_time": ago(time.Minute), "acr": "mfa"}, "", ""},
		"skew":            {map[string]any{"auth_time": ago(time.Hour + sso.MaxSkew - time.Minute), "acr": "phr"}, "", ""},
		"too long ago":    {map[string]any{"auth_time": ago(2 * time.Hour), "acr": "mfa"}, api.CodeForbidden, "spec.max_age of the connector wants it within 1h0m0s"},
		"no auth_time":    {map[string]any{"acr": "mfa"}, api.CodeUnauthenticated, "has no time auth_time"},
		"to come":         {map[string]any{"auth_time": ago(-time.Hour), "acr": "mfa"}, api.CodeUnauthenticated, "clocks"},
		"no acr":          {map[string]any{"auth_time": ago(0)}, api.CodeForbidden, "does not say how you logged in (acr)"},
		"acr a list":      {map[string]any{"auth_time": ago(0), "acr": []string{"mfa"}}, api.CodeForbidden, "does not say how you logged in (acr)"},
		"another acr":     {map[string]any{"auth_time": ago(0), "acr": "pwd"}, api.CodeForbidden, `logged in by "pwd" (acr)`},
		"both acr in one": {map[string]any{"auth_time": ago(0), "acr": "phr mfa"}, api.CodeForbidden, `(acr)`},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			maps.Copy(d.person, tc.claims)
			id, err := d.login(d.provider(strict))
			if tc.code != "" {
				wantError(t, err, tc.code, tc.part)
			} else if err != nil || len(id.Attributes["acr"]) != 1 || id.Attributes["auth_time"] != nil {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
	d := newDouble(t)
	d.person["acr"] = "pwd"
	if _, err := d.login(d.provider()); err != nil {
		t.Errorf("nothing was asked for: %v", err)
	}
}

func TestAccessTokenHash(t *testing.T) {
	for name, s := range map[string]signer{"RS256": rsaSigner(jose.RS256), "ES256": ecSigner(t, jose.ES256, elliptic.P256())} {
		d := newDouble(t)
		d.signer = s
		d.serve(s)
		d.claims = func(c map[string]any) {
			sum := sha256.Sum256([]byte("access-stolen"))
			c["at_hash"] = b64(sum[:16])
		}
		d.tokens = func(m map[string]any) { m["access_token"] = "access-stolen" }
		if _, err := d.login(d.provider()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		d.tokens = nil // the access token was exchanged for another
		_, err := d.login(d.provider())
		wantError(t, err, api.CodeUnauthenticated, "at_hash")
	}
}
