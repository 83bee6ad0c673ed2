//go:build linux || darwin

package server

import "syscall"

// measureVolume looks at the file system that a directory is on.
func measureVolume(dir string) volume {
	var fs syscall.Statfs_t
	var st syscall.Stat_t
	if syscall.Statfs(dir, &fs) != nil || syscall.Stat(dir, &st) != nil {
		return volume{}
	}
	return volume{
		size:   int64(fs.Blocks) * blockSize(&fs), //nolint:gosec // no disk has so many bytes
		device: uint64(st.Dev),                    //nolint:unconvert // a name; where it runs, it has other types
	}
}
