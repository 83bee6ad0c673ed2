package cluster

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// What operators read. The libraries repeat a condition for as long as it
// lasts, at every attempt and at every level; what they say goes to the debug
// log, and this package says what changed, once: who leads, who is out of
// reach, who joined.

const (
	outOfContact   = heartbeatTimeout // without an accepted call a server counts as lost
	warnLeaderless = 3 * time.Second  // an election takes less; longer is worth a warning
)

// quiet is for libraries whose every line is about a passing condition.
func quiet(level slog.Level, _ string) slog.Level { return min(level, slog.LevelDebug) }

// raftLevel keeps Raft's errors, unless they are about its peers.
func raftLevel(level slog.Level, msg string) slog.Level {
	aboutPeers := []string{
		"failed to accept connection", "failed to appendEntries to", "failed to decode incoming command", "failed to flush response",
		"failed to get log", // compacted away: a snapshot follows
		"failed to heartbeat to", "failed to install snapshot", "failed to make requestVote RPC", "failed to pipeline appendEntries",
		"failed to send snapshot to", "failed to start pipeline replication to", "peer has newer term, stopping replication",
		"peer sees incorrect leader",
	}
	if level < slog.LevelError || slices.Contains(aboutPeers, msg) {
		return quiet(level, msg)
	}
	return level
}

// logged tells whether a condition is another than before, so that it
// is logged once.
type logged struct {
	mu   sync.Mutex
	last map[string]string // by what it is about
}

// changed remembers what holds of a subject and reports whether that is new.
func (c *logged) changed(about, what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = make(map[string]string)
	}
	old := c.last[about]
	if what == "" {
		delete(c.last, about)
	} else {
		c.last[about] = what
	}
	return old != what
}

// signal wakes whoever waits for something to happen.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed when the signal fires next.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// contact is what a leader knows of its calls to one server.
type contact struct {
	term uint64
	good time.Time // the last that got an answer; before that, the first of this term
	lost bool
}

// noteContactLocked tells of servers that stop answering, and answer again.
func (t *ackTransport) noteContactLocked(id raft.ServerID, term uint64, err error) {
	now := time.Now()
	c, known := t.contacts[id]
	if !known || c.term != term {
		c = contact{term: term, good: now, lost: c.lost}
	}
	switch {
	case err == nil:
		if c.lost && t.onContact != nil {
			t.onContact(id, true, now.Sub(c.good))
		}
		c.good, c.lost = now, false
	case !c.lost && now.Sub(c.good) > outOfContact:
		c.lost = true
		if t.onContact != nil {
			t.onContact(id, false, now.Sub(c.good))
		}
	}
	t.contacts[id] = c
}

// tellContact is onContact: it must not wait.
func (in *instance) tellContact(id raft.ServerID, ok bool, after time.Duration) {
	n := in.node
	if _, fenced := n.watch.fenced(); n.stopping.Load() || fenced != "" {
		return // it is we who do not speak
	}
	if ok {
		n.log.Info("in contact with a server again", "peer", string(id))
		return
	}
	n.log.Warn("lost contact with a server", "peer", string(id), "for", after.Round(time.Millisecond).String())
}

// watchLeader wakes those who wait for a leader, and logs who leads. It ends with ctx.
func (in *instance) watchLeader(ctx context.Context) {
	n := in.node
	seen := make(chan raft.Observation, 16)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	in.raft.RegisterObserver(observer)
	defer in.raft.DeregisterObserver(observer)
	var last raft.ServerID
	patience := time.NewTimer(warnLeaderless)
	defer patience.Stop()
	for {
		_, id := in.raft.LeaderWithID()
		n.leads.fire()
		switch {
		case id == "":
			patience.Reset(warnLeaderless)
		default:
			patience.Stop()
			// What we do ourselves is said once this term's barrier is through.
			if id != last && id != n.id {
				n.log.Info("following a leader", "leader", string(id), "term", in.raft.CurrentTerm())
			}
			last = id
		}
		select {
		case <-seen:
		case <-patience.C:
			last = ""
			if !n.stopping.Load() {
				n.log.Warn("no leader: what writes must wait", "voters", n.voters(in))
			}
			select {
			case <-seen:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
