package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	renewTimeout = 30 * time.Second
	renewBase    = 30 * time.Second
	renewCap     = 30 * time.Minute
)

// arrival is a replica's answer to Renew.
type arrival struct {
	tunnel  *tunnel
	renewed *wire.Renewed
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
	k.agent.mu.Lock()
	defer k.agent.mu.Unlock()
	for t := range k.agent.open {
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
	k.renewAt = k.now().Add(wait/2 + time.Duration(k.agent.opts.Rand()*float64(wait/2)))
	k.agent.problem("renew", slog.LevelWarn, "the certificate could not be renewed, the agent tries again", "reason", reason,
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
func (k *keeper) takeRenewed() {
	k.agent.mu.Lock()
	got := k.agent.arrived
	k.agent.arrived = nil
	k.agent.mu.Unlock()
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
	k.agent.solved("renew")
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
		k.notBefore = later(k.notBefore, k.soon()) // the certificate in use is good for tunnels still
		return
	}
	k.fresh = nil
	if err := k.use(id); err != nil {
		k.agent.problem("renew", slog.LevelError, "the new certificate can't be used", "error", err) // it was checked before
	}
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
	k.renewAt, k.proved = k.cred.renewal(k.agent.opts.Rand()), false
	k.agent.log.Info("certificate renewed", "generation", k.cred.Generation, "expires", k.cred.leaf.NotAfter.UTC().Format(time.RFC3339))
}
