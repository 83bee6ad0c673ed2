package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// ListWithSecrets is List with what connectors keep from everybody who does not ask
// for it; whoever asks needs the right to change them.
func (c *Client) ListWithSecrets(ctx context.Context, kind, name string) ([]json.RawMessage, error) {
	return c.list(ctx, resourcePath(kind, name)+"?secrets=true")
}

// SSOUsers are those who have logged in through a connector, by name; none at a
// server that knows no connectors.
func (c *Client) SSOUsers(ctx context.Context) ([]api.SSOUser, error) {
	list, err := get[api.SSOUsers](ctx, c, api.PathSSOUsers)
	switch {
	case api.IsCode(err, api.CodeNotFound): // no such call
		return []api.SSOUser{}, nil
	case err != nil:
		return nil, err
	case list.Users == nil:
		return []api.SSOUser{}, nil
	}
	return list.Users, nil
}

// StartSSOTest begins a login that logs nobody in and saves nothing.
func (c *Client) StartSSOTest(ctx context.Context, req *api.SSOTestRequest) (*api.SSOTest, error) {
	return send[api.SSOTest](ctx, c, http.MethodPost, api.PathSSOTests, req)
}

// SSOTest is what has come of such a login; the answer may take 20 seconds, and then
// say that nobody has finished it yet.
func (c *Client) SSOTest(ctx context.Context, id string) (*api.SSOTestResult, error) {
	return get[api.SSOTestResult](ctx, c, api.PathSSOTests+"/"+url.PathEscape(id))
}
