//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd

package profile

func tryLock(name string) (unlock func(), err error) { return lockFile(name) }
