package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// The issue's: requests through all replicas and writes, the leader is killed twice and
// one disk wiped meanwhile. All of it is in one log, each event once, the same on all
// disks; whoever changes a byte of that is found.
func TestOneAuditLog(t *testing.T) {
	c := ownCluster(t, sallyport.Options{Args: []string{fmt.Sprintf("--audit-segment-size=%d", auditSegment())}})
	ctx := within(t, 2*time.Minute+time.Duration(*auditEvents)*20*time.Millisecond)
	_, others := followers(t, c)
	alice := newUser(t, c, others[0], "alice", "--k8s-groups=system:masters")
	l := startAuditLoad(t, alice, "one", 3, c.Replicas...)
	writes := startAuditWrites(t, c)

	back := func(r *sallyport.Replica) {
		t.Helper()
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		waitVoters(t, c, 3)
	}
	part := *auditEvents / 5
	for i := range 2 {
		l.more(t, part)
		leader := leaderOf(t, c)
		drained(t, leader)
		l.kill(leader)
		t.Logf("%s, the leader, is killed after %d answers", leader.Name, l.good.Load())
		l.more(t, part/2) // by the others
		back(leader)
		if i > 0 {
			break
		}
		_, others := followers(t, c)
		drained(t, others[1])
		l.kill(others[1])
		if err := others[1].Wipe(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s has a new disk after %d answers", others[1].Name, l.good.Load())
		back(others[1])
	}
	l.wait(t, *auditEvents)
	l.stop()
	writes.stop()
	files := l.sameLogs(t, c)
	if len(files) < 5 {
		t.Errorf("%d files, too few for several rotations: %v", len(files), files)
	}
	log := journal(t, c.Replicas[0])
	t.Logf("%d lines in %d files", len(log), len(files))
	l.check(t, log)
	writes.check(t, log)
	verified(t, c)

	t.Run("the export is the journal", func(t *testing.T) { exportIsJournal(t, c.Replicas[1]) })
	t.Run("whoever changes a byte is found", func(t *testing.T) { changesAreFound(t, c) })
	t.Run("old files go everywhere alike", func(t *testing.T) { retention(t, c) })
}

// auditSegment is a size of files with which there are several: the least that there
// may be, or a twentieth of all.
func auditSegment() int { return max(1<<20, *auditEvents*1000/20) }

// drained waits until a replica has sent what waits: what is in memory when it dies is
// lost, and the load has just begun to ask it again.
func drained(t *testing.T, r *sallyport.Replica) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	testbed.Wait(t, 20*time.Second, "an empty spool of "+r.Name, func() error {
		is, err := auditAt(ctx, r)
		if err != nil {
			return err
		}
		if is.SpoolBytes > 0 || is.Behind > 1000 {
			return fmt.Errorf("%+v", *is)
		}
		return nil
	})
}

// auditWrites makes roles, one after another, through one replica after another.
type auditWrites struct {
	loop *loop
	mu   sync.Mutex
	made map[string]bool // by name; false: nobody knows
}

func startAuditWrites(t *testing.T, c *sallyport.Cluster) *auditWrites {
	t.Helper()
	w := &auditWrites{made: map[string]bool{}}
	n := 0
	w.loop = startLoop(t, func(ctx context.Context) error {
		n++
		name := fmt.Sprintf("written-%d", n)
		done := c.Replicas[n%len(c.Replicas)].TctlStdin(ctx, roleYAML(name, "dev", ""), "create").Err
		w.mu.Lock()
		defer w.mu.Unlock()
		w.made[name] = done == nil
		return nil
	})
	return w
}

func (w *auditWrites) stop() { w.loop.stop() }

// check: what was acknowledged is in the log once, and nothing is there twice.
func (w *auditWrites) check(t *testing.T, log []logged) {
	t.Helper()
	found, sure := map[string]int{}, 0
	for _, line := range log {
		if line.Event == "role.created" {
			found[line.Name]++
		}
	}
	for name, made := range w.made {
		if n := found[name]; n > 1 || made && n == 0 {
			t.Errorf("the event of %s is %d times in the log; acknowledged: %v", name, n, made)
		}
		if made {
			sure++
		}
	}
	t.Logf("%d writes that were acknowledged, each in the log once; %d others", sure, len(w.made)-sure)
}

func exportIsJournal(t *testing.T, r *sallyport.Replica) {
	out := ok(t, r.Tctl(within(t, time.Minute), "audit", "export")).Stdout
	var want bytes.Buffer
	for _, l := range journal(t, r) {
		if want.Len() == len(out) {
			break // the export's own event, and what comes later
		}
		want.Write(l.raw)
	}
	if out != want.String() {
		t.Errorf("%d bytes were exported, and the journal begins otherwise", len(out))
	}
	file := filepath.Join(t.TempDir(), "events.log.gz")
	ok(t, r.Tctl(within(t, time.Minute), "audit", "export", "--out="+file))
	if said := ok(t, r.Tctl(within(t, time.Minute), "audit", "verify", file)).Stdout; !strings.Contains(said, ": ok, ") {
		t.Errorf("a copy: %s", said)
	}
}

// changesAreFound has somebody with root on one replica edit its files while it runs.
func changesAreFound(t *testing.T, c *sallyport.Cluster) {
	_, others := followers(t, c)
	r := others[0]
	sealed := sameLogs(t, c)
	sealed = sealed[:len(sealed)-1]
	middle := filepath.Join(r.LogDir(), sealed[len(sealed)/2])
	text, err := os.ReadFile(middle)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(bytes.Lines(text))
	own := len(lines) - 20 // index of a line that is no copy
	number := func(i int) uint64 {
		var l logged
		if err := json.Unmarshal(lines[i], &l); err != nil {
			t.Fatal(err)
		}
		return l.Number
	}
	flip := func(i int) []byte {
		line := bytes.Clone(lines[i])
		line[bytes.Index(line, []byte(`"uid":"`))+8] ^= 1
		return line
	}
	forged := bytes.Replace(lines[own], []byte(`"user":"alice"`), []byte(`"user":"mallory"`), 1)
	for _, change := range []struct {
		name   string
		lines  [][]byte
		kind   string
		line   int
		number uint64
	}{
		{"a flipped bit", slices.Concat(lines[:own], [][]byte{flip(own)}, lines[own+1:]), api.AuditTouched, own + 1, number(own)},
		{"a flipped bit in a copy", slices.Concat([][]byte{flip(0)}, lines[1:]), api.AuditTouched, 1, number(0)},
		{"a line less", slices.Delete(slices.Clone(lines), own, own+1), api.AuditRemoved, own + 1, number(own)},
		{"a line more", slices.Insert(slices.Clone(lines), own+1, forged), api.AuditAdded, own + 2, number(own)},
		{"the last line less", lines[:len(lines)-1], api.AuditRemoved, len(lines), number(len(lines) - 1)},
	} {
		t.Run(change.name, func(t *testing.T) {
			overwrite(t, middle, bytes.Join(change.lines, nil))
			t.Cleanup(func() { overwrite(t, middle, text) })
			found(t, c, r, api.AuditProblem{File: filepath.Base(middle), Line: change.line, Number: change.number, Kind: change.kind})
		})
	}
	t.Run("a flipped bit in events.log", func(t *testing.T) {
		// In its place: the replica goes on writing at the end.
		text, err := os.ReadFile(r.EventsLog())
		if err != nil {
			t.Fatal(err)
		}
		lines := slices.Collect(bytes.Lines(text))
		var last logged
		if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil {
			t.Fatal(err)
		}
		at := int64(len(text) - len(lines[len(lines)-1]) + bytes.Index(lines[len(lines)-1], []byte(`"uid":"`)) + 8)
		f, err := os.OpenFile(r.EventsLog(), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		set := func(b byte) {
			if _, err := f.WriteAt([]byte{b}, at); err != nil {
				t.Error(err)
			}
		}
		set(text[at] ^ 1)
		defer set(text[at])
		found(t, c, r, api.AuditProblem{File: "events.log", Line: len(lines), Number: last.Number, Kind: api.AuditTouched})
	})
	if !t.Failed() {
		verified(t, c) // all is as it was
	}
}

// overwrite writes into a file that others may have open.
func overwrite(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Error(err)
	}
}

// found fails the test unless verify names the problem at r, and nothing at the others.
func found(t *testing.T, c *sallyport.Cluster, r *sallyport.Replica, want api.AuditProblem) {
	t.Helper()
	ctx := within(t, time.Minute)
	for _, at := range c.Replicas {
		out := at.Tctl(ctx, "audit", "verify", "--format=json")
		var all []api.AuditVerified
		if err := json.Unmarshal([]byte(out.Stdout), &all); err != nil || len(all) != 1 {
			t.Fatalf("%v: %s, %s", err, out.Stdout, out.Stderr)
		}
		if at != r {
			if !all[0].OK || out.Code != 0 {
				t.Errorf("%s, whose files nobody touched: %s", at.Name, out.Stdout)
			}
			continue
		}
		p := all[0].Problem
		if p == nil || out.Code == 0 {
			t.Fatalf("it is not found (exit code %d): %s", out.Code, out.Stdout)
		}
		if p.File != want.File || p.Line != want.Line || p.Number != want.Number || p.Kind != want.Kind {
			t.Errorf("want %+v, got %+v", want, *p)
		}
	}
	said := c.Replicas[0].Tctl(ctx, "audit", "verify", "--all") // whichever is asked
	place := fmt.Sprintf("NOT OK: %s in %s, line %d (event %d): ", want.Kind, want.File, want.Line, want.Number)
	if said.Code == 0 || !strings.Contains(said.Stdout, place) || strings.Count(said.Stdout, ": ok, ") != 2 {
		t.Errorf("exit code %d, want %q in %s", said.Code, place, said.Stdout)
	}
}

var auditFrom = regexp.MustCompile(`(?m)^Audit from +line ([\d,]+); what was before is not kept any more$`)

// retention starts the replicas anew, so that they keep less.
func retention(t *testing.T, c *sallyport.Cluster) {
	ctx := within(t, time.Minute)
	before := sameLogs(t, c)
	all := journal(t, c.Replicas[0])
	// There is no smaller size, which is more than a short test writes.
	keep, reason, most := "--audit-max-age=1s", "age", 1
	if bytes := auditSegment() * (len(before) - 1); bytes > 70<<20 {
		keep, reason, most = "--audit-max-size=64MiB", "size", len(before)-1
	}
	for _, r := range c.Replicas {
		r.Kill()
		if err := r.Start(keep); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 20*time.Second, "fewer files", func() error {
		if files := sameLogs(t, c); len(files) > most {
			return fmt.Errorf("%v, before: %v", files, before)
		}
		return nil
	})
	verified(t, c)
	is, err := auditAt(ctx, c.Replicas[1])
	if err != nil {
		t.Fatal(err)
	}
	next := float64(1)
	for _, e := range events(t, c.Replicas[2], func(e event) bool { return e.text("event") == "audit.retention" }) {
		if e.text("code") != "TSP28I" || e.text("reason") != reason || e["from"] != next {
			t.Errorf("want the end of line %g and more: %v", next, e)
		}
		to, _ := e["to"].(float64)
		next = to + 1
	}
	if next == 1 || float64(is.First) != next {
		t.Errorf("the log begins with line %d, and events say %g", is.First, next)
	}
	log := journal(t, c.Replicas[1]) // the first file may begin with copies of lines that are gone
	if first := log[slices.IndexFunc(log, func(l logged) bool { return l.Number == is.First })]; !bytes.Equal(first.raw, all[is.First-1].raw) {
		t.Errorf("line %d is another one: %s", is.First, first.raw)
	}
	said := ok(t, c.Replicas[0].Tctl(ctx, "status")).Stdout
	if m := auditFrom.FindStringSubmatch(said); m == nil || strings.ReplaceAll(m[1], ",", "") != fmt.Sprint(is.First) {
		t.Errorf("status does not say that the log begins with line %d: %s", is.First, said)
	}
	refused(t, c.Replicas[0].Tctl(ctx, "audit", "export", "--from=1"), "older ones were deleted")
	if out := ok(t, c.Replicas[0].Tctl(ctx, "audit", "export")).Stdout; !strings.HasPrefix(out, string(all[is.First-1].raw)) {
		t.Errorf("the export does not begin with line %d", is.First)
	}
}
