// Package peer is the one port by which replicas speak to each other: mutual
// TLS 1.3 under a CA that every replica derives from the cluster secret.
//
// # Why so
//
// Raft's RPCs carry no target id, and a server with an empty log grants votes:
// a wiped voter that came back at its old address elected a leader that lacked
// an acknowledged write. So who speaks to whom is settled before the first
// byte of any protocol. The dialer demands the certificate of the server it
// means to reach (<server-id>.peer.sallyport), and then both ends exchange one
// preface: cluster id, own id, id expected at the other end. An acceptor whose
// ids differ says so and closes.
//
// ALPN chooses the protocol: sallyport-raft/1 carries hashicorp/raft's own
// framing, sallyport-rpc/1 HTTP/2 with JSON, sallyport-tunnel/1 what package
// proxy/tunnel says of agents. A connection for rpc may leave
// cluster or target open (a "guest"): that is how a server without a cluster
// asks around. A guest reaches only the handlers registered for guests.
//
// # What an attacker might try
//
//   - Plain TCP, a certificate of another CA (a user's, say), the right CA but
//     another server's name: refused in the handshake or by the preface, before
//     any Raft byte.
//   - Connections that never speak: a handshake has 10 s, at most 256 are under
//     way, at most 32 from one address, so one host can't keep others out.
//   - Resumption past a rotated CA: tickets are off.
//   - Huge or malformed prefaces and bodies: both are bounded before they are read.
//
// Whoever holds the cluster secret can mint any replica's certificate: this
// port keeps out everyone else.
package peer
