package web

import (
	"errors"
	"math"
	"net/http"
	"net/url"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	auditPath = "/web/audit"

	maxAuditRows  = 50
	maxAuditBytes = 512 << 10 // of the lines of one page: the newest, one at least
	maxAuditField = 512       // bytes of what is typed
	maxAuditTypes = 20
)

// auditPage is what audit.html shows.
type auditPage struct {
	Action  string
	Cluster string
	Error   string // of the search as a whole
	Filters []auditFilter
	Types   []string
	Day     string // today, as times are written
	Asked   bool   // something is being filtered
	Unasked bool   // the search was not made: see fromElsewhere
	Rows    []auditRow
	Span    *auditSpan // what was looked through; nil: nothing
	Missing string     // lines of those that this replica lacks

	Older, Newer auditLink
}

// auditFilter is a field of the form. What was typed stays as it was.
type auditFilter struct {
	Name, Label, Value string
	List               string // of known values
	Error              string
}

// auditLink leads on; URL is "" where there is nothing more.
type auditLink struct {
	URL    string
	Search bool // the search stopped at its bound, not because the page is full
}

// auditSpan is which lines a search has looked through, both inclusive, and which
// there are.
type auditSpan struct {
	Lo, Hi, First, Last uint64
}

// auditForm is what was asked for.
type auditForm struct {
	values map[string]string
	errors map[string]string
	query  api.AuditQuery
	error  string
}

// auditors lets those through who may list events.
func (s *site) auditors(next handler) handler {
	return func(w http.ResponseWriter, r *http.Request, v *visit) {
		err := s.opts.Audit.Authorize(r.Context(), v.cookie)
		if err == nil {
			next(w, r, v)
			return
		}
		v.auditor = false // they were a moment ago, if they were
		if n, status, ok := s.explain(w, r, err); ok {
			if status == http.StatusForbidden {
				n.Title = "The audit log is not open to you"
				n.Lines = append(n.Lines, "It takes a role with a rule for the resource event and the verb list, as the role auditor has. Ask your administrator for one.")
			}
			s.noticeTo(w, status, n, v, nil)
		}
	}
}

// showAudit searches the audit log. It changes nothing, so it is a GET, whose
// address can be kept.
func (s *site) showAudit(w http.ResponseWriter, r *http.Request, v *visit) {
	f := s.auditForm(r.URL.RawQuery)
	p := auditPage{Action: auditPath, Cluster: s.opts.ClusterName, Error: f.error, Filters: f.filters(), Types: api.EventNames(), Asked: f.asked(), Day: s.opts.Clock().UTC().Format(time.DateOnly)}
	if len(f.errors) > 0 && p.Error == "" {
		p.Error = "Nothing was searched for: see what is marked below."
	}
	if p.Error != "" {
		s.showAuditPage(w, v, http.StatusBadRequest, p)
		return
	}
	if r.URL.RawQuery != "" && fromElsewhere(r) {
		p.Unasked = true
		s.showAuditPage(w, v, http.StatusOK, p)
		return
	}
	end, err := s.opts.Audit.Begin(r.Context(), v.User)
	if err == nil {
		defer end()
		var found *api.AuditPage
		if found, err = s.opts.Audit.Search(r.Context(), v.User, f.query); err == nil {
			p.fill(&f, found)
			s.showAuditPage(w, v, http.StatusOK, p)
			return
		}
	}
	if r.Context().Err() != nil { // nobody reads the answer, unless it is the replica that ends
		err = api.Errorf(api.CodeUnavailable, "the search was broken off")
	}
	switch {
	case api.IsCode(err, api.CodeInvalid):
		p.Error = cutSentence(err)
		s.showAuditPage(w, v, http.StatusBadRequest, p)
	default:
		if api.IsCode(err, api.CodeRateLimited) {
			w.Header().Set("Retry-After", "2")
		}
		if n, status, ok := s.explain(w, r, err); ok {
			s.noticeTo(w, status, n, v, nil)
		}
	}
}

func (s *site) showAuditPage(w http.ResponseWriter, v *visit, status int, p auditPage) {
	s.show(w, status, page{name: "audit", title: titled("Audit log", p.Error), visit: v, body: p})
}

// fromElsewhere reports whether a link of another site led here. Its search is not
// made before somebody presses the button: how long it takes, or how large its
// page is, might tell that site what is in the log.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "cross-site" || site == "same-site"
}

// auditForm reads the query of the page's address.
func (s *site) auditForm(raw string) auditForm {
	f := auditForm{values: map[string]string{}, errors: map[string]string{}}
	if len(raw) > maxForm {
		f.error = "That is more than this page takes. Fill in the form again."
		return f
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		f.error = "The address of this page is damaged. Fill in the form again."
		return f
	}
	for _, name := range []string{"since", "until", "user", "type", "cluster", "grep", "before", "after"} {
		value := strings.TrimSpace(values.Get(name))
		if len(value) > maxAuditField {
			f.errors[name] = "This is too long: at most " + strconv.Itoa(maxAuditField) + " bytes."
			value = api.CleanText(value, maxAuditField)
		}
		f.values[name] = value
	}
	f.read(s.opts.Clock())
	return f
}

// read makes a query of what was typed.
func (f *auditForm) read(now time.Time) {
	q := &f.query
	q.Limit, q.User, q.Cluster, q.Grep = maxAuditRows, f.values["user"], f.values["cluster"], f.values["grep"]
	q.Since, q.Until = f.moment("since", now, false), f.moment("until", now, true)
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		f.fail("until", "This is not after the beginning.")
	}
	for _, name := range []string{"user", "cluster"} {
		f.checkPattern(name, f.values[name])
	}
	q.Types = strings.FieldsFunc(f.values["type"], func(r rune) bool { return r == ',' || r == ' ' })
	if len(q.Types) > maxAuditTypes {
		f.fail("type", "At most "+strconv.Itoa(maxAuditTypes)+" at once.")
	}
	for _, t := range q.Types {
		f.checkPattern("type", t)
	}
	if _, err := syntax.Parse(q.Grep, syntax.Perl); err != nil {
		f.fail("grep", notRegexp(err))
	}
	q.Before, q.After = f.line("before"), f.line("after")
	if f.values["before"] != "" && f.values["after"] != "" {
		f.error = badAddress
	}
	q.Newest = f.values["after"] == ""
}

const badAddress = "The address of this page is damaged: it should name a line of the log. Press Search to begin anew."

// line reads the number of a line, which only our links have.
func (f *auditForm) line(name string) uint64 {
	if f.values[name] == "" {
		return 0
	}
	n, err := strconv.ParseUint(f.values[name], 10, 64)
	if err != nil || n == 0 && name == "before" || n == math.MaxUint64 {
		f.error = badAddress
		return 0
	}
	return n
}

// fail keeps the first complaint about a field.
func (f *auditForm) fail(name, text string) {
	if f.errors[name] == "" {
		f.errors[name] = text
	}
}

func (f *auditForm) checkPattern(name, value string) {
	if _, err := api.CompilePattern(value); err != nil {
		f.fail(name, notRegexp(err))
	} else if api.HalfExpression(value) {
		f.fail(name, "A regular expression begins with ^ and ends with $ here.")
	}
}

// notRegexp says why a regular expression is none.
func notRegexp(err error) string {
	return "This is no regular expression: " + api.CleanText(strings.TrimPrefix(err.Error(), "error parsing regexp: "), 2*maxAuditField) + "."
}

// moment reads a time in UTC; the end of a day for a day alone, where it is an end.
func (f *auditForm) moment(name string, now time.Time, end bool) time.Time {
	if f.errors[name] != "" {
		return time.Time{}
	}
	t, err := api.ParseMoment(f.values[name], now.UTC(), end)
	if err != nil {
		f.fail(name, "This is no time. Write it as "+now.UTC().Format(time.DateOnly)+", as "+now.UTC().Format("2006-01-02 15:04")+" (UTC), or as 2h for two hours ago.")
		return time.Time{}
	}
	return t.UTC()
}

// filters are the fields of the form as they are shown again.
func (f *auditForm) filters() []auditFilter {
	all := []auditFilter{
		{Name: "since", Label: "Since (UTC)"}, {Name: "until", Label: "Until (UTC)"}, {Name: "user", Label: "User"},
		{Name: "type", Label: "Event", List: "types"}, {Name: "cluster", Label: "Cluster"}, {Name: "grep", Label: "Text"},
	}
	for i := range all {
		all[i].Value, all[i].Error = f.values[all[i].Name], f.errors[all[i].Name]
	}
	return all
}

func (f *auditForm) asked() bool {
	return slices.ContainsFunc(f.filters(), func(a auditFilter) bool { return a.Value != "" })
}

// link is the address of a page with the same filters, from a line on.
func (f *auditForm) link(name string, line uint64) string {
	q := url.Values{}
	for _, a := range f.filters() {
		if a.Value != "" {
			q.Set(a.Name, a.Value)
		}
	}
	q.Set(name, strconv.FormatUint(line, 10))
	return auditPath + "?" + q.Encode()
}

// fill shows what a search has found, newest first.
func (p *auditPage) fill(f *auditForm, found *api.AuditPage) {
	p.Missing = api.FormatLines(found.Missing)
	size, shown := 0, found.Events
	for i, line := range found.Events {
		if size += len(line); size > maxAuditBytes && i > 0 {
			shown = found.Events[:i]
			break
		}
	}
	for _, line := range shown {
		p.Rows = append(p.Rows, newAuditRow(line))
	}
	q, next, done := f.query, found.Next, found.Done
	full := len(shown) >= maxAuditRows
	if len(shown) < len(found.Events) {
		next, done, full = p.Rows[len(shown)-1].Number, false, true
	}
	if found.Last == 0 {
		return // there is no log yet
	}
	span := auditSpan{Lo: next, Hi: found.Last, First: found.First, Last: found.Last}
	if q.Newest {
		if q.Before != 0 {
			span.Hi = min(q.Before-1, found.Last)
			p.Newer.URL = f.link("after", q.Before-1)
		}
		if done {
			span.Lo = found.First
		} else if next > found.First && (q.Before == 0 || next < q.Before) { // or it would lead round in circles
			p.Older = auditLink{f.link("before", next), !full}
		}
	} else {
		slices.Reverse(p.Rows)
		span.Lo, span.Hi = max(q.After+1, found.First), next
		if q.After >= found.First {
			p.Older.URL = f.link("before", q.After+1)
		}
		if done {
			span.Hi = found.Last
		} else if next > q.After {
			p.Newer = auditLink{f.link("after", next), !full}
		}
	}
	if span.Lo <= span.Hi {
		p.Span = &span
	}
}

// cutSentence is what an error says, however long what it quotes is.
func cutSentence(err error) string {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return "That can’t be searched for."
	}
	return sentence(api.CleanText(e.Message, 4*maxAuditField))
}
