package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Two of three replicas are gone for a while: by the third one requests go on, and
// their events wait there (policy spool), or they are refused (strict). Nothing is
// missing afterwards, and nothing is there twice.
func TestAuditWithoutQuorum(t *testing.T) {
	c := ownCluster(t, sallyport.Options{Args: []string{"--audit-segment-size=1MiB"}})
	ctx := within(t, 3*time.Minute+2**auditOutage)
	_, others := followers(t, c)
	survivor := others[0]
	alice := newUser(t, c, survivor, "alice", "--k8s-groups=system:masters")
	var gone []*sallyport.Replica
	for _, r := range c.Replicas {
		if r != survivor {
			gone = append(gone, r)
		}
	}
	e := &outage{c: c, survivor: survivor, gone: gone, alice: alice}
	t.Run("the spool follows", func(t *testing.T) { e.spools(ctx, t) })
	t.Run("the spool outlives kill -9", func(t *testing.T) { e.killed(ctx, t) })
	t.Run("strict", func(t *testing.T) { e.strict(ctx, t) })
}

type outage struct {
	c        *sallyport.Cluster
	survivor *sallyport.Replica
	gone     []*sallyport.Replica
	alice    *sallyport.User
}

func (e *outage) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	for _, r := range e.gone {
		if err := r.Process().Signal(s); err != nil {
			t.Fatal(err)
		}
	}
}

// healed waits for a leader, and that all have the same log.
func (e *outage) healed(ctx context.Context, t *testing.T) []logged {
	t.Helper()
	if err := e.c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, e.c)
	sameLogs(t, e.c)
	verified(t, e.c)
	return journal(t, e.gone[0])
}

func (e *outage) spools(ctx context.Context, t *testing.T) {
	l := startAuditLoad(t, e.alice, "spooled", 3, e.survivor)
	l.wait(t, 100)
	e.signal(t, syscall.SIGSTOP)
	stopped := time.Now()
	ok(t, e.alice.KubectlAt(ctx, e.survivor, "exec", pod, "--", "echo", "without quorum"))
	t.Logf("exec took %d ms after the quorum was lost", time.Since(stopped).Milliseconds())
	never(t, *auditOutage-time.Since(stopped), func() error { return l.errs() })
	during := l.good.Load()
	l.more(t, 50) // it goes on
	is := waitSpool(ctx, t, e.survivor, 1)
	if !strings.Contains(is.Problem, "events can't reach the cluster since ") || !strings.Contains(is.Problem, "are in the spool, which holds 256 MiB") {
		t.Errorf("the problem: %q", is.Problem)
	}
	if said := ok(t, e.survivor.Tctl(ctx, "status")).Stdout; !strings.Contains(said, "Audit fault") || !strings.Contains(said, "are in the spool") || !strings.Contains(said, "policy spool") {
		t.Errorf("tctl status: %s", said)
	}
	if metric(ctx, t, e.survivor, "sallyport_audit_emitter_failing") != 1 || metric(ctx, t, e.survivor, "sallyport_audit_spool_bytes") == 0 {
		t.Error("the metrics don't say that events can't reach the cluster")
	}
	e.signal(t, syscall.SIGCONT)
	healed := time.Now()
	l.more(t, 50)
	l.stop()
	if err := l.errs(); err != nil {
		t.Errorf("requests failed: %v", err)
	}
	e.healed(ctx, t)
	l.sameLogs(t, e.c)
	log := journal(t, e.gone[0])
	t.Logf("%d requests in %v without quorum; all events are on all disks %d ms after it was back", during, *auditOutage, time.Since(healed).Milliseconds())
	l.check(t, log)
	found := map[string]int{}
	for _, line := range log {
		found[line.Event]++
	}
	if found["session.start"] != 1 || found["exec"] != 1 || found["session.end"] != 1 || found["audit.lost"] != 0 {
		t.Errorf("exec, which began without quorum: %v", found)
	}
	if metric(ctx, t, e.survivor, "sallyport_audit_emitter_failing") != 0 || metric(ctx, t, e.survivor, "sallyport_audit_events_lost_total") != 0 {
		t.Error("the metrics still say that something is wrong")
	}
}

func (e *outage) killed(ctx context.Context, t *testing.T) {
	for _, r := range e.gone {
		r.Kill()
	}
	l := startAuditLoad(t, e.alice, "outlived", 3, e.survivor)
	l.wait(t, 500)
	l.stop()
	waitSpool(ctx, t, e.survivor, int(l.good.Load())) // what is in memory alone would die
	e.survivor.Kill()
	for _, r := range e.c.Replicas {
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	e.healed(ctx, t)
	l.sameLogs(t, e.c)
	l.check(t, journal(t, e.gone[0]))
	if err := l.errs(); err != nil {
		t.Errorf("requests failed: %v", err)
	}
}

func (e *outage) strict(ctx context.Context, t *testing.T) {
	for _, r := range e.c.Replicas {
		r.Kill()
		if err := r.Start("--audit-policy=strict"); err != nil {
			t.Fatal(err)
		}
	}
	e.healed(ctx, t)
	if said := ok(t, e.survivor.Tctl(ctx, "status")).Stdout; !strings.Contains(said, "policy strict") {
		t.Errorf("tctl status: %s", said)
	}
	watch := startStream(t, "watch", kubectl(e.alice, nil, at(t, e.alice, e.survivor), "get", "pods", "-w"))
	watch.waitFor(t, pod)
	client := &http.Client{Timeout: testbed.Patience, Transport: &http.Transport{TLSClientConfig: kubeTLS(t, e.alice, "http/1.1")}}
	defer client.CloseIdleConnections()
	get := func() (int, []byte) {
		resp, err := client.Get(e.survivor.URL() + "/api/v1/namespaces/strict/pods")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	wait := func(status int) (body []byte) {
		t.Helper()
		testbed.Wait(t, 20*time.Second, fmt.Sprintf("an answer %d", status), func() (err error) {
			var is int
			if is, body = get(); is != status {
				return fmt.Errorf("%d: %s", is, body)
			}
			return nil
		})
		return body
	}
	wait(http.StatusOK)
	e.signal(t, syscall.SIGSTOP)
	stopped := time.Now()
	body := wait(http.StatusServiceUnavailable)
	t.Logf("refused %d ms after the quorum was lost", time.Since(stopped).Milliseconds())
	var status struct {
		Kind, Reason, Message string
		Code                  int
	}
	if err := json.Unmarshal(body, &status); err != nil || status.Kind != "Status" || status.Code != 503 || status.Reason != "ServiceUnavailable" {
		t.Errorf("no Status of Kubernetes: %v, %s", err, body)
	}
	for _, want := range []string{"audit", "strict", "try", "tctl status"} {
		if !strings.Contains(status.Message, want) {
			t.Errorf("%q is not in %q", want, status.Message)
		}
	}
	refused(t, e.alice.KubectlAt(ctx, e.survivor, "exec", pod, "--", "echo", "never"), "audit")
	ok(t, fixture.kube.Kubectl(ctx, "label", "pod", pod, fmt.Sprintf("strict=at-%d", stopped.UnixNano()), "--overwrite"))
	testbed.Wait(t, 10*time.Second, "the watch to go on", func() error { // it says the pod again
		if n := strings.Count(watch.said(), pod); n < 2 {
			return fmt.Errorf("%d: %s", n, watch.said())
		}
		return nil
	})
	// Clients that go on trying must not be what keeps the door shut: their refusals are
	// counted, and are no events to be sent first.
	trying, stop := context.WithCancel(ctx)
	var clients sync.WaitGroup
	var tries atomic.Int64
	for range 4 {
		clients.Go(func() {
			for trying.Err() == nil {
				if resp, err := client.Get(e.survivor.URL() + "/api/v1/namespaces/strict/pods"); err == nil {
					_ = resp.Body.Close() // its status is the test's to ask for
					tries.Add(1)
				}
			}
		})
	}
	testbed.Wait(t, testbed.Patience, "clients that try in vain", func() error {
		if n := tries.Load(); n < 200 {
			return fmt.Errorf("%d tries", n)
		}
		return nil
	})
	e.signal(t, syscall.SIGCONT)
	healed := time.Now()
	wait(http.StatusOK)
	t.Logf("answered %d ms after the quorum was back, after %d tries of others", time.Since(healed).Milliseconds(), tries.Load())
	stop()
	clients.Wait()
	for _, line := range e.healed(ctx, t) {
		if line.Event == "audit.lost" {
			t.Errorf("%s", line.raw)
		}
	}
}

// waitSpool waits until so many events are in a replica's spool, and none in its
// memory.
func waitSpool(ctx context.Context, t *testing.T, r *sallyport.Replica, events int) *api.AuditStatus {
	t.Helper()
	var is *api.AuditStatus
	testbed.Wait(t, 20*time.Second, fmt.Sprintf("%d events in the spool of %s", events, r.Name), func() (err error) {
		if is, err = auditAt(ctx, r); err != nil {
			return err
		}
		if n := metric(ctx, t, r, "sallyport_audit_spool_events"); n < float64(events) || is.SpoolBytes == 0 {
			return fmt.Errorf("%g there; %+v", n, *is)
		}
		return nil
	})
	return is
}

// metric is a value without labels, as a replica's diagnostic port shows it.
func metric(ctx context.Context, t *testing.T, r *sallyport.Replica, name string) float64 {
	t.Helper()
	var text bytes.Buffer
	if err := r.Diag(ctx, "/metrics", &text); err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text.String())
	if m == nil {
		t.Fatalf("%s has no metric %s", r.Name, name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
