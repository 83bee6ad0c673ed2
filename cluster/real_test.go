package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/clustertest"
	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/testport"
)

// names is a fake resolver: a host's loopback address, which changes at will.
type names struct {
	mu sync.Mutex
	m  map[string]string // name:port to address
	// dark is a network without power at the other ends: nobody answers, not even no.
	dark atomic.Bool

	seeds [][]byte // of the peer CA, for those who start from now on; nil: the usual one
}

func (r *names) set(name, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m[name] = addr
}

func (r *names) dial(ctx context.Context, network, name string) (net.Conn, error) {
	if r.dark.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.mu.Lock()
	addr, ok := r.m[name]
	r.mu.Unlock()
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// real is a replica over real TLS and a real bbolt file.
type real struct {
	name string
	dir  string
	id   string
	node *cluster.Node
	sm   *clustertest.Machine
	stop func() error
}

var allNames = []string{"a.test:7443", "b.test:7443", "c.test:7443"}

// startReal starts a replica at a fresh loopback port that its name resolves to.
func startReal(t testing.TB, r *names, name, dir string, change ...func(*cluster.Options)) *real {
	t.Helper()
	id, err := cluster.ServerID(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.set(name, l.Addr().String())
	seeds := r.seeds
	if seeds == nil {
		seeds = [][]byte{bytes.Repeat([]byte{3}, 32)}
	}
	port, err := peer.New(peer.Options{
		ServerID: id, Seeds: seeds, Listener: l, Advertise: name, Dial: r.dial, Logger: logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	sm := &clustertest.Machine{}
	o := cluster.Options{
		SM: sm, EncodeEntry: clustertest.Encode, Port: port, DataDir: dir, BootstrapExpect: 3, Logger: logger(),
		Join:      slices.DeleteFunc(slices.Clone(allNames), func(s string) bool { return s == name }),
		Autopilot: cluster.Autopilot{Stabilize: 100 * time.Millisecond},
		Hold:      patience / 3, // elections that a busy machine breaks off are held again
	}
	for _, f := range change {
		f(&o)
	}
	node, err := cluster.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := t.(*testing.T); ok { // benchmarks measure what users have
		node.SlowDown(slowdown)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	rep := &real{name: name, dir: dir, id: id, node: node, sm: sm}
	rep.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := rep.stop(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return rep
}

// patience is for machines that are busy; who waits so long waits for something
// that does not come.
const patience = time.Minute

// slowdown is for them too: half a second without a heartbeat is nothing there.
const slowdown = 3

// until polls. why says what is in the way.
func until(t testing.TB, what string, ok func() bool, why ...*string) {
	t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			for _, reason := range why {
				what += ": " + *reason
			}
			t.Fatalf("not within %s: %s", patience, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ready(t testing.TB, reps ...*real) {
	t.Helper()
	for _, r := range reps {
		why := ""
		until(t, r.name+" ready", func() (ok bool) {
			ok, why = r.node.Ready()
			return ok
		}, &why)
	}
}

// write does as it is told when leadership is lost meanwhile, as it is now and then on a busy
// machine: it looks before it tries again.
func write(t *testing.T, r *real, item string) {
	t.Helper()
	why := ""
	until(t, "write "+strconv.Quote(item)+" on "+r.name, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := r.node.Propose(ctx, []byte(item))
		if err == nil {
			return true
		}
		if why = err.Error(); !api.IsCode(err, api.CodeAmbiguous) && !api.IsCode(err, api.CodeUnavailable) {
			t.Fatal(err)
		}
		return r.node.Linearize(ctx) == nil && r.sm.Has(item)
	}, &why)
}

// TestAWipedVoterElectsNobody is reliability's darkest row: an acknowledged
// write on A and B, B's disk wiped and B back at its address, A gone. Raft alone makes
// the lagging C leader with B's blank vote.
func TestAWipedVoterElectsNobody(t *testing.T) {
	t.Parallel()
	r := &names{m: make(map[string]string)}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	a, b, c := startReal(t, r, allNames[0], dirs[0]), startReal(t, r, allNames[1], dirs[1]), startReal(t, r, allNames[2], dirs[2])
	ready(t, a, b, c)
	clusterID := a.node.ClusterID()
	for _, x := range []*real{a, b, c} {
		if x.node.ClusterID() == "" || x.node.ClusterID() != clusterID {
			t.Fatalf("%s is of cluster %q, %s of %q", a.name, clusterID, x.name, x.node.ClusterID())
		}
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	write(t, a, "acknowledged")
	if err := errors.Join(b.stop(), a.stop()); err != nil {
		t.Fatal(err)
	}
	dirs[1] = t.TempDir()
	c = startReal(t, r, allNames[2], dirs[2])
	b = startReal(t, r, allNames[1], dirs[1])

	// Four election timeouts, and many rounds of b's asking to join.
	for end := time.After(slowdown * 2 * time.Second); ; {
		if c.node.Status().State == "leader" || b.node.Status().State == "leader" {
			t.Fatal("a replica that lacks an acknowledged write leads")
		}
		if b.node.ClusterID() != "" {
			t.Fatalf("the wiped replica is of cluster %q without a leader to let it in", b.node.ClusterID())
		}
		select {
		case <-end:
		case <-time.After(20 * time.Millisecond):
			continue
		}
		break
	}
	a = startReal(t, r, allNames[0], dirs[0])
	ready(t, a, b, c)
	for _, x := range []*real{a, b, c} {
		if err := x.node.Linearize(context.Background()); err != nil {
			t.Fatal(err)
		}
		if !x.sm.Has("acknowledged") {
			t.Errorf("%s lost the write", x.name)
		}
		if x.node.ClusterID() != clusterID {
			t.Errorf("%s is of another cluster", x.name)
		}
	}
	voters := 0
	for _, s := range a.node.Status().Servers {
		if s.Voter {
			voters++
		}
	}
	if voters != 3 || len(a.node.Status().Servers) != 3 {
		t.Errorf("members %+v, want three voters", a.node.Status().Servers)
	}
}

// TestAVoterThatLostItsLogDoesNotStart is the same row with the id left in
// place: the others would take its votes for those of the server that
// acknowledged the write.
func TestAVoterThatLostItsLogDoesNotStart(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string][]string{
		"the log":               {"raft.db"},
		"the log and snapshots": {"raft.db", "raft"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &names{m: make(map[string]string)}
			dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
			a, b, c := startReal(t, r, allNames[0], dirs[0]), startReal(t, r, allNames[1], dirs[1]), startReal(t, r, allNames[2], dirs[2])
			ready(t, a, b, c)
			if err := c.stop(); err != nil {
				t.Fatal(err)
			}
			write(t, a, "acknowledged")
			if err := errors.Join(b.stop(), a.stop()); err != nil {
				t.Fatal(err)
			}
			for _, f := range lost {
				if err := os.RemoveAll(filepath.Join(dirs[1], f)); err != nil {
					t.Fatal(err)
				}
			}
			if err := startAndFail(t, r, allNames[1], dirs[1]); err == nil || !strings.Contains(err.Error(), "empty the directory to join as a new server") {
				t.Errorf("Run returned %v", err)
			}
		})
	}
}

func TestASnapshotWithoutTheLogBesideItDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, _, err := cluster.Seed(dir, strings.NewReader(`{}`), cluster.SeedOptions{Index: 4, Advertise: allNames[0], Logger: logger()}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	r := &names{m: make(map[string]string)}
	if err := startAndFail(t, r, allNames[0], dir); err == nil || !strings.Contains(err.Error(), "empty the directory to join as a new server") {
		t.Errorf("Run returned %v", err)
	}
}

// startAndFail is what Run returns to a replica that is asked to stop at once.
func startAndFail(t *testing.T, r *names, name, dir string) error {
	t.Helper()
	rep := startReal(t, r, name, dir)
	err := rep.stop()
	rep.stop = func() error { return nil }
	return err
}

// TestNewAddressesBehindTheSameNames restarts all replicas with other addresses.
func TestNewAddressesBehindTheSameNames(t *testing.T) {
	t.Parallel()
	r := &names{m: make(map[string]string)}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var reps []*real
	for i := range 3 {
		reps = append(reps, startReal(t, r, allNames[i], dirs[i]))
	}
	ready(t, reps...)
	write(t, reps[1], "before")
	for i := range reps {
		if err := reps[i].stop(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		reps[i] = startReal(t, r, allNames[i], dirs[i])
	}
	ready(t, reps...)
	write(t, reps[2], "after")
	if got := reps[2].sm.Items(); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("items %q", got)
	}
}

func TestTheStateOnDiskIsPrivate(t *testing.T) {
	t.Parallel()
	r := &names{m: make(map[string]string)}
	dir := t.TempDir()
	a := startReal(t, r, allNames[0], dir, func(o *cluster.Options) { o.BootstrapExpect = 1 })
	ready(t, a)
	write(t, a, "x")
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestGossipFindsTheOthers gives each replica one gossip address and no peer address.
func TestGossipFindsTheOthers(t *testing.T) {
	t.Parallel()
	r := &names{m: make(map[string]string)}
	key := bytes.Repeat([]byte{5}, 32)
	var ports []string
	for _, port := range testport.Reserve(t, 4) {
		ports = append(ports, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	var reps []*real
	for i := range 3 {
		reps = append(reps, startReal(t, r, allNames[i], t.TempDir(), func(o *cluster.Options) {
			o.Join = nil
			o.Version = "1.2.3"
			o.Gossip = cluster.Gossip{Keys: [][]byte{key}, Listen: ports[i], Join: ports[:1]}
		}))
	}
	stranger := startReal(t, r, "d.test:7443", t.TempDir(), func(o *cluster.Options) {
		o.Join = nil
		o.Gossip = cluster.Gossip{Keys: [][]byte{bytes.Repeat([]byte{6}, 32)}, Listen: ports[3], Join: ports[:3]}
	})
	ready(t, reps...)
	until(t, "gossip sees everyone", func() bool {
		for _, s := range reps[0].node.Status().Servers {
			if !s.Alive || s.Version != "1.2.3" {
				return false
			}
		}
		return true
	})
	if id := stranger.node.ClusterID(); id != "" {
		t.Errorf("a server with another gossip key found the cluster %q", id)
	}
}

// TestAFollowerThatStalledCatchesUp is hashicorp/raft#612: in pipeline mode a
// follower stayed behind for ever after its disk had hung.
func TestAFollowerThatStalledCatchesUp(t *testing.T) {
	t.Parallel()
	r := &names{m: make(map[string]string)}
	var reps []*real
	hang := make([]atomic.Pointer[chan struct{}], 3)
	for i := range 3 {
		stores := cluster.NewMemoryStores()
		stores.WrapLog = func(l raft.LogStore) raft.LogStore { return hangingLogs{l, &hang[i]} }
		reps = append(reps, startReal(t, r, allNames[i], t.TempDir(), func(o *cluster.Options) { o.Stores = stores }))
	}
	ready(t, reps...)
	lead := -1
	until(t, "a leader", func() bool {
		lead = slices.IndexFunc(reps, func(x *real) bool { return x.node.Status().State == "leader" })
		return lead >= 0
	})
	bad := (lead + 1) % 3
	release := make(chan struct{})
	hang[bad].Store(&release)
	for k := range 50 {
		write(t, reps[lead], strconv.Itoa(k))
	}
	until(t, "the fence", func() bool { return reps[bad].node.Status().State == "fenced" })
	write(t, reps[lead], "last")
	hang[bad].Store(nil)
	close(release)
	until(t, "it catches up", func() bool { return reps[bad].sm.Has("last") })
}

type hangingLogs struct {
	raft.LogStore
	hang *atomic.Pointer[chan struct{}]
}

func (h hangingLogs) StoreLog(l *raft.Log) error { return h.StoreLogs([]*raft.Log{l}) }

func (h hangingLogs) StoreLogs(l []*raft.Log) error {
	if ch := h.hang.Load(); ch != nil {
		<-*ch
	}
	return h.LogStore.StoreLogs(l)
}
