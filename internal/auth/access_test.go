package auth_test

import (
	"context"
	"errors"
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

var everywhere = map[string]api.Values{"*": {"*"}}

func groups(names ...string) map[string][]string {
	return map[string][]string{api.TraitKubeGroups: names}
}

func TestKubeDecisions(t *testing.T) {
	f := authtest.New(t)
	ctx := t.Context()
	for _, k := range []api.KubeCluster{{Name: "prod", Labels: map[string]string{"env": "prod"}}, {Name: "dev", Labels: map[string]string{"env": "dev"}}} {
		if err := f.KubeClusters.Register(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	allow := func(env string, groups, users []string) api.RoleSpec {
		return api.RoleSpec{Allow: api.RoleConditions{KubernetesLabels: map[string]api.Values{"env": {env}}, KubernetesGroups: groups, KubernetesUsers: users}}
	}
	f.PutRole(t, "dev-admin", allow("dev", []string{"system:masters"}, nil))
	f.PutRole(t, "prod-view", allow("prod", []string{"viewers", "auditors"}, nil))
	f.PutRole(t, "prod-two-users", allow("prod", nil, []string{"bot-a", "bot-b"}))
	f.PutRole(t, "prod-one-user", allow("prod", []string{"viewers"}, []string{"bot-a"}))
	f.PutRole(t, "no-prod", api.RoleSpec{Deny: api.RoleConditions{KubernetesLabels: map[string]api.Values{"env": {"prod"}}}})
	f.PutRole(t, "no-auditors", api.RoleSpec{Deny: api.RoleConditions{KubernetesGroups: []string{"auditors"}}})
	f.PutRole(t, "no-groups", api.RoleSpec{Deny: api.RoleConditions{KubernetesGroups: []string{"*"}}})
	f.PutRole(t, "no-own-groups", api.RoleSpec{Deny: api.RoleConditions{KubernetesGroups: []string{"{{internal.kubernetes_groups}}"}}})
	f.PutRole(t, "no-bots", api.RoleSpec{Deny: api.RoleConditions{KubernetesUsers: []string{"bot-a"}}})
	f.PutRole(t, "not-u", api.RoleSpec{Deny: api.RoleConditions{KubernetesUsers: []string{"u"}}})
	f.PutRole(t, "no-users", api.RoleSpec{Deny: api.RoleConditions{KubernetesUsers: []string{"*"}}})
	f.PutRole(t, "nothing", api.RoleSpec{Allow: api.RoleConditions{KubernetesLabels: everywhere}})

	type want struct {
		user   string
		groups []string
		err    string
		code   api.Code
	}
	ok := func(user string, groups ...string) want {
		return want{user: user, groups: append(groups, "system:authenticated")}
	}
	hidden := want{err: "tsh kube ls", code: api.CodeNotFound}
	forbidden := func(text string) want { return want{err: text, code: api.CodeForbidden} }
	for _, tc := range []struct {
		name   string
		roles  []string
		traits map[string][]string
		kube   string
		req    auth.KubeRequest
		want   want
	}{
		{"access fills in traits", []string{"access"}, groups("b", "a"), "prod", auth.KubeRequest{}, ok("u", "a", "b")},
		{"admin is system:masters", []string{"admin"}, nil, "prod", auth.KubeRequest{}, ok("u", "system:masters")},
		{"no groups and no users", []string{"access"}, nil, "prod", auth.KubeRequest{}, forbidden("kubernetes_groups")},
		{"a role without either", []string{"nothing"}, groups("a"), "prod", auth.KubeRequest{}, forbidden("kubernetes_groups")},
		{"auditor reaches no cluster", []string{"auditor"}, groups("a"), "prod", auth.KubeRequest{}, hidden},
		{"labels choose", []string{"dev-admin"}, nil, "prod", auth.KubeRequest{}, hidden},
		{"a role's groups stay with its clusters", []string{"dev-admin", "prod-view"}, nil, "prod", auth.KubeRequest{}, ok("u", "auditors", "viewers")},
		{"and on its own cluster", []string{"dev-admin", "prod-view"}, nil, "dev", auth.KubeRequest{}, ok("u", "system:masters")},
		{"deny over allow", []string{"access", "no-prod"}, groups("a"), "prod", auth.KubeRequest{}, hidden},
		{"deny elsewhere", []string{"access", "no-prod"}, groups("a"), "dev", auth.KubeRequest{}, ok("u", "a")},
		{"a denied group", []string{"prod-view", "no-auditors"}, nil, "prod", auth.KubeRequest{}, ok("u", "viewers")},
		{"all groups denied", []string{"prod-view", "no-groups"}, nil, "prod", auth.KubeRequest{}, forbidden("kubernetes_groups")},
		{"denied by template", []string{"prod-view", "no-own-groups"}, groups("viewers"), "prod", auth.KubeRequest{}, ok("u", "auditors")},
		{"one user is used", []string{"prod-one-user"}, nil, "prod", auth.KubeRequest{}, ok("bot-a", "viewers")},
		{"several users need --as", []string{"prod-two-users"}, nil, "prod", auth.KubeRequest{}, forbidden("--as")},
		{"--as chooses", []string{"prod-two-users"}, nil, "prod", auth.KubeRequest{AsUser: "bot-b"}, ok("bot-b")},
		{"--as within the list only", []string{"prod-two-users"}, nil, "prod", auth.KubeRequest{AsUser: "system:admin"}, forbidden("allow.kubernetes_users")},
		{"the own name where all users are denied", []string{"prod-one-user", "no-bots"}, nil, "prod", auth.KubeRequest{}, ok("u", "viewers")},
		{"not if it is denied too", []string{"prod-one-user", "no-bots", "not-u"}, nil, "prod", auth.KubeRequest{}, forbidden("deny.kubernetes_users")},
		{"nor where it is the only one", []string{"prod-view", "not-u"}, nil, "prod", auth.KubeRequest{}, forbidden("deny.kubernetes_users")},
		{"nor with --as", []string{"prod-view", "not-u"}, nil, "prod", auth.KubeRequest{AsUser: "u"}, forbidden("deny.kubernetes_users")},
		{"nor where nobody may be anybody", []string{"prod-one-user", "no-users"}, nil, "prod", auth.KubeRequest{}, forbidden("deny.kubernetes_users")},
		{"--as the own name where no users are listed", []string{"prod-view"}, nil, "prod", auth.KubeRequest{AsUser: "u"}, ok("u", "auditors", "viewers")},
		{"--as another", []string{"prod-view"}, nil, "prod", auth.KubeRequest{AsUser: "root"}, forbidden("allow.kubernetes_users")},
		{"--as-group narrows", []string{"prod-view"}, nil, "prod", auth.KubeRequest{AsGroups: []string{"viewers", "viewers"}}, ok("u", "viewers")},
		{"--as-group system:authenticated", []string{"prod-view"}, nil, "prod", auth.KubeRequest{AsGroups: []string{"system:authenticated"}}, ok("u")},
		{"--as-group never widens", []string{"prod-view"}, nil, "prod", auth.KubeRequest{AsGroups: []string{"viewers", "system:masters"}}, forbidden("allow.kubernetes_groups")},
		{"--as-group of another cluster's role", []string{"dev-admin", "prod-view"}, nil, "prod", auth.KubeRequest{AsGroups: []string{"system:masters"}}, forbidden("allow.kubernetes_groups")},
		{"unknown cluster", []string{"access"}, groups("a"), "nope", auth.KubeRequest{}, want{err: "tsh kube ls", code: api.CodeNotFound}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := f.Users.Put(ctx, authtest.Admin(), ptr(authtest.User("u", tc.traits, tc.roles...)), true); err != nil {
				t.Fatal(err)
			}
			id := sessionOf(t, f, "u")
			d, err := f.Access.Kube(id, tc.kube, tc.req)
			if tc.want.err != "" {
				if !api.IsCode(err, tc.want.code) || !strings.Contains(err.Error(), tc.want.err) {
					t.Fatalf("%v %v, want %q", api.CodeOf(err), err, tc.want.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want.groups, d.ImpersonateGroups); diff != "" || d.ImpersonateUser != tc.want.user {
				t.Error(d.ImpersonateUser, diff)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// sessionOf logs a user in who may have no password yet.
func sessionOf(t *testing.T, f *authtest.Fixture, name string) pki.UserIdentity {
	t.Helper()
	if !f.HasPassword(name) {
		f.SetPassword(t, name)
	}
	id, _ := f.Login(t, name)
	return id
}

func TestStaleOnlyWhenWhatItReadChanged(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "dev", api.RoleSpec{Allow: api.RoleConditions{KubernetesLabels: everywhere, KubernetesGroups: []string{"dev"}}})
	f.PutRole(t, "other", api.RoleSpec{})
	f.AddUser(t, "alice", nil, "dev")
	f.AddUser(t, "bob", nil, "dev")
	id, _ := f.Login(t, "alice")
	decide := func() *auth.Decision {
		t.Helper()
		d, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := decide()
	f.PutRole(t, "other", api.RoleSpec{Options: api.RoleOptions{MaxSessionTTL: api.Duration(time.Hour)}})
	f.Login(t, "bob")
	f.Login(t, "alice")
	if err := f.Users.Delete(t.Context(), authtest.Admin(), "bob"); err != nil {
		t.Fatal(err)
	}
	if err := f.KubeClusters.Register(t.Context(), api.KubeCluster{Name: "another"}); err != nil {
		t.Fatal(err)
	}
	if d.Stale() {
		t.Error("unrelated writes dropped the decision")
	}
	if n := testing.AllocsPerRun(100, func() { _ = d.Stale() }); n != 0 {
		t.Errorf("a hit allocates %v times", n)
	}
	for name, change := range map[string]func(){
		"role": func() {
			f.PutRole(t, "dev", api.RoleSpec{Allow: api.RoleConditions{KubernetesLabels: everywhere, KubernetesGroups: []string{"dev", "x"}}})
		},
		"user": func() {
			if _, err := f.Users.Put(t.Context(), authtest.Admin(), ptr(authtest.User("alice", groups("x"), "dev")), true); err != nil {
				t.Fatal(err)
			}
		},
		"cluster": func() {
			if err := f.KubeClusters.Register(t.Context(), api.KubeCluster{Name: authtest.KubeCluster, Labels: map[string]string{"x": time.Now().String()}}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		d := decide()
		if change(); !d.Stale() {
			t.Errorf("a changed %s left the decision fresh", name)
		}
	}
	d = decide()
	if err := f.Sessions.Delete(t.Context(), authtest.Admin(), id); err != nil || !d.Stale() {
		t.Error("a deleted session left the decision fresh", err)
	}
	if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
}

func TestLiveStreamsEndWhenTheRightDoes(t *testing.T) {
	spec := func(groups ...string) api.RoleSpec {
		return api.RoleSpec{Allow: api.RoleConditions{KubernetesLabels: everywhere, KubernetesGroups: groups}}
	}
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, f *authtest.Fixture, id pki.UserIdentity)
		code   api.Code // "" : the stream stays
	}{
		{"user deleted", func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity) {
			must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
		}, api.CodeUnauthenticated},
		{"logged out", func(t *testing.T, f *authtest.Fixture, id pki.UserIdentity) {
			must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), id))
		}, api.CodeUnauthenticated},
		{"group taken away", func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity) { f.PutRole(t, "dev", spec("b")) }, api.CodeForbidden},
		{"role taken away", func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity) {
			_, err := f.Users.Put(t.Context(), authtest.Admin(), ptr(authtest.User("alice", nil, "auditor")), true)
			must(t, err)
		}, api.CodeForbidden},
		{"session shortened by its role", func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity) {
			s := spec("a", "b")
			s.Options.MaxSessionTTL = api.Duration(time.Minute)
			f.PutRole(t, "dev", s)
		}, api.CodeUnauthenticated},
		{"a newer version's restriction", func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity) {
			_, err := f.DB.Commit(t.Context(), auth.PutRaw("roles/dev", `{"kind":"role","version":"v9","metadata":{"name":"dev"},"spec":{"new":1}}`))
			must(t, err)
		}, api.CodeForbidden},
		{"time is over", func(*testing.T, *authtest.Fixture, pki.UserIdentity) {}, api.CodeUnauthenticated},
		{"group added", func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity) { f.PutRole(t, "dev", spec("a", "b", "c")) }, ""},
		{"description changed", func(t *testing.T, f *authtest.Fixture, _ pki.UserIdentity) {
			u := authtest.User("alice", nil, "dev")
			u.Metadata.Description = "x"
			_, err := f.Users.Put(t.Context(), authtest.Admin(), &u, true)
			must(t, err)
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := authtest.New(t)
				f.PutRole(t, "dev", spec("a", "b"))
				f.AddUser(t, "alice", nil, "dev")
				id, _ := f.Login(t, "alice")
				d, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{})
				must(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				go func() { ended <- d.Watch(ctx) }()
				synctest.Wait()
				start := time.Now()
				if tc.name == "time is over" {
					if err := <-ended; !api.IsCode(err, tc.code) || time.Since(start) > 12*time.Hour {
						t.Fatal(err, time.Since(start))
					}
					return
				}
				<-time.After(2 * time.Minute)
				start = time.Now()
				tc.change(t, f, id)
				synctest.Wait()
				select {
				case err := <-ended:
					if tc.code == "" || !api.IsCode(err, tc.code) || time.Since(start) > 0 {
						t.Fatalf("ended with %v after %s", err, time.Since(start))
					}
				default:
					if tc.code != "" {
						t.Fatal("the stream goes on")
					}
					cancel()
					if err := <-ended; !errors.Is(err, context.Canceled) {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSessionOfADeletedUserIsNotRevivedByTheName(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("system:masters"))
	id, _ := f.Login(t, "alice")
	rec, _ := f.DB.View().Get("sessions/alice/" + id.SessionID)
	must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
	f.AddUser(t, "alice", groups("system:masters"))
	// A login that raced the deletion might have left its record behind.
	_, err := f.DB.Commit(t.Context(), auth.PutRaw(rec.Key, string(rec.Value)))
	must(t, err)
	if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Fatal(err)
	}
}

func TestSessionsOfOthersAndForgeriesAreNobody(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	f.AddUser(t, "bob", groups("b"))
	id, _ := f.Login(t, "alice")
	for name, forged := range map[string]pki.UserIdentity{
		"another user's session": {User: "bob", SessionID: id.SessionID, ClusterName: id.ClusterName},
		"another cluster":        {User: "alice", SessionID: id.SessionID, ClusterName: "other.example.com"},
		"no user":                {SessionID: id.SessionID, ClusterName: id.ClusterName},
		"no session":             {User: "alice", ClusterName: id.ClusterName},
		"key tricks":             {User: "bob/../alice", SessionID: id.SessionID, ClusterName: id.ClusterName},
	} {
		if _, err := f.Access.Session(f.DB.View(), forged); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMissingRoleDenies(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	id, _ := f.Login(t, "alice")
	_, err := f.DB.Commit(t.Context(), auth.PutRaw("users/alice", `{"kind":"user","version":"v2","metadata":{"name":"alice"},"spec":{"roles":["access","gone"]}}`))
	must(t, err)
	if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), `"gone"`) {
		t.Fatal(err)
	}
}

func TestKubeClustersAreFoundByLabelAndShownToWhoMayUseThem(t *testing.T) {
	f := authtest.New(t)
	ctx := t.Context()
	long := "EU.prod@" + strings.Repeat("x", 80)
	for range 2 {
		must(t, f.KubeClusters.Register(ctx, api.KubeCluster{Name: long, Labels: map[string]string{"env": "prod"}}))
	}
	for _, name := range []string{long, authtest.KubeCluster} {
		if got, err := f.KubeClusters.Lookup(api.KubeLabel(name)); err != nil || got != name {
			t.Error(got, err)
		}
	}
	if _, err := f.KubeClusters.Lookup("nope"); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
	if err := f.KubeClusters.Register(ctx, api.KubeCluster{Name: "x-evil"}); !api.IsCode(err, api.CodeInvalid) {
		t.Error(err)
	}
	before := f.DB.Commits()
	must(t, f.KubeClusters.Register(ctx, api.KubeCluster{Name: long, Labels: map[string]string{"env": "prod"}}))
	if f.DB.Commits() != before {
		t.Error("registering twice writes twice")
	}
	f.PutRole(t, "prod", api.RoleSpec{Allow: api.RoleConditions{KubernetesLabels: map[string]api.Values{"env": {"prod"}}, KubernetesGroups: []string{"g"}}})
	f.AddUser(t, "alice", nil, "prod")
	id, _ := f.Login(t, "alice")
	v := f.DB.View()
	p, err := f.Access.Session(v, id)
	must(t, err)
	if got := f.Access.KubeClusters(v, p); len(got) != 1 || got[0].Name != long {
		t.Error(got)
	}
}

func TestForbiddenClustersLookLikeNone(t *testing.T) {
	f := authtest.New(t)
	odd := "EU.prod@secret"
	for _, name := range []string{"secret", odd} {
		must(t, f.KubeClusters.Register(t.Context(), api.KubeCluster{Name: name, Labels: map[string]string{"env": "secret"}}))
	}
	secret := map[string]api.Values{"env": {"secret"}}
	f.PutRole(t, "not-allowed", api.RoleSpec{Allow: api.RoleConditions{KubernetesLabels: map[string]api.Values{"env": {"test"}}, KubernetesGroups: []string{"g"}}})
	f.PutRole(t, "denied", api.RoleSpec{
		Allow: api.RoleConditions{KubernetesLabels: everywhere, KubernetesGroups: []string{"g"}}, Deny: api.RoleConditions{KubernetesLabels: secret}})
	f.PutRole(t, "broken", api.RoleSpec{Allow: api.RoleConditions{KubernetesLabels: everywhere, KubernetesGroups: []string{"{{internal.bad}}"}}})
	for _, roles := range [][]string{{"auditor"}, {"not-allowed"}, {"denied"}, {"broken", "denied"}} {
		t.Run(strings.Join(roles, " and "), func(t *testing.T) {
			name := strings.Join(roles, ".")
			f.AddUser(t, name, map[string][]string{"bad": {"a,b"}}, roles...)
			id, _ := f.Login(t, name)
			for there, absent := range map[string]string{"secret": "secreu", odd: api.KubeLabel("EU.prod@secreu")} {
				_, err := f.Access.Kube(id, there, auth.KubeRequest{})
				_, none := f.Access.Kube(id, absent, auth.KubeRequest{})
				if !api.IsCode(err, api.CodeNotFound) || strings.ReplaceAll(err.Error(), there, absent) != none.Error() {
					t.Errorf("%v\n%v", err, none)
				}
				var why interface{ AuditReason() string }
				if !errors.As(err, &why) || !strings.Contains(why.AuditReason(), "kubernetes_labels") {
					t.Error("the audit log is not told why")
				}
			}
		})
	}
}

func BenchmarkStale(b *testing.B) {
	f := authtest.New(b)
	f.AddUser(b, "alice", groups("a"))
	id, _ := f.Login(b, "alice")
	d, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if d.Stale() {
			b.Fatal("stale")
		}
	}
}
