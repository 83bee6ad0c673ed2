package client_test

import (
	"net/http"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestAnOlderServerHasNoSSOUsers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"no such call": func(w http.ResponseWriter, r *http.Request) {
			api.WriteError(w, api.Errorf(api.CodeNotFound, "no such call: %s %s", r.Method, r.URL.Path))
		},
		"nobody": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"users":null}`)) },
	} {
		t.Run(name, func(t *testing.T) {
			users, err := answering(t, h).SSOUsers(t.Context())
			if err != nil || users == nil || len(users) > 0 {
				t.Errorf("%v, %v", users, err)
			}
		})
	}
	c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		api.WriteError(w, api.NotAllowed("bob", api.VerbList, api.KindUser))
	})
	if _, err := c.SSOUsers(t.Context()); !api.IsCode(err, api.CodeForbidden) {
		t.Errorf("who may not list users: %v", err)
	}
}

func TestSecretsAreAskedForByName(t *testing.T) {
	asked := ""
	c := answering(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.RequestURI()
		_, _ = w.Write([]byte(`{"items":null}`))
	})
	items, err := c.ListWithSecrets(t.Context(), api.KindGithub, "a@b")
	if err != nil || items == nil || asked != "GET /v1/resources/github/a@b?secrets=true" {
		t.Errorf("%v, %v, %s", items, err, asked)
	}
	if _, err := c.ListWithSecrets(t.Context(), api.KindGithub, ""); err != nil || asked != "GET /v1/resources/github?secrets=true" {
		t.Errorf("%v, %s", err, asked)
	}
}
