package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// A snapshot stands for the whole log, and one line at the end of the only copy of it was
// harmed: the log begins anew after it, and all that was before is kept.
func TestLinesThatNobodyHasTakeNoOthersWithThem(t *testing.T) {
	t.Parallel()
	pace := auditPace{retention: 50 * time.Millisecond, floor: 50 * time.Millisecond, lost: 200 * time.Millisecond, restored: 200 * time.Millisecond}
	r := startReplicas(t, 1, func(_ int, o *Options) { o.auditPace, o.AuditSegmentSize, o.AuditMaxSize = pace, 2<<10, 1<<30 })
	r.addUser(0, "alice", "devs")
	c := r.kubeClient(r.login(0, "alice"))
	for i := range 30 {
		if i%5 == 0 { // an entry of its own
			r.addUser(0, fmt.Sprintf("user-%d", i), "devs")
		}
		r.use(c, 0, fmt.Sprintf("/api/number-%d", i))
	}
	r.sameLogs(holds("number-29"), 0)
	var backup bytes.Buffer
	if _, err := r.admin(0).Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	o := r.opts[0]
	from := filepath.Join(o.DataDir, "log")
	o.DataDir, o.SocketPath = filepath.Join(t.TempDir(), "restored"), ""
	if _, err := Restore(t.Context(), RestoreOptions{DataDir: o.DataDir, PeerAdvertise: o.PeerAddr, Secret: r.secret, Backup: &backup}); err != nil {
		t.Fatal(err)
	}
	r.stop(0, r.run[0])
	before := r.logFiles(0)
	if len(before) < 3 {
		t.Fatal("nothing is sealed")
	}
	log := filepath.Join(o.DataDir, "log")
	if err := os.CopyFS(log, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(before["events.log"], "\n")
	last := len(lines) - 2
	for !strings.Contains(lines[last], "number-29") {
		last--
	}
	harmed := strings.Join(lines[:last], "") + strings.Replace(lines[last], "number-29", "number\x00-29", 1)
	if err := os.WriteFile(filepath.Join(log, "events.log"), []byte(harmed), 0o600); err != nil {
		t.Fatal(err)
	}
	r.opts[0] = o
	r.start(0)
	r.awaitReady(0)
	var floor uint64
	eventually(t, patience, "a log that begins anew", func() error {
		m, err := r.run[0].srv.records.manifest()
		if floor = m.Floor.First; err != nil || floor == 0 {
			return fmt.Errorf("floor %d, %w", floor, err)
		}
		if _, err := os.Stat(filepath.Join(log, "pending.log")); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("pending.log: %w", err)
		}
		return nil
	})
	r.healthyReplicas(0)
	aside := filepath.Join(log, audit.AsideFolder(floor))
	text := ""
	entries, err := os.ReadDir(aside)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(aside, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		text += string(b)
	}
	for i := range 29 {
		if !strings.Contains(text, fmt.Sprintf("number-%d\"", i)) {
			t.Errorf("request %d is not kept in %s: %d files", i, aside, len(entries))
		}
	}
	if st, err := r.admin(0).Status(t.Context()); err != nil || st.Audit == nil || len(st.Audit.SetAside) != 1 || st.Audit.SetAside[0] != "log/"+filepath.Base(aside) {
		t.Errorf("status tells %+v, %v", st.Audit, err)
	}
	page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventLost}})
	if err != nil || len(page.Events) != 1 || !strings.Contains(string(page.Events[0]), filepath.Base(aside)) || strings.Contains(string(page.Events[0]), `"from":1,`) {
		t.Errorf("%s, %v", page.Events, err)
	}
}
