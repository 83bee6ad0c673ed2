package auth

import (
	"context"
	"net/netip"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Wait says what has become of a login, to who began it, as soon as it is known or
// after 20 s.
func (c *Consoles) Wait(context.Context, api.ConsoleWaitRequest, netip.Addr) (*api.ConsoleWaitResponse, error) {
	return nil, errNoConsole()
}
