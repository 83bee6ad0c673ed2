package tests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// What `make soak` raises.
var (
	auditEvents = flag.Int("events", 6000, "requests to log while replicas die")
	auditOutage = flag.Duration("outage", 8*time.Second, "how long there is no quorum")
)

// auditFiles are the names of the files of a replica's audit log, oldest first.
func auditFiles(r *sallyport.Replica) ([]string, error) {
	entries, err := os.ReadDir(r.LogDir())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "spool" { // what this replica has to send, nobody else's
			names = append(names, e.Name())
		}
	}
	slices.Sort(names) // events.log comes last
	return names, nil
}

// auditSums are the sha256 of those files.
func auditSums(r *sallyport.Replica) (map[string]string, error) {
	names, err := auditFiles(r)
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for _, name := range names {
		f, err := os.Open(filepath.Join(r.LogDir(), name))
		if err != nil {
			return nil, err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil {
			return nil, err
		}
		sums[name] = fmt.Sprintf("%x", sum.Sum(nil))
	}
	return sums, nil
}

// auditAt is the state of audit at a replica.
func auditAt(ctx context.Context, r *sallyport.Replica) (*api.AuditStatus, error) {
	s, err := r.Status(ctx)
	if err != nil {
		return nil, err
	}
	if s.Audit == nil {
		return nil, fmt.Errorf("%s says nothing of audit", r.Name)
	}
	return s.Audit, nil
}

// sameLogs waits until nothing is under way, and all running replicas have the
// same files, byte for byte. It returns their names.
func sameLogs(t *testing.T, c *sallyport.Cluster) (files []string) {
	t.Helper()
	start := time.Now()
	ctx := within(t, 2*time.Minute)
	testbed.Wait(t, time.Minute, "the same audit log on all replicas", func() error {
		first := ""
		for _, r := range c.Replicas {
			if !r.Running() {
				continue
			}
			is, err := auditAt(ctx, r)
			if err != nil {
				return err
			}
			now := fmt.Sprintf("lines %d to %d, %d files, hash %s", is.First, is.Number, is.Files, is.Hash)
			if first == "" {
				first = now
			}
			if now != first || is.Behind+uint64(is.Queued)+uint64(is.SpoolBytes) > 0 || is.Problem != "" { //nolint:gosec // never negative
				return fmt.Errorf("%s has %s, another one %s; %+v", r.Name, now, first, *is)
			}
		}
		var want map[string]string
		for _, r := range c.Replicas {
			if !r.Running() {
				continue
			}
			sums, err := auditSums(r)
			if err != nil {
				return err
			}
			if want == nil {
				want = sums
			}
			if !maps.Equal(sums, want) {
				return fmt.Errorf("%s has %v, another one %v", r.Name, sums, want)
			}
			if files, err = auditFiles(r); err != nil {
				return err
			}
		}
		if i := slices.IndexFunc(files, func(name string) bool { return !strings.HasPrefix(name, "events") || !strings.HasSuffix(name, ".log") }); i >= 0 {
			return fmt.Errorf("%s is still there", files[i])
		}
		return nil
	})
	t.Logf("the same %d files on all replicas after %d ms", len(files), time.Since(start).Milliseconds())
	return files
}

// logged is a line of the log, and what tests ask of it.
type logged struct {
	Number    uint64 `json:"number"`
	Event     string `json:"event"`
	Code      string `json:"code"`
	Name      string `json:"name"`
	Replica   string `json:"replica"`
	Namespace string `json:"resource_namespace"`
	Path      string `json:"request_path"`

	raw []byte // with its line feed
}

// journal is each line of a replica's log once, as its files have it.
func journal(t *testing.T, r *sallyport.Replica) (lines []logged) {
	t.Helper()
	files, err := auditFiles(r)
	if err != nil {
		t.Fatal(err)
	}
	last := uint64(0)
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(r.LogDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		for raw := range bytes.Lines(b) {
			l := logged{raw: raw}
			if err := json.Unmarshal(raw, &l); err != nil {
				t.Fatalf("%s of %s: %v: %q", name, r.Name, err, raw)
			}
			if l.Number <= last {
				continue // a copy: that it is equal, verify finds
			}
			if last > 0 && l.Number != last+1 {
				t.Fatalf("%s of %s: line %d comes after line %d", name, r.Name, l.Number, last)
			}
			last = l.Number
			lines = append(lines, l)
		}
	}
	return lines
}

// verified fails the test unless tctl finds nothing wrong at any replica.
func verified(t *testing.T, c *sallyport.Cluster) {
	t.Helper()
	out := ok(t, c.Replicas[0].Tctl(within(t, time.Minute), "audit", "verify", "--all")).Stdout
	if n := strings.Count(out, ": ok, "); n != len(c.Replicas) {
		t.Errorf("%d of %d replicas are said to be good: %s", n, len(c.Replicas), out)
	}
}

// diesWith is how much of what a replica was asked last may be lost with it: events
// of requests that were not yet committed, and in no spool. A busy machine is slower.
const diesWith = 3 * time.Second

// question is a request of the load, and its outcome.
type question struct {
	at     *sallyport.Replica
	ended  time.Time
	status int // 0: no answer
	tries  int // a client may send a GET again when a connection breaks
}

// load is many GETs at once, through several replicas, each with a namespace of its
// own that no other request names.
type load struct {
	name    string
	cancel  context.CancelFunc
	workers sync.WaitGroup
	n, good atomic.Int64

	mu     sync.Mutex
	asked  map[string]question // by namespace
	deaths map[*sallyport.Replica][]time.Time
	failed []error // the first few
}

// startAuditLoad has a user ask through replicas, with so many at once through each.
func startAuditLoad(t *testing.T, u *sallyport.User, name string, atOnce int, through ...*sallyport.Replica) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{name: name, cancel: cancel, asked: map[string]question{}, deaths: map[*sallyport.Replica][]time.Time{}}
	for _, r := range through {
		client := &http.Client{Timeout: testbed.Patience, Transport: &http.Transport{TLSClientConfig: kubeTLS(t, u, "http/1.1"), MaxIdleConnsPerHost: atOnce}}
		for range atOnce {
			l.workers.Go(func() {
				for ctx.Err() == nil {
					if l.ask(ctx, client, r) {
						continue
					}
					select { // it may be dead: others are asked meanwhile
					case <-ctx.Done():
					case <-time.After(50 * time.Millisecond):
					}
				}
			})
		}
		t.Cleanup(client.CloseIdleConnections)
	}
	t.Cleanup(func() { cancel(); l.workers.Wait() })
	return l
}

// ask sends one GET; what has begun is judged, too.
func (l *load) ask(ctx context.Context, client *http.Client, r *sallyport.Replica) bool {
	marker := fmt.Sprintf("%s-%d", l.name, l.n.Add(1))
	is := question{at: r}
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { is.tries++ }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.WithoutCancel(ctx), trace), http.MethodGet,
		r.URL()+"/api/v1/namespaces/"+marker+"/pods?resourceVersion=0", nil)
	if err != nil {
		l.fail(err)
		return false
	}
	resp, err := client.Do(req)
	if err == nil {
		var body []byte
		body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			is.status = resp.StatusCode
			if is.status != http.StatusOK {
				err = fmt.Errorf("%s: %.300s", resp.Status, body)
			}
		}
	}
	is.ended = time.Now()
	l.mu.Lock()
	l.asked[marker] = is
	l.mu.Unlock()
	if err != nil {
		l.fail(fmt.Errorf("%s at %s: %w", is.ended.Format("15:04:05.000"), r.Name, err))
		return false
	}
	l.good.Add(1)
	return true
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failed) < 5 {
		l.failed = append(l.failed, err)
	}
}

func (l *load) errs() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.failed...)
}

// sameLogs is sameLogs when the events of all that was answered are there: a moment after
// an answer its event is nowhere to be seen, on the way to the leader. What is missing in
// the end, check tells.
func (l *load) sameLogs(t *testing.T, c *sallyport.Cluster) []string {
	t.Helper()
	deadline := time.Now().Add(testbed.Patience)
	for {
		files := sameLogs(t, c)
		there := map[string]bool{}
		for _, line := range journal(t, c.Replicas[0]) {
			there[line.Namespace] = true
		}
		missing := 0
		for marker, q := range l.asked {
			if _, died := l.diedWith(q); !died && q.status == http.StatusOK && !there[marker] {
				missing++
			}
		}
		if missing == 0 || time.Now().After(deadline) {
			return files
		}
		t.Logf("%d events are still on their way", missing)
	}
}

// wait waits until so many GETs were answered 200 in all.
func (l *load) wait(t *testing.T, n int) {
	t.Helper()
	testbed.Wait(t, time.Duration(n)*5*time.Millisecond, fmt.Sprintf("%d answers", n), func() error {
		if good := l.good.Load(); good < int64(n) {
			return fmt.Errorf("%d, %w", good, l.errs())
		}
		return nil
	})
}

// more waits for n more answers.
func (l *load) more(t *testing.T, n int) { t.Helper(); l.wait(t, int(l.good.Load())+n) }

// kill kills a replica, with which the events of a moment may die.
func (l *load) kill(r *sallyport.Replica) {
	r.Kill()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaths[r] = append(l.deaths[r], time.Now())
}

func (l *load) stop() {
	l.cancel()
	l.workers.Wait()
}

// diedWith says whether a request was answered so shortly before its replica was
// killed that its event may have been in memory alone.
func (l *load) diedWith(q question) (before time.Duration, died bool) {
	for _, death := range l.deaths[q.at] {
		if before = death.Sub(q.ended); before >= 0 && before < diesWith {
			return before, true
		}
	}
	return 0, false
}

// check compares what was asked with the log: who got an answer is there exactly once,
// who got none at most once. The load must have stopped.
func (l *load) check(t *testing.T, log []logged) {
	t.Helper()
	found := map[string]int{}
	for _, line := range log {
		if strings.HasPrefix(line.Namespace, l.name+"-") && line.Event == "kube.request" {
			found[line.Namespace]++
		}
	}
	sure, cut, cutThere, lost, oldest, missing := 0, 0, 0, 0, time.Duration(0), []string{}
	for marker, is := range l.asked {
		n := found[marker]
		delete(found, marker)
		if n > max(is.tries, 1) {
			t.Errorf("%s was asked for %d times and is %d times in the log", marker, is.tries, n)
		}
		if before, died := l.diedWith(is); died || is.status != http.StatusOK {
			cut++
			cutThere += min(n, 1)
			if n == 0 && is.status == http.StatusOK {
				lost++
				oldest = max(oldest, before)
			}
			continue
		}
		if sure++; n == 0 {
			missing = append(missing, fmt.Sprintf("%s at %s %s", marker, is.at.Name, is.ended.Format("15:04:05.000")))
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		t.Errorf("%d of %d events are missing: %v; deaths: %v", len(missing), sure, missing[:min(len(missing), 10)], l.deaths)
	}
	if len(found) > 0 {
		t.Errorf("%d events of requests that nobody made: %v", len(found), slices.Collect(maps.Keys(found))[:1])
	}
	t.Logf("%s: %d requests whose replica lived on for %v, each in the log once; of %d others %d are there; %d that were answered are not, the first %d ms before its replica was killed",
		l.name, sure, diesWith, cut, cutThere, lost, oldest.Milliseconds())
}
