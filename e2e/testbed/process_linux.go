package testbed

import "syscall"

// childAttr gives a child a process group of its own, so that Ctrl-C at our
// terminal is ours to handle, and has the kernel kill it when we die.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
