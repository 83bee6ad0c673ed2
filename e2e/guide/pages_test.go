package guide

import (
	"context"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/page"
)

// docs/ha.md, typed after the guide by the same person: it loses pods, volumes, the majority
// and everything, and says how each is mended. What it leaves is a cluster of three that
// alice can log in to.
func TestHighAvailabilityPage(t *testing.T) {
	w := guided(t)
	p, err := page.Read("docs/ha.md")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	if err := w.runner.Run(ctx, p); err != nil {
		t.Fatal(err)
	}
}
