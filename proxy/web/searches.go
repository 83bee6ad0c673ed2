package web

import (
	"context"
	"errors"
	"sync"
	"time"
)

// maxSearches is how many searches of the audit log a replica makes at a time.
const maxSearches = 4

// searchPatience is how long a search waits for its turn: who presses the button
// again has left the search before, which ends as soon as that is noticed.
const searchPatience = 2 * time.Second

var (
	errSearching = errors.New("a search of this session is under way")
	errBusy      = errors.New("too many searches are under way")
)

// searches bounds what looking at the audit log costs, for each search may read a
// lot from disk: one at a time for a session, and a few for all. It is the one
// thing that the pages remember, and no longer than a search lasts.
type searches struct {
	slots chan struct{}

	mu      sync.Mutex
	running map[string]chan struct{} // by session; closed when its search ends
}

func newSearches() *searches {
	return &searches{slots: make(chan struct{}, maxSearches), running: map[string]chan struct{}{}}
}

// begin waits for the turn of a session's search; done ends it.
func (s *searches) begin(ctx context.Context, session string) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, searchPatience)
	defer cancel()
	mine := make(chan struct{})
	for {
		before := s.take(session, mine)
		if before == nil {
			break
		}
		select {
		case <-before:
		case <-ctx.Done():
			return nil, errSearching
		}
	}
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots; s.end(session) }, nil
	case <-ctx.Done():
		s.end(session)
		return nil, errBusy
	}
}

// take is nil if the session's turn is ours now, and otherwise what to wait for.
func (s *searches) take(session string, mine chan struct{}) (before <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, ok := s.running[session]; ok {
		return other
	}
	s.running[session] = mine
	return nil
}

func (s *searches) end(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.running[session])
	delete(s.running, session)
}
