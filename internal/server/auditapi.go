package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
)

// ndjson is the type of answers that are one JSON document in each line.
const ndjson = "application/x-ndjson"

// auditHandler serves a call about the audit log to who may do a verb on events.
// Users are judged by a state that has caught up. The socket is not kept waiting for
// one: the log is what tells why a replica does not get ready.
func (s *Server) auditHandler(verb string, bound *turns, call func(http.ResponseWriter, *http.Request) error) http.Handler {
	csrf := http.NewCrossOriginProtection()
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := csrf.Check(r); err != nil {
			s.refuse(w, r, api.Errorf(api.CodeForbidden, "requests from other sites' pages are refused"))
			return
		}
		if err := s.authAPI.Authorize(r, verb, api.KindEvent); err != nil {
			if r.URL.Path == api.PathAuditExport && api.IsCode(err, api.CodeForbidden) {
				s.events.Record(refusedExport(r, err))
			}
			s.refuse(w, r, err)
			return
		}
		// Not longer than this replica: its shutdown waits for answers.
		ctx, cancel := s.untilStop(r.Context())
		defer cancel()
		// Until the answer is read: what it holds counts.
		end, err := bound.beginFor(ctx)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		defer end()
		out := newPieces(w, s.opts.auditPace.read)
		if err := call(out, r.WithContext(ctx)); err != nil {
			s.refuse(out, r, err)
		}
		out.begin() // for what the server has yet to send
	})
	waiting := s.caughtUp(serve)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if authapi.CallerFrom(r.Context()).Admin {
			serve.ServeHTTP(w, r)
			return
		}
		waiting.ServeHTTP(w, r)
	})
}

// untilStop is a context that ends when this replica begins to stop, too.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.leaving, cancel)
	return ctx, func() { stop(); cancel() }
}

// takesLong lets an answer take longer than the request's body may: the deadline for
// that body, when it passes, would end an HTTP/1.1 connection's request.
func takesLong(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // a server that can't is not one of ours
	w.Header().Set("Content-Type", ndjson)
}

func (s *Server) serveAudit(w http.ResponseWriter, r *http.Request) error {
	q, err := api.ParseQuery(r.URL.Query())
	if err != nil {
		return err
	}
	page, err := s.searchAudit(r.Context(), q, s.auditBounds.looks.beginFor)
	if err != nil {
		return err
	}
	answer(w, page)
	return nil
}

// searchAudit looks through this replica's copy of the log. Who waits for news when
// the replica stops is told that there are none, and asks another.
func (s *Server) searchAudit(ctx context.Context, q api.AuditQuery, turn audit.Turn) (*api.AuditPage, error) {
	page, err := s.journal.SearchInTurn(ctx, q, turn)
	if err == nil || s.leaving.Err() == nil {
		return page, err
	}
	return nil, api.Errorf(api.CodeUnavailable, "this replica is shutting down: ask again, and another answers")
}

func (s *Server) serveAuditExport(w http.ResponseWriter, r *http.Request) error {
	from, to, err := exportRange(r, s.journalState())
	if err != nil {
		return err
	}
	// Before the first byte, so that nobody has a copy that the log does not tell of.
	if err := s.events.Commit(r.Context(), exportEvent(r.Context(), from, to)); err != nil {
		return err
	}
	takesLong(w)
	if from > to {
		return nil // an empty log
	}
	if n, err := s.journal.Export(r.Context(), w, from, to); err != nil {
		s.log.WarnContext(r.Context(), "an export of the audit log broke off", "from", from, "to", to, "lines", n, "error", err)
		panic(http.ErrAbortHandler) // nobody must take half an export for a whole one
	}
	return nil
}

// exportEvent tells of a copy that somebody takes.
func exportEvent(ctx context.Context, from, to uint64) api.Event {
	return ofCaller(ctx, api.EventAuditExport, api.EventCodeAuditExport, map[string]any{"from": from, "to": to})
}

// refusedExport tells of one that somebody may not take.
func refusedExport(r *http.Request, err error) api.Event {
	return ofCaller(r.Context(), api.EventAuditExport, api.EventCodeAuditExportRefused, map[string]any{"success": false, "error": err.Error()})
}

// ofCaller is an event of whoever sent a request of the API.
func ofCaller(ctx context.Context, name, code string, fields map[string]any) api.Event {
	c := authapi.CallerFrom(ctx)
	ev := api.Event{Event: name, Code: code, Fields: fields}
	switch {
	case c.Admin:
		ev.User = auth.SocketUser
	case c.Identity != nil:
		ev.User = c.Identity.User
	}
	auth.PutAddresses(ctx, ev.Fields, c.Addr)
	return ev
}

// exportRange says which lines an export is of: all, unless the request names the
// first or the last. Beyond the end there is nothing; before the beginning something
// was, and to leave it out unasked would look like all there is.
func exportRange(r *http.Request, st audit.JournalState) (from, to uint64, err error) {
	from, to = st.First, st.Last
	query := r.URL.Query()
	for name, into := range map[string]*uint64{"from": &from, "to": &to} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		if *into, err = strconv.ParseUint(text, 10, 64); err != nil || *into == 0 {
			return 0, 0, api.Errorf(api.CodeInvalid, "%s=%q is no number of a line: they begin with 1", name, text)
		}
	}
	to = min(to, st.Last)
	named := query.Has("from") || query.Has("to")
	switch {
	case from < st.First:
		return 0, 0, api.Errorf(api.CodeNotFound, "this replica's log begins with line %d: older ones were deleted", st.First)
	case named && from > to:
		return 0, 0, api.Errorf(api.CodeInvalid, "there is nothing from line %d to line %d: the log ends with line %d", from, to, st.Last)
	case st.Gap != nil && st.Gap.From <= to && from <= st.Gap.To:
		return 0, 0, api.Errorf(api.CodeUnavailable, "this replica has yet to fetch the lines %d to %d from others: ask another replica, or later; see 'tctl status'", st.Gap.From, st.Gap.To)
	}
	return from, to, nil
}

// webAudit is the log as the pages ask for it.
type webAudit struct{ server *Server }

// Authorize implements web.Audit.
func (a webAudit) Authorize(_ context.Context, cookie string) error {
	p, _, err := a.server.webAccounts().identify(cookie)
	if err != nil {
		return err
	}
	return p.Can(api.VerbList, api.KindEvent)
}

// Begin implements web.Audit.
func (a webAudit) Begin(ctx context.Context, user string) (end func(), err error) {
	return a.server.auditBounds.calls.begin(ctx, user)
}

// Search implements web.Audit.
func (a webAudit) Search(ctx context.Context, user string, q api.AuditQuery) (*api.AuditPage, error) {
	ctx, cancel := a.server.untilStop(ctx)
	defer cancel()
	return a.server.searchAudit(ctx, q, func(ctx context.Context) (func(), error) {
		return a.server.auditBounds.looks.begin(ctx, user)
	})
}
