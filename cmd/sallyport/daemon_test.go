package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/testport"
)

// daemon is "sallyport start" as a process.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *syncBuffer
	diag string
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// program is this test binary under the name by which it runs main.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sallyport")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// startDaemon starts a replica on ports of the test's own and waits until it serves.
func startDaemon(t *testing.T, config, home string) *daemon {
	t.Helper()
	ports := testport.Reserve(t, 5)
	d := &daemon{t: t, log: &syncBuffer{}, diag: fmt.Sprintf("127.0.0.1:%d", ports[4])}
	ctx, cancel := context.WithCancel(context.Background())
	d.cmd = exec.CommandContext(ctx, program(t), "start", "--config="+config) //nolint:gosec // ourselves
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.WaitDelay = patience
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.Env = []string{"HOME=" + home, "XDG_DATA_HOME=" + home, "SALLYPORT_DATA_DIR=" + filepath.Join(home, "data")}
	for i, name := range []string{"LISTEN_ADDR", "KUBE_LISTEN_ADDR", "PEER_ADDR", "GOSSIP_ADDR", "DIAG_ADDR"} {
		d.cmd.Env = append(d.cmd.Env, fmt.Sprintf("SALLYPORT_%s=127.0.0.1:%d", name, ports[i]))
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := d.cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the replica ended with %v", err)
		}
		if t.Failed() {
			t.Log(d.log.String())
		}
	})
	d.await("it serves", func() bool {
		resp, err := http.Get("http://" + d.diag + "/readyz") //nolint:noctx // loopback
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return d
}

// patience is for machines that are busy; who waits so long waits for something
// that does not come.
const patience = time.Minute

func (d *daemon) await(what string, ok func() bool) {
	d.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			d.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// hangup sends SIGHUP and waits for what the log then says.
func (d *daemon) hangup(want string) {
	d.t.Helper()
	before := strings.Count(d.log.String(), want)
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		d.t.Fatal(err)
	}
	d.await("the log says "+want, func() bool { return strings.Count(d.log.String(), want) > before })
}

func TestAReplicaStartsWithNothingAndReloads(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "sallyport.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# all defaults\n")
	d := startDaemon(t, file, home)
	if !strings.Contains(d.log.String(), "cluster=localhost public=localhost:") {
		t.Error("not a replica for this machine")
	}
	next := "users add NAME --k8s-groups=system:masters"
	d.await("the next command is in the log", func() bool { return strings.Contains(d.log.String(), next) })

	d.hangup(`msg="settings reloaded" changed=[]`)
	write("log_level: debug\nmax_stale: 1h\n")
	d.hangup(`msg="settings reloaded" changed=[log_level]`)
	d.await("the log says that max_stale needs a restart", func() bool { // a line of its own
		return strings.Contains(d.log.String(), `msg="some changed settings come into force only with a restart" settings=[max_stale]`)
	})
	d.debugs()

	for text, want := range map[string]string{
		"log_levl: warn\n":                        `unknown key`,
		"log_level: loud\n":                       `is none of debug`,
		"log_level: [\n":                          `not YAML`,
		"cert_file: /none\n":                      `--cert-file and --key-file go together`,
		"trusted_proxies: [ten]\n":                `neither a network`,
		"max_stale: 1h\njoin: [replica-1:7946]\n": `line 2: join: the cluster then needs a name`,
	} {
		write(text)
		d.hangup(want)
	}
	if n := strings.Count(d.log.String(), `level=ERROR msg="the settings are not reloaded: all stay as they were"`); n != 6 {
		t.Errorf("%d of 6 broken files were said loudly", n)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	d.hangup("no such file")

	// Nothing of that was taken; and what needs a restart is named again.
	d.debugs()
	write("log_level: warn\nmax_stale: 2h\n")
	d.hangup(`settings=[max_stale]`)
	if strings.Contains(d.log.String(), "changed=[log_level max_stale]") {
		t.Error("max_stale changed at once")
	}
}

// debugs waits for a debug message, of a stranger who is no TLS client.
func (d *daemon) debugs() {
	d.t.Helper()
	before := strings.Count(d.log.String(), "level=DEBUG")
	d.await("debug messages", func() bool {
		if c, err := net.Dial("tcp", d.listenAddr()); err == nil { //nolint:noctx // loopback
			_, _ = c.Write([]byte("nonsense\r\n\r\n"))
			_ = c.Close()
		}
		return strings.Count(d.log.String(), "level=DEBUG") > before
	})
}

func (d *daemon) listenAddr() string {
	for _, v := range d.cmd.Env {
		if addr, ok := strings.CutPrefix(v, "SALLYPORT_LISTEN_ADDR="); ok {
			return addr
		}
	}
	return ""
}

func TestATakenPortNamesItsFlag(t *testing.T) {
	ports := testport.Reserve(t, 4)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0])) //nolint:noctx // at once
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	home := t.TempDir()
	for i, flag := range []string{"listen-addr", "kube-listen-addr", "peer-addr", "diag-addr"} {
		args := []string{"start", "--data-dir=" + filepath.Join(home, "data"), "--gossip-addr=127.0.0.1:0"}
		next := 1
		for k, name := range []string{"listen-addr", "kube-listen-addr", "peer-addr", "diag-addr"} {
			port := ports[0]
			if k != i {
				port = ports[next]
				next++
			}
			args = append(args, fmt.Sprintf("--%s=127.0.0.1:%d", name, port))
		}
		cmd := exec.CommandContext(t.Context(), program(t), args...) //nolint:gosec // ourselves
		cmd.Env = []string{"HOME=" + home}
		out, err := cmd.CombinedOutput()
		want := fmt.Sprintf("ERROR: 127.0.0.1:%d is in use already: end the program that listens there, or choose another address with --%s\n", ports[0], flag)
		if !strings.HasSuffix(string(out), want) || cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("%v: %s\nwant %s", err, out, want)
		}
	}
}
