package proxy

import (
	"crypto/rand"
	"fmt"
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Codes of kube.request: what was passed on, whatever the API server said to it;
// what this proxy refused; what failed on the way.
const (
	eventKubeRequest = "kube.request"
	codePassed       = "T3009I"
	codeRefused      = "T3009W"
	codeFailed       = "T3009E"
)

// attempt gathers what is known of a request as it becomes known.
type attempt struct {
	conn     *ConnInfo // nil: nobody
	kube     string
	res      resource
	asUser   string
	asGroups []string
	grant    *grant // nil until decided
	upgrade  string
	cut      bool // by its grant
}

// record emits the event of a request. The field names are the incumbent's, so
// that searches written for it go on working; kubernetes_verb, upgrade and
// requested_* are added.
func (h *Handler) record(r *http.Request, a *attempt, code string, status int, err error) {
	fields := make(map[string]any, 20)
	ev := api.Event{Event: eventKubeRequest, Code: code, Time: h.clock().UTC(), UID: newUID(), ClusterName: h.clusterName, Fields: fields}
	fields["addr.remote"] = r.RemoteAddr
	if a.conn != nil {
		ev.User = a.conn.Identity.User
		fields["session_id"] = a.conn.Identity.SessionID
		fields["addr.local"] = a.conn.LocalAddr
		if a.conn.Addr != "" {
			fields["addr.remote"] = a.conn.Addr
		}
	}
	fields["proto"] = "kube"
	fields["namespace"] = "default" // of the login, not of the resource; the incumbent always has it
	fields["server_id"] = h.serverID
	fields["request_path"] = rawPath(r)
	fields["verb"] = r.Method
	fields["response_code"] = status
	fields["kubernetes_cluster"] = a.kube
	if a.res.kind != "" {
		fields["kubernetes_verb"] = a.res.verb
		fields["resource_api_group"] = a.res.apiGroup()
		fields["resource_kind"] = a.res.resourceKind()
		fields["resource_namespace"] = a.res.namespace
		fields["resource_name"] = a.res.name
	}
	if g := a.grant; g != nil {
		fields["kubernetes_users"] = g.users
		fields["kubernetes_groups"] = g.decision.ImpersonateGroups
		if len(g.decision.KubeLabels) > 0 {
			fields["kubernetes_labels"] = g.decision.KubeLabels
		}
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
	if err != nil {
		fields["error"] = err.Error()
	}
	h.recorder.Record(ev)
}

// newUID is a random UUID (RFC 9562, version 4).
func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
