package selector

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func clusters() []api.KubeCluster {
	return []api.KubeCluster{
		{Name: "cookie", Labels: map[string]string{"env": "prod", "region": "eu-west-1"}, Status: &api.KubeStatus{Health: api.HealthHealthy, Version: "v1.34.1"}},
		{Name: "milk", Labels: map[string]string{"env": "dev", "app.kubernetes.io/name": "x"}, Status: &api.KubeStatus{Health: api.HealthOffline}},
		{Name: "tea"},
	}
}

func TestSelectors(t *testing.T) {
	for _, tc := range []struct {
		labels []string
		query  string
		want   string
	}{
		{nil, "", "cookie milk tea"},
		{nil, " \t", "cookie milk tea"},
		{[]string{"env=prod"}, "", "cookie"},
		{[]string{" env = prod "}, "", "cookie"},
		{[]string{"env=*"}, "", "cookie milk"},
		{[]string{"env=prod", "env=dev"}, "", "cookie milk"},
		{[]string{"env=prod", "region=us-*"}, "", ""},
		{[]string{"region=eu-*-1"}, "", "cookie"},
		{[]string{"region=e*eu-west-1"}, "", ""}, // no byte counts twice
		{[]string{"region=*west*"}, "", "cookie"},
		{[]string{"env=^prod|de$"}, "", "cookie"},
		{[]string{"env="}, "", ""},
		{nil, `name == "tea"`, "tea"},
		{nil, `labels["env"] == "prod" || name=="tea"`, "cookie tea"},
		{nil, `labels.env != "prod"`, "milk tea"}, // without the label, too
		{nil, `labels.app.kubernetes.io/name == "x"`, "milk"},
		{nil, `exists(labels["env"]) && !(labels.env == "prod")`, "milk"},
		{nil, `equals(labels.env, "dev")`, "milk"},
		{nil, `hasPrefix(labels.region, "eu-")`, "cookie"},
		{nil, `search("PROD", "cook")`, "cookie"},
		{nil, `search("kubernetes.io")`, "milk"},
		{nil, `health.status == "offline" || health == "unknown"`, "milk tea"},
		{nil, `version == "v1.34.1"`, "cookie"},
		{nil, `"a" == "a" && "\"" != "a"`, "cookie milk tea"},
		{nil, `name == "tea" || name == "milk" && labels.env == "prod"`, "tea"}, // && before ||
		{[]string{"env=*"}, `name != "milk"`, "cookie"},
	} {
		s, err := New(tc.labels, tc.query)
		if err != nil {
			t.Errorf("%q %s: %v", tc.labels, tc.query, err)
			continue
		}
		var got []string
		for _, k := range s.Pick(clusters()) {
			got = append(got, k.Name)
		}
		if diff := cmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%q %s: (-want +got)\n%s", tc.labels, tc.query, diff)
		}
		if s.Everything() != (len(tc.labels) == 0 && strings.TrimSpace(tc.query) == "") {
			t.Errorf("%q %s: everything: %v", tc.labels, tc.query, s.Everything())
		}
	}
}

func TestSelectorsSayWhatIsWrong(t *testing.T) {
	for _, tc := range []struct{ labels, query, want string }{
		{"env", "", `--labels: "env" is not KEY=VALUE`},
		{"=x", "", `--labels: "=x" is not KEY=VALUE`},
		{"env=^($", "", "--labels: value of \"env\": error parsing regexp: missing closing ): `(`"},
		{"", `name`, `--query: it ends where == or != was wanted`},
		{"", `name = "x"`, `--query: at character 6, "= \"x\"": want == or !=`},
		{"", `name == x`, `--query: at character 9, "x": want a text in double quotes, name, labels["…"], health or version`},
		{"", `name == "x`, `--query: at character 9, "\"x": want a text in double quotes`},
		{"", `(name == "x"`, `--query: it ends where ) was wanted`},
		{"", `name == "x" name`, `--query: at character 13, "name": want && or || or the end`},
		{"", `labels[env] == "x"`, `--query: at character 8, "env] == \"x\"": want a text in double quotes`},
		{"", `labels == "x"`, `--query: at character 8, "== \"x\"": want ["KEY"]`},
		{"", `serch("x")`, `--query: at character 1, "serch(\"x\")": want equals, exists, hasPrefix or search, did you mean "search"?`},
		{"", `equals(name)`, `--query: equals takes 2 arguments, not 1`},
		{"", strings.Repeat("!", 100) + `name == "x"`, `--query: nested deeper than 64 levels`},
		{"", strings.Repeat(" ", 5000) + `name == "x"`, `--query: 5011 bytes are too long, at most 4096 are allowed`},
	} {
		var labels []string
		if tc.labels != "" {
			labels = []string{tc.labels}
		}
		_, err := New(labels, tc.query)
		if err == nil || err.Error() != tc.want || !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%s %s: %v, want %s", tc.labels, tc.query, err, tc.want)
		}
	}
}

// FuzzNew: whatever is typed is refused or decides, and ends.
func FuzzNew(f *testing.F) {
	for _, seed := range [][2]string{
		{"env=prod", `name == "x"`}, {"a=^b|c$", `!(labels["a"] != "b" && search("c"))`}, {"a=*b*", `equals(labels.a-b/c, "\u00e9")`}, {"=", `((`}, {"a=^*$", `"`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, label, query string) {
		s, err := New([]string{label}, query)
		if err != nil {
			if !api.IsCode(err, api.CodeInvalid) {
				t.Fatal(err)
			}
			return
		}
		if all, some := clusters(), s.Pick(clusters()); len(some) > len(all) {
			t.Fatalf("%d of %d clusters", len(some), len(all))
		}
	})
}
