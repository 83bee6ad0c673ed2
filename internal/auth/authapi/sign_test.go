package authapi_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func TestSigningIsForTheSocketAndForWhoMayImpersonate(t *testing.T) {
	s := newServer(t)
	s.Invite(t, "ci", nil)
	s.PutRole(t, "signer", api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: []string{api.KindUser}, Verbs: []string{api.VerbImpersonate}}}}})
	s.AddUser(t, "signer", nil, "signer")
	s.AddUser(t, "root", nil, "admin")
	signer, _ := s.Login(t, "signer")
	root, _ := s.Login(t, "root")
	_, web := s.WebSession(t, "signer")
	_, pub := authtest.NewKey(t)
	req := api.SignRequest{User: "ci", TLSPubKey: pub, TTL: api.Duration(25 * time.Hour)}
	for name, tc := range map[string]struct {
		caller authapi.Caller
		body   any
		code   api.Code
	}{
		"the socket":                {socket, req, ""},
		"by the verb":               {as(signer), req, ""},
		"an admin":                  {as(root), req, api.CodeForbidden},
		"an admin, of nonsense":     {as(root), "{", api.CodeForbidden},
		"a stranger":                {stranger, req, api.CodeUnauthenticated},
		"a web session's id":        {as(web), req, api.CodeUnauthenticated},
		"nonsense":                  {socket, "{", api.CodeInvalid},
		"a field that is not known": {socket, `{"user":"ci","format":"x"}`, api.CodeInvalid},
		"no key":                    {socket, api.SignRequest{User: "ci"}, api.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			answer, code, message := s.call(t, tc.caller, http.MethodPost, api.PathSign, tc.body)
			if code != tc.code {
				t.Fatalf("%q, want %q: %s", code, tc.code, message)
			}
			if code == "" && (answer["username"] != "ci" || answer["tls_cert"] == "" || answer["session_id"] == "") {
				t.Errorf("%v", answer)
			}
		})
	}
}
