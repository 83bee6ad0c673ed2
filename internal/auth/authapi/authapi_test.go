package authapi_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

var (
	socket   = authapi.Caller{Admin: true}
	stranger = authapi.Caller{Addr: authtest.Client}
)

func as(id pki.UserIdentity) authapi.Caller {
	return authapi.Caller{Identity: &id, Addr: authtest.Client}
}

type server struct {
	*authtest.Fixture
	h *authapi.Handler
}

func newServer(t *testing.T) *server {
	f := authtest.New(t)
	ping := api.Ping{ServerVersion: "1.2.3", MinClientVersion: "1.0.0", ClusterName: authtest.ClusterName}
	return &server{f, authapi.New(authapi.Options{Auth: f.Service, DB: f.DB, Ping: ping})}
}

// call makes a request and decodes the answer; the code is "" for a success.
func (s *server) call(t *testing.T, c authapi.Caller, method, path string, body any, edit ...func(*http.Request)) (answer map[string]any, code api.Code, message string) {
	t.Helper()
	var payload io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		payload = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		payload = bytes.NewReader(raw)
	}
	h := s.h.Authenticated()
	if strings.Contains(path, "/webapi/") {
		h = s.h.Public()
	}
	r := httptest.NewRequestWithContext(authapi.WithCaller(t.Context(), c), method, path, payload)
	for _, fn := range edit {
		fn(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%s %s: headers %v", method, path, w.Header())
	}
	if w.Code != http.StatusOK {
		err := api.ReadError(w.Result())
		return nil, api.CodeOf(err), err.Error()
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err, w.Body)
	}
	return answer, "", ""
}

func TestFromInviteToLogout(t *testing.T) {
	s := newServer(t)
	answer, code, msg := s.call(t, socket, "POST", api.PathUsers, api.AddUserRequest{
		User: authtest.User("alice", map[string][]string{"kubernetes_groups": {"system:masters"}})})
	if code != "" {
		t.Fatal(msg)
	}
	url := answer["invite_url"].(string)
	token := url[strings.LastIndex(url, "/")+1:]
	for _, prefix := range []string{"", "/v1"} {
		answer, code, msg = s.call(t, stranger, "GET", prefix+authapi.PathPasswordToken+"/"+token, nil)
		if code != "" || answer["user"] != "alice" {
			t.Fatal(answer, msg)
		}
	}
	redeem := authapi.RedeemRequest{Token: token, Password: []byte(authtest.Password)}
	if answer, code, msg = s.call(t, stranger, "PUT", authapi.PathPasswordToken, redeem); code != "" || answer["user"] != "alice" {
		t.Fatal(answer, msg)
	}
	if _, code, msg = s.call(t, stranger, "PUT", authapi.PathPasswordToken, redeem); code != api.CodeConflict || !strings.Contains(msg, "used already") {
		t.Fatal(code, msg)
	}
	_, pub := authtest.NewKey(t)
	answer, code, msg = s.call(t, stranger, "POST", "/v1"+api.PathLogin, api.LoginRequest{User: "alice", Password: authtest.Password, TLSPubKey: pub})
	if code != "" {
		t.Fatal(msg)
	}
	id := pki.UserIdentity{User: "alice", SessionID: answer["session_id"].(string), ClusterName: authtest.ClusterName}
	if answer, code, msg = s.call(t, as(id), "GET", api.PathSession, nil); code != "" || answer["user"] != "alice" || answer["client_addr"] != authtest.Client.String() {
		t.Fatal(answer, msg)
	}
	if _, leak := answer["user_created"]; leak {
		t.Error("the session shows the store's own fields")
	}
	answer, _, _ = s.call(t, as(id), "GET", api.PathKube, nil)
	if d := cmp.Diff([]any{map[string]any{"name": "cookie", "labels": map[string]any{"env": "test"}}}, answer["clusters"]); d != "" {
		t.Error(d)
	}
	for range 2 {
		if _, code, msg = s.call(t, as(id), "DELETE", api.PathSession, nil); code != "" {
			t.Fatal(msg)
		}
	}
	if _, code, _ = s.call(t, as(id), "GET", api.PathSession, nil); code != api.CodeUnauthenticated {
		t.Fatal("still logged in:", code)
	}
}

func TestPingTellsStrangersWhoWeAre(t *testing.T) {
	s := newServer(t)
	for _, path := range []string{"/webapi/ping", "/webapi/find", "/v1/webapi/ping", "/v1/webapi/find"} {
		answer, code, msg := s.call(t, stranger, "GET", path, nil)
		if code != "" || answer["server_version"] != "1.2.3" || answer["min_client_version"] != "1.0.0" {
			t.Error(path, answer, msg)
		}
	}
}

const roleDoc = `{"kind":"role","version":"v5","metadata":{"name":"dev"},"spec":{"allow":{"kubernetes_groups":["dev"]}}}`

func TestResources(t *testing.T) {
	s := newServer(t)
	answer, code, msg := s.call(t, socket, "PUT", api.PathResources, roleDoc)
	if code != "" || answer["created"] != true || answer["kind"] != "role" || answer["name"] != "dev" {
		t.Fatal(answer, msg)
	}
	if _, code, _ = s.call(t, socket, "PUT", api.PathResources, roleDoc); code != api.CodeExists {
		t.Error(code)
	}
	if answer, _, _ = s.call(t, socket, "PUT", api.PathResources+"?force=true", roleDoc); answer["created"] != false {
		t.Error(answer)
	}
	for path, want := range map[string]int{"/role": 4, "/role/dev": 1, "/user": 0} {
		answer, code, msg = s.call(t, socket, "GET", api.PathResources+path, nil)
		if code != "" || len(answer["items"].([]any)) != want {
			t.Error(path, answer, msg)
		}
	}
	for _, tc := range []struct {
		method, path string
		body         any
		want         api.Code
	}{
		{"GET", api.PathResources + "/gizmo", nil, api.CodeInvalid},
		{"GET", api.PathResources + "/role/nope", nil, api.CodeNotFound},
		{"GET", api.PathResources + "/user/..%2Froles%2Fadmin", nil, api.CodeNotFound},
		{"DELETE", api.PathResources + "/role/admin", nil, api.CodeForbidden},
		{"DELETE", api.PathResources + "/role/nope", nil, api.CodeNotFound},
		{"DELETE", api.PathResources + "/user/nope", nil, api.CodeNotFound},
		{"DELETE", api.PathResources + "/role/dev", nil, ""},
		{"PUT", api.PathResources + "?force=perhaps", roleDoc, api.CodeInvalid},
		{"PUT", api.PathResources, `{"kind":"role","version":"v5","metadata":{"name":"x"},"spec":{"alow":{}}}`, api.CodeInvalid},
		{"PUT", api.PathResources, "", api.CodeInvalid},
		{"PUT", api.PathResources, strings.Repeat(" ", api.MaxRequestBody+1), api.CodeTooLarge},
		{"POST", api.PathUsers, `{"user":{},"admin":true}`, api.CodeInvalid},
		{"POST", api.PathUsers, `{"user":{},"user":{}}`, api.CodeInvalid},
		{"GET", "/v1/nope", nil, api.CodeNotFound},
	} {
		if _, code, msg := s.call(t, socket, tc.method, tc.path, tc.body); code != tc.want {
			t.Errorf("%s %s: %s %s", tc.method, tc.path, code, msg)
		}
	}
}

func TestRulesDecideForWhoeverIsNotOnTheSocket(t *testing.T) {
	s := newServer(t)
	rules := func(verbs ...string) api.RoleSpec {
		return api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: []string{"user"}, Verbs: verbs}}}}
	}
	s.PutRole(t, "user-reader", rules("list", "read"))
	s.PutRole(t, "user-creator", rules("create"))
	s.PutRole(t, "no-deletion", api.RoleSpec{Deny: api.RoleConditions{Rules: []api.Rule{{Resources: []string{"*"}, Verbs: []string{"delete"}}}}})
	s.AddUser(t, "victim", nil)
	callers := map[string]authapi.Caller{"socket": socket, "stranger": stranger}
	for name, roles := range map[string][]string{
		"admin": {"admin"}, "plain": {"access"}, "auditor": {"auditor"}, "reader": {"user-reader"},
		"creator": {"user-creator", "access"}, "bounded": {"admin", "no-deletion"},
	} {
		s.AddUser(t, name, nil, roles...)
		id, _ := s.Login(t, name)
		callers[name] = as(id)
	}
	userDoc := `{"kind":"user","version":"v2","metadata":{"name":"victim"}}`
	for _, tc := range []struct {
		method, path, body string
		allowed            string
	}{
		{"GET", "/v1/resources/user", "", "socket admin reader bounded"},
		{"GET", "/v1/resources/user/victim", "", "socket admin reader bounded"},
		{"GET", "/v1/resources/role", "", "socket admin bounded"},
		{"PUT", "/v1/resources?force=true", userDoc, "socket admin bounded"},
		{"PUT", "/v1/resources?force=true", roleDoc, "socket admin bounded"},
		{"DELETE", "/v1/resources/user/nobody", "", "socket admin"},
		{"DELETE", "/v1/resources/role/nothing", "", "socket admin"},
		{"GET", "/v1/kube/clusters", "", "socket admin plain auditor reader creator bounded"},
		{"GET", "/v1/session", "", "admin plain auditor reader creator bounded"},
	} {
		for name, c := range callers {
			var body any
			if tc.body != "" {
				body = tc.body
			}
			_, code, msg := s.call(t, c, tc.method, tc.path, body)
			refused := code == api.CodeForbidden || code == api.CodeUnauthenticated
			if want := strings.Contains(" "+tc.allowed+" ", " "+name+" "); want == refused {
				t.Errorf("%s %s as %s: %q %s", tc.method, tc.path, name, code, msg)
			}
		}
	}
	// Creating needs create alone, and is refused to who may only read.
	add := func(name string) string {
		return `{"user":{"kind":"user","version":"v2","metadata":{"name":"` + name + `"},"spec":{}}}`
	}
	if _, code, msg := s.call(t, callers["creator"], "POST", "/v1/users", add("new1")); code != "" {
		t.Error(msg)
	}
	if _, code, msg := s.call(t, callers["reader"], "POST", "/v1/users", add("new2")); code != api.CodeForbidden || !strings.Contains(msg, "allow.rules") {
		t.Error(code, msg)
	}
	if _, code, _ := s.call(t, callers["creator"], "PUT", "/v1/resources?force=true", userDoc); code != api.CodeForbidden {
		t.Error("create alone replaced a user:", code)
	}
	// Replacing what was read needs update alone, and can't be made to create.
	s.PutRole(t, "user-updater", rules("read", "update"))
	s.AddUser(t, "updater", nil, "user-updater")
	id, _ := s.Login(t, "updater")
	read, _, _ := s.call(t, as(id), "GET", "/v1/resources/user/victim", nil)
	doc := read["items"].([]any)[0].(map[string]any)
	if _, code, msg := s.call(t, as(id), "PUT", "/v1/resources?force=true", doc); code != "" {
		t.Error(msg)
	}
	doc["metadata"].(map[string]any)["name"] = "nobody"
	if _, code, msg := s.call(t, as(id), "PUT", "/v1/resources?force=true", doc); code != api.CodeConflict {
		t.Error("update alone made a user:", code, msg)
	}
	if _, code, _ := s.call(t, as(id), "PUT", "/v1/resources?force=true", userDoc); code != api.CodeForbidden {
		t.Error("update alone wrote a document without a revision:", code)
	}
}

func TestHeadersNeverSayWhoSomebodyIs(t *testing.T) {
	s := newServer(t)
	forge := func(r *http.Request) {
		for _, h := range []string{"X-Remote-User", "X-Forwarded-User", "Impersonate-User", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Client-Cert"} {
			r.Header.Set(h, "admin")
		}
		r.Header.Set("Authorization", "Bearer admin")
	}
	if _, code, _ := s.call(t, stranger, "GET", "/v1/resources/user", nil, forge); code != api.CodeUnauthenticated {
		t.Error(code)
	}
	if _, code, _ := s.call(t, authapi.Caller{}, "GET", "/v1/resources/user", nil, forge); code != api.CodeUnauthenticated {
		t.Error(code)
	}
	_, pub := authtest.NewKey(t)
	req := api.LoginRequest{User: "alice", Password: authtest.Password, TLSPubKey: pub}
	if _, code, msg := s.call(t, authapi.Caller{}, "POST", api.PathLogin, req); code != api.CodeUnauthenticated || !strings.Contains(msg, "address") {
		t.Error("a login from nowhere is exempt from limits:", code, msg)
	}
}

func TestOtherSitesPagesAreRefused(t *testing.T) {
	s := newServer(t)
	token := s.Invite(t, "alice", nil)
	redeem := authapi.RedeemRequest{Token: token, Password: []byte(authtest.Password)}
	for name, edit := range map[string]func(*http.Request){
		"cross-site":     func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"same-site":      func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"foreign origin": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example.org") },
	} {
		if _, code, _ := s.call(t, stranger, "PUT", authapi.PathPasswordToken, redeem, edit); code != api.CodeForbidden {
			t.Errorf("%s: %s", name, code)
		}
	}
	form := func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }
	if _, code, _ := s.call(t, stranger, "PUT", authapi.PathPasswordToken, redeem, form); code != api.CodeInvalid {
		t.Error("a form's content type was accepted:", code)
	}
	same := func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") }
	if _, code, msg := s.call(t, stranger, "PUT", authapi.PathPasswordToken, redeem, same); code != "" {
		t.Error(msg)
	}
}

func TestAllOfOneNetworkAreLimitedOverHTTP(t *testing.T) {
	s := newServer(t)
	limited := 0
	for range 60 {
		c := authapi.Caller{Addr: netip.MustParseAddr("203.0.113.9")}
		if _, code, _ := s.call(t, c, "GET", authapi.PathPasswordToken+"/"+strings.Repeat("0", 64), nil); code == api.CodeRateLimited {
			limited++
		}
	}
	if limited < 15 {
		t.Errorf("%d of 60 guesses were limited", limited)
	}
}
