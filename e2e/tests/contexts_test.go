package tests

import (
	"os"
	"strings"
	"testing"
	"time"
)

// What somebody has gathered in years: three contexts, with words beside them.
const gathered = `# managed by hand, mind the gap
apiVersion: v1
kind: Config
preferences: {}

clusters:
  # the big one
  - name: prod
    cluster:
      server: https://prod.invalid:6443 # VPN
  - name: "staging"
    cluster: {server: 'https://staging.invalid'}

  - name: kind-dev
    cluster:
      server: https://127.0.0.1:1
contexts:
  - name: prod
    context: {cluster: prod, user: me, namespace: web}
  - name: staging
    context: {cluster: staging, user: me}
  # scratch
  - name: kind-dev
    context:
      cluster: kind-dev
      user: me
users:
  - name: me
    user: {token: abc} # not a real one
current-context: prod # mine
`

// The guide's steps leave a kubeconfig of three contexts as it was to the byte,
// but for our entries while there is a login; the real kubectl reads it meanwhile.
func TestContextsOfOthersStayToTheByte(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	r := c.Replicas[1]
	gita, err := c.AddUser(ctx, r, "gita", "--k8s-groups=system:masters")
	if err != nil {
		t.Fatal(err)
	}
	read := func() string {
		t.Helper()
		b, err := os.ReadFile(gita.Kubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(gita.Kubeconfig(), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubectl := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(ok(t, gita.Kubectl(ctx, args...)).Stdout)
	}
	const ours = clusterName + "-" + clusterName
	write(gathered)
	before := kubectl("config", "view", "--raw", "--context=prod", "--minify")

	for _, switched := range []bool{false, true} {
		got := ok(t, gita.Login(ctx, r))
		if want := `kubectl still uses the context "prod". To switch: tsh kube login ` + clusterName; !strings.Contains(got.Stderr, want) {
			t.Errorf("no hint %q in %q", want, got.Stderr)
		}
		if after := read(); added(t, gathered, after) == 0 {
			t.Errorf("login added nothing:\n%s", after)
		}
		if got := kubectl("config", "current-context"); got != "prod" {
			t.Errorf("the context after login is %s", got)
		}
		if got := strings.Fields(kubectl("config", "get-contexts", "-o=name")); len(got) != 4 {
			t.Errorf("contexts: %v", got)
		}
		kubectl("--context="+ours, "get", "ns")
		if switched {
			ok(t, gita.Tsh(ctx, "kube", "login", clusterName))
			after := read()
			if want := "current-context: " + ours + " # mine\n"; !strings.HasSuffix(after, want) {
				t.Errorf("no %q in\n%s", want, after)
			}
			added(t, strings.Replace(gathered, ": prod # mine", ": "+ours+" # mine", 1), after)
			if got := kubectl("get", "ns", "default", "-o=name"); got != "namespace/default" {
				t.Errorf("kubectl get ns: %s", got)
			}
			// Its owner goes back, with an editor.
			write(strings.Replace(after, "current-context: "+ours, "current-context: prod", 1))
		}
		if now := kubectl("config", "view", "--raw", "--context=prod", "--minify"); now != before {
			t.Errorf("kubectl sees another context prod:\n%s\nnot\n%s", now, before)
		}
		ok(t, gita.Tsh(ctx, "logout"))
		if after := read(); after != gathered {
			t.Errorf("after logout:\n%s", after)
		}
		refused(t, gita.Kubectl(ctx, "--context="+ours, "get", "ns"), "context was not found")
	}

	// Whoever logs out with our context chosen is left without one, and with everything else.
	ok(t, gita.Login(ctx, r))
	ok(t, gita.Tsh(ctx, "kube", "login", clusterName))
	ok(t, gita.Tsh(ctx, "logout"))
	after := read()
	if strings.Contains(after, "tele") || !strings.HasPrefix(after, strings.TrimSuffix(gathered, "current-context: prod # mine\n")) {
		t.Errorf("after logout with our context chosen:\n%s", after)
	}
	if got := strings.Fields(kubectl("config", "get-contexts", "-o=name")); len(got) != 3 {
		t.Errorf("contexts: %v", got)
	}
}

// added counts the lines that came into a file; none of those there may go or move.
func added(t *testing.T, before, after string) (lines int) {
	t.Helper()
	rest := strings.SplitAfter(before, "\n")
	for line := range strings.Lines(after) {
		if line == rest[0] {
			rest = rest[1:]
			continue
		}
		lines++
	}
	if len(rest) != 1 { // what is behind the last line's end
		t.Errorf("%q and what follows is not as it was in\n%s", rest[0], after)
	}
	return lines
}
