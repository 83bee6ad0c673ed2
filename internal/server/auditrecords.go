package server

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// auditRecords are what the store says of the audit log.
type auditRecords struct {
	view     func() fsm.View
	segments *fsm.Collection[audit.Segment]

	mu      sync.Mutex
	changed chan struct{} // closed when segments or the floor have changed
}

func newAuditRecords(view func() fsm.View) *auditRecords {
	return &auditRecords{view: view, segments: fsm.NewCollection[audit.Segment](audit.KeySegments), changed: make(chan struct{})}
}

// manifest of the present state. Its slice is the caller's.
func (a *auditRecords) manifest() (audit.Manifest, error) { return a.manifestOf(a.view()) }

func (a *auditRecords) manifestOf(v fsm.View) (m audit.Manifest, err error) {
	if m.Head, err = record(v, audit.KeyHead, audit.Head{First: 1}); err != nil {
		return m, err
	}
	if m.Floor, err = record(v, audit.KeyFloor, audit.Floor{}); err != nil {
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

// record reads one that stands alone; absent if there is none.
func record[T any](v fsm.View, key string, absent T) (T, error) {
	rec, ok := v.Get(key)
	if !ok {
		return absent, nil
	}
	var value T
	if err := json.Unmarshal(rec.Value, &value); err != nil {
		return absent, fmt.Errorf("record %s: %w", key, err)
	}
	return value, nil
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
