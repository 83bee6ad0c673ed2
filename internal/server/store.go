package server

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// stateMachine is the fsm.Store as Raft sees it. fsm and cluster know nothing
// of each other: to cluster an entry is bytes, to fsm Raft is an index.
type stateMachine struct {
	*fsm.Store
	journal journal
}

// journal is the part of the audit log that snapshots concern; an *audit.Journal.
type journal interface {
	Sync() error
	Expect(head audit.Head)
}

func (s stateMachine) StateTime() time.Time { return s.Time() }

func (s stateMachine) Snapshot() io.WriterTo {
	return journaledSnapshot{s.Store.Snapshot(), s.journal}
}

// Restore brings a snapshot of somebody else's, whose events this replica's
// journal may lack.
func (s stateMachine) Restore(r io.Reader) error {
	if err := s.Store.Restore(r); err != nil {
		return err
	}
	m, err := newAuditRecords(s.View).manifest()
	if err != nil {
		return err
	}
	s.journal.Expect(m.Head)
	return nil
}

// journaledSnapshot is written only after the journal is on disk up to its
// index: the snapshot lets Raft forget the entries that hold those events.
type journaledSnapshot struct {
	*fsm.Snapshot
	journal journal
}

func (s journaledSnapshot) WriteTo(w io.Writer) (int64, error) {
	if err := s.journal.Sync(); err != nil {
		return 0, err
	}
	return s.Snapshot.WriteTo(w)
}

// proposer puts an item into the Raft log; a *cluster.Node.
type proposer interface {
	Propose(ctx context.Context, item []byte) (cluster.Receipt, error)
	Linearize(ctx context.Context) error
}

// store is the replicated store that the domains above are given: reads are
// local, writes go through Raft and return when this replica has applied them.
type store struct {
	state  *fsm.Store
	log    proposer
	origin string // this replica's server id, by which its journal knows its own events
}

func (s *store) View() fsm.View { return s.state.View() }

// Commit makes a transaction durable, or fails with a code: conflict when one of
// its checks did not hold, unavailable when nothing was done, ambiguous when
// nobody can tell.
func (s *store) Commit(ctx context.Context, txn fsm.Txn) (uint64, error) {
	item, err := fsm.EncodeItem(fsm.Item{Origin: s.origin, Txn: &txn})
	if err != nil {
		return 0, api.Errorf(api.CodeTooLarge, "this change can't be stored: %w", err)
	}
	receipt, err := s.log.Propose(ctx, item)
	if err != nil {
		return 0, err
	}
	err = fsm.DecodeResult(receipt.Result)
	if c, ok := errors.AsType[*fsm.ConflictError](err); ok {
		return 0, api.Errorf(api.CodeConflict, "%s was changed by somebody else meanwhile: look at it and try again: %w", c.Key, err)
	}
	if err != nil {
		return 0, api.Errorf(api.CodeAmbiguous, "the change was made, but its result can't be read: %w", err)
	}
	noteCommit(ctx)
	return receipt.Index, nil
}

// Linearize returns once this replica has applied every write acknowledged
// anywhere before the call.
func (s *store) Linearize(ctx context.Context) error { return s.log.Linearize(ctx) }

// Emit makes events durable that belong to no transaction.
func (s *store) Emit(ctx context.Context, b audit.Batch) error {
	item, err := fsm.EncodeItem(fsm.Item{Origin: s.origin, Epoch: b.Epoch, First: b.First, Events: b.Events})
	if err != nil {
		return err
	}
	_, err = s.log.Propose(ctx, item)
	return err
}
