package authapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

const connectorSecret = "correct-horse-client-secret"

// dex is a connector as tctl sends it.
const dex = `{"kind":"oidc","version":"v3","metadata":{"name":"dex"},"spec":{"issuer_url":"https://dex.example.com","client_id":"id","client_secret":"` +
	connectorSecret + `","display":"Dex","claims_to_roles":[{"claim":"groups","value":"dev","roles":["access"]}]}}`

// login logs a new user with the rules in.
func (s *server) login(t *testing.T, name string, rules ...api.Rule) authapi.Caller {
	t.Helper()
	s.PutRole(t, "of-"+name, api.RoleSpec{Allow: api.RoleConditions{Rules: rules}})
	s.AddUser(t, name, nil, "of-"+name)
	id, _ := s.Login(t, name)
	return as(id)
}

func TestConnectorsAsDocuments(t *testing.T) {
	s := newServer(t)
	rule := func(kind string, verbs ...string) api.Rule { return api.Rule{Resources: []string{kind}, Verbs: verbs} }
	reader := s.login(t, "reader", rule(api.KindOIDC, api.VerbRead, api.VerbList))
	writer := s.login(t, "writer", rule(api.KindOIDC, "*"))
	owner := s.login(t, "owner", rule(api.KindOIDC, "*"), rule(api.KindRole, api.VerbUpdate))
	of := func(kind string) authapi.Caller { return s.login(t, "of-"+kind, rule(kind, "*")) }
	for name, tc := range map[string]struct {
		c    authapi.Caller
		code api.Code
		text string
	}{
		"a stranger":            {stranger, api.CodeUnauthenticated, "log in"},
		"who may read":          {reader, api.CodeForbidden, "verbs: [create]"},
		"who may write a kind":  {writer, api.CodeForbidden, "without the right to update roles"},
		"who may write another": {of(api.KindSAML), api.CodeForbidden, "resources: [oidc]"},
		"who may write users":   {of(api.KindUser), api.CodeForbidden, "resources: [oidc]"},
	} {
		if _, code, msg := s.call(t, tc.c, "PUT", api.PathResources, dex); code != tc.code || !strings.Contains(msg, tc.text) {
			t.Errorf("%s: %s %s", name, code, msg)
		}
	}
	if answer, code, msg := s.call(t, owner, "PUT", api.PathResources, dex); code != "" || answer["created"] != true {
		t.Fatal(code, msg)
	}
	// Without force the right to create is enough to be told that it is there.
	if _, code, _ := s.call(t, owner, "PUT", api.PathResources, dex); code != api.CodeExists {
		t.Error(code)
	}
	if answer, code, msg := s.call(t, owner, "PUT", api.PathResources+"?force=true", strings.Replace(dex, `"client_secret":"`+connectorSecret+`",`, "", 1)); code != "" || answer["unchanged"] != true {
		t.Error(code, msg)
	}
	if _, code, msg := s.call(t, socket, "PUT", api.PathResources+"?force=true", strings.Replace(dex, `https://dex`, "http://dex", 1)); code != api.CodeInvalid || !strings.Contains(msg, "spec.issuer_url") {
		t.Error(code, msg)
	}
	one, all := api.PathResources+"/oidc/dex", api.PathResources+"/oidc"
	for name, tc := range map[string]struct {
		c      authapi.Caller
		path   string
		code   api.Code
		secret bool
	}{
		"one":                                    {reader, one, "", false},
		"all":                                    {reader, all, "", false},
		"one with secrets, without the right":    {reader, one + "?secrets=true", api.CodeForbidden, false},
		"all with secrets, without the right":    {reader, all + "?secrets=true", api.CodeForbidden, false},
		"one with secrets":                       {owner, one + "?secrets=true", "", true},
		"all with secrets":                       {writer, all + "?secrets=true", "", true},
		"one without them":                       {owner, one + "?secrets=false", "", false},
		"from the socket":                        {socket, one, "", false},
		"from the socket, with secrets":          {socket, all + "?secrets=true", "", true},
		"a bad question":                         {owner, one + "?secrets=maybe", api.CodeInvalid, false},
		"another kind":                           {socket, api.PathResources + "/saml/dex", api.CodeNotFound, false},
		"nobody":                                 {stranger, one, api.CodeUnauthenticated, false},
		"nobody, with secrets":                   {stranger, one + "?secrets=true", api.CodeUnauthenticated, false},
		"who may update, but not read, no kinds": {s.login(t, "updater", rule(api.KindOIDC, api.VerbUpdate)), one + "?secrets=true", api.CodeForbidden, false},
	} {
		answer, code, msg := s.call(t, tc.c, "GET", tc.path, nil)
		raw, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		if code != tc.code || strings.Contains(string(raw)+msg, connectorSecret) != tc.secret {
			t.Errorf("%s: %s %s %s", name, code, msg, raw)
		}
	}
	if _, code, _ := s.call(t, reader, "DELETE", one, nil); code != api.CodeForbidden {
		t.Error(code)
	}
	if _, code, msg := s.call(t, writer, "DELETE", one, nil); code != "" { // what is removed lets nobody in
		t.Error(code, msg)
	}
}

func TestPingNamesConnectors(t *testing.T) {
	s := newServer(t)
	auth := func(path string) map[string]any {
		t.Helper()
		answer, code, msg := s.call(t, stranger, "GET", path, nil)
		if code != "" {
			t.Fatal(path, code, msg)
		}
		return answer["auth"].(map[string]any)
	}
	if a := auth(api.PathPing); a["type"] != "local" || a["connectors"] != nil || a["connector"] != nil {
		t.Error(a)
	}
	if _, code, msg := s.call(t, socket, "PUT", api.PathResources, dex); code != "" {
		t.Fatal(msg)
	}
	named := map[string]any{"kind": "oidc", "name": "dex", "display": "Dex"}
	for _, path := range []string{api.PathPing, api.PathFind, "/v1" + api.PathPing, api.PathPing + "/local"} {
		if a := auth(path); a["type"] != "local" || a["connector"] != nil || cmp.Diff([]any{named}, a["connectors"]) != "" {
			t.Error(path, a)
		}
	}
	for _, path := range []string{api.PathPing + "/dex", "/v1" + api.PathPing + "/dex"} {
		if a := auth(path); a["type"] != "oidc" || cmp.Diff(named, a["connector"]) != "" || a["second_factor"] != "optional" {
			t.Error(path, a)
		}
	}
	if _, code, msg := s.call(t, stranger, "GET", api.PathPing+"/okta", nil); code != api.CodeNotFound || !strings.Contains(msg, `there is no connector "okta": one can log in by local, dex`) {
		t.Error(code, msg)
	}
	pref := api.DefaultAuthPreference()
	pref.Spec.Type = api.KindOIDC
	if _, err := s.Preference.Put(t.Context(), authtest.Admin(), pref, true); err != nil {
		t.Fatal(err)
	}
	if a := auth(api.PathPing); a["type"] != "oidc" || cmp.Diff(named, a["connector"]) != "" || a["local"] == nil {
		t.Error(a)
	}
	if a := auth(api.PathPing + "/local"); a["type"] != "local" || a["connector"] != nil {
		t.Error(a)
	}
	if _, code, _ := s.call(t, socket, "DELETE", api.PathResources+"/oidc/dex", nil); code != api.CodeConflict {
		t.Error(code)
	}
}

func TestTestsOfConnectors(t *testing.T) {
	s := newServer(t)
	roles := api.Rule{Resources: []string{api.KindRole}, Verbs: []string{api.VerbUpdate}}
	creator := s.login(t, "creator", api.Rule{Resources: []string{api.KindOIDC}, Verbs: []string{api.VerbCreate}}, roles)
	bare := s.login(t, "bare", api.Rule{Resources: []string{api.KindOIDC}, Verbs: []string{api.VerbCreate}})
	updater := s.login(t, "updater", api.Rule{Resources: []string{api.KindOIDC}, Verbs: []string{api.VerbUpdate}})
	other := s.login(t, "saml", api.Rule{Resources: []string{api.KindSAML}, Verbs: []string{"*"}})
	if _, code, msg := s.call(t, socket, "PUT", api.PathResources, dex); code != "" {
		t.Fatal(msg)
	}
	document, name := api.SSOTestRequest{Document: json.RawMessage(dex)}, api.SSOTestRequest{Name: "dex"}
	for what, tc := range map[string]struct {
		c    authapi.Caller
		req  any
		code api.Code
	}{
		"a document":               {creator, document, ""},
		"a document, as written":   {bare, document, api.CodeForbidden},
		"with the stored secret":   {creator, api.SSOTestRequest{Document: json.RawMessage(strings.Replace(dex, `"client_secret":"`+connectorSecret+`",`, "", 1))}, api.CodeForbidden},
		"a name":                   {updater, name, ""},
		"a document, by an update": {updater, document, api.CodeForbidden},
		"a name, by a creation":    {creator, name, api.CodeForbidden},
		"another kind":             {other, document, api.CodeForbidden},
		"nobody":                   {stranger, document, api.CodeUnauthenticated},
		"nothing":                  {socket, api.SSOTestRequest{}, api.CodeInvalid},
		"no connector":             {socket, api.SSOTestRequest{Document: json.RawMessage(`{"kind":"role"}`)}, api.CodeInvalid},
		"both":                     {socket, api.SSOTestRequest{Document: json.RawMessage(dex), Name: "dex"}, api.CodeInvalid},
		"no request":               {socket, `{"doc":1}`, api.CodeInvalid},
	} {
		answer, code, msg := s.call(t, tc.c, "POST", api.PathSSOTests, tc.req)
		if code != tc.code || strings.Contains(msg, connectorSecret) {
			t.Errorf("%s: %s %s", what, code, msg)
		}
		if code != "" {
			continue
		}
		id := answer["id"].(string)
		if err := s.SSOTests.Finish(t.Context(), id, api.SSOTestResult{Error: "no"}); err != nil {
			t.Fatal(err)
		}
		if _, code, _ := s.call(t, other, "GET", api.PathSSOTests+"/"+id, nil); code != api.CodeNotFound {
			t.Error("somebody else's:", code)
		}
		if _, code, _ := s.call(t, stranger, "GET", api.PathSSOTests+"/"+id, nil); code != api.CodeUnauthenticated {
			t.Error("a stranger:", code)
		}
		if answer, code, msg := s.call(t, tc.c, "GET", api.PathSSOTests+"/"+id, nil); code != "" || answer["done"] != true || answer["error"] != "no" {
			t.Error(answer, code, msg)
		}
	}
}
