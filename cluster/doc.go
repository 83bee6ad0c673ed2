// Package cluster runs Raft: it founds or joins a cluster, knows the members,
// reaches the leader, proposes entries and answers linearizable reads. Items
// and results are opaque bytes; what they mean is the state machine's business.
//
// # Why so
//
// hashicorp/raft is the consensus; around it stands what it leaves open:
//
//   - It has no read index (readindex.go), forwards nothing (propose.go), and
//     its AppliedIndex means "handed over" (fsm.go keeps the true one).
//   - A disk that hangs or fails stops or panics it (watchdog.go fences first).
//   - Its RPCs carry no target id (cluster/peer checks ids before them).
//   - A bootstrap that is done twice makes two clusters (bootstrap.go).
//   - It has no idea of time; entries are stamped by the leader, whose clock
//     may be wrong (clock.go).
//   - It is patient where we are not: followers hear late that an entry is
//     committed (ackTransport.nudge), a follower that comes back is served
//     late (resume.go), and a leader whose process died is missed late
//     (hurry). Each remedy speaks Raft's own messages, so none touches safety.
//
// The order of a node's life: find the others, found or join (bootstrap.go,
// join.go), run Raft (instance.go), lead now and then (leader.go), stop
// (node.go: stop). Recovery after the loss of a quorum stops Raft and starts
// it again in the same process (recover.go).
//
// # What an attacker might try
//
// Everything that arrives comes through package peer, so from a holder of the
// cluster secret, or it is gossip, which is encrypted with a key of the same
// secret but never trusted for more than an address to dial. Without the
// secret there is nothing to say here. With it, one can join as a voter: the
// threat model says so.
package cluster
