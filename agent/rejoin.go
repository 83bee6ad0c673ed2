package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// retryKept is how often an identity is tried that a replica said it does not know.
const retryKept = 2 * time.Minute

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
	case !k.cred.serves(k.agent.dialer.names):
		return "it is to serve clusters that it did not join with"
	}
	return ""
}

// tokenCommand makes a token for this agent. It names the clusters, because those that
// have had agents belong to the token of these.
func (k *keeper) tokenCommand() string {
	return "'tctl nodes add --roles=kube --kube-clusters=" + strings.Join(k.agent.dialer.names, ",") + "'"
}

func (k *keeper) hasToken() bool { return k.agent.opts.Token != "" || k.agent.opts.TokenFile != "" }

// tokenEvery is how often a file is looked at for another token.
const tokenEvery = 5 * time.Second

// lookForToken is when to look for another token; zero: it can't change.
func (k *keeper) lookForToken() time.Time {
	if k.agent.opts.TokenFile == "" {
		return time.Time{}
	}
	return k.now().Add(tokenEvery)
}

// anotherToken says whether the file holds a token that was not tried: who gives one to
// an agent that was refused should not wait for minutes.
func (k *keeper) anotherToken() bool {
	if k.agent.opts.TokenFile == "" {
		return false
	}
	token, err := k.agent.dialer.token()
	return err == nil && token != k.tried
}

// tryKept tries an identity that a replica did not know again, every few minutes: the
// replica's clock may have been wrong, or its CAs old, and the token may be spent. It
// is the one that was in use then, so never one that another has replaced. It says
// when to come again; zero: never.
func (k *keeper) tryKept(ctx context.Context) time.Time {
	if !k.unknown || !k.now().Before(k.cred.leaf.NotAfter) {
		return time.Time{}
	}
	if !k.now().Before(k.kept) {
		k.kept = k.now().Add(jitter(retryKept, k.agent.opts.Rand))
		join, why := k.notBefore, k.agent.whyNot()
		k.tryDial(ctx, k.wantedTunnels())
		if k.unknown { // what came of joining says more
			k.notBefore = later(k.notBefore, join)
			k.agent.notReady(why)
		}
	}
	return k.kept
}

// tryJoin joins once. The error is one that waiting does not mend.
func (k *keeper) tryJoin(ctx context.Context, why string) error {
	if !k.hasToken() {
		return api.Errorf(api.CodeInvalid, "there is no identity in %s, and no token to join with: give --token (%s makes one)", k.agent.opts.Store, k.tokenCommand())
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
			k.agent.notReady("the identity could not be saved: " + err.Error())
			k.failed(err)
			return nil // it was told of, and may pass
		}
	}
	k.tried, _ = k.agent.dialer.token() // what is wrong with it the join says
	k.agent.problem("joining", slog.LevelInfo, "joining", "proxy", k.agent.opts.Proxy, "because", why)
	id, err := k.agent.dialer.join(ctx, pending)
	if err != nil {
		return k.joinFailed(ctx, err)
	}
	if err := k.save(ctx, State{Current: id}); err != nil {
		k.agent.log.Error("this identity is lost with the process; the next start joins with the token again", "agent_id", id.AgentID)
		k.state = State{Current: id}
	}
	k.failures, k.duplicates, k.notBefore = 0, 0, time.Time{}
	k.clearFrom = k.now() // nobody has used it yet
	k.agent.solved("join")
	k.agent.solved("joining")
	k.agent.log.Info("joined", "agent_id", id.AgentID, "cluster_name", id.ClusterName)
	err = k.use(id)
	k.unused = true
	return err
}

func (k *keeper) joinFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was to end
	}
	k.agent.notReady("it can't join: " + err.Error())
	if t, ok := errors.AsType[*trustError](err); ok {
		k.agent.mu.Lock()
		up := k.agent.everUp
		k.agent.mu.Unlock()
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
	k.agent.problem("join", slog.LevelError, "the agent can't join, it tries again", "error", err)
	return nil
}

// notKnown is for a replica that does not know our identity, or does not take its
// certificate. Were the identity removed, all its tunnels would be cut: as long as
// one is up, it is this replica that is mistaken.
func (k *keeper) notKnown(refused *refusedError) {
	switch {
	case k.isKnown():
		k.failed(refused)
		k.agent.problem("dial", slog.LevelWarn, "a replica does not know this agent, but another serves it: is that one's clock right?", "reason", refused.Message)
	case !k.hasToken():
		k.slow()
		message := "Sallyport does not know this agent any more (" + refused.Message + "), and it has no token to join anew: give --token (" + k.tokenCommand() + " makes one)"
		k.agent.notReady(message)
		k.agent.problem("identity", slog.LevelError, "the agent is without a tunnel; it asks again every few minutes", "reason", message)
	default:
		k.agent.problem("identity", slog.LevelWarn, "Sallyport does not know this identity any more, the agent joins anew", "agent_id", k.cred.AgentID, "reason", refused.Message)
		switch {
		case k.unknown: // and a join goes first
		case k.unused:
			k.slow() // or each round would leave an identity that nobody uses
		default:
			k.failed(nil)
		}
		k.unknown, k.fresh, k.kept = true, nil, k.now().Add(jitter(retryKept, k.agent.opts.Rand))
	}
}

// isKnown says whether a replica serves us now, as who we are.
func (k *keeper) isKnown() bool {
	k.agent.mu.Lock()
	defer k.agent.mu.Unlock()
	for t := range k.agent.open {
		if t.cred.AgentID == k.cred.AgentID && !t.draining.Load() {
			return true
		}
	}
	return false
}
