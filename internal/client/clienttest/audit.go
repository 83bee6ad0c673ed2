package clienttest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// auditLog is the stand-in for a journal.
type auditLog struct {
	first    uint64 // number of lines[0]; 0: none
	lines    [][]byte
	scan     int           // lines that a search looks at before it answers; 0: all
	changed  chan struct{} // closed when lines come
	verified []api.AuditVerified
	lack     uint64 // number of a line that can't be read; 0: none
	cut      int    // answers of an export that break off after the first line
	status   *api.AuditStatus
	asked    []api.AuditQuery // searches, in the order in which they came
	fail     int              // searches that fail
}

// AddAudit adds lines to the audit log, of which the first has number 1, or first.
func (s *Server) AddAudit(first uint64, lines ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.audit.lines) == 0 {
		s.audit.first = first
	}
	s.audit.lines = append(s.audit.lines, lines...)
	if s.audit.changed != nil {
		close(s.audit.changed)
		s.audit.changed = nil
	}
}

// SetAuditScan says how many lines a search looks at before it answers.
func (s *Server) SetAuditScan(lines int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audit.scan = lines
}

// LackAudit makes a line unreadable: a search passes it over and says so, an export ends
// before it. 0: none.
func (s *Server) LackAudit(number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audit.lack = uint64(number) //nolint:gosec // the test's own
}

// SetAuditVerified says what replicas answer that check their logs: the first of
// them is the one that is asked.
func (s *Server) SetAuditVerified(answers ...api.AuditVerified) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audit.verified = answers
}

// CutAuditExports makes so many exports break off.
func (s *Server) CutAuditExports(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audit.cut = n
}

// FailAudit makes so many searches fail, as those at a replica that stops do, those
// that wait included.
func (s *Server) FailAudit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audit.fail = n
	if s.audit.changed != nil {
		close(s.audit.changed)
		s.audit.changed = nil
	}
}

// SetAuditStatus says what the replica's status has about audit.
func (s *Server) SetAuditStatus(status *api.AuditStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audit.status = status
}

// AuditQueries are the searches so far.
func (s *Server) AuditQueries() []api.AuditQuery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.audit.asked)
}

func (s *Server) auditRoutes(mux *http.ServeMux, may func(verb, kind string, h http.HandlerFunc) http.HandlerFunc) {
	mux.HandleFunc("GET "+api.PathAudit, may(api.VerbList, api.KindEvent, s.searchAudit))
	mux.HandleFunc("POST "+api.PathAuditVerify, may(api.VerbRead, api.KindEvent, s.verifyAudit))
	mux.HandleFunc("GET "+api.PathAuditExport, may(api.VerbRead, api.KindEvent, s.exportAudit))
}

// searchAudit answers without escaping &, as a line must arrive as it was logged.
func (s *Server) searchAudit(w http.ResponseWriter, r *http.Request) {
	q, err := api.ParseQuery(r.URL.Query())
	if err != nil {
		api.WriteError(w, err)
		return
	}
	match, err := auditFilter(q)
	if err != nil {
		api.WriteError(w, err)
		return
	}
	s.mu.Lock()
	s.audit.asked = append(s.audit.asked, q)
	s.mu.Unlock()
	deadline := time.After(time.Duration(q.Wait))
	for {
		s.mu.Lock()
		if s.audit.fail > 0 {
			s.audit.fail--
			s.mu.Unlock()
			api.WriteError(w, api.Errorf(api.CodeUnavailable, "this replica is stopping"))
			return
		}
		page := s.audit.search(q, match)
		if s.audit.changed == nil {
			s.audit.changed = make(chan struct{})
		}
		changed := s.audit.changed
		s.mu.Unlock()
		if q.Wait > 0 && page.Done && len(page.Events) == 0 {
			select {
			case <-changed:
				continue
			case <-deadline:
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(page)
		return
	}
}

func (l *auditLog) search(q api.AuditQuery, match func([]byte) bool) *api.AuditPage {
	limit := cmp.Or(q.Limit, api.DefaultAuditEvents)
	page := &api.AuditPage{Events: []json.RawMessage{}, Next: q.After, Done: true, First: l.first}
	if page.Last = l.first + uint64(len(l.lines)); page.Last > 0 {
		page.Last--
	}
	looked := 0
	for i := range l.lines {
		at := i
		if q.Newest {
			at = len(l.lines) - 1 - i
		}
		n := l.first + uint64(at) //nolint:gosec // an index
		if n <= q.After || q.Before > 0 && n >= q.Before {
			continue
		}
		if len(page.Events) == limit || l.scan > 0 && looked == l.scan {
			page.Done = false
			break
		}
		looked++
		page.Next = n
		if n == l.lack {
			page.Missing = append(page.Missing, api.AuditRange{From: n, To: n})
			continue
		}
		if match(l.lines[at]) {
			page.Events = append(page.Events, l.lines[at])
		}
	}
	return page
}

// auditFilter takes the parts of a query that are about what stands in a line.
func auditFilter(q api.AuditQuery) (func(line []byte) bool, error) {
	grep, err := regexp.Compile(q.Grep)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "grep: %w", err)
	}
	like := func(pattern, text string) bool {
		p, err := api.CompilePattern(pattern)
		return pattern == "" || err == nil && p.Match(text)
	}
	return func(line []byte) bool {
		var ev struct {
			Event, Code, User string
			Time              time.Time
			Cluster           string `json:"kubernetes_cluster"`
		}
		_ = json.Unmarshal(line, &ev) // the test's own
		return !ev.Time.Before(q.Since) && (q.Until.IsZero() || ev.Time.Before(q.Until)) &&
			like(q.User, ev.User) && like(q.Cluster, ev.Cluster) && grep.Match(line) &&
			(len(q.Types) == 0 || slices.ContainsFunc(q.Types, func(t string) bool { return like(t, ev.Event) || like(t, ev.Code) }))
	}, nil
}

func (s *Server) verifyAudit(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	answers := s.audit.verified
	s.mu.Unlock()
	if r.URL.Query().Get("server") != api.AllServers && len(answers) > 1 {
		answers = answers[:1]
	}
	enc := json.NewEncoder(w)
	for _, v := range answers {
		if !v.Done { // it never will be
			_ = enc.Encode(v)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		_ = enc.Encode(api.AuditVerified{ServerID: v.ServerID, First: v.First, Number: v.Number / 2, Last: v.Last})
		_ = enc.Encode(v)
	}
}

func (s *Server) exportAudit(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	lines, first, cut, lack := slices.Clone(s.audit.lines), s.audit.first, s.audit.cut > 0, s.audit.lack
	s.audit.cut = max(0, s.audit.cut-1)
	s.mu.Unlock()
	limits := map[string]uint64{"from": 0, "to": 1 << 62}
	for name := range limits {
		if text := r.URL.Query().Get(name); text != "" {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				api.WriteError(w, api.Errorf(api.CodeInvalid, "%s: %q is no number of a line", name, text))
				return
			}
			limits[name] = n
		}
	}
	if limits["from"] > first+uint64(len(lines)) {
		api.WriteError(w, api.Errorf(api.CodeInvalid, "the log has no line %d", limits["from"]))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for i, line := range lines {
		if n := first + uint64(i); n < limits["from"] || n > limits["to"] {
			continue
		} else if n == lack {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprintf(w, "%s\n", bytes.TrimSuffix(line, []byte("\n")))
		if cut {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}
}

// keepForwarderSecrets is keepSecrets for a forwarder.
func keepForwarderSecrets(doc, stored json.RawMessage) (json.RawMessage, error) {
	var f, old api.AuditForwarder
	if err := json.Unmarshal(doc, &f); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "document: %w", err)
	}
	if len(stored) > 0 {
		if err := json.Unmarshal(stored, &old); err != nil {
			return nil, err
		}
	}
	f.GiveSecrets(old.TakeSecrets())
	return json.Marshal(f)
}
