package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// lookEvery is how often a store that others can write to is looked at, at most.
const lookEvery = time.Minute

// save writes the state.
func (k *keeper) save(ctx context.Context, s State) error {
	err := k.agent.opts.Store.Save(ctx, s)
	if err == nil {
		k.state, k.looked = s, k.now()
		k.agent.solved("store")
		return nil
	}
	if errors.Is(err, ErrForeign) {
		err = errors.Join(err, k.foreign(ctx, s.Next))
	}
	k.agent.problem("store", slog.LevelError, "the identity could not be saved", "store", k.agent.opts.Store.String(), "error", err)
	return err
}

// foreign decides what to do about a state that was written in our place. A key to
// ask with is taken over, as is a certificate for the key that we ask with: that was
// us, and the answer was lost. Whoever wrote anything else uses it.
func (k *keeper) foreign(ctx context.Context, asked *Identity) error {
	theirs, err := k.agent.opts.Store.Load(ctx)
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
	shared, ok := k.agent.opts.Store.(sharedStore)
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
		// We wrote it, and the answer was lost: rule 2. If it can't be saved again now,
		// nobody looks again before the next minute.
		k.fresh, k.notBefore, k.looked = id, k.clearFrom, k.now()
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
	k.superseded = fmt.Sprintf("another process uses the identity in %s (%s; %s): give each agent an identity of its own, and restart the one that is to have this", k.agent.opts.Store, theirs, ours)
	k.agent.notReady(k.superseded)
	k.agent.problem("identity", slog.LevelError, "the agent opens no more tunnels", "reason", k.superseded)
}
