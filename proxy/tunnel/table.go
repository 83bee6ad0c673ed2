package tunnel

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	heartbeat    = time.Second
	tableSilence = 4 * time.Second        // after which a link is given up
	tablePause   = 100 * time.Millisecond // between two frames of changes
	frameTarget  = 256 << 10              // bytes after which a frame is full
	maxAgents    = 50_000                 // of one table
)

// tableFrame is a piece of a table. The frames up to the first without More are a
// snapshot, those after it say what changed; one that says nothing is a heartbeat.
type tableFrame struct {
	Server string            `json:"server,omitempty"` // whose it is, in the first
	Moving bool              `json:"moving,omitempty"` // that server is about to stop
	More   bool              `json:"more,omitempty"`
	Agents []json.RawMessage `json:"agents,omitempty"` // each a tableAgent: new, or changed
	Gone   []string          `json:"gone,omitempty"`
}

// tableAgent is an agent that has at least one tunnel.
type tableAgent struct {
	ID       string          `json:"id"`
	Since    time.Time       `json:"since,omitzero"` // when its process came, to whichever replica
	Instance string          `json:"instance,omitempty"`
	Started  time.Time       `json:"started,omitzero"`
	Others   []process       `json:"others,omitempty"` // that have its identity, too
	Clusters []clusterStatus `json:"clusters,omitempty"`
}

// process is one of an agent: there should be one.
type process struct {
	Instance string    `json:"instance"`
	Since    time.Time `json:"since,omitzero"`
}

// parse checks what a peer says. It comes from a member of the cluster, but of
// agents, and from software that may have bugs.
func (f *tableFrame) parse(now time.Time) ([]tableAgent, error) {
	agents := make([]tableAgent, 0, min(len(f.Agents), maxAgents))
	for _, raw := range f.Agents {
		var a tableAgent
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, fmt.Errorf("decode an agent: %w", err)
		}
		if !api.ValidAgentID(a.ID) {
			return nil, fmt.Errorf("%.40q is no agent's id", a.ID)
		}
		if len(a.Clusters) > api.MaxAgentClusters {
			return nil, fmt.Errorf("agent %s serves %d clusters, at most %d", a.ID, len(a.Clusters), api.MaxAgentClusters)
		}
		if len(a.Others) > maxOfAgent {
			return nil, fmt.Errorf("agent %s has %d more processes, at most %d", a.ID, len(a.Others), maxOfAgent)
		}
		a.Instance = api.CleanText(a.Instance, maxText)
		for i, p := range a.Others {
			a.Others[i].Instance = api.CleanText(p.Instance, maxText)
		}
		for i, c := range a.Clusters {
			if err := api.ValidateKubeName(c.Name); err != nil {
				return nil, err
			}
			a.Clusters[i] = cleanStatus(c, now)
		}
		agents = append(agents, a)
	}
	for _, id := range f.Gone {
		if !api.ValidAgentID(id) {
			return nil, fmt.Errorf("%.40q is no agent's id", id)
		}
	}
	return agents, nil
}

// tableSender tells one peer of the tunnels here.
type tableSender struct {
	t        *Tunnels
	sent     map[string]struct{} // the agents that the peer knows of
	version  uint64              // of what it knows
	removals uint64
	moving   bool
	begun    bool
}

// run sends the table, what changes, and heartbeats, until the stream fails or ctx ends.
func (s *tableSender) run(ctx context.Context, stream wire.Stream) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for {
		changed, frames, err := s.next()
		if err != nil {
			return err
		}
		for _, f := range frames {
			_ = stream.SetWriteDeadline(time.Now().Add(tableSilence)) // a stream of a live session takes deadlines
			if err := wire.WriteJSON(stream, maxFrame, f); err != nil {
				return err
			}
		}
		pause.Reset(tablePause) // many agents come and go at once
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-beat.C:
			_ = stream.SetWriteDeadline(time.Now().Add(tableSilence)) // the same
			if err := wire.WriteJSON(stream, maxFrame, tableFrame{Moving: s.moving}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next gives the frames that bring the peer up to date, and what is closed when
// there is more to say.
func (s *tableSender) next() (changed <-chan struct{}, frames []tableFrame, err error) {
	t := s.t
	t.mu.RLock()
	changed = t.ownChanged
	moving := t.moving.Load()
	var agents []tableAgent
	if t.version != s.version || !s.begun {
		for id, own := range t.own {
			if own.version > s.version || !s.begun {
				agents = append(agents, own.entry(id))
			}
		}
	}
	var gone []string
	if t.removals != s.removals {
		for id := range s.sent {
			if t.own[id] == nil {
				gone = append(gone, id)
			}
		}
	}
	news := len(agents)+len(gone) > 0 || moving != s.moving || !s.begun
	first := !s.begun
	s.version, s.removals, s.moving, s.begun = t.version, t.removals, moving, true
	t.mu.RUnlock()
	if !news {
		return changed, nil, nil
	}
	f := tableFrame{Moving: moving, Gone: gone}
	if first {
		f.Server = t.opts.ServerID
	}
	for _, id := range gone {
		delete(s.sent, id)
	}
	size := 40 * len(gone)
	for _, a := range agents {
		raw, err := json.Marshal(a)
		if err != nil {
			return nil, nil, fmt.Errorf("encode an agent: %w", err)
		}
		s.sent[a.ID] = struct{}{}
		if size += len(raw); size > frameTarget && len(f.Agents)+len(f.Gone) > 0 {
			f.More = first
			frames = append(frames, f)
			f = tableFrame{Moving: moving}
			size = len(raw)
		}
		f.Agents = append(f.Agents, raw)
	}
	return changed, append(frames, f), nil
}

// entry is what peers are told of an agent. Guarded by Tunnels.mu.
func (o *ownAgent) entry(id string) tableAgent {
	newest := o.newest() // says best how the clusters do
	a := tableAgent{
		ID: id, Since: newest.since, Instance: newest.instance, Started: newest.started,
		Clusters: make([]clusterStatus, 0, len(newest.clusters)),
	}
	for _, p := range o.processes() {
		if p.Instance == newest.instance {
			a.Since = p.Since
		} else {
			a.Others = append(a.Others, p)
		}
	}
	for _, s := range newest.clusters {
		a.Clusters = append(a.Clusters, s)
	}
	return a
}

// newest is the route that came last of those that serve anything: one that the agent
// is about to close, because it needs no second one here, does not. Guarded by
// Tunnels.mu.
func (o *ownAgent) newest() *route {
	for _, tun := range slices.Backward(o.tunnels) {
		if len(tun.route.clusters) > 0 {
			return tun.route
		}
	}
	return o.tunnels[len(o.tunnels)-1].route
}

// processes are those that have tunnels here. Guarded by Tunnels.mu.
func (o *ownAgent) processes() []process {
	var all []process
	for _, tun := range o.tunnels {
		all = addProcess(all, process{tun.route.instance, tun.route.since})
	}
	return all
}
