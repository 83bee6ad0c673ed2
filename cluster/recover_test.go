package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/clustertest"
	"github.com/sallyport-dev/sallyport/internal/api"
)

func registerDuty(fn func(context.Context) error) func(int, *cluster.Node) {
	return func(_ int, n *cluster.Node) { n.RunWhenLeader("test", fn) }
}

func TestRecoverMakesTheLastReplicaANewCluster(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		old := c.Node(0).ClusterID()
		propose(t, c, 0, "kept")
		for i := range 3 {
			if err := c.Node(i).Linearize(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Node(0).Recover(context.Background(), &backupFile{}); !api.IsCode(err, api.CodeConflict) {
			t.Errorf("Recover in a healthy cluster: %v, want conflict", err)
		}
		c.Partition(nil, []int{0})
		c.Eventually(10*time.Second, "no leader on 0", func() bool { return c.Node(0).Status().LeaderID == "" })
		c.Heal() // the others have a leader, node 0 alone does not know it yet, or does again
		if _, err := c.Node(0).Recover(context.Background(), &backupFile{}); !api.IsCode(err, api.CodeConflict) {
			t.Errorf("Recover beside a working majority: %v, want conflict", err)
		}
		c.Crash(1)
		c.Crash(2)
		c.Eventually(10*time.Second, "no leader on 0", func() bool { return c.Node(0).Status().LeaderID == "" })

		var backup backupFile
		got, err := c.Node(0).Recover(context.Background(), &backup)
		if err != nil {
			t.Fatal(err)
		}
		if got.ClusterID == old || got.ClusterID == "" || got.ClusterID != c.Node(0).ClusterID() {
			t.Errorf("recovered as cluster %q, was %q", got.ClusterID, old)
		}
		restored := &clustertest.Machine{}
		if err := restored.Restore(&backup.Buffer); err != nil || !restored.Has("kept") {
			t.Errorf("the backup lacks the data (%v)", err)
		}
		propose(t, c, 0, "new")
		if !c.Machine(0).Has("kept") {
			t.Error("recovery lost data")
		}

		// The old two come back with their old state: they can neither join nor be led.
		c.Start(1)
		c.Start(2)
		let(time.Minute)
		for i := 1; i <= 2; i++ {
			if c.Machine(i).Has("new") || c.Node(i).ClusterID() != old {
				t.Errorf("old node %d took part in the new cluster", i)
			}
		}
		if c.Machine(0).Has("stale") || len(c.Node(0).Status().Servers) != 1 {
			t.Errorf("members %+v", c.Node(0).Status().Servers)
		}
		// Wiped, they join.
		for i := 1; i <= 2; i++ {
			c.Crash(i)
			c.Wipe(i)
		}
		for i := 1; i <= 2; i++ {
			c.Start(i)
		}
		c.Ready(time.Minute)
		if ids := clusters(c, 0, 1, 2); !slices.Equal(ids, []string{got.ClusterID}) {
			t.Errorf("clusters %q", ids)
		}
		if !c.Machine(2).Has("kept") || !c.Machine(2).Has("new") {
			t.Error("the new members lack data")
		}
		// A restart keeps what recovery made.
		c.Crash(0)
		c.Start(0)
		c.Ready(time.Minute)
	})
}

// backupFile is a backup whose disk may fail.
type backupFile struct {
	bytes.Buffer
	writeErr, syncErr error
}

func (f *backupFile) Write(p []byte) (int, error) {
	if f.writeErr != nil {
		return 0, f.writeErr
	}
	return f.Buffer.Write(p)
}

func (f *backupFile) Sync() error { return f.syncErr }

// metaStores lets a test look at, or fail, every write of cluster.json.
type metaStores struct {
	*cluster.MemoryStores
	save func() error
}

func (s *metaStores) SaveMeta(b []byte) error {
	if s.save != nil {
		if err := s.save(); err != nil {
			return err
		}
	}
	return s.MemoryStores.SaveMeta(b)
}

// lastReplica leaves node 0 without the others, with data.
func lastReplica(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	c.Ready(20 * time.Second)
	propose(t, c, 0, "early")
	propose(t, c, 0, "late")
	c.Crash(1)
	c.Crash(2)
	c.Eventually(10*time.Second, "no leader on 0", func() bool { return c.Node(0).Status().LeaderID == "" })
}

func TestAFailedRecoveryChangesNothingAndCanBeRepeated(t *testing.T) {
	full := errors.New("no space left on device")
	var stores *metaStores
	opts := clustertest.Options{Configure: func(i int, o *cluster.Options, s *cluster.MemoryStores) {
		if i == 0 {
			stores = &metaStores{MemoryStores: s}
			o.Stores = stores
		}
	}}
	bubble(t, opts, func(t *testing.T, c *clustertest.Cluster) {
		lastReplica(t, c)
		old := c.Node(0).ClusterID()
		for _, backup := range []*backupFile{{writeErr: full}, {syncErr: full}} {
			if _, err := c.Node(0).Recover(context.Background(), backup); !errors.Is(err, full) {
				t.Errorf("Recover: %v, want %v", err, full)
			}
			if got := c.Node(0).ClusterID(); got != old {
				t.Errorf("cluster %q without a backup, was %q", got, old)
			}
		}
		stores.save = func() error { return full } // now Raft is stopped already
		if _, err := c.Node(0).Recover(context.Background(), &backupFile{}); !errors.Is(err, full) {
			t.Errorf("Recover: %v, want %v", err, full)
		}
		stores.save = nil
		let(10 * time.Second)
		if ok, why := c.Node(0).Ready(); !ok || !c.Machine(0).Has("late") {
			t.Errorf("ready %v (%s), items %q", ok, why, c.Machine(0).Items())
		}
		if _, err := c.Node(0).Recover(context.Background(), &backupFile{}); err != nil {
			t.Fatal(err)
		}
		propose(t, c, 0, "after")
		if want := []string{"early", "late", "after"}; !slices.Equal(c.Machine(0).Items(), want) {
			t.Errorf("items %q, want %q", c.Machine(0).Items(), want)
		}
	})
}

func TestARecoveryOfAReplicaThatStopsEnds(t *testing.T) {
	var stores *metaStores
	opts := clustertest.Options{Configure: func(i int, o *cluster.Options, s *cluster.MemoryStores) {
		if i == 0 {
			stores = &metaStores{MemoryStores: s}
			o.Stores = stores
		}
	}}
	bubble(t, opts, func(t *testing.T, c *clustertest.Cluster) {
		lastReplica(t, c)
		stores.save = func() error { c.Crash(0); return nil }
		got, err := c.Node(0).Recover(context.Background(), &backupFile{})
		if !api.IsCode(err, api.CodeAmbiguous) || got.ClusterID == "" || got.ClusterID != c.Node(0).ClusterID() {
			t.Errorf("Recover: %+v, %v, want ambiguous, and the id that it has made", got, err)
		}
	})
}

// tardy is a link on which Raft takes its time to stop: its pre-votes are on the way for
// so long, whatever is fenced. As on the peer port, one instance's transport is open at a time.
type tardy struct {
	cluster.Link
	takes  atomic.Int64
	open   atomic.Bool
	fenced atomic.Pointer[func()] // called before Raft is told to stop
}

// tardyOptions give node 0 that link.
func tardyOptions(link *tardy) clustertest.Options {
	return clustertest.Options{Configure: func(i int, o *cluster.Options, _ *cluster.MemoryStores) {
		if i == 0 {
			link.Link, o.Link = o.Link, link
		}
	}}
}

func (l *tardy) Fence(reason string) {
	if fn := l.fenced.Load(); fn != nil {
		(*fn)()
	}
	l.Link.Fence(reason)
}

type tardyTransport struct {
	raft.Transport
	link *tardy
}

func (l *tardy) RaftTransport(log hclog.Logger) (raft.Transport, error) {
	if l.open.Swap(true) {
		return nil, errors.New("the instance before is still running")
	}
	t, err := l.Link.RaftTransport(log)
	return tardyTransport{t, l}, err
}

func (t tardyTransport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	let(time.Duration(t.link.takes.Load()))
	return t.Transport.(raft.WithPreVote).RequestPreVote(id, to, args, resp)
}

func (t tardyTransport) Close() error {
	t.link.open.Store(false)
	return t.Transport.(raft.WithClose).Close()
}

func TestARecoveryWaitsForRaftToStop(t *testing.T) {
	for name, tc := range map[string]struct {
		takes time.Duration
		crash bool
	}{
		"as long as it takes":           {takes: time.Minute},
		"unless the replica is to stop": {takes: 10 * time.Minute, crash: true},
	} {
		t.Run(name, func(t *testing.T) {
			link := &tardy{}
			bubble(t, tardyOptions(link), func(t *testing.T, c *clustertest.Cluster) {
				lastReplica(t, c)
				old := c.Node(0).ClusterID()
				link.takes.Store(int64(tc.takes))
				let(5 * time.Second) // it stands for election, again and again
				if tc.crash {
					time.AfterFunc(10*time.Second, func() { c.Crash(0) })
				}
				got, err := c.Node(0).Recover(context.Background(), &backupFile{})
				if tc.crash {
					if err == nil || c.Node(0).ClusterID() != old {
						t.Errorf("Recover: %v, cluster %s was %s", err, c.Node(0).ClusterID(), old)
					}
					<-c.Done(0)
					let(tc.takes) // nothing of Raft may outlive the test
					return
				}
				if err != nil || got.ClusterID == old {
					t.Fatalf("Recover: %v", err)
				}
				propose(t, c, 0, "after")
			})
		})
	}
}

// R5-1: nobody is there any more to hear what became of it, or to write it down.
func TestARecoveryThatWasGivenUpIsNotCarriedOutLater(t *testing.T) {
	link := &tardy{}
	bubble(t, tardyOptions(link), func(t *testing.T, c *clustertest.Cluster) {
		lastReplica(t, c)
		old := c.Node(0).ClusterID()
		const takes = 10 * time.Minute
		link.takes.Store(int64(takes))
		let(5 * time.Second) // it stands for election
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		got, err := c.Node(0).Recover(ctx, &backupFile{})
		if !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(fmt.Sprint(err), "nothing was changed") || got != (cluster.Recovery{}) {
			t.Errorf("Recover: %+v, %v, want unavailable, nothing was changed", got, err)
		}
		// Raft is still stopping: there is data here nevertheless.
		if _, err := c.Node(0).Recover(context.Background(), &backupFile{}); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("Recover again: %v, want unavailable", err)
		}
		link.takes.Store(0)
		let(takes)
		if id := c.Node(0).ClusterID(); id != old {
			t.Fatalf("cluster %s was %s", id, old)
		}
		c.Start(1)
		c.Start(2)
		c.Ready(time.Minute)
		propose(t, c, 0, "after")
		if want := []string{"early", "late", "after"}; !slices.Equal(c.Machine(0).Items(), want) {
			t.Errorf("items %q, want %q", c.Machine(0).Items(), want)
		}
	})
}

// R6-M2: what a replica knows is as old as its last contact, whatever became of Raft here
// since. Its streams went on, and were cut by the command that was to save them.
func TestARecoveryDoesNotMakeAReplicaLookOlder(t *testing.T) {
	const maxStale = 5 * time.Minute
	for name, tc := range map[string]struct {
		takes  time.Duration // Raft, to stop
		within time.Duration
		ok     bool
	}{
		"given up":  {takes: 2 * time.Minute, within: time.Minute},
		"succeeded": {takes: 20 * time.Second, within: time.Minute, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			link := &tardy{}
			opts := tardyOptions(link)
			slow := opts.Configure
			opts.Configure = func(i int, o *cluster.Options, s *cluster.MemoryStores) {
				o.MaxStale = maxStale
				slow(i, o, s)
			}
			bubble(t, opts, func(t *testing.T, c *clustertest.Cluster) {
				c.Ready(20 * time.Second)
				propose(t, c, 0, "early")
				let(2 * maxStale)
				lost := time.Now()
				c.Crash(1)
				c.Crash(2)
				c.Eventually(10*time.Second, "no leader on 0", func() bool { return c.Node(0).Status().LeaderID == "" })
				link.takes.Store(int64(tc.takes))
				let(5 * time.Second) // it stands for election

				defer let(tc.takes) // nothing of Raft may outlive the test
				over := make(chan error, 1)
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), tc.within)
					defer cancel()
					_, err := c.Node(0).Recover(ctx, &backupFile{})
					over <- err
				}()
				fresh := func() {
					t.Helper()
					age, _, stale := c.Node(0).Stale()
					if ready, why := c.Node(0).Ready(); age > time.Since(lost)+time.Second || stale || !ready {
						t.Fatalf("%s after the loss: age %s, stale %v, ready %v (%s)", time.Since(lost), age, stale, ready, why)
					}
				}
				var err error
				for done := false; !done; {
					select {
					case err = <-over:
						done = true
					case <-time.After(10 * time.Millisecond):
						fresh()
					}
				}
				if tc.ok {
					if age, _, _ := c.Node(0).Stale(); err != nil || age != 0 {
						t.Errorf("Recover: %v, age %s", err, age)
					}
					return
				}
				if !api.IsCode(err, api.CodeUnavailable) {
					t.Fatalf("Recover: %v, want unavailable", err)
				}
				link.takes.Store(0)
				for len(c.Node(0).Status().Servers) == 0 { // Raft is not back yet
					let(time.Second)
					fresh()
				}
				let(10 * time.Second)
				fresh()
				// And it does not look younger.
				let(time.Until(lost.Add(maxStale + 2*time.Second)))
				if age, _, stale := c.Node(0).Stale(); age < maxStale || !stale {
					t.Errorf("%s after the loss: age %s, stale %v", time.Since(lost), age, stale)
				}
			})
		})
	}
}

// R6-S1: whoever stops a replica has closed what would tell of a recovery.
func TestAReplicaThatIsToldToStopDoesNotBeginToRecover(t *testing.T) {
	link := &tardy{}
	bubble(t, tardyOptions(link), func(t *testing.T, c *clustertest.Cluster) {
		lastReplica(t, c)
		old := c.Node(0).ClusterID()
		stop := func() { c.Crash(0) } // Raft stops in time, nevertheless
		link.fenced.Store(&stop)
		got, err := c.Node(0).Recover(context.Background(), &backupFile{})
		if !api.IsCode(err, api.CodeUnavailable) || got != (cluster.Recovery{}) || c.Node(0).ClusterID() != old {
			t.Errorf("Recover: %+v, %v, cluster %s was %s; want unavailable, and nothing changed", got, err, c.Node(0).ClusterID(), old)
		}
		<-c.Done(0)
	})
}

// R6-N3: what recovery takes for committed goes into the audit log's journal, whose disk may be full.
func TestARecoveryOntoAFullDiskWaitsForRoomOrTheEnd(t *testing.T) {
	for name, stop := range map[string]bool{"room": false, "the end": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
				c.Ready(20 * time.Second)
				last := c.Leader(time.Second)
				for _, i := range others(last) {
					c.Crash(i)
				}
				if _, err := c.Node(last).Propose(context.Background(), []byte("lone")); !api.IsCode(err, api.CodeAmbiguous) {
					t.Fatalf("a proposal that nobody takes: %v, want ambiguous", err)
				}
				c.Eventually(10*time.Second, "no leader", func() bool { return c.Node(last).Status().LeaderID == "" })
				c.Machine(last).Fail(diskError{syscall.ENOSPC})
				over := make(chan error, 1)
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					_, err := c.Node(last).Recover(ctx, &backupFile{})
					over <- err
				}()
				let(50 * time.Second)
				if st := c.Node(last).Status(); st.State != "fenced" || !strings.Contains(st.Reason, syscall.ENOSPC.Error()) {
					t.Errorf("status %s (%s)", st.State, st.Reason)
				}
				if stop {
					if err := c.Stop(last); err != nil {
						t.Errorf("stopped: %v", err)
					}
					if err := <-over; err == nil {
						t.Error("recovered, without having applied its log")
					}
					return
				}
				c.Machine(last).Fail(nil)
				if err := <-over; err != nil {
					t.Fatal(err)
				}
				if !c.Machine(last).Has("lone") {
					t.Error("recovery lost what was in its log")
				}
				propose(t, c, last, "after")
			})
		})
	}
}

// docs/ha.md, the majority is gone for good, by a power cut: what Raft has under way to the
// others hangs.
func TestRecoverBesideReplicasWithoutPower(t *testing.T) {
	t.Parallel()
	r := &names{m: make(map[string]string)}
	var reps []*real
	for i := range 3 {
		reps = append(reps, startReal(t, r, allNames[i], t.TempDir()))
	}
	ready(t, reps...)
	write(t, reps[0], "kept")
	if err := errors.Join(reps[1].stop(), reps[2].stop()); err != nil {
		t.Fatal(err)
	}
	r.dark.Store(true)
	until(t, "no leader", func() bool { return reps[0].node.Status().LeaderID == "" })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	until(t, "recovered", func() bool {
		_, err := reps[0].node.Recover(ctx, &backupFile{})
		if err != nil && !api.IsCode(err, api.CodeConflict) { // it may have been handed the lead, for a moment
			t.Fatal(err)
		}
		return err == nil
	})
	write(t, reps[0], "new")
	if got := reps[0].sm.Items(); !slices.Equal(got, []string{"kept", "new"}) {
		t.Errorf("items %q", got)
	}
}

func TestSeedStartsANewClusterFromASnapshot(t *testing.T) {
	t.Parallel()
	m := &clustertest.Machine{}
	entry, err := clustertest.Encode(time.Now(), [][]byte{[]byte("from the backup")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Apply(4711, entry); err != nil {
		t.Fatal(err)
	}
	var snap bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	serverID, clusterID, err := cluster.Seed(dir, &snap, cluster.SeedOptions{Index: 4711, Advertise: allNames[0], Logger: logger()})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := cluster.Seed(dir, &snap, cluster.SeedOptions{Index: 1, Advertise: allNames[0], Logger: logger()}); err == nil {
		t.Error("Seed overwrote a used directory")
	}
	r := &names{m: make(map[string]string)}
	a := startReal(t, r, allNames[0], dir)
	b := startReal(t, r, allNames[1], t.TempDir())
	ready(t, a, b)
	if a.id != serverID || a.node.ClusterID() != clusterID || b.node.ClusterID() != clusterID {
		t.Errorf("server %s of %s, other of %s; Seed said %s of %s", a.id, a.node.ClusterID(), b.node.ClusterID(), serverID, clusterID)
	}
	write(t, b, "more")
	if got := b.sm.Items(); !slices.Equal(got, []string{"from the backup", "more"}) {
		t.Errorf("items %q", got)
	}
}

func TestAnInterruptedSeedIsNoticedAndRepeated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opts := cluster.SeedOptions{Index: 3, Advertise: allNames[0], Logger: logger()}
	broken := errors.New("connection reset")
	if _, _, err := cluster.Seed(dir, io.MultiReader(strings.NewReader(`{"items":`), iotest.ErrReader(broken)), opts); !errors.Is(err, broken) {
		t.Fatalf("Seed: %v", err)
	}
	if _, err := cluster.ServerID(dir); err == nil || !strings.Contains(err.Error(), "restore") {
		t.Errorf("half a restored directory starts (%v)", err)
	}
	if used, err := cluster.StateIn(dir); used == "" || err != nil {
		t.Errorf("half a restored directory counts as unused (%v)", err)
	}
	id, _, err := cluster.Seed(dir, strings.NewReader(`{"items":["kept"],"index":3}`), opts)
	if err != nil {
		t.Fatalf("Seed again: %v", err)
	}
	a := startReal(t, &names{m: make(map[string]string)}, allNames[0], dir)
	ready(t, a)
	if a.id != id || !a.sm.Has("kept") {
		t.Errorf("server %s with %q, Seed said %s", a.id, a.sm.Items(), id)
	}
}

func TestTheLogIsBoundedBySnapshots(t *testing.T) {
	bubble(t, clustertest.Options{}, func(t *testing.T, c *clustertest.Cluster) {
		c.Ready(20 * time.Second)
		lead := c.Leader(time.Second)
		big := bytes.Repeat([]byte("x"), 1<<20)
		for range 60 { // base64 in the entry: a third more
			if _, err := c.Node(lead).Propose(context.Background(), big); err != nil {
				t.Fatal(err)
			}
		}
		let(time.Minute)
		logs, _, snaps, err := c.Stores(lead).Open()
		if err != nil {
			t.Fatal(err)
		}
		if list, err := snaps.List(); err != nil || len(list) == 0 {
			t.Fatalf("no snapshot (%v)", err)
		}
		first, _ := logs.FirstIndex()
		last, _ := logs.LastIndex()
		if kept := last - first; kept > 60 {
			t.Errorf("%d entries of 1.4 MB are kept", kept)
		}
		c.Crash(others(lead)[0])
		c.Wipe(others(lead)[0])
		c.Start(others(lead)[0])
		c.Ready(2 * time.Minute) // by snapshot
		if got, want := len(c.Machine(others(lead)[0]).Items()), 60; got != want {
			t.Errorf("the new server has %d items, want %d", got, want)
		}
		propose(t, c, others(lead)[0], fmt.Sprintf("after-%d", last))
	})
}
