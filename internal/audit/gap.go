package audit

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// JournalState is what a replica says of its journal.
type JournalState struct {
	First, Last  uint64 // own lines; First > Last: none
	Files        int
	Bytes        int64
	PendingBytes int // see Pending
	Gap          *Gap
	Err          error // why lines can't be written, synced or fetched; nil: all is well
}

// Gap is lines that the journal lacks: they are being fetched.
type Gap struct {
	From, To uint64
	Have     uint64   // lines of the gap that have been fetched already
	Lacking  []string // peers that answered and have none of From

	// Hash is that of line To: of the head at which the gap was opened. The leader
	// needs it for the Floor of lines that nobody has.
	Hash chain.Hash
}

// FetchRequest asks a peer for lines.
type FetchRequest struct {
	From uint64 `json:"from"`
	Max  int    `json:"max,omitempty"` // bytes
}

// FetchAnswer is what a peer has.
type FetchAnswer struct {
	First uint64 `json:"first"` // own lines that this replica has
	Last  uint64 `json:"last"`
	Lines []byte `json:"lines,omitempty"` // whole lines, the first one is From; empty: it has none
}

// KeepOptions of Keep.
type KeepOptions struct {
	Peers           func() []string
	Fetch           func(ctx context.Context, peer string, r FetchRequest) (FetchAnswer, error)
	ManifestChanged func() <-chan struct{}
}

// State says how far the journal is.
func (j *Journal) State() JournalState {
	j.mu.Lock()
	defer j.mu.Unlock()
	return JournalState{First: 1, Last: j.last, Files: 1, PendingBytes: len(j.pending), Err: j.writeErr}
}

// Changed is closed when lines were added.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// Keep runs for the life of the process.
func (j *Journal) Keep(ctx context.Context, _ KeepOptions) { <-ctx.Done() }

// Serve answers a peer.
func (j *Journal) Serve(FetchRequest) (FetchAnswer, error) { return FetchAnswer{}, nil }
