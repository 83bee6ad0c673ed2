package auth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
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

// A session lives as long as its user and its connector do, and live streams with it.
func TestSSOSessionsEndWithUserAndConnector(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, f *authtest.Fixture){
		"tctl users rm": func(t *testing.T, f *authtest.Fixture) {
			must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
			if e := lastEvent(f); e.Code != api.EventCodeUserDelete || e.Fields["name"] != "alice" || e.Fields["connector"] != "github" {
				t.Errorf("%+v", e)
			}
		},
		"tctl rm github": func(t *testing.T, f *authtest.Fixture) {
			must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
		},
		"a user made anew": func(t *testing.T, f *authtest.Fixture) {
			must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
			time.Sleep(time.Second) // in the bubble
			f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
		},
		"a connector made anew": func(t *testing.T, f *authtest.Fixture) {
			must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
			time.Sleep(time.Second) // in the bubble
			f.PutConnector(t, authtest.GithubConnector("github"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := authtest.New(t)
				f.PutConnector(t, authtest.GithubConnector("github"))
				made := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
				cli, _ := tsh(t, f, made.Identity, 0)
				d, err := f.Access.Kube(cli, authtest.KubeCluster, auth.KubeRequest{})
				must(t, err)
				f.PutConnector(t, authtest.GithubConnector("github", func(s *api.GithubSpec) { s.Display = "GitHub" }))
				if _, err := f.Access.Cookie(f.DB.View(), made.Identity); err != nil {
					t.Error("a connector that is changed ends sessions:", err)
				}
				stream := make(chan error, 1)
				go func() { stream <- d.Watch(t.Context()) }()
				synctest.Wait()
				end(t, f)
				ended := func(what string, err error) {
					t.Helper()
					if !api.IsCode(err, api.CodeUnauthenticated) {
						t.Errorf("%s: %v", what, err)
					}
				}
				if err := <-stream; !api.IsCode(err, api.CodeUnauthenticated) || !strings.HasSuffix(err.Error(), "--auth=github") {
					t.Error("a stream:", err)
				}
				_, err = f.Access.Cookie(f.DB.View(), made.Identity)
				ended("the cookie", err)
				_, err = f.Access.Kube(cli, authtest.KubeCluster, auth.KubeRequest{})
				ended("kubectl", err)
				if !d.Stale() {
					t.Error("the decision is kept")
				}
			})
		})
	}
}

// Who ends a login by a connector is told how to log in again.
func TestSSOSessionThatEndedNamesTheConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.PutConnector(t, authtest.GithubConnector("github"))
		made := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
		cli, resp := tsh(t, f, made.Identity, time.Hour)
		d, err := f.Access.Kube(cli, authtest.KubeCluster, auth.KubeRequest{})
		must(t, err)
		err = d.Watch(t.Context())
		if time.Now().Before(resp.Expires) || !strings.HasSuffix(fmt.Sprint(err), "log in again: tsh login --proxy=tele.example.com:443 --auth=github") {
			t.Error(err)
		}
		if _, err := f.Access.Kube(cli, authtest.KubeCluster, auth.KubeRequest{}); !strings.HasSuffix(fmt.Sprint(err), "--auth=github") {
			t.Error(err)
		}
	})
}

func TestSSOGroupsChangeAtTheNextLogin(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github", func(s *api.GithubSpec) {
		s.TeamsToLogins = append(s.TeamsToLogins, api.TeamToLogins{Organization: "octocats", Team: "devs", KubernetesGroups: []string{"viewers"}})
	}))
	can := func(made *auth.WebSession) []string {
		t.Helper()
		cli, _ := tsh(t, f, made.Identity, 0)
		d, err := f.Access.Kube(cli, authtest.KubeCluster, auth.KubeRequest{})
		must(t, err)
		return slices.DeleteFunc(d.ImpersonateGroups, func(g string) bool { return g == "system:authenticated" })
	}
	first := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin", "octocats/devs"))
	if got := can(first); !slices.Equal(got, []string{"system:masters", "viewers"}) {
		t.Errorf("every row that matches applies: %q", got)
	}
	second := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/devs"))
	if got := can(second); !slices.Equal(got, []string{"viewers"}) {
		t.Errorf("after the provider took a group: %q", got)
	}
	if got := can(first); !slices.Equal(got, []string{"system:masters", "viewers"}) {
		t.Errorf("an older session changed: %q", got)
	}
	if _, err := f.SSO.Login(t.Context(), f.SSOState(t, "github"), f.OpenConnector(t, "github"), authtest.GithubIdentity("42", "alice"), home); !api.IsCode(err, api.CodeForbidden) {
		t.Error(err)
	}
}

// Nothing but connector and subject is who somebody is (threats: OIDC linking).
func TestSSOIdentitiesOfTwoConnectorsNeverMeet(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.OIDCConnector("dex"))
	f.PutConnector(t, authtest.OIDCConnector("okta"))
	same := func(name string) *api.SSOIdentity {
		return &api.SSOIdentity{Subject: "42", Username: name, Attributes: map[string][]string{"groups": {"admins"}, "email": {"alice@example.com"}}}
	}
	login := func(connector string, id *api.SSOIdentity) error {
		_, err := f.SSO.Login(t.Context(), f.SSOState(t, connector), f.OpenConnector(t, connector), id, home)
		return err
	}
	must(t, login("dex", same("alice@example.com")))
	if err := login("okta", same("alice@example.com")); !api.IsCode(err, api.CodeConflict) {
		t.Error("the same subject, e-mail and name by another connector:", err)
	}
	must(t, login("okta", same("alice2")))
	if err := login("dex", same("alice2")); !api.IsCode(err, api.CodeConflict) {
		t.Error("a name that another's subject has:", err)
	}
	must(t, login("dex", same("alice@example.com")))
	users := f.Users.SSO()
	if len(users) != 2 || users[0].Name != "alice2" || users[0].Connector != "okta" || users[1].Connector != "dex" {
		t.Errorf("%+v", users)
	}
	upper := same("Alice@example.com")
	upper.Subject = "43"
	must(t, login("dex", upper)) // names are compared as they are written: that is somebody else
	if n := len(f.Users.SSO()); n != 3 {
		t.Errorf("%d users", n)
	}
}

// Whoever comes after a connector that was removed under its name finds the names free.
func TestNamesOfAConnectorThatIsGoneAreFree(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	f.PutConnector(t, authtest.OIDCConnector("dex"))
	login := func(connector string, id *api.SSOIdentity) (*auth.WebSession, error) {
		t.Helper()
		return f.SSO.Login(t.Context(), f.SSOState(t, connector), f.OpenConnector(t, connector), id, home)
	}
	of := func(user string) *api.SSOIdentity {
		return &api.SSOIdentity{Subject: "dex-" + user, Username: user, Attributes: map[string][]string{"groups": {"admins"}}}
	}
	old := map[string]pki.UserIdentity{}
	for i, user := range []string{"alice", "bob", "carol"} {
		old[user] = f.SSOLogin(t, "github", authtest.GithubIdentity(fmt.Sprint(i), user, "octocats/admin")).Identity
	}
	if _, err := login("dex", of("alice")); !api.IsCode(err, api.CodeConflict) {
		t.Fatal("a name of a connector that is there:", err)
	}
	must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
	if n := len(f.Users.SSO()); n != 3 {
		t.Errorf("%d users", n)
	}
	now, err := f.SSO.Login(t.Context(), f.SSOState(t, "dex"), f.OpenConnector(t, "dex"), of("alice"), office)
	must(t, err)
	e := lastEvent(f)
	if d := cmp.Diff(map[string]any{"connector": "github", "subject": "0"}, e.Fields["replaces"]); e.Code != api.EventCodeSSOLogin || d != "" {
		t.Errorf("%+v %s", e, d)
	}
	if rec, ok := f.DB.View().Get("networks/alice"); !ok || strings.Contains(string(rec.Value), "192.0.2.") || !strings.Contains(string(rec.Value), "198.51.100.") {
		t.Errorf("networks of whom the name was: %+v", rec)
	}
	f.AddUser(t, "bob", nil)
	found := false
	for _, e := range f.DB.Events() {
		if e.Code == api.EventCodeUserCreate && e.Fields["name"] == "bob" {
			found = cmp.Diff(map[string]any{"connector": "github", "subject": "1"}, e.Fields["replaces"]) == ""
		}
	}
	if !found {
		t.Error("the event of the local user does not say whom it replaces")
	}
	if d := cmp.Diff([]string{"alice dex", "carol github"}, ssoUserNames(f)); d != "" {
		t.Error(d)
	}
	// The connector comes back: whose name was taken meanwhile is somebody else's, and
	// nobody wakes a session.
	f.PutConnector(t, authtest.GithubConnector("github"))
	for i, user := range []string{"alice", "bob", "carol"} {
		_, err := login("github", authtest.GithubIdentity(fmt.Sprint(i), user, "octocats/admin"))
		if want := user != "carol"; api.IsCode(err, api.CodeConflict) != want || (err == nil) == want {
			t.Errorf("%s: %v", user, err)
		}
		if _, err := f.Access.Cookie(f.DB.View(), old[user]); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("the old session of %s: %v", user, err)
		}
	}
	if e := lastEvent(f); e.User != "carol" || e.Fields["replaces"] != nil {
		t.Errorf("%+v", e)
	}
	if _, err := login("dex", of("carol")); !api.IsCode(err, api.CodeConflict) {
		t.Error("a name of a connector that was made anew:", err)
	}
	_, err = f.Access.Cookie(f.DB.View(), now.Identity)
	must(t, err)
}

// A connector that comes back while somebody takes a name of it keeps the name.
func TestNamesOfAConnectorThatComesBackAreTaken(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	f.PutConnector(t, authtest.OIDCConnector("dex"))
	for i, user := range []string{"alice", "bob"} {
		f.SSOLogin(t, "github", authtest.GithubIdentity(fmt.Sprint(i), user, "octocats/admin"))
	}
	must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
	state, open := f.SSOState(t, "dex"), f.OpenConnector(t, "dex")
	f.DB.BeforeCommit(func() { f.PutConnector(t, authtest.GithubConnector("github")) })
	id := &api.SSOIdentity{Subject: "1", Username: "alice", Attributes: map[string][]string{"groups": {"admins"}}}
	if _, err := f.SSO.Login(t.Context(), state, open, id, home); !api.IsCode(err, api.CodeConflict) {
		t.Error(err)
	}
	must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
	f.DB.BeforeCommit(func() { f.PutConnector(t, authtest.GithubConnector("github")) })
	if _, err := f.Users.Add(t.Context(), authtest.Admin(), api.AddUserRequest{User: authtest.User("bob", nil)}); !api.IsCode(err, api.CodeExists) {
		t.Error(err)
	}
}

func ssoUserNames(f *authtest.Fixture) []string {
	var names []string
	for _, u := range f.Users.SSO() {
		names = append(names, u.Name+" "+u.Connector)
	}
	return names
}

// A name that no local user has is none to log in with.
func TestEndedSessionNamesNoUserWhoIsNot(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	line := "; log in again: tsh login --proxy=" + authtest.PublicAddr
	said := func(id pki.UserIdentity) string {
		t.Helper()
		_, err := f.Access.Session(f.DB.View(), id)
		_, words, _ := strings.Cut(fmt.Sprint(err), "(expired, logged out or deleted)")
		return words
	}
	logIn := func() pki.UserIdentity {
		return f.SSOLogin(t, "github", authtest.GithubIdentity("42", "gus", "octocats/admin")).Identity
	}
	id := logIn()
	must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), id))
	if got := said(id); got != line+" --auth=github" {
		t.Errorf("the session is gone: %q", got)
	}
	id = logIn()
	f.SSOLogin(t, "github", authtest.GithubIdentity("42", "gus-smith", "octocats/admin"))
	if got := said(id); got != line {
		t.Errorf("renamed: %q", got)
	}
	id = logIn()
	must(t, f.Users.Delete(t.Context(), authtest.Admin(), "gus"))
	if got := said(id); got != line {
		t.Errorf("removed: %q", got)
	}
	f.AddUser(t, "hal", nil)
	local, _ := f.Login(t, "hal")
	must(t, f.Users.Delete(t.Context(), authtest.Admin(), "hal"))
	if got := said(local); got != line {
		t.Errorf("a local user who was removed: %q", got)
	}
}

func TestSSOUserWhoWasRenamedMoves(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	old := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
	now := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice-smith", "octocats/admin"))
	if e := lastEvent(f); e.User != "alice-smith" || e.Fields["renamed_from"] != "alice" {
		t.Errorf("%+v", e)
	}
	if _, err := f.Access.Cookie(f.DB.View(), old.Identity); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("the session under the old name lives:", err)
	}
	_, err := f.Access.Cookie(f.DB.View(), now.Identity)
	must(t, err)
	taker := f.SSOLogin(t, "github", authtest.GithubIdentity("43", "alice", "octocats/admin")) // somebody takes the name
	_, err = f.Access.Cookie(f.DB.View(), taker.Identity)
	must(t, err)
	if _, err := f.Access.Cookie(f.DB.View(), old.Identity); err == nil {
		t.Error("who takes a name wakes its sessions")
	}
	if _, err := f.SSO.Login(t.Context(), f.SSOState(t, "github"), f.OpenConnector(t, "github"), authtest.GithubIdentity("42", "alice", "octocats/admin"), home); !api.IsCode(err, api.CodeConflict) {
		t.Error("back to a name that another has:", err)
	}
	must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice-smith"))
	var names []string
	for _, u := range f.Users.SSO() {
		names = append(names, u.Name+"/"+u.Subject)
	}
	if d := cmp.Diff([]string{"alice/43"}, names); d != "" {
		t.Error(d)
	}
	f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice-smith", "octocats/admin")) // removed, not shut out
}

// What an identity provider calls its attributes gives nothing that a mapping gives.
func TestSSOAttributesAreNoInternalTraits(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "by-claim", api.RoleSpec{Allow: api.RoleConditions{
		KubernetesLabels: map[string]api.Values{"*": {"*"}}, KubernetesGroups: []string{"{{external.kubernetes_groups}}", "{{internal.groups}}", "all"},
	}})
	f.PutConnector(t, authtest.OIDCConnector("dex", func(s *api.OIDCSpec) {
		s.ClaimsToRoles = []api.ClaimToRole{
			{Claim: "groups", Value: "access", Roles: []string{auth.RoleAccess}},
			{Claim: "groups", Value: "claim", Roles: []string{"by-claim"}},
		}
	}))
	can := func(subject string, groups ...string) (*auth.Decision, error) {
		made := f.SSOLogin(t, "dex", &api.SSOIdentity{Subject: subject, Username: "u" + subject, Attributes: map[string][]string{
			"groups": groups, "kubernetes_groups": {"system:masters"}, "kubernetes_users": {"root"}, "internal": {"x"},
		}})
		cli, _ := tsh(t, f, made.Identity, 0)
		return f.Access.Kube(cli, authtest.KubeCluster, auth.KubeRequest{})
	}
	if d, err := can("1", "access"); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "neither kubernetes_groups nor kubernetes_users") {
		t.Errorf("an attribute named kubernetes_groups is taken for the trait: %+v, %v", d, err)
	}
	d, err := can("2", "claim")
	must(t, err)
	if want := []string{"all", "system:masters", "system:authenticated"}; !slices.Equal(d.ImpersonateGroups, want) {
		t.Errorf("%q, want %q", d.ImpersonateGroups, want)
	}
	if _, err := can("3", "access", "claim"); err != nil {
		t.Error(err)
	}
}

// A user's document fills both kinds of templates, as before.
func TestLocalTraitsFillBothKindsOfTemplates(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "both", api.RoleSpec{Allow: api.RoleConditions{
		KubernetesLabels: map[string]api.Values{"*": {"*"}}, KubernetesGroups: []string{"{{external.a}}", "{{internal.b}}"},
	}})
	f.AddUser(t, "alice", map[string][]string{"a": {"x"}, "b": {"y"}}, "both")
	id, _ := f.Login(t, "alice")
	d, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{})
	must(t, err)
	if !slices.Contains(d.ImpersonateGroups, "x") || !slices.Contains(d.ImpersonateGroups, "y") {
		t.Errorf("%q", d.ImpersonateGroups)
	}
}

// Who may write users can't give what an attribute of their own looks like.
func TestSSOUserGivesOnlyInternalTraitsOfTheirOwn(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "helpdesk", api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: []string{api.KindUser}, Verbs: []string{"*"}}}}})
	f.PutConnector(t, authtest.OIDCConnector("dex", func(s *api.OIDCSpec) { s.ClaimsToRoles[0].Roles = []string{auth.RoleAccess, "helpdesk"} }))
	made := f.SSOLogin(t, "dex", &api.SSOIdentity{Subject: "s", Username: "hd", Attributes: map[string][]string{
		"groups": {"admins"}, "kubernetes_groups": {"system:masters"},
	}})
	by := auth.Actor{User: "hd", Addr: home, Session: made.Identity}
	_, err := f.Users.Add(t.Context(), by, api.AddUserRequest{User: authtest.User("mallory", groups("system:masters"))})
	if !api.IsCode(err, api.CodeForbidden) {
		t.Error(err)
	}
	_, err = f.Users.Add(t.Context(), by, api.AddUserRequest{User: authtest.User("bob", nil)})
	must(t, err)
}

func TestSSOUsersHaveNothingOfLocalUsers(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	made := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
	ctx, by := t.Context(), authtest.Admin()
	from := auth.Actor{User: "alice", Addr: home}
	for name, call := range map[string]func() error{
		"reset":              func() error { _, err := f.Users.Reset(ctx, by, "alice", 0); return err },
		"password challenge": func() error { _, err := f.Users.PasswordChallenge(made.Identity); return err },
		"password": func() error {
			return f.Users.ChangePassword(ctx, made.Identity, authtest.Password, "another good password", auth.FactorAnswer{}, from)
		},
		"offer of a factor": func() error { _, err := f.Factors.Offer(made.Identity); return err },
		"a factor":          func() error { _, err := f.Factors.Add(ctx, made.Identity, auth.Enrolment{}, from); return err },
		"removal":           func() error { return f.Factors.Remove(ctx, made.Identity, "x", from) },
	} {
		if err := call(); !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), `user "alice" comes from connector "github": `) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(f.Factors.List("alice")); n != 0 {
		t.Errorf("%d factors", n)
	}
	_, err := f.Users.Add(ctx, by, api.AddUserRequest{User: authtest.User("alice", nil)})
	if !api.IsCode(err, api.CodeExists) || !strings.Contains(err.Error(), `from connector "github"`) {
		t.Error("a local user under the name:", err)
	}
	doc := authtest.User("alice", nil, auth.RoleAdmin)
	for _, force := range []bool{false, true} {
		if _, err := f.Users.Put(ctx, by, &doc, force); !api.IsCode(err, api.CodeExists) {
			t.Errorf("a document under the name, force %v: %v", force, err)
		}
	}
	if err := login(t, f, "alice", authtest.Password, home); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
}

// One of two who take a name at the same moment gets it.
func TestALocalUserAndAnSSOUserTakeANameAtOnce(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	f.DB.BeforeCommit(func() { f.Invite(t, "alice", nil) })
	_, err := f.SSO.Login(t.Context(), f.SSOState(t, "github"), f.OpenConnector(t, "github"), authtest.GithubIdentity("42", "alice", "octocats/admin"), home)
	if !api.IsCode(err, api.CodeConflict) || len(f.Users.SSO()) != 0 {
		t.Error(err)
	}
	f.DB.BeforeCommit(func() { f.SSOLogin(t, "github", authtest.GithubIdentity("43", "bob", "octocats/admin")) })
	if _, err := f.Users.Add(t.Context(), authtest.Admin(), api.AddUserRequest{User: authtest.User("bob", nil)}); !api.IsCode(err, api.CodeExists) {
		t.Error(err)
	}
}

// A certificate that is made while the user is removed is worth nothing.
func TestSSOUserRemovedWhileTshLogsIn(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	made := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
	tool := newTool(t).start(t, f)
	code := tool.approve(t, f, made.Identity)
	f.DB.BeforeCommit(func() { must(t, f.Users.Delete(context.Background(), authtest.Admin(), "alice")) })
	if _, err := tool.redeem(t, f, code); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
	if n := len(f.Sessions.List("")); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// A session that was made for an earlier life of its user, or of its connector, is
// worth nothing, even if it is still there.
func TestSSOSessionIsOfOneLife(t *testing.T) {
	for name, life := range map[string]string{"user": "user_created", "connector": "connector_created"} {
		f := authtest.New(t)
		f.PutConnector(t, authtest.GithubConnector("github"))
		made := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
		key := "sessions/alice/" + made.Identity.SessionID
		rec, _ := f.DB.View().Get(key)
		var doc map[string]any
		must(t, json.Unmarshal(rec.Value, &doc))
		doc[life] = "2020-01-01T00:00:00Z"
		raw, err := json.Marshal(doc)
		must(t, err)
		_, err = f.DB.Commit(t.Context(), auth.PutRaw(key, string(raw)))
		must(t, err)
		if _, err := f.Access.Cookie(f.DB.View(), made.Identity); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("of another %s: %v", name, err)
		}
	}
}

// No session of somebody else's, made by hand in the store, borrows a user.
func TestSSOSessionIsOfItsConnectorAlone(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	f.PutConnector(t, authtest.OIDCConnector("dex"))
	f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin"))
	id := strings.Repeat("ab", 16)
	_, err := f.DB.Commit(t.Context(), auth.PutRaw("sessions/alice/"+id, fmt.Sprintf(
		`{"id":%q,"kind":"cli","user":"alice","connector":"dex","roles":["admin"],"created":"2020-01-01T00:00:00Z","expires":"2999-01-01T00:00:00Z","user_created":%q}`,
		id, f.Users.SSO()[0].Created.Format(time.RFC3339Nano))))
	must(t, err)
	_, err = f.Access.Certificate(f.DB.View(), pki.UserIdentity{User: "alice", SessionID: id, ClusterName: authtest.ClusterName})
	if !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
}

// A replica of a version before connectors would take such a session for one that hangs
// on nothing but a password: there it is one of a password that no record has.
func TestSSOSessionsAreNoneToReplicasBeforeConnectors(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "bob", nil) // whose password has a revision
	f.PutConnector(t, authtest.GithubConnector("github"))
	web := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "alice", "octocats/admin")).Identity
	cli, _ := tsh(t, f, web, 0)
	for _, id := range []pki.UserIdentity{web, cli} {
		rec, ok := f.DB.View().Get("sessions/alice/" + id.SessionID)
		if !ok {
			t.Fatal("no session")
		}
		var before struct {
			PasswordRevision uint64 `json:"password_revision"`
			PasswordWithin   bool   `json:"password_within"`
		}
		must(t, json.Unmarshal(rec.Value, &before))
		if before.PasswordRevision < 1<<52 || before.PasswordWithin {
			t.Errorf("%+v", before)
		}
		if _, err := f.Access.Session(f.DB.View(), id); err != nil {
			t.Error("it ends here too:", err)
		}
	}
}
