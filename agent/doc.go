// Package agent is the side of Sallyport that runs inside a Kubernetes cluster:
// it joins with a token, dials out to two replicas on their public port, holds
// those tunnels and hands the requests that come through them to its own API
// server, as the user the replica names.
//
// Its service account may impersonate and nothing more, and it never decides
// who a user is; a replica in turn holds no credential of the agent's cluster.
// It links neither Raft nor the store, so that it stays small.
//
// An attacker would try to join without a token or under another agent's name,
// to have the agent reach anything but its API server, and to send it headers
// that widen what it impersonates.
package agent
