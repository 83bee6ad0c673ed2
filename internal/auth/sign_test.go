package auth_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// sign asks as by for a certificate, and gives whom it names.
func sign(t *testing.T, f *authtest.Fixture, by auth.Actor, user string, ttl time.Duration) (pki.UserIdentity, *api.LoginResponse, error) {
	t.Helper()
	_, pub := authtest.NewKey(t)
	resp, err := f.Service.Login.Sign(t.Context(), by, api.SignRequest{User: user, TLSPubKey: pub, TTL: api.Duration(ttl)})
	if err != nil {
		return pki.UserIdentity{}, nil, err
	}
	block, _ := pem.Decode(resp.TLSCert)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	id, err := f.Authorities.VerifyUser([]*x509.Certificate{cert})
	must(t, err)
	if !cert.NotAfter.Equal(resp.Expires) {
		t.Errorf("the certificate ends %s, the session %s", cert.NotAfter, resp.Expires)
	}
	return id, resp, nil
}

func TestSignedCertificateLastsAsLongAsAskedAndRolesAllow(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "short", api.RoleSpec{Options: api.RoleOptions{MaxSessionTTL: api.Duration(2 * time.Hour)}})
	f.PutRole(t, "long", api.RoleSpec{Options: api.RoleOptions{MaxSessionTTL: api.Duration(100 * time.Hour)}})
	f.Invite(t, "ci", nil)
	f.Invite(t, "bounded", nil, "short", "long")
	f.Invite(t, "bot", nil, "long")
	for _, tc := range []struct {
		user      string
		ttl, want time.Duration
	}{
		{"ci", 0, 12 * time.Hour}, {"ci", 25 * time.Hour, 25 * time.Hour}, {"ci", api.MaxSignTTL, api.MaxSignTTL}, {"ci", time.Hour, time.Hour},
		{"bounded", 25 * time.Hour, 2 * time.Hour}, {"bounded", 0, 2 * time.Hour}, {"bot", 99 * time.Hour, 99 * time.Hour}, {"bot", api.MaxSignTTL, 100 * time.Hour},
	} {
		_, resp, err := sign(t, f, authtest.Admin(), tc.user, tc.ttl)
		must(t, err)
		if got := time.Until(resp.Expires).Round(time.Minute); got != tc.want {
			t.Errorf("%s asked for %s: %s, want %s", tc.user, tc.ttl, got, tc.want)
		}
	}
	for _, ttl := range []time.Duration{-time.Hour, time.Second, api.MaxSignTTL + time.Second} {
		if _, _, err := sign(t, f, authtest.Admin(), "ci", ttl); !api.IsCode(err, api.CodeInvalid) {
			t.Error(ttl, err)
		}
	}
}

// A user without a password is served, is listed, and is cut off by what cuts off others.
func TestSignedCertificateIsASessionLikeOthers(t *testing.T) {
	ends := map[string]func(t *testing.T, f *authtest.Fixture, id pki.UserIdentity, invite string){
		"ended": func(t *testing.T, f *authtest.Fixture, id pki.UserIdentity, _ string) {
			must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), id))
		},
		"the user deleted": func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity, _ string) {
			must(t, f.Users.Delete(t.Context(), authtest.Admin(), "ci"))
		},
		"the user deleted and made again": func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity, _ string) {
			must(t, f.Users.Delete(t.Context(), authtest.Admin(), "ci"))
			f.Invite(t, "ci", groups("deploy"))
		},
		"the user reset": func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity, _ string) {
			_, err := f.Users.Reset(t.Context(), authtest.Admin(), "ci", 0)
			must(t, err)
		},
		"a password set": func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity, invite string) { f.Redeem(t, invite) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			f := authtest.New(t)
			invite := f.Invite(t, "ci", groups("deploy"))
			id, resp, err := sign(t, f, authtest.Admin(), "ci", 25*time.Hour)
			must(t, err)
			if f.HasPassword("ci") {
				t.Fatal("there is a password")
			}
			if d := cmp.Diff([]string{"deploy"}, resp.KubeGroups); d != "" || resp.Username != "ci" || resp.SessionID != id.SessionID || resp.ClusterName != authtest.ClusterName || len(resp.HostSigners) == 0 {
				t.Errorf("%+v %s", resp, d)
			}
			d, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{})
			must(t, err)
			if d.ImpersonateUser != "ci" || !cmp.Equal(d.ImpersonateGroups, []string{"deploy", "system:authenticated"}) {
				t.Errorf("%+v", d)
			}
			if list := f.Sessions.List("ci"); len(list) != 1 || list[0].ID != id.SessionID || list[0].Kind != api.SessionSigned || list[0].Connector != "" {
				t.Errorf("%+v", list)
			}
			end(t, f, id, invite)
			if err := d.Watch(t.Context()); !saysSigned(err, name == "the user deleted") {
				t.Error("a stream goes on:", err)
			}
			if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); !saysSigned(err, name == "the user deleted") {
				t.Error("a request goes on:", err)
			}
			for _, e := range f.DB.Events() {
				if e.Event == api.EventUserLogout && e.Fields["kind"] != api.SessionSigned {
					t.Errorf("%+v", e)
				}
			}
		})
	}
}

// While the cluster is upgraded, replicas of a version that knows no
// kind signed take such a certificate for one of tsh login, and serve it.
func TestASignedSessionIsStoredAsOneThatOlderReplicasServe(t *testing.T) {
	f := authtest.New(t)
	f.Invite(t, "ci", groups("deploy"))
	id, _, err := sign(t, f, authtest.Admin(), "ci", time.Hour)
	must(t, err)
	rec, ok := f.DB.View().Get("sessions/ci/" + id.SessionID)
	if !ok {
		t.Fatal("no record")
	}
	var stored struct {
		ID, Kind, User string
	}
	must(t, json.Unmarshal(rec.Value, &stored))
	if stored.Kind != api.SessionCLI || stored.ID != id.SessionID || stored.User != "ci" {
		t.Errorf("%s", rec.Value)
	}
	if got, err := f.Sessions.Get(id); err != nil || got.Kind != api.SessionSigned {
		t.Errorf("%+v, %v", got, err)
	}
	// One that a version in between has stored is served, too.
	_, err = f.DB.Commit(t.Context(), auth.PutRaw("sessions/ci/"+id.SessionID, strings.Replace(string(rec.Value), `"kind":"cli"`, `"kind":"signed"`, 1)))
	must(t, err)
	if p, err := f.Access.Certificate(f.DB.View(), id); err != nil || p.Kind != api.SessionSigned {
		t.Errorf("%+v, %v", p, err)
	}
}

// R3-8: whoever has the kubeconfig has no password, and can't log in again. userGone: nor
// can one be signed before the user is there again.
func saysSigned(err error, userGone bool) bool {
	text := fmt.Sprint(err)
	return api.IsCode(err, api.CodeUnauthenticated) && !strings.Contains(text, "log in again") && strings.Contains(text, `this kubeconfig of user "ci" was made with 'tctl auth sign'`) &&
		strings.HasSuffix(text, "sign a new one: tctl auth sign --user=ci --out=FILE") && strings.Contains(text, "its user has been removed; an administrator can add the user again ('tctl users add ci') and") == userGone
}

func TestASignedCertificateThatHasExpiredSaysWhatItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.Invite(t, "ci", groups("deploy"))
		_, pub := authtest.NewKey(t)
		resp, err := f.Service.Login.Sign(t.Context(), authtest.Admin(), api.SignRequest{User: "ci", TLSPubKey: pub, TTL: api.Duration(time.Hour)})
		must(t, err)
		block, _ := pem.Decode(resp.TLSCert)
		cert, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		f.AddUser(t, "alice", nil)
		_, person := f.Login(t, "alice")
		<-time.After(31 * time.Hour)
		_, err = f.Authorities.VerifyUser([]*x509.Certificate{cert})
		if text := fmt.Sprint(err); !api.IsCode(err, api.CodeUnauthenticated) || !strings.Contains(text, "made with 'tctl auth sign', not by a tsh login, and expired on ") ||
			!strings.HasSuffix(text, "tctl auth sign --user=ci --out=FILE") || strings.Contains(text, "log in again") {
			t.Error(err)
		}
		if _, err := f.Authorities.VerifyUser([]*x509.Certificate{person.Leaf}); !strings.Contains(fmt.Sprint(err), "log in again: tsh login") {
			t.Error("a person:", err)
		}
	})
}

// The log says of which kind a certificate was whose session is over, though nothing is left of that.
func TestARefusalSaysWhichKindOfCertificateItWas(t *testing.T) {
	f := authtest.New(t)
	f.Invite(t, "ci", nil)
	signed, _, err := sign(t, f, authtest.Admin(), "ci", time.Hour)
	must(t, err)
	f.AddUser(t, "alice", nil)
	person, _ := f.Login(t, "alice")
	for kind, r := range map[string]auth.Refusal{
		api.SessionSigned: {User: "ci", SessionID: signed.SessionID}, api.SessionCLI: {User: "alice", SessionID: person.SessionID}, "": {Reason: "a stranger"},
	} {
		var told []api.Event
		auth.NewRefusals(auth.RefusalsOptions{Record: func(e api.Event) { told = append(told, e) }}).Add(r)
		if got, _ := told[0].Fields["kind"].(string); got != kind {
			t.Errorf("%+v, want kind %q", told, kind)
		}
	}
}

func TestSigningIsWrittenDown(t *testing.T) {
	f := authtest.New(t)
	f.Invite(t, "ci", groups("deploy"))
	before := len(f.DB.Events())
	id, resp, err := sign(t, f, authtest.Admin(), "ci", 25*time.Hour)
	must(t, err)
	events := f.DB.Events()[before:]
	if len(events) != 1 {
		t.Fatalf("%d events, want one: nobody logged in", len(events))
	}
	e := events[0]
	identity, _ := e.Fields["identity"].(map[string]any)
	if e.Event != api.EventCertCreate || e.Code != api.EventCodeCertCreate || e.User != auth.SocketUser || e.Fields["name"] != "ci" || e.Fields["ttl"] != "25h0m0s" ||
		e.Fields["sid"] != id.SessionID || e.Fields["kind"] != api.SessionSigned || identity["user"] != "ci" || identity["expires"] != resp.Expires.UTC().Format(time.RFC3339) {
		t.Errorf("%+v", e)
	}
	if got, want := e.Summary(), "Made a certificate for ci without a login, good until "; !strings.HasPrefix(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWhoMaySign(t *testing.T) {
	f := authtest.New(t)
	rule := func(resources, verbs string) api.RoleConditions {
		return api.RoleConditions{Rules: []api.Rule{{Resources: []string{resources}, Verbs: []string{verbs}}}}
	}
	f.PutRole(t, "signer", api.RoleSpec{Allow: rule(api.KindUser, api.VerbImpersonate)})
	f.PutRole(t, "all-kinds", api.RoleSpec{Allow: rule("*", api.VerbImpersonate)})
	f.PutRole(t, "all-verbs", api.RoleSpec{Allow: rule(api.KindUser, "*")})
	f.PutRole(t, "another-kind", api.RoleSpec{Allow: rule(api.KindRole, api.VerbImpersonate)})
	f.PutRole(t, "never", api.RoleSpec{Deny: rule("*", "*")})
	f.Invite(t, "ci", groups("deploy"))
	for _, tc := range []struct {
		name  string
		roles []string
		may   bool
	}{
		{"by the verb", []string{"signer"}, true},
		{"by the verb on all kinds", []string{"all-kinds"}, true},
		{"not by all verbs", []string{"all-verbs"}, false},
		{"not by the verb on another kind", []string{"another-kind"}, false},
		{"not as an admin", []string{"admin"}, false},
		{"not as an auditor", []string{"auditor"}, false},
		{"not if all verbs are denied", []string{"signer", "never"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			user := strings.ReplaceAll(tc.name, " ", "-")
			f.AddUser(t, user, nil, tc.roles...)
			id, _ := f.Login(t, user)
			by := auth.Actor{User: user, Addr: authtest.Client, Session: id}
			for _, name := range []string{"ci", "nobody"} { // who may not learns not who there is
				_, _, err := sign(t, f, by, name, time.Hour)
				want := api.CodeForbidden
				switch {
				case tc.may && name == "ci":
					want = ""
				case tc.may:
					want = api.CodeNotFound
				}
				if got := codeOf(err); got != want {
					t.Errorf("for %s: %q, want %q: %v", name, got, want, err)
				}
			}
			if e := lastEvent(f); tc.may && (e.User != user || e.Fields["name"] != "ci" || e.Fields["addr.remote"] != authtest.Client.String()) {
				t.Errorf("who signed is not in the log: %+v", e)
			}
		})
	}
}

func codeOf(err error) api.Code {
	if err == nil {
		return ""
	}
	return api.CodeOf(err)
}

func TestWhoCannotBeSignedFor(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	sso := f.SSOLogin(t, "github", authtest.GithubIdentity("1", "octocat", "octocats/admin"))
	f.Invite(t, "keyless", nil)
	f.PutRole(t, "gone", api.RoleSpec{})
	f.Invite(t, "roleless", nil, "gone")
	_, err := f.DB.Commit(t.Context(), auth.PutRaw("roles/gone", `{"kind":"role","version":"v9","from":"a newer version"}`))
	must(t, err)
	for _, tc := range []struct {
		user string
		code api.Code
		says string
	}{
		{"nobody", api.CodeNotFound, "tctl users add"},
		{sso.Identity.User, api.CodeInvalid, `comes from connector "github"`},
		{"", api.CodeInvalid, ""}, {"a/b", api.CodeInvalid, ""}, {"system:masters", api.CodeNotFound, ""},
		{"roleless", api.CodeForbidden, `role "gone"`},
	} {
		if _, _, err := sign(t, f, authtest.Admin(), tc.user, time.Hour); codeOf(err) != tc.code || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%q: %v", tc.user, err)
		}
	}
	for what, pub := range map[string][]byte{"none": nil, "none that is one": []byte("key")} {
		if _, err := f.Service.Login.Sign(t.Context(), authtest.Admin(), api.SignRequest{User: "keyless", TLSPubKey: pub}); codeOf(err) != api.CodeInvalid {
			t.Errorf("key: %s: %v", what, err)
		}
	}
}

// A pipeline signs every hour for 25 hours and never ends what it has signed: for three
// weeks each certificate lives to its end, and no more than those that overlap are kept.
func TestHourlySigningForWeeksEndsNoSessionEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.Invite(t, "ci", groups("deploy"))
		const life = 25 * time.Hour
		var living []pki.UserIdentity
		for hour := range 3 * 7 * 24 {
			id, _, err := sign(t, f, authtest.Admin(), "ci", life)
			must(t, err)
			living = append(living, id)
			if len(living) > int(life/time.Hour) {
				if _, err := f.Sessions.Get(living[0]); !api.IsCode(err, api.CodeUnauthenticated) {
					t.Fatalf("hour %d: the oldest has not ended: %v", hour, err)
				}
				living = living[1:]
			}
			for _, id := range []pki.UserIdentity{living[0], living[len(living)-1]} {
				if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); err != nil {
					t.Fatalf("hour %d: %v", hour, err)
				}
			}
			if n := len(f.Sessions.List("ci")); n != len(living) {
				t.Fatalf("hour %d: %d sessions, want %d", hour, n, len(living))
			}
			<-time.After(time.Hour)
		}
		for _, e := range f.DB.Events() {
			if e.Event == api.EventUserLogout {
				t.Fatalf("a session was ended early: %+v", e)
			}
		}
	})
}

func TestSigningEndsTheOldestOfTooManySessions(t *testing.T) {
	f := authtest.New(t)
	f.Invite(t, "ci", groups("deploy"))
	first, _, err := sign(t, f, authtest.Admin(), "ci", 0)
	must(t, err)
	for range 500 {
		_, _, err := sign(t, f, authtest.Admin(), "ci", 0)
		must(t, err)
	}
	if _, err := f.Sessions.Get(first); len(f.Sessions.List("ci")) != 500 || !api.IsCode(err, api.CodeUnauthenticated) {
		t.Errorf("%d sessions, the oldest: %v", len(f.Sessions.List("ci")), err)
	}
}
