package server

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// R5-1: what was given up leaves neither a backup that says it was done, nor a line of the
// audit log, nor another cluster.
func TestARecoveryThatWasGivenUpLeavesNothing(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 2, func(_ int, o *Options) { o.recoverWithin = time.Nanosecond })
	id := r.run[0].srv.node.ClusterID()
	r.run[1].cancel()
	r.stop(1, r.run[1])
	eventually(t, patience, "it is given up", func() error {
		_, err := r.admin(0).Recover(t.Context(), id)
		if api.IsCode(err, api.CodeConflict) { // there is a leader yet
			return err
		}
		if !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%v, want that nothing was changed", err)
		}
		return nil
	})
	if left, err := filepath.Glob(filepath.Join(r.opts[0].DataDir, "before-recovery-*")); err != nil || len(left) > 0 {
		t.Errorf("%q is left (%v)", left, err)
	}
	if got := r.run[0].srv.node.ClusterID(); got != id {
		t.Errorf("cluster %s was %s", got, id)
	}
	r.start(1)
	r.awaitReady(0)
	r.awaitReady(1)
	page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventClusterRecover}})
	if err != nil || len(page.Events) > 0 {
		t.Errorf("%+v (%v)", page, err)
	}
}
