package authapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
)

func TestSessionsAreListedAndEndedByRulesAndOnesOwnAlways(t *testing.T) {
	s := newServer(t)
	s.PutRole(t, "no-sessions", api.RoleSpec{Deny: api.RoleConditions{Rules: []api.Rule{{Resources: []string{"session"}, Verbs: []string{"*"}}}}})
	callers := map[string]authapi.Caller{"socket": socket, "stranger": stranger}
	for name, roles := range map[string][]string{"admin": {"admin"}, "auditor": {"auditor"}, "alice": {"access"}, "denied": {"admin", "no-sessions"}} {
		s.AddUser(t, name, nil, roles...)
		id, _ := s.Login(t, name)
		callers[name] = as(id)
	}
	for _, tc := range []struct{ method, path, allowed string }{
		{"GET", "", "socket admin auditor alice denied"},
		{"GET", "?user=alice", "socket admin auditor alice"},
		{"GET", "?user=denied", "socket admin auditor denied"},
		{"DELETE", "/alice/" + strings.Repeat("0", 32), "socket admin alice"},
		{"DELETE", "/denied/" + strings.Repeat("0", 32), "socket admin denied"},
	} {
		for name, c := range callers {
			// What a proxy in front might say of somebody counts for nothing.
			lies := func(r *http.Request) {
				for _, h := range []string{"X-Remote-User", "X-Forwarded-User", "X-Remote-Group", "Authorization", "Impersonate-User"} {
					r.Header.Set(h, "admin")
				}
				r.Header.Set("X-Forwarded-For", "127.0.0.1")
			}
			_, code, msg := s.call(t, c, tc.method, api.PathSessions+tc.path, nil, lies)
			refused := code == api.CodeForbidden || code == api.CodeUnauthenticated
			if want := strings.Contains(" "+tc.allowed+" ", " "+name+" "); want == refused {
				t.Errorf("%s %s as %s: %q %s", tc.method, tc.path, name, code, msg)
			}
		}
	}
	if all, _, _ := s.call(t, callers["auditor"], "GET", api.PathSessions, nil); len(all["sessions"].([]any)) != 4 {
		t.Error(all)
	}
	for _, who := range []string{"alice", "denied"} { // who may not see all sees the own
		own, _, _ := s.call(t, callers[who], "GET", api.PathSessions, nil)
		if list := own["sessions"].([]any); len(list) != 1 || list[0].(map[string]any)["user"] != who {
			t.Error(own)
		}
	}
	answer, _, _ := s.call(t, callers["alice"], "GET", api.PathSessions+"?user=alice", nil)
	list := answer["sessions"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["user"] != "alice" {
		t.Fatal(answer)
	}
	for _, field := range []string{"user_created", "password_revision", "traits"} {
		if _, leak := list[0].(map[string]any)[field]; leak {
			t.Errorf("a session shows %s", field)
		}
	}
	if answer, _, _ := s.call(t, socket, "GET", api.PathSessions+"?user=nobody", nil); len(answer["sessions"].([]any)) != 0 {
		t.Error(answer)
	}
	id := list[0].(map[string]any)["id"].(string)
	if _, code, msg := s.call(t, callers["admin"], "DELETE", api.PathSessions+"/alice/"+id, nil); code != "" {
		t.Fatal(msg)
	}
	events := s.DB.Events()
	if e := events[len(events)-1]; e.Event != api.EventUserLogout || e.User != "admin" || e.Fields["name"] != "alice" || e.Fields["sid"] != id {
		t.Errorf("%+v", e)
	}
	if _, code, _ := s.call(t, callers["alice"], "GET", api.PathSession, nil); code != api.CodeUnauthenticated {
		t.Error("alice goes on:", code)
	}
	if _, code, _ := s.call(t, callers["alice"], "DELETE", api.PathSessions+"/alice/"+id, nil); code != api.CodeUnauthenticated {
		t.Error("who has no session ends others:", code)
	}
	for _, path := range []string{"/alice/%2e%2e", "/alice/x", "/%20/" + id, "/alice/" + id + "0"} {
		if _, code, _ := s.call(t, socket, "DELETE", api.PathSessions+path, nil); code == "" {
			t.Errorf("%s was taken", path)
		}
	}
}

func TestWebSessionIsNoCertificate(t *testing.T) {
	s := newServer(t)
	s.AddUser(t, "root", nil, "admin")
	_, web := s.WebSession(t, "root")
	for _, tc := range [][2]string{
		{"GET", api.PathSession}, {"DELETE", api.PathSession}, {"GET", api.PathSessions}, {"GET", api.PathResources + "/user"},
		{"GET", api.PathKube}, {"DELETE", api.PathSessions + "/root/" + web.SessionID},
	} {
		if _, code, _ := s.call(t, as(web), tc[0], tc[1], nil); code != api.CodeUnauthenticated {
			t.Errorf("%s %s: %s", tc[0], tc[1], code)
		}
	}
	if n := len(s.Sessions.List("root")); n != 1 {
		t.Error("the web session was ended through a certificate")
	}
}

func TestACertificateWhoseSessionIsOverIsToldOf(t *testing.T) {
	s := newServer(t)
	var told []auth.Actor
	s.h = authapi.New(authapi.Options{Auth: s.Service, DB: s.DB, Refused: func(_ context.Context, by auth.Actor, err error) {
		if !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error(err)
		}
		told = append(told, by)
	}})
	s.AddUser(t, "alice", nil)
	id, _ := s.Login(t, "alice")
	if _, code, msg := s.call(t, as(id), "DELETE", api.PathSession, nil); code != "" {
		t.Fatal(msg)
	}
	commits := s.DB.Commits()
	if _, code, msg := s.call(t, as(id), "GET", api.PathSession, nil); code != api.CodeUnauthenticated || !strings.Contains(msg, "tsh login") {
		t.Error(code, msg)
	}
	if len(told) != 1 || told[0].Session != id || told[0].User != "alice" {
		t.Errorf("%+v", told)
	}
	if _, code, _ := s.call(t, stranger, "GET", api.PathSession, nil); code != api.CodeUnauthenticated || len(told) != 1 {
		t.Error("somebody without a certificate is told of:", code, told)
	}
	if n := s.DB.Commits() - commits; n != 0 {
		t.Errorf("%d transactions", n)
	}
}
