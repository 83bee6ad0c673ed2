package fsm

import (
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

const (
	// MaxItemSize bounds one encoded item. Raft sends an entry in one message
	// and heartbeats wait behind it.
	MaxItemSize = 1 << 20

	// MaxKeyLength bounds a key, in bytes.
	MaxKeyLength = 1024

	// maxListLength bounds the checks, operations and events of one item, and
	// the items of one entry.
	maxListLength = 16 << 10

	maxOriginLength = 256
)

// A Check is a condition of a transaction: the key's record is at Revision, or
// absent if Revision is 0. A record that has expired by state time is absent.
type Check struct {
	Key      string `cbor:"1,keyasint"`
	Revision uint64 `cbor:"2,keyasint,omitempty"`
}

// An Op is one operation of a transaction. Use [Put], [PutTTL] and [Delete].
type Op struct {
	Key    string        `cbor:"1,keyasint"`
	Value  []byte        `cbor:"2,keyasint,omitempty"`
	TTL    time.Duration `cbor:"3,keyasint,omitempty"` // added to state time when applied; 0: never expires
	Delete bool          `cbor:"4,keyasint,omitempty"`
}

// Put writes a value that never expires. If the key had an expiry, it is gone.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// PutTTL writes a value that expires ttl after the state time at which it is
// applied. A ttl that is zero or negative makes the transaction invalid: what is
// left of an expired session must not turn into "never expires".
func PutTTL(key string, value []byte, ttl time.Duration) Op {
	return Op{Key: key, Value: value, TTL: positiveTTL(ttl)}
}

// Delete removes a key. Deleting what is absent does nothing; add a [Check] to
// insist.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

func positiveTTL(ttl time.Duration) time.Duration {
	if ttl <= 0 {
		return -1 // refused by validate
	}
	return ttl
}

// A Txn is a transaction. When applied, all checks are judged first, against the
// state as the items before it left it; if one fails nothing happens and nothing
// is journaled. Otherwise the operations are carried out in order and the
// events handed to the journal.
//
// All items of one log entry write at the same revision, the entry's index.
// Readers only see the last of them. But a writer that remembers its own
// revision and not what it read back cannot tell whether somebody wrote the key
// without a check in the same entry: whoever updates a contended key should
// check it.
type Txn struct {
	Checks []Check  `cbor:"1,keyasint,omitempty"`
	Ops    []Op     `cbor:"2,keyasint,omitempty"`
	Events [][]byte `cbor:"3,keyasint,omitempty"` // opaque JSON lines
}

// An Item is what one writer proposes: a transaction, or events alone.
//
// Epoch and First number the events of a replica, so that the journal can leave
// out those that were sent again because an answer was lost. An epoch is one
// life of a sender; within it events are numbered from 1 without gaps and
// proposed in that order. Epoch 0: not numbered, never sent twice.
type Item struct {
	Origin string   `cbor:"1,keyasint,omitempty"` // server id of the proposing replica; needed when there are events
	Txn    *Txn     `cbor:"2,keyasint,omitempty"`
	Events [][]byte `cbor:"3,keyasint,omitempty"`
	Epoch  uint64   `cbor:"4,keyasint,omitempty"`
	First  uint64   `cbor:"5,keyasint,omitempty"` // number of the first of Events
}

// events returns what the item hands to the journal if it is applied.
func (it Item) events() [][]byte {
	if it.Txn != nil {
		return it.Txn.Events
	}
	return it.Events
}

// validate holds for every item that is encoded and every item that is decoded,
// so what passes here passes on every replica of this format version.
func (it Item) validate() error {
	switch {
	case it.Txn == nil && len(it.Events) == 0:
		return errors.New("item has neither a transaction nor events")
	case it.Txn != nil && len(it.Events) > 0:
		return errors.New("item has both a transaction and events of its own")
	case len(it.Origin) > maxOriginLength || !utf8.ValidString(it.Origin):
		return fmt.Errorf("origin is not UTF-8 of at most %d bytes", maxOriginLength)
	case (it.Epoch == 0) != (it.First == 0) || it.Epoch != 0 && len(it.Events) == 0:
		return errors.New("numbers of events without events, or half of them")
	case it.First > math.MaxUint64-maxListLength:
		return fmt.Errorf("event number %d is out of range", it.First)
	case it.Origin == "" && len(it.events()) > 0:
		return errors.New("events without an origin: no replica would journal them")
	case len(it.events()) > maxListLength:
		return fmt.Errorf("%d events, at most %d are allowed", len(it.events()), maxListLength)
	case it.Txn == nil:
		return nil
	}
	return it.Txn.validate()
}

func (t *Txn) validate() error {
	if n := max(len(t.Checks), len(t.Ops)); n > maxListLength {
		return fmt.Errorf("transaction has %d checks or operations, at most %d are allowed: split it", n, maxListLength)
	}
	for _, c := range t.Checks {
		if err := validateKey(c.Key); err != nil {
			return fmt.Errorf("check: %w", err)
		}
	}
	for _, op := range t.Ops {
		if err := op.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (op Op) validate() error {
	if err := validateKey(op.Key); err != nil {
		return err
	}
	if op.TTL < 0 {
		return fmt.Errorf("put %q: ttl must be positive", op.Key)
	}
	if op.Delete && (len(op.Value) > 0 || op.TTL != 0) {
		return fmt.Errorf("delete %q: carries a value or a ttl", op.Key)
	}
	return nil
}

func validateKey(key string) error {
	switch {
	case key == "":
		return errors.New("key is empty")
	case len(key) > MaxKeyLength:
		return fmt.Errorf("key %q… has %d bytes, at most %d are allowed", key[:32], len(key), MaxKeyLength)
	case !utf8.ValidString(key):
		return fmt.Errorf("key %q is not UTF-8", key)
	}
	return nil
}

// A ConflictError says which check of a transaction failed. The transaction did
// nothing; read again, decide again, try again.
type ConflictError struct {
	Key  string `cbor:"1,keyasint"`
	Want uint64 `cbor:"2,keyasint,omitempty"` // revision the check asked for; 0: absent
	Have uint64 `cbor:"3,keyasint,omitempty"` // revision found; 0: absent
}

func (e *ConflictError) Error() string {
	switch {
	case e.Want == 0:
		return fmt.Sprintf("%s already exists (revision %d)", e.Key, e.Have)
	case e.Have == 0:
		return fmt.Sprintf("%s does not exist any more (expected revision %d)", e.Key, e.Want)
	default:
		return fmt.Sprintf("%s was changed meanwhile (expected revision %d, found %d)", e.Key, e.Want, e.Have)
	}
}
