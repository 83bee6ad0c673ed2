package auth_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

func TestCookiesAndCertificatesStandForTheirOwnKindAlone(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("dev"))
	cli, _ := f.Login(t, "alice")
	_, web := f.WebSession(t, "alice")
	v := f.DB.View()
	if _, err := f.Access.Certificate(v, cli); err != nil {
		t.Error(err)
	}
	if _, err := f.Access.Cookie(v, web); err != nil {
		t.Error(err)
	}
	if _, err := f.Access.Certificate(v, web); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a certificate with a web session's id:", err)
	}
	if _, err := f.Access.Cookie(v, cli); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a cookie with a certificate's session:", err)
	}
	if _, err := f.Access.Kube(web, authtest.KubeCluster, auth.KubeRequest{}); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("kubectl with a web session's id:", err)
	}
	unknown := strings.Repeat("ab", 16)
	for _, kind := range []string{"", "newer"} {
		_, err := f.DB.Commit(t.Context(), auth.PutRaw("sessions/alice/"+unknown,
			`{"id":"`+unknown+`","kind":"`+kind+`","user":"alice","created":"2020-01-01T00:00:00Z","expires":"2999-01-01T00:00:00Z"}`))
		must(t, err)
		id := pki.UserIdentity{User: "alice", SessionID: unknown, ClusterName: authtest.ClusterName}
		if _, err := f.Access.Certificate(f.DB.View(), id); err == nil {
			t.Errorf("kind %q is taken for a certificate's", kind)
		}
		if _, err := f.Access.Cookie(f.DB.View(), id); err == nil {
			t.Errorf("kind %q is taken for a cookie's", kind)
		}
	}
}

func TestTheStoreHoldsNoCookie(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	cookie, _ := f.WebSession(t, "alice")
	_, token, _ := strings.Cut(cookie, ".")
	for rec := range f.DB.View().List("") {
		if strings.Contains(rec.Key+string(rec.Value), token) {
			t.Errorf("%s holds the cookie's token", rec.Key)
		}
	}
}

func TestSessionsOfAllUsersAndWhoEndedThem(t *testing.T) {
	f := authtest.New(t)
	for _, name := range []string{"bob", "alice", "al"} {
		f.AddUser(t, name, nil)
	}
	first, _ := f.Login(t, "bob")
	second, _ := f.Login(t, "alice")
	_, third := f.WebSession(t, "bob")
	ids := func(user string) (out []string) {
		for _, s := range f.Sessions.List(user) {
			out = append(out, s.User+" "+s.Kind+" "+s.ID)
		}
		return out
	}
	all := []string{"bob cli " + first.SessionID, "alice cli " + second.SessionID, "bob web " + third.SessionID}
	if d := cmp.Diff(all, ids("")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{all[0], all[2]}, ids("bob")); d != "" {
		t.Error(d)
	}
	if got := ids("al"); len(got) != 0 {
		t.Error("al has alice's:", got)
	}
	by := auth.Actor{User: "carol", Addr: home}
	must(t, f.Sessions.Delete(t.Context(), by, third))
	e := lastEvent(f)
	want := map[string]any{"name": "bob", "sid": third.SessionID, "kind": api.SessionWeb, "addr.remote": home.String()}
	if d := cmp.Diff(want, e.Fields); d != "" || e.Event != api.EventUserLogout || e.Code != api.EventCodeUserLogout || e.User != "carol" {
		t.Errorf("%+v %s", e, d)
	}
	commits := f.DB.Commits()
	must(t, f.Sessions.Delete(t.Context(), by, third))
	if f.DB.Commits() != commits {
		t.Error("ending what has ended writes")
	}
	for _, id := range []pki.UserIdentity{{}, {User: "bob"}, {User: "bob", SessionID: "../alice"}, {User: "bob/", SessionID: first.SessionID}} {
		if err := f.Sessions.Delete(t.Context(), by, id); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%+v: %v", id, err)
		}
	}
}

func TestOtherSessionsEndTogether(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.AddUser(t, "alice2", nil)
	other, _ := f.Login(t, "alice2")
	f.Login(t, "alice")
	_, keep := f.WebSession(t, "alice")
	f.WebSession(t, "alice")
	commits, events := f.DB.Commits(), len(f.DB.Events())
	must(t, f.Sessions.DeleteOthers(t.Context(), auth.Actor{User: "alice"}, keep))
	if left := f.Sessions.List("alice"); len(left) != 1 || left[0].ID != keep.SessionID {
		t.Error(left)
	}
	if _, err := f.Sessions.Get(other); err != nil {
		t.Error(err)
	}
	if f.DB.Commits()-commits != 1 || len(f.DB.Events())-events != 2 {
		t.Errorf("%d transactions, %d events", f.DB.Commits()-commits, len(f.DB.Events())-events)
	}
	must(t, f.Sessions.DeleteOthers(t.Context(), auth.Actor{User: "alice"}, keep))
	if f.DB.Commits()-commits != 1 {
		t.Error("ending nothing writes")
	}
	if err := f.Sessions.DeleteOthers(t.Context(), auth.Actor{}, pki.UserIdentity{}); !api.IsCode(err, api.CodeInvalid) {
		t.Error(err)
	}
}

func FuzzWebIdentity(f *testing.F) {
	token := strings.Repeat("0123456789abcdef", 4)
	user := base64.RawURLEncoding.EncodeToString([]byte("alice"))
	for _, seed := range []string{
		user + "." + token, "." + token, user + ".", user, "", user + "." + strings.ToUpper(token), user + "." + token + "00",
		user + "=." + token, base64.RawURLEncoding.EncodeToString([]byte("a/b")) + "." + token, "YR." + token, strings.Repeat("A", 600) + "." + token,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, cookie string) {
		id, err := auth.WebIdentity(cookie, authtest.ClusterName)
		if err != nil {
			if !api.IsCode(err, api.CodeUnauthenticated) || id != (pki.UserIdentity{}) {
				t.Fatal(id, err)
			}
			return
		}
		if api.ValidateName(api.KindUser, id.User) != nil || !pki.ValidSessionID(id.SessionID) || id.ClusterName != authtest.ClusterName {
			t.Fatalf("%q: %+v", cookie, id)
		}
		// One cookie, one spelling.
		if want := base64.RawURLEncoding.EncodeToString([]byte(id.User)) + "."; !strings.HasPrefix(cookie, want) || len(cookie) != len(want)+64 {
			t.Fatalf("%q is another spelling of the cookie of %q", cookie, id.User)
		}
	})
}

func TestEndedSessionSaysWhatToPaste(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	id, _ := f.Login(t, "alice")
	must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), id))
	_, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{})
	if want := "; log in again: tsh login --proxy=" + authtest.PublicAddr + " --user=alice"; !api.IsCode(err, api.CodeUnauthenticated) || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want at its end %s", err, want)
	}
}
