package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// oneSecret is an API server with at most one Secret, ns/s.
type oneSecret struct {
	object  map[string]any
	version int
	fail    int // status of all answers
}

func (o *oneSecret) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	no := func(status int) {
		w.WriteHeader(status)
		fmt.Fprint(w, `{"message":"words of the API server"}`)
	}
	const all = "/api/v1/namespaces/ns/secrets"
	var in map[string]any
	if r.Method != http.MethodGet && json.NewDecoder(r.Body).Decode(&in) != nil {
		no(http.StatusBadRequest)
		return
	}
	switch meta, _ := in["metadata"].(map[string]any); {
	case o.fail != 0:
		no(o.fail)
		return
	case r.URL.Path == all && r.Method == http.MethodPost:
		if o.object != nil {
			no(http.StatusConflict)
			return
		}
	case r.URL.Path == all+"/s" && o.object == nil:
		no(http.StatusNotFound)
		return
	case r.URL.Path == all+"/s" && r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(o.object)
		return
	case r.URL.Path == all+"/s" && r.Method == http.MethodPut:
		if meta["resourceVersion"] != strconv.Itoa(o.version) {
			no(http.StatusConflict)
			return
		}
	default:
		no(http.StatusMethodNotAllowed)
		return
	}
	o.version++
	o.object = in
	o.object["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(o.version)
	_ = json.NewEncoder(w).Encode(o.object)
}

func startSecret(t *testing.T) (*oneSecret, SecretRef) {
	t.Helper()
	o := &oneSecret{}
	srv := httptest.NewServer(o)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return o, SecretRef{Upstream: Upstream{URL: u, Plain: srv.Client().Transport}, Namespace: "ns", Name: "s", Verbs: []string{"get", "create"}}
}

func TestASecretIsMadeOnceAndChangedByWhoHasReadIt(t *testing.T) {
	o, ref := startSecret(t)
	s, err := ref.Read(t.Context())
	if s != nil || err != nil {
		t.Fatalf("before it is made: %v, %v", s, err)
	}
	if v, ok := s.Value("k"); v != nil || ok {
		t.Errorf("none holds %q, %v", v, ok)
	}
	first, err := ref.Create(t.Context(), "who", "k", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ref.Create(t.Context(), "who", "k", []byte("other")); !errors.Is(err, ErrSecretChanged) {
		t.Errorf("made twice: %v", err)
	}
	o.object["data"].(map[string]any)["theirs"] = "eA=="
	o.object["metadata"].(map[string]any)["annotations"] = map[string]any{"a": "b"}
	read, err := ref.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := ref.Set(t.Context(), read, "k", []byte("two"))
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []*Secret{first, read} {
		if _, err := ref.Set(t.Context(), old, "k", []byte("three")); !errors.Is(err, ErrSecretChanged) {
			t.Errorf("changed by who has not seen the last: %v", err)
		}
	}
	want := map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata": map[string]any{
			"name": "s", "namespace": "ns", "resourceVersion": "2", "annotations": map[string]any{"a": "b"},
			"labels": map[string]any{"app.kubernetes.io/managed-by": "who"},
		},
		"data": map[string]any{"k": "dHdv", "theirs": "eA=="},
	}
	if diff := cmp.Diff(want, o.object); diff != "" {
		t.Error(diff)
	}
	if v, ok := second.Value("k"); string(v) != "two" || !ok {
		t.Errorf("%q, %v", v, ok)
	}
	if v, ok := read.Value("k"); string(v) != "one" || !ok {
		t.Errorf("what was read has changed: %q, %v", v, ok)
	}
	if v, ok := second.Value("other"); len(v) != 0 || ok {
		t.Errorf("%q, %v", v, ok)
	}
	o.object = nil
	if _, err := ref.Set(t.Context(), second, "k", []byte("three")); !errors.Is(err, ErrSecretChanged) {
		t.Errorf("deleted meanwhile: %v", err)
	}
}

func TestASecretThatIsRefusedSaysWhichRuleIsMissing(t *testing.T) {
	o, ref := startSecret(t)
	for status, want := range map[int]struct {
		code api.Code
		says string
	}{
		http.StatusForbidden:           {api.CodeForbidden, `a Role in the namespace "ns" with the rule {apiGroups: [""], resources: [secrets], verbs: [get, create]}`},
		http.StatusUnauthorized:        {api.CodeForbidden, "does not know the pod's service account"},
		http.StatusTooManyRequests:     {api.CodeUnavailable, ""},
		http.StatusServiceUnavailable:  {api.CodeUnavailable, ""},
		http.StatusUnprocessableEntity: {api.CodeInvalid, ""},
	} {
		o.fail = status
		_, read := ref.Read(t.Context())
		_, made := ref.Create(t.Context(), "who", "k", nil)
		_, set := ref.Set(t.Context(), &Secret{object: map[string]any{}}, "k", nil)
		for verb, err := range map[string]error{"read": read, "make": made, "write": set} {
			if !api.IsCode(err, want.code) || !strings.HasPrefix(err.Error(), verb+" the Secret ns/s: the API server answers "+strconv.Itoa(status)) ||
				!strings.Contains(err.Error(), "words of the API server") || !strings.Contains(err.Error(), want.says) {
				t.Errorf("%s, %d: %v", verb, status, err)
			}
		}
	}
}

// Something that is no API server, or a proxy before it, answers with JSON that is no object.
func TestAnAnswerThatIsNoSecretIsAnError(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "null") }))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	ref := SecretRef{Upstream: Upstream{URL: u, Plain: srv.Client().Transport}, Namespace: "ns", Name: "s"}
	_, read := ref.Read(t.Context())
	_, made := ref.Create(t.Context(), "who", "k", nil)
	_, set := ref.Set(t.Context(), &Secret{object: map[string]any{}}, "k", nil)
	for verb, err := range map[string]error{"read": read, "make": made, "write": set} {
		if !errors.Is(err, ErrNoJSON) || !api.IsCode(err, api.CodeInvalid) || !strings.HasPrefix(err.Error(), verb+" the Secret ns/s: ") {
			t.Errorf("%s: %v", verb, err)
		}
	}
}
