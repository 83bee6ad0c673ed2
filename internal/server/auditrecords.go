package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// auditRecords are what the store says of the audit log. Each revision of a record
// is decoded once.
type auditRecords struct {
	view     func() fsm.View
	heads    *fsm.Collection[audit.Head]
	floors   *fsm.Collection[audit.Floor]
	limits   *fsm.Collection[audit.Limits]
	segments *fsm.Collection[audit.Segment]

	mu      sync.Mutex
	changed chan struct{} // closed when segments or the floor have changed
}

// auditPrefix is what the keys of all these records begin with.
const auditPrefix = "audit/"

func newAuditRecords(view func() fsm.View) *auditRecords {
	return &auditRecords{
		view: view, heads: fsm.NewCollection[audit.Head](auditPrefix), floors: fsm.NewCollection[audit.Floor](auditPrefix),
		limits: fsm.NewCollection[audit.Limits](auditPrefix), segments: fsm.NewCollection[audit.Segment](audit.KeySegments),
		changed: make(chan struct{}),
	}
}

// manifest of the present state. Its slice is the caller's.
func (a *auditRecords) manifest() (audit.Manifest, error) { return a.manifestOf(a.view()) }

func (a *auditRecords) manifestOf(v fsm.View) (audit.Manifest, error) {
	m := audit.Manifest{Head: audit.Head{First: 1}}
	if err := get(v, a.heads, audit.KeyHead, &m.Head); err != nil {
		return m, err
	}
	if err := get(v, a.floors, audit.KeyFloor, &m.Floor); err != nil {
		return m, err
	}
	for rec, s := range a.segments.List(v) {
		if s == nil {
			_, err := a.segments.Decode(rec)
			return m, fmt.Errorf("record %s: %w", rec.Key, err)
		}
		m.Segments = append(m.Segments, *s)
	}
	return m, nil
}

// get leaves into as it is if there is no such record.
func get[T any](v fsm.View, c *fsm.Collection[T], key string, into *T) error {
	value, _, err := c.Get(v, strings.TrimPrefix(key, auditPrefix))
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("record %s: %w", key, err)
	}
	*into = *value
	return nil
}

// manifestChanged gives a channel that is closed when segments were sealed or
// dropped, or the log begins elsewhere. Lines that were added don't count: that
// happens many times a second.
func (a *auditRecords) manifestChanged() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// watch closes the channels of manifestChanged until ctx ends.
func (a *auditRecords) watch(ctx context.Context) {
	for {
		v := a.view()
		_, segments := v.WatchPrefix(audit.KeySegments)
		_, _, floor := v.Watch(audit.KeyFloor)
		select {
		case <-ctx.Done():
			return
		case <-segments:
		case <-floor:
		}
		a.mu.Lock()
		close(a.changed)
		a.changed = make(chan struct{})
		a.mu.Unlock()
	}
}

// manifestFirst is the number of the first line that the store knows of.
func manifestFirst(m audit.Manifest) uint64 {
	first := m.Head.First
	if len(m.Segments) > 0 {
		first = m.Segments[0].First
	}
	return max(first, m.Floor.First)
}
