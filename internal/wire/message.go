package wire

import (
	"encoding/binary"
	"encoding/json"
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
}

// Cluster is a Kubernetes cluster that an agent serves, and how it does.
type Cluster struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Health  api.Health        `json:"health,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Version string            `json:"version,omitempty"` // of its API server
	Checked time.Time         `json:"checked,omitzero"`
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

// WriteMessage writes one message: four bytes of length, big-endian, then JSON.
func WriteMessage(w io.Writer, m Message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > MaxMessage {
		return api.Errorf(api.CodeTooLarge, "a message has %d bytes, at most %d", len(body), MaxMessage)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))) //nolint:gosec // bounded above
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// ReadMessage reads one message and not a byte more. io.EOF is the end between
// two messages.
func ReadMessage(r io.Reader) (Message, error) {
	var head [4]byte
	var m Message
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return m, err // io.EOF, or what the session says
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return m, fmt.Errorf("read message: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > MaxMessage {
		return m, fmt.Errorf("a message of %d bytes, want 1 to %d", n, MaxMessage)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return m, fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return Message{}, fmt.Errorf("decode message: %w", err)
	}
	return m, nil
}
