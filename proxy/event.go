package proxy

import (
	"errors"
	"maps"
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// attempt gathers what is known of a request as it becomes known.
type attempt struct {
	conn     *ConnInfo // nil: nobody
	kube     string
	path     string // as the API server gets it, once that is settled
	res      resource
	live     bool // the answer may come in pieces, with long pauses
	asUser   string
	asGroups []string
	grant    *grant // nil until decided
	upgrade  string
	session  *session // nil: it is none, or did not get so far
	cut      bool     // by its grant

	unaudited bool // refused because its event could not be kept
	closed    bool // refused before it was looked at, because no request's could
}

// record emits the event of a request; the Recorder adds time, id and cluster. The field names are Teleport's, so
// that searches written for it go on working; kubernetes_verb, upgrade and
// requested_* are added.
func (h *Handler) record(r *http.Request, a *attempt, code string, status int, err error) {
	fields := h.baseFields(a)
	ev := api.Event{Event: api.EventKubeRequest, Code: code, Fields: fields}
	addresses(fields, r, a.conn)
	if a.conn != nil {
		ev.User = a.conn.Identity.User
	}
	fields["request_path"] = a.path
	if a.path == "" {
		fields["request_path"] = rawPath(r)
	}
	fields["verb"] = r.Method
	fields["response_code"] = status
	if a.res.kind != "" {
		fields["kubernetes_verb"] = a.res.verb
		fields["resource_api_group"] = a.res.apiGroup()
		fields["resource_kind"] = a.res.resourceKind()
		fields["resource_namespace"] = a.res.namespace
		fields["resource_name"] = a.res.name
	}
	if a.asUser != "" {
		fields["requested_user"] = a.asUser
	}
	if len(a.asGroups) > 0 {
		fields["requested_groups"] = a.asGroups
	}
	if a.upgrade != "" {
		fields["upgrade"] = a.upgrade
	}
	if a.session != nil {
		fields["sid"] = a.session.sid
	}
	if err != nil {
		fields["error"] = auditReason(err)
	}
	h.recorder.Record(ev)
}

// addresses are host:port, of the client itself behind a load balancer that says so.
func addresses(fields map[string]any, r *http.Request, conn *ConnInfo) {
	fields["addr.remote"] = r.RemoteAddr
	if conn == nil {
		return
	}
	fields["addr.local"] = conn.LocalAddr
	if conn.Addr != "" {
		fields["addr.remote"] = conn.Addr
	}
}

// uncertified tells that a certificate was refused, or that its session is over.
func (h *Handler) uncertified(r *http.Request, err error) {
	info := connInfo(r.Context())
	if h.refused == nil || info == nil || !api.IsCode(err, api.CodeUnauthenticated) || info.Refused == nil && info.Identity.User == "" {
		return // no certificate at all, or none to blame
	}
	h.refused(refusalOf(r, info, err))
}

// refusalOf is how a refusal is counted instead of being told one by one.
func refusalOf(r *http.Request, info *ConnInfo, err error) auth.Refusal {
	remote := info.Addr
	if remote == "" {
		remote = r.RemoteAddr
	}
	return auth.Refusal{
		User: info.Identity.User, SessionID: info.Identity.SessionID, Proto: "kube", Remote: remote, Local: info.LocalAddr, Reason: auditReason(err),
	}
}

// auditReason is the text of an error for the log: the Authorizer may have a
// reason that the client must not learn (that a cluster exists, say).
func auditReason(err error) string {
	var why interface{ AuditReason() string }
	if errors.As(err, &why) {
		return why.AuditReason()
	}
	return err.Error()
}

// baseFields are those that all requests of a grant share. They are made once:
// a copy of the map costs less than making its values again.
func (h *Handler) baseFields(a *attempt) map[string]any {
	if g := a.grant; g != nil {
		g.fieldsOnce.Do(func() { g.fields = h.newFields(a) })
		return maps.Clone(g.fields)
	}
	return h.newFields(a)
}

func (h *Handler) newFields(a *attempt) map[string]any {
	fields := make(map[string]any, 24)
	if a.conn != nil {
		fields["session_id"] = a.conn.Identity.SessionID
	}
	fields["proto"] = "kube"
	fields["namespace"] = "default" // of the login, not of the resource; Teleport's event always has it
	fields["server_id"] = h.serverID
	fields["kubernetes_cluster"] = a.kube
	if g := a.grant; g != nil {
		fields["kubernetes_users"] = []string{g.decision.ImpersonateUser}
		fields["kubernetes_groups"] = g.decision.ImpersonateGroups
		if len(g.decision.KubeLabels) > 0 {
			fields["kubernetes_labels"] = g.decision.KubeLabels
		}
	}
	return fields
}
