package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Each act is told once, on every replica, with the name of the one that took it; and
// what it said stays, whatever dies afterwards.
func TestEventsAreOneLogOnAllReplicas(t *testing.T) {
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
	ids := map[*sallyport.Replica]string{}
	for _, at := range c.Replicas {
		is, err := at.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ids[at] = is.ServerID
	}
	check := func() error {
		for _, at := range c.Replicas {
			for _, w := range wanted {
				found := events(t, at, func(e event) bool {
					return e.text("event") == w.event && e.text("code") == w.code && e.text(w.field) == w.is && e.text("replica") == ids[w.at]
				})
				if len(found) != 1 {
					return fmt.Errorf("%s has %d lines of %s %s with %s=%s by %s", at.Name, len(found), w.event, w.code, w.field, w.is, w.at.Name)
				}
			}
			uids := map[string]bool{}
			for i, e := range events(t, at, func(event) bool { return true }) {
				if e.text("uid") == "" || uids[e.text("uid")] || e.text("cluster_name") != clusterName || e["number"] != float64(i+1) {
					return fmt.Errorf("%s: uid, number or cluster of %v", at.Name, e)
				}
				uids[e.text("uid")] = true
			}
		}
		return nil
	}
	testbed.Wait(t, 5*time.Second, "the events", check)
	sameLogs(t, c)
	tailsShow(t, c, newUser(t, c, a, "tilda"))
	for _, at := range c.Replicas {
		at.Kill()
		if err := at.Start(); err != nil {
			t.Fatal(err)
		}
		if err := at.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		testbed.Wait(t, 5*time.Second, "the events after kill -9 of "+at.Name, check)
	}
	sameLogs(t, c)
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

// tailsShow is the guide's way to look at the log, on any replica of those behind a load
// balancer: it shows a login that another one took.
func tailsShow(t *testing.T, c *sallyport.Cluster, u *sallyport.User) {
	t.Helper()
	ctx := within(t, time.Minute)
	for i, took := range c.Replicas {
		ok(t, u.Tsh(ctx, "logout"))
		since := time.Now()
		ok(t, u.Login(ctx, took))
		begun := time.Now()
		for _, at := range c.Replicas {
			testbed.Wait(t, 5*time.Second, "the login at "+took.Name+" in the tail at "+at.Name, func() error {
				tail := ok(t, testbed.Run(ctx, testbed.Command{Args: []string{"tail", "-n", "100", at.EventsLog()}})).Stdout
				for line := range strings.Lines(tail) {
					var e event
					if err := json.Unmarshal([]byte(line), &e); err != nil {
						return err // is being written
					}
					if e.text("event") == "user.login" && e.text("code") == "T1000I" && e.time(t).After(since) {
						return nil
					}
				}
				return errors.New("none")
			})
			t.Logf("login %d, at %s, is in the tail at %s %d ms after tsh ended", i, took.Name, at.Name, time.Since(begun).Milliseconds())
		}
		if took, most := time.Since(begun), patient(t, 2*time.Second); took > most {
			t.Errorf("it was there %v after the login", took)
		}
	}
}
