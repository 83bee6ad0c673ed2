package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/server"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sallyport": main, "lingers": lingers})
}

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

// callOf is a call of start with these flags and this settings file.
func callOf(t *testing.T, flags map[string]string, file map[string]cliapp.Setting) *cliapp.Call {
	t.Helper()
	var call *cliapp.Call
	app := &cliapp.App{Name: "sallyport", Commands: []cliapp.Command{{
		Name: "start", Flags: replicaFlags(),
		Settings: func(func(string) string) (map[string]cliapp.Setting, error) { return file, nil },
		Run: func(_ context.Context, c *cliapp.Call) error {
			call = c
			return nil
		},
	}}}
	args := []string{"sallyport", "start"}
	for name, value := range flags {
		args = append(args, "--"+name+"="+value)
	}
	if status := app.Main(t.Context(), args); status != 0 {
		t.Fatalf("%q: status %d", args, status)
	}
	return call
}

func TestAReplicaWithoutANameIsForThisMachine(t *testing.T) {
	m := machine{root: true, getenv: func(string) string { return "" }}
	opts, err := options(callOf(t, nil, nil), m)
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
	opts, err = options(callOf(t, map[string]string{"listen-addr": ":4443"}, map[string]cliapp.Setting{"diag-addr": {Values: []string{"0.0.0.0:3000"}, Source: "line 1"}}), m)
	if err != nil || opts.ListenAddr != ":4443" || opts.PublicAddr != "localhost:4443" || opts.DiagAddr != "0.0.0.0:3000" || opts.PeerAddr != "127.0.0.1:7443" {
		t.Errorf("%+v, %v", opts, err)
	}
	for flag, value := range map[string]string{"join": "a:1", "public-addr": "tele.example.com:443", "bootstrap-expect": "3"} {
		if _, err := options(callOf(t, map[string]string{flag: value}, nil), m); err == nil || !strings.Contains(err.Error(), "--"+flag) {
			t.Errorf("--%s: %v", flag, err)
		}
	}
	opts, err = options(callOf(t, map[string]string{"cluster-name": "tele.example.com", "max-stale": "0"}, nil), m)
	if err != nil || opts.ListenAddr != ":3080" || opts.PublicAddr != "" || opts.MaxStale != -1 {
		t.Errorf("%+v, %v", opts, err)
	}
}

// server that takes every reload.
type willing struct{}

func (willing) Reload(server.Reload) error { return nil }

func TestChangesAreWhatMeansSomethingElse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sallyport.yaml")
	m := machine{root: true, getenv: func(string) string { return "" }}
	write := func(text string) {
		if err := os.WriteFile(file, []byte("cluster_name: x\nmax_stale: "+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("60m\njoin: [a:1, b:2]\nbootstrap_expect: 3\npeer_advertise: a:1")
	loaded, err := m.load(file)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var level slog.LevelVar
	c := callOf(t, map[string]string{"diag-addr": ":1"}, loaded)
	r := &reloader{start: c, now: c, trusted: c, machine: m, file: file, level: &level, server: willing{}, log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))}
	for _, step := range []struct{ name, text, want string }{
		{
			"other ways to say the same, what a flag sets, and a default",
			"1h\njoin: \"a:1, b:2\"\nbootstrap_expect: +3\npeer_advertise: a:1\ndiag_addr: :2\nlog_level: info",
			"level=INFO msg=\"settings reloaded\" changed=[]\n",
		},
		{
			"changes", "2h\nbootstrap_expect: 3\npeer_advertise: a:1\njoin: [a:1]\nlog_level: warn",
			"level=INFO msg=\"settings reloaded\" changed=[log_level]\n" +
				"level=WARN msg=\"some changed settings come into force only with a restart\" settings=\"[join max_stale]\"\n",
		},
		{
			"what needs a restart is named again", "2h\nbootstrap_expect: 3\npeer_advertise: a:1\njoin: [a:1, b:2]\nlog_level: warn",
			"level=INFO msg=\"settings reloaded\" changed=[]\n" +
				"level=WARN msg=\"some changed settings come into force only with a restart\" settings=[max_stale]\n",
		},
		{
			"back to the start", "60m\njoin: [a:1, b:2]\nbootstrap_expect: 3\npeer_advertise: a:1",
			"level=INFO msg=\"settings reloaded\" changed=[log_level]\n",
		},
	} {
		log.Reset()
		write(step.text)
		r.reload()
		if diff := cmp.Diff(step.want, log.String()); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
	}
}

// strict is a server that takes the trusted proxies as it was started: mode on.
type strict struct {
	got [][]string
	err error
}

func (s *strict) Reload(r server.Reload) error {
	if len(r.TrustedProxies) == 0 {
		return &server.OptionError{Flag: "proxy-protocol", Err: api.Errorf(api.CodeInvalid, "on without proxies")}
	}
	s.got = append(s.got, r.TrustedProxies)
	return s.err
}

func TestTrustedProxiesWaitForTheProtocolTheyAreMadeFor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sallyport.yaml")
	m := machine{root: true, getenv: func(string) string { return "" }}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("cluster_name: x\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("proxy_protocol: on\ntrusted_proxies: [10.0.0.1]\n")
	loaded, err := m.load(file)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var level slog.LevelVar
	c, srv := callOf(t, nil, loaded), &strict{}
	r := &reloader{start: c, now: c, trusted: c, machine: m, file: file, level: &level, server: srv, log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, step := range []struct {
		name, text string
		want       []string // in the log
		trusted    string
	}{
		{"off", "log_level: debug\n", []string{"changed=[log_level]", `settings="[proxy_protocol trusted_proxies]"`}, "10.0.0.1"},
		{"off, again", "log_level: debug\n", []string{"changed=[]", `settings="[proxy_protocol trusted_proxies]"`}, "10.0.0.1"},
		{"require", "proxy_protocol: require\ntrusted_proxies: [10.0.0.2]\n", []string{"changed=[log_level]", `settings="[proxy_protocol trusted_proxies]"`}, "10.0.0.1"},
		{"as at the start, others", "proxy_protocol: on\ntrusted_proxies: [10.0.0.3]\n", []string{"changed=[trusted_proxies]"}, "10.0.0.3"},
		{"require, the same", "proxy_protocol: require\ntrusted_proxies: [10.0.0.3]\n", []string{"changed=[]", "settings=[proxy_protocol]"}, "10.0.0.3"},
	} {
		log.Reset()
		write(step.text)
		r.reload()
		for _, want := range step.want {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%s: %s, want %s", step.name, &log, want)
			}
		}
		if len(srv.got) == 0 || strings.Join(srv.got[len(srv.got)-1], " ") != step.trusted {
			t.Errorf("%s: %v", step.name, srv.got)
		}
	}
	log.Reset()
	write("proxy_protocol: on\ntrusted_proxies: [10.0.0.3]\n")
	srv.err = &server.OptionError{Flag: "trusted-proxies", Err: api.Errorf(api.CodeInvalid, "the words")}
	r.reload()
	if want := file + ", line 3: trusted_proxies: the words"; !strings.Contains(log.String(), want) {
		t.Errorf("%s, want %s", &log, want)
	}
}

func TestASettingsFileThatIsGoneChangesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sallyport", "sallyport.yaml")
	m := machine{
		getenv: func(k string) string {
			return map[string]string{"XDG_CONFIG_HOME": filepath.Dir(filepath.Dir(file))}[k]
		},
		exists: func(path string) bool { _, err := os.Stat(path); return err == nil && path == file },
	}
	var log bytes.Buffer
	var level slog.LevelVar
	c := callOf(t, nil, nil)
	r := &reloader{start: c, now: c, trusted: c, machine: m, level: &level, server: willing{}, log: slog.New(slog.NewTextHandler(&log, nil))}
	reload := func(want string) {
		t.Helper()
		log.Reset()
		r.reload()
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s, want %s", &log, want)
		}
	}
	reload("changed=[]") // there was none, and there is none
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("log_level: debug\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	reload("changed=[log_level]") // it appeared
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	reload("all stay as they were")
	if level.Level() != slog.LevelDebug {
		t.Errorf("level %s: the defaults are in force", level.Level())
	}
}

func TestWelcomeSaysWhatToTypeNext(t *testing.T) {
	m := machine{root: true, getenv: func(string) string { return "" }, exists: func(string) bool { return false }}
	opts, err := options(callOf(t, map[string]string{"data-dir": "/srv/sally port"}, nil), m)
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
