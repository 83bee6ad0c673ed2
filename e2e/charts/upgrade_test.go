package charts

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// onServer is a release that is installed and upgraded on a real API server, in a namespace of its own.
type onServer struct {
	t  *testing.T
	cp *testbed.ControlPlane
	r  release
}

func (o onServer) run(verb string, set ...string) testbed.Result {
	o.t.Helper()
	return helm(o.t, o.cp.Kubeconfig, "", o.r.with(set...).args(o.t, strings.Fields(verb)...)...)
}

// notes are what Helm prints when all goes well.
func (o onServer) notes(verb string, set ...string) string {
	o.t.Helper()
	got := o.run(verb, set...)
	if got.Err != nil {
		o.t.Fatalf("helm %s %v: %s", verb, set, got.Stderr)
	}
	return got.Stdout
}

// refused wants an upgrade to end with all these words, and Kubernetes not asked.
func (o onServer) refused(set string, want ...string) {
	o.t.Helper()
	got := o.run("upgrade", set)
	if got.Err == nil {
		o.t.Errorf("helm upgrade %s: done", set)
	}
	for _, want := range want {
		if !strings.Contains(got.Stderr, want) {
			o.t.Errorf("helm upgrade %s: got %s\nwant %q in it", set, got.Stderr, want)
		}
	}
}

// The name is in every certificate: a replica under another would end again and again.
func TestAnUpgradeToAnotherClusterNameIsRefused(t *testing.T) {
	t.Parallel()
	o := onServer{t, server(t), tele}
	o.r.namespace = "renamed"
	// Containers beside the replica may have a variable of that name, too.
	beside := []string{"extraContainers[0].name=aaa", "extraContainers[0].image=x", "extraContainers[0].env[0].name=SALLYPORT_CLUSTER_NAME", "extraContainers[0].env[0].value=aaa"}
	o.notes("install --create-namespace", beside...)
	o.refused("clusterName=other.example.com", "clusterName=other.example.com: this is the cluster tele.example.com", "set it back", "A new name is a new cluster")
	o.refused("clusterName=null", "clusterName is missing", "set it back, clusterName=tele.example.com")
	o.notes("upgrade", "podLabels.a=b")
}

// Kubernetes lets nobody change them in a StatefulSet, and says so without a way out.
func TestAnUpgradeToOtherVolumesIsRefused(t *testing.T) {
	t.Parallel()
	o := onServer{t, server(t), tele}
	o.r.namespace = "volumes"
	// One size has many spellings, and Kubernetes keeps its own.
	for _, spellings := range [][]string{{"1.5Ti", "1536Gi"}, {"0.1Gi", "0.1Gi"}, {"1.00001Gi", "1.00001Gi"}, {"1e10", "10G", "10000M"}, {".5Gi", "512Mi", "536870912"}} {
		o.r.name = "tele-" + strings.ToLower(strings.ReplaceAll(strings.Trim(spellings[0], "."), ".", "-"))
		verb := "install --create-namespace"
		for _, size := range spellings {
			o.r.values = "persistence: {volumeSize: '" + size + "'}"
			o.notes(verb)
			verb = "upgrade"
		}
	}
	o.r.name, o.r.values = tele.name, ""
	o.notes("install")
	const page = `docs/ha.md, "Larger volumes"`
	o.refused("persistence.volumeSize=20Gi", "persistence.volumeSize=20Gi: the volumes are of 10Gi", page)
	o.refused("persistence.volumeSize=10G", "persistence.volumeSize=10G: the volumes are of 10Gi", page)
	o.refused("persistence.storageClassName=fast", `persistence.storageClassName="fast": the volumes are of ""`, page)
	// That page's procedure. Without controllers nobody would orphan the pods; there are none.
	if got := o.cp.Kubectl(t.Context(), "delete", "statefulset", "tele", "--namespace="+o.r.namespace); got.Err != nil {
		t.Fatalf("%v: %s", got.Err, got.Stderr)
	}
	o.notes("upgrade", "persistence.volumeSize=20Gi", "persistence.storageClassName=fast")
	got := o.cp.Kubectl(t.Context(), "get", "statefulset", "tele", "--namespace="+o.r.namespace, "-o=jsonpath={.spec.volumeClaimTemplates[*].spec.resources.requests.storage}")
	if got.Stdout != "20Gi" {
		t.Errorf("made anew with %q: %s", got.Stdout, got.Stderr)
	}
	o.refused("persistence.volumeSize=20Gi", `persistence.storageClassName="": the volumes are of "fast"`, page)
}

// Who upgrades has users already, and installed nothing.
func TestNotesOfAnUpgradeAreNotThoseOfAnInstall(t *testing.T) {
	t.Parallel()
	o := onServer{t, server(t), tele}
	o.r.namespace = "notes"
	first := []string{"is being installed as tele", "Create the first user", "tsh login --proxy"}
	notes := o.notes("install --create-namespace")
	for _, want := range first {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q after an install:\n%s", want, notes)
		}
	}
	notes = o.notes("upgrade")
	for _, not := range first {
		if strings.Contains(notes, not) {
			t.Errorf("%q after an upgrade:\n%s", not, notes)
		}
	}
	for _, want := range []string{"is being upgraded as tele", "rollout status statefulset/tele", "/webapi/ping"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q after an upgrade:\n%s", want, notes)
		}
	}
}

// Pods wait for a Secret that may come later; who mistyped its name would look for long.
func TestNotesNameSecretsThatAreNotThere(t *testing.T) {
	t.Parallel()
	o := onServer{t, server(t), tele}
	o.r.namespace = "secrets"
	const want = "tls.existingSecretName: there is no Secret web in namespace secrets: replicas wait"
	set := "tls.existingSecretName=web"
	if notes := o.notes("install --create-namespace", set); !strings.Contains(notes, want) {
		t.Errorf("no %q in\n%s", want, notes)
	}
	apply(t, o.cp, []object{{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "web", "namespace": o.r.namespace}}})
	if notes := o.notes("upgrade", set); strings.Contains(notes, "there is no Secret") {
		t.Errorf("it is there:\n%s", notes)
	}
}
