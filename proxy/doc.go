// Package proxy takes a kubectl request from the TLS connection it came by to
// the API server it is meant for: who, may they, as whom, where to, what
// happened.
//
// # One request
//
// The connection tells who (the verified certificate) and where to (the SNI, or
// on the fallback port the path prefix /k8s/<cluster>); see ConnInfo. The
// Authorizer tells whether they may and as whom. The answer is kept per session
// and cluster (see grants) until something it was derived from changes. The
// request is then rebuilt, not edited: a new request gets a new header into
// which the client's fields are copied one by one, and the impersonation fields
// are set last. What happened is one event, recorded when the API server's
// status is known and before the first byte of the answer leaves.
//
// # Why not httputil.ReverseProxy
//
// It clones the request (header map and all) and then deletes; it rewrites
// queries it cannot parse, so the path decided upon and the path sent may
// differ; it holds a 32 KiB buffer for every idle watch; on an upgrade that is
// refused it keeps the client's connection open for a second request. What is
// left when these are replaced is little, and BenchmarkProxy compares the two
// in one run.
//
// # Cutting live streams
//
// Every request, short or long, is a flight of its grant. Each grant has one
// goroutine that waits in Right.Watch and for the session's end; when that
// comes it cuts all flights: the upstream request is cancelled, and reads and
// writes on the client's side get a deadline, so that neither a silent server
// nor a client that reads nothing can keep a stream alive.
//
// # What the log tells
//
// A request is one event, kube.request. Beside it sessions have session.start and
// session.end, a command that has ended has exec, a port-forward has port, and what is
// cut because a right ended has client.disconnect.
//
// A session is every upgraded stream: exec and attach, by the API server's path or by a
// kubelet's own (nodes/NAME/proxy/exec/…), and any other that goes through the proxy
// subresource of a pod, Service, node or aggregated API, or is a log. Of the latter the
// log knows no more than path and protocol (request_path, upgrade). A command that a
// kubelet runs without a stream (nodes/NAME/proxy/run) is one too; one that comes as a
// form is refused, because what stands in a body is read by nobody here.
//
// session.start and port are durable (Recorder.Commit) before the API server is asked:
// no command runs of which the log may not know. What the API server then refuses, or
// can't be reached for, has its end beside it: exec or port with the error, and
// session.end with the reason.
//
// The exit code is read in passing from the error channel of subprotocols v4 and v5,
// see exitWatch: bytes pass unchanged, whatever is made of them. It is the cluster's
// word and, over SPDY, that of who opens the streams; nothing is decided by it.
// Commands stand in the log as they were sent, and what somebody puts into one, a
// password too.
//
// # What an attacker might try
//
// All of them hold a valid session; the aim is to be somebody else behind the
// proxy, whose own credentials may impersonate anyone.
//
//   - Impersonation fields of their own, in any spelling, or none of ours: a
//     field that begins with "impersonate" is refused unless it is exactly
//     Impersonate-User or Impersonate-Group, and those go to the Authorizer. Names listed in
//     Connection are dropped before ours are set (CVE-2021-31999). A decision
//     without user or groups is refused, because a request without
//     Impersonate-User would run as the proxy itself.
//   - Credentials that the API server would take beside ours: Authorization,
//     X-Remote-*, cookies, a bearer token in Sec-WebSocket-Protocol.
//   - Paths that mean one thing here and another there: see checkTarget; a
//     path is refused or sent byte for byte, never cleaned.
//   - A second request on an upgraded connection whose upgrade failed
//     (CVE-2018-1002105): upgrades travel on connections of their own, and
//     every answer other than 101 closes both sides.
//   - An API server, or an aggregated one, that redirects (CVE-2022-3172):
//     redirects are never followed, and a Location on another host becomes 502.
//   - Streams that outlive a right, and clients that stop reading: see above.
//   - Names with control bytes for the log or a terminal: events are JSON, and
//     the paths in them are as sent, still percent-encoded. Commands and names of
//     containers are decoded, and escaped and bounded by audit.Encode.
//   - Sessions that nobody can read of: while events reach neither the cluster nor a
//     disk, or under the strict policy (Options.Admit) not the cluster, requests are
//     refused.
package proxy
