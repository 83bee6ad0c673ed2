package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// records is the replicated store as Extend sees it.
type records map[string][]byte

func (r records) get(key string) []byte { return r[key] }

func (r records) apply(changes []Change) {
	for _, c := range changes {
		r[c.Key] = c.Value
	}
}

var bookStart = time.Date(2030, 1, 2, 3, 0, 0, 0, time.UTC)

// book is a journal's files, as docs/adr/050 describes them, without a Journal.
type book struct {
	t     testing.TB
	dir   string
	store records
	index uint64
	now   time.Time

	mu      sync.Mutex
	list    []fileInfo
	lines   [][]byte // all, with line feeds
	st      JournalState
	changes chan struct{}
}

func newBook(t testing.TB, segmentBytes int64) *book {
	b := &book{t: t, dir: t.TempDir(), store: records{}, now: bookStart, changes: make(chan struct{})}
	b.store[KeyLimits] = encode(Limits{SegmentBytes: segmentBytes})
	b.list = []fileInfo{{path: filepath.Join(b.dir, "events.log"), first: 1, active: true}}
	b.st = JournalState{First: 1}
	b.write(b.list[0].path, nil)
	return b
}

func (b *book) reader() reader {
	return reader{
		files: func() []fileInfo { b.mu.Lock(); defer b.mu.Unlock(); return slices.Clone(b.list) },
		state: func() JournalState { b.mu.Lock(); defer b.mu.Unlock(); return b.st },
		changed: func() <-chan struct{} {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.changes
		},
		clock: time.Now, spans: &spanCache{},
	}
}

// add is an entry with these events.
func (b *book) add(events ...[]byte) {
	b.t.Helper()
	b.index++
	b.now = b.now.Add(time.Second)
	changes, add, err := Extend(Entry{Index: b.index, Time: b.now, Batches: []Batch{{Origin: "n1", Events: events}}}, b.store.get)
	if err != nil {
		b.t.Fatal(err)
	}
	b.store.apply(changes)
	b.mu.Lock()
	defer b.mu.Unlock()
	active := &b.list[len(b.list)-1]
	if s := add.Sealed; s != nil {
		sealed := filepath.Join(b.dir, fmt.Sprintf("events-%020d.log", s.First))
		if err := os.Rename(active.path, sealed); err != nil {
			b.t.Fatal(err)
		}
		next := fileInfo{path: active.path, first: add.First, active: true}
		active.path, active.active = sealed, false
		b.list = append(b.list, next)
		b.write(next.path, bytes.Join(b.lines[max(0, len(b.lines)-copiedLines):], nil))
	}
	file, err := os.OpenFile(b.list[len(b.list)-1].path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := file.Write(add.Lines); err != nil {
		b.t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		b.t.Fatal(err)
	}
	for line := range bytes.Lines(add.Lines) {
		b.lines = append(b.lines, line)
	}
	b.st.Last = add.Head.Number
	close(b.changes)
	b.changes = make(chan struct{})
}

// fill adds n events, seven to an entry.
func (b *book) fill(n int) *book {
	b.t.Helper()
	for i := 0; i < n; {
		var events [][]byte
		for ; i < n && len(events) < 7; i++ {
			events = append(events, requestEvent(b.t, len(b.lines)+len(events)+1))
		}
		b.add(events...)
	}
	return b
}

// requestEvent is one like those of requests; every tenth is another user's.
func requestEvent(t testing.TB, n int) []byte {
	t.Helper()
	user := "alice"
	if n%10 == 0 {
		user = "bob@example.com"
	}
	line, err := Encode(api.Event{
		Event: api.EventKubeRequest, Code: api.EventCodeKubeRequest, Time: bookStart.Add(time.Duration(n) * time.Second), UID: fmt.Sprintf("uid-%d", n),
		ClusterName: "example.com", User: user,
		Fields: map[string]any{"kubernetes_cluster": fmt.Sprintf("cookie-%d", n%3), "request_path": fmt.Sprintf("/api/v1/namespaces/default/pods/p%d", n), "verb": "GET", "response_code": 200},
	})
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func (b *book) manifest() Manifest {
	b.t.Helper()
	m := Manifest{Head: Head{First: 1}}
	if err := load(b.store.get, KeyHead, &m.Head); err != nil {
		b.t.Fatal(err)
	}
	for key, value := range b.store {
		if strings.HasPrefix(key, KeySegments) {
			var s Segment
			if err := json.Unmarshal(value, &s); err != nil {
				b.t.Fatal(err)
			}
			m.Segments = append(m.Segments, s)
		}
	}
	slices.SortFunc(m.Segments, func(a, c Segment) int { return int(a.First) - int(c.First) }) //nolint:gosec // small numbers
	return m
}

func (b *book) write(path string, content []byte) {
	b.t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *book) read(path string) []byte {
	b.t.Helper()
	content, err := os.ReadFile(path) //nolint:gosec // the test's own
	if err != nil {
		b.t.Fatal(err)
	}
	return content
}
