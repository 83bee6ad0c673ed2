// Package agent will be the side of Sallyport that runs inside a Kubernetes
// cluster; nothing of it exists yet. It will join with a token, dial out to two
// replicas on their public port, hold those tunnels and hand the requests that
// come through them to its own API server, as the user the replica names.
//
// Its service account will be allowed to impersonate and nothing more, and it will
// never decide who a user is; a replica in turn will hold no credential of the
// agent's cluster. It is to link neither Raft nor the store, so that it stays
// small.
//
// An attacker will try to join without a token or under another agent's name,
// to have the agent reach anything but its API server, and to send it headers
// that widen what it impersonates.
package agent
