package client

import (
	"context"
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// RetryACME has a certificate ordered now, however often that has failed; "" is the first
// that the status shows.
func (c *Client) RetryACME(ctx context.Context, name string) (*api.ACMERetryResponse, error) {
	return send[api.ACMERetryResponse](ctx, c, http.MethodPost, api.PathACMERetry, &api.ACMERetryRequest{Name: name})
}
