package tests

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// A webhook and a collector that fail half of the time, and a leader that dies in
// between: both get every line, in order.
func TestAuditForwarders(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, sallyport.Options{Args: []string{"--audit-segment-size=1MiB"}})
	ctx := within(t, 2*time.Minute)
	_, others := followers(t, c)
	alice := newUser(t, c, others[0], "alice", "--k8s-groups=system:masters")
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	signing := "whsec_" + base64.StdEncoding.EncodeToString(key)
	hook, otlp := startReceiver(t, readWebhook(key)), startReceiver(t, readOTLP)
	for name, r := range map[string]*receiver{"hook": hook, "otlp": otlp} {
		more := "  type: webhook\n  signing_secret: " + signing + "\n"
		if r == otlp {
			more = "  type: otlp\n"
		}
		ok(t, others[0].TctlStdin(ctx, fmt.Sprintf("kind: audit_forwarder\nversion: v1\nmetadata:\n  name: %s\nspec:\n  endpoint: %s/v1/logs\n  bearer_token: bearer-of-%s\n  start: oldest\n  ca_cert: |\n%s%s",
			name, r.URL, name, indented(r.ca()), more), "create"))
	}
	l := startAuditLoad(t, alice, "forwarded", 2, others...)
	hook.wait(t, 1) // some, not all
	otlp.wait(t, 1)
	leader := leaderOf(t, c)
	l.kill(leader)
	t.Logf("%s, the leader, is killed when the webhook has %d lines and the collector %d", leader.Name, hook.last(), otlp.last())
	l.more(t, 800)
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	if err := leader.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	l.stop()
	l.sameLogs(t, c)
	log := journal(t, others[0])
	for what, r := range map[string]*receiver{"the webhook": hook, "the collector": otlp} {
		r.wait(t, log[len(log)-1].Number)
		r.check(t, what, log)
	}
	l.check(t, log)
	for _, r := range c.Replicas { // whichever is asked
		testbed.Wait(t, 20*time.Second, "the cursors in the status of "+r.Name, func() error {
			said := ok(t, r.Tctl(ctx, "status")).Stdout
			if !strings.Contains(said, "hook: up to date\n") || !strings.Contains(said, "otlp: up to date\n") {
				return errors.New(said)
			}
			return nil
		})
	}
	shown := ok(t, others[0].Tctl(ctx, "get", "audit_forwarders")).Stdout
	if !strings.Contains(shown, "name: hook") || strings.Contains(shown, signing) || strings.Contains(shown, "bearer-of") {
		t.Errorf("tctl get: %s", shown)
	}
}

func indented(text []byte) string {
	var b strings.Builder
	for line := range bytes.Lines(text) {
		fmt.Fprintf(&b, "    %s", line)
	}
	return b.String()
}

// receiver takes events over HTTPS, but fails every second request: it says so, or breaks
// the connection, before it has read the events or after it has taken them.
type receiver struct {
	*httptest.Server

	read func(*http.Request, []byte) ([][]byte, error) // the lines of a request

	mu       sync.Mutex
	requests int
	failed   int
	taken    [][]byte // by number, from 1
	repeats  int
	problems []string
}

func startReceiver(t *testing.T, read func(*http.Request, []byte) ([][]byte, error)) *receiver {
	t.Helper()
	r := &receiver{read: read}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

// ca is the certificate of the receiver, its own authority.
func (r *receiver) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
}

func (r *receiver) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if r.requests%2 == 1 {
		r.failed++
		switch r.failed % 3 {
		case 1:
			http.Error(w, "not now", http.StatusInternalServerError)
			return
		case 2:
			panic(http.ErrAbortHandler)
		}
	}
	body, err := io.ReadAll(req.Body)
	var lines [][]byte
	if err == nil {
		lines, err = r.read(req, body)
	}
	if err != nil {
		r.problems = append(r.problems, err.Error())
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	for _, line := range lines {
		if err := r.take(line); err != nil {
			r.problems = append(r.problems, err.Error())
		}
	}
	if r.requests%2 == 1 {
		panic(http.ErrAbortHandler) // it has them, and the sender does not know
	}
	w.WriteHeader(http.StatusNoContent)
}

// take notes a line: the next one, or a repeat. r.mu is held.
func (r *receiver) take(line []byte) error {
	var l logged
	if err := json.Unmarshal(line, &l); err != nil {
		return fmt.Errorf("%w: %q", err, line)
	}
	switch next := uint64(len(r.taken)) + 1; {
	case l.Number == next:
		r.taken = append(r.taken, bytes.Clone(line))
	case l.Number > next || l.Number == 0:
		return fmt.Errorf("line %d comes where line %d is the next", l.Number, next)
	case !bytes.Equal(line, r.taken[l.Number-1]):
		return fmt.Errorf("line %d comes again, and is another one", l.Number)
	default:
		r.repeats++
	}
	return nil
}

func (r *receiver) last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(len(r.taken))
}

func (r *receiver) wait(t *testing.T, number uint64) {
	t.Helper()
	testbed.Wait(t, 2*testbed.Patience, fmt.Sprintf("line %d at the receiver", number), func() error {
		if got := r.last(); got < number {
			return fmt.Errorf("it has %d", got)
		}
		return nil
	})
}

// check compares what came with the log.
func (r *receiver) check(t *testing.T, what string, log []logged) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.problems {
		t.Errorf("%s: %s", what, p)
	}
	for i, l := range log {
		if !bytes.Equal(r.taken[i], bytes.TrimSuffix(l.raw, []byte("\n"))) {
			t.Fatalf("%s: line %d is %s, not %s", what, l.Number, r.taken[i], l.raw)
		}
	}
	t.Logf("%s: %d lines in order, %d of them came again; %d of %d requests failed", what, len(r.taken), r.repeats, r.failed, r.requests)
	if r.failed < 2 {
		t.Errorf("%s failed %d times, too few to show anything", what, r.failed)
	}
}

// readWebhook reads a JSON array that is signed as Standard Webhooks say.
func readWebhook(key []byte) func(*http.Request, []byte) ([][]byte, error) {
	return func(req *http.Request, body []byte) ([][]byte, error) {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", req.Header.Get("Webhook-Id"), req.Header.Get("Webhook-Timestamp"), body)
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); req.Header.Get("Webhook-Signature") != want {
			return nil, fmt.Errorf("the signature is %q, not %q", req.Header.Get("Webhook-Signature"), want)
		}
		if got := req.Header.Get("Authorization"); got != "Bearer bearer-of-hook" {
			return nil, fmt.Errorf("authorization: %q", got)
		}
		var all []json.RawMessage
		if err := json.Unmarshal(body, &all); err != nil {
			return nil, err
		}
		var lines [][]byte
		for _, line := range all {
			lines = append(lines, line)
		}
		return lines, nil
	}
}

// readOTLP reads what a collector would: an ExportLogsServiceRequest.
func readOTLP(req *http.Request, body []byte) ([][]byte, error) {
	if got := req.Header.Get("Content-Type"); got != "application/x-protobuf" || req.URL.Path != "/v1/logs" {
		return nil, fmt.Errorf("%s to %s", got, req.URL.Path)
	}
	if req.Header.Get("Content-Encoding") == "gzip" {
		zipped, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if body, err = io.ReadAll(zipped); err != nil {
			return nil, err
		}
	}
	var export collector.ExportLogsServiceRequest
	if err := proto.Unmarshal(body, &export); err != nil {
		return nil, err
	}
	var lines [][]byte
	for _, of := range export.ResourceLogs {
		for _, scope := range of.ScopeLogs {
			for _, record := range scope.LogRecords {
				if err := checkRecord(record); err != nil {
					return nil, err
				}
				lines = append(lines, []byte(record.Body.GetStringValue()))
			}
		}
	}
	return lines, nil
}

// checkRecord compares what a collector indexes with the line.
func checkRecord(record *logs.LogRecord) error {
	var e event
	line := record.Body.GetStringValue()
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return fmt.Errorf("%w: %q", err, line)
	}
	is := map[string]string{}
	for _, a := range record.Attributes {
		is[a.Key] = a.Value.GetStringValue()
	}
	at, err := time.Parse(time.RFC3339Nano, e.text("time"))
	if err != nil || record.TimeUnixNano != uint64(at.UnixNano()) { //nolint:gosec // of this century
		return fmt.Errorf("time %d, %w: %s", record.TimeUnixNano, err, line)
	}
	severities := map[string]string{"I": "INFO", "W": "WARN", "E": "ERROR"}
	code := e.text("code")
	if record.SeverityText != severities[code[len(code)-1:]] || record.EventName != e.text("event") || is["user"] != e.text("user") || is["code"] != code || len(is) != len(e) {
		return fmt.Errorf("severity %s, event %s, attributes %v: %s", record.SeverityText, record.EventName, is, line)
	}
	return nil
}

// The role auditor may read the log from afar, and others are told what it takes. A
// follower goes on while the replica that it asks is started anew.
func TestAuditors(t *testing.T) {
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, time.Minute)
	r := c.Replicas[1]
	ada := newUser(t, c, r, "ada", "--roles=auditor")
	eve := newUser(t, c, r, "eve", "--k8s-groups=dev")

	if got := ok(t, ada.Tctl(ctx, "audit", "ls", "--type=user.login", "--user=eve")).Stdout; strings.Count(got, "\n") != 1 || !strings.Contains(got, "user.login") {
		t.Errorf("audit ls: %s", got)
	}
	if got := ok(t, ada.Tctl(ctx, "audit", "verify", "--all")).Stdout; strings.Count(got, ": ok, ") != 3 {
		t.Errorf("audit verify: %s", got)
	}
	sameLogs(t, c)
	log := journal(t, r)
	if got := ok(t, ada.Tctl(ctx, "audit", "export", fmt.Sprintf("--to=%d", len(log)))).Stdout; got != string(slices.Concat(raws(log)...)) {
		t.Errorf("audit export is not the journal: %s", got)
	}
	waitEvent(t, c.Replicas[2], "who took a copy", func(e event) bool { return e.text("event") == "audit.export" && e.text("user") == "ada" })
	for _, args := range [][]string{{"ls"}, {"verify"}, {"export"}} {
		refused(t, eve.Tctl(ctx, append([]string{"audit"}, args...)...), `user "eve"`, "event")
	}
	refused(t, ada.Tctl(ctx, "users", "ls"), "ada") // an auditor is no administrator

	follow := startStream(t, "audit ls --follow", testbed.Command{
		Name: "tctl", Args: []string{c.Bin.Path("tctl"), "audit", "ls", "--follow", "--format=json", "--type=role.*"}, Env: ada.Env(), Dir: ada.Home,
	})
	shows := func(name string, at *sallyport.Replica) {
		t.Helper()
		ok(t, at.TctlStdin(ctx, roleYAML(name, "dev", ""), "create"))
		made := time.Now()
		follow.waitFor(t, `"name":"`+name+`"`)
		took := time.Since(made)
		t.Logf("the follower shows %s, made at %s, after %d ms", name, at.Name, took.Milliseconds())
		if most := patient(t, 2*time.Second); took > most {
			t.Errorf("the follower shows %s after %v", name, took)
		}
	}
	shows("before", c.Replicas[0])
	r.Kill()
	ok(t, c.Replicas[0].TctlStdin(ctx, roleYAML("meanwhile", "dev", ""), "create"))
	follow.waitFor(t, "The replica can't be asked")
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	follow.waitFor(t, `"name":"meanwhile"`)
	shows("afterwards", c.Replicas[2])
	for _, name := range []string{"before", "meanwhile", "afterwards"} {
		if n := strings.Count(follow.said(), `"name":"`+name+`"`); n != 1 {
			t.Errorf("%s is shown %d times: %s", name, n, follow.said())
		}
	}
}

func raws(log []logged) (all [][]byte) {
	for _, l := range log {
		all = append(all, l.raw)
	}
	return all
}
