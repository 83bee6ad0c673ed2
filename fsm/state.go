package fsm

import (
	"bytes"
	"encoding/binary"
	"iter"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// sweepLimit bounds how many expired records one entry deletes. Sweeping is part
// of applying, and a flood of sessions that end together must not hold up the
// entries behind them: a later entry takes the rest.
const sweepLimit = 512

// A state is the store as one entry left it. It never changes.
type state struct {
	index   uint64                // of the entry that made it
	time    int64                 // state time, nanoseconds
	records *iradix.Tree[*Record] // but those of the journal
	journal *iradix.Tree[*Record] // those whose key starts with JournalPrefix
	expiry  *iradix.Tree[*Record] // the records that expire, by expiryKey
}

func emptyState() *state {
	return &state{records: iradix.New[*Record](), journal: iradix.New[*Record](), expiry: iradix.New[*Record]()}
}

// of is the tree that a key belongs to.
func (s *state) of(key []byte) *iradix.Tree[*Record] {
	if isJournal(key) {
		return s.journal
	}
	return s.records
}

func (s *state) len() int { return s.records.Len() + s.journal.Len() }

// all yields every record that starts with prefix, in the order of keys.
func (s *state) all(prefix []byte) iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		switch {
		case isJournal(prefix):
			walk(s.journal, prefix, prefix, "", yield)
		case !strings.HasPrefix(JournalPrefix, string(prefix)):
			walk(s.records, prefix, prefix, "", yield)
		default: // the journal's stand between others
			_ = walk(s.records, prefix, prefix, JournalPrefix, yield) &&
				walk(s.journal, nil, nil, "", yield) &&
				walk(s.records, prefix, []byte(JournalPrefix), "", yield)
		}
	}
}

// walk yields the records of a tree that start with prefix, from one key on and
// up to another ("": to the last). It reports whether yield wants more.
func walk(tree *iradix.Tree[*Record], prefix, from []byte, to string, yield func(*Record) bool) bool {
	it := tree.Root().Iterator()
	it.SeekLowerBound(from)
	for {
		key, r, ok := it.Next()
		if !ok || !bytes.HasPrefix(key, prefix) || to != "" && string(key) >= to {
			return true
		}
		if !yield(r) {
			return false
		}
	}
}

// expiryKey orders records by when they expire, then by key, so that what is due
// comes first and every replica deletes the same ones.
func expiryKey(r *Record) []byte {
	k := make([]byte, 8, 8+len(r.Key))
	binary.BigEndian.PutUint64(k, uint64(r.Expires.UnixNano())) // positive, so the order is kept
	return append(k, r.Key...)
}

// nextExpiry returns the record that expires first.
func (s *state) nextExpiry() (*Record, bool) {
	_, r, ok := s.expiry.Root().Minimum()
	return r, ok
}

// A change computes the state that follows another. This file is the part of the
// package that must be pure: everything here depends on the previous state and
// the entry, and on nothing else.
type change struct {
	index   uint64
	time    int64
	records *iradix.Txn[*Record]
	journal *iradix.Txn[*Record]
	expiry  *iradix.Txn[*Record]
}

func (c *change) of(key []byte) *iradix.Txn[*Record] {
	if isJournal(key) {
		return c.journal
	}
	return c.records
}

// newChange starts the change that the entry at index with that time makes.
// Time only moves forward: a new leader whose clock is behind must not bring
// expired sessions back to life.
func (s *state) newChange(index uint64, now int64) *change {
	c := &change{index: index, time: max(s.time, now), records: s.records.Txn(), journal: s.journal.Txn(), expiry: s.expiry.Txn()}
	c.records.TrackMutate(true)
	c.journal.TrackMutate(true)
	// Nobody watches the expiry index.
	return c
}

// apply carries out one item, or nothing of it and says which check failed.
func (c *change) apply(it Item) *ConflictError {
	if it.Txn == nil {
		return nil
	}
	// Operations cannot fail once they are decoded, so judging all checks first
	// is all that "all or nothing" takes.
	for _, check := range it.Txn.Checks {
		var have uint64
		if r := c.get(check.Key); r != nil {
			have = r.Revision
		}
		if have != check.Revision {
			return &ConflictError{Key: check.Key, Want: check.Revision, Have: have}
		}
	}
	for _, op := range it.Txn.Ops {
		c.do(op)
	}
	return nil
}

func (c *change) do(op Op) {
	if op.Delete {
		c.delete(op.Key)
	} else {
		c.put(op)
	}
}

// get returns the record that is alive at state time, or nil.
func (c *change) get(key string) *Record {
	k := []byte(key)
	r, ok := c.of(k).Get(k)
	if !ok || r.expiredAt(c.time) {
		return nil
	}
	return r
}

func (c *change) put(op Op) {
	r := &Record{Key: op.Key, Value: op.Value, Revision: c.index, Created: fromNanos(c.time)}
	if old := c.get(op.Key); old != nil {
		r.Created = old.Created
	}
	if op.TTL > 0 {
		r.Expires = fromNanos(after(c.time, op.TTL))
	}
	c.insert(r)
}

// insert replaces whatever is there, expired or not, in both trees.
func (c *change) insert(r *Record) {
	k := []byte(r.Key)
	old, replaced := c.of(k).Insert(k, r)
	if replaced && !old.Expires.IsZero() {
		c.expiry.Delete(expiryKey(old))
	}
	if !r.Expires.IsZero() {
		c.expiry.Insert(expiryKey(r), r)
	}
}

func (c *change) delete(key string) {
	k := []byte(key)
	old, ok := c.of(k).Delete(k)
	if ok && !old.Expires.IsZero() {
		c.expiry.Delete(expiryKey(old))
	}
}

// sweep deletes up to limit records that have expired by state time, those that
// expired first. It never changes what a check sees, only what is stored.
func (c *change) sweep(limit int) {
	var due []*Record // collected first: the iterator does not survive deletions
	it := c.expiry.Root().Iterator()
	for len(due) < limit {
		_, r, ok := it.Next()
		if !ok || !r.expiredAt(c.time) {
			break
		}
		due = append(due, r)
	}
	for _, r := range due {
		c.delete(r.Key)
	}
}

// commit returns the new state, and a function that wakes the watchers of what
// changed. The caller publishes in between: a watcher that wakes must find the
// change when it looks.
func (c *change) commit() (next *state, notify func()) {
	next = &state{
		index: c.index, time: c.time,
		records: c.records.CommitOnly(), journal: c.journal.CommitOnly(), expiry: c.expiry.CommitOnly(),
	}
	return next, func() {
		c.records.Notify()
		c.journal.Notify()
	}
}

// wakeAll wakes every watcher of the state, whatever it watches.
func (s *state) wakeAll() {
	for _, tree := range []*iradix.Tree[*Record]{s.records, s.journal} {
		txn := tree.Txn()
		txn.TrackMutate(true)
		txn.DeletePrefix(nil) // in a copy: all that is wanted is the notification
		txn.Commit()
	}
}
