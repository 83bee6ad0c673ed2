package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/internal/fault"
	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	// DefaultMaxStale is how long a replica stays ready without a leader.
	DefaultMaxStale = 15 * time.Minute

	// defaultHold is how long a call waits for a leader before it gives up.
	defaultHold = 5 * time.Second

	// Raft's timeouts. A leader that falls silent is missed after 500 to 1,500
	// ms (Raft's timer starts anew when it meets a recent contact). Shorter ones elect
	// on every hiccup of a busy machine; see hurry for leaders that die.
	heartbeatTimeout = 500 * time.Millisecond
	electionTimeout  = 500 * time.Millisecond
	leaseTimeout     = 250 * time.Millisecond
	hurriedTimeout   = leaseTimeout // as short as the lease lets it be
	hurryFor         = 2 * time.Second
)

// Options make a Node. SM, EncodeEntry and one of Port and Link are required.
type Options struct {
	SM StateMachine
	// EncodeEntry makes one log entry of items. An error with a method Item() int
	// blames the item at that position alone, any other the entry as a whole.
	EncodeEntry func(now time.Time, items [][]byte) ([]byte, error)

	Port    *peer.Port // registered on by New, started and closed by Run
	Link    Link       // instead of Port
	DataDir string     // raft.db, raft/snapshots, cluster.json; see ServerID
	Stores  Stores     // instead of DataDir

	BootstrapExpect int      // found a cluster once so many servers without state see each other; 0: join only
	Join            []string // peer addresses (host:port) to ask at first
	Gossip          Gossip   // zero: none
	Version         string   // of this program, shown in Status

	MaxStale time.Duration // 0: DefaultMaxStale; negative: strict, see Stale
	Hold     time.Duration // wait for a leader; 0: 5 s

	Clock  func() time.Time // wall clock that stamps entries; default time.Now
	Logger *slog.Logger     // default slog.Default

	Autopilot Autopilot

	// NoPipeline replicates one batch at a time. Set it if followers are seen to
	// hang after a stall (hashicorp/raft#612).
	NoPipeline bool

	// Faults is test fault injection: its type can be named only below this
	// package. Leave it zero.
	Faults fault.Set
}

// Node is one replica.
type Node struct {
	opts   Options
	link   Link
	store  Stores
	log    *slog.Logger
	id     raft.ServerID
	addr   raft.ServerAddress // id@host:port
	watch  *watchdog
	clock  *clockGuard
	app    *applied
	meter  *meter
	fleet  *gossip
	formed *formation
	told   logged // what the log holds already
	leads  signal // fires when it may be another who leads

	duties []duty // fixed before Run
	slow   int    // likewise; see SlowDown

	inst     atomic.Pointer[instance] // nil while Raft is not running
	stopping atomic.Bool
	started  time.Time
	heard    atomic.Pointer[time.Time] // from a leader, by instances before; nil: there were none
	reads    *shared                   // read indexes, asked of whoever leads
	restarts chan restart
	lost     chan string  // servers whose Raft connections broke
	inflight atomic.Int64 // proposals under way, forwarded ones too
	ready    atomic.Bool
	reason   atomic.Pointer[string] // why not ready
	changes  chan struct{}          // holds one while membership is changed
	runCtx   context.Context        // of Run; Background before
	fatal    chan error
}

// restart asks Run to stop Raft, change the stores and start it again.
type restart struct {
	change func(*instance) error
	done   chan error
	// settled is set by who comes first: Run, when it begins with the change, or the
	// asker, who gives it up. Raft may take long to stop in between.
	settled *atomic.Bool
}

func newRestart(change func(*instance) error) restart {
	return restart{change: change, done: make(chan error, 1), settled: &atomic.Bool{}}
}

// settle reports whether nobody else has decided whether the change is made.
func (r restart) settle() bool { return r.settled.CompareAndSwap(false, true) }

// duty is what RunWhenLeader was given.
type duty struct {
	name string
	fn   func(ctx context.Context) error
}

// New makes a node and registers its calls on the port. Run runs it.
func New(opts Options) (*Node, error) {
	if opts.SM == nil || opts.EncodeEntry == nil {
		return nil, errors.New("cluster: no state machine")
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Hold == 0 {
		opts.Hold = defaultHold
	}
	if opts.MaxStale == 0 {
		opts.MaxStale = DefaultMaxStale
	}
	link := opts.Link
	if link == nil {
		if opts.Port == nil {
			return nil, errors.New("cluster: no peer port")
		}
		link = portLink{opts.Port, opts.NoPipeline}
	}
	store := opts.Stores
	if store == nil {
		store = newDiskStores(opts.DataDir, opts.Logger)
	}
	b, err := store.LoadMeta()
	if err != nil {
		return nil, err
	}
	m, err := decodeMeta(b)
	if err != nil {
		return nil, err
	}
	if m.ClusterID == "" || m.Birth.IsZero() {
		// Recorded at birth, which is over once there is a cluster.
		m.Expect, m.Birth = opts.BootstrapExpect, opts.Clock()
	}
	n := &Node{
		opts:     opts,
		link:     link,
		store:    store,
		log:      opts.Logger.With("server", link.ServerID()),
		id:       raft.ServerID(link.ServerID()),
		addr:     raft.ServerAddress(peer.Address(link.ServerID(), link.Advertise())),
		app:      &applied{},
		meter:    &meter{},
		slow:     1,
		restarts: make(chan restart),
		lost:     make(chan string, 8),
		changes:  make(chan struct{}, 1),
		started:  time.Now(),
		fatal:    make(chan error, 1),
		runCtx:   context.Background(),
	}
	n.formed = &formation{node: n, meta: m}
	n.watch = newWatchdog(store.Where(), n.log, func() {
		_, reason := n.watch.fenced()
		link.Fence(reason)
	}, link.Unfence)
	n.watch.stored = n.formed.markSeeded
	n.clock = newClockGuard(n)
	n.reads = newShared(n.askReadIndex)
	n.fleet = newGossip(n)
	n.say("starting")
	n.handleCalls()
	link.OnRaftLost(func(id string) {
		select {
		case n.lost <- id:
		default: // told already
		}
	})
	return n, nil
}

// ID is this server's id.
func (n *Node) ID() string { return string(n.id) }

// ClusterID is the cluster's id, "" before there is one.
func (n *Node) ClusterID() string { return n.formed.record().ClusterID }

// RunWhenLeader registers a duty of the leader: fn runs once this node leads
// and has applied all that came before, its ctx ends when leadership does, and
// the next leadership waits for it to return. An fn that returns an error
// is run again after a while; nil ends it for this leadership. Before Run.
func (n *Node) RunWhenLeader(name string, fn func(ctx context.Context) error) {
	n.duties = append(n.duties, duty{name, fn})
}

// SlowDown makes Raft's timeouts so many times as long. It is for tests of what is built
// on a cluster: on a busy machine a leader of many in one process may not get its turn
// for longer than its lease, and an election would be in the way of what they are about. Before Run.
func (n *Node) SlowDown(times int) { n.slow = times }

// paced is one of Raft's timeouts, as long as SlowDown has it.
func (n *Node) paced(timeout time.Duration) time.Duration { return timeout * time.Duration(n.slow) }

// fail stops the node: Run returns err.
func (n *Node) fail(err error) {
	select {
	case n.fatal <- err:
	default: // one reason is enough
	}
}

func (n *Node) say(reason string) { n.reason.Store(&reason) }

// Run founds or joins a cluster and takes part in it until ctx ends, then
// stops in order and returns nil; or until something is beyond repair, and
// returns what.
func (n *Node) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.runCtx = ctx

	logs, stable, snaps, err := n.store.Open()
	if err != nil {
		return err
	}
	st := &opened{logs: logs, stable: stable, snaps: snaps}
	if st.hasLog, err = hasLog(logs, snaps); err != nil {
		return errors.Join(err, n.store.Close())
	}
	n.formed.opened(st)
	m := n.formed.record()
	if err := n.formed.checkSeeded(m, st); err != nil {
		return errors.Join(err, n.store.Close())
	}
	n.link.SetCluster(m.ClusterID)
	n.link.Start()
	n.fleet.start(ctx)

	err = n.live(ctx, st)

	// Last of all the port: answers of the stopping node have left by now. Then
	// the stores, which nothing uses any more.
	n.fleet.stop()
	n.watch.close()
	return errors.Join(err, n.link.Close(), n.closeStores())
}

// closeStores does not wait for a disk that is stuck: the process is to end.
func (n *Node) closeStores() error {
	if _, reason := n.watch.fenced(); reason == "" {
		return n.store.Close()
	}
	done := make(chan error, 1)
	go func() { done <- n.store.Close() }() // may never end; nor does the write it waits for
	select {
	case err := <-done:
		return err
	case <-time.After(2 * time.Second):
		return fmt.Errorf("left %s open: its disk is stuck", n.store.Where())
	}
}

// opened are the stores while they are open.
type opened struct {
	logs   raft.LogStore
	stable raft.StableStore
	snaps  raft.SnapshotStore
	hasLog bool
}

// live runs one Raft instance after another: recovery and adoption change the
// stores between two.
func (n *Node) live(ctx context.Context, st *opened) error {
	for {
		if err := n.formed.form(ctx, st); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // asked to stop while looking for a cluster
			}
			return err
		}
		in, err := n.startInstance(ctx, st)
		if err != nil {
			return err
		}
		again, err := n.attend(ctx, in)
		if !again {
			return err
		}
	}
}

// attend looks after a running instance until the node ends (false) or the
// instance was stopped to be started anew (true).
func (n *Node) attend(ctx context.Context, in *instance) (again bool, err error) {
	bctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, loop := range []func(context.Context, *instance){
		n.clock.poll, n.hurry, n.formed.keepMembership, n.keepSnapshots, n.becomeReady,
		func(ctx context.Context, in *instance) { in.watchLeader(ctx) },
	} {
		wg.Go(func() { loop(bctx, in) })
	}
	defer wg.Wait()
	defer cancel()
	select {
	case <-ctx.Done():
		n.stop(ctx, in)
		return false, nil
	case err := <-n.fatal:
		n.log.Error("stopping", "error", err)
		cancel()
		in.close(bctx)
		return false, err
	case r := <-n.restarts:
		cancel()
		wg.Wait()
		heard := time.Now().Add(-n.Staleness())
		n.heard.Store(&heard)
		stopped := in.close(ctx)
		if !r.settle() { // nobody waits for it any more, who could tell what became of it
			return stopped, nil
		}
		// The stores are not ours to change yet; or whoever would tell of it stops, too.
		if !stopped || ctx.Err() != nil {
			r.done <- api.Errorf(api.CodeUnavailable, "nothing was changed: this replica stops")
			return false, nil
		}
		// A disk without room is waited for, but not beyond the end.
		defer context.AfterFunc(ctx, n.watch.close)()
		r.done <- r.change(in)
		return true, nil
	}
}

// stop is the graceful end, after that of ended, in the order that loses nothing.
func (n *Node) stop(ended context.Context, in *instance) {
	// 1. Accept no proposal: clients are told "unavailable, nothing was done"
	//    and go to another replica at once, instead of meeting a leader that is leaving.
	n.stopping.Store(true)
	n.say("shutting down")
	// 2. Hand leadership over while everything still works: the successor is
	//    chosen and caught up, so writes elsewhere pause for milliseconds, not
	//    for an election timeout.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	if in.raft.State() == raft.Leader && n.voters(in) > 1 {
		if err := n.transfer(ctx, in, ""); err != nil {
			n.log.Warn("could not hand over leadership before stopping", "error", err)
		}
	}
	cancel()
	// 3. Drain: proposals that are in the log get their answer, since those cut off
	//    would be "ambiguous" to their callers.
	for end := time.Now().Add(2 * time.Second); n.inflight.Load() > 0 && time.Now().Before(end); {
		pause(context.Background(), 5*time.Millisecond)
	}
	// 4. Shut Raft down. Duties ended with leadership. Writes that wait for a
	//    bad disk give up first, or Raft would wait for them.
	if _, reason := n.watch.fenced(); reason != "" {
		n.watch.close()
	}
	in.close(ended)
	// 5. The caller closes the port, then the stores.
}
