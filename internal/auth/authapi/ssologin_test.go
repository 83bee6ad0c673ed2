package authapi_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// withPreflight is a server that asks identity providers first.
func withPreflight(t *testing.T, preflight func(context.Context, string) (string, error)) *server {
	f := authtest.New(t, func(o *auth.Options) { o.Preflight = preflight })
	return &server{f, authapi.New(authapi.Options{Auth: f.Service, DB: f.DB})}
}

func consoleRequest(t *testing.T, connector, verifier string) api.ConsoleLoginRequest {
	t.Helper()
	_, pub := authtest.NewKey(t)
	sum := sha256.Sum256([]byte(verifier))
	return api.ConsoleLoginRequest{
		RedirectURL: "http://127.0.0.1:40123/callback", TLSPubKey: pub, ConnectorID: connector,
		CodeChallenge: base64.RawURLEncoding.EncodeToString(sum[:]),
	}
}

func TestConsoleLoginByAConnectorOverHTTP(t *testing.T) {
	s := newServer(t)
	s.PutConnector(t, authtest.GithubConnector("github"))
	verifier := strings.Repeat("v", 50)
	path := func(kind string) string { return fmt.Sprintf(api.PathSSOConsole, kind) }
	for name, tc := range map[string]struct {
		path, connector string
		code            api.Code
		want            string
	}{
		"no connector":       {path("github"), "", api.CodeInvalid, "name a connector of kind github"},
		"local is none":      {path("github"), "local", api.CodeInvalid, "name a connector of kind github"},
		"another kind":       {path("saml"), "github", api.CodeInvalid, "of kind github, not saml"},
		"one that is not":    {path("oidc"), "dex", api.CodeNotFound, "one can log in by local, github"},
		"no such kind":       {path("ldap"), "github", api.CodeNotFound, "no such call"},
		"any by the old way": {api.PathConsoleLogin, "github", "", ""},
		"local":              {api.PathConsoleLogin, "local", "", ""},
	} {
		if _, code, msg := s.call(t, stranger, "POST", tc.path, consoleRequest(t, tc.connector, verifier)); code != tc.code || !strings.Contains(msg, tc.want) {
			t.Errorf("%s: %s %s", name, code, msg)
		}
	}
	if _, code, _ := s.call(t, authapi.Caller{}, "POST", path("github"), consoleRequest(t, "github", verifier)); code != api.CodeUnauthenticated {
		t.Error("a login from nowhere is exempt from limits:", code)
	}
	for _, prefix := range []string{"", "/v1"} {
		answer, code, msg := s.call(t, stranger, "POST", prefix+path("github"), consoleRequest(t, "github", verifier))
		if code != "" {
			t.Fatal(msg)
		}
		id := answer["id"].(string)
		st := s.SSOState(t, "github", func(st *auth.SSOState) { st.Console = id })
		made, err := s.SSO.Login(t.Context(), st, s.OpenConnector(t, "github"), authtest.GithubIdentity("42", "alice", "octocats/admin"), authtest.Client)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Consoles.Approve(t.Context(), made.Identity, id, "", auth.Actor{User: "alice"}); err != nil {
			t.Fatal(err)
		}
		wait := api.ConsoleWaitRequest{ID: id, CodeVerifier: strings.Repeat("w", 50)}
		if _, code, _ := s.call(t, stranger, "POST", prefix+api.PathConsoleWait, wait); code != api.CodeUnauthenticated {
			t.Error("another verifier:", code)
		}
		if _, code, _ := s.call(t, authapi.Caller{}, "POST", prefix+api.PathConsoleWait, wait); code != api.CodeUnauthenticated {
			t.Error("from nowhere:", code)
		}
		wait.CodeVerifier = verifier
		answer, code, msg = s.call(t, stranger, "POST", prefix+api.PathConsoleWait, wait)
		if code != "" || answer["state"] != api.ConsoleApproved {
			t.Error(answer, msg)
		}
		if _, code, _ := s.call(t, stranger, "POST", prefix+api.PathConsoleWait, `{"id":"`+id+`"}`); code != api.CodeInvalid {
			t.Error("no verifier:", code)
		}
		if _, code, _ := s.call(t, stranger, "POST", prefix+api.PathConsoleCancel, `{"id":"`+id+`"}`); code != api.CodeInvalid {
			t.Error("ended without a verifier:", code)
		}
		if _, code, msg := s.call(t, stranger, "POST", prefix+api.PathConsoleCancel, wait); code != "" {
			t.Error(msg)
		}
		if answer, _, msg := s.call(t, stranger, "POST", prefix+api.PathConsoleWait, wait); answer["state"] != api.ConsoleFailed {
			t.Error(answer, msg)
		}
	}
}

// An identity provider that is down says so before anybody is sent there, and writes
// nothing; one that can't be asked gives a warning.
func TestConsoleLoginAsksTheIdentityProviderFirst(t *testing.T) {
	asked := 0
	s := withPreflight(t, func(_ context.Context, connector string) (string, error) {
		asked++
		if connector == "dex" {
			return "", api.Errorf(api.CodeUnavailable, "dex does not answer")
		}
		return "it seems to be down", nil
	})
	s.PutConnector(t, authtest.GithubConnector("github"))
	s.PutConnector(t, authtest.OIDCConnector("dex"))
	verifier := strings.Repeat("v", 50)
	commits := s.DB.Commits()
	for _, path := range []string{fmt.Sprintf(api.PathSSOConsole, api.KindOIDC), api.PathConsoleLogin} {
		if _, code, msg := s.call(t, stranger, "POST", path, consoleRequest(t, "dex", verifier)); code != api.CodeUnavailable || msg != "dex does not answer" {
			t.Error(path, code, msg)
		}
	}
	bad := consoleRequest(t, "dex", verifier)
	bad.RedirectURL = "http://evil/callback"
	if _, code, _ := s.call(t, stranger, "POST", api.PathConsoleLogin, bad); code != api.CodeInvalid || asked != 2 {
		t.Errorf("%s: asked %d times", code, asked)
	}
	if n := s.DB.Commits() - commits; n != 0 {
		t.Errorf("%d writes", n)
	}
	answer, code, msg := s.call(t, stranger, "POST", fmt.Sprintf(api.PathSSOConsole, api.KindGithub), consoleRequest(t, "github", verifier))
	if code != "" || answer["warning"] != "it seems to be down" {
		t.Error(answer, msg)
	}
	asked = 0
	for _, connector := range []string{"", api.AuthLocal} {
		if _, code, msg := s.call(t, stranger, "POST", api.PathConsoleLogin, consoleRequest(t, connector, verifier)); code != "" || asked != 0 {
			t.Error("a local login asks an identity provider:", msg)
		}
	}
}

// A replica that stops does not wait for those who wait.
func TestWaitsEndWhenTheReplicaStops(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T, s *server) (wait func() (map[string]any, api.Code, string)){
		"a login of tsh": func(t *testing.T, s *server) func() (map[string]any, api.Code, string) {
			verifier := strings.Repeat("v", 50)
			answer, _, _ := s.call(t, stranger, "POST", api.PathConsoleLogin, consoleRequest(t, "", verifier))
			return func() (map[string]any, api.Code, string) {
				return s.call(t, stranger, "POST", api.PathConsoleWait, api.ConsoleWaitRequest{ID: answer["id"].(string), CodeVerifier: verifier})
			}
		},
		"a test of a connector": func(t *testing.T, s *server) func() (map[string]any, api.Code, string) {
			s.PutConnector(t, authtest.GithubConnector("github"))
			answer, _, _ := s.call(t, socket, "POST", api.PathSSOTests, api.SSOTestRequest{Name: "github"})
			return func() (map[string]any, api.Code, string) {
				return s.call(t, socket, "GET", api.PathSSOTests+"/"+answer["id"].(string), nil)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				wait := begin(t, s)
				begun := time.Now()
				time.AfterFunc(5*time.Second, s.h.Stop)
				answer, code, msg := wait()
				if took := time.Since(begun); code != "" || answer["state"] == api.ConsoleApproved || answer["done"] == true || took != 5*time.Second {
					t.Errorf("%v %s after %s", answer, msg, took)
				}
				s.h.Stop()
			})
		})
	}
}

func TestSSOUsersAreForWhoMayListUsers(t *testing.T) {
	s := newServer(t)
	s.PutConnector(t, authtest.GithubConnector("github"))
	answer, code, msg := s.call(t, socket, "GET", api.PathSSOUsers, nil)
	if d := cmp.Diff(map[string]any{"users": []any{}}, answer); d != "" || code != "" {
		t.Error(d, msg)
	}
	s.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
	answer, _, _ = s.call(t, socket, "GET", api.PathSSOUsers, nil)
	users, _ := answer["users"].([]any)
	if len(users) != 1 {
		t.Fatal(answer)
	}
	one := users[0].(map[string]any)
	if one["name"] != "alice" || one["connector"] != "github" || one["kind"] != "github" || one["subject"] != "42" {
		t.Error(one)
	}
	s.AddUser(t, "bob", nil)
	bob, _ := s.Login(t, "bob")
	if _, code, _ := s.call(t, as(bob), "GET", api.PathSSOUsers, nil); code != api.CodeForbidden {
		t.Error(code)
	}
	if _, code, _ := s.call(t, stranger, "GET", api.PathSSOUsers, nil); code != api.CodeUnauthenticated {
		t.Error(code)
	}
}
