package audit

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Search answers a query of the log.
func (j *Journal) Search(ctx context.Context, q api.AuditQuery) (*api.AuditPage, error) {
	return &api.AuditPage{}, CheckQuery(q)
}

// CheckQuery says what is wrong with a query, before anything is read.
func CheckQuery(q api.AuditQuery) error { return nil }
