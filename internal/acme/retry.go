package acme

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Retry orders a certificate now, however often that has failed, unless there is one that
// isn't due for renewal. It says whether there is another one since. The preflight still
// refuses. An order goes on when ctx ends, and the error is then ErrOrdering.
func (m *Certificates) Retry(ctx context.Context, name string) (issued bool, err error) {
	s := m.subject(name)
	if s == nil {
		return false, &NotConfiguredError{name}
	}
	before := s.current.Load()
	if before != nil && m.clock().Before(before.renewAt) {
		return false, nil
	}
	if err := m.note(ctx, s.name, func(a *attempts) bool { a.retry(); return true }); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.holdOff = time.Time{}
	s.mu.Unlock()
	for again := false; ; again = true {
		f, err := m.join(s)
		if err != nil {
			return false, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return false, fmt.Errorf("%s: %w", s.name, ErrOrdering)
		}
		// One that was under way may have been decided by what was noted before.
		if !again && errors.As(f.err, new(*BackoffError)) {
			continue
		}
		now := s.current.Load()
		return f.err == nil && now != nil && (before == nil || !now.cert.Leaf.Equal(before.cert.Leaf)), f.err
	}
}
