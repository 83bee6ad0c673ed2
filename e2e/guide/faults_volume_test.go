package guide

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// wipe has a replica start again with an empty volume.
func (w *world) wipe(t *testing.T, name string) (old pod) {
	t.Helper()
	ctx := within(t, patience)
	old, err := w.pod(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	ok(t, w.tele.Kubectl(ctx, "delete", "pvc", "-n", namespace, "data-"+name, "--wait=false"))
	ok(t, w.tele.Kubectl(ctx, "delete", "pod", "-n", namespace, name))
	return old
}

// Reliability 4: the volume of replica 0 is lost. It comes back under a new id, and founds
// nothing; nobody notices.
func TestVolumeWiped(t *testing.T) {
	w := guided(t)
	p := newTypist(t, w)
	before := w.whole(t)
	loops := p.typing(t)
	since := time.Now()
	old := w.wipe(t, replica(0))
	w.anew(t, old)
	w.rejoined(t, before)
	w.took("volume of replica 0 wiped, until it has all of the state and the audit log", since)
	for _, l := range loops {
		l.more(t, 2)
	}
	none(t, w, since, loops...)
}

// rejoined wants replica 0 to be a new member of the same cluster, with all there was.
func (w *world) rejoined(t *testing.T, before []api.Status) {
	t.Helper()
	after := w.whole(t)
	if after[0].ServerID == before[0].ServerID {
		t.Errorf("replica 0 is %s still: it has its volume", after[0].ServerID)
	}
	if !slices.Equal(ids(after)[1:], ids(before)[1:]) || after[0].ClusterID != before[0].ClusterID {
		t.Errorf("they were %v of cluster %s, and are %v of cluster %s", ids(before), before[0].ClusterID, ids(after), after[0].ClusterID)
	}
	ctx := within(t, patience)
	ok(t, w.inPod(ctx, replica(0), "tctl", "get", "user/alice"))
	testbed.Wait(t, patience, "the whole audit log", func() error {
		if r := w.inPod(ctx, replica(0), "tctl", "audit", "verify"); r.Err != nil {
			return fmt.Errorf("%w\n%s", r.Err, r.Stdout)
		}
		// A line of the guide, long before.
		return w.inPod(ctx, replica(0), "grep", "-q", "does not belong to any teams configured", "/var/lib/sallyport/log/events.log").Err
	})
}

// electionTime is long enough for any number of elections.
const electionTime = 5 * time.Second

// The same while another replica can't be reached: one of three has the state then, which
// is no majority. Nobody leads, least of all who has nothing, until the other is back.
func TestVolumeWipedWhileAnotherReplicaIsAway(t *testing.T) {
	w := guided(t)
	p := newTypist(t, w)
	before := w.whole(t)
	ctx := within(t, 10*time.Minute)
	away, err := w.pod(ctx, replica(2))
	if err != nil {
		t.Fatal(err)
	}
	node := w.nodeOf(t, away)
	if err := w.tele.Partition(ctx, node); err != nil {
		t.Fatal(err)
	}
	healed := false
	heal := func() {
		if !healed {
			healed = true
			if err := w.tele.Heal(within(t, patience), node); err != nil {
				t.Error(err)
			}
		}
	}
	defer heal()
	since := time.Now()
	old := w.wipe(t, replica(0))
	testbed.Wait(t, patience, "replica 0 to start empty", func() error {
		p, err := w.pod(ctx, replica(0))
		if err == nil && p.Metadata.UID == old.Metadata.UID {
			err = fmt.Errorf("the pod is %s still", p.Metadata.UID)
		}
		return err
	})
	s := w.notReady(t, replica(0))
	w.clock.logf("          the wiped replica says: %s, %s", s.State, s.Reason)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(electionTime); time.Now().Before(end); <-tick.C {
		for i, was := range before[:2] {
			s, err := w.status(ctx, replica(i))
			if err != nil {
				t.Fatal(err)
			}
			if s.State == "leader" || i == 0 && s.Ready || s.ClusterID != "" && s.ClusterID != was.ClusterID {
				t.Fatalf("%s, without a majority that has the state: %+v", replica(i), s)
			}
		}
	}
	// Who is logged in goes on by the one that is left.
	testbed.Wait(t, patience, "kubectl get pods", func() error { return p.teleCommand(ctx) })
	w.took("volume of replica 0 wiped while replica 2 is away; nobody leads, kubectl works", since)
	back := time.Now()
	heal()
	w.rejoined(t, before)
	w.took("replica 2 is back, until all three have all", back)
	testbed.Wait(t, patience, "kubectl to cookie", func() error { return p.cookieCommand(ctx) })
}
