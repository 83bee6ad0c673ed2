package testbed

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Two at once, on ports of their own, with a pod that runs and can be exec'd into.
func TestTwoControlPlanesSideBySide(t *testing.T) {
	if err := Build(t.Context(), logWriter{t}, Hyper, Etcd, Kwok); err != nil {
		t.Fatal(err)
	}
	var a, b *ControlPlane
	var both sync.WaitGroup
	both.Go(func() { a = StartControlPlane(t) })
	both.Go(func() { b = StartControlPlane(t, Options{Minimal: true}) })
	both.Wait()
	if a == nil || b == nil {
		t.FailNow()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for _, step := range []error{a.StartKwok(ctx), a.AddNode(ctx, "n1"), a.AddPod(ctx, "default", "p")} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if r := a.Kubectl(ctx, "exec", "p", "--", "echo", "from the pod"); r.Err != nil || r.Stdout != "from the pod\n" {
		t.Errorf("exec: %q, %v", r.Stdout, r.Err)
	}
	if r := b.Kubectl(ctx, "get", "node", "n1"); r.Code == 0 {
		t.Error("b answers for a")
	}

	b.Process("kube-apiserver").Kill()
	if r := b.Kubectl(ctx, "get", "ns"); r.Code == 0 {
		t.Error("a killed API server answers")
	}
	if err := b.Restart("kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitReady(ctx); err != nil {
		t.Error(err)
	}
	dir := b.Dir
	b.Stop()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind: %v", dir, err)
	}
}

func TestStartReportsWhatEnded(t *testing.T) {
	if err := Build(t.Context(), logWriter{t}, Hyper, Etcd); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	cp, err := Start(t.Context(), Options{Minimal: true, APIServerArgs: []string{"--no-such-flag"}})
	if err == nil {
		cp.Stop()
		t.Fatal("an API server with a wrong flag is ready")
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("noticed after %v only", took)
	}
	for _, want := range []string{"kube-apiserver ended", "unknown flag: --no-such-flag"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestWaitSaysWhatItWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	calls := 0
	err := Until(ctx, "the bus", func() error { calls++; return fmt.Errorf("look %d", calls) })
	if err == nil || !strings.HasPrefix(err.Error(), "the bus: not within ") || !strings.HasSuffix(err.Error(), fmt.Sprintf("look %d", calls)) {
		t.Errorf("got %v", err)
	}
	if err := Until(ctx, "what is there", func() error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestPortsAreGivenOnce(t *testing.T) {
	t.Setenv("TESTBED_HOME", t.TempDir())
	seen := map[int]bool{}
	for range 20 {
		p, err := ReservePorts()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Release()
		for i := range BlockPorts {
			if seen[p.Port(i)] {
				t.Fatalf("port %d twice", p.Port(i))
			}
			seen[p.Port(i)] = true
		}
	}
}

func TestCheckFreeSeesAListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := checkFree(l.Addr().(*net.TCPAddr).Port, 1); err == nil {
		t.Error("a port with a listener counts as free")
	}
}

// startSleeper is a child that outlives everyone who does not end it.
func startSleeper(t *testing.T) *Process {
	t.Helper()
	p, err := StartProcess(Command{Name: "sleep", Args: []string{"sleep", "300"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestStopAndKillWait(t *testing.T) {
	p := startSleeper(t)
	if !p.Running() || p.Err() != nil {
		t.Fatal("not running")
	}
	if err := p.Stop(t.Context()); err == nil {
		t.Error("sleep does not handle SIGTERM, so its end is an error")
	}
	if p.Running() {
		t.Error("running after Stop")
	}
	p.Kill() // of a dead one: returns
	log := filepath.Join(t.TempDir(), "log")
	q, err := StartProcess(Command{Name: "stubborn", Args: []string{"sh", "-c", `trap "" TERM; echo ready; sleep 300`}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	Wait(t, 5*time.Second, "the trap", func() error {
		if q.Tail(1) != "ready" {
			return errors.New("not set")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.Stop(ctx); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("one that ignores SIGTERM: %v", err)
	}
}

func TestRunReturnsWhatWasSaid(t *testing.T) {
	r := Run(t.Context(), Command{Args: []string{"sh", "-c", "cat; echo err >&2; exit 3"}, Stdin: strings.NewReader("in")})
	if r.Stdout != "in" || r.Stderr != "err\n" || r.Code != 3 || r.Err == nil {
		t.Errorf("got %+v", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r := Run(ctx, Command{Args: []string{"sh", "-c", "sleep 300; true"}}); r.Code != -1 || !errors.Is(r.Err, context.DeadlineExceeded) {
		t.Errorf("got %+v", r)
	}
}

// A test binary that is killed with -9 takes its children along.
func TestChildrenDieWithTheirParent(t *testing.T) {
	if os.Getenv("TESTBED_TEST_PARENT") != "" { // the parent: starts a child, says its PID, waits to be killed
		fmt.Println("child", startSleeper(t).PID())
		<-t.Context().Done()
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self, "-test.run=^TestChildrenDieWithTheirParent$")
	parent.Env = append(os.Environ(), "TESTBED_TEST_PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	child := 0
	for lines := bufio.NewScanner(out); child == 0 && lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "child "); ok {
			child, err = strconv.Atoi(n)
		}
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	if child == 0 || err != nil {
		t.Fatalf("no child: %v", err)
	}
	Wait(t, 5*time.Second, "end of the child", func() error {
		if _, err := startTime(child); err == nil {
			return errors.New("it lives")
		}
		return nil
	})
}

func TestDetachedProcessesAreFoundByPIDAndBirth(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid", "sleeper")
	if err := startDetached(Command{Name: "sleeper", Args: []string{"sleep", "300"}, Log: filepath.Join(dir, "log")}, pid); err != nil {
		t.Fatal(err)
	}
	n, ok := detachedPID(pid)
	if !ok {
		t.Fatal("not found")
	}
	other := filepath.Join(dir, "pid", "other") // the same PID, born at another time
	if err := os.WriteFile(other, fmt.Appendf(nil, "%d 1\n", n), 0o600); err != nil {
		t.Fatal(err)
	}
	StopDetached(time.Second, other)
	if _, ok := detachedPID(pid); !ok {
		t.Fatal("a foreign process was ended")
	}
	StopDetached(time.Second, pid)
	if _, err := startTime(n); err == nil {
		t.Error("it lives")
	}
}

func TestProgressTellsHowLongAPartHasTaken(t *testing.T) {
	r, w := io.Pipe()
	p := &progress{w: w, every: time.Millisecond}
	p.start()
	go p.line("hyper      ... about 300 s with empty caches")
	lines := bufio.NewScanner(r)
	for _, want := range []string{"  hyper      ... about 300 s with empty caches", "  hyper      ... 0 s so far"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, want %q", lines.Text(), want)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	p.stop()
	var out bytes.Buffer
	q := &progress{w: &out}
	q.line("etcd       up to date")
	if out.Len() != 0 {
		t.Errorf("what needs no work is told: %q", &out)
	}
}
