package client

import (
	"context"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Sign makes a key and gets a certificate for a user who does not log in, good for ttl
// (0: as long as a login's) or as long as the user's roles allow. The key stays here.
func (c *Client) Sign(ctx context.Context, user string, ttl time.Duration) (*api.LoginResponse, *Credentials, error) {
	pair, err := newKeyPair()
	if err != nil {
		return nil, nil, err
	}
	resp, err := send[api.LoginResponse](ctx, c, http.MethodPost, api.PathSign, &api.SignRequest{User: user, TLSPubKey: pair.public, TTL: api.Duration(ttl)})
	if err != nil {
		return nil, nil, err
	}
	creds, err := checkLogin(resp, user, pair)
	if err != nil {
		return nil, nil, err
	}
	return resp, creds, nil
}
