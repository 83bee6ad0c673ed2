package acme

import (
	"context"
	"errors"
	"time"
)

// Lock implements certmagic.Locker.
func (s *Storage) Lock(context.Context, string) error { return errors.ErrUnsupported }

// TryLock implements certmagic.TryLocker.
func (s *Storage) TryLock(context.Context, string) (bool, error) { return false, errors.ErrUnsupported }

// Unlock implements certmagic.Locker.
func (s *Storage) Unlock(context.Context, string) error { return errors.ErrUnsupported }

// RenewLockLease implements certmagic.LockLeaseRenewer.
func (s *Storage) RenewLockLease(context.Context, string, time.Duration) error {
	return errors.ErrUnsupported
}
