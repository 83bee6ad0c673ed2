package authapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pquerna/otp/totp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func capDoc(mode string) string {
	return `{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"type":"local","second_factor":"` + mode + `"}}`
}

func TestPreferenceIsADocumentLikeOthers(t *testing.T) {
	s := newServer(t)
	read := func(path string) map[string]any {
		t.Helper()
		answer, code, msg := s.call(t, socket, "GET", api.PathResources+path, nil)
		if code != "" || len(answer["items"].([]any)) != 1 {
			t.Fatal(path, answer, msg)
		}
		return answer["items"].([]any)[0].(map[string]any)
	}
	for _, path := range []string{"/cluster_auth_preference", "/cluster_auth_preference/cluster-auth-preference"} {
		if got := read(path)["spec"].(map[string]any)["second_factor"]; got != "optional" {
			t.Error(path, got)
		}
	}
	if answer, code, msg := s.call(t, socket, "PUT", api.PathResources, capDoc("on")); code != "" || answer["kind"] != api.KindAuthPreference {
		t.Fatal("over the default, without force:", answer, msg)
	}
	if _, code, _ := s.call(t, socket, "PUT", api.PathResources, capDoc("off")); code != api.CodeExists {
		t.Error("over another, without force:", code)
	}
	if got := read("/cluster_auth_preference")["spec"].(map[string]any)["second_factor"]; got != "on" {
		t.Error(got)
	}
	for _, tc := range []struct {
		method, path string
		want         api.Code
	}{
		{"GET", "/cluster_auth_preference/other", api.CodeNotFound}, {"DELETE", "/cluster_auth_preference/other", api.CodeNotFound},
		{"DELETE", "/cluster_auth_preference/cluster-auth-preference", ""}, {"DELETE", "/cluster_auth_preference/cluster-auth-preference", api.CodeNotFound},
	} {
		if _, code, msg := s.call(t, socket, tc.method, api.PathResources+tc.path, nil); code != tc.want {
			t.Errorf("%s %s: %s %s", tc.method, tc.path, code, msg)
		}
	}
	if _, code, msg := s.call(t, socket, "GET", api.PathResources+"/gizmo", nil); code != api.CodeInvalid || !strings.Contains(msg, strings.Join(api.Kinds(), ", ")) {
		t.Error("the kinds are not named:", msg)
	}
	if _, _, msg := s.call(t, socket, "GET", api.PathResources+"/rolle", nil); !strings.Contains(msg, `did you mean "role"`) {
		t.Error(msg)
	}
}

func TestPreferenceThatPasskeysNeedIsDeletedWithForce(t *testing.T) {
	s := newServer(t)
	s.AddUser(t, "alice", nil)
	session := s.WebLogin(t, "alice").Identity
	doc := strings.Replace(capDoc("optional"), `"type":"local"`, `"type":"local","webauthn":{"rp_id":"example.com"}`, 1)
	if _, code, msg := s.call(t, socket, "PUT", api.PathResources, doc); code != "" {
		t.Fatal(msg)
	}
	s.AddPasskey(t, session, authtest.NewAuthenticator())
	for _, tc := range []struct {
		query string
		want  api.Code
	}{{"", api.CodeConflict}, {"?force=false", api.CodeConflict}, {"?force=perhaps", api.CodeInvalid}, {"?force=true", ""}} {
		if _, code, msg := s.call(t, socket, "DELETE", api.PathResources+"/cluster_auth_preference/cluster-auth-preference"+tc.query, nil); code != tc.want {
			t.Errorf("%q: %s %s", tc.query, code, msg)
		}
	}
}

func TestPreferenceAndResetsAreForThoseWhomRulesLet(t *testing.T) {
	s := newServer(t)
	rules := func(kind string, verbs ...string) api.RoleSpec {
		return api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: []string{kind}, Verbs: verbs}}}}
	}
	s.PutRole(t, "cap-reader", rules(api.KindAuthPreference, "list", "read"))
	s.PutRole(t, "cap-writer", rules(api.KindAuthPreference, "update", "delete"))
	s.PutRole(t, "helpdesk", rules(api.KindUser, "update"))
	s.AddUser(t, "victim", nil, "access")
	s.AddUser(t, "boss", nil, "admin")
	callers := map[string]authapi.Caller{"socket": socket, "stranger": stranger}
	for name, roles := range map[string][]string{
		"admin": {"admin"}, "plain": {"access"}, "reader": {"cap-reader"}, "writer": {"cap-writer"}, "helper": {"helpdesk", "access"},
	} {
		s.AddUser(t, name, nil, roles...)
		id, _ := s.Login(t, name)
		callers[name] = as(id)
	}
	for _, tc := range []struct{ method, path, body, allowed string }{
		{"GET", "/v1/resources/cluster_auth_preference", "", "socket admin reader"},
		{"GET", "/v1/resources/cluster_auth_preference/cluster-auth-preference", "", "socket admin reader"},
		{"PUT", "/v1/resources?force=true", capDoc("optional"), "socket admin writer"},
		{"DELETE", "/v1/resources/cluster_auth_preference/cluster-auth-preference", "", "socket admin writer"},
		{"POST", "/v1/users/reset", `{"user":"victim"}`, "socket admin helper"},
		// A reset's link is the user: it is not for who has less.
		{"POST", "/v1/users/reset", `{"user":"boss"}`, "socket admin"},
	} {
		for name, c := range callers {
			var body any
			if tc.body != "" {
				body = tc.body
			}
			_, code, msg := s.call(t, c, tc.method, tc.path, body)
			refused := code == api.CodeForbidden || code == api.CodeUnauthenticated
			if want := strings.Contains(" "+tc.allowed+" ", " "+name+" "); want == refused {
				t.Errorf("%s %s %s as %s: %q %s", tc.method, tc.path, tc.body, name, code, msg)
			}
		}
	}
}

func TestPingTellsThePolicyInForce(t *testing.T) {
	s := newServer(t)
	auth := func() map[string]any {
		t.Helper()
		answer, code, msg := s.call(t, stranger, "GET", api.PathPing, nil)
		if code != "" {
			t.Fatal(msg)
		}
		return answer["auth"].(map[string]any)
	}
	passkeys := map[string]any{"rp_id": authtest.ClusterName}
	want := map[string]any{"type": "local", "local": map[string]any{"name": "local"}, "second_factor": "optional", "default_session_ttl": "12h0m0s", "webauthn": passkeys}
	if d := cmp.Diff(want, auth()); d != "" {
		t.Error(d)
	}
	for _, mode := range []string{"on", "webauthn", "off"} {
		if _, code, msg := s.call(t, socket, "PUT", api.PathResources+"?force=true", capDoc(mode)); code != "" {
			t.Fatal(code, msg)
		}
		want["second_factor"], want["webauthn"] = mode, passkeys
		if mode == "off" {
			delete(want, "webauthn")
		}
		if d := cmp.Diff(want, auth()); d != "" {
			t.Error(d)
		}
	}
	// What a newer version wrote may demand more than a password.
	if _, err := s.DB.Commit(t.Context(), rawPreference(`{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"second_factor":"off","new":1}}`)); err != nil {
		t.Fatal(err)
	}
	if got := auth(); got["second_factor"] != "on" {
		t.Error(got)
	}
}

func TestResetAndRedeemWithAnAppOverHTTP(t *testing.T) {
	s := newServer(t)
	s.AddUser(t, "alice", nil)
	before, _ := s.Login(t, "alice")
	_, web := s.WebSession(t, "alice")
	answer, code, msg := s.call(t, socket, "POST", api.PathReset, api.ResetUserRequest{User: "alice"})
	if code != "" || answer["ttl"] != "8h0m0s" || !strings.HasPrefix(answer["reset_url"].(string), "https://"+authtest.PublicAddr+"/web/reset/") {
		t.Fatal(answer, msg)
	}
	for kind, c := range map[string]error{
		"certificate": second(s.Access.Certificate(s.DB.View(), before)), "cookie": second(s.Access.Cookie(s.DB.View(), web)),
	} {
		if !api.IsCode(c, api.CodeUnauthenticated) {
			t.Errorf("the %s goes on: %v", kind, c)
		}
	}
	if _, code, _ := s.call(t, socket, "POST", api.PathReset, api.ResetUserRequest{User: "nobody"}); code != api.CodeNotFound {
		t.Error(code)
	}
	if _, code, _ := s.call(t, socket, "POST", api.PathReset, api.ResetUserRequest{User: "alice", TTL: api.Duration(25 * time.Hour)}); code != api.CodeInvalid {
		t.Error(code)
	}
	if _, code, _ := s.call(t, socket, "PUT", api.PathResources, capDoc("on")); code != "" {
		t.Fatal(code)
	}
	link := answer["reset_url"].(string)
	token := link[strings.LastIndex(link, "/")+1:]
	redeem := authapi.RedeemRequest{Token: token, Password: []byte(authtest.Password)}
	if _, code, _ := s.call(t, stranger, "PUT", authapi.PathPasswordToken, redeem); code != api.CodeSecondFactor {
		t.Error("redeemed without a second factor where everyone needs one:", code)
	}
	offer, err := s.Invites.Offer(t.Context(), token, auth.Actor{})
	if err != nil {
		t.Fatal(err)
	}
	secret := offer.TOTPSecret
	redeem.State, redeem.SecondFactor, redeem.DeviceName = offer.State, "000000", "phone"
	if _, code, _ := s.call(t, stranger, "PUT", authapi.PathPasswordToken, redeem); code != api.CodeSecondFactor {
		t.Error("a wrong code:", code)
	}
	redeem.SecondFactor = totpCode(t, secret, 0)
	if answer, code, msg := s.call(t, stranger, "PUT", authapi.PathPasswordToken, redeem); code != "" || answer["user"] != "alice" {
		t.Fatal(code, msg)
	}
	if f := s.Factors.List("alice"); len(f) != 1 || f[0].Kind != api.FactorTOTP || f[0].Name != "phone" {
		t.Errorf("%+v", f)
	}
	_, pub := authtest.NewKey(t)
	login := api.LoginRequest{User: "alice", Password: authtest.Password, TLSPubKey: pub}
	if _, code, _ := s.call(t, stranger, "POST", api.PathLogin, login); code != api.CodeSecondFactor {
		t.Error("the password alone:", code)
	}
	login.OTPToken = redeem.SecondFactor
	if _, code, _ := s.call(t, stranger, "POST", api.PathLogin, login); code != api.CodeSecondFactor {
		t.Error("a code was used twice:", code)
	}
	login.OTPToken = totpCode(t, secret, 1)
	if _, code, msg := s.call(t, stranger, "POST", api.PathLogin, login); code != "" {
		t.Error(code, msg)
	}
}

// A cookie is for the pages: a call that a browser could be made to send with it
// would need what their forms have.
func TestCallsTakeNoCookie(t *testing.T) {
	s := newServer(t)
	s.AddUser(t, "alice", nil, "admin")
	cookie, _ := s.WebSession(t, "alice")
	with := func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "__Host-session", Value: cookie}) }
	for _, path := range []string{api.PathSession, api.PathSessions, api.PathResources + "/user", api.PathKube} {
		if _, code, msg := s.call(t, stranger, "GET", path, nil, with); code != api.CodeUnauthenticated {
			t.Errorf("%s: %s %s", path, code, msg)
		}
	}
	if _, code, _ := s.call(t, stranger, "PUT", "/webapi/users/password", map[string]string{}, with); code != api.CodeNotFound {
		t.Error(code)
	}
}

// rawPreference writes what no call of ours would.
func rawPreference(doc string) fsm.Txn {
	return fsm.Txn{Ops: []fsm.Op{fsm.Put("system/auth_preference", []byte(doc))}}
}

func second[T any](_ T, err error) error { return err }

func totpCode(t *testing.T, secret string, steps int) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, time.Now().Add(time.Duration(steps)*30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return code
}
