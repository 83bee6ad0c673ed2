package acme

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// testDB is one replica of a replicated store in this process; newTestDB makes the
// first, replica further ones. Its clock is time.Now, so it obeys synctest.
type testDB struct {
	*testLog
	store *fsm.Store

	// Guarded by testLog.mu.
	applied int  // entries of the log
	lagging bool // applies nothing but what its own Commit and Linearize need
	cut     bool // reaches no leader
	reads   int  // linearizable

	skew atomic.Int64 // of this replica's clock, as a time.Duration
}

// testLog is what all replicas of a testDB share.
type testLog struct {
	mu       sync.Mutex
	entries  [][]byte
	replicas []*testDB
	commits  int
	late     [][]byte
	leader   error
	hook     func(fsm.Txn) fate
}

// fate is what becomes of a transaction.
type fate int

const (
	commits       fate = iota
	fails              // unavailable, nothing is done
	commitsUnseen      // ambiguous, and done
	vanishes           // ambiguous, and never done
	commitsLate        // ambiguous, and done with the next that commits
)

// newTestDB makes a store of one replica, which is empty.
func newTestDB(t testing.TB) *testDB {
	t.Helper()
	return (&testLog{}).replica(t)
}

// replica adds a replica of the same store.
func (l *testLog) replica(t testing.TB) *testDB {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &testDB{testLog: l}
	d.store = fsm.New(fsm.Options{Clock: d.clock})
	l.replicas = append(l.replicas, d)
	if err := d.catchUp(); err != nil {
		t.Fatal(err)
	}
	return d
}

// setClock puts a replica's clock ahead of the others', which is the leader's.
func (d *testDB) setClock(ahead time.Duration) { d.skew.Store(int64(ahead)) }

func (d *testDB) clock() time.Time { return time.Now().Add(time.Duration(d.skew.Load())) }

// lag makes a replica apply nothing of itself, until lag(false).
func (d *testDB) lag(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lagging = on
	if !on && !d.cut {
		_ = d.catchUp() // entries that were applied elsewhere
	}
}

// partition cuts one replica off, until partition(false).
func (d *testDB) partition(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut = on
	if !on && !d.lagging {
		_ = d.catchUp()
	}
}

// linearized counts the linearizable reads of a replica.
func (d *testDB) linearized() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads
}

// lead says whether there is a leader: without one, writes and Linearize fail.
func (l *testLog) lead(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leader = nil
	if !on {
		l.leader = errNoLeader()
	}
}

// decide makes fn say what becomes of each transaction; nil: all are committed.
// It is called without locks held.
func (l *testLog) decide(fn func(fsm.Txn) fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hook = fn
}

// written counts the transactions that were committed.
func (l *testLog) written() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.commits
}

func errNoLeader() error { return api.Errorf(api.CodeUnavailable, "no leader is known") }

// View implements DB.
func (d *testDB) View() fsm.View { return d.store.View() }

// Linearize implements DB.
func (d *testDB) Linearize(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	if err := d.reach(ctx); err != nil {
		return err
	}
	return d.catchUp()
}

// Commit implements DB.
func (d *testDB) Commit(ctx context.Context, txn fsm.Txn) (uint64, error) {
	d.mu.Lock()
	hook := d.hook
	err := d.reach(ctx)
	d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	var f fate
	if hook != nil {
		f = hook(txn)
	}
	item, err := fsm.EncodeItem(fsm.Item{Origin: "test", Txn: &txn})
	if err != nil {
		return 0, api.Errorf(api.CodeTooLarge, "this change can't be stored: %w", err)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if f == fails {
		return 0, errNoLeader()
	}
	ambiguous := api.Errorf(api.CodeAmbiguous, "nobody can tell whether this was written")
	if f == vanishes {
		return 0, ambiguous
	}
	entry, err := fsm.EncodeEntry(time.Now(), [][]byte{item})
	if err != nil {
		return 0, err
	}
	if f == commitsLate {
		d.late = append(d.late, entry)
		return 0, ambiguous
	}
	result, err := d.append(d, entry)
	if err != nil {
		return 0, err
	}
	for _, e := range d.late {
		if _, err := d.append(d, e); err != nil {
			return 0, err
		}
	}
	d.late = nil
	if f == commitsUnseen {
		return 0, ambiguous
	}
	if c, ok := errors.AsType[*fsm.ConflictError](result); ok {
		return 0, api.Errorf(api.CodeConflict, "%s was changed by somebody else meanwhile: look at it and try again: %w", c.Key, result)
	}
	return uint64(len(d.entries)), result
}

func (d *testDB) reach(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return api.Errorf(api.CodeUnavailable, "gave up before anything was written: %w", err)
	}
	if d.cut {
		return errNoLeader()
	}
	return d.leader
}

// append applies an entry where it is due at once, and gives what d made of it.
func (l *testLog) append(d *testDB, entry []byte) (result, err error) {
	l.entries = append(l.entries, entry)
	l.commits++
	for _, r := range l.replicas {
		if r != d && !r.lagging && !r.cut {
			if err := r.catchUp(); err != nil {
				return nil, err
			}
		}
	}
	return d.catchUpTo(len(l.entries))
}

func (d *testDB) catchUp() error {
	_, err := d.catchUpTo(len(d.entries))
	return err
}

// catchUpTo applies the log up to its nth entry, and gives what became of that.
func (d *testDB) catchUpTo(n int) (result, err error) {
	for d.applied < n {
		results, err := d.store.Apply(uint64(d.applied+1), d.entries[d.applied])
		if err != nil {
			return nil, err
		}
		d.applied++
		result = fsm.DecodeResult(results[0])
	}
	return result, nil
}

// newTestSealer makes a key for a test.
func newTestSealer(t testing.TB) *seal.Keyring {
	t.Helper()
	ring, err := seal.NewKeyring(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}
