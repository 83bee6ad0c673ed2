package api_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestEventSummary_saysWhatWasDone(t *testing.T) {
	type fields = map[string]any
	for name, c := range map[string]struct {
		event, code string
		fields      fields
		want        string
		outcome     string
	}{
		"a login":           {api.EventUserLogin, "T1000I", fields{"method": "local", "success": true, "addr.remote": "192.0.2.1"}, "Logged in with a password from 192.0.2.1", "ok"},
		"a login of tsh":    {api.EventUserLogin, "T1000I", fields{"method": "web", "success": true}, "Logged in from a terminal, approved in the browser", "ok"},
		"a login by SSO":    {api.EventUserLogin, "T1001I", fields{"method": "oidc", "connector": "okta"}, "Logged in with okta", "ok"},
		"a refused login":   {api.EventUserLogin, "T1000W", fields{"method": "local", "success": false, "attempts": 3.0, "error": "wrong password"}, "Could not log in with a password (attempts: 3): wrong password", "refused"},
		"a new user":        {api.EventUserCreate, "T1002I", fields{"name": "bob", "roles": []any{"access", "dev"}}, "Created the user bob with the roles access, dev", "ok"},
		"before it is JSON": {api.EventUserCreate, "T1002I", fields{"name": "bob", "roles": []string{"access", "dev"}}, "Created the user bob with the roles access, dev", "ok"},
		"a role":            {api.EventRoleUpdated, "T9002I", fields{"name": "dev"}, "Changed the role dev", "ok"},
		"a connector":       {api.EventOIDCUpdated, "T8102I", fields{"name": "okta", "changed": []any{"spec.issuer_url"}}, "Changed the OIDC connector okta; changed: spec.issuer_url", "ok"},
		"an agent refused":  {api.EventAgentJoin, "TJ002E", fields{"success": false, "node_name": "edge", "error": "no such token"}, "The agent edge could not join: no such token", "failed"},
		"a request":         {api.EventKubeRequest, "T3009I", fields{"verb": "GET", "kubernetes_verb": "list", "resource_kind": "pods", "resource_namespace": "prod", "response_code": 200.0}, "list pods in prod → 200 OK", "ok"},
		"one that K8s denies": {api.EventKubeRequest, "T3009I", fields{
			"kubernetes_verb": "delete", "resource_kind": "secrets", "resource_name": "tls", "resource_namespace": "prod", "response_code": 403, "requested_user": "jane",
		}, "delete secrets tls in prod → 403 Forbidden, as jane", "refused"},
		"one without a kind": {api.EventKubeRequest, "T3009E", fields{"verb": "GET", "request_path": "/version", "response_code": 502.0, "error": "no agent"}, "GET /version → 502 Bad Gateway: no agent", "failed"},
		"a missing thing":    {api.EventKubeRequest, "T3009I", fields{"verb": "GET", "request_path": "/api", "response_code": 404.0}, "GET /api → 404 Not Found", "failed"},
		"exec": {api.EventExec, "T3002E", fields{"kubernetes_pod_name": "web-0", "kubernetes_pod_namespace": "prod", "command": []any{"sh", "-c", "exit 3"}, "exitCode": 3.0},
			`Ran a command in the pod web-0 of the namespace prod: "sh -c exit 3", exit code 3`, "failed"},
		"a session":             {api.EventSessionStart, "T2000I", fields{"kubernetes_pod_name": "web-0", "initial_command": []string{"sh"}}, "Started a session in the pod web-0, running sh", "ok"},
		"a session's end":       {api.EventSessionEnd, "T2004I", fields{"resource_kind": "virtualmachines", "resource_name": "vm", "reason": "the session has ended"}, "Ended a session in virtualmachines vm: the session has ended", "ok"},
		"a certificate":         {api.EventCertCreate, "TC000I", fields{"identity": fields{"expires": "2026-11-22T12:00:00Z"}}, "Got a certificate, good until 2026-11-22T12:00:00Z", "ok"},
		"a certificate signed":  {api.EventCertCreate, "TC000I", fields{"name": "ci", "identity": fields{"expires": "2026-11-22T12:00:00Z"}}, "Made a certificate for ci without a login, good until 2026-11-22T12:00:00Z", "ok"},
		"a stream that was cut": {api.EventClientDisconnect, "T3006I", fields{"request_path": "/api/v1/pods", "reason": "the role dev was changed"}, "Was cut off from /api/v1/pods: the role dev was changed", "ok"},
		"retention":             {api.EventAuditRetention, "TSP28I", fields{"to": 500, "reason": "age"}, "Old parts of the audit log were deleted, up to line 500, because of their age", "ok"},
		"a port-forward":        {api.EventPort, "T3003I", fields{"resource_name": "web-0", "resource_namespace": "prod", "ports": []string{"80", "443"}}, "Forwarded a port to web-0 of the namespace prod: 80, 443", "ok"},
		"lost ones":             {api.EventLost, "TSP01E", fields{"count": 7.0}, "The log has a hole here: 7 events could be kept nowhere", "failed"},
		"lost with a backup":    {api.EventLost, "TSP01E", fields{"count": 16.0, "from": 1.0, "to": 16.0, "reason": "the cluster was restored from a backup"}, "The log lacks 16 events, lines 1 to 16: the cluster was restored from a backup", "failed"},
		"an event not sent":     {api.EventForwardSkipped, "TSP26E", fields{"name": "siem", "count": 1.0, "from": 3.0, "to": 3.0, "reason": "the receiver refuses it"}, "The audit forwarder siem did not send 1 event, line 3: the receiver refuses it", "failed"},
		"refused certificates":  {api.EventAuthAttempt, "T3007W", fields{"attempts": 12.0, "networks": 3.0, "others": true, "error": "not a user's"}, "Came with a certificate that is not accepted (attempts: 12 of 3 networks): not a user's", "refused"},
		"requests kept out":     {api.EventKubeRequest, "T3009W", fields{"attempts": 7.0, "response_code": 503.0, "error": "no event reaches the cluster"}, "a request → 503 Service Unavailable (attempts: 7): no event reaches the cluster", "refused"},
		"a copy":                {api.EventAuditExport, "TSP27I", fields{"from": 2.0, "to": 4.0}, "Began to take a copy of the audit log, lines 2 to 4", "ok"},
		"a try that failed":     {api.EventSSOTest, "TSP20I", fields{"connector": "okta", "success": false, "error": "no roles"}, "Tried the connector okta, and it did not let in: no roles", "failed"},
		"one of the future":     {"desktop.clipboard", "TDP00I", fields{"name": "x"}, "Event desktop.clipboard about x", "ok"},
		"nothing":               {"", "", nil, `Event ""`, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			e := api.Event{Event: c.event, Code: c.code, Fields: c.fields}
			if diff := cmp.Diff([]string{c.want, c.outcome}, []string{e.Summary(), e.Outcome()}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEventSummary_hasASentenceForEveryEvent(t *testing.T) {
	for _, name := range api.EventNames() {
		if s := (api.Event{Event: name, Code: "X"}).Summary(); name != api.EventKubeRequest && (s == "" || strings.HasPrefix(s, "Event ")) {
			t.Errorf("%s: %q", name, s)
		}
	}
}

// Names and codes are read from the source, so that a new event is not forgotten.
func TestEventTable_hasAllOfThem(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names, codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, id := range spec.Names[:len(spec.Values)] {
			lit, ok := spec.Values[i].(*ast.BasicLit)
			if !ok || !strings.HasPrefix(id.Name, "Event") {
				continue
			}
			value, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(id.Name, "EventCode") {
				codes = append(codes, value)
			} else {
				names = append(names, value)
			}
		}
		return false
	})
	slices.Sort(names)
	slices.Sort(codes)
	if diff := cmp.Diff(names, api.EventNames()) + cmp.Diff(codes, api.EventCodes()); diff != "" || len(names) < 40 || len(codes) < 50 {
		t.Error(diff)
	}
}

// threats.md, audit injection: what strangers choose is one line, without what
// is not seen, and does not pass for our words.
func FuzzEventSummary(f *testing.F) {
	for _, name := range []string{api.EventKubeRequest, api.EventUserLogin, api.EventExec, "unknown"} {
		f.Add(name, `{"name":"a\n\u202eb","error":"x\u001b[31m","request_path":"/\u0000","resource_kind":"pods\" → 200 OK","roles":[["a"],{"b":1},null],"success":"false"}`)
	}
	f.Add(api.EventRoleDeleted, `{"name":" x, by alice"}`)
	f.Fuzz(func(t *testing.T, name, fields string) {
		e := api.Event{Event: name}
		if json.Unmarshal([]byte(fields), &e.Fields) != nil {
			return
		}
		s := e.Summary()
		if len(s) > 2000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Errorf("%q", s)
		}
		if o := e.Outcome(); o != "ok" && o != "refused" && o != "failed" {
			t.Errorf("%q", o)
		}
	})
}

func TestEventSummary_quotesWhatIsNoName(t *testing.T) {
	e := api.Event{Event: api.EventRoleDeleted, Fields: map[string]any{"name": "x and created the user root\u202e\n"}}
	if got, want := e.Summary(), `Deleted the role "x and created the user root"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	e.Fields["name"] = strings.Repeat("long", 100)
	if got, want := e.Summary(), "Deleted the role "+strings.Repeat("long", 16)+"…"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
