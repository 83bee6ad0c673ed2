// Package tunnel is the replica's side of agent tunnels: it keeps the sessions
// that agents dialled in, tells the other replicas which agents it holds, and
// carries a request for an agent's Kubernetes cluster over its own session or
// one hop to a replica that has one. To package proxy a tunnel is one more
// proxy.Upstream.
//
// Presence is never in Raft: a replica streams its tunnel table to every peer,
// and the entries die with that stream.
//
// An attacker who owns an agent may try to hold the tunnel of another cluster,
// to starve the other streams of a tunnel with a slow one, or to make a replica
// dial where he likes. So the agent's certificate alone says which cluster it
// serves, streams take turns in small frames, and nothing an agent sends is
// ever an address.
package tunnel
