package authapi_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func TestFromTokenToAgent(t *testing.T) {
	s := newServer(t)
	s.h = authapi.New(authapi.Options{Auth: s.Service, DB: s.DB, Replicas: func() map[string][]string {
		all := map[string][]string{"0000": {"x"}}
		for _, a := range s.Agents.List() {
			all[a.ID] = []string{"replica-2", "replica-1"}
		}
		return all
	}, Duplicates: func() []string {
		if all := s.Agents.List(); len(all) > 0 {
			return []string{all[0].ID}
		}
		return nil
	}})
	answer, code, msg := s.call(t, socket, "POST", api.PathTokens, api.AddTokenRequest{Roles: []string{"kube"}, MaxUses: 2})
	if code != "" {
		t.Fatal(msg)
	}
	token, id := answer["token"].(string), answer["id"].(string)
	var agents []string
	for _, prefix := range []string{"", "/v1"} {
		_, pub := authtest.NewKey(t)
		answer, code, msg = s.call(t, stranger, "POST", prefix+api.PathJoin, api.JoinRequest{Token: token, PublicKey: pub, KubeClusters: []string{"prod"}})
		if code != "" {
			t.Fatal(msg)
		}
		agents = append(agents, answer["agent_id"].(string))
	}
	answer, _, msg = s.call(t, socket, "GET", api.PathAgents, nil)
	list := answer["agents"].([]any)
	if len(list) != 2 {
		t.Fatal(list, msg)
	}
	first := list[0].(map[string]any)
	if d := cmp.Diff([]any{"replica-1", "replica-2"}, first["replicas"]); d != "" || first["token"] != id || first["duplicate"] != true {
		t.Error(d, first)
	}
	if second := list[1].(map[string]any); second["duplicate"] != nil {
		t.Error(second)
	}
	answer, _, _ = s.call(t, socket, "GET", api.PathResources+"/token/"+id, nil)
	spec := answer["items"].([]any)[0].(map[string]any)["spec"].(map[string]any)
	if spec["uses"] != float64(2) {
		t.Error(spec)
	}
	answer, _, _ = s.call(t, socket, "GET", api.PathResources+"/kube_cluster", nil)
	if len(answer["items"].([]any)) != 2 {
		t.Error(answer)
	}
	for _, tc := range []struct {
		method, path string
		want         api.Code
	}{
		{"DELETE", api.PathAgents + "/" + agents[0], ""}, {"DELETE", api.PathAgents + "/" + agents[0], api.CodeNotFound},
		{"DELETE", api.PathAgents + "/nope", api.CodeInvalid},
		{"DELETE", api.PathResources + "/token/" + token, api.CodeNotFound}, {"DELETE", api.PathResources + "/token/" + id, ""},
		{"DELETE", api.PathResources + "/kube_cluster/cookie", api.CodeConflict}, {"DELETE", api.PathResources + "/kube_cluster/cookie?force=true", ""},
		{"DELETE", api.PathResources + "/kube_cluster/prod", ""}, {"GET", api.PathResources + "/kube_cluster/prod", api.CodeNotFound},
	} {
		if _, code, msg := s.call(t, socket, tc.method, tc.path, nil); code != tc.want {
			t.Errorf("%s %s: %s %s", tc.method, tc.path, code, msg)
		}
	}
	answer, _, _ = s.call(t, socket, "GET", api.PathKube, nil)
	if d := cmp.Diff([]any{}, answer["clusters"]); d != "" {
		t.Error(d)
	}
}

func TestJoinAndTokensAreStrict(t *testing.T) {
	s := newServer(t)
	token := s.AddToken(t)
	for _, tc := range []struct {
		name, path, body string
		want             api.Code
	}{
		{"an unknown field", api.PathJoin, `{"token":"x","role":"admin"}`, api.CodeInvalid},
		{"a field twice", api.PathJoin, `{"token":"x","token":"y"}`, api.CodeInvalid},
		{"a field of other case", api.PathJoin, `{"Token":"x"}`, api.CodeInvalid},
		{"clusters as a string", api.PathJoin, `{"token":"x","kubernetes_clusters":"a"}`, api.CodeInvalid},
		{"nothing", api.PathJoin, ``, api.CodeInvalid},
		{"2 MB", api.PathJoin, strings.Repeat(" ", 2<<20), api.CodeTooLarge},
		{"a guess", api.PathJoin, `{"token":"x"}`, api.CodeUnauthenticated},
		{"the id", api.PathJoin, `{"token":"` + token.ID + `"}`, api.CodeUnauthenticated},
		{"a null", api.PathJoin, `null`, api.CodeUnauthenticated},
		{"a token with an unknown field", api.PathTokens, `{"roles":["kube"],"secret":"x"}`, api.CodeInvalid},
		{"a token for another role", api.PathTokens, `{"roles":["node"]}`, api.CodeInvalid},
		{"a token for no role", api.PathTokens, `{"roles":[]}`, api.CodeInvalid},
		{"a short token", api.PathTokens, `{"roles":["kube"],"value":"abc"}`, api.CodeInvalid},
	} {
		c := stranger
		if tc.path == api.PathTokens {
			c = socket
		}
		if _, code, msg := s.call(t, c, "POST", tc.path, tc.body); code != tc.want {
			t.Errorf("%s: %s %s", tc.name, code, msg)
		}
	}
	if _, code, _ := s.call(t, authapi.Caller{}, "POST", api.PathJoin, `{}`); code != api.CodeUnauthenticated {
		t.Error("a join from nowhere:", code)
	}
}

func TestWhoMayManageAgents(t *testing.T) {
	s := newServer(t)
	agent := s.JoinAgent(t, "", "prod")
	token := s.AddToken(t)
	s.AddUser(t, "dev", nil)
	s.AddUser(t, "root", nil, "admin")
	dev, _ := s.Login(t, "dev")
	root, _ := s.Login(t, "root")
	raw, err := s.KubeClusters.Document("prod")
	if err != nil {
		t.Fatal(err)
	}
	doc := `{"kind":"token","version":"v2","metadata":{"name":"cd"},"spec":{"roles":["kube"],"join_method":"kubernetes","kubernetes":{"allow":[{"service_account":"a:b"}]}}}`
	for _, tc := range []struct {
		method, path string
		body         any
	}{
		{"POST", api.PathTokens, `{"roles":["kube"]}`}, {"PUT", api.PathResources, doc},
		{"GET", api.PathResources + "/token", nil}, {"GET", api.PathResources + "/token/" + token.ID, nil},
		{"GET", api.PathAgents, nil}, {"GET", api.PathResources + "/kube_cluster", nil}, {"GET", api.PathResources + "/kube_cluster/prod", nil},
		{"PUT", api.PathResources + "?force=true", string(raw)},
		{"DELETE", api.PathResources + "/token/" + token.ID, nil}, {"DELETE", api.PathAgents + "/" + agent.Identity.ID, nil},
		{"DELETE", api.PathResources + "/kube_cluster/prod", nil},
	} {
		if _, code, msg := s.call(t, as(dev), tc.method, tc.path, tc.body); code != api.CodeForbidden {
			t.Errorf("a user, %s %s: %s %s", tc.method, tc.path, code, msg)
		}
		if _, code, _ := s.call(t, stranger, tc.method, tc.path, tc.body); code != api.CodeUnauthenticated {
			t.Errorf("a stranger, %s %s: %s", tc.method, tc.path, code)
		}
		if _, code, msg := s.call(t, as(root), tc.method, tc.path, tc.body); code != "" {
			t.Errorf("an administrator, %s %s: %s %s", tc.method, tc.path, code, msg)
		}
	}
}

// FuzzJoin reads what strangers send. Without the token nobody gets in.
func FuzzJoin(f *testing.F) {
	fixture := authtest.New(f)
	token := fixture.AddToken(f)
	_, pub := authtest.NewKey(f)
	good, err := json.Marshal(api.JoinRequest{Token: "a-token-that-is-wrong", PublicKey: pub, KubeClusters: []string{"a"}, Name: "pod"})
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{
		string(good), `{"token":"` + token.ID + `"}`, `{}`, `[]`, ``, `{"token":1}`, `{"public_key":"!!"}`, `{"token":"a","token":"b"}`, strings.Repeat(`{"a":`, 100),
	} {
		f.Add([]byte(body))
	}
	h := authapi.New(authapi.Options{Auth: fixture.Service, DB: fixture.DB}).Public()
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequestWithContext(authapi.WithCaller(t.Context(), stranger), "POST", api.PathJoin, strings.NewReader(string(body)))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code < 400 || w.Code >= 500 || w.Header().Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}
