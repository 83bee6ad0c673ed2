//go:build !linux

package testbed

import "syscall"

// childAttr gives a child a process group of its own, so that Ctrl-C at our
// terminal is ours to handle. Only Linux can tie its life to ours.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
