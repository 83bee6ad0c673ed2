// Package audit writes down what happened: it makes events, encodes each as
// one line of JSON, brings the events of requests to the cluster in batches,
// and keeps this replica's events.log.
//
// An event reaches the log through Raft and no other way. What changes state
// travels in the transaction that changes it; what only happened (a kubectl
// request) is batched by the Emitter and proposed without a transaction. The
// store hands both to the Log in apply order, so that no change is without its
// line and no line without its change. Between the proposal and the file stand
// only two places where an event may wait: the Emitter's memory (100 ms when all
// is well) and its spool file, where events stay while the cluster cannot
// commit. The spool dies with the disk it is on; what Raft took does not.
//
// The log's place in time is the Raft index and the position inside the entry,
// and they are written into each line (docs/adr/050): replaying Raft's log
// after a crash adds no line twice and leaves none out.
//
// An attacker writes into this log with every name, path and header they send.
// They might try to end a line and forge the next (CR, LF, U+2028), to steer
// the terminal of whoever reads it (ANSI and C1 controls, bidirectional
// marks), to bury it (a megabyte of header), to pass a field off as one of
// ours (a second "user", a "raft_index" of their own), or to fill the queue
// until something is lost. The answers: Encode escapes whatever does not
// print, cuts what is long and says so, and renames fields that are not the
// caller's to set; the Log appends its own fields last, where JSON readers let
// them win; and what the Emitter cannot keep it counts, logs, and records as an
// event of its own.
package audit
