package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// The demo as `make demo` runs it, in a home of its own that must stay empty.
func TestDemo(t *testing.T) {
	for _, c := range []struct {
		name string
		env  func(*testing.T) []string
		says []string
	}{
		{"with a Kubernetes API of its own", func(*testing.T) []string { return nil }, []string{
			"Starting a Kubernetes API", `Logged into kubernetes cluster "cookie"`, "cookie-jar   Active",
		}},
		{"with the cluster of KUBECONFIG", func(t *testing.T) []string {
			cp := testbed.StartControlPlane(t, testbed.Options{Minimal: true})
			return []string{"KUBECONFIG=" + cp.Kubeconfig, "PATH=" + filepath.Dir(testbed.Bin("kubectl")) + ":" + os.Getenv("PATH")}
		}, []string{"Using the Kubernetes cluster of KUBECONFIG"}},
	} {
		t.Run(c.name, func(t *testing.T) { runDemo(t, c.env(t), c.says) })
	}
}

func runDemo(t *testing.T, env, says []string) {
	binary := filepath.Join(t.TempDir(), "demo")
	if r := testbed.Run(t.Context(), testbed.Command{Args: []string{"go", "build", "-o", binary, "."}}); r.Err != nil {
		t.Fatal(r.Err)
	}
	home := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute) // an empty cache is filled first
	defer cancel()
	demo := exec.CommandContext(ctx, binary)
	demo.Env = append(cleanHome(t, home), env...)
	var stderr bytes.Buffer
	demo.Stderr = &stderr
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	export := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "export ") {
			export = lines.Text()
			checkSecondTerminal(t, export, home)
			if err := demo.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	if err := demo.Wait(); err != nil || export == "" {
		t.Fatalf("the demo: %v\n%s%s", err, &said, &stderr)
	}
	for _, want := range append(says,
		"(through r0)", "(through r1)", "(through r2)", "kube-system", "[system:masters system:authenticated]",
		"URL       https://127.0.0.1:", "user      alice", "password  ", "nothing is left behind",
	) {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q was not said:\n%s", want, &said)
		}
	}
	checkNothingLeft(t, export, home)
}

// cleanHome is an environment with an empty home, but the caches of this one.
func cleanHome(t *testing.T, home string) []string {
	t.Helper()
	r := testbed.Run(t.Context(), testbed.Command{Args: []string{"go", "env", "GOCACHE", "GOMODCACHE"}})
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	caches := strings.Fields(r.Stdout)
	return []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TESTBED_HOME=" + testbed.Home(), "GOCACHE=" + caches[0], "GOMODCACHE=" + caches[1],
		"GOFLAGS=" + os.Getenv("GOFLAGS"), "GOPROXY=" + os.Getenv("GOPROXY"), "GOTOOLCHAIN=local",
	}
}

// checkSecondTerminal pastes the line into a shell of its own.
func checkSecondTerminal(t *testing.T, export, home string) {
	t.Helper()
	r := testbed.Run(t.Context(), testbed.Command{
		Args: []string{"bash", "-c", export + "\nkubectl auth whoami -o=jsonpath={.status.userInfo.username} && tctl users ls && tsh status"},
		Env:  []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")},
	})
	if r.Err != nil || !strings.HasPrefix(r.Stdout, "alice") {
		t.Errorf("the pasted line: %q, %v", r.Stdout, r.Err)
	}
}

var demoDir = regexp.MustCompile(`/tmp/sallyport-demo-\d+`)

func checkNothingLeft(t *testing.T, export, home string) {
	t.Helper()
	dir := demoDir.FindString(export)
	if _, err := os.Stat(dir); dir == "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %q: %v", dir, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if b, err := os.ReadFile(p); err == nil && dir != "" && bytes.Contains(b, []byte(dir)) {
			t.Errorf("%s still runs: %q", p, b)
		}
	}
	entries, err := os.ReadDir(home)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name == ".sallyport" || name == ".kube" { // Go keeps files of its own
			t.Errorf("%s appeared in the home directory", name)
		}
	}
}
