//go:build unix

package atomicfile

import (
	"os"
	"syscall"
)

// keepOwner gives the new file the owner of the old one, so that root editing a
// user's file by sudo doesn't take it away from the user. Only root can; for
// everybody else the owner is the same anyway.
func keepOwner(old string, tmp *os.File) {
	info, err := os.Stat(old)
	if err != nil {
		return
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		_ = tmp.Chown(int(stat.Uid), int(stat.Gid))
	}
}

// syncDir makes the rename survive a power cut, where the file system can.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
