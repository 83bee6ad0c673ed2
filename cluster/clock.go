package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	maxClockOff   = 10 * time.Second // what clocks may differ, and state time may jump beyond what elapsed
	pollEvery     = 5 * time.Second
	pollTimeout   = time.Second
	pollFresh     = 3 * pollEvery // an older poll says nothing
	firstPollWait = 300 * time.Millisecond
	transferEvery = 10 * time.Second // a leader with a wrong clock tries so often to hand over
	faultEvery    = 10 * time.Minute // a replica with a wrong clock says so in its log
)

// clockGuard keeps a wrong clock out of the log. Every entry carries the
// leader's time and records expire by it, so one leader whose clock is a day
// ahead would delete a day's worth of sessions on every replica.
//
// Every replica asks the others for their clocks, so that a new leader knows
// at once. A leader stamps nothing while its clock is more than 10 s off the
// median of those it reaches, or when the stamp would move state time by more
// than the time that passed since the last one plus 10 s; after an outage,
// when nobody knows how long it was, the jump is allowed once a majority of
// voters' clocks agree with it.
type clockGuard struct {
	n *Node

	mu       sync.Mutex
	others   map[raft.ServerID]time.Duration // their clock minus ours, as of the poll
	wall     time.Time                       // our clock at the poll
	mono     time.Time                       // the monotonic reading that belongs to wall
	looked   bool                            // at state time, so far
	seen     time.Time                       // state time when it last moved
	seenMono time.Time                       // and when that was; zero: not in this process
	handed   time.Time                       // the last attempt to hand leadership over
	told     time.Time                       // when the log was last told of a wrong clock; zero: it is right
}

func newClockGuard(n *Node) *clockGuard { return &clockGuard{n: n} }

type clockAnswer struct {
	UnixNano int64 `json:"unix_nano"`
}

func (n *Node) serveClock(context.Context, peer.Peer, struct{}) (clockAnswer, error) {
	return clockAnswer{UnixNano: n.opts.Clock().UnixNano()}, nil
}

// poll asks the others for their clocks, over and over.
func (g *clockGuard) poll(ctx context.Context, in *instance) {
	for ctx.Err() == nil {
		g.ask(ctx, in, nil)
		g.observe()
		g.tell()
		pause(ctx, jitter(pollEvery))
	}
}

// refresh is for a new leader: it polls unless a poll is fresh, and waits a
// little for a majority that agrees with it, or for all: of two clocks that differ
// nobody can tell which is wrong.
func (g *clockGuard) refresh(ctx context.Context, in *instance) {
	g.observe()
	g.mu.Lock()
	fresh := !g.mono.IsZero() && time.Since(g.mono) < pollFresh && (len(g.others)+1)*2 > g.n.voters(in)
	g.mu.Unlock()
	if fresh {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstPollWait)
	defer cancel()
	g.ask(ctx, in, cancel)
}

// ask polls once. enough, if not nil, is called when a majority agrees with our clock.
func (g *clockGuard) ask(ctx context.Context, in *instance, enough func()) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	wall, mono := g.n.opts.Clock(), time.Now()
	voters := g.n.voters(in)
	var mu sync.Mutex
	got, agree := make(map[raft.ServerID]time.Duration), 1
	var wg sync.WaitGroup
	for _, s := range in.servers() {
		if s.ID == g.n.id || s.Suffrage != raft.Voter {
			continue
		}
		id, addr, ok := peer.SplitAddress(string(s.Address))
		if !ok {
			continue
		}
		wg.Go(func() {
			sent := time.Now()
			var out clockAnswer
			if err := g.n.link.Call(ctx, peer.Target{ID: id, Addr: addr}, pathClock, struct{}{}, &out); err != nil {
				return // it is down, or away: the median is of those we reach
			}
			rtt := time.Since(sent)
			// Their clock in the middle of the round trip, against ours by the monotonic clock.
			ours := wall.Add(sent.Sub(mono) + rtt/2)
			mu.Lock()
			defer mu.Unlock()
			off := time.Unix(0, out.UnixNano).Sub(ours)
			got[s.ID] = off
			if off.Abs() <= maxClockOff {
				agree++
			}
			if enough != nil && agree*2 > voters {
				enough()
			}
		})
	}
	wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.others, g.wall, g.mono = got, wall, mono
}

// observe notes when state time moves, by the monotonic clock. How old it was
// at the first look nobody knows.
func (g *clockGuard) observe() {
	st := g.n.opts.SM.StateTime()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.looked:
		g.looked, g.seen = true, st
	case st.After(g.seen):
		g.seen, g.seenMono = st, time.Now()
	}
}

// tell has it in the log when this replica's clock is wrong, or may be: a follower's
// does no harm that somebody would notice before it leads.
func (g *clockGuard) tell() {
	g.mu.Lock()
	defer g.mu.Unlock()
	fault, known := g.faultLocked(g.n.opts.Clock())
	switch {
	case !known:
	case fault == "" && !g.told.IsZero():
		g.told = time.Time{}
		g.n.log.Info("this replica's clock agrees with the others' again")
	case fault != "" && (g.told.IsZero() || time.Since(g.told) >= faultEvery):
		g.told = time.Now()
		g.n.log.Warn("set the clocks, by NTP for instance", "reason", fault)
	}
}

// faultLocked says what is wrong with this replica's clock; "": nothing. Not known: no
// other clock is.
func (g *clockGuard) faultLocked(now time.Time) (fault string, known bool) {
	off, split, known := g.offsetLocked(now)
	switch {
	case off.Abs() <= maxClockOff:
		return "", known
	case split > 0:
		return fmt.Sprintf("the clocks of replica %s and others differ by %s, and nobody can tell which are wrong", g.n.id, split.Round(time.Second)), known
	}
	return fmt.Sprintf("the clock of replica %s is %s the other replicas'", g.n.id, ahead(off)), known
}

// offsetLocked is our clock minus the median of all clocks, ours among them,
// corrected for steps that our clock made since the poll. Split is by how much one half of
// the clocks differs from the other, so that the median is nobody's; 0: it is somebody's.
func (g *clockGuard) offsetLocked(now time.Time) (off, split time.Duration, known bool) {
	if g.mono.IsZero() || time.Since(g.mono) > pollFresh || len(g.others) == 0 {
		return 0, 0, false
	}
	step := g.stepLocked(now)
	all := []time.Duration{0}
	for _, d := range g.others {
		all = append(all, d-step)
	}
	slices.Sort(all)
	mid := all[len(all)/2]
	if len(all)%2 == 0 {
		low, high := all[len(all)/2-1], all[len(all)/2]
		mid = (low + high) / 2
		if high-low > maxClockOff {
			split = high - low
		}
	}
	return -mid, split, true
}

func (g *clockGuard) stepLocked(now time.Time) time.Duration {
	return now.Round(0).Sub(g.wall.Round(0)) - time.Since(g.mono)
}

// agreeLocked counts voters, us included, whose clocks are within 10 s of ours.
func (g *clockGuard) agreeLocked(now time.Time) int {
	agree := 1
	if g.mono.IsZero() || time.Since(g.mono) > pollFresh {
		return agree
	}
	step := g.stepLocked(now)
	for _, d := range g.others {
		if (d - step).Abs() <= maxClockOff {
			agree++
		}
	}
	return agree
}

// stamp is the time for the next entry, or why there is none; then leadership
// goes to somebody else.
func (g *clockGuard) stamp(l *leadership) (time.Time, error) {
	n := g.n
	now := n.opts.Clock()
	g.observe()
	st := n.opts.SM.StateTime()
	voters := n.voters(l.in)
	g.mu.Lock()
	defer g.mu.Unlock()
	if fault, _ := g.faultLocked(now); fault != "" {
		return time.Time{}, g.refuseLocked(l, api.Errorf(api.CodeUnavailable, "%s: it writes nothing until that is put right", fault))
	}
	limit := st.Add(maxClockOff)
	if !g.seenMono.IsZero() && g.seen.Equal(st) {
		limit = limit.Add(time.Since(g.seenMono))
	}
	if now.After(limit) && g.agreeLocked(now)*2 <= voters {
		return time.Time{}, g.refuseLocked(l, api.Errorf(api.CodeUnavailable,
			"the clock of replica %s would move the cluster's time by %s, and too few replicas' clocks confirm it: check the clocks, or wait until more replicas are up",
			n.id, now.Sub(st).Round(time.Second)))
	}
	return now, nil
}

func (g *clockGuard) refuseLocked(l *leadership, why *api.Error) error {
	if time.Since(g.handed) > transferEvery {
		g.handed = time.Now()
		// Median voter by clock: Raft's own choice might be another wrong one.
		best, found := raft.ServerID(""), time.Duration(0)
		step := g.stepLocked(g.n.opts.Clock())
		off, _, _ := g.offsetLocked(g.n.opts.Clock())
		for id, d := range g.others {
			if dist := (d - step + off).Abs(); best == "" || dist < found {
				best, found = id, dist
			}
		}
		g.n.log.Error("handing leadership over because of the clock", "error", why, "to", string(best))
		g.n.meter.clockRefusals.Add(1)
		l.wg.Go(func() {
			ctx, cancel := context.WithTimeout(l.ctx, 2*time.Second)
			defer cancel()
			if err := g.n.transfer(ctx, l.in, best); err != nil {
				g.n.log.Warn("could not hand leadership over", "error", err)
			}
		})
	}
	return why
}

// ClockOffset is this replica's clock minus the median of the replicas it
// reaches, 0 while it reaches none.
func (n *Node) ClockOffset() time.Duration {
	off, _ := n.Clocks()
	return off
}

// Clocks are ClockOffset and, where the clocks disagree in two halves so that nobody can
// tell which is wrong, by how much; else 0.
func (n *Node) Clocks() (off, split time.Duration) {
	n.clock.mu.Lock()
	defer n.clock.mu.Unlock()
	off, split, _ = n.clock.offsetLocked(n.opts.Clock())
	return off, split
}

func ahead(off time.Duration) string {
	if off < 0 {
		return fmt.Sprintf("%s behind", (-off).Round(time.Second))
	}
	return fmt.Sprintf("%s ahead of", off.Round(time.Second))
}
