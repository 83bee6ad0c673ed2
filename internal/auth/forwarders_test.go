package auth_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

const (
	forwardToken  = "correct-horse-bearer"
	forwardSigned = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	forwardHeader = "correct-horse-header"
)

func forwarderDoc(edit ...func(*api.AuditForwarder)) *api.AuditForwarder {
	doc := &api.AuditForwarder{
		Header: api.Header{Kind: api.KindAuditForwarder, Version: "v1", Metadata: api.Metadata{Name: "siem"}},
		Spec: api.AuditForwarderSpec{
			Type: api.ForwardWebhook, Endpoint: "https://siem.example.com/in/path-secret", BearerToken: forwardToken, SigningSecret: forwardSigned,
			Headers: map[string]string{"X-Key": forwardHeader},
		},
	}
	for _, fn := range edit {
		fn(doc)
	}
	return doc
}

func putForwarder(t *testing.T, f *authtest.Fixture, doc *api.AuditForwarder) api.PutResponse {
	t.Helper()
	resp, err := f.Forwarders.Put(t.Context(), authtest.Admin(), doc, true)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func openForwarder(t *testing.T, f *authtest.Fixture) api.AuditForwarder {
	t.Helper()
	open, _, err := f.Forwarders.Open()
	if err != nil || len(open) != 1 {
		t.Fatalf("%v %v", open, err)
	}
	return open[0]
}

// bare leaves the secrets out, as tctl get shows a document.
func bare(d *api.AuditForwarder) {
	d.Spec.BearerToken, d.Spec.SigningSecret, d.Spec.Headers = "", "", map[string]string{"X-Key": ""}
}

func TestForwardersAreWrittenShownAndRemoved(t *testing.T) {
	f := authtest.New(t)
	events := len(f.DB.Events())
	first := putForwarder(t, f, forwarderDoc())
	if !first.Created || first.Unchanged || first.Revision == 0 {
		t.Errorf("%+v", first)
	}
	_, err := f.Forwarders.Put(t.Context(), authtest.Admin(), forwarderDoc(), false)
	wantCode(t, "without force", err, api.CodeExists, "--force")
	_, err = f.Forwarders.Put(t.Context(), authtest.Admin(), forwarderDoc(func(d *api.AuditForwarder) { d.Metadata.Name = "SIEM" }), false)
	wantCode(t, "a name that looks alike", err, api.CodeExists, "would look like")
	if again := putForwarder(t, f, forwarderDoc()); !again.Unchanged || again.Revision != first.Revision {
		t.Errorf("%+v", again)
	}
	if again := putForwarder(t, f, forwarderDoc(bare)); !again.Unchanged {
		t.Errorf("without its secrets: %+v", again)
	}
	changed := putForwarder(t, f, forwarderDoc(bare, func(d *api.AuditForwarder) {
		d.Spec.Types, d.Spec.Start, d.Metadata.Revision = []string{"user.*", "^T3009W"}, api.ForwardFromOldest, first.Revision
	}))
	if changed.Created || changed.Unchanged || len(changed.Warnings) != 2 {
		t.Errorf("%+v", changed)
	}
	raw, err := f.Forwarders.Get(api.KindAuditForwarder, "siem")
	if err != nil || bytes.Contains(raw, []byte("correct-horse")) || bytes.Contains(raw, []byte("whsec_")) || !bytes.Contains(raw, []byte(`"X-Key":""`)) {
		t.Errorf("%s %v", raw, err)
	}
	list, err := f.Forwarders.List(api.KindAuditForwarder)
	if err != nil || len(list) != 1 || !bytes.Equal(list[0], raw) {
		t.Errorf("%s %v", list, err)
	}
	secrets, err := f.Forwarders.GetSecrets(t.Context(), authtest.Admin(), api.KindAuditForwarder, "siem")
	if err != nil || !bytes.Contains(secrets, []byte(forwardToken)) || !bytes.Contains(secrets, []byte(forwardSigned)) || !bytes.Contains(secrets, []byte(forwardHeader)) {
		t.Errorf("%s %v", secrets, err)
	}
	if list, err := f.Forwarders.ListSecrets(t.Context(), authtest.Admin(), api.KindAuditForwarder); err != nil || len(list) != 1 || !bytes.Equal(list[0], secrets) {
		t.Errorf("%s %v", list, err)
	}
	if err := f.Forwarders.Delete(t.Context(), authtest.Admin(), api.KindAuditForwarder, "siem"); err != nil {
		t.Error(err)
	}
	wantCode(t, "removed", f.Forwarders.Delete(t.Context(), authtest.Admin(), api.KindAuditForwarder, "siem"), api.CodeNotFound, "not found")
	_, err = f.Forwarders.Get(api.KindAuditForwarder, "siem")
	wantCode(t, "removed", err, api.CodeNotFound, "not found")

	type seen struct {
		Event, Code string
		Fields      map[string]any
	}
	var got []seen
	for _, e := range f.DB.Events()[events:] {
		got = append(got, seen{e.Event, e.Code, e.Fields})
		if text, _ := json.Marshal(e); strings.Contains(string(text), "correct-horse") || strings.Contains(string(text), "whsec_") || strings.Contains(string(text), "path-secret") {
			t.Errorf("%s", text)
		}
	}
	about := map[string]any{"name": "siem", "forwarder_type": "webhook", "endpoint": "https://siem.example.com"}
	with := map[string]any{"changed": []any{"spec.start", "spec.types"}}
	for k, v := range about {
		with[k] = v
	}
	read := map[string]any{"forwarders": []any{"siem"}}
	want := []seen{
		{"audit_forwarder.created", "TSP23I", about}, {"audit_forwarder.updated", "TSP24I", with},
		{"audit_forwarder.secrets_read", "TSP29I", read}, {"audit_forwarder.secrets_read", "TSP29I", read},
		{"audit_forwarder.deleted", "TSP25I", map[string]any{"name": "siem"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestForwarderSecretsAreSealedAndStayWithTheirReceiver: threats.md, secrets at rest.
func TestForwarderSecretsAreSealedAndStayWithTheirReceiver(t *testing.T) {
	f := authtest.New(t)
	putForwarder(t, f, forwarderDoc())
	if snapshot := f.DB.Snapshot(t); bytes.Contains(snapshot, []byte("correct-horse")) || bytes.Contains(snapshot, []byte("MfKQ9r8GKYqrTwj")) {
		t.Error("a secret is in the store as it is")
	}
	elsewhere := func(d *api.AuditForwarder) { d.Spec.Endpoint = "https://evil.example.com/" }
	for name, test := range map[string]struct {
		edit []func(*api.AuditForwarder)
		path string
	}{
		"the token": {[]func(*api.AuditForwarder){elsewhere, func(d *api.AuditForwarder) { d.Spec.BearerToken = "" }}, "spec.bearer_token"},
		"the key":   {[]func(*api.AuditForwarder){elsewhere, func(d *api.AuditForwarder) { d.Spec.SigningSecret = "" }}, "spec.signing_secret"},
		"a header":  {[]func(*api.AuditForwarder){elsewhere, func(d *api.AuditForwarder) { d.Spec.Headers["X-Key"] = "" }}, "spec.headers.X-Key"},
		"the path":  {[]func(*api.AuditForwarder){bare, func(d *api.AuditForwarder) { d.Spec.Endpoint = "https://siem.example.com/in" }}, "spec.bearer_token"},
	} {
		_, err := f.Forwarders.Put(t.Context(), authtest.Admin(), forwarderDoc(test.edit...), true)
		wantField(t, name, err, test.path, "stays as it is")
	}
	_, err := f.Forwarders.Put(t.Context(), authtest.Admin(), forwarderDoc(func(d *api.AuditForwarder) { d.Metadata.Name, d.Spec.Headers["X-Key"] = "new", "" }), true)
	wantField(t, "a new one", err, "spec.headers.X-Key", "is missing")

	// new ones count, and none takes away
	putForwarder(t, f, forwarderDoc(bare, func(d *api.AuditForwarder) { d.Spec.BearerToken = "rotated" }))
	if open := openForwarder(t, f); open.Spec.BearerToken != "rotated" || open.Spec.SigningSecret != forwardSigned || open.Spec.Headers["X-Key"] != forwardHeader {
		t.Errorf("%+v", open.Spec)
	}
	putForwarder(t, f, forwarderDoc(elsewhere, func(d *api.AuditForwarder) {
		d.Spec.BearerToken, d.Spec.SigningSecret, d.Spec.Headers = "none", "none", nil
	}))
	if open := openForwarder(t, f); open.Spec.BearerToken != "" || open.Spec.SigningSecret != "" || len(open.Spec.Headers) != 0 {
		t.Errorf("%+v", open.Spec)
	}
	// Authorization from a header that was kept, and from a token, are two.
	putForwarder(t, f, forwarderDoc(elsewhere, func(d *api.AuditForwarder) {
		d.Spec.BearerToken, d.Spec.Headers = "", map[string]string{"Authorization": "Splunk x"}
	}))
	_, err = f.Forwarders.Put(t.Context(), authtest.Admin(), forwarderDoc(elsewhere, func(d *api.AuditForwarder) {
		d.Spec.Headers = map[string]string{"authorization": "Splunk x"}
	}), true)
	wantField(t, "two", err, "spec.headers.authorization", "already")
	// otlp needs no signature, and takes the one away that was there
	putForwarder(t, f, forwarderDoc(elsewhere, func(d *api.AuditForwarder) {
		d.Spec.Type, d.Spec.SigningSecret, d.Spec.BearerToken, d.Spec.Headers = api.ForwardOTLP, "", "", nil
	}))
	if open := openForwarder(t, f); open.Spec.SigningSecret != "" || open.Spec.Type != api.ForwardOTLP {
		t.Errorf("%+v", open.Spec)
	}
}

func TestWhoWritesForwardersMayReadTheLog(t *testing.T) {
	f := authtest.New(t)
	rules := func(kind string, verbs ...string) api.RoleSpec {
		return api.RoleSpec{Allow: api.RoleConditions{Rules: []api.Rule{{Resources: []string{kind}, Verbs: verbs}}}}
	}
	f.PutRole(t, "forwarder", rules(api.KindAuditForwarder, "*"))
	f.PutRole(t, "reader", rules(api.KindEvent, api.VerbRead))
	f.AddUser(t, "alice", nil, "forwarder")
	f.AddUser(t, "bob", nil, "forwarder", "reader")
	as := func(name string) auth.Actor {
		id, _ := f.Login(t, name)
		return auth.Actor{User: name, Session: id}
	}
	_, err := f.Forwarders.Put(t.Context(), as("alice"), forwarderDoc(), true)
	wantCode(t, "alice", err, api.CodeForbidden, "without the right to read the audit log")
	if _, err := f.Forwarders.Put(t.Context(), as("bob"), forwarderDoc(), true); err != nil {
		t.Error(err)
	}
}

// TestForwardersDoNotSendTheLogToItself: each try would be an event, and so the reason
// for the next.
func TestForwardersDoNotSendTheLogToItself(t *testing.T) {
	f := authtest.New(t)
	for endpoint, own := range map[string]bool{
		"https://" + authtest.PublicAddr + "/events": true,
		"https://TELE.example.com.:443/":             true,
		"http://tele.example.com/":                   true,
		"https://" + authtest.ClusterName + "/":      true,
		"https://tele.example.com:8443/":             false, // another server may be there
		"https://siem.tele.example.com/":             false,
		"https://tele.example.com.evil.example/":     false,
	} {
		_, err := f.Forwarders.Put(t.Context(), authtest.Admin(), forwarderDoc(func(d *api.AuditForwarder) { d.Spec.Endpoint, d.Spec.AllowHTTP = endpoint, true }), true)
		if refused := err != nil; refused != own {
			t.Errorf("%s: %v", endpoint, err)
		}
		if own {
			wantField(t, endpoint, err, "spec.endpoint", "own address")
		}
	}
}

func TestForwardersBeginAtTheEndOrTheBeginning(t *testing.T) {
	f := authtest.New(t)
	cursors := f.Forwarders.Cursors()
	for _, start := range []string{"", api.ForwardFromOldest} {
		want := 0
		if start == "" {
			want = len(f.DB.Events())
		}
		putForwarder(t, f, forwarderDoc(func(d *api.AuditForwarder) { d.Spec.Start = start }))
		c, err := cursors.Load("siem")
		if err != nil || c.Number != uint64(want) || c.Life == "" || c.Revision == 0 {
			t.Errorf("%q: %+v %v, want %d", start, c, err, want)
		}
		if err := f.Forwarders.Delete(t.Context(), authtest.Admin(), api.KindAuditForwarder, "siem"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCursorsNeverGoBackNorOutliveTheirForwarder(t *testing.T) {
	// It stands: the transactions of one entry have one time, so no time tells lives apart.
	clock := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	f := authtest.NewOn(t, authtest.NewDB(func() time.Time { return clock }))
	cursors := f.Forwarders.Cursors()
	putForwarder(t, f, forwarderDoc())
	c, err := cursors.Load("siem")
	if err != nil {
		t.Fatal(err)
	}
	events := len(f.DB.Events())
	c.Number += 10
	c.Failing, c.Error, c.Updated = clock, "it did not answer in time", clock
	if err := cursors.Save(t.Context(), "siem", c); err != nil {
		t.Fatal(err)
	}
	commits := f.DB.Commits()
	if err := cursors.Save(t.Context(), "siem", c); err != nil || f.DB.Commits() != commits {
		t.Errorf("the same again was written, %v", err)
	}
	back := c
	back.Number--
	wantCode(t, "back", cursors.Save(t.Context(), "siem", back), api.CodeConflict, "already")

	want := []api.ForwarderStatus{{
		Name: "siem", Type: "webhook", Number: c.Number, Behind: 5, Updated: c.Updated, Failing: c.Failing, Error: c.Error,
	}}
	if d := cmp.Diff(want, f.Forwarders.Status(c.Number+5)); d != "" {
		t.Error(d)
	}
	// a change keeps the cursor, and lets the one who sent before save its last
	_, changed, err := f.Forwarders.Open()
	if err != nil {
		t.Fatal(err)
	}
	putForwarder(t, f, forwarderDoc(func(d *api.AuditForwarder) { d.Metadata.Description = "x" }))
	select {
	case <-changed:
	default:
		t.Error("nobody is told of the change")
	}
	c.Number++
	c.Error, c.Failing = "", time.Time{}
	if err := cursors.Save(t.Context(), "siem", c); err != nil {
		t.Error(err)
	}
	if events++; len(f.DB.Events()) != events {
		t.Error("cursors are no events")
	}
	// lines that were given up
	skipped := c
	skipped.Number, skipped.Skipped = c.Number+3, 3
	skip := api.ForwarderSkip{From: c.Number + 1, To: c.Number + 3, Count: 3, Reason: "retention took them before they were sent"}
	for range 2 { // the answer to the first may have been lost
		if err := cursors.Skip(t.Context(), "siem", skipped, skip); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.DB.Events()[events:]; len(got) != 1 || got[0].Event != api.EventForwardSkipped || got[0].Code != "TSP26E" || got[0].Fields["count"] != 3.0 || got[0].Fields["name"] != "siem" {
		t.Errorf("%+v", got)
	}
	skipped.Skipped, skip.Quiet = 4, true
	if err := cursors.Skip(t.Context(), "siem", skipped, skip); err != nil || len(f.DB.Events()) != events+1 {
		t.Error(err)
	}

	if err := f.Forwarders.Delete(t.Context(), authtest.Admin(), api.KindAuditForwarder, "siem"); err != nil {
		t.Fatal(err)
	}
	skipped.Number++
	wantCode(t, "gone", cursors.Save(t.Context(), "siem", skipped), api.CodeNotFound, "not found")
	putForwarder(t, f, forwarderDoc(func(d *api.AuditForwarder) { d.Spec.Start = api.ForwardFromOldest }))
	wantCode(t, "another one", cursors.Save(t.Context(), "siem", skipped), api.CodeNotFound, "another one has its name")
	if c, err := cursors.Load("siem"); err != nil || c.Number != 0 || c.Skipped != 0 {
		t.Errorf("%+v %v", c, err)
	}
	// even if the other one comes between the look and the write
	c, _ = cursors.Load("siem")
	c.Number = 7
	once := false
	f.DB.BeforeCommit(func() {
		if !once {
			once = true
			if _, err := f.DB.Commit(t.Context(), fsm.Txn{Ops: []fsm.Op{fsm.Delete("audit_forwarders/siem"), fsm.Delete("audit_cursors/siem")}}); err != nil {
				t.Error(err)
			}
		}
	})
	wantCode(t, "between", cursors.Save(t.Context(), "siem", c), api.CodeNotFound, "")
	if _, ok := f.DB.View().Get("audit_cursors/siem"); ok {
		t.Error("the cursor came back")
	}
}

// TestForwarderOfANewerVersionSendsNothing: what is not known may be a restriction.
func TestForwarderOfANewerVersionSendsNothing(t *testing.T) {
	f := authtest.New(t)
	for _, raw := range []string{
		`{"document":{"kind":"audit_forwarder","version":"v1","metadata":{"name":"siem"},"spec":{"type":"webhook","endpoint":"https://x.example.com/","only":["a"]}}}`,
		`{"document":{"kind":"audit_forwarder","version":"v1","metadata":{"name":"siem"},"spec":{"type":"webhook","endpoint":"https://x.example.com/","headers":{"X-Key":""}}}}`,
		`{"document":{"kind":"audit_forwarder","version":"v1","metadata":{"name":"siem"},"spec":{"type":"webhook","endpoint":"https://x.example.com/"}},"sealed":"AAAA"}`,
		`[]`,
	} {
		if _, err := f.DB.Commit(t.Context(), auth.PutRaw("audit_forwarders/siem", raw)); err != nil {
			t.Fatal(err)
		}
		open, _, err := f.Forwarders.Open()
		status := f.Forwarders.Status(1)
		if err != nil || len(open) != 0 || len(status) != 1 || status[0].Error == "" || status[0].Failing.IsZero() {
			t.Errorf("%s: %v %v %+v", raw, open, err, status)
		}
	}
}
