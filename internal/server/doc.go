// Package server wires a replica together: it turns Options into a store, a
// Raft node, an identity service, a kubectl proxy and the listeners in front
// of them, starts them in the order in which they need each other, and stops
// them in the order that hurts users least.
//
// It holds no rules of its own. Handlers live beside their domains
// (internal/auth/authapi, proxy, proxy/web); this package decides only which
// of them a connection reaches, and that is decided once, by the TLS server
// name, before a byte of HTTP is read:
//
//	<kube>.kube.<clusterName>         kubectl; a client certificate is demanded
//	api.<clusterName>                 tsh and tctl; a client certificate is demanded
//	[<server>.]tunnel.<clusterName>   agents, by wire.Protocol; a certificate of the agent CA is demanded
//	anything else                     browsers; no certificate is asked for
//
// An attacker who reaches the public port can choose the server name and the
// bytes after the handshake, nothing else: which identity a request has comes
// from the verified certificate of its connection, and the set of CAs that may
// have signed it depends on the name. An agent's connection for another replica is
// sent there over a link between replicas before TLS has answered a byte: it ends
// where it is meant to. The unix socket trusts the kernel's word on who connects. The
// diagnostics port answers about health and metrics alone.
package server
