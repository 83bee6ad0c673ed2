package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// auditLister reads the pages of a search.
type auditLister struct {
	ask    func(context.Context, api.AuditQuery) (*api.AuditPage, error)
	query  api.AuditQuery
	limit  int // 0: all
	print  func(json.RawMessage) error
	ticker *ticker
	note   func(format string, args ...any)
	shown  int
	lacks  []api.AuditRange // lines that were passed over: the replica lacks them
}

func (l *auditLister) show(events []json.RawMessage) error {
	if len(events) > 0 {
		l.ticker.clear()
	}
	for _, ev := range events {
		if err := l.print(ev); err != nil {
			return fmt.Errorf("write an event: %w", err)
		}
		l.shown++
	}
	return nil
}

// newest shows the last events that match, oldest first. It returns the number of
// the line after which a follower goes on, and whether there may be more.
func (l *auditLister) newest(ctx context.Context) (end uint64, more bool, err error) {
	// Where the log ends is asked before: what comes during the search is not found by
	// it, and must not be passed over by who follows.
	last, err := l.ask(ctx, api.AuditQuery{Newest: true, Limit: 1})
	if err != nil {
		return 0, false, err
	}
	l.passed(last.Missing...)
	if len(last.Events) == 0 {
		return 0, false, nil
	}
	end = last.Next
	q := l.query
	q.Newest, q.Before = true, end+1
	var events []json.RawMessage
	for {
		q.Limit = min(l.limit-len(events), api.MaxAuditEvents)
		page, err := l.ask(ctx, q)
		if err != nil {
			return 0, false, err
		}
		l.passed(page.Missing...)
		events = append(events, page.Events...)
		if more = !page.Done; page.Done || len(events) >= l.limit {
			break
		}
		if page.Next == 0 || page.Next >= q.Before {
			return 0, false, errNoAdvance
		}
		q.Before = page.Next
		l.ticker.show("%s of %s lines searched, %d found", thousands(end+1-page.Next), thousands(end+1-min(page.First, end)), len(events))
	}
	events = events[:min(len(events), l.limit)]
	slices.Reverse(events)
	return end, more, l.show(events)
}

// oldest is newest for the first events that match, or for all of them.
func (l *auditLister) oldest(ctx context.Context) (after uint64, more bool, err error) {
	q := l.query
	var end uint64 // the last line when we came: others write on
	for first := true; ; first = false {
		q.Limit = api.MaxAuditEvents
		if l.limit > 0 {
			q.Limit = min(l.limit-l.shown, api.MaxAuditEvents)
		}
		page, err := l.ask(ctx, q)
		if err != nil {
			return 0, false, err
		}
		if first {
			end = page.Last
		}
		l.passed(page.Missing...)
		if err := l.show(page.Events); err != nil {
			return 0, false, err
		}
		switch full := l.limit > 0 && l.shown >= l.limit; {
		case page.Done, full, page.Next >= end:
			return max(page.Next, q.After), full && !page.Done, nil
		case page.Next <= q.After:
			return 0, false, errNoAdvance
		}
		q.After = page.Next
		l.ticker.show("%s of %s lines searched, %d found", thousands(page.Next+1-min(page.First, page.Next)), thousands(end+1-min(page.First, end)), l.shown)
	}
}

// passed notes the lines that a search passed over.
func (l *auditLister) passed(missing ...api.AuditRange) { l.lacks = append(l.lacks, missing...) }

// lacking is an error if the list may lack events: who looks for one must not take
// silence for an answer.
func (l *auditLister) lacking() error {
	if len(l.lacks) == 0 {
		return nil
	}
	return fmt.Errorf("this is not all: the replica lacks %s of the log, or can't read them. If it is fetching them ('tctl status'), try again later; or ask another replica", api.FormatLines(l.lacks))
}

var errNoAdvance = api.Errorf(api.CodeInternal, "the replica's search does not get on: is it of another version?")

const (
	followWait  = 20 * time.Second
	followFirst = 200 * time.Millisecond // before the first try to reach a replica again
	followMost  = 5 * time.Second
)

// follow shows events as they come until the context ends. Replicas may go meanwhile:
// a line has one number on all of them, so another one goes on where this one was.
func (l *auditLister) follow(ctx context.Context, after uint64) error {
	q := l.query
	q.Limit = api.MaxAuditEvents
	pause, behind := time.Duration(0), false
	for ctx.Err() == nil { // Ctrl-C is how this ends
		q.After, q.Wait = after, api.Duration(followWait)
		if pause > 0 {
			q.Wait = 0 // to know soon whether it is there again
		}
		page, err := l.ask(ctx, q)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil //nolint:nilerr // it is the end
		case err != nil && !passes(err):
			return err
		case err != nil:
			if pause == 0 {
				l.note("The replica can't be asked (%s); trying again until it can, or Ctrl-C.", err)
			}
			pause = min(max(2*pause, followFirst), followMost)
			if !sleep(ctx, pause) {
				return nil
			}
			continue
		case pause > 0:
			l.note("Going on.")
			pause = 0
		}
		if page.First > after+1 && page.Last > 0 {
			l.note("Lines %d to %d are not kept any more.", after+1, page.First-1)
		}
		if page.Last < after && !behind {
			l.note("This replica has lines up to %d only, and %d was here already: waiting for it.", page.Last, after)
		}
		behind = page.Last < after
		l.passOver(page, after)
		if err := l.show(newer(page, after)); err != nil {
			return err
		}
		if page.Next < after || page.Next == after && len(page.Events) > 0 { // it would answer at once, again and again
			if !sleep(ctx, followMost) {
				return nil
			}
		}
		after = max(after, page.Next, page.First-min(page.First, 1))
	}
	return nil
}

// newer are the events of a page that were not shown yet. A replica whose disk was lost
// may give old ones as new: what it says of itself must not show anything twice.
func newer(page *api.AuditPage, after uint64) []json.RawMessage {
	if page.Next <= after {
		return nil
	}
	return slices.DeleteFunc(page.Events, func(raw json.RawMessage) bool {
		t, ok := chain.ParseTrailer(raw)
		return ok && t.Number <= after
	})
}

// passOver tells of lines that a follower will not see: those before the end of the
// page. What is missing behind that may still come.
func (l *auditLister) passOver(page *api.AuditPage, after uint64) {
	for _, m := range page.Missing {
		if m.From = max(m.From, after+1); m.From <= min(m.To, page.Next) {
			m.To = min(m.To, page.Next)
			l.note("The replica lacks %s, or can't read them: left out.", api.FormatLines([]api.AuditRange{m}))
			l.passed(m)
		}
	}
}

// passes says whether the next try may succeed where this one failed.
func passes(err error) bool {
	switch api.CodeOf(err) {
	case api.CodeUnavailable, api.CodeAmbiguous, api.CodeRateLimited, api.CodeInternal:
		return true
	default:
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// printer writes events in the format asked for.
func printer(c *cliapp.Call, zone *time.Location) func(json.RawMessage) error {
	switch c.String("format") {
	case "json":
		return func(raw json.RawMessage) error { return writeLine(c, raw) }
	case "yaml": // a list, of which each event is a part
		return func(raw json.RawMessage) error {
			return show(c, []json.RawMessage{raw}, nil)
		}
	}
	known := api.EventNames()
	return func(raw json.RawMessage) error {
		text, failed := eventLine(raw, known, zone, c.StdoutWidth())
		if failed {
			c.Alertf("%s\n", text)
		} else {
			c.Printf("%s\n", text)
		}
		return nil
	}
}

// writeLine writes a line as it was logged. To a terminal what does not print is
// spelled out, which in JSON is the same text.
func writeLine(c *cliapp.Call, raw json.RawMessage) error {
	line := string(raw)
	if c.StdoutIsTerminal() {
		line = cliapp.Clean(line)
	}
	_, err := io.WriteString(c.Stdout, line+"\n")
	return err
}

// Columns of eventLine, and the most that is shown of what fills the last one.
const (
	eventColumn = 20
	userColumn  = 12
	mostName    = 64
	mostValue   = 80
	mostWhat    = 400
)

// eventLine is an event for people: when, code and name, who, and what. What is no
// event of ours is shown as far as it can be read. On a terminal, which has a width, it
// is cut to that.
func eventLine(raw json.RawMessage, known []string, zone *time.Location, width int) (text string, failed bool) {
	var ev api.Event
	if err := json.Unmarshal(raw, &ev); err != nil {
		text, failed = "not readable: "+oneLine(string(raw), mostWhat), true
	} else {
		name := oneLine(ev.Event, mostName)
		if width > 0 {
			name = oneLine(ev.Event, eventColumn-1)
		}
		text, failed = eventText(&ev, name, known, zone), ev.Outcome() != api.OutcomeOK
	}
	if width > 0 {
		text = oneLine(text, width-1)
	}
	return text, failed
}

func eventText(ev *api.Event, name string, known []string, zone *time.Location) string {
	var what string
	if slices.Contains(known, ev.Event) {
		if what = ev.Summary(); ev.Fields["kubernetes_cluster"] != nil && ev.Fields["kubernetes_cluster"] != "" {
			what = oneLine(fmt.Sprint(ev.Fields["kubernetes_cluster"]), mostName) + ": " + what
		}
	} else {
		what = pairs(ev.Fields)
	}
	user := "-"
	if ev.User != "" {
		user = oneLine(ev.User, mostName)
	}
	return strings.TrimRight(fmt.Sprintf("%s %-6s %-*s %-*s %s", ev.Time.In(zone).Format(time.RFC3339),
		oneLine(ev.Code, mostName), eventColumn, name, userColumn, user, oneLine(what, mostWhat)), " ")
}

// pairs are the fields of an event that has no sentence of its own.
func pairs(fields map[string]any) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch name {
		case chain.FieldReplica, chain.FieldIndex, chain.FieldNumber, chain.FieldHash: // every line has them
			continue
		}
		b, err := json.Marshal(fields[name])
		if err != nil {
			continue // it was JSON
		}
		out = append(out, oneLine(name, mostName)+"="+oneLine(string(b), mostValue))
	}
	return strings.Join(out, " ")
}
