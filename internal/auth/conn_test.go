package auth_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func tcp(t testing.TB, s string) net.Addr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", s)
	must(t, err)
	return a
}

func from(t testing.TB, remote string) context.Context {
	t.Helper()
	return auth.WithConn(t.Context(), tcp(t, remote), tcp(t, "203.0.113.1:443"))
}

// addr.remote is host:port in every event of a request, and addr.local is there.
func TestEventsOfARequestHaveBothEndsOfItsConnection(t *testing.T) {
	for name, tc := range map[string]struct {
		ctx           func(testing.TB) context.Context
		remote, local any
	}{
		"IPv4":             {func(t testing.TB) context.Context { return from(t, "192.0.2.7:4711") }, "192.0.2.7:4711", "203.0.113.1:443"},
		"IPv4 within IPv6": {func(t testing.TB) context.Context { return from(t, "[::ffff:192.0.2.7]:4711") }, "192.0.2.7:4711", "203.0.113.1:443"},
		"of somebody else": {func(t testing.TB) context.Context { return from(t, "192.0.2.8:4711") }, "192.0.2.7", nil},
		"not known":        {func(t testing.TB) context.Context { return t.Context() }, "192.0.2.7", nil},
		"unix socket": {func(t testing.TB) context.Context {
			unix := &net.UnixAddr{Name: "/run/x", Net: "unix"}
			return auth.WithConn(t.Context(), unix, unix)
		}, "192.0.2.7", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := authtest.New(t)
			f.AddUser(t, "alice", nil)
			before := len(f.DB.Events())
			_, pub := authtest.NewKey(t)
			_, err := f.Service.Login.Password(tc.ctx(t), api.LoginRequest{User: "alice", Password: authtest.Password, TLSPubKey: pub}, home)
			must(t, err)
			_, err = f.Service.Login.Password(tc.ctx(t), api.LoginRequest{User: "alice", Password: "wrong password", TLSPubKey: pub}, home)
			if err == nil {
				t.Fatal("a wrong password is right")
			}
			got := map[string][]any{}
			for _, e := range f.DB.Events()[before:] {
				got[e.Code] = []any{e.Fields["addr.remote"], e.Fields["addr.local"]}
			}
			ends := []any{tc.remote, tc.local}
			if d := cmp.Diff(map[string][]any{api.EventCodeCertCreate: ends, api.EventCodeUserLogin: ends, api.EventCodeUserLoginRefused: ends}, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// Row "audit injection": a stranger's text that looks like the field is left alone.
func TestOnlyTheAddressItselfGetsAPort(t *testing.T) {
	f := authtest.New(t)
	for _, user := range []string{
		`","addr.remote":"192.0.2.7`, `"addr.remote":"192.0.2.7"`, "x\r\n{\"addr.remote\":\"192.0.2.7\"}", "\x1b[31malice\x1b[0m", "\u2028\u202e",
	} {
		before := len(f.DB.Events())
		_, pub := authtest.NewKey(t)
		_, err := f.Service.Login.Password(from(t, "192.0.2.7:4711"), api.LoginRequest{User: user, Password: "wrong password", TLSPubKey: pub}, home)
		if !api.IsCode(err, api.CodeUnauthenticated) {
			t.Fatal(err)
		}
		events := f.DB.Events()[before:]
		if len(events) != 1 || events[0].User != user || events[0].Fields["addr.remote"] != "192.0.2.7:4711" {
			t.Errorf("%q: %+v", user, events)
		}
	}
}

// Nobody gets a certificate that the log does not know: it stands in the transaction
// of the login.
func TestACertificateIsInTheLogWithItsLogin(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", map[string][]string{api.TraitKubeGroups: {"g"}, api.TraitKubeUsers: {"u"}})
	before, commits := len(f.DB.Events()), f.DB.Commits()
	id, cert := f.Login(t, "alice")
	events := f.DB.Events()[before:]
	if len(events) != 2 || f.DB.Commits()-commits != 1 {
		t.Fatalf("%d events in %d transactions", len(events), f.DB.Commits()-commits)
	}
	ev := events[0]
	want := map[string]any{
		"cert_type": "user", "kind": api.SessionCLI, "sid": id.SessionID, "serial_number": cert.Leaf.SerialNumber.Text(16),
		"identity": map[string]any{
			"user": "alice", "roles": []any{"access"}, "kubernetes_groups": []any{"g"}, "kubernetes_users": []any{"u"},
			"teleport_cluster": authtest.ClusterName, "expires": cert.Leaf.NotAfter.UTC().Format(time.RFC3339),
		},
	}
	if d := cmp.Diff(want, ev.Fields); d != "" || ev.Event != api.EventCertCreate || ev.Code != api.EventCodeCertCreate || ev.User != "alice" {
		t.Errorf("%s %s %s: %s", ev.Event, ev.Code, ev.User, d)
	}
}
