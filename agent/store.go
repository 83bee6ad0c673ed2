package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
)

// stateFile is the file in the directory of a DirStore, and the key in a Secret.
const stateFile = "identity.json"

// DirStore keeps the identity in a directory that nobody else can read. One
// process at a time may have it: two with one identity would lock it.
type DirStore struct {
	Dir string

	mu   sync.Mutex
	lock *os.File
}

// Load implements Store. It takes the directory for this process until Close.
func (d *DirStore) Load(context.Context) (State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return State{}, api.Errorf(api.CodeInvalid, "the data directory: %w", err)
	}
	if d.lock == nil {
		lock, err := os.OpenFile(filepath.Join(d.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return State{}, api.Errorf(api.CodeInvalid, "the data directory: %w", err)
		}
		if err := lockFile(lock); err != nil {
			return State{}, errors.Join(api.Errorf(api.CodeInvalid, "%s is in use by another agent: give each its own --data-dir", d.Dir), lock.Close())
		}
		d.lock = lock
	}
	f, err := os.Open(d.path())
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("the identity: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return State{}, fmt.Errorf("the identity: %w", err)
	}
	s, err := decodeState(b)
	if err != nil {
		return State{}, fmt.Errorf("the identity in %s: %w", d.path(), err)
	}
	return s, nil
}

// Save implements Store.
func (d *DirStore) Save(_ context.Context, s State) error {
	b, err := encodeState(s)
	if err != nil {
		return err
	}
	return atomicfile.Write(d.path(), b, 0o600)
}

// Close lets another process have the directory.
func (d *DirStore) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close()
	d.lock = nil
	return err
}

func (d *DirStore) path() string { return filepath.Join(d.Dir, stateFile) }

func (d *DirStore) String() string { return d.Dir }
