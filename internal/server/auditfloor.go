package server

import (
	"context"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// keepFloor is a duty of the leader: lines that no replica has any more are given up
// after a while, so that the log has a beginning again instead of a hole that
// everybody tries to fill for ever. It happens when a backup was restored: a backup
// holds no text of events.
func (s *Server) keepFloor(ctx context.Context) error {
	var since time.Time
	var waiting audit.Floor
	for {
		floor, err := s.findFloor(ctx)
		switch {
		case err != nil || floor == nil:
			since = time.Time{}
		case since.IsZero() || waiting != *floor:
			since, waiting = time.Now(), *floor
			s.log.Warn("no replica has the beginning of the audit log: it will be given up, unless one that has it comes back",
				"before", floor.First, "after", s.opts.auditPace.lost)
		case time.Since(since) >= s.opts.auditPace.lost:
			if err = s.giveUp(ctx, *floor); err == nil {
				since = time.Time{}
			}
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("where the audit log begins could not be settled; trying again", "error", err)
		}
		if !pauseOr(ctx, nil, s.opts.auditPace.floor) {
			return nil
		}
	}
}

// findFloor says where the log would begin if what nobody has were given up; nil: this
// replica lacks nothing, or not everybody has said what they have.
func (s *Server) findFloor(ctx context.Context) (*audit.Floor, error) {
	gap := s.journal.State().Gap
	if gap == nil {
		return nil, nil //nolint:nilnil // nothing is lost, the usual case
	}
	m, err := s.records.manifest()
	if err != nil {
		return nil, err
	}
	return floorOf(m, *gap, s.holdings(ctx)[1:]), nil
}

// floorOf is the first line from which on others have what is in a gap, or the line
// behind the gap. It must be one whose predecessor's hash is known: the beginning of a
// segment, or the end of the gap.
func floorOf(m audit.Manifest, gap audit.Gap, others []holding) *audit.Floor {
	first := gap.To + 1 // of what anybody has
	for _, h := range others {
		if h.err != nil {
			return nil // it may have them
		}
		if n, ok := h.state.next(gap.From); ok {
			first = min(first, n)
		}
	}
	if first == gap.From {
		return nil // it can be fetched
	}
	for _, seg := range m.Segments {
		if seg.First >= first && seg.First <= gap.To {
			return &audit.Floor{First: seg.First, Prev: seg.Prev}
		}
	}
	if h := m.Head; h.First >= first && h.First <= gap.To {
		return &audit.Floor{First: h.First, Prev: h.Prev}
	}
	hash, ok := hashOf(m, gap)
	if !ok {
		return nil
	}
	return &audit.Floor{First: gap.To + 1, Prev: hash}
}

// hashOf is the hash of a gap's last line.
func hashOf(m audit.Manifest, gap audit.Gap) (chain.Hash, bool) {
	switch {
	case gap.Hash != chain.Hash{}:
		return gap.Hash, true
	case m.Head.Number == gap.To:
		return m.Head.Hash, true
	case m.Head.First == gap.To+1:
		return m.Head.Prev, true
	}
	for _, seg := range m.Segments {
		if seg.Last == gap.To {
			return seg.Hash, true
		}
	}
	return chain.Hash{}, false
}

// giveUp lets the log begin at a floor, in one transaction with the event that says so.
func (s *Server) giveUp(ctx context.Context, floor audit.Floor) error {
	v := s.store.View()
	m, err := s.records.manifestOf(v)
	if err != nil {
		return err
	}
	from := manifestFirst(m)
	if from >= floor.First {
		return nil // it begins there already
	}
	var gone []audit.Segment
	for _, seg := range m.Segments {
		if seg.Last < floor.First {
			gone = append(gone, seg)
		}
	}
	txn, err := s.dropSegments(v, gone, api.Event{Event: api.EventLost, Code: api.EventCodeLost, Fields: map[string]any{
		"count": floor.First - from, "from": from, "to": floor.First - 1,
		"reason": "no replica has these lines of the audit log: the cluster was restored from a backup, which holds no events, or all copies were lost",
	}})
	if err != nil {
		return err
	}
	txn.Checks = append(txn.Checks, fsm.Check{Key: audit.KeyFloor, Revision: v.Revision(audit.KeyFloor)})
	txn.Ops = append(txn.Ops, fsm.Put(audit.KeyFloor, mustJSON(floor)))
	if _, err := s.store.Commit(ctx, txn); err != nil {
		return err
	}
	s.log.Warn("the audit log begins anew: no replica has what was before", "first", floor.First, "lost", floor.First-from)
	return nil
}
