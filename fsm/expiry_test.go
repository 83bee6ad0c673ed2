package fsm

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func TestRecordIsAbsentFromTheInstantItExpires(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(PutTTL("k", nil, 10*time.Second)))
	c := s.state.Load().newChange(2, toNanos(at(10))-1)
	if c.get("k") == nil {
		t.Error("gone a nanosecond early")
	}
	c = s.state.Load().newChange(2, toNanos(at(10)))
	if c.get("k") != nil {
		t.Error("still there when it expires")
	}
}

// Whether the sweep has come to a record must not matter to anyone.
func TestExpiredRecordCountsAsAbsentSweptOrNot(t *testing.T) {
	create := Txn{Checks: []Check{{Key: "k"}}, Ops: []Op{Put("k", []byte("new"))}}
	stale := Txn{Checks: []Check{{Key: "k", Revision: 1}}, Ops: []Op{Put("k", []byte("stale"))}}
	for _, limit := range []int{0, 1} {
		t.Run(fmt.Sprint("sweep ", limit), func(t *testing.T) {
			s := newStore(Options{})
			apply(t, s, at(0), ops(PutTTL("k", nil, time.Second)))
			c := s.state.Load().newChange(2, toNanos(at(1)))
			c.sweep(limit)
			if conflict := c.apply(Item{Txn: &stale}); conflict == nil || conflict.Have != 0 {
				t.Errorf("check at the old revision: %v", conflict)
			}
			if conflict := c.apply(Item{Txn: &create}); conflict != nil {
				t.Errorf("check for absence: %v", conflict)
			}
			next, _ := c.commit()
			r, ok := next.records.Get([]byte("k"))
			if !ok || !r.Created.Equal(at(1)) || r.Revision != 2 || !r.Expires.IsZero() {
				t.Errorf("got %+v", r)
			}
			if next.expiry.Len() != 0 {
				t.Error("the replaced record is still in the expiry index")
			}
		})
	}
}

func TestViewsJudgeByTheLaterOfStateTimeAndClock(t *testing.T) {
	now := at(-100)
	s := New(Options{Clock: func() time.Time { return now }})
	apply(t, s, at(0), ops(PutTTL("k", nil, 10*time.Second), Put("stay", nil)))

	old := s.View()
	if !old.Now().Equal(at(0)) {
		t.Errorf("a slow clock held time back to %s", old.Now())
	}
	now = at(10) // no entry comes, and still it ends
	v := s.View()
	if _, ok := v.Get("k"); ok {
		t.Error("Get: alive past its time by the clock")
	}
	if _, ok, _ := v.Watch("k"); ok {
		t.Error("Watch: alive past its time by the clock")
	}
	if got := len(dump(v)); got != 1 {
		t.Errorf("List: %d records", got)
	}
	if v.Revision("k") != 0 {
		t.Error("Revision: alive past its time by the clock")
	}
	if _, ok := old.Get("k"); !ok {
		t.Error("a view changed its mind")
	}
	// Writers are judged by state time alone.
	if err := apply(t, s, at(1), Txn{Checks: []Check{{Key: "k", Revision: 1}}})[0]; err != nil {
		t.Errorf("a local clock decided about a transaction: %v", err)
	}
}

func TestSweepIsBoundedOldestFirstAndWakesWatchers(t *testing.T) {
	clock := at(0)
	s := New(Options{Clock: func() time.Time { return clock }})
	var puts []Op
	for i := range sweepLimit + 10 {
		puts = append(puts, PutTTL(fmt.Sprintf("s/%04d", i), nil, time.Duration(i+1)*time.Second))
	}
	apply(t, s, at(0), ops(puts...))
	if s.SweepDue() {
		t.Error("due before anything has expired")
	}
	first, last := puts[0].Key, puts[len(puts)-1].Key
	_, _, firstGone := s.View().Watch(first)
	_, _, lastGone := s.View().Watch(last)

	clock = at(len(puts))
	if !s.SweepDue() {
		t.Error("not due though everything has expired by the clock")
	}
	apply(t, s, clock)
	if got := s.Snapshot().Len(); got != 10 {
		t.Errorf("%d records left after the first sweep", got)
	}
	if !fired(firstGone) || fired(lastGone) {
		t.Error("the wrong watchers woke")
	}
	if !s.SweepDue() {
		t.Error("not due though a rest is left")
	}
	apply(t, s, clock)
	if s.Snapshot().Len() != 0 || s.state.Load().expiry.Len() != 0 || s.SweepDue() || !fired(lastGone) {
		t.Error("the rest was not swept")
	}
}

func TestRenewedRecordOutlivesItsFirstExpiry(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(PutTTL("k", []byte("1"), 10*time.Second)))
	apply(t, s, at(5), ops(PutTTL("k", []byte("2"), 10*time.Second)))
	apply(t, s, at(12))
	if _, ok := s.View().Get("k"); !ok {
		t.Error("swept by the expiry it had before")
	}
	apply(t, s, at(15))
	if s.Snapshot().Len() != 0 {
		t.Error("not swept by the expiry it has")
	}
}

func TestAbsurdTTLDoesNotWrapAround(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(PutTTL("k", nil, math.MaxInt64)))
	if r, ok := s.View().Get("k"); !ok || r.Expires.Before(at(0)) {
		t.Errorf("got %+v", r)
	}
}

func TestWhatIsLeftOfAnExpiredTTLIsNotForever(t *testing.T) {
	for _, ttl := range []time.Duration{0, -1, -time.Hour, math.MinInt64} {
		txn := ops(PutTTL("k", nil, ttl))
		if _, err := EncodeItem(Item{Txn: &txn}); err == nil {
			t.Errorf("ttl %s was taken", ttl)
		}
	}
}

func TestAtStateTimeThisReplicasClockDoesNotCount(t *testing.T) {
	s := newStore(Options{Clock: func() time.Time { return at(3600) }})
	apply(t, s, at(0), ops(PutTTL("k", nil, time.Minute)))
	v := s.View()
	if _, ok := v.Get("k"); ok {
		t.Error("not expired by this replica's clock, an hour ahead")
	}
	v = v.AtStateTime()
	if _, ok := v.Get("k"); !ok || !v.Now().Equal(at(0)) {
		t.Errorf("expired by state time, which is %v", v.Now())
	}
}
