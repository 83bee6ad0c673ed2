package testbed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A test binary that is killed with -9 leaves no cluster behind, and what it ran was a real one.
func TestRealClusterEndsWithAKilledProcess(t *testing.T) {
	if err := RealClusters(); err != nil {
		t.Skip(err)
	}
	if os.Getenv("TESTBED_TEST_LAN") != "" { // the process that is killed
		l := StartLAN(t)
		c, err := l.Up(t.Context(), "tele", 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.SetDNS(t.Context(), "tele.example.com", l.HostIP()); err != nil {
			t.Fatal(err)
		}
		r := Run(t.Context(), l.Host("getent", "hosts", "tele.example.com"))
		fmt.Println("resolves", strings.Join(strings.Fields(r.Stdout), " "))
		r = c.Kubectl(t.Context(), "run", "c", "--image="+l.Name+".local/testapp:1", "--image-pull-policy=Never")
		if r.Err == nil {
			r = c.Kubectl(t.Context(), "wait", "--for=condition=Ready", "pod/c", "--timeout=60s")
		}
		fmt.Println("pod", strings.TrimSpace(r.Stdout))
		fmt.Println("lan", l.Name)
		<-t.Context().Done()
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, self, "-test.run=^TestRealClusterEndsWithAKilledProcess$")
	child.Env = append(os.Environ(), "TESTBED_TEST_LAN=1")
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	name := ""
	var said []string
	for lines := bufio.NewScanner(out); name == "" && lines.Scan(); {
		said = append(said, lines.Text())
		name, _ = strings.CutPrefix(lines.Text(), "lan ")
		if !strings.HasPrefix(lines.Text(), "lan ") {
			name = ""
		}
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	all := strings.Join(said, "\n")
	if name == "" || !strings.Contains(all, "tele.example.com") || !strings.Contains(all, "pod pod/c condition met") {
		t.Fatalf("no cluster: %s", all)
	}
	Wait(t, time.Minute, "end of "+name, func() error {
		if left, _ := filepath.Glob("/run/netns/" + name + "-*"); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		if left, _ := filepath.Glob(filepath.Join(Home(), "run", name, "clusters", "*")); len(left) > 0 {
			return errors.New("its files are there")
		}
		return nil
	})
}
