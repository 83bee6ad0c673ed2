package proxy

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	grantShards = 64

	// grantIdle is how long a grant without requests keeps its place and its
	// goroutine. kubectl makes a connection per command, so it outlives those.
	grantIdle = 2 * time.Minute

	// sweepEvery is how often idle grants are looked for, and how long at most
	// streams go on after the staleness gate has closed.
	sweepEvery = 500 * time.Millisecond

	// maxGrants bounds the grants of one session, and so the memory and the
	// goroutines that a client makes of --as and --as-group. People have one or two
	// for each cluster.
	maxGrants = 64
)

// grantKey names a decision. as is "" for a request that asks to be nobody else.
type grantKey struct {
	session, user, kube, as string
}

// asKey writes what a client asks to be as one string: the same for the same
// set of groups, however the client orders or repeats them. Neither users nor
// groups hold a newline (api.ValidateGroup).
func asKey(user string, groups []string) string {
	if user == "" && len(groups) == 0 {
		return ""
	}
	if len(groups) > 1 {
		groups = slices.Sorted(slices.Values(groups)) // a copy: the event shows what was asked
		groups = slices.Compact(groups)
	}
	return user + "\n" + strings.Join(groups, "\n")
}

// grants keeps decisions, so that a request costs a map look-up and one short
// lock. Sharded by session: the requests of different sessions don't meet.
type grants struct {
	auth  Authorizer
	clock func() time.Time
	seed  maphash.Seed

	ctx    context.Context //nolint:containedctx // the life of the watching goroutines, ended by close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the watching goroutines

	shards [grantShards]grantShard
}

type grantShard struct {
	mu       sync.RWMutex
	grants   map[grantKey]*grant
	sessions map[string][]*grant // the same ones by session, at most maxGrants each
	live     map[*grant]struct{} // these, and those replaced whose requests still run
	crowds   map[crowdKey]*crowd // of these
}

// keep puts a grant in its place. It needs mu, and the place free.
func (sh *grantShard) keep(g *grant) {
	sh.grants[g.key], sh.live[g] = g, struct{}{}
	sh.sessions[g.key.session] = append(sh.sessions[g.key.session], g)
}

// forget takes a grant out of its place, if it has it. It needs mu.
func (sh *grantShard) forget(g *grant) {
	if sh.grants[g.key] != g {
		return
	}
	delete(sh.grants, g.key)
	rest := sh.sessions[g.key.session]
	if i := slices.Index(rest, g); i >= 0 {
		rest = slices.Delete(rest, i, i+1)
	}
	if len(rest) == 0 {
		delete(sh.sessions, g.key.session)
		return
	}
	sh.sessions[g.key.session] = rest
}

// oldest is the grant of a session that has been without a new request for
// longest; nil if the session has room for another. It needs mu.
func (sh *grantShard) oldest(session string) (oldest *grant) {
	all := sh.sessions[session]
	if len(all) < maxGrants {
		return nil
	}
	var since time.Time
	for _, g := range all {
		g.mu.Lock()
		used := g.used
		g.mu.Unlock()
		if oldest == nil || used.Before(since) {
			oldest, since = g, used
		}
	}
	return oldest
}

func newGrants(auth Authorizer, clock func() time.Time) *grants {
	g := &grants{auth: auth, clock: clock, seed: maphash.MakeSeed()}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	for i := range g.shards {
		g.shards[i].grants = map[grantKey]*grant{}
		g.shards[i].sessions = map[string][]*grant{}
		g.shards[i].live = map[*grant]struct{}{}
		g.shards[i].crowds = map[crowdKey]*crowd{}
	}
	return g
}

func (gs *grants) shard(key *grantKey) *grantShard {
	return &gs.shards[maphash.String(gs.seed, key.session)%grantShards]
}

// get returns a grant that is good for a request now, asking the Authorizer if
// the one kept is not. Two requests that miss at once ask twice; the first
// answer is kept.
func (gs *grants) get(ctx context.Context, id Identity, kube, asUser string, asGroups []string) (*grant, error) {
	key := grantKey{session: id.SessionID, user: id.User, kube: kube, as: asKey(asUser, asGroups)}
	sh := gs.shard(&key)
	now := gs.clock()
	sh.mu.RLock()
	g := sh.grants[key]
	sh.mu.RUnlock()
	if g != nil && g.fresh(now) {
		return g, nil
	}
	d, err := gs.auth.Kube(ctx, id, kube, asUser, asGroups)
	if err != nil {
		return nil, err
	}
	if err := d.check(kube, now); err != nil {
		return nil, err
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if other := sh.grants[key]; other != nil && other != g && other.fresh(now) {
		return other, nil
	}
	if gs.ctx.Err() != nil {
		return nil, errStopping
	}
	if g = sh.grants[key]; g != nil {
		gs.retire(sh, g)
	}
	if crowded := sh.oldest(key.session); crowded != nil {
		gs.retire(sh, crowded)
	}
	g = &grant{key: key, id: id, decision: d, used: now, crowd: sh.crowdOf(&key)}
	g.flights.next, g.flights.prev = &g.flights, &g.flights
	sh.keep(g)
	gs.startWatch(sh, g) //nolint:contextcheck // outlives the request on purpose
	return g, nil
}

// errStopping answers what comes while the replica closes.
var errStopping = api.Errorf(api.CodeUnavailable, "this replica is stopping: try again, another one will answer")

// check refuses a decision that could reach the API server as somebody else: a
// request without Impersonate-User runs as the proxy.
func (d *Decision) check(kube string, now time.Time) error {
	if d.Right == nil || d.ImpersonateUser == "" || len(d.ImpersonateGroups) == 0 {
		return api.Errorf(api.CodeForbidden,
			"your roles give you no Kubernetes user and groups on %q: ask for a role with kubernetes_groups", kube)
	}
	if err := api.ValidateGroup("Kubernetes user", d.ImpersonateUser); err != nil {
		return api.Errorf(api.CodeForbidden, "your roles give you an impossible identity on %q: %w", kube, err)
	}
	for _, group := range d.ImpersonateGroups {
		if err := api.ValidateGroup("Kubernetes group", group); err != nil {
			return api.Errorf(api.CodeForbidden, "your roles give you an impossible identity on %q: %w", kube, err)
		}
	}
	if d.expired(now) {
		return errExpired
	}
	return nil
}

func (d *Decision) expired(now time.Time) bool {
	return !d.Expires.IsZero() && !now.Before(d.Expires)
}

var errExpired = api.Errorf(api.CodeUnauthenticated, "your session has expired")

// grant is a Decision in use: the requests that run by it, and one goroutine
// that waits for its end and then cuts them.
type grant struct {
	key      grantKey
	id       Identity
	decision Decision
	crowd    *crowd
	stop     context.CancelFunc // ends the watching goroutine

	fieldsOnce sync.Once
	fields     map[string]any // of events: never changed, only cloned

	mu      sync.Mutex
	flights flight    // sentinel of a ring
	n       int       // how many
	used    time.Time // when the last one began
	retired bool      // replaced or idle: stop watching when n is 0
	ended   error     // why the right is lost; nil while it holds
}

func (g *grant) fresh(now time.Time) bool {
	return !g.decision.expired(now) && !g.decision.Right.Stale()
}

// errCrowded answers a client whose grants replace each other faster than its
// requests can use them.
var errCrowded = api.Errorf(api.CodeRateLimited,
	"one session may act as at most %d users and sets of groups at a time: try again, or use fewer", maxGrants)

// begin adds a flight, or says why the right is lost, or that there are too many. A grant that was retired
// while nothing ran by it is watched no more: what began now would outlive the
// right.
func (g *grant) begin(f *flight, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended != nil {
		return g.ended
	}
	if g.retired && g.n == 0 {
		return errCrowded
	}
	if !g.crowd.enter() {
		return errTooManyFlights(g.key.kube)
	}
	g.used = now
	g.n++
	f.grant = g
	f.prev, f.next = g.flights.prev, &g.flights
	f.prev.next, f.next.prev = f, f
	return nil
}

// finish takes a flight off; nothing cuts it afterwards.
func (g *grant) finish(f *flight) {
	g.mu.Lock()
	f.prev.next, f.next.prev = f.next, f.prev
	f.prev, f.next = nil, nil
	g.n--
	last := g.n == 0 && g.retired
	g.mu.Unlock()
	g.crowd.leave()
	if last {
		g.stop()
	}
}

// end marks the right as lost and cuts what runs by it.
func (g *grant) end(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended == nil {
		g.ended = why
	}
	for f := g.flights.next; f != &g.flights; f = f.next {
		f.cut(why)
	}
}

// each calls fn for each flight, under the lock that finish needs.
func (g *grant) each(fn func(*flight)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for f := g.flights.next; f != &g.flights; f = f.next {
		fn(f)
	}
}

// startWatch needs sh.mu, which orders it before close's cancel.
func (gs *grants) startWatch(sh *grantShard, g *grant) {
	ctx, cancel := context.WithCancel(gs.ctx)
	g.stop = cancel
	gs.wg.Go(func() {
		defer cancel()
		why := gs.watch(ctx, g)
		if why != nil {
			g.end(why)
		}
		sh.mu.Lock()
		defer sh.mu.Unlock()
		sh.forget(g)
		delete(sh.live, g)
		sh.disperse(g)
	})
}

// watch waits for the end of a right: the reason, or nil if nobody needs to know
// any more.
func (gs *grants) watch(ctx context.Context, g *grant) error {
	limited := ctx
	if !g.decision.Expires.IsZero() {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, g.decision.Expires.Sub(gs.clock()), errExpired)
		defer cancel()
	}
	err := g.decision.Right.Watch(limited)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(context.Cause(limited), errExpired):
		return errExpired
	case err == nil: // a Right that gives up gives nothing
		return api.Errorf(api.CodeForbidden, "your right to use the Kubernetes cluster %q ended", g.key.kube)
	}
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	return api.Errorf(api.CodeForbidden, "your right to use the Kubernetes cluster %q ended: %w", g.key.kube, err)
}

// retire takes a grant out of the map; it is watched on until its last request
// ends. It needs sh.mu.
func (gs *grants) retire(sh *grantShard, g *grant) {
	sh.forget(g)
	g.mu.Lock()
	g.retired = true
	idle := g.n == 0
	g.mu.Unlock()
	if idle {
		g.stop()
	}
}

// sweep retires what is idle or stale, and ends what is past its time by the
// clock (which, unlike the watcher's timer, may have been set forward).
func (gs *grants) sweep() {
	now := gs.clock()
	var late []*grant
	for i := range gs.shards {
		sh := &gs.shards[i]
		sh.mu.Lock()
		for g := range sh.live {
			if g.decision.expired(now) {
				late = append(late, g)
			}
			g.mu.Lock()
			idle := g.n == 0 && now.Sub(g.used) > grantIdle
			g.mu.Unlock()
			if idle {
				gs.retire(sh, g)
			}
		}
		sh.mu.Unlock()
	}
	for _, g := range late {
		g.end(errExpired)
		g.stop()
	}
}

// each calls fn for every flight there is.
func (gs *grants) each(fn func(*flight)) {
	var all []*grant
	for i := range gs.shards {
		sh := &gs.shards[i]
		sh.mu.RLock()
		for g := range sh.live {
			all = append(all, g)
		}
		sh.mu.RUnlock()
	}
	for _, g := range all {
		g.each(fn)
	}
}

// len is the number of grants watched.
func (gs *grants) len() int {
	n := 0
	for i := range gs.shards {
		sh := &gs.shards[i]
		sh.mu.RLock()
		n += len(sh.live)
		sh.mu.RUnlock()
	}
	return n
}

// close ends every watching goroutine and waits for them.
func (gs *grants) close() {
	for i := range gs.shards {
		gs.shards[i].mu.Lock()
	}
	gs.cancel()
	for i := range gs.shards {
		gs.shards[i].mu.Unlock()
	}
	gs.wg.Wait()
}

// sessionEnded makes the 401 that kubectl shows say what to do.
func sessionEnded(err error, login string) error {
	if !api.IsCode(err, api.CodeUnauthenticated) || strings.Contains(err.Error(), "tsh login") {
		return err
	}
	return &api.Error{Code: api.CodeUnauthenticated, Message: fmt.Sprintf("%s; log in again: %s", err.Error(), login)}
}
