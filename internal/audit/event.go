package audit

import (
	"crypto/rand"
	"encoding/hex"
	"io"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Names of events. They and the codes are the incumbent's, so that what people
// have built on its events.log goes on working.
const (
	EventUserLogin          = "user.login"
	EventUserCreate         = "user.create"
	EventUserUpdate         = "user.update"
	EventUserDelete         = "user.delete"
	EventUserPasswordChange = "user.password_change"
	EventResetTokenCreate   = "reset_password_token.create"
	EventRoleCreated        = "role.created"
	EventRoleDeleted        = "role.deleted"
	EventRoleUpdated        = "role.updated"
	EventCertCreate         = "cert.create"
	EventAuth               = "auth"
	EventKubeRequest        = "kube.request"
	EventExec               = "exec"
	EventPortForward        = "port"
	EventSessionStart       = "session.start"
	EventSessionEnd         = "session.end"
	EventClientDisconnect   = "client.disconnect"

	// EventLost is ours: how many events this replica could not keep, and so
	// where the log has a hole.
	EventLost = "audit.lost"
)

// Codes of events: I success, W refused, E failed.
const (
	CodeUserLogin          = "T1000I"
	CodeUserLoginFailure   = "T1000W"
	CodeUserCreate         = "T1002I"
	CodeUserUpdate         = "T1003I"
	CodeUserDelete         = "T1004I"
	CodeUserPasswordChange = "T1005I"
	CodeResetTokenCreate   = "T6000I"
	CodeRoleCreated        = "T9000I"
	CodeRoleDeleted        = "T9001I"
	CodeRoleUpdated        = "T9002I"
	CodeCertCreate         = "TC000I"
	CodeAuthFailure        = "T3007W"
	CodeKubeRequest        = "T3009I"
	CodeKubeRequestRefused = "T3009W"
	CodeExec               = "T3002I"
	CodeExecFailure        = "T3002E"
	CodePortForward        = "T3003I"
	CodePortForwardFailure = "T3003E"
	CodeSessionStart       = "T2000I"
	CodeSessionEnd         = "T2004I"
	CodeClientDisconnect   = "T3006I"
	CodeLost               = "TSP01E"
)

// Source makes events of one replica. The zero value works, with no cluster
// name, the machine's clock and crypto/rand.
type Source struct {
	ClusterName string
	Clock       func() time.Time // nil: time.Now
	Rand        io.Reader        // nil: crypto/rand; must never fail
}

// NewEvent makes an event of now with a fresh unique id. fields belongs to the
// event afterwards.
func (s Source) NewEvent(event, code, user string, fields map[string]any) api.Event {
	return s.complete(api.Event{Event: event, Code: code, User: user, Fields: fields})
}

// complete fills what is empty of time, uid and cluster name.
func (s Source) complete(ev api.Event) api.Event {
	if ev.Time.IsZero() {
		ev.Time = s.now()
	}
	if ev.UID == "" {
		ev.UID = s.uid()
	}
	if ev.ClusterName == "" {
		ev.ClusterName = s.ClusterName
	}
	return ev
}

func (s Source) now() time.Time {
	if s.Clock == nil {
		return time.Now().UTC()
	}
	return s.Clock().UTC()
}

// uid is a random UUID (RFC 9562, version 4).
func (s Source) uid() string {
	r := s.Rand
	if r == nil {
		r = rand.Reader
	}
	var b [16]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		// Two events of one id would be taken for a repeat, and one dropped.
		panic("audit: no randomness for an event's id: " + err.Error())
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[:8], b[:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:], b[10:])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}
