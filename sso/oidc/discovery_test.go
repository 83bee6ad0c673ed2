package oidc

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

const (
	discoveryPath = "/.well-known/openid-configuration"
	checkFor      = 5 * time.Second
)

func TestProbe(t *testing.T) {
	set := func(name string, v any) func(*double) {
		return func(d *double) { d.metadata = func(m map[string]any) { m[name] = v } }
	}
	take := func(h func(http.ResponseWriter, *http.Request)) func(*double) {
		return func(d *double) { d.handlers[discoveryPath] = h }
	}
	for name, tc := range map[string]struct {
		lie     func(*double)
		warning string
		part    string // of the error
	}{
		"good": {func(*double) {}, "", ""},
		"little metadata": {func(d *double) {
			d.metadata = func(m map[string]any) {
				for _, name := range []string{"response_types_supported", "code_challenge_methods_supported", "id_token_signing_alg_values_supported", "token_endpoint_auth_methods_supported"} {
					delete(m, name)
				}
			}
		}, "", ""},
		"another issuer":     {set("issuer", "https://evil.example.com"), "", `calls its issuer "https://evil.example.com", and the connector says`},
		"issuer and a slash": {func(d *double) { set("issuer", d.issuer+"/")(d) }, "", "the slash at the end counts"},
		"no issuer":          {set("issuer", nil), "is no discovery document of OpenID Connect", ""},
		"http authorization": {set("authorization_endpoint", "http://dex.example.com/auth"), "", `its authorization_endpoint can't be asked: "http://dex.example.com/auth": want https`},
		"http token":         {set("token_endpoint", "http://dex.example.com/token"), "", "its token_endpoint can't be asked"},
		"http keys":          {set("jwks_uri", "http://dex.example.com/keys"), "", "its jwks_uri can't be asked"},
		"no keys":            {set("jwks_uri", ""), "", "its jwks_uri can't be asked"},
		"http userinfo":      {set("userinfo_endpoint", "http://dex.example.com/userinfo"), "", "its userinfo_endpoint can't be asked"},
		"script":             {set("authorization_endpoint", "javascript:alert(1)"), "", "its authorization_endpoint can't be asked"},
		"password in it":     {set("token_endpoint", "https://u:p@dex.example.com/"), "", "its token_endpoint can't be asked"},
		"no code flow":       {set("response_types_supported", []string{"id_token", "token id_token"}), "", "does not offer the authorization code flow"},
		"no code grant":      {set("grant_types_supported", []string{"implicit"}), "", "does not offer the authorization code flow"},
		"no S256":            {set("code_challenge_methods_supported", []string{"plain"}), "", "does not offer PKCE with S256"},
		"no safe algorithm":  {set("id_token_signing_alg_values_supported", []string{"none", "HS256"}), "", "it signs ID tokens by none of RS256, RS384"},
		"other client auth":  {set("token_endpoint_auth_methods_supported", []string{"private_key_jwt"}), "", "neither by client_secret_basic nor by client_secret_post"},
		"garbage":            {take(answers("<html>")), "is no discovery document of OpenID Connect", ""},
		"null":               {take(answers("null")), "is no discovery document of OpenID Connect", ""},
		"of other types":     {set("issuer", 7), "is no discovery document of OpenID Connect", ""},
		"a field twice":      {take(answers(`{"issuer":"a","issuer":"b"}`)), "is no discovery document of OpenID Connect", ""},
		"500":                {take(fails), "it answered 500 Internal Server Error", ""},
		"404":                {take(http.NotFound), "there is no discovery document at https://127.0.0.1", ""},
		"too large":          {take(answers(strings.Repeat(" ", 1<<20+1))), "its answer is larger than 1024 KiB", ""},
		"away": {take(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/", http.StatusFound)
		}), "it redirects to https://evil.example.com/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			tc.lie(d)
			_, warnings, err := Probe(t.Context(), d.connector(), d.options())
			if tc.part != "" {
				wantError(t, err, api.CodeInvalid, tc.part)
				if _, err := d.login(d.provider()); err == nil {
					t.Error("and yet somebody was logged in")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(warnings, "\n"); !strings.Contains(got, tc.warning) || tc.warning == "" && got != "" || strings.Contains(got, "reached") {
				t.Errorf("warnings %q, want %q", got, tc.warning)
			}
		})
	}
}

func TestProbeWarnsOfAProviderThatIsDown(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	server.Close()
	d := makeDouble(t, server.URL)
	_, warnings, err := Probe(t.Context(), d.connector(), d.options())
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "connection refused") {
		t.Errorf("%v, %v", warnings, err)
	}
	_, err = d.provider().Start(t.Context(), d.flow())
	wantError(t, err, api.CodeUnavailable, "connection refused")
}

func TestCheckAsksAnew(t *testing.T) {
	d := newDouble(t)
	p := d.provider()
	for range 2 {
		if err := p.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.count(discoveryPath); n != 2 {
		t.Errorf("asked %d times", n)
	}
	d.handlers[discoveryPath] = fails
	wantError(t, p.Check(t.Context()), api.CodeUnavailable, "it answered 500")
	if _, err := d.login(p); err != nil { // what Check found before is enough
		t.Error(err)
	}
}

func TestCheckFindsAChangedDocument(t *testing.T) {
	d := newDouble(t)
	p := d.provider()
	if _, err := d.login(p); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.login(p); err != nil || d.count("/keys") != 1 {
		t.Errorf("%v; keys were fetched %d times, the document is the same", err, d.count("/keys"))
	}
	d.metadata = func(m map[string]any) { delete(m, "authorization_response_iss_parameter_supported") }
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if md, _ := p.discovery.known(); md.IssuerInAnswer {
		t.Error("the old document counts on")
	}
}

func TestDiscoveryIsKeptForAnHour(t *testing.T) {
	d := newDouble(t)
	var mu sync.Mutex
	now := time.Now()
	d.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	pass := func(by time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(by) }
	p := d.provider()
	want := func(asked int, login bool) {
		t.Helper()
		if _, err := d.login(p); (err == nil) != login {
			t.Errorf("login: %v", err)
		}
		if n := d.count(discoveryPath); n != asked {
			t.Errorf("asked %d times, want %d", n, asked)
		}
	}
	want(1, true)
	pass(fresh - time.Second)
	want(1, true)
	pass(time.Second)
	want(2, true)
	d.handlers[discoveryPath] = fails
	pass(fresh)
	want(3, true) // the old counts on
	want(3, true) // and nobody asks again at once
	pass(retry)
	want(4, true)
	delete(d.handlers, discoveryPath)
	d.metadata = func(m map[string]any) { m["issuer"] = "https://evil.example.com" }
	pass(retry)
	want(5, true)
	d.metadata = nil
	pass(retry)
	want(6, true)
	want(6, true)
}

// Many logins at once fetch keys once; so they do after a rotation.
func TestKeysAreAskedOnceByMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := inMemory(t, "https://dex.example.com")
		p := d.provider()
		md, err := p.discovery.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		keys := jose.JSONWebKeySet{Keys: d.served}
		d.handlers["/keys"] = func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second) // in a bubble: all the others wait by then
			writeJSON(w, keys)
		}
		for want, s := range []signer{edSigner("one", 1), edSigner("two", 2)} {
			keys.Keys = []jose.JSONWebKey{s.public()}
			token := s.sign(t, []byte("{}"))
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, err := md.keys.VerifySignature(t.Context(), token); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := d.count("/keys"); n != want+1 {
				t.Errorf("asked %d times, want %d", n, want+1)
			}
		}
	})
}

func TestDiscoveryIsAskedOnceByMany(t *testing.T) {
	d := newDouble(t)
	p := d.provider()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := p.Start(t.Context(), &sso.Flow{ID: "x", Nonce: "y", Verifier: strings.Repeat("v", 64)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := d.count(discoveryPath); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// A provider that hangs, fails or babbles at any step holds nobody up for more than the
// client's 10 s, or for longer than asked, and leaves no goroutine behind: synctest
// waits for them all.
func TestProvidersThatHangOrFail(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	slow := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(9 * time.Second):
		case <-r.Context().Done():
		}
		answers("garbage")(w, r)
	}
	for _, step := range []string{discoveryPath, "/token", "/keys", "/userinfo"} {
		for name, h := range map[string]func(http.ResponseWriter, *http.Request){
			"hangs": hang, "is slow": slow, "fails": fails, "babbles": answers("\x00garbage"), "says nothing": answers(""), "says null": answers("null"),
		} {
			t.Run(strings.TrimPrefix(step, "/")+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := inMemory(t, "https://dex.example.com")
					d.info = map[string]any{}
					d.person = map[string]any{"email": "a@x.org", "email_verified": true} // so that userinfo is needed
					p := d.provider()
					if step != discoveryPath {
						if err := p.Check(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					d.handlers[step] = h
					began := time.Now()
					_, err := d.login(p)
					wantError(t, err, api.CodeUnavailable, "dex.example.com")
					if took := time.Since(began); took > sso.MaxWait {
						t.Errorf("it took %s", took)
					}
					if strings.Contains(err.Error(), "garbage") || strings.Contains(err.Error(), "trace") {
						t.Errorf("the error quotes the answer: %v", err)
					}
					began = time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), checkFor)
					defer cancel()
					err = p.Check(ctx)
					if took := time.Since(began); took > checkFor || (err == nil) != (step != discoveryPath) {
						t.Errorf("Check took %s: %v", took, err)
					}
				})
			})
		}
	}
}

// All steps together have the time of the context, not each.
func TestFinishTakesNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := inMemory(t, "https://dex.example.com")
		p, f := d.provider(), d.flow()
		address, err := p.Start(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		token := d.serveToken
		d.handlers["/token"] = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(4 * time.Second) // in a bubble
			token(w, r)
		}
		d.handlers["/keys"] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), checkFor)
		defer cancel()
		_, err = p.Finish(ctx, f, d.authorize(address))
		wantError(t, err, api.CodeUnavailable, "dex.example.com: it did not answer in time")
		if took := time.Since(began); took != checkFor {
			t.Errorf("it took %s", took)
		}
	})
}

// Who waits for another's asking waits no longer than for his own.
func TestWaitingForDiscoveryEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := inMemory(t, "https://dex.example.com")
		d.handlers[discoveryPath] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		p := d.provider()
		began := time.Now()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), checkFor)
				defer cancel()
				wantError(t, p.Check(ctx), api.CodeUnavailable, "did not answer in time")
			})
		}
		wg.Wait()
		if took := time.Since(began); took > checkFor {
			t.Errorf("it took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantError(t, p.Check(ctx), api.CodeUnavailable, "broken off")
	})
}
