package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

func TestHealthIsToldWhenItChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2")
		var sick atomic.Bool
		var probes atomic.Int64
		o := options(f)
		o.Clusters[0].Probe = func(context.Context) upstream.ProbeResult {
			probes.Add(1)
			if sick.Load() {
				return upstream.ProbeResult{Health: api.HealthUnhealthy, Reason: "may not impersonate"}
			}
			return upstream.ProbeResult{Health: api.HealthHealthy, Version: "v1.34.1"}
		}
		a := start(t, o)
		pass(5 * time.Minute) // only when it was asked has changed: replicas cut agents that tell them so
		if n := probes.Load(); n < 9 || n > 12 {
			t.Errorf("%d probes in five minutes", n)
		}
		said := func() []string {
			var out []string
			for _, tun := range f.open() {
				line := tun.replica.id
				for _, s := range tun.status {
					c := s.Clusters[0]
					line += fmt.Sprintf(" %s/%s/%s", c.Health, c.Reason, c.Version)
				}
				out = append(out, line)
			}
			return out
		}
		for _, line := range said() {
			if strings.Count(line, " ") > 1 { // at most the first, if Hello was sooner
				t.Errorf("told without a change: %s", line)
			}
		}
		sick.Store(true)
		pass(time.Minute)
		sick.Store(false)
		pass(2 * time.Minute)
		for _, line := range said() {
			if !strings.HasSuffix(line, " unhealthy/may not impersonate/v1.34.1 healthy//v1.34.1") {
				t.Error(line)
			}
		}
		if len(a.log.lines("unhealthy")) != 1 {
			t.Errorf("%q", a.log.lines("unhealthy"))
		}
		a.end(t)
		f.close()
	})
}

func script(t *testing.T, text string) []string {
	t.Helper()
	return []string{"/bin/sh", "-c", text}
}

func TestLabelCommands(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		command []string
		want    string
		err     string
	}{
		"a line":              {command: script(t, "echo eu-1"), want: "eu-1"},
		"blanks and lines":    {command: script(t, "printf '\\n  a b \\r\\nsecond\\n'"), want: "a b"},
		"no shell":            {command: []string{"echo", "$HOME;", "date"}, want: "$HOME; date"},
		"too long":            {command: script(t, "head -c 100000 /dev/zero | tr '\\0' x"), want: strings.Repeat("x", maxLabelValue)},
		"nothing":             {command: script(t, ":"), err: "prints nothing"},
		"a failure":           {command: script(t, "echo x; exit 3"), err: "exit status 3"},
		"no such command":     {command: []string{filepath.Join(dir, "none")}, err: "no such file"},
		"control characters":  {command: script(t, "printf 'a\\033[31m'"), err: "control characters"},
		"what is no text":     {command: script(t, "printf '\\377\\376'"), err: "control characters"},
		"the token is hidden": {command: script(t, "echo \"${SALLYPORT_AGENT_TOKEN:-none}\""), want: "none"},
	} {
		t.Setenv("SALLYPORT_AGENT_TOKEN", "s3cr3t")
		got, err := LabelCommand{Key: "k", Command: test.command}.value(t.Context())
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// Labels from commands join the static ones and are told when they change; a
// command that fails leaves its last value, and is logged once.
func TestLabelsAreTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "region")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("eu-1")
	a, err := New(Options{
		Proxy: testAddr, Clusters: []Cluster{{Name: "cookie", Handler: http.NotFoundHandler()}},
		Labels: map[string]string{"env": "test"}, LabelCommands: []LabelCommand{{Key: "region", Command: []string{"cat", file}}},
		LabelCommandPeriod: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.watchLabels(ctx)
	}()
	until := func(want map[string]string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			got := a.clusterStates()[0].Labels
			if cmp.Equal(want, got) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v", got)
			}
			<-time.After(time.Millisecond)
		}
	}
	until(map[string]string{"env": "test", "region": "eu-1"})
	write("eu-2")
	until(map[string]string{"env": "test", "region": "eu-2"})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	if got := a.clusterStates()[0].Labels["region"]; got != "eu-2" {
		t.Error(got)
	}
}

func TestDiagnostics(t *testing.T) {
	a, err := New(Options{Proxy: testAddr, Clusters: []Cluster{{Name: "cookie", Handler: http.NotFoundHandler()}}})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		a.diagServer().Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/healthz"); code != 200 || body != "ok\n" {
		t.Error(code, body)
	}
	if code, body := get("/readyz"); code != 503 || body != "not ready: starting\n" {
		t.Error(code, body)
	}
	a.notReady("no tunnel is up: connection refused")
	if code, body := get("/readyz"); code != 503 || body != "not ready: no tunnel is up: connection refused\n" {
		t.Error(code, body)
	}
	a.open[&tunnel{}] = true
	a.expires = time.Unix(1800000000, 0)
	a.clusters[0].count(200)
	a.clusters[0].count(101)
	if code, body := get("/readyz"); code != 200 || body != "ok\n" {
		t.Error(code, body)
	}
	_, body := get("/metrics")
	for _, want := range []string{
		"sallyport_agent_tunnels 1\n", "sallyport_agent_reconnects_total 0\n", "sallyport_agent_certificate_expiry_timestamp_seconds 1.8e+09\n",
		`sallyport_agent_cluster_health{health="healthy",kube_cluster="cookie"} 1`, `sallyport_agent_requests_total{code="2xx",kube_cluster="cookie"} 1`,
		`sallyport_agent_requests_total{code="1xx",kube_cluster="cookie"} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if err := prometheus.NewRegistry().Register(a.Collector()); err != nil {
		t.Error(err)
	}
	// One that nobody can judge is not called unhealthy.
	a.clusters[0].said = upstream.ProbeResult{Health: api.HealthUnknown, Reason: "it shows no right"}
	_, body = get("/metrics")
	for health, want := range map[string]string{"healthy": "0", "unhealthy": "0", "unknown": "1"} {
		if want := `sallyport_agent_cluster_health{health="` + health + `",kube_cluster="cookie"} ` + want; !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
}

// The diagnostics port serves as long as the agent runs, tunnels or none.
func TestTheDiagnosticsPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := Options{
		Proxy: testAddr, Token: testToken, Clusters: []Cluster{{Name: "cookie", Handler: http.NotFoundHandler()}}, DiagAddr: taken.Addr().String(),
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrUnexpectedEOF },
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--diag-addr: ") {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Proxy: testAddr, Clusters: []Cluster{{Name: "cookie", Handler: http.NotFoundHandler()}}}
	for want, change := range map[string]func(*Options){
		"":                                     func(*Options) {},
		"--proxy: \"\" is no address":          func(o *Options) { o.Proxy = "" },
		"--proxy: \"tele:\" is no address":     func(o *Options) { o.Proxy = "tele:" },
		"--ca-pin: ":                           func(o *Options) { o.CAPins = []string{"x"} },
		"--insecure: checks nothing":           func(o *Options) { o.Insecure, o.CAPins = true, []string{"sha256:" + strings.Repeat("0", 64)} },
		"--join-method: \"x\" is none of":      func(o *Options) { o.JoinMethod = "x" },
		"--join-method: kubernetes wants":      func(o *Options) { o.JoinMethod = api.JoinMethodKubernetes },
		"there is no Kubernetes cluster":       func(o *Options) { o.Clusters = nil },
		"is a shell variable that no shell":    func(o *Options) { o.Clusters = []Cluster{{Name: "{CLUSTER?}"}} },
		"there are two clusters called":        func(o *Options) { o.Clusters = []Cluster{{Name: "a"}, {Name: "a"}} },
		"too many for one agent":               func(o *Options) { o.Clusters = make([]Cluster, 257) },
		"--labels: ":                           func(o *Options) { o.Labels = map[string]string{"a": "\x1b"} },
		"--label-commands: k: there is no com": func(o *Options) { o.LabelCommands = []LabelCommand{{Key: "k"}} },
		"--label-commands: ":                   func(o *Options) { o.LabelCommands = []LabelCommand{{Command: []string{"x"}}} },
	} {
		o := good
		change(&o)
		_, err := New(o)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for in, want := range map[string]string{"tele.example.com": "tele.example.com:443", "tele:3080": "tele:3080", "[::1]:443": "[::1]:443"} {
		if got := (Options{Proxy: in}).withDefaults().Proxy; got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

const kubeconfig = `
apiVersion: v1
kind: Config
current-context: cookie
clusters:
- {name: c, cluster: {server: "https://127.0.0.1:1"}}
users:
- {name: u, user: {token: t}}
- {name: as, user: {token: t, as: admin}}
contexts:
- {name: cookie, context: {cluster: c, user: u}}
- {name: "arn:aws:eks:eu-1:1:cluster/prod", context: {cluster: c, user: u}}
- {name: "///", context: {cluster: c, user: u}}
- {name: impersonating, context: {cluster: c, user: as}}
`

func TestClustersOfAKubeconfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		contexts []string
		name     string
		want     string
	}{
		"the current one":         {want: "cookie"},
		"under another name":      {name: "biscuit", want: "biscuit"},
		"named":                   {contexts: []string{"arn:aws:eks:eu-1:1:cluster/prod", "cookie"}, want: "arn:aws:eks:eu-1:1:cluster-prod cookie"},
		"several under one name":  {contexts: []string{"cookie", "///"}, name: "x", want: "--kube-cluster-name: names one cluster"},
		"all":                     {contexts: []string{"*"}, want: "no name can be made of it"},
		"no name can be made":     {contexts: []string{"///"}, want: "no name can be made of it"},
		"unknown":                 {contexts: []string{"cokie"}, want: `has no context "cokie", did you mean "cookie"?`},
		"one that would be admin": {contexts: []string{"impersonating"}, want: "use the credentials of an account that may impersonate itself"},
	} {
		got, err := KubeconfigClusters(file, test.contexts, test.name)
		var names []string
		for _, c := range got {
			names = append(names, c.Name)
		}
		if err != nil {
			names = []string{err.Error()}
		}
		if text := strings.Join(names, " "); !strings.Contains(text, test.want) {
			t.Errorf("%s: %s", name, text)
		}
	}
	if _, err := InCluster("x"); err == nil {
		t.Error("this is no pod")
	}
}

func TestNamesOfContextsAreCleaned(t *testing.T) {
	for in, want := range map[string]string{
		"kind-a": "kind-a", "a/b c": "a-b-c", "--a": "a", "Ä-x": "x", "x-a": "", "": "", strings.Repeat("a", 200): strings.Repeat("a", 128), "gke_p_eu_c": "gke_p_eu_c",
	} {
		got, err := cleanName(in)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func TestProblemsAreToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		f.dialErr = fmt.Errorf("no route")
		a := start(t, options(f))
		pass(14 * time.Minute)
		if n := len(a.log.lines("no route")); n != 3 { // at 0, 5 and 10 minutes
			t.Errorf("told %d times: %q", n, a.log.lines("no route"))
		}
		a.end(t)
		f.close()
	})
}
