//go:build linux || darwin

package server

import "syscall"

// volumeSize is the size of the file system that a directory is on; 0: it does not say.
func volumeSize(dir string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0
	}
	return int64(st.Blocks) * int64(st.Bsize) //nolint:gosec,unconvert // no disk has so many bytes; where it runs, Bsize has other types
}
