package audit

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// history is what Raft would give to journals, and give again from any entry on.
type history struct {
	store map[string][]byte
	adds  []*Addition
	heads []Manifest // after each
	index uint64
	now   time.Time
}

func newHistory(segmentBytes int64) *history {
	h := &history{store: make(map[string][]byte), now: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)}
	if segmentBytes > 0 {
		h.store[KeyLimits] = encode(Limits{SegmentBytes: segmentBytes})
	}
	return h
}

// grown is a history with so many lines.
func grown(segmentBytes int64, lines int) *history {
	h := newHistory(segmentBytes)
	h.grow(lines)
	return h
}

// entry applies one entry of some events.
func (h *history) entry(events ...string) *Addition {
	h.index++
	b := Batch{Origin: "a"}
	for _, e := range events {
		b.Events = append(b.Events, []byte(e))
	}
	changes, add, err := Extend(Entry{Index: h.index, Time: h.now, Batches: []Batch{b}}, func(k string) []byte { return h.store[k] })
	if err != nil {
		panic(err)
	}
	for _, c := range changes {
		h.store[c.Key] = c.Value
	}
	h.adds = append(h.adds, add)
	m, _ := h.manifest()
	h.heads = append(h.heads, m)
	return add
}

// large is events of so many bytes together.
func large(size int) []string {
	return slices.Repeat([]string{`{"event":"` + strings.Repeat("x", 32<<10) + `"}`}, size/(32<<10))
}

// grow adds entries of a few events each until there are so many lines.
func (h *history) grow(lines int) {
	for n := 0; n < lines; {
		count := min(1+int(h.index%5), lines-n)
		events := make([]string, count)
		for i := range events {
			events[i] = fmt.Sprintf(`{"event":"e%d.%d","pad":"%s"}`, h.index, i, strings.Repeat("x", int(h.index%97)))
		}
		h.entry(events...)
		n += count
	}
}

func (h *history) manifest() (Manifest, error) {
	m := Manifest{Head: Head{First: 1}}
	for key, v := range h.store {
		var err error
		switch {
		case key == KeyHead:
			err = json.Unmarshal(v, &m.Head)
		case key == KeyFloor:
			err = json.Unmarshal(v, &m.Floor)
		case strings.HasPrefix(key, KeySegments):
			var s Segment
			err = json.Unmarshal(v, &s)
			m.Segments = append(m.Segments, s)
		}
		if err != nil {
			return m, err
		}
	}
	slices.SortFunc(m.Segments, func(a, b Segment) int { return int(a.First) - int(b.First) })
	return m, nil
}

func (h *history) head() Head { m, _ := h.manifest(); return m.Head }

// text is all lines.
func (h *history) text() string {
	var b strings.Builder
	for _, a := range h.adds {
		b.Write(a.Lines)
	}
	return b.String()
}

func (h *history) line(number uint64) (string, chain.Trailer) {
	lines := strings.SplitAfter(h.text(), "\n")
	line := lines[number-1]
	t, ok := chain.ParseTrailer([]byte(strings.TrimSuffix(line, "\n")))
	if !ok || t.Number != number {
		panic(line)
	}
	return line, t
}

func (h *history) open(t testing.TB, dir string) *Journal {
	t.Helper()
	return h.openOn(t, dir, hasty{})
}

// hasty are files that no fsync waits for: no test pulls the plug.
type hasty struct{ osFiles }

type hastyFile struct{ logFile }

func (hasty) Open(path string, flag int) (logFile, error) {
	f, err := osFiles{}.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return hastyFile{f}, nil
}

func (hasty) SyncDir(string) error { return nil }
func (hastyFile) Sync() error      { return nil }

func (h *history) openOn(t testing.TB, dir string, files fileSystem) *Journal {
	t.Helper()
	j, err := openJournal(dir, JournalOptions{Logger: quiet, Manifest: h.manifest}, files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func (h *history) give(t testing.TB, j *Journal, from int) {
	t.Helper()
	for _, add := range h.adds[from:] {
		if err := j.Write(add); err != nil {
			t.Fatal(err)
		}
	}
}

// reference is the folder of a replica to which nothing happened.
func (h *history) reference(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	j := h.open(t, dir)
	h.give(t, j, 0)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// folder is the files of a folder.
func folder(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		if e.Name() == fetchName || e.IsDir() {
			continue // what a try has left, which the next one clears; what was before a floor
		}
		out[e.Name()] = content(t, filepath.Join(dir, e.Name()))
	}
	return out
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantFolder compares names and, without printing megabytes, contents.
func wantFolder(t testing.TB, got, want map[string]string) {
	t.Helper()
	brief := func(m map[string]string) map[string]string {
		out := make(map[string]string)
		for name, text := range m {
			first, _ := chain.ParseTrailer([]byte(text[:max(0, strings.IndexByte(text, '\n'))]))
			last, _ := lastTrailer([]byte(text))
			out[name] = fmt.Sprintf("%d bytes, %d to %d, %s", len(text), first.Number, last.Number, chain.Link(chain.Hash{}, []byte(text)))
		}
		return out
	}
	if diff := cmp.Diff(brief(want), brief(got)); diff != "" {
		t.Fatal(diff)
	}
}

func wantState(t *testing.T, j *Journal, first, last uint64) {
	t.Helper()
	s := j.State()
	if s.First != first || s.Last != last || s.Gap != nil || s.Err != nil || s.PendingBytes != 0 {
		t.Errorf("state %+v, want %d to %d and no gap", s, first, last)
	}
}
