package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// found gives the numbers of a page's events.
func found(t testing.TB, page *api.AuditPage) (out []int) {
	t.Helper()
	for _, e := range page.Events {
		out = append(out, int(trailer(t, e).Number)) //nolint:gosec // small
	}
	return out
}

func atOnce(context.Context) (func(), error) { return func() {}, nil }

func special(fields string) []byte {
	return []byte(`{"event":"session.start","code":"T2000I","time":"2030-02-01T00:00:00Z","uid":"u"` + fields + `}`)
}

func TestSearchFindsWhatAQueryMeans(t *testing.T) {
	b := newBook(t, 4<<10).fill(40)
	b.add( // 41 and on
		special(`,"cluster_name":"c","user":"carol \"the cat\"","kubernetes_cluster":"x"`),
		special(`,"user":"\u0063arol"`),
		[]byte(`{"user":"dave","x":"a<b","kubernetes_cluster":"cookie-9","event":"odd","time":"2031-01-01T00:00:00Z"}`),
		[]byte(`{"user":7,"event":["odd"],"time":5}`),
		[]byte("no event at all"),
	)
	at := func(n int) time.Time { return bookStart.Add(time.Duration(n) * time.Second) }
	all := func(match func(n int) bool) (out []int) {
		for n := 1; n <= 40; n++ {
			if match(n) {
				out = append(out, n)
			}
		}
		return out
	}
	for _, tt := range []struct {
		name string
		q    api.AuditQuery
		want []int
	}{
		{"all", api.AuditQuery{}, span2(1, 45)},
		{"after", api.AuditQuery{After: 43}, []int{44, 45}},
		{"after the end", api.AuditQuery{After: 1 << 63}, nil},
		{"limit", api.AuditQuery{Limit: 3}, []int{1, 2, 3}},
		{"newest", api.AuditQuery{Newest: true, Limit: 3}, []int{45, 44, 43}},
		{"before", api.AuditQuery{Newest: true, Before: 4}, []int{3, 2, 1}},
		{"user", api.AuditQuery{User: "bob@example.com"}, []int{10, 20, 30, 40}},
		{"user, newest", api.AuditQuery{User: "bob@*", Newest: true}, []int{40, 30, 20, 10}},
		{"user by expression", api.AuditQuery{User: "^(bob@.*|dave)$"}, []int{10, 20, 30, 40, 43}},
		{"user in part", api.AuditQuery{User: "bob"}, nil},
		{"user with quotes", api.AuditQuery{User: `carol "the cat"`}, []int{41}},
		{"user spelled with escapes", api.AuditQuery{User: "carol"}, []int{42}},
		{"user where another has the name in a field", api.AuditQuery{User: "cookie-9"}, nil},
		{"type", api.AuditQuery{Types: []string{"session.start"}}, []int{41, 42}},
		{"code", api.AuditQuery{Types: []string{"T2000I", "odd"}}, []int{41, 42, 43}},
		{"type pattern", api.AuditQuery{Types: []string{"sess*", "audit.*"}}, []int{41, 42, 45}},
		{"cluster", api.AuditQuery{Cluster: "cookie-1"}, all(func(n int) bool { return n%3 == 1 })},
		{"cluster pattern", api.AuditQuery{Cluster: "*-9"}, []int{43}},
		{"since", api.AuditQuery{Since: at(39)}, []int{39, 40, 41, 42, 43}},
		{"until", api.AuditQuery{Until: at(3)}, []int{1, 2}},
		{"since and until, newest", api.AuditQuery{Since: at(3), Until: at(5), Newest: true}, []int{4, 3}},
		{"grep of a text", api.AuditQuery{Grep: "/pods/p33"}, []int{33}},
		{"grep", api.AuditQuery{Grep: `/pods/p[12]1"`}, []int{11, 21}},
		{"grep without case", api.AuditQuery{Grep: `(?i)NO EVENT`}, []int{45}},
		{"grep of our fields", api.AuditQuery{Grep: `"number":(17|18),`}, []int{17, 18}},
		{"everything at once", api.AuditQuery{User: "alice", Types: []string{"kube.request"}, Cluster: "cookie-1", Grep: "GET", Since: at(5), Until: at(9)}, []int{7}},
		{"nothing", api.AuditQuery{User: "nobody"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := b.reader()
			for range 2 { // the second time with what the first has learned
				page, err := r.search(t.Context(), tt.q, atOnce)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, found(t, page)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if page.First != 1 || page.Last != 45 || page.Done != (tt.q.Limit == 0) {
					t.Errorf("page %d to %d, done %v", page.First, page.Last, page.Done)
				}
				if _, err := json.Marshal(page); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSearchGoesOnWhereItEnded(t *testing.T) {
	b := newBook(t, 4<<10).fill(100)
	for _, q := range []api.AuditQuery{{Limit: 7, User: "alice"}, {Limit: 7, User: "alice", Newest: true}, {Limit: 7, User: "alice", Since: bookStart}, {Limit: 7, User: "alice", Newest: true, Since: bookStart}} {
		r := b.reader()
		for range 2 {
			q.After, q.Before = 0, 0
			var got []int
			for {
				page, err := r.search(t.Context(), q, atOnce)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, found(t, page)...)
				if page.Done {
					break
				}
				if q.Newest {
					q.Before = page.Next
				} else {
					q.After = page.Next
				}
			}
			if len(got) != 90 || got[0] > got[89] != q.Newest {
				t.Errorf("%+v: %v", q, got)
			}
		}
	}
}

func TestSearchStopsWhenItHasLookedLongEnough(t *testing.T) {
	b := newBook(t, 1<<20).fill(1000)
	r := b.reader()
	calls := 0
	r.clock = func() time.Time { calls++; return bookStart.Add(time.Duration(calls) * 700 * time.Millisecond) }
	page, err := r.search(t.Context(), api.AuditQuery{Grep: "[~^]"}, atOnce)
	if err != nil || !page.Done || calls != 1 {
		t.Errorf("a cheap one looked at the clock %d times: %+v %v", calls, page, err)
	}
	dear := api.AuditQuery{Grep: strings.Repeat(".{0,99}", 6) + "[~^]"}
	calls = 0
	page, err = r.search(t.Context(), dear, atOnce)
	if err != nil || page.Done || page.Next < 6 || page.Next > 100 || len(page.Events) != 0 || calls != 4 {
		t.Errorf("%+v %v, after %d looks at the clock", page, err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls = 0
	r.clock = func() time.Time {
		if calls++; calls == 2 {
			cancel()
		}
		return bookStart
	}
	if _, err := r.search(ctx, dear, atOnce); !errors.Is(err, context.Canceled) || calls != 2 {
		t.Errorf("after %d looks at the clock: %v", calls, err)
	}
}

// A search that an expression makes slow would occupy a core for minutes.
func TestExpressionsThatCostTooMuchAreRefused(t *testing.T) {
	dear := strings.Repeat(".{0,999}", 127) + "[~^]"
	many := make([]string, 60)
	for i := range many {
		many[i] = "^" + strings.Repeat("x", 100) + "$"
	}
	for _, q := range []api.AuditQuery{
		{Grep: dear}, {Grep: `(?:\pL{10}){99}`}, {Grep: ".{0,999}[a-z]"}, {User: "^" + dear[:len(dear)-4] + "$"}, {Cluster: "^" + dear[:800] + "$"}, {Types: []string{"^" + dear[:80] + "$"}}, {Types: many},
	} {
		begun := time.Now()
		if _, err := newMatcher(q); !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), "costs too much") || time.Since(begun) > time.Second {
			t.Errorf("%.80v: %v after %s", q, err, time.Since(begun))
		}
	}
	for _, expr := range []string{strings.Repeat("x", 1024), `"kubernetes_cluster":"[a-z]{1,63}-(dev|ops)"`, `(?i)failed.*10\.0\.\d{1,3}\.\d{1,3}`, `\p{Greek}+ (a*)*b{3,}(c?){40}|^$|`} {
		if _, err := newMatcher(api.AuditQuery{Grep: expr}); err != nil {
			t.Error(err)
		}
		re, err := syntax.Parse(expr, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		prog, err := syntax.Compile(re.Simplify())
		if err != nil || stepsOf(re) < len(prog.Inst)-2 { // it begins with two of its own
			t.Errorf("%.80s: %d steps, %d instructions, %v", expr, stepsOf(re), len(prog.Inst), err)
		}
	}
}

func TestExpressionsKeepTheirAnchors(t *testing.T) {
	b := newBook(t, 1<<20).fill(3)
	for _, expr := range []string{"^uid-2$", `\Auid-2\z`, "^uid-2", "uid-2$", `(?i)^UID-2`, `\buid-2\B`} {
		page, err := b.reader().search(t.Context(), api.AuditQuery{Grep: expr}, atOnce)
		if err != nil || len(page.Events) != 0 {
			t.Errorf("%s: %v %v", expr, found(t, page), err)
		}
	}
	page, err := b.reader().search(t.Context(), api.AuditQuery{Grep: `^\{"event":"kube.*"uid":"uid-2",`}, atOnce)
	if err != nil || !cmp.Equal(found(t, page), []int{2}) {
		t.Errorf("%v %v", page, err)
	}
}

func TestSearchTellsWhichLinesAreMissing(t *testing.T) {
	b := newBook(t, 4<<10).fill(100)
	if len(b.list) < 6 {
		t.Fatal(len(b.list))
	}
	gone := func(i int) api.AuditRange { return api.AuditRange{From: b.list[i].first, To: b.list[i+1].first - 1} }
	removed := []api.AuditRange{gone(0), {From: gone(2).From, To: gone(3).To}}
	for _, i := range []int{0, 2, 3} {
		if err := os.Remove(b.list[i].path); err != nil {
			t.Fatal(err)
		}
	}
	// A line that was harmed is not missing, and one that was cut out is.
	harmed, cut := b.list[4].first+2, b.list[4].first+5
	content := bytes.Replace(b.read(b.list[4].path), b.lines[harmed-1], []byte("harmed\n"), 1)
	b.write(b.list[4].path, bytes.Replace(content, b.lines[cut-1], nil, 1))
	// And the last ones never came.
	b.st.Gap = &Gap{From: 101, To: 110}
	m := b.manifest()
	m.Head.Number = 120
	want := append(removed, api.AuditRange{From: cut, To: cut}, api.AuditRange{From: 101, To: 120})
	r := b.reader()
	r.files = func() []fileInfo { return b.list[1:] } // the first one's name is not even known
	r.current = func() (Manifest, error) { return m, nil }
	for _, q := range []api.AuditQuery{{User: "nobody"}, {Limit: 1000}, {Since: bookStart, User: "nobody"}} {
		for range 2 { // the second time by what the first has learned
			page, err := r.search(t.Context(), q, atOnce)
			if diff := cmp.Diff(want, page.Missing); diff != "" || err != nil || !page.Done {
				t.Errorf("%+v: %v, done %v: %s", q, err, page.Done, diff)
			}
			back := q
			back.Newest = true
			page, err = r.search(t.Context(), back, atOnce)
			slices.Reverse(page.Missing)
			if diff := cmp.Diff(want, page.Missing); diff != "" || err != nil || !page.Done {
				t.Errorf("%+v: %v, done %v: %s", back, err, page.Done, diff)
			}
		}
	}
	// What was not looked through is not told.
	page, err := r.search(t.Context(), api.AuditQuery{After: gone(1).From, Limit: 1}, atOnce)
	if err != nil || page.Missing != nil {
		t.Errorf("%+v %v", page.Missing, err)
	}
	page, err = r.search(t.Context(), api.AuditQuery{Newest: true, Before: gone(1).To, Limit: 1}, atOnce)
	if err != nil || page.Missing != nil {
		t.Errorf("%+v %v", page.Missing, err)
	}
}

func TestSearchLeavesOutFilesOfOtherTimes(t *testing.T) {
	b := newBook(t, 4<<10).fill(100)
	r := b.reader()
	q := api.AuditQuery{Since: bookStart.Add(98 * time.Second)}
	if page, err := r.search(t.Context(), q, atOnce); err != nil || !cmp.Equal(found(t, page), []int{98, 99, 100}) {
		t.Fatalf("%+v %v", page, err)
	}
	for _, f := range b.list[1:4] { // they are not looked at any more
		b.write(f.path, []byte("nothing\n"))
	}
	for _, newest := range []bool{false, true} {
		q.Newest = newest
		page, err := r.search(t.Context(), q, atOnce)
		if err != nil || len(page.Events) != 3 || !page.Done {
			t.Errorf("%+v %v", page, err)
		}
	}
	q = api.AuditQuery{Until: bookStart.Add(3 * time.Second), Newest: true}
	if page, err := r.search(t.Context(), q, atOnce); err != nil || !cmp.Equal(found(t, page), []int{2, 1}) {
		t.Errorf("%+v %v", page, err)
	}
}

func TestSearchIsNotEndedByHarmedLines(t *testing.T) {
	b := newBook(t, 1<<20).fill(20)
	content := b.read(b.list[0].path)
	content = bytes.Replace(content, b.lines[9], []byte("{\"event\":\"kube.requ\x00\xff broken uid-10\n"), 1)
	content = bytes.Replace(content, b.lines[10], bytes.Replace(b.lines[10], []byte("alice"), []byte("trudy"), 1), 1)
	b.write(b.list[0].path, content)
	for _, q := range []api.AuditQuery{{Grep: "uid-1"}, {Grep: "uid-1", Newest: true}, {Grep: "uid-1", Since: bookStart}} {
		page, err := b.reader().search(t.Context(), q, atOnce)
		if err != nil || len(page.Events) != 10 || !page.Done { // 1, 11 to 19: not 10
			t.Errorf("%+v: %v %v", q, found(t, page), err)
		}
	}
	if page, err := b.reader().search(t.Context(), api.AuditQuery{User: "trudy"}, atOnce); err != nil || !cmp.Equal(found(t, page), []int{11}) {
		t.Errorf("%v", err)
	}
}

func TestSearchWaitsForNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t, 1<<20).fill(14)
		var writing sync.WaitGroup
		defer writing.Wait() // before the folder goes: a search ends with the first line that it waits for
		start := time.Now()
		q := api.AuditQuery{After: 14, User: "bob*", Wait: api.Duration(20 * time.Second)}
		writing.Go(func() {
			<-time.After(5 * time.Second)
			b.fill(3) // 15 to 17, none of which is bob's
			<-time.After(5 * time.Second)
			b.fill(3)
		})
		page, err := b.reader().search(t.Context(), q, atOnce)
		if err != nil || !cmp.Equal(found(t, page), []int{20}) || time.Since(start) != 10*time.Second {
			t.Errorf("after %s: %+v %v", time.Since(start), page, err)
		}
		start = time.Now()
		q.After = page.Next
		page, err = b.reader().search(t.Context(), q, atOnce)
		if err != nil || len(page.Events) != 0 || !page.Done || page.Next != 20 || time.Since(start) != 20*time.Second {
			t.Errorf("after %s: %+v %v", time.Since(start), page, err)
		}
		// Who waits holds no turn, and who gets none again has waited in vain.
		turns, held := 0, false
		q.After = page.Next
		writing.Go(func() {
			<-time.After(time.Second)
			synctest.Wait() // the search waits, too
			if turns != 1 || held {
				t.Errorf("%d turns, held %v", turns, held)
			}
			b.fill(10)
		})
		page, err = b.reader().search(t.Context(), q, func(context.Context) (func(), error) {
			if turns++; turns > 1 {
				return nil, errors.New("busy")
			}
			held = true
			return func() { held = false }, nil
		})
		if err != nil || len(page.Events) != 0 || page.Next != 20 || turns != 2 {
			t.Errorf("%+v %v, %d turns", page, err, turns)
		}
	})
}

func TestQueriesThatMakeNoSenseAreRefused(t *testing.T) {
	for want, q := range map[string]api.AuditQuery{
		"limit is 1001":        {Limit: 1001},
		"limit is -1":          {Limit: -1},
		"wait is 21s":          {Wait: api.Duration(21 * time.Second)},
		"nothing can be found": {Since: bookStart, Until: bookStart},
		"user is too long":     {User: strings.Repeat("x", 1025)},
		"grep is too long":     {Grep: strings.Repeat("x", 1025)},
		"type is too long":     {Types: []string{strings.Repeat("x", 1025)}},
		"65 types":             {Types: make([]string, 65)},
		"use before":           {After: 1, Newest: true},
		"use after":            {Before: 1},
		"wait does not go":     {Newest: true, Wait: 1},
		"regular expression":   {Grep: "("},
		"user \"^($\"":         {User: "^($"},
		"cluster \"^($\"":      {Cluster: "^($"},
		"type \"^($\"":         {Types: []string{"^($"}},
	} {
		_, err := newMatcher(q)
		if err == nil || !strings.Contains(err.Error(), want) || api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: got %v", want, err)
		}
	}
	if _, err := newMatcher(api.AuditQuery{}); err != nil {
		t.Error(err)
	}
}

// FuzzSearch: what is refused by a few bytes is what taking the line apart refuses.
func FuzzSearch(f *testing.F) {
	f.Add([]byte(`{"event":"a","code":"b","time":"2030-01-01T00:00:00Z","uid":"u","user":"x\u0041"}`), "xA", "a*", "^a|b$")
	f.Add([]byte(`{"user":"<"}`), "<", "", "a+(b|c)")
	f.Fuzz(func(t *testing.T, line []byte, user, typ, grep string) {
		q := api.AuditQuery{User: user, Grep: grep}
		if typ != "" {
			q.Types = []string{typ}
		}
		m, err := newMatcher(q)
		if err != nil || !isLine(line) {
			return
		}
		head := m.head(line)
		if got, all := m.mayMatch(line) && m.match(line, head), m.match(line, head); all && !got && (m.grepText == nil || m.grep != nil && m.grep.Match(line)) {
			t.Fatalf("%+v leaves out %q", q, line)
		}
	})
}

// Searching for what is rare: how many lines a second are refused?
func BenchmarkSearch(b *testing.B) {
	book := newBook(b, 256<<20)
	events := make([][]byte, 0, 500)
	for n := range 100_000 {
		if events = append(events, requestEvent(b, n+1)); len(events) == cap(events) {
			book.add(events...)
			events = events[:0]
		}
	}
	for name, q := range map[string]api.AuditQuery{
		"user": {User: "nobody"}, "type": {Types: []string{"user.*"}}, "grep": {Grep: `pods/.*zz`}, "grep-no-case": {Grep: "(?i)nobody"},
		"until": {Until: bookStart}, "cluster": {Cluster: "cookie-7"}, "user-expression": {User: "^(nobody|none)$"},
	} {
		for _, newest := range []bool{false, true} {
			q.Newest = newest
			b.Run(fmt.Sprintf("%s/newest=%v", name, newest), func(b *testing.B) {
				r := book.reader()
				for b.Loop() {
					if page, err := r.search(b.Context(), q, atOnce); err != nil || len(page.Events) != 0 {
						b.Fatal(len(page.Events), err)
					}
				}
				b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
			})
		}
	}
}
