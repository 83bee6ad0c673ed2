package tests

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// tctlEdit is tctl edit with an editor that is a command line.
func tctlEdit(t *testing.T, u *sallyport.User, editor string, args ...string) testbed.Result {
	t.Helper()
	return testbed.Run(within(t, 20*time.Second), testbed.Command{
		Args: append([]string{fixture.bin.Path("tctl"), "edit"}, args...), Env: append(u.Env(), "EDITOR="+editor, "TMPDIR="+u.Home), Dir: u.Home,
	})
}

// An admin needs no socket: a login of tsh at any replica will do.
func TestTctlByLogin(t *testing.T) {
	c, _ := shared(t)
	adam := newUser(t, c, c.Replicas[0], "adam", "--roles=admin")
	for i, r := range c.Replicas {
		t.Run(r.Name, func(t *testing.T) {
			ctx := within(t, time.Minute)
			if i > 0 {
				ok(t, adam.Login(ctx, r))
			}
			proxy := "--proxy=" + r.WebAddr()
			tctl := func(args ...string) string {
				t.Helper()
				return ok(t, adam.Tctl(ctx, append([]string{proxy}, args...)...)).Stdout
			}
			said := func(got string, want ...string) {
				t.Helper()
				for _, w := range want {
					if !strings.Contains(got, w) {
						t.Errorf("%q is not in %q", w, got)
					}
				}
			}
			name, role := "tara-"+r.Name, "tara-"+r.Name
			said(tctl("users", "add", name, "--k8s-groups=dev"), `User "`+name+`" has been created`, r.URL()+"/web/invite/")
			said(tctl("users", "ls"), name, "adam")
			said(tctl("users", "update", name, "--k8s-groups=ops", "--set-roles=access,auditor"), name)
			said(tctl("get", "user/"+name), "- ops", "- auditor")
			said(tctl("users", "reset", name), "has been reset", r.URL()+"/web/reset/")

			said(ok(t, adam.TctlStdin(ctx, roleYAML(role, "dev", ""), proxy, "create")).Stdout, "role '"+role+"' has been created")
			again := adam.TctlStdin(ctx, roleYAML(role, "dev", ""), proxy, "create")
			if refused(t, again, "already exists"); again.Code != 6 {
				t.Errorf("create again: exit code %d", again.Code)
			}
			said(ok(t, tctlEdit(t, adam, "sed -i s/dev$/ops/", "role/"+role, proxy)).Stdout, "role '"+role+"' has been updated")
			said(tctl("get", "role/"+role), "- ops")
			said(tctl("rm", "role/"+role), "role '"+role+"' has been deleted")

			said(tctl("status"), "Cluster     "+clusterName, "("+stateOf(t, r)+")")
			var servers []struct {
				ID    string
				Asked bool
			}
			if err := json.Unmarshal([]byte(tctl("cluster", "ls", "--format=json")), &servers); err != nil || len(servers) != 3 {
				t.Fatalf("cluster ls: %+v, %v", servers, err)
			}
			for _, s := range servers {
				if s.Asked != (s.ID == statusOf(t, r).ServerID) {
					t.Errorf("cluster ls asked the wrong replica: %+v", servers)
				}
			}
			said(tctl("users", "rm", name), "User '"+name+"' has been deleted")

			// Who did it is told by the replica that was asked, and by its name: no socket had a part in it.
			e := waitEvent(t, r, "the new user", func(e event) bool { return e.text("event") == "user.create" && e.text("name") == name })
			if e.text("user") != "adam" || client(e) != "127.0.0.1" {
				t.Errorf("who made the user: %v", e)
			}
			waitEvent(t, r, "its end", func(e event) bool {
				return e.text("event") == "user.delete" && e.text("name") == name && e.text("user") == "adam"
			})
		})
	}
}

func statusOf(t *testing.T, r *sallyport.Replica) sallyport.Status {
	t.Helper()
	s, err := r.Status(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stateOf(t *testing.T, r *sallyport.Replica) string {
	t.Helper()
	return statusOf(t, r).State
}

// Ended by its owner or by another admin, a session opens nothing at any replica; the others live on.
func TestTctlEndsSessions(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	a, b := c.Replicas[0], c.Replicas[1]
	enda := newUser(t, c, a, "enda", "--roles=admin")
	ok(t, enda.Login(ctx, b))
	sessions := func(r *sallyport.Replica) (ids []string) {
		t.Helper()
		var list []struct{ User, Kind, ID string }
		out := ok(t, enda.Tctl(ctx, "--proxy="+r.WebAddr(), "sessions", "ls", "--user=enda", "--format=json"))
		if err := json.Unmarshal([]byte(out.Stdout), &list); err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if s.User != "enda" || s.Kind != "cli" {
				t.Errorf("a session of enda's: %+v", s)
			}
			ids = append(ids, s.ID)
		}
		return ids
	}
	ids := sessions(a) // oldest first: the login at a, then that at b
	if len(ids) != 2 {
		t.Fatalf("sessions of two logins: %v", ids)
	}
	got := ok(t, enda.Tctl(ctx, "--proxy="+b.WebAddr(), "sessions", "rm", ids[1]))
	if want := "Session " + ids[1] + ` of user "enda" has been ended` + "\n"; got.Stdout != want || !strings.Contains(got.Stderr, "this ends the session of your own login, too") {
		t.Errorf("sessions rm: %q, %q", got.Stdout, got.Stderr)
	}
	for _, args := range [][]string{{"users", "ls"}, {"status"}, {"sessions", "ls", "--user=enda"}} {
		r := enda.Tctl(ctx, append([]string{"--proxy=" + b.WebAddr()}, args...)...)
		if refused(t, r, "session", "has ended", "log in again", "as enda"); r.Code != 3 {
			t.Errorf("%v with a session that has ended: exit code %d: %s", args, r.Code, r.Stderr)
		}
	}
	if left := sessions(a); len(left) != 1 || left[0] != ids[0] {
		t.Errorf("left are %v of %v", left, ids)
	}
	waitEvent(t, b, "the session's end", func(e event) bool { return e.text("event") == "user.logout" && e.text("user") == "enda" })
	ok(t, enda.Login(ctx, b)) // and back
	ok(t, enda.Tctl(ctx, "--proxy="+b.WebAddr(), "users", "ls"))
}

// Whoever may see users alone is told, for everything else, which rule it takes.
func TestTctlOfANarrowRole(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	r := c.Replicas[2]
	ok(t, r.TctlStdin(ctx, `kind: role
version: v7
metadata: {name: viewer}
spec:
  allow:
    rules:
      - {resources: [user], verbs: [list, read]}
`, "create"))
	vera := newUser(t, c, r, "vera", "--roles=viewer")
	proxy := "--proxy=" + r.WebAddr()
	for _, args := range [][]string{{"users", "ls"}, {"get", "users"}, {"get", "user/alice"}, {"sessions", "ls"}, {"sessions", "ls", "--user=vera"}} {
		if got := ok(t, vera.Tctl(ctx, append(args, proxy)...)).Stdout; got == "" {
			t.Errorf("%v said nothing", args)
		}
	}
	if got := ok(t, vera.Tctl(ctx, "sessions", "ls", proxy)).Stdout; strings.Contains(got, "alice") {
		t.Errorf("somebody else's sessions: %s", got)
	}
	file := vera.Home + "/role.yaml"
	if err := os.WriteFile(file, []byte(roleYAML("sly", "system:masters", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		args       []string
		kind, verb string
	}{
		{[]string{"users", "add", "sly", "--roles=admin"}, "user", "create"},
		{[]string{"users", "update", "vera", "--set-roles=admin"}, "user", "update"},
		{[]string{"users", "reset", "alice"}, "user", "update"},
		{[]string{"users", "rm", "alice"}, "user", "delete"},
		{[]string{"rm", "user/alice"}, "user", "delete"},
		{[]string{"create", file}, "role", "create"},
		{[]string{"create", "-f", file}, "role", "create"},
		{[]string{"get", "roles"}, "role", "list"},
		{[]string{"get", "role/admin"}, "role", "read"},
		{[]string{"rm", "role/viewer"}, "role", "delete"},
		{[]string{"get", "cap"}, "cluster_auth_preference", "read"},
		{[]string{"sessions", "ls", "--user=alice"}, "session", "list"},
		{[]string{"status"}, "cluster", "read"},
		{[]string{"cluster", "ls"}, "cluster", "read"},
		{[]string{"backup", vera.Home + "/stolen"}, "cluster", "create"},
	} {
		got := vera.Tctl(ctx, append(step.args, proxy)...)
		refused(t, got, `user "vera" may not `, "no role allows it (spec.allow.rules with resources: ["+step.kind+"], verbs: ["+step.verb, "tctl asked "+r.WebAddr()+" as vera")
		if got.Code != 4 || got.Stdout != "" {
			t.Errorf("%v: exit code %d, on stdout %q", step.args, got.Code, got.Stdout)
		}
	}
	got := tctlEdit(t, vera, "sed -i s/viewer/admin/", "user/vera", proxy)
	if refused(t, got, "spec.allow.rules with resources: [user], verbs: [update"); got.Code != 4 {
		t.Errorf("edit: exit code %d", got.Code)
	}
	ok(t, r.Tctl(ctx, "get", "user/alice"))
	refused(t, r.Tctl(ctx, "get", "user/sly"), "not found")
}
