package charts

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

const kubeAgent = "sallyport-kube-agent"

// cookie is the least that the chart needs.
var cookie = release{
	chart: kubeAgent, name: "agent", namespace: "access",
	set: []string{"kubeClusterName=cookie", "proxyAddr=tele.example.com:443", "authToken=0123456789abcdef"},
}

// with is a release with more values.
func (r release) with(set ...string) release {
	r.set = append(slices.Clone(r.set), set...)
	return r
}

// The line of the guide that everybody copies, without the dollar.
func TestTheGuidesTypoIsTold(t *testing.T) {
	t.Parallel()
	_, err := cookie.with("kubeClusterName={CLUSTER?}").template(t)
	if want := "you typed {CLUSTER?}, write ${CLUSTER?}"; err == nil || !strings.HasSuffix(err.Error(), ": "+want) {
		t.Errorf("got %v\nwant …: %s", err, want)
	}
}

func TestAgentValuesThatCantWorkAreRefused(t *testing.T) {
	t.Parallel()
	refuses(t, cookie, []refusal{
		{name: "no name", set: []string{"kubeClusterName="}, want: []string{"kubeClusterName is missing: say what this Kubernetes cluster is to be called, such as --set kubeClusterName=cookie"}},
		{name: "name of a variable", values: `kubeClusterName: x`, set: []string{`kubeClusterName=$\{CLUSTER\}`}, want: []string{"is a shell variable that no shell has filled in"}},
		{name: "no address", set: []string{"proxyAddr="}, want: []string{"proxyAddr is missing: say where Sallyport is, such as --set proxyAddr=tele.example.com:443"}},
		{name: "URL for an address", set: []string{"proxyAddr=https://tele.example.com"}, want: []string{`proxyAddr: "https://tele.example.com" is no address: write HOST:PORT`}},
		{name: "the port for kubectl", set: []string{"proxyAddr=tele.example.com:3026"}, want: []string{"proxyAddr: tele.example.com:3026 is the port for kubectl alone", "tele.example.com:443"}},
		{name: "no token", set: []string{"authToken="}, want: []string{"authToken is missing, and agent-0 has no identity yet", "tctl nodes add --roles=kube --kube-clusters=cookie"}},
		{name: "no token for one of several", set: []string{"authToken=", "highAvailability.replicaCount=2"}, want: []string{"agent-0, agent-1 has no identity yet"}},
		{name: "token that nobody reads", set: []string{"joinTokenSecret.create=false"}, want: []string{"joinTokenSecret.create is false, so nobody would read authToken"}},
		{name: "token and service account", set: []string{"joinParams.method=kubernetes", "joinParams.tokenName=x"}, want: []string{"authToken is for the method token"}},
		{name: "service account for no token", set: []string{"authToken=", "joinParams.method=kubernetes"}, want: []string{"joinParams.tokenName is missing"}},
		{name: "another method", set: []string{"joinParams.method=iam"}, want: []string{`joinParams.method=iam: Sallyport has the methods token and kubernetes`}},
		{name: "unchecked and pinned", set: []string{"insecureSkipProxyTLSVerify=true", "caPin=sha256:" + strings.Repeat("0", 64)}, want: []string{"caPin would mean nothing"}},
		{name: "label with a comma", set: []string{`labels.env=a\,b`}, want: []string{"labels.env: a comma can't be in a label"}},
		{name: "label that is several", set: []string{"labels.tier={a,b}"}, want: []string{"/labels/tier", "got array"}},
		{name: "service account without namespace", set: []string{"impersonation.serviceAccounts={builder}"}, want: []string{`"builder": write NAMESPACE:NAME`}},
		{name: "variable of the chart", set: []string{"extraEnv[0].name=SALLYPORT_AGENT_TOKEN_FILE"}, want: []string{"extraEnv: the chart sets SALLYPORT_AGENT_TOKEN_FILE already"}},
		{name: "verification off", set: []string{"extraEnv[0].name=SALLYPORT_AGENT_INSECURE", "extraEnv[0].value=true"}, want: []string{"extraEnv: SALLYPORT_AGENT_INSECURE is what the chart sets: write insecureSkipProxyTLSVerify instead"}},
		{name: "another pin", set: []string{"extraEnv[0].name=SALLYPORT_AGENT_CA_PIN"}, want: []string{"write caPin instead"}},
		{name: "token beside the file", set: []string{"extraEnv[0].name=SALLYPORT_AGENT_TOKEN"}, want: []string{"write authToken instead"}},
		{name: "another way to join", set: []string{"extraEnv[0].name=SALLYPORT_AGENT_JOIN_METHOD"}, want: []string{"write joinParams.method instead"}},
		{name: "two CA files", set: []string{"extraEnv[0].name=SSL_CERT_FILE", "tls.existingCASecretName=x"}, want: []string{"extraEnv: the chart sets SSL_CERT_FILE already"}},
		{name: "label of the chart", set: []string{"extraLabels.pod.app=x"}, want: []string{"extraLabels.pod: the chart sets app already"}},
		{name: "no replicas", set: []string{"highAvailability.replicaCount=0"}, want: []string{"/highAvailability/replicaCount", "minimum"}},
		{name: "typo", set: []string{"kubeclusterName=x"}, want: []string{"'kubeclusterName' not allowed"}},
		{name: "typo below", set: []string{"highAvailability.replicas=2"}, want: []string{"/highAvailability", "'replicas' not allowed"}},
		{name: "several at once", set: []string{"proxyAddr=", "apps[0].name=x"}, want: []string{"\n- proxyAddr is missing", "\n- apps: "}},
	})
	long := cookie
	long.name = strings.Repeat("a", 53)
	if _, err := long.template(t); err == nil || !strings.Contains(err.Error(), "53") && !strings.Contains(err.Error(), "too long") {
		t.Errorf("a name of 53 letters: %v", err)
	}
}

// Whoever comes from Teleport's chart is told what this agent doesn't do.
func TestAgentValuesThatMeanSomethingElseAreRefused(t *testing.T) {
	t.Parallel()
	refuses(t, cookie, []refusal{
		{name: "roles", set: []string{`roles=kube\,app`}, want: []string{`roles: "app": this agent is for Kubernetes alone: write roles=kube`}},
		{name: "apps", set: []string{"apps[0].name=grafana"}, want: []string{"apps: this agent is for Kubernetes alone"}},
		{name: "databases", set: []string{"databases[0].name=pg"}, want: []string{"databases: this agent is for Kubernetes alone"}},
		{name: "teleportConfig", set: []string{"teleportConfig.teleport.log.severity=DEBUG"}, want: []string{"write flags in extraArgs"}},
		{name: "updater", set: []string{"updater.enabled=true"}, want: []string{"`helm upgrade` takes its place"}},
		{name: "version", set: []string{"teleportVersionOverride=9.9.9"}, want: []string{"write image.tag=9.9.9 instead"}},
		{name: "image", set: []string{"image=registry.example.com/x"}, want: []string{"write image.repository and image.tag instead"}},
		{name: "podSecurityPolicy", set: []string{"podSecurityPolicy.enabled=true"}, want: []string{"pod-security.kubernetes.io/enforce=restricted"}},
		{name: "log.output", set: []string{"log.output=syslog"}, want: []string{"agents log to standard error"}},
		{name: "log.extraFields", set: []string{"log.extraFields={caller}"}, want: []string{"log.format=json writes all of them"}},
	})
}

// An agent may write its own identity, and of other Secrets read none, also not the
// token: that is mounted.
func TestAnAgentMayReadNoSecretButIdentities(t *testing.T) {
	t.Parallel()
	objects := cookie.with("highAvailability.replicaCount=2").objects(t)
	want := []any{
		map[string]any{"apiGroups": []any{""}, "resources": []any{"secrets"}, "verbs": []any{"create"}},
		map[string]any{"apiGroups": []any{""}, "resources": []any{"secrets"}, "verbs": []any{"get", "update"}, "resourceNames": []any{"agent-0-identity", "agent-1-identity"}},
	}
	if diff := cmp.Diff(want, find(t, objects, "Role", "agent").at("rules")); diff != "" {
		t.Error(diff)
	}
	for _, o := range objects {
		// What Helm makes it may replace (--force), remove, or refuse to take over.
		if o.kind() == "Secret" && o.name() != "agent-join-token" {
			t.Errorf("%v", o)
		}
	}
}

// Two releases of one name in two namespaces share nothing of the cluster's.
func TestAgentsOfTwoNamespacesDontMeet(t *testing.T) {
	t.Parallel()
	other := cookie
	other.namespace = "elsewhere"
	names := map[string]bool{}
	for _, r := range []release{cookie, other} {
		for _, o := range r.objects(t) {
			if strings.HasPrefix(o.kind(), "Cluster") {
				if names[o.String()] {
					t.Errorf("%s is in both", o)
				}
				names[o.String()] = true
			}
		}
	}
}

// An agent that was installed before for another Sallyport believes that one alone.
func TestNotesNameIdentitiesThatAreLeft(t *testing.T) {
	t.Parallel()
	cp := server(t)
	r := cookie.with("highAvailability.replicaCount=2")
	r.namespace = "left"
	secret := func(name, key string) object {
		return object{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name, "namespace": r.namespace}, "stringData": map[string]any{key: "{}"}}
	}
	// One that nobody has written to is none, and one more than there are agents is nobody's.
	apply(t, cp, []object{namespace(r.namespace), secret("agent-0-identity", "identity.json"), secret("agent-1-identity", "other"), secret("agent-2-identity", "identity.json")})
	for _, verb := range []string{"install", "upgrade"} {
		got := helm(t, cp.Kubeconfig, "", r.args(t, verb)...)
		if got.Err != nil {
			t.Fatalf("helm %s: %s", verb, got.Stderr)
		}
		if said := strings.Contains(got.Stdout, "kubectl -n left delete secret agent-0-identity\n  kubectl -n left delete pod -l app=agent\n"); said != (verb == "install") {
			t.Errorf("notes of helm %s:\n%s", verb, got.Stdout)
		}
	}
	// What is there is enough for an agent; the other needs a token.
	if got := helm(t, cp.Kubeconfig, "", r.with("authToken=").args(t, "upgrade")...); got.Err == nil || !strings.Contains(got.Stderr, "authToken is missing, and agent-1 has no identity yet") {
		t.Errorf("upgrade without a token: %v, %s", got.Err, got.Stderr)
	}
}

// What a rule of resourceNames lets through, asked of a real API server: README.md's
// lists and nothing else.
func TestImpersonationIsHeldToNames(t *testing.T) {
	t.Parallel()
	cp := server(t)
	r := cookie.with("impersonation.users={alice,system:serviceaccount:default:deployer}", "impersonation.groups={developers}", "impersonation.serviceAccounts={default:builder}")
	r.namespace = "held-to-names"
	apply(t, cp, []object{namespace(r.namespace)})
	var rights []object
	for _, o := range r.objects(t) {
		if strings.Contains(o.kind(), "Role") {
			rights = append(rights, o)
		}
	}
	apply(t, cp, rights)
	account := "--as=system:serviceaccount:" + r.namespace + ":" + r.name
	may := func(args ...string) bool {
		t.Helper()
		got := testbed.Run(t.Context(), testbed.Command{Args: append([]string{testbed.Bin("kubectl"), "--kubeconfig=" + cp.Kubeconfig, "auth", "can-i", account, "impersonate"}, args...)})
		return strings.TrimSpace(got.Stdout) == "yes"
	}
	testbed.Wait(t, testbed.Patience, "the rights", func() error {
		if !may("users/alice") {
			return fmt.Errorf("alice may not be impersonated")
		}
		return nil
	})
	for _, test := range []struct {
		what string
		want bool
	}{
		{"users/alice", true},
		{"users/bob", false},
		{"users", false},
		{"groups/developers", true},
		{"groups/system:authenticated", true},
		{"groups/system:masters", false},
		{"groups", false},
		{"serviceaccounts/builder", true},
		{"serviceaccounts/deployer", true},
		{"serviceaccounts/default", false},
	} {
		if got := may(test.what, "--namespace=default"); got != test.want {
			t.Errorf("%s: %v", test.what, got)
		}
	}
	if may("serviceaccounts/builder", "--namespace=kube-system") {
		t.Error("a service account of another namespace, with the same name")
	}
}

// README.md's command, with the roles as `tctl get roles --format=json` prints them.
func TestImpersonationOfRoles(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ roles, want string }{
		"names":                 {`[{"spec":{"allow":{"kubernetes_groups":["viewers","developers"],"kubernetes_users":["alice"]}}},{"spec":{"allow":{"kubernetes_groups":["viewers"],"kubernetes_users":["bob"]}}}]`, `{"groups":["developers","viewers"],"users":["alice","bob"]}`},
		"people's own names":    {`[{"spec":{"allow":{"kubernetes_groups":["viewers"]}}},{"spec":{"allow":{"kubernetes_groups":["dev"],"kubernetes_users":["bob"]}}}]`, `{"groups":["dev","viewers"],"users":[]}`},
		"templates":             {`[{"spec":{"allow":{"kubernetes_groups":["viewers","{{internal.kubernetes_groups}}"],"kubernetes_users":["{{email.local(external.email)}}"]}}}]`, `{"groups":[],"users":[]}`},
		"wildcards":             {`[{"spec":{"allow":{"kubernetes_groups":["viewers"],"kubernetes_users":["*"]}}}]`, `{"groups":["viewers"],"users":[]}`},
		"nothing of Kubernetes": {`[{"spec":{"allow":{"rules":[]}}},{"spec":{}}]`, `{"groups":[],"users":[]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := testbed.Run(t.Context(), testbed.Command{
				Args:  []string{"jq", "-c", "-S", "-f", filepath.Join(chartDir(t, kubeAgent), "impersonation.jq")},
				Stdin: strings.NewReader(test.roles),
			})
			if got.Err != nil {
				t.Fatal(got.Err)
			}
			if want := `{"impersonation":` + test.want + "}"; strings.TrimSpace(got.Stdout) != want {
				t.Errorf("got %swant %s", got.Stdout, want)
			}
			r := cookie
			r.values = got.Stdout // JSON is YAML
			r.objects(t)
		})
	}
}
