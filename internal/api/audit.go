package api

import (
	"encoding/json"
	"time"
)

// AuditPage is a part of the audit log, as a search found it.
//
// A search stops where the page is full, where it has looked at enough, or at
// the end of the log. Whoever wants more asks again with After (or, newest
// first, Before) set to Next; Done says that there is no more for now.
type AuditPage struct {
	Events []json.RawMessage `json:"events"` // each one line of the log, in the order asked for
	Next   uint64            `json:"next"`   // the last line looked at
	Done   bool              `json:"done"`   // the search came to the end of the log
	First  uint64            `json:"first"`  // line numbers of the first and last that this replica keeps
	Last   uint64            `json:"last"`
	// Missing are lines, of those looked through, that this replica lacks (for now):
	// nothing can be said of them. The order is that of Events.
	Missing []AuditRange `json:"missing,omitempty"`
}

// AuditRange is lines of the log, both inclusive.
type AuditRange struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// AllServers stands, where a replica is named whose log is to be verified, for each.
const AllServers = "all"

// MaxVerifiedLine bounds a line of the answer to PathAuditVerify: the text of a line of
// the log can be in it, each byte escaped.
const MaxVerifiedLine = 1 << 20

// What a search gives at once.
const (
	DefaultAuditEvents = 100
	MaxAuditEvents     = 1000
)

// AuditQuery says which lines of the audit log are asked for. As a URL's query
// the names are those of the JSON fields; Types may be repeated.
type AuditQuery struct {
	Since   time.Time `json:"since,omitzero"`    // time of the event, inclusive
	Until   time.Time `json:"until,omitzero"`    // exclusive
	User    string    `json:"user,omitempty"`    // who did it; a pattern as in roles: * stands for anything
	Types   []string  `json:"type,omitempty"`    // any of these names or codes; patterns
	Cluster string    `json:"cluster,omitempty"` // kubernetes_cluster; a pattern
	Grep    string    `json:"grep,omitempty"`    // a regular expression (RE2) that the line matches
	After   uint64    `json:"after,omitempty"`   // lines with a higher number, oldest first
	Before  uint64    `json:"before,omitempty"`  // lines with a lower number, newest first
	Newest  bool      `json:"newest,omitempty"`  // newest first, from the end or Before on
	Limit   int       `json:"limit,omitempty"`   // at most this many events; 0: 100; at most 1000
	Wait    Duration  `json:"wait,omitempty"`    // oldest first, with nothing to give: how long to wait for news; at most 20 s
}

// AuditProblem is where a replica's audit log is not what it should be.
type AuditProblem struct {
	File   string `json:"file"`   // its name in the log directory
	Line   int    `json:"line"`   // of the file, from 1; 0: the file as a whole
	Number uint64 `json:"number"` // of the event, as far as it can be told
	Kind   string `json:"kind"`   // touched, removed, added, missing, or unreadable
	Detail string `json:"detail"` // a sentence for people
	Text   string `json:"text,omitempty"`
}

// Kinds of problems.
const (
	AuditTouched    = "touched"    // the line's content is not what its hash says
	AuditRemoved    = "removed"    // lines are gone
	AuditAdded      = "added"      // a line that no replica ever wrote
	AuditMissing    = "missing"    // lines that this replica has not fetched yet
	AuditUnreadable = "unreadable" // the disk does not give the file
)

// AuditVerified is what became of verifying one replica's audit log, or, while
// Done is false, how far that has come. PathAuditVerify answers with lines of
// these.
type AuditVerified struct {
	ServerID string        `json:"server_id"`
	Done     bool          `json:"done"`
	OK       bool          `json:"ok"`
	First    uint64        `json:"first"`   // the first line that is kept
	Number   uint64        `json:"number"`  // the last line that was looked at
	Last     uint64        `json:"last"`    // the last line of all
	Hash     string        `json:"hash"`    // of line Number
	Problem  *AuditProblem `json:"problem"` // the first one; nil: none
	Error    string        `json:"error,omitempty"`
}

// AuditStatus is the state of audit on one replica.
type AuditStatus struct {
	Policy string `json:"policy"` // AuditSpool or AuditStrict
	First  uint64 `json:"first"`  // number of the first line that this replica keeps
	Number uint64 `json:"number"` // of its last line
	Hash   string `json:"hash"`   // of the cluster's last line
	Behind uint64 `json:"behind"` // lines that the cluster has and this replica's files lack
	Bytes  int64  `json:"bytes"`  // on this disk
	Files  int    `json:"files"`

	Queued     int64  `json:"queued"`      // events of requests in memory
	SpoolBytes int64  `json:"spool_bytes"` // and on this disk, which the cluster has not taken yet
	SpoolLimit int64  `json:"spool_limit"`
	Lost       uint64 `json:"lost"`    // since start: could be kept nowhere
	Refused    uint64 `json:"refused"` // since start: the cluster will never take
	Problem    string `json:"problem,omitempty"`

	// SetAside are folders in the replica's data directory with lines from before a
	// loss (audit.lost): no part of the log any more, and kept until somebody deletes them.
	SetAside []string `json:"set_aside,omitempty"`

	Forwarders []ForwarderStatus `json:"forwarders,omitempty"`
}

// What becomes of requests while their events can't reach the cluster.
const (
	AuditSpool  = "spool"  // they go on, and their events wait on the replica's disk
	AuditStrict = "strict" // they are refused
)

// ForwarderStatus is how far an audit forwarder has come.
type ForwarderStatus struct {
	Name    string    `json:"name"`
	Type    string    `json:"type"`
	Number  uint64    `json:"number"` // the receiver has taken all lines up to this one
	Behind  uint64    `json:"behind"` // lines it has not taken yet
	Updated time.Time `json:"updated,omitzero"`
	Failing time.Time `json:"failing,omitzero"` // since when it does not take any; zero: all is well
	Error   string    `json:"error,omitempty"`
	Skipped uint64    `json:"skipped,omitempty"` // lines that were given up: retention took them, or the receiver refuses them
}

// KindAuditForwarder sends the audit log to another system.
const KindAuditForwarder = "audit_forwarder"

// Types of forwarders.
const (
	ForwardWebhook = "webhook" // POST of a JSON array, signed as Standard Webhooks say if there is a signing_secret
	ForwardOTLP    = "otlp"    // OTLP/HTTP logs, protobuf
)

// AuditForwarder (v1) sends each event of the audit log to a receiver, in order,
// at least once, from a cursor that the cluster keeps.
type AuditForwarder struct {
	Header
	Spec AuditForwarderSpec `json:"spec"`
}

// AuditForwarderSpec is the spec of an AuditForwarder.
type AuditForwarderSpec struct {
	Type          string            `json:"type"`
	Endpoint      string            `json:"endpoint"`             // https, or http with allow_http; for OTLP the whole URL, …/v1/logs
	AllowHTTP     bool              `json:"allow_http,omitempty"` // for a collector beside us in the same cluster
	BearerToken   string            `json:"bearer_token,omitempty"`
	SigningSecret string            `json:"signing_secret,omitempty"` // webhook: whsec_ and base64
	Headers       map[string]string `json:"headers,omitempty"`        // values are secret
	CACert        string            `json:"ca_cert,omitempty"`        // PEM, instead of the system's roots
	Types         []string          `json:"types,omitempty"`          // names or codes, patterns; none: all
	Start         string            `json:"start,omitempty"`          // ForwardFromNow (default) or ForwardFromOldest
}

// Where a new forwarder begins.
const (
	ForwardFromNow    = "now"
	ForwardFromOldest = "oldest"
)
