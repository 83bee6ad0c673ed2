package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// extend applies an entry to records and returns what it adds; nil: nothing.
func extend(t testing.TB, r records, e Entry) *Addition {
	t.Helper()
	changes, add, err := Extend(e, r.get)
	if err != nil {
		t.Fatal(err)
	}
	r.apply(changes)
	return add
}

func headOf(t testing.TB, r records) Head {
	t.Helper()
	head := Head{First: 1}
	if err := load(r.get, KeyHead, &head); err != nil {
		t.Fatal(err)
	}
	return head
}

// plain makes small events named by numbers.
func plain(from, to int) [][]byte {
	var events [][]byte
	for i := from; i <= to; i++ {
		events = append(events, fmt.Appendf(nil, `{"event":"e%d"}`, i))
	}
	return events
}

// names reads which events lines hold.
func names(t testing.TB, lines []byte) []string {
	t.Helper()
	var out []string
	for line := range bytes.Lines(lines) {
		var e struct{ Event string }
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Event)
	}
	return out
}

func TestLinesDoNotDependOnHowTheEventsOfAnEntryAreSplit(t *testing.T) {
	events := plain(1, 12)
	var want []byte
	for split := 1; split <= len(events); split++ {
		r := records{}
		var batches []Batch
		for part := range slices.Chunk(events, split) {
			batches = append(batches, Batch{Origin: "n1", Events: part})
		}
		add := extend(t, r, Entry{Index: 5, Time: bookStart, Batches: batches})
		if want == nil {
			want = add.Lines
		}
		if !bytes.Equal(add.Lines, want) || add.First != 1 || add.Count != 12 || headOf(t, r) != add.Head || add.Head.Number != 12 {
			t.Errorf("in parts of %d: %d lines from %d, head %+v", split, add.Count, add.First, add.Head)
		}
	}
}

// A replay gives the same lines, whichever store holds the records.
func TestExtendIsAFunctionOfEntryAndRecords(t *testing.T) {
	var entries []Entry
	for i := range 40 {
		origin := fmt.Sprintf("n%d", i%3)
		entries = append(entries, Entry{Index: uint64(i + 1), Time: bookStart.Add(time.Duration(i) * time.Hour), Batches: []Batch{ //nolint:gosec // small
			{Origin: origin, Epoch: uint64(9 + i%3), First: uint64(i/3*4 + 1), Events: plain(i*4, i*4+3)}, //nolint:gosec // small
			{Origin: origin, Events: plain(1000+i, 1000+i)},
		}})
	}
	run := func() ([]byte, []Segment, records) {
		r := records{KeyLimits: encode(Limits{SegmentBytes: 2000})}
		var lines []byte
		var segments []Segment
		for _, e := range entries {
			before := maps.Clone(r)
			changes, add, err := Extend(e, r.get)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, r); diff != "" {
				t.Fatalf("the records were changed:\n%s", diff)
			}
			again, addAgain, err := Extend(e, maps.Clone(r).get)
			if err != nil || !cmp.Equal(changes, again) || !cmp.Equal(add, addAgain) {
				t.Fatalf("entry %d: another result the second time: %v", e.Index, err)
			}
			r.apply(changes)
			lines = append(lines, add.Lines...)
			if add.Sealed != nil {
				segments = append(segments, *add.Sealed)
			}
		}
		return lines, segments, r
	}
	lines, segments, r := run()
	lines2, segments2, r2 := run()
	if !bytes.Equal(lines, lines2) || !cmp.Equal(segments, segments2) || !cmp.Equal(r, r2) {
		t.Error("two replays differ")
	}
	got, err := chain.Verify(bytes.NewReader(lines), chain.Options{First: 1, Last: 200})
	if err != nil || got.Problem != nil || got.Hash != headOf(t, r).Hash {
		t.Errorf("chain: %+v %+v %v", got, got.Problem, err)
	}
	next := uint64(1)
	var prev chain.Hash
	for _, s := range segments {
		if s.First != next || s.Prev != prev || s.Last < s.First || s.Bytes == 0 || s.Sealed.Before(s.Opened) {
			t.Errorf("segment %+v, want first %d", s, next)
		}
		next, prev = s.Last+1, s.Hash
	}
	if h := headOf(t, r); h.First != next || h.Prev != prev {
		t.Errorf("head %+v, want first %d", h, next)
	}
}

func TestRepeatedEventsAreDropped(t *testing.T) {
	numbered := func(origin string, epoch, first uint64, from, to int) Batch {
		return Batch{Origin: origin, Epoch: epoch, First: first, Events: plain(from, to)}
	}
	for _, tt := range []struct {
		name    string
		entries [][]Batch
		want    string
	}{
		{"not numbered", [][]Batch{{numbered("a", 0, 0, 1, 2)}, {numbered("a", 0, 0, 1, 2)}}, "e1 e2 e1 e2"},
		{"in one entry", [][]Batch{{numbered("a", 5, 1, 1, 2), numbered("a", 5, 1, 1, 2)}}, "e1 e2"},
		{"over entries", [][]Batch{{numbered("a", 5, 1, 1, 2)}, {numbered("a", 5, 1, 1, 2)}}, "e1 e2"},
		{"overlapping in one entry", [][]Batch{{numbered("a", 5, 1, 1, 3), numbered("a", 5, 2, 2, 5)}}, "e1 e2 e3 e4 e5"},
		{"overlapping over entries", [][]Batch{{numbered("a", 5, 1, 1, 3)}, {numbered("a", 5, 3, 3, 4)}}, "e1 e2 e3 e4"},
		{"older ones after newer ones", [][]Batch{{numbered("a", 5, 1, 1, 4)}, {numbered("a", 5, 2, 2, 3)}, {numbered("a", 5, 5, 5, 5)}}, "e1 e2 e3 e4 e5"},
		{"a hole is not filled later", [][]Batch{{numbered("a", 5, 4, 4, 4)}, {numbered("a", 5, 1, 1, 5)}}, "e4 e5"},
		{"two lives of a sender", [][]Batch{{numbered("a", 5, 1, 1, 2)}, {numbered("a", 6, 1, 1, 2), numbered("a", 5, 2, 2, 3)}}, "e1 e2 e1 e2 e3"},
		{"a spool that comes back with another server id", [][]Batch{{numbered("a", 5, 1, 1, 2)}, {numbered("b", 5, 1, 1, 3)}}, "e1 e2 e3"},
		{"a part of many", [][]Batch{{numbered("a", 5, 1, 1, 1)}, {numbered("b", 6, 1, 7, 8), numbered("a", 5, 1, 1, 1), numbered("a", 0, 0, 9, 9)}}, "e1 e7 e8 e9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := records{}
			var lines []byte
			for i, batches := range tt.entries {
				if add := extend(t, r, Entry{Index: uint64(i) + 1, Time: bookStart, Batches: batches}); add != nil { //nolint:gosec // small
					lines = append(lines, add.Lines...)
				}
			}
			if got := strings.Join(names(t, lines), " "); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			n := uint64(len(strings.Fields(tt.want)))
			if res, err := chain.Verify(bytes.NewReader(lines), chain.Options{First: 1, Last: n}); err != nil || res.Problem != nil || headOf(t, r).Number != n {
				t.Errorf("chain: %+v %v", res.Problem, err)
			}
		})
	}
}

func TestAnEntryOfRepeatsAddsAndSealsNothing(t *testing.T) {
	r := records{KeyLimits: encode(Limits{SegmentBytes: 1})}
	b := Batch{Origin: "a", Epoch: 3, First: 1, Events: plain(1, 2)}
	extend(t, r, Entry{Index: 1, Time: bookStart, Batches: []Batch{b}})
	before := headOf(t, r)
	add := extend(t, r, Entry{Index: 2, Time: bookStart.Add(48 * time.Hour), Batches: []Batch{b}})
	if add != nil || headOf(t, r) != before {
		t.Errorf("added %+v, head %+v", add, headOf(t, r))
	}
}

func TestSegmentsAreSealedBySizeAndByDay(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit int64
		at    []time.Duration // since bookStart, 03:00
		want  []uint64        // last numbers of the segments; each entry has two lines
	}{
		{"neither", 1 << 20, []time.Duration{0, time.Hour, 20 * time.Hour}, nil},
		{"full, but nothing follows", 1, []time.Duration{0}, nil},
		{"full", 1, []time.Duration{0, 1, 2}, []uint64{2, 4}},
		{"next day", 1 << 20, []time.Duration{0, 21*time.Hour - 1, 21 * time.Hour, 22 * time.Hour}, []uint64{4}},
		{"days without events", 1 << 20, []time.Duration{0, 240 * time.Hour}, []uint64{2}},
		{"both at once", 1, []time.Duration{0, 24 * time.Hour}, []uint64{2}},
		{"time stands still", 1 << 20, []time.Duration{0, 0, 0}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := records{KeyLimits: encode(Limits{SegmentBytes: tt.limit})}
			var got []uint64
			for i, at := range tt.at {
				now := bookStart.Add(at)
				add := extend(t, r, Entry{Index: uint64(i) + 1, Time: now.In(time.FixedZone("west", -10*3600)), Batches: []Batch{{Origin: "a", Events: plain(1, 2)}}}) //nolint:gosec // small
				if s := add.Sealed; s != nil {
					got = append(got, s.Last)
					if !s.Sealed.Equal(now) || r[SegmentKey(s.First)] == nil || add.Head.First != s.Last+1 || add.Head.Prev != s.Hash || add.First != s.Last+1 {
						t.Errorf("sealed %+v, head %+v", s, add.Head)
					}
				}
				if add.Head.First > add.Head.Number || add.Head.Bytes == 0 {
					t.Errorf("an empty segment: %+v", add.Head)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("sealed after (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRecordsThatCannotBeReadStopTheReplica(t *testing.T) {
	key := keySeen + "3"
	for _, tt := range []struct{ name, key, value, want string }{
		{"damaged head", KeyHead, `{"number":`, "audit/head"},
		{"head of another type", KeyHead, `{"number":"1"}`, "audit/head"},
		{"newer head", KeyHead, `{"format":2,"number":1}`, "must be upgraded"},
		{"damaged limits", KeyLimits, `[]`, "audit/limits"},
		{"damaged numbers", key, `{"last":-1}`, key},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := records{tt.key: []byte(tt.value)}
			changes, add, err := Extend(Entry{Index: 1, Time: bookStart, Batches: []Batch{{Origin: "a", Epoch: 3, First: 1, Events: plain(1, 1)}}}, r.get)
			if err == nil || !strings.Contains(err.Error(), tt.want) || changes != nil || add != nil {
				t.Errorf("got %v, %v, %v", changes, add, err)
			}
		})
	}
}

// hostile events are those with which somebody tries to be two lines, another line,
// or none (threats.md, audit injection).
func hostile() [][]byte {
	return [][]byte{
		nil, {}, []byte("{}"), []byte(`{"a":1`), []byte(`null`), []byte(`"text"`), []byte(`[1]`), []byte("not json"),
		[]byte("{\"a\":1}\n{\"event\":\"forged\"}"), []byte("{\"a\":\r\n1}"), []byte("{\"a\":\"\x1b[2J\"}"), []byte("{\"a\":\"\x7f\"}"), []byte("{\"\x00\":1}"),
		[]byte(`{"number":7,"hash":"` + strings.Repeat("0", 64) + `"}`),
		[]byte(`{"a":1,"replica":"n9","raft_index":99,"number":7,"hash":"` + strings.Repeat("ab", 32) + `"}`),
		[]byte(`{"a":"\",\"number\":8"}`), []byte("{\"a\":\"\xff\xfe\"}"), []byte("{\"a\":\"\u2028\u202e\"}"),
		[]byte(`{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`),
		[]byte(`{"a":"` + strings.Repeat("x", 1<<20) + `"}`), bytes.Repeat([]byte{0}, 1<<16), []byte(` {"a":1}`), []byte("{\"a\":1} "), []byte(`{"a":1}{"b":2}`),
	}
}

func TestHostileEventsAreOneLineEach(t *testing.T) {
	r := records{}
	add := extend(t, r, Entry{Index: 77, Time: bookStart, Batches: []Batch{{Origin: "n1\"\n", Events: hostile()}}})
	checkLines(t, add, chain.Hash{}, 77, "n1\"\n")
	if add.Count != len(hostile()) {
		t.Errorf("%d lines of %d events", add.Count, len(hostile()))
	}
}

// checkLines says whether an addition is whole lines of JSON with our own fields at
// the end of each, in a chain.
func checkLines(t testing.TB, add *Addition, prev chain.Hash, index uint64, origin string) {
	t.Helper()
	n := add.First
	for line := range bytes.Lines(add.Lines) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		tr, ok := chain.ParseTrailer(line)
		if !ok || tr.Number != n || chain.Link(prev, line[:tr.Body]) != tr.Hash {
			t.Fatalf("line %d: trailer %+v %v: %.300q", n, tr, ok, line)
		}
		for _, c := range string(line) {
			if c < 0x20 || c >= 0x7f && c < 0xa0 || strings.ContainsRune("\u2028\u2029\u202a\u202e\u2066\u200f\ufeff", c) {
				t.Fatalf("line %d holds the character %#x", n, c)
			}
		}
		if !utf8.Valid(line) {
			t.Fatalf("line %d is no UTF-8: %.300q", n, line)
		}
		var last struct {
			Number  uint64     `json:"number"`
			Hash    chain.Hash `json:"hash"`
			Index   uint64     `json:"raft_index"`
			Replica string     `json:"replica"`
		}
		// A "Number" of the event's own would be taken for ours by Go alone; the exact name wins.
		if err := decodeExact(line, &last.Number, &last.Hash, &last.Index, &last.Replica); err != nil {
			t.Fatalf("line %d: %v: %.300q", n, err, line)
		}
		if last.Number != n || last.Hash != tr.Hash || last.Index != index || origin != "" && last.Replica != origin {
			t.Fatalf("line %d says %+v", n, last)
		}
		prev = tr.Hash
		n++
	}
	if n != add.First+uint64(add.Count) || add.Head.Number != n-1 || add.Head.Hash != prev { //nolint:gosec // a small number
		t.Fatalf("%d lines from %d, but it ends before %d: %+v", add.Count, add.First, n, add.Head)
	}
}

func decodeExact(line []byte, number *uint64, hash *chain.Hash, index *uint64, replica *string) error {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(line, &fields); err != nil {
		return err
	}
	for name, to := range map[string]any{chain.FieldNumber: number, chain.FieldHash: hash, chain.FieldIndex: index, chain.FieldReplica: replica} {
		if err := json.Unmarshal(fields[name], to); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func TestMalformedEventsKeepTheirText(t *testing.T) {
	add := extend(t, records{}, Entry{Index: 1, Time: bookStart, Batches: []Batch{{Origin: "n1", Events: [][]byte{[]byte("one\r\ntwo")}}}})
	var got map[string]any
	if err := json.Unmarshal(add.Lines, &got); err != nil || got["event"] != api.EventMalformed || got["code"] != api.EventCodeMalformed || got["text"] != "one\r\ntwo" {
		t.Errorf("got %v %v", got, err)
	}
}

// A line that no reader takes for one would be a hole in the log of a replica that
// fetches it.
func TestNoLineIsLongerThanReadersTake(t *testing.T) {
	for _, size := range []int{chain.MaxEvent, chain.MaxEvent + 1, 300 << 10, 1 << 20} {
		event := []byte(`{"event":"` + strings.Repeat("x", size-len(`{"event":""}`)) + `"}`)
		add := extend(t, records{}, Entry{Index: math.MaxUint64, Time: bookStart, Batches: []Batch{{Origin: strings.Repeat("\x01", maxOrigin), Events: [][]byte{event}}}})
		checkLines(t, add, chain.Hash{}, math.MaxUint64, "")
		if got := names(t, add.Lines)[0]; (got == api.EventMalformed) != (size > chain.MaxEvent) || len(add.Lines)-1 > chain.MaxLine {
			t.Errorf("an event of %d bytes is a line of %d, %.50q", size, len(add.Lines), got)
		}
	}
}

// FuzzExtend reads entries out of bytes: whatever events and numbers a replica
// proposes, lines have numbers without gaps, are chained, parse, and no number of a
// sender is taken twice.
func FuzzExtend(f *testing.F) {
	for _, e := range hostile() {
		if len(e) < 1<<12 {
			f.Add(append([]byte{1, 1, 0, 1, byte(min(len(e), 255))}, e...))
		}
	}
	f.Add([]byte{2, 1, 0, 1, 3, 'a', 'b', 'c', 2, 1, 0, 2, 3, 'a', 'b', 'c', 3, 30, 1, 1, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := records{KeyLimits: encode(Limits{SegmentBytes: 600})}
		var prev chain.Hash
		number, index, now := uint64(0), uint64(0), bookStart
		taken := map[uint64]uint64{}
		for len(data) >= 5 && index < 64 {
			// sender, hours that pass, epoch, first number, length of the event
			origin, epoch, first, size := "n"+strconv.Itoa(int(data[0]%3)), uint64(data[2]%3), uint64(data[3])+1, min(int(data[4]), len(data)-5)
			if data[3] == 255 {
				first = math.MaxUint64 - 16<<10
			}
			event := data[5 : 5+size]
			now = now.Add(time.Duration(data[1]) * time.Hour)
			data = data[5+size:]
			index++
			batches := []Batch{{Origin: origin, Events: [][]byte{event}}, {Origin: origin, Epoch: epoch, First: first, Events: [][]byte{event, event}}}
			if epoch == 0 {
				batches[1].First = 0
			}
			batches = append(batches, batches[1])
			before := headOf(t, r)
			add := extend(t, r, Entry{Index: index, Time: now, Batches: batches})
			want := 1 + 4
			if epoch > 0 {
				want = 1 + int(min(2, max(first+1, taken[epoch])-max(first-1, taken[epoch]))) //nolint:gosec // at most 2
				taken[epoch] = max(taken[epoch], first+1)
			}
			if add.Count != want || add.First != number+1 {
				t.Fatalf("%d lines from %d, want %d from %d", add.Count, add.First, want, number+1)
			}
			checkLines(t, add, prev, index, origin)
			number, prev = add.Head.Number, add.Head.Hash
			if s := add.Sealed; s != nil && (s.Last != before.Number || s.Hash != before.Hash || s.First != before.First || s.Last < s.First) {
				t.Fatalf("sealed %+v after head %+v", s, before)
			}
		}
	})
}

// What Unicode calls printable grows with Go: two builds would make two chains.
func TestWhatIsWrittenOfHostileEventsDoesNotDependOnUnicodeTables(t *testing.T) {
	add := extend(t, records{}, Entry{Index: 1, Time: bookStart, Batches: []Batch{{Origin: "Zürich", Events: [][]byte{[]byte("no event: é \U0001fae9")}}}})
	for _, c := range add.Lines {
		if c >= utf8.RuneSelf {
			t.Fatalf("not ASCII: %q", add.Lines)
		}
	}
	if !bytes.Contains(add.Lines, []byte(`no event: \u00e9 \ud83e\udee9`)) || !bytes.Contains(add.Lines, []byte(`"replica":"Z\u00fcrich"`)) {
		t.Errorf("got %s", add.Lines)
	}
}

func FuzzExtendBytes(f *testing.F) {
	f.Add([]byte("a"), uint64(1))
	f.Fuzz(func(t *testing.T, event []byte, index uint64) {
		add := extend(t, records{}, Entry{Index: index, Time: bookStart, Batches: []Batch{{Origin: string(binary.BigEndian.AppendUint64(nil, index)), Events: [][]byte{event}}}})
		checkLines(t, add, chain.Hash{}, index, "")
	})
}
