package charts

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func TestChartsPassLint(t *testing.T) {
	t.Parallel()
	for _, chart := range charts(t) {
		for name, r := range sets(t, chart) {
			t.Run(chart+"/"+name, func(t *testing.T) {
				t.Parallel()
				if got := helm(t, "", r.values, "lint", "--strict", "--quiet", chartDir(t, chart), "--namespace="+r.namespace, "--values=-"); got.Err != nil {
					t.Errorf("%s%s", got.Stdout, got.Stderr)
				}
			})
		}
	}
}

func TestObjectsAreThoseOfTheGoldenFiles(t *testing.T) {
	t.Parallel()
	for _, chart := range charts(t) {
		for name, r := range sets(t, chart) {
			t.Run(chart+"/"+name, func(t *testing.T) {
				t.Parallel()
				got, err := r.template(t)
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join("testdata", chart, name+".golden.yaml")
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatalf("%v (go test ./charts -update writes it)", err)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("go test ./charts -update, if it is as it should be (-golden +rendered):\n%s", diff)
				}
				// Argo CD renders again and again, and applies what differs.
				again, err := r.template(t)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(got, again); diff != "" {
					t.Errorf("rendered twice, it differs:\n%s", diff)
				}
			})
		}
	}
}

// Whoever reads values.yaml or the README knows every value that there is, and
// the schema refuses every other.
func TestValuesSchemaAndReadmeSayTheSame(t *testing.T) {
	t.Parallel()
	for _, chart := range charts(t) {
		t.Run(chart, func(t *testing.T) {
			t.Parallel()
			var values map[string]any
			read(t, &values, chartDir(t, chart), "values.yaml")
			var schema map[string]any
			read(t, &schema, chartDir(t, chart), "values.schema.json")
			for _, problem := range undeclared("", values, schema) {
				t.Error(problem)
			}
			readme, err := os.ReadFile(filepath.Join(chartDir(t, chart), "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range leaves("", values) {
				if !mentions(string(readme), key) {
					t.Errorf("README.md does not mention `%s`", key)
				}
			}
		})
	}
}

func read(t *testing.T, into any, path ...string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err == nil {
		err = yaml.UnmarshalStrict(b, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", filepath.Join(path...), err)
	}
}

// undeclared are values without a place in the schema, and objects there that
// would take any key though values.yaml lists theirs.
func undeclared(prefix string, values, schema map[string]any) (problems []string) {
	properties, _ := schema["properties"].(map[string]any)
	if schema["additionalProperties"] != false {
		problems = append(problems, fmt.Sprintf("the schema lets any key into %q: additionalProperties is not false", prefix))
	}
	for key, value := range values {
		sub, ok := properties[key].(map[string]any)
		if !ok {
			problems = append(problems, fmt.Sprintf("the schema does not know %s%s", prefix, key))
			continue
		}
		if inner, ok := value.(map[string]any); ok && len(inner) > 0 && sub["properties"] != nil {
			problems = append(problems, undeclared(prefix+key+".", inner, sub)...)
		}
	}
	slices.Sort(problems)
	return problems
}

// mentions says whether `key`, or one that holds it, stands in the text: a line
// on `resources` speaks of resources.requests.cpu too.
func mentions(text, key string) bool {
	for key != "" {
		if strings.Contains(text, "`"+key+"`") {
			return true
		}
		i := strings.LastIndex(key, ".")
		if i < 0 {
			return false
		}
		key = key[:i]
	}
	return false
}

// The API server takes every object of every value set, each pod too that is made
// from them, in namespaces with the Pod Security level restricted.
func TestServerTakesAllObjects(t *testing.T) {
	t.Parallel()
	cp := server(t)
	var prepared, all []object
	namespaces := map[string]bool{}
	for _, chart := range charts(t) {
		for name, r := range sets(t, chart) {
			if !namespaces[r.namespace] {
				namespaces[r.namespace] = true
				prepared = append(prepared, namespace(r.namespace), serviceAccount(r.namespace, "default"))
			}
			for _, o := range r.objects(t) {
				all = append(all, o)
				if o.kind() == "ServiceAccount" {
					prepared = append(prepared, serviceAccount(r.namespace, o.name()))
				}
				if pod := o.pod(); pod != nil {
					pod["metadata"].(map[string]any)["name"] = fmt.Sprintf("%s-%s-%s", chart, name, pod.name())
					if pod.at("spec", "restartPolicy") == nil {
						pod["spec"].(map[string]any)["restartPolicy"] = "Always"
					}
					all = append(all, pod)
				}
			}
		}
	}
	apply(t, cp, monitorKinds())
	apply(t, cp, prepared)
	testbed.Wait(t, testbed.Patience, "the kinds of the Prometheus operator", func() error {
		return cp.Kubectl(t.Context(), "get", "servicemonitors,podmonitors", "-A").Err
	})
	apply(t, cp, all, "--dry-run=server", "--validate=strict")

	// Does the level bite?
	bad := object{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "bad", "namespace": prepared[0].name()},
		"spec": map[string]any{"containers": []any{map[string]any{"name": "bad", "image": "bad"}}}}
	if got := kubectlApply(t, cp, []object{bad}, "--dry-run=server"); !strings.Contains(got.Stderr, `violates PodSecurity "restricted:latest"`) {
		t.Errorf("a pod with all rights was let in: %s%s", got.Stdout, got.Stderr)
	}
}

func namespace(name string) object {
	labels := map[string]any{}
	for _, mode := range []string{"enforce", "warn"} { // templates are only warned of
		labels["pod-security.kubernetes.io/"+mode] = "restricted"
	}
	return object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": labels}}
}

func serviceAccount(namespace, name string) object {
	return object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": name, "namespace": namespace}}
}

// monitorKinds stand in for those of the Prometheus operator, with any content.
func monitorKinds() (all []object) {
	for _, kind := range []string{"ServiceMonitor", "PodMonitor"} {
		plural := strings.ToLower(kind) + "s"
		all = append(all, object{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": plural + ".monitoring.coreos.com"},
			"spec": map[string]any{
				"group": "monitoring.coreos.com", "scope": "Namespaced",
				"names": map[string]any{"kind": kind, "plural": plural, "singular": strings.ToLower(kind)},
				"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{
					"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
				}}},
			},
		})
	}
	return all
}

// kubectlApply goes by the server's own apply: one request for each object.
func kubectlApply(t *testing.T, cp *testbed.ControlPlane, objects []object, flags ...string) testbed.Result {
	t.Helper()
	b, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{testbed.Bin("kubectl"), "--kubeconfig=" + cp.Kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-"}, flags...)
	return testbed.Run(t.Context(), testbed.Command{Args: args, Stdin: strings.NewReader(string(b))})
}

// apply fails on warnings too: of what Pod Security would refuse, of fields that are no more.
func apply(t *testing.T, cp *testbed.ControlPlane, objects []object, flags ...string) {
	t.Helper()
	if got := kubectlApply(t, cp, objects, flags...); got.Err != nil || strings.Contains(got.Stderr, "Warning:") {
		t.Fatalf("kubectl apply %v: %v\n%s", flags, got.Err, got.Stderr)
	}
}

// What the state is sealed by is never in what is rendered, nor in a release's record.
func TestNoSecretIsMadeUp(t *testing.T) {
	t.Parallel()
	for _, r := range sets(t, "sallyport-cluster") {
		for _, o := range r.objects(t) {
			if o.kind() == "Secret" {
				t.Errorf("%s", o)
			}
		}
	}
}
