package auth

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	// Who holds a token is let in faster than who guesses, but not so fast, nor so
	// often, that it fills the store.
	joinsPerSecond = 200
	joinBurst      = 1000
	maxJoinTokens  = 1024 // remembered for that
	maxAgents      = 50_000
	maxTokenAgents = 20_000
	maxClusters    = 10_000
	// maxTokenClusters is how many names agents of one token may own: who holds one
	// must not use up those of all.
	maxTokenClusters = 1000

	// sameJoin is how long the join by a counted token may be repeated with the same
	// key, at no use: the answer may have been lost.
	sameJoin = time.Hour
)

// errJoinToken is the one answer to whoever does not hold a token.
func errJoinToken() error {
	return api.Errorf(api.CodeUnauthenticated, "the token is not known: it is wrong, expired or removed; make one with "+nodesAdd)
}

// nodesAdd names clusters: a plain one does not open a name that another token's agents have.
const nodesAdd = "'tctl nodes add --roles=kube', and --kube-clusters=NAME for a cluster that has had agents before"

// joining is a join whose token is known.
type joining struct {
	req   api.JoinRequest
	addr  netip.Addr
	token string         // the record's name
	proof *api.TokenSpec // by which a service account was checked; nil: none needed
	id    string
	held  held
}

// Join makes whoever holds a token an agent. Who does not learns and costs nothing:
// the token is judged before all else, and guesses are limited, and take nothing from
// those who know one. The names come next, and the key last.
func (a *Agents) Join(ctx context.Context, req api.JoinRequest, addr netip.Addr) (*api.JoinResponse, error) {
	stored, rec, err := a.joinToken(ctx, req.Token, addr)
	if err != nil {
		return nil, err
	}
	j := joining{req: req, addr: addr, token: tokens.Name(rec)}
	resp, err := a.joinBy(ctx, &j, stored)
	if api.IsCode(err, api.CodeConflict) { // others write the same names at this moment: nothing that the agent's owner must mend
		err = api.Errorf(api.CodeUnavailable, "joining: %w", err)
	}
	if err != nil {
		return nil, a.refused(ctx, &j, err)
	}
	return resp, nil
}

// joinToken finds the token, at the leader if it is not here: it may have been made
// a moment ago, on another replica.
func (a *Agents) joinToken(ctx context.Context, text string, addr netip.Addr) (*tokenRecord, *fsm.Record, error) {
	v := a.base.db.View()
	stored, rec, err := findJoin(v, text)
	if api.IsCode(err, api.CodeNotFound) {
		if err := a.guesses.allow(addr, v.Now(), false); err != nil {
			return nil, nil, err
		}
		if text == "" || len(text) > api.MaxNameLen {
			return nil, nil, errJoinToken()
		}
		if err := a.base.linearize(ctx); err != nil {
			return nil, nil, err
		}
		v = a.base.db.View()
		stored, rec, err = findJoin(v, text)
	}
	switch {
	case api.IsCode(err, api.CodeNotFound):
		return nil, nil, errJoinToken()
	case err != nil:
		return nil, nil, err
	}
	return stored, rec, nil
}

// prove has a service account checked. Failures alone are charged: all pods of a
// cluster may come from one address, and the token's name is no secret. So what is
// checked here is checked at any rate; but another API server is not asked for
// networks that failed too often, nor, but for those that have proven themselves, for
// their neighbours.
func (a *Agents) prove(ctx context.Context, j *joining, doc *api.Token) error {
	now := a.base.db.View().Now()
	known := a.proven.has(NetworkOf(j.addr))
	if doc.Spec.Kubernetes.Type != api.TokenKubernetesStaticJWKS {
		if err := a.proofs.left(j.addr, now, known); err != nil {
			return err
		}
	}
	err := a.accounts.check(ctx, doc, j.req.JWT)
	switch {
	case err == nil:
		a.proven.add(NetworkOf(j.addr))
	case api.IsCode(err, api.CodeUnauthenticated), api.IsCode(err, api.CodeForbidden):
		if limited := a.proofs.allow(j.addr, now, known); limited != nil {
			return limited
		}
	}
	return err
}

func (a *Agents) joinBy(ctx context.Context, j *joining, stored *tokenRecord) (*api.JoinResponse, error) {
	doc := &stored.Document
	switch {
	case doc.Spec.JoinMethod == api.JoinMethodKubernetes:
		if err := a.prove(ctx, j, doc); err != nil {
			return nil, err
		}
		j.proof = &doc.Spec
	case j.req.JWT != "":
		return nil, api.Errorf(api.CodeInvalid, "the token is a secret one: join by it with the method %s, without a service account", api.JoinMethodToken)
	}
	if !a.allow(a.joins, j.token, joinsPerSecond, joinBurst, a.base.db.View().Now()) {
		return nil, api.Errorf(api.CodeRateLimited, "too many agents join by this token at this moment: try again in a few seconds")
	}
	id, err := a.base.random(agentIDBytes)
	if err != nil {
		return nil, err
	}
	j.id = id
	if doc.Spec.MaxUses > 0 { // one at a time: they would only get in each other's way
		select {
		case a.bounded <- struct{}{}:
			defer func() { <-a.bounded }()
		case <-ctx.Done():
			return nil, api.Errorf(api.CodeUnavailable, "joining: %w", context.Cause(ctx))
		}
	}
	var resp *api.JoinResponse
	_, err = a.base.transact(ctx, func(v fsm.View) (txn fsm.Txn, err error) {
		j.held.settle(a, false) // of an attempt that others came before
		resp, txn, err = a.join(ctx, v, j)
		return txn, err
	})
	j.held.settle(a, committed(err))
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// join decides by one view: the token still lets in, the names are free or the
// token's, and the key is one. It counts the use with all else, so that of many who
// join at once by a token of one use exactly one does.
func (a *Agents) join(ctx context.Context, v fsm.View, j *joining) (*api.JoinResponse, fsm.Txn, error) {
	fail := func(err error) (*api.JoinResponse, fsm.Txn, error) { return nil, fsm.Txn{}, err }
	token, tokenRec, err := findToken(v, j.token)
	if api.IsCode(err, api.CodeNotFound) {
		err = errJoinToken()
	}
	if err != nil {
		return fail(err)
	}
	if err := token.enforceable(); err != nil {
		return fail(err)
	}
	spec := &token.Document.Spec
	if j.proof != nil && !reflect.DeepEqual(j.proof.Kubernetes, spec.Kubernetes) {
		return fail(api.Errorf(api.CodeConflict, "token %q is being changed at this moment: try again", j.token))
	}
	if token.usedUp() {
		return a.joinAgain(v, j, token)
	}
	names, err := clusterNames(j.req.KubeClusters)
	if err != nil {
		return fail(err)
	}
	rec := agentRecord{
		Name: api.CleanText(j.req.Name, api.MaxAgentText), Version: api.CleanText(j.req.Version, api.MaxAgentText),
		KubeClusters: names, Token: j.token, Joined: v.Now().UTC(),
	}
	for _, name := range names {
		if !token.mayServe(name) {
			return fail(api.Errorf(api.CodeForbidden, "the token is not for Kubernetes cluster %q (spec.kubernetes_clusters): use another name, or another token", name))
		}
		if slices.Contains(spec.KubeClusters, name) {
			rec.Granted = append(rec.Granted, name)
		}
	}
	if j.addr.IsValid() {
		rec.JoinedFrom = j.addr.Unmap().String()
	}
	txn, err := a.claim(ctx, v, j.id, &rec, names, &j.held)
	if err != nil {
		return fail(err)
	}
	pub, sum, err := agentKey(j.req.PublicKey)
	if err != nil {
		return fail(err)
	}
	room, err := a.agentRoom(v, j.token, &j.held)
	if err != nil {
		return fail(err)
	}
	merge(&txn, room)
	resp, err := a.sign(v, pub, j.id, 1, certEnds(v))
	if err != nil {
		return fail(err)
	}
	rec.agentCert = agentCert{Generation: 1, Key: sum, Expires: resp.Expires}
	more, err := a.joined(ctx, v, j, &rec, token, tokenRec)
	merge(&txn, more)
	return resp, txn, err
}

func (a *Agents) joined(ctx context.Context, v fsm.View, j *joining, rec *agentRecord, token *tokenRecord, tokenRec *fsm.Record) (fsm.Txn, error) {
	txn, err := token.use(v, tokenRec, tokenUse{Key: rec.Key, Agent: j.id})
	if err != nil {
		return fsm.Txn{}, err
	}
	op, err := rec.put(v, j.id, nil)
	if err != nil {
		return fsm.Txn{}, err
	}
	fields := agentFields(j.id, rec)
	fields["method"], fields["success"] = token.Document.Spec.JoinMethod, true
	if end := token.Document.Metadata.Expires; !end.IsZero() {
		fields["token_expires"] = end
	}
	line, err := a.base.event(ctx, v, api.EventAgentJoin, api.EventCodeAgentJoin, Actor{Addr: j.addr}, fields)
	merge(&txn, fsm.Txn{Checks: []fsm.Check{agents.Absent(j.id)}, Ops: []fsm.Op{op}, Events: [][]byte{line}})
	return txn, err
}

// joinAgain is the join by a token that is used up. The agent whose last use it was
// may have lost the answer: who asks again for the same key gets the same identity.
// Without the private half it is worth nothing.
func (a *Agents) joinAgain(v fsm.View, j *joining, token *tokenRecord) (*api.JoinResponse, fsm.Txn, error) {
	spent := "its one use is spent"
	if n := token.Document.Spec.MaxUses; n != 1 {
		spent = fmt.Sprintf("all %d uses are spent", n)
	}
	over := api.Errorf(api.CodeForbidden, "the token is used up (%s): make another with "+nodesAdd, spent)
	pub, sum, err := agentKey(j.req.PublicKey)
	if err != nil {
		return nil, fsm.Txn{}, over
	}
	names, err := clusterNames(j.req.KubeClusters)
	if err != nil {
		return nil, fsm.Txn{}, over
	}
	for _, use := range token.Recent {
		if use.Key != sum {
			continue
		}
		rec, _, err := a.living(v, use.Agent)
		if err != nil || rec.Key != sum || rec.Generation != 1 || rec.Pending != nil || v.Now().Sub(rec.Joined) > sameJoin || !slices.Equal(rec.KubeClusters, names) {
			continue
		}
		resp, err := a.sign(v, pub, use.Agent, rec.Generation, rec.Expires)
		return resp, fsm.Txn{}, err
	}
	return nil, fsm.Txn{}, over
}

// clusterNames are the names that an agent asks for, sorted, each once.
func clusterNames(names []string) ([]string, error) {
	if len(names) == 0 || len(names) > api.MaxAgentClusters {
		return nil, api.Errorf(api.CodeInvalid, "an agent serves 1 to %d Kubernetes clusters, and this one names %d", api.MaxAgentClusters, len(names))
	}
	for _, name := range names {
		if err := api.ValidateKubeName(name); err != nil {
			return nil, err
		}
	}
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	return slices.Compact(sorted), nil
}

// refused tells the log of a join by somebody who held a token, at most once a
// minute for each token: strangers can't fill it.
func (a *Agents) refused(ctx context.Context, j *joining, answer error) error {
	switch api.CodeOf(answer) {
	case api.CodeUnavailable, api.CodeAmbiguous, api.CodeInternal, api.CodeRateLimited:
		return answer // ours to mend, not the agent's doing
	default:
	}
	n := a.quiet.count(j.token, a.base.db.View().Now())
	if n == 0 {
		return answer
	}
	_, err := a.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		fields := map[string]any{
			"success": false, "error": api.CleanText(answer.Error(), maxCause), "token_name": j.token,
			"role": api.TokenRoleKube, "node_name": api.CleanText(j.req.Name, api.MaxAgentText),
		}
		if n > 1 {
			fields["attempts"] = n // since the last such event
		}
		line, err := a.base.event(ctx, v, api.EventAgentJoin, api.EventCodeAgentJoinRefused, Actor{Addr: j.addr}, fields)
		return fsm.Txn{Events: [][]byte{line}}, err
	})
	if err != nil {
		a.base.log.WarnContext(ctx, "can't log a join that was refused", "error", err)
	}
	return answer
}
