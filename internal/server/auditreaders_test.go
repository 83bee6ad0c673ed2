package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

func TestTheLeaderForwardsTheAuditLog(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var events []json.RawMessage
		if err := json.NewDecoder(req.Body).Decode(&events); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			got = append(got, string(e))
		}
	}))
	t.Cleanup(receiver.Close)
	r := startReplicas(t, 3, nil)
	if _, err := r.admin(0).Put(t.Context(), json.RawMessage(fmt.Sprintf(
		`{"kind":"audit_forwarder","version":"v1","metadata":{"name":"siem"},"spec":{"type":"webhook","endpoint":%q,"allow_http":true,"start":"oldest"}}`, receiver.URL)), false); err != nil {
		t.Fatal(err)
	}
	r.addUser(1, "alice", "devs")
	lead := r.leader()
	r.stop(lead, r.run[lead])
	up := (lead + 1) % 3
	r.use(r.kubeClient(r.login(up, "alice")), up, "/api/forwarded")
	r.sameLogs(holds("forwarded"), up, (lead+2)%3)
	eventually(t, patience, "the receiver has the whole log, in order", func() error {
		want := strings.Split(strings.TrimSpace(r.logFiles(up)["events.log"]), "\n")
		mu.Lock()
		defer mu.Unlock()
		var have []string
		for _, e := range got { // each at least once: a new leader begins with the cursor of the one before
			if !slices.Contains(have, e) {
				have = append(have, e)
			}
		}
		if !slices.Equal(want, have) {
			return fmt.Errorf("%d events of %d: %s", len(have), len(want), cmp.Diff(want, have))
		}
		return nil
	})
	eventually(t, patience, "the status says so", func() error {
		st, err := r.admin(up).Status(t.Context())
		if err != nil || len(st.Audit.Forwarders) != 1 || st.Audit.Forwarders[0].Behind != 0 || !st.Audit.Forwarders[0].Failing.IsZero() {
			return fmt.Errorf("%+v, %w", st.Audit, err)
		}
		if text := r.metrics(up); !strings.Contains(text, `sallyport_audit_forwarder_behind_lines{name="siem"} 0`) || !strings.Contains(text, `sallyport_audit_forwarder_failing{name="siem"} 0`) {
			return errors.New(text)
		}
		return nil
	})
}

// addAuditor makes a user who may read the log, and who has a password.
func (r *replicas) addAuditor(name string) {
	r.t.Helper()
	resp, err := r.admin(0).AddUser(r.t.Context(), &api.AddUserRequest{User: api.User{
		Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: name}}, Spec: api.UserSpec{Roles: []string{auth.RoleAuditor}},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	token := resp.InviteURL[strings.LastIndex(resp.InviteURL, "/")+1:]
	if _, err := r.run[0].srv.auth.Invites.Redeem(r.t.Context(), token, testPassword, nil, auth.Actor{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replicas) auditorsHaveAPage(t *testing.T) {
	for name, want := range map[string]int{"ada": http.StatusOK, "bob": http.StatusForbidden} {
		b := r.browser()
		b.mustLogin(0, 0, name)
		other := map[string]string{"ada": "bob", "bob": "ada"}[name] // whose creation is an event
		if p := b.open(0, "/web/audit", nil); p.status != want || strings.Contains(p.body, other) != (want == http.StatusOK) {
			t.Errorf("%s: %d %s", name, p.status, p.body)
		}
	}
}
