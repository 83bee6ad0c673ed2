package api

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Names of events. They and the codes are Teleport's where it has the event, so
// that searches and alerts written for its events.log go on working.
const (
	EventUserLogin          = "user.login"
	EventUserCreate         = "user.create"
	EventUserUpdate         = "user.update"
	EventUserDelete         = "user.delete"
	EventUserPasswordChange = "user.password_change"
	EventResetTokenCreate   = "reset_password_token.create"
	EventUserReset          = "user.reset"
	EventUserLogout         = "user.logout"
	EventFactorAdd          = "mfa.add"
	EventFactorDelete       = "mfa.delete"
	EventAuthPreference     = "auth_preference.update"
	EventRoleCreated        = "role.created"
	EventRoleUpdated        = "role.updated"
	EventRoleDeleted        = "role.deleted"
	EventKubeRequest        = "kube.request"
	EventTokenCreate        = "join_token.create" //nolint:gosec // no credential
	EventTokenDelete        = "join_token.delete" //nolint:gosec // no credential
	EventAgentJoin          = "instance.join"
	EventAgentRenew         = "instance.renew"
	EventAgentLock          = "instance.lock"
	EventAgentDelete        = "instance.delete"
	EventKubeClusterCreate  = "kube.create"
	EventKubeClusterUpdate  = "kube.update"
	EventKubeClusterDelete  = "kube.delete"

	EventGithubCreated = "github.created"
	EventGithubUpdated = "github.updated"
	EventGithubDeleted = "github.deleted"
	EventOIDCCreated   = "oidc.created"
	EventOIDCUpdated   = "oidc.updated"
	EventOIDCDeleted   = "oidc.deleted"
	EventSAMLCreated   = "saml.created"
	EventSAMLUpdated   = "saml.updated"
	EventSAMLDeleted   = "saml.deleted"
	EventSSOTest       = "sso.test" // tctl sso test: nobody was logged in
	// EventConnectorSecrets: somebody asked for documents with their secrets.
	EventConnectorSecrets = "connector.secrets_read"

	EventSessionStart     = "session.start" // somebody got a terminal or a process in a pod: exec, attach
	EventSessionEnd       = "session.end"
	EventExec             = "exec"              // a command in a pod has ended
	EventPort             = "port"              // a port-forward
	EventClientDisconnect = "client.disconnect" // streams were cut because the rights to them ended
	EventAuthAttempt      = "auth"              // a certificate that is not valid, or whose session is over
	EventCertCreate       = "cert.create"
	EventForwarderCreated = "audit_forwarder.created"
	EventForwarderUpdated = "audit_forwarder.updated"
	EventForwarderDeleted = "audit_forwarder.deleted"
	// EventForwarderSecrets: somebody asked for forwarders with their secrets.
	EventForwarderSecrets = "audit_forwarder.secrets_read"
	EventForwardSkipped   = "audit.forward_skipped" // a forwarder gave up lines: retention took them before they were sent, or the receiver refuses them
	EventClusterBackup    = "cluster.backup"        // somebody took a copy of the state
	EventClusterRecover   = "cluster.recover"       // root made one replica the whole cluster
	EventACMERetry        = "acme.retry"            // somebody had a certificate ordered now, however often that had failed
	EventAuditExport      = "audit.export"          // somebody took a copy of the log
	EventAuditRetention   = "audit.retention"       // segments were dropped, by age or size

	EventLost      = "audit.lost"      // how many events a replica could not keep: the log has a hole here
	EventMalformed = "audit.malformed" // a replica proposed what is no event; its text is kept
)

// Codes of events: I for a success, W for a refusal, E for a failure.
const (
	EventCodeUserLogin          = "T1000I"
	EventCodeUserLoginRefused   = "T1000W"
	EventCodeUserCreate         = "T1002I"
	EventCodeUserUpdate         = "T1003I"
	EventCodeUserDelete         = "T1004I"
	EventCodeUserPasswordChange = "T1005I"
	EventCodeResetTokenCreate   = "T6000I"
	EventCodeUserReset          = "TSP10I"
	EventCodeUserLogout         = "TSP11I"
	EventCodeFactorAdd          = "TSP12I"
	EventCodeFactorDelete       = "TSP13I"
	EventCodeAuthPreference     = "TSP14I"
	EventCodeRoleCreated        = "T9000I"
	EventCodeRoleDeleted        = "T9001I"
	EventCodeRoleUpdated        = "T9002I"
	EventCodeKubeRequest        = "T3009I" // passed on, whatever the API server said to it
	EventCodeKubeRequestRefused = "T3009W"
	EventCodeKubeRequestFailed  = "T3009E"
	EventCodeTokenCreate        = "TJT00I"
	EventCodeTokenDelete        = "TSP15I"
	EventCodeAgentJoin          = "TJ002I"
	EventCodeAgentJoinRefused   = "TJ002E"
	EventCodeAgentRenew         = "TSP16I"
	EventCodeAgentLock          = "TSP17W"
	EventCodeAgentDelete        = "TSP18I"
	EventCodeKubeClusterCreate  = "T3010I"
	EventCodeKubeClusterUpdate  = "T3011I"
	EventCodeKubeClusterDelete  = "T3012I"
	EventCodeSSOLogin           = "T1001I"
	EventCodeSSOLoginRefused    = "T1001W"
	EventCodeGithubCreated      = "T8000I"
	EventCodeGithubDeleted      = "T8001I"
	EventCodeGithubUpdated      = "T8002I"
	EventCodeOIDCCreated        = "T8100I"
	EventCodeOIDCDeleted        = "T8101I"
	EventCodeOIDCUpdated        = "T8102I"
	EventCodeSAMLCreated        = "T8200I"
	EventCodeSAMLDeleted        = "T8201I"
	EventCodeSAMLUpdated        = "T8202I"
	EventCodeSSOTest            = "TSP20I"
	EventCodeConnectorSecrets   = "TSP21I"
	EventCodeSessionStart       = "T2000I"
	EventCodeSessionEnd         = "T2004I"
	EventCodeExec               = "T3002I"
	EventCodeExecFailed         = "T3002E"
	EventCodePort               = "T3003I"
	EventCodePortFailed         = "T3003E"
	EventCodeClientDisconnect   = "T3006I"
	EventCodeAuthAttempt        = "T3007W"
	EventCodeCertCreate         = "TC000I"
	EventCodeForwarderCreated   = "TSP23I"
	EventCodeForwarderUpdated   = "TSP24I"
	EventCodeForwarderDeleted   = "TSP25I"
	EventCodeForwardSkipped     = "TSP26E"
	EventCodeClusterBackup      = "TSP30I"
	EventCodeClusterRecover     = "TSP31W"
	EventCodeACMERetry          = "TSP32I"
	EventCodeAuditExport        = "TSP27I"
	EventCodeAuditExportRefused = "TSP27W"
	EventCodeAuditRetention     = "TSP28I"
	EventCodeForwarderSecrets   = "TSP29I"
	EventCodeLost               = "TSP01E"
	EventCodeMalformed          = "TSP02E"
)

// Event is one line of the audit log. Marshalled, Fields stand beside the
// common fields in one flat JSON object; a field may not take a common name.
type Event struct {
	Event       string    // user.login, kube.request …
	Code        string    // T1000I …: I for success, W for a refusal, E for a failure
	Time        time.Time // UTC
	UID         string    // unique; repeats are dropped by it
	ClusterName string
	User        string         // who did it; "" where nobody is known yet
	Fields      map[string]any // what else belongs to this kind of event
}

// NewEventID makes the id of an event: a random UUID (RFC 9562, version 4).
// Without randomness there is no id: two events of one id would be taken for a
// repeat, and one dropped.
func NewEventID(rand io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("no randomness for an event's id: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var s [36]byte
	hex.Encode(s[:8], b[:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:], b[10:])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:]), nil
}

type eventCommon struct {
	Event       string    `json:"event"`
	Code        string    `json:"code"`
	Time        time.Time `json:"time"`
	UID         string    `json:"uid"`
	ClusterName string    `json:"cluster_name,omitempty"`
	User        string    `json:"user,omitempty"`
}

var eventCommonKeys = []string{"event", "code", "time", "uid", "cluster_name", "user"}

// MarshalJSON writes one flat object, common fields first, the others sorted.
func (e Event) MarshalJSON() ([]byte, error) {
	head, err := json.Marshal(eventCommon{e.Event, e.Code, e.Time.UTC(), e.UID, e.ClusterName, e.User})
	if err != nil || len(e.Fields) == 0 {
		return head, err
	}
	for _, k := range eventCommonKeys {
		if _, ok := e.Fields[k]; ok {
			return nil, fmt.Errorf("event %s: field %q is reserved", e.Event, k)
		}
	}
	tail, err := json.Marshal(e.Fields)
	if err != nil {
		return nil, err
	}
	return append(append(head[:len(head)-1], ','), tail[1:]...), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *Event) UnmarshalJSON(b []byte) error {
	var c eventCommon
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	for _, k := range eventCommonKeys {
		delete(fields, k)
	}
	*e = Event{c.Event, c.Code, c.Time, c.UID, c.ClusterName, c.User, fields}
	if len(fields) == 0 {
		e.Fields = nil
	}
	return nil
}
