package auth

import (
	"context"
	"net/netip"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// Agents are those that have joined.
type Agents struct{ base *base }

// Join makes whoever holds a token an agent.
func (a *Agents) Join(ctx context.Context, req api.JoinRequest, addr netip.Addr) (*api.JoinResponse, error) {
	return nil, errSoon()
}

// Admit lets an agent open a tunnel.
func (a *Agents) Admit(ctx context.Context, id pki.AgentIdentity, publicKeySum string, clusters []string, addr netip.Addr) (*AgentGrant, error) {
	return nil, errSoon()
}

// Renew gives an agent its next certificate.
func (a *Agents) Renew(ctx context.Context, id pki.AgentIdentity, publicKeySum string, publicKey []byte, addr netip.Addr) (*api.JoinResponse, error) {
	return nil, errSoon()
}

// List gives all agents, by id, without Replicas.
func (a *Agents) List() []api.Agent { return nil }

// Delete removes an agent: its tunnels are cut, and it must join anew.
func (a *Agents) Delete(ctx context.Context, by Actor, id string) error { return errSoon() }

// AgentGrant is what an admitted agent may serve.
type AgentGrant struct {
	ID           string
	Generation   uint64   // that counts from now on
	KubeClusters []string // the names that were asked for

	agents *Agents
}

// Watch guards a tunnel: it returns when the right to it is gone, with an *api.Error
// that says why, or with the context's error when that ends first.
func (g *AgentGrant) Watch(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}
