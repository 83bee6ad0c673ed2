//go:build unix

package atomicfile

import (
	"errors"
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

// syncDir makes the rename survive a power cut. Some network file systems can't
// sync a directory and say so: there is nothing to wait for then.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // of a file that the caller names
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // read only
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
