package client_test

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
)

const otherPin = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

func TestUnknownAuthorityIsShownAndCanBePinned(t *testing.T) {
	srv := start(t)
	web, err := client.NewWeb(srv.Addr, client.WebOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	_, err = web.Ping(t.Context())
	var unknown *client.AuthorityError
	if !errors.As(err, &unknown) || unknown.Presented == nil || unknown.Presented.Pin != srv.CAPin() || unknown.Pinned != "" || !api.IsCode(err, api.CodeForbidden) {
		t.Fatalf("%v, %+v", err, unknown)
	}
	pinned, err := client.NewWeb(srv.Addr, client.WebOptions{Pin: srv.CAPin()})
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	if _, _, err := pinned.LoginWithPassword(t.Context(), "alice", "pw", "", 0); err != nil {
		t.Error(err)
	}
	if err := srv.ChangeAuthority(); err != nil {
		t.Fatal(err)
	}
	pinned.Close() // the connection at hand
	old := unknown.Presented.Pin
	if _, err = pinned.Ping(t.Context()); !errors.As(err, &unknown) || unknown.Pinned != old || unknown.Presented.Pin != srv.CAPin() || !strings.Contains(err.Error(), "nothing was sent") {
		t.Errorf("%v, %+v", err, unknown)
	}
}

// TestPinMismatchSendsNothing: neither a request nor, with it, a password.
func TestPinMismatchSendsNothing(t *testing.T) {
	good := start(t)
	for name, test := range map[string]struct {
		pin   string
		chain func(own tls.Certificate) [][]byte
	}{
		"another authority": {otherPin, func(own tls.Certificate) [][]byte { return own.Certificate }},
		"the right authority's certificate beside another's leaf": {good.CAPin(), func(own tls.Certificate) [][]byte {
			ca, _ := pem.Decode(webCA(t, good))
			return append(own.Certificate[:1:1], ca.Bytes)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("something was sent") }))
			srv.StartTLS()
			defer srv.Close()
			srv.TLS.Certificates[0].Certificate = test.chain(srv.TLS.Certificates[0])
			cl, err := client.NewWeb(srv.Listener.Addr().String(), client.WebOptions{Pin: test.pin})
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			_, _, err = cl.LoginWithPassword(t.Context(), "alice", "pw", "", 0)
			var unknown *client.AuthorityError
			if !errors.As(err, &unknown) || unknown.Pinned != test.pin {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestPinnedAuthorityMustSignForTheHost(t *testing.T) {
	srv := start(t) // its certificate is for tele.example.com and 127.0.0.1
	_, port, _ := strings.Cut(srv.Addr, ":")
	cl, err := client.NewWeb("localhost:"+port, client.WebOptions{Pin: srv.CAPin()})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := cl.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "not good for it") {
		t.Error(err)
	}
}

func TestConsoleLogin(t *testing.T) {
	srv := start(t)
	web, err := client.NewWeb(srv.Addr, client.WebOptions{CAs: webCA(t, srv)})
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	approve := func(login *client.ConsoleLogin, query string) (code string) {
		browser := &http.Client{
			Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // a stand-in
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+srv.Addr+"/web/cli/"+login.ID+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("Match-Code"); got != login.MatchCode {
			t.Errorf("the page shows %s, the terminal %s", got, login.MatchCode)
		}
		back, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		return back.Query().Get("code")
	}
	begin := func(user string) *client.ConsoleLogin {
		login, err := web.StartConsoleLogin(t.Context(), client.ConsoleOptions{Callback: someCallback, User: user})
		if err != nil {
			t.Fatal(err)
		}
		return login
	}
	login := begin("alice")
	if _, _, err := web.RedeemConsoleLogin(t.Context(), login, "x"); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Errorf("before the approval: %v", err)
	}
	code := approve(login, "")
	if _, _, err := web.RedeemConsoleLogin(t.Context(), begin("alice"), code); err == nil {
		t.Error("redeemed with another login's code")
	}
	if resp, creds, err := web.RedeemConsoleLogin(t.Context(), login, code); err != nil || resp.Username != "alice" || len(creds.KeyPEM) == 0 {
		t.Errorf("%+v, %v", resp, err)
	}
	login = begin("alice")
	code = approve(login, "?user=bob")
	if _, _, err := web.RedeemConsoleLogin(t.Context(), login, code); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Error(err)
	}
	login = begin("")
	code = approve(login, "?user=bob")
	if resp, _, err := web.RedeemConsoleLogin(t.Context(), login, code); err != nil || resp.Username != "bob" {
		t.Errorf("%+v, %v", resp, err)
	}
}

// TestPageToOpenMustBeOne: what is opened by the desktop could be a program.
func TestPageToOpenMustBeOne(t *testing.T) {
	for _, page := range []string{"", "file:///bin/sh", "javascript:alert(1)", "http://tele.example.com/", "https://", "https://a@b/", "-x", "https:\x7f//x/"} {
		cl := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"id":"` + rand.Text() + `","redirect_url":` + quote(page) + `}`))
		})
		if login, err := cl.StartConsoleLogin(t.Context(), client.ConsoleOptions{Callback: someCallback}); err == nil {
			t.Errorf("%q: %+v", page, login)
		}
	}
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, "\x7f", `\u007f`) + `"` }
