package charts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Helm has whole numbers of a values file as floats; --set, which tests like to use, doesn't.
func TestNumbersOfAValuesFileStayWhole(t *testing.T) {
	t.Parallel()
	r := tele
	r.values = `
audit: {maxSize: 10737418240, maxAge: 90d}
labels: {id: 12345678, ratio: 0.5, live: true}
maxStale: 0
acme: true
acmeHTTPPort: 80
podSecurityContext: {runAsUser: 1000740000}
`
	objects := r.objects(t)
	env := environ(t, objects, "tele")
	for name, want := range map[string]string{
		"SALLYPORT_AUDIT_MAX_SIZE": "10737418240", "SALLYPORT_AUDIT_MAX_AGE": "90d",
		"SALLYPORT_KUBE_LABELS": "id=12345678,live=true,ratio=0.5", "SALLYPORT_MAX_STALE": "0",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	a := cookie
	a.values = `
labels: {id: 12345678, ratio: 0.5, live: true}
podSecurityContext: {runAsUser: 1000740000}
`
	if got := environ(t, a.objects(t), "agent")["SALLYPORT_AGENT_LABELS"]; got != "id=12345678,live=true,ratio=0.5" {
		t.Errorf("an agent's labels are %q", got)
	}
	for _, r := range []release{r, a} {
		text, err := r.template(t)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "e+") {
			t.Errorf("%s: a number is written with an exponent", r.chart)
		}
	}
}

// A pin is what --ca-pin takes (api.ParsePin), and a size what Kubernetes takes.
func TestFormsOfValues(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("0a", 32)
	pin := []string{"/caPin", "does not match pattern"}
	refuses(t, cookie, []refusal{
		{name: "pin without sha256", set: []string{"caPin=" + digest}, want: pin},
		{name: "pin of another length", set: []string{"caPin=sha256:0a"}, want: pin},
		{name: "pin of other letters", set: []string{"caPin={sha256:" + strings.Repeat("xy", 32) + "}"}, want: pin},
		{name: "a wrong one of two", set: []string{`caPin=sha256:` + digest + `\,sha256`}, want: pin},
	})
	for set, want := range map[string]string{
		"caPin=":                       "",
		"caPin=sha256:" + digest:       "sha256:" + digest,
		"caPin=SHA256:0A" + digest[2:]: "SHA256:0A" + digest[2:],
		`caPin=sha256:` + digest + `\,sha256:` + digest:       "sha256:" + digest + ",sha256:" + digest,
		"caPin={sha256:" + digest + ",sha256:" + digest + "}": "sha256:" + digest + ",sha256:" + digest,
	} {
		if got := environ(t, cookie.with(set).objects(t), "agent")["SALLYPORT_AGENT_CA_PIN"]; got != want {
			t.Errorf("%s: the agent is given %q", set, got)
		}
	}
	var sizes []refusal
	for _, size := range []string{"10GB", "10gi", "10 Gi", "ten", "-1Gi", "10Mib"} {
		if _, err := resource.ParseQuantity(size); err == nil && size != "-1Gi" {
			t.Errorf("Kubernetes takes %s", size)
		}
		sizes = append(sizes, refusal{name: size, set: []string{"persistence.volumeSize=" + size}, want: []string{"/persistence/volumeSize", "does not match pattern"}})
	}
	refuses(t, tele, sizes)
	for _, size := range []string{"10Gi", "1.5Ti", "500M", "1e10", "0.5Gi", "20G"} {
		tele.with("persistence.volumeSize=" + size).objects(t)
		if _, err := resource.ParseQuantity(size); err != nil {
			t.Errorf("%s: %v", size, err)
		}
	}
}

// A replica would end with what it can't read, one after the other.
func TestDurationsAndLevelsThatReplicasCantReadAreRefused(t *testing.T) {
	t.Parallel()
	for value, name := range map[string]string{"maxStale": "SALLYPORT_MAX_STALE", "audit.maxAge": "SALLYPORT_AUDIT_MAX_AGE"} {
		var all []refusal
		for _, text := range []string{"15x", "15", "-5m", "m", "1h30", "90 d", "1h2d"} {
			all = append(all, refusal{name: value + "=" + text, set: []string{value + "=" + text}, want: []string{"/" + strings.ReplaceAll(value, ".", "/")}})
		}
		refuses(t, tele, all)
		for _, text := range []string{"0", "15m", "1.5h", "90d", "1d12h30m", "500ms", "0s"} {
			if got := environ(t, tele.with(value+"="+text).objects(t), "tele")[name]; got != text {
				t.Errorf("%s=%s: replicas are given %q", value, text, got)
			}
		}
	}
	for _, r := range []release{tele, cookie} {
		refuses(t, r, []refusal{
			{name: r.chart + " level", set: []string{"log.level=loud"}, want: []string{"'/log/level': value must be one of 'debug', 'info', 'warn', 'error'"}},
			{name: r.chart + " format", set: []string{"log.format=xml"}, want: []string{"'/log/format': value must be one of 'text', 'json'"}},
		})
		for text, want := range map[string]string{"Info": "info", "WARNING": "warn", "err": "error"} {
			prefix := map[string]string{cluster: "SALLYPORT_", kubeAgent: "SALLYPORT_AGENT_"}[r.chart]
			if got := environ(t, r.with("log.level="+text).objects(t), r.name)[prefix+"LOG_LEVEL"]; got != want {
				t.Errorf("%s: log.level=%s is %q", r.chart, text, got)
			}
		}
	}
}

// null is how Helm's users take a default away. Each value is either not needed, or missed with
// words; all that may go, go at once.
func TestValuesMayBeNull(t *testing.T) {
	t.Parallel()
	needed := map[string][]string{
		cluster: {"clusterName", "highAvailability.replicaCount", "service.type", "terminationGracePeriodSeconds", "shutdownDelaySeconds"},
		kubeAgent: {
			"proxyAddr", "kubeClusterName", "authToken", "joinTokenSecret.create", "highAvailability.replicaCount", "roles", "joinParams.method", "terminationGracePeriodSeconds",
		},
	}
	for chart, r := range map[string]release{cluster: tele, kubeAgent: cookie} {
		t.Run(chart, func(t *testing.T) {
			t.Parallel()
			var values map[string]any
			read(t, &values, chartDir(t, chart), "values.yaml")
			all := leaves("", values)
			for _, more := range []string{"", "acme=true", "podMonitor.enabled=true"} {
				if more == "acme=true" && chart != cluster {
					continue
				}
				all := r
				for _, key := range leaves("", values) {
					name, _, _ := strings.Cut(more, "=")
					if key != name && !slices.Contains(needed[chart], key) {
						all = all.with(key + "=null")
					}
				}
				if more != "" {
					all = all.with(more)
				}
				text, err := all.template(t)
				if err != nil {
					t.Fatalf("%s: %v", more, err)
				}
				for line := range strings.Lines(text) {
					if strings.Contains(line, "nil>") || strings.Contains(line, "no value") || strings.HasSuffix(strings.TrimSpace(line), " null") {
						t.Errorf("%s: %s", more, line)
					}
				}
				parse(t, text)
			}
			missed := map[string]bool{}
			for _, key := range append(needed[chart], slices.Collect(blocks(values, all))...) {
				missed[key] = true
			}
			var group []refusal
			for _, key := range slices.Sorted(maps.Keys(missed)) {
				words := key[strings.LastIndex(key, ".")+1:]
				group = append(group, refusal{name: key, set: []string{key + "=null"}, want: []string{words}})
			}
			refuses(t, r, group)
		})
	}
}

// blocks are the keys of values that others are below.
func blocks(values map[string]any, all []string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range values {
			below := slices.ContainsFunc(all, func(leaf string) bool { return strings.HasPrefix(leaf, key+".") })
			if below && !slices.Contains(mayGo, key) && !yield(key) {
				return
			}
		}
	}
}

// mayGo are blocks that Kubernetes does without.
var mayGo = []string{"resources", "updateStrategy", "startupProbe", "livenessProbe", "readinessProbe", "podSecurityContext", "securityContext"}

// YAML reads names such as 2024 and true as something else, if nobody quotes them.
func TestNamesThatLookLikeSomethingElseStayNames(t *testing.T) {
	t.Parallel()
	for _, r := range []release{tele, cookie} {
		r.name, r.namespace = "true", "2024"
		if r.chart == cluster {
			r = r.with("serviceMonitor.enabled=true", "networkPolicy.enabled=true")
		} else {
			r = r.with("podMonitor.enabled=true", "highAvailability.replicaCount=2")
		}
		for _, o := range r.objects(t) {
			checkText(t, o.String(), map[string]any(o))
			if ns := o.at("metadata", "namespace"); ns != nil && ns != "2024" {
				t.Errorf("%s is in %v", o, ns)
			}
		}
	}
	refuses(t, tele, []refusal{
		{name: "digits in front", set: []string{"fullnameOverride=2024-a"}, want: []string{`"2024-a" can't be the name of a Service: begin it with a letter`}},
		{name: "a dot", set: []string{"fullnameOverride=a.b"}, want: []string{`"a.b" can't be the name of a Service`}},
	})
}

// checkText looks for names and labels that are no text.
func checkText(t *testing.T, where string, v any) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			_, text := value.(string)
			isName := slices.Contains([]string{"name", "namespace", "app", "app.kubernetes.io/instance", "serviceName", "serviceAccountName", "secretName"}, key)
			if _, m := value.(map[string]any); isName && !text && !m {
				t.Errorf("%s: %s is %T %v", where, key, value, value)
			}
			checkText(t, where+"."+key, value)
		}
	case []any:
		for i, value := range v {
			checkText(t, fmt.Sprintf("%s[%d]", where, i), value)
		}
	}
}

// Every pod of a namespace has the account default: it gets no right to be anyone.
func TestTheAccountOfAllPodsGetsNoRights(t *testing.T) {
	t.Parallel()
	for _, r := range []release{tele, cookie} {
		refuses(t, r, []refusal{{name: r.chart, set: []string{"serviceAccount.create=false"}, want: []string{`by its account "default", impersonate anyone`}}})
		for _, set := range []string{"serviceAccount.name=own", "rbac.create=false"} {
			r.with("serviceAccount.create=false", set).objects(t)
		}
	}
}

// A constraint says itself which pods it counts, or counts the replicas.
func TestASpreadOfOnesOwnIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := tele
	r.values = `
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {team: a}}}
- {maxSkew: 2, topologyKey: room, whenUnsatisfiable: DoNotSchedule}
`
	got, _ := find(t, r.objects(t), "StatefulSet", "tele").at("spec", "template", "spec", "topologySpreadConstraints").([]any)
	if len(got) != 2 {
		t.Fatalf("%v", got)
	}
	for i, want := range []string{"map[team:a]", "map[app:tele app.kubernetes.io/instance:tele app.kubernetes.io/name:sallyport-cluster]"} {
		if labels := fmt.Sprint(object(got[i].(map[string]any)).at("labelSelector", "matchLabels")); labels != want {
			t.Errorf("%d counts %s, want %s", i, labels, want)
		}
	}
}
