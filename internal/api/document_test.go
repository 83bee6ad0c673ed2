package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDecodeDocumentReadsUsersAndRoles(t *testing.T) {
	got, err := DecodeDocument([]byte(`{"kind":"user","version":"v2","metadata":{"name":"alice","revision":7},
		"spec":{"roles":["access"],"traits":{"kubernetes_groups":["system:masters"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &User{Header: Header{Kind: "user", Version: "v2", Metadata: Metadata{Name: "alice", Revision: 7}},
		Spec: UserSpec{Roles: []string{"access"}, Traits: map[string][]string{"kubernetes_groups": {"system:masters"}}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	got, err = DecodeDocument([]byte(`{"kind":"role","version":"v5","metadata":{"name":"dev"},"spec":{"options":{"max_session_ttl":"8h"},
		"allow":{"kubernetes_groups":["{{internal.kubernetes_groups}}","dev"],"kubernetes_labels":{"env":"dev","team":["a","b"]},"logins":["root"],
		"rules":[{"resources":["user"],"verbs":["list","read"]}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	r := got.(*Role)
	if time.Duration(r.Spec.Options.MaxSessionTTL) != 8*time.Hour {
		t.Error(r.Spec.Options)
	}
	if d := cmp.Diff(map[string]Values{"env": {"dev"}, "team": {"a", "b"}}, r.Spec.Allow.KubernetesLabels); d != "" {
		t.Error(d)
	}
}

func TestOldRolesReachEveryClusterUnlessLabelsSayOtherwise(t *testing.T) {
	for version, want := range map[string]int{"v2": 1, "v3": 1, "v4": 0, "v8": 0} {
		got, err := DecodeDocument([]byte(`{"kind":"role","version":"` + version + `","metadata":{"name":"r"},"spec":{}}`))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(got.(*Role).Spec.Allow.KubernetesLabels); n != want {
			t.Errorf("%s: %d labels", version, n)
		}
	}
}

func TestDecodeDocumentNamesTheWrongField(t *testing.T) {
	user := func(spec string) string {
		return `{"kind":"user","version":"v2","metadata":{"name":"a"},"spec":` + spec + `}`
	}
	role := func(spec string) string {
		return `{"kind":"role","version":"v5","metadata":{"name":"a"},"spec":` + spec + `}`
	}
	named := func(name string) string { return `{"kind":"user","version":"v2","metadata":{"name":"` + name + `"}}` }
	for _, tc := range []struct{ name, doc, path, reason string }{
		{"unknown at the top", `{"kind":"user","version":"v2","metadata":{"name":"a"},"sepc":{}}`, "sepc", "unknown field"},
		{"unknown in a list", role(`{"allow":{"rules":[{"resources":["user"],"verbs":["list"],"where":"x"}]}}`), "spec.allow.rules[0].where", "unknown field"},
		{"not enforced yet", role(`{"deny":{"kubernetes_resources":[]}}`), "spec.deny.kubernetes_resources", "unknown field"},
		{"another case", user(`{"Roles":[]}`), "spec.Roles", "unknown field"},
		{"twice", user(`{"roles":[],"roles":["admin"]}`), "spec.roles", "given twice"},
		{"wrong kind of value", user(`{"roles":"admin"}`), "spec.roles", "want a list"},
		{"bad duration", role(`{"options":{"max_session_ttl":"8 hours"}}`), "spec.options.max_session_ttl", "not a duration"},
		{"negative duration", role(`{"options":{"max_session_ttl":"-1h"}}`), "spec.options.max_session_ttl", "at least 1m"},
		{"trailing text", user(`{}`) + "{}", "", "after top-level"},
		{"empty", ``, "", ""},
		{"no kind", `{}`, "kind", "missing"},
		{"unknown kind", `{"kind":"cluster"}`, "kind", "not known"},
		{"old version", `{"kind":"user","version":"v1","metadata":{"name":"a"}}`, "version", "not known"},
		{"a name once", named("a b"), "metadata.name", `"a b": metadata.name: use ASCII letters, digits`},
		{"no name", named(""), "metadata.name", "needs a name"},
		{"comma", named("a,b"), "metadata.name", "ASCII"},
		{"line break", named(`a\nb`), "metadata.name", "ASCII"},
		{"equals", named("a=b"), "metadata.name", "ASCII"},
		{"NUL", named(`a\u0000b`), "metadata.name", "ASCII"},
		{"slash", named("a/b"), "metadata.name", "ASCII"},
		{"confusable", named("аlice"), "metadata.name", "ASCII"},
		{"Kubernetes' own name", named("system:admin"), "metadata.name", "belong to Kubernetes"},
		{"group with comma", user(`{"traits":{"kubernetes_groups":["a,b"]}}`), "spec.traits.kubernetes_groups[0]", "commas"},
		{"group with line break", user(`{"traits":{"kubernetes_groups":["a","b\nImpersonate-Group: c"]}}`), "spec.traits.kubernetes_groups[1]", "ASCII"},
		{"role twice", user(`{"roles":["a","a"]}`), "spec.roles[1]", "twice"},
		{"unknown verb", role(`{"allow":{"rules":[{"resources":["user"],"verbs":["lsit"]}]}}`), "spec.allow.rules[0].verbs[0]", "did you mean list?"},
		{"unknown resource", role(`{"deny":{"rules":[{"resources":["user","roles"],"verbs":["list"]}]}}`), "spec.deny.rules[0].resources[1]", "did you mean role?"},
		{"unknown mode", `{"kind":"cluster_auth_preference","version":"v2","metadata":{},"spec":{"second_factor":"webauth"}}`, "spec.second_factor", "did you mean webauthn?"},
		{"a slip", role(`{"allow":{"kubernetes_group":[]}}`), "spec.allow.kubernetes_group", "did you mean kubernetes_groups?"},
		{"in the wrong place", role(`{"kubernetes_groups":[]}`), "spec.kubernetes_groups", "unknown field, it belongs at spec.allow.kubernetes_groups"},
		{"a list for a string", role(`{"allow":{"rules":[{"resources":["user"],"verbs":[["list"]]}]}}`), "spec.allow.rules[0].verbs[0]", "want a string, not a list"},
		{"a string for a list", role(`{"allow":{"rules":[{"resources":["user"],"verbs":"list"}]}}`), "spec.allow.rules[0].verbs", "want a list, not a string"},
		{"a number for a label", role(`{"allow":{"kubernetes_labels":{"env":[1]}}}`), "spec.allow.kubernetes_labels.env[0]", "want a string, not a number"},
		{"a number for a duration", role(`{"options":{"max_session_ttl":12}}`), "spec.options.max_session_ttl", "want a duration such as 12h or 30m, not a number"},
		{"no verbs", role(`{"allow":{"rules":[{"resources":["user"]}]}}`), "spec.allow.rules[0].verbs", "empty"},
		{"label without values", role(`{"allow":{"kubernetes_labels":{"env":[]}}}`), "spec.allow.kubernetes_labels.env", "want 1"},
		{"terminal escape", `{"kind":"user","version":"v2","metadata":{"name":"a","description":"\u001b[2J"}}`, "metadata.description", "control"},
		{"deep", user(`{"traits":` + strings.Repeat("[", 60) + strings.Repeat("]", 60) + `}`), "spec.traits", "want an object, not a list"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := DecodeDocument([]byte(tc.doc))
			if !IsCode(err, CodeInvalid) {
				t.Fatalf("code %q: %v", CodeOf(err), err)
			}
			if field, ok := errors.AsType[*FieldError](err); tc.path != "" && (!ok || field.Path != tc.path) {
				t.Errorf("path %+v, want %q", field, tc.path)
			}
			if !strings.Contains(err.Error(), tc.reason) || !strings.Contains(err.Error(), tc.path) {
				t.Errorf("%q does not say %q at %q", err, tc.reason, tc.path)
			}
		})
	}
	if _, err := DecodeDocument(make([]byte, MaxRequestBody+1)); !IsCode(err, CodeTooLarge) {
		t.Error(err)
	}
}

func TestDecodeStrictBoundsNesting(t *testing.T) {
	var in struct {
		Any json.RawMessage `json:"any"`
	}
	err := DecodeStrict([]byte(`{"any":`+strings.Repeat("[", 60)+strings.Repeat("]", 60)+`}`), &in)
	if !IsCode(err, CodeInvalid) || !strings.Contains(err.Error(), "nested deeper") {
		t.Error(err)
	}
	if err := DecodeStrict([]byte(`{"any":{"a":[null,1,{"b":"c"}]}}`), &in); err != nil {
		t.Error(err)
	}
}

func TestUnknownFieldsAreAllNamed(t *testing.T) {
	var got []string
	for _, f := range UnknownFields([]byte(`{"kind":"role","sub_kind":"x","spec":{"opts":{"a":{"b":1}},"allow":{"rules":[{"wher":1},{"verbs":[]}],"node_labels":{}}}}`), &Role{}) {
		got = append(got, f.Path)
	}
	if d := cmp.Diff([]string{"sub_kind", "spec.opts", "spec.allow.rules[0].wher", "spec.allow.node_labels"}, got); d != "" {
		t.Error(d)
	}
	if got := UnknownFields([]byte(`{"kind":1}`), &Role{}); got != nil {
		t.Error(got)
	}
}

func TestAnswersNameTheField(t *testing.T) {
	refusal := Errorf(CodeInvalid, "user %q: %w", "a", &FieldError{Path: "spec.roles[0]", Reason: "there is no such role"})
	for name, tc := range map[string]struct {
		err   error
		field string
	}{
		"a field":  {fmt.Errorf("put: %w", refusal), "spec.roles[0]"},
		"no field": {Errorf(CodeInvalid, "no"), ""},
	} {
		w := httptest.NewRecorder()
		WriteError(w, tc.err)
		resp := w.Result()
		got, ok := errors.AsType[*Error](ReadError(resp))
		_ = resp.Body.Close()
		if !ok || got.Field != tc.field || got.Code != CodeInvalid {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if refusal.Field != "" {
		t.Error("the error itself was changed")
	}
}

func FuzzDecodeDocument(f *testing.F) {
	f.Add([]byte(`{"kind":"user","version":"v2","metadata":{"name":"alice"},"spec":{"roles":["access"]}}`))
	f.Add([]byte(`{"kind":"role","version":"v3","metadata":{"name":"dev"},"spec":{"allow":{"kubernetes_labels":{"a":"b"},"rules":[{"resources":["*"],"verbs":["*"]}]}}}`))
	f.Add([]byte(`{"kind":"user","kind":"role"}`))
	f.Add([]byte(`[[[[{}]]]]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, err := DecodeDocument(b)
		if err != nil {
			return
		}
		switch d := doc.(type) {
		case *User:
			if ValidateName("user", d.Metadata.Name) != nil {
				t.Fatal(d.Metadata.Name)
			}
		case *Role:
			if ValidateName("role", d.Metadata.Name) != nil {
				t.Fatal(d.Metadata.Name)
			}
		}
	})
}
