package wire

import (
	"fmt"
	"io"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// MaxMessage bounds a message, in bytes.
const MaxMessage = 256 << 10

// Message is one thing said on the first stream. Exactly one field is set; a
// message of a kind that this version does not know has none, and is passed over.
type Message struct {
	Hello   *Hello   `json:"hello,omitempty"`   // agent, first
	Welcome *Welcome `json:"welcome,omitempty"` // replica: the tunnel is up
	Refused *Refused `json:"refused,omitempty"` // replica: it is not; the last message
	Status  *Status  `json:"status,omitempty"`  // agent, whenever it changes
	Renew   *Renew   `json:"renew,omitempty"`   // agent: a certificate for a new key, please
	Renewed *Renewed `json:"renewed,omitempty"` // replica's answer to Renew
	Members *Members `json:"members,omitempty"` // replica, when they change
	Move    *Move    `json:"move,omitempty"`    // replica: it is about to stop
}

// Hello says what an agent serves. Who it is, its certificate says.
type Hello struct {
	Version  string    `json:"version,omitempty"` // of the agent
	Name     string    `json:"name,omitempty"`    // of its pod or host, for people
	Clusters []Cluster `json:"clusters"`
	// Instance is random and of the agent's process, which started then: two of one
	// identity are told apart by it, and of agents that disagree about a cluster's
	// labels the one that started last is right.
	Instance string    `json:"instance,omitempty"`
	Started  time.Time `json:"started,omitzero"`
}

// MaxClusterCAs is how many CAs of a cluster are told.
const MaxClusterCAs = 8

// Cluster is a Kubernetes cluster that an agent serves, and how it does.
type Cluster struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Health  api.Health        `json:"health,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Version string            `json:"version,omitempty"` // of its API server
	Checked time.Time         `json:"checked,omitzero"`
	// CAs are the certificates by which the agent knows the API server: SHA-256, hex, in
	// order. Agents that share one reach the same cluster. None: it can't be told.
	CAs []string `json:"cas,omitempty"`
}

// Welcome opens the tunnel.
type Welcome struct {
	ServerID string   `json:"server_id"` // of this replica
	Members  []string `json:"members"`   // server ids of all replicas that take tunnels, this one among them
	// Generation is that of the certificate that counts from now on: the one shown,
	// if this was its first use.
	Generation uint64 `json:"generation"`
}

// Members are the server ids of all replicas that take tunnels.
type Members struct {
	Members []string `json:"members"`
}

// Refused says why there is no tunnel, by the codes of internal/api: unavailable
// (come again), unauthenticated (this identity is worth nothing any more: join
// anew), forbidden (locked, or not its cluster: an administrator must act).
type Refused struct {
	Code       api.Code      `json:"code"`
	Message    string        `json:"message"`
	RetryAfter time.Duration `json:"retry_after,omitempty"` // nanoseconds; at least so long, 0: as it likes
}

// Status replaces what Hello said of the clusters.
type Status struct {
	Clusters []Cluster `json:"clusters"`
}

// Renew asks for the agent's next certificate. It has no other field: name,
// clusters and lifetime are the server's to say.
type Renew struct {
	PublicKey []byte `json:"public_key"` // PKIX, DER
}

// Renewed answers Renew, with a certificate or a refusal.
type Renewed struct {
	Cert        []byte           `json:"cert,omitempty"` // PEM
	Generation  uint64           `json:"generation,omitempty"`
	Expires     time.Time        `json:"expires,omitzero"`
	HostSigners []api.HostSigner `json:"host_signers,omitempty"`
	Refused     *Refused         `json:"refused,omitempty"`
}

// Move asks the agent to open a tunnel elsewhere. Streams that are open go on
// until they end or the connection does.
type Move struct {
	// Within is how soon: the agent waits a random part of it.
	Within time.Duration `json:"within,omitempty"` // nanoseconds
}

// WriteMessage writes one message, as WriteJSON does.
func WriteMessage(w io.Writer, m Message) error {
	if err := WriteJSON(w, MaxMessage, m); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// ReadMessage reads one message and not a byte more. io.EOF is the end between
// two messages.
func ReadMessage(r io.Reader) (Message, error) {
	var m Message
	err := ReadJSON(r, MaxMessage, &m)
	if err != nil {
		m = Message{}
	}
	return m, err
}
