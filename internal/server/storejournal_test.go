package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// replicaOf is a store with a journal, as a replica has them.
func replicaOf(t *testing.T, dir string) (*fsm.Store, *audit.Journal) {
	t.Helper()
	j, err := audit.Open(dir, audit.JournalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return fsm.New(fsm.Options{Journal: storeJournal{j}}), j
}

// Entries after a snapshot are applied again after a crash, and by replicas that
// begin with it: each has the same head, and the lines of its file once.
func TestSnapshotAndReplayGiveTheSameAuditLog(t *testing.T) {
	start := time.Date(2030, 1, 2, 3, 0, 0, 0, time.UTC)
	entryOf := func(i uint64) []byte {
		events := [][]byte{fmt.Appendf(nil, `{"event":"e%d"}`, i), []byte("no event\r\n")}
		one, err := fsm.EncodeItem(fsm.Item{Origin: "n1", Epoch: 7, First: i, Events: events}) // the first repeats the second of the entry before
		if err != nil {
			t.Fatal(err)
		}
		txn := fsm.Txn{Ops: []fsm.Op{fsm.Put(fmt.Sprint("k/", i), []byte("{}"))}, Events: events[:1]}
		two, err := fsm.EncodeItem(fsm.Item{Origin: "n2", Txn: &txn})
		if err != nil {
			t.Fatal(err)
		}
		b, err := fsm.EncodeEntry(start.Add(time.Duration(i)*time.Hour), [][]byte{one, two}) //nolint:gosec // small
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	apply := func(s *fsm.Store, from, to uint64) {
		t.Helper()
		for i := from; i <= to; i++ {
			if _, err := s.Apply(i, entryOf(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	headOf := func(s *fsm.Store) audit.Head {
		t.Helper()
		rec, ok := s.View().Get(audit.KeyHead)
		if !ok {
			t.Fatal("no head")
		}
		var h audit.Head
		if err := json.Unmarshal(rec.Value, &h); err != nil {
			t.Fatal(err)
		}
		return h
	}
	dir := filepath.Join(t.TempDir(), "log")
	s, j := replicaOf(t, dir)
	apply(s, 1, 30)
	var snapshot bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	apply(s, 31, 60)
	want := headOf(s)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	files := func() map[string]string {
		t.Helper()
		out := map[string]string{}
		paths, err := filepath.Glob(filepath.Join(dir, "events*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p) //nolint:gosec // the test's own
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.Base(p)] = string(b)
		}
		return out
	}
	before := files()

	again, _ := replicaOf(t, dir) // the same replica after a crash
	if err := again.Restore(bytes.NewReader(snapshot.Bytes())); err != nil {
		t.Fatal(err)
	}
	apply(again, 31, 60)
	other, _ := replicaOf(t, filepath.Join(t.TempDir(), "log")) // one that sees all of the log
	apply(other, 1, 60)
	if got := headOf(again); got != want {
		t.Errorf("after the replay the head is %+v, want %+v", got, want)
	}
	if got := headOf(other); got != want || want.Number != 60+61 {
		t.Errorf("another replica's head is %+v, want %+v", got, want)
	}
	if diff := cmp.Diff(before, files()); diff != "" {
		t.Errorf("the replay changed the files:\n%.2000s", diff)
	}
}
