package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Sessions are the live sessions of a user, or of everyone if user is "",
// oldest first.
func (c *Client) Sessions(ctx context.Context, user string) ([]api.Session, error) {
	path := api.PathSessions
	if user != "" {
		path += "?" + url.Values{"user": {user}}.Encode()
	}
	list, err := get[api.Sessions](ctx, c, path)
	if err != nil {
		return nil, err
	}
	if list.Sessions == nil {
		return []api.Session{}, nil // "[]" rather than "null" when printed: scripts iterate
	}
	return list.Sessions, nil
}

// EndSession ends a session of a user. One that has ended already is no error.
func (c *Client) EndSession(ctx context.Context, user, id string) error {
	return c.call(ctx, http.MethodDelete, api.PathSessions+"/"+url.PathEscape(user)+"/"+url.PathEscape(id), nil, nil)
}

// ResetUser takes the user's password, second factors and sessions away, and
// gives the link by which the user sets them anew.
func (c *Client) ResetUser(ctx context.Context, req *api.ResetUserRequest) (*api.ResetUserResponse, error) {
	return send[api.ResetUserResponse](ctx, c, http.MethodPost, api.PathReset, req)
}
