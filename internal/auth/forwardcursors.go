package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// ForwardCursors is how far each forwarder has come. Whoever sends for a forwarder
// loads its cursor once and moves it from then on; the cursor never goes back, and one
// whose forwarder is gone moves nowhere.
type ForwardCursors struct{ base *base }

// Cursors gives access to them.
func (f *Forwarders) Cursors() *ForwardCursors { return &ForwardCursors{base: f.base} }

// Open gives the forwarders with their secrets, for whoever sends, and a channel
// that is closed when they may have changed. One that this version does not
// understand, or whose secrets can't be read, is left out: see Status.
func (f *Forwarders) Open() ([]api.AuditForwarder, <-chan struct{}, error) {
	v := f.base.db.View()
	_, changed := v.WatchPrefix(forwarders.Key(""))
	var out []api.AuditForwarder
	for rec, stored := range forwarders.List(v) {
		doc, err := f.openOne(v, rec, stored)
		if err != nil {
			f.base.log.Warn("an audit forwarder sends nothing", "forwarder", forwarders.Name(rec), "error", err)
			continue
		}
		doc.Metadata.Revision = rec.Revision
		out = append(out, *doc)
	}
	return out, changed, nil
}

func (f *Forwarders) openOne(v fsm.View, rec *fsm.Record, stored *forwarderRecord) (*api.AuditForwarder, error) {
	if stored == nil {
		return nil, api.Errorf(api.CodeForbidden, "it can't be read by this version: upgrade this replica, or remove it")
	}
	if stored.unknown != nil {
		return nil, api.Errorf(api.CodeForbidden, "it holds what this version does not know, so nothing is sent: %w", stored.unknown)
	}
	doc, err := f.unseal(v, forwarders.Name(rec), stored)
	if err != nil {
		return nil, err
	}
	if path := doc.MissingHeader(); path != "" {
		return nil, fmt.Errorf("%s is lost: write the forwarder again", path)
	}
	return doc, nil
}

// Status is how far the forwarders have come, by name: last is the number of the log's
// last line. Any replica can tell.
func (f *Forwarders) Status(last uint64) []api.ForwarderStatus {
	v := f.base.db.View()
	var out []api.ForwarderStatus
	for rec, stored := range forwarders.List(v) {
		s := api.ForwarderStatus{Name: forwarders.Name(rec)}
		if stored != nil && stored.doc != nil {
			s.Type = stored.doc.Spec.Type
		}
		if c, _, err := cursors.Get(v, s.Name); err == nil {
			s.Number, s.Updated, s.Failing, s.Error, s.Skipped = c.Number, c.Updated, c.Failing, c.Error, c.Skipped
		}
		if s.Number < last {
			s.Behind = last - s.Number
		}
		if _, err := f.openOne(v, rec, stored); err != nil {
			s.Error = err.Error()
			if s.Failing.IsZero() {
				s.Failing = v.Now()
			}
		}
		out = append(out, s)
	}
	return out
}

// Load gives the cursor of a forwarder.
func (c *ForwardCursors) Load(name string) (api.ForwarderCursor, error) {
	cursor, _, _, err := c.load(c.base.db.View(), name)
	return cursor, err
}

// load gives the cursor with both records; that of the cursor may be nil.
func (c *ForwardCursors) load(v fsm.View, name string) (cursor api.ForwarderCursor, rec, forwarder *fsm.Record, err error) {
	is, forwarder, err := forwarders.Get(v, name)
	if err != nil {
		return cursor, nil, nil, readError(api.KindAuditForwarder, clip(name), err)
	}
	stored, rec, err := cursors.Get(v, name)
	if err != nil && !errors.Is(err, fsm.ErrNotFound) {
		return cursor, rec, forwarder, readError("cursor of "+api.KindAuditForwarder, clip(name), err)
	}
	if stored != nil {
		cursor = *stored
	}
	cursor.Life, cursor.Revision = is.ID, forwarder.Revision
	return cursor, rec, forwarder, nil
}

// Save moves a cursor that Load gave. CodeNotFound: the forwarder is gone, or another
// one has its name by now. CodeConflict: the cursor is further already, by whoever
// sends now.
func (c *ForwardCursors) Save(ctx context.Context, name string, cursor api.ForwarderCursor) error {
	return c.save(ctx, name, cursor, nil)
}

// Skip is Save with an event that lines were given up, which the cursor says already.
func (c *ForwardCursors) Skip(ctx context.Context, name string, cursor api.ForwarderCursor, skip api.ForwarderSkip) error {
	if skip.Quiet {
		return c.save(ctx, name, cursor, nil)
	}
	return c.save(ctx, name, cursor, &skip)
}

func (c *ForwardCursors) save(ctx context.Context, name string, cursor api.ForwarderCursor, skip *api.ForwarderSkip) error {
	cursor.Revision = 0
	_, err := c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		was, rec, forwarder, err := c.load(v, name)
		was.Revision = 0
		switch {
		case err != nil:
			return fsm.Txn{}, err
		case was.Life != cursor.Life:
			return fsm.Txn{}, api.Errorf(api.CodeNotFound, "%s %q was removed, and another one has its name", api.KindAuditForwarder, name)
		case was.Number > cursor.Number:
			return fsm.Txn{}, api.Errorf(api.CodeConflict, "%s %q is at line %d already", api.KindAuditForwarder, name, was.Number)
		case was == cursor: // what was sent may have been committed though the answer was lost
			return fsm.Txn{}, nil
		}
		op, err := cursors.Put(name, &cursor, 0)
		if err != nil {
			return fsm.Txn{}, err
		}
		txn := fsm.Txn{
			// The forwarder's record too: a cursor must not outlive it.
			Checks: []fsm.Check{forwarders.Unchanged(forwarder), {Key: op.Key, Revision: revision(rec)}}, Ops: []fsm.Op{op},
		}
		if skip != nil && was.Skipped < cursor.Skipped {
			line, err := c.base.event(ctx, v, api.EventForwardSkipped, api.EventCodeForwardSkipped, Actor{}, map[string]any{
				"name": name, "from": skip.From, "to": skip.To, "count": skip.Count, "reason": skip.Reason,
			})
			if err != nil {
				return fsm.Txn{}, err
			}
			txn.Events = [][]byte{line}
		}
		return txn, nil
	})
	return err
}
