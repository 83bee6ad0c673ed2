package server

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// keepFloor is a duty of the leader: lines that no replica has any more are given up
// after a while, so that the log has a beginning again instead of a hole that
// everybody tries to fill for ever. It happens when a backup was restored: a backup
// holds no text of events.
func (s *Server) keepFloor(ctx context.Context) error {
	var waiting *lostLines
	defer s.lost.Store(nil)
	for {
		lost, err := s.findLost(ctx)
		switch {
		case err != nil || lost == nil:
			waiting = nil
		case waiting == nil || waiting.floor != lost.floor || waiting.from != lost.from:
			waiting = lost
			s.log.Warn("no replica has these lines of the audit log: they will be given up, unless a replica that has them comes back",
				"from", lost.from, "to", lost.floor.First-1, "at", lost.until)
		case !time.Now().Before(waiting.until):
			if err = s.giveUp(ctx, *lost); err == nil {
				waiting = nil
			}
		}
		s.lost.Store(waiting)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("where the audit log begins could not be settled; trying again", "error", err)
		}
		if !waitFor(ctx, nil, s.opts.auditPace.floor) {
			return nil
		}
	}
}

// lostLines are lines that no replica has, up to where the log would begin without them.
type lostLines struct {
	from  uint64
	floor audit.Floor
	until time.Time // when they will be given up
}

// findLost looks for them; nil: this replica lacks nothing, or not everybody has said
// what they have.
func (s *Server) findLost(ctx context.Context) (*lostLines, error) {
	gap := s.journal.State().Gap
	if gap == nil {
		return nil, nil //nolint:nilnil // nothing is lost, the usual case
	}
	m, err := s.records.manifest()
	if err != nil {
		return nil, err
	}
	var others []audit.Holding
	for _, h := range s.holdings(ctx)[1:] {
		if h.err != nil {
			return nil, nil //nolint:nilnil,nilerr // it may have them
		}
		others = append(others, h.state)
	}
	floor := m.FloorFor(*gap, others)
	if floor == nil {
		return nil, nil //nolint:nilnil // likewise
	}
	wait := s.opts.auditPace.lost
	if gap.From == 1 && floor.First > gap.To { // no replica has a line from before
		wait = s.opts.auditPace.restored
	}
	return &lostLines{max(gap.From, m.First()), *floor, time.Now().Add(wait)}, nil
}

// giveUp lets the log begin at a floor, in one transaction with the event that says so.
// What replicas have from before, they keep aside.
func (s *Server) giveUp(ctx context.Context, lost lostLines) error {
	floor, to := lost.floor, lost.floor.First-1
	v := s.store.View()
	m, err := s.records.manifestOf(v)
	if err != nil {
		return err
	}
	if m.First() >= floor.First {
		return nil // it begins there already
	}
	var gone []audit.Segment
	for _, seg := range m.Segments {
		if seg.Last < floor.First {
			gone = append(gone, seg)
		}
	}
	value, err := json.Marshal(floor)
	if err != nil {
		return err
	}
	txn, err := s.dropSegments(v, gone, api.Event{Event: api.EventLost, Code: api.EventCodeLost, Fields: map[string]any{
		"count": to - lost.from + 1, "from": lost.from, "to": to, "set_aside": audit.AsideFolder(floor.First),
		"reason": fmt.Sprintf("no replica that answered has all of the lines %d to %d of the audit log: the cluster was restored from a backup, which holds no events, or all copies were harmed. "+
			"What a replica has from before line %d is set aside in its data directory, in log/%s", lost.from, to, floor.First, audit.AsideFolder(floor.First)),
	}})
	if err != nil {
		return err
	}
	txn.Checks = append(txn.Checks, fsm.Check{Key: audit.KeyFloor, Revision: v.Revision(audit.KeyFloor)})
	txn.Ops = append(txn.Ops, fsm.Put(audit.KeyFloor, value))
	if _, err := s.store.Commit(ctx, txn); err != nil {
		return err
	}
	s.log.Warn("the audit log begins anew: no replica that answered has all of the lines before; what each has of them is set aside, see audit.lost",
		"first", floor.First, "from", lost.from, "to", to, "folder", audit.AsideFolder(floor.First))
	return nil
}
