package fsm

import (
	"math"
	"sync/atomic"
	"time"
)

// A Record is one key of the store at one revision. Records are shared by every
// reader and never change: neither the struct nor the bytes of Value may be
// modified.
type Record struct {
	Key      string
	Value    []byte
	Revision uint64    // Raft index of the entry that last wrote the key
	Created  time.Time // state time of the first write; kept over updates
	Expires  time.Time // zero: never

	// decoded lives and dies with this revision, so it needs no invalidation.
	decoded atomic.Pointer[decoded]
}

// decoded is what a Collection made of a record's value. It names its owner:
// two collections may read the same bytes as different types, or one more
// strictly than the other.
type decoded struct {
	owner any // *Collection[T]
	value any // *T
}

// expiredAt reports whether the record counts as absent at now (UTC
// nanoseconds). A record is gone at the very instant it expires.
func (r *Record) expiredAt(now int64) bool {
	return !r.Expires.IsZero() && r.Expires.UnixNano() <= now
}

// State time is kept, compared and encoded as nanoseconds since 1970 (good until
// 2262): one integer with one meaning, without zones or monotonic readings that
// could differ between replicas. Zero stands for "none".

func fromNanos(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func toNanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// after returns now + ttl, stopping at the end of representable time: an absurd
// TTL means "very late" and must not wrap around to "long ago".
func after(now int64, ttl time.Duration) int64 {
	if now > math.MaxInt64-int64(ttl) {
		return math.MaxInt64
	}
	return now + int64(ttl)
}
