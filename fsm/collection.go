package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// ErrNotFound is what Collection answers for a name that is absent or expired.
var ErrNotFound = errors.New("not found")

// A Collection gives typed access to the records below a prefix, as JSON of T.
// It holds no data and is safe for concurrent use.
//
// A decoded value is kept with its record, so that each revision is decoded once
// and read by everyone: the *T that Get, List and Watch return must not be
// changed. To change it, take a copy with [Collection.Decode].
//
// Make one collection per prefix and keep it: a second one over the same records
// is correct, but each evicts what the other has decoded.
type Collection[T any] struct {
	prefix string
}

// NewCollection returns the collection below a prefix, "users/" for instance. A
// prefix that does not end in a slash is a programmer's error and panics: "user"
// would contain the users of "user2".
func NewCollection[T any](prefix string) *Collection[T] {
	if len(prefix) < 2 || !strings.HasSuffix(prefix, "/") {
		panic(fmt.Sprintf("fsm: collection prefix %q must end in a slash", prefix))
	}
	return &Collection[T]{prefix: prefix}
}

// Key returns the key of the record of that name.
func (c *Collection[T]) Key(name string) string { return c.prefix + name }

// Name returns the name that a record of this collection has.
func (c *Collection[T]) Name(r *Record) string { return strings.TrimPrefix(r.Key, c.prefix) }

// keyBuffer is the room for a key on the stack; a longer one costs an
// allocation.
type keyBuffer [256]byte

func (c *Collection[T]) appendKey(b []byte, name string) []byte {
	return append(append(b, c.prefix...), name...)
}

// Get returns the value of that name and its record. It is [ErrNotFound] if
// there is none; any other error means that there is one and that it cannot be
// read, which whoever decides by it must treat as a denial. It does not allocate
// unless it is the first to read that revision.
func (c *Collection[T]) Get(v View, name string) (*T, *Record, error) {
	var buf keyBuffer
	r, ok := v.get(c.appendKey(buf[:0], name))
	if !ok {
		return nil, nil, ErrNotFound
	}
	value, err := c.shared(r)
	return value, r, err
}

// Watch is Get, with a channel as of [View.Watch]. The channel is never nil, so
// it is also how to wait for what is not there yet.
func (c *Collection[T]) Watch(v View, name string) (*T, *Record, <-chan struct{}, error) {
	var buf keyBuffer
	r, ok, ch := v.watch(c.appendKey(buf[:0], name))
	if !ok {
		return nil, nil, ch, ErrNotFound
	}
	value, err := c.shared(r)
	return value, r, ch, err
}

// List returns all records of the collection with their values, in the order of
// names. The value is nil if the record cannot be read (Decode says why): it is
// not left out, so that a lock nobody can read still locks.
func (c *Collection[T]) List(v View) iter.Seq2[*Record, *T] {
	return func(yield func(*Record, *T) bool) {
		for r := range v.List(c.prefix) {
			value, err := c.shared(r)
			if err != nil {
				value = nil
			}
			if !yield(r, value) {
				return
			}
		}
	}
}

// shared returns the value that all readers of the record share. Two who decode
// at the same time both succeed and one of the equal values stays.
func (c *Collection[T]) shared(r *Record) (*T, error) {
	if d := r.decoded.Load(); d != nil && d.owner == any(c) {
		return d.value.(*T), nil
	}
	value, err := c.Decode(r)
	if err != nil {
		return nil, err
	}
	r.decoded.Store(&decoded{owner: c, value: value})
	return value, nil
}

// Decode returns a value of the caller's own, to be changed and given to
// [Collection.Update].
func (c *Collection[T]) Decode(r *Record) (*T, error) {
	value := new(T)
	dec := json.NewDecoder(bytes.NewReader(r.Value))
	if err := dec.Decode(value); err != nil {
		return nil, fmt.Errorf("decode %s at revision %d: %w", r.Key, r.Revision, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("decode %s at revision %d: something follows the value", r.Key, r.Revision)
	}
	return value, nil
}

// Put returns the operation that writes a value, whatever was there before. It
// expires after ttl; 0 means never and a negative ttl is an error, so check that
// something is left of a computed one.
func (c *Collection[T]) Put(name string, value *T, ttl time.Duration) (Op, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return Op{}, fmt.Errorf("encode %s: %w", c.Key(name), err)
	}
	return c.put(name, encoded, ttl)
}

// Update is Put for a value that came from a record: fields of it that T does
// not know, because a newer version wrote them, are kept. The transaction should
// also have the check [Collection.Unchanged].
func (c *Collection[T]) Update(old *Record, value *T, ttl time.Duration) (Op, error) {
	known, err := c.reencode(old)
	if err != nil {
		return Op{}, err
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return Op{}, fmt.Errorf("encode %s: %w", old.Key, err)
	}
	merged, err := keepUnknown(old.Value, known, encoded)
	if err != nil {
		return Op{}, fmt.Errorf("update %s: %w", old.Key, err)
	}
	return c.put(c.Name(old), merged, ttl)
}

func (c *Collection[T]) reencode(r *Record) ([]byte, error) {
	value, err := c.Decode(r)
	if err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

func (c *Collection[T]) put(name string, encoded []byte, ttl time.Duration) (Op, error) {
	if name == "" {
		return Op{}, fmt.Errorf("record below %s without a name", c.prefix)
	}
	op := Op{Key: c.Key(name), Value: encoded, TTL: ttl}
	return op, op.validate()
}

// Unchanged is the check that a record is still at the revision it was read at.
func (c *Collection[T]) Unchanged(r *Record) Check { return Check{Key: r.Key, Revision: r.Revision} }

// Absent is the check that there is no record of that name.
func (c *Collection[T]) Absent(name string) Check { return Check{Key: c.Key(name)} }
