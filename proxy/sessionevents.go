package proxy

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// commitTime bounds how long a session waits to be recorded: longer than a cluster
// takes to choose a leader.
const commitTime = 20 * time.Second

// The kinds of sessions.
const (
	kindExec        = "exec"
	kindAttach      = "attach"
	kindPortForward = "portforward"
	kindRun         = "run"    // a kubelet's own: a command without a stream, whose output is the answer
	kindStream      = "stream" // any other that is upgraded: through a proxy to a pod, a Service, a node; a log
)

// session is what of the log tells begin and end: every upgraded stream, and a
// command that a kubelet runs. Everything in it but sid is what a client sent.
type session struct {
	sid       string // its own id, beside that of the login
	kind      string
	began     time.Time
	namespace string // with pod: which pod, where the path is a kubelet's
	pod       string
	command   []string // of exec and run
	container string
	tty       bool
	ports     []string // of portforward, where the client names them in its query
	exit      *exitWatch

	durable bool // its beginning is in the log
	over    bool // its end is, too
}

// newSession is nil for a request that is none: of the bare paths, the API server
// refuses those that ask for no upgrade.
func (h *Handler) newSession(r *http.Request, a *attempt) (*session, error) {
	kind, rest := a.res.subresource, ""
	switch {
	case a.res.kubelet():
		kind, rest = kubeletKind(a.res.rest)
	case kind != kindExec && kind != kindAttach && kind != kindPortForward:
		kind = kindStream
	}
	if a.upgrade == "" && kind != kindRun {
		return nil, nil //nolint:nilnil // no session is a proper answer
	}
	sid, err := api.NewEventID(h.rand)
	if err != nil {
		return nil, unaudited(a, err)
	}
	s := &session{sid: sid, kind: kind, began: h.clock()}
	if rest != "" {
		s.readPath(rest)
	}
	s.readQuery(r.URL.RawQuery)
	return s, nil
}

// kubeletKind reads a path of the kubelet's own API (k8s.io/kubernetes,
// pkg/kubelet/server): what is asked for, and of which pod. Below cri it names a
// stream that the kubelet agreed to before, and no pod.
func kubeletKind(path string) (kind, pod string) {
	first, rest := segment(path)
	cri := first == "cri"
	if cri {
		first, rest = segment(rest)
	}
	switch kind = strings.ToLower(first); kind {
	case kindExec, kindAttach, kindPortForward, kindRun:
	default:
		return kindStream, ""
	}
	if cri {
		rest = ""
	}
	return kind, rest
}

// readPath takes from a kubelet's path what follows the kind: NAMESPACE/POD, and but
// for portforward /CONTAINER; the pod's UID may stand before that.
func (s *session) readPath(path string) {
	s.namespace, path = segment(path)
	s.pod, path = segment(path)
	if s.kind != kindPortForward {
		path = strings.Trim(path, "/")
		s.container = path[strings.LastIndexByte(path, '/')+1:]
	}
}

// readQuery takes from the query what the API server or the kubelet takes from it.
func (s *session) readQuery(query string) {
	q, _ := url.ParseQuery(query) // they, too, go on with what they can read
	switch s.kind {
	case kindExec:
		s.command = q["command"]
		fallthrough
	case kindAttach:
		if s.container == "" {
			s.container = q.Get("container")
		}
		s.tty = queryTrue(query, "tty")
	case kindRun:
		if cmd := q.Get("cmd"); cmd != "" {
			s.command = strings.Split(cmd, " ")
		}
	case kindPortForward:
		if s.ports = q["ports"]; s.pod != "" {
			s.ports = q["port"]
		}
	}
}

// begin makes the beginning of a session durable before anybody is asked for it: no
// command runs, and nobody gets a shell, of which the log may not know.
func (h *Handler) begin(ctx context.Context, r *http.Request, a *attempt, f *flight) error {
	s, err := h.newSession(r, a)
	if s == nil || err != nil {
		return err
	}
	if s.kind == kindRun && hasForm(r.Header) {
		return api.Errorf(api.CodeInvalid, "a command in a form is refused: put it into the query, ?cmd=…, where the audit log reads it")
	}
	a.session = s
	ev := api.Event{Event: api.EventSessionStart, Code: api.EventCodeSessionStart}
	if s.kind == kindPortForward {
		ev.Event, ev.Code = api.EventPort, api.EventCodePort
	}
	ev.User, ev.Fields = a.conn.Identity.User, h.sessionFields(r, a, s)
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	if err := h.recorder.Commit(ctx, ev); err != nil {
		if why := f.cutReason(); why != nil {
			a.cut = true
			return why
		}
		return unaudited(a, err)
	}
	s.durable = true
	return nil
}

// hasForm reports whether net/http may read parameters from the body: a kubelet
// prefers them to the query's.
func hasForm(header http.Header) bool {
	for _, v := range header["Content-Type"] {
		kind, _, err := mime.ParseMediaType(v)
		if err != nil || kind == "application/x-www-form-urlencoded" || strings.HasPrefix(kind, "multipart/") {
			return true
		}
	}
	return false
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
	if s.pod != "" {
		fields["kubernetes_pod_namespace"] = s.namespace
		fields["kubernetes_pod_name"] = s.pod
	}
	if s.kind != a.res.subresource { // by another way than kubectl's
		fields["request_path"] = a.path
		if a.upgrade != "" {
			fields["upgrade"] = a.upgrade
		}
	}
	if s.kind == kindPortForward {
		if len(s.ports) > 0 {
			fields["ports"] = s.ports
		}
		return fields
	}
	if s.container != "" {
		fields["kubernetes_container_name"] = s.container
	}
	if s.kind != kindStream {
		fields["interactive"] = s.tty
	}
	fields["session_recording"] = "off"
	if len(s.command) > 0 {
		fields["initial_command"] = s.command
	}
	return fields
}

// end records how a session that came to be has ended. why is the reason for which
// it was cut, or nil.
func (h *Handler) end(r *http.Request, a *attempt, why error) {
	s := a.session
	s.over = true
	reason := ""
	if why != nil {
		reason = auditReason(why)
	}
	if s.kind == kindExec || s.kind == kindRun {
		code, text, failed := s.exit.result()
		if why != nil && code == "" {
			text, failed = reason, true
		}
		h.ended(r, a, s, code, text, failed)
	}
	h.sessionEnd(r, a, s, reason)
}

// sessionEnd belongs to a session.start. A port-forward has its one event.
func (h *Handler) sessionEnd(r *http.Request, a *attempt, s *session, reason string) {
	if s.kind == kindPortForward {
		return
	}
	fields := h.sessionFields(r, a, s)
	fields["session_start"], fields["session_stop"] = s.began.UTC(), h.clock().UTC()
	fields["participants"] = []string{a.conn.Identity.User}
	if reason != "" {
		fields["reason"] = reason
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

// failed records, once, a session that did not come to be, where somebody had the
// right to the cluster and asked for one.
func (h *Handler) failed(r *http.Request, a *attempt, status int, err error) {
	if a.grant == nil {
		return
	}
	s := a.session
	if s == nil {
		var none error
		if s, none = h.newSession(r, a); s == nil || none != nil {
			return // nothing but its kube.request
		}
	}
	if s.over {
		return
	}
	s.over = true
	text := "the API server answered " + strconv.Itoa(status)
	if err != nil {
		text = auditReason(err)
	}
	switch s.kind {
	case kindExec, kindRun:
		h.ended(r, a, s, "", text, true)
	case kindPortForward:
		fields := h.sessionFields(r, a, s)
		fields["error"] = text
		h.recorder.Record(api.Event{Event: api.EventPort, Code: api.EventCodePortFailed, User: a.conn.Identity.User, Fields: fields})
	}
	if s.durable {
		h.sessionEnd(r, a, s, text)
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
