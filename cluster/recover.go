package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Recovery says what Recover made.
type Recovery struct {
	ClusterID string // new: servers of the old cluster can't speak to it
	LastIndex uint64 // applied, the end of the log included
}

// Backup is where Recover keeps the state from before it: an *os.File, say.
type Backup interface {
	io.Writer
	Sync() error // what was written is durable
}

// Recover makes this replica the sole voter of a new cluster with its own
// state. It is the way back after a majority is lost for good: writes
// that only the lost ones acknowledged are gone, and what was in this replica's log is
// taken for committed. The state before that is written to backup, and synced,
// before anything is changed.
//
// It refuses while anybody it can ask is in contact with a leader. An error beside a
// Recovery says that it is made, and does not lead yet; without one, nothing is made
// (unless the stores failed: CodeInternal). ctx ends the wait for Raft to stop, too: what
// was given up is not done later.
func (n *Node) Recover(ctx context.Context, backup Backup) (Recovery, error) {
	in := n.inst.Load()
	switch {
	case in == nil && n.ClusterID() != "":
		return Recovery{}, api.Errorf(api.CodeUnavailable, "nothing was changed: Raft does not run at the moment (it starts, or takes long to stop); try again")
	case in == nil || !in.hasState():
		return Recovery{}, api.Errorf(api.CodeInvalid, "this replica holds no cluster's data: there is nothing to recover here")
	}
	if err := n.mayServe(); err != nil {
		return Recovery{}, err
	}
	if err := n.leaderless(ctx, in); err != nil {
		return Recovery{}, err
	}
	_, err := n.opts.SM.Snapshot().WriteTo(backup)
	if err = errors.Join(err, backup.Sync()); err != nil {
		return Recovery{}, api.Errorf(api.CodeUnavailable, "recovery did not begin, nothing was changed: write the backup: %w", err)
	}
	if err := n.leaderless(ctx, in); err != nil { // a large backup takes a while
		return Recovery{}, err
	}
	if err := n.restartWith(ctx, n.becomeSole); err != nil {
		return Recovery{}, err
	}
	done := Recovery{ClusterID: n.ClusterID(), LastIndex: n.app.get()}
	for {
		err := n.Linearize(ctx)
		if err == nil {
			done.LastIndex = n.app.get()
			return done, nil
		}
		if ctx.Err() != nil || n.runCtx.Err() != nil {
			return done, api.Errorf(api.CodeAmbiguous, "recovered as cluster %s, but it does not lead yet: %w", done.ClusterID, err)
		}
		select { // an error may come at once
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		case <-n.runCtx.Done():
		}
	}
}

// restartWith makes a change between two instances of Raft. The end of ctx prevents one
// that has not begun; what has begun is waited for, because it takes a disk's time, and
// somebody must know what became of it.
func (n *Node) restartWith(ctx context.Context, change func(*instance) error) error {
	r := newRestart(change)
	restarts := n.restarts
	if ctx.Err() != nil {
		restarts = nil // select takes any of those that are ready
	}
	select {
	case restarts <- r:
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "recovery did not begin, nothing was changed: %w", ctx.Err())
	case <-n.runCtx.Done():
		return api.Errorf(api.CodeUnavailable, "recovery did not begin, nothing was changed: this replica stops")
	}
	var err error
	select {
	case err = <-r.done:
	case <-ctx.Done():
		if r.settle() {
			return api.Errorf(api.CodeUnavailable, "nothing was changed: Raft takes long to stop, and goes on unchanged when it has; try again, or restart this replica before you do: %w", ctx.Err())
		}
		err = <-r.done
	}
	if err != nil && !api.IsCode(err, api.CodeUnavailable) {
		return api.Errorf(api.CodeInternal, "recovery failed: %w", err)
	}
	return err
}

// leaderless reports, as an error, whom recovery would cut off.
func (n *Node) leaderless(ctx context.Context, in *instance) error {
	refuse := func(who, leader string) error {
		return api.Errorf(api.CodeConflict, "%s is in contact with leader %s: the cluster works, recovery would lose writes; remove or replace dead servers instead", who, leader)
	}
	if _, id := in.raft.LeaderWithID(); id != "" || in.raft.State() == raft.Leader {
		return refuse("this replica", string(id))
	}
	var mu sync.Mutex
	var found error
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, t := range n.formed.known(in) {
		t.Guest = true
		wg.Go(func() {
			var who identity
			if err := n.link.Call(ctx, t, pathIdentify, struct{}{}, &who); err != nil {
				return // it is down, as expected
			}
			if who.LeaderID != "" && who.ClusterID == n.ClusterID() && who.ID != string(n.id) {
				mu.Lock()
				defer mu.Unlock()
				found = refuse("server "+who.ID, who.LeaderID)
			}
		})
	}
	wg.Wait()
	return found
}

// becomeSole runs between two instances.
func (n *Node) becomeSole(in *instance) error {
	m := n.formed.record()
	old := m.ClusterID
	// The new id first: should the power fail in between, this replica is alone without
	// a quorum and recovery can be repeated. The other way round it would lead
	// alone under an id by which the old servers still speak to it.
	m.ClusterID = randomID(16)
	if err := n.formed.saveMeta(m); err != nil {
		return err
	}
	config := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: n.id, Address: n.addr}}}
	err := raft.RecoverCluster(n.raftConfig(nil), in.fsm, in.st.logs, in.st.stable, in.st.snaps, in.trans, config)
	if err = errors.Join(err, in.fsm.failed); err != nil {
		return fmt.Errorf("make this server the sole voter: %w", err)
	}
	n.log.Warn("recovered as the sole voter of a new cluster", "old", old, "new", m.ClusterID, "applied", n.app.get())
	return nil
}

// SeedOptions say what Seed makes of a snapshot.
type SeedOptions struct {
	Index     uint64           // of the last entry in the snapshot; the log goes on after it
	Advertise string           // host:port by which peers will reach the server
	Clock     func() time.Time // default time.Now
	Logger    *slog.Logger     // default slog.Default
}

// Seed makes an empty data directory the start of a new cluster whose state is
// a snapshot (StateMachine.Snapshot's bytes): a new server id, a new cluster
// id, this server its sole voter. It returns both ids. Others join when they start.
//
// A directory in which it did not come to its end does not start, and may be
// given to Seed again.
func Seed(dir string, state io.Reader, opts SeedOptions) (serverID, clusterID string, err error) {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if err := beginSeeding(dir); err != nil {
		return "", "", err
	}
	if serverID, clusterID, err = seed(dir, state, opts); err != nil {
		return "", "", err
	}
	if err := endSeeding(dir); err != nil {
		return "", "", err
	}
	return serverID, clusterID, nil
}

func seed(dir string, state io.Reader, opts SeedOptions) (id, clusterID string, err error) {
	if id, err = serverID(dir); err != nil {
		return "", "", err
	}
	s := newDiskStores(dir, opts.Logger)
	_, stable, snaps, err := s.Open()
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	address := raft.ServerAddress(peer.Address(id, opts.Advertise))
	config := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(id), Address: address}}}
	_, trans := raft.NewInmemTransport(address) // only encodes the configuration
	const term = 1
	index := max(opts.Index, 1)
	if err := stable.SetUint64([]byte("CurrentTerm"), term); err != nil {
		return "", "", fmt.Errorf("write term: %w", err)
	}
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, term, config, 1, trans)
	if err != nil {
		return "", "", fmt.Errorf("write snapshot: %w", err)
	}
	if err := (&snapshot{index: index, body: copyOf{state}}).Persist(sink); err != nil {
		return "", "", err
	}
	clusterID = randomID(16)
	b, err := meta{ClusterID: clusterID, Expect: 1, Birth: opts.Clock(), Seeded: true}.encode()
	if err != nil {
		return "", "", err
	}
	if err := s.SaveMeta(b); err != nil {
		return "", "", err
	}
	return id, clusterID, nil
}

type copyOf struct{ r io.Reader }

func (c copyOf) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, c.r)
	if err != nil {
		return n, fmt.Errorf("copy snapshot: %w", err)
	}
	return n, nil
}
