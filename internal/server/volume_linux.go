package server

import "syscall"

// blockSize is what Blocks are counted in; Bsize is how much to read at once.
func blockSize(fs *syscall.Statfs_t) int64 { return int64(fs.Frsize) } //nolint:unconvert // where it runs, it has other types
