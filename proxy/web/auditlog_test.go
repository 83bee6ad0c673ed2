package web

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// journal is the page's log on a disk, as the server has it.
type journal struct{ *audit.Journal }

func (journal) Authorize(context.Context, string) error { return nil }

func (journal) Begin(context.Context, string) (func(), error) { return func() {}, nil }

func (j journal) Search(ctx context.Context, _ string, q api.AuditQuery) (*api.AuditPage, error) {
	return j.Journal.Search(ctx, q)
}

// newJournal writes n lines, of which each fourth is alice's, into several segments.
func newJournal(t *testing.T, n int) journal {
	t.Helper()
	store := map[string][]byte{}
	get := func(key string) []byte { return store[key] }
	var m audit.Manifest
	j, err := audit.Open(t.TempDir(), audit.JournalOptions{Manifest: func() (audit.Manifest, error) { return m, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range n {
		at := noon.Add(time.Duration(i) * 6 * time.Hour) // a segment for each day
		user := "bob"
		if i%4 == 0 {
			user = "alice"
		}
		line, err := audit.Encode(api.Event{Event: api.EventUserCreate, Code: api.EventCodeUserCreate, Time: at, UID: fmt.Sprint(i), User: user, Fields: map[string]any{"name": "<b>\u202ex"}})
		if err != nil {
			t.Fatal(err)
		}
		changes, add, err := audit.Extend(audit.Entry{Index: uint64(i + 1), Time: at, Batches: []audit.Batch{{Origin: "r1", Events: [][]byte{line}}}}, get)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			store[c.Key] = c.Value
		}
		m.Head = add.Head
		if add.Sealed != nil {
			m.Segments = append(m.Segments, *add.Sealed)
		}
		if err := j.Write(add); err != nil {
			t.Fatal(err)
		}
	}
	return journal{j}
}

// The links of the page lead through a log on a disk as they do through that of the
// other tests, and rows are made of its own lines.
func TestAudit_leadsThroughALogOnADisk(t *testing.T) {
	l := newJournal(t, 450)
	a := newAccounts()
	h, err := New(Options{
		PublicAddr: "gate.example.com:443", ClusterName: "gate.example.com", Invites: &invites{}, Accounts: a, Audit: l,
		Clock: func() time.Time { return noon }, Rand: sevens{},
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []int
	for n := 449; n > 0; n -= 4 {
		want = append(want, n)
	}
	lines, last := follow(t, h, auditPath+"?user=alice", "Older", "Search on in older lines")
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("older: %s", diff)
	}
	if linkOf(last, "Newer") == "" {
		t.Error("no way back")
	}
	lines, _ = follow(t, h, auditPath+"?user=alice&after=0", "Newer", "Search on in newer lines")
	slices.SortFunc(lines, func(a, b int) int { return b - a })
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("newer: %s", diff)
	}
	found, err := l.Journal.Search(t.Context(), api.AuditQuery{Newest: true, Limit: 1})
	if err != nil || len(found.Events) != 1 {
		t.Fatal(err, found)
	}
	row := newAuditRow(found.Events[0])
	if row.Number != 450 || row.Raw != string(found.Events[0]) || !json.Valid([]byte(row.Raw)) || row.Summary != `Created the user "<b>x"` || len(row.Hash) != 12 {
		t.Errorf("%+v", row)
	}
}
