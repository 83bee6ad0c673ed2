// Package clustertest runs whole clusters in one process and in memory, with
// partitions, crashes and wiped disks at will. Under testing/synctest an
// election takes no real time.
//
// Nodes are real (package cluster, hashicorp/raft); only what is below them is
// replaced: peer connections by a Network, disks by cluster.MemoryStores.
package clustertest
