package server

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// volumes are what the test's replicas find when they measure.
type volumes struct {
	data, log atomic.Int64 // sizes; one volume if data is 0
	measured  atomic.Int64
}

func (v *volumes) of(dir string) volume {
	data := v.data.Load()
	if filepath.Base(dir) == "log" {
		v.measured.Add(1)
		if data != 0 {
			return volume{size: v.log.Load(), device: 2}
		}
	}
	if data != 0 {
		return volume{size: data, device: 1}
	}
	return volume{size: v.log.Load(), device: 1}
}

// looks waits until the leader has looked at retention some times more.
func (v *volumes) looks(t *testing.T) {
	t.Helper()
	before := v.measured.Load()
	eventually(t, patience, "the volume is measured", func() error {
		if n := v.measured.Load() - before; n < 5 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
}

const (
	wide   = 1 << 40
	narrow = 20 << 10 // half of it is the log's
)

// narrowAudit are options with which a log on narrow volumes is soon too large.
func narrowAudit(o *Options, v *volumes, fit time.Duration) {
	o.AuditSegmentSize, o.AuditMaxSize = 2<<10, 1<<30
	o.auditPace = auditPace{retention: 50 * time.Millisecond, floor: time.Minute, lost: time.Hour, fit: fit}
	o.volumeOf = v.of
}

func (r *replicas) fillLog(n int) {
	r.addUser(0, "alice", "devs")
	c := r.kubeClient(r.login(0, "alice"))
	for i := range 60 {
		r.use(c, i%n, fmt.Sprintf("/api/number-%d", i))
	}
	r.sameLogs(holds("number-59"), 0) // far more than a narrow volume has room for
}

// keeps fails if anything was deleted on a replica.
func (r *replicas) keeps(t *testing.T, why string) {
	t.Helper()
	if files := r.logFiles(0); files[segmentFile(1)] == "" || len(files) < 2 {
		t.Errorf("%s, but the log was deleted: %v", why, sizes(files))
	}
}

func (r *replicas) deletes(t *testing.T, of ...int) {
	t.Helper()
	r.sameLogs(func(files map[string]string) error {
		if len(files) > 8 || files[segmentFile(1)] != "" || !strings.Contains(files["events.log"], api.EventAuditRetention) {
			return fmt.Errorf("nothing was deleted: %v", sizes(files))
		}
		return nil
	}, of...)
}

func TestTheAuditLogIsKeptSmallerThanTheVolumeThatHoldsIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data, log int64
		fit       time.Duration
		want      string // why all is kept; "": it is not
	}{
		"a small data volume":               {data: narrow, log: wide, fit: 1, want: "the log has a volume of its own"},
		"in the first minutes":              {log: narrow, fit: time.Hour, want: "the leader is new"},
		"a small volume for both":           {log: narrow, fit: 1},
		"a small volume for the log":        {data: wide, log: narrow, fit: 1},
		"a volume that can not be measured": {fit: 1, want: "nobody knows the size"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := &volumes{}
			v.data.Store(c.data)
			v.log.Store(c.log)
			r := startReplicas(t, 1, func(_ int, o *Options) { narrowAudit(o, v, c.fit) })
			r.fillLog(1)
			if c.want == "" {
				r.deletes(t, 0)
				return
			}
			v.looks(t)
			r.keeps(t, c.want)
		})
	}
}

// What one replica's volume has no room for, the others keep, whoever leads.
func TestNoReplicaWithASmallVolumeDecidesForTheOthers(t *testing.T) {
	t.Parallel()
	var all [3]volumes
	r := startReplicas(t, 3, func(i int, o *Options) {
		all[i].log.Store(wide)
		narrowAudit(o, &all[i], 1)
	})
	leader := r.leader()
	all[leader].log.Store(narrow)
	r.fillLog(3)
	all[leader].looks(t)
	r.keeps(t, "the leader alone has a small volume")
	all[(leader+1)%3].log.Store(narrow)
	r.deletes(t, 0, 1, 2)
	page, err := r.admin(1).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventAuditRetention}, Newest: true, Limit: 1})
	if err != nil || len(page.Events) != 1 || !strings.Contains(string(page.Events[0]), `"reason":"size"`) || !strings.Contains(string(page.Events[0]), `"room":10240`) {
		t.Errorf("the event does not say why: %+v, %v", page, err)
	}
}

func TestSegmentsAreSmallOnSmallVolumes(t *testing.T) {
	t.Parallel()
	v := &volumes{}
	v.log.Store(8 << 20)
	r := startReplicas(t, 1, func(_ int, o *Options) {
		narrowAudit(o, v, time.Hour)
		o.AuditSegmentSize = 64 << 20
	})
	srv := r.run[0].srv
	for _, c := range []struct{ volume, want int64 }{{8 << 20, 1 << 20}, {wide, 64 << 20}, {100 << 20, 50 << 18}} {
		v.log.Store(c.volume)
		eventually(t, patience, "the limit is written", func() error {
			if got, err := record(srv.store.View(), audit.KeyLimits, audit.Limits{}); err != nil || got.SegmentBytes != c.want {
				return fmt.Errorf("%d, want %d, %w", got.SegmentBytes, c.want, err)
			}
			return nil
		})
	}
}
