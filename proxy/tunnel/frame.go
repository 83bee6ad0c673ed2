package tunnel

import (
	"fmt"
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
	answerFull    byte = 3 // the agent's tunnels here have no room for another stream
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
	case !api.ValidAgentID(h.Agent):
		return fmt.Errorf("%.40q is no agent's id", h.Agent)
	}
	return nil
}
