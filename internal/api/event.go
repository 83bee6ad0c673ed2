package api

import (
	"encoding/json"
	"fmt"
	"time"
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
