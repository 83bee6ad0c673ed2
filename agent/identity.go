package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// An agent's identity and its renewal
//
// The server's record of an identity has a generation G and, after a renewal, one
// pending key for G+1. Showing G+1 with that key makes it G+1. Showing anything
// else that is not G (older, or G+1 with another key) locks the identity for good,
// because that is what a stolen copy looks like. So a crash at any point must leave
// a store from which the agent never shows such a thing. The rules:
//
//  1. A key is saved before the server hears of it (State.Next without certificate),
//     and all requests to renew, also those of later processes, ask with that one
//     key. Were each to make its own, a request that was delayed on its way could
//     come after a later one and change the pending key behind the agent's back.
//  2. The certificate that comes back is saved (State.Next with certificate) before
//     its first use. This is the point of no return: whoever finds it in the store
//     uses Next, and never Current again. The server either still is at G with this
//     key pending, or at G+1 already: both accept it.
//  3. While Next has a certificate, nobody asks to renew, so the pending key is not
//     replaced before it was used. Only the answer of a replica (Welcome) to Next
//     makes it Current, which allows the next renewal.
//  4. Before 2, no Hello with the old certificate may be under way. This process
//     dials in one goroutine, and an unanswered Hello (the network died behind it)
//     can still arrive late: 2 waits lateHello after the last one, and after the
//     start, because the process before may have left one.
//  5. An identity is for one process. A directory is locked; a Secret is not, and a pod
//     that was cut off may come back beside its successor: a state that this process
//     did not write ends its dialling and renewing (claim.go).
//
// What each crash leaves, then:
//
//	before 1, or between 1 and 2   Current is used; the same key asks again
//	between 2 and the first use    Next is used; the server is at G, key pending: accepted
//	between first use and Welcome  Next is used; the server may be at G+1: accepted
//	between Welcome and saving     the same
//
// A join is like a renewal without Current: the key is saved first (which also
// shows whether the store can be written before a token is spent), the certificate
// before its use. A crash between the server's answer and the save costs a use of
// the token and leaves a record that nobody uses.

// lateHello is for how long a Hello that nobody answered may still arrive: longer
// than a replica waits for a leader, and than a connection that was reset lives.
const lateHello = time.Minute

// Identity is a certificate and its key, and whom to trust with it.
type Identity struct {
	AgentID      string           `json:"agent_id,omitempty"`
	ClusterName  string           `json:"cluster_name,omitempty"`
	Generation   uint64           `json:"generation,omitempty"`
	Key          []byte           `json:"key"`            // PKCS #8, PEM
	Cert         []byte           `json:"cert,omitempty"` // PEM; none yet: a key that was made to ask with
	HostSigners  []api.HostSigner `json:"host_signers,omitempty"`
	KubeClusters []string         `json:"kubernetes_clusters,omitempty"` // as it joined
}

// State is what a Store holds. See the rules above.
type State struct {
	Current *Identity `json:"current,omitempty"`
	Next    *Identity `json:"next,omitempty"`
}

// inUse is the identity to show, nil: none.
func (s State) inUse() *Identity {
	if s.Next != nil && len(s.Next.Cert) > 0 {
		return s.Next
	}
	return s.Current
}

// Store keeps a State where it survives a restart.
type Store interface {
	// Load gives the zero State if there is none.
	Load(ctx context.Context) (State, error)
	// Save is durable when it returns. It gives ErrForeign, and saves nothing, if
	// somebody else has written since the last Load or Save.
	Save(ctx context.Context, s State) error
	// String says where it is, for logs.
	String() string
}

// ErrForeign says that another process writes to a Store.
var ErrForeign = errors.New("another process has written to it")

// MemoryStore is a Store for those who need no restart. The zero value is empty.
type MemoryStore struct {
	mu    sync.Mutex
	state State
}

// Load implements Store.
func (m *MemoryStore) Load(context.Context) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, nil
}

// Save implements Store.
func (m *MemoryStore) Save(_ context.Context, s State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
	return nil
}

func (m *MemoryStore) String() string { return "memory" }

// maxState bounds what is read from a store.
const maxState = 1 << 20

type stateDocument struct {
	Version int `json:"version"`
	State
}

const stateVersion = 1

func encodeState(s State) ([]byte, error) {
	return json.Marshal(stateDocument{Version: stateVersion, State: s})
}

// decodeState refuses what it does not know: a guess could lock the identity.
func decodeState(b []byte) (State, error) {
	var doc stateDocument
	if err := json.Unmarshal(b, &doc); err != nil {
		return State{}, fmt.Errorf("it is damaged (%w): remove it, and the agent joins anew with its token", err)
	}
	if doc.Version != stateVersion {
		return State{}, fmt.Errorf("it was written by another version of Sallyport (format %d): use that one, or remove it, and the agent joins anew with its token", doc.Version)
	}
	for _, id := range []*Identity{doc.Current, doc.Next} {
		if id == nil {
			continue
		}
		if _, err := parseKey(id.Key); err != nil {
			return State{}, fmt.Errorf("it is damaged (%w): remove it, and the agent joins anew with its token", err)
		}
		if len(id.Cert) == 0 && id == doc.Next {
			continue
		}
		if _, err := id.credentials(); err != nil {
			return State{}, fmt.Errorf("it is damaged (%w): remove it, and the agent joins anew with its token", err)
		}
	}
	return doc.State, nil
}

// newKey makes the identity that a key alone is.
func newKey() (*Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	return &Identity{Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}, nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the key is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the key can't be read") // the reason might quote it
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key is of another kind")
	}
	return ec, nil
}

// publicKey is the public half, PKIX in DER.
func (id *Identity) publicKey() ([]byte, error) {
	key, err := parseKey(id.Key)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(&key.PublicKey)
}

// credentials are an Identity as TLS wants it.
type credentials struct {
	*Identity
	cert  tls.Certificate
	leaf  *x509.Certificate
	roots *x509.CertPool
}

// credentials checks that all parts of an identity fit together.
func (id *Identity) credentials() (*credentials, error) {
	key, err := parseKey(id.Key)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(id.Cert)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("the certificate is no PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	if id.AgentID == "" || id.Generation == 0 {
		return nil, errors.New("the identity has no id or no generation")
	}
	if err := api.ValidateClusterName(id.ClusterName); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	n := 0
	for _, signer := range id.HostSigners {
		for _, text := range signer.TLSCerts {
			for block, rest := pem.Decode(bytes.TrimSpace(text)); block != nil; block, rest = pem.Decode(rest) {
				ca, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					return nil, fmt.Errorf("a host CA: %w", err)
				}
				roots.AddCert(ca)
				n++
			}
		}
	}
	if n == 0 {
		return nil, errors.New("there is no host CA to know replicas by")
	}
	return &credentials{
		Identity: id, leaf: leaf, roots: roots,
		cert: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
	}, nil
}

// renewal is when to renew: after a random 1/7 to 2/7 of the lifetime, so that
// agents that joined together don't come together.
func (c *credentials) renewal(random float64) time.Time {
	life := c.leaf.NotAfter.Sub(c.leaf.NotBefore)
	return c.leaf.NotBefore.Add(time.Duration((1 + random) / 7 * float64(life)))
}

// serves says whether the identity was given for all these clusters.
func (id *Identity) serves(names []string) bool {
	for _, name := range names {
		if !slices.Contains(id.KubeClusters, name) {
			return false
		}
	}
	return true
}
