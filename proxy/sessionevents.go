package proxy

import (
	"github.com/sallyport-dev/sallyport/internal/api"
)

// unaudited is the answer to what may not happen because nobody could read of it.
// It is 503 whatever the cause: the client did nothing wrong, and may try again.
func unaudited(err error) error {
	return api.Errorf(api.CodeUnavailable, "the audit log can't take this now, and what it can't take is refused: try again, and tell your administrator if it stays so (tctl status says why): %w", err)
}
