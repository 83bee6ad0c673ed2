package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/wire"
	"github.com/sallyport-dev/sallyport/proxy/tunnel"
)

// openTunnels joins agents' tunnels with who may have one, with the peers, and with
// the public port.
func (s *Server) openTunnels() error {
	var err error
	s.tunnels, err = tunnel.New(tunnel.Options{
		ServerID: s.node.ID(), Port: s.port, Members: s.members,
		Gate:   &gate{agents: s.auth.Agents, clusterName: s.opts.ClusterName, stale: s.stale, blame: s.blameClock},
		Splice: func(c net.Conn) { s.handed.hand(c) }, LastSeen: s.health.lastSeen,
		Clock: s.opts.Clock, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.onClose(s.tunnels.Close)
	s.port.HandleTunnels(s.tunnels.ServePeer)
	s.port.Handle(pathServing, peer.Members, peer.JSON(s.serveServing))
	s.health.follow(s.tunnels, s.auth.KubeClusters)
	s.node.RunWhenLeader("health of Kubernetes clusters", s.health.save)
	labels := &labelKeeper{log: s.log, clock: s.opts.Clock, tunnels: s.tunnels, store: s.auth.KubeClusters}
	s.node.RunWhenLeader("labels of Kubernetes clusters", labels.keep)
	addr, err := net.ResolveTCPAddr("tcp", s.opts.ListenAddr)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "listen address: %w", err)
	}
	s.handed = newHandedListener(addr)
	s.onClose(s.handed.Close)
	s.door = newAgentDoor(doorOptions{
		clusterName: s.opts.ClusterName, serverID: s.node.ID(), tunnels: s.tunnels, members: s.members, log: s.log,
		agents: func() (*x509.CertPool, error) {
			cas, err := s.auth.Authorities.AgentCAs()
			if err != nil {
				return nil, err
			}
			return poolOf(cas), nil
		},
		verify: func(peer []*x509.Certificate) (pki.AgentIdentity, error) {
			id, err := s.auth.Authorities.VerifyAgent(peer)
			return id, s.blameClock(err)
		},
	})
	s.onClose(func() error { s.door.close(); return nil })
	return nil
}

const (
	pathServing = "/server/serving"
	askServing  = time.Second // how often a replica that stops asks
	// electing is how long the cluster may be without a leader as one is elected: half a
	// second as a rule.
	electing = 5 * time.Second
)

type servingAnswer struct {
	Serving bool `json:"serving"`
}

// serveServing says whether this replica takes agents and users, and goes on to. Without
// a leader it is nobody to wait for: an agent that already has a tunnel here keeps the
// other one until it finds a further replica, and there may be none.
func (s *Server) serveServing(context.Context, peer.Peer, struct{}) (servingAnswer, error) {
	ready, _ := s.ready()
	return servingAnswer{ready && s.phase.Load() == serving && s.node.Staleness() < electing}, nil
}

// awaitAgentsGone waits until all agents have left, as long as there is another
// replica that they can go to.
func (s *Server) awaitAgentsGone(ctx context.Context) error {
	for wait := time.Duration(0); ; wait = askServing {
		some, cancel := context.WithTimeout(ctx, wait)
		gone := s.door.awaitEmpty(some)
		cancel()
		switch {
		case gone == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("after %s", s.opts.DrainTimeout)
		case !s.othersServe(ctx):
			return errors.New("there is no other replica that they could go to")
		}
	}
}

// othersServe asks the other replicas whether one of them serves.
func (s *Server) othersServe(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askServing)
	defer cancel()
	var found atomic.Bool
	var wg sync.WaitGroup
	for _, srv := range s.node.Status().Servers {
		if srv.ID == s.node.ID() {
			continue
		}
		wg.Go(func() {
			var out servingAnswer
			err := s.port.Call(ctx, peer.Target{ID: srv.ID, Addr: srv.Addr}, pathServing, struct{}{}, &out)
			if err == nil && out.Serving {
				found.Store(true)
			}
		})
	}
	wg.Wait()
	return found.Load()
}

// members are the replicas by Raft's configuration, dead ones too: autopilot removes
// those.
func (s *Server) members() []tunnel.Member {
	var out []tunnel.Member
	for _, srv := range s.node.Status().Servers {
		out = append(out, tunnel.Member{ID: srv.ID, Addr: srv.Addr})
	}
	return out
}

// gate is package auth as tunnels ask for it.
type gate struct {
	agents      *auth.Agents
	clusterName string
	stale       func() error
	blame       func(error) error // says so where the clock, and not the agent, is to blame
}

func (g *gate) identity(id tunnel.Identity) pki.AgentIdentity {
	return pki.AgentIdentity{ID: id.AgentID, Generation: id.Generation, ClusterName: g.clusterName, NotAfter: id.NotAfter}
}

// Admit implements tunnel.Gate.
func (g *gate) Admit(ctx context.Context, id tunnel.Identity, hello wire.Hello, addr netip.Addr) (tunnel.Grant, error) {
	if !api.ValidAgentID(id.AgentID) {
		return nil, api.Errorf(api.CodeUnauthenticated, "no agent has this certificate: join anew with a new token (tctl nodes add)")
	}
	if err := g.stale(); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(hello.Clusters))
	for _, c := range hello.Clusters {
		names = append(names, c.Name)
	}
	grant, err := g.agents.Admit(ctx, g.identity(id), id.KeySum, names, addr)
	if err != nil {
		return nil, g.blame(err)
	}
	return agentGrant{grant}, nil
}

// Renew implements tunnel.Gate.
func (g *gate) Renew(ctx context.Context, id tunnel.Identity, publicKey []byte, addr netip.Addr) (wire.Renewed, error) {
	if err := g.stale(); err != nil {
		return wire.Renewed{}, err
	}
	resp, err := g.agents.Renew(ctx, g.identity(id), id.KeySum, publicKey, addr)
	if err != nil {
		return wire.Renewed{}, g.blame(err)
	}
	return wire.Renewed{Cert: resp.Cert, Generation: resp.Generation, Expires: resp.Expires, HostSigners: resp.HostSigners}, nil
}

// agentGrant is an auth.AgentGrant as tunnels ask for one.
type agentGrant struct{ grant *auth.AgentGrant }

func (g agentGrant) KubeClusters() []string          { return g.grant.KubeClusters }
func (g agentGrant) Generation() uint64              { return g.grant.Generation }
func (g agentGrant) Watch(ctx context.Context) error { return g.grant.Watch(ctx) }
