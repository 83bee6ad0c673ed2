package testbed

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A detached process outlives the command that started it (cp.sh up). Its PID
// file holds the PID and the start time the kernel gives, as lib.sh writes it,
// so that a PID used again is never taken for ours.

func startDetached(c Command, pidFile string) error {
	cmd, log, err := c.cmd()
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := os.MkdirAll(filepath.Dir(pidFile), 0o700); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.Name, err)
	}
	pid := cmd.Process.Pid
	born, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("%s ended at once (see %s): %w", c.Name, c.Log, err)
	}
	if err := cmd.Process.Release(); err != nil {
		return err
	}
	return os.WriteFile(pidFile, fmt.Appendf(nil, "%d %s\n", pid, born), 0o600)
}

// startTime is field 22 of /proc/PID/stat; the second one, the program's name, may hold anything.
func startTime(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return fields[19], nil
}

// detachedPID returns the process a PID file names, if it still lives.
func detachedPID(pidFile string) (int, bool) {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, false
	}
	first, born, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0, false
	}
	now, err := startTime(pid)
	return pid, err == nil && now == born
}

// StopDetached ends the processes of PID files: SIGTERM, patience, SIGKILL.
func StopDetached(patience time.Duration, pidFiles ...string) {
	for _, f := range pidFiles {
		if pid, ok := detachedPID(f); ok {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	deadline := time.Now().Add(patience)
	for _, f := range pidFiles {
		for {
			pid, ok := detachedPID(f)
			if !ok {
				break
			}
			if time.Now().After(deadline) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			time.Sleep(poll) // not our child, so there is nothing to wait on
		}
		os.Remove(f)
	}
}
