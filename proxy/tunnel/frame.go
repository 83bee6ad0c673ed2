package tunnel

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	maxHeader = 512     // bytes of a stream's header
	maxFrame  = 1 << 20 // bytes of a table's frame
)

// header is the first thing on a stream that a replica opens over a link: whose
// it is to become. Unknown fields are passed over: the dialler may be newer.
type header struct {
	Agent  string `json:"agent,omitempty"`  // the agent with this id, over its tunnel to you
	Splice bool   `json:"splice,omitempty"` // your public port; what follows is TLS by an agent
	Addr   string `json:"addr,omitempty"`   // with Splice: the agent's host:port, for its limits
}

// The answer to a header is one byte.
const (
	answerOK      byte = 0
	answerNotHere byte = 1 // the agent has no tunnel here (any more)
	answerRefused byte = 2 // malformed, or not offered
)

// validate refuses what names not exactly one thing.
func (h header) validate() error {
	switch {
	case h.Splice && h.Agent != "":
		return fmt.Errorf("a stream is for an agent and to be spliced")
	case h.Splice:
		if h.Addr != "" {
			if _, err := netip.ParseAddrPort(h.Addr); err != nil {
				return fmt.Errorf("address of a spliced connection: %w", err)
			}
		}
		return nil
	case !validAgentID(h.Agent):
		return fmt.Errorf("%.40q is no agent's id", h.Agent)
	}
	return nil
}

// validAgentID accepts what the agents' CA gives out: 32 lower-case hex digits.
func validAgentID(id string) bool {
	if len(id) != 32 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// writeFrame writes four bytes of length, big-endian, then JSON.
func writeFrame(w io.Writer, limit int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > limit {
		return api.Errorf(api.CodeTooLarge, "a frame has %d bytes, at most %d", len(body), limit)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))) //nolint:gosec // bounded above
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// readFrame reads one frame and not a byte more. Nothing is allocated before its
// length is known to be allowed.
func readFrame(r io.Reader, limit int, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || uint64(n) > uint64(limit) { //nolint:gosec // limit is ours
		return fmt.Errorf("a frame of %d bytes, want 1 to %d", n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode frame: %w", err)
	}
	return nil
}
