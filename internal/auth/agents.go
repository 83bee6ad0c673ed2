package auth

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	agentIDBytes   = 16
	agentCertTTL   = 7 * 24 * time.Hour
	agentRecordTTL = 30 * 24 * time.Hour // after the certificate's end
	// replacedGrace is how long tunnels go on that were opened with a certificate which
	// another has replaced. Agents let go of theirs in 15 minutes.
	replacedGrace = 20 * time.Minute
	// linearizeTime bounds how long a call waits to be sure of what it does not find.
	linearizeTime = 5 * time.Second

	// An agent that is lost in a loop renews so often and no more, on each replica.
	renewEvery = time.Minute
	renewBurst = 5
	maxRenewed = 8192 // agents remembered for that
)

// Agents are those that have joined. Each has a record, which says what it may
// serve and which of its certificates counts: a certificate alone grants nothing.
type Agents struct {
	base        *base
	authorities *Authorities
	accounts    *serviceAccounts

	guesses *limiter // joins by tokens that are not known
	proofs  *limiter // proofs of service accounts that were none
	proven  *networks
	quiet   *quiet
	bounded chan struct{} // holds one for the join by a counted token that has its turn

	maxAgents, maxTokenAgents, maxClusters, maxTokenClusters int
	agentCount, clusterCount                                 census

	mu      sync.Mutex
	joins   *recent[string, rate.Limiter] // by token
	renewed *recent[string, rate.Limiter] // by agent
}

func newAgents(b *base, o Options, authorities *Authorities) *Agents {
	return &Agents{
		base: b, authorities: authorities,
		accounts: &serviceAccounts{base: b, review: o.TokenReview, reviews: make(chan struct{}, maxReviews), verifications: make(chan struct{}, maxVerifications)},
		guesses:  newLimiter(o.Limits, 0), proofs: newLimiter(o.Limits, keptShare), proven: newNetworks(), quiet: newQuiet(), bounded: make(chan struct{}, 1),
		maxAgents: maxAgents, maxTokenAgents: maxTokenAgents, maxClusters: maxClusters, maxTokenClusters: maxTokenClusters,
		joins: newRecent[string, rate.Limiter](maxJoinTokens), renewed: newRecent[string, rate.Limiter](maxRenewed),
	}
}

// agentRecord is an agent. Its store TTL outlives its certificates by
// agentRecordTTL, and is set anew at each write.
type agentRecord struct {
	Name         string   `json:"name,omitempty"`
	Version      string   `json:"version,omitempty"`
	KubeClusters []string `json:"kubernetes_clusters"`
	// Granted are those of KubeClusters that the token listed: they may belong to
	// agents of another one.
	Granted    []string  `json:"granted,omitempty"`
	Token      string    `json:"token"` // the record's name of the token it joined by
	JoinedFrom string    `json:"joined_from,omitempty"`
	Joined     time.Time `json:"joined"`

	agentCert             // the certificate that counts
	Pending    *agentCert `json:"pending,omitempty"` // the next one, until its first use
	Promoted   time.Time  `json:"promoted,omitzero"` // when the one that counts took the place of another
	Locked     time.Time  `json:"locked,omitzero"`
	LockReason string     `json:"lock_reason,omitempty"`
}

// agentCert is what the record knows of a certificate.
type agentCert struct {
	Generation uint64    `json:"generation"`
	Key        string    `json:"key"` // pki.KeySum
	Expires    time.Time `json:"expires"`
}

// put gives the operation that writes the record.
func (r *agentRecord) put(v fsm.View, id string, stored *fsm.Record) (fsm.Op, error) {
	ttl := max(r.ends().Sub(v.Now()), 0) + agentRecordTTL
	if stored == nil {
		return agents.Put(id, r, ttl)
	}
	return agents.Update(stored, r, ttl)
}

// ends is when the last of its certificates does.
func (r *agentRecord) ends() time.Time {
	if r.Pending != nil && r.Pending.Expires.After(r.Expires) {
		return r.Pending.Expires
	}
	return r.Expires
}

// certEnds is when a certificate ends that is made now.
func certEnds(v fsm.View) time.Time {
	return v.Now().Add(agentCertTTL).UTC().Truncate(time.Second)
}

// sign makes an agent's certificate, good from now.
func (a *Agents) sign(v fsm.View, pub crypto.PublicKey, id string, generation uint64, expires time.Time) (*api.JoinResponse, error) {
	ca, err := a.authorities.authority(v, pki.AgentCA)
	if err != nil {
		return nil, err
	}
	identity := pki.AgentIdentity{ID: id, Generation: generation, ClusterName: a.base.clusterName}
	der, err := ca.SignAgent(pub, identity, v.Now().Add(-pki.ClockSkew), expires)
	if err != nil {
		return nil, err
	}
	signers, err := a.authorities.HostSigners()
	if err != nil {
		return nil, err
	}
	return &api.JoinResponse{
		AgentID: id, Cert: pki.EncodeCert(der), Generation: generation, Expires: expires,
		ClusterName: a.base.clusterName, HostSigners: signers,
	}, nil
}

// linearize makes sure that this replica knows all that was written before now.
func (b *base) linearize(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, linearizeTime)
	defer cancel()
	err := b.db.Linearize(ctx)
	if err != nil && !errors.As(err, new(*api.Error)) {
		return api.Errorf(api.CodeUnavailable, "the leader can't be asked at this moment: try again: %w", err)
	}
	return err
}

// AgentGrant is what an admitted agent may serve.
type AgentGrant struct {
	ID           string
	Generation   uint64   // that counts from now on
	KubeClusters []string // those that were asked for: all of them

	agents   *Agents
	notAfter time.Time // of the certificate that was shown
}

// errBehind says that a refusal is not certain yet: this replica may be behind.
var errBehind = errors.New("not certain")

// Admit lets an agent open a tunnel, for clusters that it joined for. Its
// certificate was verified (Authorities.VerifyAgent); publicKeySum is pki.KeySum of
// its key. The first use of a renewed certificate makes it the one that counts; so
// does that of one which the store has forgotten, having been put back in time. The
// use of any other one locks the identity: two hold it. Codes: CodeUnauthenticated
// (removed: join anew), CodeForbidden (locked, or not its cluster), CodeUnavailable.
func (a *Agents) Admit(ctx context.Context, id pki.AgentIdentity, publicKeySum string, clusters []string, addr netip.Addr) (*AgentGrant, error) {
	if id.ClusterName != a.base.clusterName || !api.ValidAgentID(id.ID) {
		return nil, api.Errorf(api.CodeUnauthenticated, "not an agent of cluster %q", a.base.clusterName)
	}
	if !a.base.db.View().Now().Before(id.NotAfter) {
		return nil, errAgentCertOver(id.ID, id.NotAfter)
	}
	names, err := clusterNames(clusters)
	if err != nil {
		return nil, err
	}
	h := hello{id: id, key: publicKeySum, clusters: names, addr: addr}
	grant, err := a.admit(ctx, h, false)
	if errors.Is(err, errBehind) {
		if err := a.base.linearize(ctx); err != nil {
			return nil, err
		}
		grant, err = a.admit(ctx, h, true)
	}
	return grant, err
}

type hello struct {
	id       pki.AgentIdentity
	key      string
	clusters []string
	addr     netip.Addr
}

// admit decides by what this replica knows. Only if that is certain it refuses for
// what another replica may have written a moment ago.
func (a *Agents) admit(ctx context.Context, h hello, certain bool) (*AgentGrant, error) {
	grant := &AgentGrant{ID: h.id.ID, Generation: h.id.Generation, KubeClusters: h.clusters, agents: a, notAfter: h.id.NotAfter}
	var refused error
	var room held
	var adopted *agentRecord // as it was
	_, err := a.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		refused, adopted = nil, nil
		room.settle(a, false)
		rec, stored, err := a.living(v, h.id.ID)
		if err != nil {
			return fsm.Txn{}, uncertain(err, certain || stored != nil)
		}
		next := *rec
		shown := h.shows(rec)
		switch {
		case shown == certCurrent:
		case shown == certPending:
			next.agentCert, next.Pending, next.Promoted = *rec.Pending, nil, v.Now().UTC()
		case !certain:
			return fsm.Txn{}, errBehind
		case shown == certForgotten:
			next.agentCert = agentCert{Generation: h.id.Generation, Key: h.key, Expires: h.id.NotAfter.UTC()}
			next.Pending, next.Promoted = nil, v.Now().UTC()
			adopted = rec
		default:
			reason := h.staleReason(rec)
			refused = errAgentLocked(h.id.ID, reason)
			return a.lock(ctx, v, h, rec, stored, reason)
		}
		txn, err := a.claim(ctx, v, h.id.ID, rec, h.clusters, &room)
		if err != nil {
			return fsm.Txn{}, uncertain(err, certain)
		}
		if next.Generation == rec.Generation {
			return txn, nil
		}
		more, err := a.promote(ctx, v, h, rec, &next, stored, shown)
		merge(&txn, more)
		return txn, err
	})
	room.settle(a, committed(err))
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, err
	}
	if adopted != nil {
		a.base.log.WarnContext(ctx, "an agent's certificate is later than the store knew, and counts from now on: "+forgottenReason,
			"agent", h.id.ID, "generation", h.id.Generation, "expected_generation", adopted.Generation)
	}
	return grant, nil
}

// forgottenReason is why a certificate counts that no renewal in the store made.
const forgottenReason = "the store was put back in time, by a restored backup or a recovery"

// promote gives what makes another certificate the one that counts. That of one
// which was renewed is no event: the renewal was.
func (a *Agents) promote(ctx context.Context, v fsm.View, h hello, rec, next *agentRecord, stored *fsm.Record, shown shownCert) (fsm.Txn, error) {
	op, err := next.put(v, h.id.ID, stored)
	if err != nil {
		return fsm.Txn{}, err
	}
	txn := fsm.Txn{Checks: []fsm.Check{agents.Unchanged(stored)}, Ops: []fsm.Op{op}}
	if shown != certForgotten {
		return txn, nil
	}
	fields := agentFields(h.id.ID, rec)
	fields["reason"], fields["expected_generation"] = forgottenReason, rec.Generation
	fields["generation"], fields["expires"] = next.Generation, next.Expires
	line, err := a.base.event(ctx, v, api.EventAgentRenew, api.EventCodeAgentRenew, Actor{Addr: h.addr}, fields)
	txn.Events = [][]byte{line}
	return txn, err
}

func uncertain(err error, certain bool) error {
	if certain {
		return err
	}
	return errBehind
}

type shownCert int

const (
	certStale shownCert = iota
	certCurrent
	certPending
	// certForgotten is later than all that the record knows. Our CA signed it, and Renew
	// gives none away before the record has it as pending: so the store knew it, and was
	// put back in time since. A thief may be who shows it, as with any other: then the
	// next certificate shown of this identity is older, or of another key, and locks it.
	certForgotten
)

func (h hello) shows(rec *agentRecord) shownCert {
	last := rec.Generation
	if rec.Pending != nil {
		last = rec.Pending.Generation
	}
	switch {
	case h.id.Generation == rec.Generation && h.key == rec.Key:
		return certCurrent
	case rec.Pending != nil && h.id.Generation == rec.Pending.Generation && h.key == rec.Pending.Key:
		return certPending
	case h.id.Generation > last:
		return certForgotten
	}
	return certStale
}

func (h hello) staleReason(rec *agentRecord) string {
	switch {
	case h.id.Generation < rec.Generation:
		return fmt.Sprintf("its certificate of generation %d was used after generation %d had replaced it: two hold this identity", h.id.Generation, rec.Generation)
	}
	return fmt.Sprintf("a certificate of generation %d was used for which a later renewal had been asked: two hold this identity", h.id.Generation)
}

// lock takes an identity out of use until an administrator removes it.
func (a *Agents) lock(ctx context.Context, v fsm.View, h hello, rec *agentRecord, stored *fsm.Record, reason string) (fsm.Txn, error) {
	next := *rec
	next.Locked, next.LockReason = v.Now().UTC(), reason
	op, err := next.put(v, h.id.ID, stored)
	if err != nil {
		return fsm.Txn{}, err
	}
	fields := agentFields(h.id.ID, rec)
	fields["reason"], fields["generation"], fields["expected_generation"] = reason, h.id.Generation, rec.Generation
	line, err := a.base.event(ctx, v, api.EventAgentLock, api.EventCodeAgentLock, Actor{Addr: h.addr}, fields)
	return fsm.Txn{Checks: []fsm.Check{agents.Unchanged(stored)}, Ops: []fsm.Op{op}, Events: [][]byte{line}}, err
}

// agentFields are what events say of an agent, as Teleport's instance.join does.
func agentFields(id string, rec *agentRecord) map[string]any {
	return map[string]any{
		"host_id": id, "node_name": rec.Name, "role": api.TokenRoleKube, "token_name": rec.Token, "kubernetes_clusters": rec.KubeClusters,
	}
}

// living reads the record of an agent that is neither removed nor locked. With an
// error it gives the store's record, if there is one.
func (a *Agents) living(v fsm.View, id string) (*agentRecord, *fsm.Record, error) {
	rec, stored, err := agents.Get(v, id)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return nil, nil, errAgentRemoved(id)
	case err != nil:
		return nil, stored, readError("agent", id, err)
	case !rec.Locked.IsZero():
		return nil, stored, errAgentLocked(id, rec.LockReason)
	}
	return rec, stored, nil
}

func errAgentRemoved(id string) error {
	return api.Errorf(api.CodeUnauthenticated, "agent %s is not known (any more): it must join anew, with a token", id)
}

func errAgentLocked(id, reason string) error {
	return api.Errorf(api.CodeForbidden, "agent %s is locked: %s; 'tctl nodes rm %s' lets it join anew: where the thief may know its token, remove that first ('tctl tokens rm')", id, reason, id)
}

func errAgentCertOver(id string, end time.Time) error {
	return api.Errorf(api.CodeUnauthenticated, "the certificate of agent %s expired on %s: it must join anew, with a token", id, second(end))
}

// Watch guards a tunnel: it returns when the right to it is gone (the agent was
// locked or removed, the certificate that it was opened with is over, or a cluster's
// name belongs to another), with an *api.Error that says why, or with the context's
// error when that ends first. A renewal does not end it at once, but after
// replacedGrace, with CodeUnavailable: an agent has moved to the new certificate by
// then, and who comes back with the old one is a thief. So does a cluster's removal:
// the agent comes back, and its Hello makes the cluster known again unless another
// has the name by then. Else it would serve what nobody sees.
func (g *AgentGrant) Watch(ctx context.Context) error {
	end, replaced := g.notAfter, false
	for {
		v := g.agents.base.db.View()
		changed := make([]<-chan struct{}, 0, 1+len(g.KubeClusters))
		_, _, ch := v.Watch(agents.Key(g.ID))
		changed = append(changed, ch)
		rec, _, err := g.agents.living(v, g.ID)
		if err != nil {
			return err
		}
		if rec.Generation > g.Generation && !replaced { // what replaces that one in turn puts nothing off
			replaced = true
			if grace := rec.Promoted.Add(replacedGrace); grace.Before(end) {
				end = grace
			}
		}
		switch {
		case v.Now().Before(end):
		case replaced:
			return api.Errorf(api.CodeUnavailable, "this tunnel of agent %s is of generation %d, and its certificate of generation %d counts: come back with that one", g.ID, g.Generation, rec.Generation)
		default:
			return errAgentCertOver(g.ID, end)
		}
		for _, name := range g.KubeClusters {
			cluster, _, ch, err := kubeClusters.Watch(v, name)
			changed = append(changed, ch)
			switch {
			case errors.Is(err, fsm.ErrNotFound):
				return api.Errorf(api.CodeUnavailable, "Kubernetes cluster %q was removed (tctl kube rm): come back, if its name is still free", name)
			case err == nil && !rec.mayServe(name, cluster):
				return errNotItsCluster(name, cluster)
			}
		}
		if _, err := waitAny(ctx, changed, end.Sub(v.Now())); err != nil {
			return err
		}
	}
}

// Renew gives an agent its next certificate, for a new key. The one it has goes on
// to count, and may ask again, until the new one is used. No certificate leaves
// before it is known that its record is committed; where that is not known
// (CodeAmbiguous), none does, and the agent asks again. See certForgotten.
func (a *Agents) Renew(ctx context.Context, id pki.AgentIdentity, publicKeySum string, publicKey []byte, addr netip.Addr) (*api.JoinResponse, error) {
	if id.ClusterName != a.base.clusterName || !api.ValidAgentID(id.ID) {
		return nil, api.Errorf(api.CodeUnauthenticated, "not an agent of cluster %q", a.base.clusterName)
	}
	pub, sum, err := agentKey(publicKey)
	if err != nil {
		return nil, err
	}
	h := hello{id: id, key: publicKeySum, addr: addr}
	resp, err := a.renew(ctx, h, pub, sum, false)
	if errors.Is(err, errBehind) {
		if err := a.base.linearize(ctx); err != nil {
			return nil, err
		}
		resp, err = a.renew(ctx, h, pub, sum, true)
	}
	return resp, err
}

func (a *Agents) renew(ctx context.Context, h hello, pub crypto.PublicKey, sum string, certain bool) (resp *api.JoinResponse, err error) {
	allowed := false
	_, err = a.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := a.living(v, h.id.ID)
		if err != nil {
			return fsm.Txn{}, uncertain(err, certain || stored != nil)
		}
		switch {
		case h.shows(rec) != certCurrent && !certain:
			return fsm.Txn{}, errBehind
		case h.shows(rec) != certCurrent:
			return fsm.Txn{}, api.Errorf(api.CodeForbidden, "agent %s renews by its certificate of generation %d alone, and this one has %d", h.id.ID, rec.Generation, h.id.Generation)
		case sum == rec.Key:
			return fsm.Txn{}, api.Errorf(api.CodeInvalid, "agent %s has a certificate for this key: renewing wants a new key", h.id.ID)
		case !allowed && !a.allow(a.renewed, h.id.ID, rate.Every(renewEvery), renewBurst, v.Now()):
			return fsm.Txn{}, api.Errorf(api.CodeUnavailable, "agent %s renewed its certificate %d times at once: try again in a minute", h.id.ID, renewBurst)
		}
		allowed = true
		if resp, err = a.sign(v, pub, h.id.ID, rec.Generation+1, certEnds(v)); err != nil {
			return fsm.Txn{}, err
		}
		next := *rec
		next.Pending = &agentCert{Generation: resp.Generation, Key: sum, Expires: resp.Expires}
		op, err := next.put(v, h.id.ID, stored)
		if err != nil {
			return fsm.Txn{}, err
		}
		fields := agentFields(h.id.ID, rec)
		fields["generation"], fields["expires"] = resp.Generation, resp.Expires
		line, err := a.base.event(ctx, v, api.EventAgentRenew, api.EventCodeAgentRenew, Actor{Addr: h.addr}, fields)
		return fsm.Txn{Checks: []fsm.Check{agents.Unchanged(stored)}, Ops: []fsm.Op{op}, Events: [][]byte{line}}, err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// allow takes one of what there is for a key.
func (a *Agents) allow(of *recent[string, rate.Limiter], key string, limit rate.Limit, burst int, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return of.get(key, func() *rate.Limiter { return rate.NewLimiter(limit, burst) }).AllowN(now, 1)
}

// agentKey reads the public key of an agent.
func agentKey(der []byte) (crypto.PublicKey, string, error) {
	pub, err := pki.ParsePublicKey(der)
	if err != nil {
		return nil, "", err
	}
	sum, err := pki.PublicKeySum(pub)
	return pub, sum, err
}

// List gives all agents, by id. Which replicas they have tunnels to is not ours
// to know. Those whose certificates are over are none any more, but for locked ones, which
// somebody should look at: the record is kept longer, while there is room, because a
// restored backup may know none of the certificates since.
func (a *Agents) List() []api.Agent {
	var out []api.Agent
	v := a.base.db.View()
	for stored, rec := range agents.List(v) {
		if !rec.over(v.Now()) {
			out = append(out, rec.seen(agents.Name(stored)))
		}
	}
	return out
}

// over says that it is no agent any more. One that can't be read may be.
func (r *agentRecord) over(now time.Time) bool {
	return r != nil && r.Locked.IsZero() && !now.Before(r.ends())
}

// Get gives one agent.
func (a *Agents) Get(id string) (api.Agent, error) {
	rec, _, err := agents.Get(a.base.db.View(), id)
	if err != nil {
		return api.Agent{}, readError("agent", id, err)
	}
	return rec.seen(id), nil
}

// seen is an agent as people see it. One that can't be read can be removed.
func (r *agentRecord) seen(id string) api.Agent {
	agent := api.Agent{ID: id, Replicas: []string{}, KubeClusters: []string{}}
	if r != nil {
		agent.Name, agent.Version, agent.Token, agent.JoinedFrom = r.Name, r.Version, r.Token, r.JoinedFrom
		agent.KubeClusters = slices.Clone(r.KubeClusters)
		agent.Joined, agent.Generation, agent.Expires = r.Joined, r.Generation, r.Expires
		agent.Locked, agent.LockReason = r.Locked, r.LockReason
	}
	return agent
}

// Delete removes an agent: its tunnels are cut, and it must join anew.
func (a *Agents) Delete(ctx context.Context, by Actor, id string) error {
	if !api.ValidAgentID(id) {
		return api.Errorf(api.CodeInvalid, "an agent is called by its id, 32 hex digits: 'tctl nodes ls' shows them")
	}
	_, err := a.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := agents.Get(v, id)
		if errors.Is(err, fsm.ErrNotFound) {
			return fsm.Txn{}, api.Errorf(api.CodeNotFound, "there is no agent %s: 'tctl nodes ls' shows those that are", id)
		}
		if err != nil {
			rec = &agentRecord{}
		}
		line, err := a.base.event(ctx, v, api.EventAgentDelete, api.EventCodeAgentDelete, by, agentFields(id, rec))
		return fsm.Txn{Checks: []fsm.Check{agents.Unchanged(stored)}, Ops: []fsm.Op{fsm.Delete(stored.Key)}, Events: [][]byte{line}}, err
	})
	return err
}
