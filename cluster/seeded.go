package cluster

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// A server votes and acknowledges under its id, so the id must not outlive
// what it acknowledged: with its log lost and its id kept, it would vote for a
// candidate that lacks a write which it helped to commit. cluster.json
// remembers that there was data; whoever finds the one without the other does
// not start.

var currentTermKey = []byte("CurrentTerm") // Raft's own

// markSeeded remembers that there is data here, before the first
// acknowledgement of it leaves.
func (f *formation) markSeeded() error {
	m := f.record()
	if m.Seeded {
		return nil
	}
	m.Seeded = true
	return f.saveMeta(m)
}

// checkSeeded refuses stores that have lost what this server acknowledged.
func (f *formation) checkSeeded(m meta, st *opened) error {
	const remedy = "restore the data directory as a whole, or empty the directory to join as a new server"
	switch {
	case st.hasLog && m.ClusterID == "":
		return fmt.Errorf("%s holds a log but no cluster id: restore %s, or empty the directory to join as a new server", f.node.store.Where(), metaFile)
	case !st.hasLog && m.Seeded:
		return fmt.Errorf("%s has lost its log: this server took part in cluster %s, and without what it acknowledged its vote could undo writes: %s", f.node.store.Where(), m.ClusterID, remedy)
	case st.hasLog && !hasTerm(st.stable):
		return fmt.Errorf("%s holds data but not Raft's term and vote: %s was lost or is of another directory: %s", f.node.store.Where(), raftFile, remedy)
	}
	return nil
}

// hasTerm reports whether Raft has ever run on the store. It writes its term
// before any entry or snapshot.
func hasTerm(stable raft.StableStore) bool {
	term, err := stable.GetUint64(currentTermKey)
	return err == nil && term > 0
}
