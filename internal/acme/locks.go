package acme

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	locksPrefix = "acme/locks/"

	nonceBytes = 16

	// unlockPatience bounds Unlock, which no context does: CertMagic takes the
	// operation's deadline away.
	unlockPatience = 10 * time.Second

	// contestedPause is how long to wait when the store refuses a lock that looks free
	// from here: this replica's clock is ahead of the leader's, whose counts.
	contestedPause = time.Second
)

// lockRecord is the value of a lock: who holds it. It expires with the lease, by state
// time. Two acquisitions never have the same one.
type lockRecord struct {
	Owner string `json:"owner"`
	Nonce string `json:"nonce"`
}

// lease is a lock that this process has. Its record's revision is the fencing token:
// each renewal makes a new one, and each write under the lock checks it.
type lease struct {
	name  string
	key   string
	value []byte

	stop context.CancelFunc // ends keep
	done chan struct{}      // closed when it has ended

	// turn is held, by putting something in, by whoever writes under the lock: a
	// renewal at the same time would look like a loss.
	turn     chan struct{}
	revision uint64
	lost     bool
	staged   map[string][]byte // records by path: see Store
}

// queue is who in this process wants a lock: one of them asks the store, in the order
// in which they came.
type queue struct {
	head  chan struct{} // holds something while somebody has the lock or asks for it
	users int
}

// lockName is the name of a lock as CertMagic's FileStorage has it, so that what is one
// lock there is one here.
func lockName(name string) (string, error) {
	safe := certmagic.StorageKeys.Safe(name)
	if safe == "" || len(locksPrefix)+len(safe) > fsm.MaxKeyLength {
		return "", api.Errorf(api.CodeInvalid, "lock %.64q: the name is empty or too long", name)
	}
	return safe, nil
}

// certificateLock is the lock under which CertMagic gets a name's certificate.
func certificateLock(name string) string { return "issue_cert_" + name }

// lockOf is the lock under which CertMagic writes the file, "" if there is none. While
// this process has that lock, or had it and hasn't noticed, it writes the file only if
// the lock is still its own.
//
// CertMagic's other locks and files need no such check:
//   - ari_<certificate>: makes one replica ask for a renewal time instead of all. What
//     is written is the certificate's metadata, by whoever asked last; both answers are
//     the authority's, and the next refresh replaces them.
//   - storage_clean: deletes only what has expired long ago; twice is no more than once.
//     The note of when is checked.
//   - ocsp/…, rw_test_…: written without a lock. A staple is signed and dated by the
//     authority, and a newer one is as good; the names of the test files are random.
func lockOf(file string) string {
	part := strings.Split(file, "/")
	switch {
	case file == "last_clean.json":
		return "storage_clean"
	case len(part) >= 3 && part[0] == "certificates":
		return certificateLock(part[2])
	case part[0] == challengesDir && len(part) == 2:
		return certificateLock(strings.TrimSuffix(part[1], ".json"))
	case len(part) < 4 || part[0] != "acme":
		return ""
	case part[2] == "users" && part[3] == "default": // an account without an address
		return "register_acme_account"
	case part[2] == "users":
		return "register_acme_account_" + part[3]
	}
	return ""
}

// Lock implements certmagic.Locker. Within this process locks are given in the order in
// which they are asked for; between replicas the first to ask after a release has it.
func (s *Storage) Lock(ctx context.Context, name string) error {
	_, err := s.lock(ctx, name, true)
	return err
}

// TryLock implements certmagic.TryLocker: false if somebody has the lock.
func (s *Storage) TryLock(ctx context.Context, name string) (bool, error) {
	return s.lock(ctx, name, false)
}

func (s *Storage) lock(ctx context.Context, name string, wait bool) (bool, error) {
	name, err := lockName(name)
	if err != nil {
		return false, err
	}
	if ok, err := s.enter(ctx, name, wait); !ok {
		return false, err
	}
	l, err := s.acquire(ctx, name, wait)
	if l == nil {
		s.leave(name)
		return false, err
	}
	// The lease is no part of the request for it, which may end before Unlock.
	var kept context.Context
	kept, l.stop = context.WithCancel(context.Background())
	s.mu.Lock()
	s.held[name] = l
	s.mu.Unlock()
	go s.keep(kept, l) // Unlock waits for it
	return true, nil
}

// enter waits until nobody else in this process has the lock or asks for it; leave must
// follow if it says true.
func (s *Storage) enter(ctx context.Context, name string, wait bool) (bool, error) {
	s.mu.Lock()
	q := s.queues[name]
	if q == nil {
		q = &queue{head: make(chan struct{}, 1)}
		s.queues[name] = q
	}
	q.users++
	s.mu.Unlock()

	var err error
	if ctx.Err() == nil {
		select {
		case q.head <- struct{}{}:
			return true, nil
		default:
		}
		if wait {
			select {
			case q.head <- struct{}{}:
				return true, nil
			case <-ctx.Done():
			}
		}
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("lock %s: %w", name, ctx.Err())
	}
	s.forget(name, q)
	return false, err
}

func (s *Storage) leave(name string) {
	s.mu.Lock()
	q := s.queues[name]
	s.mu.Unlock()
	<-q.head
	s.forget(name, q)
}

func (s *Storage) forget(name string, q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.users--; q.users == 0 {
		delete(s.queues, name)
	}
}

// acquire gets the lock in the store. It is nil without an error if somebody has it
// and wait is false.
func (s *Storage) acquire(ctx context.Context, name string, wait bool) (*lease, error) {
	l, err := s.newLease(name)
	if err != nil {
		return nil, err
	}
	unsure := false // whether one of our attempts was, or will be, carried out
	for {
		v := s.db.View()
		r, taken, changed := v.Watch(l.key)
		if taken && bytes.Equal(r.Value, l.value) {
			l.revision = r.Revision
			return l, nil
		}
		pause := contestedPause
		if taken {
			pause = r.Expires.Sub(v.Now()) + s.lease/100 // rather late than refused
		} else {
			l.revision, err = s.db.Commit(ctx, fsm.Txn{
				Checks: []fsm.Check{{Key: l.key}},
				Ops:    []fsm.Op{fsm.PutTTL(l.key, l.value, s.lease)},
			})
			if err == nil {
				return l, nil
			}
			var again bool
			if again, err = s.contested(ctx, l, err, &unsure); err != nil {
				return nil, err
			}
			if again {
				continue
			}
		}
		if !wait {
			return nil, nil
		}
		if err := await(ctx, changed, pause); err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
	}
}

// contested judges a lock's commit that failed: whether to look again at once.
func (s *Storage) contested(ctx context.Context, l *lease, err error, unsure *bool) (again bool, _ error) {
	if api.IsCode(err, api.CodeConflict) {
		// This replica has applied what was in the way. Look at it, unless it can't be
		// seen: the record has expired by this replica's clock and not by the leader's.
		_, visible := s.db.View().Get(l.key)
		return visible, nil
	}
	if api.IsCode(err, api.CodeAmbiguous) {
		// Of two attempts with the same record and the same check one is carried out.
		*unsure = true
		if s.catchUp(ctx) == nil {
			return true, nil
		}
	}
	if *unsure {
		s.abandon(ctx, l)
	}
	return false, api.Errorf(codeOf(err), "lock %s: %w", l.name, err)
}

// abandon deletes a lock that was perhaps acquired when nobody wants it any more. What
// it doesn't reach ends with the lease.
func (s *Storage) abandon(ctx context.Context, l *lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.lease/10)
	defer cancel()
	if s.catchUp(ctx) != nil {
		return
	}
	if r, ok := s.db.View().Get(l.key); ok && bytes.Equal(r.Value, l.value) {
		l.revision = r.Revision
		_ = s.release(ctx, l)
	}
}

func (s *Storage) newLease(name string) (*lease, error) {
	nonce := make([]byte, nonceBytes)
	if _, err := io.ReadFull(s.rand, nonce); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	value, err := json.Marshal(lockRecord{Owner: s.owner, Nonce: hex.EncodeToString(nonce)})
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return &lease{
		name: name, key: locksPrefix + name, value: value,
		done: make(chan struct{}), turn: make(chan struct{}, 1),
	}, nil
}

// await waits until changed is closed, but no longer than pause.
func await(ctx context.Context, changed <-chan struct{}, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-timer.C:
	}
	return nil
}

// keep renews a lease until Unlock stops it, or it is lost. That the store can't be
// reached is no loss yet: without a leader state time, by which the lease is measured,
// doesn't move either. But a new leader puts it to its clock with its first entry: after
// an outage that was longer than the rest of the lease, the lock is lost.
func (s *Storage) keep(ctx context.Context, l *lease) {
	defer close(l.done)
	pause := s.lease / 3
	for await(ctx, nil, pause) == nil {
		err := s.renew(ctx, l)
		switch {
		case err == nil:
			pause = s.lease / 3
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrLockLost):
			s.log.Warn("a lock of the ACME storage was lost; what it protects is no longer written from here",
				slog.String("lock", l.name), slog.Any("error", err))
			return
		default:
			s.log.Warn("a lock of the ACME storage could not be renewed yet", slog.String("lock", l.name), slog.Any("error", err))
			pause = s.lease / 10
		}
	}
}

// renew gives the lock another lease, if it is still ours.
func (s *Storage) renew(ctx context.Context, l *lease) error {
	ctx, cancel := context.WithTimeout(ctx, s.lease/3)
	defer cancel()
	if err := l.begin(ctx); err != nil {
		return err
	}
	defer l.end()
	return s.write(ctx, l, func(fsm.View) (fsm.Txn, bool, error) {
		return fsm.Txn{Ops: []fsm.Op{fsm.PutTTL(l.key, l.value, s.lease)}}, false, nil
	})
}

// RenewLockLease implements certmagic.LockLeaseRenewer. The lease that is asked for is
// as long as CertMagic's pause before its next attempt, hours in the end. It isn't
// given: leases are renewed for as long as this process lives, and after its death
// nobody should wait for hours. But the lock is renewed now, and if it was lost this
// says so.
func (s *Storage) RenewLockLease(ctx context.Context, name string, _ time.Duration) error {
	name, err := lockName(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	l := s.held[name]
	s.mu.Unlock()
	if l == nil {
		return notLocked("renew", name)
	}
	return s.renew(ctx, l)
}

// Unlock implements certmagic.Locker. A lock that was lost is let go of, and whoever
// has it now keeps it. What was stored of a certificate that isn't whole is forgotten. On
// an error the lock is free after its lease.
func (s *Storage) Unlock(ctx context.Context, name string) error {
	name, err := lockName(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	l := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if l == nil {
		return notLocked("unlock", name)
	}
	defer s.leave(name)
	l.stop()
	<-l.done

	// The work may have ended because its context did: the lock must be free all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockPatience)
	defer cancel()
	if err := l.begin(ctx); errors.Is(err, ErrLockLost) {
		return nil
	} else if err != nil {
		return err
	}
	defer l.end()
	return s.release(ctx, l)
}

func notLocked(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("this process hasn't locked it: %w", fs.ErrNotExist)}
}

// release deletes the lock's record, if it is still ours. The caller has the turn.
func (s *Storage) release(ctx context.Context, l *lease) error {
	err := s.write(ctx, l, func(fsm.View) (fsm.Txn, bool, error) {
		return fsm.Txn{Ops: []fsm.Op{fsm.Delete(l.key)}}, false, nil
	})
	if errors.Is(err, ErrLockLost) {
		return nil
	}
	return err
}

// under begins a write to a file: with the turn of the lock that protects it, if this
// process has that lock, else with nil. It is ErrLockLost if it is known to be lost.
// end must follow if there is no error.
func (s *Storage) under(ctx context.Context, file string) (*lease, error) {
	s.mu.Lock()
	l := s.held[lockOf(file)]
	s.mu.Unlock()
	return l, l.begin(ctx)
}

// begin waits for the turn. Nil has none to wait for.
func (l *lease) begin(ctx context.Context) error {
	if l == nil {
		return nil
	}
	select {
	case l.turn <- struct{}{}: // whatever became of ctx: what follows may need neither it nor the store
	default:
		select {
		case l.turn <- struct{}{}:
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "gave up before anything was written: %w", ctx.Err())
		}
	}
	if l.lost {
		l.end()
		return l.errLost()
	}
	return nil
}

func (l *lease) end() {
	if l != nil {
		<-l.turn
	}
}

func (l *lease) errLost() error {
	return api.Errorf(api.CodeConflict, "lock %s: %w", l.name, ErrLockLost)
}

// wrote notes the new revision of the lock if the transaction wrote it.
func (l *lease) wrote(txn fsm.Txn, revision uint64) {
	if l == nil {
		return
	}
	for _, op := range txn.Ops {
		if op.Key == l.key {
			l.revision = revision
		}
	}
}

// recheck is for a write that conflicts: it is ErrLockLost if that was because the lock
// is another's, or nobody's. If it is ours at another revision, an answer to a renewal
// was lost, not the lock.
func (l *lease) recheck(v fsm.View, err error) error {
	c, ok := errors.AsType[*fsm.ConflictError](err)
	if l == nil || !ok || c.Key != l.key {
		return nil
	}
	// By this replica's clock alone it may look as if it had expired.
	if r, ok := v.AtStateTime().Get(l.key); ok && bytes.Equal(r.Value, l.value) {
		l.revision = r.Revision
		return nil
	}
	l.lost = true
	l.staged = nil
	return l.errLost()
}
