package fsm

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTransactionsAreAllOrNothing(t *testing.T) {
	tests := []struct {
		name string
		txn  Txn
		want error
		has  map[string]string
	}{
		{"without checks", ops(Put("a", []byte("2")), Delete("b")), nil, map[string]string{"a": "2"}},
		{"check holds", Txn{Checks: []Check{{"a", 1}, {"c", 0}}, Ops: []Op{Put("c", []byte("1"))}}, nil,
			map[string]string{"a": "1", "b": "1", "c": "1"}},
		{"first check fails", Txn{Checks: []Check{{"a", 9}, {"b", 1}}, Ops: []Op{Put("a", nil), Delete("b")}},
			&ConflictError{Key: "a", Want: 9, Have: 1}, map[string]string{"a": "1", "b": "1"}},
		{"last check fails", Txn{Checks: []Check{{"a", 1}, {"b", 0}}, Ops: []Op{Put("a", nil), Delete("b")}},
			&ConflictError{Key: "b", Want: 0, Have: 1}, map[string]string{"a": "1", "b": "1"}},
		{"absent key at a revision", Txn{Checks: []Check{{"c", 1}}, Ops: []Op{Delete("a")}},
			&ConflictError{Key: "c", Want: 1, Have: 0}, map[string]string{"a": "1", "b": "1"}},
		{"operations in order", ops(Put("a", []byte("2")), Delete("a"), Put("b", []byte("2")), Put("b", []byte("3"))), nil,
			map[string]string{"b": "3"}},
		{"delete of what is absent", ops(Delete("zzz")), nil, map[string]string{"a": "1", "b": "1"}},
		{"nothing at all", Txn{}, nil, map[string]string{"a": "1", "b": "1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(Options{})
			apply(t, s, at(0), ops(Put("a", []byte("1")), Put("b", []byte("1"))))
			got := apply(t, s, at(1), tt.txn)
			if diff := cmp.Diff([]error{tt.want}, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.has, dump(s.View())); diff != "" {
				t.Errorf("store (-want +got):\n%s", diff)
			}
		})
	}
}

func TestItemsOfOneEntrySeeEachOther(t *testing.T) {
	s := newStore(Options{})
	create := Txn{Checks: []Check{{Key: "lock"}}, Ops: []Op{Put("lock", []byte("me"))}}
	got := apply(t, s, at(0), create, create)
	if diff := cmp.Diff([]error{nil, &ConflictError{Key: "lock", Have: 1}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRecordKeepsCreatedAndTakesRevision(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(PutTTL("k", []byte("1"), time.Minute)))
	apply(t, s, at(5), ops(Put("k", []byte("2"))))
	r, ok := s.View().Get("k")
	if !ok || r.Revision != 2 || !r.Created.Equal(at(0)) || !r.Expires.IsZero() || string(r.Value) != "2" {
		t.Errorf("got %+v", r)
	}
	if got := s.View().Revision("k"); got != 2 {
		t.Errorf("revision %d", got)
	}
	if got := s.View().Revision("other"); got != 0 {
		t.Errorf("revision of an absent key %d", got)
	}
	apply(t, s, at(1000))
	if _, ok := s.View().Get("k"); !ok {
		t.Error("put without a ttl kept the old expiry")
	}
}

type recorder struct {
	lines []string
	err   error
	seen  func() uint64
}

// Extend keeps in the store how many events there were.
func (r *recorder) Extend(e JournalEntry, get func(string) []byte) ([]Op, func() error, error) {
	count := len(get("count"))
	for _, b := range e.Batches {
		count += len(b.Events)
	}
	return []Op{Put("count", make([]byte, count))}, func() error {
		if r.err != nil {
			return r.err
		}
		if r.seen != nil && r.seen() >= e.Index {
			return errors.New("the state was published before its events were journaled")
		}
		for _, b := range e.Batches {
			for _, line := range b.Events {
				r.lines = append(r.lines, fmt.Sprintf("%d %s %d/%d %s", e.Index, b.Origin, b.Epoch, b.First, line))
			}
		}
		return nil
	}, nil
}

func TestJournalGetsTheEventsOfWhatHappenedInOrderBeforeAnyoneSeesIt(t *testing.T) {
	j := &recorder{}
	s := newStore(Options{Journal: j})
	j.seen = s.Applied
	event := func(s string) [][]byte { return [][]byte{[]byte(s)} }
	create := &Txn{Checks: []Check{{Key: "k"}}, Ops: []Op{Put("k", nil)}, Events: event("create")}
	b, err := EncodeEntry(at(0), [][]byte{
		item(t, Item{Origin: "b", Events: event("request 1")}),
		item(t, Item{Origin: "a", Txn: create}),
		item(t, Item{Origin: "a", Txn: create}), // conflicts: no event
		item(t, Item{Origin: "b", Epoch: 9, First: 3, Events: event("request 2")}),
		item(t, Item{Txn: &Txn{Ops: []Op{Put("silent", nil)}}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(7, b); err != nil {
		t.Fatal(err)
	}
	want := []string{"7 b 0/0 request 1", "7 a 0/0 create", "7 b 9/3 request 2"}
	if diff := cmp.Diff(want, j.lines); diff != "" {
		t.Error(diff)
	}
	if got := dump(s.View())["count"]; len(got) != 3 {
		t.Errorf("what the journal keeps in the store says %d events", len(got))
	}
}

func TestJournalErrorIsTemporaryAndTheEntryCanComeAgain(t *testing.T) {
	j := &recorder{err: errors.New("no space left on device")}
	s := newStore(Options{Journal: j})
	_, _, ch := s.View().Watch("k")
	b := entry(t, at(0), Txn{Ops: []Op{Put("k", nil)}, Events: [][]byte{[]byte("e")}})
	_, err := s.Apply(1, b)
	if !errors.Is(err, j.err) {
		t.Fatalf("got %v", err)
	}
	var temporary interface{ Temporary() bool }
	if !errors.As(err, &temporary) || !temporary.Temporary() {
		t.Errorf("%v is not told from an entry that can't be decoded", err)
	}
	if s.Applied() != 0 || len(dump(s.View())) != 0 || fired(ch) {
		t.Error("a part of the entry became visible")
	}
	j.err = nil
	if _, err := s.Apply(1, b); err != nil {
		t.Fatal(err)
	}
	if s.Applied() != 1 || len(dump(s.View())) != 2 || !fired(ch) || len(j.lines) != 1 {
		t.Error("the entry was not applied when it came again")
	}
}

func TestApplyRefusesWhatItCannotApplyAndChangesNothing(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(Put("k", []byte("1"))))
	before := snapshotBytes(t, s)
	good := entry(t, at(1), ops(Put("k", []byte("2"))))
	newer := append([]byte{}, good...)
	newer[2]++

	if _, err := s.Apply(1, good); err == nil {
		t.Error("an index was applied twice")
	}
	if _, err := s.Apply(2, newer); !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), "must be upgraded") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, snapshotBytes(t, s)); diff != "" {
		t.Error("a refused entry changed the state")
	}
}

func TestStateTimeOnlyMovesForward(t *testing.T) {
	s := newStore(Options{})
	if !s.Time().IsZero() {
		t.Error("a new store has a time")
	}
	apply(t, s, at(10), ops(PutTTL("k", nil, 5*time.Second)))
	apply(t, s, at(3), ops(PutTTL("late", nil, 5*time.Second)))
	if !s.Time().Equal(at(10)) {
		t.Errorf("state time went back to %s", s.Time())
	}
	if r, _ := s.View().Get("late"); !r.Expires.Equal(at(15)) {
		t.Errorf("ttl was not added to state time: %s", r.Expires)
	}
}

func TestWatchersWakeToTheNewState(t *testing.T) {
	s := newStore(Options{})
	next := emptyState()
	next.index = 3
	woken := false
	s.publish(next, func() {
		woken = true
		if s.Applied() != 3 {
			t.Error("who wakes now looks at the old state and sleeps for ever")
		}
	})
	if !woken {
		t.Error("nobody woke")
	}
}

// The codec is shared by all bubbles and must not belong to the first.
func TestCodecWorksInAndOutOfBubbles(t *testing.T) {
	w := newWireFormat()
	roundTrip := func(t *testing.T) {
		got, err := w.decompress.DecodeAll(w.compress.EncodeAll([]byte("something"), nil), nil)
		if err != nil || string(got) != "something" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for range 2 {
		synctest.Test(t, roundTrip)
		roundTrip(t)
	}
}
