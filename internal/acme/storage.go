package acme

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/sallyport-dev/sallyport/fsm"
)

// DB is the replicated store. Reads are local; Commit returns when this replica has
// applied the write; Linearize when it has applied every write acknowledged before.
type DB interface {
	View() fsm.View
	Commit(ctx context.Context, txn fsm.Txn) (revision uint64, err error)
	Linearize(ctx context.Context) error
}

// Sealer seals what the store holds of ours: see seal.Keyring.
type Sealer interface {
	Seal(recordKey string, plaintext []byte) ([]byte, error)
	Open(recordKey string, sealed []byte) ([]byte, error)
}

// ErrLockLost is the error (wrapped) of a write under a lock whose lease ran out: this
// process was paused or cut off for longer, and another may hold the lock by now.
// Nothing was written.
var ErrLockLost = errors.New("the lock was lost: its lease ran out before it was renewed")

const defaultLease = 30 * time.Second

// StorageOptions of a Storage. DB and Sealer are needed.
type StorageOptions struct {
	DB     DB
	Sealer Sealer
	Owner  string           // server id of this replica, for people who read lock records
	Lease  time.Duration    // how long a lock outlives its holder, in state time; 0: 30 s
	Clock  func() time.Time // nil: time.Now
	Rand   io.Reader        // nil: crypto/rand
	Logger *slog.Logger     // nil: none
}

// Storage is CertMagic's storage and locks in the replicated store.
type Storage struct {
	db     DB
	sealer Sealer
	owner  string
	lease  time.Duration
	clock  func() time.Time
	rand   io.Reader
	log    *slog.Logger
}

var (
	_ certmagic.Storage          = (*Storage)(nil)
	_ certmagic.TryLocker        = (*Storage)(nil)
	_ certmagic.LockLeaseRenewer = (*Storage)(nil)
)

// NewStorage makes a storage. It starts nothing: each lock that is held has one
// goroutine, which ends with Unlock.
func NewStorage(opts StorageOptions) *Storage {
	s := &Storage{
		db: opts.DB, sealer: opts.Sealer, owner: opts.Owner, lease: opts.Lease,
		clock: opts.Clock, rand: opts.Rand, log: opts.Logger,
	}
	if s.lease <= 0 {
		s.lease = defaultLease
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.rand == nil {
		s.rand = rand.Reader
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}
