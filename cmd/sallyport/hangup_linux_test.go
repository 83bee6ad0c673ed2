package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/testport"
)

// openTerminal gives a terminal and the end that its window holds.
func openTerminal(t *testing.T) (window, terminal *os.File) {
	t.Helper()
	window, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := window.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return window, terminal
}

func TestAReplicaEndsWithItsTerminal(t *testing.T) {
	// Under nohup the test itself ignores hang-ups, and so would its child, which
	// then rightly lives on. Caught here, the signal is at its default there.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	home := t.TempDir()
	window, terminal := openTerminal(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args := []string{"start", "--data-dir=" + filepath.Join(home, "data")}
	ports := testport.Reserve(t, 5)
	for i, name := range []string{"listen-addr", "kube-listen-addr", "peer-addr", "gossip-addr", "diag-addr"} {
		args = append(args, fmt.Sprintf("--%s=127.0.0.1:%d", name, ports[i]))
	}
	cmd := exec.CommandContext(ctx, program(t), args...) //nolint:gosec // ourselves
	cmd.Env = []string{"HOME=" + home}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := terminal.Close(); err != nil {
		t.Error(err)
	}
	said := ""
	lines := bufio.NewScanner(window)
	for !strings.Contains(said, "tsh login") && lines.Scan() {
		said += lines.Text() + "\n"
	}
	if err := window.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v; it said\n%s", err, said)
	}
	if !strings.Contains(said, "Sallyport serves https://localhost:") {
		t.Errorf("it said\n%s", said)
	}
}
