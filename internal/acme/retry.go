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
	for again := false; ; again = true {
		now := s.current.Load()
		if now != nil && m.clock().Before(now.renewAt) {
			return now.another(before), nil
		}
		if err := m.note(ctx, s.name, func(a *attempts) bool { a.retry(); return true }); err != nil {
			return false, err
		}
		s.mu.Lock()
		s.holdOff = time.Time{}
		s.mu.Unlock()
		f, underWay, err := m.join(s)
		if err != nil {
			return false, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return false, fmt.Errorf("%s: %w", s.name, ErrOrdering)
		}
		// One that was under way, here or on another replica, may be of before what was
		// mended, and has used up what was noted.
		if !again && f.err != nil && (underWay || errors.As(f.err, new(*BackoffError))) {
			continue
		}
		return f.err == nil && s.current.Load().another(before), f.err
	}
}

// another says whether there is a certificate, and not the one before.
func (h *held) another(before *held) bool {
	return h != nil && (before == nil || !h.cert.Leaf.Equal(before.cert.Leaf))
}
