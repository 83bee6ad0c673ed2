package fsm

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a store. The zero value is a store without a journal that looks at
// the machine's clock.
type Options struct {
	Journal Journal          // nil: events are dropped
	Clock   func() time.Time // for views only, never for applying; nil: time.Now
}

// A Store is the state machine. Reading is lock-free and may happen anywhere at
// any time; Apply and Restore are for Raft's one goroutine.
type Store struct {
	journal Journal
	clock   func() time.Time

	mu    sync.Mutex // held by whoever replaces state
	state atomic.Pointer[state]
}

// New returns an empty store at index 0.
func New(opts Options) *Store {
	s := &Store{journal: opts.Journal, clock: opts.Clock}
	if s.clock == nil {
		s.clock = time.Now //nolint:forbidigo // read by views, never by apply
	}
	s.state.Store(emptyState())
	return s
}

// Apply carries out the log entry at index and returns one result per item, for
// [DecodeResult]. Indexes must rise, but may have gaps (Raft has entries of its
// own).
//
// An error means that the entry was not applied, not even in part, and that no
// later one may be: going on would be a guess, about the state or about the
// audit trail. After a [*JournalError] the caller gives the entry again until the
// journal's disk takes its events. After any other the entry is undecodable and
// the node must stop, which loses nothing: the entry is committed and will be
// applied when a version that understands it starts.
//
// The journal comes before publishing. If it came after, a crash or a full disk
// in between would leave a change that was seen, acted upon and snapshotted
// without its events. This way round, the worst is a line about a change that
// nobody has seen yet: true, because the entry is committed, and written once,
// because the journal recognises the index when the entry is replayed.
func (s *Store) Apply(index uint64, entry []byte) ([][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	old := s.state.Load()
	if index <= old.index {
		return nil, fmt.Errorf("log entry %d comes after %d was applied: refusing to apply out of order", index, old.index)
	}
	e, err := DecodeEntry(entry)
	if err != nil {
		return nil, fmt.Errorf("log entry %d: %w", index, err)
	}

	c := old.newChange(index, toNanos(e.Time))
	c.sweep(sweepLimit)
	results := make([][]byte, len(e.Items))
	var happened []Batch
	for i, it := range e.Items {
		conflict := c.apply(it)
		results[i] = encodeResult(conflict)
		if events := it.events(); conflict == nil && len(events) > 0 {
			happened = append(happened, Batch{Origin: it.Origin, Epoch: it.Epoch, First: it.First, Events: events})
		}
	}
	if err := s.writeDown(c, happened); err != nil {
		return nil, err
	}
	next, notify := c.commit()
	s.publish(next, notify)
	return results, nil
}

// publish makes the state visible, then wakes who waits for it, in this order:
// whoever wakes and looks must find what woke it.
func (s *Store) publish(next *state, notify func()) {
	s.state.Store(next)
	notify()
}

// Applied returns the index of the last entry that readers of this replica see.
func (s *Store) Applied() uint64 { return s.state.Load().index }

// Time returns the state time: the latest time any applied entry carried, zero
// before the first.
func (s *Store) Time() time.Time { return fromNanos(s.state.Load().time) }

// View returns the store as it is now, for any number of reads that fit
// together. It is a small value: take a new one for each request.
func (s *Store) View() View {
	st := s.state.Load()
	return View{state: st, now: max(st.time, s.clock().UnixNano())}
}

// SweepDue reports whether something has expired and is still stored. The leader
// asks now and then, and proposes an entry without items if nobody else's entry
// has done the work.
func (s *Store) SweepDue() bool {
	v := s.View()
	r, ok := v.state.nextExpiry()
	return ok && r.expiredAt(v.now)
}

// Snapshot captures the store as it is now. It costs nothing; applying goes on.
func (s *Store) Snapshot() *Snapshot { return &Snapshot{state: s.state.Load()} }

// Restore replaces the store by a snapshot. Nothing changes unless the snapshot
// is whole and sound to its last byte; then every watcher of the old state wakes,
// whatever it watched, because anything may have changed.
//
// The snapshot may be older than the present state or from another cluster (a
// backup). Entries applied afterwards must have a higher index than it.
func (s *Store) Restore(r io.Reader) error {
	snap, err := ReadSnapshot(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.state.Load()
	s.publish(snap.state, old.wakeAll)
	return nil
}
