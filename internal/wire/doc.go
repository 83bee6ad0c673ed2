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
// The streams are our own (frame.go has the protocol), because libraries queue up
// to two megabytes of one stream before another's next byte, or do not stop who
// writes to a stream that was closed (docs/adr/040-tunnel-mux.md). Here nothing is
// queued but in the stream it belongs to: when the connection is ready, the streams
// that have something to say take turns, a frame of 16 KiB each, and pings go first.
// A receiver lets each stream send 256 KiB, and more once that is what the stream
// waits for.
//
// An attacker may be at either end, with a certificate that was stolen or an agent
// that was broken into. So lengths are bounded before anything is allocated, a
// stream that nobody reads holds up no other, the windows of all streams of a
// session share one budget, and nothing that is said here is an address to dial.
package wire
