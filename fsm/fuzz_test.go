package fsm

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func seedItems(f *testing.F) [][]byte {
	return [][]byte{
		item(f, Item{Origin: "n1", Events: [][]byte{[]byte(`{"event":"user.login"}`)}}),
		item(f, Item{Txn: &Txn{}}),
		item(f, Item{Origin: "n2", Txn: &Txn{
			Checks: []Check{{"users/alice", 0}, {"roles/access", 1 << 40}},
			Ops:    []Op{Put("users/alice", []byte(`{}`)), PutTTL("sessions/1", nil, time.Hour), Delete("invites/1")},
			Events: [][]byte{[]byte("{}")},
		}}),
	}
}

// FuzzDecodeEntry feeds bytes as they are, and as the body of a well-framed
// entry, so that the checksum does not keep the fuzzer out.
func FuzzDecodeEntry(f *testing.F) {
	items := seedItems(f)
	for n := range len(items) + 1 {
		b, err := EncodeEntry(at(0), items[:n])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[entryHeaderSize:])
	}
	f.Add(entry(f, at(0), ops(Put("k", bytes.Repeat([]byte("abc"), 4096)))))
	f.Add(wire.compress.EncodeAll(make([]byte, 4<<20), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, sealed(entryVersion, compressNone, b), sealed(entryVersion, compressZstd, b)} {
			e, err := DecodeEntry(in)
			if err != nil {
				if !errors.Is(err, ErrUndecodable) {
					t.Fatalf("an error that does not stop the node: %v", err)
				}
				continue
			}
			checkApplies(t, e, in)
		}
	})
}

// checkApplies: what decodes can be encoded again, means the same, and applies
// without an error, equally on two replicas, into a state that can be restored.
func checkApplies(t *testing.T, e Entry, encoded []byte) {
	items := make([][]byte, len(e.Items))
	for i, it := range e.Items {
		items[i] = item(t, it)
	}
	again, err := EncodeEntry(e.Time, items)
	if err != nil {
		t.Fatal(err)
	}
	e2, err := DecodeEntry(again)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, e2, cmpopts.EquateEmpty()); diff != "" {
		t.Fatal(diff)
	}
	one, two, three := newStore(Options{}), newStore(Options{}), newStore(Options{})
	for s, b := range map[*Store][]byte{one: encoded, two: again} {
		if _, err := s.Apply(1, b); err != nil {
			t.Fatal(err)
		}
	}
	snap := snapshotBytes(t, one)
	if !bytes.Equal(snap, snapshotBytes(t, two)) {
		t.Fatal("two replicas differ")
	}
	if err := three.Restore(bytes.NewReader(snap)); err != nil {
		t.Fatal(err)
	}
}

func FuzzDecodeItem(f *testing.F) {
	for _, b := range seedItems(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		it, err := decodeItem(b)
		if err != nil {
			return
		}
		if _, err := EncodeEntry(at(0), [][]byte{b}); err != nil {
			t.Fatalf("a follower's item passes and the leader refuses it: %v", err)
		}
		if _, err := decodeItem(item(t, it)); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeResult(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeResult(nil))
	f.Add(encodeResult(&ConflictError{Key: "k", Want: 1, Have: 2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := DecodeResult(b)
		if err == nil && !bytes.Equal(b, encodeResult(nil)) {
			t.Fatal("something else passed as success")
		}
		if conflict := new(ConflictError); errors.As(err, &conflict) {
			if again := DecodeResult(encodeResult(conflict)); again.Error() != err.Error() {
				t.Fatalf("%v became %v", err, again)
			}
		}
	})
}

// FuzzRestore feeds bytes as they are, and as the content of the compressed
// stream.
func FuzzRestore(f *testing.F) {
	s := newStore(Options{})
	f.Add(snapshotBytes(f, s))
	apply(f, s, at(0), ops(Put("a", []byte("1")), PutTTL("b", []byte("2"), time.Hour)))
	good := snapshotBytes(f, s)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{7, 0xa2, 1, 1, 2, 1, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		framed := frames(func(fw *frameWriter) { _, fw.err = fw.w.Write(b) })
		for _, in := range [][]byte{b, framed} {
			s := newStore(Options{})
			if err := s.Restore(bytes.NewReader(in)); err != nil {
				if s.Applied() != 0 || s.Snapshot().Len() != 0 {
					t.Fatal("a refused snapshot left something behind")
				}
				continue
			}
			once := snapshotBytes(t, s)
			if err := s.Restore(bytes.NewReader(once)); err != nil {
				t.Fatalf("a restored store cannot be restored: %v", err)
			}
			if !bytes.Equal(once, snapshotBytes(t, s)) {
				t.Fatal("restoring changed the state")
			}
		}
	})
}
