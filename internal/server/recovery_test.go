package server

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// recoveries are those that the audit log has.
func (r *replicas) recoveries(i int) []string {
	r.t.Helper()
	page, err := r.admin(i).Audit(r.t.Context(), api.AuditQuery{Types: []string{api.EventClusterRecover}})
	if err != nil {
		r.t.Fatal(err)
	}
	var ids []string
	for _, e := range page.Events {
		var fields struct {
			ClusterID string `json:"cluster_id"`
		}
		if err := json.Unmarshal(e, &fields); err != nil {
			r.t.Fatal(err)
		}
		ids = append(ids, fields.ClusterID)
	}
	return ids
}

// R6-S1: it makes an end of a cluster; a kill right after the answer must not hide that.
func TestARecoveryIsInTheAuditLogBeforeItIsAnswered(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, func(_ int, o *Options) {
		o.recoverBy = func(context.Context, cluster.Backup) (cluster.Recovery, error) {
			return cluster.Recovery{ClusterID: "new"}, nil
		}
	})
	srv := r.run[0].srv
	if _, err := r.admin(0).Recover(t.Context(), srv.node.ClusterID()); err != nil {
		t.Fatal(err)
	}
	if s := srv.events.Stats(); s.Queued > 0 {
		t.Errorf("%d events wait in memory", s.Queued)
	}
	if got := r.recoveries(0); !slices.Equal(got, []string{"new"}) {
		t.Errorf("the audit log has %q", got)
	}
}

// R6-S1: the node ends it, and it is made nevertheless.
func TestARecoveryThatEndsWithTheReplicaIsInTheAuditLog(t *testing.T) {
	t.Parallel()
	var r *replicas
	begun := make(chan struct{})
	r = startReplicas(t, 1, func(_ int, o *Options) {
		o.recoverBy = func(context.Context, cluster.Backup) (cluster.Recovery, error) {
			close(begun)
			run := r.run[0]
			for { // until the node stops
				if _, why := run.srv.node.Ready(); why == "shutting down" {
					return cluster.Recovery{ClusterID: "new"}, api.Errorf(api.CodeAmbiguous, "it does not lead yet")
				}
				pauseFor(context.Background(), time.Millisecond)
			}
		}
	})
	id, admin := r.run[0].srv.node.ClusterID(), r.admin(0)
	answered := make(chan error, 1)
	go func() {
		_, err := admin.Recover(context.WithoutCancel(t.Context()), id)
		answered <- err
	}()
	<-begun
	r.stop(0, r.run[0])
	if err := <-answered; err == nil {
		t.Error("it was answered as done")
	}
	r.start(0)
	r.awaitReady(0)
	eventually(t, patience, "the recovery in the audit log", func() error {
		if got := r.recoveries(0); !slices.Equal(got, []string{"new"}) {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
}

// R6-N3: what waits for the disk ends later, and is told then.
func TestARecoveryThatWaitsForTheDiskIsAnsweredAndGoesOn(t *testing.T) {
	t.Parallel()
	room := make(chan struct{})
	r := startReplicas(t, 1, func(_ int, o *Options) {
		o.recoverWithin = 200 * time.Millisecond
		o.recoverBy = func(context.Context, cluster.Backup) (cluster.Recovery, error) {
			<-room
			return cluster.Recovery{ClusterID: "new"}, nil
		}
	})
	id := r.run[0].srv.node.ClusterID()
	if _, err := r.admin(0).Recover(t.Context(), id); !api.IsCode(err, api.CodeAmbiguous) || !strings.Contains(err.Error(), "goes on") {
		t.Errorf("while the disk is full: %v, want ambiguous", err)
	}
	if _, err := r.admin(0).Recover(t.Context(), id); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("another, beside it: %v, want conflict", err)
	}
	if got := r.recoveries(0); len(got) > 0 {
		t.Errorf("the audit log has %q before it is made", got)
	}
	close(room)
	eventually(t, patience, "the recovery in the audit log", func() error {
		if got := r.recoveries(0); !slices.Equal(got, []string{"new"}) {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
}

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
