package tests

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// The guide's "Multiple Kubernetes Clusters", in its order; the agent itself was
// started with the guide's flags by the first test that needed it.
func TestGuideOfMultipleKubernetesClusters(t *testing.T) {
	e := agents(t)
	ctx := within(t, time.Minute)
	t.Run("the token is the first of an array, and nothing is said beside it", func(t *testing.T) {
		for _, r := range e.cluster.Replicas {
			got := ok(t, r.Tctl(ctx, "nodes", "add", "--roles=kube", "--ttl=10000h", "--format=json"))
			checkToken(t, got.Stdout)
			if got.Stderr != "" {
				t.Errorf("stderr: %q", got.Stderr)
			}
		}
	})
	t.Run("on a terminal too, where both streams are one", func(t *testing.T) { checkToken(t, tokenOnTerminal(t, e)) })

	// $ tsh kube ls
	bea := newUser(t, e.cluster, e.cluster.Replicas[1], "bea", "--k8s-groups=system:masters")
	got := ok(t, bea.Tsh(ctx, "kube", "ls")).Stdout
	want := regexp.MustCompile(`^Kube Cluster Name +Selected *\n-+ -+ *\ncookie *\ntele\.example\.com +\* *\n$`)
	if !want.MatchString(got) {
		t.Errorf("tsh kube ls:\n%s", got)
	}
	// $ tsh kube login cookie
	if got := ok(t, bea.Tsh(ctx, "kube", "login", cookie)).Stdout; !strings.Contains(got, "Logged into kubernetes cluster \"cookie\"\n") {
		t.Errorf("tsh kube login cookie: %q", got)
	}
	if got := ok(t, bea.Tsh(ctx, "kube", "ls")).Stdout; !regexp.MustCompile(`(?m)^cookie +\* *$`).MatchString(got) {
		t.Errorf("tsh kube ls after tsh kube login cookie:\n%s", got)
	}
	// $ kubectl get pods
	with, without := e.tunnels(t, e.agent, 10*time.Second)
	if len(with) != 2 || len(without) != 1 {
		t.Errorf("%d replicas hold a tunnel and %d none", len(with), len(without))
	}
	for what, replicas := range map[string][]*sallyport.Replica{"holds a tunnel": with, "holds none": without} {
		for _, r := range replicas {
			got := ok(t, bea.KubectlAt(ctx, r, "get", "pods")).Stdout
			if !strings.Contains(got, "crumb") || strings.Contains(got, pod+" ") {
				t.Errorf("%s, which %s: kubectl get pods:\n%s", r.Name, what, got)
			}
			who := ok(t, bea.KubectlAt(ctx, r, "auth", "whoami", "-o=jsonpath={.status.userInfo}")).Stdout
			if want := `{"groups":["system:masters","system:authenticated"],"username":"bea"}`; who != want {
				t.Errorf("%s: whoami: %s, want %s", r.Name, who, want)
			}
			if got := ok(t, bea.KubectlAt(ctx, r, "exec", "crumb", "--", "echo", "through", r.Name)).Stdout; got != "through "+r.Name+"\n" {
				t.Errorf("%s: exec: %q", r.Name, got)
			}
		}
	}
	// The replica's own cluster is where it was.
	ok(t, bea.Tsh(ctx, "kube", "login", clusterName))
	if got := ok(t, bea.Kubectl(ctx, "get", "pods")).Stdout; !strings.Contains(got, pod+" ") || strings.Contains(got, "crumb") {
		t.Errorf("kubectl get pods of %s:\n%s", clusterName, got)
	}
	checkWhoAsked(t, e)
}

// checkWhoAsked looks into the audit log of cookie's own API server: the account
// asks for nothing itself but how it does, and each request is its user's.
func checkWhoAsked(t *testing.T, e *agentsEnvironment) {
	t.Helper()
	const account = "system:serviceaccount:default:agent"
	testbed.Wait(t, 5*time.Second, "bea in cookie's audit log", func() error {
		if len(e.audited(t, func(a auditLine) bool { return a.ImpersonatedUser != nil && a.ImpersonatedUser.Username == "bea" })) < 3 {
			return fmt.Errorf("too few lines")
		}
		return nil
	})
	own := regexp.MustCompile(`^/(readyz|livez|healthz|version|apis/authorization\.k8s\.io/v1/selfsubjectaccessreviews)\b`)
	for _, a := range e.audited(t, func(a auditLine) bool { return a.User.Username == account }) {
		if a.ImpersonatedUser == nil && !own.MatchString(a.RequestURI) {
			t.Errorf("the account asked for %s itself", a.RequestURI)
		}
		if u := a.ImpersonatedUser; u != nil && u.Username == "bea" && strings.Join(u.Groups, ",") != "system:masters,system:authenticated" && strings.Join(u.Groups, ",") != "system:masters" {
			t.Errorf("bea was in %v", u.Groups)
		}
	}
}

// checkToken fails for what is not an array of JSON with one token.
func checkToken(t *testing.T, said string) {
	t.Helper()
	var tokens []string
	if err := json.Unmarshal([]byte(said), &tokens); err != nil || len(tokens) != 1 || !regexp.MustCompile(`^[0-9a-f]{32,}$`).MatchString(tokens[0]) {
		t.Errorf("want an array of one token: %q, %v", said, err)
	}
}

// tokenOnTerminal is all that a terminal shows of the guide's command.
func tokenOnTerminal(t *testing.T, e *agentsEnvironment) string {
	t.Helper()
	r := e.cluster.Replicas[0]
	command := fmt.Sprintf("%s --socket=%s nodes add --roles=kube --ttl=10000h --format=json", e.cluster.Bin.Path("tctl"), r.Socket())
	return ok(t, testbed.Run(within(t, 20*time.Second), testbed.Command{
		Args: []string{"script", "--quiet", "--return", "--command", command, "/dev/null"},
		Env:  append(e.alice.Env(), "TERM=xterm-256color"),
		Dir:  e.alice.Home,
	})).Stdout
}
