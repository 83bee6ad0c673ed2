package fsm

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A model is the store as one would write it on a napkin: a map, no index, no
// sweeping, no sharing.
type model struct {
	index   uint64
	now     time.Time
	records map[string]modelRecord
}

type modelRecord struct {
	Value            string
	Revision         uint64
	Created, Expires time.Time
}

func (m *model) get(key string) modelRecord {
	r := m.records[key]
	if !r.Expires.IsZero() && !m.now.Before(r.Expires) {
		return modelRecord{}
	}
	return r
}

func (m *model) apply(index uint64, now time.Time, txns []Txn) (results []error) {
	m.index = index
	if now.After(m.now) {
		m.now = now
	}
	for _, txn := range txns {
		results = append(results, m.txn(txn))
	}
	return results
}

func (m *model) txn(txn Txn) error {
	for _, c := range txn.Checks {
		if have := m.get(c.Key).Revision; have != c.Revision {
			return &ConflictError{Key: c.Key, Want: c.Revision, Have: have}
		}
	}
	for _, op := range txn.Ops {
		if op.Delete {
			delete(m.records, op.Key)
			continue
		}
		r := modelRecord{Value: string(op.Value), Revision: m.index, Created: m.now}
		if old := m.get(op.Key); old.Revision != 0 {
			r.Created = old.Created
		}
		if op.TTL > 0 {
			r.Expires = m.now.Add(op.TTL)
		}
		m.records[op.Key] = r
	}
	return nil
}

func (m *model) visible(prefix string) map[string]modelRecord {
	out := map[string]modelRecord{}
	for key := range m.records {
		if r := m.get(key); r.Revision != 0 && strings.HasPrefix(key, prefix) {
			out[key] = r
		}
	}
	return out
}

func (m *model) clone() *model {
	return &model{m.index, m.now, maps.Clone(m.records)}
}

func visible(v View, prefix string) map[string]modelRecord {
	out := map[string]modelRecord{}
	for r := range v.List(prefix) {
		out[r.Key] = modelRecord{string(r.Value), r.Revision, r.Created, r.Expires}
	}
	return out
}

var (
	// Keys that are prefixes of each other and share stems split and merge the
	// tree's nodes in every way.
	genKey   = rapid.SampledFrom([]string{"a", "a/", "a/b", "a/bc", "a/bd", "ab", "b", "b/x", "bé", "c"})
	genValue = rapid.SliceOfN(rapid.Byte(), 0, 4)
	genTTL   = rapid.SampledFrom([]time.Duration{1, time.Second, 2 * time.Second, 5 * time.Second})
)

func genTxn(t *rapid.T, m *model) Txn {
	var txn Txn
	for range rapid.IntRange(0, 2).Draw(t, "checks") {
		key := genKey.Draw(t, "check")
		revision := m.get(key).Revision
		if rapid.IntRange(0, 3).Draw(t, "wrong") == 0 {
			revision = rapid.Uint64Range(0, m.index+1).Draw(t, "revision")
		}
		txn.Checks = append(txn.Checks, Check{key, revision})
	}
	for range rapid.IntRange(0, 3).Draw(t, "ops") {
		key := genKey.Draw(t, "key")
		switch rapid.IntRange(0, 3).Draw(t, "op") {
		case 0:
			txn.Ops = append(txn.Ops, Delete(key))
		case 1:
			txn.Ops = append(txn.Ops, Put(key, genValue.Draw(t, "value")))
		default:
			txn.Ops = append(txn.Ops, PutTTL(key, genValue.Draw(t, "value"), genTTL.Draw(t, "ttl")))
		}
	}
	return txn
}

func genEntry(t *rapid.T, m *model) (index uint64, now time.Time, txns []Txn, encoded []byte) {
	index = m.index + rapid.Uint64Range(1, 3).Draw(t, "gap")
	now = m.now
	if now.IsZero() {
		now = epoch
	}
	now = now.Add(time.Duration(rapid.IntRange(-2, 3).Draw(t, "seconds")) * time.Second)
	var items [][]byte
	for range rapid.IntRange(0, 3).Draw(t, "items") {
		txn := genTxn(t, m)
		b, err := EncodeItem(Item{Txn: &txn})
		if err != nil {
			t.Fatal(err)
		}
		txns, items = append(txns, txn), append(items, b)
	}
	encoded, err := EncodeEntry(now, items)
	if err != nil {
		t.Fatal(err)
	}
	return index, now, txns, encoded
}

// Whatever is applied, the store answers as the model does, nobody who watches
// misses a change, a second store that gets the same log has the same snapshot,
// and a third that is restored from snapshots on the way too.
func TestStoreAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{records: map[string]modelRecord{}}
		straight, again, restored := newStore(Options{}), newStore(Options{}), newStore(Options{})
		var log [][]byte
		var indexes []uint64

		for range rapid.IntRange(1, 25).Draw(t, "entries") {
			before := m.clone()
			index, now, txns, encoded := genEntry(t, m)
			log, indexes = append(log, encoded), append(indexes, index)
			key, prefix := genKey.Draw(t, "watched"), genKey.Draw(t, "watched prefix")
			_, _, keyChanged := straight.View().Watch(key)
			_, prefixChanged := straight.View().WatchPrefix(prefix)

			want := m.apply(index, now, txns)
			if diff := cmp.Diff(want, applyTo(t, straight, index, encoded)); diff != "" {
				t.Fatalf("results (-model +store):\n%s", diff)
			}
			if diff := cmp.Diff(m.visible(""), visible(straight.View(), "")); diff != "" {
				t.Fatalf("contents (-model +store):\n%s", diff)
			}
			if diff := cmp.Diff(m.visible(prefix), visible(straight.View(), prefix)); diff != "" {
				t.Fatalf("contents below %q (-model +store):\n%s", prefix, diff)
			}
			if before.get(key) != m.get(key) && !fired(keyChanged) {
				t.Fatalf("watch of %q missed a change", key)
			}
			if !maps.Equal(before.visible(prefix), m.visible(prefix)) && !fired(prefixChanged) {
				t.Fatalf("watch below %q missed a change", prefix)
			}
			// With so few keys every sweep is complete.
			if n := straight.Snapshot().Len(); n != len(m.visible("")) {
				t.Fatalf("%d records stored, %d alive", n, len(m.visible("")))
			}
			if rapid.Bool().Draw(t, "restore") {
				if err := restored.Restore(bytes.NewReader(snapshotOf(t, restored))); err != nil {
					t.Fatal(err)
				}
			}
			applyTo(t, restored, index, encoded)
		}
		for i := range log {
			applyTo(t, again, indexes[i], log[i])
		}
		if !bytes.Equal(snapshotOf(t, straight), snapshotOf(t, again)) {
			t.Fatal("replaying the log gave another state")
		}
		if !bytes.Equal(snapshotOf(t, straight), snapshotOf(t, restored)) {
			t.Fatal("restoring on the way gave another state")
		}
		checkExpiryIndex(t, straight.state.Load())
		checkExpiryIndex(t, restored.state.Load())
	})
}

func applyTo(t *rapid.T, s *Store, index uint64, encoded []byte) (errs []error) {
	results, err := s.Apply(index, encoded)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		errs = append(errs, DecodeResult(r))
	}
	return errs
}

func snapshotOf(t *rapid.T, s *Store) []byte {
	var buf bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// checkExpiryIndex: the index holds exactly the records that expire, and is not
// one swap away from holding another revision of them.
func checkExpiryIndex(t *rapid.T, st *state) {
	expiring := 0
	for r := range (View{state: st}).List("") {
		if r.Expires.IsZero() {
			continue
		}
		expiring++
		if indexed, _ := st.expiry.Get(expiryKey(r)); indexed != r {
			t.Fatalf("%q is indexed as %v", r.Key, indexed)
		}
	}
	if st.expiry.Len() != expiring {
		t.Fatalf("%d in the expiry index, %d expire", st.expiry.Len(), expiring)
	}
}
