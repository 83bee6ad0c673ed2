package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	wanted      = 2 // tunnels, to as many replicas
	backoffBase = 500 * time.Millisecond
	backoffCap  = 30 * time.Second
	crowdedCap  = 10 * time.Second // where a replica has too many at its door, which passes
	backoffMost = 5 * time.Minute  // that a replica can have us wait
	redials     = 5                // to reach another replica through a load balancer that pins
	shortLived  = 10 * time.Second // a tunnel that ends before that was no success

	slowLeast, slowMost = time.Minute, 5 * time.Minute // where an administrator must act
)

// keeper keeps the identity good and the tunnels up. It is one goroutine: see
// identity.go for what hangs on that.
type keeper struct {
	agent   *Agent
	serving context.Context //nolint:containedctx // under which tunnels run

	state   State
	cred    *credentials // in use; nil: none
	unknown bool         // a replica said that it does not know it: joins go first, but it may have been mistaken
	unused  bool         // no replica has accepted it since it joined
	kept    time.Time    // when an unknown one may be tried again
	tried   string       // the token of the last join

	looked     time.Time // when the store held what we know
	superseded string    // why another process has the identity now, and we dial no more; "": none has

	failures   int // of dialling, since the last success
	cuts       int // tunnels that ended as soon as they were up, in a row
	lastCut    time.Time
	duplicates int       // dials that reached a replica that has a tunnel already
	turn       int       // of the others, which to dial by name
	notBefore  time.Time // the next dial or join

	renewAt   time.Time
	renewing  int       // requests in vain
	asked     time.Time // when the last was sent; zero: none is under way
	fresh     *Identity // a certificate that came and is not saved yet
	proved    bool      // a replica has accepted the one that was saved as Next
	clearFrom time.Time // no Hello of the certificate in use is under way from then on
}

// run returns when ctx ends, or with an error that waiting does not mend.
func (k *keeper) run(ctx context.Context) error {
	if err := k.load(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	k.clearFrom = k.now().Add(lateHello) // see rule 4 in identity.go
	if id := k.state.inUse(); id != nil {
		if err := k.use(id); err != nil {
			return err
		}
		k.agent.log.Info("identity loaded", "agent_id", id.AgentID, "generation", id.Generation, "from", k.agent.opts.Store.String())
	}
	for ctx.Err() == nil {
		until, err := k.step(ctx)
		if err != nil {
			return err
		}
		k.wait(ctx, until)
	}
	return nil
}

// load reads the store, for as long as it takes: an API server that is being
// started with us is no reason to end.
func (k *keeper) load(ctx context.Context) error {
	for ctx.Err() == nil {
		s, err := k.agent.opts.Store.Load(ctx)
		if err == nil {
			k.state, k.failures, k.notBefore, k.looked = s, 0, time.Time{}, k.now()
			return nil
		}
		if ctx.Err() == nil && !api.IsCode(err, api.CodeUnavailable) {
			return err
		}
		k.agent.notReady("the identity can't be read: " + err.Error())
		k.agent.problem("store", slog.LevelWarn, "the identity can't be read, the agent tries again", "error", err)
		k.failed(err)
		sleep(ctx, k.notBefore.Sub(k.now()))
	}
	return nil
}

func (k *keeper) now() time.Time { return k.agent.opts.Clock() }

// wait waits until a moment, for ever if it is zero, or until somebody pokes.
func (k *keeper) wait(ctx context.Context, until time.Time) {
	var c <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(until.Sub(k.now()))
		defer timer.Stop()
		c = timer.C
	}
	select {
	case <-c:
	case <-k.agent.kick:
	case <-ctx.Done():
	}
}

// step does what is due and says when to look again.
func (k *keeper) step(ctx context.Context) (time.Time, error) {
	k.reap()
	k.takeRenewed()
	k.adopt(ctx)
	if k.superseded != "" {
		k.agent.notReady(k.superseded) // what there is goes on until it ends
		return time.Time{}, nil
	}
	if why := k.mustJoin(); why != "" {
		switch again := k.tryKept(ctx); {
		case !k.unknown && k.mustJoin() == "":
		case k.now().Before(k.notBefore) && !k.anotherToken():
			return earlier(earlier(again, k.notBefore), k.lookForToken()), nil
		default:
			return k.now(), k.tryJoin(ctx, why)
		}
	}
	p := k.wantedTunnels()
	for _, t := range p.drain {
		t.drain()
	}
	if p.dial && !k.now().Before(k.notBefore) {
		k.tryDial(ctx, p)
		return k.now(), nil // look again at once: there may be another to dial
	}
	next := k.renew(ctx)
	if p.dial {
		next = earlier(next, k.notBefore)
	}
	return next, nil
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// use takes an identity into use.
func (k *keeper) use(id *Identity) error {
	cred, err := id.credentials()
	if err != nil {
		return err
	}
	k.cred, k.renewAt, k.renewing, k.asked, k.proved = cred, cred.renewal(k.agent.opts.Rand()), 0, time.Time{}, false
	k.unknown, k.unused = false, false
	k.agent.mu.Lock()
	k.agent.expires = cred.leaf.NotAfter
	k.agent.mu.Unlock()
	return nil
}

// failed puts off the next attempt: full jitter, and no sooner than a replica asked.
func (k *keeper) failed(err error) {
	k.failures++
	var floor time.Duration
	if e, ok := errors.AsType[*laterError](err); ok {
		floor = e.after
	}
	if e, ok := errors.AsType[*refusedError](err); ok {
		floor = e.RetryAfter
	}
	most := backoffCap
	if turnedAway(err) {
		most = crowdedCap
	}
	k.backoff(k.failures, floor, most)
}

// backoff never brings forward what was put off already: by minutes, or by a replica.
func (k *keeper) backoff(n int, floor, most time.Duration) {
	limit := min(most, backoffBase<<min(n-1, 10))
	k.notBefore = later(k.notBefore, k.now().Add(min(max(floor, 0), backoffMost)+time.Duration(k.agent.opts.Rand()*float64(limit))))
}

// slow puts the next attempt off by minutes.
func (k *keeper) slow() {
	k.notBefore = k.now().Add(slowLeast + time.Duration(k.agent.opts.Rand()*float64(slowMost-slowLeast)))
}

// reap takes note of tunnels that have ended.
func (k *keeper) reap() {
	k.agent.mu.Lock()
	ended := k.agent.ended
	k.agent.ended = nil
	k.agent.mu.Unlock()
	for _, t := range ended {
		if t.draining.Load() {
			continue
		}
		k.agent.lost.Add(1)
		if k.now().Sub(t.since) < shortLived { // somebody cuts them as they come up: no storm
			if t.since.After(k.lastCut) { // else it went together with another
				k.cuts++
				k.backoff(k.cuts, 0, backoffCap)
			}
			k.lastCut = k.now()
			continue
		}
		k.cuts = 0
		if soon := k.soon(); k.failures == 0 && k.notBefore.Before(soon) {
			k.notBefore = soon
		}
	}
}

// soon is when to dial if nothing speaks against it but that others do so, too.
func (k *keeper) soon() time.Time {
	return k.now().Add(time.Duration(k.agent.opts.Rand() * float64(backoffBase)))
}

// plan is what the tunnels that are open ask for.
type plan struct {
	dial  bool
	avoid []string // ids of replicas that need no tunnel
	other []string // ids of those that could have one
	up    int
	drain []*tunnel
}

// wantedTunnels compares the tunnels with what is wanted: one to each of two replicas, of
// those that are not about to stop, opened with the certificate in use. Tunnels
// that are none of this go on serving until they have been replaced.
func (k *keeper) wantedTunnels() plan {
	k.agent.mu.Lock()
	defer k.agent.mu.Unlock()
	var p plan
	var fresh, leaving []string
	var old []*tunnel
	for t := range k.agent.open {
		switch {
		case t.draining.Load():
			continue
		case t.leaving.Load():
			leaving = append(leaving, t.serverID)
			old = append(old, t)
		case t.cred != k.cred:
			old = append(old, t)
		default:
			fresh = append(fresh, t.serverID)
		}
		p.up++
	}
	for _, id := range k.agent.members {
		if slices.Contains(leaving, id) {
			continue
		}
		if !slices.Contains(fresh, id) {
			p.other = append(p.other, id)
		}
	}
	want := min(wanted, max(1, len(fresh)+len(p.other)))
	for _, t := range old {
		if len(fresh) >= want || slices.Contains(fresh, t.serverID) {
			p.drain = append(p.drain, t)
		}
	}
	p.dial = len(fresh) < want
	// A certificate that came is taken into use once no Hello of the old one can be
	// under way; as long as something serves, no more are sent.
	if k.fresh != nil && p.up > 0 {
		p.dial = false
	}
	p.avoid = append(fresh, leaving...)
	return p
}

// tryDial opens a tunnel, or finds out why not.
func (k *keeper) tryDial(ctx context.Context, p plan) {
	if !k.mayDial(ctx) {
		return
	}
	to := ""
	if k.duplicates >= redials && len(p.other) > 0 {
		to = p.other[k.turn%len(p.other)]
		k.turn++
	}
	t, welcome, err := k.agent.dialTunnel(ctx, k.cred, to)
	if err != nil {
		if ctx.Err() == nil {
			k.dialFailed(err)
			if _, refused := errors.AsType[*refusedError](err); to != "" && !refused && k.turn%len(p.other) != 0 {
				// One that does not answer must not keep us from one that does.
				k.notBefore = earlier(k.notBefore, k.soon())
			}
		}
		return
	}
	k.unknown, k.unused = false, false
	k.agent.solved("identity")
	k.confirm(ctx, welcome)
	if slices.Contains(p.avoid, t.serverID) {
		// A load balancer that pins, or bad luck. The tunnel we have is the better one;
		// this is closed as soon as what may have come through it already is done.
		t.idle = surplusIdle
		t.drain()
		k.agent.start(k.serving, t, welcome.Members)
		k.duplicates++
		if to != "" || len(p.other) == 0 {
			k.failed(nil)
			return
		}
		// Not before it is gone: a replica bounds how many of an agent it holds.
		k.notBefore = k.now().Add(surplusIdle + drainPoll + time.Duration(k.agent.opts.Rand()*float64(backoffBase)/2))
		return
	}
	k.failures, k.duplicates, k.notBefore = 0, 0, time.Time{}
	k.agent.solved("dial")
	k.agent.start(k.serving, t, welcome.Members)
}

// dialFailed decides what a failure asks for.
func (k *keeper) dialFailed(err error) {
	k.agent.notReady("no tunnel is up: " + err.Error())
	if _, ok := errors.AsType[*unansweredError](err); ok {
		k.clearFrom = k.now().Add(lateHello)
	}
	refused, ok := errors.AsType[*refusedError](err)
	if !ok {
		k.failed(err)
		k.agent.problem("dial", slog.LevelWarn, "a tunnel could not be opened, the agent tries again", "error", err)
		return
	}
	switch refused.Code {
	case api.CodeUnauthenticated:
		k.notKnown(refused)
	case api.CodeForbidden:
		k.slow()
		k.agent.problem("refused", slog.LevelError, "Sallyport refuses this agent; an administrator must act, see 'tctl nodes ls'",
			"reason", refused.Message)
	default:
		k.failed(err)
		k.agent.problem("dial", slog.LevelWarn, "the replica takes no tunnel now, the agent tries again", "reason", refused.Message)
	}
}
