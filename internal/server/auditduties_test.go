package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// fourSegments are of a hundred lines and bytes each, sealed a day apart, the last
// two days ago; a head of fifty follows them.
func fourSegments(now time.Time) audit.Manifest {
	m := audit.Manifest{Head: audit.Head{Number: 450, First: 401, Bytes: 50, Prev: chain.Hash{4}, Hash: chain.Hash{5}}}
	for i := range uint64(4) {
		m.Segments = append(m.Segments, audit.Segment{
			First: 100*i + 1, Last: 100*i + 100, Bytes: 100, Prev: chain.Hash{byte(i)}, Hash: chain.Hash{byte(i + 1)},
			Sealed: now.Add(-time.Duration(5-i) * 24 * time.Hour),
		})
	}
	return m
}

func TestRetentionDropsTheOldestThatEverybodyHasHad(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	all := holding{id: "a", state: audit.Holding{First: 1, Last: 450}}
	slow := holding{id: "b", state: audit.Holding{First: 1, Last: 150}}
	filling := holding{id: "c", state: audit.Holding{First: 1, Last: 450, Gap: &api.AuditRange{From: 120, To: 420}}}
	silent := holding{id: "d", err: errors.New("no answer")}
	for name, c := range map[string]struct {
		r          retention
		replicas   []holding
		forwarders []api.ForwarderStatus
		want       []uint64 // first lines of the segments
		size       bool
		lacking    []string
	}{
		"for ever":                                {r: retention{maxSize: 450}, replicas: []holding{all}},
		"by age":                                  {r: retention{maxAge: 3*day + time.Hour, maxSize: 450}, replicas: []holding{all}, want: []uint64{1, 101}},
		"by age, on the second":                   {r: retention{maxAge: 5 * day, maxSize: 450}, replicas: []holding{all}},
		"by age, but a replica lacks it":          {r: retention{maxAge: day, maxSize: 450}, replicas: []holding{all, slow}, want: []uint64{1}},
		"by age, but a replica is fetching it":    {r: retention{maxAge: day, maxSize: 450}, replicas: []holding{all, filling}, want: []uint64{1}},
		"by age, but a replica does not answer":   {r: retention{maxAge: day, maxSize: 450}, replicas: []holding{all, silent}},
		"by age, but a forwarder has not sent it": {r: retention{maxAge: day, maxSize: 450}, replicas: []holding{all}, forwarders: []api.ForwarderStatus{{Name: "siem", Number: 200}, {Name: "new", Number: 450}}, want: []uint64{1, 101}},
		"copies count, too":                       {r: retention{maxSize: 450, copies: 20}, replicas: []holding{all}, want: []uint64{1}, size: true},
		"by size":                                 {r: retention{maxSize: 300}, replicas: []holding{all}, want: []uint64{1, 101}, size: true},
		"by size, whoever lacks it": {
			r: retention{maxSize: 300}, replicas: []holding{all, silent, slow}, forwarders: []api.ForwarderStatus{{Name: "siem"}},
			want: []uint64{1, 101}, size: true, lacking: []string{"forwarder siem", "replica b", "replica d"},
		},
		"by size as far as it must, then by age":  {r: retention{maxAge: day, maxSize: 440}, replicas: []holding{all, slow}, want: []uint64{1}, size: true},
		"no bound is so small that the head goes": {r: retention{maxSize: 1}, replicas: []holding{all}, want: []uint64{1, 101, 201, 301}, size: true},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.r.drop(fourSegments(now), now, c.replicas, c.forwarders)
			var first []uint64
			for _, seg := range got.segments {
				first = append(first, seg.First)
			}
			if diff := cmp.Diff(c.want, first); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.lacking, got.lacking); diff != "" || got.size != c.size || got.bytes != (100+c.r.copies)*int64(len(first)) {
				t.Errorf("%s%+v", diff, got)
			}
		})
	}
}

func TestAnExportIsOfWhatThereIs(t *testing.T) {
	st := audit.JournalState{First: 101, Last: 450}
	gap := audit.JournalState{First: 101, Last: 450, Gap: &audit.Gap{From: 200, To: 300}}
	for query, c := range map[string]struct {
		st       audit.JournalState
		from, to uint64
		code     api.Code
		says     string
	}{
		"":               {st: st, from: 101, to: 450},
		"from=200":       {st: st, from: 200, to: 450},
		"to=200":         {st: st, from: 101, to: 200},
		"from=9&to=":     {st: st, code: api.CodeNotFound, says: "begins with line 101"},
		"from=300&to=9":  {st: st, code: api.CodeInvalid, says: "nothing from line 300"},
		"to=99999":       {st: st, from: 101, to: 450},
		"from=451":       {st: st, code: api.CodeInvalid, says: "ends with line 450"},
		"from=0":         {st: st, code: api.CodeInvalid, says: "no number of a line"},
		"to=-1":          {st: st, code: api.CodeInvalid, says: "no number of a line"},
		"from=x":         {st: st, code: api.CodeInvalid, says: "no number of a line"},
		"to=":            {st: st, from: 101, to: 450},
		"&from=101":      {st: gap, code: api.CodeUnavailable, says: "200 to 300"},
		"from=301":       {st: gap, from: 301, to: 450},
		"from=150&to=99": {st: audit.JournalState{First: 1}, code: api.CodeInvalid},
		"&":              {st: audit.JournalState{First: 1}, from: 1, to: 0},
	} {
		from, to, err := exportRange(httptest.NewRequest(http.MethodGet, "/?"+query, nil), c.st)
		if c.code != "" {
			if !api.IsCode(err, c.code) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q: %v", query, err)
			}
		} else if err != nil || from != c.from || to != c.to {
			t.Errorf("%q: %d to %d, %v", query, from, to, err)
		}
	}
}

func TestAProblemWithTheAuditLogIsASentence(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		st     audit.JournalState
		events audit.EmitterStats
		head   uint64
		behind uint64
		says   string // "": nothing
	}{
		"all is well":            {st: audit.JournalState{First: 1, Last: 100}, head: 100},
		"the last lines to come": {st: audit.JournalState{First: 1, Last: 100}, head: 110, behind: 10},
		"far behind":             {st: audit.JournalState{First: 1, Last: 100}, head: 5000, behind: 4900, says: "4900 lines behind the cluster"},
		"a gap at the end":       {st: audit.JournalState{First: 1, Last: 100, Gap: &audit.Gap{From: 101, To: 4900}}, head: 5000, behind: 4900, says: "fetching the lines 101 to 4900"},
		"a gap before the end":   {st: audit.JournalState{First: 1, Last: 5000, Gap: &audit.Gap{From: 101, To: 200, Have: 40}}, head: 5000, behind: 60, says: "fetching the lines 101 to 200"},
		"a gap that nobody can fill": {
			st: audit.JournalState{First: 1, Last: 5000, Gap: &audit.Gap{From: 101, To: 200, Lacking: []string{"b", "c"}}}, head: 5000, behind: 100, says: "b, c lack them, too",
		},
		"a full disk":   {st: audit.JournalState{First: 1, Last: 100, PendingBytes: 3 << 20, Err: errors.New("no space left on device")}, head: 100, says: "the disk does not take the log: no space left"},
		"a slow disk":   {st: audit.JournalState{First: 1, Last: 100, PendingBytes: 3 << 19}, head: 100, says: "1.5 MiB of the log wait for the disk"},
		"lost events":   {st: audit.JournalState{First: 1, Last: 100}, events: audit.EmitterStats{Lost: 7}, head: 100, says: "7 events could be kept nowhere"},
		"a spool":       {st: audit.JournalState{First: 1, Last: 100}, events: audit.EmitterStats{SpoolBytes: 2048, SpoolEvents: 9, SpoolLimit: 1 << 28, FailingSince: now.Add(-time.Minute), LastError: "no leader"}, head: 100, says: "can't reach the cluster since 11:59:00 UTC; 9 of them (2 KiB) are in the spool, which holds 256 MiB: no leader"},
		"an old spool":  {st: audit.JournalState{First: 1, Last: 100}, events: audit.EmitterStats{SpoolBytes: 10, SpoolEvents: 1, SpoolLimit: 1 << 28}, head: 100, says: "events wait for the cluster; 1 of them (10 B)"},
		"for two days":  {st: audit.JournalState{First: 1, Last: 100}, events: audit.EmitterStats{FailingSince: now.Add(-49 * time.Hour), LastError: "no leader"}, head: 100, says: "for 49h0m0s: no leader"},
		"several parts": {st: audit.JournalState{First: 1, Last: 100}, events: audit.EmitterStats{Lost: 7}, head: 5000, behind: 4900, says: "since this replica started; 4900 lines behind"},
	} {
		t.Run(name, func(t *testing.T) {
			is := api.AuditStatus{Behind: auditBehind(c.st, audit.Head{Number: c.head})}
			got := auditProblem(is, c.st, c.events, now)
			if is.Behind != c.behind || !strings.Contains(got, c.says) || c.says == "" && got != "" {
				t.Errorf("%d behind, %q", is.Behind, got)
			}
			if strings.Contains(got, fmt.Sprintln()) {
				t.Errorf("more than a line: %q", got)
			}
		})
	}
}

func TestALogThatCannotBeReadHasNoEnds(t *testing.T) {
	store := fsm.New(fsm.Options{})
	put := func(i uint64, key, value string) {
		t.Helper()
		item, err := fsm.EncodeItem(fsm.Item{Txn: &fsm.Txn{Ops: []fsm.Op{fsm.Put(key, []byte(value))}}})
		if err != nil {
			t.Fatal(err)
		}
		entry, err := fsm.EncodeEntry(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), [][]byte{item})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Apply(i, entry); err != nil {
			t.Fatal(err)
		}
	}
	s := &Server{log: slog.New(slog.DiscardHandler), records: newAuditRecords(store.View)}
	first, last := s.logEnd(audit.Manifest.First), s.logEnd(func(m audit.Manifest) uint64 { return m.Head.Number })
	put(1, audit.KeyHead, `{"number":450,"first":401}`)
	if a, b := first(), last(); a != 401 || b != 450 {
		t.Errorf("%d to %d", a, b)
	}
	put(2, audit.SegmentKey(301), `{"first":"x"}`) // of a newer version, say
	if a, b := first(), last(); a != 0 || b != 0 {
		t.Errorf("%d to %d: forwarders would skip", a, b)
	}
}

func TestThatAClientHasGoneIsNoErrorOfOurs(t *testing.T) {
	var out bytes.Buffer
	s := &Server{log: slog.New(slog.NewTextHandler(&out, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	failed := fmt.Errorf("search the audit log: %w", context.Canceled)
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, api.PathAudit, nil)
	s.refuse(httptest.NewRecorder(), r, failed)
	if !strings.Contains(out.String(), "level=ERROR") {
		t.Errorf("the client waits: %q", out.String())
	}
	out.Reset()
	cancel()
	if s.refuse(httptest.NewRecorder(), r, failed); out.Len() > 0 {
		t.Errorf("the client has gone: %q", out.String())
	}
}
