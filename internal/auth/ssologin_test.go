package auth_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// tsh is a session of tsh for who has logged in on the web.
func tsh(t testing.TB, f *authtest.Fixture, web pki.UserIdentity, ttl time.Duration) (pki.UserIdentity, *api.LoginResponse) {
	t.Helper()
	_, pub := authtest.NewKey(t)
	resp, err := f.Service.Login.Issue(t.Context(), web, pub, ttl, home, func(fsm.View) (fsm.Txn, error) { return fsm.Txn{}, nil })
	must(t, err)
	return pki.UserIdentity{User: resp.Username, SessionID: resp.SessionID, ClusterName: resp.ClusterName}, resp
}

// eventJSON is an event as the log has it.
func eventJSON(t testing.TB, e api.Event) map[string]any {
	t.Helper()
	line, err := json.Marshal(e)
	must(t, err)
	if strings.ContainsAny(string(line), "\r\n\x1b") {
		t.Errorf("not one line: %q", line)
	}
	var out map[string]any
	must(t, json.Unmarshal(line, &out))
	return out
}

func TestSSOLoginMakesASessionOfTheMapping(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	made := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin", "octocats/devs"))
	id, err := auth.WebIdentity(made.Cookie, authtest.ClusterName)
	must(t, err)
	if id != made.Identity {
		t.Errorf("the cookie stands for %v, want %v", id, made.Identity)
	}
	p, err := f.Access.Cookie(f.DB.View(), id)
	must(t, err)
	if p.User != "alice" || p.Connector != "github" || !slices.Equal(p.RoleNames, []string{auth.RoleAccess}) {
		t.Errorf("%+v", p)
	}
	e := eventJSON(t, lastEvent(f))
	delete(e, "uid")
	delete(e, "time")
	delete(e, "expires")
	want := map[string]any{
		"event": "user.login", "code": "T1001I", "user": "alice", "cluster_name": authtest.ClusterName, "addr.remote": authtest.Client.String(),
		"method": "github", "connector": "github", "success": true, "sid": id.SessionID, "kind": "web", "roles": []any{"access"},
		"attributes": map[string]any{"octocats": []any{"admin", "devs"}}, "pinned": map[string]any{"octocats": float64(100)}, "ei": e["ei"],
	}
	if e["ei"] == nil {
		delete(want, "ei")
	}
	if d := cmp.Diff(want, e); d != "" {
		t.Error(d)
	}
	cli, resp := tsh(t, f, id, 0)
	if resp.Connector != "github" || !slices.Equal(resp.KubeGroups, []string{"system:masters"}) {
		t.Errorf("%+v", resp)
	}
	if e := lastEvent(f); e.Code != api.EventCodeSSOLogin || e.Fields["connector"] != "github" || e.Fields["web_sid"] != id.SessionID {
		t.Errorf("%+v", e)
	}
	d, err := f.Access.Kube(cli, authtest.KubeCluster, auth.KubeRequest{})
	must(t, err)
	if d.ImpersonateUser != "alice" || !slices.Contains(d.ImpersonateGroups, "system:masters") {
		t.Errorf("%s %q", d.ImpersonateUser, d.ImpersonateGroups)
	}
	users := f.Users.SSO()
	if len(users) != 1 || users[0].Name != "alice" || users[0].Connector != "github" || users[0].Kind != "github" || users[0].Subject != "42" || users[0].LastLogin.IsZero() {
		t.Errorf("%+v", users)
	}
	for _, s := range f.Sessions.List("alice") {
		if s.Connector != "github" || !slices.Equal(s.External["github_teams"], []string{"octocats/admin", "octocats/devs"}) {
			t.Errorf("%+v", s)
		}
	}
}

// The guide's failing login: page, terminal and audit line say the same.
func TestSSOLoginOfNobodysTeamIsRefusedAsInTheGuide(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	tool := newTool(t)
	tool.req.ConnectorID = "github"
	tool.start(t, f)
	st := f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = tool.id })
	_, err := f.SSO.Login(t.Context(), st, f.OpenConnector(t, "github"), authtest.GithubIdentity("7", "alice", "octocats/devs"), home)
	const want = `user "alice" does not belong to any teams configured in "github" connector`
	if !api.IsCode(err, api.CodeForbidden) || err.Error() != want {
		t.Fatal(err)
	}
	var guide map[string]any
	must(t, json.Unmarshal([]byte(`{"error":"user \"alice\" does not belong to any teams configured in \"github\" connector","method":"github","attributes":{"octocats":["devs"]}}`), &guide))
	guide["code"], guide["success"], guide["user"] = "T1001W", false, "alice"
	e := eventJSON(t, lastEvent(f))
	for field, value := range guide {
		if d := cmp.Diff(value, e[field]); d != "" {
			t.Errorf("%s: %s", field, d)
		}
	}
	if code, message := tool.failed(t, f); code != api.CodeForbidden || message != want {
		t.Error("the terminal is told:", code, message)
	}
	if _, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: home}); !api.IsCode(err, api.CodeConflict) || !strings.Contains(err.Error(), want) {
		t.Error("the page is told:", err)
	}
	if len(f.Users.SSO())+len(f.Sessions.List("")) != 0 {
		t.Error("a refusal left something behind")
	}
}

func TestSSOLoginRefusals(t *testing.T) {
	admin := func(edit ...func(*api.SSOIdentity)) *api.SSOIdentity {
		id := authtest.GithubIdentity("42", "alice", "octocats/admin")
		for _, fn := range edit {
			fn(id)
		}
		return id
	}
	named := func(name string) *api.SSOIdentity { return admin(func(id *api.SSOIdentity) { id.Username = name }) }
	for name, tc := range map[string]struct {
		before func(t *testing.T, f *authtest.Fixture)
		id     *api.SSOIdentity
		code   api.Code
		want   string
	}{
		"a local user has the name": {
			func(t *testing.T, f *authtest.Fixture) { f.AddUser(t, "alice", nil) },
			admin(), api.CodeConflict, `user "alice" exists already as a local user`,
		},
		"another identity has the name": {
			func(t *testing.T, f *authtest.Fixture) {
				f.SSOLogin(t, "github", authtest.GithubIdentity("41", "alice", "octocats/admin"))
			},
			admin(), api.CodeConflict, `another person from connector "github": ask an administrator to remove that user (tctl users rm alice)`,
		},
		"another connector has the name": {
			func(t *testing.T, f *authtest.Fixture) {
				f.PutConnector(t, authtest.OIDCConnector("dex"))
				f.SSOLogin(t, "dex", &api.SSOIdentity{Subject: "42", Username: "alice", Attributes: map[string][]string{"groups": {"admins"}}})
			},
			admin(), api.CodeConflict, `somebody from connector "dex"`,
		},
		"Kubernetes' own name":       {nil, named("System:admin"), api.CodeForbidden, "belong to Kubernetes"},
		"the socket's name":          {nil, named(auth.SocketUser), api.CodeForbidden, "belong to Kubernetes"},
		"no name":                    {nil, named(""), api.CodeForbidden, "no name"},
		"a path":                     {nil, named("../x"), api.CodeForbidden, "no name that a user can have"},
		"a confusable letter":        {nil, named("аlice"), api.CodeForbidden, "ASCII"},
		"a header":                   {nil, named("alice\r\nx: y"), api.CodeForbidden, "no name that a user can have"},
		"a comma":                    {nil, named("alice,bob"), api.CodeForbidden, "no name that a user can have"},
		"nobody":                     {nil, admin(func(id *api.SSOIdentity) { id.Subject = "" }), api.CodeForbidden, "does not say who this is"},
		"a subject without an end":   {nil, admin(func(id *api.SSOIdentity) { id.Subject = strings.Repeat("x", 1<<16) }), api.CodeForbidden, "does not say who this is"},
		"a subject that is no text":  {nil, admin(func(id *api.SSOIdentity) { id.Subject = "\xff" }), api.CodeForbidden, "does not say who this is"},
		"over at the provider":       {nil, admin(func(id *api.SSOIdentity) { id.Expires = time.Unix(1, 0) }), api.CodeForbidden, "log in there anew"},
		"over at this very moment":   {nil, admin(func(id *api.SSOIdentity) { id.Expires = time.Now() }), api.CodeForbidden, "log in there anew"},
		"an answer with a long name": {nil, admin(func(id *api.SSOIdentity) { id.UseOnce = strings.Repeat("x", 1<<16) }), api.CodeForbidden, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			f := authtest.New(t)
			f.PutConnector(t, authtest.GithubConnector("github"))
			if tc.before != nil {
				tc.before(t, f)
			}
			users, sessions := f.Users.SSO(), len(f.Sessions.List(""))
			_, err := f.SSO.Login(t.Context(), f.SSOState(t, "github"), f.OpenConnector(t, "github"), tc.id, office)
			if !api.IsCode(err, tc.code) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
			if e := lastEvent(f); e.Code != api.EventCodeSSOLoginRefused || e.Fields["error"] != err.Error() {
				t.Errorf("%+v", e)
			}
			if d := cmp.Diff(users, f.Users.SSO()); d != "" || len(f.Sessions.List("")) != sessions {
				t.Errorf("something was written: %s", d)
			}
		})
	}
}

// A role that went after the connector was saved is missing to everybody, and said.
func TestSSOLoginWithARoleThatIsNot(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "ops", api.RoleSpec{})
	f.PutConnector(t, authtest.OIDCConnector("dex", func(s *api.OIDCSpec) { s.ClaimsToRoles[0].Roles = []string{"ops"} }))
	_, err := f.DB.Commit(t.Context(), fsm.Txn{Ops: []fsm.Op{fsm.Delete("roles/ops")}})
	must(t, err)
	id := &api.SSOIdentity{Subject: "s", Username: "alice", Attributes: map[string][]string{"groups": {"admins"}}}
	_, err = f.SSO.Login(t.Context(), f.SSOState(t, "dex"), f.OpenConnector(t, "dex"), id, home)
	if !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), `role "ops" of user "alice" does not exist: ask an administrator to mend connector "dex"`) {
		t.Error(err)
	}
}

// What is good once is good once, on whichever replica (threats: OAuth code replay,
// SAML replay on another replica).
func TestSSOFlowAndAnswerAreUsedOnce(t *testing.T) {
	f := authtest.New(t)
	other := authtest.NewOn(t, f.DB) // another replica
	f.PutConnector(t, authtest.GithubConnector("github"))
	alice := authtest.GithubIdentity("42", "alice", "octocats/admin")
	alice.UseOnce, alice.UseUntil = "_assertion", time.Now().Add(5*time.Minute)
	st := f.SSOState(t, "github")
	open := f.OpenConnector(t, "github")
	if _, err := f.SSO.Login(t.Context(), st, open, alice, home); err != nil {
		t.Fatal(err)
	}
	fresh := *alice
	fresh.UseOnce = "_another"
	for name, replica := range map[string]*authtest.Fixture{"the same": f, "another": other} {
		if _, err := replica.SSO.Login(t.Context(), st, open, &fresh, home); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("the flow again, on %s replica: %v", name, err)
		}
		_, err := replica.SSO.Login(t.Context(), replica.SSOState(t, "github"), open, alice, home)
		if !api.IsCode(err, api.CodeUnauthenticated) || !strings.Contains(err.Error(), "used already") {
			t.Errorf("the answer in another flow, on %s replica: %v", name, err)
		}
	}
	if n := len(f.Sessions.List("alice")); n != 1 {
		t.Errorf("%d sessions", n)
	}
	events := len(f.DB.Events())
	for range 10 {
		_, _ = f.SSO.Login(t.Context(), st, open, &fresh, office)
	}
	if n := len(f.DB.Events()) - events; n != 1 {
		t.Errorf("ten replays wrote %d events", n)
	}
	f.PutConnector(t, authtest.OIDCConnector("dex"))
	id := &api.SSOIdentity{Subject: "s", Username: "bob", Attributes: map[string][]string{"groups": {"admins"}}, UseOnce: alice.UseOnce, UseUntil: alice.UseUntil}
	if _, err := f.SSO.Login(t.Context(), f.SSOState(t, "dex"), f.OpenConnector(t, "dex"), id, home); err != nil {
		t.Error("another provider may call its answers what it likes:", err)
	}
}

func TestSSOAnswerStaysUsedUntilItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.PutConnector(t, authtest.GithubConnector("github"))
		id := authtest.GithubIdentity("42", "alice", "octocats/admin")
		id.UseOnce, id.UseUntil = "_assertion", time.Now().Add(time.Hour)
		f.SSOLogin(t, "github", id)
		time.Sleep(time.Hour - time.Second) // in the bubble
		if _, err := f.SSO.Login(t.Context(), f.SSOState(t, "github"), f.OpenConnector(t, "github"), id, home); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error(err)
		}
	})
}

func TestSSOLoginFinishedByManyAtOnceMakesOneSession(t *testing.T) {
	f := authtest.New(t)
	other := authtest.NewOn(t, f.DB)
	f.PutConnector(t, authtest.GithubConnector("github"))
	st, open := f.SSOState(t, "github"), f.OpenConnector(t, "github")
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for i := range 50 {
		wg.Go(func() {
			_, err := []*authtest.Fixture{f, other}[i%2].SSO.Login(t.Context(), st, open, authtest.GithubIdentity("42", "alice", "octocats/admin"), home)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if !api.IsCode(err, api.CodeUnauthenticated) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(f.Sessions.List("alice")); made != 1 || n != 1 {
		t.Errorf("%d succeeded, %d sessions", made, n)
	}
}

// The cookie of a login is worth something for who began it, here, for ten minutes
// (threats: OAuth state missing, foreign, altered).
func TestSSOStateOpensForWhatItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		st := auth.SSOState{
			Flow: json.RawMessage(`{"id":"x"}`), ID: strings.Repeat("ab", 32), Kind: api.KindOIDC, Connector: "dex",
			Next: "/web/account", Console: strings.Repeat("c", 32),
		}
		text, err := f.SSO.Seal(st)
		must(t, err)
		got, err := authtest.NewOn(t, f.DB).SSO.Open(text) // on another replica
		must(t, err)
		st.Expires = time.Now().Add(10 * time.Minute).UTC()
		got.Expires = got.Expires.UTC()
		if d := cmp.Diff(&st, got); d != "" {
			t.Error(d)
		}
		f.AddUser(t, "alice", nil)
		c, err := f.Service.Login.Begin(t.Context(), "alice", authtest.Password, home)
		must(t, err)
		sealed, err := base64.RawURLEncoding.DecodeString(text)
		must(t, err)
		if strings.Contains(string(sealed), st.ID) {
			t.Error("the cookie is not sealed")
		}
		sealed[len(sealed)/2] ^= 1
		foreign, err := authtest.New(t).SSO.Seal(st)
		must(t, err)
		for name, bad := range map[string]string{
			"nothing": "", "noise": "AAAA", "another purpose": c.State, "altered": base64.RawURLEncoding.EncodeToString(sealed), "cut": text[:len(text)-4],
			"another cluster's": foreign, "padded": text + "=", "with a line break": text + "\n", "long": strings.Repeat("A", 1<<20),
		} {
			if _, err := f.SSO.Open(bad); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := f.OpenLoginState(text); err == nil {
			t.Error("it passes for a login with a password")
		}
		time.Sleep(10 * time.Minute) // in the bubble
		if _, err := f.SSO.Open(text); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("after ten minutes:", err)
		}
		for name, half := range map[string]auth.SSOState{
			"no id": {Flow: st.Flow, Kind: st.Kind, Connector: "dex"}, "no connector": {Flow: st.Flow, ID: st.ID, Kind: st.Kind},
			"no flow": {ID: st.ID, Kind: st.Kind, Connector: "dex"}, "no kind": {Flow: st.Flow, ID: st.ID, Connector: "dex"},
		} {
			if _, err := f.SSO.Seal(half); err == nil {
				t.Errorf("%s is sealed", name)
			}
		}
		st.Next = "/" + strings.Repeat("x", 4000)
		if _, err := f.SSO.Seal(st); !api.IsCode(err, api.CodeInvalid) {
			t.Error("more than a cookie holds:", err)
		}
	})
}

func TestSSOStateIsForItsConnectorAndForNoTest(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	f.PutConnector(t, authtest.GithubConnector("ghe"))
	id := authtest.GithubIdentity("42", "alice", "octocats/admin")
	if _, err := f.SSO.Login(t.Context(), f.SSOState(t, "ghe"), f.OpenConnector(t, "github"), id, home); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a state of another connector (mix-up):", err)
	}
	events := len(f.DB.Events())
	test := f.SSOState(t, "github", func(st *auth.SSOState) { st.Test = "x" })
	if _, err := f.SSO.Login(t.Context(), test, f.OpenConnector(t, "github"), id, home); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a test logs somebody in:", err)
	}
	if n := len(f.DB.Events()) - events; n != 0 {
		t.Errorf("a test wrote %d events of a login", n)
	}
}

// FuzzSSOState: no text opens but ours, whatever is done to it.
func FuzzSSOState(f *testing.F) {
	fix := authtest.New(f)
	fix.AddUser(f, "alice", nil)
	text, err := fix.SSO.Seal(auth.SSOState{Flow: json.RawMessage(`{}`), ID: "ab", Kind: api.KindSAML, Connector: "okta"})
	must(f, err)
	login := begin(f, fix, "alice", home).State
	for _, seed := range []string{"", "A", "AAAA", "====", text, text[:10], text + "A", text + "\n", text + "=", strings.ToUpper(text), login, strings.Repeat("A", 1<<13)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := fix.SSO.Open(s); (err == nil) != (s == text) || err != nil && !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("%.80q: %v", s, err)
		}
	})
}

// The connector by which somebody was identified is the one that logs them in.
func TestSSOLoginWhileTheConnectorChanges(t *testing.T) {
	alice := authtest.GithubIdentity("42", "alice", "octocats/admin")
	for name, tc := range map[string]struct {
		meanwhile func(t *testing.T, f *authtest.Fixture)
		code      api.Code
	}{
		"removed": {func(t *testing.T, f *authtest.Fixture) {
			must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
		}, api.CodeForbidden},
		"made anew": {func(t *testing.T, f *authtest.Fixture) {
			must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
			f.PutConnector(t, authtest.GithubConnector("github"))
		}, api.CodeForbidden},
		"another mapping": {func(t *testing.T, f *authtest.Fixture) {
			f.PutConnector(t, authtest.GithubConnector("github", func(s *api.GithubSpec) { s.TeamsToLogins[0].Team = "owners" }))
		}, api.CodeConflict},
		"another secret": {func(t *testing.T, f *authtest.Fixture) {
			f.PutConnector(t, authtest.GithubConnector("github", func(s *api.GithubSpec) { s.ClientSecret = "leaked no more" }))
		}, api.CodeConflict},
		"it learns who octocats are": {func(t *testing.T, f *authtest.Fixture) {
			f.SSOLogin(t, "github", authtest.GithubIdentity("43", "bob", "octocats/admin"))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for when, run := range map[string]func(f *authtest.Fixture, fn func()){
				"before": func(_ *authtest.Fixture, fn func()) { fn() },
				"within": func(f *authtest.Fixture, fn func()) { f.DB.BeforeCommit(fn) },
				// Nothing is left to learn of it, so the login writes to other records alone.
				"within, known": func(f *authtest.Fixture, fn func()) { f.DB.BeforeCommit(fn) },
			} {
				f := authtest.New(t)
				f.PutConnector(t, authtest.GithubConnector("github"))
				if when == "within, known" {
					f.SSOLogin(t, "github", authtest.GithubIdentity("41", "zoe", "octocats/admin"))
				}
				st, open := f.SSOState(t, "github"), f.OpenConnector(t, "github")
				run(f, func() { tc.meanwhile(t, f) })
				_, err := f.SSO.Login(t.Context(), st, open, alice, home)
				if api.CodeOf(err) != tc.code {
					t.Errorf("%s: %v", when, err)
				}
			}
		})
	}
}

func TestSSOSessionEndsWhenTheProviderSaysSo(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	id := authtest.GithubIdentity("42", "alice", "octocats/admin")
	id.Expires = time.Now().Add(time.Hour)
	made := f.SSOLogin(t, "github", id)
	if left := time.Until(made.Expires); left > time.Hour || left < time.Hour-time.Minute {
		t.Errorf("the web session lasts %s", left)
	}
	_, resp := tsh(t, f, made.Identity, 10*time.Hour)
	if left := time.Until(resp.Expires); left > time.Hour || left < time.Hour-time.Minute {
		t.Errorf("tsh's session lasts %s", left)
	}
	f.PutRole(t, "brief", api.RoleSpec{Options: api.RoleOptions{MaxSessionTTL: api.Duration(30 * time.Minute)}})
	f.PutConnector(t, authtest.OIDCConnector("dex", func(s *api.OIDCSpec) { s.ClaimsToRoles[0].Roles = []string{"brief"} }))
	made = f.SSOLogin(t, "dex", &api.SSOIdentity{
		Subject: "s", Username: "bob", Attributes: map[string][]string{"groups": {"admins"}}, Expires: time.Now().Add(time.Hour),
	})
	if left := time.Until(made.Expires); left > 30*time.Minute {
		t.Errorf("the role's time is passed over: %s", left)
	}
}

// Hostile attributes make one line of the log, which says that it was cut (threats:
// audit injection).
func TestSSOLoginTellsOfAttributesInOneBoundedLine(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.OIDCConnector("dex"))
	id := &api.SSOIdentity{Subject: "s", Username: "alice", Attributes: map[string][]string{
		"groups": {"admins", "a\r\n{\"event\":\"user.login\"}", "\x1b[31m", "\"", "\xff"}, "zz": {strings.Repeat("\x00", 4000)},
	}}
	for i := range 90 {
		id.Attributes[fmt.Sprintf("name%d", i)] = []string{strings.Repeat("v", 200)}
	}
	f.SSOLogin(t, "dex", id)
	e := eventJSON(t, lastEvent(f))
	told, err := json.Marshal(e["attributes"])
	must(t, err)
	if e["attributes_cut"] != true || len(told) > 8<<10 || len(told) < 7<<10 {
		t.Errorf("%d bytes, cut: %v", len(told), e["attributes_cut"])
	}
	small := &api.SSOIdentity{Subject: "t", Username: "bob", Attributes: map[string][]string{"groups": {"admins"}}}
	f.SSOLogin(t, "dex", small)
	if e := lastEvent(f); e.Fields["attributes_cut"] != nil {
		t.Error("a small one is cut")
	}
}

// Our own faults are in our own log, and nowhere else.
func TestSSOFailureOfOursTellsNoDetails(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	f.SSO.Fail(t.Context(), f.SSOState(t, "github"), nil, fmt.Errorf("secret internals"), home)
	if e := lastEvent(f); strings.Contains(fmt.Sprint(e.Fields), "secret internals") {
		t.Errorf("%+v", e)
	}
}

// A page that is loaded again after the login, whatever comes of that, does not end
// what tsh waits for.
func TestSSOCallbackLoadedAgainHarmsNothing(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	tool := newTool(t)
	tool.req.ConnectorID = "github"
	tool.start(t, f)
	st := f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = tool.id })
	alice := authtest.GithubIdentity("42", "alice", "octocats/admin")
	made, err := f.SSO.Login(t.Context(), st, f.OpenConnector(t, "github"), alice, home)
	must(t, err)
	if _, err := f.SSO.Login(t.Context(), st, f.OpenConnector(t, "github"), alice, home); err == nil {
		t.Error("used twice")
	}
	f.SSO.Fail(t.Context(), st, nil, api.Errorf(api.CodeForbidden, "the code was used already"), home)
	resp, err := tool.redeem(t, f, tool.approve(t, f, made.Identity))
	must(t, err)
	if resp.Username != "alice" || resp.Connector != "github" {
		t.Errorf("%+v", resp)
	}
}

// The terminal learns of a failure even if the browser went away in the middle.
func TestSSOFailureReachesTheTerminalWithoutTheBrowser(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	tool := newTool(t).by("github").start(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.SSO.Fail(ctx, f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = tool.id }), nil, api.Errorf(api.CodeUnavailable, "GitHub does not answer"), home)
	if code, message := tool.failed(t, f); code != api.CodeUnavailable || message != "GitHub does not answer" {
		t.Error(code, message)
	}
}

// What is no word about the login is for the page alone: neither log nor terminal hear
// that the provider, or we, had refused, and the flow is as good as before.
func TestSSOLoginOutlivesOurOwnFaults(t *testing.T) {
	for name, fault := range map[string]error{
		"no leader":        api.Errorf(api.CodeUnavailable, "no leader"),
		"nobody knows":     api.Errorf(api.CodeAmbiguous, "it may have been written"),
		"a bug":            fmt.Errorf("something broke"),
		"others are first": api.Errorf(api.CodeConflict, "%w", &fsm.ConflictError{}),
	} {
		t.Run(name, func(t *testing.T) {
			f := authtest.New(t)
			f.PutConnector(t, authtest.GithubConnector("github"))
			tool := newTool(t)
			tool.req.ConnectorID = "github"
			tool.start(t, f)
			st, open := f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = tool.id }), f.OpenConnector(t, "github")
			alice := authtest.GithubIdentity("42", "alice", "octocats/admin")
			events := len(f.DB.Events())
			if !api.IsCode(fault, api.CodeConflict) { // what is committed after it finds a leader
				f.DB.BeforeCommit(func() { f.DB.BeforeCommit(func() { f.DB.Fail(nil) }) })
			}
			f.DB.Fail(fault)
			_, err := f.SSO.Login(t.Context(), st, open, alice, home)
			f.DB.BeforeCommit(nil)
			f.DB.Fail(nil)
			if err == nil || auth.Judged(err) {
				t.Errorf("%v", err)
			}
			if n := len(f.DB.Events()) - events; n != 0 {
				t.Errorf("%d events", n)
			}
			if _, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: home}); err != nil {
				t.Error("the terminal's login is over:", err)
			}
			if _, err := f.SSO.Login(t.Context(), st, open, alice, home); err != nil {
				t.Error("the flow is lost:", err)
			}
		})
	}
}

// An identity provider that wants its answers to be good for ever gets no more of the
// store than another.
func TestSSOAnswerWithoutAnEndIsUsedOnce(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	id := authtest.GithubIdentity("42", "alice", "octocats/admin")
	id.UseOnce, id.UseUntil = "_assertion", time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	f.SSOLogin(t, "github", id)
	if _, err := f.SSO.Login(t.Context(), f.SSOState(t, "github"), f.OpenConnector(t, "github"), id, home); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
	kept := 0
	for rec := range f.DB.View().List("used/answer-") {
		kept++
		if left := time.Until(rec.Expires); left < 23*time.Hour || left > 25*time.Hour {
			t.Errorf("it is kept for %s", left)
		}
	}
	if kept != 1 {
		t.Errorf("%d are kept", kept)
	}
}

// Whom the name of an organization stands for is a decision, which the log tells.
func TestSSOLoginTellsWhatItPinned(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
	if d := cmp.Diff(map[string]any{"octocats": float64(100)}, eventJSON(t, lastEvent(f))["pinned"]); d != "" {
		t.Error(d)
	}
	f.SSOLogin(t, "github", authtest.GithubIdentity("43", "bob", "octocats/admin"))
	if e := lastEvent(f); e.Fields["pinned"] != nil {
		t.Errorf("it is pinned already: %+v", e)
	}
}
