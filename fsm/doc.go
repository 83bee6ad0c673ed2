// Package fsm is the replicated store: the state that every replica computes
// from the Raft log, and nothing else. It knows records, transactions, time and
// watchers; it does not know users or roles, and it does not know Raft.
//
// # What it holds
//
// A [Record] is a key, a value, the Raft index that last wrote it, and when it
// was created and expires. A [Txn] is a list of checks (a key is at a revision,
// or absent), a list of operations (put, delete) and the audit events of the
// act: all of it happens or none. A log entry is a list of items, each a
// transaction or events alone, so that many writers share one disk write.
//
//	leader                                   every replica
//	EncodeItem ─┐                            ┌─ decode, strictly
//	EncodeItem ─┼─ EncodeEntry(now) ─ Raft ─ ┼─ state time = max(state time, now)
//	EncodeItem ─┘                            ├─ sweep what has expired
//	                                         ├─ each item: checks, then operations
//	                                         ├─ journal the events
//	                                         └─ publish the state, wake watchers
//
// The operations are generic on purpose. Were there a command per kind of
// change, every feature would touch this package and two versions could compute
// different states from the same log. Here a new kind of resource is a new
// prefix, and replicas of different versions apply the same bytes to the same
// state. Rules live in the layer above, with optimistic concurrency: read a
// [View], decide, commit a transaction that checks what was read.
//
// # How it stays equal everywhere
//
// Computing a state is a function of the previous state and the entry: no
// clock, no randomness, no goroutine, no I/O but the journal, no iteration over
// a Go map. Time comes in with the entry and only moves forward. An entry that
// this version cannot understand in full (a newer format, an unknown field, a
// byte too many) is an error that must stop the node: skipping it would leave a
// replica that looks healthy and disagrees.
//
// # How it is read
//
// The state is an immutable radix tree behind an atomic pointer, published once
// per entry. Readers take no lock and see whole entries only; a snapshot is a
// copy of the pointer; every node of the tree carries a channel that is closed
// when something below it changes. [Collection] adds types: a value is decoded
// once per revision and then shared, so a read on the request path allocates
// nothing.
//
// # Expiry
//
// A record whose time has come counts as absent at once, in checks and in
// views, and is deleted by one of the next entries. Checks judge by state time
// alone (all replicas must agree); views judge by the later of state time and
// local clock, so that a session ends on time even while no leader moves state
// time forward. An expiry index makes sweeping cost what has expired, not what
// is stored.
//
// # What an attacker might try
//
// Bytes reach this package from peers (items, entries, snapshots) and from disk.
// Peers are authenticated, but one that is broken, of another version or
// taken over must not take the others with it:
//
//   - An item that cannot be decoded would stop every replica once it is in the
//     log. EncodeEntry therefore decodes each item on the leader and refuses it
//     by name ([ItemError]).
//   - A compressed entry is expanded to 2 MiB at most, whatever its header
//     claims. No length that was read is handed to make: a snapshot's frames are
//     bounded by a constant and grow with the bytes that really arrive.
//   - Lists, nesting and keys are bounded, so that a small input cannot become
//     a large structure.
//   - A flipped bit on disk is caught by a checksum over each entry and a
//     SHA-256 over each snapshot; a restore is verified to its last byte before
//     anything of it becomes visible.
//   - An empty or unknown result is an error, never success.
//
// What is not bounded is the total size of a snapshot: whoever may hand us a
// state (a leader, an administrator's backup) may hand us a large one.
//
// Secrets are sealed before they get here; log, snapshot and backup hold
// whatever the layer above put into the values.
package fsm
