package tests

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Every kubectl runs `tsh kube credentials`: forty at once don't wait for one
// another, and each gets what it needs.
func TestFortyKubectlsAtOnce(t *testing.T) {
	_, alice := shared(t)
	ok(t, alice.Kubectl(within(t, 20*time.Second), "get", "ns", "default")) // discovery is then in its cache
	ctx := within(t, time.Minute)
	r := ok(t, testbed.Run(ctx, testbed.Command{
		Args:  []string{"xargs", "-P", "40", "-n", "1", testbed.Bin("kubectl"), "get", "ns", "-o=name"},
		Stdin: strings.NewReader(strings.Repeat("default\n", 40)), Env: alice.Env(), Dir: alice.Home,
	}))
	if got := strings.Count(r.Stdout, "namespace/default\n"); got != 40 || r.Stderr != "" {
		t.Errorf("%d of 40 answered; they said %q", got, r.Stderr)
	}
	t.Logf("40 took %v", r.Took)
}
