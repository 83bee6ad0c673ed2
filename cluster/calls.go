package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
)

// The calls between nodes. Their names and JSON are a wire format between versions.
const (
	pathIdentify  = "/cluster/identify"  // guests
	pathJoin      = "/cluster/join"      // guests
	pathGrant     = "/cluster/grant"     // guests
	pathPropose   = "/cluster/propose"   // members, from here on
	pathReadIndex = "/cluster/readindex" //
	pathClock     = "/cluster/clock"     //
	pathStats     = "/cluster/stats"     //
)

func (n *Node) handleCalls() {
	n.link.Handle(pathIdentify, peer.Guests, peer.JSON(n.formed.serveIdentify))
	n.link.Handle(pathJoin, peer.Guests, peer.JSON(n.formed.serveJoin))
	n.link.Handle(pathGrant, peer.Guests, peer.JSON(n.formed.serveGrant))
	n.link.Handle(pathPropose, peer.Members, peer.JSON(n.servePropose))
	n.link.Handle(pathReadIndex, peer.Members, peer.JSON(n.serveReadIndex))
	n.link.Handle(pathClock, peer.Members, peer.JSON(n.serveClock))
	n.link.Handle(pathStats, peer.Members, peer.JSON(n.serveStats))
}

// stats are what autopilot and Status want to know of another server.
type stats struct {
	LastContact time.Duration `json:"last_contact"` // nanoseconds
	LastTerm    uint64        `json:"last_term"`
	LastIndex   uint64        `json:"last_index"`
	Version     string        `json:"version,omitempty"`
	Fenced      bool          `json:"fenced,omitempty"`
}

func (n *Node) serveStats(context.Context, peer.Peer, struct{}) (stats, error) { return n.stats(), nil }

func (n *Node) stats() stats {
	s := stats{Version: n.opts.Version, LastContact: n.Staleness()}
	_, reason := n.watch.fenced()
	s.Fenced = reason != ""
	if in := n.inst.Load(); in != nil {
		s.LastIndex = in.raft.LastIndex()
		s.LastTerm = in.lastLogTerm()
	}
	return s
}

// lastLogTerm is the term of the last entry: Raft tells it only as text.
func (in *instance) lastLogTerm() uint64 {
	var l raft.Log
	last := in.raft.LastIndex()
	if last == 0 {
		return 0
	}
	if err := in.st.logs.GetLog(last, &l); err == nil {
		return l.Term
	}
	if list, err := in.st.snaps.List(); err == nil && len(list) > 0 { // compacted away
		return list[0].Term
	}
	return 0
}
