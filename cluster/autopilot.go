package cluster

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/hclogslog"
)

// Autopilot says when servers get their vote and when dead ones go. Zero
// values are the defaults.
type Autopilot struct {
	Stabilize time.Duration // a server is healthy so long before it gets a vote; 3 s
	DeadAfter time.Duration // a server is unheard of so long before it may be removed; 24 h
	MinQuorum uint          // voters that removal leaves at least; 3
}

const (
	trailingHealthy = 1000 // entries a healthy server may be behind
	autopilotEvery  = time.Second
	statsTimeout    = time.Second
)

// autopilot runs raft-autopilot while we lead: non-voters that have caught up get
// their vote, and servers that are dead for long go, unless too few would be left.
func (l *leadership) autopilot(ctx context.Context) error {
	p := &pilot{l: l, opts: l.in.node.opts.Autopilot, lastHeard: make(map[raft.ServerID]time.Time)}
	if p.opts.Stabilize == 0 {
		p.opts.Stabilize = 3 * time.Second
	}
	if p.opts.DeadAfter == 0 {
		p.opts.DeadAfter = 24 * time.Hour
	}
	if p.opts.MinQuorum == 0 {
		p.opts.MinQuorum = 3
	}
	ap := autopilot.New(l.in.raft, p,
		autopilot.WithLogger(hclogslog.New(l.in.node.log.With("logger", "autopilot"), hclogslog.Options{Level: quiet})),
		autopilot.WithReconcileInterval(autopilotEvery),
		autopilot.WithUpdateInterval(autopilotEvery),
	)
	ap.Start(ctx)
	<-ctx.Done()
	<-ap.Stop()
	return nil
}

// pilot is what autopilot knows of us.
type pilot struct {
	l    *leadership
	opts Autopilot

	mu        sync.Mutex
	lastHeard map[raft.ServerID]time.Time
	stable    int             // voters that autopilot holds for stable
	voters    []raft.ServerID // as of the last look; nil before
}

func (p *pilot) AutopilotConfig() *autopilot.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &autopilot.Config{
		// With fewer than three stable voters one more failure stops the cluster: hands off.
		CleanupDeadServers:      p.stable >= 3,
		LastContactThreshold:    2 * heartbeatTimeout,
		MaxTrailingLogs:         trailingHealthy,
		MinQuorum:               p.opts.MinQuorum,
		ServerStabilizationTime: p.opts.Stabilize,
	}
}

func (p *pilot) NotifyState(s *autopilot.State) {
	stable := 0
	for _, srv := range s.Servers {
		if srv.HasVotingRights() && srv.Health.IsStable(time.Now(), p.opts.Stabilize) {
			stable++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stable = stable
	for _, id := range s.Voters {
		if p.voters != nil && !slices.Contains(p.voters, id) {
			p.l.in.node.log.Info("a server has caught up and votes", "peer", string(id))
		}
	}
	p.voters = slices.Clone(s.Voters)
}

// KnownServers are exactly those of the Raft configuration, which is the truth
// on membership: gossip takes no voter away.
func (p *pilot) KnownServers() map[raft.ServerID]*autopilot.Server {
	n := p.l.in.node
	out := make(map[raft.ServerID]*autopilot.Server)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.l.in.servers() {
		heard, ok := p.lastHeard[s.ID]
		if !ok { // patience starts when we do
			heard = time.Now()
			p.lastHeard[s.ID] = heard
		}
		status := autopilot.NodeAlive
		if s.ID != n.id && time.Since(heard) > p.opts.DeadAfter {
			status = autopilot.NodeFailed
		}
		out[s.ID] = &autopilot.Server{
			ID: s.ID, Name: string(s.ID), Address: s.Address, NodeStatus: status,
			RaftVersion: 3, IsLeader: s.ID == n.id, NodeType: autopilot.NodeVoter,
		}
	}
	return out
}

func (p *pilot) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	n := p.l.in.node
	out := make(map[raft.ServerID]*autopilot.ServerStats)
	var wg sync.WaitGroup
	for id, srv := range servers {
		wg.Go(func() {
			st := n.stats()
			if id != n.id {
				to, addr, ok := peer.SplitAddress(string(srv.Address))
				if !ok {
					return
				}
				if err := n.link.Call(ctx, peer.Target{ID: to, Addr: addr}, pathStats, struct{}{}, &st); err != nil || st.Fenced {
					return
				}
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.lastHeard[id] = time.Now()
			out[id] = &autopilot.ServerStats{LastContact: st.LastContact, LastTerm: st.LastTerm, LastIndex: st.LastIndex}
		})
	}
	wg.Wait()
	return out
}

// RemoveFailedServer removes a server that is unheard of for DeadAfter.
func (p *pilot) RemoveFailedServer(s *autopilot.Server) {
	_, err := p.l.in.await(p.l.ctx, func() raft.Future { return p.l.in.raft.RemoveServer(s.ID, 0, 0) })
	n := p.l.in.node
	if err != nil {
		n.log.Warn("could not remove a dead server", "dead", string(s.ID), "error", err)
		return
	}
	n.log.Warn("removed a server that is unheard of for long", "dead", string(s.ID), "after", p.opts.DeadAfter.String())
}
