//go:build !unix

package atomicfile

import "os"

func keepOwner(string, *os.File) {}

func syncDir(string) error { return nil }
