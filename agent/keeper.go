package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	wanted      = 2 // tunnels, to as many replicas
	backoffBase = 500 * time.Millisecond
	backoffCap  = 30 * time.Second
	backoffMost = 5 * time.Minute  // that a replica can have us wait
	redials     = 5                // to reach another replica through a load balancer that pins
	shortLived  = 10 * time.Second // a tunnel that ends before that was no success

	slowLeast, slowMost = time.Minute, 5 * time.Minute // where an administrator must act

	retryKept = 2 * time.Minute // an identity that a replica said it does not know
	lookEvery = time.Minute     // at a store that others can write to

	renewTimeout = 30 * time.Second
	renewBase    = 30 * time.Second
	renewCap     = 30 * time.Minute
)

// keeper keeps the identity good and the tunnels up. It is one goroutine: see
// identity.go for what hangs on that.
type keeper struct {
	*Agent
	serving context.Context //nolint:containedctx // under which tunnels run

	state   State
	cred    *credentials // in use; nil: none
	unknown bool         // a replica said that it does not know it: joins go first, but it may have been mistaken
	unused  bool         // no replica has accepted it since it joined
	kept    time.Time    // when an unknown one may be tried again

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

// arrival is a replica's answer to Renew.
type arrival struct {
	tunnel  *tunnel
	renewed *wire.Renewed
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
		k.log.Info("identity loaded", "agent_id", id.AgentID, "generation", id.Generation, "from", k.opts.Store.String())
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
		s, err := k.opts.Store.Load(ctx)
		if err == nil {
			k.state, k.failures, k.notBefore, k.looked = s, 0, time.Time{}, k.now()
			return nil
		}
		if ctx.Err() == nil && !api.IsCode(err, api.CodeUnavailable) {
			return err
		}
		k.notReady("the identity can't be read: " + err.Error())
		k.problem("store", slog.LevelWarn, "the identity can't be read, the agent tries again", "error", err)
		k.failed(err)
		sleep(ctx, k.notBefore.Sub(k.now()))
	}
	return nil
}

func (k *keeper) now() time.Time { return k.opts.Clock() }

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
	case <-k.kick:
	case <-ctx.Done():
	}
}

// step does what is due and says when to look again.
func (k *keeper) step(ctx context.Context) (time.Time, error) {
	k.reap()
	k.takeRenewed(ctx)
	k.adopt(ctx)
	if k.superseded != "" {
		k.notReady(k.superseded) // what there is goes on until it ends
		return time.Time{}, nil
	}
	if why := k.mustJoin(); why != "" {
		switch again := k.tryKept(ctx); {
		case !k.unknown && k.mustJoin() == "":
		case k.now().Before(k.notBefore):
			return earlier(again, k.notBefore), nil
		default:
			return k.now(), k.tryJoin(ctx, why)
		}
	}
	p := k.plan()
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
	k.cred, k.renewAt, k.renewing, k.asked, k.proved = cred, cred.renewal(k.opts.Rand()), 0, time.Time{}, false
	k.unknown, k.unused = false, false
	k.mu.Lock()
	k.expires = cred.leaf.NotAfter
	k.mu.Unlock()
	return nil
}

// save writes the state.
func (k *keeper) save(ctx context.Context, s State) error {
	err := k.opts.Store.Save(ctx, s)
	if err == nil {
		k.state, k.looked = s, k.now()
		k.solved("store")
		return nil
	}
	if errors.Is(err, ErrForeign) {
		err = errors.Join(err, k.foreign(ctx, s.Next))
	}
	k.problem("store", slog.LevelError, "the identity could not be saved", "store", k.opts.Store.String(), "error", err)
	return err
}

// foreign decides what to do about a state that was written in our place. A key to
// ask with is taken over, as is a certificate for the key that we ask with: that was
// us, and the answer was lost. Whoever wrote anything else uses it.
func (k *keeper) foreign(ctx context.Context, asked *Identity) error {
	theirs, err := k.opts.Store.Load(ctx)
	if err != nil {
		return err
	}
	id := theirs.inUse()
	switch {
	case id == nil, k.cred != nil && bytes.Equal(id.Cert, k.cred.Cert):
		k.state = theirs
	case k.cred != nil && asked != nil && bytes.Equal(id.Key, asked.Key):
		k.state, k.fresh = theirs, nil
		return k.use(id)
	default:
		k.supersede(id)
	}
	return nil
}

// sharedStore is a Store that another process can write to while we have it.
type sharedStore interface {
	// Changed gives what somebody else has written since the last Load or Save.
	Changed(ctx context.Context) (s State, changed bool, err error)
}

// mayDial looks whether a shared store still holds the identity in use, now and then:
// a pod that was cut off and deleted, and comes back after its successor has renewed,
// would get the identity of both locked. A store that can't be asked is no reason to
// stay away.
func (k *keeper) mayDial(ctx context.Context) bool {
	shared, ok := k.opts.Store.(sharedStore)
	if !ok || k.now().Before(k.looked.Add(lookEvery)) {
		return true
	}
	theirs, changed, err := shared.Changed(ctx)
	id := theirs.inUse()
	switch {
	case err != nil, !changed, id == nil, bytes.Equal(id.Cert, k.cred.Cert):
		k.looked = k.now()
		return true
	case k.state.Next != nil && bytes.Equal(id.Key, k.state.Next.Key):
		k.fresh, k.notBefore = id, k.clearFrom // we wrote it, and the answer was lost: rule 2
	default:
		k.supersede(id)
	}
	return false
}

// supersede ends all dialling and renewing: one identity is for one process, and that
// is the one that wrote what replicas may have seen already.
func (k *keeper) supersede(id *Identity) {
	k.fresh, k.asked = nil, time.Time{}
	theirs, ours := "agent "+id.AgentID, "this one joined with it at the same time"
	if k.cred != nil {
		ours = "this one is agent " + k.cred.AgentID
		if id.AgentID == k.cred.AgentID {
			theirs, ours = fmt.Sprintf("generation %d", id.Generation), fmt.Sprintf("this one has %d", k.cred.Generation)
		}
	}
	k.superseded = fmt.Sprintf("another process uses the identity in %s (%s; %s): give each agent an identity of its own, and restart the one that is to have this", k.opts.Store, theirs, ours)
	k.notReady(k.superseded)
	k.problem("identity", slog.LevelError, "the agent opens no more tunnels", "reason", k.superseded)
}

// mustJoin says why a new identity is needed; "": it is not.
func (k *keeper) mustJoin() string {
	switch {
	case k.cred == nil:
		return "it has no identity yet"
	case !k.hasToken():
		return ""
	case k.unknown:
		return "Sallyport does not know its identity any more"
	case !k.now().Before(k.cred.leaf.NotAfter):
		return "its certificate has expired"
	case !k.cred.serves(k.names):
		return "it is to serve clusters that it did not join with"
	}
	return ""
}

func (k *keeper) hasToken() bool { return k.opts.Token != "" || k.opts.TokenFile != "" }

// tryKept tries an identity that a replica did not know again, every few minutes: the
// replica's clock may have been wrong, or its CAs old, and the token may be spent. It
// is the one that was in use then, so never one that another has replaced. It says
// when to come again; zero: never.
func (k *keeper) tryKept(ctx context.Context) time.Time {
	if !k.unknown || !k.now().Before(k.cred.leaf.NotAfter) {
		return time.Time{}
	}
	if !k.now().Before(k.kept) {
		k.kept = k.now().Add(jitter(retryKept, k.opts.Rand))
		join, why := k.notBefore, k.whyNot()
		k.tryDial(ctx, k.plan())
		if k.unknown { // what came of joining says more
			k.notBefore = later(k.notBefore, join)
			k.notReady(why)
		}
	}
	return k.kept
}

// tryJoin joins once. The error is one that waiting does not mend.
func (k *keeper) tryJoin(ctx context.Context, why string) error {
	if !k.hasToken() {
		return api.Errorf(api.CodeInvalid, "there is no identity in %s, and no token to join with: give --token (make one with 'tctl nodes add --roles=kube')", k.opts.Store)
	}
	pending := k.state.Next
	if pending == nil || len(pending.Cert) > 0 {
		var err error
		if pending, err = newKey(); err != nil {
			return err
		}
		// What there is stays in the store until there is another.
		s := State{Current: k.state.inUse(), Next: pending}
		// First of all: a token must not be spent on what can't be kept.
		if err := k.save(ctx, s); err != nil {
			k.notReady("the identity could not be saved: " + err.Error())
			k.failed(err)
			return nil // it was told of, and may pass
		}
	}
	k.problem("joining", slog.LevelInfo, "joining", "proxy", k.opts.Proxy, "because", why)
	id, err := k.join(ctx, pending)
	if err != nil {
		return k.joinFailed(ctx, err)
	}
	if err := k.save(ctx, State{Current: id}); err != nil {
		k.log.Error("this identity is lost with the process; the next start joins with the token again", "agent_id", id.AgentID)
		k.state = State{Current: id}
	}
	k.failures, k.duplicates, k.notBefore = 0, 0, time.Time{}
	k.clearFrom = k.now() // nobody has used it yet
	k.solved("join")
	k.solved("joining")
	k.log.Info("joined", "agent_id", id.AgentID, "cluster_name", id.ClusterName)
	err = k.use(id)
	k.unused = true
	return err
}

func (k *keeper) joinFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was to end
	}
	k.notReady("it can't join: " + err.Error())
	if t, ok := errors.AsType[*trustError](err); ok {
		k.mu.Lock()
		up := k.everUp
		k.mu.Unlock()
		if !up {
			return api.Errorf(api.CodeUnauthenticated, "%s", t.message)
		}
		k.slow()
	} else {
		switch api.CodeOf(err) {
		case api.CodeUnauthenticated, api.CodeForbidden, api.CodeInvalid, api.CodeNotFound, api.CodeExists, api.CodeConflict:
			k.slow() // what has to be mended is not mended in seconds
		default:
			k.failed(err)
		}
	}
	k.problem("join", slog.LevelError, "the agent can't join, it tries again", "error", err)
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
	k.backoff(k.failures, floor)
}

func (k *keeper) backoff(n int, floor time.Duration) {
	limit := min(backoffCap, backoffBase<<min(n-1, 10))
	k.notBefore = k.now().Add(min(max(floor, 0), backoffMost) + time.Duration(k.opts.Rand()*float64(limit)))
}

// slow puts the next attempt off by minutes.
func (k *keeper) slow() {
	k.notBefore = k.now().Add(slowLeast + time.Duration(k.opts.Rand()*float64(slowMost-slowLeast)))
}

// reap takes note of tunnels that have ended.
func (k *keeper) reap() {
	k.mu.Lock()
	ended := k.ended
	k.ended = nil
	k.mu.Unlock()
	for _, t := range ended {
		if t.draining.Load() {
			continue
		}
		k.lost.Add(1)
		if k.now().Sub(t.since) < shortLived { // somebody cuts them as they come up: no storm
			if t.since.After(k.lastCut) { // else it went together with another
				k.cuts++
				k.backoff(k.cuts, 0)
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
	return k.now().Add(time.Duration(k.opts.Rand() * float64(backoffBase)))
}

// plan is what the tunnels that are open ask for.
type plan struct {
	dial  bool
	avoid []string // ids of replicas that need no tunnel
	other []string // ids of those that could have one
	up    int
	drain []*tunnel
}

// plan compares the tunnels with what is wanted: one to each of two replicas, of
// those that are not about to stop, opened with the certificate in use. Tunnels
// that are none of this go on serving until they have been replaced.
func (k *keeper) plan() plan {
	k.mu.Lock()
	defer k.mu.Unlock()
	var p plan
	var fresh, leaving []string
	var old []*tunnel
	for t := range k.open {
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
	for _, id := range k.members {
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
	t, welcome, err := k.dialTunnel(ctx, k.cred, to)
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
	k.solved("identity")
	k.confirm(ctx, welcome)
	if slices.Contains(p.avoid, t.serverID) {
		// A load balancer that pins, or bad luck. The tunnel we have is the better one;
		// this is closed as soon as what may have come through it already is done.
		t.idle = surplusIdle
		t.drain()
		k.start(k.serving, t, welcome.Members)
		k.duplicates++
		if to != "" || len(p.other) == 0 {
			k.failed(nil)
			return
		}
		// Not before it is gone: a replica bounds how many of an agent it holds.
		k.notBefore = k.now().Add(surplusIdle + drainPoll + time.Duration(k.opts.Rand()*float64(backoffBase)/2))
		return
	}
	k.failures, k.duplicates, k.notBefore = 0, 0, time.Time{}
	k.solved("dial")
	k.start(k.serving, t, welcome.Members)
}

// confirm makes Next, which a replica has accepted, Current.
func (k *keeper) confirm(ctx context.Context, w *wire.Welcome) {
	next := k.state.Next
	if next == nil || len(next.Cert) == 0 || k.cred == nil || next.AgentID != k.cred.AgentID || w.Generation < next.Generation || k.cred.Generation != next.Generation {
		return
	}
	k.proved = true
	k.settle(ctx)
}

// settle saves Next as Current once a replica has accepted it. Until that is done
// Next stays in the store, and is as good; there is no renewal before.
func (k *keeper) settle(ctx context.Context) {
	if err := k.save(ctx, State{Current: k.cred.Identity}); err != nil {
		k.renewAt = k.now().Add(slowLeast)
		return
	}
	k.renewAt, k.proved = k.cred.renewal(k.opts.Rand()), false
	k.log.Info("certificate renewed", "generation", k.cred.Generation, "expires", k.cred.leaf.NotAfter.UTC().Format(time.RFC3339))
}

// dialFailed decides what a failure asks for.
func (k *keeper) dialFailed(err error) {
	k.notReady("no tunnel is up: " + err.Error())
	if _, ok := errors.AsType[*unansweredError](err); ok {
		k.clearFrom = k.now().Add(lateHello)
	}
	refused, ok := errors.AsType[*refusedError](err)
	if !ok {
		k.failed(err)
		k.problem("dial", slog.LevelWarn, "a tunnel could not be opened, the agent tries again", "error", err)
		return
	}
	switch refused.Code {
	case api.CodeUnauthenticated:
		k.notKnown(refused)
	case api.CodeForbidden:
		k.slow()
		k.problem("refused", slog.LevelError, "Sallyport refuses this agent; an administrator must act, see 'tctl nodes ls'",
			"reason", refused.Message)
	default:
		k.failed(err)
		k.problem("dial", slog.LevelWarn, "the replica takes no tunnel now, the agent tries again", "reason", refused.Message)
	}
}

// notKnown is for a replica that does not know our identity, or does not take its
// certificate. Were the identity removed, all its tunnels would be cut: as long as
// one is up, it is this replica that is mistaken.
func (k *keeper) notKnown(refused *refusedError) {
	switch {
	case k.isKnown():
		k.failed(refused)
		k.problem("dial", slog.LevelWarn, "a replica does not know this agent, but another serves it: is that one's clock right?", "reason", refused.Message)
	case !k.hasToken():
		k.slow()
		message := "Sallyport does not know this agent any more (" + refused.Message + "), and it has no token to join anew: give --token (make one with 'tctl nodes add --roles=kube')"
		k.notReady(message)
		k.problem("identity", slog.LevelError, "the agent is without a tunnel; it asks again every few minutes", "reason", message)
	default:
		k.problem("identity", slog.LevelWarn, "Sallyport does not know this identity any more, the agent joins anew", "agent_id", k.cred.AgentID, "reason", refused.Message)
		switch {
		case k.unknown: // and a join goes first
		case k.unused:
			k.slow() // or each round would leave an identity that nobody uses
		default:
			k.failed(nil)
		}
		k.unknown, k.fresh, k.kept = true, nil, k.now().Add(jitter(retryKept, k.opts.Rand))
	}
}

// isKnown says whether a replica serves us now, as who we are.
func (k *keeper) isKnown() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for t := range k.open {
		if t.cred.AgentID == k.cred.AgentID && !t.draining.Load() {
			return true
		}
	}
	return false
}

// renew asks for the next certificate when it is due, and says when to look again.
func (k *keeper) renew(ctx context.Context) time.Time {
	if k.cred == nil {
		return time.Time{}
	}
	if k.fresh != nil {
		return k.clearFrom
	}
	if k.state.Next != nil && len(k.state.Next.Cert) > 0 { // rule 3
		if !k.proved {
			return time.Time{}
		}
		if k.now().Before(k.renewAt) {
			return k.renewAt
		}
		k.settle(ctx)
		return k.renewAt
	}
	if !k.asked.IsZero() {
		if end := k.asked.Add(renewTimeout); k.now().Before(end) {
			return end
		}
		k.renewFailed("the replica does not answer")
	}
	if k.now().Before(k.renewAt) {
		return k.renewAt
	}
	t := k.renewableTunnel()
	if t == nil {
		return time.Time{} // one that comes up looks here again
	}
	pending := k.state.Next
	if pending == nil {
		var err error
		if pending, err = newKey(); err == nil {
			err = k.save(ctx, State{Current: k.cred.Identity, Next: pending}) // rule 1
		}
		if err != nil {
			k.renewFailed(err.Error())
			return k.renewAt
		}
	}
	public, err := pending.publicKey()
	if err != nil {
		k.renewFailed(err.Error())
		return k.renewAt
	}
	k.asked = k.now()
	t.ask(public)
	return k.asked.Add(renewTimeout)
}

// renewableTunnel is one opened with the certificate in use.
func (k *keeper) renewableTunnel() *tunnel {
	k.mu.Lock()
	defer k.mu.Unlock()
	for t := range k.open {
		if t.cred == k.cred && !t.draining.Load() && !t.leaving.Load() {
			return t
		}
	}
	return nil
}

func (k *keeper) renewFailed(reason string) {
	k.asked = time.Time{}
	wait := min(renewCap, renewBase<<min(k.renewing, 10))
	k.renewing++
	k.renewAt = k.now().Add(wait/2 + time.Duration(k.opts.Rand()*float64(wait/2)))
	k.problem("renew", slog.LevelWarn, "the certificate could not be renewed, the agent tries again", "reason", reason,
		"expires", k.cred.leaf.NotAfter.UTC().Format(time.RFC3339))
}

// renewed brings a replica's answer to the keeper.
func (a *Agent) renewed(t *tunnel, r *wire.Renewed) {
	a.mu.Lock()
	a.arrived = &arrival{t, r}
	a.mu.Unlock()
	a.poke()
}

// takeRenewed looks at a replica's answer to Renew.
func (k *keeper) takeRenewed(context.Context) {
	k.mu.Lock()
	got := k.arrived
	k.arrived = nil
	k.mu.Unlock()
	pending := k.state.Next
	if got == nil || k.asked.IsZero() || k.cred == nil || got.tunnel.cred != k.cred || pending == nil || len(pending.Cert) > 0 {
		return // nobody asked, or for another certificate
	}
	if r := got.renewed.Refused; r != nil {
		k.renewFailed(r.Message)
		return
	}
	id := *k.cred.Identity
	id.Key, id.Cert, id.Generation = pending.Key, got.renewed.Cert, got.renewed.Generation
	if len(got.renewed.HostSigners) > 0 {
		id.HostSigners = got.renewed.HostSigners
	}
	if _, err := id.credentials(); err != nil {
		k.renewFailed("the replica's answer can't be used: " + err.Error())
		return
	}
	if id.Generation <= k.cred.Generation {
		k.renewFailed(fmt.Sprintf("the replica gave generation %d after %d", id.Generation, k.cred.Generation))
		return
	}
	k.asked, k.fresh = time.Time{}, &id
	k.solved("renew")
}

// adopt takes a new certificate into use: the point of no return of identity.go.
func (k *keeper) adopt(ctx context.Context) {
	if k.fresh == nil || k.now().Before(k.clearFrom) {
		return
	}
	id := k.fresh
	if err := k.save(ctx, State{Current: k.cred.Identity, Next: id}); err != nil {
		// The key is in the store still: later the same is asked for again.
		k.fresh = nil
		k.renewFailed(err.Error())
		return
	}
	k.fresh = nil
	if err := k.use(id); err != nil {
		k.problem("renew", slog.LevelError, "the new certificate can't be used", "error", err) // it was checked before
	}
}
