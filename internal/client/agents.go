package client

import (
	"context"
	"net/http"
	"net/url"

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
