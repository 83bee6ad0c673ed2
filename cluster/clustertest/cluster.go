package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/internal/fault"
)

// Faults is test fault injection: mistakes in reading that a linearizability
// test must notice. The zero value is a correct build.
type Faults = fault.Set

// Options make a Cluster. Only NewSM and EncodeEntry have no default beside Machine's.
type Options struct {
	Nodes       int                                                      // default 3
	NewSM       func(i int) cluster.StateMachine                         // called at every (re)start; default a new Machine
	EncodeEntry func(now time.Time, items [][]byte) ([]byte, error)      // default Encode
	Clock       func(i int) time.Time                                    // default time.Now
	Faults      Faults                                                   // see there
	Configure   func(i int, o *cluster.Options, s *cluster.MemoryStores) // a last word before each start
	Register    func(i int, n *cluster.Node)                             // after New, before Run: duties
	Logger      *slog.Logger                                             // default: none
	Idle        bool                                                     // start nobody: see Start
	Latency     time.Duration                                            // of the network, one way; default half a millisecond
	DiskLatency time.Duration                                            // of every write; default none
	Expect      int                                                      // bootstrap-expect; default Nodes
}

// Cluster is some nodes on one Network.
type Cluster struct {
	tb   testing.TB
	opts Options
	Net  *Network

	mu    sync.Mutex
	nodes []*replica
}

type replica struct {
	id     string
	addr   string
	stores *cluster.MemoryStores
	node   *cluster.Node
	sm     cluster.StateMachine
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	born   int // how often wiped
	disk   *disk
}

// New starts a cluster. Its nodes are stopped by Close, which a test under
// synctest must call before its bubble ends.
func New(tb testing.TB, opts Options) *Cluster {
	tb.Helper()
	if opts.Nodes == 0 {
		opts.Nodes = 3
	}
	if opts.NewSM == nil {
		opts.NewSM = func(int) cluster.StateMachine { return &Machine{} }
	}
	if opts.EncodeEntry == nil {
		opts.EncodeEntry = Encode
	}
	if opts.Expect == 0 {
		opts.Expect = opts.Nodes
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{tb: tb, opts: opts, Net: NewNetwork(opts.Latency)}
	for i := range opts.Nodes {
		c.nodes = append(c.nodes, &replica{addr: Addr(i), stores: cluster.NewMemoryStores(), disk: &disk{slow: opts.DiskLatency}})
		c.nodes[i].id = c.idOf(i)
	}
	if !opts.Idle {
		for i := range c.nodes {
			c.Start(i)
		}
	}
	return c
}

// Addr is node i's address on the network.
func Addr(i int) string { return fmt.Sprintf("node-%d:7443", i) }

func (c *Cluster) idOf(i int) string { return fmt.Sprintf("%d-%04d", i, c.nodes[i].born) }

// Start (re)starts a node that is down.
func (c *Cluster) Start(i int) {
	c.tb.Helper()
	c.mu.Lock()
	r := c.nodes[i]
	done := r.done
	c.mu.Unlock()
	if done != nil {
		<-done // a crashed process is gone before the next opens its disk
	}
	var join []string
	for j := range c.nodes {
		if j != i {
			join = append(join, Addr(j))
		}
	}
	sm := c.opts.NewSM(i)
	o := cluster.Options{
		SM: sm, EncodeEntry: c.opts.EncodeEntry,
		Link: c.Net.Link(r.id, r.addr), Stores: r.stores,
		BootstrapExpect: c.opts.Expect, Join: join, Version: "test",
		Logger: c.opts.Logger, Faults: c.opts.Faults,
	}
	if c.opts.Clock != nil {
		o.Clock = func() time.Time { return c.opts.Clock(i) }
	}
	r.stores.WrapLog = func(l raft.LogStore) raft.LogStore { return diskLogs{l, r.disk} }
	r.stores.WrapStable = func(l raft.StableStore) raft.StableStore { return diskStable{l, r.disk} }
	if c.opts.Configure != nil {
		c.opts.Configure(i, &o, r.stores)
	}
	node, err := cluster.New(o)
	if err != nil {
		c.tb.Fatalf("node %d: %v", i, err)
	}
	if c.opts.Register != nil {
		c.opts.Register(i, node)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.mu.Lock()
	r.node, r.sm, r.cancel, r.done = node, sm, cancel, make(chan struct{})
	c.mu.Unlock()
	go func() { // owned by Close, through r.done
		defer close(r.done)
		err := node.Run(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		r.err = err
	}()
}

// Stop stops a node gracefully and returns what its Run returned.
func (c *Cluster) Stop(i int) error {
	c.mu.Lock()
	r := c.nodes[i]
	c.mu.Unlock()
	if r.cancel == nil {
		return nil
	}
	r.cancel()
	<-r.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.err
}

// Crash takes a node off the network at once, and lets it die alone. Its disk
// is as it was.
func (c *Cluster) Crash(i int) {
	c.Net.Down(Addr(i))
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.nodes[i].cancel; cancel != nil {
		cancel()
	}
}

// Wipe empties the disk of a node that is down: it will come back as another server.
func (c *Cluster) Wipe(i int) {
	c.mu.Lock()
	done := c.nodes[i].done
	c.mu.Unlock()
	if done != nil {
		<-done
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[i].born++
	c.nodes[i].id = c.idOf(i)
	c.nodes[i].stores = cluster.NewMemoryStores()
}

// Done is closed when node i's Run has returned; Err is what it returned.
func (c *Cluster) Done(i int) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].done
}

// Err is what node i's Run returned.
func (c *Cluster) Err(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].err
}

// Node is node i, as of its last start.
func (c *Cluster) Node(i int) *cluster.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].node
}

// SM is node i's state machine.
func (c *Cluster) SM(i int) cluster.StateMachine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].sm
}

// Machine is node i's state machine when it is the default one.
func (c *Cluster) Machine(i int) *Machine {
	m, ok := c.SM(i).(*Machine)
	if !ok {
		c.tb.Fatalf("node %d has a %T", i, c.SM(i))
	}
	return m
}

// Stores are node i's disk.
func (c *Cluster) Stores(i int) *cluster.MemoryStores {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].stores
}

// Partition cuts the network: nodes reach those of their own group only. Nodes that are
// not named belong to the first.
func (c *Cluster) Partition(groups ...[]int) {
	var g [][]string
	for _, members := range groups {
		var addrs []string
		for _, i := range members {
			addrs = append(addrs, Addr(i))
		}
		g = append(g, addrs)
	}
	c.Net.Partition(g...)
}

// Isolate cuts one node off from all others.
func (c *Cluster) Isolate(i int) { c.Partition(nil, []int{i}) }

// Heal undoes Partition.
func (c *Cluster) Heal() { c.Net.Heal() }

// Leader waits until one of the nodes (all, if none is named) leads and has a
// majority's ear, and returns which.
func (c *Cluster) Leader(within time.Duration, among ...int) int {
	c.tb.Helper()
	if len(among) == 0 {
		for i := range c.nodes {
			among = append(among, i)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for ctx.Err() == nil {
		for _, i := range among {
			n := c.Node(i)
			if n == nil || n.Status().State != "leader" {
				continue
			}
			vctx, done := context.WithTimeout(ctx, time.Second)
			err := n.Linearize(vctx)
			done()
			if err == nil && n.Status().State == "leader" {
				return i
			}
		}
		_ = wait(ctx, 10*time.Millisecond) // the loop looks at ctx
	}
	c.tb.Fatalf("no leader among %v within %s", among, within)
	return -1
}

// Eventually waits until ok returns true.
func (c *Cluster) Eventually(within time.Duration, what string, ok func() bool) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for !ok() {
		if wait(ctx, 20*time.Millisecond) != nil {
			c.tb.Fatalf("not within %s: %s", within, what)
		}
	}
}

// Ready waits until every named node (default: all) is ready.
func (c *Cluster) Ready(within time.Duration, nodes ...int) {
	c.tb.Helper()
	if len(nodes) == 0 {
		for i := range c.nodes {
			nodes = append(nodes, i)
		}
	}
	for _, i := range nodes {
		c.Eventually(within, fmt.Sprintf("node %d ready", i), func() bool {
			ok, _ := c.Node(i).Ready()
			return ok
		})
	}
}

// leftovers is how long some of Raft's goroutines that nobody can wait for take to
// time out (a leadership transfer's RPC, ten times raftTimeout).
const leftovers = 12 * raftTimeout

// Stall makes node i's disk hang: its writes wait. A stalled leader that is also
// isolated goes on believing in itself, since Raft's main thread waits too.
func (c *Cluster) Stall(i int) { c.nodes[i].disk.stall() }

// FailDisk makes node i's writes fail (ENOSPC, say).
func (c *Cluster) FailDisk(i int, err error) { c.nodes[i].disk.fault(err) }

// MendDisk undoes Stall and FailDisk.
func (c *Cluster) MendDisk(i int) { c.nodes[i].disk.mend() }

// Close stops all nodes and lets virtual time pass until Raft's leftovers are gone.
func (c *Cluster) Close() {
	for i := range c.nodes {
		c.MendDisk(i)
		c.mu.Lock()
		cancel := c.nodes[i].cancel
		c.mu.Unlock()
		if cancel != nil {
			cancel()
		}
	}
	for i := range c.nodes {
		if done := c.Done(i); done != nil {
			<-done
		}
	}
	_ = wait(context.Background(), leftovers) // never ends early
}
