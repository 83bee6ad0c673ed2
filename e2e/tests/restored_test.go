package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// A backup holds no events: the log of a cluster that was restored goes on with the next
// number, hangs on the last hash from before, and says what it lacks. The leader waits
// half a minute for a replica that has it, so that other tests run in between.
func TestRestoredAuditLog(t *testing.T) {
	if fixture.restored.cluster == nil {
		TestBackupAndRestore(t)
	}
	c, before := fixture.restored.cluster, fixture.restored.before
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", c.Logs(15))
		}
	})
	ctx := within(t, 2*time.Minute)
	for _, r := range c.Replicas {
		testbed.Wait(t, 2*testbed.Patience, "the beginning of the log at "+r.Name, func() error {
			is, err := auditAt(ctx, r)
			if err != nil || is.First != before.Number+1 || is.Behind > 0 {
				return fmt.Errorf("%+v, %w", is, err)
			}
			return nil
		})
	}
	sameLogs(t, c)
	verified(t, c)
	log := journal(t, c.Replicas[1])
	if log[0].Number != before.Number+1 {
		t.Errorf("it begins with line %d, after %d", log[0].Number, before.Number)
	}
	e := waitEvent(t, c.Replicas[2], "what is lost", func(e event) bool { return e.text("event") == "audit.lost" })
	if e["from"] != float64(1) || e["to"] != float64(before.Number) || e["count"] != float64(before.Number) {
		t.Errorf("%v", e)
	}
	if said := ok(t, c.Replicas[0].Tctl(ctx, "status")).Stdout; !strings.Contains(said, fmt.Sprintf("line %d; what was before is not kept any more", before.Number+1)) {
		t.Errorf("tctl status: %s", said)
	}
	// Who kept the head, or the old files, can show that the new log goes on from there.
	var old event
	if err := json.Unmarshal(before.raw, &old); err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("--head=%d:%s", before.Number, old.text("hash"))
	dir := t.TempDir()
	last, export := filepath.Join(dir, "old.log"), filepath.Join(dir, "new.log")
	if err := os.WriteFile(last, before.raw, 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, c.Replicas[0].Tctl(ctx, "audit", "export", "--out="+export))
	for _, args := range [][]string{{head, export}, {head, last, export}} {
		if said := ok(t, c.Replicas[0].Tctl(ctx, append([]string{"audit", "verify"}, args...)...)).Stdout; !strings.Contains(said, "nothing up to it has changed since") {
			t.Errorf("verify %v: %s", args, said)
		}
	}
}
