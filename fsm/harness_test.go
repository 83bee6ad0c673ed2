package fsm

import (
	"bytes"
	"testing"
	"time"
)

// epoch is where the tests' time starts.
var epoch = time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)

// at returns the time that many seconds after epoch.
func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

// frozen is a clock that leaves the judgement of expiry to state time.
func frozen() time.Time { return time.Unix(0, 1) }

func newStore(opts Options) *Store {
	if opts.Clock == nil {
		opts.Clock = frozen
	}
	return New(opts)
}

func item(t testing.TB, it Item) []byte {
	t.Helper()
	b, err := EncodeItem(it)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func entry(t testing.TB, now time.Time, txns ...Txn) []byte {
	t.Helper()
	items := make([][]byte, len(txns))
	for i := range txns {
		items[i] = item(t, Item{Origin: "n1", Txn: &txns[i]})
	}
	b, err := EncodeEntry(now, items)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ops(ops ...Op) Txn { return Txn{Ops: ops} }

// apply applies the transactions as the next entry and returns their results.
func apply(t testing.TB, s *Store, now time.Time, txns ...Txn) []error {
	t.Helper()
	results, err := s.Apply(s.Applied()+1, entry(t, now, txns...))
	if err != nil {
		t.Fatal(err)
	}
	errs := make([]error, len(results))
	for i, r := range results {
		errs[i] = DecodeResult(r)
	}
	return errs
}

func snapshotBytes(t testing.TB, s *Store) []byte {
	t.Helper()
	var buf bytes.Buffer
	n, err := s.Snapshot().WriteTo(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(buf.Len()) {
		t.Fatalf("WriteTo returned %d for %d bytes", n, buf.Len())
	}
	return buf.Bytes()
}

// dump is what a reader sees.
func dump(v View) map[string]string {
	out := map[string]string{}
	for r := range v.List("") {
		out[r.Key] = string(r.Value)
	}
	return out
}

func fired(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
