package acme

import (
	"context"

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
