package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// AddToken makes a token by which agents join. The answer is the only time that
// anybody sees it; the documents of tokens (List) hold ids.
func (c *Client) AddToken(ctx context.Context, req *api.AddTokenRequest) (*api.AddTokenResponse, error) {
	return send[api.AddTokenResponse](ctx, c, http.MethodPost, api.PathTokens, req)
}

// Agents are those that have joined, by id.
func (c *Client) Agents(ctx context.Context) ([]api.Agent, error) {
	list, err := get[api.Agents](ctx, c, api.PathAgents)
	if err != nil {
		return nil, err
	}
	if list.Agents == nil {
		return []api.Agent{}, nil // "[]" rather than "null" when printed: scripts iterate
	}
	return list.Agents, nil
}

// RemoveAgent makes the agent's certificate worth nothing, and cuts its tunnels.
func (c *Client) RemoveAgent(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, api.PathAgents+"/"+url.PathEscape(id), nil, nil)
}

// ReplacedBy says of agents that are not connected which one took the place of each: the
// last of the same name and clusters to join after it, if there is one. That is what is
// left of an agent that has lost its identity and joined anew.
func ReplacedBy(agents []api.Agent) map[string]string {
	called := func(a *api.Agent) string { return a.Name + "\n" + strings.Join(a.KubeClusters, ",") }
	last := map[string]*api.Agent{}
	for i := range agents {
		a := &agents[i]
		if old := last[called(a)]; a.Name != "" && (old == nil || a.Joined.After(old.Joined)) {
			last[called(a)] = a
		}
	}
	out := map[string]string{}
	for i := range agents {
		a := &agents[i]
		if by := last[called(a)]; by != nil && len(a.Replicas) == 0 && by.Joined.After(a.Joined) {
			out[a.ID] = by.ID
		}
	}
	return out
}
