package guide

import (
	"context"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/page"
)

// The pages that are typed here can be read: what runs but rarely breaks unnoticed.
func TestPagesCanBeRead(t *testing.T) {
	for _, name := range []string{pageName, haPage} {
		if _, err := page.Read(name); err != nil {
			t.Error(err)
		}
	}
}

const haPage = "docs/ha.md"

// docs/ha.md, typed after the guide by the same person: it loses pods, volumes, the majority
// and everything, and says how each is mended; then the cluster secret is rotated. What it
// leaves is a cluster of three that alice can log in to.
func TestHighAvailabilityPage(t *testing.T) {
	w := guided(t)
	p, err := page.Read(haPage)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	if err := w.runner.Run(ctx, p); err != nil {
		t.Fatal(err)
	}
}
