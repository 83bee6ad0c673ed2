package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// lingers is a daemon that never gets done with its last requests.
func lingers() {
	app := &cliapp.App{Name: "lingers", Commands: []cliapp.Command{{
		Name: "start",
		Run: func(ctx context.Context, c *cliapp.Call) error {
			var level slog.LevelVar
			defer endAtSecond(c, loggerTo(c.Stderr, &level, "text"))()
			c.Notef("ready")
			<-ctx.Done()
			c.Notef("stopping")
			select {}
		},
	}}}
	app.Exec()
}

// awaitLine reads until a line holds a text.
func awaitLine(t *testing.T, r io.Reader, want string) (said string) {
	t.Helper()
	b := make([]byte, 1)
	for !strings.Contains(said, want) || !strings.HasSuffix(said, "\n") {
		if n, err := r.Read(b); n == 0 || err != nil {
			t.Fatalf("%v before %q in %q", err, want, said)
		}
		said += string(b)
	}
	return said
}

// TestASecondSignalEndsADaemon: also where the signal was ignored before, so that its
// default would do nothing, as for process 1 of a container.
func TestASecondSignalEndsADaemon(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "lingers")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		signal syscall.Signal
		status int
	}{{syscall.SIGTERM, 143}, {syscall.SIGINT, 130}} {
		t.Run(tc.signal.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, "sh", "-c", `trap "" INT TERM; exec "$0" start`, program) //nolint:gosec // ourselves
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			said := ""
			for _, want := range []string{"ready", "stopping"} {
				said += awaitLine(t, stderr, want)
				if err := cmd.Process.Signal(tc.signal); err != nil {
					t.Fatal(err)
				}
			}
			rest, err := io.ReadAll(stderr)
			if err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != tc.status {
				t.Errorf("%v, want status %d", err, tc.status)
			}
			if said += string(rest); strings.Contains(said, "Ctrl-C") {
				t.Errorf("nobody types it here: %q", said)
			}
		})
	}
}

func TestASocketOfTheEnvironmentIsNamed(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "sallyport.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, file, home)
	socket := filepath.Join(home, "data", "admin.sock")
	for _, tc := range []struct {
		args, env []string
		want      string
	}{
		{nil, []string{"SALLYPORT_SOCKET=" + socket}, "; environment variable SALLYPORT_SOCKET, which tctl goes by, too, names it: unset it, or choose another with --socket\n"},
		{[]string{"--socket=" + socket}, nil, "another replica is serving " + socket + "\n"},
	} {
		args := []string{"start", "--data-dir=" + filepath.Join(home, "other")}
		for _, name := range []string{"listen-addr", "kube-listen-addr", "peer-addr", "gossip-addr", "diag-addr"} {
			args = append(args, "--"+name+"=127.0.0.1:0")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := exec.CommandContext(ctx, program(t), append(args, tc.args...)...) //nolint:gosec // ourselves
		cmd.Env = append([]string{"HOME=" + home}, tc.env...)
		out, err := cmd.CombinedOutput()
		cancel()
		if !bytes.HasSuffix(out, []byte(tc.want)) || !bytes.Contains(out, []byte("another replica is serving "+socket)) || cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("%v: %s\nwant %s", err, out, tc.want)
		}
	}
	d.await("the first one still serves", func() bool { _, err := os.Stat(socket); return err == nil })
}
