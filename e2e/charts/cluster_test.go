package charts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

const cluster = "sallyport-cluster"

// tele is the least that the chart needs.
var tele = release{chart: cluster, name: "tele", namespace: "sallyport", set: []string{"clusterName=tele.example.com"}}

func TestClusterValuesThatCantWorkAreRefused(t *testing.T) {
	t.Parallel()
	refuses(t, release{chart: cluster, name: "tele", namespace: "sallyport"}, []refusal{
		{name: "no name", want: []string{"clusterName is missing: the public DNS name that users will type, such as --set clusterName=tele.example.com"}},
		{name: "name with a port", set: []string{"clusterName=tele.example.com:443"}, want: []string{`"tele.example.com:443" is no DNS name`}},
		{name: "name of a variable", set: []string{"clusterName=${CLUSTER_NAME?}"}, want: []string{"is no DNS name"}},
	})
	refuses(t, tele, []refusal{
		{name: "typo", set: []string{"acmeEmial=a@example.com"}, want: []string{"'acmeEmial' not allowed"}},
		{name: "typo below", set: []string{"highAvailability.replicas=5"}, want: []string{"/highAvailability", "'replicas' not allowed"}},
		{name: "no replicas", set: []string{"highAvailability.replicaCount=0"}, want: []string{"/highAvailability/replicaCount", "minimum"}},
		{name: "type", set: []string{"service.type=Ingress"}, want: []string{"/service/type", "LoadBalancer"}},
		{name: "address without port", set: []string{"publicAddr=login.example.com"}, want: []string{`publicAddr: "login.example.com" is no address: write HOST:PORT`}},
		{name: "two certificates", set: []string{"acme=true", "tls.existingSecretName=x"}, want: []string{"acme=true and tls.existingSecretName contradict each other"}},
		{name: "ACME's settings without it", set: []string{"acmeHTTPPort=80", "acmeURI=https://acme.example.com/dir"}, want: []string{"- acmeHTTPPort does nothing without ACME", "- acmeURI does nothing without ACME"}},
		{name: "PROXY protocol from nobody", values: "proxyProtocol: on", want: []string{"proxyProtocol=on without trustedProxies believes nobody"}},
		{name: "proxies without protocol", set: []string{"trustedProxies={10.0.0.0/8}"}, want: []string{"trustedProxies does nothing while proxyProtocol is off"}},
		{name: "label with a comma", values: "labels: {team: 'a,b'}", want: []string{"labels.team: a comma can't be in a label"}},
		{name: "two ports of one number", set: []string{"acme=true", "acmeHTTPPort=443"}, want: []string{"acmeHTTPPort=443 is a port of the Service already"}},
		{name: "no time to stop", set: []string{"terminationGracePeriodSeconds=15"}, want: []string{"write at least shutdownDelaySeconds + 15, which is 20"}},
		{name: "one claim for three", set: []string{"persistence.existingClaimName=x"}, want: []string{"Make claims named data-tele-0, -1"}},
		{name: "label of replicas", set: []string{"podLabels.app=x"}, want: []string{"podLabels: app is what replicas are found by"}},
		{name: "service's ports", set: []string{"service.spec.type=NodePort"}, want: []string{"service.spec.type: write service.type instead"}},
		{name: "variable of the chart", set: []string{"extraEnv[0].name=SALLYPORT_JOIN"}, want: []string{"extraEnv: the chart sets SALLYPORT_JOIN already"}},
		{name: "both monitors", set: []string{"serviceMonitor.enabled=true", "podMonitor.enabled=true"}, want: []string{"choose one"}},
		{name: "anti-affinity twice", values: "affinity: {podAntiAffinity: {x: 1}}", set: []string{"highAvailability.requireAntiAffinity=true"}, want: []string{"say the same twice"}},
		{name: "several at once", set: []string{"podLabels.app=x", "chartMode=aws"}, want: []string{"\n- podLabels", "\n- chartMode"}},
	})
}

// helm upgrade --reuse-values brings all values of the chart before, those too that are gone.
func TestClusterTakesTheDefaultsOfTheChartBefore(t *testing.T) {
	t.Parallel()
	tele.with("nameOverride=", "clusterSecret.ttlSecondsAfterFinished=600", "audit.segmentSize=", "audit.spoolSize=").objects(t)
	refuses(t, tele, []refusal{
		{name: "nameOverride", set: []string{"nameOverride=x"}, want: []string{"nameOverride=x: ", "take nameOverride out"}},
		{name: "ttlSecondsAfterFinished", set: []string{"clusterSecret.ttlSecondsAfterFinished=60"}, want: []string{"clusterSecret.ttlSecondsAfterFinished=60: ", "take it out"}},
		{name: "segmentSize", set: []string{"audit.segmentSize=1048576"}, want: []string{"audit.segmentSize=1048576: write it as SALLYPORT_AUDIT_SEGMENT_SIZE in extraEnv"}},
		{name: "spoolSize", values: "audit: {spoolSize: 1073741824}", want: []string{"audit.spoolSize=1073741824: write it as SALLYPORT_AUDIT_SPOOL_SIZE in extraEnv"}},
	})
}

// Whoever comes from Teleport's chart is told what to write instead.
func TestClusterValuesThatMeanSomethingElseAreRefused(t *testing.T) {
	t.Parallel()
	refuses(t, tele, []refusal{
		{name: "chartMode", set: []string{"chartMode=aws"}, want: []string{"take chartMode out"}},
		{name: "proxyListenerMode", set: []string{"proxyListenerMode=separate"}, want: []string{"take proxyListenerMode out"}},
		{name: "authenticationType", set: []string{"authenticationType=github"}, want: []string{"create the connector with `tctl create -f`"}},
		{name: "teleportVersionOverride", set: []string{"teleportVersionOverride=9.9.9"}, want: []string{"write image.tag=9.9.9 instead"}},
		{name: "enterpriseImage", set: []string{"enterpriseImage=x"}, want: []string{"write image.repository and image.tag instead"}},
		{name: "image", set: []string{"image=registry.example.com/x:1"}, want: []string{"write image.repository and image.tag instead"}},
		{name: "certManager", set: []string{"highAvailability.certManager.enabled=true"}, want: []string{"use acme=true, or tls.existingSecretName"}},
		{name: "podSecurityPolicy", set: []string{"podSecurityPolicy.enabled=true"}, want: []string{"pod-security.kubernetes.io/enforce=restricted"}},
		{name: "standalone", set: []string{"standalone.volumeSize=5Gi"}, want: []string{"write persistence.volumeSize=5Gi instead"}},
		{name: "log.output", set: []string{"log.output=syslog"}, want: []string{"take log.output out"}},
		{name: "log.extraFields", set: []string{"log.extraFields={caller}"}, want: []string{"log.format=json writes all of them"}},
	})
	holds := tele
	holds.set = append(slices.Clone(tele.set), "chartMode=standalone", "proxyListenerMode=multiplex", "authenticationType=local", "log.output=stderr",
		"podSecurityPolicy.enabled=false", "highAvailability.certManager.enabled=false", "enterprise=true")
	out, err := holds.template(t)
	if err != nil {
		t.Fatalf("what holds anyway is refused: %v", err)
	}
	plain, err := tele.template(t)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain, out); diff != "" {
		t.Errorf("what should change nothing changes:\n%s", diff)
	}
}

// The guide takes the first pod with the label for a replica.
func TestNoPodButAReplicaHasItsLabel(t *testing.T) {
	t.Parallel()
	for name, r := range sets(t, cluster) {
		for _, o := range r.objects(t) {
			pod := o.pod()
			if pod == nil {
				continue
			}
			got, _ := pod.at("metadata", "labels").(map[string]any)
			if (got["app"] == r.name) != (o.kind() == "StatefulSet") {
				t.Errorf("%s: pods of %s have the label app=%v", name, o, got["app"])
			}
		}
	}
}

// environ are the settings of the replicas by their variables.
func environ(t *testing.T, objects []object, name string) map[string]string {
	t.Helper()
	containers, _ := find(t, objects, "StatefulSet", name).at("spec", "template", "spec", "containers").([]any)
	out := make(map[string]string)
	list, _ := containers[0].(map[string]any)["env"].([]any)
	for _, entry := range list {
		e := entry.(map[string]any)
		if _, dup := out[e["name"].(string)]; dup {
			t.Errorf("%v is set twice", e["name"])
		}
		out[e["name"].(string)] = fmt.Sprint(e["value"])
	}
	return out
}

// since says which Kubernetes first had an API.
func since(apiVersion string) int {
	minor, ok := map[string]int{"v1": 0, "apps/v1": 9, "batch/v1": 21, "policy/v1": 21, "networking.k8s.io/v1": 7, "rbac.authorization.k8s.io/v1": 8, "monitoring.coreos.com/v1": 0}[apiVersion]
	if !ok {
		return 99
	}
	return minor
}

// Chart.yaml states the true least: what needs it is there, and nothing newer.
// batch/v1 is older, but its Jobs know ttlSecondsAfterFinished since then.
func TestLeastKubernetesIsTheTrueOne(t *testing.T) {
	t.Parallel()
	for _, name := range charts(t) {
		var chart map[string]any
		read(t, &chart, chartDir(t, name), "Chart.yaml")
		newest := 0
		for _, r := range sets(t, name) {
			for _, o := range r.objects(t) {
				newest = max(newest, since(fmt.Sprint(o["apiVersion"])))
			}
		}
		if want := fmt.Sprintf(">=1.%d.0-0", newest); chart["kubeVersion"] != want {
			t.Errorf("kubeVersion of %s is %s, and what is rendered needs %s", name, chart["kubeVersion"], want)
		}
	}
}

// A replica that founds alone and one that joins others contradict each other.
func TestReplicasFindEachOther(t *testing.T) {
	t.Parallel()
	for replicas, join := range map[int]string{1: "", 3: "tele-peers.sallyport.svc:7946", 5: "tele-peers.sallyport.svc:7946"} {
		r := tele
		r.set = append(slices.Clone(tele.set), fmt.Sprintf("highAvailability.replicaCount=%d", replicas))
		env := environ(t, r.objects(t), "tele")
		if got := env["SALLYPORT_BOOTSTRAP_EXPECT"]; got != fmt.Sprint(replicas) {
			t.Errorf("of %d replicas %s found the cluster", replicas, got)
		}
		if got := env["SALLYPORT_JOIN"]; got != join {
			t.Errorf("%d replicas look for others at %q, want %q", replicas, got, join)
		}
		// One that is alone is known by its name too: it is how those that come later reach it.
		if got := env["SALLYPORT_PEER_ADVERTISE"]; got != "$(POD).tele-peers.sallyport.svc:7443" {
			t.Errorf("%d replicas: advertised as %q", replicas, got)
		}
	}
}

// A Job can't be changed: with another image it must have another name, and with
// the same values the same, or an upgrade fails.
func TestSecretJobIsNamedByItsSpec(t *testing.T) {
	t.Parallel()
	name := func(set ...string) string {
		r := tele
		r.set = append(slices.Clone(tele.set), set...)
		for _, o := range r.objects(t) {
			if o.kind() == "Job" {
				return o.name()
			}
		}
		return ""
	}
	plain := name()
	if got := name("highAvailability.replicaCount=5"); got != plain {
		t.Errorf("another number of replicas makes another Job: %s, then %s", plain, got)
	}
	if got := name("image.tag=2.0.0"); got == plain {
		t.Errorf("another image changes the Job %s", got)
	}
	if got := name("clusterSecret.existingSecret=x"); got != "" {
		t.Errorf("a Secret that exists, and the Job %s", got)
	}
	long := tele
	long.name = strings.Repeat("n", 53) // Helm's longest
	for _, o := range long.objects(t) {
		limit := 63
		switch o.kind() {
		case "StatefulSet":
			limit = 52 // what Kubernetes puts behind it goes into a label
		case "ClusterRole", "ClusterRoleBinding":
			limit = 253 // they are of the namespace's name, too
		}
		if len(o.name()) > limit {
			t.Errorf("%s has a name of %d letters, %d are possible", o, len(o.name()), limit)
		}
	}
}

// Against an API server: what lookup sees, and the text people read.
func TestClusterReleasesOnAServer(t *testing.T) {
	t.Parallel()
	cp := server(t)
	r := tele
	r.namespace = "releases"
	run := func(verb string, set ...string) testbed.Result {
		t.Helper()
		r := r
		r.set = append(slices.Clone(r.set), set...)
		return helm(t, cp.Kubeconfig, "", r.args(t, strings.Fields(verb)...)...)
	}
	must := func(verb string, set ...string) string {
		t.Helper()
		got := run(verb, set...)
		if got.Err != nil {
			t.Fatalf("helm %s %v: %s", verb, set, got.Stderr)
		}
		return got.Stdout
	}
	notes := must("install --create-namespace", "highAvailability.replicaCount=1", "enterprise=true", "persistence.enabled=true")
	for _, want := range []string{
		"kubectl -n releases rollout status statefulset/tele", "tctl users add alice --k8s-groups=system:masters",
		"if it has a hostname, CNAME records", "One replica: nobody can log in while it restarts", "enterprise=true changes nothing",
		"get secret tele-cluster-secret",
	} {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q in\n%s", want, notes)
		}
	}
	for _, replicas := range []int{3, 5} {
		must("upgrade", fmt.Sprintf("highAvailability.replicaCount=%d", replicas))
	}
	for _, verb := range []string{"upgrade", "upgrade --dry-run=server"} {
		if got := run(verb, "highAvailability.replicaCount=3"); got.Err == nil ||
			!strings.Contains(got.Stderr, "highAvailability.replicaCount=3: there are 5 replicas, and a cluster can't be made smaller yet") {
			t.Errorf("helm %s to fewer replicas: %v, %s", verb, got.Err, got.Stderr)
		}
	}
	if notes := must("upgrade", "highAvailability.replicaCount=6", "image.tag=2.0.0", "acme=true"); !strings.Contains(notes, "6 replicas survive no more failures than 5 do") ||
		!strings.Contains(notes, "acmeEmail is not set") {
		t.Errorf("notes:\n%s", notes)
	}
	status := func(ready int) {
		t.Helper()
		patch := fmt.Sprintf(`{"status":{"replicas":6,"readyReplicas":%d}}`, ready)
		if got := cp.Kubectl(t.Context(), "patch", "statefulset", "tele", "--namespace=releases", "--subresource=status", "--type=merge", "--patch="+patch); got.Err != nil {
			t.Fatalf("%v: %s", got.Err, got.Stderr)
		}
	}
	// Running replicas have the last copy of a Secret that was deleted: no Job may put another in its place.
	status(6)
	if got := run("upgrade", "highAvailability.replicaCount=6"); got.Err == nil || !strings.Contains(got.Stderr, "the Secret tele-cluster-secret is gone") {
		t.Errorf("upgrade without the cluster secret: %v, %s", got.Err, got.Stderr)
	}
	apply(t, cp, []object{{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "tele-cluster-secret", "namespace": "releases"},
	}})
	if notes := must("upgrade", "highAvailability.replicaCount=6", "highAvailability.upgradeWhileDown=true"); !strings.Contains(notes, "no upgrade is refused") {
		t.Errorf("notes:\n%s", notes)
	}
	// Helm owns neither the Secret nor the volumes: they stay, and those who come back to them need to be as many.
	if got := helm(t, cp.Kubeconfig, "", "uninstall", "tele", "--namespace=releases"); got.Err != nil {
		t.Fatalf("uninstall: %s", got.Stderr)
	}
	apply(t, cp, []object{{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": map[string]any{"name": "data-tele-3", "namespace": "releases"},
		"spec": map[string]any{"accessModes": []string{"ReadWriteOnce"}, "resources": map[string]any{"requests": map[string]any{"storage": "1Gi"}}},
	}})
	if got := run("install"); got.Err == nil || !strings.Contains(got.Stderr, "there is the claim data-tele-3 of one replica more") {
		t.Errorf("install over more volumes: %v, %s", got.Err, got.Stderr)
	}
	must("install", "highAvailability.replicaCount=4")
}

// The last replica is replaced first. If it is ready and another is not, that may end the majority
// before it mends anything; if it is down itself, it never does.
func TestUpgradesThatWouldEndTheMajorityAreRefused(t *testing.T) {
	t.Parallel()
	cp := server(t)
	for replicas, cases := range map[int]map[string]string{ // down: what the message says
		3: {
			"": "", "2": "", "1,2": "", "0,1": "",
			"0": "2 of 3 replicas are ready, just a majority, and an upgrade begins with one of these, tele-2: nobody could log in until that is back. Mend tele-0 first",
			"1": "Mend tele-1 first",
		},
		5: {"0": "", "3": "", "4": "", "3,4": "", "0,4": "", "1,2,3": "", "1,3": "3 of 5 replicas are ready", "0,1": "Mend tele-0, tele-1 first"},
		1: {"": "", "0": ""},
	} {
		r := tele.with(fmt.Sprintf("highAvailability.replicaCount=%d", replicas))
		r.namespace = fmt.Sprintf("majority-of-%d", replicas)
		objects := r.objects(t)
		prepared := []object{namespace(r.namespace), serviceAccount(r.namespace, "default"), serviceAccount(r.namespace, "tele")}
		stateful := find(t, objects, "StatefulSet", "tele")
		for i := range replicas {
			pod := stateful.pod()
			pod["metadata"].(map[string]any)["name"] = fmt.Sprintf("tele-%d", i)
			prepared = append(prepared, pod)
		}
		apply(t, cp, append(prepared, stateful))
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			t.Parallel()
			is := make([]bool, replicas)
			for _, down := range slices.Sorted(maps.Keys(cases)) {
				for i := range is {
					if ready := !slices.Contains(strings.Split(down, ","), fmt.Sprint(i)); ready != is[i] {
						setReady(t, cp, r.namespace, fmt.Sprintf("tele-%d", i), ready)
						is[i] = ready
					}
				}
				check := func(want string, set ...string) {
					t.Helper()
					got := helm(t, cp.Kubeconfig, "", r.with(set...).args(t, "template", "--dry-run=server")...)
					if want == "" && got.Err != nil || want != "" && (got.Err == nil || !strings.Contains(got.Stderr, want)) {
						t.Errorf("%q down, %v: %v, %s", down, set, got.Err, got.Stderr)
					}
				}
				check(cases[down])
				if cases[down] != "" {
					check("", "highAvailability.upgradeWhileDown=true")
					check("", "updateStrategy.type=OnDelete")
				}
			}
		})
	}
}

// setReady says of a pod what a kubelet would.
func setReady(t *testing.T, cp *testbed.ControlPlane, namespace, pod string, ready bool) {
	t.Helper()
	status := map[bool]string{true: "True", false: "False"}[ready]
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"PodScheduled","status":"True"},{"type":"Ready","status":%q}]}}`, status)
	if got := cp.Kubectl(t.Context(), "patch", "pod", pod, "--namespace="+namespace, "--subresource=status", "--type=merge", "--patch="+patch); got.Err != nil {
		t.Fatalf("%v: %s", got.Err, got.Stderr)
	}
}
