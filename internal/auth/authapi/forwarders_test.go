package authapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
)

func TestAuditForwardersAsDocuments(t *testing.T) {
	const secret = "correct-horse-bearer"
	const siem = `{"kind":"audit_forwarder","version":"v1","metadata":{"name":"siem"},"spec":{"type":"webhook","endpoint":"https://siem.example.com/","bearer_token":"` + secret + `"}}`
	s := newServer(t)
	rule := func(kind string, verbs ...string) api.Rule { return api.Rule{Resources: []string{kind}, Verbs: verbs} }
	reader := s.login(t, "reader", rule(api.KindAuditForwarder, api.VerbRead, api.VerbList))
	writer := s.login(t, "writer", rule(api.KindAuditForwarder, "*"))
	owner := s.login(t, "owner", rule(api.KindAuditForwarder, "*"), rule(api.KindEvent, api.VerbRead))
	one, all := api.PathResources+"/audit_forwarder/siem", api.PathResources+"/audit_forwarder"
	for name, tc := range map[string]struct {
		c    authapi.Caller
		code api.Code
		text string
	}{
		"a stranger":         {stranger, api.CodeUnauthenticated, "log in"},
		"who may read":       {reader, api.CodeForbidden, "may not create audit forwarders"},
		"who reads no audit": {writer, api.CodeForbidden, "without the right to read the audit log"},
	} {
		if _, code, msg := s.call(t, tc.c, "PUT", api.PathResources, siem); code != tc.code || !strings.Contains(msg, tc.text) {
			t.Errorf("%s: %s %s", name, code, msg)
		}
	}
	if answer, code, msg := s.call(t, owner, "PUT", api.PathResources, siem); code != "" || answer["created"] != true {
		t.Fatal(code, msg)
	}
	if _, code, _ := s.call(t, owner, "PUT", api.PathResources, siem); code != api.CodeExists {
		t.Error(code)
	}
	for name, tc := range map[string]struct {
		c      authapi.Caller
		path   string
		code   api.Code
		secret bool
	}{
		"one":               {reader, one, "", false},
		"all":               {reader, all, "", false},
		"without the right": {reader, one + "?secrets=true", api.CodeForbidden, false},
		"one with secrets":  {owner, one + "?secrets=true", "", true},
		"all with secrets":  {writer, all + "?secrets=true", "", true},
		"from the socket":   {socket, one, "", false},
		"nobody":            {stranger, one + "?secrets=true", api.CodeUnauthenticated, false},
		"a bad question":    {owner, one + "?secrets=maybe", api.CodeInvalid, false},
	} {
		answer, code, msg := s.call(t, tc.c, "GET", tc.path, nil)
		raw, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		if code != tc.code || strings.Contains(string(raw)+msg, secret) != tc.secret {
			t.Errorf("%s: %s %s %s", name, code, msg, raw)
		}
	}
	if _, code, _ := s.call(t, reader, "DELETE", one, nil); code != api.CodeForbidden {
		t.Error(code)
	}
	if _, code, msg := s.call(t, owner, "DELETE", one, nil); code != "" {
		t.Error(code, msg)
	}
}
