// Package tunnel will be the replica's side of agent tunnels; nothing of it exists
// yet. It will keep the sessions that agents dialled in, tell the other replicas
// which agents it holds, and carry a request for an agent's Kubernetes cluster over
// its own session or one hop to a replica that has one. To package proxy a tunnel
// will be one more proxy.Upstream.
//
// Presence will never be in Raft: a replica will stream its tunnel table to every
// peer, and the entries die with that stream.
//
// An attacker who owns an agent may try to hold the tunnel of another cluster,
// to starve the other streams of a tunnel with a slow one, or to make a replica
// dial where he likes. So the agent's certificate alone will say which cluster it
// serves, streams will take turns in small frames, and nothing an agent sends will
// ever be an address.
package tunnel
