package oidc

import (
	"crypto/elliptic"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestLogin(t *testing.T) {
	for name, s := range map[string]signer{
		"RS256": rsaSigner(jose.RS256), "RS384": rsaSigner(jose.RS384), "RS512": rsaSigner(jose.RS512),
		"PS256": rsaSigner(jose.PS256), "PS384": rsaSigner(jose.PS384), "PS512": rsaSigner(jose.PS512),
		"ES256": ecSigner(t, jose.ES256, elliptic.P256()), "ES384": ecSigner(t, jose.ES384, elliptic.P384()),
		"ES512": ecSigner(t, jose.ES512, elliptic.P521()), "EdDSA": edSigner("one", 1),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.signer = s
			d.serve(s)
			id, err := d.login(d.provider())
			if err != nil {
				t.Fatal(err)
			}
			want := &api.SSOIdentity{
				Subject: d.issuer + " alice-1", Username: "alice@example.com",
				Attributes: map[string][]string{"email": {"alice@example.com"}, "email_verified": {"true"}, "groups": {"devs", "ops"}},
			}
			if diff := cmp.Diff(want, id); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoginSendsTheSecretAsTheProviderWantsIt(t *testing.T) {
	d := newDouble(t)
	d.post = true
	if _, err := d.login(d.provider()); err != nil {
		t.Error(err)
	}
}

func TestStartAsksForACodeWithPKCE(t *testing.T) {
	d := newDouble(t)
	p := d.provider(func(s *api.OIDCSpec) {
		s.Prompt, s.ACRValues, s.MaxAge, s.Scope = "login", "mfa phr", api.Duration(90*time.Second), []string{"email", "openid", "groups"}
	})
	f := d.flow()
	address, err := p.Start(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	got := u.Query()
	if len(got.Get("code_challenge")) != 43 || strings.Contains(address, f.Verifier) || strings.Contains(address, clientSecret) {
		t.Errorf("code_challenge %q, or a secret, in %s", got.Get("code_challenge"), address)
	}
	got.Del("code_challenge")
	want := url.Values{
		"client_id": {clientID}, "response_type": {"code"}, "scope": {"openid email groups"}, "state": {f.ID}, "nonce": {f.Nonce},
		"code_challenge_method": {"S256"}, "redirect_uri": {"https://sallyport.example.com/v1/webapi/oidc/callback"},
		"prompt": {"login"}, "acr_values": {"mfa phr"}, "max_age": {"90"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStartUsesTheConnectorsRedirectURL(t *testing.T) {
	d := newDouble(t)
	p := d.provider(func(s *api.OIDCSpec) {
		s.RedirectURL = api.Values{"https://sallyport.example.com:443/webapi/oidc/callback"}
	})
	address, err := p.Start(t.Context(), d.flow())
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(address)
	if got := u.Query().Get("redirect_uri"); got != p.spec.RedirectURL[0] {
		t.Errorf("redirect_uri %q", got)
	}
}

// Row OAuth of threats: state, iss and parameters that come twice.
func TestFinishJudgesTheAnswer(t *testing.T) {
	set := func(name string, values ...string) func(url.Values) {
		return func(v url.Values) { v[name] = values }
	}
	refused := func(code, description string) func(url.Values) {
		return func(v url.Values) {
			v.Del("code")
			v.Set("error", code)
			v.Set("error_description", description)
		}
	}
	for name, tc := range map[string]struct {
		edit func(url.Values)
		code api.Code
		part string
	}{
		"no state":                {func(v url.Values) { v.Del("state") }, api.CodeUnauthenticated, "another login (state)"},
		"state of another":        {set("state", strings.Repeat("a", 64)), api.CodeUnauthenticated, "another login (state)"},
		"state twice":             {func(v url.Values) { v["state"] = append(v["state"], v["state"]...) }, api.CodeUnauthenticated, `"state" twice`},
		"code twice":              {func(v url.Values) { v["code"] = append(v["code"], "x") }, api.CodeUnauthenticated, `"code" twice`},
		"issuer of another":       {set("iss", "https://evil.example.com"), api.CodeUnauthenticated, `"https://evil.example.com", and "https://127.0.0.1`},
		"issuer with a slash":     {func(v url.Values) { v["iss"][0] += "/" }, api.CodeUnauthenticated, "RFC 9207"},
		"issuer empty":            {set("iss", ""), api.CodeUnauthenticated, "RFC 9207"},
		"issuer twice":            {func(v url.Values) { v["iss"] = append(v["iss"], "x") }, api.CodeUnauthenticated, `"iss" twice`},
		"issuer promised, absent": {func(v url.Values) { v.Del("iss") }, api.CodeUnauthenticated, "does not say that it is from"},
		"no code":                 {func(v url.Values) { v.Del("code") }, api.CodeUnauthenticated, "no usable code"},
		"code too long":           {set("code", strings.Repeat("c", maxCode+1)), api.CodeUnauthenticated, "no usable code"},
		"code unknown":            {set("code", "unknown-code"), api.CodeUnauthenticated, "invalid_grant"},
		"denied":                  {refused("access_denied", "no\r\nway\x1b[31m"), api.CodeForbidden, "refused the login: access_denied (no  way [31m)"},
		"login required":          {refused("login_required", ""), api.CodeForbidden, "spec.prompt"},
		"acr not met":             {refused("unmet_authentication_requirements", ""), api.CodeForbidden, "spec.acr_values"},
		"down":                    {refused("temporarily_unavailable", ""), api.CodeUnavailable, "try again later"},
		"bad scope":               {refused("invalid_scope", strings.Repeat("x", 500)), api.CodeForbidden, "invalid_scope (" + strings.Repeat("x", 200) + ");"},
		"error of another":        {func(v url.Values) { refused("access_denied", "")(v); v.Set("iss", "https://evil.example.com") }, api.CodeUnauthenticated, "RFC 9207"},
		"error empty":             {set("error", ""), api.CodeForbidden, "no reason given"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			_, err := d.login(d.provider(), tc.edit)
			wantError(t, err, tc.code, tc.part)
			if tc.code != api.CodeUnavailable && name != "code unknown" && d.count("/token") != 0 {
				t.Error("the code was sent to the provider all the same")
			}
		})
	}
}

func TestFinishTakesAnAnswerWithoutIssuerWhereNoneIsPromised(t *testing.T) {
	d := newDouble(t)
	d.metadata = func(m map[string]any) { delete(m, "authorization_response_iss_parameter_supported") }
	if _, err := d.login(d.provider(), func(v url.Values) { v.Del("iss") }); err != nil {
		t.Error(err)
	}
	_, err := d.login(d.provider(), func(v url.Values) { v.Set("iss", "https://evil.example.com") })
	wantError(t, err, api.CodeUnauthenticated, "RFC 9207")
}

// Row OAuth: code replay, PKCE verifier wrong, redirect_uri altered.
func TestCodesAreGoodForTheirLoginAlone(t *testing.T) {
	t.Run("replay", func(t *testing.T) {
		d := newDouble(t)
		p, f := d.provider(), d.flow()
		address, err := p.Start(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		answer := d.authorize(address)
		if _, err := p.Finish(t.Context(), f, answer); err != nil {
			t.Fatal(err)
		}
		_, err = p.Finish(t.Context(), f, answer)
		wantError(t, d.discreet(err), api.CodeUnauthenticated, "does not take the code of this login: invalid_grant (what it says holds a secret and is left out)")
	})
	t.Run("verifier of another login", func(t *testing.T) {
		d := newDouble(t)
		p, victim, attacker := d.provider(), d.flow(), d.flow()
		address, err := p.Start(t.Context(), victim)
		if err != nil {
			t.Fatal(err)
		}
		answer := d.authorize(address)
		answer.Set("state", attacker.ID) // a stolen code, injected into one's own login
		_, err = p.Finish(t.Context(), attacker, answer)
		wantError(t, d.discreet(err), api.CodeUnauthenticated, "does not take the code")
	})
	t.Run("redirect_uri altered", func(t *testing.T) {
		d := newDouble(t)
		p, f := d.provider(), d.flow()
		address, err := p.Start(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		altered := strings.Replace(address, url.QueryEscape("https://sallyport.example.com/"), url.QueryEscape("https://evil.example.com/"), 1)
		if altered == address {
			t.Fatal("no redirect_uri in " + address)
		}
		_, err = p.Finish(t.Context(), f, d.authorize(altered))
		wantError(t, d.discreet(err), api.CodeUnauthenticated, "does not take the code")
	})
}

// Row OAuth: mix-up. A login begins at the attacker's provider, which sends the
// browser on to the honest one, to be given the honest one's code.
func TestMixUp(t *testing.T) {
	honest, evil := newDouble(t), newDouble(t)
	var got url.Values
	evil.handlers["/token"] = func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = r.PostForm
		w.WriteHeader(http.StatusBadRequest)
	}
	p, f := evil.provider(), evil.flow()
	address, err := p.Start(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	answer := honest.authorize(strings.Replace(address, evil.issuer, honest.issuer, 1))
	_, err = p.Finish(t.Context(), f, answer)
	wantError(t, honest.discreet(err), api.CodeUnauthenticated, "mixing up logins (RFC 9207)")
	if got != nil {
		t.Errorf("the attacker's provider was sent the code of the honest one: %v", got)
	}
}

func TestWrongSecretIsNamed(t *testing.T) {
	d := newDouble(t)
	_, err := d.login(d.provider(func(s *api.OIDCSpec) { s.ClientSecret = "another-secret" }))
	wantError(t, err, api.CodeForbidden, "spec.client_id and spec.client_secret")
}

func TestErrorsOfTheTokenEndpointAreReadable(t *testing.T) {
	answer := func(status int, kind, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, tc := range map[string]struct {
		h    func(http.ResponseWriter, *http.Request)
		code api.Code
		part string
	}{
		"described":   {answer(400, "application/json", `{"error":"invalid_client","error_description":"AADSTS7000215: wrong\nsecret"}`), api.CodeForbidden, "invalid_client (AADSTS7000215: wrong secret)"},
		"other":       {answer(400, "application/json", `{"error":"invalid_request"}`), api.CodeForbidden, "gives no token: invalid_request"},
		"with 200":    {answer(200, "application/json", `{"error":"invalid_grant"}`), api.CodeUnauthenticated, "invalid_grant"},
		"500":         {answer(500, "application/json", `{"error":"server_error","error_description":"trace of the program"}`), api.CodeUnavailable, "it answered 500 Internal Server Error"},
		"a page":      {answer(404, "text/html", `<h1>sorry</h1>`), api.CodeUnavailable, "it answered 404 Not Found"},
		"no JSON":     {answer(200, "application/json", `garbage`), api.CodeUnavailable, "did not answer with tokens"},
		"no tokens":   {answer(200, "application/json", `{}`), api.CodeUnavailable, "did not answer with tokens"},
		"no ID token": {answer(200, "application/json", `{"access_token":"access-x","token_type":"Bearer"}`), api.CodeUnavailable, "gave no ID token"},
		"too large":   {answer(200, "application/json", strings.Repeat(" ", 1<<20+1)), api.CodeUnavailable, "did not answer with tokens"},
		"away": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/?code=x", http.StatusTemporaryRedirect)
		}, api.CodeUnavailable, "it redirects to https://evil.example.com/, and"},
		"no longer TLS": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+"/token", http.StatusTemporaryRedirect)
		}, api.CodeUnavailable, "it redirects to http://127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.handlers["/token"] = tc.h
			_, err := d.login(d.provider())
			wantError(t, err, tc.code, tc.part)
			for _, body := range []string{"trace of the program", "garbage", "sorry", "access-x"} {
				if strings.Contains(err.Error(), body) {
					t.Errorf("the error quotes the answer: %v", err)
				}
			}
		})
	}
}
