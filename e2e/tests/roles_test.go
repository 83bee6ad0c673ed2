package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func roleYAML(name, group, more string) string {
	return fmt.Sprintf(`kind: role
version: v7
metadata:
  name: %s
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [%s]
%s`, name, group, more)
}

func TestRolesByTctl(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	a, b := c.Replicas[0], c.Replicas[1]
	file := filepath.Join(t.TempDir(), "role.yaml")
	if err := os.WriteFile(file, []byte(roleYAML("shown", "dev", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	said := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	said(ok(t, a.Tctl(ctx, "create", "-f", file)).Stdout, "role 'shown' has been created\n")
	said(ok(t, b.Tctl(ctx, "create", "-f", file)).Stdout, "role 'shown' has been updated\n")
	said(ok(t, b.TctlStdin(ctx, roleYAML("shown", "ops", ""), "create", "-f")).Stdout, "role 'shown' has been updated\n")
	said(ok(t, a.TctlStdin(ctx, roleYAML("shown", "ops", ""), "create", "-f", "-")).Stdout, "role 'shown' has been updated\n")
	r := b.Tctl(ctx, "create", file)
	refused(t, r, `role "shown" already exists`)
	if r.Code != 6 {
		t.Errorf("exit code %d", r.Code)
	}

	got := ok(t, a.Tctl(ctx, "get", "role/shown"))
	if !strings.Contains(got.Stdout, "name: shown") || !strings.Contains(got.Stdout, "- ops") {
		t.Errorf("get role/shown: %s", got.Stdout)
	}
	said(ok(t, a.TctlStdin(ctx, got.Stdout, "create", "-f")).Stdout, "role 'shown' has been updated\n") // what get prints, create takes
	refused(t, b.TctlStdin(ctx, got.Stdout, "create", "-f"), "changed")                                 // but not twice: somebody wrote in between
	if got := ok(t, b.Tctl(ctx, "get", "roles")).Stdout; !strings.Contains(got, "name: access") || !strings.Contains(got, "name: shown") {
		t.Errorf("get roles: %s", got)
	}
	refused(t, a.Tctl(ctx, "users", "add", "nobody", "--roles=missing"), `role "missing" does not exist`)
	refused(t, a.TctlStdin(ctx, strings.Replace(roleYAML("typo", "dev", ""), "kubernetes_groups", "kubernetes_group", 1), "create"), "kubernetes_group")
	refused(t, a.Tctl(ctx, "rm", "role/admin"), "admin")
	said(ok(t, b.Tctl(ctx, "rm", "role/shown")).Stdout, "role 'shown' has been deleted\n")
	refused(t, a.Tctl(ctx, "get", "role/shown"), `role "shown" not found`)
}

func TestNarrowedRoleCutsWatches(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	a := c.Replicas[2]
	ok(t, a.TctlStdin(ctx, roleYAML("wide", "system:masters", ""), "create"))
	nora := newUser(t, c, c.Replicas[0], "nora", "--roles=wide")
	streams := openStreams(t, c, nora)

	// A change that takes nothing away cuts nothing.
	ok(t, a.TctlStdin(ctx, roleYAML("wide", "system:masters", "  options: {max_session_ttl: 8h}\n"), "create", "-f"))
	for _, r := range c.Replicas {
		ok(t, nora.KubectlAt(ctx, r, "get", "ns"))
	}
	for _, s := range streams {
		if !s.Running() {
			t.Errorf("%s was cut by a change that took nothing away: %s", s.what, s.said())
		}
	}

	since := time.Now()
	ok(t, a.TctlStdin(ctx, roleYAML("wide", "dev", ""), "create", "-f"))
	checkCut(t, streams, committed(t, a, "role.updated", "wide", since))
	for _, r := range c.Replicas {
		refused(t, nora.KubectlAt(ctx, r, "get", "ns"), `User "nora" cannot list resource "namespaces"`)
	}
	ok(t, a.TctlStdin(ctx, roleYAML("wide", "system:masters", ""), "create", "-f"))
	for _, r := range c.Replicas {
		ok(t, nora.KubectlAt(ctx, r, "get", "ns"))
	}
}

func TestActingAsAnother(t *testing.T) {
	c, alice := shared(t)
	ctx := within(t, time.Minute)
	r := c.Replicas[0]
	ok(t, r.TctlStdin(ctx, roleYAML("support", "dev, ops", "    kubernetes_users: [olga, robot]\n"), "create"))
	olga := newUser(t, c, r, "olga", "--roles=support")
	who := func(args ...string) string {
		t.Helper()
		return ok(t, olga.Kubectl(ctx, append(args, "auth", "whoami", "-o=jsonpath={.status.userInfo.username} {.status.userInfo.groups}")...)).Stdout
	}
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"--as=robot"}, `robot ["dev","ops","system:authenticated"]`},
		{[]string{"--as=olga", "--as-group=dev"}, `olga ["dev","system:authenticated"]`},
	} {
		if got := who(step.args...); got != step.want {
			t.Errorf("%v: %q, want %q", step.args, got, step.want)
		}
	}
	refused(t, olga.Kubectl(ctx, "get", "ns"), `user "olga" may act as any of olga, robot (kubernetes_users): choose one with kubectl --as`)
	refused(t, olga.Kubectl(ctx, "--as=root", "get", "ns"), `user "olga" may not act as user "root": no role allows it (allow.kubernetes_users)`)
	refused(t, olga.Kubectl(ctx, "--as=robot", "--as-group=system:masters", "get", "ns"),
		`user "olga" may not act as group "system:masters": no role allows it (allow.kubernetes_groups)`)
	refused(t, olga.Kubectl(ctx, "--as=robot", "--as-uid=0", "get", "ns"), "only --as and --as-group are supported")
	refused(t, alice.Kubectl(ctx, "--as=root", "get", "ns"), `user "alice" may not act as user "root"`)

	e := waitEvent(t, r, "the refusal with both identities", func(e event) bool {
		return e.text("event") == "kube.request" && e.text("user") == "olga" && e.text("requested_user") == "root"
	})
	if e["response_code"] != float64(403) || e.text("code") != "T3009W" {
		t.Errorf("the refusal: %v", e)
	}

	// No groups and no users: never a request without Impersonate-User.
	ok(t, r.TctlStdin(ctx, "kind: role\nversion: v7\nmetadata: {name: empty}\nspec: {allow: {kubernetes_labels: {'*': '*'}}}\n", "create"))
	nobody := newUser(t, c, r, "nullus", "--roles=empty")
	if status := sendH1(t, nobody, r, "/api/v1/namespaces/forged-nobody", "Accept: */*"); status != 403 {
		t.Errorf("a user without groups: status %d", status)
	}
	refused(t, alice.Kubectl(ctx, "get", "ns", "forged-somebody"), "not found")
	checkAudit(t, "forged-somebody", 1, func(a auditLine) {
		if strings.Contains(a.RequestURI, "forged-nobody") {
			t.Errorf("it reached the API server: %+v", a)
		}
	})
}
