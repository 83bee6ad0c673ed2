package client_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func TestAdminsListAndEndSessions(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "test")
	defer cl.Close()
	ctx := t.Context()
	if sessions, err := cl.Sessions(ctx, ""); err != nil || sessions == nil || len(sessions) != 0 {
		t.Fatalf("%#v, %v: want an empty list, which is no null as JSON", sessions, err)
	}
	now := time.Now()
	for i, id := range []string{"one", "two", "a/b?c"} {
		srv.AddSession(api.Session{ID: id, User: []string{"alice", "bob", "alice"}[i], Kind: api.SessionWeb, Created: now.Add(time.Duration(i) * time.Second)})
	}
	ids := func(user string) string {
		sessions, err := cl.Sessions(ctx, user)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range sessions {
			out = append(out, s.ID)
		}
		return strings.Join(out, " ")
	}
	if got := ids(""); got != "one two a/b?c" {
		t.Error(got)
	}
	if got := ids("alice"); got != "one a/b?c" {
		t.Error(got)
	}
	if got := ids("a&user=bob"); got != "" {
		t.Errorf("a name is no query: %s", got)
	}
	for _, id := range []string{"a/b?c", "a/b?c"} { // again is no error
		if err := cl.EndSession(ctx, "alice", id); err != nil {
			t.Error(err)
		}
	}
	if err := cl.EndSession(ctx, "alice", "two"); err != nil { // is bob's
		t.Error(err)
	}
	if got := ids(""); got != "one two" {
		t.Error(got)
	}
}

func TestAdminsResetUsers(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "test")
	defer cl.Close()
	resp, err := cl.ResetUser(t.Context(), &api.ResetUserRequest{User: "alice"})
	if err != nil || resp.User != "alice" || time.Duration(resp.TTL) != 8*time.Hour || !strings.Contains(resp.ResetURL, "/web/reset/") {
		t.Errorf("%+v, %v", resp, err)
	}
	if _, err := cl.ResetUser(t.Context(), &api.ResetUserRequest{User: "nobody"}); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
}

// TestRulesHoldForCertificates: the socket's caller may do everything, a
// certificate's what its user may.
func TestRulesHoldForCertificates(t *testing.T) {
	srv := start(t)
	for user, want := range map[string]api.Code{"root": "", "bob": api.CodeForbidden} {
		login, err := srv.LogIn(user, time.Hour, map[string]string{"root": "admin", "bob": "access"}[user])
		if err != nil {
			t.Fatal(err)
		}
		cl, err := client.NewAPI(srv.Addr, client.APIOptions{ClusterName: login.ClusterName, CertPEM: login.CertPEM, KeyPEM: login.KeyPEM, HostCAs: login.CAs})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if _, err := cl.Sessions(t.Context(), ""); api.CodeOf(err) != want {
			t.Errorf("%s: %v", user, err)
		}
		if _, err := cl.Status(t.Context()); api.CodeOf(err) != want {
			t.Errorf("%s: %v", user, err)
		}
	}
}
