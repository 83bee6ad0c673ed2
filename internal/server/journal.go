package server

import (
	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// storeJournal is an audit.Journal as the store sees it: neither knows the other.
type storeJournal struct{ *audit.Journal }

// Extend implements fsm.Journal.
func (j storeJournal) Extend(e fsm.JournalEntry, get func(key string) []byte) ([]fsm.Op, func() error, error) {
	entry := audit.Entry{Index: e.Index, Time: e.Time, Batches: make([]audit.Batch, len(e.Batches))}
	for i, b := range e.Batches {
		entry.Batches[i] = audit.Batch(b)
	}
	changes, add, err := audit.Extend(entry, get)
	if err != nil {
		return nil, nil, err
	}
	ops := make([]fsm.Op, len(changes))
	for i, c := range changes {
		ops[i] = fsm.Op{Key: c.Key, Value: c.Value, TTL: c.TTL}
	}
	if add == nil {
		return ops, nil, nil
	}
	return ops, func() error { return j.Write(add) }, nil
}
