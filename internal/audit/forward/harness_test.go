package forward

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// journal is a Source.
type journal struct {
	mu      sync.Mutex
	first   uint64
	lines   []string // the first has number 1
	changed chan struct{}
}

func newJournal() *journal { return &journal{first: 1, changed: make(chan struct{})} }

// add adds events; fields is more JSON for each, "" for none.
func (j *journal) add(n int, event, code, fields string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for range n {
		j.lines = append(j.lines, fmt.Sprintf(`{"event":%q,"code":%q,"time":"2026-11-23T10:00:00Z"%s,"number":%d,"hash":"00"}`, event, code, fields, len(j.lines)+1))
	}
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *journal) logins(n int) { j.add(n, "user.login", "T1000I", "") }

func (j *journal) Lines(from uint64) iter.Seq2[audit.Line, error] {
	return func(yield func(audit.Line, error) bool) {
		j.mu.Lock()
		lines, first := j.lines, j.first
		j.mu.Unlock()
		buf := []byte(nil)
		for n := max(from, first); n <= uint64(len(lines)); n++ {
			buf = append(buf[:0], lines[n-1]...) // valid until the next
			if !yield(audit.Line{Number: n, Text: buf}, nil) {
				return
			}
		}
	}
}

func (j *journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

func (j *journal) bounds() (first, last uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first, uint64(len(j.lines))
}

// dropTo lets retention take what is before a line.
func (j *journal) dropTo(first uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.first = first
}

// keeper is Cursors and the list of forwarders.
type keeper struct {
	mu      sync.Mutex
	docs    map[string]api.AuditForwarder
	cursors map[string]api.ForwarderCursor
	skips   []api.ForwarderSkip
	writes  []time.Time
	down    bool
	mute    bool // takes no events
	changed chan struct{}
	rev     uint64
	journal *journal // gets an event for each skip
}

func newKeeper() *keeper {
	return &keeper{docs: map[string]api.AuditForwarder{}, cursors: map[string]api.ForwarderCursor{}, changed: make(chan struct{})}
}

func (k *keeper) notify() {
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *keeper) put(doc api.AuditForwarder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := doc.Metadata.Name
	k.rev++
	doc.Metadata.Revision = k.rev
	if _, ok := k.docs[name]; !ok {
		k.cursors[name] = api.ForwarderCursor{Life: fmt.Sprint(k.rev)}
	}
	c := k.cursors[name]
	c.Revision = k.rev
	k.docs[name], k.cursors[name] = doc, c
	k.notify()
}

func (k *keeper) remove(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.docs, name)
	delete(k.cursors, name)
	k.notify()
}

func (k *keeper) list() ([]api.AuditForwarder, <-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.docs)), k.changed, nil
}

func (k *keeper) Load(name string) (api.ForwarderCursor, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.cursors[name]
	if !ok {
		return c, api.Errorf(api.CodeNotFound, "gone")
	}
	return c, nil
}

func (k *keeper) Save(_ context.Context, name string, c api.ForwarderCursor) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	was, ok := k.cursors[name]
	switch {
	case k.down:
		return api.Errorf(api.CodeUnavailable, "no leader")
	case !ok || was.Life != c.Life:
		return api.Errorf(api.CodeNotFound, "gone")
	case was.Number > c.Number:
		return api.Errorf(api.CodeConflict, "further")
	}
	c.Revision = was.Revision
	k.cursors[name] = c
	k.writes = append(k.writes, time.Now())
	return nil
}

func (k *keeper) Skip(ctx context.Context, name string, c api.ForwarderCursor, s api.ForwarderSkip) error {
	k.mu.Lock()
	mute := k.mute
	k.mu.Unlock()
	if mute {
		return api.Errorf(api.CodeUnavailable, "no leader")
	}
	if err := k.Save(ctx, name, c); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.skips = append(k.skips, s)
	if !s.Quiet && k.journal != nil {
		k.journal.add(1, api.EventForwardSkipped, api.EventCodeForwardSkipped, fmt.Sprintf(`,"from":%d`, s.From))
	}
	return nil
}

func (k *keeper) at(name string) api.ForwarderCursor {
	c, _ := k.Load(name)
	return c
}

func (k *keeper) told() []api.ForwarderSkip {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.skips)
}

func (k *keeper) setMute(mute bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mute = mute
}

func (k *keeper) setDown(down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = down
}

// receiverFunc is a receiver without a network.
type receiverFunc func(*http.Request) (*http.Response, error)

// RoundTrip reads the rest of the body, as a real receiver does.
func (f receiverFunc) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := f(r)
	_, _ = io.Copy(io.Discard, r.Body)
	return resp, err
}

func respond(status int, body string, header ...string) (*http.Response, error) {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// inbox takes what a webhook gets.
type inbox struct {
	mu      sync.Mutex
	numbers []uint64
	batches [][]uint64
	asked   []*http.Request
	at      []time.Time
}

// numbersOf reads a webhook's body.
func numbersOf(t testing.TB, r *http.Request) (numbers []uint64) {
	body, err := io.ReadAll(r.Body)
	var lines []struct {
		Number uint64 `json:"number"`
	}
	if err := json.Unmarshal(body, &lines); err != nil {
		t.Error(err)
	}
	for _, l := range lines {
		numbers = append(numbers, l.Number)
	}
	if err != nil || len(numbers) == 0 || len(numbers) > batchEvents || len(body) > batchBytes+2 {
		t.Errorf("%d lines, %d bytes: %v", len(numbers), len(body), err)
	}
	return numbers
}

// ask notes a request, take that its lines were taken.
func (b *inbox) ask(r *http.Request) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked, b.at = append(b.asked, r), append(b.at, time.Now())
	return len(b.asked)
}

func (b *inbox) take(numbers []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.numbers = append(b.numbers, numbers...)
	b.batches = append(b.batches, numbers)
}

func (b *inbox) taken() []uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.numbers)
}

// upTo is the numbers from 1 on.
func upTo(from, to uint64) (out []uint64) {
	for n := from; n <= to; n++ {
		out = append(out, n)
	}
	return out
}

// world is what one test has.
type world struct {
	journal *journal
	keeper  *keeper
	logged  *bytes.Buffer
}

func newWorld() *world {
	return &world{journal: newJournal(), keeper: newKeeper(), logged: &bytes.Buffer{}}
}

// lead makes a replica the leader, until stop is called.
func (w *world) lead(t testing.TB, receive receiverFunc) (stop func()) {
	t.Helper()
	f, err := New(Options{
		Source: w.journal, Cursors: w.keeper, List: w.keeper.list,
		First: func() uint64 { first, _ := w.journal.bounds(); return first },
		Last:  func() uint64 { _, last := w.journal.bounds(); return last },
		HTTP:  &http.Client{Transport: receive}, Rand: func() float64 { return 0.5 },
		Logger: slog.New(slog.NewTextHandler(w.logged, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, f)
}

// start runs them until stop is called.
func start(t testing.TB, f *Forwarders) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	return func() {
		t.Helper()
		began := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > lastSave {
			t.Errorf("the duty ended after %s", took)
		}
	}
}

// after lets so much time pass.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func webhookDoc(edit ...func(*api.AuditForwarder)) api.AuditForwarder {
	doc := api.AuditForwarder{
		Header: api.Header{Kind: api.KindAuditForwarder, Version: "v1", Metadata: api.Metadata{Name: "siem"}},
		Spec:   api.AuditForwarderSpec{Type: api.ForwardWebhook, Endpoint: "https://siem.example.com/events", BearerToken: "tok-12345"},
	}
	for _, fn := range edit {
		fn(&doc)
	}
	return doc
}
