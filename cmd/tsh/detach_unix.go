//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// detach keeps a Ctrl-C at the terminal from reaching the browser.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
