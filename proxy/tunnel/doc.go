// Package tunnel is the replica's side of agent tunnels. It keeps the sessions that
// agents dialled in, tells the other replicas which agents it holds, and carries a
// request for an agent's Kubernetes cluster over its own session or one hop to a
// replica that has one. To package proxy a cluster behind tunnels is one more
// upstream.Upstream.
//
// # Why so
//
// Presence is not in Raft: it changes with every hiccup of a network, and is worth
// nothing once the replica that said it is gone. Each replica dials a link to each
// other one over the peer port and keeps it warm. On a link the acceptor opens one
// stream, its table (a snapshot, then what changed, a heartbeat every second), and
// the dialler opens one for each stream it wants spliced to an agent's session.
// Whatever came over a link dies with it: nothing is kept by the peer's name, so a
// peer that restarts under the same id cannot be mistaken for the one before.
//
// A stream over a link is answered with one byte before HTTP begins. That costs a
// round trip between replicas, for new streams alone, and buys that no request body
// is ever sent towards an agent that has just gone: whoever asked tries the next.
//
// # What an attacker might try
//
//   - An agent that was broken into announces somebody else's cluster: what it may
//     serve is in its Grant, which comes from its certificate; more is refused and
//     the tunnel ends.
//   - It floods with messages, streams or handshakes: messages and renewals are
//     counted, a second stream ends the session, handshakes and hellos have their
//     own limits, so that requests go on.
//   - It holds back answers, or never reads: streams take turns, each has a window,
//     and a tunnel that is silent while somebody waits is asked for a sign of life.
//   - It makes a replica dial where it likes: nothing it says is an address, and the
//     only thing a tunnel leads to is what the agent itself serves (SSRF).
//   - Somebody at the peer port without a member's certificate (CVE-2021-37219): see
//     cluster/peer. A peer's table is still bounded and checked, and a malformed one
//     closes the link.
package tunnel
