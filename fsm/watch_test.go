package fsm

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWatchFiresForEveryKindOfChange(t *testing.T) {
	tests := []struct {
		name   string
		key    string
		change Op
	}{
		{"update", "a/1", Put("a/1", []byte("x"))},
		{"delete", "a/1", Delete("a/1")},
		{"create", "a/3", Put("a/3", nil)},
		{"create of a longer key's prefix", "a/", Put("a/", nil)},
		{"create below", "a/1/x", Put("a/1/x", nil)},
		{"create in an empty corner", "zz", Put("zz", nil)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(Options{})
			apply(t, s, at(0), ops(Put("a/1", nil), Put("a/2", nil), Put("b", nil)))
			_, _, key := s.View().Watch(tt.key)
			_, prefix := s.View().WatchPrefix(tt.key)
			_, all := s.View().WatchPrefix("")
			_, other := s.View().WatchPrefix("b")
			_, _, neighbour := s.View().Watch("a/2")
			old := s.View()
			apply(t, s, at(1), ops(tt.change))
			if !fired(key) || !fired(prefix) || !fired(all) {
				t.Errorf("key %v, prefix %v, all %v", fired(key), fired(prefix), fired(all))
			}
			if fired(other) || fired(neighbour) {
				t.Error("a record that did not change woke its watcher")
			}
			if _, _, late := old.Watch(tt.key); !fired(late) {
				t.Error("watching from an old view missed the change")
			}
		})
	}
}

func TestConflictWakesNobody(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(Put("k", nil)))
	_, _, ch := s.View().Watch("k")
	apply(t, s, at(1), Txn{Checks: []Check{{Key: "k"}}, Ops: []Op{Put("k", nil)}})
	if fired(ch) {
		t.Error("fired")
	}
}

// So many changes at once make the tree compare itself with its predecessor
// instead of keeping a list of channels.
func TestWatchFiresForMoreChangesThanTheTreeTracks(t *testing.T) {
	const n = 10_000
	s := newStore(Options{})
	put := func(v string) Txn {
		var txn Txn
		for i := range n {
			txn.Ops = append(txn.Ops, Put(fmt.Sprintf("k/%05d", i), []byte(v)))
		}
		return txn
	}
	apply(t, s, at(0), put("1"), ops(Put("quiet", nil)))
	watchAll := func() (channels []<-chan struct{}, quiet <-chan struct{}) {
		v := s.View()
		for r := range v.List("k/") {
			_, _, ch := v.Watch(r.Key)
			channels = append(channels, ch)
		}
		_, _, quiet = v.Watch("quiet")
		return channels, quiet
	}
	check := func(what string, channels []<-chan struct{}) {
		t.Helper()
		if len(channels) != n {
			t.Fatalf("%d channels", len(channels))
		}
		for i, ch := range channels {
			if !fired(ch) {
				t.Fatalf("%s: watcher %d sleeps on", what, i)
			}
		}
	}
	channels, quiet := watchAll()
	apply(t, s, at(1), put("2"))
	check("update", channels)
	if fired(quiet) {
		t.Error("a record that did not change woke its watcher")
	}
	channels, quiet = watchAll()
	snap := snapshotBytes(t, s)
	if err := s.Restore(bytes.NewReader(snap)); err != nil {
		t.Fatal(err)
	}
	check("restore", channels)
	if !fired(quiet) {
		t.Error("restore left a watcher asleep")
	}
	apply(t, s, at(2), put("3")) // nothing is closed twice
}

func TestRestoreWakesWatchersOfWhatIsAbsent(t *testing.T) {
	s := newStore(Options{})
	snap := snapshotBytes(t, s)
	_, _, key := s.View().Watch("nobody")
	_, prefix := s.View().WatchPrefix("nothing/")
	if err := s.Restore(bytes.NewReader(snap)); err != nil {
		t.Fatal(err)
	}
	if !fired(key) || !fired(prefix) {
		t.Error("asleep")
	}
}

// A decision about a request watches keys that are absent. Events come many times
// a second and must not have all decisions made anew.
func TestTheJournalsRecordsDisturbNoOtherWatcher(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(Put("a", nil), Put("audit", nil), Put("audit/head", []byte("1")), Put("audits", nil)))
	_, _, absent := s.View().Watch("audit-policy")
	_, below := s.View().WatchPrefix("locks/")
	_, _, head := s.View().Watch("audit/head")
	_, own := s.View().WatchPrefix("audit/")
	apply(t, s, at(1), ops(Put("audit/head", []byte("2")), Put("audit/segments/1", nil)))
	if fired(absent) || fired(below) {
		t.Error("the journal's records woke others")
	}
	if !fired(head) || !fired(own) {
		t.Error("a watcher of the journal's records slept on")
	}
	restored := newStore(Options{})
	_, _, head = restored.View().Watch("audit/head")
	if err := restored.Restore(bytes.NewReader(snapshotBytes(t, s))); err != nil {
		t.Fatal(err)
	}
	if !fired(head) {
		t.Error("a watcher slept through a restore")
	}
	for prefix, want := range map[string][]string{
		"":       {"a", "audit", "audit/head", "audit/segments/1", "audits"},
		"audit":  {"audit", "audit/head", "audit/segments/1", "audits"},
		"audit/": {"audit/head", "audit/segments/1"},
		"audits": {"audits"},
	} {
		var got []string
		for r := range restored.View().List(prefix) {
			got = append(got, r.Key)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("prefix %q: %s", prefix, diff)
		}
	}
}
