package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCtrlCIsSaidToEndADaemonAtOnce: on a terminal, where somebody types it.
func TestCtrlCIsSaidToEndADaemonAtOnce(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "lingers")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	window, terminal := openTerminal(t)
	defer window.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "start") //nolint:gosec // ourselves
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := terminal.Close(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"ready", `msg="stopping: another Ctrl-C ends it at once"`} {
		awaitLine(t, window, want)
		if _, err := window.WriteString("\x03"); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 || !strings.Contains(err.Error(), "130") {
		t.Errorf("%v, want status 130", err)
	}
}
