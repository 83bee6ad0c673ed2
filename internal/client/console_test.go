package client_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/clienttest"
)

const someCallback = "http://127.0.0.1:1/callback"

func webClient(t *testing.T, srv *clienttest.Server) *client.Client {
	t.Helper()
	web, err := client.NewWeb(srv.Addr, client.WebOptions{CAs: webCA(t, srv)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(web.Close)
	return web
}

func TestPingConnector(t *testing.T) {
	srv := start(t)
	srv.SetConnectors("github/github", "saml/okta")
	web := webClient(t, srv)
	ping, err := web.PingConnector(t.Context(), "okta")
	if err != nil || ping.Auth.Connector == nil || ping.Auth.Connector.Kind != api.KindSAML || ping.Auth.Type != api.KindSAML {
		t.Errorf("%+v, %v", ping, err)
	}
	for _, name := range []string{"none", "../find", "a/b", "?x"} {
		if _, err := web.PingConnector(t.Context(), name); !api.IsCode(err, api.CodeNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStartConsoleLogin(t *testing.T) {
	srv := start(t)
	srv.SetConnectors("github/github")
	srv.SetIDPWarning("github", "it may be down")
	web := webClient(t, srv)
	login, err := web.StartConsoleLogin(t.Context(), client.ConsoleOptions{
		Callback: someCallback, User: "alice", Connector: "github", Kind: api.KindGithub, Device: "laptop (tsh login)",
	})
	if err != nil || login.Warning != "it may be down" {
		t.Fatalf("%+v, %v", login, err)
	}
	req := srv.ConsoleRequest()
	if req.Headless || req.ConnectorID != "github" || req.Device != "laptop (tsh login)" || req.RedirectURL != someCallback || api.MatchCode(req.TLSPubKey) != login.MatchCode {
		t.Errorf("%+v", req)
	}
	if _, err := web.StartConsoleLogin(t.Context(), client.ConsoleOptions{Connector: "github", Kind: api.KindGithub}); err != nil {
		t.Error(err)
	}
	if req := srv.ConsoleRequest(); !req.Headless || req.RedirectURL != "" {
		t.Errorf("%+v", req)
	}
	// A kind becomes part of a path.
	for _, kind := range []string{"", "ldap", "../x"} {
		_, err := web.StartConsoleLogin(t.Context(), client.ConsoleOptions{Connector: "github", Kind: kind})
		if !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), "install a newer one") {
			t.Errorf("%q: %v", kind, err)
		}
	}
	if _, err := web.StartConsoleLogin(t.Context(), client.ConsoleOptions{Connector: "okta", Kind: api.KindSAML}); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
	srv.SetIDPDown("github")
	_, err = web.StartConsoleLogin(t.Context(), client.ConsoleOptions{Connector: "github", Kind: api.KindGithub})
	if !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "--auth=local") {
		t.Error(err)
	}
}

// TestAnotherConnectorThanAskedForIsNotTaken: whoever approved came another way.
func TestAnotherConnectorThanAskedForIsNotTaken(t *testing.T) {
	for name, test := range map[string]struct {
		asked, kind, got string
		taken            bool
	}{
		"another":           {"github", api.KindGithub, "okta", false},
		"none":              {"github", api.KindGithub, "", false},
		"not a local user":  {api.AuthLocal, "", "okta", false},
		"not even a name":   {"", "", "a\x1b[2Jb", false},
		"right":             {"github", api.KindGithub, "github", true},
		"whatever there is": {"", "", "okta", true},
		"local, as asked":   {api.AuthLocal, "", "", true},
		"local, not asked":  {"", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := start(t)
			srv.SetConnectors("github/github")
			web := webClient(t, srv)
			login, err := web.StartConsoleLogin(t.Context(), client.ConsoleOptions{Connector: test.asked, Kind: test.kind})
			if err != nil {
				t.Fatal(err)
			}
			srv.ApproveAs("alice", test.got)
			if err := web.AwaitConsoleLogin(t.Context(), login); err != nil {
				t.Fatal(err)
			}
			resp, _, err := web.RedeemConsoleLogin(t.Context(), login, "")
			switch {
			case !test.taken && (!api.IsCode(err, api.CodeInternal) || !strings.Contains(err.Error(), "answer is wrong")):
				t.Error(err)
			case test.taken && (err != nil || resp.Connector != test.got):
				t.Errorf("%+v, %v", resp, err)
			}
		})
	}
}

func TestAwaitingALoginOfSomebodyElse(t *testing.T) {
	srv := start(t)
	web := webClient(t, srv)
	mine, err := web.StartConsoleLogin(t.Context(), client.ConsoleOptions{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := web.StartConsoleLogin(t.Context(), client.ConsoleOptions{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	other.ID = mine.ID // with the verifier of the other
	if err := web.AwaitConsoleLogin(t.Context(), other); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
}
