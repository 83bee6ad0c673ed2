package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-dev/sallyport/internal/client/clienttest"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"tsh": main}) }

type serverKey struct{}

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
			"endsessions": func(ts *testscript.TestScript, _ bool, _ []string) { server(ts).EndSessions() },
			"sessions":    func(ts *testscript.TestScript, _ bool, args []string) { count(ts, args, server(ts).Sessions()) },
			"logins":      func(ts *testscript.TestScript, _ bool, args []string) { count(ts, args, server(ts).Logins()) },
			"stop":        func(ts *testscript.TestScript, _ bool, _ []string) { server(ts).Close() },
			"credential":  checkCredential,
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
	best := time.Hour
	for range 5 { // the machine may be busy; the cost is the least seen
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
		best = min(best, time.Duration(total*float64(time.Millisecond)))
	}
	t.Logf("package initialisation: %s", best)
	if best > 3*time.Millisecond {
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
