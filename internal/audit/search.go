package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

const (
	// A search looks at no more than this at a time: it must neither occupy the
	// replica nor time out. Whoever wants more asks again, from where it ended.
	searchBytes = 64 << 20
	searchTime  = 2 * time.Second

	maxWait    = 20 * time.Second
	maxPattern = 1024 // bytes of a pattern or regular expression
	maxTypes   = 64
	// maxAnswer is bytes of lines in a page, beside the first: who does not read what
	// they asked for must not hold much.
	maxAnswer = 1 << 20
	// maxMissing bounds how many holes a page tells of.
	maxMissing = 64
	// lookAfter is how much work a search does before it looks at the clock again, in
	// steps for bytes of lines: some 50 ms.
	lookAfter = 4 << 20
)

// Turn waits until a search may look at the disk; end is called when it has. Not while
// it waits for news.
type Turn func(context.Context) (end func(), err error)

// Search looks for lines, as api.AuditQuery and api.AuditPage say. A line that
// was harmed is found if it is still JSON and matches; it never ends a search.
func (j *Journal) Search(ctx context.Context, q api.AuditQuery) (*api.AuditPage, error) {
	return j.SearchInTurn(ctx, q, func(context.Context) (func(), error) { return func() {}, nil })
}

// SearchInTurn is Search for one of many at a time. Who has waited for news and then
// gets no turn has waited in vain: that is an answer, not an error.
func (j *Journal) SearchInTurn(ctx context.Context, q api.AuditQuery, turn Turn) (*api.AuditPage, error) {
	return j.reader().search(ctx, q, turn)
}

func checkQuery(q api.AuditQuery) error {
	for name, v := range map[string]string{"user": q.User, "cluster": q.Cluster, "grep": q.Grep} {
		if len(v) > maxPattern {
			return api.Errorf(api.CodeInvalid, "%s is too long: at most %d bytes are allowed", name, maxPattern)
		}
	}
	for _, t := range q.Types {
		if len(t) > maxPattern {
			return api.Errorf(api.CodeInvalid, "type is too long: at most %d bytes are allowed", maxPattern)
		}
	}
	switch {
	case len(q.Types) > maxTypes:
		return api.Errorf(api.CodeInvalid, "%d types, at most %d are allowed: use a pattern such as user.*", len(q.Types), maxTypes)
	case !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until):
		return api.Errorf(api.CodeInvalid, "nothing can be found: since (%s) is not before until (%s)", q.Since.Format(time.RFC3339), q.Until.Format(time.RFC3339))
	case q.Limit < 0 || q.Limit > api.MaxAuditEvents:
		return api.Errorf(api.CodeInvalid, "limit is %d: use 1 to %d", q.Limit, api.MaxAuditEvents)
	case q.Wait < 0 || time.Duration(q.Wait) > maxWait:
		return api.Errorf(api.CodeInvalid, "wait is %s: use at most %s", time.Duration(q.Wait), maxWait)
	case q.Newest && q.After > 0:
		return api.Errorf(api.CodeInvalid, "after does not go with newest: use before")
	case !q.Newest && q.Before > 0:
		return api.Errorf(api.CodeInvalid, "before goes with newest only: use after")
	case q.Newest && q.Wait > 0:
		return api.Errorf(api.CodeInvalid, "wait does not go with newest: new lines come after all others")
	}
	return nil
}

func (r reader) search(ctx context.Context, q api.AuditQuery, turn Turn) (*api.AuditPage, error) {
	m, err := newMatcher(q)
	if err != nil {
		return nil, err
	}
	if q.Limit == 0 {
		q.Limit = api.DefaultAuditEvents
	}
	var late <-chan time.Time
	if q.Wait > 0 {
		t := time.NewTimer(time.Duration(q.Wait))
		defer t.Stop()
		late = t.C
	}
	var last *api.AuditPage
	for {
		changed := r.changed() // before looking: or what comes in between would be missed
		end, err := turn(ctx)
		if err != nil {
			if last != nil && ctx.Err() == nil {
				return last, nil
			}
			return nil, err
		}
		page, err := r.once(ctx, m, q)
		end()
		if err != nil {
			return nil, fmt.Errorf("search the audit log: %w", err)
		}
		if last != nil { // what comes behind was looked for again
			passed := slices.DeleteFunc(last.Missing, func(m api.AuditRange) bool { return m.To > q.After })
			page.Missing = append(passed, page.Missing...)
		}
		if q.Wait == 0 || len(page.Events) > 0 || !page.Done {
			return page, nil
		}
		last, q.After = page, page.Next
		select {
		case <-changed:
		case <-late:
			return page, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// once looks at the log until a page is full, the budget is spent, or there is no
// more.
func (r reader) once(ctx context.Context, m *matcher, q api.AuditQuery) (*api.AuditPage, error) {
	state := r.state()
	page := &api.AuditPage{Events: []json.RawMessage{}, Next: q.After, First: state.First, Last: state.Last}
	if q.Newest {
		page.Next = q.Before
	}
	holes := r.holes(q, state)
	var skip skipper
	run := spanRun{cache: r.spans, segment: math.MaxUint64}
	if m.timed() {
		skip = func(first, last uint64) bool {
			low, high, ok := r.spans.get(first, last)
			if !ok || m.overlaps(low, high) {
				return false
			}
			if page.Next = last; q.Newest {
				page.Next = first
			}
			holes.known(first, last)
			return true
		}
	}
	lines := r.forward(min(q.After, math.MaxUint64-1)+1, skip)
	if q.Newest {
		lines = r.backward(q.Before, skip)
	}
	deadline := r.clock().Add(searchTime)
	looked, given, work := 0, 0, 0
	full := false
	for line, err := range lines {
		if gap := (*gapError)(nil); asGap(err, &gap) {
			continue // what can be found is better than nothing, and the page tells of the gap
		}
		if err != nil {
			return nil, err
		}
		if full {
			run.end()
			page.Missing = holes.found
			return page, nil
		}
		holes.line(line)
		page.Next, page.Last = line.Number, max(page.Last, line.Number) // it may have come meanwhile
		looked += len(line.Text) + 1
		work += len(line.Text) + 1
		may := m.mayMatch(line.Text)
		var head fields
		if may || m.timed() && line.sealed {
			head = m.head(line.Text)
		}
		if m.timed() && line.sealed {
			run.note(line, head)
		}
		if may {
			work += m.steps * len(line.Text)
			if m.match(line.Text, head) {
				page.Events = append(page.Events, json.RawMessage(bytes.Clone(line.Text)))
				given += len(line.Text)
			}
		}
		full = len(page.Events) >= q.Limit || given >= maxAnswer || looked >= searchBytes
		if work >= lookAfter && !full {
			work = 0
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			full = !r.clock().Before(deadline)
		}
	}
	run.end()
	page.Done = true
	page.Missing = holes.end()
	return page, nil
}

// holes are lines that a search should have come by, and did not.
type holes struct {
	newest     bool
	next, last uint64 // the one to come by next, and the last one of all
	stray      uint64 // lines that were harmed and don't say which they are: each stands for one
	found      []api.AuditRange
}

// holes of a search: this replica may lack files, and what comes behind a gap.
func (r reader) holes(q api.AuditQuery, state JournalState) *holes {
	first, last := max(state.First, 1), state.Last
	if r.current != nil {
		if m, err := r.current(); err == nil {
			first = max(m.First(), 1)
			if state.Gap != nil {
				last = max(last, m.Head.Number)
			}
		}
	}
	if !q.Newest {
		return &holes{next: max(first, min(q.After, math.MaxUint64-1)+1), last: last}
	}
	if q.Before > 0 {
		last = min(last, q.Before-1)
	}
	return &holes{newest: true, next: last, last: first}
}

func (h *holes) line(l Line) {
	if l.Hash == (chain.Hash{}) {
		h.stray++
		return
	}
	h.known(l.Number, l.Number)
}

// known takes lines that were come by, in the order of the search. Newest first there
// may be some that came meanwhile.
func (h *holes) known(first, last uint64) {
	switch {
	case h.newest && first <= h.next:
		h.miss(last+1, h.next)
		h.next = first - 1
	case !h.newest && last >= h.next:
		h.miss(h.next, first-1)
		h.next = last + 1
	}
}

func (h *holes) miss(from, to uint64) {
	if from <= to && to-from+1 > h.stray && len(h.found) < maxMissing {
		h.found = append(h.found, api.AuditRange{From: from, To: to})
	}
	h.stray = 0
}

// end is called when the search has come to the end of the log.
func (h *holes) end() []api.AuditRange {
	if h.newest {
		h.miss(h.last, h.next)
	} else {
		h.miss(h.next, h.last)
	}
	return h.found
}

func asGap(err error, to **gapError) bool {
	e, ok := err.(*gapError) //nolint:errorlint // it comes from forward, as it is
	*to = e
	return ok
}

// spanCache remembers between which times the events of lines that can't change any
// more lie: by the time of an event nothing can be found otherwise, because events
// may reach the cluster long after they happened.
type spanCache struct {
	mu    sync.Mutex
	spans map[uint64]span // by the first number of their segment
}

// span is a run of lines of one segment.
type span struct {
	first, last uint64
	low, high   time.Time // of those that have a time; zero: none has
}

// maxSpans bounds the memory: 64 GiB of segments.
const maxSpans = 1024

// get says what is known of lines, all of which must be known.
func (c *spanCache) get(first, last uint64) (low, high time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.first <= first && last <= s.last {
			return s.low, s.high, true
		}
	}
	return low, high, false
}

func (c *spanCache) add(segment uint64, s span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spans == nil || len(c.spans) >= maxSpans {
		c.spans = map[uint64]span{}
	}
	old, ok := c.spans[segment]
	switch {
	case ok && s.first <= old.last+1 && old.first <= s.last+1: // together they are one run
		old.first, old.last = min(old.first, s.first), max(old.last, s.last)
		old.take(s.low)
		old.take(s.high)
		c.spans[segment] = old
	case !ok || s.last-s.first > old.last-old.first:
		c.spans[segment] = s
	}
}

func (s *span) take(t time.Time) {
	if t.IsZero() {
		return
	}
	if s.low.IsZero() || t.Before(s.low) {
		s.low = t
	}
	if s.high.IsZero() || t.After(s.high) {
		s.high = t
	}
}

// spanRun gathers what one search sees.
type spanRun struct {
	cache   *spanCache
	segment uint64
	span    span
}

func (r *spanRun) note(line Line, head fields) {
	if line.segment != r.segment {
		r.end()
		r.segment, r.span = line.segment, span{first: line.Number, last: line.Number}
	}
	r.span.first, r.span.last = min(r.span.first, line.Number), max(r.span.last, line.Number)
	r.span.take(head.time)
}

func (r *spanRun) end() {
	if r.segment != math.MaxUint64 {
		r.cache.add(r.segment, r.span)
		r.segment = math.MaxUint64
	}
}
