package profile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	lockName = ".lock"
	// lockPatience is longer than the wait for a kubeconfig's lock, which is taken inside.
	lockPatience = 30 * time.Second
	lockPoll     = 20 * time.Millisecond
)

// errLocked says that another process has the lock.
var errLocked = errors.New("locked")

// Change runs fn while no other tsh changes the store, which it makes if there is
// none. What fn decides on it must read inside; it must not call Change. Readers
// take no lock: each file is replaced whole.
func (s *Store) Change(ctx context.Context, fn func() error) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return s.unusable(err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	name := filepath.Join(s.dir, lockName)
	for {
		unlock, err := tryLock(name)
		if err == nil {
			defer unlock()
			return fn()
		}
		if !errors.Is(err, errLocked) {
			return s.unusable(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return api.Errorf(api.CodeUnavailable, "another tsh has held the lock %s for %s: wait until it is done, or end it", name, lockPatience)
		}
	}
}

// Update changes the login p as it stands on disk now: what others wrote
// meanwhile stays. Then p is what was written. A login that has gone or was
// replaced is not brought back: that is a CodeConflict error.
func (s *Store) Update(ctx context.Context, p *Profile, change func(now *Profile) error) error {
	return s.Change(ctx, func() error {
		now, err := s.Load(p.Proxy)
		if err != nil && !api.IsCode(err, api.CodeUnauthenticated) {
			return err
		}
		if err != nil || now.SessionID != p.SessionID || now.Cert != p.Cert {
			return api.Errorf(api.CodeConflict, "the login at %s was ended or replaced meanwhile: look at 'tsh status', then try again", p.Proxy)
		}
		if err := change(now); err != nil {
			return err
		}
		if err := s.Save(now); err != nil {
			return err
		}
		*p = *now
		return nil
	})
}

// Check finds out whether a login at the proxy could be kept.
func (s *Store) Check(ctx context.Context, proxy string) error {
	path, err := s.path(proxy)
	if err != nil {
		return err
	}
	return s.Change(ctx, func() error {
		dir := filepath.Dir(path)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return s.unusable(err)
		}
		for _, dir := range []string{dir, s.dir} {
			f, err := os.CreateTemp(dir, ".check-")
			if err != nil {
				return s.unusable(err)
			}
			if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
				return s.unusable(err)
			}
		}
		_ = os.Remove(dir) // stays if something is in it
		return nil
	})
}

func (s *Store) unusable(err error) error {
	return fmt.Errorf("the logins in %s can't be changed: %w; make it writable, or name another directory with SALLYPORT_HOME", s.dir, err)
}
