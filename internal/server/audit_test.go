package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/testport"
)

// logFiles are the files of replica i's audit log, by name.
func (r *replicas) logFiles(i int) map[string]string {
	r.t.Helper()
	dir := filepath.Join(r.opts[i].DataDir, "log")
	names, err := filepath.Glob(filepath.Join(dir, "events*.log"))
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // renamed meanwhile
			r.t.Fatal(err)
		}
		out[filepath.Base(name)] = string(b)
	}
	return out
}

// sameLogs waits until these replicas have the same files, which satisfy ok.
func (r *replicas) sameLogs(ok func(files map[string]string) error, of ...int) map[string]string {
	r.t.Helper()
	var files map[string]string
	eventually(r.t, patience, fmt.Sprintf("the audit logs of the replicas %d are the same", of), func() error {
		files = r.logFiles(of[0])
		for _, i := range of[1:] {
			if others := r.logFiles(i); !maps.Equal(files, others) {
				return fmt.Errorf("replica %d has %v, replica %d %v", of[0], sizes(files), i, sizes(others))
			}
		}
		if ok == nil {
			return nil
		}
		return ok(files)
	})
	return files
}

func sizes(files map[string]string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		out = append(out, fmt.Sprint(name, " of ", len(files[name]), " bytes"))
	}
	return out
}

// segmentFile is the name of a sealed segment's file.
func segmentFile(first uint64) string { return fmt.Sprintf("events-%020d.log", first) }

// healthyLogs waits until all replicas of the cluster, n of them, have sound logs.
func (r *replicas) healthyLogs(i, n int) (out []api.AuditVerified) {
	r.t.Helper()
	eventually(r.t, patience, "all audit logs are healthy", func() (err error) {
		if out, err = r.admin(i).AuditVerify(r.t.Context(), "all", nil); err != nil {
			return err
		}
		for _, v := range out {
			if !v.OK || !v.Done || v.Error != "" || v.Number != v.Last || v.Hash == "" {
				return fmt.Errorf("%+v, %+v", v, v.Problem)
			}
		}
		if len(out) != n {
			return fmt.Errorf("%d of %d replicas: %+v", len(out), n, out)
		}
		return nil
	})
	return out
}

// use makes an event by a request of a user through replica i.
func (r *replicas) use(c *http.Client, i int, path string) {
	r.t.Helper()
	eventually(r.t, patience, fmt.Sprintf("a request through replica %d", i), func() error {
		if status, body := r.get(c, i, path); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
}

func holds(words ...string) func(map[string]string) error {
	return func(files map[string]string) error {
		for _, word := range words {
			if !strings.Contains(files["events.log"], word) {
				return fmt.Errorf("no %s in events.log", word)
			}
		}
		return nil
	}
}

func TestEveryReplicaHoldsTheAuditLogOfAll(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, nil)
	r.addUser(0, "alice", "devs")
	creds := r.login(1, "alice")
	for i := range 3 {
		r.use(r.kubeClient(creds), i, fmt.Sprintf("/api/through-%d&<x>", i))
	}
	files := r.sameLogs(holds("through-0", "through-1", "through-2", api.EventUserCreate, api.EventUserLogin), 0, 1, 2)
	r.healthyLogs(1, 3)

	t.Run("it is searched on any", func(t *testing.T) {
		for i := range 3 {
			page, err := r.admin(i).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventKubeRequest}, Grep: "through-[02]"})
			if err != nil || len(page.Events) != 2 {
				t.Fatalf("replica %d: %+v, %v", i, page, err)
			}
			for _, e := range page.Events {
				if !strings.Contains(files["events.log"], string(e)+"\n") {
					t.Errorf("replica %d gave %s, which is no line of the log", i, e)
				}
			}
			// Byte for byte: who has a page can check its chain.
			page, err = r.admin(i).Audit(t.Context(), api.AuditQuery{Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			var lines bytes.Buffer
			for _, e := range page.Events {
				fmt.Fprintf(&lines, "%s\n", e)
			}
			if got, err := chain.Verify(&lines, chain.Options{First: 1}); err != nil || got.Problem != nil || got.Lines != len(page.Events) || page.Missing != nil {
				t.Errorf("%+v, %+v, %v", got, got.Problem, err)
			}
		}
		// Who waits is told of what comes through another replica.
		page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{Newest: true, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		const many = 20
		followed := make(chan []string, 1)
		go func() {
			var all []string
			for next, begin := page.Last, time.Now(); time.Since(begin) < patience; {
				page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{After: next, Limit: 3, Wait: api.Duration(20 * time.Second)})
				if err != nil {
					t.Error(err)
					break
				}
				next = page.Next
				for _, e := range page.Events {
					all = append(all, string(e))
				}
				if strings.Count(strings.Join(all, ""), "/api/awaited") >= many {
					break
				}
			}
			followed <- all
		}()
		for i := range many {
			r.use(r.kubeClient(creds), i%3, "/api/awaited")
		}
		all := <-followed
		lines := strings.Split(strings.TrimSpace(r.sameLogs(nil, 0, 1, 2)["events.log"]), "\n")
		if diff := cmp.Diff(lines[page.Last:int(page.Last)+len(all)], all); diff != "" || len(all) < many {
			t.Errorf("who follows got %d lines: %s", len(all), diff)
		}
	})
	t.Run("an export is of its lines, and is told of", func(t *testing.T) {
		var out bytes.Buffer
		if _, err := r.admin(2).AuditExport(t.Context(), 2, 4, &out); err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(files["events.log"], "\n")
		if diff := cmp.Diff(strings.Join(lines[1:4], ""), out.String()); diff != "" {
			t.Error(diff)
		}
		page, err := r.admin(2).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventAuditExport}})
		if err != nil || len(page.Events) != 1 || !strings.Contains(string(page.Events[0]), `"from":2,"to":4`) {
			t.Errorf("%s, %v", page.Events, err)
		}
	})
	t.Run("it is for auditors alone", func(t *testing.T) {
		user := r.apiClient(0, creds)
		if _, err := user.Audit(t.Context(), api.AuditQuery{}); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("search: %v", err)
		}
		if _, err := user.AuditVerify(t.Context(), "all", nil); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("verify: %v", err)
		}
		if _, err := user.AuditExport(t.Context(), 0, 0, &bytes.Buffer{}); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("export: %v", err)
		}
		eventually(t, patience, "the log tells of the export that was refused", func() error {
			page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventCodeAuditExportRefused}, User: "alice"})
			if err != nil || len(page.Events) != 1 || !strings.Contains(string(page.Events[0]), `"success":false`) {
				return fmt.Errorf("%+v, %w", page, err)
			}
			return nil
		})
		if _, err := r.admin(0).AuditVerify(t.Context(), "nobody", nil); !api.IsCode(err, api.CodeNotFound) {
			t.Errorf("a replica that is not there: %v", err)
		}
	})
	t.Run("who comes with a session that is over is told of", func(t *testing.T) {
		for i, call := range []func(c *client.Client) error{
			func(c *client.Client) error { _, err := c.Audit(t.Context(), api.AuditQuery{}); return err },
			func(c *client.Client) error { _, err := c.Status(t.Context()); return err },
		} {
			c := r.apiClient(i, r.login(i, "alice"))
			if err := c.Logout(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := call(c); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Errorf("call %d: %v", i, err)
			}
			eventually(t, patience, "an event", func() error {
				page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventCodeAuthAttempt}, User: "alice"})
				if err != nil || len(page.Events) != i+1 {
					return fmt.Errorf("%+v, %w", page, err)
				}
				return nil
			})
		}
	})
	t.Run("one that was touched is named", func(t *testing.T) {
		path := filepath.Join(r.opts[2].DataDir, "log", "events.log")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(b, []byte("through-1"))
		if _, err := f.WriteAt([]byte("T"), int64(at)); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		out, err := r.admin(0).AuditVerify(t.Context(), "all", nil)
		if err != nil || len(out) != 3 {
			t.Fatal(out, err)
		}
		for _, v := range out {
			if bad := v.ServerID == r.run[2].srv.node.ID(); v.OK == bad {
				t.Errorf("%+v, %+v", v, v.Problem)
			} else if bad && (v.Problem.Kind != api.AuditTouched || v.Problem.Line != 1+bytes.Count(b[:at], []byte("\n"))) {
				t.Errorf("%+v", v.Problem)
			}
		}
	})
}

// apiClient calls the API of replica i as a user.
func (r *replicas) apiClient(i int, creds *client.Credentials) *client.Client {
	r.t.Helper()
	c, err := client.NewAPI(r.opts[i].PublicAddr, client.APIOptions{CertPEM: creds.CertPEM, KeyPEM: creds.KeyPEM, HostCAs: creds.HostCAs, ClusterName: testCluster, Agent: "test"})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// What takes one replica shares it.
func TestTheAuditLogOfOneReplica(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, func(_ int, o *Options) {
		o.AuditSegmentSize, o.auditPace = 3<<20, auditPace{read: time.Hour, floor: time.Hour}
	})
	r.addAuditor("ada")
	r.addUser(0, "bob")
	t.Run("the ends of two logs are compared", r.comparesEnds)
	t.Run("auditors have a page", r.auditorsHaveAPage)
	t.Run("the leader writes how large segments are", r.writesLimits)
	t.Run("the status says what is given up", r.saysWhatIsGivenUp)
	t.Run("who reads nothing is bounded", r.boundsWhoReadsNothing)
}

func (r *replicas) comparesEnds(t *testing.T) {
	srv := r.run[0].srv
	m, err := srv.records.manifest()
	if err != nil || m.Head.Number == 0 {
		t.Fatal(m, err)
	}
	for name, c := range map[string]struct {
		v  api.AuditVerified
		ok bool
	}{
		"the same":         {api.AuditVerified{OK: true, Number: m.Head.Number, Hash: fmt.Sprintf("%x", m.Head.Hash[:])}, true},
		"another":          {api.AuditVerified{OK: true, Number: m.Head.Number, Hash: strings.Repeat("0", 64)}, false},
		"an empty one":     {api.AuditVerified{OK: true}, true},
		"a bad one anyway": {api.AuditVerified{Number: 1, Hash: "x", Problem: &api.AuditProblem{Kind: api.AuditRemoved}}, false},
	} {
		got := c.v
		srv.compare(t.Context(), &got)
		if got.OK != c.ok || !got.OK && got.Problem == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ahead := api.AuditVerified{OK: true, Number: m.Head.Number + 99, Hash: "x"}
	if srv.compare(ctx, &ahead); !ahead.OK {
		t.Errorf("what is not here yet can't be compared: %+v", ahead)
	}
}

func TestAReplicaWhoseDiskWasLostHasTheWholeAuditLogAgain(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, func(_ int, o *Options) { o.AuditSegmentSize, o.AuditMaxSize = 2<<10, 1<<30 })
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	down := (r.leader() + 1) % 3
	for i := range 30 {
		r.use(r.kubeClient(creds), i%3, fmt.Sprintf("/api/before-%d", i))
	}
	files := r.sameLogs(holds("before-29"), 0, 1, 2)
	if len(files) < 3 {
		t.Fatalf("nothing was sealed: %v", sizes(files))
	}
	r.stop(down, r.run[down])

	// A file of it goes missing: others have it.
	gone := slices.Sorted(maps.Keys(files))[1] // of events-…01.log, events-….log, …, events.log
	if err := os.Remove(filepath.Join(r.opts[down].DataDir, "log", gone)); err != nil {
		t.Fatal(err)
	}
	r.start(down)
	r.awaitReady(down)
	r.sameLogs(func(files map[string]string) error {
		if files[gone] == "" {
			return fmt.Errorf("%s is missing", gone)
		}
		return nil
	}, 0, 1, 2)
	r.healthyLogs(down, 3)

	// All of it goes missing, with everything else on its disk.
	r.stop(down, r.run[down])
	if err := os.RemoveAll(r.opts[down].DataDir); err != nil {
		t.Fatal(err)
	}
	r.start(down)
	r.awaitReady(down)
	up := (down + 1) % 3
	r.use(r.kubeClient(creds), up, "/api/after")
	r.sameLogs(holds("after"), 0, 1, 2)
	for _, v := range r.healthyReplicas(up, down) {
		if v.First != 1 {
			t.Errorf("it begins with line %d", v.First)
		}
	}
}

// healthyReplicas waits until the logs of these replicas are sound: the cluster may
// still know one that is gone.
func (r *replicas) healthyReplicas(of ...int) (out []api.AuditVerified) {
	r.t.Helper()
	for _, i := range of {
		eventually(r.t, patience, fmt.Sprintf("the audit log of replica %d is healthy", i), func() error {
			v, err := r.admin(i).AuditVerify(r.t.Context(), "", nil)
			if err != nil || len(v) != 1 || !v[0].OK {
				return fmt.Errorf("%+v, %w", v, err)
			}
			out = append(out, v[0])
			return nil
		})
	}
	return out
}

func TestRetentionDeletesTheSameOnAllReplicas(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, func(_ int, o *Options) {
		o.AuditSegmentSize, o.AuditMaxSize = 2<<10, 10<<10
		o.auditPace = auditPace{retention: 50 * time.Millisecond, floor: time.Minute, lost: time.Hour}
	})
	r.addUser(0, "alice", "devs")
	c := r.kubeClient(r.login(0, "alice"))
	for i := range 60 {
		r.use(c, i%3, fmt.Sprintf("/api/number-%d", i))
	}
	r.sameLogs(func(files map[string]string) error {
		// events.log may begin with copies of lines that were deleted.
		if len(files) > 8 || files[segmentFile(1)] != "" || !strings.Contains(files["events.log"], api.EventAuditRetention) {
			return fmt.Errorf("nothing was deleted: %v", sizes(files))
		}
		return nil
	}, 0, 1, 2)
	for _, v := range r.healthyLogs(2, 3) {
		if v.First == 1 {
			t.Errorf("%+v", v)
		}
	}
	page, err := r.admin(1).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventAuditRetention}, Newest: true, Limit: 1})
	if err != nil || len(page.Events) != 1 || !strings.Contains(string(page.Events[0]), `"reason":"size"`) {
		t.Errorf("%+v, %v", page, err)
	}
	if page.First == 1 {
		t.Errorf("the log says that it begins with line %d", page.First)
	}

	// A replica that begins anew keeps no more than the others.
	down := (r.leader() + 1) % 3
	r.stop(down, r.run[down])
	if err := os.RemoveAll(r.opts[down].DataDir); err != nil {
		t.Fatal(err)
	}
	r.start(down)
	r.awaitReady(down)
	r.use(c, (down+1)%3, "/api/after")
	r.sameLogs(holds("after"), 0, 1, 2)
	r.healthyReplicas(0, 1, 2)
}

func TestARestoredClusterHasALogThatBeginsWhereTheBackupEnds(t *testing.T) {
	t.Parallel()
	pace := auditPace{retention: time.Minute, floor: 50 * time.Millisecond, lost: time.Hour, restored: 200 * time.Millisecond}
	r := startReplicas(t, 1, func(_ int, o *Options) { o.auditPace = pace })
	r.addUser(0, "alice", "devs")
	r.login(0, "alice")
	var backup bytes.Buffer
	if _, err := r.admin(0).Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	old, err := r.run[0].srv.records.manifest()
	if err != nil {
		t.Fatal(err)
	}
	o := r.opts[0]
	o.DataDir, o.SocketPath = filepath.Join(t.TempDir(), "restored"), ""
	if _, err := Restore(t.Context(), RestoreOptions{DataDir: o.DataDir, PeerAdvertise: o.PeerAddr, Secret: r.secret, Backup: &backup}); err != nil {
		t.Fatal(err)
	}
	r.stop(0, r.run[0])
	r.opts[0] = o
	r.start(0)
	r.awaitReady(0)
	r.login(0, "alice") // events that come before anything is given up
	var verified []api.AuditVerified
	eventually(t, patience, "a log that begins anew", func() error {
		verified = r.healthyReplicas(0)
		if first := verified[len(verified)-1].First; first <= 1 {
			return fmt.Errorf("it begins with line %d", first)
		}
		return nil
	})
	if first := verified[len(verified)-1].First; first != old.Head.Number+1 {
		t.Errorf("it begins with line %d, and the backup ends with %d", first, old.Head.Number)
	}
	page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{})
	if err != nil || len(page.Events) < 2 {
		t.Fatal(page, err)
	}
	said := ""
	for _, e := range page.Events {
		if strings.Contains(string(e), `"event":"`+api.EventLost) {
			said = string(e)
		}
	}
	if want := fmt.Sprintf(`"count":%d,"from":1,"reason"`, old.Head.Number); !strings.Contains(said, want) {
		t.Errorf("the log says %q, want %s", said, want)
	}
	eventually(t, patience, "nothing is left to do", func() error {
		if st, err := r.admin(0).Status(t.Context()); err != nil || st.Audit == nil || st.Audit.Behind != 0 || st.Audit.Problem != "" || st.Audit.First != old.Head.Number+1 {
			return fmt.Errorf("%+v, %w", st.Audit, err)
		}
		if _, err := os.Stat(filepath.Join(o.DataDir, "log", "pending.log")); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("pending.log: %w", err)
		}
		return nil
	})

	// Who joins gets a state whose log nobody has, and the log from there on.
	ports := testport.Reserve(t, 5)
	addr := func(k int) string { return fmt.Sprintf("127.0.0.1:%d", ports[k]) }
	second := o
	second.DataDir = filepath.Join(t.TempDir(), "second")
	second.PublicAddr, second.ListenAddr, second.KubeListenAddr = addr(0), addr(0), addr(1)
	second.PeerAddr, second.PeerAdvertise, second.GossipAddr, second.DiagAddr = addr(2), "", addr(3), addr(4)
	second.BootstrapExpect, second.Join, second.Logger = 0, []string{o.GossipAddr}, testLogger(t, 1)
	r.opts, r.run = append(r.opts, second), append(r.run, nil)
	r.start(1)
	r.awaitReady(1)
	r.use(r.kubeClient(r.login(1, "alice")), 1, "/api/joined")
	r.sameLogs(holds("joined"), 0, 1)
	for _, v := range r.healthyLogs(1, 2) {
		if v.First != old.Head.Number+1 {
			t.Errorf("%+v", v)
		}
	}
}

// reliability.md row 28: what takes the events is away; policy "spool".
func TestEventsWaitForAQuorumInASpoolThatTheStatusShows(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 2, nil) // of which one alone is no majority
	r.addUser(0, "alice", "devs")
	c := r.kubeClient(r.login(0, "alice"))
	for i := range 2 {
		r.use(c, i, "/api/before")
	}
	const alone = 0
	r.stop(1, r.run[1])
	for i := range 20 {
		if status, body := r.get(c, alone, fmt.Sprintf("/api/spooled-%d-", i)); status != http.StatusOK {
			t.Fatalf("a request without quorum: %d %s", status, body)
		}
	}
	eventually(t, patience, "the status tells of the spool", func() error {
		st, err := r.admin(alone).Status(t.Context())
		if err != nil {
			return err
		}
		if a := st.Audit; a == nil || a.SpoolBytes == 0 || a.SpoolLimit != audit.DefaultSpoolBytes || !strings.Contains(a.Problem, "can't reach the cluster since") || a.Policy != api.AuditSpool {
			return fmt.Errorf("%+v", a)
		}
		if !strings.HasPrefix(st.Reason, "audit: ") || !st.Ready {
			return fmt.Errorf("ready %v, reason %q", st.Ready, st.Reason)
		}
		if text := r.metrics(alone); !strings.Contains(text, "sallyport_audit_emitter_failing 1") || strings.Contains(text, "sallyport_audit_spool_events 0\n") {
			return fmt.Errorf("metrics: %s", text)
		}
		return nil
	})
	r.start(1)
	files := r.sameLogs(holds("spooled-19-"), 0, 1)
	for i := range 20 {
		if n := strings.Count(files["events.log"], fmt.Sprintf("spooled-%d-", i)); n != 1 {
			t.Errorf("event %d is %d times in the log", i, n)
		}
	}
	eventually(t, patience, "all is well again", func() error {
		if st, err := r.admin(alone).Status(t.Context()); err != nil || st.Audit.Problem != "" || st.Audit.SpoolBytes != 0 || st.Reason != "" {
			return fmt.Errorf("%+v %+v %w", st, st.Audit, err)
		}
		return nil
	})
}

func (r *replicas) metrics(i int) string {
	r.t.Helper()
	resp, err := http.Get("http://" + r.opts[i].DiagAddr + "/metrics") //nolint:noctx // at once
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return err.Error()
	}
	return b.String()
}

// reliability.md row 28, policy "strict".
func TestStrictReplicasRefuseWhatTheyCannotRecord(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 2, func(_ int, o *Options) { o.AuditPolicy = api.AuditStrict })
	r.addUser(0, "alice", "devs")
	c := r.kubeClient(r.login(0, "alice"))
	for i := range 2 {
		r.use(c, i, "/api/before")
	}
	r.stop(1, r.run[1])
	eventually(t, patience, "requests are refused", func() error {
		status, body := r.get(c, 0, "/api/refused")
		if status != http.StatusServiceUnavailable || !strings.Contains(body, `"kind":"Status"`) || !strings.Contains(body, "audit") {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	if st, err := r.admin(0).Status(t.Context()); err != nil || st.Audit.Policy != api.AuditStrict {
		t.Errorf("%+v, %v", st, err)
	}
	r.start(1)
	r.use(c, 0, "/api/after")
	r.sameLogs(holds("after"), 0, 1)
}

func (r *replicas) saysWhatIsGivenUp(t *testing.T) {
	lost := &r.run[0].srv.lost
	lost.Store(&lostLines{from: 5, floor: audit.Floor{First: 9}, until: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)})
	defer lost.Store(nil) // as the leader does, who lacks nothing
	st := r.run[0].srv.auditStatus()
	if !strings.Contains(st.Problem, "no replica has the lines 5 to 8: they are given up at 12:00:00 UTC, unless") {
		t.Errorf("%q", st.Problem)
	}
}

func (r *replicas) writesLimits(t *testing.T) {
	srv := r.run[0].srv
	written := func(want int64) {
		t.Helper()
		eventually(t, patience, "the limit is written", func() error {
			if got, err := record(srv.store.View(), audit.KeyLimits, audit.Limits{}); err != nil || got.SegmentBytes != want {
				return fmt.Errorf("%d, want %d, %w", got.SegmentBytes, want, err)
			}
			return nil
		})
	}
	written(3 << 20)
	now := &Server{store: srv.store, log: srv.log} // with another flag
	for _, size := range []int64{64 << 20, 64 << 20, 3 << 20} {
		if err := now.keepAuditLimits(t.Context(), size); err != nil {
			t.Fatal(err)
		}
		written(size)
	}
}
