package authapi_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func TestConsoleLoginOverHTTP(t *testing.T) {
	s := newServer(t)
	s.AddUser(t, "alice", nil)
	_, web := s.WebSession(t, "alice")
	_, pub := authtest.NewKey(t)
	verifier := strings.Repeat("v", 50)
	sum := sha256.Sum256([]byte(verifier))
	req := api.ConsoleLoginRequest{
		RedirectURL: "http://127.0.0.1:40123/callback", TLSPubKey: pub, User: "alice",
		CodeChallenge: base64.RawURLEncoding.EncodeToString(sum[:]),
	}
	evil := req
	evil.RedirectURL = "http://localhost.evil:40123/callback"
	if _, code, _ := s.call(t, stranger, "POST", api.PathConsoleLogin, evil); code != api.CodeInvalid {
		t.Error(code)
	}
	if _, code, msg := s.call(t, authapi.Caller{}, "POST", api.PathConsoleLogin, req); code != api.CodeUnauthenticated || !strings.Contains(msg, "address") {
		t.Error("a login from nowhere is exempt from limits:", code, msg)
	}
	if _, code, _ := s.call(t, stranger, "POST", api.PathConsoleLogin, `{"redirect_uri":"x"}`); code != api.CodeInvalid {
		t.Error(code)
	}
	for _, prefix := range []string{"", "/v1"} {
		answer, code, msg := s.call(t, stranger, "POST", prefix+api.PathConsoleLogin, req)
		if code != "" {
			t.Fatal(msg)
		}
		id := answer["id"].(string)
		approved, err := s.Consoles.Approve(t.Context(), web, id, "", auth.Actor{User: "alice", Addr: authtest.Client})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(approved.Redirect)
		if err != nil {
			t.Fatal(err)
		}
		redeem := api.ConsoleRedeemRequest{ID: id, Code: u.Query().Get("code"), CodeVerifier: strings.Repeat("w", 50)}
		if _, code, _ := s.call(t, stranger, "POST", prefix+api.PathConsoleRedeem, redeem); code != api.CodeUnauthenticated {
			t.Error("another verifier:", code)
		}
		redeem.CodeVerifier = verifier
		answer, code, msg = s.call(t, stranger, "POST", prefix+api.PathConsoleRedeem, redeem)
		if code != "" || answer["username"] != "alice" || answer["tls_cert"] == "" {
			t.Fatal(answer, msg)
		}
		if _, code, _ = s.call(t, stranger, "POST", prefix+api.PathConsoleRedeem, redeem); code != api.CodeNotFound {
			t.Error("redeemed twice:", code)
		}
	}
}
