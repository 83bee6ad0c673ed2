package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// StateMachine is what the log drives: fsm.Store, adapted by internal/server.
type StateMachine interface {
	// Apply applies one entry (EncodeEntry's) and returns one result per item.
	// An error means that the entry was not applied, not even in part. If it
	// has a method Temporary() bool that returns true (fsm.JournalError), a disk
	// did not take what goes with the entry: the node fences itself off, as for
	// a disk of Raft's own, and gives the entry again until it is taken. Any
	// other error means that the entry can't be decoded: the node stops.
	Apply(index uint64, entry []byte) ([][]byte, error)
	// Snapshot is a consistent state as of the last Apply, written later.
	Snapshot() io.WriterTo
	// Restore replaces the state, by a newer one: a snapshot of what was
	// applied already is not given.
	Restore(r io.Reader) error
	// StateTime is the time that entries have brought so far.
	StateTime() time.Time
}

// snapshotMagic begins every snapshot of ours; the index of the last entry in
// it follows, eight bytes big-endian, then what StateMachine wrote. Raft knows
// the index too but does not tell it to Restore.
const snapshotMagic = "sallysn1"

// applied is the index up to which this node's state machine has applied.
// raft.AppliedIndex is another thing: entries handed over, not yet applied.
type applied struct {
	mu    sync.Mutex
	index uint64
	wake  chan struct{} // non-nil when somebody waits
}

func (a *applied) get() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index
}

func (a *applied) set(index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index = index
	if a.wake != nil {
		close(a.wake)
		a.wake = nil
	}
}

func (a *applied) wait(ctx context.Context, index uint64) error {
	for {
		a.mu.Lock()
		if a.index >= index {
			a.mu.Unlock()
			return nil
		}
		if a.wake == nil {
			a.wake = make(chan struct{})
		}
		wake := a.wake
		a.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errStopped is the answer for every entry after one that could not be applied.
var errStopped = errors.New("an entry before this one could not be applied: this node stops")

// outcome is what Raft's future of one entry holds.
type outcome struct {
	results [][]byte
	err     error
}

// machine joins StateMachine to Raft. Raft calls all but Persist from one goroutine.
type machine struct {
	sm      StateMachine
	applied *applied
	watch   *watchdog
	onApply func(entries int, bytes int) // after each batch
	onFail  func(error)                  // once
	failed  error

	onRestore func() error // nil or called when a snapshot has been taken over
}

var (
	_ raft.BatchingFSM = (*machine)(nil)
	_ raft.FSM         = (*machine)(nil)
)

// Apply is for raft.RecoverCluster alone; a running Raft calls ApplyBatch.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch gets commands and configurations: every entry that follows a
// term's barrier, so that the applied index reaches each index a read may wait for.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	bytes := 0
	for i, l := range logs {
		if l.Index <= m.applied.get() {
			// Raft starts over from its snapshot when it starts again in this
			// process. Those who read meanwhile must not be shown the past.
			out[i] = outcome{}
			continue
		}
		if m.failed != nil {
			out[i] = outcome{err: errStopped}
			continue
		}
		if l.Type != raft.LogCommand || len(l.Data) == 0 { // a configuration, or a barrier
			out[i] = outcome{}
			m.applied.set(l.Index)
			continue
		}
		bytes += len(l.Data)
		var res [][]byte
		var err error
		// The journal that Apply appends to is on the same disk: the watchdog looks on.
		if closed := m.watch.do("applying an entry", func() error {
			res, err = m.sm.Apply(l.Index, l.Data)
			if temporary(err) {
				return err
			}
			return nil
		}); closed != nil {
			m.failed = fmt.Errorf("entry %d of the log waits for a disk: %w", l.Index, err)
			out[i] = outcome{err: m.failed} // the node stops already; the entry comes again when it starts
			continue
		}
		if err != nil {
			m.failed = fmt.Errorf("entry %d of the log can't be applied (%w): was it written by a newer version? This node stops rather than guess", l.Index, err)
			m.onFail(m.failed)
			out[i] = outcome{err: m.failed}
			continue
		}
		out[i] = outcome{results: res}
		m.applied.set(l.Index)
	}
	if m.onApply != nil {
		m.onApply(len(logs), bytes)
	}
	return out
}

func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if m.failed != nil {
		return nil, m.failed // Raft counts the entry as applied, a snapshot would bury it
	}
	return &snapshot{index: m.applied.get(), body: m.sm.Snapshot()}, nil
}

func (m *machine) Restore(rc io.ReadCloser) error {
	var head [len(snapshotMagic) + 8]byte
	if _, err := io.ReadFull(rc, head[:]); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	if string(head[:len(snapshotMagic)]) != snapshotMagic {
		return errors.New("not a snapshot of this program")
	}
	index := binary.BigEndian.Uint64(head[len(snapshotMagic):])
	if index <= m.applied.get() { // see ApplyBatch
		if _, err := io.Copy(io.Discard, rc); err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
		return nil
	}
	if err := m.sm.Restore(rc); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	m.applied.set(index)
	if m.onRestore == nil {
		return nil
	}
	return m.watch.do("noting that there is data", m.onRestore)
}

// temporary reports whether a disk refused what Apply had to write.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

type snapshot struct {
	index uint64
	body  io.WriterTo
}

func (s *snapshot) WriteTo(w io.Writer) (int64, error) {
	head := binary.BigEndian.AppendUint64([]byte(snapshotMagic), s.index)
	n, err := w.Write(head)
	if err != nil {
		return int64(n), fmt.Errorf("write snapshot: %w", err)
	}
	m, err := s.body.WriteTo(w)
	if err != nil {
		return int64(n) + m, fmt.Errorf("write snapshot: %w", err)
	}
	return int64(n) + m, nil
}

func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.WriteTo(sink); err != nil {
		_ = sink.Cancel() // the error is what matters
		return err
	}
	return sink.Close()
}

func (s *snapshot) Release() {}
