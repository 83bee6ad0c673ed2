// Package forward sends the audit log to other systems: a webhook or a collector that
// speaks OTLP. It is a duty of the leader, so that of three replicas one sends; how far
// it has come is in the store, so that the next leader goes on from there.
//
// What is promised: each line, in the order of the log, at least once. A line counts as
// sent when the receiver answered 2xx after it was given all of the request that had the
// line: who answers before may have nothing. The cursor is written once a second at most,
// so after a failover the end of what was sent is sent again: a receiver tells repeats by
// the lines' "uid" (or "number", as long as the cluster is not restored from a backup),
// or by webhook-id while the batches are the same. A receiver that fails is tried for
// ever, from a second up to a minute between tries, and Retry-After is heeded up to five
// minutes; one that refuses us (4xx, a redirect), up to five minutes. There are two ways
// in which a line is given up, and each leaves an event, audit.forward_skipped, and a
// number in tctl status: retention took it before it was sent; or the receiver refused
// it, alone, in ten tries over ten minutes, and then took another line. For an hour after
// that, three tries within a minute do for lines that are refused with the same status,
// while others are taken still; one event a minute tells of them together, and the cursor
// stays before them until it has. A receiver that refuses everything takes nothing away:
// all waits.
//
// A forwarder is a document (tctl create FILE):
//
//	kind: audit_forwarder
//	version: v1
//	metadata:
//	  name: siem
//	spec:
//	  type: webhook                   # or otlp
//	  endpoint: https://siem.example.com/events   # no secret, and no query; otlp: the whole URL, such as https://collector:4318/v1/logs
//	  # allow_http: true              # for a receiver beside the replicas: over http anybody on the way reads along
//	  bearer_token: eyJhbGciOi…       # sent as "Authorization: Bearer …"
//	  signing_secret: whsec_MfKQ9r…   # webhook: requests are signed (standardwebhooks.com); make one by: echo whsec_$(openssl rand -base64 32)
//	  headers:                        # further ones; their values are kept as secrets
//	    X-Tenant: ops
//	  # ca_cert: |                    # instead of the system's roots
//	  #   -----BEGIN CERTIFICATE-----
//	  types: [user.*, role.*, T3009W] # names or codes of events; * stands for anything, ^…$ is RE2; none: all
//	  start: now                      # or oldest: all that the cluster still keeps
//
// Secrets are left out when a document is shown (tctl get --with-secrets shows them, and
// leaves an event). A document that is written back without them keeps those that there
// are while the endpoint stays the same; "none" takes bearer_token or signing_secret
// away, and a header goes with its line.
//
// A webhook gets a JSON array of the lines as they stand in events.log, with number and
// hash, so that it can check the chain; see internal/audit/chain for how. An OTLP
// collector gets a log record for each line: the line as the body, its fields as
// attributes, INFO, WARN or ERROR by the last letter of its code.
//
// The address is shown to whoever may read the document, so it may not have a query,
// where people put keys; the path is no place for one either. Events, tctl status and
// errors name the host alone.
//
// Who might do harm here? Whoever may write a forwarder sends the whole log away, so that
// needs the right to read it, too; the address may be any that a replica reaches but
// link-local ones (169.254.0.0/16, fe80::/10), where clouds tell machines their secrets,
// and the beginning of what it answers to a POST is shown in tctl status, so that the
// right is one for administrators. Through a proxy (HTTPS_PROXY) it is the proxy that is
// called, and that has to refuse such addresses. The cluster's own address and name are
// refused when a forwarder is saved, as each try would be an event to send; another name
// that leads here is not found out. A receiver might hang, babble, answer with gigabytes,
// redirect us elsewhere with our secrets, or send them back in an error that people then
// see: times and sizes are bounded, redirects are not followed, and our secrets, and the
// path, are taken out of what it says, escaped or not. It can't make us write without
// bounds either: a cursor is written once a second at most, and events about lost lines
// do not beget events.
package forward
