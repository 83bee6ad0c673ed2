// Package agent is the side of Sallyport that runs inside a Kubernetes cluster. It
// joins with a token, dials out to two replicas on their public port, holds those
// tunnels and hands the requests that come through them to its own API server, as
// the user the replica names. It serves several clusters if it is given several.
//
// Its service account may impersonate and nothing more, and it never decides who a
// user is; a replica in turn holds no credential of the agent's cluster. It links
// neither Raft nor the store, so that it stays small, and thousands of agents fit
// into one process for tests of load.
//
// One goroutine, the keeper, does all dialling, joining and taking into use of new
// certificates, one after the other. So the promise of identity.go (once a new
// certificate may have been used, the old one never is again) holds by
// construction and not by locks.
//
// An attacker will try
//   - to be taken for Sallyport and be given the token: nothing is sent before the
//     certificate fits the pins or the machine's roots (trust.go);
//   - to copy an identity: its key never leaves the store, each certificate is good
//     until the next is used, and the replicas lock an identity of which an older
//     one shows up;
//   - to have the agent reach something else than its API server, by Host, path,
//     redirect or upgrade: the address is always the configured one (serve.go);
//   - to send it headers that widen or take away what it impersonates: a request
//     that names no user is refused, before and after the header was cleaned, or it
//     would run as the agent itself;
//   - to fill its memory: streams, headers, messages and output of commands are
//     bounded.
package agent
