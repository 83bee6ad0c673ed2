// Package audit is the cluster's audit log: one file of lines on each replica, the
// same bytes on all of them, in the one order of Raft's log.
//
// # How an event becomes a line
//
// Encode makes an event one line of JSON. What changes state travels in the
// transaction that changes it. What only happened (a kubectl request) goes through the
// Emitter: it numbers events, gathers them for 100 ms, and proposes them in batches,
// one at a time. While the cluster takes none they wait in its spool file. An epoch is
// one start of an Emitter; the numbers of an epoch tell a batch that comes again
// from one that is new. With the policy "spool" requests go on meanwhile; with
// "strict" Admit refuses new ones. Commit is for what must be durable before it begins.
//
// Extend makes lines of the events of an entry, as part of applying it and as purely.
// A line ends with the server id of whoever proposed it, the Raft index, a number
// without gaps, and a hash over it and the line before (package chain). What replicas
// must agree on stands in the store, never a text: Head, a Segment for each sealed part
// that is kept, Floor, and the highest number of each epoch. See docs/adr/050.
//
// # The files
//
// A Journal writes events.log. When a segment is sealed (a new day, or 64 MiB) the file
// is renamed after its first line, and the next one begins with copies of the last 1,000
// lines. A number that it has is skipped, which is all that a replay after a crash
// takes. One beyond the next is a gap, as after a snapshot: lines go to pending.log,
// and Keep fetches what is missing from peers, files that somebody has deleted, too.
// Every line that comes is checked by the chain, up to a hash that the store knows,
// before it gets a name in the folder. Retention is a duty of the leader: it deletes
// records of segments, and then Keep removes their files. Floor says where the log
// begins when lines are lost on all replicas, as after a restore of a backup.
//
// Lines, Search and Export read the files while they grow, and go by numbers, so that
// a seal or retention takes nothing from under them. Verify compares all files with
// the store. What a line is, chain.Scanner and chain.MaxLine say for all of them.
//
// # Who might harm it
//
// Whoever sends a request writes into the log, with every name, path and header. They
// might end a line and forge the next (CR, LF, U+2028), steer the terminal of who reads
// it (controls, bidirectional marks), bury it in a megabyte of header, pass a field
// off as one of ours, or fill the queue until something is lost. Encode escapes what does
// not print, cuts what is long and says so, and renames fields that are not the
// caller's. Extend escapes and cuts once more, for it has the word of one replica only;
// our fields come last, where JSON readers let them win. What the Emitter can't keep it
// counts, logs, and records as an event of its own; what the cluster refuses for good it
// keeps in a file beside the spool.
//
// A peer might lie to a replica that lacks lines. It can withhold, never alter: what does
// not fit the chain between two hashes of the store is refused, and another is asked.
// An answer is bounded. A replica that proposes events is believed: it can invent some,
// in another's name too, or use another's epoch so that events of that one count as
// repeats. It can't change a line that is there.
//
// Root on one replica can change its files, and can stop them from being written. Verify
// names the first line that was changed, removed or added; searches elsewhere don't
// see it, and other replicas don't fetch it. Whoever changes the spool can take from it
// what no replica has yet, or send it otherwise: its checksums are against disks,
// not people. What such a replica proposes, and what it says of itself, is its own word.
//
// Nothing here stands against root on a majority of replicas, who can write all of
// history anew, nor against a disk that dies with a spool. A forwarder, or a hash kept
// elsewhere, stands against the first; against the second, the policy "strict".
package audit
