package charts

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The one piece of state of this package: what is costly to start. TestMain ends it.
var fixture environment

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	fixture.stop()
	os.Exit(code)
}

// environment is made by the first test that asks for it.
type environment struct {
	helmOnce, serverOnce sync.Once
	helmErr, serverErr   error
	cp                   *testbed.ControlPlane
	rendered             sync.Map // what releases render to
}

func (e *environment) stop() {
	if e.cp != nil {
		e.cp.Stop()
	}
}

// logs shows a build's progress, which may take minutes with empty caches.
type logs struct{ t *testing.T }

func (l logs) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}

// helm runs Helm away from the user's settings. kubeconfig "": without a cluster.
func helm(t *testing.T, kubeconfig, stdin string, args ...string) testbed.Result {
	t.Helper()
	fixture.helmOnce.Do(func() { fixture.helmErr = testbed.Build(t.Context(), logs{t}, testbed.Helm) })
	if fixture.helmErr != nil {
		t.Fatal(fixture.helmErr)
	}
	home := t.TempDir()
	env := append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+kubeconfig)
	return testbed.Run(t.Context(), testbed.Command{Args: append([]string{testbed.Bin("helm")}, args...), Env: env, Stdin: strings.NewReader(stdin)})
}

// server is an API server without controllers: it judges objects, and nothing runs.
func server(t *testing.T) *testbed.ControlPlane {
	t.Helper()
	e := &fixture
	e.serverOnce.Do(func() {
		if e.serverErr = testbed.Build(t.Context(), logs{t}, testbed.Hyper, testbed.Etcd); e.serverErr != nil {
			return
		}
		e.cp, e.serverErr = testbed.Start(context.WithoutCancel(t.Context()), testbed.Options{Minimal: true})
	})
	if e.serverErr != nil {
		t.Fatal(e.serverErr)
	}
	return e.cp
}

func chartDir(t *testing.T, chart string) string {
	t.Helper()
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "charts", chart)
}

// charts are the names of all of them.
func charts(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(chartDir(t, "*"), "Chart.yaml"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no charts: %v", err)
	}
	var names []string
	for _, path := range found {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	return names
}

// release is what `helm template` or `helm install` is called with.
type release struct {
	chart, name, namespace string
	values                 string   // YAML
	set                    []string // of --set
}

func (r release) args(t *testing.T, verb ...string) []string {
	t.Helper()
	args := append(slices.Clone(verb), r.name, chartDir(t, r.chart), "--namespace="+r.namespace, "--values=-")
	for _, s := range r.set {
		args = append(args, "--set="+s)
	}
	return args
}

// template renders a release, or says why Helm won't: its message, without what
// Helm writes around it.
func (r release) template(t *testing.T) (string, error) {
	t.Helper()
	got := helm(t, "", r.values, r.args(t, "template")...)
	if got.Err == nil {
		return got.Stdout, nil
	}
	text := strings.TrimSpace(strings.ReplaceAll(got.Stderr, "\nUse --debug flag to render out invalid YAML", ""))
	if i := strings.LastIndex(text, "Error: "); i >= 0 {
		text = text[i+len("Error: "):]
	}
	return "", errors.New(strings.TrimSpace(text))
}

// objects are what a release is made of. What is rendered once is kept: many
// tests look at the same.
func (r release) objects(t *testing.T) []object {
	t.Helper()
	key := fmt.Sprintf("%+v", r)
	if out, ok := fixture.rendered.Load(key); ok {
		return parse(t, out.(string))
	}
	out, err := r.template(t)
	if err != nil {
		t.Fatalf("%s: %v", r.chart, err)
	}
	fixture.rendered.Store(key, out)
	return parse(t, out)
}

// object is a Kubernetes object as the chart has it.
type object map[string]any

func parse(t *testing.T, text string) []object {
	t.Helper()
	var all []object
	for doc := range strings.SplitSeq("\n"+text, "\n---\n") {
		var o object
		if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if len(o) > 0 {
			all = append(all, o)
		}
	}
	return all
}

func (o object) kind() string { return fmt.Sprint(o["kind"]) }
func (o object) name() string { return fmt.Sprint(o.at("metadata", "name")) }

func (o object) String() string { return o.kind() + "/" + o.name() }

// at follows keys into maps; nil if there is nothing.
func (o object) at(path ...string) any {
	var v any = map[string]any(o)
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// pod is the pod that an object makes: its template, or itself. nil: none.
func (o object) pod() object {
	var template any
	switch o.kind() {
	case "Pod":
		template = map[string]any(o)
	case "CronJob":
		template = o.at("spec", "jobTemplate", "spec", "template")
	default:
		template = o.at("spec", "template")
	}
	t, ok := template.(map[string]any)
	if !ok {
		return nil
	}
	spec := maps.Clone(t["spec"].(map[string]any))
	claims, _ := o.at("spec", "volumeClaimTemplates").([]any)
	for _, claim := range claims { // as the controller puts them in
		name := object(claim.(map[string]any)).name()
		volumes, _ := spec["volumes"].([]any)
		spec["volumes"] = append(slices.Clone(volumes), map[string]any{"name": name, "persistentVolumeClaim": map[string]any{"claimName": name + "-" + o.name() + "-0"}})
	}
	return object{
		"apiVersion": "v1", "kind": "Pod", "spec": spec,
		"metadata": map[string]any{
			"name": strings.ToLower(o.kind()) + "-" + o.name(), "namespace": o.at("metadata", "namespace"),
			"labels": object(t).at("metadata", "labels"), "annotations": object(t).at("metadata", "annotations"),
		},
	}
}

func find(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	for _, o := range objects {
		if o.kind() == kind && o.name() == name {
			return o
		}
	}
	t.Fatalf("no %s/%s among %v", kind, name, objects)
	return nil
}

// sets are the value sets of a chart that have golden files. The first line of
// each says of what release it is: "# NAME in NAMESPACE: what it shows".
func sets(t *testing.T, chart string) map[string]release {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", chart, "*.values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]release)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r := release{chart: chart, values: string(b)}
		head, _, ok := strings.Cut(r.values, ":")
		if _, err := fmt.Sscanf(head, "# %s in %s", &r.name, &r.namespace); !ok || err != nil {
			t.Fatalf("%s: the first line is no \"# RELEASE in NAMESPACE: what it shows\"", file)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".values.yaml")] = r
	}
	if len(all) == 0 {
		t.Fatalf("no value sets in testdata/%s", chart)
	}
	return all
}

// refusal is values with which nothing is rendered, and a part of the message.
type refusal struct {
	name   string
	values string
	set    []string
	want   []string
}

// refuses checks that a chart refuses values with the messages that are wanted.
func refuses(t *testing.T, r release, all []refusal) {
	t.Helper()
	for _, test := range all {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := r
			r.values, r.set = r.values+"\n"+test.values, append(slices.Clone(r.set), test.set...)
			out, err := r.template(t)
			if err == nil {
				t.Fatalf("rendered:\n%s", out)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q\nwant %q in it", err, want)
				}
			}
		})
	}
}

// leaves are the keys of a map with dots between them, down to what is no map or an empty one.
func leaves(prefix string, v any) []string {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return []string{prefix}
	}
	var all []string
	for key, value := range m {
		if prefix != "" {
			key = prefix + "." + key
		}
		all = append(all, leaves(key, value)...)
	}
	slices.Sort(all)
	return all
}
