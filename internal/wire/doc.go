// Package wire is what agents and replicas say to each other, and how: a session
// of many streams over one TLS connection, and the messages of its first stream.
//
// An agent dials a replica's public port with ALPN Protocol, under the name
// api.TunnelServerName, and shows its certificate. The first stream is opened by
// the agent and carries messages, framed as WriteMessage does: Hello, answered by
// Welcome or Refused, then whatever either has to say. Every other stream is opened
// by the replica and carries HTTP/1.1 requests, whose Host is the DNS label
// (api.KubeLabel) of the Kubernetes cluster they are for. Replicas speak to each
// other by sessions too, on the peer port: see proxy/tunnel.
//
// An attacker may be at either end, with a certificate that was stolen or an agent
// that was broken into. So lengths are bounded before anything is allocated, a
// stream that nobody reads holds up no other, the windows of all streams of a
// session share one budget, and nothing that is said here is an address to dial.
package wire
