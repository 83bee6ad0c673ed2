package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEntryRoundTrip(t *testing.T) {
	items := []Item{
		{Origin: "n1", Events: [][]byte{[]byte(`{"event":1}`), {}}},
		{Txn: &Txn{}},
		{Origin: "n2", Txn: &Txn{
			Checks: []Check{{"a", 0}, {"b", 1 << 63}},
			Ops:    []Op{Put("a", []byte("v")), PutTTL("b", nil, time.Hour), Delete("c")},
			Events: [][]byte{[]byte("e")},
		}},
		{Txn: &Txn{Ops: []Op{Put("large", bytes.Repeat([]byte("compressible "), 5000))}}},
	}
	for n := range len(items) + 1 {
		encoded := make([][]byte, n)
		for i := range encoded {
			encoded[i] = item(t, items[i])
		}
		b, err := EncodeEntry(at(1), encoded)
		if err != nil {
			t.Fatal(err)
		}
		if n == len(items) && (b[3] != compressZstd || len(b) > 1000) {
			t.Errorf("%d bytes: not compressed though it pays", len(b))
		}
		got, err := DecodeEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Entry{at(1), items[:n:n]}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestIncompressibleEntryIsNotCompressed(t *testing.T) {
	value := make([]byte, 4096)
	x := uint32(1)
	for i := range value {
		x = x*1664525 + 1013904223
		value[i] = byte(x >> 24)
	}
	b := entry(t, at(0), ops(Put("k", value)))
	if b[3] != compressNone {
		t.Error("compressed")
	}
	if _, err := DecodeEntry(b); err != nil {
		t.Error(err)
	}
}

func TestEncodeItemRefuses(t *testing.T) {
	long := strings.Repeat("k", MaxKeyLength+1)
	event := [][]byte{[]byte("{}")}
	tests := []struct {
		name, want string
		it         Item
	}{
		{"nothing", "neither", Item{Origin: "n"}},
		{"both", "both", Item{Origin: "n", Txn: &Txn{}, Events: event}},
		{"events of nobody", "origin", Item{Events: event}},
		{"transaction's events of nobody", "origin", Item{Txn: &Txn{Events: event}}},
		{"long origin", "origin", Item{Origin: long, Events: event}},
		{"empty key", "empty", Item{Txn: &Txn{Ops: []Op{Put("", nil)}}}},
		{"empty key in a check", "empty", Item{Txn: &Txn{Checks: []Check{{}}}}},
		{"long key", "at most 1024", Item{Txn: &Txn{Ops: []Op{Delete(long)}}}},
		{"key that is not UTF-8", "UTF-8", Item{Txn: &Txn{Ops: []Op{Delete("\xff")}}}},
		{"delete with a value", "carries", Item{Txn: &Txn{Ops: []Op{{Key: "k", Value: []byte("v"), Delete: true}}}}},
		{"negative ttl", "positive", Item{Txn: &Txn{Ops: []Op{{Key: "k", TTL: -1}}}}},
		{"too large", "1 MiB", Item{Txn: &Txn{Ops: []Op{Put("k", make([]byte, MaxItemSize))}}}},
		{"too many", "split", Item{Txn: &Txn{Checks: make([]Check, maxListLength+1)}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := EncodeItem(tt.it); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLargestItemPasses(t *testing.T) {
	probe := ops(Put("k", make([]byte, 1<<19)))
	overhead := len(item(t, Item{Origin: "n1", Txn: &probe})) - 1<<19
	txn := ops(Put("k", make([]byte, MaxItemSize-overhead)))
	s := newStore(Options{})
	apply(t, s, at(0), txn)
	if err := s.Restore(bytes.NewReader(snapshotBytes(t, s))); err != nil {
		t.Errorf("what could be written cannot be restored: %v", err)
	}
}

func TestEncodeEntryRefusesABadItemByName(t *testing.T) {
	good := item(t, Item{Txn: &Txn{}})
	newer, _ := wire.enc.Marshal(map[int]any{2: map[int]any{9: true}})
	_, err := EncodeEntry(at(0), [][]byte{good, newer})
	var position interface{ Item() int }
	if !errors.As(err, &position) || position.Item() != 1 {
		t.Errorf("got %v", err)
	}
	large := item(t, Item{Txn: &Txn{Ops: []Op{Put("k", make([]byte, 900<<10))}}})
	if _, err := EncodeEntry(at(0), [][]byte{large, large, large}); err == nil || !strings.Contains(err.Error(), "fewer") {
		t.Errorf("got %v", err)
	}
	for _, now := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1, 0), time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if _, err := EncodeEntry(now, nil); err == nil {
			t.Errorf("time %s was taken", now)
		}
	}
}

// sealed puts a valid frame around any body.
func sealed(version, compression byte, body []byte) []byte {
	b := append([]byte(entryMagic), version, compression, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(body, wire.checksum))
	return append(b, body...)
}

func TestDecodeEntryIsStrict(t *testing.T) {
	body := func(v any) []byte {
		b, err := wire.enc.Marshal(v)
		must(err)
		return b
	}
	bomb := wire.compress.EncodeAll(make([]byte, 64<<20), nil)
	good := body(map[int]any{1: 1})
	tests := []struct {
		name, want string
		in         []byte
	}{
		{"nothing", "not an entry", nil},
		{"short", "not an entry", []byte("SL")},
		{"foreign", "not an entry", []byte("{\"op\":\"set\"}")},
		{"older version", "version 1", sealed(1, 0, good)},
		{"newer version", "version 3", sealed(3, 0, good)},
		{"unknown compression", "compression 7", sealed(2, 7, good)},
		{"damaged", "checksum", append(sealed(2, 0, good), 0)},
		{"trailing byte", "", sealed(2, 0, append(bytes.Clone(good), 0))},
		{"unknown field", "unknown field", sealed(2, 0, body(map[int]any{1: 1, 3: 1}))},
		{"unknown named field", "", sealed(2, 0, body(map[string]any{"time": 1}))},
		{"no time", "time", sealed(2, 0, body(map[int]any{}))},
		{"duplicate field", "", sealed(2, 0, []byte{0xa2, 1, 1, 1, 2})},
		{"endless list", "", sealed(2, 0, []byte{0xa2, 1, 1, 2, 0x9f, 0xff})},
		{"endless promise", "", sealed(2, 0, []byte{0xa2, 1, 1, 2, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})},
		{"bad item", "item 0", sealed(2, 0, body(map[int]any{1: 1, 2: [][]byte{{0xa0}}}))},
		{"not zstd", "decompress", sealed(2, 1, good)},
		{"bomb", "decompress", sealed(2, 1, bomb)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			if got := allocated(func() { _, err = DecodeEntry(tt.in) }); got > 8<<20 {
				t.Errorf("allocated %d MiB", got>>20)
			}
			if !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestResultRoundTrip(t *testing.T) {
	for _, want := range []*ConflictError{nil, {Key: "k"}, {Key: "k", Want: 1, Have: 1 << 60}} {
		err := DecodeResult(encodeResult(want))
		var got *ConflictError
		if errors.As(err, &got); !cmp.Equal(want, got) || (want == nil) != (err == nil) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	for _, bad := range [][]byte{nil, {}, {0, 0}, {1}, {1, 0xff}, {2}, {1, 0xa0, 0}} {
		err := DecodeResult(bad)
		if conflict := new(ConflictError); err == nil || errors.As(err, &conflict) {
			t.Errorf("%v passed as %v", bad, err)
		}
	}
}

func TestConflictSaysWhatHappened(t *testing.T) {
	for err, want := range map[ConflictError]string{
		{"k", 0, 3}: "k already exists (revision 3)",
		{"k", 3, 0}: "k does not exist any more (expected revision 3)",
		{"k", 3, 4}: "k was changed meanwhile (expected revision 3, found 4)",
	} {
		if err.Error() != want {
			t.Errorf("got %q", err.Error())
		}
	}
}
