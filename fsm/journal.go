package fsm

import (
	"bytes"
	"fmt"
	"time"
)

// JournalPrefix begins the keys of the journal's own records. They are a tree
// apart: each entry with an event writes them, and whoever watches a key that is
// absent is woken by what happens near the place where it would be.
const JournalPrefix = "audit/"

func isJournal(key []byte) bool { return bytes.HasPrefix(key, []byte(JournalPrefix)) }

// A Journal makes lines of a file out of the audit events of what was applied,
// and keeps in the store what the replicas must agree on about that file: how
// long it is, the hash of its last line, whose events it has seen.
//
// The text of events is never in the store, only in the log and then in the
// journal.
type Journal interface {
	// Extend says what the events of one entry, in their order, add. It is part
	// of applying and must be as pure: a function of the entry and of the records
	// that get finds (nil: absent), which are those that the entry's transactions
	// and earlier entries have left. The operations are carried out with the
	// entry; those that are invalid stop the node.
	//
	// Write, nil if nothing is to be written, is called once before the entry's
	// state is published. When it fails, the same entry is given again, and with
	// it Extend: see [JournalError]. After a restart the entries since the last
	// snapshot are applied again: what it has written already it must know.
	Extend(e JournalEntry, get func(key string) []byte) (ops []Op, write func() error, err error)
}

// A JournalEntry is an entry as a [Journal] sees it: without transactions.
type JournalEntry struct {
	Index   uint64
	Time    time.Time // state time after the entry
	Batches []Batch   // at least one
}

// A Batch is the events of one item. Nothing of it may be changed.
type Batch struct {
	Origin       string // server id of the replica that proposed them
	Epoch, First uint64 // see [Item]
	Events       [][]byte
}

// A JournalError says that the journal did not take the events of an entry: its
// disk is full, say. The entry is sound and was not applied: give it again.
type JournalError struct {
	Index uint64
	Err   error
}

func (e *JournalError) Error() string {
	return fmt.Sprintf("log entry %d: journal: %v", e.Index, e.Err)
}

func (e *JournalError) Unwrap() error { return e.Err }

// Temporary reports that the same entry may be applied later: to cluster, which
// does not know this package, the difference from one that can't be decoded.
func (e *JournalError) Temporary() bool { return true }

// writeDown hands the events of an entry to the journal, and carries out what
// that changes in the store.
func (s *Store) writeDown(c *change, happened []Batch) error {
	if s.journal == nil || len(happened) == 0 {
		return nil
	}
	get := func(key string) []byte {
		if r := c.get(key); r != nil {
			return r.Value
		}
		return nil
	}
	ops, write, err := s.journal.Extend(JournalEntry{Index: c.index, Time: fromNanos(c.time), Batches: happened}, get)
	if err != nil {
		return fmt.Errorf("log entry %d: journal: %w", c.index, err)
	}
	for _, op := range ops {
		if err := op.validate(); err != nil {
			return fmt.Errorf("log entry %d: journal: %w", c.index, err)
		}
		c.do(op)
	}
	if write == nil {
		return nil
	}
	if err := write(); err != nil {
		return &JournalError{Index: c.index, Err: err}
	}
	return nil
}
