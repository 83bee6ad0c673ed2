package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client/clienttest"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tsh": main, "xdg-open": browse, "open": browse})
}

// browse stands for the desktop's browser and the person before it: it opens the
// page, with $BROWSER_QUERY behind it, and goes where that leads.
func browse() {
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get(os.Args[len(os.Args)-1] + os.Getenv("BROWSER_QUERY"))
	if err != nil {
		os.Exit(1)
	}
	_ = resp.Body.Close()
}

type (
	serverKey struct{} // tele.example.com
	secondKey struct{} // two.example.com
)

// trustBoth puts the second authority into the file of the first.
func trustBoth(first, second string) error {
	b, err := os.ReadFile(second) //nolint:gosec // a test's
	if err != nil {
		return err
	}
	f, err := os.OpenFile(first, os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // a test's
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// TestScripts runs the real main against a stand-in for a replica. A CONNECT
// proxy leads tele.example.com:443 to it, so that lines can be typed literally.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			srv, err := clienttest.Start(env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(srv.Close)
			srv.SetPassword("alice", "correct horse")
			srv.SetPassword("bob", "battery staple")
			env.Values[serverKey{}] = srv
			second := filepath.Join(env.WorkDir, "second")
			if err := os.Mkdir(second, 0o700); err != nil {
				return err
			}
			two, err := clienttest.StartAs(second, "two.example.com")
			if err != nil {
				return err
			}
			env.Defer(two.Close)
			two.SetPassword("carol", "hunter two")
			srv.LeadTo(two)
			env.Values[secondKey{}] = two
			if err := trustBoth(srv.CAFile, two.CAFile); err != nil {
				return err
			}
			env.Setenv("CA_PIN", srv.CAPin())
			tsh, err := exec.LookPath("tsh")
			if err != nil {
				return err
			}
			env.Setenv("TSH", tsh)
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("HTTPS_PROXY", srv.HTTPSProxy)
			env.Setenv("SSL_CERT_FILE", srv.CAFile)
			env.Setenv("CA_FILE", srv.CAFile)
			env.Setenv("ADDR", srv.Addr)
			return os.MkdirAll(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"clusters":    func(ts *testscript.TestScript, _ bool, args []string) { server(ts).SetKubeClusters(args...) },
			"kube":        func(ts *testscript.TestScript, _ bool, args []string) { setKube(ts, server(ts), args[0]) },
			"kube2":       func(ts *testscript.TestScript, _ bool, args []string) { setKube(ts, second(ts), args[0]) },
			"endsessions": func(ts *testscript.TestScript, _ bool, _ []string) { server(ts).EndSessions() },
			"sessions":    func(ts *testscript.TestScript, _ bool, args []string) { count(ts, args, server(ts).Sessions()) },
			"logins":      func(ts *testscript.TestScript, _ bool, args []string) { count(ts, args, server(ts).Logins()) },
			"stop":        func(ts *testscript.TestScript, _ bool, _ []string) { server(ts).Close() },
			"credential":  checkCredential,
			"stop2":       func(ts *testscript.TestScript, _ bool, _ []string) { second(ts).Close() },
			"sessions2":   func(ts *testscript.TestScript, _ bool, args []string) { count(ts, args, second(ts).Sessions()) },
			"maxttl": func(ts *testscript.TestScript, _ bool, args []string) {
				d, err := time.ParseDuration(args[0])
				ts.Check(err)
				server(ts).SetMaxTTL(d)
			},
			"totp":    func(ts *testscript.TestScript, _ bool, args []string) { server(ts).SetTOTP(args[0], args[1]) },
			"passkey": func(ts *testscript.TestScript, _ bool, args []string) { server(ts).SetPasskey(args[0]) },
			"factor": func(ts *testscript.TestScript, _ bool, args []string) {
				server(ts).SetSecondFactor(api.SecondFactor(args[0]))
			},
			"versions": func(ts *testscript.TestScript, _ bool, args []string) { server(ts).SetVersions(args[0], args[1]) },
			"changeca": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(server(ts).ChangeAuthority())
				ts.Setenv("NEW_PIN", server(ts).CAPin())
			},
			"hideca":       func(ts *testscript.TestScript, _ bool, _ []string) { server(ts).HideAuthority() },
			"browserlogin": waitForBrowserLogin,
			"asked":        waitUntilAsked,
			"connectors":   func(ts *testscript.TestScript, _ bool, args []string) { server(ts).SetConnectors(args...) },
			"prefer":       func(ts *testscript.TestScript, _ bool, args []string) { server(ts).SetDefaultConnector(args[0]) },
			"idpdown":      func(ts *testscript.TestScript, _ bool, args []string) { server(ts).SetIDPDown(args[0]) },
			"idpwarning":   func(ts *testscript.TestScript, _ bool, args []string) { server(ts).SetIDPWarning(args[0], args[1]) },
			"old":          func(ts *testscript.TestScript, _ bool, _ []string) { server(ts).SetOld() },
			"nologin": func(ts *testscript.TestScript, _ bool, _ []string) {
				if page := server(ts).ConsolePage(); page != "" {
					ts.Fatalf("%s waits", page)
				}
			},
			"forget": func(ts *testscript.TestScript, _ bool, _ []string) { server(ts).ForgetConsoles() },
			"failwaits": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[0])
				ts.Check(err)
				server(ts).FailWaits(n)
			},
			"failedwaits": func(ts *testscript.TestScript, _ bool, _ []string) {
				count(ts, []string{"0"}, server(ts).WaitsToFail())
			},
			"begun":   checkBegun,
			"intrude": intrude,
			"nocode":  checkNoCode,
		},
	})
}

func server(ts *testscript.TestScript) *clienttest.Server {
	srv, ok := ts.Value(serverKey{}).(*clienttest.Server)
	if !ok {
		ts.Fatalf("no server")
	}
	return srv
}

// setKube says which clusters there are, as a file that holds a list as JSON.
func setKube(ts *testscript.TestScript, srv *clienttest.Server, file string) {
	var list []api.KubeCluster
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &list))
	srv.SetKube(list...)
}

func second(ts *testscript.TestScript) *clienttest.Server {
	srv, ok := ts.Value(secondKey{}).(*clienttest.Server)
	if !ok {
		ts.Fatalf("no second server")
	}
	return srv
}

// waitForBrowserLogin waits until a program in the background has begun a login
// in the browser, and with "approve [QUERY]" is that browser; CODE in the query is
// the match code, which a person types.
func waitForBrowserLogin(ts *testscript.TestScript, _ bool, args []string) {
	page := consolePage(ts)
	if len(args) == 0 {
		return
	}
	if len(args) > 1 {
		page += strings.ReplaceAll(args[1], "CODE", api.MatchCode(server(ts).ConsoleRequest().TLSPubKey))
	}
	ts.Check(ts.Exec("xdg-open", page))
}

func consolePage(ts *testscript.TestScript) (page string) {
	until(ts, "no login in a browser was begun", func() bool {
		page = server(ts).ConsolePage()
		return page != ""
	})
	return page
}

// waitUntilAsked waits until tsh knows of the login that it has begun: it asks what became of it.
func waitUntilAsked(ts *testscript.TestScript, _ bool, _ []string) {
	until(ts, "nobody asks what became of the login", server(ts).ConsoleAsked)
}

func until(ts *testscript.TestScript, otherwise string, is func() bool) {
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ; !is(); <-tick.C {
		if time.Now().After(deadline) {
			ts.Fatalf("%s", otherwise)
		}
	}
}

// checkBegun compares how the last login in a browser was begun: KEY VALUE, or KEY
// and no value for what must not be there.
func checkBegun(ts *testscript.TestScript, _ bool, args []string) {
	b, err := json.Marshal(server(ts).ConsoleRequest())
	ts.Check(err)
	var have map[string]any
	ts.Check(json.Unmarshal(b, &have))
	value, ok := have[args[0]]
	switch {
	case len(args) == 1 && ok:
		ts.Fatalf("%s is %v", args[0], value)
	case len(args) == 2 && !strings.Contains(fmt.Sprint(value), args[1]):
		ts.Fatalf("%s is %v, want %s", args[0], value, args[1])
	}
}

// intrude is another program of this machine at the callback of the login that
// waits: it knows the address, and even the id, but is no page of a browser.
func intrude(ts *testscript.TestScript, _ bool, _ []string) {
	id := filepath.Base(consolePage(ts))
	back := server(ts).ConsoleRequest().RedirectURL
	for _, try := range []struct {
		method, query string
		status        int
	}{
		{http.MethodPost, "?id=" + id + "&code=evil", http.StatusNotFound},
		{http.MethodPost, "?id=" + id + "&error=denied", http.StatusNotFound},
		{http.MethodGet, "?id=other&code=evil", http.StatusBadRequest},
		{http.MethodGet, "?id=other&error=denied", http.StatusBadRequest},
	} {
		req, err := http.NewRequest(try.method, back+try.query, nil)
		ts.Check(err)
		resp, err := http.DefaultClient.Do(req)
		ts.Check(err)
		_ = resp.Body.Close()
		if resp.StatusCode != try.status {
			ts.Fatalf("%s %s: %s", try.method, try.query, resp.Status)
		}
	}
}

// checkNoCode looks for the code that the browser brought where it must not be: in
// what was printed and in what is kept.
func checkNoCode(ts *testscript.TestScript, _ bool, _ []string) {
	code := server(ts).LastCode()
	if code == "" {
		ts.Fatalf("no browser got a code")
	}
	for _, file := range []string{"stdout", "stderr", filepath.Join("home", ".sallyport", "tele.example.com", "profile.json")} {
		if strings.Contains(ts.ReadFile(file), code) {
			ts.Fatalf("the code is in %s", file)
		}
	}
}

func count(ts *testscript.TestScript, args []string, have int) {
	if want, err := strconv.Atoi(args[0]); err != nil || want != have {
		ts.Fatalf("have %d, want %s", have, args[0])
	}
}

// checkCredential looks at standard output as kubectl does.
func checkCredential(ts *testscript.TestScript, _ bool, _ []string) {
	var cred struct {
		Kind, APIVersion string
		Status           struct {
			ExpirationTimestamp                  time.Time
			ClientCertificateData, ClientKeyData string
		}
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &cred))
	pair, err := tls.X509KeyPair([]byte(cred.Status.ClientCertificateData), []byte(cred.Status.ClientKeyData))
	ts.Check(err)
	if cred.Kind != "ExecCredential" || cred.APIVersion != "client.authentication.k8s.io/v1" ||
		!cred.Status.ExpirationTimestamp.Equal(pair.Leaf.NotAfter.Add(-time.Minute)) {
		ts.Fatalf("not what kubectl wants: %+v", cred)
	}
}

// TestLinksNothingSlow keeps the start of the credential plugin quick: these
// packages build tables at start, or bring in those that do.
func TestLinksNothingSlow(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		for _, slow := range []string{
			"k8s.io/", "sigs.k8s.io/", "github.com/hashicorp/", "github.com/goccy/", "charm.land/", "github.com/prometheus/",
			"google.golang.org/protobuf", "github.com/sallyport-dev/sallyport/fsm", "github.com/sallyport-dev/sallyport/cluster",
		} {
			if strings.HasPrefix(pkg, slow) {
				t.Errorf("tsh links %s", pkg)
			}
		}
	}
}

// buildTSH builds the real program, without what a test binary brings along.
func buildTSH(tb testing.TB) string {
	tb.Helper()
	bin := filepath.Join(tb.TempDir(), "tsh")
	if out, err := exec.CommandContext(tb.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	return bin
}

// loggedIn makes a home with a login that holds for an hour.
func loggedIn(tb testing.TB) (home string) {
	tb.Helper()
	home = tb.TempDir()
	err := profile.Open(home).Save(&profile.Profile{
		Proxy: "tele.example.com:443", ClusterName: "tele.example.com", User: "alice",
		Cert: strings.Repeat("c", 1500), Key: strings.Repeat("k", 300), HostCAs: strings.Repeat("h", 1500), NotAfter: time.Now().Add(time.Hour),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return home
}

func credentialsCommand(tb testing.TB, bin, home string) *exec.Cmd {
	cmd := exec.CommandContext(tb.Context(), bin, "kube", "credentials", "--kube-cluster=x", "--proxy=tele.example.com:443")
	cmd.Env = []string{"SALLYPORT_HOME=" + home}
	return cmd
}

// TestStartIsCheap adds up what the runtime says package initialisation took.
func TestStartIsCheap(t *testing.T) {
	bin, home := buildTSH(t), loggedIn(t)
	const most = 3 * time.Millisecond
	best := time.Hour
	for range 40 { // the machine may be busy; the cost is the least seen
		var trace strings.Builder
		cmd := credentialsCommand(t, bin, home)
		cmd.Env, cmd.Stderr = append(cmd.Env, "GODEBUG=inittrace=1"), &trace
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		var total float64
		for line := range strings.Lines(trace.String()) {
			f := strings.Fields(line) // init PACKAGE @0.43 ms, 0.069 ms clock, …
			if i := slices.Index(f, "clock,"); i >= 2 && f[0] == "init" {
				ms, err := strconv.ParseFloat(f[i-2], 64)
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				total += ms
			}
		}
		if best = min(best, time.Duration(total*float64(time.Millisecond))); best <= most {
			break
		}
	}
	t.Logf("package initialisation: %s", best)
	if best > most {
		t.Errorf("package initialisation takes %s", best)
	}
}

// BenchmarkKubeCredentials is what kubectl waits for before a request, beside a
// Go program that does nothing.
func BenchmarkKubeCredentials(b *testing.B) {
	nothing := filepath.Join(b.TempDir(), "nothing")
	src := nothing + ".go"
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", nothing, src).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	bin, home := buildTSH(b), loggedIn(b)
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			if err := exec.CommandContext(b.Context(), nothing).Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tsh", func(b *testing.B) {
		for b.Loop() {
			if err := credentialsCommand(b, bin, home).Run(); err != nil {
				b.Fatal(fmt.Errorf("tsh: %w", err))
			}
		}
	})
}
