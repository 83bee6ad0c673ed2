package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
)

// Link is how a node reaches the others: the peer port, or a network in
// memory under test. Its methods mean what peer.Port's mean.
type Link interface {
	ServerID() string
	Advertise() string
	SetCluster(id string)
	Handle(path string, access peer.Access, h peer.Handler)
	Call(ctx context.Context, t peer.Target, path string, in, out any) error
	// RaftTransport opens the transport of one Raft instance, which closes it.
	RaftTransport(log hclog.Logger) (raft.Transport, error)
	OnRaftLost(fn func(serverID string))
	Fence(reason string)
	Unfence()
	Start()
	Close() error
}

// raftRPCTimeout bounds one Raft RPC but for snapshots, whose time grows with
// their size.
const raftRPCTimeout = 5 * time.Second

type portLink struct {
	*peer.Port
	noPipeline bool
}

func (l portLink) RaftTransport(log hclog.Logger) (raft.Transport, error) {
	layer, err := l.RaftLayer()
	if err != nil {
		return nil, fmt.Errorf("open Raft layer: %w", err)
	}
	inFlight := 0 // Raft's default: one on the way while the next is made
	if l.noPipeline {
		inFlight = 1
	}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		MaxRPCsInFlight:         inFlight,
		Stream:                  layer,
		MaxPool:                 3,
		Timeout:                 raftRPCTimeout,
		Logger:                  log,
		MsgpackUseNewTimeFormat: true,
		// No ServerAddressProvider: its fallback is the bare configured address. The
		// configuration itself holds id@host:port, so no path dials without an id.
	}), nil
}
