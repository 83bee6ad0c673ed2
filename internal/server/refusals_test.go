package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Who uses a certificate whose session is over waits for nobody, is told of, and what
// follows within the minute is told at the latest when the replica stops.
func TestACertificateWhoseSessionIsOverIsInTheLog(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	server := r.run[0].srv.node.ID()
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	id, err := r.apiClient(0, creds).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.admin(0).EndSession(t.Context(), "alice", id.ID); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if _, err := r.apiClient(0, creds).Session(t.Context()); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Fatal(err)
		}
	}
	if status, body := r.get(r.kubeClient(creds), 0, "/api"); status != http.StatusUnauthorized {
		t.Fatal(status, body)
	}
	// Attempts by protocol. A minute may end anywhere in this test, so lines don't count.
	told := func(want map[string]int) {
		t.Helper()
		eventually(t, patience, fmt.Sprintf("the log tells of %v", want), func() error {
			page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventAuthAttempt}})
			if err != nil {
				return err
			}
			got := map[string]int{}
			for _, line := range page.Events {
				var e struct {
					Code, User, Proto string
					SessionID         string `json:"session_id"`
					ServerID          string `json:"server_id"`
					Local             string `json:"addr.local"`
					Attempts          int
				}
				if err := json.Unmarshal(line, &e); err != nil || e.Code != api.EventCodeAuthAttempt || e.User != "alice" || e.SessionID != id.ID || e.ServerID != server || e.Local == "" {
					t.Errorf("%v %s", err, line)
				}
				got[e.Proto] += max(e.Attempts, 1)
			}
			for proto, n := range want {
				if got[proto] < n {
					return fmt.Errorf("it tells of %v", got)
				}
			}
			return nil
		})
	}
	told(map[string]int{"": 1, "kube": 1})
	r.stop(0, r.run[0])
	r.start(0)
	r.awaitReady(0)
	told(map[string]int{"": 4, "kube": 1})
}
