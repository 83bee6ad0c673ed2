package tests

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// labelled is a role that lets people into clusters of certain labels.
func labelled(name, labels string) string {
	return fmt.Sprintf("kind: role\nversion: v7\nmetadata: {name: %s}\nspec:\n  allow:\n    kubernetes_labels: {%s}\n    kubernetes_groups: [system:masters]\n", name, labels)
}

// Labels decide who sees which cluster, and a name that is nearly right is put right.
func TestLabelsSayWhoSeesWhat(t *testing.T) {
	e := agents(t)
	ctx := within(t, time.Minute)
	r := e.cluster.Replicas[0]
	for _, at := range e.cluster.Replicas { // the leader writes what the agent says a moment after its tunnel is up
		testbed.Wait(t, testbed.Patience, "the agent's labels at "+at.Name, func() error {
			if got := at.Tctl(ctx, "kube", "ls"); got.Err != nil || !strings.Contains(got.Stdout, "env=dev") {
				return fmt.Errorf("%w: %s", got.Err, got.Stdout)
			}
			return nil
		})
	}
	for name, labels := range map[string]string{"to-dev": "env: dev", "to-some": "env: '^d[aeiou]v$'", "to-any-env": "env: 'd*'", "to-prod": "env: prod", "to-all": "'*': '*'"} {
		ok(t, r.TctlStdin(ctx, labelled(name, labels), "create", "-f"))
	}
	for role, want := range map[string][]string{
		"to-dev": {cookie}, "to-some": {cookie}, "to-any-env": {cookie}, "to-prod": nil, "to-all": {cookie, clusterName},
	} {
		u := newUser(t, e.cluster, e.cluster.Replicas[1], "u-"+role, "--roles="+role)
		var got []string
		for _, k := range kubeLs(t, u) {
			got = append(got, k.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s sees %v, want %v", role, got, want)
		}
		if role != "to-dev" {
			continue
		}
		if got := ok(t, u.Tsh(ctx, "kube", "ls")).Stdout; !strings.Contains(got, cookie) || strings.Contains(got, clusterName) {
			t.Errorf("tsh kube ls:\n%s", got)
		}
		ok(t, u.Tsh(ctx, "kube", "login", cookie))
		for _, at := range e.cluster.Replicas {
			ok(t, u.KubectlAt(ctx, at, "get", "pods"))
		}
		refused(t, u.Tsh(ctx, "kube", "login", "cokie"), `"cokie"`, cookie)
		// What one may not see is not there.
		refused(t, u.Tsh(ctx, "kube", "login", clusterName), clusterName)
	}
	got := ok(t, e.alice.Tsh(ctx, "kube", "ls", "--labels=env=dev", "--format=json"))
	if got.Stderr != "" || !strings.Contains(got.Stdout, cookie) || strings.Contains(got.Stdout, clusterName+`"`) {
		t.Errorf("tsh kube ls --labels=env=dev: %q, %q", got.Stdout, got.Stderr)
	}
}

// kubeListed is a cluster as tsh kube ls --format=json shows it.
type kubeListed struct {
	Name string `json:"name"`
}

func kubeLs(t *testing.T, u *sallyport.User) (all []kubeListed) {
	t.Helper()
	got := ok(t, u.Tsh(within(t, 20*time.Second), "kube", "ls", "--format=json"))
	if err := json.Unmarshal([]byte(got.Stdout), &all); err != nil || got.Stderr != "" {
		t.Fatalf("tsh kube ls --format=json: %v: %q, %q", err, got.Stdout, got.Stderr)
	}
	return all
}

// An agent that may not act as others, one whose API server is down, and one that is gone.
func TestHealthIsSaidInWords(t *testing.T) {
	e := agents(t)
	ctx := within(t, time.Minute)
	r := e.cluster.Replicas[1]
	line := func(kube string, rows ...testbed.Result) (said string) {
		for _, row := range rows {
			said += regexp.MustCompile(`(?m)^.*\b`+kube+`\b.*$`).FindString(ok(t, row).Stdout) + "\n"
		}
		return said
	}
	says := func(kube string, words ...string) {
		t.Helper()
		testbed.Wait(t, 20*time.Second, strings.Join(words, ", ")+" of "+kube, func() error {
			for _, said := range []string{
				line(kube, e.alice.Tsh(ctx, "kube", "ls", "-v")), line(kube, r.Tctl(ctx, "kube", "ls")),
			} {
				for _, w := range words {
					if !strings.Contains(said, w) {
						return fmt.Errorf("%q is not in %q", w, said)
					}
				}
			}
			return nil
		})
	}
	says(cookie, "healthy", "v1.34")
	a := e.startAgent(t, sallyport.AgentOptions{Kube: "frail", Kubeconfig: e.powerless})
	says("frail", "unhealthy", "impersonate")
	if err := a.Stop(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	says("frail", "offline", time.Now().UTC().Format("2006-")) // last seen
	refused(t, e.alice.Tsh(ctx, "kube", "login", "frial"), "frail")
	c := e.through(t, r, "h2")
	c.tls.ServerName = "frail.kube." + clusterName
	if err := c.pods(ctx); err == nil || !strings.Contains(err.Error(), "frail") || !strings.Contains(err.Error(), "503") {
		t.Errorf("a cluster without an agent: %v", err)
	}
	ok(t, r.Tctl(ctx, "kube", "rm", "frail"))
	if got := ok(t, e.alice.Tsh(ctx, "kube", "ls")).Stdout; strings.Contains(got, "frail") {
		t.Errorf("after tctl kube rm:\n%s", got)
	}
	refused(t, r.Tctl(ctx, "kube", "rm", cookie), "--force")
}
