package peer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxPreface bounds a preface and its answer, in bytes.
const maxPreface = 512

// preface is the first thing a dialer says inside TLS: two bytes of length,
// big-endian, then this as JSON.
type preface struct {
	Cluster string `json:"cluster,omitempty"` // "" on rpc: a guest
	From    string `json:"from"`
	To      string `json:"to,omitempty"` // "" on rpc: whoever answers
}

// answer is what the acceptor says to a preface, framed alike. The dialer
// waits for it: with TLS 1.3 it would otherwise believe in a connection that
// the other end has refused already.
type answer struct {
	Error string `json:"error,omitempty"`
}

func writeFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode preface: %w", err)
	}
	if len(body) > maxPreface {
		return fmt.Errorf("preface has %d bytes, at most %d", len(body), maxPreface)
	}
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(body)), uint16(len(body))) //nolint:gosec // bounded above
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write preface: %w", err)
	}
	return nil
}

// readFrame reads exactly one frame: not a byte of what follows is consumed.
func readFrame(r io.Reader, v any) error {
	var buf [2 + maxPreface]byte
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return fmt.Errorf("read preface: %w", err)
	}
	n := int(binary.BigEndian.Uint16(buf[:2]))
	if n == 0 || n > maxPreface {
		return fmt.Errorf("preface says %d bytes, want 1 to %d", n, maxPreface)
	}
	body := buf[2 : 2+n]
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read preface: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("decode preface: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode preface: trailing bytes")
	}
	return nil
}

// admit judges a preface: may a connection for proto, whose certificate names
// certID, go on at a server with these ids? It returns the peer to hand to handlers.
func (p preface) admit(proto, certID, ownID, ownCluster string) (Peer, error) {
	if p.From != certID {
		return Peer{}, fmt.Errorf("preface is from %q but the certificate from %q", p.From, certID)
	}
	if p.To != "" && p.To != ownID {
		return Peer{}, fmt.Errorf("this is server %s, not %q", ownID, p.To)
	}
	if p.Cluster != "" && ownCluster == "" {
		return Peer{}, passing{errors.New("this server has no cluster yet")}
	}
	if p.Cluster != "" && p.Cluster != ownCluster {
		return Peer{}, fmt.Errorf("this server is not of cluster %q", p.Cluster)
	}
	member := p.Cluster != "" && p.To != ""
	if proto != protoRPC && !member {
		return Peer{}, errors.New("a connection for Raft or tunnels must name cluster and server")
	}
	peer := Peer{ID: certID}
	if member {
		peer.ClusterID = p.Cluster
	}
	return peer, nil
}
