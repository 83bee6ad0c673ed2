package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/server"
)

func TestAReplicaWithTheWrongSecretEndsWithWords(t *testing.T) {
	home := t.TempDir()
	file, secret := filepath.Join(home, "sallyport.yaml"), filepath.Join(home, "other-secret")
	other := server.GenerateSecret()
	for path, b := range map[string][]byte{file: nil, secret: other} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := startDaemon(t, file, home)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	has, _, _ := strings.Cut(string(other), ":")
	d.await("another secret is refused", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, program(t), "start", "--config="+file, "--cluster-secret="+secret) //nolint:gosec // ourselves
		cmd.Env = d.cmd.Env
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "in use already") {
			return false // the first has not gone yet
		}
		_, last, _ := strings.Cut(string(out), "ERROR: ")
		if err == nil || cmd.ProcessState.ExitCode() != 2 || !strings.HasPrefix(last, "this replica has the wrong cluster secret: ") ||
			!strings.Contains(last, "the state is sealed under the cluster secret's key ") || !strings.Contains(last, "holds only "+has) {
			t.Errorf("%v: %s", err, out)
		}
		return true
	})
}
