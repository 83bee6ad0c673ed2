package yamldoc

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const twoDocuments = `# people
kind: user
version: v2
metadata:
  name: alice
spec:
  roles: [access]
  traits:
    kubernetes_groups: ["system:masters"]
---
kind: role
version: v5
metadata:
  name: dev
spec:
  allow:
    kubernetes_labels:
      'example.com/env': dev
      '*': ['*']
    kubernetes_groups: ["{{internal.kubernetes_groups}}"]
`

func TestDecodeReadsAllDocuments(t *testing.T) {
	docs, err := Decode([]byte(twoDocuments))
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 2 || docs[0].Line != 2 || docs[1].Line != 11 {
		t.Fatal(docs)
	}
	if u := docs[0].Value.(*api.User); u.Metadata.Name != "alice" || u.Spec.Traits["kubernetes_groups"][0] != "system:masters" {
		t.Error(u)
	}
	role := docs[1].Value.(*api.Role)
	if d := cmp.Diff(map[string]api.Values{"example.com/env": {"dev"}, "*": {"*"}}, role.Spec.Allow.KubernetesLabels); d != "" {
		t.Error(d)
	}
	out, err := Encode([]json.RawMessage{docs[0].JSON, docs[1].JSON})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(out)
	if err != nil || cmp.Diff(docs[1].Value, again[1].Value) != "" {
		t.Fatal(err, string(out))
	}
}

const (
	userHead = "kind: user\nversion: v2\nmetadata:\n  name: a\nspec:\n"
	roleHead = "kind: role\nversion: v7\nmetadata: {name: dev}\nspec:\n"
	capHead  = "kind: cluster_auth_preference\nversion: v2\nspec:\n"
)

func TestErrorsNameLineFieldAndWhatWasMeant(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		// fields
		{"a slip in a user", userHead + "  rolse: [x]\n", `line 6: user "a": spec.rolse: unknown field, did you mean roles?`},
		{"a slip in a role", roleHead + "  allow:\n    kubernetes_group: [dev]\n", `line 6: role "dev": spec.allow.kubernetes_group: unknown field, did you mean kubernetes_groups?`},
		{"a slip in a preference", capHead + "  second-factor: on\n", `line 4: cluster_auth_preference: spec.second-factor: unknown field, did you mean second_factor?`},
		{"another case", userHead + "  Roles: [x]\n", `line 6: user "a": spec.Roles: unknown field, did you mean roles?`},
		{"in the wrong place", roleHead + "  kubernetes_groups: [dev]\n", `line 5: role "dev": spec.kubernetes_groups: unknown field, it belongs at spec.allow.kubernetes_groups`},
		{"at the top", "kind: user\nversion: v2\nmetadata: {name: a}\nroles: [x]\n", `line 4: user "a": roles: unknown field, it belongs at spec.roles`},
		{"in a list", roleHead + "  allow:\n    rules:\n    - resources: [user]\n      verbs: [list]\n    - resource: [role]\n      verbs: [list]\n",
			`line 9: role "dev": spec.allow.rules[1].resource: unknown field, did you mean resources?`},
		{"of Teleport's", roleHead + "  options:\n    port_forwarding: true\n",
			`line 6: role "dev": spec.options.port_forwarding: a field of Teleport's that this version of Sallyport does not have`},
		{"several", roleHead + "  options:\n    forward_agent: true\n    max_session_tll: 1h\n  allow:\n    rules:\n    - resources: [user]\n      verbs: [list]\n      where: x\n",
			`role "dev" has 3 fields that are not known:
  line 6: spec.options.forward_agent: a field of Teleport's that this version of Sallyport does not have
  line 7: spec.options.max_session_tll: unknown field, did you mean max_session_ttl?
  line 12: spec.allow.rules[0].where: a field of Teleport's that this version of Sallyport does not have`},
		{"in the second document", twoDocuments + "  dney: {}\n", `line 21: role "dev": spec.dney: unknown field, did you mean deny?`},
		// kinds
		{"a slip in the kind", "# x\nkind: rol\n", `line 2: document: kind: "rol" is not known here, did you mean "role"?`},
		{"no kind", "version: v2\n", "line 1: document: kind: is missing, want one of user, role, cluster_auth_preference, token, kube_cluster, audit_forwarder, github, oidc, saml"},
		{"a kind of Teleport's", "version: v3\nkind: trusted_cluster\n",
			`line 2: kind: "trusted_cluster" is one of Teleport's that this version of Sallyport does not have, want one of user, role, cluster_auth_preference, token, kube_cluster, audit_forwarder, github, oidc, saml`},
		{"a version", "kind: user\nversion: 2\n", `line 2: user: version: want a string, not a number`},
		{"an unknown version", "kind: user\nversion: v9\nmetadata: {name: a}\n", `line 2: user "a": version: "v9" is not known, want one of v2, v3, v4, v5, v6, v7, v8, did you mean v2?`},
		// types
		{"a string for a list", userHead + "  roles: access\n", `line 6: user "a": spec.roles: want a list, not a string`},
		{"fields for a string", userHead + "  roles:\n  - access\n  - name: x\n", `line 8: user "a": spec.roles[1]: want a string, not an object`},
		{"a number for a group", roleHead + "  allow:\n    kubernetes_groups:\n    - dev\n    - 1\n", `line 8: role "dev": spec.allow.kubernetes_groups[1]: want a string, not a number`},
		{"a number for a duration", roleHead + "  options:\n    max_session_ttl: 12\n", `line 6: role "dev": spec.options.max_session_ttl: want a duration such as 12h or 30m, not a number`},
		{"no duration", roleHead + "  options:\n    max_session_ttl: 12 h\n", `line 6: role "dev": spec.options.max_session_ttl: "12 h" is not a duration such as 12h or 30m`},
		{"a boolean for a label", roleHead + "  allow:\n    kubernetes_labels:\n      a.b: x\n      a.b.c: true\n",
			`line 8: role "dev": spec.allow.kubernetes_labels.a.b.c: want a string or a list of strings, not true or false`},
		{"a boolean for a mode", capHead + "  second_factor: true\n", `line 4: cluster_auth_preference: spec.second_factor: want one of off, optional, on, webauthn, not true or false`},
		{"a string for a document", "kind user\n", "line 1: want fields such as 'kind: role', not a string"},
		{"a list for a document", "- kind: user\n", "line 1: want fields such as 'kind: role', not a list"},
		{"no number", capHead + "  second_factor: .inf\n", "line 4: no field holds such a number; quote it if it is text"},
		// values
		{"a verb", roleHead + "  allow:\n    rules:\n    - resources: [user]\n      verbs:\n      - list\n      - get\n",
			`line 10: role "dev": spec.allow.rules[0].verbs[1]: "get" is not known, want some of list, create, read, update, delete, impersonate, *`},
		{"a resource", roleHead + "  deny:\n    rules:\n    - resources: [users]\n      verbs: [list]\n",
			`line 7: role "dev": spec.deny.rules[0].resources[0]: "users" is not known, want some of user, role, cluster_auth_preference, session, event, token, agent, kube_cluster, cluster, audit_forwarder, github, oidc, saml, *, did you mean user?`},
		{"a mode", capHead + "  second_factor: otp\n", `line 4: cluster_auth_preference "cluster-auth-preference": spec.second_factor: "otp" is not known, want one of off, optional, on, webauthn`},
		{"a mode in capitals", capHead + "  second_factor: ON\n", `line 4: cluster_auth_preference "cluster-auth-preference": spec.second_factor: "ON" is not known, want one of off, optional, on, webauthn, did you mean on?`},
		{"missing name", "kind: user\nversion: v2\nmetadata:\n  description: x\n", "line 3: user: metadata.name: a user needs a name"},
		// syntax
		{"twice", "kind: user\nversion: v2\nkind: role\n", `line 3: "kind" is there twice, first on line 1`},
		{"twice further down", userHead + "  roles: [a]\n  roles: [b]\n", `line 7: "roles" is there twice, first on line 6`},
		{"tab", "kind: user\nmetadata:\n\tname: a\n", "line 3: indented by a tab: YAML wants spaces"},
		{"indentation", "kind: user\nspec:\n  a: b\n c: d\n", `line 4: value is not allowed in this context: check the indentation here and on the next line, or quote a value that holds ": "`},
		{"a colon", "kind: user\nversion: a: b\n", `line 2: mapping value is not allowed in this context: check the indentation here and on the next line, or quote a value that holds ": "`},
		{"an open bracket", "kind: user\nmetadata: [\n", "line 2: sequence end token ']' not found"},
		{"alias", "kind: user\nversion: &v v2\nmetadata: {name: *v}\n", "line 2: anchors and aliases are not supported"},
		{"laughs", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "line 1: anchors and aliases are not supported"},
		{"deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), "line 1: nested deeper than 64 levels"},
		{"nothing", "# nothing\n---\n", "no document: want YAML that begins with 'kind: KIND', one of user, role, cluster_auth_preference, token, kube_cluster, audit_forwarder, github, oidc, saml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Decode([]byte(tc.text))
			if err == nil || !api.IsCode(err, api.CodeInvalid) {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, err.Error()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestFilesOfOtherSystemsAndSizes(t *testing.T) {
	_, err := Decode([]byte("\ufeffkind: user\r\nversion: v2\r\nmetadata:\r\n  name: a\r\nspec:\r\n  rolse: []\r\n"))
	if want := `line 6: user "a": spec.rolse: unknown field, did you mean roles?`; err == nil || err.Error() != want {
		t.Error(err)
	}
	if _, err := Decode(make([]byte, MaxSize+1)); !api.IsCode(err, api.CodeTooLarge) {
		t.Error(err)
	}
	text := "kind: user\nversion: v2\nmetadata:\n  name: a\n  description: " + strings.Repeat("x", api.MaxRequestBody) + "\n"
	if _, err := Decode([]byte(text)); !api.IsCode(err, api.CodeTooLarge) {
		t.Errorf("one document: %v", err)
	}
	many, err := Decode([]byte(strings.Repeat("---\n"+userHead, 1500)))
	if err != nil || len(many) != 1500 || many[1499].Line != 1499*6+2 {
		t.Errorf("%d, %v", len(many), err)
	}
}

func TestLinesOfWhatTheReplicaRefuses(t *testing.T) {
	docs, err := Decode([]byte(twoDocuments))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"": 11, "spec.allow.kubernetes_labels.example.com/env": 18, "spec.allow.kubernetes_groups[0]": 20, "spec.options.max_session_ttl": 15, "\x00[[": 11} {
		if got := docs[1].FieldLine(path); got != want {
			t.Errorf("%q: line %d, want %d", path, got, want)
		}
	}
	if got := (&Document{Line: 3}).FieldLine("spec"); got != 3 {
		t.Error(got)
	}
}

func TestManyUnknownFieldsFillNoScreen(t *testing.T) {
	text := userHead
	for i := range 30 {
		text += fmt.Sprintf("  field%d: x\n", i)
	}
	_, err := Decode([]byte(text))
	if err == nil || strings.Count(err.Error(), "\n") != 21 || !strings.HasSuffix(err.Error(), "and 10 more") {
		t.Error(err)
	}
}

// TestOffAndOnAreWords: readers of YAML 1.1 take them for booleans.
func TestOffAndOnAreWords(t *testing.T) {
	for text, want := range map[string]api.SecondFactor{
		"off": api.SecondFactorOff, "'off'": api.SecondFactorOff, `"off"`: api.SecondFactorOff,
		"on": api.SecondFactorOn, "'on'": api.SecondFactorOn, `"on"`: api.SecondFactorOn, "optional": api.SecondFactorOptional, "webauthn": api.SecondFactorWebAuthn,
	} {
		docs, err := Decode([]byte(capHead + "  second_factor: " + text + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := docs[0].Value.(*api.AuthPreference).Spec.SecondFactor; got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestEncodeQuotesWhatReadersMistake(t *testing.T) {
	out, err := Encode([]json.RawMessage{json.RawMessage(`{"second_factor":"off","a":"on","b":"1e3","c":"Yes","d":"12:30","e":"0x1f","f":"a: b","g":"- x","h":"","i":"null",
		"j":"system:masters","k":"12h0m0s","l":"alice@example.com","m":"{{internal.x}}","n":"two words, or three","o":"x #y","p":["*",{"q":[1,"r"],"s":{}}],"t":[],"u":12345678901234567890,
		"v":"one\ntwo\n","w":"one\ntwo","x":" a\nb","y":true,"z":"a:"}`), json.RawMessage(`{"second":null}`)})
	if err != nil {
		t.Fatal(err)
	}
	want := `second_factor: "off"
a: "on"
b: "1e3"
c: "Yes"
d: "12:30"
e: "0x1f"
f: "a: b"
g: "- x"
h: ""
i: "null"
j: system:masters
k: 12h0m0s
l: alice@example.com
m: "{{internal.x}}"
"n": two words, or three
o: "x #y"
p:
- "*"
- q:
  - 1
  - r
  s: {}
t: []
u: 12345678901234567890
v: |
  one
  two
w: |-
  one
  two
x: " a\nb"
"y": true
z: "a:"
---
second: null
`
	if d := cmp.Diff(want, string(out)); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "{", `{"a":`, strings.Repeat("[", 300) + strings.Repeat("]", 300)} {
		if out, err := Encode([]json.RawMessage{json.RawMessage(bad)}); err == nil {
			t.Errorf("%.20q: %s", bad, out)
		}
	}
}

// FuzzEncode: what is written reads back as the same.
func FuzzEncode(f *testing.F) {
	f.Add([]byte(`{"a":["off",{"b":"1e3"},[]],"c":{"d":"x\ny\n","e":"- z"}}`))
	f.Add([]byte(`{"~":"\u0085","":"\u2028","k":"#","l":["|","a\n\nb","a\n b"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var want any
		if json.Unmarshal(b, &want) != nil || hasNumbers(want) {
			return
		}
		if _, ok := want.(map[string]any); !ok {
			return
		}
		clean, err := json.Marshal(want) // no repeated fields, no broken UTF-8
		if err != nil {
			t.Fatal(err)
		}
		text, err := Encode([]json.RawMessage{clean})
		if err != nil {
			return // too deep
		}
		var got any
		if err := yaml.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		if again, err := json.Marshal(got); err != nil || string(again) != string(clean) {
			t.Fatalf("%s\n%s\n%s %v", text, clean, again, err)
		}
	})
}

func hasNumbers(v any) bool {
	switch v := v.(type) {
	case float64:
		return true
	case []any:
		return slices.ContainsFunc(v, hasNumbers)
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(v)), hasNumbers)
	}
	return false
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(twoDocuments))
	f.Add([]byte("kind: user\nmetadata: [\n"))
	f.Add([]byte(userHead + "  traits: {a: ['off', '1e3', 0x10]}\n"))
	f.Add([]byte(capHead + "  second_factor: off\n"))
	f.Add([]byte("a: !!binary x\n? b\n: - c\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		docs, err := Decode(b)
		if err == nil && len(docs) == 0 {
			t.Fatal("neither documents nor an error")
		}
		for _, d := range docs { // what was read can be written and read again
			text, err := Encode([]json.RawMessage{d.JSON})
			if err != nil {
				t.Fatal(err)
			}
			again, err := Decode(text)
			if err != nil || cmp.Diff(d.Value, again[0].Value) != "" {
				t.Fatalf("%v\n%s", err, text)
			}
		}
	})
}
