package server

import "syscall"

// blockSize is what Blocks are counted in.
func blockSize(fs *syscall.Statfs_t) int64 { return int64(fs.Bsize) }
