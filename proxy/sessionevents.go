package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// commitTime bounds how long a stream waits to be recorded: longer than a cluster takes
// to choose a leader, shorter than a kubelet waits for a client's streams.
const commitTime = 20 * time.Second

// session is an upgraded stream of which the log tells begin and end: exec,
// attach, portforward. Everything in it but sid is what a client sent.
type session struct {
	sid       string // its own id, beside that of the login
	began     time.Time
	command   []string // of exec
	container string
	tty       bool
	ports     []string // of portforward, where the client names them in its query
	exit      *exitWatch
}

// newSession is nil for a stream without a session: a log, or a Service's own.
func (h *Handler) newSession(r *http.Request, a *attempt) (*session, error) {
	switch a.res.subresource {
	case "exec", "attach", "portforward":
	default:
		return nil, nil //nolint:nilnil // no session is a proper answer
	}
	sid, err := api.NewEventID(h.rand)
	if err != nil {
		return nil, unaudited(a, err)
	}
	s := &session{sid: sid, began: h.clock()}
	s.read(r.URL.RawQuery, a.res.subresource)
	return s, nil
}

// read takes from the query what the API server takes from it.
func (s *session) read(query, subresource string) {
	q, _ := url.ParseQuery(query) // the API server, too, goes on with what it can read
	switch subresource {
	case "exec":
		s.command = q["command"]
		fallthrough
	case "attach":
		s.container, s.tty = q.Get("container"), queryTrue(query, "tty")
	case "portforward":
		s.ports = q["ports"]
	}
}

// begin makes the beginning durable: nobody gets a shell of which the log may not
// know. That is after the API server agreed and before the client learns it, so
// that what was refused is no session. A command that reads nothing may be running
// by then; the event of its failure says that, too.
func (h *Handler) begin(ctx context.Context, r *http.Request, a *attempt, s *session) error {
	ev := api.Event{Event: api.EventSessionStart, Code: api.EventCodeSessionStart}
	if a.res.subresource == "portforward" {
		ev.Event, ev.Code = api.EventPort, api.EventCodePort
	}
	ev.User, ev.Fields = a.conn.Identity.User, h.sessionFields(r, a, s)
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	if err := h.recorder.Commit(ctx, ev); err != nil {
		return unaudited(a, err)
	}
	return nil
}

// sessionFields are those that all events of a session have. Names are
// Teleport's; session_id and resource_* are added.
func (h *Handler) sessionFields(r *http.Request, a *attempt, s *session) map[string]any {
	fields := h.baseFields(a)
	addresses(fields, r, a.conn)
	fields["login"] = a.conn.Identity.User
	fields["sid"] = s.sid
	if a.res.group == "" && a.res.kind == "pods" {
		fields["kubernetes_pod_namespace"] = a.res.namespace
		fields["kubernetes_pod_name"] = a.res.name
	} else {
		fields["resource_api_group"] = a.res.apiGroup()
		fields["resource_kind"] = a.res.resourceKind()
		fields["resource_namespace"] = a.res.namespace
		fields["resource_name"] = a.res.name
	}
	if a.res.subresource == "portforward" {
		if len(s.ports) > 0 {
			fields["ports"] = s.ports
		}
		return fields
	}
	if s.container != "" {
		fields["kubernetes_container_name"] = s.container
	}
	fields["interactive"] = s.tty
	fields["session_recording"] = "off"
	if len(s.command) > 0 {
		fields["initial_command"] = s.command
	}
	return fields
}

// end records how a session that began has ended. why is the reason for which it
// was cut, or nil.
func (h *Handler) end(r *http.Request, a *attempt, s *session, why error) {
	if a.res.subresource == "portforward" {
		return
	}
	if a.res.subresource == "exec" {
		code, text, failed := s.exit.result()
		if why != nil && code == "" {
			text, failed = auditReason(why), true
		}
		h.ended(r, a, s, code, text, failed)
	}
	fields := h.sessionFields(r, a, s)
	fields["session_start"], fields["session_stop"] = s.began.UTC(), h.clock().UTC()
	fields["participants"] = []string{a.conn.Identity.User}
	if why != nil {
		fields["reason"] = auditReason(why)
	}
	h.recorder.Record(api.Event{Event: api.EventSessionEnd, Code: api.EventCodeSessionEnd, User: a.conn.Identity.User, Fields: fields})
}

// ended is the event of a command, as Teleport writes it.
func (h *Handler) ended(r *http.Request, a *attempt, s *session, exitCode, text string, failed bool) {
	ev := api.Event{Event: api.EventExec, Code: api.EventCodeExec, User: a.conn.Identity.User, Fields: h.sessionFields(r, a, s)}
	delete(ev.Fields, "initial_command")
	ev.Fields["command"] = strings.Join(s.command, " ")
	if failed {
		ev.Code = api.EventCodeExecFailed
	}
	if exitCode != "" {
		ev.Fields["exitCode"] = exitCode
	}
	if text != "" {
		ev.Fields["exitError"] = text
	}
	h.recorder.Record(ev)
}

// failed records a session that did not come to be, where somebody had the right
// to the cluster and asked for one.
func (h *Handler) failed(r *http.Request, a *attempt, status int, err error) {
	if a.upgrade == "" || a.grant == nil {
		return
	}
	s := a.session
	if s == nil {
		var none error
		if s, none = h.newSession(r, a); s == nil || none != nil {
			return // nothing but its kube.request
		}
	}
	text := "the API server answered " + strconv.Itoa(status)
	if err != nil {
		text = auditReason(err)
	}
	switch a.res.subresource {
	case "exec":
		h.ended(r, a, s, "", text, true)
	case "portforward":
		fields := h.sessionFields(r, a, s)
		fields["error"] = text
		h.recorder.Record(api.Event{Event: api.EventPort, Code: api.EventCodePortFailed, User: a.conn.Identity.User, Fields: fields})
	}
}

// disconnected records that an answer under way was cut because the right to it
// had ended. A replica that stops takes no right away.
func (h *Handler) disconnected(r *http.Request, a *attempt, why error) {
	if errors.Is(why, errStopping) {
		return
	}
	fields := h.baseFields(a)
	addresses(fields, r, a.conn)
	fields["login"] = a.conn.Identity.User
	fields["request_path"] = a.path
	fields["reason"] = auditReason(why)
	if a.session != nil {
		fields["sid"] = a.session.sid
	}
	h.recorder.Record(api.Event{Event: api.EventClientDisconnect, Code: api.EventCodeClientDisconnect, User: a.conn.Identity.User, Fields: fields})
}

// unaudited is the answer to what may not happen because nobody could read of it.
// It is 503 whatever the cause: the client did nothing wrong, and may try again.
func unaudited(a *attempt, err error) error {
	a.unaudited = true
	return api.Errorf(api.CodeUnavailable, "%w; what can't be recorded in the audit log is refused here: try again, and tell your administrator if it stays so (tctl status)", err)
}
