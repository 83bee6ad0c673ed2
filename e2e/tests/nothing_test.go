package tests

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// insideEnv tells a test process that it is in a network namespace of its own, and where the product is.
const insideEnv = "SALLYPORT_E2E_INSIDE"

// Who types `sallyport start` and nothing else has a replica that works, and is
// told what to type next.
func TestStartWithNothingAtAll(t *testing.T) {
	if bin := os.Getenv(insideEnv); bin != "" {
		newcomer{bin: sallyport.Binaries(bin)}.start(t)
		return
	}
	ctx := within(t, 5*time.Minute)
	bin, err := sallyport.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 || testbed.Run(ctx, testbed.Command{Args: []string{"unshare", "--net", "true"}}).Err != nil {
		// The ports of the defaults may be anybody's on this machine.
		newcomer{bin: bin, ports: true}.start(t)
		return
	}
	// Again, in a network where nobody else is: this process can't go there, its
	// threads are in too many hands.
	r := testbed.Run(ctx, testbed.Command{
		Args: []string{"unshare", "--net", "sh", "-c", `ip link set lo up && exec "$@"`, "-",
			os.Args[0], "-test.run=^" + t.Name() + "$", "-test.count=1", "-test.v", "-test.timeout=4m"},
		Env: append(os.Environ(), insideEnv+"="+string(bin)),
	})
	if r.Err != nil || !strings.Contains(r.Stdout, "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", r.Err, r.Stdout)
	}
}

// newcomer is somebody who is not root and has nothing but a home.
type newcomer struct {
	bin   sallyport.Binaries
	ports bool // those of the defaults may be taken
	uid   int  // of somebody else than who runs the test; 0: the same
	env   []string
	home  string
}

// stranger has no line in /etc/passwd, as in a container.
const stranger = 61234

func (n newcomer) start(t *testing.T) {
	ctx := within(t, 50*time.Second)
	n.settle(t)
	web := "localhost:3080"
	if n.ports {
		block, err := testbed.ReservePorts()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(block.Release)
		for i, name := range []string{"LISTEN", "KUBE_LISTEN", "PEER", "GOSSIP", "DIAG"} {
			n.env = append(n.env, "SALLYPORT_"+name+"_ADDR="+block.Addr(i))
		}
		web = "localhost:" + strconv.Itoa(block.Port(0))
	}

	p, log := n.replica(t)
	next := n.nextCommand(t, p)
	if next != "tctl users add NAME --k8s-groups=system:masters" {
		t.Fatalf("what to type next: %q", next)
	}
	invite := regexp.MustCompile(`https://\S+/web/invite/\S+`).FindString(ok(t, n.run(ctx, "", strings.Fields(strings.Replace(next, "NAME", "nina", 1))...)).Stdout)
	if !strings.HasPrefix(invite, "https://"+web+"/") {
		t.Fatalf("the invite: %q", invite)
	}
	n.accept(t, invite, "a password of hers")

	pin := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(ok(t, n.run(ctx, "", "tctl", "status")).Stdout)
	if pin == "" {
		t.Fatal("tctl status shows no CA pin")
	}
	wrong := n.run(ctx, "a password of hers\n", "tsh", "login", "--proxy="+web, "--user=nina", "--ca-pin=sha256:"+strings.Repeat("0", 64))
	if refused(t, wrong, "sha256:"); wrong.Code == 0 {
		t.Error("any pin will do")
	}
	ok(t, n.run(ctx, "a password of hers\n", "tsh", "login", "--proxy="+web, "--user=nina", "--ca-pin="+pin))
	if got := ok(t, n.run(ctx, "", "tsh", "status")).Stdout; !strings.Contains(got, "Logged in as:       nina") || !strings.Contains(got, web) {
		t.Errorf("tsh status: %s", got)
	}

	n.hangUp(t, p, log)

	p.Kill()
	again, _ := n.replica(t)
	testbed.Wait(t, testbed.Patience, "it serves again", func() error {
		if !strings.Contains(again.Tail(50), "msg=serving") {
			return fmt.Errorf("not yet; it runs: %v", again.Running())
		}
		return nil
	})
	if strings.Contains(again.Tail(50), "there are no users") {
		t.Errorf("it forgot nina: %s", again.Tail(5))
	}
	if got := ok(t, n.run(ctx, "", "tctl", "users", "ls")).Stdout; !strings.Contains(got, "nina") {
		t.Errorf("after kill -9 there is no nina: %s", got)
	}
	ok(t, n.run(ctx, "", "tsh", "kube", "ls"))      // the login lives on
	ok(t, n.run(ctx, "", "tsh", "logout"))          // and ends there
	refused(t, n.run(ctx, "", "tsh", "kube", "ls")) // not logged in
	stop, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := again.Stop(stop); err != nil {
		t.Error(err)
	}
}

// settle makes the home, and the programs that its owner can run.
func (n *newcomer) settle(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "newcomer-") // a short path: a socket will be in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n.home = filepath.Join(dir, "home")
	programs := filepath.Join(dir, "bin")
	for _, d := range []string{n.home, programs} {
		if err := os.Mkdir(d, 0o755); err != nil { //nolint:gosec // somebody else looks for programs there
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sallyport", "tctl", "tsh"} {
		b, err := os.ReadFile(n.bin.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(programs, name), b, 0o755); err != nil { //nolint:gosec // somebody else runs it
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		n.uid = stranger
		for _, d := range []string{dir, n.home} {
			if err := os.Chown(d, n.uid, n.uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.env = append(n.env, "PATH="+programs+string(os.PathListSeparator)+os.Getenv("PATH"), "HOME="+n.home, "TMPDIR="+n.home, "NO_COLOR=1")
	for name, below := range map[string]string{"DATA": "data", "CONFIG": "config", "STATE": "state", "CACHE": "cache"} {
		n.env = append(n.env, "XDG_"+name+"_HOME="+filepath.Join(n.home, below))
	}
}

// as is a command line as its owner types it.
func (n *newcomer) as(stdin string, args ...string) testbed.Command {
	if program, err := exec.LookPath(filepath.Join(filepath.Dir(n.home), "bin", args[0])); err == nil {
		args = append([]string{program}, args[1:]...)
	}
	if n.uid != 0 {
		id := strconv.Itoa(n.uid)
		// Who changes its user outlives its parent, unless it says so anew.
		args = append([]string{"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "--pdeathsig=KILL", "--"}, args...)
	}
	return testbed.Command{Name: args[0], Args: args, Env: n.env, Dir: n.home, Stdin: strings.NewReader(stdin)}
}

func (n *newcomer) run(ctx context.Context, stdin string, args ...string) testbed.Result {
	return testbed.Run(ctx, n.as(stdin, args...))
}

// replica types `sallyport start`; all it says is in the file log.
func (n *newcomer) replica(t *testing.T) (p *testbed.Process, log string) {
	t.Helper()
	c := n.as("", "sallyport", "start")
	c.Name, c.Log = "sallyport start", filepath.Join(t.TempDir(), "log")
	p, err := testbed.StartProcess(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.Kill(); t.Failed() {
			t.Log(p.Tail(30))
		}
	})
	return p, c.Log
}

// nextCommand is what the replica says to type next, as soon as it serves.
func (n *newcomer) nextCommand(t *testing.T, p *testbed.Process) string {
	t.Helper()
	var command string
	testbed.Wait(t, 15*time.Second, "what to type next", func() error {
		m := regexp.MustCompile(`msg="there are no users yet.*command="([^"]+)"`).FindStringSubmatch(p.Tail(50))
		if m == nil {
			return fmt.Errorf("nothing yet; it runs: %v\n%s", p.Running(), p.Tail(5))
		}
		command = m[1]
		return nil
	})
	return command
}

// accept opens the invite's page and sets the password.
func (n *newcomer) accept(t *testing.T, invite, password string) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	u := &sallyport.User{Name: "nina", Home: n.home, CAFile: filepath.Join(t.TempDir(), "ca.pem")}
	if err := os.WriteFile(u.CAFile, []byte(ok(t, n.run(ctx, "", "tctl", "auth", "export", "--type=host")).Stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := u.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, invite, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if page, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(page), "nina") {
		t.Errorf("the invite's page: %s, %v\n%s", resp.Status, err, page)
	}
	if err := u.AcceptInvite(ctx, invite, password); err != nil {
		t.Fatal(err)
	}
}

// hangUp has the replica read a settings file that was not there before, and a
// broken one, which changes nothing.
func (n *newcomer) hangUp(t *testing.T, p *testbed.Process, log string) {
	t.Helper()
	file := filepath.Join(n.home, "config", "sallyport", "sallyport.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // its owner reads it
		t.Fatal(err)
	}
	said := func() string {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, step := range []struct{ settings, want string }{
		{"log_level: debug\n", `level=INFO msg="settings reloaded" changed=[log_level]`},
		{"log_level: debug\nlog_format: json\n", `level=WARN msg="some changed settings come into force only with a restart" settings=[log_format]`},
		{"log_levl: debug\n", file + `, line 1: unknown key \"log_levl\", did you mean`},
		{"log_level: error\n", ""},
	} {
		if err := os.WriteFile(file, []byte(step.settings), 0o644); err != nil { //nolint:gosec // its owner reads it
			t.Fatal(err)
		}
		before := len(said())
		if err := p.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if step.want == "" {
			continue
		}
		testbed.Wait(t, 5*time.Second, "SIGHUP", func() error {
			if now := said()[before:]; !strings.Contains(now, step.want) {
				return fmt.Errorf("%q is not in %q", step.want, now)
			}
			return nil
		})
	}
	testbed.Wait(t, 5*time.Second, "silence", func() error { // of what is no error, as the level now says
		before := len(said())
		ctx := within(t, 10*time.Second)
		ok(t, n.run(ctx, "", "tctl", "users", "ls"))
		if err := p.Signal(syscall.SIGHUP); err != nil { // which an INFO line would answer
			return err
		}
		ok(t, n.run(ctx, "", "tctl", "users", "ls"))
		if now := said()[before:]; now != "" {
			return fmt.Errorf("it said %q", now)
		}
		return nil
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}
