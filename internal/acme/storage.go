package acme

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
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

const (
	// defaultLease is how long others wait after a holder died. It is renewed at a
	// third, so an election (seconds) doesn't cost a lock that is held.
	defaultLease = 30 * time.Second

	// catchUpPatience bounds a linearizable read when the caller's context doesn't.
	catchUpPatience = 5 * time.Second

	// writeAttempts bounds how often a write is decided anew, because somebody else's
	// came in between or because nobody could tell whether it was done.
	writeAttempts = 8
)

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

// Storage is CertMagic's storage and locks in the replicated store, so that all
// replicas have one. It is safe for concurrent use.
//
// Files are sealed; their paths are not, and hold no secret: the authority's name, the
// cluster's names, the account's address.
//
// Reads are local. What is not here is looked for once more after this replica has
// caught up with the cluster: any replica may be asked for a challenge a moment after
// another has stored it. When that can't be done (no leader), the error is not
// fs.ErrNotExist: by that word CertMagic registers a second account, or orders a
// certificate that the cluster has.
//
// A write is done once or not at all, and the error says which is unknown. It carries
// a check of what it replaces: after an answer was lost it can therefore be tried
// again, because of two tries the store takes one; whose it was shows in the record,
// since no two are sealed alike.
type Storage struct {
	db     DB
	sealer Sealer
	owner  string
	lease  time.Duration
	clock  func() time.Time
	rand   io.Reader
	log    *slog.Logger

	mu     sync.Mutex
	held   map[string]*lease // by lock; what this process has locked and not unlocked, lost or not
	queues map[string]*queue // by lock; who in this process holds it or waits
}

var (
	_ certmagic.Storage          = (*Storage)(nil)
	_ certmagic.TryLocker        = (*Storage)(nil)
	_ certmagic.LockLeaseRenewer = (*Storage)(nil)
	_ fmt.Stringer               = (*Storage)(nil)
)

// NewStorage makes a storage. It starts nothing: each lock that is held has one
// goroutine, which ends with Unlock.
func NewStorage(opts StorageOptions) *Storage {
	s := &Storage{
		db: opts.DB, sealer: opts.Sealer, owner: opts.Owner, lease: opts.Lease,
		clock: opts.Clock, rand: opts.Rand, log: opts.Logger,
		held: map[string]*lease{}, queues: map[string]*queue{},
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

// String is what CertMagic's log lines show. Without it they would show, by
// reflection, all that the fields lead to.
func (s *Storage) String() string { return "replicated store" }

// catchUp returns when this replica has all that was acknowledged before.
func (s *Storage) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	return s.db.Linearize(ctx)
}

// find calls look with a view, and if that doesn't find what it looks for once more
// with one that has caught up (fresh: with that alone). It fails if that can't be had.
func (s *Storage) find(ctx context.Context, fresh bool, look func(fsm.View) bool) error {
	if !fresh && look(s.db.View()) {
		return nil
	}
	err := s.catchUp(ctx)
	if look(s.db.View()) || err == nil {
		return nil
	}
	return api.Errorf(codeOf(err), "not on this replica, and the cluster can't be asked: %w", err)
}

// write commits what plan makes of the store, with a check that l is still held (nil:
// under no lock; else the caller has its turn). plan is asked again when somebody else
// wrote in between and when nobody can tell what became of the transaction. It must
// check what it replaces, and say done when it finds that replaced: see Storage.
func (s *Storage) write(ctx context.Context, l *lease, plan func(fsm.View) (txn fsm.Txn, done bool, err error)) error {
	var last error
	for range writeAttempts {
		txn, done, err := plan(s.db.View())
		if err != nil || done {
			return err
		}
		if l != nil {
			txn.Checks = append(txn.Checks, fsm.Check{Key: l.key, Revision: l.revision})
		}
		revision, err := s.db.Commit(ctx, txn)
		switch {
		case err == nil:
			l.wrote(txn, revision)
			return nil
		case api.IsCode(err, api.CodeConflict):
			if err := l.recheck(s.db.View(), err); err != nil {
				return err
			}
		case api.IsCode(err, api.CodeAmbiguous):
			if s.catchUp(ctx) != nil {
				return err
			}
		default:
			return err
		}
		last = err
	}
	return last
}

// codeOf is the code of an error of DB's; one without is a context's.
func codeOf(err error) api.Code {
	if code := api.CodeOf(err); code != api.CodeInternal {
		return code
	}
	return api.CodeUnavailable
}

// unavailable says whether an error is the store's and may be another in a moment: there
// is no leader, or nobody can tell what became of a write.
func unavailable(err error) bool {
	return api.IsCode(err, api.CodeUnavailable) || api.IsCode(err, api.CodeAmbiguous)
}

// retryingStorage is the storage as an order uses it. An election doesn't end the order, and what
// the authority has issued is stored even after an outage in which the lock was lost, or
// when this replica is told to stop.
type retryingStorage struct{ *Storage }

// saveTimeout bounds the storing of what was issued when the replica's time is over.
const saveTimeout = 10 * time.Second

// Store implements certmagic.Storage.
func (p retryingStorage) Store(ctx context.Context, key string, value []byte) error {
	at := attemptFrom(ctx)
	base, ext := siteFile(key)
	if at.issued {
		var cancel context.CancelFunc
		ctx, cancel = outlast(ctx, at.running, saveTimeout)
		defer cancel()
		if base != "" {
			if at.files == nil {
				at.files = map[string][]byte{}
			}
			at.files[key] = value
		}
	}
	for lost := false; ; {
		var err error
		if !lost {
			err = p.Storage.Store(ctx, key, value)
			lost = errors.Is(err, ErrLockLost) && at.issued && base != ""
		}
		if lost && ext != metaExt {
			return nil // it is stored with the third file
		}
		if lost {
			err = p.storeAgain(ctx, at, base)
		}
		if !unavailable(err) || await(ctx, nil, time.Second) != nil {
			return err
		}
	}
}

// Delete implements certmagic.Storage. When CertMagic couldn't store all of a certificate
// it deletes what it did; but that was never there, and what is may be another replica's.
func (p retryingStorage) Delete(ctx context.Context, key string) error {
	if base, _ := siteFile(key); base != "" && attemptFrom(ctx).issued {
		return nil
	}
	return p.Storage.Delete(ctx, key)
}

// Unlock implements certmagic.Locker. CertMagic's is too late if the lock was given away.
func (p retryingStorage) Unlock(ctx context.Context, name string) error {
	if at := attemptFrom(ctx); at.unlocked && name == certificateLock(at.subject.name) {
		return nil
	}
	return p.Storage.Unlock(ctx, name)
}

// storeAgain stores what was issued under the lock had anew, which CertMagic then gives
// back; but not over what another replica has stored meanwhile.
func (p retryingStorage) storeAgain(ctx context.Context, at *attempt, base string) error {
	lock := certificateLock(at.subject.name)
	for {
		if !at.unlocked {
			if err := p.storeSet(ctx, at, base); !errors.Is(err, ErrLockLost) {
				return err
			}
			at.unlocked = true
			if err := p.Storage.Unlock(ctx, lock); err != nil {
				return err
			}
		}
		if err := p.Lock(ctx, lock); err != nil {
			return err
		}
		at.unlocked = false
		if p.db.View().Revision(filesPrefix+base+certExt) != at.revision {
			return api.Errorf(api.CodeConflict, "%s was replaced meanwhile", base)
		}
	}
}

// storeSet stores all files of what was issued.
func (p retryingStorage) storeSet(ctx context.Context, at *attempt, base string) error {
	for _, ext := range []string{keyExt, certExt, metaExt} {
		if err := p.Storage.Store(ctx, base+ext, at.files[base+ext]); err != nil {
			return err
		}
	}
	return nil
}

// outlast gives a context that ends a while after another.
func outlast(parent, other context.Context, while time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	stop := context.AfterFunc(other, func() {
		_ = await(ctx, nil, while)
		cancel()
	})
	return ctx, func() { stop(); cancel() }
}
