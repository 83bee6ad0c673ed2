// Package clustertest runs whole clusters in one process and in memory, with
// partitions, crashes and wiped disks at will. Under testing/synctest an
// election takes no real time.
//
// # Proving a linearizability test
//
// Options.Faults switches on mistakes that a test must notice:
//
//   - NoBarrier shows when a leader crashes right after it acknowledged a write
//     and reads go to its successor at once. Set DiskLatency to some 50 ms, so
//     that heartbeats confirm the successor sooner than disks commit.
//   - VerifyFirst shows with a Pause of a few seconds, when a read is under way
//     on a leader that is then stalled and isolated (Stall, Isolate), others
//     write through its successor, and reads go to the old leader before its
//     fence goes up (5 s). A correct build bears the same Pause.
//
// Nodes are real (package cluster, hashicorp/raft); only what is below them is
// replaced: peer connections by a Network, disks by cluster.MemoryStores.
package clustertest
