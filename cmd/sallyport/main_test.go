package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"sallyport": main}) }

// TestScripts runs the real main.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			return os.MkdirAll(filepath.Join(env.WorkDir, "home"), 0o700)
		},
	})
}

func TestPlacesDependOnWhoRunsIt(t *testing.T) {
	const system, user = "/etc/sallyport.yaml", "/home/ann/.config/sallyport/sallyport.yaml"
	for _, test := range []struct {
		name    string
		root    bool
		home    string
		env     map[string]string
		exist   []string
		dataDir string
		config  string
		tctl    string // for the socket in dataDir
	}{
		{name: "root", root: true, home: "/root", exist: []string{system, "/root/.config/sallyport/sallyport.yaml"}, dataDir: "/var/lib/sallyport", config: system, tctl: "tctl"},
		{name: "a user", home: "/home/ann", dataDir: "/home/ann/.local/share/sallyport", tctl: "tctl"},
		{name: "a user with settings", home: "/home/ann", exist: []string{system, user}, dataDir: "/home/ann/.local/share/sallyport", config: user, tctl: "tctl"},
		{name: "a user where the system has settings", home: "/home/ann", exist: []string{system}, dataDir: "/home/ann/.local/share/sallyport", config: system, tctl: "tctl"},
		{name: "a user beside the system's replica", home: "/home/ann", exist: []string{"/var/lib/sallyport/admin.sock"}, dataDir: "/home/ann/.local/share/sallyport", tctl: "tctl --socket=/home/ann/.local/share/sallyport/admin.sock"},
		{name: "a user with directories of their own", home: "/home/ann", env: map[string]string{"XDG_DATA_HOME": "/data dir", "XDG_CONFIG_HOME": "/conf"}, exist: []string{"/conf/sallyport/sallyport.yaml", "/var/lib/sallyport/admin.sock"}, dataDir: "/data dir/sallyport", config: "/conf/sallyport/sallyport.yaml", tctl: "tctl --socket='/data dir/sallyport/admin.sock'"},
		{name: "relative directories don't count", home: "/home/ann", env: map[string]string{"XDG_DATA_HOME": "data"}, dataDir: "/home/ann/.local/share/sallyport", tctl: "tctl"},
		{name: "a user without a home", dataDir: "/var/lib/sallyport", tctl: "tctl"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := machine{
				root: test.root, home: test.home, getenv: func(k string) string { return test.env[k] },
				exists: func(path string) bool { return strings.Contains(strings.Join(test.exist, "\n")+"\n", path+"\n") },
			}
			if got := m.dataDir(); got != test.dataDir {
				t.Errorf("data directory %s, want %s", got, test.dataDir)
			}
			if got := m.configFile(); got != test.config {
				t.Errorf("settings file %q, want %q", got, test.config)
			}
			if got := m.tctl(filepath.Join(test.dataDir, client.AdminSocket)); got != test.tctl {
				t.Errorf("tctl is called as %s, want %s", got, test.tctl)
			}
		})
	}
}

// configOf is a configuration with these values from flags, and a file.
func configOf(flags map[string]string, file map[string]cliapp.Setting) config {
	cfg := config{values: map[string][]string{}, set: map[string]bool{}, fixed: map[string]bool{}}
	for _, f := range replicaFlags() {
		if v, ok := flags[f.Name]; ok {
			cfg.values[f.Name], cfg.set[f.Name], cfg.fixed[f.Name] = normal(f, []string{v}), true, true
		}
	}
	return cfg.with(file)
}

func TestAReplicaWithoutANameIsForThisMachine(t *testing.T) {
	m := machine{root: true, getenv: func(string) string { return "" }}
	opts, err := configOf(nil, nil).options(m)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{opts.ClusterName, opts.PublicAddr, opts.ListenAddr, opts.KubeListenAddr, opts.PeerAddr, opts.GossipAddr, opts.DiagAddr, opts.DataDir, opts.SocketPath}
	want := []string{
		"localhost", "localhost:3080", "127.0.0.1:3080", "127.0.0.1:3026", "127.0.0.1:7443", "127.0.0.1:7946", "127.0.0.1:3000",
		"/var/lib/sallyport", "/var/lib/sallyport/admin.sock",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := opts.Check(); err != nil && !strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	opts, err = configOf(map[string]string{"listen-addr": ":4443"}, map[string]cliapp.Setting{"diag-addr": {Values: []string{"0.0.0.0:3000"}}}).options(m)
	if err != nil || opts.ListenAddr != ":4443" || opts.PublicAddr != "localhost:4443" || opts.DiagAddr != "0.0.0.0:3000" || opts.PeerAddr != "127.0.0.1:7443" {
		t.Errorf("%+v, %v", opts, err)
	}
	for flag, value := range map[string]string{"join": "a:1", "public-addr": "tele.example.com:443", "bootstrap-expect": "3"} {
		if _, err := configOf(map[string]string{flag: value}, nil).options(m); err == nil || !strings.Contains(err.Error(), "--"+flag) {
			t.Errorf("--%s: %v", flag, err)
		}
	}
	opts, err = configOf(map[string]string{"cluster-name": "tele.example.com", "max-stale": "0"}, nil).options(m)
	if err != nil || opts.ListenAddr != ":3080" || opts.PublicAddr != "" || opts.MaxStale != -1 {
		t.Errorf("%+v, %v", opts, err)
	}
}

func TestChangesAreWhatMeansSomethingElse(t *testing.T) {
	set := func(values ...string) cliapp.Setting { return cliapp.Setting{Values: values} }
	old := configOf(map[string]string{"diag-addr": ":1"}, map[string]cliapp.Setting{
		"max-stale": set("60m"), "join": set("a:1", "b:2"), "cluster-name": set("x"), "bootstrap-expect": set("3"),
	})
	if got := old.changed(old.with(map[string]cliapp.Setting{
		"max-stale": set("1h"), "join": set("a:1, b:2"), "cluster-name": set("x"), "bootstrap-expect": set("+3"),
		"diag-addr": set(":2"), "log-level": set("info"), // what a flag sets, and a default
	})); len(got) != 0 {
		t.Error(got)
	}
	want := []string{"cluster_name", "bootstrap_expect", "join", "max_stale", "log_level"}
	if diff := cmp.Diff(want, old.changed(old.with(map[string]cliapp.Setting{"log-level": set("debug"), "join": set()}))); diff != "" {
		t.Error(diff)
	}
}

func TestWelcomeSaysWhatToTypeNext(t *testing.T) {
	m := machine{root: true, getenv: func(string) string { return "" }, exists: func(string) bool { return false }}
	opts, err := configOf(map[string]string{"data-dir": "/srv/sally port"}, nil).options(m)
	if err != nil {
		t.Fatal(err)
	}
	want := `
Sallyport serves https://localhost:3080
with a certificate of its own authority, which browsers don't know: they warn.

Next, in another terminal, make a user and open the link that is printed:

    tctl --socket='/srv/sally port/admin.sock' users add NAME --k8s-groups=system:masters

then log in:

    tsh login --proxy=localhost:3080 --user=NAME
`
	if diff := cmp.Diff(want, welcome(opts, m)); diff != "" {
		t.Error(diff)
	}
	opts.CertFile = "x"
	if strings.Contains(welcome(opts, m), "authority") {
		t.Error("warns of a certificate that is not its own")
	}
}
