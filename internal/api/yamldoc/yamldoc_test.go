package yamldoc

import (
	"encoding/json"
	"strings"
	"testing"

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

func TestErrorsNameTheLine(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown field", "kind: user\nversion: v2\nmetadata:\n  name: a\nspec:\n  rolse: [x]\n", "line 6: "},
		{"unknown field in a list", "kind: role\nversion: v2\nmetadata: {name: a}\nspec:\n  allow:\n    rules:\n    - resources: [user]\n      verbs: [list]\n      where: x\n", "line 9: "},
		{"in the second document", twoDocuments + "  dney: {}\n", "line 21: role \"dev\""},
		{"under a name with dots", "kind: role\nversion: v5\nmetadata: {name: a}\nspec:\n  allow:\n    kubernetes_labels:\n      a.b: x\n      a.b.c: []\n", "line 8: "},
		{"missing name", "kind: user\nversion: v2\nmetadata:\n  description: x\n", "line 3: "},
		{"twice", "kind: user\nversion: v2\nkind: role\n", "line 3: "},
		{"tab", "kind: user\n\tversion: v2\n", "line "},
		{"alias", "kind: user\nversion: &v v2\nmetadata: {name: *v}\n", "line 2: anchors"},
		{"laughs", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "line 1: anchors"},
		{"deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), "deeper"},
		{"nothing", "# nothing\n---\n", "no document"},
		{"a number as a group", "kind: role\nversion: v5\nmetadata: {name: a}\nspec:\n  allow:\n    kubernetes_groups: [1]\n", "line 6: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Decode([]byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(twoDocuments))
	f.Add([]byte("kind: user\nmetadata: [\n"))
	f.Add([]byte("a: !!binary x\n? b\n: - c\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		docs, err := Decode(b)
		if err == nil && len(docs) == 0 {
			t.Fatal("neither documents nor an error")
		}
	})
}
