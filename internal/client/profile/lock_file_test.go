package profile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestLockFileThatWasTakenOverIsLeftToItsOwner: a tsh that slept for long, with
// its machine, does not free the lock of the one that went on meanwhile.
func TestLockFileThatWasTakenOverIsLeftToItsOwner(t *testing.T) {
	name := filepath.Join(t.TempDir(), lockName)
	take := func() (unlock func()) {
		t.Helper()
		unlock, err := lockFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return unlock
	}
	refused := func(when string) {
		t.Helper()
		if _, err := lockFile(name); !errors.Is(err, errLocked) {
			t.Errorf("%s: %v", when, err)
		}
	}
	slept := take()
	refused("held")
	long := time.Now().Add(-2 * lockLife)
	if err := os.Chtimes(name, long, long); err != nil {
		t.Fatal(err)
	}
	refused("old") // and removed
	next := take()
	slept()
	refused("taken over")
	next()
	take()()
	if exists(name) {
		t.Error("left behind")
	}
}
