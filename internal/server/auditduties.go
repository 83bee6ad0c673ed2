package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/forward"
)

// auditPace is how often the leader looks after the audit log. Tests are in a hurry.
type auditPace struct {
	retention time.Duration // between two looks at what may be deleted
	floor     time.Duration // between two looks at what the leader lacks
	// lost is after which lines are given up that nobody has. A replica that left the
	// cluster is not asked, and may come back with them: to wait costs nothing.
	lost time.Duration
	// restored is the same where nobody has a line, as after a restore.
	restored time.Duration
	// fit is how long a leader deletes nothing for want of room on volumes: one that was
	// mounted wrongly, as after a restart, may be put right, what is deleted may not.
	fit  time.Duration
	read time.Duration // that clients may take to read a piece of an answer
}

func (p auditPace) withDefaults() auditPace {
	p.retention = cmp.Or(p.retention, time.Minute)
	p.floor = cmp.Or(p.floor, 5*time.Second)
	p.lost = cmp.Or(p.lost, 10*time.Minute)
	p.restored = cmp.Or(p.restored, 30*time.Second)
	p.fit = cmp.Or(p.fit, 5*time.Minute)
	p.read = cmp.Or(p.read, readFor)
	return p
}

// keepAuditLimits writes down what sealing depends on.
func (s *Server) keepAuditLimits(ctx context.Context, segmentBytes int64) error {
	if err := s.store.Linearize(ctx); err != nil {
		return err
	}
	v := s.store.View()
	want := audit.Limits{SegmentBytes: segmentBytes}
	is, err := record(v, audit.KeyLimits, audit.Limits{SegmentBytes: audit.DefaultSegmentBytes})
	if err != nil {
		return err
	}
	if is == want {
		return nil
	}
	value, err := json.Marshal(want)
	if err != nil {
		return err
	}
	txn := fsm.Txn{
		Checks: []fsm.Check{{Key: audit.KeyLimits, Revision: v.Revision(audit.KeyLimits)}},
		Ops:    []fsm.Op{fsm.Put(audit.KeyLimits, value)},
	}
	if _, err := s.store.Commit(ctx, txn); err != nil {
		return fmt.Errorf("change the limits of the audit log: %w", err)
	}
	s.log.Info("the audit log's segments have another size from now on", "bytes", want.SegmentBytes, "before", is.SegmentBytes)
	return nil
}

// holding is what one replica has of the log; err: nobody knows.
type holding struct {
	id    string
	voter bool
	state audit.Holding
	err   error
}

// lacks says whether a replica may lack a segment.
func (h holding) lacks(seg audit.Segment) bool {
	return h.err != nil || !h.state.Has(seg.First, seg.Last)
}

// holdings asks every server of the Raft configuration what it has.
func (s *Server) holdings(ctx context.Context) []holding {
	servers := s.node.Status().Servers
	out := make([]holding, 1, 1+len(servers))
	out[0] = holding{id: s.node.ID(), state: s.holding()}
	var work sync.WaitGroup
	for _, srv := range servers {
		if srv.ID == s.node.ID() {
			out[0].voter = srv.Voter
			continue
		}
		out = append(out, holding{id: srv.ID, voter: srv.Voter})
		h := &out[len(out)-1] // there is room for all of them
		work.Go(func() { h.state, h.err = s.askAuditState(ctx, srv) })
	}
	work.Wait()
	return out
}

// retention is what may be kept of the log.
type retention struct {
	maxAge  time.Duration // 0: for ever
	maxSize int64
	copies  int64 // bytes of the copied lines with which a file begins
}

// copiesPerFile is an average, by what this replica has on its disk.
func copiesPerFile(m audit.Manifest, st audit.JournalState) int64 {
	copies := st.Bytes - m.Head.Bytes
	for _, seg := range m.Segments {
		copies -= seg.Bytes
	}
	return max(0, copies) / int64(max(1, st.Files))
}

// dropped is what is to be deleted: the oldest segments.
type dropped struct {
	segments []audit.Segment
	bytes    int64
	size     bool     // the bound of size demanded it, for one at least
	lacking  []string // replicas and forwarders that have not had all of it
}

// drop chooses. What is too old goes as soon as every replica and every forwarder has
// had it. What there is no room for goes in any case: a disk that is full, or a receiver
// that is gone for good, must not stop the cluster.
func (r retention) drop(m audit.Manifest, now time.Time, replicas []holding, forwarders []api.ForwarderStatus) dropped {
	var out dropped
	bytes := m.Head.Bytes + r.copies
	for _, seg := range m.Segments {
		bytes += seg.Bytes + r.copies
	}
	for _, seg := range m.Segments {
		size := bytes > r.maxSize
		if !size && (r.maxAge == 0 || now.Sub(seg.Sealed) <= r.maxAge) {
			break
		}
		lacking := lackingSegment(seg, replicas, forwarders)
		if !size && len(lacking) > 0 {
			break
		}
		bytes -= seg.Bytes + r.copies
		out.bytes += seg.Bytes + r.copies
		out.size = out.size || size
		out.segments = append(out.segments, seg)
		out.lacking = append(out.lacking, lacking...)
	}
	slices.Sort(out.lacking)
	out.lacking = slices.Compact(out.lacking)
	return out
}

func lackingSegment(seg audit.Segment, replicas []holding, forwarders []api.ForwarderStatus) (names []string) {
	for _, h := range replicas {
		if h.lacks(seg) {
			names = append(names, "replica "+h.id)
		}
	}
	for _, f := range forwarders {
		if f.Number < seg.Last {
			names = append(names, "forwarder "+f.Name)
		}
	}
	return names
}

// keepRetention is a duty of the leader: it deletes the records of segments, and
// replicas then delete the files. What sealing depends on, it keeps as this replica's
// flags and the volumes demand.
func (s *Server) keepRetention(ctx context.Context) error {
	d := retentionDuty{Server: s, since: time.Now()}
	for {
		changed := s.records.manifestChanged()
		lacking, err := d.retain(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("old parts of the audit log could not be deleted; trying again", "error", err)
		}
		again := s.opts.auditPace.retention
		if lacking || err != nil { // a replica that is starting, say
			again = min(again, lackingAgain)
		}
		if !waitFor(ctx, changed, again) {
			return nil
		}
	}
}

// lackingAgain is when it is looked again whether everybody has what is to be deleted.
const lackingAgain = 5 * time.Second

// retentionDuty is one leadership's.
type retentionDuty struct {
	*Server
	since    time.Time // of the leadership
	segments int64     // their size, as it was written down; 0: it was not
	room     int64     // what the log was told of
}

// retain deletes what is due. It says whether more is, but somebody still lacks it.
func (s *retentionDuty) retain(ctx context.Context) (lacking bool, err error) {
	v := s.store.View()
	m, err := s.records.manifestOf(v)
	if err != nil {
		return false, err
	}
	replicas := s.holdings(ctx)
	if err := s.fitSegments(ctx, replicas); err != nil {
		return false, err
	}
	r := retention{s.opts.AuditMaxAge, s.opts.AuditMaxSize, copiesPerFile(m, s.journal.State())}
	room := s.roomOfVolumes(m, replicas)
	if room > 0 {
		r.maxSize = room
	}
	// State time, because no clock that is wrong may age the log. It stands still while
	// nothing happens.
	now := s.state.Time()
	if len(r.drop(m, now, nil, nil).segments) == 0 {
		if len(r.drop(m, v.Now(), nil, nil).segments) == 0 {
			return !majorityTold(replicas), nil
		}
		if err := s.node.Tick(ctx); err != nil {
			return false, err
		}
		if now = s.state.Time(); len(r.drop(m, now, nil, nil).segments) == 0 {
			return false, nil
		}
	}
	drop := r.drop(m, now, replicas, s.auth.Forwarders.Status(m.Head.Number))
	lacking = len(drop.segments) < len(r.drop(m, now, nil, nil).segments)
	if len(drop.segments) == 0 {
		return lacking, nil
	}
	return lacking, s.delete(ctx, v, drop, room)
}

// fitSegments makes segments as large as the flag says, and smaller on small volumes.
func (s *retentionDuty) fitSegments(ctx context.Context, replicas []holding) error {
	if !majorityTold(replicas) {
		return nil // soon
	}
	size := segmentFor(s.opts.AuditSegmentSize, roomFor(replicas, func(holding) bool { return true }))
	if size == s.segments {
		return nil
	}
	if err := s.keepAuditLimits(ctx, size); err != nil {
		return err
	}
	s.segments = size
	return nil
}

// roomOfVolumes is the bound of the log's size that volumes make, if it is less than what
// the flag says; 0: none.
func (s *retentionDuty) roomOfVolumes(m audit.Manifest, replicas []holding) int64 {
	room := roomFor(replicas, holdsAll(m))
	if room == 0 || room >= s.opts.AuditMaxSize {
		return 0
	}
	if room != s.room {
		s.room = room
		s.log.Warn("too many replicas have volumes that are too small for the audit log that is to be kept: its oldest part goes earlier; give them larger volumes",
			"audit_max_size", api.FormatSize(s.opts.AuditMaxSize), "kept", api.FormatSize(room), "from", s.since.Add(s.opts.auditPace.fit))
	}
	if time.Since(s.since) < s.opts.auditPace.fit {
		return 0
	}
	return room
}

// delete deletes, with an event that says why. Room, unless it is 0, is what the size had
// to be less than.
func (s *retentionDuty) delete(ctx context.Context, v fsm.View, drop dropped, room int64) error {
	first, last := drop.segments[0], drop.segments[len(drop.segments)-1]
	reason := "age"
	if drop.size {
		reason = "size"
	}
	fields := map[string]any{"reason": reason, "segments": len(drop.segments), "bytes": drop.bytes, "from": first.First, "to": last.Last}
	if drop.size && room > 0 {
		fields["room"] = room
	}
	if len(drop.lacking) > 0 {
		fields["lacking"] = drop.lacking
		s.log.Warn("the audit log was larger than may be kept: lines were deleted that not everybody has had", "from", first.First, "to", last.Last, "lacking", drop.lacking)
	}
	txn, err := s.dropSegments(v, drop.segments, api.Event{Event: api.EventAuditRetention, Code: api.EventCodeAuditRetention, Fields: fields})
	if err != nil {
		return err
	}
	if _, err := s.store.Commit(ctx, txn); err != nil {
		return err
	}
	s.log.Info("old parts of the audit log were deleted", "reason", reason, "from", first.First, "to", last.Last, "bytes", drop.bytes)
	return nil
}

// dropSegments makes a transaction that forgets segments, with its event.
func (s *Server) dropSegments(v fsm.View, segments []audit.Segment, ev api.Event) (fsm.Txn, error) {
	var txn fsm.Txn
	for _, seg := range segments {
		key := audit.SegmentKey(seg.First)
		txn.Checks = append(txn.Checks, fsm.Check{Key: key, Revision: v.Revision(key)})
		txn.Ops = append(txn.Ops, fsm.Delete(key))
	}
	uid, err := api.NewEventID(s.opts.Rand)
	if err != nil {
		return txn, err
	}
	ev.Time, ev.UID, ev.ClusterName = v.Now().UTC(), uid, s.opts.ClusterName
	line, err := audit.Encode(ev)
	txn.Events = [][]byte{line}
	return txn, err
}

// auditForwarders send the log to other systems, while this replica leads.
func (s *Server) auditForwarders() (*forward.Forwarders, error) {
	return forward.New(forward.Options{
		Source: s.journal, Cursors: s.auth.Forwarders.Cursors(), List: s.auth.Forwarders.Open,
		First: s.logEnd(audit.Manifest.First), Last: s.logEnd(func(m audit.Manifest) uint64 { return m.Head.Number }),
		Clock: s.opts.Clock, Logger: s.log,
	})
}

// logEnd says where the log begins or ends: the cluster's, not that of this replica's
// files, because what these lack for now will come. 0: it is not known, as if there were
// nothing to send; half of what the store says would mean that lines are gone.
func (s *Server) logEnd(of func(audit.Manifest) uint64) func() uint64 {
	return func() uint64 {
		m, err := s.records.manifest()
		if err != nil {
			s.log.Warn("what the audit log holds can't be read", "error", err)
			return 0
		}
		return of(m)
	}
}
