//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd

package profile

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// lockLife is how old a lock must be to be that of a tsh which died: none holds
// it so long.
const lockLife = 2 * time.Minute

// tryLock makes a file that must not exist.
func tryLock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrPermission) && exists(name) {
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > lockLife {
			_ = os.Remove(name)
		}
		return nil, errLocked
	}
	if err != nil {
		return nil, err
	}
	_ = f.Close()
	return func() { _ = os.Remove(name) }, nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
