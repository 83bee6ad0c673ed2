package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// forge makes a line with a valid trailer of its own.
func forge(prev chain.Hash, number uint64, text string) ([]byte, chain.Hash) {
	w := chainWriter{index: 7, number: number - 1, last: prev}
	w.add([]byte(`{"event":"user.login","code":"T1000I","user":"`+text+`"}`), "n1")
	return w.buf, w.last
}

func trailer(t testing.TB, line []byte) chain.Trailer {
	t.Helper()
	tr, ok := chain.ParseTrailer(bytes.TrimSuffix(line, []byte("\n")))
	if !ok {
		t.Fatalf("no trailer: %.300s", line)
	}
	return tr
}

// rewrite makes the lines from one on anew, with hashes that fit.
func rewrite(t testing.TB, lines [][]byte, from int) {
	t.Helper()
	last := trailer(t, lines[from-1]).Hash
	for i := from; i < len(lines); i++ {
		lines[i], last = forge(last, trailer(t, lines[i]).Number, "mallory")
	}
}

type mutation struct {
	name   string
	mutate func(t *testing.T, lines [][]byte, i int) [][]byte // i: index of the line
	kind   string
	line   func(i, count int) int // of the file, that is named
	not    string                 // where it can't be done: first, last
}

func same(i, _ int) int { return i + 1 }

func mutations() []mutation {
	clone := bytes.Clone
	return []mutation{
		{name: "a character changed", kind: api.AuditTouched, line: same, mutate: func(_ *testing.T, l [][]byte, i int) [][]byte {
			l[i] = bytes.Replace(l[i], []byte("example.com"), []byte("example.org"), 1)
			return l
		}},
		{name: "line removed", kind: api.AuditRemoved, line: same, mutate: func(_ *testing.T, l [][]byte, i int) [][]byte {
			return append(l[:i:i], l[i+1:]...)
		}},
		{name: "line replaced by text", kind: api.AuditTouched, line: same, mutate: func(_ *testing.T, l [][]byte, i int) [][]byte {
			l[i] = []byte("{\"nothing\":1}\n")
			return l
		}},
		{name: "line emptied", kind: api.AuditTouched, line: same, not: "last", mutate: func(_ *testing.T, l [][]byte, i int) [][]byte {
			l[i] = []byte("\n")
			return l
		}},
		{name: "text inserted before", kind: api.AuditAdded, line: same, mutate: func(_ *testing.T, l [][]byte, i int) [][]byte {
			return append(append(l[:i:i], []byte("\x1b[2Jgarbage\n")), l[i:]...)
		}},
		{name: "line repeated", kind: api.AuditAdded, line: func(i, _ int) int { return i + 2 }, mutate: func(_ *testing.T, l [][]byte, i int) [][]byte {
			return append(append(l[:i+1:i+1], clone(l[i])), l[i+1:]...)
		}},
		{name: "two lines swapped", kind: api.AuditTouched, line: same, not: "last", mutate: func(_ *testing.T, l [][]byte, i int) [][]byte {
			l[i], l[i+1] = l[i+1], l[i]
			return l
		}},
		{name: "forged line inserted before", kind: api.AuditAdded, line: same, not: "first", mutate: func(t *testing.T, l [][]byte, i int) [][]byte {
			forged, _ := forge(trailer(t, l[i-1]).Hash, trailer(t, l[i]).Number, "mallory")
			return append(append(l[:i:i], forged), l[i:]...)
		}},
		{name: "forged lines inserted before", kind: api.AuditAdded, line: same, not: "first", mutate: func(t *testing.T, l [][]byte, i int) [][]byte {
			one, h := forge(trailer(t, l[i-1]).Hash, trailer(t, l[i]).Number, "mallory")
			two, _ := forge(h, trailer(t, l[i]).Number+1, "mallory")
			return append(append(l[:i:i], one, two), l[i:]...)
		}},
	}
}

// threats.md, audit injection: the deletion of a line is detected, and every other
// change.
func TestVerifyNamesTheLineThatWasTouchedRemovedOrAdded(t *testing.T) {
	for _, which := range []string{"sealed", "active"} {
		for _, m := range mutations() {
			for _, where := range []string{"first", "middle", "last"} {
				t.Run(which+"/"+where+"/"+m.name, func(t *testing.T) {
					if m.not == where {
						return
					}
					b := newBook(t, 12<<10).fill(130)
					f := b.list[1]
					if which == "active" {
						f = b.list[len(b.list)-1]
					}
					lines := bytes.SplitAfter(b.read(f.path), []byte("\n"))
					lines = lines[:len(lines)-1]
					copies := int(f.first) - 1 //nolint:gosec // a small number
					i := map[string]int{"first": copies, "middle": (copies + len(lines)) / 2, "last": len(lines) - 1}[where]
					n := trailer(t, lines[i]).Number
					if m.not == "first" && i == 0 {
						return
					}
					count := len(lines)
					b.write(f.path, bytes.Join(m.mutate(t, lines, i), nil))

					got := b.reader().verify(t.Context(), b.manifest(), nil)
					want := &api.AuditProblem{File: filepath.Base(f.path), Line: m.line(i, count), Number: n, Kind: m.kind}
					if which == "active" && where == "last" {
						if m.name == "line removed" {
							want.Line = count
						}
					}
					checkProblem(t, got, want)
				})
			}
		}
	}
}

func checkProblem(t *testing.T, got api.AuditVerified, want *api.AuditProblem) {
	t.Helper()
	if got.Error != "" || got.OK || !got.Done || got.Problem == nil {
		t.Fatalf("got %+v, want a problem", got)
	}
	p := *got.Problem
	if p.Detail == "" || strings.ContainsAny(p.Text+p.Detail, "\x1b\n\r") || len(p.Text) > 2<<10 {
		t.Errorf("not for people: %q %q", p.Detail, p.Text)
	}
	detail := p.Detail
	p.Detail, p.Text = "", ""
	if diff := cmp.Diff(want, &p); diff != "" {
		t.Errorf("problem (-want +got), %s:\n%s", detail, diff)
	}
}

func TestVerifyAcceptsWhatWasWritten(t *testing.T) {
	for _, n := range []int{0, 1, 6, 130, 2600} {
		b := newBook(t, 100<<10).fill(n)
		m := b.manifest()
		got := b.reader().verify(t.Context(), m, nil)
		if !got.OK || got.Problem != nil || got.Number != uint64(n) || got.Last != uint64(n) { //nolint:gosec // a small number
			t.Errorf("%d lines: %+v %+v", n, got, got.Problem)
		}
		if n > 0 && got.Hash != m.Head.Hash.String() {
			t.Errorf("%d lines: hash %s", n, got.Hash)
		}
		b.fill(50) // what came after the manifest was read
		if got := b.reader().verify(t.Context(), m, nil); !got.OK {
			t.Errorf("%d lines and 50 more: %+v", n, got.Problem)
		}
	}
}

func TestVerifyChecksCopies(t *testing.T) {
	b := newBook(t, 12<<10).fill(130)
	f := b.list[2]
	for _, i := range []int{0, 10, int(f.first) - 2} { //nolint:gosec // a small number
		for _, m := range mutations() {
			t.Run(fmt.Sprintf("%d/%s", i, m.name), func(t *testing.T) {
				if i == 0 && m.not == "first" || i == int(f.first)-2 && m.not == "last" { //nolint:gosec // a small number
					return
				}
				content := b.read(f.path)
				defer b.write(f.path, content)
				lines := bytes.SplitAfter(bytes.Clone(content), []byte("\n"))
				b.write(f.path, bytes.Join(m.mutate(t, lines, i), nil))
				want := &api.AuditProblem{File: filepath.Base(f.path), Line: m.line(i, 0), Number: uint64(i + 1), Kind: m.kind}
				checkProblem(t, b.reader().verify(t.Context(), b.manifest(), nil), want)
			})
		}
	}
	t.Run("rewritten together", func(t *testing.T) {
		content := b.read(f.path)
		defer b.write(f.path, content)
		lines := bytes.SplitAfter(bytes.Clone(content), []byte("\n"))
		lines = lines[:len(lines)-1]
		rewrite(t, lines, 20)
		b.write(f.path, bytes.Join(lines, nil))
		checkProblem(t, b.reader().verify(t.Context(), b.manifest(), nil),
			&api.AuditProblem{File: filepath.Base(f.path), Line: 21, Number: 21, Kind: api.AuditTouched})
	})
}

func TestVerifyOfFilesAsAWhole(t *testing.T) {
	type env struct {
		*book
		f        fileInfo // sealed
		active   fileInfo
		manifest Manifest
	}
	base := func(f fileInfo) string { return filepath.Base(f.path) }
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, e *env)
		want   func(e *env) *api.AuditProblem
	}{
		{"missing file", func(t *testing.T, e *env) {
			if err := os.Remove(e.f.path); err != nil {
				t.Fatal(err)
			}
		}, func(e *env) *api.AuditProblem {
			return &api.AuditProblem{File: base(e.f), Number: e.f.first, Kind: api.AuditMissing}
		}},
		{"a touched line counts for more than a missing file", func(t *testing.T, e *env) {
			if err := os.Remove(e.f.path); err != nil {
				t.Fatal(err)
			}
			e.write(e.active.path, bytes.Replace(e.read(e.active.path), []byte(`"uid-128"`), []byte(`"uid-129"`), 1))
		}, func(e *env) *api.AuditProblem {
			return &api.AuditProblem{File: "events.log", Line: 128, Number: 128, Kind: api.AuditTouched}
		}},
		{"sealed file cut in a line", func(_ *testing.T, e *env) {
			c := e.read(e.f.path)
			e.write(e.f.path, c[:len(c)-100])
		}, func(e *env) *api.AuditProblem {
			last := e.manifest.Segments[1].Last
			return &api.AuditProblem{File: base(e.f), Line: int(last), Number: last, Kind: api.AuditRemoved} //nolint:gosec // a small number
		}},
		{"active file cut in a line", func(_ *testing.T, e *env) {
			c := e.read(e.active.path)
			e.write(e.active.path, c[:len(c)-100])
		}, func(*env) *api.AuditProblem {
			return &api.AuditProblem{File: "events.log", Line: 130, Number: 130, Kind: api.AuditRemoved}
		}},
		{"active file cut and its lines are being fetched", func(_ *testing.T, e *env) {
			e.write(e.active.path, bytes.Join(e.lines[:120], nil))
			e.st.Gap = &Gap{From: 121, To: 130}
		}, func(*env) *api.AuditProblem {
			return &api.AuditProblem{File: "events.log", Number: 121, Kind: api.AuditMissing}
		}},
		{"line feed missing", func(_ *testing.T, e *env) {
			c := e.read(e.active.path)
			e.write(e.active.path, c[:len(c)-1])
		}, func(*env) *api.AuditProblem {
			return &api.AuditProblem{File: "events.log", Line: 130, Number: 130, Kind: api.AuditTouched}
		}},
		{"garbage at the end of a sealed file", func(_ *testing.T, e *env) {
			e.write(e.f.path, append(e.read(e.f.path), "\x1b]garbage"...))
		}, func(e *env) *api.AuditProblem {
			last := e.manifest.Segments[1].Last
			return &api.AuditProblem{File: base(e.f), Line: int(last) + 1, Number: last + 1, Kind: api.AuditAdded} //nolint:gosec // a small number
		}},
		{"garbage at the end of the active file", func(_ *testing.T, e *env) {
			e.write(e.active.path, append(e.read(e.active.path), "garbage"...))
		}, func(*env) *api.AuditProblem {
			return &api.AuditProblem{File: "events.log", Line: 131, Number: 131, Kind: api.AuditAdded}
		}},
		{"forged lines at the end of the active file", func(t *testing.T, e *env) {
			one, h := forge(trailer(t, e.lines[129]).Hash, 131, "mallory")
			two, _ := forge(h, 132, "mallory")
			e.write(e.active.path, append(append(e.read(e.active.path), one...), two...))
		}, func(*env) *api.AuditProblem {
			return &api.AuditProblem{File: "events.log", Line: 131, Number: 131, Kind: api.AuditAdded}
		}},
		{"sealed file rewritten from a line on", func(t *testing.T, e *env) {
			lines := bytes.SplitAfter(e.read(e.f.path), []byte("\n"))
			lines = lines[:len(lines)-1]
			rewrite(t, lines, len(lines)-5)
			e.write(e.f.path, bytes.Join(lines, nil))
		}, func(e *env) *api.AuditProblem {
			at := e.manifest.Segments[1].Last - 4
			return &api.AuditProblem{File: base(e.f), Line: int(at), Number: at, Kind: api.AuditTouched} //nolint:gosec // a small number
		}},
		{"one line replaced together with its hash", func(t *testing.T, e *env) {
			lines := bytes.SplitAfter(e.read(e.f.path), []byte("\n"))
			i := len(lines) - 6
			lines[i], _ = forge(trailer(t, lines[i-1]).Hash, uint64(i)+1, "mallory") //nolint:gosec // a small number
			e.write(e.f.path, bytes.Join(lines, nil))
		}, func(e *env) *api.AuditProblem {
			at := e.manifest.Segments[1].Last - 4
			return &api.AuditProblem{File: base(e.f), Line: int(at), Number: at, Kind: api.AuditTouched} //nolint:gosec // a small number
		}},
		{"active file rewritten from a line on", func(t *testing.T, e *env) {
			lines := bytes.SplitAfter(e.read(e.active.path), []byte("\n"))
			lines = lines[:len(lines)-1]
			rewrite(t, lines, len(lines)-3)
			e.write(e.active.path, bytes.Join(lines, nil))
		}, func(*env) *api.AuditProblem {
			return &api.AuditProblem{File: "events.log", Line: 130, Number: 130, Kind: api.AuditTouched}
		}},
		{"a file of somebody else's among them", func(_ *testing.T, e *env) {
			path := filepath.Join(e.dir, "events-00000000000000000060.log")
			e.write(path, nil)
			e.list = append(e.list[:2:2], append([]fileInfo{{path: path, first: e.f.first + 3}}, e.list[2:]...)...)
		}, func(e *env) *api.AuditProblem {
			return &api.AuditProblem{File: "events-00000000000000000060.log", Number: e.f.first + 3, Kind: api.AuditAdded}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBook(t, 12<<10).fill(130)
			e := &env{book: b, f: b.list[1], active: b.list[len(b.list)-1], manifest: b.manifest()}
			tt.change(t, e)
			checkProblem(t, b.reader().verify(t.Context(), e.manifest, nil), tt.want(e))
		})
	}
}

func TestVerifyKnowsFloorAndRetention(t *testing.T) {
	b := newBook(t, 12<<10).fill(130)
	m := b.manifest()
	gone := b.list[0]
	if err := os.Remove(gone.path); err != nil {
		t.Fatal(err)
	}
	b.list = b.list[1:]
	r := b.reader()
	later := m
	later.Segments = m.Segments[1:]
	r.current = func() (Manifest, error) { return later, nil }
	if got := r.verify(t.Context(), m, nil); !got.OK { // removed after the manifest was read
		t.Errorf("retention under the walk: %+v", got.Problem)
	}
	if got := r.verify(t.Context(), later, nil); !got.OK || got.First != later.Segments[0].First {
		t.Errorf("after retention: %+v %+v", got, got.Problem)
	}
	// After a loss the file begins at the floor, without copies.
	s := m.Segments[1]
	at := s.First + 3
	m.Floor = Floor{First: at, Prev: trailer(t, b.lines[at-2]).Hash}
	b.write(b.list[0].path, bytes.Join(b.lines[at-1:s.Last], nil))
	b.list[0].first = at
	for _, f := range b.list[1:] {
		c := b.read(f.path)
		b.write(f.path, c[bytes.Index(c, b.lines[at-1]):])
	}
	if got := b.reader().verify(t.Context(), m, nil); !got.OK || got.First != at {
		t.Errorf("after a loss: %+v %+v", got, got.Problem)
	}
}

func TestVerifySaysHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t, 1<<20).fill(2000)
		r := b.reader()
		calls := 0
		r.clock = func() time.Time { calls++; return bookStart.Add(time.Duration(calls) * 100 * time.Millisecond) }
		var told []uint64
		got := r.verify(t.Context(), b.manifest(), func(v api.AuditVerified) {
			if v.Done || v.Last != 2000 {
				t.Errorf("progress %+v", v)
			}
			told = append(told, v.Number)
		})
		if !got.OK || !cmp.Equal(told, []uint64{768, 1536}) {
			t.Errorf("told %v, then %+v", told, got)
		}
	})
}
