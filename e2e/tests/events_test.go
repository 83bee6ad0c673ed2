package tests

import (
	"fmt"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Each act is told once, by the replica that proposed it, whatever dies afterwards.
func TestEventsAreWrittenOnceWhereTheyHappened(t *testing.T) {
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, time.Minute)
	a, b, r := c.Replicas[0], c.Replicas[1], c.Replicas[2]
	alice := newUser(t, c, a, "alice", "--k8s-groups=system:masters")
	wrong, err := c.NewUser(ctx, b, "alice2")
	if err != nil {
		t.Fatal(err)
	}
	wrong.Name, wrong.Password = "alice", "something else"
	refused(t, wrong.Login(ctx, b), "invalid user name or password")
	ok(t, b.TctlStdin(ctx, roleYAML("brief", "dev", ""), "create"))
	ok(t, r.TctlStdin(ctx, roleYAML("brief", "ops", ""), "create", "-f"))
	ok(t, a.Tctl(ctx, "rm", "role/brief"))
	if _, err := c.AddUser(ctx, r, "bob"); err != nil {
		t.Fatal(err)
	}
	ok(t, b.Tctl(ctx, "users", "rm", "bob"))
	for _, at := range c.Replicas {
		ok(t, alice.KubectlAt(ctx, at, "get", "--raw", "/api/v1/namespaces/events-"+at.Name+"/pods"))
	}
	wanted := []struct {
		at          *sallyport.Replica
		event, code string
		field, is   string
	}{
		{a, "user.create", "T1002I", "name", "alice"},
		{a, "user.password_change", "T1005I", "name", "alice"},
		{a, "user.login", "T1000I", "user", "alice"},
		{b, "user.login", "T1000W", "user", "alice"},
		{b, "role.created", "T9000I", "name", "brief"},
		{r, "role.updated", "T9002I", "name", "brief"},
		{a, "role.deleted", "T9001I", "name", "brief"},
		{r, "user.create", "T1002I", "name", "bob"},
		{b, "user.delete", "T1004I", "name", "bob"},
		{a, "kube.request", "T3009I", "resource_namespace", "events-r0"},
		{b, "kube.request", "T3009I", "resource_namespace", "events-r1"},
		{r, "kube.request", "T3009I", "resource_namespace", "events-r2"},
	}
	check := func() error {
		for _, w := range wanted {
			for _, at := range c.Replicas {
				want := 0
				if at == w.at {
					want = 1
				}
				found := events(t, at, func(e event) bool {
					return e.text("event") == w.event && e.text("code") == w.code && e.text(w.field) == w.is
				})
				if len(found) != want {
					return fmt.Errorf("%s has %d lines of %s %s with %s=%s, not %d", at.Name, len(found), w.event, w.code, w.field, w.is, want)
				}
			}
		}
		uids := map[string]bool{}
		for _, at := range c.Replicas {
			for _, e := range events(t, at, func(event) bool { return true }) {
				if e.text("uid") == "" || uids[e.text("uid")] || e.text("cluster_name") != clusterName {
					return fmt.Errorf("%s: uid or cluster of %v", at.Name, e)
				}
				uids[e.text("uid")] = true
			}
		}
		return nil
	}
	testbed.Wait(t, 5*time.Second, "the events", check)
	for _, at := range c.Replicas {
		at.Kill()
		if err := at.Start(); err != nil {
			t.Fatal(err)
		}
		if err := at.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		if err := check(); err != nil {
			t.Errorf("after kill -9 of %s: %v", at.Name, err)
		}
	}
	login := events(t, a, func(e event) bool { return e.text("event") == "user.login" && e.text("user") == "alice" })[0]
	if login["success"] != true || login.text("method") != "local" || login.text("addr.remote") == "" {
		t.Errorf("a login: %v", login)
	}
	kube := events(t, a, func(e event) bool { return e.text("resource_namespace") == "events-r0" })[0]
	if kube.text("user") != "alice" || kube.text("verb") != "GET" || kube.text("kubernetes_verb") != "list" || kube.text("resource_kind") != "pods" ||
		kube["response_code"] != float64(200) || kube.text("kubernetes_cluster") != clusterName {
		t.Errorf("a request: %v", kube)
	}
}
