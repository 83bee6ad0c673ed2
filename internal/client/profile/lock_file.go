package profile

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"time"
)

// lockLife is how old a lock must be to be that of a tsh which died: none holds
// it so long.
const lockLife = 2 * time.Minute

// lockFile locks where the kernel has no locks that end with the process: it makes
// a file that must not exist, and writes in it whose it is.
func lockFile(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // in the store's own directory
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrPermission) && exists(name) {
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > lockLife {
			_ = os.Remove(name)
		}
		return nil, errLocked
	}
	if err != nil {
		return nil, err
	}
	mine := rand.Text()
	_, err = f.WriteString(mine)
	if err := errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(name)
		return nil, err
	}
	return func() {
		// After a long sleep it may be another's: then that is who removes it.
		if owner, err := os.ReadFile(name); err == nil && string(owner) == mine { //nolint:gosec // as above
			_ = os.Remove(name)
		}
	}, nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
