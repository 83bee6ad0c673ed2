package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

func TestUsersAddGivesALinkThatWorks(t *testing.T) {
	f := authtest.New(t)
	resp, err := f.Users.Add(t.Context(), authtest.Admin(), api.AddUserRequest{User: authtest.User("alice", groups("system:masters"))})
	must(t, err)
	if !strings.HasPrefix(resp.InviteURL, "https://tele.example.com:443/web/invite/") || resp.Proxy != "tele.example.com:443" || time.Duration(resp.TTL) != time.Hour {
		t.Errorf("%+v", resp)
	}
	if resp.User.Spec.Roles[0] != "access" || resp.User.Metadata.Revision == 0 {
		t.Errorf("%+v", resp.User)
	}
	token := resp.InviteURL[strings.LastIndex(resp.InviteURL, "/")+1:]
	if len(token) != 64 {
		t.Error("token of", len(token))
	}
	invite, err := f.Invites.Lookup(t.Context(), token, auth.Actor{})
	if err != nil || invite.User != "alice" || invite.Reset {
		t.Error(invite, err)
	}
	codes := map[string]bool{}
	for _, e := range f.DB.Events() {
		codes[e.Code] = true
	}
	if !codes["T1002I"] || !codes["T6000I"] {
		t.Error(codes)
	}
}

func TestUsersAddRefuses(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	for _, tc := range []struct {
		name string
		req  api.AddUserRequest
		code api.Code
		want string
	}{
		{"an existing name", api.AddUserRequest{User: authtest.User("alice", nil)}, api.CodeExists, "already exists"},
		{"an unknown role", api.AddUserRequest{User: authtest.User("bob", nil, "nope")}, api.CodeInvalid, `user "bob": spec.roles[0]: role "nope" does not exist`},
		{"a comma", api.AddUserRequest{User: authtest.User("a,b", nil)}, api.CodeInvalid, "ASCII"},
		{"a group with a line break", api.AddUserRequest{User: authtest.User("bob", groups("a\nb"))}, api.CodeInvalid, "kubernetes_groups"},
		{"system:", api.AddUserRequest{User: authtest.User("system:kube-controller-manager", nil)}, api.CodeInvalid, "system:"},
		{"a link for too long", api.AddUserRequest{User: authtest.User("bob", nil), InviteTTL: api.Duration(49 * time.Hour)}, api.CodeInvalid, "48h"},
		{"a link for no time", api.AddUserRequest{User: authtest.User("bob", nil), InviteTTL: api.Duration(-time.Hour)}, api.CodeInvalid, "valid for"},
	} {
		if _, err := f.Users.Add(t.Context(), authtest.Admin(), tc.req); !api.IsCode(err, tc.code) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestInviteSaysWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		ctx := t.Context()
		used, expired, deleted := f.Invite(t, "used", nil), f.Invite(t, "expired", nil), f.Invite(t, "deleted", nil)
		reborn := f.Invite(t, "reborn", nil)
		f.Redeem(t, used)
		must(t, f.Users.Delete(ctx, authtest.Admin(), "deleted"))
		must(t, f.Users.Delete(ctx, authtest.Admin(), "reborn"))
		f.Invite(t, "reborn", nil)
		check := func(token string, code api.Code, text string) {
			t.Helper()
			_, err := f.Invites.Lookup(ctx, token, auth.Actor{})
			_, err2 := f.Invites.Redeem(ctx, token, authtest.Password, nil, auth.Actor{})
			for _, err := range []error{err, err2} {
				if !api.IsCode(err, code) || !strings.Contains(err.Error(), text) {
					t.Errorf("%v, want %s %q", err, code, text)
				}
			}
		}
		check(used, api.CodeConflict, "used already")
		check(deleted, api.CodeNotFound, "not known")
		check(reborn, api.CodeNotFound, "not known")
		check(strings.Repeat("00", 32), api.CodeNotFound, "not known")
		check("", api.CodeNotFound, "not known")
		check(strings.Repeat("x", 1<<20), api.CodeNotFound, "not known")
		<-time.After(time.Hour - time.Second)
		if _, err := f.Invites.Lookup(ctx, expired, auth.Actor{}); err != nil {
			t.Error("expired early:", err)
		}
		<-time.After(time.Second)
		check(expired, api.CodeNotFound, "expired on")
		<-time.After(6 * 24 * time.Hour)
		check(expired, api.CodeNotFound, "expired on")
		check(used, api.CodeConflict, "used already")
		<-time.After(3 * 24 * time.Hour)
		check(used, api.CodeNotFound, "not known")
	})
}

// hangUpDB is a store whose client goes away at each write.
type hangUpDB struct {
	*authtest.DB
	hangUp context.CancelFunc
}

func (d *hangUpDB) Commit(ctx context.Context, txn fsm.Txn) (uint64, error) {
	d.hangUp()
	return d.DB.Commit(ctx, txn)
}

func TestALinkIsSpentByADerivationWhoseClientHasGone(t *testing.T) {
	f := authtest.New(t)
	token := f.Invite(t, "alice", nil)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := auth.New(authtest.Options(f.DB, func(o *auth.Options) { o.DB = &hangUpDB{f.DB, cancel} }))
	must(t, err)
	if _, err := s.Invites.Redeem(ctx, token, authtest.Password, nil, auth.Actor{Addr: home}); err != nil {
		t.Error("the derivation was for nothing:", err)
	}
	if _, err := f.Invites.Lookup(t.Context(), token, auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
		t.Error("the link derives again:", err)
	}
}

func TestALinkDerivesOneKeyAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		token := f.Invite(t, "alice", nil)
		free := f.HoldDerivations()
		codes := make(chan api.Code, 10)
		for range cap(codes) {
			go func() {
				_, err := f.Invites.Redeem(t.Context(), token, authtest.Password, nil, auth.Actor{Addr: home})
				codes <- api.CodeOf(err)
			}()
		}
		synctest.Wait()
		free()
		count := map[api.Code]int{}
		for range cap(codes) {
			count[<-codes]++
		}
		if count[api.CodeConflict] != 4 || count[api.CodeRateLimited] != 5 {
			t.Error(count)
		}
		if n, _ := f.Derivations(); n != 1 {
			t.Errorf("%d derivations for one link", n)
		}
	})
}

func TestAnExpiredLinkIsNoGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		expired := f.Invite(t, "expired", nil)
		<-time.After(time.Hour)
		db := &asksDB{DB: f.DB}
		s, err := auth.New(authtest.Options(f.DB, func(o *auth.Options) { o.DB = db }))
		must(t, err)
		for range 100 {
			if _, err := s.Invites.Lookup(t.Context(), expired, auth.Actor{Addr: home}); !api.IsCode(err, api.CodeNotFound) {
				t.Fatal(err)
			}
		}
		if n := db.asks.Load(); n != 0 {
			t.Errorf("the leader was asked %d times about links that are known", n)
		}
	})
}

func TestOfFiftyWhoUseAnInviteOneSucceeds(t *testing.T) {
	f := authtest.New(t, func(o *auth.Options) { o.Passwords.Queue = 100 })
	token := f.Invite(t, "alice", nil)
	var wg sync.WaitGroup
	var ok, used, waits atomic.Int32
	for range 50 {
		wg.Go(func() {
			switch _, err := f.Invites.Redeem(t.Context(), token, authtest.Password, nil, auth.Actor{}); {
			case err == nil:
				ok.Add(1)
			case api.IsCode(err, api.CodeConflict) && strings.Contains(err.Error(), "used already"):
				used.Add(1)
			case api.IsCode(err, api.CodeRateLimited) && strings.Contains(err.Error(), "being used at this moment"):
				waits.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 1 || used.Load()+waits.Load() != 49 || used.Load() == 0 {
		t.Errorf("%d succeeded, %d were told why not, %d to wait", ok.Load(), used.Load(), waits.Load())
	}
}

func TestPasswordRules(t *testing.T) {
	f := authtest.New(t)
	token := f.Invite(t, "alice", nil)
	for _, bad := range []string{"", "elevenchars", strings.Repeat("x", 129), strings.Repeat("x", 1<<20), strings.Repeat("\u00e9", 11), "not utf-8 at all \xff"} {
		if _, err := f.Invites.Redeem(t.Context(), token, bad, nil, auth.Actor{}); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if _, err := f.Invites.Redeem(t.Context(), token, strings.Repeat("\U0001f511", 128), nil, auth.Actor{}); err != nil {
		t.Error("128 characters of 4 bytes:", err)
	}
}

func TestDeletingAUserTakesEverything(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	f.AddUser(t, "alice.b", groups("a"))
	f.Login(t, "alice")
	kept, _ := f.Login(t, "alice.b")
	_ = login(t, f, "alice", "wrong password!", home)
	must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
	for _, prefix := range []string{"users/alice", "passwords/alice", "sessions/alice/", "attempts/"} {
		for r := range f.DB.View().List(prefix) {
			if !strings.HasSuffix(r.Key, "alice.b") {
				t.Error("left behind:", r.Key)
			}
		}
	}
	for r := range f.DB.View().List("invites/") {
		if strings.Contains(string(r.Value), `"alice"`) {
			t.Error("left behind:", r.Key)
		}
	}
	if _, err := f.Sessions.Get(kept); err != nil {
		t.Error("a neighbour's session went too:", err)
	}
	if e := lastEvent(f); e.Code != "T1004I" || e.Fields["name"] != "alice" || e.User != auth.SocketUser {
		t.Errorf("%+v", e)
	}
	if err := f.Users.Delete(t.Context(), authtest.Admin(), "alice"); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
}

func TestUserDocumentsSurviveAnOlderReplica(t *testing.T) {
	f := authtest.New(t)
	_, err := f.DB.Commit(t.Context(), auth.PutRaw("users/alice",
		`{"kind":"user","version":"v2","metadata":{"name":"alice","owner":"x"},"spec":{"roles":["access"],"quota":5}}`))
	must(t, err)
	raw, err := f.Users.Get("alice")
	must(t, err)
	for _, want := range []string{`"owner":"x"`, `"quota":5`, `"revision":`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("get hides %s: %s", want, raw)
		}
	}
	_, err = f.Users.Put(t.Context(), authtest.Admin(), ptr(authtest.User("alice", nil, "auditor")), true)
	must(t, err)
	rec, _ := f.DB.View().Get("users/alice")
	for _, want := range []string{`"owner":"x"`, `"quota":5`, `"auditor"`} {
		if !strings.Contains(string(rec.Value), want) {
			t.Errorf("a write lost %s: %s", want, rec.Value)
		}
	}
}

func TestRolesPutAndDelete(t *testing.T) {
	f := authtest.New(t)
	ctx := t.Context()
	role := func(name string, edit func(*api.Role)) *api.Role {
		r := &api.Role{Header: api.Header{Kind: api.KindRole, Version: "v5", Metadata: api.Metadata{Name: name}}}
		if edit != nil {
			edit(r)
		}
		return r
	}
	put := func(r *api.Role, force bool) (api.PutResponse, error) {
		return f.Roles.Put(ctx, authtest.Admin(), r, force)
	}
	first, err := put(role("dev", nil), false)
	if err != nil || !first.Created {
		t.Fatal(first, err)
	}
	if e := lastEvent(f); e.Event != "role.created" || e.Code != "T9000I" {
		t.Error(e)
	}
	if _, err := put(role("dev", nil), false); !api.IsCode(err, api.CodeExists) || !strings.Contains(err.Error(), "-f") {
		t.Error(err)
	}
	second, err := put(role("dev", func(r *api.Role) { r.Metadata.Revision = first.Revision }), true)
	if err != nil || second.Created {
		t.Error(second, err)
	}
	if _, err := put(role("dev", func(r *api.Role) { r.Metadata.Revision = first.Revision }), true); !api.IsCode(err, api.CodeConflict) {
		t.Error("a stale revision was accepted:", err)
	}
	for _, name := range []string{"access", "admin", "auditor"} {
		if _, err := put(role(name, nil), true); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "built in") {
			t.Error(err)
		}
		if err := f.Roles.Delete(ctx, authtest.Admin(), name); !api.IsCode(err, api.CodeForbidden) {
			t.Error(err)
		}
		// What tctl get gives is taken back, for tctl get all | tctl create -f.
		text, err := f.Roles.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := api.DecodeDocument(text)
		if err != nil {
			t.Fatal(err)
		}
		commits := f.DB.Commits()
		if same, err := put(doc.(*api.Role), true); err != nil || !same.Unchanged || same.Created || f.DB.Commits() != commits {
			t.Error(same, err)
		}
		if _, err := put(doc.(*api.Role), false); !api.IsCode(err, api.CodeExists) {
			t.Error(err)
		}
	}
	for name, edit := range map[string]func(*api.Role){
		"bad template": func(r *api.Role) { r.Spec.Allow.KubernetesGroups = []string{"{{nope}}"} },
		"bad regexp":   func(r *api.Role) { r.Spec.Deny.KubernetesLabels = map[string]api.Values{"a": {"^($"}} },
	} {
		if _, err := put(role("bad", edit), true); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.AddUser(t, "alice", nil, "dev")
	if err := f.Roles.Delete(ctx, authtest.Admin(), "dev"); !api.IsCode(err, api.CodeConflict) || !strings.Contains(err.Error(), "alice") {
		t.Error(err)
	}
	must(t, f.Users.Delete(ctx, authtest.Admin(), "alice"))
	must(t, f.Roles.Delete(ctx, authtest.Admin(), "dev"))
	if e := lastEvent(f); e.Event != "role.deleted" || e.Code != "T9001I" {
		t.Error(e)
	}
	_, err = f.DB.Commit(ctx, auth.PutRaw("roles/newer", `{"kind":"role","version":"v7","metadata":{"name":"newer"},"spec":{"deny":{"future":1}}}`))
	must(t, err)
	if _, err := put(role("newer", nil), true); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "newer version") {
		t.Error("a restriction of a newer version was overwritten:", err)
	}
	list, err := f.Roles.List()
	must(t, err)
	if len(list) != 4 || !strings.Contains(string(list[3]), `"future":1`) {
		t.Errorf("%s", list)
	}
}

func TestListedDocumentsCanBeWrittenBack(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	f.PutRole(t, "dev", api.RoleSpec{Options: api.RoleOptions{MaxSessionTTL: api.Duration(time.Hour)},
		Allow: api.RoleConditions{KubernetesLabels: everywhere, Rules: []api.Rule{{Resources: []string{"user"}, Verbs: []string{"list"}}}}})
	usersList, err := f.Users.List()
	must(t, err)
	role, err := f.Roles.Get("dev")
	must(t, err)
	for _, raw := range append([]json.RawMessage{role}, usersList...) {
		doc, err := api.DecodeDocument(raw)
		must(t, err)
		switch d := doc.(type) {
		case *api.User:
			_, err = f.Users.Put(t.Context(), authtest.Admin(), d, true)
		case *api.Role:
			_, err = f.Roles.Put(t.Context(), authtest.Admin(), d, true)
		}
		must(t, err)
	}
}

func TestSessionMadeWithTheOldPasswordMeanwhileEnds(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	user, _ := f.DB.View().Get("users/alice")
	token := strings.Repeat("ab", 32)
	invite, err := json.Marshal(map[string]any{
		"user": "alice", "user_created": user.Created, "created": time.Now(), "expires": time.Now().Add(time.Hour)})
	must(t, err)
	_, err = f.DB.Commit(t.Context(), auth.PutRaw(fmt.Sprintf("invites/%x", sha256.Sum256([]byte(token))), string(invite)))
	must(t, err)
	before, _ := f.Login(t, "alice")
	var during pki.UserIdentity
	f.DB.BeforeCommit(func() { during, _ = f.Login(t, "alice") })
	_, err = f.Invites.Redeem(t.Context(), token, "another long password", nil, auth.Actor{})
	must(t, err)
	for name, id := range map[string]pki.UserIdentity{"before": before, "during": during} {
		if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("the session made %s the change of the password: %v", name, err)
		}
	}
	if err := login(t, f, "alice", authtest.Password, home); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("the old password still works:", err)
	}
	must(t, login(t, f, "alice", "another long password", home))
}

func TestPeopleGiveOnlyWhatTheyHave(t *testing.T) {
	f := authtest.New(t)
	rules := func(kind string, verbs ...string) api.RoleSpec {
		return api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: []string{kind}, Verbs: verbs}}}}
	}
	f.PutRole(t, "helpdesk", rules("user", "*"))
	f.PutRole(t, "role-editor", rules("role", "update"))
	f.AddUser(t, "helper", groups("dev"), "helpdesk", "access")
	f.AddUser(t, "editor", nil, "helpdesk", "role-editor")
	actor := func(name string) auth.Actor {
		id, _ := f.Login(t, name)
		return auth.Actor{User: name, Session: id}
	}
	helper := actor("helper")
	for _, tc := range []struct {
		name string
		by   auth.Actor
		old  *api.User // nil: none
		user api.User
		want string // "": allowed
	}{
		{"a held role", helper, nil, authtest.User("u", nil, "access"), ""},
		{"a held trait", helper, nil, authtest.User("u", groups("dev"), "access"), ""},
		{"a trait that makes no name", helper, nil, authtest.User("u", map[string][]string{"email": {"x"}}, "access"), ""},
		{"another role", helper, nil, authtest.User("u", nil, "access", "admin"), `the role "admin"`},
		{"another trait", helper, nil, authtest.User("u", groups("dev", "system:masters"), "access"), `"system:masters"`},
		{"another user's name", helper, nil, authtest.User("u", map[string][]string{api.TraitKubeUsers: {"root"}}, "access"), `"root"`},
		{"what the user has stays", helper, ptr(authtest.User("u", groups("ops"), "access", "admin")), authtest.User("u", groups("ops", "dev"), "access", "admin"), ""},
		{"what the user has goes", helper, ptr(authtest.User("u", groups("ops"), "access", "admin")), authtest.User("u", nil, "access"), ""},
		{"a role that wakes a trait", helper, ptr(authtest.User("u", groups("system:masters"), "auditor")), authtest.User("u", groups("system:masters"), "auditor", "access"), `"system:masters"`},
		{"more for oneself", helper, ptr(authtest.User("helper", groups("dev"), "helpdesk", "access")), authtest.User("helper", groups("dev"), "helpdesk", "access", "admin"), `the role "admin"`},
		{"who may update roles", actor("editor"), nil, authtest.User("u", groups("system:masters"), "admin"), ""},
		{"the socket", authtest.Admin(), nil, authtest.User("u", groups("system:masters"), "admin"), ""},
		{"nobody", auth.Actor{}, nil, authtest.User("u", nil, "access"), "log in"},
		{"a name without a session", auth.Actor{User: "editor"}, nil, authtest.User("u", nil, "access"), "log in"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_ = f.Users.Delete(t.Context(), authtest.Admin(), "u")
			if tc.old != nil {
				_, err := f.Users.Put(t.Context(), authtest.Admin(), tc.old, true)
				must(t, err)
			}
			_, err := f.Users.Put(t.Context(), tc.by, &tc.user, true)
			check := func(err error) {
				t.Helper()
				if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
					t.Errorf("%v, want %q", err, tc.want)
				}
			}
			check(err)
			if tc.old == nil {
				_ = f.Users.Delete(t.Context(), authtest.Admin(), "u")
				_, err = f.Users.Add(t.Context(), tc.by, api.AddUserRequest{User: tc.user})
				check(err)
			}
		})
	}
}

func TestInviteUsedMeanwhileIsNotUsedTwice(t *testing.T) {
	f := authtest.New(t)
	token := f.Invite(t, "alice", nil)
	other := authtest.NewOn(t, f.DB) // on one replica they come one by one
	f.DB.BeforeCommit(func() { other.Redeem(t, token) })
	if _, err := f.Invites.Redeem(t.Context(), token, "a password of the second", nil, auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
		t.Fatal(err)
	}
	must(t, login(t, f, "alice", authtest.Password, home))
}
