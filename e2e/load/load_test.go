package load

import (
	"errors"
	"flag"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
)

// agents is how many there are; make soak has 5,000.
var agents = flag.Int("agents", 200, "simulated agents")

// All agents join and come back when a replica dies, and no request fails that
// another tunnel could answer. Times are for docs/benchmarks.md, not for here.
func TestAgentsComeBack(t *testing.T) {
	bin, err := sallyport.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Run(t.Context(), Options{Bin: bin, Agents: *agents, Idle: 2 * time.Second, Limit: time.Minute + time.Duration(*agents)*40*time.Millisecond, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *got)
	for what, a := range map[string]Answers{"while nothing happened": got.Idle, "after a replica was killed": got.Lost} {
		if a.N == 0 || a.Failed > 0 {
			t.Errorf("%s: %d of %d GETs failed: %v", what, a.Failed, a.N, errors.Join(a.Errs...))
		}
	}
	if got.MemoryKiB > 1024 {
		t.Errorf("an idle agent costs %.0f KiB", got.MemoryKiB)
	}
}
