package fsm

import (
	"iter"
	"time"
)

// A View is the store at one moment: all reads through it see the same whole
// entries and judge expiry by the same time. It costs nothing to hold except the
// memory of records that have been replaced since, and it grows old: take one
// per request, and a new one after a watch channel fires.
type View struct {
	state *state
	now   int64
}

// Index returns the Raft index of the last entry the view contains.
func (v View) Index() uint64 { return v.state.index }

// Now returns the time by which the view judges expiry: the later of state time
// and this replica's clock.
func (v View) Now() time.Time { return fromNanos(v.now) }

// AtStateTime returns the same view with expiry judged by state time alone, which this
// replica's clock has no part in. It is as old as the last entry: so for what must be the
// same on all replicas, such as a stamp in a record, and nothing that waits for its end.
func (v View) AtStateTime() View { return View{state: v.state, now: v.state.time} }

// Get returns the record of a key. It does not allocate.
func (v View) Get(key string) (*Record, bool) { return v.get([]byte(key)) }

func (v View) get(key []byte) (*Record, bool) {
	r, ok := v.state.of(key).Get(key)
	if !ok || r.expiredAt(v.now) {
		return nil, false
	}
	return r, true
}

// Revision returns the revision of a key, 0 if it is absent: what a [Check]
// needs to hold on to what this view shows.
func (v View) Revision(key string) uint64 {
	if r, ok := v.Get(key); ok {
		return r.Revision
	}
	return 0
}

// Watch is Get, with a channel that is closed when the key may have changed
// since: written, deleted or swept, or the store restored from a snapshot. No
// change is missed; now and then a neighbour's change fires it too, so look
// again, with a new view. If the view is old already, the channel may be closed
// from the start.
//
// Passing time alone does not fire it: a record turns absent in new views when
// it expires, and the channel is closed when it is swept. Who must act on the
// second sets a timer to Record.Expires.
func (v View) Watch(key string) (*Record, bool, <-chan struct{}) {
	return v.watch([]byte(key))
}

func (v View) watch(key []byte) (*Record, bool, <-chan struct{}) {
	ch, r, ok := v.state.of(key).Root().GetWatch(key)
	if !ok || r.expiredAt(v.now) {
		return nil, false, ch
	}
	return r, true, ch
}

// List returns the records whose key starts with prefix, in the order of their
// keys. It reads as it goes.
func (v View) List(prefix string) iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		for r := range v.state.all([]byte(prefix)) {
			if !r.expiredAt(v.now) && !yield(r) {
				return
			}
		}
	}
}

// WatchPrefix is List, with a channel as of Watch for the whole prefix. Records
// of the journal are watched by prefixes that start with JournalPrefix alone.
func (v View) WatchPrefix(prefix string) (iter.Seq[*Record], <-chan struct{}) {
	ch := v.state.of([]byte(prefix)).Root().Iterator().SeekPrefixWatch([]byte(prefix))
	return v.List(prefix), ch
}
