package auth

import (
	"context"
	"net/netip"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Cancel ends a login, approved or not, for who began it: whoever follows the link
// later learns that the terminal waits no more. Nothing is written to the audit log,
// as nobody was logged in and strangers may begin and end logins as they like.
func (c *Consoles) Cancel(ctx context.Context, req api.ConsoleWaitRequest, addr netip.Addr) error {
	if _, err := c.begun(ctx, req, addr); err != nil {
		return err
	}
	_, err := c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := getConsole(v, req.ID)
		if err != nil || rec.Over != nil {
			return fsm.Txn{}, err // why it was over already stays
		}
		return rec.over(v, stored, &consoleOver{Code: api.CodeForbidden, Message: "it was ended in the terminal"})
	})
	return err
}
