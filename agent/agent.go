package agent

import (
	"context"
	cryptorand "crypto/rand"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Agent joins, holds tunnels and serves what comes through them.
type Agent struct {
	opts     Options
	log      *slog.Logger
	dialer   *dialer
	clusters []*cluster
	byHost   map[string]*cluster
	streams  *streams
	buffers  *buffers
	http     *http.Server
	tunnels  sync.WaitGroup // one for each that runs
	conns    sync.WaitGroup // one for each stream that the HTTP server has
	requests sync.WaitGroup // one for each request that is being served
	instance string         // of this process, and when it began: see wire.Hello
	started  time.Time
	kick     chan struct{} // the keeper has something to look at

	lost   atomic.Uint64 // tunnels that ended before another had taken their place
	states atomic.Uint64 // changes of what clusterStates gives

	mu       sync.Mutex
	labels   map[string]string
	told     map[string]told
	stopping bool
	open     map[*tunnel]bool
	members  []string
	reason   string    // why not ready
	expires  time.Time // of the certificate in use
	arrived  *arrival  // an answer to a request to renew
	ended    []*tunnel // that the keeper has not heard of
	everUp   bool      // a tunnel was up since the start
}

// New makes an agent. It does nothing before Run.
func New(o Options) (*Agent, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	pins, err := parsePins(o.CAPins)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		opts: o, log: o.Logger, dialer: &dialer{opts: o, log: o.Logger, pins: pins}, byHost: map[string]*cluster{}, streams: newStreams(), buffers: newBuffers(),
		kick: make(chan struct{}, 1), labels: maps.Clone(o.Labels), told: map[string]told{}, open: map[*tunnel]bool{}, reason: "starting",
		instance: cryptorand.Text(), started: o.Clock().UTC(),
	}
	for _, c := range o.Clusters {
		k := a.newCluster(c)
		a.clusters = append(a.clusters, k)
		a.dialer.names = append(a.dialer.names, c.Name)
		a.byHost[api.KubeLabel(c.Name)] = k
	}
	a.http = a.server()
	return a, nil
}

// Ready says whether a tunnel is up, and if not, why.
func (a *Agent) Ready() (bool, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.stopping:
		return false, "stopping"
	case len(a.open) > 0:
		return true, ""
	}
	return false, a.reason
}

func (a *Agent) whyNot() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reason
}

func (a *Agent) notReady(reason string) {
	a.mu.Lock()
	a.reason = reason
	a.mu.Unlock()
}

// Run serves until ctx ends, and then lets what is open end, for at most
// Options.DrainTimeout. All that it began has ended when it returns. It gives an error where
// going on makes no sense: who answers is not Sallyport, the store can't be read,
// the diagnostics' address is taken.
func (a *Agent) Run(ctx context.Context) error {
	if c, ok := a.opts.Store.(io.Closer); ok {
		defer func() { _ = c.Close() }() // it was written and synced before
	}
	var diag net.Listener
	var err error
	if a.opts.DiagAddr != "" {
		if diag, err = (&net.ListenConfig{}).Listen(ctx, "tcp", a.opts.DiagAddr); err != nil {
			return &OptionError{"diag-addr", err}
		}
	}
	// Tunnels outlive ctx: what is open may end first.
	serving, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	work, stop := context.WithCancel(ctx)
	defer stop()
	var services, watchers sync.WaitGroup
	a.http.BaseContext = func(net.Listener) context.Context { return serving }
	services.Go(func() { _ = a.http.Serve(a.streams) }) // until Close
	var web *http.Server
	if diag != nil {
		web = a.diagServer()
		services.Go(func() { _ = web.Serve(diag) }) // until Close
	}
	for _, c := range a.clusters {
		if c.probe != nil {
			watchers.Go(func() { a.watchHealth(work, c) })
		}
	}
	if len(a.opts.LabelCommands) > 0 {
		watchers.Go(func() { a.watchLabels(work) })
	}
	err = (&keeper{agent: a, serving: serving}).run(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	stop()
	watchers.Wait()
	a.drainAll()
	cut() // what is left of the tunnels
	a.tunnels.Wait()
	_ = a.streams.Close() // ours: it can't fail
	_ = a.http.Close()    // what it served is cut
	if web != nil {
		_ = web.Close() // diagnostics need no goodbye
	}
	services.Wait()
	a.conns.Wait() // in this order: the one before begins no more of the next
	a.requests.Wait()
	for _, c := range a.opts.Clusters {
		if c.Handler == nil {
			c.Upstream.CloseIdle()
		}
	}
	return err
}

// stopIdle is for how long requests that were on their way when the agent said that
// it stops may still arrive.
const stopIdle = 500 * time.Millisecond

// drainAll says goodbye and waits until nothing is open any more, within bounds.
func (a *Agent) drainAll() {
	a.mu.Lock()
	a.stopping = true
	open := slices.Collect(maps.Keys(a.open))
	for _, t := range open {
		if t.move != nil {
			t.move.Stop()
		}
	}
	a.mu.Unlock()
	if len(open) == 0 {
		return
	}
	a.tellAll() // that it serves no clusters any more
	a.log.Info("stopping: no new requests, those that are open have a moment to end", "at_most", a.opts.DrainTimeout.String())
	poll := time.NewTicker(stopIdle / 5)
	defer poll.Stop()
	limit := time.NewTimer(a.opts.DrainTimeout)
	defer limit.Stop()
	idle := 0
	for idle < 5 {
		select {
		case <-poll.C:
			idle++
			for _, t := range open {
				if t.active.Load() > 0 {
					idle = 0
				}
			}
		case <-limit.C:
			return
		}
	}
}

// start runs a tunnel that is up.
func (a *Agent) start(ctx context.Context, t *tunnel, members []string) {
	a.mu.Lock()
	a.open[t] = true
	a.members = boundMembers(members)
	a.everUp = true
	n := len(a.open)
	a.mu.Unlock()
	if t.states != a.states.Load() {
		t.tell() // something changed since Hello
	}
	level := slog.LevelInfo
	if t.draining.Load() {
		level = slog.LevelDebug // it was never meant to stay
	}
	a.log.Log(ctx, level, "tunnel up", "server", t.serverID, "tunnels", n, "generation", t.cred.Generation)
	a.tunnels.Go(func() {
		err := t.run(ctx)
		a.mu.Lock()
		delete(a.open, t)
		if t.move != nil {
			t.move.Stop()
		}
		left := len(a.open)
		a.ended = append(a.ended, t)
		if left == 0 {
			a.reason = "no tunnel is up"
			if err != nil {
				a.reason += ": " + err.Error()
			}
		}
		stopping := a.stopping
		a.mu.Unlock()
		switch {
		case stopping, t.draining.Load():
			a.log.Log(ctx, level, "tunnel closed", "server", t.serverID, "tunnels", left)
		case err != nil:
			a.log.Warn("tunnel down, another is being opened", "server", t.serverID, "tunnels", left, "error", err)
		}
		a.poke()
	})
}

func (a *Agent) poke() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

func (a *Agent) tellAll() {
	a.states.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	for t := range a.open {
		t.tell()
	}
}

// maxMembers bounds what a replica can make us remember.
const maxMembers = 64

func boundMembers(ids []string) []string {
	return slices.Clone(ids[:min(len(ids), maxMembers)])
}

// setMembers takes the ids of the replicas that there are.
func (a *Agent) setMembers(ids []string) {
	a.mu.Lock()
	a.members = boundMembers(ids)
	a.mu.Unlock()
	a.poke()
}

// maxMove bounds for how long a replica can have a move put off.
const maxMove = 5 * time.Minute

// moveAway has a tunnel replaced, at a random moment within the time given.
func (a *Agent) moveAway(t *tunnel, within time.Duration) {
	within = min(max(within, 0), maxMove)
	wait := time.Duration(a.opts.Rand() * float64(within))
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopping || t.move != nil {
		return
	}
	a.log.Info("the replica asks for its tunnel to be moved", "server", t.serverID, "in", wait.Round(time.Millisecond).String())
	t.move = time.AfterFunc(wait, func() {
		t.leaving.Store(true)
		a.poke()
	})
}
