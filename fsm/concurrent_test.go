package fsm

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// Readers, watchers and snapshots run while entries are applied and
// now and then the whole store is replaced. Every entry writes the same number
// to all keys in two transactions, so whoever sees two numbers saw half an entry.
func TestReadersSeeWholeEntriesOnly(t *testing.T) {
	const entries = 400
	keys := []string{"a", "a/b", "a/c", "b/b", "zz"}
	s := newStore(Options{})
	write := func(i int) {
		var first, second Txn
		value := fmt.Appendf(nil, `{"name":"%d"}`, i)
		for n, k := range keys {
			if op := PutTTL("users/"+k, value, time.Hour); n < 2 {
				first.Ops = append(first.Ops, op)
			} else {
				second.Ops = append(second.Ops, op)
			}
		}
		apply(t, s, at(i), first, second)
	}
	write(0)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	until := func(read func(v View) error) {
		wg.Go(func() {
			for done := false; !done; {
				v := s.View()
				done = v.Index() > entries
				if err := read(v); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	until(func(v View) error { return oneNumber(v) })
	until(func(v View) error {
		want, _, err := users.Get(v, "a")
		if err != nil {
			return err
		}
		for _, u := range users.List(v) {
			if u == nil || u.Name != want.Name {
				return fmt.Errorf("%v beside %v", u, want)
			}
		}
		return nil
	})
	until(func(View) error {
		var buf bytes.Buffer
		if _, err := s.Snapshot().WriteTo(&buf); err != nil {
			return err
		}
		snap, err := ReadSnapshot(&buf)
		if err != nil {
			return err
		}
		return oneNumber(View{state: snap.state})
	})
	last := fmt.Sprintf(`{"name":"%d"}`, entries)
	for _, key := range keys {
		wg.Go(func() { watchUntil(ctx, t, s, "users/"+key, last) })
	}

	for i := 1; i <= entries; i++ {
		write(i)
		if i%50 == 0 {
			if err := s.Restore(bytes.NewReader(snapshotBytes(t, s))); err != nil {
				t.Error(err)
			}
		}
	}
	wg.Wait()
}

func oneNumber(v View) error {
	var first *Record
	n := 0
	for r := range v.List("users/") {
		n++
		if first == nil {
			first = r
		}
		if !bytes.Equal(r.Value, first.Value) || r.Revision != first.Revision {
			return fmt.Errorf("%s at %d beside %s at %d", r.Value, r.Revision, first.Value, first.Revision)
		}
	}
	if n != 5 {
		return fmt.Errorf("%d records", n)
	}
	return nil
}

// watchUntil follows a key and sees its revisions rise up to the last: had it
// slept through a change with nothing after it, it would hang.
func watchUntil(ctx context.Context, t *testing.T, s *Store, key, last string) {
	var revision uint64
	for {
		r, ok, changed := s.View().Watch(key)
		switch {
		case !ok:
			t.Errorf("%s vanished", key)
			return
		case r.Revision < revision:
			t.Errorf("%s went back from %d to %d", key, revision, r.Revision)
			return
		case string(r.Value) == last:
			return
		}
		revision = r.Revision
		select {
		case <-changed:
		case <-ctx.Done():
			t.Errorf("watch of %s missed a change after revision %d", key, revision)
			return
		}
	}
}
